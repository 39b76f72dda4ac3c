"""The race: both sides must do the same work, in turns, and the check that says so must be able to fail."""

import copy

import pytest
import torch

from benchmarks import speed
from benchmarks.reference import pad, reference_step
from xsap.encoding.encoder import Encoder
from xsap.encoding.folder import Description
from xsap.encoding.tokens import tokenise
from xsap.errors import ConfigError

TINY = speed.Size(layers=2, hidden=32, heads=4, rows=None)


@pytest.fixture(scope="module")
def prepared(sample_folder):
    return speed.prepare(sample_folder, TINY, pairs=8, steps=2)


def test_padding_is_the_tokenizers(prepared):
    encoder, _ = prepared
    names = ["fever", "fiebre alta y escalofríos", "胸痛", "a very long name " * 9]
    padded = pad(tokenise(names, encoder.tokenizer, 25), encoder.tokenizer.pad_token_id)
    theirs = encoder.tokenizer(names, padding="max_length", max_length=25, truncation=True, return_tensors="pt")
    assert torch.equal(padded.ids, theirs["input_ids"])
    assert torch.equal(padded.mask, theirs["attention_mask"])


def test_batches_are_pairs_of_one_concept(prepared):
    for batch in prepared[1]:
        assert len(batch.tokens) == 16
        assert torch.equal(*batch.concepts.chunk(2))
        assert int(batch.padded.mask.sum()) == len(batch.tokens.ids)


def test_both_sides_agree_and_disagreement_is_seen(prepared):
    encoder, (batch, _) = prepared
    assert speed.check_agreement(encoder, batch)["loss_relative"] <= speed.TOLERANCE
    other = Encoder(encoder.transformer, encoder.tokenizer, Description("mean", 25))
    with pytest.raises(AssertionError, match="don't compute the same"):
        speed.check_agreement(other, batch)


def test_both_steps_make_the_same_updates(prepared):
    encoder, batches = prepared
    encoder.eval()  # no dropout
    one, other = copy.deepcopy(encoder), copy.deepcopy(encoder)
    theirs, ours = reference_step(one.transformer), speed.our_step(other, precision="fp32")
    for batch in batches:
        assert theirs(batch.padded, batch.concepts) == pytest.approx(ours(batch), rel=1e-4)
    for name in ("embeddings.word_embeddings.weight", "encoder.layer.1.output.dense.weight"):
        start, end, our_end = (model.transformer.get_parameter(name).detach() for model in (encoder, one, other))
        moved = (end - start).abs().max()
        assert moved > 1e-6
        # where a gradient is nothing but noise, Adam still moves by the learning rate, so a few weights may differ
        assert (end - our_end).abs().mean() < 0.02 * moved


def test_sides_race_in_turns_and_the_warm_up_does_not_count(capsys):
    calls = []
    sides = {name: lambda batch, name=name: calls.append((name, batch)) or 0.5 for name in ("a", "b")}
    seconds = speed.race(sides, ["warm", "one", "two"])
    assert calls == [(name, batch) for batch in ("warm", "one", "two") for name in ("a", "b")]
    assert {name: len(took) for name, took in seconds.items()} == {"a": 2, "b": 2}
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 6


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_whole_race_in_a_tiny_size(sample_folder, monkeypatch, precision):
    monkeypatch.setitem(speed.SIZES, "tiny", TINY)
    result = speed.race_train(sample_folder, size="tiny", pairs=8, steps=2, precision=precision)
    assert result["ratio"] == result["reference"]["seconds"] / result["xsap"]["seconds"]
    assert result["padded_share"] == pytest.approx(1 - result["tokens_a_name"] / 25)
    assert [len(result[side]["all_seconds"]) for side in ("reference", "xsap")] == [2, 2]
    assert result["precision"] == {"reference": "fp32", "xsap": precision}
    text = speed.to_text(result)
    assert f"xsap is {result['ratio']:.2f} times as fast" in text
    assert f"{result['reference']['pairs_a_second']:.1f}" in text


def test_base_has_the_size_of_xlm_r_base():
    with torch.device("meta"):  # no memory
        model = speed._transformer(speed.SIZES["base"], pieces=100)
    assert sum(p.numel() for p in model.parameters()) == 277_453_056  # the published model's, without the pooler
    assert model.config.hidden_dropout_prob == model.config.attention_probs_dropout_prob == 0.1


def test_too_few_pairs_are_an_error(sample_folder):
    with pytest.raises(ConfigError, match=r"fewer than two steps of 1,000,000 pairs.*--pairs"):
        speed.prepare(sample_folder, TINY, pairs=1_000_000, steps=1)
