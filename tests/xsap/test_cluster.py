"""A Ray cluster of two nodes gives the same bytes as one process, also when processes or nodes die.

`-m slow` starts the cluster; other tests run the workers in this process, with a stand-in for Ray.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.fixtures.commands import ROOT
from xsap import cluster
from xsap.cli import app
from xsap.cluster import (
    DatasetEncoder,
    DatasetLinker,
    EncodeWorker,
    LinkWorker,
    RayLinkers,
    WorkerSpec,
    connect,
    index_location,
    short_errors,
    worker_spec,
)
from xsap.encoding.encoder import Encoder
from xsap.errors import ArtifactError, ConfigError
from xsap.linking.build import build_index, encode_group
from xsap.linking.cross_encoder import CrossEncoder, with_markers
from xsap.linking.cross_inputs import InputWindows
from xsap.linking.encoder_spec import EncoderSpec
from xsap.linking.index import Index
from xsap.linking.linker import Linker
from xsap.linking.rerank_choice import retriever_of
from xsap.linking.results import Result
from xsap.tabular.link_file import Query
from xsap.tabular.writers import Answer
from xsap.terminal import run

ALONE = WorkerSpec(1, 0, 1)


@pytest.fixture(scope="module")
def encoder(tiny_folder):
    return Encoder.from_pretrained(tiny_folder, device="cpu")


@pytest.fixture(scope="module")
def index(tmp_path_factory, sample_folder, tiny_folder, encoder):
    folder = tmp_path_factory.mktemp("index") / "index"
    build_index(sample_folder, encoder, folder, model_path=tiny_folder, languages=None)
    return folder


def save_reranker(index, folder, head=0.0):
    opened = Index.load(index)
    model = CrossEncoder(with_markers(Encoder.from_pretrained(opened.model.path, device="cpu")), InputWindows(12, 8))
    torch.nn.init.constant_(model.head.weight, head)
    model.save(folder, retriever=retriever_of(opened), metadata={})


# What a worker does


def test_encode_worker_matches_one_process(tmp_path, sample_names, tiny_folder, encoder):
    with (
        pa.OSFile(str(tmp_path / "names.arrow"), "wb") as stream,
        pa.ipc.new_file(stream, pa.schema({"name": pa.string()})) as writer,
    ):
        for start in range(0, 90, 30):
            writer.write_table(pa.table({"name": sample_names[start : start + 30]}))
    rows = [70, 3, 41, 55]
    work = EncodeWorker(ALONE, str(tiny_folder), EncoderSpec.from_encoder(encoder), tmp_path / "names.arrow")
    done = work(pa.table({"rows": pa.array([rows], pa.list_(pa.int32()))}))
    assert done["row"].to_pylist() == rows
    expected = encode_group([sample_names[row] for row in rows], encoder)
    np.testing.assert_array_equal(np.array(done["vector"].to_pylist(), np.float32), expected)


def test_worker_rejects_another_model_index_or_version_on_its_node(tmp_path, tiny_folder, encoder, index, monkeypatch):
    spec, group = EncoderSpec.from_encoder(encoder), pa.table({"rows": [[0]]})
    with pytest.raises(
        ConfigError, match=r"names\.arrow is missing on node .*; choose a folder for --out that all nodes have"
    ):
        EncodeWorker(ALONE, str(tiny_folder), spec, tmp_path / "names.arrow")(group)
    with pytest.raises(
        ArtifactError, match=r"model on node .* is another model \(.{8}…\) than here \(ffffffff…\); use"
    ):
        EncodeWorker(ALONE, str(tiny_folder), replace(spec, content_hash="f" * 64), tmp_path / "names.arrow")(group)
    with pytest.raises(
        ArtifactError, match=r"index on node .* is another index \(.{8}…\) than here \(ffffffff…\); use"
    ):
        LinkWorker(ALONE, index_location(index, {})._replace(content_hash="f" * 64)).answers_to(
            [Query("fever")], 1, False, {}
        )
    with pytest.raises(
        ConfigError, match=r"node .* has xsap 0.*, found 9\.9 here; install the same version everywhere$"
    ):
        LinkWorker(ALONE._replace(version="9.9"), index_location(index, {})).answers_to([Query("fever")], 1, False, {})
    with pytest.raises(ArtifactError, match="expected an index folder, found nothing there"):
        index_location(tmp_path / "gone", {})


def test_workers_get_absolute_paths_of_model_and_reranker(index, tmp_path, monkeypatch):
    save_reranker(index, tmp_path / "reranker")
    monkeypatch.chdir(tmp_path)
    for given, expected in (("reranker", str(tmp_path / "reranker")), ("late", "late"), ("http://x/y", "http://x/y")):
        location = index_location(index, {"rerank": given, "model": None})
        assert location.options == {"rerank": expected, "model": None}
        assert (len(location.reranker or "") == 64) == (given == "reranker")
    with pytest.raises(ArtifactError, match="gone: expected a reranker folder, found nothing there"):
        index_location(index, {"rerank": "gone"})


def test_worker_rejects_another_reranker_on_its_node(index, tmp_path):
    save_reranker(index, tmp_path / "reranker")
    location = index_location(index, {"rerank": tmp_path / "reranker"})
    assert LinkWorker(ALONE, location).answers_to([Query("fever")], 1, False, {})[0].candidates
    (tmp_path / "reranker").rename(tmp_path / "here")
    save_reranker(index, tmp_path / "reranker", head=1.0)  # what the node has
    with pytest.raises(
        ArtifactError, match=r"is another re-ranker \(.{8}…\) than here \(.{8}…\); use the same re-ranker on"
    ):
        LinkWorker(ALONE, location).answers_to([Query("fever")], 1, False, {})


def test_link_worker_matches_one_process(index, sample_names):
    mentions = [*sample_names[:20], "", "no such thing"]
    expected = list(map(Answer.from_result, Linker.load(index, device="cpu").link(mentions, 3)))
    assert (
        LinkWorker(ALONE, index_location(index, {})).answers_to([Query(mention) for mention in mentions], 3, False, {})
        == expected
    )


@pytest.mark.parametrize("wide", [False, True])
def test_dataset_workers_match_one_process(index, sample_names, tiny_folder, encoder, wide):
    batch = pa.table(
        {
            "id": range(4),
            "term": [sample_names[0], "", sample_names[5], sample_names[0]],
            "of": ["en", None, "de", "en"],
        }
    )
    options = {"filter": None, "min_confidence": None, "min_precision": None}
    work = DatasetLinker(ALONE, index_location(index, {}), "term", "of", 2, wide, options)
    done = work(batch).to_pylist()
    results = Linker.load(index, device="cpu").link(batch["term"].to_pylist(), 2, languages=batch["of"].to_pylist())
    if wide:
        assert [row["id"] for row in done] == [0, 1, 2, 3]
        assert [row["concept_id_2"] for row in done] == [
            result.candidates[1].concept_id if result.candidates else None for result in results
        ]
    else:
        expected = [
            (i, rank) for i, result in enumerate(results) for rank in (range(1, len(result.candidates) + 1) or [None])
        ]
        assert [(row["id"], row["rank"]) for row in done] == expected
        assert [row["concept_id"] for row in done if row["rank"] == 1] == [
            r.candidates[0].concept_id for r in results if r.candidates
        ]
    assert {row["reason"] for row in done} == {None, "the mention is empty"}
    assert work(batch.slice(0, 0)).schema == work(batch).schema
    vectors = DatasetEncoder(ALONE, str(tiny_folder), "term", "vector", {})(batch)
    assert vectors.column_names == ["id", "term", "of", "vector"]
    found = np.array(vectors["vector"].to_pylist(), np.float32)
    np.testing.assert_allclose(found, encoder.encode(batch["term"].to_pylist()), atol=1e-6)


# What the cluster has


@pytest.mark.parametrize(
    ("nodes", "share"),
    [
        ([{"CPU": 1}, {"CPU": 1}], (1, 0, 2)),
        ([{"CPU": 16}, {"CPU": 6}], (4, 0, 5)),
        ([{"CPU": 2}, {"CPU": 16}, {"memory": 1}], (2, 0, 9)),
        ([{"CPU": 16, "GPU": 2}, {"CPU": 64}, {"CPU": 8, "GPU": 1}], (1, 1, 3)),
        ([{"CPU": 0}, {"CPU": 3.0}], (3, 0, 1)),
    ],
)
def test_workers_are_one_for_each_gpu_or_few_cpus(nodes, share):
    gone = {"Resources": {"CPU": 1, "GPU": 4}, "Alive": False}
    found = worker_spec(SimpleNamespace(nodes=lambda: [gone, *({"Resources": node, "Alive": True} for node in nodes)]))
    assert found[:3] == share
    assert found.resources() == ({"num_gpus": 1} if share[1] else {"num_cpus": share[0]})


def test_cluster_without_cpus_and_gpus_is_rejected():
    with pytest.raises(ConfigError, match="has no CPU and no GPU; add a node"):
        worker_spec(SimpleNamespace(nodes=lambda: [{"Resources": {"CPU": 0}, "Alive": True}]))


def test_commands_without_ray_say_how_to_install_it(monkeypatch, capsys, tmp_path, tiny_folder, sample_folder, index):
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "x.csv").write_text("term\nfever\n")
    for words in (
        ["index", tiny_folder, sample_folder, "--out", tmp_path / "index", "--ray", "local"],
        ["link", "--index", index, "--file", tmp_path / "x.csv", "--ray", "auto"],
    ):
        with pytest.raises(SystemExit) as end:
            run(app, "xsap", [str(word) for word in words])
        shown = capsys.readouterr()
        assert (end.value.code, shown.out) == (2, "")
        assert shown.err == "error: a cluster needs Ray; install it here and on every node: pip install 'xsap[ray]'\n"
    assert not (tmp_path / "index").exists()


def test_invalid_addresses_and_terms_without_a_file_are_rejected(capsys, index):
    for address in ("ray://x:1", "x", ":1", "x:y", "x:1:", ""):
        with pytest.raises(
            ConfigError,
            match=f"expected auto, local or host:port of a Ray cluster, found {address}; run the command on",
        ):
            connect(address)
    with pytest.raises(SystemExit):
        run(app, "xsap", ["link", "--index", str(index), "--ray", "local", "fever"])
    assert capsys.readouterr().err == "error: --ray 'local' needs --file, found none; remove it or add --file\n"


# What goes wrong on the way


class Errors:
    """Errors of a stand-in for Ray, with the same base classes as Ray's."""

    class RayError(Exception): ...

    class RayTaskError(RayError):
        def __init__(self, cause):
            super().__init__("many\nlines")
            self.cause = cause

    class RayActorError(RayError): ...

    class NodeDiedError(RayError): ...


