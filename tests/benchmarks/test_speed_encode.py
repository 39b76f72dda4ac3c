"""Speed of encoding: implementations that compute the same, figures from a clock that is set by hand, and targets."""

import json
import re
import unicodedata
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.speed import encode, encode_implementations, harness, onnx_export, reference
from benchmarks.speed.encode import Accuracy, DtypeAccuracy, EncodingComparison, EncodingFigures
from benchmarks.speed.harness import Machine
from xsap.encoding.encoder import Encoder
from xsap.encoding.packing import tokenize_names
from xsap.errors import ConfigError
from xsap.linking.index import Index
from xsap.linking.linker import Linker
from xsap.terms.mentions import build_mentions, write_mentions
from xsap.terms.terminology import Terminology

CPU = torch.device("cpu")
TINY = reference.Size("tiny", layers=2, hidden=32, heads=4, rows=20_000)
FOUR = ("reference float32", "SentenceTransformer float32", "xsap float32", "xsap bfloat16")
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def opened(sample_folder, tmp_path_factory):
    """A model folder's encoder, and the implementations of both devices, on the CPU."""
    folder = tmp_path_factory.mktemp("encode") / "model"
    reference.prepare(sample_folder, TINY, 4000).encoder().save_pretrained(folder)
    exact = Encoder.from_pretrained(folder, device="cpu")
    names = {key: encode.supported_names(key) for key in ("cpu", "cuda")}
    return exact, {key: encode.open_implementations(exact, folder, CPU, names[key]) for key in names}


def test_implementations_have_the_dtypes_of_their_names(opened):
    implementations = opened[1]
    assert list(implementations["cuda"]) == list(encode_implementations.IMPLEMENTATIONS["cuda"])
    assert tuple(implementations["cpu"])[:4] == FOUR
    assert {name: each.dtype for name, each in implementations["cpu"].items()} == {
        name: name.split()[1] for name in implementations["cpu"]
    }
    assert [name for name, each in implementations["cuda"].items() if each.first_only] == [
        "xsap float32",
        "xsap bfloat16",
    ]


@pytest.mark.parametrize("with_int8", [True, False])
def test_int8_is_compared_only_where_it_is_fast(with_int8):
    names = encode.supported_names("cpu", with_int8=with_int8)
    assert names[:4] == list(FOUR)
    assert ("xsap int8" in names) == with_int8
    onnx = encode.supported_names("cpu", with_int8=with_int8, with_onnx=True)
    assert onnx == [*names[:2], "onnxruntime float32", "onnxruntime int8", *names[2:]]


