"""Building on disk: however it comes about (at once, killed and resumed, in parts, by several processes, from an old index) it is one index."""

import json
import platform
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from itertools import permutations
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.commands import ROOT
from tests.xsap.test_index import Ngrams, terminology
from xsap.cli import main
from xsap.errors import ArtifactError, ConfigError, DataError
from xsap.linking import build as memory_module
from xsap.linking import build as parts_module
from xsap.linking.build import (
    Plan,
    _find,
    build_index,
    check_memory,
    file_of,
    merge_shards,
    missing,
    open_shards,
    parse_shard,
    parse_size,
    read_shard,
    rows_per_shard,
    rss_bytes,
    trim_malloc,
    write_shard,
)
from xsap.linking.index import Index
from xsap.terms.terminology import Terminology
from xsap.text import TextPolicy, normalize

NAMES = [
    (f"C{i // 3:03}", "en" if i % 5 else "de", f"Name {i * i % 97} of {'x' * (i % 11)} {i % 40}") for i in range(150)
]
TOGETHER = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node")


class Counting(Ngrams):
    """Reads names by its policy, and remembers what it was asked for."""

    def __init__(self, **options):
        super().__init__(**options)
        self.asked = []

    def encode(self, names, *, progress=False):
        self.asked += names
        return super().encode([normalize(name, self.policy) for name in names])


SIZES = (
    ("xsap.linking.build._ROWS", 10),
    ("xsap.linking.build._AT_ONCE", 4),
    ("xsap.linking.build._FEWEST", 3),
    ("xsap.linking.index.WRITTEN", 5),
    ("xsap.linking.build.WRITTEN", 5),
    ("xsap.search.vectors.MIN_ROWS_WITH_CODES", 20),
    ("os.fsync", lambda _: None),  # a test survives no power failure
)


@pytest.fixture(scope="module", autouse=True)
def small():
    """Shards of 10 names, encoded 4 at a time, and int8 codes for any number of names: all that large indexes have."""
    with ExitStack() as stack:
        for target, value in SIZES:
            stack.enter_context(patch(target, value))
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A terminology's folder of 150 rows."""
    folder = tmp_path_factory.mktemp("source") / "terminology"
    terminology(*NAMES).save(folder)
    return folder


def assert_same(left, right):
    files = {file.name: file.read_bytes() for file in Path(left).iterdir()}
    assert files == {file.name: file.read_bytes() for file in Path(right).iterdir()}
    assert len(files) > 8


def part_folder(out):
    return out.parent / f".{out.name}.part"


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
@pytest.mark.parametrize("languages", [None, {"en"}])
def test_it_is_the_index_that_is_built_in_memory(source, tmp_path, vector_dtype, languages):
    encoder = Counting(policy=TextPolicy("lower", "NFC"))
    built = build_index(source, encoder, tmp_path / "disk", languages=languages, vector_dtype=vector_dtype)
    Index.build(Terminology.load(source), encoder, languages=languages, vector_dtype=vector_dtype).save(
        tmp_path / "memory"
    )
    assert_same(tmp_path / "disk", tmp_path / "memory")
    index = Index.load(tmp_path / "disk")
    assert (built.names, built.encoded, built.found, built.concepts) == (
        len(index.vectors),
        len(index.vectors),
        0,
        index.concepts.num_rows,
    )
    assert sorted(file.name for file in tmp_path.iterdir()) == ["disk", "memory"]


def test_within_a_shard_the_longest_come_last_and_none_twice(source, tmp_path):
    encoder = Counting()
    build_index(source, encoder, tmp_path / "index")
    names = Index.load(tmp_path / "index").names["name"].to_pylist()
    expected = list(encoder.asked[:3])  # those that show the dimension
    for start in range(0, len(names), 10):
        ordered = sorted(names[start : start + 10], key=len)
        for first in range(0, len(ordered), 4):
            batch = ordered[first : first + 4]
            expected += batch + batch[-1:] * (3 - len(batch))
    assert encoder.asked == expected


