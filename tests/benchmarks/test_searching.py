"""The race of searching: its made-up vectors, its sides against brute force, its figures and verdicts."""

import functools
import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.speed import harness as racing
from benchmarks.speed import search as searching
from benchmarks.speed.search import (
    APPROXIMATE,
    FAISS,
    PLAIN,
    SINGLES,
    compare_speed,
    in_a_process,
    open_side,
    race_nine_million,
    run_side,
    synthetic_vectors,
    to_text,
    write_sets,
)

N, D = 3000, 24


def vectors(n=N, d=D, seed=0):
    return np.concatenate(list(synthetic_vectors(n, d, seed)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    write_sets(folder, N, D, 60, ("float32", "float16", "int8"), 0)
    return folder


@pytest.fixture
def one_process(monkeypatch):
    """Sides run in this process: a process of its own each takes seconds to start."""

    def run(job, *words):
        assert job == "run"
        return json.dumps(run_side(words[0], searching.Path(words[1]), together="together" in words))

    monkeypatch.setattr(searching, "in_a_process", run)


def nearest(found, k=10):
    array, queries = vectors(), np.load(found / "queries.npy")
    return np.argsort(-(queries.astype(np.float64) @ array.astype(np.float64).T), axis=1, kind="stable")[:, :k]


def test_vectors_are_unit_and_the_same_again():
    assert vectors().shape == (N, D)
    assert vectors().dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors(), axis=1), 1, atol=1e-6)
    assert vectors().tobytes() == vectors().tobytes()
    assert vectors(seed=1).tobytes() != vectors().tobytes()
    assert [len(block) for block in synthetic_vectors(70_001, 3, 0)] == [65_536, 4465]


def test_vectors_lie_as_those_of_names():
    array = vectors(20_000, 768)
    cosines = array[:400] @ array.T
    siblings = np.arange(400)[:, None] // 4 * 4 + np.arange(4)
    own = np.take_along_axis(cosines, siblings, 1)
    assert 0.65 < np.median(own[own < 0.999]) < 0.75
    ranked = -np.sort(-cosines, axis=1)
    assert 0.5 < np.median(ranked[:, 10]) < 0.62
    assert abs(np.median(cosines)) < 0.1
    spread = np.linalg.eigvalsh(np.cov(array[::4].T))
    assert 40 < spread.sum() ** 2 / (spread**2).sum() < 90


def test_queries_are_near_their_rows(folder):
    cosines = (np.load(folder / "queries.npy") @ vectors().T).max(1)
    assert len(cosines) == 60
    assert 0.8 < np.median(cosines) < 0.92


@pytest.mark.parametrize("side", [PLAIN, FAISS, "xsap float32", "xsap float16", "xsap int8"])
def test_each_side_finds_what_brute_force_finds(folder, side):
    if side == FAISS:
        pytest.importorskip("faiss")
    rows = open_side(side, folder)[0](np.load(folder / "queries.npy"))
    assert rows.shape == (60, 10)
    shared = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows.tolist(), nearest(folder).tolist(), strict=True)])
    assert shared == 1 if side in (PLAIN, FAISS, "xsap float32") else shared > 0.95


def test_a_side_in_a_process_of_its_own(folder):
    result = json.loads(in_a_process("run", "xsap float32", str(folder), "together"))
    assert result["facts"] == {"storage": "float32", "count": N, "dimension": D, "int8_error": 0}
    assert len(result["single_seconds"]) == SINGLES
    assert result["batch_seconds"] > 0
    assert 0 < result["bytes"] < result["process_bytes"]
    np.testing.assert_array_equal(np.load(folder / "xsap float32.npy"), nearest(folder))


def test_what_is_multiplied_says_so(folder):
    result = run_side(PLAIN, folder, together=True)
    assert result["extrapolated"]
    assert result["batch_seconds"] == pytest.approx(60 * np.mean(result["single_seconds"]))
    assert not run_side("xsap int8", folder, together=True)["extrapolated"]
    assert "batch_seconds" not in run_side("xsap int8", folder, together=False)


def test_the_race(one_process, tmp_path):
    result = compare_speed(names=N, dimension=D, mentions=60, approximate=False, place=tmp_path)
    assert list(tmp_path.iterdir()) == []
    expected = [PLAIN, *([FAISS] if find_spec("faiss") else []), "xsap float32", "xsap float16", "xsap int8"]
    assert list(result["sides"]) == expected
    assert all(result["sides"][side]["recall@10"] == 1 for side in expected[:-2])
    assert result["bars"] == []  # at another size nothing is promised
    table = to_text(result)
    assert all(f"| {side}" in table for side in expected)
    assert "(extrapolated)" in table
    json.dumps(result)


def test_nine_million_in_small(one_process, tmp_path, monkeypatch):
    result = race_nine_million(names=N, dimension=D, place=tmp_path)
    assert result["bars"] == []
    assert "3,000 × 24, int8 alone: opened in" in to_text(result)
    monkeypatch.setattr(searching, "NINE_MILLION", N)
    assert race_nine_million(names=N, dimension=D, place=tmp_path)["bars"] == []  # so few components are no feat
    monkeypatch.setattr(searching, "FULL", searching.FULL | {"dimension": D})
    result = race_nine_million(names=N, dimension=D, place=tmp_path)
    json.dumps(result)
    assert "numpy" in result["versions"]
    assert [bar["bar"] for bar in result["bars"]] == [2, 9, 1]
    assert all(bar["met"] == (bar["found"] <= bar["bar"]) for bar in result["bars"])


