"""Speed of training: all implementations do the same work, the check of that can fail, and what is counted is counted in a second way."""

import json
import re
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.__main__ import main
from benchmarks.speed import ablations, harness, reference, train
from benchmarks.speed.ablations import Optimizations, StepMemory
from xsap.encoding.encoder import Encoder
from xsap.encoding.model_folder import EncoderConfig
from xsap.encoding.packing import tokenize_names
from xsap.errors import ArtifactError, ConfigError

TINY = reference.Size("tiny", layers=2, hidden=32, heads=4, rows=20_000)
CPU = torch.device("cpu")
FLOAT32 = Optimizations(bfloat16=False)
WITHOUT = [field.name for field in fields(Optimizations) if field.name not in {"bfloat16", "trimmed"}]


@pytest.fixture(scope="module")
def start(sample_folder):
    return reference.prepare(sample_folder, TINY, 4000)


@pytest.fixture(scope="module")
def batches(start):
    return start.batches(8, 2)


def without_dropout(implementation):
    implementation.encoder.eval()
    return implementation


def weights(implementation, name="encoder.layer.1.output.dense.weight"):
    return implementation.encoder.transformer.get_parameter(name).detach().clone()


def test_padding_equals_the_tokenizers(start):
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


def test_batches_raise_for_too_few_pairs(start):
    with pytest.raises(ConfigError, match=r"fewer than two steps of 1,000,000 pairs.*--pairs"):
        start.batches(1_000_000, 1)