@pytest.mark.parametrize("key", ["cpu", "cuda"])
def test_implementations_match_the_plain_model(opened, sample_names, key):
    exact, implementations = opened
    names = [*sample_names[:70], "x", "a very long name " * 9]  # more than a batch of SentenceTransformer's
    plain = exact.tokenizer(names, padding="max_length", max_length=25, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        expected = exact.transformer(**plain).last_hidden_state[:, 0].numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    spread = np.linalg.norm(expected - expected.mean(0), axis=1).mean()
    for name, each in implementations[key].items():
        vectors = each.encode(names)
        assert vectors.dtype == np.float32
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        distance = np.linalg.norm(vectors - expected, axis=1).max() / spread
        assert distance < 1e-4 if each.dtype == "float32" else 1e-3 < distance < 0.4, (name, distance)


def test_positions_are_counted_with_their_padding(opened, sample_names):
    exact, implementations = opened
    names = sample_names[:30]
    lengths = tokenize_names(names, exact.tokenizer, exact.max_length).lengths
    found = {}
    for name, each in implementations["cpu"].items():
        with encode.count_positions(each) as found[name]:
            each.encode(names)
        each.encode(names)  # not counted
    assert sum(found["reference float32"]) == 30 * 25
    assert sum(found["SentenceTransformer float32"]) == 30 * lengths.max()  # one batch
    for ours in (name for name in found if name.startswith("xsap")):
        assert lengths.sum() <= sum(found[ours]) <= lengths.sum() + 64 * len(found[ours])  # a few positions stay free


def test_linear_flops_count_the_last_layer_per_name_for_ours(opened):
    exact, implementations = opened
    h2 = TINY.hidden**2  # a layer's weights: 4 · h² of attention, 8 · h² of the rest
    assert encode.linear_flops(implementations["cpu"]["reference float32"], exact, 3, 40) == 2 * 2 * 12 * h2 * 40
    # of ours, only the last layer's keys and values are computed for all tokens
    expected = 2 * (12 * h2 * 40 + 2 * h2 * 40 + 10 * h2 * 3)
    assert encode.linear_flops(implementations["cpu"]["xsap bfloat16"], exact, 3, 40) == expected


def test_figures_follow_from_the_clock(sample_folder, monkeypatch):
    clock = iter([8, 4, 2, 1, 10, 3, 2.5, 2, 5, 6, 1.5, 0.5])  # three rounds
    monkeypatch.setattr(harness, "timed", lambda step, names, device: (next(clock), step(names)))
    rates = iter([[0.5], [0.25], [1.5], [0.75]])  # float32, bfloat16, and again: the medians are 1 and 0.5
    monkeypatch.setattr(harness, "product_seconds", lambda *_: next(rates))
    result = encode.compare_encoding(sample_folder, size=TINY, names=20, rounds=3, device=CPU, implementations=FOUR)
    medians = dict(zip(FOUR, (8, 4, 2, 1), strict=True))
    assert list(result.implementations) == list(FOUR)
    h2, n, tokens = TINY.hidden**2, 20, round(20 * result.tokens_per_name)
    per_second = {"float32": 8 * 8192 * h2 / 1, "bfloat16": 8 * 8192 * h2 / 0.5}
    assert result.product_flops_per_second == per_second
    for name, each in result.implementations.items():
        took = medians[name]
        assert each.names_per_second == n / took
        assert each.speedups == {"reference float32": 8 / took, "SentenceTransformer float32": 4 / took}
        costs = (14 * h2, 10 * h2 * n) if name.startswith("xsap") else (24 * h2, 0)  # of a token, and of the names
        expected = [
            2 * (costs[0] * positions + costs[1]) / took / per_second[each.dtype]
            for positions in (tokens, each.positions)
        ]
        assert each.peak_fraction == pytest.approx(expected)
    assert result.implementations["reference float32"].positions == 20 * 25
    assert result.implementations["xsap bfloat16"].all_seconds == [1, 2, 0.5]
    assert result.agreement["reference float32"] == 0
    assert (result.accuracy, result.targets, result.rounds, result.seed) == (None, [], 3, 0)
    assert {"torch", "transformers", "sentence-transformers"} < set(result.machine.versions)
    rows = [line.split("|")[1:-1] for line in encode.to_text(result).splitlines() if line.startswith("|")]
    assert [[cell.strip() for cell in row[:4]] for row in rows if row[0].strip() in FOUR] == [
        ["reference float32", "2.5", "1.0", "0.5"],
        ["SentenceTransformer float32", "5.0", "2.0", "1.0"],
        ["xsap float32", "10.0", "4.0", "2.0"],
        ["xsap bfloat16", "20.0", "8.0", "4.0"],
    ]


@pytest.fixture
def prompted_folder(tiny_folder, tmp_path):
    """A pretrained model with mean pooling, lower case and a prompt."""
    encoder = Encoder.from_pretrained(tiny_folder, prompt="query: ", override=True, device="cpu")
    encoder.save_pretrained(tmp_path / "e5")
    return tmp_path / "e5"


@pytest.fixture
def kept(monkeypatch):
    """The implementations of the comparisons that ran."""
    built = []
    check = encode.check_agreement
    monkeypatch.setattr(encode, "check_agreement", lambda each, names: built.append(each) or check(each, names))
    monkeypatch.setattr(harness, "product_seconds", lambda *_: [1.0])
    return built


def drawn(sample_folder, count):
    names = Terminology.load(sample_folder).names["name"].to_pylist()
    return [names[i] for i in np.random.default_rng(encode.SEED).permutation(len(names))[:count]]


def as_prompted(names):
    return [f"query: {unicodedata.normalize('NFKC', name).lower()}" for name in names]


def test_pretrained_model_is_compared_with_its_own_pooling_prompt_and_case(
    sample_folder, prompted_folder, kept, monkeypatch
):
    monkeypatch.setattr(encode, "missing_packages", lambda: ["onnx", "onnxscript"])
    encoded = []
    clock = iter(range(1, 100))
    monkeypatch.setattr(
        harness,
        "timed",
        lambda step, names, device: encoded.append((names, step(names))) or (next(clock), encoded[-1][1]),
    )
    model = {"size": TINY, "rounds": 1, "device": CPU, "model": str(prompted_folder)}
    result = encode.compare_encoding(sample_folder, names=80, **model)
    own, names = Encoder.from_pretrained(prompted_folder, device="cpu"), drawn(sample_folder, 80)
    expected = own.encode(names)
    short = tokenize_names(as_prompted(names), own.tokenizer, 99).lengths <= 25
    assert short.sum() > 60
    assert list(result.implementations) == encode.supported_names("cpu")
    for (texts, vectors), (name, each) in zip(encoded, result.implementations.items(), strict=True):
        assert texts == as_prompted(names)
        units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        assert np.abs(units - expected)[short].max() < (1e-5 if each.dtype == "float32" else 0.1), name
    assert not any(each.first_only for each in kept[0].values())  # the mean needs the last layer of all tokens
    assert (result.model, result.model_hash) == ("e5 (xlm-roberta, 2 layers × 64)", own.content_hash)
    text = encode.to_text(result)
    assert "- without onnxruntime, because not installed: onnx, onnxscript; pip install onnx onnxscript\n" in text
    assert (
        "largest distance of a name's vector from the first one's, in mean distances from their mean: reference" in text
    )
    assert str(prompted_folder) not in text


def test_onnxruntime_matches_the_model(sample_folder, prompted_folder, kept):
    for package in onnx_export.PACKAGES:
        pytest.importorskip(package)
    names = ["reference float32", *encode_implementations.ONNX, "xsap float32"]
    model = {"size": TINY, "rounds": 1, "device": CPU, "model": str(prompted_folder)}
    result = encode.compare_encoding(sample_folder, names=70, **model, implementations=names)
    assert result.agreement["onnxruntime float32"] < 1e-4 < result.agreement["onnxruntime int8"] < 0.5
    texts = as_prompted(drawn(sample_folder, 70))
    own = Encoder.from_pretrained(prompted_folder, device="cpu")
    lengths = np.sort(tokenize_names(texts, own.tokenizer, 25).lengths)[::-1]
    padded = sum(len(part) * part[0] for part in np.split(lengths, [32, 64]))  # batches of 32
    assert {result.implementations[name].positions for name in encode_implementations.ONNX} == {padded}
    assert set(result.implementations["xsap float32"].speedups) == {"reference float32", *encode_implementations.ONNX}
    assert result.remarks == []


def test_model_that_cannot_be_compared_is_refused_in_one_line(sample_folder, tiny_folder, tmp_path, monkeypatch):
    options = {"size": TINY, "names": 64, "rounds": 1, "device": CPU}
    encoder = Encoder.from_pretrained(tiny_folder, pooling="mean_all", override=True, device="cpu")
    encoder.save_pretrained(tmp_path / "all")
    with pytest.raises(
        ConfigError, match="all: expected a transformer with pooling cls or mean alone, found pooling mean_all"
    ):
        encode.compare_encoding(sample_folder, **options, model=str(tmp_path / "all"))
    monkeypatch.setattr(reference, "ARCHITECTURES", ("bert",))
    with pytest.raises(ConfigError, match="model: expected a model of the type bert, .* found xlm-roberta$"):
        encode.compare_encoding(sample_folder, **options, model=str(tiny_folder))


@pytest.mark.slow
def test_implementations_of_a_gpu_run_on_a_cpu_too(sample_folder, capsys):
    names = encode_implementations.IMPLEMENTATIONS["cuda"]
    result = encode.compare_encoding(sample_folder, size=TINY, names=80, rounds=1, device=CPU, implementations=names)
    baselines = ["reference float32", "reference float16", "SentenceTransformer float32", "SentenceTransformer float16"]
    assert list(result.implementations) == [*baselines, "xsap float32", "xsap bfloat16"]
    assert list(result.implementations["xsap bfloat16"].speedups) == baselines
    assert set(result.product_flops_per_second) == {"float32", "float16", "bfloat16"}
    assert 0.001 < result.agreement["SentenceTransformer float16"] < 0.5
    captured = capsys.readouterr()
    assert captured.out == ""
    assert not re.search("pooler|MISSING|Loading", captured.err)


def fixed(dtype, vectors):
    return SimpleNamespace(dtype=dtype, encode=lambda names: np.array(vectors, np.float32))


def test_check_agreement_refuses_other_vectors():
    theirs = fixed("float32", [[1, 0], [0, 2]])
    # the unit vectors (1, 0) and (0, 1) are √½ from their mean
    far = {"a": theirs, "b": fixed("bfloat16", [[3, 0], [0.0, 1]]), "c": fixed("float32", [[1, 0.003], [0, 1]])}
    with pytest.raises(AssertionError, match="c does not compute the same"):
        encode.check_agreement(far, ["x", "y"])
    far["c"].dtype = "int8"
    assert encode.check_agreement(far, ["x", "y"]) == pytest.approx({"a": 0, "b": 0, "c": 0.003 * 2**0.5}, abs=1e-6)
    with pytest.raises(AssertionError, match="d does not compute the same"):
        encode.check_agreement({"a": theirs, "d": fixed("int8", [[0, 1], [1, 0]])}, ["x", "y"])
    # in absolute terms the distance is small, in terms of the vectors' own distances it is not
    near = {"a": fixed("float32", [[1, 0.01], [1, 0]]), "d": fixed("int8", [[1, 0], [1, 0.01]])}
    with pytest.raises(AssertionError, match="d does not compute the same"):
        encode.check_agreement(near, ["x", "y"])


def figures(**rates):
    """Implementations with names per second, and speed-ups over the baselines, which have 10 and 44."""
    return {
        name.replace("_", " "): EncodingFigures(
            dtype=name.split("_")[1],
            all_seconds=[1.0],
            names_per_second=rate,
            speedups={"reference float32": rate / 10, "SentenceTransformer float32": rate / 44},
            positions=1,
            linear_flops=(1, 2),
            peak_fraction=(0.25, 0.5),
        )
        for name, rate in {"reference_float32": 10, "SentenceTransformer_float32": 44, **rates}.items()
    }


def test_rates_of_torch_are_no_measure_of_int8_in_onnxruntime():
    implementations = figures(onnxruntime_int8=60, xsap_int8=90)
    for each in implementations.values():
        each.speedups["onnxruntime int8"] = each.names_per_second / 60
    result = SimpleNamespace(
        implementations=implementations,
        model="tiny",
        names=64,
        tokens_per_name=8.0,
        seed=0,
        rounds=1,
        machine="a machine",
        remarks=[],
        product_flops_per_second={"int8": 1e9},
        model_hash=None,
        accuracy=None,
        has_targets=False,
        targets=[],
    )
    rows = {
        row.split("|")[1].strip(): row.split("|")[-3:-1] for row in encode.to_text(result).splitlines() if "|" in row
    }
    assert [cell.strip() for cell in rows["onnxruntime int8"]] == ["–", "–"]
    assert [cell.strip() for cell in rows["xsap int8"]] == ["25 %", "50 %"]


def quality(float32=78.0, **others):
    return {"float32": DtypeAccuracy(float32, 100.0)} | {
        dtype: DtypeAccuracy(*percentages) for dtype, percentages in others.items()
    }


@pytest.mark.parametrize(
    ("dtypes", "fastest", "met"),
    [
        (quality(bfloat16=(78.3, 99.0), int8=(77.7, 99.0)), "xsap int8", [True, True, True, True, True, True]),
        (quality(bfloat16=(77.9, 99.9), int8=(77.69, 99.5)), "xsap bfloat16", [True, False, True, True, False, True]),
        (quality(bfloat16=(78.0, 98.99), int8=(78.5, 98.0)), "xsap float32", [False, False, True, False, False, False]),
        # the accuracy of int8 is not known
        (quality(bfloat16=(78.0, 99.5)), "xsap bfloat16", [True, False, True, True]),
    ],
)
def test_targets_judge_the_fastest_dtype_that_keeps_its_accuracy(dtypes, fastest, met):
    targets = encode.targets_of(figures(xsap_float32=30, xsap_bfloat16=85, xsap_int8=90), dtypes)
    assert [each.met for each in targets] == met
    assert [each.what for each in targets[:2]] == [
        f"{fastest}: speed-up over {baseline}" for baseline in encode.TARGET_SPEEDUPS
    ]
    rate = {"xsap float32": 30, "xsap bfloat16": 85, "xsap int8": 90}[fastest]
    assert [each.value for each in targets[:2]] == [rate / 10, rate / 44]
    assert [each.limit for each in targets[:2]] == [8, 2]


def test_accuracy_counts_first_ranks_and_equal_first_concepts(sample_folder, tmp_path, monkeypatch):
    def results(*ids):
        return [SimpleNamespace(candidates=[SimpleNamespace(concept_id=i)] if i else []) for i in ids]

    answers = {
        "float32": ([0, 0, 1, 0], results("a", "b", "c", None)),
        "int8": ([0, 2, 1, 0], results("a", "x", "c", None)),
    }
    opened = []

    class FakeEncoder:
        @staticmethod
        def from_pretrained(folder, *, device, dtype):
            opened.append((folder, device, dtype))
            return SimpleNamespace(content_hash="abc", dtype=dtype)

    monkeypatch.setattr(encode, "Encoder", FakeEncoder)
    monkeypatch.setattr(encode, "Index", SimpleNamespace(build=lambda names, encoder, languages: encoder))
    monkeypatch.setattr(encode, "Linker", lambda encoder, index: index.dtype)
    monkeypatch.setattr(encode, "concept_ranks", lambda linker, queries, k: answers[linker])
    monkeypatch.setattr(encode, "read_queries", lambda path: SimpleNamespace(num_rows=4))
    (tmp_path / "m.tsv").write_text("x")
    found = encode.measure_accuracy("model", sample_folder, tmp_path / "m.tsv", ["float32", "int8"], CPU)
    assert opened == [("model", CPU, "float32"), ("model", CPU, "int8")]
    assert found.dtypes == {"float32": DtypeAccuracy(75, 100), "int8": DtypeAccuracy(50, 75)}
    assert (found.n, found.model) == (4, "abc")
    assert found.mentions == "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"  # sha256 of an x


@pytest.mark.slow
def test_accuracy_of_a_model_matches_its_linker(sample_folder, tiny_folder, tmp_path):
    names = Terminology.load(sample_folder).names.to_pylist()[:40]
    ids = [[row["concept_id"]] for row in names[:30]] + 10 * [["C9999999"]]  # the last have no right answer
    write_mentions(
        build_mentions([row["name"] for row in names], [row["language"] for row in names], ids), tmp_path / "m.tsv"
    )
    found = encode.measure_accuracy(str(tiny_folder), sample_folder, tmp_path / "m.tsv", ["bfloat16"], CPU)
    assert found.n == 40
    first = {}
    for dtype in ("float32", "bfloat16"):
        encoder = Encoder.from_pretrained(tiny_folder, device="cpu", dtype=dtype)
        linker = Linker(encoder, Index.build(Terminology.load(sample_folder), encoder, languages={"en"}))
        first[dtype] = [linker.link([row["name"]], 1)[0].candidates[0].concept_id for row in names]
    for dtype, concepts in first.items():
        right = sum(concept == gold[0] for concept, gold in zip(concepts, ids, strict=True))
        same = sum(one == other for one, other in zip(concepts, first["float32"], strict=True))
        assert found.dtypes[dtype].accuracy == pytest.approx(right / 0.4)
        assert found.dtypes[dtype].agreement == pytest.approx(same / 0.4)
    assert found.dtypes["float32"].accuracy > 10


def run(*words):
    with pytest.raises(SystemExit) as caught:
        main(["speed", "encode", *map(str, words)])
    return caught.value.code


@pytest.fixture
def compared(monkeypatch):
    """A finished comparison: `xsap bfloat16` has speed-ups of 9 and 2.05, and the accuracy that the fixture holds."""
    dtypes = quality(bfloat16=(77.8, 99.5))

    def compare(terminology, *, size, model, **_):
        return EncodingComparison(
            size=size.name,
            model=model or f"XLM-R {size.name}",
            model_hash=model and "abc",
            names=100,
            rounds=1,
            seed=0,
            tokens_per_name=8.0,
            agreement={},
            product_flops_per_second={"float32": 1e11, "bfloat16": 4e11},
            implementations=figures(xsap_float32=30, xsap_bfloat16=90),
            accuracy=None,
            targets=[],
            remarks=["a remark"],
            machine=Machine("CPU x", 2, 2, {"torch": "2"}),
        )

    monkeypatch.setattr(encode, "compare_encoding", compare)
    monkeypatch.setattr(encode, "measure_accuracy", lambda *_: Accuracy(500, "m", "t", "x", dtypes))
    return dtypes


def test_encode_command_judges_at_full_size(compared, tmp_path, capsys):
    model = ["--model", "m", "--mentions", "m.tsv"]
    words = [
        "--terminology",
        "t",
        "--size",
        "base",
        *model,
        "--json",
        tmp_path / "r.json",
        "--plot",
        tmp_path / "r.png",
    ]
    assert run(*words) == 0
    printed = capsys.readouterr().out
    assert "- met: xsap bfloat16: speed-up over reference float32 9, target at least 8" in printed
    assert "- met: xsap bfloat16: speed-up over SentenceTransformer float32 2.05, target at least 2" in printed
    assert "- met: bfloat16: Acc@1 distance from float32, points 0.2, target at most 0.3" in printed
    assert (
        "Acc@1 on 500 mentions (and same first concept as float32), %: float32 78.00 (100.00), bfloat16 77.80 (99.50)"
        in printed
    )
    result = json.loads((tmp_path / "r.json").read_text())
    assert [each["met"] for each in result["targets"]] == [True] * 4
    assert result["accuracy"]["n"] == 500
    assert (tmp_path / "r.png").read_bytes()[:8] == PNG
    compared["bfloat16"] = DtypeAccuracy(70.0, 99.5)
    assert run(*words) == 3
    printed = capsys.readouterr().out
    assert "- MISSED: xsap float32: speed-up over reference float32 3, target at least 8" in printed
    assert "- MISSED: bfloat16: Acc@1 distance from float32, points 8, target at most 0.3" in printed
    words = ["--terminology", "t", *model]
    assert run("--size", "small", *words) == 0  # another size has no targets
    printed = capsys.readouterr().out
    assert "MISSED" not in printed
    assert "- XLM-R small, 100 names" in printed
    assert run(*words) == 0  # nor has a pretrained model
    printed = capsys.readouterr().out
    assert not re.search("MISSED|no targets", printed)
    assert "- m, 100 names" in printed
    assert "- a remark" in printed
    assert "Acc@1 on 500 mentions" in printed


def test_encode_command_has_no_targets_without_a_model(compared, capsys):
    assert run("--terminology", "t") == 0
    assert "no targets: they need --size base with --model and --mentions" in capsys.readouterr().out


@pytest.mark.slow
def test_encode_command_runs_the_comparison(sample_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(reference.MODEL_SIZES, "small", TINY)
    options = ["--size", "small", "--names", 64, "--rounds", 1]
    words = [*options, "--json", tmp_path / "r.json", "--plot", tmp_path / "r.png"]
    assert run("--terminology", sample_folder, *words) == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["names"] == 64
    printed = capsys.readouterr().out
    assert f"XLM-R tiny, 64 names of {result['tokens_per_name']:.1f} tokens" in printed
    assert all(f"| {name}" in printed for name in result["implementations"])
    assert (tmp_path / "r.png").read_bytes()[:8] == PNG


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "huge"], "Invalid value for '--size': .*'huge' is not one of 'base', 'small'"),
        (
            ["--model", "m", "--size", "small"],
            "expected --model or --size, .* found both; leave out one, or add --mentions",
        ),
        (["--mentions", "m"], "--mentions needs --model"),
        (["--plot", "r.pdf"], r"ends in \.png or \.svg"),
        (["--device", "cuda"], "--device cuda needs a GPU"),
    ],
)
def test_encode_command_refuses_wrong_use(words, message, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run("--terminology", "t", *words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert re.search(message, lines[0])
