"""The race of encoding: sides that compute the same, figures from a clock that is set by hand, and verdicts."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.speed import ablations as ablations
from benchmarks.speed import encode as encoders
from benchmarks.speed import encode as encoding
from benchmarks.speed import reference
from xsap.encoding.encoder import Encoder
from xsap.encoding.packing import tokenize_names
from xsap.errors import ConfigError
from xsap.linking.index import Index
from xsap.linking.linker import Linker
from xsap.terms.mentions import build_mentions, write_mentions
from xsap.terms.terminology import Terminology

CPU = torch.device("cpu")
TINY = reference.Size(layers=2, hidden=32, heads=4, rows=20_000)
FOUR = ("reference float32", "SentenceTransformer float32", "xsap float32", "xsap bfloat16")
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(reference.SIZES, "tiny", TINY)
    monkeypatch.setitem(encoders.SIDES, "four", FOUR)


@pytest.fixture(scope="module")
def opened(sample_folder, tmp_path_factory):
    """A folder, its encoder, and all sides of both devices, on the CPU."""
    folder = tmp_path_factory.mktemp("race") / "model"
    reference.prepare(sample_folder, TINY, 4000).encoder().save_pretrained(folder)
    exact = Encoder.from_pretrained(folder, device="cpu")
    return folder, exact, {key: encoders.open_sides(exact, folder, CPU, key) for key in ("cpu", "cuda")}


def test_the_sides_are_what_the_device_has(opened):
    sides = opened[2]
    assert list(sides["cuda"]) == list(encoders.SIDES["cuda"])
    assert tuple(sides["cpu"])[:4] == FOUR
    assert {name: side.dtype for name, side in sides["cpu"].items()} == {name: name.split()[1] for name in sides["cpu"]}
    assert [name for name, side in sides["cuda"].items() if side.first_only] == ["xsap float32", "xsap bfloat16"]


@pytest.mark.parametrize("faster", [True, False])
def test_int8_races_where_the_machine_has_it(faster, monkeypatch):
    monkeypatch.setattr(encoders, "int8_is_faster", lambda: faster)
    assert encoders.names_of("cpu")[:4] == list(FOUR)
    assert ("xsap int8" in encoders.names_of("cpu")) == faster


@pytest.mark.parametrize("key", ["cpu", "cuda"])
def test_all_sides_give_what_the_plain_model_gives(opened, sample_names, key):
    _, exact, sides = opened
    names = [*sample_names[:70], "x", "a very long name " * 9]  # more than a batch of SentenceTransformer's
    plain = exact.tokenizer(names, padding="max_length", max_length=25, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        expected = exact.transformer(**plain).last_hidden_state[:, 0].numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    spread = np.linalg.norm(expected - expected.mean(0), axis=1).mean()
    for name, side in sides[key].items():
        vectors = side.encode(names)
        assert vectors.dtype == np.float32
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        apart = np.linalg.norm(vectors - expected, axis=1).max()
        assert apart < 1e-4 * spread if side.dtype == "float32" else 1e-3 * spread < apart < 0.4 * spread, (
            name,
            apart,
            spread,
        )


def test_positions_are_counted_with_their_padding(opened, sample_names):
    _, exact, sides = opened
    names = sample_names[:30]
    lengths = tokenize_names(names, exact.tokenizer, exact.max_length).lengths
    found = {}
    for name, side in sides["cpu"].items():
        with encoders.counted(side) as found[name]:
            side.encode(names)
        side.encode(names)  # not counted
    assert sum(found["reference float32"]) == 30 * 25
    assert sum(found["SentenceTransformer float32"]) == 30 * lengths.max()  # one batch
    for ours in (name for name in found if name.startswith("xsap")):
        assert (
            lengths.sum() <= sum(found[ours]) <= lengths.sum() + 64 * len(found[ours])
        )  # a place here and there stays free


def test_what_the_layers_cost(opened):
    _, exact, sides = opened
    h2 = TINY.hidden**2  # a layer's weights: 4 · h² of attention, 8 · h² of the rest
    assert encoders.linear_flops(sides["cpu"]["reference float32"], exact, 3, 40) == 2 * 2 * 12 * h2 * 40
    # of ours, the last layer's keys and values alone are of all tokens
    assert encoders.linear_flops(sides["cpu"]["xsap bfloat16"], exact, 3, 40) == 2 * (
        12 * h2 * 40 + 2 * h2 * 40 + 10 * h2 * 3
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_the_rate_is_that_of_a_product(dtype, monkeypatch):
    shapes = []
    monkeypatch.setattr(encoders, "timed", lambda step, given, device: (len(shapes), shapes.append(step(given).shape)))
    monkeypatch.setattr("benchmarks.speed.train.timed", encoders.timed)
    assert encoders.rate_seconds(dtype, 16, CPU) == list(range(1, 11))
    assert set(shapes) == {(8192, 64)}
    assert encoders.rate_flops(16) == 2 * 8192 * 16 * 64


def test_the_figures_follow_from_the_clock(tiny, sample_folder, monkeypatch):
    clock = iter([8, 4, 2, 1, 10, 3, 2.5, 2, 5, 6, 1.5, 0.5])  # three rounds
    monkeypatch.setattr(ablations, "timed", lambda step, names, device: (next(clock), step(names)))
    rates = iter([[0.5], [0.25], [1.5], [0.75]])  # float32, bfloat16, and again: the medians are 1 and 0.5
    monkeypatch.setattr(encoders, "rate_seconds", lambda *_: next(rates))
    result = encoding.compare_speed(sample_folder, size="tiny", names=20, rounds=3, device=CPU, sides="four")
    medians = dict(zip(FOUR, (8, 4, 2, 1), strict=True))
    assert list(result["sides"]) == list(FOUR)
    h2, n, tokens = TINY.hidden**2, 20, round(20 * result["tokens_a_name"])
    per_second = {"float32": 8 * 8192 * h2 / 1, "bfloat16": 8 * 8192 * h2 / 0.5}
    assert result["product_flops_a_second"] == per_second
    for name, side in result["sides"].items():
        took = medians[name]
        assert side["names_a_second"] == n / took
        assert side["times_as_fast"] == {"reference float32": 8 / took, "SentenceTransformer float32": 4 / took}
        costs = (14 * h2, 10 * h2 * n) if name.startswith("xsap") else (24 * h2, 0)  # a token's, and the names'
        shares = {
            kind: 2 * (costs[0] * places + costs[1]) / took / per_second[side["precision"]]
            for kind, places in (("real_tokens", tokens), ("all_positions", side["positions"]))
        }
        assert side["share_of_rate"] == pytest.approx(shares)
    assert result["sides"]["reference float32"]["positions"] == 20 * 25
    assert result["sides"]["xsap bfloat16"]["all_seconds"] == [1, 2, 0.5]
    assert result["agreement"]["reference float32"] == 0
    assert (result["accuracy"], result["bars"], result["rounds"], result["seed"]) == (None, [], 3, 0)
    assert {"torch", "transformers", "sentence-transformers"} < set(result["versions"])
    rows = [line.split("|")[1:-1] for line in encoding.to_text(result).splitlines() if line.startswith("|")]
    assert [[cell.strip() for cell in row[:4]] for row in rows if row[0].strip() in FOUR] == [
        ["reference float32", "2.5", "1.0", "0.5"],
        ["SentenceTransformer float32", "5.0", "2.0", "1.0"],
        ["xsap float32", "10.0", "4.0", "2.0"],
        ["xsap bfloat16", "20.0", "8.0", "4.0"],
    ]


def test_the_race_of_a_gpu_runs_on_a_cpu_too(tiny, sample_folder, capsys):
    result = encoding.compare_speed(sample_folder, size="tiny", names=80, rounds=1, device=CPU, sides="cuda")
    rivals = ["reference float32", "reference float16", "SentenceTransformer float32", "SentenceTransformer float16"]
    assert list(result["sides"]) == [*rivals, "xsap float32", "xsap bfloat16"]
    assert list(result["sides"]["xsap bfloat16"]["times_as_fast"]) == rivals
    assert set(result["product_flops_a_second"]) == {"float32", "float16", "bfloat16"}
    assert 0.001 < result["agreement"]["SentenceTransformer float16"] < 0.5
    captured = capsys.readouterr()
    assert captured.out == ""
    assert not re.search("pooler|MISSING|Loading", captured.err)
    json.dumps(result)


def side(dtype, vectors):
    return SimpleNamespace(dtype=dtype, encode=lambda names: np.array(vectors, np.float32))


def test_sides_that_do_not_compute_the_same_are_seen():
    theirs = side("float32", [[1, 0], [0, 2]])
    # unit vectors (1, 0) and (0, 1) are √½ from their mean
    far = {"a": theirs, "b": side("bfloat16", [[3, 0], [0.0, 1]]), "c": side("float32", [[1, 0.003], [0, 1]])}
    with pytest.raises(AssertionError, match="c doesn't compute the same"):
        encoding.check(far, ["x", "y"])
    far["c"].dtype = "int8"
    assert encoding.check(far, ["x", "y"]) == pytest.approx({"a": 0, "b": 0, "c": 0.003 * 2**0.5}, abs=1e-6)
    with pytest.raises(AssertionError, match="d doesn't compute the same"):
        encoding.check({"a": theirs, "d": side("int8", [[0, 1], [1, 0]])}, ["x", "y"])
    near = {
        "a": side("float32", [[1, 0.01], [1, 0]]),
        "d": side("int8", [[1, 0], [1, 0.01]]),
    }  # in absolute terms that is next to nothing
    with pytest.raises(AssertionError, match="d doesn't compute the same"):
        encoding.check(near, ["x", "y"])


def figures(**rates):
    """Sides with names a second, and times from those of the rivals: 10 and 44."""
    return {
        name.replace("_", " "): {
            "precision": name.split("_")[1],
            "names_a_second": rate,
            "times_as_fast": {"reference float32": rate / 10, "SentenceTransformer float32": rate / 44},
        }
        for name, rate in {"reference_fp32": 10, "SentenceTransformer_fp32": 44, **rates}.items()
    }


def quality(float32=78.0, **others):
    return {"float32": {"acc@1": float32, "agreed": 100.0}} | {
        p: {"acc@1": acc, "agreed": agreed} for p, (acc, agreed) in others.items()
    }


@pytest.mark.parametrize(
    ("kept", "fastest", "met"),
    [
        (quality(bfloat16=(78.3, 99.0), int8=(77.7, 99.0)), "xsap int8", [True, True, True, True, True, True]),
        (quality(bfloat16=(77.9, 99.9), int8=(77.69, 99.5)), "xsap bfloat16", [True, False, True, True, False, True]),
        (quality(bfloat16=(78.0, 98.99), int8=(78.5, 98.0)), "xsap float32", [False, False, True, False, False, False]),
        (
            quality(bfloat16=(78.0, 99.5)),
            "xsap bfloat16",
            [True, False, True, True],
        ),  # int8 raced, but what it costs is not known
    ],
)
def test_the_fastest_side_that_keeps_its_accuracy_is_judged(kept, fastest, met):
    bars = encoding.bars_of(figures(xsap_fp32=30, xsap_bf16=85, xsap_int8=90), kept)
    assert [bar["met"] for bar in bars] == met
    assert [bar["what"] for bar in bars[:2]] == [f"{fastest}: times as fast as {rival}" for rival in encoding.BARS]
    rate = {"xsap float32": 30, "xsap bfloat16": 85, "xsap int8": 90}[fastest]
    assert [bar["found"] for bar in bars[:2]] == [rate / 10, rate / 44]
    assert [bar["bar"] for bar in bars[:2]] == [8, 2]


def test_accuracy_by_hand(sample_folder, tmp_path, monkeypatch):
    def results(*ids):
        return [SimpleNamespace(candidates=[SimpleNamespace(concept_id=i)] if i else []) for i in ids]

    answers = {
        "float32": ([0, 0, 1, 0], results("a", "b", "c", None)),
        "int8": ([0, 2, 1, 0], results("a", "x", "c", None)),
    }
    opened = []
    monkeypatch.setattr(
        encoders,
        "open_encoder",
        lambda *given: opened.append(given) or SimpleNamespace(content_hash="abc", dtype=given[2]),
    )
    monkeypatch.setattr("xsap.linking.index.Index.build", lambda names, encoder: encoder)
    monkeypatch.setattr("xsap.linking.linker.Linker", lambda encoder, index: index.dtype)
    monkeypatch.setattr("xsap.evaluation.protocols.concept_ranks", lambda linker, queries, k: answers[linker])
    monkeypatch.setattr("xsap.evaluation.protocols.read_queries", lambda path: SimpleNamespace(num_rows=4))
    (tmp_path / "m.tsv").write_text("x")
    found = encoding.accuracy("model", sample_folder, tmp_path / "m.tsv", ["float32", "int8"], CPU)
    assert opened == [("model", CPU, "float32"), ("model", CPU, "int8")]
    assert found["precisions"] == {"float32": {"acc@1": 75, "agreed": 100}, "int8": {"acc@1": 50, "agreed": 75}}
    assert (found["n"], found["model"]) == (4, "abc")
    assert found["mentions"] == "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"  # sha256 of an x


def test_accuracy_of_a_model(sample_folder, tiny_folder, tmp_path):
    names = Terminology.load(sample_folder).names.to_pylist()[:40]
    ids = [[row["concept_id"]] for row in names[:30]] + 10 * [["C9999999"]]  # the last have no right answer
    write_mentions(
        build_mentions([row["name"] for row in names], [row["language"] for row in names], ids), tmp_path / "m.tsv"
    )
    found = encoding.accuracy(str(tiny_folder), sample_folder, tmp_path / "m.tsv", ["bfloat16"], CPU)
    assert found["n"] == 40
    first = {}
    for dtype in ("float32", "bfloat16"):
        encoder = Encoder.from_pretrained(tiny_folder, device="cpu", dtype=dtype)
        linker = Linker(encoder, Index.build(Terminology.load(sample_folder), encoder))
        first[dtype] = [linker.link([row["name"]], 1)[0].candidates[0].concept_id for row in names]
    for dtype, concepts in first.items():
        right = sum(concept == gold[0] for concept, gold in zip(concepts, ids, strict=True))
        agreed = sum(one == other for one, other in zip(concepts, first["float32"], strict=True))
        assert found["precisions"][dtype] == {
            "acc@1": pytest.approx(right / 0.4),
            "agreed": pytest.approx(agreed / 0.4),
        }
    assert found["precisions"]["float32"]["acc@1"] > 10


def run(*words):
    with pytest.raises(SystemExit) as caught:
        main(["speed", "encode", *map(str, words)])
    return caught.value.code


@pytest.fixture
def raced(monkeypatch):
    """A race that has been run: `xsap bfloat16` is 9 and 2.05 times as fast, and as accurate as `raced` says."""
    sides = figures(xsap_fp32=30, xsap_bf16=90)
    for each in sides.values():
        each |= {"all_seconds": [1.0], "share_of_rate": {"real_tokens": 0.25, "all_positions": 0.5}}
    told = {
        "names": 100,
        "rounds": 1,
        "seed": 0,
        "tokens_a_name": 8.0,
        "sides": sides,
        "product_flops_a_second": {"float32": 1e11, "bfloat16": 4e11},
    }
    told |= {"accuracy": None, "bars": [], "device": "CPU x", "cores": 2, "threads": 2, "versions": {"torch": "2"}}
    kept = quality(bfloat16=(77.8, 99.5))
    monkeypatch.setattr(encoding, "compare_speed", lambda terminology, size, **_: told | {"size": size})
    monkeypatch.setattr(
        encoding, "accuracy", lambda model, terminology, mentions, precisions, device: {"n": 500, "precisions": kept}
    )
    return kept


def test_the_command_judges_at_full_size(raced, tmp_path, capsys):
    model = ["--model", "m", "--mentions", "m.tsv"]
    words = ["--terminology", "t", *model, "--json", tmp_path / "r.json", "--plot", tmp_path / "r.png"]
    assert run(*words) == 0
    told = capsys.readouterr().out
    assert "- met: xsap bfloat16: times as fast as reference float32 9, bar at least 8" in told
    assert "- met: xsap bfloat16: times as fast as SentenceTransformer float32 2.05, bar at least 2" in told
    assert "- met: bfloat16: points of Acc@1 away from float32 0.2, bar at most 0.3" in told
    assert (
        "Acc@1 on 500 mentions (and the same first concept as float32), %: float32 78.00 (100.00), bfloat16 77.80 (99.50)"
        in told
    )
    result = json.loads((tmp_path / "r.json").read_text())
    assert [bar["met"] for bar in result["bars"]] == [True] * 4
    assert result["accuracy"]["n"] == 500
    assert (tmp_path / "r.png").read_bytes()[:8] == PNG
    raced["bfloat16"]["acc@1"] = 70.0
    assert run(*words) == 3
    told = capsys.readouterr().out
    assert "- MISSED: xsap float32: times as fast as reference float32 3, bar at least 8" in told
    assert "- MISSED: bfloat16: points of Acc@1 away from float32 8, bar at most 0.3" in told
    assert run("--size", "small", *words) == 0  # at another size nothing is promised
    assert "MISSED" not in capsys.readouterr().out


def test_without_a_model_nothing_is_judged(raced, capsys):
    assert run("--terminology", "t") == 0
    assert "no verdict: --model and --mentions tell which side keeps its accuracy" in capsys.readouterr().out


def test_the_command_races(tiny, sample_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(encoders, "int8_is_faster", lambda: False)
    words = [
        "--size",
        "tiny",
        "--names",
        64,
        "--rounds",
        1,
        "--json",
        tmp_path / "r.json",
        "--plot",
        tmp_path / "r.png",
    ]
    assert run("--terminology", sample_folder, *words) == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert capsys.readouterr().out.rstrip("\n") == encoding.to_text(result)
    assert result["names"] == 64
    assert (tmp_path / "r.png").read_bytes()[:8] == PNG


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "huge"], "--size must be one of base, small, found 'huge'"),
        (["--model", "m"], "--model and --mentions go together"),
        (["--plot", "r.pdf"], r"ends in \.png"),
        (["--device", "cuda"], "--device cuda needs a GPU"),
    ],
)
def test_wrong_use(words, message, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run("--terminology", "t", *words) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert re.search(message, told[0])


def test_size_is_checked_before_the_names_are_read():
    with pytest.raises(ConfigError, match="--size"):
        encoding.compare_speed("nowhere", size="huge", names=1, rounds=1, device=CPU)