def test_errors_of_workers_are_one_line():
    ray = SimpleNamespace(exceptions=Errors)

    def raised(error):
        with pytest.raises(Exception) as caught, short_errors(ray):
            raise error
        return type(caught.value), str(caught.value)

    own = ArtifactError("the index is damaged")
    assert raised(Errors.RayTaskError(own)) == (ArtifactError, "the index is damaged")
    deep = RuntimeError("outer")
    deep.__cause__ = Errors.RayTaskError(own)
    assert raised(deep) == (ArtifactError, "the index is damaged")
    assert raised(own) == (ArtifactError, "the index is damaged")
    assert raised(Errors.NodeDiedError("node 7 died\nand more")) == (
        OSError,
        "the Ray cluster failed: node 7 died; run the same command again to resume",
    )
    assert raised(Errors.RayActorError("dead"))[0] is Errors.RayActorError
    assert raised(Errors.RayTaskError(KeyError("a defect of ours")))[0] is Errors.RayTaskError


class FakeRay:
    """Actors that die at some calls. dies: whether, by the call's number and the actor's. absent: actors that never start."""

    exceptions = Errors

    def __init__(self, dies, absent=()):
        self.dies, self.absent, self.calls, self.made = dies, absent, [], 0

    def remote(self, _):
        return SimpleNamespace(options=self._options)

    def _options(self, **options):
        assert options == {"max_restarts": -1, "num_cpus": 1}
        return SimpleNamespace(remote=self._actor)

    def _actor(self, *_):
        number = self.made
        self.made += 1
        ready = SimpleNamespace(remote=lambda: number)
        return SimpleNamespace(ready=ready, answers_to=SimpleNamespace(remote=lambda keys, *_: (number, keys)))

    def wait(self, references, timeout):
        assert timeout == 0
        return [each for each in references if each not in self.absent], []

    def get(self, call):
        self.calls.append(call[0])
        if self.dies(len(self.calls), call[0]):
            raise Errors.RayActorError
        return [Answer.from_result(Result(mention, (), "none")) for mention, _ in call[1]]


