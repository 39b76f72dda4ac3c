"""Building on disk: in one go, resumed, in parts, by several processes, or with reused vectors, it is the same index."""

import json
import platform
import shutil
import signal
import sys
import time
from dataclasses import replace
from itertools import permutations
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.builds import (
    NAMES,
    SHARDS_OF_40,
    Ngrams,
    RecordingNgrams,
    StoppedError,
    StoppingNgrams,
    assert_same_files,
    build_small,
    part_folder,
)
from tests.fixtures.commands import ROOT
from tests.fixtures.dictionaries import terminology
from tests.fixtures.examples import examples
from xsap.cli import app
from xsap.errors import ArtifactError, ConfigError, DataError
from xsap.linking.build import (
    BuildSizes,
    build_index,
    merge_shards,
)
from xsap.linking.build_memory import check_memory, estimate_memory, rss_bytes, trim_malloc
from xsap.linking.dictionary import find_rows
from xsap.linking.index import Index
from xsap.linking.linker import Linker
from xsap.linking.shards import Plan, ShardFolder, parse_shard
from xsap.terminal import run as run_app
from xsap.terms.terminology import Terminology
from xsap.text import EXACT_MATCH, TextPolicy, normalize

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node")


@pytest.fixture(scope="module", autouse=True)
def codes():
    """int8 codes for any number of names, as large indexes have them; and no waiting for the disk."""
    with patch("xsap.search.vectors.MIN_ROWS_WITH_CODES", 20), patch("os.fsync", lambda _: None):
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A terminology's folder of 150 rows."""
    folder = tmp_path_factory.mktemp("source") / "terminology"
    terminology(*NAMES).save(folder)
    return folder


