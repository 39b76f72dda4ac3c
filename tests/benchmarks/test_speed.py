"""The race: all sides must do the same work, in turns, and the check that says so must be able to fail; what is counted has a second count."""

import json
import re
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.__main__ import main
from benchmarks.speed import ablations as ablations
from benchmarks.speed import reference
from benchmarks.speed import train as speed
from xsap.encoding import encoder as encoder_module
from xsap.encoding import packing
from xsap.encoding.encoder import Encoder
from xsap.encoding.model_folder import EncoderConfig
from xsap.encoding.packing import tokenize_names
from xsap.errors import ArtifactError, ConfigError

TINY = reference.Size(layers=2, hidden=32, heads=4, rows=20_000)
CPU = torch.device("cpu")
FP32 = replace(ablations.FULL, bfloat16=False)
WITHOUT = [field.name for field in fields(ablations.Ablations) if field.name not in {"bfloat16", "trimmed"}]


@pytest.fixture(scope="module")
def start(sample_folder):
    return reference.prepare(sample_folder, TINY, 4000)


@pytest.fixture(scope="module")
def batches(start):
    return start.batches(8, 2)


def still(side):
    side.encoder.eval()  # no dropout
    return side


def weights(side, name="encoder.layer.1.output.dense.weight"):
    return side.encoder.transformer.get_parameter(name).detach().clone()


def test_padding_is_the_tokenizers(start):
    names = ["fever", "fiebre alta y escalofríos", "胸痛", "a very long name " * 9]
    padded = reference.pad(tokenize_names(names, start.tokenizer, 25), start.tokenizer.pad_token_id)
    theirs = start.tokenizer(names, padding="max_length", max_length=25, truncation=True, return_tensors="pt")
    assert torch.equal(padded.ids, theirs["input_ids"])
    assert torch.equal(padded.mask, theirs["attention_mask"])


def test_batches_are_pairs_of_one_concept(start, batches):
    def split(tokens):
        return [tuple(ids.tolist()) for ids in np.split(tokens.ids, tokens.offsets[1:-1])]

    known = set(zip(split(start.tokens), start.concepts.tolist(), strict=True))
    for batch in batches:
        assert len(batch.tokens) == 16
        assert known.issuperset(zip(split(batch.tokens), batch.concepts.tolist(), strict=True))
        assert torch.equal(*batch.concepts.chunk(2))
        assert int(batch.padded.mask.sum()) == len(batch.tokens.ids)


def test_too_few_pairs_are_an_error(start):
    with pytest.raises(ConfigError, match=r"fewer than two steps of 1,000,000 pairs.*--pairs"):
        start.batches(1_000_000, 1)