def linkers(monkeypatch, index, ray, count=2):
    monkeypatch.setattr(cluster, "find_ray", lambda: ray)
    monkeypatch.setattr(cluster, "sleep", lambda _: None)
    return RayLinkers(WorkerSpec(1, 0, count), index)


def test_chunk_of_a_dead_worker_goes_to_another(monkeypatch, index):
    ray = FakeRay(lambda call, actor: actor == 0)
    found = linkers(monkeypatch, index, ray)
    for _ in range(3):
        assert len(found.answers_to([("a", None), ("b", None)], 1, by_language=False, options={})) == 2
    assert ray.calls == [0, 1, 0, 1, 0, 1]
    assert found.answers_to([], 1, by_language=False, options={}) == []


def test_worker_that_never_starts_gets_no_chunk(monkeypatch, index):
    ray = FakeRay(lambda call, actor: False, absent=[1])
    found = linkers(monkeypatch, index, ray, 3)
    for _ in range(5):
        found.answers_to([("a", None)], 1, by_language=False, options={})
    assert set(ray.calls) == {0, 2}


def test_chunk_fails_after_twenty_dead_workers(monkeypatch, index):
    ray = FakeRay(lambda call, actor: True)
    with pytest.raises(OSError, match="died 20 times with the same mentions; run the same command again to resume"):
        linkers(monkeypatch, index, ray).answers_to([("a", None)], 1, by_language=False, options={})
    assert len(ray.calls) == 20


