"""Training with a trimmed embedding table against a plain torch loop with the whole table."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, GPT2Config, GPT2Model

from tests.fixtures.commands import ROOT
from tests.fixtures.encoders import LOWER, TRAIN_TOKENIZER, tiny_encoder
from tests.fixtures.training import read_losses, read_weights
from xsap import Encoder, Linker, Terminology
from xsap.config import load_settings
from xsap.encoding.model_folder import EncoderConfig
from xsap.encoding.packing import Tokens, pack, tokenize_names
from xsap.evaluation.protocols import evaluate, read_queries
from xsap.linking.index import Index
from xsap.text import normalize_all
from xsap.training.dataset import distinct, from_terminology
from xsap.training.embedding_table import TrimmedEmbedding, trim, whole_table
from xsap.training.losses import info_nce
from xsap.training.mining import all_pairs
from xsap.training.run import train
from xsap.training.sampling import Concepts, GroupSampler

STEPS, WARMUP, LR, DECAY, CLIP = 12, 4, 2e-3, 0.1, 0.5
MENTIONS = ROOT / "data_prep" / "sample" / "mentions.tsv"
TOKENIZERS = {"XLM-R": "Unigram", "BERT": "WordPiece", "RoBERTa": "BPE"}


def save_base(folder: Path, names: list[str], kind: str, pooling: str, dropout: float) -> Path:
    """A model with the pieces of eleven languages, and a thousand further embeddings.

    XLM-R's padding is row 1, BERT's row 0, RoBERTa's here row 301, after pieces most of which are not used. All weights are large enough to
    matter, those of the padding too, which are zero in a new model.
    """
    tokenizer = TOKENIZERS[kind]
    encoder = tiny_encoder(TRAIN_TOKENIZER[tokenizer](normalize_all(names, LOWER)), tokenizer)
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
    params=[
        "XLM-R mean_all",
        "BERT cls",
        "RoBERTa mean",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("XLM-R mean", "BERT mean_all", "RoBERTa mean_all")),
    ],
)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, sample_names: list[str]) -> Path:
    """mean_all pools over padding too, so that its embedding matters."""
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


def test_trimmed_training_matches_the_whole_table_and_other_rows_decay(
    base: Path, english: Path, tmp_path: Path
) -> None:
    expected, seen, losses = plain_loop(base, english)
    train(load_settings(None, settings(english, base, tmp_path / "run")))
    assert read_losses(tmp_path / "run") == pytest.approx(losses, rel=1e-6)
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
    # updates and decay are both large enough to be seen
    assert ((table - before)[used].norm(dim=1) / before[used].norm(dim=1)).min() > 1e-3
    assert torch.allclose(table[others], before[others] * (table[others[-1], 0] / before[others[-1], 0]), rtol=1e-6)
    assert 0.9 < (table[others[-1], 0] / before[others[-1], 0]).item() < 0.999


def test_saved_model_has_the_whole_table(base: Path, english: Path, tmp_path: Path) -> None:
    train(load_settings(None, settings(english, base, tmp_path / "run", "max_steps=2")))
    folder, rows = tmp_path / "run" / "model", len(table_of(AutoModel.from_pretrained(base)))
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == rows
    tables = [value for value in load_file(folder / "model.safetensors").values() if len(value) == rows]
    assert len(tables) == 1
    model = AutoModel.from_pretrained(folder)
    assert model.config.vocab_size == model.get_input_embeddings().num_embeddings == rows
    assert np.isfinite(Encoder.from_pretrained(folder).encode(["胸痛", "боль в груди", "ใส่เครื่องช่วยหายใจ"])).all()


def test_untrained_model_is_saved_unchanged(base: Path, english: Path, tmp_path: Path) -> None:
    train(load_settings(None, settings(english, base, tmp_path / "run", "max_steps=0")))
    found, wanted = (load_file(folder / "model.safetensors") for folder in (tmp_path / "run" / "model", base))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_resumed_run_ends_with_the_same_table(
    tmp_path_factory, sample_names: list[str], english: Path, tmp_path: Path
) -> None:
    base = save_base(tmp_path / "base", sample_names, "XLM-R", "mean", dropout=0.1)
    common = settings(english, base, tmp_path / "run", "checkpoint.save_steps=3", "checkpoint.save_total_limit=9")
    train(load_settings(None, common))
    expected, losses = read_weights(tmp_path / "run"), read_losses(tmp_path / "run")
    for step in (9, 12):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step-{step}")
    shutil.rmtree(tmp_path / "run" / "model")
    train(load_settings(None, [*common, "resume=auto"]))
    found = read_weights(tmp_path / "run")
    assert read_losses(tmp_path / "run") == losses
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.slow
def test_evaluation_during_training_uses_the_whole_table(
    sample_names: list[str], sample_folder: Path, tmp_path: Path
) -> None:
    """Mentions are in ten languages and the dictionary in English, but the run trains on German names."""
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
        assert json.loads(json.dumps(evaluate(Linker(encoder, index), read_queries(MENTIONS)).to_dict())) == found[step]


def trimmed(folder: Path) -> tuple[Encoder, Tokens, TrimmedEmbedding]:
    encoder = Encoder.from_pretrained(folder, device="cpu")
    tokens = tokenize_names(["chest pain", "fever"], encoder.tokenizer, 32)
    return encoder, tokens, trim(encoder.transformer, tokens, encoder.tokenizer.all_special_ids)


def test_trim_keeps_used_and_special_rows_and_those_up_to_the_padding(base: Path) -> None:
    encoder, tokens, table = trimmed(base)
    embedding = encoder.transformer.get_input_embeddings()
    expected = {*tokens.ids.tolist(), *encoder.tokenizer.all_special_ids, *range(embedding.padding_idx + 1)}
    assert table.rows.tolist() == sorted(expected)
    assert torch.equal(embedding.weight, table.whole[table.rows])
    assert len(embedding.weight) == embedding.num_embeddings == encoder.transformer.config.vocab_size == len(expected)
    assert table.rows[embedding.padding_idx] == embedding.padding_idx == encoder.tokenizer.pad_token_id
    assert np.array_equal(table.rows[table.renumber(tokens).ids], tokens.ids)


def test_trim_changes_no_vector_and_no_gradient(base: Path) -> None:
    encoder, tokens, table = trimmed(base)
    before = Encoder.from_pretrained(base, device="cpu")
    vectors, expected = encoder(pack(table.renumber(tokens))), before(pack(tokens))
    assert torch.equal(vectors, expected)
    vectors[:, 0].sum().backward()
    expected[:, 0].sum().backward()
    gradient = before.transformer.get_input_embeddings().weight.grad
    assert torch.equal(encoder.transformer.get_input_embeddings().weight.grad, gradient[table.rows])
    assert not np.delete(gradient.numpy(), table.rows, 0).any()


def test_whole_table_is_restored_even_after_an_error(base: Path) -> None:
    encoder, _, table = trimmed(base)
    embedding, before = encoder.transformer.get_input_embeddings(), table.whole.clone()
    trained, others = embedding.weight, np.setdiff1d(np.arange(len(before)), table.rows)
    with torch.no_grad():
        trained += 1

    def look(decay: float) -> None:
        with whole_table(encoder.transformer, table, decay):
            assert (
                len(embedding.weight)
                == embedding.num_embeddings
                == encoder.transformer.config.vocab_size
                == len(before)
            )
            assert torch.equal(embedding.weight[table.rows], before[table.rows] + 1)
            assert torch.equal(embedding.weight[others], before[others] * decay)
            raise KeyError

    for decay in (0.5, 0.25):  # the second time of the original table, too
        with pytest.raises(KeyError):
            look(decay)
        assert embedding.weight is trained  # the same object, which the optimizer has
        assert embedding.num_embeddings == encoder.transformer.config.vocab_size == len(trained)


def test_trim_keeps_the_tokenizers_padding_if_the_table_has_none(
    sample_names: list[str], english: Path, tmp_path: Path
) -> None:
    """As in GPT-2 and most decoders: only the tokenizer states the padding."""
    tokenizer = TRAIN_TOKENIZER["Unigram"](normalize_all(sample_names, LOWER))
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
