"""Training with the rows in use against training with the whole table, in a plain loop of torch's own parts."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from safetensors.torch import load_file
from transformers import AutoModel, GPT2Config, GPT2Model

from tests.fixtures.commands import ROOT
from tests.xsap.test_shrink import LOWER, bpe, encoder_of, unigram, wordpiece
from xsap import Encoder, Linker, Terminology
from xsap.config import load_settings
from xsap.encoding.model_folder import EncoderConfig
from xsap.encoding.packing import Tokens, pack, tokenize_names
from xsap.evaluation.protocols import evaluate_concept, read_queries
from xsap.linking.index import Index
from xsap.text import normalize_all
from xsap.training.dataset import distinct, from_terminology
from xsap.training.embedding_table import TrimmedEmbedding, trim, whole
from xsap.training.losses import info_nce
from xsap.training.mining import all_pairs
from xsap.training.run import run as train
from xsap.training.sampling import Concepts, GroupSampler

STEPS, WARMUP, LR, DECAY, CLIP = 12, 4, 2e-3, 0.1, 0.5
MENTIONS = ROOT / "data_prep" / "sample" / "mentions.tsv"
MAKE = {"XLM-R": (unigram, "Unigram"), "BERT": (wordpiece, "WordPiece"), "RoBERTa": (bpe, "BPE")}


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps its state in the process; each run in a test begins as in a new one."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()


def save_base(folder: Path, names: list[str], kind: str, pooling: str, dropout: float) -> Path:
    """A model of eleven languages' pieces, its table with a thousand rows beyond them.

    XLM-R's padding is row 1, BERT's row 0, RoBERTa's here row 301, after pieces most of which are of no use. All its weights are large enough to count: the padding row too, which is zero in a new model.
    """
    make, tokenizer = MAKE[kind]
    encoder = encoder_of(make(normalize_all(names, LOWER)), tokenizer)
    transformer = encoder.transformer
    transformer.resize_token_embeddings(len(encoder.tokenizer) + 1000, mean_resizing=False)
    torch.manual_seed(2)
    for parameter in transformer.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    transformer.config.hidden_dropout_prob = transformer.config.attention_probs_dropout_prob = dropout
    Encoder(transformer, encoder.tokenizer, EncoderConfig(pooling, 32, LOWER)).save_pretrained(folder)
    return folder


@pytest.fixture(
    scope="module",
    params=["XLM-R mean", "XLM-R mean_all", "BERT cls", "BERT mean_all", "RoBERTa mean", "RoBERTa mean_all"],
)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, sample_names: list[str]) -> Path:
    """mean_all pools over padding too, so that its row counts."""
    kind, pooling = request.param.split()
    return save_base(tmp_path_factory.mktemp("base") / "model", sample_names, kind, pooling, dropout=0.0)


@pytest.fixture(scope="module")
def english(sample_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("english") / "terminology"
    Terminology.load(sample_folder).select(languages={"en"}).save(folder)
    return folder


def settings(terminology: Path, base: Path, output: Path, *more: str) -> list[str]:
    optim = [
        f"optim.learning_rate={LR}",
        f"optim.weight_decay={DECAY}",
        "optim.schedule=linear",
        f"optim.warmup_steps={WARMUP}",
        f"optim.max_grad_norm={CLIP}",
    ]
    batch = ["sampling.mode=groups", "batch.names=40", f"max_steps={STEPS}", "loss.name=info_nce", "loss.miner=none"]
    return [f"terminology={terminology}", f"base={base}", f"output={output}", *optim, *batch, *more]


def losses_of(output: Path) -> list[float]:
    return [
        line["loss"] for line in map(json.loads, (output / "metrics.jsonl").read_text().splitlines()) if "loss" in line
    ]


def plain_loop(base: Path, terminology: Path) -> tuple[Encoder, Tokens, list[float]]:
    """The same run by the whole model and torch's AdamW → the trained encoder, the names it has seen, the losses."""
    encoder = Encoder.from_pretrained(base, device="cpu").train()
    name_set = distinct(from_terminology(terminology, None), encoder.policy, None)
    tokens = tokenize_names(name_set.names, encoder.tokenizer, encoder.max_length)
    sampler = GroupSampler(Concepts(name_set.concepts), names_per_concept=4, names=40, seed=0)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=LR, weight_decay=DECAY, fused=True)
    losses, seen = [], []
    for step in range(STEPS):
        names = sampler.batch(0, step)
        vectors = encoder(pack(tokens.take(names.rows)))
        loss = info_nce(vectors @ vectors.T, *all_pairs(torch.from_numpy(names.concepts)), temperature=0.05)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), CLIP)
        rate = (step + 1) / (WARMUP + 1) if step < WARMUP else (STEPS - step) / (STEPS - WARMUP)
        optimizer.param_groups[0]["lr"] = LR * rate
        optimizer.step()
        losses.append(loss.item())
        seen.append(names.rows)
    return encoder, tokens.take(np.concatenate(seen)), losses