def test_a_build_that_was_killed_goes_on(source, tmp_path):
    """Killed by SIGKILL after some shards, one of which is then damaged: the other shards' names aren't encoded again."""
    script = f"""
import sys, time
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
import tests.xsap.test_building as t
for target, value in t.SIZES:
    t.patch(target, value).start()
class Slow(t.Counting):
    def encode(self, names, *, progress=False):
        time.sleep(0.05)
        return super().encode(names)
t.build_index({str(source)!r}, Slow(), {str(tmp_path / "killed")!r})
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    folder, deadline = part_folder(tmp_path / "killed"), time.monotonic() + 60
    while len(list(folder.glob("*.shard"))) < 4 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.stderr.read()
    process.stderr.close()
    there = sorted(folder.glob("*.shard"))
    assert 4 <= len(there) < 12
    assert not (tmp_path / "killed").exists()
    damaged = bytearray(there[1].read_bytes())
    damaged[100] ^= 4
    there[1].write_bytes(damaged)
    (folder / ".00007.shard.1.new").write_bytes(b"half")
    encoder = Counting()
    built = build_index(source, encoder, tmp_path / "killed")
    assert (built.found, built.encoded) == (10 * (len(there) - 1), built.names - 10 * (len(there) - 1))
    names = Index.load(tmp_path / "killed").names["name"].to_pylist()
    done = {name for file in there if file != there[1] for name in names[10 * int(file.stem) :][:10]}
    assert set(encoder.asked[3:]) == set(names) - done
    build_index(source, Counting(), tmp_path / "unbroken")
    assert_same(tmp_path / "killed", tmp_path / "unbroken")
    assert not folder.exists()


class StoppedError(Exception):
    pass


def stop_after(calls):
    class Stopping(Ngrams):
        left = calls

        def encode(self, names, *, progress=False):
            self.left -= 1
            if self.left < 0:
                raise StoppedError
            return super().encode(names)

    return Stopping()


@pytest.mark.parametrize(
    "other",
    [
        {"languages": {"de", "en"}},
        {"storage": "float16"},
        {"content": "c" * 64},
        {"policy": TextPolicy("lower", "NFC")},
        {"more": True},
    ],
)
def test_what_another_build_left_is_not_used(source, tmp_path, other):
    with pytest.raises(StoppedError):
        build_index(source, stop_after(9), tmp_path / "index")
    assert len(list(part_folder(tmp_path / "index").glob("*.shard"))) > 1
    if "more" in other:
        terminology(*NAMES, ("C0", "en", "one more")).save(tmp_path / "terminology")
        source = tmp_path / "terminology"
    encoder = Counting(**{key: value for key, value in other.items() if key in ("content", "policy")})
    options = {key: value for key, value in other.items() if key in ("languages", "storage")}
    built = build_index(source, encoder, tmp_path / "index", **options)
    assert (built.found, built.encoded) == (0, built.names)
    build_index(source, encoder, tmp_path / "fresh", **options)
    assert_same(tmp_path / "index", tmp_path / "fresh")


def test_the_bar_says_what_came_from_earlier(source, tmp_path, capsys):
    with pytest.raises(StoppedError):
        build_index(source, stop_after(9), tmp_path / "index")
    n = 10 * len(list(part_folder(tmp_path / "index").glob("*.shard")))
    build_index(source, Ngrams(), tmp_path / "index", progress=True)
    assert f"{n} from an earlier run" in capsys.readouterr().err
    build_index(source, Ngrams(), tmp_path / "new", progress=True, update=tmp_path / "index")
    assert "from the old index" in capsys.readouterr().err


PLAN = Plan("t" * 64, {"content": "m"}, ["en"], None, 25, 3, 10, "float32")


def test_a_shard_is_found_damaged_whatever_happened_to_it(tmp_path):
    open_shards(tmp_path / "part", PLAN)
    folder = tmp_path / "part"
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((25, 3)).astype(np.float32)
    for shard in range(3):
        write_shard(folder, PLAN, shard, vectors[PLAN.of(shard)])
        np.testing.assert_array_equal(read_shard(folder, PLAN, shard), vectors[PLAN.of(shard)])
    assert missing(folder, PLAN, range(3)) == []
    file = file_of(folder, 0)
    whole = file.read_bytes()
    for place in rng.integers(8 * len(whole), size=200).tolist():
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        file.write_bytes(damaged)
        assert read_shard(folder, PLAN, 0) is None
    for length in range(0, len(whole), 3):
        file.write_bytes(whole[:length])
        assert read_shard(folder, PLAN, 0) is None
    file.write_bytes(whole + b"\0")
    assert read_shard(folder, PLAN, 0) is None
    shutil.copy(file_of(folder, 1), file)  # as long, whole, but of other rows
    assert missing(folder, PLAN, range(3)) == [0]
    file.unlink()
    assert missing(folder, PLAN, range(3)) == [0]


@pytest.mark.parametrize(
    "change", [{"terminology": "u" * 64}, {"model": {}}, {"languages": None}, {"update": "o"}, {"storage": "int8"}]
)
def test_a_shard_of_another_plan_is_none(tmp_path, change):
    other = Plan(**(PLAN.metadata() | change))
    open_shards(tmp_path, PLAN)
    write_shard(tmp_path, PLAN, 2, np.zeros((5, 3), np.float32))
    assert read_shard(tmp_path, PLAN, 2) is not None
    assert read_shard(tmp_path, other, 2) is None
    open_shards(tmp_path, PLAN)
    assert file_of(tmp_path, 2).exists()
    open_shards(tmp_path, other)
    assert not file_of(tmp_path, 2).exists()


def test_vectors_that_are_not_finite_are_refused_at_once(source, tmp_path):
    class Broken(Counting):
        def encode(self, names, *, progress=False):
            return super().encode(names) * np.float32(np.nan)

    encoder = Broken()
    with pytest.raises(DataError, match="vectors must be finite"):
        build_index(source, encoder, tmp_path / "index")
    assert len(encoder.asked) < 20
    assert not (tmp_path / "index").exists()


def test_wrong_use_is_refused_before_anything_is_encoded(source, tmp_path):
    encoder = Counting()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    with pytest.raises(ArtifactError, match="exists already"):
        build_index(source, encoder, tmp_path / "there")
    with pytest.raises(ConfigError, match="never saved"):
        build_index(source, Counting(content_hash=None), tmp_path / "index")
    with pytest.raises(ConfigError, match="expected a shard as i/N"):
        build_index(source, encoder, tmp_path / "index", shard=(3, 2))
    with pytest.raises(ArtifactError, match="expected a terminology folder"):
        build_index(tmp_path, encoder, tmp_path / "index")
    with pytest.raises(DataError, match="expected a terminology with names in fi"):
        build_index(source, encoder, tmp_path / "index", languages={"fi"})
    assert len(encoder.asked) <= 6
    assert [file.name for file in tmp_path.iterdir()] == ["there"]


# In parts


@pytest.fixture(scope="module")
def parts(source, small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    for i in (1, 2, 3):
        build_index(source, Ngrams(), folder / f"p{i}", shard=(i, 3))
    for i in (1, 2):
        build_index(source, Ngrams(), folder / f"q{i}", shard=(i, 2))
    build_index(source, Ngrams(), folder / "other", shard=(2, 3), languages=None)
    build_index(source, Ngrams(), folder / "whole")
    return folder


def test_parts_in_any_order_are_the_index_made_at_once(parts, tmp_path):
    for i, order in enumerate(permutations(["p1", "p2", "p3"])):
        built = merge_shards([parts / name for name in order], parts / f"merged{i}")
        assert_same(parts / f"merged{i}", parts / "whole")
        assert (built.names, built.found, built.encoded) == (len(Index.load(parts / "whole").vectors), built.names, 0)
    merge_shards([parts / "q2", parts / "q1"], parts / "merged0", overwrite=True)
    assert_same(parts / "merged0", parts / "whole")


def test_more_parts_than_shards(source, tmp_path):
    with patch.object(memory_module, "_ROWS", 1000):
        for i in (1, 2, 3):
            build_index(source, Ngrams(), tmp_path / str(i), shard=(i, 3))
        merge_shards([tmp_path / str(i) for i in (2, 1, 3)], tmp_path / "merged")
        build_index(source, Ngrams(), tmp_path / "whole")
    assert_same(tmp_path / "merged", tmp_path / "whole")


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ([], ConfigError, "found none"),
        (["p1", "p3"], ArtifactError, "those of 2/3 are missing"),
        (["p2", "p3"], ArtifactError, "those of 1/3 are missing"),
        (["p1", "p2", "p3", "p2"], ConfigError, "found one of the folders twice"),
        (["p1", "p2", "q2"], ArtifactError, "q2 has vectors that .*p2 has, too"),
        (
            ["p1", "other", "p3"],
            ArtifactError,
            "other is not of the same build as .*p1: they differ in languages, names",
        ),
        (["p1", "whole", "p3"], ArtifactError, "expected an index-shards folder, found an index folder"),
        (["p1", "nowhere"], ArtifactError, "found nothing there"),
    ],
)
def test_parts_that_do_not_make_one_index(parts, tmp_path, given, kind, said):
    with pytest.raises(kind, match=said):
        merge_shards([parts / name for name in given], tmp_path / "merged")
    assert not list(tmp_path.iterdir())


def test_a_damaged_part_is_found(parts, tmp_path):
    for name in ("p1", "p2", "p3"):
        shutil.copytree(parts / name, tmp_path / name)
    given = [tmp_path / name for name in ("p1", "p2", "p3")]
    for file in sorted(tmp_path.glob("p*/*")):
        whole = file.read_bytes()
        for place in np.random.default_rng(0).integers(8 * len(whole), size=5).tolist():
            damaged = bytearray(whole)
            damaged[place // 8] ^= 1 << place % 8
            file.write_bytes(damaged)
            with pytest.raises(ArtifactError):
                merge_shards(given, tmp_path / "merged")
        file.write_bytes(whole)
    with (
        patch.object(parts_module, "read_shard", lambda *_: None),
        pytest.raises(ArtifactError, match=r"00000\.shard: missing or damaged"),
    ):
        merge_shards(given, tmp_path / "merged")  # what was whole when it was opened, and isn't any more
    merge_shards(given, parts / "mended")
    assert_same(parts / "mended", parts / "whole")


# From an old index

TEXTS = st.lists(
    st.tuples(
        st.sampled_from(["C1", "C2", "C3"]),
        st.sampled_from(["Aa", "aA", "aa", "b", "bb b", "é", "e\u0301", "longer name", "c", "d"]),
    ),
    min_size=1,
    max_size=14,
)


@given(before=TEXTS, after=TEXTS, vector_dtype=st.sampled_from(["float32", "float16", "int8"]), lower=st.booleans())
@settings(max_examples=12)
def test_an_update_is_the_fresh_build(before, after, vector_dtype, lower, tmp_path_factory):
    folder = tmp_path_factory.mktemp("update")
    encoder = Counting(policy=TextPolicy("lower" if lower else "cased", "NFC"))
    for name, rows in (("before", before), ("after", after)):
        terminology(*((concept, "en", text) for concept, text in rows)).save(folder / f"{name}-terms")
    old = build_index(folder / "before-terms", encoder, folder / "old", vector_dtype=vector_dtype)
    fresh = build_index(folder / "after-terms", encoder, folder / "fresh", vector_dtype=vector_dtype)
    encoder.asked.clear()
    new = build_index(folder / "after-terms", encoder, folder / "new", vector_dtype=vector_dtype, update=folder / "old")
    known, wanted = (
        {normalize(name, encoder.policy) for name in Index.load(folder / i).names["name"].to_pylist()}
        for i in ("old", "new")
    )
    assert {normalize(name, encoder.policy) for name in encoder.asked[3:]} == wanted - known
    assert (new.kept, new.encoded, new.lost) == (len(known & wanted), len(wanted - known), len(known - wanted))
    assert (old.kept, old.lost, fresh.kept) == (0, 0, 0)
    if vector_dtype == "int8":
        np.testing.assert_allclose(
            *(Index.load(folder / name).vectors.take(slice(None)) for name in ("new", "fresh")), atol=1e-6
        )
        assert Index.load(folder / "new").names == Index.load(folder / "fresh").names
    else:
        assert_same(folder / "new", folder / "fresh")


def test_half_of_a_hash_takes_over_nothing():
    known = np.array([[5, 1], [3, 2], [9, 9]], np.uint64)
    assert _find(np.array([[3, 2], [5, 2], [5, 1], [99, 1], [0, 0]], np.uint64), known).tolist() == [1, -1, 0, -1, -1]


def test_an_update_from_what_does_not_fit_is_refused(source, tmp_path):
    build_index(source, Ngrams(), tmp_path / "old", vector_dtype="int8")
    with pytest.raises(
        ConfigError, match="stores int8, from which float32 can't be had again; add --vector-dtype int8"
    ):
        build_index(source, Ngrams(), tmp_path / "new", update=tmp_path / "old")
    for other in (Ngrams(content_hash="b" * 64), Ngrams(policy=TextPolicy("lower", "NFC"))):
        with pytest.raises(ArtifactError, match="another model, or with this one used differently"):
            build_index(source, other, tmp_path / "new", vector_dtype="int8", update=tmp_path / "old")
    with pytest.raises(ArtifactError, match="found nothing there"):
        build_index(source, Ngrams(), tmp_path / "new", update=tmp_path / "nowhere")
    with (tmp_path / "old" / "scan.npy").open("r+b") as file:
        file.seek(200)
        file.write(b"\1\2\3\4")
    with pytest.raises(ArtifactError, match=r"scan\.npy: its hash"):
        build_index(source, Ngrams(), tmp_path / "new", vector_dtype="int8", update=tmp_path / "old")
    assert [file.name for file in tmp_path.iterdir()] == ["old"]


def test_an_update_may_be_killed_and_made_in_parts(source, tmp_path):
    terminology(*NAMES[:90]).save(tmp_path / "before")
    build_index(tmp_path / "before", Ngrams(), tmp_path / "old")
    with pytest.raises(StoppedError):
        build_index(source, stop_after(6), tmp_path / "new", update=tmp_path / "old")
    built = build_index(source, Ngrams(), tmp_path / "new", update=tmp_path / "old")
    assert built.found > 0
    for i in (1, 2):
        build_index(source, Ngrams(), tmp_path / str(i), update=tmp_path / "old", shard=(i, 2))
    merge_shards([tmp_path / "1", tmp_path / "2"], tmp_path / "merged")
    build_index(source, Ngrams(), tmp_path / "fresh")
    assert_same(tmp_path / "new", tmp_path / "fresh")
    assert_same(tmp_path / "merged", tmp_path / "fresh")


def test_an_update_in_place(source, tmp_path):
    terminology(*NAMES[:90]).save(tmp_path / "before")
    build_index(tmp_path / "before", Ngrams(), tmp_path / "index")
    built = build_index(source, Ngrams(), tmp_path / "index", update=tmp_path / "index", overwrite=True)
    build_index(source, Ngrams(), tmp_path / "fresh")
    assert built.kept > 50
    assert_same(tmp_path / "index", tmp_path / "fresh")


# With a graph


SENSES = [
    (f"C{i // 3:03}", "en", f"Sense {i * 7919 % 1009} of {'abcdefghijk'[i % 11] * (i % 5)} {i}") for i in range(600)
]


@pytest.fixture(scope="module")
def senses(tmp_path_factory):
    """A terminology of 600 names, and where indexes of it are made."""
    pytest.importorskip("usearch")
    folder = tmp_path_factory.mktemp("senses")
    terminology(*SENSES).save(folder / "terminology")
    return folder


def graph_of(folder):
    """What stands in the manifest, and the nearest three of each vector by the graph on disk."""
    index = Index.load(folder, ann=True)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["graph"] == index.graph.metadata()
    assert "graph.usearch" in manifest["files"]
    return index.graph.recall, index.graph.search(np.array(index.vectors.take(slice(None))), 3)[0]


def test_a_graph_is_built_whichever_way_the_index_is(senses, tmp_path, capsys):
    options = {"approximate": True, "progress": True}
    source = senses / "terminology"
    ways = {"disk": build_index(source, Ngrams(), tmp_path / "disk", **options)}
    assert "graph" in capsys.readouterr().err
    for i in (1, 2):
        build_index(source, Ngrams(), tmp_path / str(i), shard=(i, 2))
    ways["merged"] = merge_shards([tmp_path / "1", tmp_path / "2"], tmp_path / "merged", **options)
    assert "graph" in capsys.readouterr().err
    plain = build_index(source, Ngrams(), tmp_path / "plain")
    ways["updated"] = build_index(
        source, Ngrams(), tmp_path / "plain", update=tmp_path / "plain", overwrite=True, **options
    )
    assert (ways["updated"].kept, ways["updated"].encoded, plain.recall) == (600, 0, None)
    shutil.move(tmp_path / "plain", tmp_path / "updated")
    Index.build(Terminology.load(source), Ngrams(), ann=True).save(tmp_path / "memory")
    expected = np.sort(
        Index.load(tmp_path / "disk").vectors.take(slice(None)) @ Ngrams().encode([n for _, _, n in SENSES]).T, 1
    )[:, :-4:-1]
    for name in (*ways, "memory"):
        recall, scores = graph_of(tmp_path / name)
        assert recall > 0.95
        assert np.isclose(scores, expected, atol=1e-5).mean() > 0.9  # threads build it, never twice the same
        if name in ways:
            assert ways[name].recall == recall
    for file in ("vectors.npy", "scan.npy", "names.arrow", "bounds.npy"):
        assert len({(tmp_path / name / file).read_bytes() for name in (*ways, "memory")}) == 1


def test_a_graph_that_cannot_be_is_refused_before_anything_is_encoded(senses, parts, tmp_path, monkeypatch):
    encoder, source = Counting(), senses / "terminology"
    with pytest.raises(
        ConfigError, match=r"^a graph .* is of a whole index, not of a part; leave --ann to xsap merge$"
    ):
        build_index(source, encoder, tmp_path / "index", shard=(1, 2), ann=True)
    monkeypatch.setitem(sys.modules, "usearch", None)
    with pytest.raises(ConfigError, match="needs usearch"):
        build_index(source, encoder, tmp_path / "index", ann=True)
    with pytest.raises(ConfigError, match="needs usearch"):
        merge_shards([parts / "p1", parts / "p2", parts / "p3"], tmp_path / "merged", ann=True)
    assert encoder.asked == []
    assert not list(tmp_path.iterdir())


# Memory


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GB", 4_000_000_000),
        ("500MB", 500_000_000),
        (" 1.5 GB ", 1_500_000_000),
        ("2GiB", 2**31),
        ("1kB", 1000),
        ("3MiB", 3 * 2**20),
        ("1TB", 10**12),
    ],
)
def test_amounts_of_memory(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "4", "4G", "GB", "-4GB", "4gb", "4 B", "4GB and more", "four GB", "1e3MB", "0GB", "0.0001kB", "٤GB\n4GB"],
)
def test_what_is_no_amount_of_memory(text):
    with pytest.raises(ConfigError, match="expected an amount of memory such as 4GB or 500MB, found"):
        parse_size(text)


@pytest.mark.parametrize("text", ["", "1", "0/3", "4/3", "1/0", "a/b", "-1/2", "1/2/3", "1.5/2"])
def test_what_is_no_shard(text):
    with pytest.raises(ConfigError, match="expected a shard as i/N"):
        parse_shard(text)
    assert parse_shard("2/5") == (2, 5)


def test_the_rows_of_a_shard_follow_from_memory_and_dimension(monkeypatch):
    monkeypatch.setattr(memory_module, "_ROWS", 1 << 15)
    assert [rows_per_shard(max_memory, d) for max_memory, d in ((None, 4096), (4 * 10**9, 1024), (10**9, 768), (10**9, 256), (10**6, 768))] == [
        32768, 32768, 8192, 32768, 1024,
    ]  # fmt: skip


def test_too_little_memory_is_refused_up_front(source, tmp_path):
    with pytest.raises(
        ConfigError, match=r"takes about \d+\.\dGB of memory, of which the model has .* found 0\.0GB\. Allow more"
    ) as refused:
        build_index(source, Ngrams(), tmp_path / "index", max_memory=10_000_000)
    assert "an index of 120 names of 32 components" in str(refused.value)
    assert not list(tmp_path.iterdir())
    build_index(source, Ngrams(), tmp_path / "index", max_memory=rss_bytes() + 300_000_000)


def test_what_memory_is_needed_grows_with_the_languages(source):
    with patch.object(memory_module, "_A_ROW", 10**9), patch.object(memory_module, "rss_bytes", lambda: 0):
        check_memory(31 * 10**9, source, {"de"}, 8)
        for languages in ({"en"}, None):
            with pytest.raises(ConfigError, match=f"about {120 if languages else 150}"):
                check_memory(31 * 10**9, source, languages, 8)


def test_a_graph_and_cross_references_count(source, tmp_path):
    with patch.object(memory_module, "_A_LINKED", 10**9), patch.object(memory_module, "rss_bytes", lambda: 0):
        check_memory(10**9, source, None, 8)
        with pytest.raises(
            ConfigError, match=r"^an index of 150 names of 8 components \(its graph 150\.0GB\) takes about 15\d\.\dGB"
        ):
            check_memory(10**9, source, None, 8, ann=True)
        with pytest.raises(ConfigError, match=r"its graph 120\.0GB"):
            check_memory(10**9, source, {"en"}, 8, ann=True)
    names = pa.Table.from_pylist(
        [
            {
                "concept_id": "C1",
                "language": "en",
                "name": "a",
                "kind": "synonym",
                "source": "T",
                "code": None,
                "status": None,
            }
        ]
    )
    concepts = pa.table({"concept_id": ["C1"], "cross_references": [[f"X:{i:090}" for i in range(100)]]})
    Terminology.build(names, concepts)[0].save(tmp_path / "terminology")
    refused = pytest.raises(ConfigError, match=r"takes about (9|10)\.\dGB")
    with patch.object(memory_module, "_A_BYTE", 10**6), patch.object(memory_module, "rss_bytes", lambda: 0), refused:
        check_memory(10**9, tmp_path / "terminology", None, 8)


def test_what_the_process_has_in_memory():
    before = rss_bytes()
    block = np.ones(10_000_000)
    assert before + 0.9 * block.nbytes < rss_bytes() < 10**11


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no malloc_trim")
def test_memory_that_is_free_is_given_back():
    blocks = [bytearray(2000) for _ in range(100_000)]
    kept = blocks[-1]  # on top of them all, so that the heap can't shrink from its end
    full = rss_bytes()
    del blocks
    trim_malloc()
    assert rss_bytes() < full - 100_000_000
    assert len(kept) == 2000


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_a_library_that_can_not_give_memory_back_is_let_be(error):
    with patch("ctypes.CDLL", side_effect=error) as library:
        trim_malloc()
    assert library.called


def test_memory_is_given_back_after_each_group_of_names(source, tmp_path):
    with patch("xsap.linking.build.trim_malloc") as gave:
        built = build_index(source, Counting(), tmp_path / "index")
    assert gave.call_count >= built.names // 4


# As a user does it


@pytest.fixture(scope="module")
def small_model(tmp_path_factory, tiny_folder, sample_folder, small):
    """(model, terminology of 200 rows, an index of both built at a stretch, in shards of 40)."""
    from xsap.encoding.encoder import Encoder

    folder = tmp_path_factory.mktemp("model")
    terms = Terminology.load(sample_folder)
    Terminology.build(terms.names.slice(0, 200), terms.concepts)[0].save(folder / "terminology")
    with patch.object(memory_module, "_ROWS", 40):
        build_index(
            folder / "terminology",
            Encoder.from_pretrained(tiny_folder),
            folder / "index",
            model_path=tiny_folder,
            languages=None,
        )
    return tiny_folder, folder / "terminology", folder / "index"


def test_several_processes_make_one_index(small_model, tmp_path, run):
    from xsap.encoding.encoder import Encoder

    model, source, built = small_model
    script = tmp_path / "script.py"
    script.write_text(f"""