@pytest.mark.parametrize("vector_dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("languages", [None, {"en"}])
def test_build_on_disk_equals_build_in_memory(source, tmp_path, vector_dtype, languages):
    encoder = RecordingNgrams(policy=TextPolicy("lower", "NFC"))
    built = build_small(source, encoder, tmp_path / "disk", languages=languages, vector_dtype=vector_dtype)
    Index.build(Terminology.load(source), encoder, languages=languages, vector_dtype=vector_dtype).save(
        tmp_path / "memory", vectors_per_write=5
    )
    assert_same_files(tmp_path / "disk", tmp_path / "memory")
    index = Index.load(tmp_path / "disk")
    assert (built.names, built.encoded, built.resumed, built.concepts) == (
        len(index.vectors),
        len(index.vectors),
        0,
        index.concepts.num_rows,
    )
    assert sorted(file.name for file in tmp_path.iterdir()) == ["disk", "memory"]


def test_shards_are_encoded_in_order_with_the_longest_names_last(source, tmp_path):
    encoder, expected = RecordingNgrams(), []
    build_small(source, encoder, tmp_path / "index")
    names = Index.load(tmp_path / "index").names["name"].to_pylist()
    for start in range(0, len(names), 10):
        ordered = sorted(names[start : start + 10], key=len)
        for first in range(0, len(ordered), 4):
            batch = ordered[first : first + 4]
            expected += batch + batch[-1:] * (3 - len(batch))
    assert encoder.encoded == expected


SLOW_BUILD = """
import sys, time
sys.path.insert(0, sys.argv[1])
from tests.fixtures.builds import RecordingNgrams, build_small
from unittest.mock import patch
class Slow(RecordingNgrams):
    def encode(self, names, *, progress=False):
        time.sleep(0.05)
        return super().encode(names)
with patch("xsap.search.vectors.MIN_ROWS_WITH_CODES", 20), patch("os.fsync", lambda _: None):
    build_small(sys.argv[2], Slow(), sys.argv[3])
"""


def test_build_resumes_after_sigkill(source, tmp_path, template):
    """After some shards, one of which is then damaged: the names of the others are not encoded again."""
    out = tmp_path / "killed"
    with (tmp_path / "stderr").open("w") as errors:
        started = template.start(["-c", SLOW_BUILD, ROOT, source, out], stderr=errors.fileno())
    folder, deadline = part_folder(out), time.monotonic() + 60
    while len(list(folder.glob("*.shard"))) < 4 and started.is_running() and time.monotonic() < deadline:
        time.sleep(0.005)
    started.kill(signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL, (tmp_path / "stderr").read_text()
    complete = sorted(folder.glob("*.shard"))
    assert 4 <= len(complete) < 12
    assert not out.exists()
    damaged = bytearray(complete[1].read_bytes())
    damaged[100] ^= 4
    complete[1].write_bytes(damaged)
    (folder / ".00007.shard.1.new").write_bytes(b"half")
    encoder = RecordingNgrams()
    built = build_small(source, encoder, out)
    resumed = 10 * (len(complete) - 1)
    assert (built.resumed, built.encoded) == (resumed, built.names - resumed)
    names = Index.load(out).names["name"].to_pylist()
    known = {name for file in complete if file != complete[1] for name in names[10 * int(file.stem) :][:10]}
    assert set(encoder.encoded) == set(names) - known
    build_small(source, RecordingNgrams(), tmp_path / "unbroken")
    assert_same_files(out, tmp_path / "unbroken")
    assert not folder.exists()


@pytest.mark.parametrize(
    "other",
    [
        {"languages": {"de", "en"}},
        {"vector_dtype": "float16"},
        {"content_hash": "c" * 64},
        {"policy": TextPolicy("lower", "NFC")},
        {"more": True},
    ],
)
def test_shards_of_another_build_are_not_used(source, tmp_path, other):
    with pytest.raises(StoppedError):
        build_small(source, StoppingNgrams(9), tmp_path / "index")
    assert len(list(part_folder(tmp_path / "index").glob("*.shard"))) > 1
    if "more" in other:
        terminology(*NAMES, ("C0", "en", "one more")).save(tmp_path / "terminology")
        source = tmp_path / "terminology"
    encoder = RecordingNgrams(**{key: value for key, value in other.items() if key in ("content_hash", "policy")})
    options = {key: value for key, value in other.items() if key in ("languages", "vector_dtype")}
    built = build_small(source, encoder, tmp_path / "index", **options)
    assert (built.resumed, built.encoded) == (0, built.names)
    build_small(source, encoder, tmp_path / "fresh", **options)
    assert_same_files(tmp_path / "index", tmp_path / "fresh")


def test_progress_bar_says_how_many_names_were_resumed_or_reused(source, tmp_path, capsys):
    with pytest.raises(StoppedError):
        build_small(source, StoppingNgrams(9), tmp_path / "index")
    n = 10 * len(list(part_folder(tmp_path / "index").glob("*.shard")))
    build_small(source, Ngrams(), tmp_path / "index", progress=True)
    assert f"{n} from an earlier run" in capsys.readouterr().err
    build_small(source, Ngrams(), tmp_path / "new", progress=True, reuse=tmp_path / "index")
    assert "from the reused index" in capsys.readouterr().err


PLAN = Plan("t" * 64, {"content_hash": "m"}, ["en"], None, 25, 3, 10, "float32")


def test_shard_is_missing_after_any_damage(tmp_path):
    shards = ShardFolder(tmp_path / "part", PLAN)
    shards.prepare()
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((25, 3)).astype(np.float32)
    for shard in range(3):
        shards.write(shard, vectors[PLAN.rows_of(shard)])
        np.testing.assert_array_equal(shards.read(shard), vectors[PLAN.rows_of(shard)])
    assert shards.missing(range(3)) == []
    file = shards.file(0)
    whole = file.read_bytes()
    for bit in rng.integers(8 * len(whole), size=200).tolist():
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        assert shards.read(0) is None
    for length in range(0, len(whole), 3):
        file.write_bytes(whole[:length])
        assert shards.read(0) is None
    file.write_bytes(whole + b"\0")
    assert shards.read(0) is None
    shutil.copy(shards.file(1), file)  # of the same size and undamaged, but of other rows
    assert shards.missing(range(3)) == [0]
    file.unlink()
    assert shards.missing(range(3)) == [0]


@pytest.mark.parametrize(
    "change",
    [
        {"terminology_hash": "u" * 64},
        {"model": {}},
        {"languages": None},
        {"reused_hash": "o"},
        {"vector_dtype": "int8"},
    ],
)
def test_shard_of_another_plan_is_not_read(tmp_path, change):
    shards, others = ShardFolder(tmp_path, PLAN), ShardFolder(tmp_path, replace(PLAN, **change))
    shards.prepare()
    shards.write(2, np.zeros((5, 3), np.float32))
    assert shards.read(2) is not None
    assert others.read(2) is None
    shards.prepare()
    assert shards.file(2).exists()
    others.prepare()
    assert not shards.file(2).exists()


def test_vectors_that_are_not_finite_stop_the_build(source, tmp_path):
    class Broken(RecordingNgrams):
        def encode(self, names, *, progress=False):
            return super().encode(names) * np.float32(np.nan)

    encoder = Broken()
    with pytest.raises(DataError, match="vectors must be finite"):
        build_small(source, encoder, tmp_path / "index")
    assert len(encoder.encoded) < 20
    assert not (tmp_path / "index").exists()


def test_invalid_arguments_are_rejected_before_encoding(source, tmp_path):
    encoder = RecordingNgrams()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    with pytest.raises(ArtifactError, match="exists already"):
        build_small(source, encoder, tmp_path / "there")
    with pytest.raises(ConfigError, match="needs a saved model"):
        build_small(source, RecordingNgrams(content_hash=None), tmp_path / "index")
    with pytest.raises(ConfigError, match="expected a shard as i/N"):
        build_small(source, encoder, tmp_path / "index", shard=(3, 2))
    with pytest.raises(ArtifactError, match="expected a terminology folder"):
        build_small(tmp_path, encoder, tmp_path / "index")
    with pytest.raises(DataError, match="expected a terminology with names in fi"):
        build_small(source, encoder, tmp_path / "index", languages={"fi"})
    assert encoder.encoded == []
    assert [file.name for file in tmp_path.iterdir()] == ["there"]


# In parts


@pytest.fixture(scope="module")
def parts(source, codes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    for i in (1, 2, 3):
        build_small(source, Ngrams(), folder / f"p{i}", shard=(i, 3))
    for i in (1, 2):
        build_small(source, Ngrams(), folder / f"q{i}", shard=(i, 2))
    build_small(source, Ngrams(), folder / "other", shard=(2, 3), languages={"en"})
    build_small(source, Ngrams(), folder / "whole")
    return folder


def test_merge_of_parts_in_any_order_equals_a_single_build(parts, tmp_path):
    for i, order in enumerate(permutations(["p1", "p2", "p3"])):
        built = merge_shards([parts / name for name in order], parts / f"merged{i}")
        assert_same_files(parts / f"merged{i}", parts / "whole")
        assert (built.names, built.resumed, built.encoded) == (len(Index.load(parts / "whole").vectors), built.names, 0)
    merge_shards([parts / "q2", parts / "q1"], parts / "merged0", overwrite=True)
    assert_same_files(parts / "merged0", parts / "whole")


def test_merge_accepts_more_parts_than_shards(source, tmp_path):
    for i in (1, 2, 3):
        build_index(source, Ngrams(), tmp_path / str(i), shard=(i, 3))
    merge_shards([tmp_path / str(i) for i in (2, 1, 3)], tmp_path / "merged")
    build_index(source, Ngrams(), tmp_path / "whole")
    assert_same_files(tmp_path / "merged", tmp_path / "whole")


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ([], ConfigError, "found none"),
        (["p1", "p3"], ArtifactError, "add part 2/3$"),
        (["p2", "p3"], ArtifactError, "add part 1/3$"),
        (["p1", "p2", "p3", "p2"], ConfigError, "found one of the folders twice"),
        (["p1", "p2", "q2"], ArtifactError, "q2 and .*p2 both have shard"),
        (
            ["p1", "other", "p3"],
            ArtifactError,
            "other is not of the same build as .*p1: they differ in languages, names",
        ),
        (["p1", "whole", "p3"], ArtifactError, "expected an index-shards folder, found an index folder"),
        (["p1", "nowhere"], ArtifactError, "found nothing there"),
    ],
)
def test_merge_rejects_parts_that_do_not_make_one_index(parts, tmp_path, given, kind, said):
    with pytest.raises(kind, match=said):
        merge_shards([parts / name for name in given], tmp_path / "merged")
    assert not list(tmp_path.iterdir())


def test_merge_detects_damage(parts, tmp_path):
    for name in ("p1", "p2", "p3"):
        shutil.copytree(parts / name, tmp_path / name)
    given = [tmp_path / name for name in ("p1", "p2", "p3")]
    for file in sorted(tmp_path.glob("p*/*")):
        whole = file.read_bytes()
        for bit in np.random.default_rng(0).integers(8 * len(whole), size=5).tolist():
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            file.write_bytes(damaged)
            with pytest.raises(ArtifactError):
                merge_shards(given, tmp_path / "merged")
        file.write_bytes(whole)
    with (
        patch.object(ShardFolder, "read", lambda *_: None),  # damaged after its part was opened
        pytest.raises(ArtifactError, match=r"00000\.shard: missing or damaged"),
    ):
        merge_shards(given, tmp_path / "merged")
    merge_shards(given, parts / "again")
    assert_same_files(parts / "again", parts / "whole")


# With reused vectors

TEXTS = st.lists(
    st.tuples(
        st.sampled_from(["C1", "C2", "C3"]),
        st.sampled_from(["Aa", "aA", "aa", "b", "bb b", "é", "e\u0301", "longer name", "c", "d"]),
    ),
    min_size=1,
    max_size=14,
)


@given(before=TEXTS, after=TEXTS, vector_dtype=st.sampled_from(["float32", "float16", "int8"]), lower=st.booleans())
@settings(max_examples=examples(12))
def test_build_with_reuse_equals_a_new_build(before, after, vector_dtype, lower, tmp_path_factory):
    folder = tmp_path_factory.mktemp("update")
    encoder = RecordingNgrams(policy=TextPolicy("lower" if lower else "cased", "NFC"))
    for name, rows in (("before", before), ("after", after)):
        terminology(*((concept, "en", text) for concept, text in rows)).save(folder / f"{name}-terms")
    old = build_small(folder / "before-terms", encoder, folder / "old", vector_dtype=vector_dtype)
    fresh = build_small(folder / "after-terms", encoder, folder / "fresh", vector_dtype=vector_dtype)
    encoder.encoded.clear()
    new = build_small(folder / "after-terms", encoder, folder / "new", vector_dtype=vector_dtype, reuse=folder / "old")
    known, wanted = (
        {normalize(name, encoder.policy) for name in Index.load(folder / i).names["name"].to_pylist()}
        for i in ("old", "new")
    )
    assert {normalize(name, encoder.policy) for name in encoder.encoded} == wanted - known
    assert (new.reused, new.encoded, new.removed) == (len(known & wanted), len(wanted - known), len(known - wanted))
    assert (old.reused, old.removed, fresh.reused) == (0, 0, 0)
    if vector_dtype == "int8":
        np.testing.assert_allclose(
            *(Index.load(folder / name).vectors.take(slice(None)) for name in ("new", "fresh")), atol=1e-6
        )
        assert Index.load(folder / "new").names == Index.load(folder / "fresh").names
    else:
        assert_same_files(folder / "new", folder / "fresh")


def test_reuse_needs_equal_hashes_in_both_halves():
    known = np.array([[5, 1], [3, 2], [9, 9]], np.uint64)
    assert find_rows(np.array([[3, 2], [5, 2], [5, 1], [99, 1], [0, 0]], np.uint64), known).tolist() == [
        1,
        -1,
        0,
        -1,
        -1,
    ]


def test_reuse_rejects_an_index_that_does_not_fit(source, tmp_path):
    build_small(source, Ngrams(), tmp_path / "old", vector_dtype="int8")
    with pytest.raises(ConfigError, match="stores int8, from which float32 can't be restored; add --vector-dtype int8"):
        build_small(source, Ngrams(), tmp_path / "new", reuse=tmp_path / "old")
    for other in (Ngrams(content_hash="b" * 64), Ngrams(policy=TextPolicy("lower", "NFC"))):
        with pytest.raises(ArtifactError, match="another model, or with other options of this one"):
            build_small(source, other, tmp_path / "new", vector_dtype="int8", reuse=tmp_path / "old")
    with pytest.raises(ArtifactError, match="found nothing there"):
        build_small(source, Ngrams(), tmp_path / "new", reuse=tmp_path / "nowhere")
    with (tmp_path / "old" / "scan.npy").open("r+b") as file:
        file.seek(200)
        file.write(b"\1\2\3\4")
    with pytest.raises(ArtifactError, match=r"scan\.npy: its hash"):
        build_small(source, Ngrams(), tmp_path / "new", vector_dtype="int8", reuse=tmp_path / "old")
    assert [file.name for file in tmp_path.iterdir()] == ["old"]


def test_build_with_reuse_resumes_and_is_made_in_parts(source, tmp_path):
    terminology(*NAMES[:90]).save(tmp_path / "before")
    build_small(tmp_path / "before", Ngrams(), tmp_path / "old")
    with pytest.raises(StoppedError):
        build_small(source, StoppingNgrams(6), tmp_path / "new", reuse=tmp_path / "old")
    built = build_small(source, Ngrams(), tmp_path / "new", reuse=tmp_path / "old")
    assert built.resumed > 0
    for i in (1, 2):
        build_small(source, Ngrams(), tmp_path / str(i), reuse=tmp_path / "old", shard=(i, 2))
    merge_shards([tmp_path / "1", tmp_path / "2"], tmp_path / "merged")
    build_small(source, Ngrams(), tmp_path / "fresh")
    assert_same_files(tmp_path / "new", tmp_path / "fresh")
    assert_same_files(tmp_path / "merged", tmp_path / "fresh")


def test_build_replaces_the_index_that_it_reuses(source, tmp_path):
    terminology(*NAMES[:90]).save(tmp_path / "before")
    build_small(tmp_path / "before", Ngrams(), tmp_path / "index")
    built = build_small(source, Ngrams(), tmp_path / "index", reuse=tmp_path / "index", overwrite=True)
    build_small(source, Ngrams(), tmp_path / "fresh")
    assert built.reused > 50
    assert_same_files(tmp_path / "index", tmp_path / "fresh")


# With an HNSW index


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


def open_hnsw(folder):
    """The recall, and the scores of the nearest three names of each vector by the HNSW index on disk."""
    index = Index.load(folder, ann=True)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["hnsw"] == index.hnsw.metadata()
    assert "hnsw.usearch" in manifest["files"]
    return index.hnsw.recall, index.hnsw.search(np.array(index.vectors.take(slice(None))), 3)[0]


@pytest.mark.slow
def test_hnsw_index_is_built_on_disk_in_parts_with_reuse_and_in_memory(senses, tmp_path, capsys):
    options = {"ann": True, "progress": True}
    source = senses / "terminology"
    built = {"disk": build_small(source, Ngrams(), tmp_path / "disk", **options)}
    assert "HNSW" in capsys.readouterr().err
    for i in (1, 2):
        build_small(source, Ngrams(), tmp_path / str(i), shard=(i, 2))
    built["merged"] = merge_shards([tmp_path / "1", tmp_path / "2"], tmp_path / "merged", **options)
    assert "HNSW" in capsys.readouterr().err
    plain = build_small(source, Ngrams(), tmp_path / "plain")
    built["reused"] = build_small(
        source, Ngrams(), tmp_path / "plain", reuse=tmp_path / "plain", overwrite=True, **options
    )
    assert (built["reused"].reused, built["reused"].encoded, plain.recall) == (600, 0, None)
    shutil.move(tmp_path / "plain", tmp_path / "reused")
    Index.build(Terminology.load(source), Ngrams(), ann=True).save(tmp_path / "memory", vectors_per_write=10)
    expected = np.sort(
        Index.load(tmp_path / "disk").vectors.take(slice(None)) @ Ngrams().encode([n for _, _, n in SENSES]).T, 1
    )[:, :-4:-1]
    for name in (*built, "memory"):
        recall, scores = open_hnsw(tmp_path / name)
        assert recall > 0.95
        assert np.isclose(scores, expected, atol=1e-5).mean() > 0.9  # several threads build it, in no fixed order
        if name in built:
            assert built[name].recall == recall
    for file in ("vectors.npy", "scan.npy", "names.arrow", "bounds.npy"):
        assert len({(tmp_path / name / file).read_bytes() for name in (*built, "memory")}) == 1


def test_impossible_hnsw_index_is_rejected_before_encoding(senses, parts, tmp_path, monkeypatch):
    encoder, source = RecordingNgrams(), senses / "terminology"
    with pytest.raises(ConfigError, match=r"^--ann needs a whole index, found a part; add it to xsap merge instead$"):
        build_small(source, encoder, tmp_path / "index", shard=(1, 2), ann=True)
    monkeypatch.setitem(sys.modules, "usearch", None)
    with pytest.raises(ConfigError, match="needs usearch"):
        build_small(source, encoder, tmp_path / "index", ann=True)
    with pytest.raises(ConfigError, match="needs usearch"):
        merge_shards([parts / "p1", parts / "p2", parts / "p3"], tmp_path / "merged", ann=True)
    assert encoder.encoded == []
    assert not list(tmp_path.iterdir())


# Memory


@pytest.mark.parametrize("text", ["", "1", "0/3", "4/3", "1/0", "a/b", "-1/2", "1/2/3", "1.5/2"])
def test_parse_shard_rejects_other_text(text):
    with pytest.raises(ConfigError, match="expected a shard as i/N"):
        parse_shard(text)
    assert parse_shard("2/5") == (2, 5)


def test_rows_per_shard_follow_from_memory_and_dimension():
    assert [BuildSizes().fit(max_memory, d) for max_memory, d in ((None, 4096), (4 * 10**9, 1024), (10**9, 768), (10**9, 256), (10**6, 768))] == [
        32768, 32768, 8192, 32768, 1024,
    ]  # fmt: skip


def test_too_little_memory_is_rejected_before_encoding(source, tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"needs about \d+\.\dGB of memory \(.* in use already\), found a limit of 0\.0GB\. Allow more",
    ) as refused:
        build_small(source, Ngrams(), tmp_path / "index", max_memory=10_000_000)
    assert "an index of 150 names with 32 dimensions" in str(refused.value)
    assert not list(tmp_path.iterdir())
    build_small(source, Ngrams(), tmp_path / "index", max_memory=rss_bytes() + 300_000_000)


def test_memory_grows_with_names_and_references(source, tmp_path):
    fixed = 100_000_000 + 8 * 8192 * 48 + 3 * 4 * 8 * 10
    by_languages = [estimate_memory(source, languages, 8, 10) for languages in (set(), {"de"}, {"en"}, None)]
    assert [estimate.names for estimate in by_languages] == [0, 30, 120, 150]
    nothing, german, english, everything = (estimate.total for estimate in by_languages)
    assert fixed <= nothing < fixed + 1000  # the cross-references of no concept take some bytes, too
    assert german - nothing > 30 * 100
    assert english - nothing == pytest.approx(4 * (german - nothing), abs=4)
    assert everything - nothing == pytest.approx(5 * (german - nothing), abs=4)
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
    assert 2 * 9_000 < estimate_memory(tmp_path / "terminology", None, 8, 10).total - fixed < 2 * 11_000


def test_memory_of_the_hnsw_index_is_counted_and_named(source):
    for languages, names in ((None, 150), ({"en"}, 120)):
        plain, ann = (estimate_memory(source, languages, 8, 10, ann=ann) for ann in (False, True))
        assert (plain.hnsw, ann.hnsw) == (0, names * (8 + 200) + 5 * names * 8)
        assert ann.total == plain.total + ann.hnsw
    check_memory(rss_bytes() + 10**9, ann)
    with pytest.raises(ConfigError, match=r"^an index of 150 names .* in use already, 150\.0GB for its HNSW index\)"):
        check_memory(10**9, ann._replace(names=150, total=151 * 10**9, hnsw=150 * 10**9))


def test_rss_bytes_counts_a_new_array():
    before = rss_bytes()
    block = np.ones(10_000_000)
    assert before + 0.9 * block.nbytes < rss_bytes() < 10**11


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no malloc_trim")
def test_trim_malloc_returns_freed_memory():
    blocks = [bytearray(2000) for _ in range(100_000)]
    kept = blocks[-1]  # on top of them all, so that the heap can't shrink from its end
    full = rss_bytes()
    del blocks
    trim_malloc()
    assert rss_bytes() < full - 100_000_000
    assert len(kept) == 2000


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_trim_malloc_ignores_libraries_without_it(error):
    with patch("ctypes.CDLL", side_effect=error) as library:
        trim_malloc()
    assert library.called


def test_malloc_is_trimmed_after_each_group_of_names(source, tmp_path):
    with patch("xsap.linking.build.trim_malloc") as trim:
        built = build_small(source, RecordingNgrams(), tmp_path / "index")
    assert trim.call_count >= built.names // 4


# On the command line


@pytest.fixture(scope="module")
def small_model(tmp_path_factory, tiny_folder, sample_folder, codes):
    """(model, terminology of 200 rows, an index of both in shards of 40 names)."""
    from xsap.encoding.encoder import Encoder

    folder = tmp_path_factory.mktemp("model")
    terms = Terminology.load(sample_folder)
    Terminology.build(terms.names.slice(0, 200), terms.concepts)[0].save(folder / "terminology")
    build_index(
        folder / "terminology",
        Encoder.from_pretrained(tiny_folder),
        folder / "index",
        model_path=tiny_folder,
        languages=None,
        sizes=SHARDS_OF_40,
    )
    return tiny_folder, folder / "terminology", folder / "index"


def test_index_command_embeds_all_languages_by_default(small_model, tmp_path):
    model, terms, _ = small_model
    for options in ([], ["--languages", "en"]):
        with pytest.raises(SystemExit) as stop:
            run_app(
                app,
                "xsap",
                ["index", *map(str, (model, terms)), "--out", str(tmp_path / "index"), "--overwrite", *options],
            )
        assert stop.value.code == 0
        linker, names = Linker.load(tmp_path / "index"), Terminology.load(terms).names.to_pylist()
        concepts: dict[str, set[str]] = {}  # of names that are equal in any letter case
        for row in names:
            concepts.setdefault(normalize(row["name"], EXACT_MATCH), set()).add(row["concept_id"])
        own = [
            result.candidates[0].concept_id in concepts[normalize(row["name"], EXACT_MATCH)]
            for row, result in zip(names, linker.link([row["name"] for row in names], 1), strict=True)
        ]
        foreign = [same for row, same in zip(names, own, strict=True) if row["language"] != "en"]
        assert all(same for row, same in zip(names, own, strict=True) if row["language"] == "en")
        assert all(foreign) == (options == [])
        assert linker.index.languages == (("en",) if options else None)


RECORD_SHARDS = """
import os, sys
sys.path.insert(0, sys.argv[1])
from unittest.mock import patch
from tests.fixtures.builds import SHARDS_OF_40
from xsap.cli import app
from xsap.linking.build import build_index
from xsap.linking.shards import ShardFolder
from xsap.terminal import run
write, folder = ShardFolder.write, sys.argv[2]
def record(self, shard, vectors):
    with open(os.path.join(folder, os.environ["RANK"]), "a") as file:
        file.write(f"{shard} ")
    write(self, shard, vectors)
build_index.__kwdefaults__["sizes"] = SHARDS_OF_40
with patch("xsap.search.vectors.MIN_ROWS_WITH_CODES", 20), patch.object(ShardFolder, "write", record):
    run(app, "xsap", sys.argv[3:])
"""


@pytest.mark.parametrize("by", ["launch", pytest.param("torchrun", marks=pytest.mark.slow)])
def test_two_processes_build_one_index(small_model, tmp_path, run, launch, by):
    """Two of five shards are complete, one of each process."""
    from xsap.encoding.encoder import Encoder

    model, source, built = small_model
    script, out, third = tmp_path / "script.py", tmp_path / "two", tmp_path / "third"
    script.write_text(RECORD_SHARDS)
    encoder = Encoder.from_pretrained(model)
    build_index(source, encoder, third, languages=None, shard=(1, 3), sizes=SHARDS_OF_40)
    plan = Plan(**json.loads((third / "manifest.json").read_text())["plan"])
    ShardFolder(part_folder(out), plan).prepare()
    for shard in (0, 3):
        shutil.copy(ShardFolder(third, plan).file(shard), part_folder(out))
    words = [script, ROOT, tmp_path, "index", model, source, "--languages", "all", "--out", out]
    done = launch(2, *words) if by == "launch" else run(*TORCHRUN, 2, *words)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(" names of ") == 1
    assert done.stderr.rstrip().endswith("; resumed with 80 encoded earlier")
    assert len(Index.load(built).vectors) in range(161, 201)
    assert [(tmp_path / rank).read_text().split() for rank in ("0", "1")] == [["2", "4"], ["1"]]
    assert_same_files(out, built)


def test_reuse_with_a_real_model_matches_a_new_build_up_to_rounding(small_model, tmp_path):
    from xsap.encoding.encoder import Encoder

    model, source, built = small_model
    terms = Terminology.load(source)
    some = terms.names.filter(pa.array(np.arange(terms.names.num_rows) % 3 > 0))
    Terminology.build(some, terms.concepts)[0].save(tmp_path / "before")
    encoder = Encoder.from_pretrained(model)
    build_index(tmp_path / "before", encoder, tmp_path / "old", languages=None, model_path=model)
    new = build_index(source, encoder, tmp_path / "new", languages=None, reuse=tmp_path / "old", model_path=model)
    assert new.encoded > 40
    assert new.reused > 100
    reused, fresh = Index.load(tmp_path / "new"), Index.load(built)
    np.testing.assert_allclose(reused.vectors.take(slice(None)), fresh.vectors.take(slice(None)), atol=5e-7)
    assert (reused.names, reused.concepts) == (fresh.names, fresh.concepts)


def xsap(*words):
    with pytest.raises(SystemExit) as stop:
        run_app(app, "xsap", list(map(str, words)))
    return stop.value.code


def test_commands_index_and_merge(small_model, capsys):
    model, source, built = small_model
    words = ("index", model, source, "--languages", "all")
    with patch.dict(build_index.__kwdefaults__, sizes=SHARDS_OF_40):
        for i in (1, 2):
            assert xsap(*words, "--out", built.parent / f"part{i}", "--shard", f"{i}/2", "--max-memory", "64GB") == 0
        capsys.readouterr()
        assert xsap("merge", built.parent / "part2", built.parent / "part1", "--out", built.parent / "merged") == 0
        assert_same_files(built.parent / "merged", built)
        n, concepts = len(Index.load(built).vectors), Index.load(built).concepts.num_rows
        assert capsys.readouterr() == ("", f"{built.parent / 'merged'}: {n:,} names of {concepts:,} concepts\n")
        assert xsap(*words, "--out", built.parent / "new", "--reuse", built, "--vector-dtype", "int8") == 0
    assert capsys.readouterr().err.endswith(f"; reused {n:,}, encoded 0, removed 0 of the old index\n")
    assert Index.load(built.parent / "new").vectors.vector_dtype == "int8"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max-memory", "4 gigabytes"], "expected an amount of memory such as 4GB"),
        (["--max-memory", "1kB"], "in use already), found a limit of 0.0GB"),
        (["--shard", "5/2"], "expected a shard as i/N"),
        (["--vector-dtype", "float8"], "Invalid value for '--vector-dtype'"),
        (["--reuse", "nowhere"], "nowhere: expected an index folder, found nothing there"),
        (["--shard", "1/2", "--ann"], "add it to xsap merge"),
    ],
)
def test_index_reports_invalid_options_in_one_line(small_model, tmp_path, capsys, options, said):
    assert xsap("index", *small_model[:2], "--out", tmp_path / "index", *options) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), err[:7]) == ("", 1, "error: ")
    assert said in err
    assert not list(tmp_path.iterdir())


def test_second_build_of_one_folder_is_rejected_while_the_first_runs(source, tmp_path):
    class Second(Ngrams):
        """Tries the same build from within the first."""

        tried = False

        def encode(self, names, *, progress=False):
            if not self.tried and (tmp_path / ".index.part").is_dir():
                self.tried = True
                with pytest.raises(
                    ConfigError, match="another build is making .*index; wait for it, or choose another --out"
                ):
                    build_small(source, Ngrams(), tmp_path / "index")
            return super().encode(names)

    encoder, nested = Second(), tmp_path / "in" / "a" / "new" / "folder"
    build_small(source, encoder, tmp_path / "index")
    assert encoder.tried
    build_small(source, Ngrams(), nested)
    assert_same_files(tmp_path / "index", nested)
    assert {file.name for file in tmp_path.iterdir() if file.name.startswith(".")} == set()