def table_of(model: torch.nn.Module) -> torch.Tensor:
    return model.get_input_embeddings().weight.detach()


def test_rows_in_use_are_trained_as_the_whole_table_would_be_and_the_others_decay(
    base: Path, english: Path, tmp_path: Path
) -> None:
    expected, seen, losses = plain_loop(base, english)
    train(load_settings(None, settings(english, base, tmp_path / "run")))
    assert losses_of(tmp_path / "run") == pytest.approx(losses, rel=1e-6)
    model, untrained = (
        AutoModel.from_pretrained(folder, add_pooling_layer=False) for folder in (tmp_path / "run" / "model", base)
    )
    found, wanted = dict(model.named_parameters()), dict(expected.transformer.named_parameters())
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert (found[name] - value).norm() <= 1e-6 * value.norm(), name
    table, plain, before = table_of(model), table_of(expected.transformer), table_of(untrained)
    used = np.unique(seen.ids)
    others = np.setdiff1d(np.arange(len(before)), used)
    assert len(used) < len(others) / 2
    assert ((table - plain).norm(dim=1) / plain.norm(dim=1)).max() <= 1e-6
    # and both what a gradient does and what decay does can be seen at this scale
    assert ((table - before)[used].norm(dim=1) / before[used].norm(dim=1)).min() > 1e-3
    assert torch.allclose(table[others], before[others] * (table[others[-1], 0] / before[others[-1], 0]), rtol=1e-6)
    assert 0.9 < (table[others[-1], 0] / before[others[-1], 0]).item() < 0.999


def test_the_saved_model_has_its_whole_table_and_opens_everywhere(base: Path, english: Path, tmp_path: Path) -> None:
    train(load_settings(None, settings(english, base, tmp_path / "run", "max_steps=2")))
    folder, rows = tmp_path / "run" / "model", len(table_of(AutoModel.from_pretrained(base)))
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == rows
    tables = [value for value in load_file(folder / "model.safetensors").values() if len(value) == rows]
    assert len(tables) == 1
    model = AutoModel.from_pretrained(folder)
    assert model.config.vocab_size == model.get_input_embeddings().num_embeddings == rows
    assert np.isfinite(Encoder.from_pretrained(folder).encode(["胸痛", "боль в груди", "ใส่เครื่องช่วยหายใจ"])).all()


def test_an_untrained_model_comes_out_as_it_went_in(base: Path, english: Path, tmp_path: Path) -> None:
    train(load_settings(None, settings(english, base, tmp_path / "run", "max_steps=0")))
    found, wanted = (load_file(folder / "model.safetensors") for folder in (tmp_path / "run" / "model", base))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_run_broken_off_and_resumed_ends_in_the_same_table(
    tmp_path_factory, sample_names: list[str], english: Path, tmp_path: Path
) -> None:
    base = save_base(tmp_path / "base", sample_names, "XLM-R", "mean", dropout=0.1)
    common = settings(english, base, tmp_path / "run", "checkpoint.save_steps=3", "checkpoint.save_total_limit=9")
    train(load_settings(None, common))
    expected, losses = load_file(tmp_path / "run" / "model" / "model.safetensors"), losses_of(tmp_path / "run")
    for step in (9, 12):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step-{step}")
    shutil.rmtree(tmp_path / "run" / "model")
    train(load_settings(None, [*common, "resume=auto"]))
    found = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert losses_of(tmp_path / "run") == losses
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_an_evaluation_within_training_has_the_whole_table(
    sample_names: list[str], sample_folder: Path, tmp_path: Path
) -> None:
    """Its mentions are of ten languages, its dictionary of English; trained are German names."""
    base = save_base(tmp_path / "base", sample_names, "XLM-R", "mean", dropout=0.1)
    more = [
        f"evaluation.mentions={MENTIONS}",
        "evaluation.eval_steps=4",
        "max_steps=8",
        "sampling.languages=de_syn",
        "batch.names=80",
    ]
    train(load_settings(None, settings(sample_folder, base, tmp_path / "run", *more)))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    found = {line["step"]: line["evaluation"] for line in lines if "evaluation" in line}
    assert sorted(found) == [0, 4, 8]
    assert found[0] != found[8]
    for step, folder in ((0, base), (8, tmp_path / "run" / "model")):
        encoder = Encoder.from_pretrained(folder, device="cpu")
        index = Index.build(Terminology.load(sample_folder), encoder, languages={"en"})
        assert json.loads(json.dumps(evaluate_concept(Linker(encoder, index), read_queries(MENTIONS)))) == found[step]