def test_another_process_starts_from_the_same(start, batches, tmp_path):
    start.save(tmp_path)
    loaded = reference.Start.load(tmp_path)
    assert loaded.size == TINY
    for mine, its in zip(batches, loaded.batches(8, 2), strict=True):
        assert torch.equal(mine.padded.ids, its.padded.ids)
        assert torch.equal(mine.concepts, its.concepts)
    states = [s.encoder().state_dict() for s in (start, loaded)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert loaded.tokenizer.all_special_ids == start.tokenizer.all_special_ids


def test_base_has_the_size_of_xlm_r_base(start):
    with torch.device("meta"):  # no memory
        model = replace(start, size=reference.SIZES["base"]).encoder().transformer
    assert sum(p.numel() for p in model.parameters()) == 277_453_056  # the published model's, without the pooler
    assert model.config.hidden_dropout_prob == model.config.attention_probs_dropout_prob == 0.1


def test_the_references_loss_is_a_plain_loop(batches):
    torch.manual_seed(0)
    concepts = batches[0].concepts
    vectors = F.normalize(torch.randn(8, 6).repeat(2, 1) + torch.randn(16, 6) / 2, dim=-1)  # of pairs that are alike
    total, kept = 0.0, 0
    for a in range(16):
        far = [[float((vectors[a] - vectors[i]).norm()) for i in range(16) if i != a and (concepts[i] == concepts[a]) == same] for same in (True, False)]  # fmt: skip
        pull = push = 0.0
        for i in range(16):
            distance, cosine = float((vectors[a] - vectors[i]).norm()), float(vectors[a] @ vectors[i])
            if i == a:
                continue
            if concepts[i] == concepts[a] and min(far[1]) - distance <= 0.2:
                pull += np.exp(-(cosine - 0.5))
                kept += 1
            elif concepts[i] != concepts[a] and distance - max(far[0]) <= 0.2:
                push += np.exp(60 * (cosine - 0.5))
        total += np.log1p(pull) + np.log1p(push) / 60
    assert 0 < kept < 16
    assert float(reference.reference_loss(vectors, concepts)) == pytest.approx(total / 16, rel=1e-5)
    assert float(ablations.our_loss(vectors, concepts)) == pytest.approx(total / 16, rel=1e-5)


def test_sides_agree_and_disagreement_is_seen(start, batches):
    sides = {name: ablations.build(name, start, CPU) for name in ("reference float32", "xsap float32", "xsap bfloat16")}
    found = speed.check_agreement(sides, batches[0])
    assert list(found) == list(sides)
    assert speed.EXACT < found["xsap bfloat16"]["cosine"] <= speed.LOOSE  # it isn't float32
    assert found["xsap float32"]["loss_relative"] <= speed.EXACT
    assert all(side.encoder.training for side in sides.values())
    mean = Encoder(start.encoder().transformer, start.tokenizer, EncoderConfig("mean", 25))
    for precise in (True, False):
        other = ablations.our_side(mean, lambda tokens: tokens, replace(ablations.FULL, bfloat16=not precise))
        with pytest.raises(AssertionError, match="other doesn't compute the same"):
            speed.check_agreement({"reference": sides["reference float32"], "other": other}, batches[0])


def test_both_steps_make_the_same_updates(start, batches):
    theirs, ours = (still(ablations.build(name, start, CPU)) for name in ("reference float32", "xsap float32"))
    before = weights(theirs)
    assert torch.equal(before, weights(ours))
    for batch in batches:
        assert float(theirs.step(batch)) == pytest.approx(float(ours.step(batch)), rel=1e-4)
    rows = np.unique(np.concatenate([start.tokens.ids, [0, 1, 2, 3, len(start.tokenizer) - 1]]))
    table = "embeddings.word_embeddings.weight"
    assert len(weights(ours, table)) == len(rows) < TINY.rows
    starting = start.encoder().transformer.get_parameter(table).detach()[rows]
    for first, one, other in (
        (starting, weights(theirs, table)[rows], weights(ours, table)),
        (before, weights(theirs), weights(ours)),
    ):
        moved = (first - one).abs().max()
        assert moved > 1e-6
        # where a gradient is nothing but noise, Adam still moves by the learning rate, so a few weights may differ
        assert (one - other).abs().mean() < 0.02 * moved


def test_the_reference_makes_two_passes_over_padded_names(start, batches):
    side, shapes = reference.reference_side(start.encoder(), dtype="float32"), []
    side.encoder.transformer.register_forward_hook(
        lambda module, args, kwargs, result: shapes.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    side.step(batches[0])
    assert shapes == [(8, 25), (8, 25)]


def test_the_reference_in_half_precision_scales_its_gradients(start, batches, monkeypatch):
    used = []

    class Scaler(torch.amp.GradScaler):
        def scale(self, loss):
            used.append(float(super().scale(loss).detach() / loss.detach()))
            return super().scale(loss)

    monkeypatch.setattr(torch.amp, "GradScaler", Scaler)
    plain, half = (still(reference.reference_side(start.encoder(), dtype=dtype)) for dtype in ("float32", "float16"))
    before = weights(half)
    assert float(half.step(batches[0])) == pytest.approx(float(plain.step(batches[0])), rel=5e-3)
    half.step(batches[1])
    assert used[0] > 1000
    assert used[1] == 1
    assert 1e-6 < (weights(half) - before).abs().max() < 1e-4  # about the learning rate, whatever the scale


@pytest.mark.parametrize("name", WITHOUT)
def test_without_a_lever_the_loss_is_the_same(start, batches, name):
    ours = ablations.trimmed(start, CPU)
    full, without = (still(ablations.our_side(*ours, lever)) for lever in (FP32, replace(FP32, **{name: False})))
    vectors, loss = full.forward(batches[0])
    other_vectors, other_loss = without.forward(batches[0])
    assert torch.allclose(vectors, other_vectors, atol=1e-5)
    assert loss.item() == pytest.approx(other_loss.item(), rel=1e-5)


def test_a_lever_left_out_is_out(start, batches, monkeypatch):
    """What only our side in full calls is made to fail: each side without it goes on, in full it doesn't."""

    def fail(*_, **__):
        raise ZeroDivisionError

    sides = ablations.ablation_sides(start, CPU)
    assert list(sides) == ["in full", *ablations.LEFT_OUT]
    by_lever = dict(zip((field.name for field in fields(ablations.Ablations)), list(sides.values())[1:], strict=True))
    for name, module, function in (
        ("masks", ablations, "our_loss"),
        ("few_random", packing, "_dropout"),
        ("fused", ablations, "adamw"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(module, function, fail)
            if name == "few_random":
                by_lever[name].step(batches[0])
                with pytest.raises(ZeroDivisionError):
                    sides["in full"].step(batches[0])
            else:
                ours = ablations.trimmed(start, CPU)
                ablations.our_side(*ours, replace(ablations.FULL, **{name: False})).step(batches[0])
                with pytest.raises(ZeroDivisionError):
                    ablations.our_side(*ours).step(batches[0])
    with monkeypatch.context() as patched:
        patched.setitem(encoder_module.POOLS, "cls", fail)
        by_lever["first_only"].step(batches[0])
        with pytest.raises(ZeroDivisionError):
            sides["in full"].step(batches[0])
    assert [name for name, side in by_lever.items() if side.positions(batches[0]) == 16 * 25] == ["packed"]
    assert [name for name, side in by_lever.items() if side.dtype == "float32"] == ["bfloat16"]
    tables = {name: side.encoder.transformer.get_input_embeddings().num_embeddings for name, side in by_lever.items()}
    assert [name for name, rows in tables.items() if rows == TINY.rows] == ["trimmed"]


@pytest.mark.parametrize("name", ["reference float32", "xsap float32", "packed", "first_only"])
def test_operations_are_those_that_torch_counts(start, batches, name):
    lever = {"packed": replace(FP32, packed=False), "first_only": replace(FP32, first_only=False)}.get(name)
    side = ablations.our_side(*ablations.trimmed(start, CPU), lever) if lever else ablations.build(name, start, CPU)
    with FlopCounterMode(display=False) as counter:
        side.forward(batches[0])[0].sum().backward()
    by_kind = counter.get_flop_counts()["Global"]
    counted = sum(by_kind.get(kind, 0) for kind in (torch.ops.aten.mm, torch.ops.aten.addmm))
    counted -= (
        2 * 16 * 16 * TINY.hidden
    )  # the cosines of the loss, which is part of `forward`; backward the sum of vectors has none
    real, computed = ablations.linear_flops(side, batches[0])
    assert computed == counted
    places = side.positions(batches[0])
    if not side.first_only:
        assert real * places == computed * len(batches[0].tokens.ids)
    assert real < computed


@pytest.mark.parametrize("chunk", [5, 16])
def test_cached_gradients_make_the_same_update(start, batches, chunk, monkeypatch):
    encoded, pack = [], ablations.pack
    monkeypatch.setattr(ablations, "pack", lambda tokens: encoded.append(len(tokens)) or pack(tokens))
    plain, cached = (ablations.our_side(*ablations.trimmed(start, CPU), FP32, chunk=c) for c in (0, chunk))
    if chunk == 16:  # one chunk, dropout on: drawn alike both times
        torch.manual_seed(3)
        seed = int(torch.randint(2**31, ()))
    else:
        still(plain), still(cached)
        seed = 3
    torch.manual_seed(seed)
    expected = float(plain.step(batches[0]))
    torch.manual_seed(3)
    encoded.clear()
    assert float(cached.step(batches[0])) == pytest.approx(expected, rel=1e-6)
    assert encoded == 2 * ([5, 5, 5, 1] if chunk == 5 else [16])
    before = start.encoder().transformer.get_parameter("encoder.layer.0.output.dense.weight").detach()
    moved = weights(plain, "encoder.layer.0.output.dense.weight") - before
    assert (
        weights(cached, "encoder.layer.0.output.dense.weight") - before - moved
    ).abs().mean() < 0.01 * moved.abs().mean()


def test_sides_race_in_turns_and_the_warm_up_does_not_count(capsys):
    calls = []
    sides = {name: lambda batch, name=name: calls.append((name, batch)) or torch.tensor(0.5) for name in ("a", "b")}
    seconds = speed.compare_speed(sides, ["warm", "one", "two"], CPU)
    assert calls == [(name, batch) for batch in ("warm", "one", "two") for name in ("a", "b")]
    assert {name: len(took) for name, took in seconds.items()} == {"a": 2, "b": 2}
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 6


def test_a_whole_race_in_a_tiny_size(sample_folder, monkeypatch):
    monkeypatch.setitem(speed.SIZES, "tiny", TINY)
    monkeypatch.setattr(
        speed, "peak_memory", lambda *_, **__: {"bytes": 2 * 10**9, "process_bytes": 3 * 10**9, "seconds": [1, 2]}
    )
    clock = iter(range(10_000))
    monkeypatch.setattr(speed, "timed", lambda step, batch, device: ((1 + next(clock) % 7) / 8, step(batch)))
    result = speed.compare_training(sample_folder, size="tiny", pairs=8, steps=3, device=CPU, cached_pairs=16)
    names = ["reference float32", "xsap float32", "xsap bfloat16"]
    assert list(result["sides"]) == list(result["agreement"]) == names
    lengths = [
        batch.tokens.lengths.mean() for batch in reference.prepare(sample_folder, TINY, speed.PIECES).batches(8, 4)
    ]
    assert result["tokens_a_name"] == pytest.approx(np.mean(lengths[1:])) != np.mean(lengths)
    assert result["padded_share"] == pytest.approx(1 - result["tokens_a_name"] / 25)
    theirs = result["sides"]["reference float32"]
    for side in result["sides"].values():
        assert side["seconds"] == sorted(side["all_seconds"])[1]
        assert side["times_as_fast"] == theirs["seconds"] / side["seconds"]
        assert side["pairs_a_second"] == 8 / side["seconds"]
        assert side["tokens_a_second"] == pytest.approx(16 * result["tokens_a_name"] / side["seconds"])
        rate = result["product_flops_a_second"][side["precision"]]
        assert side["share_of_rate"] == {
            kind: count / side["seconds"] / rate for kind, count in side["linear_flops"].items()
        }
    assert theirs["linear_flops"]["all_positions"] == 6 * 12 * TINY.hidden**2 * TINY.layers * 16 * 25
    rate = result["product_flops_a_second"]["bfloat16"]  # of twenty products, whose seconds the clock above gives
    assert 8 * round(16 * result["tokens_a_name"]) * TINY.hidden**2 / rate in {n / 8 for n in range(1, 8)} | {
        n / 16 for n in range(3, 15)
    }
    text = speed.to_text(result)
    row = re.search(r"\| xsap bfloat16 .*", text)[0].split("|")
    assert [float(cell) for cell in row[2:7]] == pytest.approx(
        [
            result["sides"]["xsap bfloat16"][key]
            for key in ("seconds", "pairs_a_second", "tokens_a_second", "times_as_fast")
        ]
        + [2.0],
        rel=0.02,
    )
    assert "16 pairs a step in chunks of 512 names: 2.00 GB (the whole process 3.00), 2.0 s a step" in text
    assert "lever" not in text


def test_the_command_races_measures_and_plots(sample_folder, run, tmp_path):
    options = ["--size", "small", "--pairs", 8, "--steps", 1, "--levers", "--cached-pairs", 16]
    outputs = ["--json", tmp_path / "race.json", "--plot", tmp_path / "race.png"]
    done = run(
        "-m", "benchmarks", "speed", "train", "--terminology", sample_folder, "--device", "cpu", *options, *outputs
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "race.json").read_text())
    assert speed.to_text(result) == done.stdout.rstrip("\n")
    for side in result[
        "sides"
    ].values():  # weights, gradients and two moments, of four bytes; what torch loads is some 100 MB
        assert 16 * side["parameters"] < side["memory"]["bytes"] < 16 * side["parameters"] + 500e6
        assert side["memory"]["process_bytes"] > side["memory"]["bytes"]
    assert result["cached"]["pairs"] == 16
    assert list(result["levers"]) == ["in full", *ablations.LEFT_OUT]
    assert result["levers"]["in full"]["times_as_long"] == 1
    assert all(name in done.stdout for name in result["levers"])
    grey, blue = (
        (np.abs(imread(tmp_path / "race.png")[..., :3] - color).max(-1) < 0.02).sum()
        for color in map(to_rgb, speed.COLORS)
    )
    assert grey > 1000
    assert blue > 1000


def test_the_curves_are_one(sample_folder, run, tmp_path):
    words = [
        "--terminology",
        sample_folder,
        "--size",
        "small",
        "--pairs",
        8,
        "--steps",
        5,
        "--json",
        tmp_path / "curve.json",
    ]
    done = run("-m", "benchmarks", "speed", "curve", *words)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "curve.json").read_text())
    theirs, ours = result["losses"].values()
    assert len(theirs) == len(ours) == 5
    assert (
        result["largest_relative_difference"] == max(abs(b / a - 1) for a, b in zip(theirs, ours, strict=True)) < 1e-5
    )
    assert "within the bar of 0.001" in done.stdout
    assert "NOT" not in done.stdout
    assert len(set(theirs)) == 5


def test_curves_that_part_are_a_missed_gate(sample_folder, monkeypatch, capsys):
    monkeypatch.setitem(speed.SIZES, "small", TINY)
    build = speed.build

    def wrong(name, start, device):
        side = build(name, start, device)
        return replace(side, step=lambda batch: side.step(batch) * 1.01) if name == "xsap float32" else side

    monkeypatch.setattr(speed, "build", wrong)
    with pytest.raises(SystemExit) as stopped:
        main(["speed", "curve", "--terminology", str(sample_folder), "--pairs", "8", "--steps", "1"])
    assert stopped.value.code == 3
    assert "NOT within the bar" in capsys.readouterr().out


def test_a_run_of_the_reference_can_be_opened(sample_folder, run, tmp_path):
    words = [
        "--terminology",
        sample_folder,
        "--out",
        tmp_path / "model",
        "--pairs",
        8,
        "--steps",
        3,
        "--lr",
        "1e-3",
        "--pieces",
        2000,
    ]
    done = run("-m", "benchmarks", "speed", "reference-run", *words)
    assert done.returncode == 0, done.stderr
    assert re.search(r"model: 3 steps, last loss \d\.\d{4}$", done.stdout.strip())
    encoder = Encoder.from_pretrained(tmp_path / "model")
    assert (encoder.pooling, encoder.max_length, encoder.policy.case) == ("cls", 25, "cased")
    assert len(encoder.tokenizer) <= 2000
    untrained = reference.prepare(sample_folder, reference.SIZES["small"], 2000).encoder().transformer
    moved = {
        n: float((p - untrained.get_parameter(n)).detach().abs().max())
        for n, p in encoder.transformer.named_parameters()
        if "key.bias" not in n
    }
    assert all(5e-4 < distance < 4e-3 for distance in moved.values()), moved  # three steps at that rate


def test_a_run_ends_when_its_time_is_up(sample_folder, tmp_path, monkeypatch):
    options = {"size": TINY, "pieces": 2000, "pairs": 8, "lr": 1e-3}
    with pytest.raises(ConfigError, match="--minutes, --steps"):
        reference.reference_run(sample_folder, tmp_path / "m", **options, minutes=None, steps=None)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mine").touch()
    with pytest.raises(ArtifactError):
        reference.reference_run(sample_folder, tmp_path / "m", **options, minutes=1, steps=None)
    clock = iter(range(0, 10_000, 25))
    monkeypatch.setattr(reference.time, "monotonic", lambda: next(clock))
    assert (
        reference.reference_run(sample_folder, tmp_path / "n", **options, minutes=1, steps=99)[0] == 2
    )  # after 25 and 50 seconds


def test_a_runs_pairs_come_once_an_epoch_in_new_order(start):
    steps = reference._shuffled(start, 64)
    per_concept = {int(c): int(n) for c, n in zip(*np.unique(start.concepts, return_counts=True), strict=True)}
    total = sum(min(50, n * (n - 1) // 2) for n in per_concept.values())
    epochs = []
    for _ in range(2):
        seen = []
        while len(seen) < total:
            names = next(steps)
            assert (start.concepts[names.rows] == names.concepts).all()
            left, right = np.split(names.rows, 2)
            seen += zip(left.tolist(), right.tolist(), strict=True)
        epochs.append(seen)
    assert len(set(epochs[0])) == len(epochs[0]) == total
    assert set(epochs[0]) == set(epochs[1])
    assert epochs[0] != epochs[1]
    assert all(start.concepts[a] == start.concepts[b] and a != b for a, b in epochs[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "cuda"], "needs a GPU"),
        (["--plot", "race.svg"], r"ends in \.png"),
        (["--pairs", "1000000"], "take fewer with --pairs"),
        (["--pairs", "8", "--cached-pairs", "1000000"], "fewer than two steps of 1,000,000 pairs"),
    ],
)
def test_mistakes_are_told_before_the_race(sample_folder, options, message, capsys):
    if options[0] == "--device" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit) as stopped:
        main(["speed", "train", "--terminology", str(sample_folder), "--size", "small", *options])
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err)