# Two nodes

CPUS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # as a worker of one CPU has: sums are rounded alike
DRIVER = """
import os, signal, sys, time
from pathlib import Path
from xsap.cli import app
from xsap.linking.build import BuildSizes, build_index
from xsap.linking.shards import ShardFolder
from xsap.tabular import link_file
from xsap.terminal import run
written = 0
def then(function, event, what):
    def wrapped(*arguments, **options):
        global written
        result = function(*arguments, **options)
        written += 1
        if written == int(event):
            what()
        return result
    return wrapped
def kill_worker():
    import psutil
    mine = psutil.Process(os.getppid()).children(recursive=True)
    titles = [(process, process.cmdline()) for process in mine if process.is_running() and process.status() != "zombie"]
    workers = [process for process, title in titles if title and title[0].startswith(("ray::MapWorker", "ray::_MapWorker", "ray::LinkWorker"))]
    assert workers, titles
    print("killed", len(workers[:1]), file=sys.stderr)
    workers[0].kill()
def touch():
    Path(os.environ["SIGN"]).touch()
    time.sleep(3)
what = {"driver": lambda: os.kill(os.getpid(), signal.SIGKILL), "worker": kill_worker, "sign": touch}[sys.argv[1]]
ShardFolder.write = then(ShardFolder.write, sys.argv[2], what)
link_file.write_part = then(link_file.write_part, sys.argv[2], what)
build_index.__kwdefaults__["sizes"] = BuildSizes(rows_per_shard=1024, names_per_group=256)
link_file.link_file.__kwdefaults__["chunk_rows"] = 512
run(app, "xsap", sys.argv[3:])
"""


def with_retries(add, attempts=5):
    """Add a node. On a busy machine it takes longer to start than the 30 seconds after which Ray gives up."""
    for attempt in range(1, attempts + 1):
        try:
            add()
            return
        except Exception as error:
            if attempt == attempts or "timed out during startup" not in str(error):
                raise


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    saved = dict(os.environ)
    os.environ |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "RAY_USAGE_STATS_ENABLED": "0", **CPUS}
    two = Cluster()
    for add in (partial(two.add_node, num_cpus=1, include_dashboard=False), partial(two.add_node, num_cpus=1)):
        with_retries(add)
    yield two
    two.shutdown()
    os.environ.clear()
    os.environ |= saved


def start(nodes, *words, event="driver", at=10**9, **environment):
    """The command line on the cluster. At the event's number of shards or chunks that are written something happens."""
    command = [sys.executable, "-c", DRIVER, event, at, *words, "--ray", nodes.address]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **environment}
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/", env=environment
    )