import os, sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
import tests.xsap.test_building as t
from xsap.linking import building
for target, value in t.SIZES:
    t.patch(target, value).start()
t.memory_module._ROWS = 40
def write(folder, plan, shard, vectors, write=building.write_shard):
    open({str(tmp_path)!r} + "/" + os.environ["RANK"], "a").write(f"{{shard}} ")
    write(folder, plan, shard, vectors)
building.write_shard = write
t.main(sys.argv[1:])
""")
    folder = part_folder(built.parent / "together")
    with patch.object(memory_module, "_ROWS", 40):  # two of five shards are there already, one for each process
        build_index(source, Encoder.from_pretrained(model), built.parent / "third", languages=None, shard=(1, 3))
    open_shards(folder, Plan(**json.loads((built.parent / "third" / "manifest.json").read_text())["plan"]))
    for shard in (0, 3):
        shutil.copy(file_of(built.parent / "third", shard), folder)
    done = run(*TOGETHER, 2, script, "index", model, source, "--languages", "all", "--out", built.parent / "together")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(" names of ") == 1
    assert done.stderr.rstrip().endswith("; 80 were encoded earlier")
    assert len(Index.load(built).vectors) in range(161, 201)
    assert [(tmp_path / rank).read_text().split() for rank in ("0", "1")] == [["2", "4"], ["1"]]
    assert_same(built.parent / "together", built)


def test_with_a_real_model_an_update_is_the_fresh_build_but_for_rounding(small_model, tmp_path):
    from xsap.encoding.encoder import Encoder

    model, source, built = small_model
    terms = Terminology.load(source)
    half = terms.names.filter(pa.array(np.arange(terms.names.num_rows) % 3 > 0))
    Terminology.build(half, terms.concepts)[0].save(tmp_path / "before")
    encoder = Encoder.from_pretrained(model)
    build_index(tmp_path / "before", encoder, tmp_path / "old", languages=None, model_path=model)
    new = build_index(source, encoder, tmp_path / "new", languages=None, update=tmp_path / "old", model_path=model)
    assert new.encoded > 40
    assert new.kept > 100
    updated, fresh = Index.load(tmp_path / "new"), Index.load(built)
    np.testing.assert_allclose(updated.vectors.take(slice(None)), fresh.vectors.take(slice(None)), atol=5e-7)
    assert (updated.names, updated.concepts) == (fresh.names, fresh.concepts)


def xsap(*words):
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, words)))
    return stop.value.code


def test_the_commands_index_and_merge(small_model, capsys):
    model, source, built = small_model
    words = ("index", model, source, "--languages", "all")
    with patch.object(memory_module, "_ROWS", 40):
        for i in (1, 2):
            assert xsap(*words, "--out", built.parent / f"part{i}", "--shard", f"{i}/2", "--max-memory", "64GB") == 0
        capsys.readouterr()
        assert xsap("merge", built.parent / "part2", built.parent / "part1", "--out", built.parent / "merged") == 0
        assert_same(built.parent / "merged", built)
        n, concepts = len(Index.load(built).vectors), Index.load(built).concepts.num_rows
        assert capsys.readouterr() == ("", f"{built.parent / 'merged'}: {n:,} names of {concepts:,} concepts\n")
        assert xsap(*words, "--out", built.parent / "new", "--reuse", built, "--vector-dtype", "int8") == 0
    assert capsys.readouterr().err.endswith(f"; kept {n:,}, encoded 0, dropped 0 of the old index\n")
    assert Index.load(built.parent / "new").vectors.vector_dtype == "int8"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max-memory", "4 gigabytes"], "expected an amount of memory such as 4GB"),
        (["--max-memory", "1kB"], "of memory, of which the model has"),
        (["--shard", "5/2"], "expected a shard as i/N"),
        (["--vector-dtype", "float8"], "Invalid value for '--vector-dtype'"),
        (["--reuse", "nowhere"], "nowhere: expected an index folder, found nothing there"),
        (["--shard", "1/2", "--ann"], "leave --ann to xsap merge"),
    ],
)
def test_wrong_options_of_index_are_one_line(small_model, tmp_path, capsys, options, said):
    assert xsap("index", *small_model[:2], "--out", tmp_path / "index", *options) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), err[:7]) == ("", 1, "error: ")
    assert said in err
    assert not list(tmp_path.iterdir())


def test_two_builds_do_not_share_a_place(source, tmp_path):
    class Second(Ngrams):
        """Tries the same build from within the first."""

        tried = False

        def encode(self, names, *, progress=False):
            if not self.tried and (tmp_path / ".index.part").is_dir():
                self.tried = True
                with pytest.raises(
                    ConfigError, match="another build is making .*index; wait for it, or choose another --out"
                ):
                    build_index(source, Ngrams(), tmp_path / "index")
            return super().encode(names)

    encoder = Second()
    build_index(source, encoder, tmp_path / "index")
    assert encoder.tried
    build_index(source, Ngrams(), tmp_path / "in" / "a" / "new" / "place")
    assert_same(tmp_path / "index", tmp_path / "in" / "a" / "new" / "place")
    assert {file.name for file in tmp_path.iterdir() if file.name.startswith(".")} == set()