def trimmed(folder: Path) -> tuple[Encoder, Tokens, TrimmedEmbedding]:
    encoder = Encoder.from_pretrained(folder, device="cpu")
    tokens = tokenize_names(["chest pain", "fever"], encoder.tokenizer, 32)
    return encoder, tokens, trim(encoder.transformer, tokens, encoder.tokenizer.all_special_ids)


def test_only_the_rows_in_use_the_special_ones_and_those_up_to_the_padding_stay(base: Path) -> None:
    encoder, tokens, table = trimmed(base)
    embedding = encoder.transformer.get_input_embeddings()
    expected = {*tokens.ids.tolist(), *encoder.tokenizer.all_special_ids, *range(embedding.padding_idx + 1)}
    assert table.rows.tolist() == sorted(expected)
    assert torch.equal(embedding.weight, table.whole[table.rows])
    assert len(embedding.weight) == embedding.num_embeddings == encoder.transformer.config.vocab_size == len(expected)
    assert table.rows[embedding.padding_idx] == embedding.padding_idx == encoder.tokenizer.pad_token_id
    assert np.array_equal(table.rows[table.renumber(tokens).ids], tokens.ids)


def test_names_have_the_vectors_and_the_gradients_they_had(base: Path) -> None:
    encoder, tokens, table = trimmed(base)
    before = Encoder.from_pretrained(base, device="cpu")
    vectors, expected = encoder(pack(table.renumber(tokens))), before(pack(tokens))
    assert torch.equal(vectors, expected)
    vectors[:, 0].sum().backward()
    expected[:, 0].sum().backward()
    gradient = before.transformer.get_input_embeddings().weight.grad
    assert torch.equal(encoder.transformer.get_input_embeddings().weight.grad, gradient[table.rows])
    assert not np.delete(gradient.numpy(), table.rows, 0).any()


def test_the_whole_table_is_there_for_a_while_and_gone_even_after_an_error(base: Path) -> None:
    encoder, _, table = trimmed(base)
    embedding, before = encoder.transformer.get_input_embeddings(), table.whole.clone()
    trained, others = embedding.weight, np.setdiff1d(np.arange(len(before)), table.rows)
    with torch.no_grad():
        trained += 1

    def look(decay: float) -> None:
        with whole(encoder.transformer, table, decay):
            assert (
                len(embedding.weight)
                == embedding.num_embeddings
                == encoder.transformer.config.vocab_size
                == len(before)
            )
            assert torch.equal(embedding.weight[table.rows], before[table.rows] + 1)
            assert torch.equal(embedding.weight[others], before[others] * decay)
            raise KeyError

    for decay in (0.5, 0.25):  # the second time too of the table as it was, not as it has been
        with pytest.raises(KeyError):
            look(decay)
        assert embedding.weight is trained  # the very one that the optimizer knows
        assert embedding.num_embeddings == encoder.transformer.config.vocab_size == len(trained)


def test_a_table_that_knows_no_padding_row_keeps_the_tokenizers(
    sample_names: list[str], english: Path, tmp_path: Path
) -> None:
    """As GPT-2's and most decoders': only the tokenizer says what stands where a name has ended."""
    tokenizer = unigram(normalize_all(sample_names, LOWER))
    pad = len(tokenizer) - 1
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=32, n_embd=32, n_layer=1, n_head=2, pad_token_id=None)
    Encoder(GPT2Model(config), tokenizer, EncoderConfig("mean_all", 32, LOWER)).save_pretrained(tmp_path / "base")
    base = Encoder.from_pretrained(tmp_path / "base", device="cpu")
    assert base.tokenizer.pad_token_id == pad
    assert base.transformer.get_input_embeddings().padding_idx is None
    encoder, tokens, table = trimmed(tmp_path / "base")
    assert torch.equal(encoder(pack(table.renumber(tokens))), base(pack(tokens)))