def test_saved_start_gives_the_same_weights_and_batches(start, batches, tmp_path):
    start.save(tmp_path)
    loaded = reference.Start.load(tmp_path)
    assert loaded.size == TINY
    for mine, its in zip(batches, loaded.batches(8, 2), strict=True):
        assert torch.equal(mine.padded.ids, its.padded.ids)
        assert torch.equal(mine.concepts, its.concepts)
    states = [s.encoder().state_dict() for s in (start, loaded)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert loaded.tokenizer.all_special_ids == start.tokenizer.all_special_ids


def test_pretrained_model_is_what_all_implementations_start_from(
    sample_folder, tiny_folder, fixed_memory, tmp_path, monkeypatch
):
    monkeypatch.chdir(tiny_folder.parent)  # a saved start is read by a process in another folder
    own = Encoder.from_pretrained(tiny_folder, device="cpu")
    start = reference.prepare_from(sample_folder, tiny_folder.name)
    start.save(tmp_path)
    monkeypatch.chdir(tmp_path)
    loaded = reference.Start.load(tmp_path)
    encoder = loaded.encoder()
    assert encoder.training
    assert (encoder.pooling, encoder.max_length, encoder.policy.case) == ("cls", 25, "cased")
    states = (each.transformer.state_dict() for each in (own, encoder))
    theirs, ours = (dict(each) for each in states)
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    result = train.compare_training(
        sample_folder, size=TINY, pairs=8, steps=1, device=CPU, base=str(tiny_folder), ablations=True
    )
    batch = loaded.batches(8, 1)[0]
    with torch.no_grad():
        hidden = own.transformer(input_ids=batch.padded.ids, attention_mask=batch.padded.mask).last_hidden_state
    expected = float(reference.reference_loss(hidden[:, 0], batch.concepts))
    assert {name: each.loss for name, each in result.agreement.items()} == pytest.approx(
        dict.fromkeys(train.IMPLEMENTATIONS["cpu"], expected), rel=0.05
    )
    assert result.agreement["reference float32"].loss == pytest.approx(expected, rel=1e-5)
    assert (result.size, result.vocabulary_size) == ("model", len(own.tokenizer))
    assert (result.model, result.model_hash) == ("model (xlm-roberta, 2 layers × 64)", own.content_hash)
    text = train.to_text(result)
    assert f"- {result.model}, 8 pairs per step" in text
    assert f"a tokenizer of {len(own.tokenizer):,} pieces, its own\n" in text
    assert "% |" in text  # the fraction of the peak rate
    assert str(tiny_folder) not in text


def test_model_of_another_architecture_is_refused_in_one_line(sample_folder, tiny_folder, monkeypatch):
    monkeypatch.setattr(reference, "ARCHITECTURES", ("bert", "roberta"))
    with pytest.raises(ConfigError, match="^model: expected a model of the type bert, roberta, .* found xlm-roberta$"):
        train.compare_training(sample_folder, size=TINY, pairs=8, steps=1, device=CPU, base=str(tiny_folder))


def test_base_has_the_size_of_xlm_r_base(start):
    with torch.device("meta"):  # no memory
        model = replace(start, size=reference.MODEL_SIZES["base"]).encoder().transformer
    assert sum(p.numel() for p in model.parameters()) == 277_453_056  # the published model's, without the pooler
    assert model.config.hidden_dropout_prob == model.config.attention_probs_dropout_prob == 0.1


def test_losses_match_a_plain_loop(batches):
    torch.manual_seed(0)
    concepts = batches[0].concepts
    vectors = F.normalize(torch.randn(8, 6).repeat(2, 1) + torch.randn(16, 6) / 2, dim=-1)
    total, kept = 0.0, 0
    for a in range(16):
        distances = [[float((vectors[a] - vectors[i]).norm()) for i in range(16) if i != a and (concepts[i] == concepts[a]) == same] for same in (True, False)]  # fmt: skip
        pull = push = 0.0
        for i in range(16):
            distance, cosine = float((vectors[a] - vectors[i]).norm()), float(vectors[a] @ vectors[i])
            if i == a:
                continue
            if concepts[i] == concepts[a] and min(distances[1]) - distance <= 0.2:
                pull += np.exp(-(cosine - 0.5))
                kept += 1
            elif concepts[i] != concepts[a] and distance - max(distances[0]) <= 0.2:
                push += np.exp(60 * (cosine - 0.5))
        total += np.log1p(pull) + np.log1p(push) / 60
    assert 0 < kept < 16
    assert float(reference.reference_loss(vectors, concepts)) == pytest.approx(total / 16, rel=1e-5)
    assert float(ablations.our_loss(vectors, concepts)) == pytest.approx(total / 16, rel=1e-5)


def test_check_agreement_refuses_another_encoder(start, batches):
    names = ("reference float32", "xsap float32", "xsap bfloat16")
    built = {name: ablations.build(name, start, CPU) for name in names}
    found = train.check_agreement(built, batches[0])
    assert list(found) == list(built)
    assert train.FLOAT32_TOLERANCE < found["xsap bfloat16"].cosine_difference <= train.TOLERANCE  # it isn't float32
    assert found["xsap float32"].loss_difference <= train.FLOAT32_TOLERANCE
    assert all(each.encoder.training for each in built.values())
    mean = Encoder(start.encoder().transformer, start.tokenizer, EncoderConfig("mean", 25))
    for precise in (True, False):
        other = ablations.train_ours(mean, lambda tokens: tokens, Optimizations(bfloat16=not precise))
        with pytest.raises(AssertionError, match="other does not compute the same"):
            train.check_agreement({"reference": built["reference float32"], "other": other}, batches[0])


def test_reference_and_ours_make_the_same_updates(start, batches):
    theirs, ours = (
        without_dropout(ablations.build(name, start, CPU)) for name in ("reference float32", "xsap float32")
    )
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


def test_reference_makes_two_passes_over_padded_names(start, batches):
    implementation, shapes = reference.train_reference(start.encoder(), dtype="float32"), []
    implementation.encoder.transformer.register_forward_hook(
        lambda module, args, kwargs, result: shapes.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    implementation.step(batches[0])
    assert shapes == [(8, 25), (8, 25)]


def test_reference_in_float16_scales_its_gradients(start, batches, monkeypatch):
    used = []

    class Scaler(torch.amp.GradScaler):
        def scale(self, loss):
            used.append(float(super().scale(loss).detach() / loss.detach()))
            return super().scale(loss)

    monkeypatch.setattr(torch.amp, "GradScaler", Scaler)
    plain, half = (
        without_dropout(reference.train_reference(start.encoder(), dtype=dtype)) for dtype in ("float32", "float16")
    )
    before = weights(half)
    assert float(half.step(batches[0])) == pytest.approx(float(plain.step(batches[0])), rel=5e-3)
    half.step(batches[1])
    assert used[0] > 1000
    assert used[1] == 1
    assert 1e-6 < (weights(half) - before).abs().max() < 1e-4  # about the learning rate, whatever the scale


@pytest.mark.parametrize("name", WITHOUT)
def test_step_without_an_optimization_has_the_same_loss(start, batches, name):
    ours = ablations.trimmed_encoder(start, CPU)
    complete, without = (
        without_dropout(ablations.train_ours(*ours, each)) for each in (FLOAT32, replace(FLOAT32, **{name: False}))
    )
    vectors, loss = complete.forward(batches[0])
    other_vectors, other_loss = without.forward(batches[0])
    assert torch.allclose(vectors, other_vectors, atol=1e-5)
    assert loss.item() == pytest.approx(other_loss.item(), rel=1e-5)


def test_ablation_leaves_out_its_optimization(start, batches, monkeypatch):
    """A function that only the complete step calls is replaced by one that fails: only the step without its optimization still works."""

    def fail(*_, **__):
        raise ZeroDivisionError

    built = ablations.build_ablations(start, CPU)
    assert list(built) == [ablations.COMPLETE, *ablations.ABLATIONS]
    complete = built[ablations.COMPLETE]
    by_field = dict(zip((field.name for field in fields(Optimizations)), list(built.values())[1:], strict=True))
    for name, function in (("masks", "our_loss"), ("fused", "adamw")):
        with monkeypatch.context() as patched:
            patched.setattr(ablations, function, fail)
            ours = ablations.trimmed_encoder(start, CPU)
            ablations.train_ours(*ours, Optimizations(**{name: False})).step(batches[0])
            with pytest.raises(ZeroDivisionError):
                ablations.train_ours(*ours).step(batches[0])
    with monkeypatch.context() as patched:
        patched.setattr(F, "dropout", fail)  # on a CPU our dropout is not torch's
        complete.step(batches[0])
        with pytest.raises(ZeroDivisionError):
            by_field["few_random"].step(batches[0])
    rows = []
    hook = complete.encoder.transformer.encoder.layer[-1].intermediate.register_forward_pre_hook(
        lambda _, arguments: rows.append(arguments[0].flatten(0, -2).shape[0])
    )
    complete.step(batches[0])
    by_field["first_only"].step(batches[0])
    hook.remove()
    assert rows[0] == 16 < rows[1] == by_field["first_only"].positions(batches[0])
    assert [name for name, each in by_field.items() if each.positions(batches[0]) == 16 * 25] == ["packed"]
    assert [name for name, each in by_field.items() if each.dtype == "float32"] == ["bfloat16"]
    tables = {name: each.encoder.transformer.get_input_embeddings().num_embeddings for name, each in by_field.items()}
    assert [name for name, count in tables.items() if count == TINY.rows] == ["trimmed"]


@pytest.mark.parametrize("name", ["reference float32", "xsap float32", "packed", "first_only"])
def test_linear_flops_match_torchs_counter(start, batches, name):
    optimizations = {"packed": replace(FLOAT32, packed=False), "first_only": replace(FLOAT32, first_only=False)}
    if name in optimizations:
        each = ablations.train_ours(*ablations.trimmed_encoder(start, CPU), optimizations[name])
    else:
        each = ablations.build(name, start, CPU)
    with FlopCounterMode(display=False) as counter:
        each.forward(batches[0])[0].sum().backward()
    by_kind = counter.get_flop_counts()["Global"]
    counted = sum(by_kind.get(kind, 0) for kind in (torch.ops.aten.mm, torch.ops.aten.addmm))
    # the cosines of the loss are part of `forward`; the backward pass of the vectors' sum has none
    counted -= 2 * 16 * 16 * TINY.hidden
    real, computed = ablations.linear_flops(each, batches[0])
    assert computed == counted
    if not each.first_only:
        assert real * each.positions(batches[0]) == computed * len(batches[0].tokens.ids)
    assert real < computed


@pytest.mark.parametrize("chunk", [5, 16])
def test_cached_gradients_make_the_same_update(start, batches, chunk):
    plain, cached = (ablations.train_ours(*ablations.trimmed_encoder(start, CPU), FLOAT32, chunk=c) for c in (0, chunk))
    encoded = []
    cached.encoder.register_forward_pre_hook(lambda _, arguments: encoded.append(len(arguments[0].lengths)))
    if chunk == 16:  # one chunk with dropout: the same dropout both times
        torch.manual_seed(3)
        seed = int(torch.randint(2**31, ()))
    else:
        without_dropout(plain), without_dropout(cached)
        seed = 3
    torch.manual_seed(seed)
    expected = float(plain.step(batches[0]))
    torch.manual_seed(3)
    assert float(cached.step(batches[0])) == pytest.approx(expected, rel=1e-6)
    assert encoded == 2 * ([5, 5, 5, 1] if chunk == 5 else [16])
    name = "encoder.layer.0.output.dense.weight"
    before = start.encoder().transformer.get_parameter(name).detach()
    moved = weights(plain, name) - before
    assert (weights(cached, name) - before - moved).abs().mean() < 0.01 * moved.abs().mean()


@pytest.fixture
def fixed_memory(monkeypatch):
    """Memory as if measured: 2 GB for the step, 3 GB for the process."""
    monkeypatch.setattr(train, "peak_memory", lambda *_, **__: StepMemory(2 * 10**9, 3 * 10**9, [1, 2]))


def test_figures_follow_from_the_clock(sample_folder, fixed_memory, monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr(harness, "timed", lambda step, batch, device: ((1 + next(clock) % 7) / 8, step(batch)))
    result = train.compare_training(sample_folder, size=TINY, pairs=8, steps=3, device=CPU, cached_pairs=16)
    assert list(result.implementations) == list(result.agreement) == list(train.IMPLEMENTATIONS["cpu"])
    batches = reference.prepare(sample_folder, TINY, train.VOCABULARY_SIZE).batches(8, 4)
    lengths = [batch.tokens.lengths.mean() for batch in batches]
    assert result.tokens_per_name == pytest.approx(np.mean(lengths[1:])) != np.mean(lengths)
    assert result.padding == pytest.approx(1 - result.tokens_per_name / 25)
    theirs = result.implementations["reference float32"]
    for each in result.implementations.values():
        assert each.seconds == sorted(each.all_seconds)[1]
        assert each.speedup == theirs.seconds / each.seconds
        assert each.pairs_per_second == 8 / each.seconds
        assert each.tokens_per_second == pytest.approx(16 * result.tokens_per_name / each.seconds)
        rate = result.product_flops_per_second[each.dtype]
        assert each.peak_fraction == tuple(count / each.seconds / rate for count in each.linear_flops)
    assert theirs.linear_flops[1] == 6 * 12 * TINY.hidden**2 * TINY.layers * 16 * 25
    rate = result.product_flops_per_second["bfloat16"]  # of twenty products, whose seconds the clock above gives
    operations = 8 * round(16 * result.tokens_per_name) * TINY.hidden**2
    assert operations / rate in {n / 8 for n in range(1, 8)} | {n / 16 for n in range(3, 15)}
    text = train.to_text(result)
    row = re.search(r"\| xsap bfloat16 .*", text)[0].split("|")
    ours = result.implementations["xsap bfloat16"]
    expected = [ours.seconds, ours.pairs_per_second, ours.tokens_per_second, ours.speedup, 2.0]
    assert [float(cell) for cell in row[2:7]] == pytest.approx(expected, rel=0.02)
    assert "16 pairs per step in chunks of 512 names: 2.00 GB (the whole process 3.00), 2.0 s per step" in text
    assert "optimization" not in text


@pytest.mark.slow
def test_train_command_times_measures_and_plots(sample_folder, forked_python, tmp_path, capsys):
    options = ["--size", "small", "--pairs", 8, "--steps", 1, "--ablations", "--cached-pairs", 16]
    outputs = ["--json", tmp_path / "train.json", "--plot", tmp_path / "train.png"]
    words = ["speed", "train", "--terminology", sample_folder, "--device", "cpu", *options, *outputs]
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    printed = capsys.readouterr().out
    assert stopped.value.code == 0
    result = json.loads((tmp_path / "train.json").read_text())
    for name, each in result["implementations"].items():
        # weights, gradients and two moments, of four bytes; what torch loads is some 100 MB
        memory = each["memory"]
        assert 16 * each["parameters"] < memory["bytes"] < 16 * each["parameters"] + 500e6
        assert memory["process_bytes"] > memory["bytes"]
        row = re.search(rf"\| {name} .*", printed)[0].split("|")
        assert float(row[2]) == pytest.approx(each["seconds"], abs=0.001)
        assert float(row[6]) == pytest.approx(memory["bytes"] / 1e9, abs=0.01)
    assert result["cached"]["pairs"] == 16
    assert list(result["ablations"]) == [ablations.COMPLETE, *ablations.ABLATIONS]
    assert result["ablations"][ablations.COMPLETE]["slowdown"] == 1
    assert all(name in printed for name in result["ablations"])
    assert (tmp_path / "train.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_plot_shows_pairs_per_second_and_ablations(sample_folder, fixed_memory, tmp_path):
    result = train.compare_training(sample_folder, size=TINY, pairs=8, steps=1, device=CPU, ablations=True)
    train.plot(result, tmp_path / "train.svg")
    drawn = (tmp_path / "train.svg").read_text()
    for text in ("pairs per second", "one optimization left out", *result.implementations, *ablations.ABLATIONS):
        assert text in drawn


@pytest.mark.slow
def test_loss_curves_of_both_recipes_are_equal(sample_folder, run, tmp_path):
    words = ["--terminology", sample_folder, "--size", "small", "--pairs", 8, "--steps", 5]
    done = run("-m", "benchmarks", "speed", "loss-curve", *words, "--json", tmp_path / "curve.json")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "curve.json").read_text())
    theirs, ours = result["losses"].values()
    assert len(theirs) == len(ours) == 5
    difference = max(abs(b / a - 1) for a, b in zip(theirs, ours, strict=True))
    assert result["target"]["value"] == difference < 1e-5
    assert "- met: maximum relative difference of losses" in done.stdout
    assert "target at most 0.001" in done.stdout
    assert len(set(theirs)) == 5


def test_loss_curves_that_differ_exit_with_3(sample_folder, monkeypatch, capsys):
    monkeypatch.setitem(reference.MODEL_SIZES, "small", TINY)
    build = train.build

    def wrong(name, start, device):
        each = build(name, start, device)
        return replace(each, step=lambda batch: each.step(batch) * 1.01) if name == "xsap float32" else each

    monkeypatch.setattr(train, "build", wrong)
    with pytest.raises(SystemExit) as stopped:
        main(["speed", "loss-curve", "--terminology", str(sample_folder), "--pairs", "8", "--steps", "1"])
    assert stopped.value.code == 3
    assert "- MISSED: maximum relative difference of losses 0.01, target at most 0.001" in capsys.readouterr().out


@pytest.mark.slow
def test_model_of_a_reference_run_can_be_opened(sample_folder, run, tmp_path):
    words = [
        "--terminology",
        sample_folder,
        "--out",
        tmp_path / "model",
        "--pairs",
        8,
        "--steps",
        3,
        "--learning-rate",
        "1e-3",
        "--vocabulary-size",
        2000,
    ]
    done = run("-m", "benchmarks", "speed", "reference-run", *words)
    assert done.returncode == 0, done.stderr
    assert re.search(r"model: 3 steps, last loss \d\.\d{4}$", done.stdout.strip())
    encoder = Encoder.from_pretrained(tmp_path / "model")
    assert (encoder.pooling, encoder.max_length, encoder.policy.case) == ("cls", 25, "cased")
    assert len(encoder.tokenizer) <= 2000
    untrained = reference.prepare(sample_folder, reference.MODEL_SIZES["small"], 2000).encoder().transformer
    moved = {
        n: float((p - untrained.get_parameter(n)).detach().abs().max())
        for n, p in encoder.transformer.named_parameters()
        if "key.bias" not in n
    }
    assert all(5e-4 < distance < 4e-3 for distance in moved.values()), moved  # three steps of about the learning rate


def test_reference_run_ends_when_its_time_is_up(sample_folder, tmp_path):
    options = {"size": TINY, "vocabulary_size": 2000, "pairs": 8, "learning_rate": 1e-3}
    with pytest.raises(ConfigError, match="--minutes, --steps"):
        reference.reference_run(sample_folder, tmp_path / "m", **options, minutes=None, steps=None)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mine").touch()
    with pytest.raises(ArtifactError):
        reference.reference_run(sample_folder, tmp_path / "m", **options, minutes=1, steps=None)
    clock = iter(range(0, 10_000, 25))
    done, _ = reference.reference_run(
        sample_folder, tmp_path / "n", **options, minutes=1, steps=99, clock=lambda: next(clock)
    )
    assert done == 2  # after 25 and 50 seconds


def test_shuffled_pairs_come_once_per_epoch_in_new_order(start):
    steps = reference.shuffled_pairs(start, 64)
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
        (["--plot", "train.pdf"], r"ends in \.png or \.svg"),
        (["--base", "m"], "expected --base or --size, .* found both; leave out one"),
        (["--pairs", "1000000"], "use fewer with --pairs"),
        (["--pairs", "8", "--cached-pairs", "1000000"], "fewer than two steps of 1,000,000 pairs"),
    ],
)
def test_train_command_refuses_wrong_use_at_once(sample_folder, options, message, capsys):
    if options[0] == "--device" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit) as stopped:
        main(["speed", "train", "--terminology", str(sample_folder), "--size", "small", *options])
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err)