def figures(batch, single, size, recall=1.0):
    return {"batch_seconds": batch, "single_p50": single, "bytes": size, "recall@10": recall}


def test_verdicts():
    sides = {
        PLAIN: figures(200, 0.2, 3e9),
        FAISS: figures(8, 0.1, 3e9),
        "xsap float32": figures(4, 0.05, 3e9),
        "xsap float16": figures(4, 0.059, 2e9),
        "xsap int8": figures(9, 0.05, 1.6e9),
        APPROXIMATE: figures(1, 0.002, 1e9, 0.98),
    }
    met = {bar["what"]: bar["met"] for bar in searching._bars(sides)}
    assert met == {
        "times as fast as product and full sort, float16": True,
        "one mention, exact, float16, ms (p50)": True,
        "times as fast as faiss IndexFlatIP, xsap float16": True,
        "times as fast as faiss IndexFlatIP, xsap int8": False,
        "of faiss IndexFlatIP's memory, xsap int8": False,
        "one mention, approximate, ms (p50)": True,
        "recall@10, approximate": False,
    }
    lines = racing.verdicts(searching._bars(sides))
    assert lines[0] == "met: times as fast as product and full sort, float16 50, bar at least 40"
    assert lines[4] == "MISSED: of faiss IndexFlatIP's memory, xsap int8 0.533, bar at most 0.5"


def run(*words):
    with pytest.raises(SystemExit) as caught:
        main(["speed", "search", *map(str, words)])
    return caught.value.code


def test_the_command(one_process, tmp_path, capsys, monkeypatch):
    words = [
        "--names",
        N,
        "--dimension",
        D,
        "--mentions",
        60,
        "--in",
        tmp_path,
        "--json",
        tmp_path / "r.json",
        "--plot",
        tmp_path / "r.png",
    ]
    assert run(*words) == 0
    assert "| xsap int8" in capsys.readouterr().out
    result = json.loads((tmp_path / "r.json").read_text())
    assert (result["mentions"], result["seed"], result["bars"]) == (60, 0, [])
    assert {"python", "xsap", "torch", "numpy"} <= set(result["versions"])
    assert ("faiss" in result["versions"]) == (FAISS in result["sides"])
    assert (tmp_path / "r.png").read_bytes()[:4] == b"\x89PNG"
    monkeypatch.setattr(searching, "FULL", {"names": N, "dimension": D, "mentions": 60})
    monkeypatch.setattr(searching, "_bars", lambda sides: [racing.bar("a thing", 1, 2)])
    assert run(*words) == 3
    assert "MISSED: a thing 1, bar at least 2" in capsys.readouterr().out


def test_nine_million_by_the_command(one_process, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(searching, "race_nine_million", functools.partial(race_nine_million, names=N))
    words = [
        "--nine-million",
        "--dimension",
        D,
        "--in",
        tmp_path,
        "--json",
        tmp_path / "r.json",
        "--plot",
        tmp_path / "r.png",
    ]
    assert run(*words) == 0
    assert "3,000 × 24, int8 alone" in capsys.readouterr().out
    assert json.loads((tmp_path / "r.json").read_text())["side"]["single_p50"] > 0
    assert (tmp_path / "r.png").read_bytes()[:4] == b"\x89PNG"


def test_a_gpu_has_a_race_of_its_own(tmp_path, capsys, monkeypatch):
    there, calls = torch.device("cuda"), []
    monkeypatch.setattr(searching, "device_of", lambda name: there)
    monkeypatch.setattr(searching, "time_device_search", lambda **given: calls.append(given) or {"bars": []})
    monkeypatch.setattr(searching, "device_search_to_text", lambda result: "told")
    monkeypatch.setattr(searching.resident, "plot", lambda result, path: path.write_bytes(b"drawn"))
    assert run("--device", "cuda", "--plot", tmp_path / "r.png", "--in", tmp_path) == 0
    assert run("--device", "cuda", "--nine-million") == 0
    shared = {"dimension": 768, "device": there}
    assert calls == [
        {"names": 1_000_000, "storage": "float16", "place": tmp_path, **shared},
        {"names": 9_000_000, "storage": "int8", "place": None, **shared},
    ]
    assert capsys.readouterr().out == "told\ntold\n"
    assert (tmp_path / "r.png").read_bytes() == b"drawn"
    assert run("--device", "cuda", "--ann") == 2
    assert "--ann races on a CPU alone" in capsys.readouterr().err


def test_wrong_use(tmp_path, capsys, monkeypatch):
    assert run("--plot", tmp_path / "r.pdf") == 2
    assert "ends in .png" in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run("--device", "cuda") == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: --device cuda needs a GPU and a torch built for it, found none; take --device cpu"
    ]
    monkeypatch.setattr(searching, "find_spec", lambda name: None)
    assert run("--ann") == 2
    assert "pip install 'xsap[ann]'" in capsys.readouterr().err