def end(process):
    out, err = process.communicate(timeout=240)
    lines = [
        line for line in err.splitlines(keepends=True) if " core_worker.cc:" not in line
    ]  # what Ray's C++ says can't be turned off
    return SimpleNamespace(code=process.returncode, out=out, err="".join(lines))


@pytest.fixture(scope="module")
def alone(nodes, tmp_path_factory, sample_folder, tiny_folder, sample_names):
    """The same commands without a cluster: the index, a file of mentions, and what is linked."""
    folder = tmp_path_factory.mktemp("alone")
    with (folder / "x.tsv").open("w") as stream:
        stream.write("id\tterm\n")
        for i, name in enumerate([*sample_names[::-1], *sample_names[::3], "", "no such thing"]):
            stream.write(f"{i}\t{name}\n")
    code = DRIVER.replace("sys.argv[3:]", "sys.argv[3:-2]")
    commands = [["index", tiny_folder, sample_folder, "--languages", "all", "--out", folder / "index"]]
    commands += [["link", "--index", folder / "index", "--file", folder / "x.tsv", "--out", folder / "y.csv"]]
    for words in commands:
        done = subprocess.run(
            [sys.executable, "-c", code, "driver", "999999", *map(str, words), "-", "-"],
            capture_output=True,
            text=True,
            env=os.environ,
            cwd="/",
        )
        assert done.returncode == 0, done.stderr
    return folder


def files_of(folder):
    return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def indexing(alone, tiny_folder, sample_folder):
    return ["index", tiny_folder, sample_folder, "--languages", "all", "--out"]


def linking(alone):
    return ["link", "--index", alone / "index", "--file", alone / "x.tsv", "--out"]


@pytest.mark.slow
def test_index_and_answers_equal_those_of_one_process(nodes, alone, tmp_path, tiny_folder, sample_folder):
    done = end(start(nodes, *indexing(alone, tiny_folder, sample_folder), tmp_path / "index"))
    assert (done.code, done.out) == (0, ""), done.err
    assert len(done.err.splitlines()) == 1, done.err  # ours; Ray is quiet
    assert files_of(tmp_path / "index") == files_of(alone / "index")
    done = end(start(nodes, *linking(alone), tmp_path / "y.csv"))
    assert (done.code, done.out) == (0, ""), done.err
    assert len(done.err.splitlines()) == 1, done.err
    assert (tmp_path / "y.csv").read_bytes() == (alone / "y.csv").read_bytes()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["index", "y.csv"]


@pytest.mark.slow
def test_killed_driver_resumes(nodes, alone, tmp_path, tiny_folder, sample_folder):
    words = [*indexing(alone, tiny_folder, sample_folder), tmp_path / "index"]
    assert end(start(nodes, *words, at=2)).code == -signal.SIGKILL
    there = {file.name: file.stat().st_mtime_ns for file in (tmp_path / ".index.part").glob("*.shard")}
    assert len(there) == 2
    done = end(start(nodes, *words))
    assert done.code == 0, done.err
    assert f"; resumed with {2 * 1024:,} encoded earlier" in done.err
    assert files_of(tmp_path / "index") == files_of(alone / "index")
    words = [*linking(alone), tmp_path / "y.csv"]
    assert end(start(nodes, *words, at=5)).code == -signal.SIGKILL
    assert len(list((tmp_path / ".y.csv.part").glob("*.gz"))) >= 5
    done = end(start(nodes, *words))
    assert done.code == 0, done.err
    assert "rows resumed from an interrupted run" in done.err
    assert (tmp_path / "y.csv").read_bytes() == (alone / "y.csv").read_bytes()


