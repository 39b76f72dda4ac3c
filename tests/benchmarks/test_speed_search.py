"""Speed of searching: synthetic vectors, implementations against brute force, figures, targets, and the device search on a CPU."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.speed import harness, search
from benchmarks.speed import search_implementations as implementations
from benchmarks.speed.search_implementations import FAISS, FULL_SORT, HNSW, SINGLE_QUERIES, SearchFigures, SearchSize
from xsap.search import exact as exact_search
from xsap.search.exact import search_vectors

CPU = torch.device("cpu")
SMALL = SearchSize(3000, 24, 60, 10)
ON_DEVICE = SearchSize(2000, 24, 32, 10)
PNG = b"\x89PNG\r\n\x1a\n"


def vectors(n=SMALL.names, d=SMALL.dimension, seed=0, distribution="clustered"):
    return np.concatenate(list(implementations.synthetic_vectors(n, d, seed, distribution=distribution)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    implementations.write_vector_sets(folder, SMALL, search.VECTOR_DTYPES, 0)
    return folder


@pytest.fixture
def one_process(monkeypatch):
    """Implementations run in this process, because each process of its own takes seconds to start."""
    monkeypatch.setattr(search, "run_separately", implementations.run_implementation)


def nearest(folder, k=10):
    array, queries = vectors(), np.load(folder / "queries.npy")
    return np.argsort(-(queries.astype(np.float64) @ array.astype(np.float64).T), axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("distribution", ["clustered", "uniform"])
def test_synthetic_vectors_are_unit_and_reproducible(distribution):
    array = vectors(distribution=distribution)
    assert array.shape == (SMALL.names, SMALL.dimension)
    assert array.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(array, axis=1), 1, atol=1e-6)
    assert array.tobytes() == vectors(distribution=distribution).tobytes()
    assert vectors(seed=1, distribution=distribution).tobytes() != array.tobytes()
    blocks = implementations.synthetic_vectors(70_001, 3, 0, distribution=distribution)
    assert [len(block) for block in blocks] == [65_536, 4465]


def test_clustered_vectors_resemble_those_of_names():
    array = vectors(20_000, 768)
    cosines = array[:400] @ array.T
    siblings = np.arange(400)[:, None] // 4 * 4 + np.arange(4)
    own = np.take_along_axis(cosines, siblings, 1)
    assert 0.65 < np.median(own[own < 0.999]) < 0.75
    ranked = -np.sort(-cosines, axis=1)
    assert 0.5 < np.median(ranked[:, 10]) < 0.62
    assert abs(np.median(cosines)) < 0.1
    variances = np.linalg.eigvalsh(np.cov(array[::4].T))
    assert 40 < variances.sum() ** 2 / (variances**2).sum() < 90


def test_uniform_vectors_have_independent_directions(tmp_path):
    array = vectors(4000, 256, distribution="uniform")
    cosines = array[:200] @ array[200:].T
    assert np.std(cosines) == pytest.approx(256**-0.5, rel=0.02)
    size = SearchSize(500, 256, 80, 10, "uniform")
    implementations.write_vector_sets(tmp_path, size, ("float32",), 0)
    queries = np.load(tmp_path / "queries.npy")
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-6)
    assert (queries @ vectors(500, 256, distribution="uniform").T).max() < 0.5


def test_clustered_queries_are_near_their_rows(folder):
    cosines = (np.load(folder / "queries.npy") @ vectors().T).max(1)
    assert len(cosines) == 60
    assert 0.8 < np.median(cosines) < 0.92


@pytest.mark.parametrize("name", [FULL_SORT, FAISS, "xsap float32", "xsap float16", "xsap int8"])
def test_implementation_matches_brute_force(folder, name):
    if name == FAISS:
        pytest.importorskip("faiss")
    rows = implementations.open_implementation(name, folder, 10)[0](np.load(folder / "queries.npy"))
    assert rows.shape == (60, 10)
    common = [len(set(a) & set(b)) / 10 for a, b in zip(rows.tolist(), nearest(folder).tolist(), strict=True)]
    assert np.mean(common) == 1 if name in (FULL_SORT, FAISS, "xsap float32") else np.mean(common) > 0.95
    seven = implementations.open_implementation(name, folder, 7)[0](np.load(folder / "queries.npy"))
    np.testing.assert_array_equal(seven, rows[:, :7])


@pytest.mark.slow
def test_implementation_in_a_process_of_its_own(folder):
    result = implementations.run_separately("xsap float32", folder, 10, batch=True, sorted_queries=10)
    assert result.details.items() >= {"count": SMALL.names, "dimension": SMALL.dimension}.items()
    assert len(result.single_seconds) == SINGLE_QUERIES
    assert result.batch_seconds > 0
    assert 0 < result.bytes < result.process_bytes
    np.testing.assert_array_equal(np.load(folder / "xsap float32.npy"), nearest(folder))


def test_hnsw_index_is_built_and_searched(folder, tmp_path, monkeypatch):
    pytest.importorskip("usearch")
    monkeypatch.setattr(search, "run_separately", implementations.run_implementation)
    monkeypatch.setattr(search, "run_module", lambda words: implementations.build_hnsw(Path(words[1])))
    result = search.compare_search(SMALL, ann=True, work=tmp_path)
    found = result.implementations[HNSW]
    assert found.recall > 0.9
    assert found.details["build_seconds"] > 0
    assert "usearch" in result.machine.versions
    assert f"- {HNSW}: " in search.to_text(result)


def test_full_sort_is_extrapolated_from_its_sample(folder):
    result = implementations.run_implementation(FULL_SORT, folder, 10, batch=True, sorted_queries=5)
    assert result.extrapolated
    assert len(result.single_seconds) == 5
    assert result.batch_seconds == pytest.approx(60 * np.mean(result.single_seconds))
    assert result.single_median == np.median(result.single_seconds)
    assert np.load(folder / f"{FULL_SORT}.npy").shape == (6, 10)
    ours = implementations.run_implementation("xsap int8", folder, 10, batch=True, sorted_queries=5)
    assert not ours.extrapolated
    alone = implementations.run_implementation("xsap int8", folder, 10, batch=False, sorted_queries=5)
    assert alone.batch_seconds is None


def test_comparison_covers_all_implementations(one_process, tmp_path):
    result = search.compare_search(SMALL, ann=False, work=tmp_path)
    assert list(tmp_path.iterdir()) == []
    expected = [FULL_SORT, *([FAISS] if find_spec("faiss") else []), "xsap float32", "xsap float16", "xsap int8"]
    assert list(result.implementations) == expected
    assert all(result.implementations[name].recall == 1 for name in expected[:-2])
    assert result.targets == []  # other sizes have none
    assert result.cosine_difference <= search.COSINE_TOLERANCE
    table = search.to_text(result)
    assert all(f"| {name}" in table for name in expected)
    assert "(extrapolated)" in table
    ratio = result.implementations[FULL_SORT].batch_seconds / result.implementations["xsap float32"].batch_seconds
    row = next(line for line in table.splitlines() if line.startswith("| xsap float32"))
    assert row.split("|")[3].strip() == f"{ratio:.1f}"


def test_comparison_fails_if_ours_finds_other_names(monkeypatch, tmp_path):
    def run(name, folder, top_k, **options):
        figures = implementations.run_implementation(name, folder, top_k, **options)
        if name == "xsap float32":
            rows = np.load(folder / f"{name}.npy")
            np.save(folder / f"{name}.npy", (rows + 1) % SMALL.names)
        return figures

    monkeypatch.setattr(search, "run_separately", run)
    with pytest.raises(AssertionError, match="different names were found"):
        search.compare_search(SMALL, ann=False, work=tmp_path)


def test_check_agreement_sees_another_name_but_not_the_order_of_equal_ones():
    array, queries = np.eye(4, dtype=np.float32)[[0, 0, 1, 2]], np.array([[0.8, 0.6, 0, 0]], np.float32)
    right, swapped = np.array([[0, 1, 2]]), np.array([[1, 0, 2]])
    assert search.check_agreement(array, queries, {"a": right, "b": right}) == 0
    assert search.check_agreement(array, queries, {"a": right, "b": swapped}) == 0
    with pytest.raises(AssertionError, match=r"their cosines differ by up to 0\.6"):
        search.check_agreement(array, queries, {"a": right, "b": np.array([[0, 1, 3]])})
    with pytest.raises(AssertionError, match="found twice"):
        search.check_agreement(array, queries, {"a": right, "b": np.array([[0, 0, 2]])})
    with pytest.raises(AssertionError, match=r"\(1, 3\) rows against \(1, 2\)"):
        search.check_agreement(array, queries, {"a": right, "b": right[:, :2]})
    nudged = array.copy()
    nudged[1, 0] -= 4 * search.COSINE_TOLERANCE
    with pytest.raises(AssertionError, match="differ"):
        search.check_agreement(nudged, queries, {"a": right, "b": swapped})


def test_nine_million_search_opens_int8_alone(one_process, tmp_path):
    result = search.search_nine_million(SMALL, work=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert list(result.implementations) == ["xsap int8"]
    assert result.targets == []
    assert "3,000 vectors × 24 components, clustered, synthetic with seed 0, int8 alone: opened in" in search.to_text(
        result
    )


def figures(batch, single, size, recall=1.0):
    return SearchFigures(
        details={},
        open_seconds=0.1,
        first_seconds=single,
        single_seconds=[single],
        single_median=single,
        batch_seconds=batch,
        extrapolated=False,
        cores_busy=1.0,
        bytes=int(size),
        process_bytes=int(size) + 1,
        recall=recall,
    )


def test_targets_of_a_million_vectors():
    found = {
        FULL_SORT: figures(200, 0.2, 3e9),
        FAISS: figures(8, 0.1, 3e9),
        "xsap float32": figures(4, 0.05, 3e9),
        "xsap float16": figures(4, 0.059, 2e9),
        "xsap int8": figures(9, 0.05, 1.6e9),
        HNSW: figures(1, 0.002, 1e9, 0.98),
    }
    targets = search.targets_of(search.MILLION, found)
    assert {each.what: each.met for each in targets} == {
        "speed-up over product and full sort, float16": True,
        "one mention, exact, float16, ms (median)": True,
        "speed-up over faiss IndexFlatIP, xsap float16": True,
        "speed-up over faiss IndexFlatIP, xsap int8": False,
        "memory relative to faiss IndexFlatIP, xsap int8": False,
        "one mention, HNSW, ms (median)": True,
        "recall, HNSW": False,
    }
    assert str(targets[0]) == "met: speed-up over product and full sort, float16 50, target at least 40"
    assert str(targets[4]) == "MISSED: memory relative to faiss IndexFlatIP, xsap int8 0.533, target at most 0.5"
    assert search.targets_of(replace(search.MILLION, dimension=767), found) == []


@pytest.mark.parametrize(
    ("full_sort", "ours", "met"), [(1800, 90, [True, True]), (1799, 90, [False, True]), (1900, 91, [True, False])]
)
def test_targets_of_an_evaluation(full_sort, ours, met):
    found = {FULL_SORT: figures(full_sort, 0.1, 1e9), "xsap float32": figures(ours, 0.1, 1e9)}
    targets = search.targets_of(search.EVALUATION, found)
    assert [each.met for each in targets] == met
    assert [(each.limit, each.at_most) for each in targets] == [(20, False), (90, True)]
    assert (search.EVALUATION.names, search.EVALUATION.mentions) == (400_000, 10_000)
    assert (search.EVALUATION.dimension, search.EVALUATION.top_k) == (768, 64)


def test_targets_of_nine_million_vectors():
    found = {"xsap int8": replace(figures(None, 0.9, 8e9), open_seconds=2.5)}
    targets = search.targets_of(search.NINE_MILLION, found)
    assert [(each.limit, each.at_most, each.met) for each in targets] == [
        (2, True, False),
        (9, True, True),
        (1, True, True),
    ]
    assert search.targets_of(replace(search.NINE_MILLION, names=8_999_999), found) == []


def run(*words):
    with pytest.raises(SystemExit) as caught:
        main(["speed", "search", *map(str, words)])
    return caught.value.code


SIZE = ["--names", SMALL.names, "--dimension", SMALL.dimension, "--mentions", SMALL.mentions]


def test_search_command_compares_and_judges(one_process, tmp_path, capsys, monkeypatch):
    words = [*SIZE, "--work", tmp_path, "--json", tmp_path / "r.json", "--plot", tmp_path / "r.png"]
    assert run(*words) == 0
    assert "| xsap int8" in capsys.readouterr().out
    result = json.loads((tmp_path / "r.json").read_text())
    assert (result["size"]["mentions"], result["size"]["top_k"], result["seed"]) == (60, 10, 0)
    assert result["targets"] == []
    assert {"python", "xsap", "torch", "numpy"} <= set(result["machine"]["versions"])
    assert ("faiss" in result["machine"]["versions"]) == (FAISS in result["implementations"])
    assert (tmp_path / "r.png").read_bytes()[:8] == PNG
    monkeypatch.setattr(search, "targets_of", lambda *_: [harness.target("a thing", 1, 2)])
    assert run(*words) == 3
    assert "MISSED: a thing 1, target at least 2" in capsys.readouterr().out


def test_search_command_has_the_sizes_of_an_evaluation(one_process, tmp_path, capsys, monkeypatch):
    sizes = []
    compare = search.compare_search

    def compare_small(size, **options):
        sizes.append((size, options["sorted_queries"]))
        return compare(replace(size, names=500, mentions=60, dimension=24), **options)

    monkeypatch.setattr(search, "compare_search", compare_small)
    assert run("--evaluation", "--sorted-queries", 4, "--work", tmp_path) == 0
    assert sizes == [(search.EVALUATION, 4)]
    printed = capsys.readouterr().out
    assert "recall@64" in printed
    assert "uniform" in printed
    assert "measured on 4, and scaled to all" in printed
    assert run("--evaluation", "--top-k", 5, "--distribution", "clustered", "--work", tmp_path) == 0
    assert sizes[1] == (replace(search.EVALUATION, top_k=5, distribution="clustered"), 10)


def test_search_command_with_nine_million(one_process, tmp_path, capsys):
    words = [*SIZE, "--nine-million", "--work", tmp_path, "--json", tmp_path / "r.json", "--plot", tmp_path / "r.png"]
    assert run(*words) == 0
    assert "3,000 vectors × 24 components, clustered, synthetic with seed 0, int8 alone" in capsys.readouterr().out
    found = json.loads((tmp_path / "r.json").read_text())["implementations"]
    assert found["xsap int8"]["single_median"] > 0
    assert (tmp_path / "r.png").read_bytes()[:8] == PNG


def test_search_command_on_a_gpu_compares_device_copies(tmp_path, capsys, monkeypatch):
    device, calls = torch.device("cuda"), []
    result = search.compare_device_search(ON_DEVICE, vector_dtype="int8", device=CPU, work=None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(search, "compare_device_search", lambda size, **given: calls.append((size, given)) or result)
    assert run("--device", "cuda", "--plot", tmp_path / "r.png", "--work", tmp_path) == 0
    assert run("--device", "cuda", "--nine-million") == 0
    million, nine_million = (replace(size, mentions=1024) for size in (search.MILLION, search.NINE_MILLION))
    assert calls == [
        (million, {"vector_dtype": "float16", "device": device, "work": tmp_path}),
        (nine_million, {"vector_dtype": "int8", "device": device, "work": None}),
    ]
    assert capsys.readouterr().out == 2 * (search.device_to_text(result) + "\n")
    assert (tmp_path / "r.png").read_bytes()[:8] == PNG
    assert run("--device", "cuda", "--ann") == 2
    assert "--ann needs --device cpu" in capsys.readouterr().err


def test_search_command_refuses_wrong_use(tmp_path, capsys, monkeypatch):
    assert run("--plot", tmp_path / "r.pdf") == 2
    assert "ends in .png or .svg" in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run("--device", "cuda") == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: --device cuda needs a GPU and a torch built for it, found none; use --device cpu"
    ]
    monkeypatch.setattr("benchmarks.__main__.find_spec", lambda name: None)
    assert run("--ann") == 2
    assert "pip install 'xsap[ann]'" in capsys.readouterr().err


@pytest.mark.parametrize("vector_dtype", ["float16", "int8"])
def test_device_search_is_exact_for_what_is_stored(vector_dtype, tmp_path, monkeypatch):
    asked = []

    def watched(vectors, queries, k, *, device_copy=None):
        asked.append((len(queries), device_copy is not None))
        return search_vectors(vectors, queries, k, device_copy=device_copy)

    monkeypatch.setattr(exact_search, "search_vectors", watched)
    result = search.compare_device_search(ON_DEVICE, vector_dtype=vector_dtype, device=CPU, work=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert asked[:2] == [(10, True), (10, False)]
    assert asked[2:] == [*6 * [(32, True)], *(SINGLE_QUERIES + 1) * [(1, True)]]
    assert list(result.implementations) == [FULL_SORT, search.OURS_ON_DEVICE]
    assert result.implementations[search.OURS_ON_DEVICE].recall == 1
    assert 0.7 < result.implementations[FULL_SORT].recall <= 1  # it ranks by 16 bits
    assert result.device_bytes == 2000 * 24 * 2
    assert (result.size, result.vector_dtype, result.seed) == (ON_DEVICE, vector_dtype, 0)
    search.plot_device(result, tmp_path / "r.png")
    assert (tmp_path / "r.png").read_bytes()[:8] == PNG
    harness.write_json(result, tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["speedup"] == result.speedup


def test_device_figures_follow_from_the_clock(tmp_path, monkeypatch):
    seconds = {
        "batch": iter([99, 2, 4, 8, 1, 16]),
        "one": iter([99, *(SINGLE_QUERIES // 2) * [0.1, 0.3]]),
        "full_sort": iter(5 * [0.5, 1.5]),
    }

    def timed(function, argument, device):
        if not isinstance(argument, np.ndarray):
            return 7, function(argument)  # the upload
        kind = "batch" if len(argument) == 32 else "full_sort" if function.__name__ == "full_sort" else "one"
        return next(seconds[kind]), function(argument)

    monkeypatch.setattr(search, "timed", timed)
    rates = iter([[0.5], [1.5]])
    monkeypatch.setattr(harness, "product_seconds", lambda *_: next(rates))
    result = search.compare_device_search(ON_DEVICE, vector_dtype="int8", device=CPU, work=tmp_path)
    theirs, ours = result.implementations.values()
    assert ours.mentions_per_second == 32 / 4  # without the first batch
    assert theirs.mentions_per_second == 1
    assert result.speedup == 8
    assert result.upload_seconds == 7
    assert (len(ours.single_seconds), max(ours.single_seconds)) == (SINGLE_QUERIES, 0.3)
    rate = 8192 * 2 * 24 * 4 * 24 / 1
    assert result.product_flops_per_second == rate
    assert result.peak_fraction == pytest.approx(2000 * 24 * 2 * 8 / rate)
    text = search.device_to_text(result)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert rows[2][:5] == [FULL_SORT, "1.0", "1.0", "1,000.0", "1,500.0"]
    assert rows[3] == [search.OURS_ON_DEVICE, "8.0", "8.0", "200.0", "300.0", "1.0000"]
    assert "batches of 32 mentions, exact for what is stored" in text


def test_device_search_fails_if_the_device_changes_the_rows(tmp_path, monkeypatch):
    def wrong(vectors, queries, k, *, device_copy=None):
        scores, rows = search_vectors(vectors, queries, k, device_copy=device_copy)
        return scores, rows if device_copy is None else rows[:, ::-1]

    monkeypatch.setattr(exact_search, "search_vectors", wrong)
    with pytest.raises(AssertionError, match="other rows than without"):
        search.compare_device_search(ON_DEVICE, vector_dtype="int8", device=CPU, work=tmp_path)