@pytest.mark.slow
def test_killed_worker_changes_nothing(nodes, alone, tmp_path, tiny_folder, sample_folder):
    done = end(start(nodes, *indexing(alone, tiny_folder, sample_folder), tmp_path / "index", event="worker", at=1))
    assert (done.code, "killed 1" in done.err) == (0, True), done.err
    assert files_of(tmp_path / "index") == files_of(alone / "index")
    done = end(start(nodes, *linking(alone), tmp_path / "y.csv", event="worker", at=3))
    assert (done.code, "killed 1" in done.err) == (0, True), done.err
    assert (tmp_path / "y.csv").read_bytes() == (alone / "y.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("what", ["index", "link"])
def test_lost_node_changes_nothing(nodes, alone, tmp_path, tiny_folder, sample_folder, what):
    words = indexing(alone, tiny_folder, sample_folder) if what == "index" else linking(alone)
    process = start(nodes, *words, tmp_path / "made", "--format", "csv", event="sign", at=2, SIGN=str(tmp_path / "sign")) if what == "link" else start(nodes, *words, tmp_path / "made", event="sign", at=1, SIGN=str(tmp_path / "sign"))  # fmt: skip
    while not (tmp_path / "sign").exists() and process.poll() is None:
        time.sleep(0.05)
    lost = next(iter(nodes.worker_nodes))
    nodes.remove_node(lost, allow_graceful=False)
    try:
        done = end(process)
    finally:
        with_retries(partial(nodes.add_node, num_cpus=1))
    assert done.code == 0, done.err
    if what == "index":
        assert files_of(tmp_path / "made") == files_of(alone / "index")
    else:
        assert (tmp_path / "made").read_bytes() == (alone / "y.csv").read_bytes()


@pytest.mark.slow
def test_user_error_on_a_worker_is_one_line(nodes, alone, tmp_path):
    done = end(start(nodes, *linking(alone), tmp_path / "y.csv", "--min-precision", "0.9"))
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: min_confidence and min_precision need a calibrated index")
    assert done.err.count("\n") == 1, done.err
    shutil.copytree(alone / "index", tmp_path / "index")
    table = tmp_path / "index" / "names.arrow"
    table.write_bytes(table.read_bytes()[:-1] + b"x")
    done = end(
        start(nodes, "link", "--index", tmp_path / "index", "--file", alone / "x.tsv", "--out", tmp_path / "y.csv")
    )
    assert done.code == 2
    assert "names.arrow: its hash is not the manifest's" in done.err
    assert done.err.count("\n") == 1, done.err
    done = end(start(SimpleNamespace(address="127.0.0.1:1"), *linking(alone), tmp_path / "y.csv"))
    assert done.code == 2
    assert done.err.startswith("error: can't connect to a Ray cluster at 127.0.0.1:1")
    assert done.err.count("\n") == 1, done.err


DATASETS = """
import json, sys
import pyarrow as pa, ray
from xsap.cluster import encode_dataset, link_dataset
address, index, model, source, out = sys.argv[1:]
ray.init(address, log_to_driver=False)
rows = ray.data.read_parquet(source)
link_dataset(rows, index, column="term", top_k=2).write_parquet(out + "/linked")
encode_dataset(rows, model, column="term").write_parquet(out + "/encoded")
"""


@pytest.mark.slow
def test_datasets_match_one_process(nodes, alone, tmp_path, tiny_folder, sample_names):
    (tmp_path / "terms").mkdir()
    for part in range(4):
        rows = sample_names[part * 20 : part * 20 + 20]
        pq.write_table(
            pa.table({"id": [f"{part}:{i}" for i in range(20)], "term": rows}), tmp_path / "terms" / f"{part}.parquet"
        )
    words = [nodes.address, alone / "index", tiny_folder, tmp_path / "terms", tmp_path]
    done = subprocess.run(
        [sys.executable, "-c", DATASETS, *map(str, words)], capture_output=True, text=True, env=os.environ, timeout=240
    )
    assert done.returncode == 0, done.stderr
    linked = pq.read_table(tmp_path / "linked").to_pylist()
    results = Linker.load(alone / "index", device="cpu").link(sample_names[:80], 2)
    expected = {
        (f"{i // 20}:{i % 20}", r): c.concept_id
        for i, result in enumerate(results)
        for r, c in enumerate(result.candidates, 1)
    }
    assert {(row["id"], row["rank"]): row["concept_id"] for row in linked} == expected
    encoded = {row["id"]: row["vector"] for row in pq.read_table(tmp_path / "encoded").to_pylist()}
    vectors = Encoder.from_pretrained(tiny_folder, device="cpu").encode(sample_names[:80])
    found = np.array([encoded[f"{i // 20}:{i % 20}"] for i in range(80)], np.float32)
    np.testing.assert_allclose(found, vectors, atol=1e-6)
