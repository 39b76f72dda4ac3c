"""Hostile folders: rewritten manifests with right hashes, and files whose content lies. An error of one line, never a crash, a hang or code that runs."""

import io
import json
import os
import pickle
import shutil
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.fixtures.builds import Ngrams
from tests.fixtures.dictionaries import terminology
from xsap import artifacts
from xsap.artifacts import MANIFEST, open_artifact, publish
from xsap.errors import ArtifactError, XsapError
from xsap.linking.build import build_index, merge_shards
from xsap.linking.calibration import Calibration, LogisticModel, RiskCoverageCurve
from xsap.linking.dictionary import NameSource
from xsap.linking.dictionary_files import DICTIONARY_FILES
from xsap.linking.index import Index
from xsap.terms.terminology import Terminology


def reseal(folder, change=lambda manifest: None):
    """Write a manifest anew whose hashes are right."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    del manifest[artifacts._SEAL]
    manifest["files"] = {
        name: artifacts._entry(folder / name) for name in manifest["files"] if (folder / name).is_file()
    }
    change(manifest)
    (folder / MANIFEST).write_text(artifacts.sealed_text(manifest), encoding="utf-8")


def outcome(work):
    """What `work` raises, in words."""
    try:
        work()
    except XsapError as error:
        return f"one line: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def outcomes(works):
    """What each of some functions raises. They run in one child process, which may not crash."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        with os.fdopen(write_end, "w") as stream:
            for work in works:
                stream.write(json.dumps(outcome(work)[:5000]) + "\n")
                stream.flush()
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as stream:
        found = [json.loads(line) for line in stream]
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return found if status == 0 else [*found, f"the process ended with {status}"]


def assert_refused(*works):
    """Each is refused in one short line."""
    found = outcomes(works)
    assert [text for text in found if not text.startswith("one line: ") or "\n" in text or len(text) > 1000] == []
    assert len(found) == len(works)


def opened(index, file, content):
    """A function that replaces a file of an index, with right hashes, and opens the index."""

    def work():
        (index / file).write_bytes(content)
        reseal(index)
        Index.load(index)

    return work


@pytest.fixture
def thing(tmp_path):
    with publish(tmp_path / "thing", "thing", {}) as folder:
        (folder / "a").write_bytes(b"1")
    (tmp_path / "secret").write_bytes(b"1")
    return tmp_path / "thing"


NAMES = [
    "../secret",
    "a/../../secret",
    "/etc/hostname",
    "/dev/zero",
    "",
    ".",
    "..",
    "a\0",
    "\\\\server\\x",
    "C:\\x",
    "C:x",
]


@pytest.mark.parametrize("name", NAMES)
def test_manifest_with_a_path_out_of_its_folder_is_refused(thing, name):
    def change(manifest):
        manifest["files"][name] = manifest["files"]["a"]

    reseal(thing, change)
    with pytest.raises(ArtifactError, match="expected a readable manifest, found a damaged one"):
        open_artifact(thing, "thing")


@pytest.mark.parametrize("size", [-1, 1.0, 1.5, "1", True, None, [1], 10**400, float("nan")])
def test_manifest_with_a_size_that_is_no_count_is_refused(thing, size):
    reseal(thing, lambda manifest: manifest["files"]["a"].update(size=size))
    with pytest.raises(ArtifactError):
        open_artifact(thing, "thing")


@pytest.mark.parametrize("where", ["a", MANIFEST])
@pytest.mark.parametrize("target", ["/dev/zero", "/dev/urandom", "pipe", "folder"])
def test_member_that_is_no_regular_file_is_refused_unread(thing, where, target):
    (thing / where).unlink()
    if target == "pipe":
        os.mkfifo(thing / where)
    elif target == "folder":
        (thing / where).mkdir()
    else:
        (thing / where).symlink_to(target)
    with pytest.raises(ArtifactError, match="missing|found no manifest"):
        open_artifact(thing, "thing")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"kind": "thing", "format": 3, "files": ' + "[" * 100_000,
        '{"kind": "thing", "format": ' + "9" * 1_000_000 + ', "files": {}}',
        '{"kind": "thing", "format": "' + "9" * 1_000_000 + '", "files": {}}',
        '{"kind": "' + "x" * 1_000_000 + '", "format": 3, "files": {}}',
        '{"kind": "thing", "format": 3, "files": {"a": {"size": 1e999}}}',
        '{"kind": ["thing"], "kind": "other", "format": 3, "files": {}}',
        '{"kind": "thing", "format": 3, "files": {"\\ud800": {"size": 1, "sha256": "0", "xxh3": "0"}}}',
    ],
    ids=range(9),
)
def test_manifest_of_hostile_json_is_refused_in_one_short_line(thing, text):
    (thing / MANIFEST).write_text(text)
    assert_refused(lambda: open_artifact(thing, "thing"))


def test_manifest_larger_than_any_is_not_read_whole(thing):
    os.truncate(thing / MANIFEST, 1 << 40)  # a sparse file of a terabyte
    assert_refused(lambda: open_artifact(thing, "thing"))


# An index


@pytest.fixture(scope="session")
def whole_index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    rows = [(f"C{i}", "en", f"name {i}") for i in range(6)]
    index = Index.build(terminology(*rows), Ngrams(), languages=None)
    index.save(folder / "index")
    odds = LogisticModel((0.5, 0.1), (0.2, 0.1), (1.0, 0.5), -0.3, {"de": 0.1}, 0.1)
    curve = RiskCoverageCurve.from_sample(np.linspace(0, 1, 200), np.arange(200) > 60, [str(i) for i in range(200)])
    Index.load(folder / "index").with_fusion_weight(0.2).with_calibration(Calibration(odds, curve))
    return folder / "index"


@pytest.fixture
def index(whole_index, tmp_path):
    shutil.copytree(whole_index, tmp_path / "index")
    return tmp_path / "index"


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def header(shape, descr="<f4", order=False):
    """An .npy file of 64 bytes whose header states a shape."""
    text = repr({"descr": descr, "fortran_order": order, "shape": shape}).encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(64)


class Evil:
    def __reduce__(self):
        return os.mkdir, (str(Path("/tmp") / f"unpickled-{os.getpid()}"),)


ARRAYS = ["vectors.npy", "bounds.npy", *(name for name in DICTIONARY_FILES if name.endswith(".npy"))]
CONTENTS = {
    "pickled objects": npy(np.array([Evil()], object)),
    "a pickle": pickle.dumps([1, 2, 3]),
    "a dimension of 10^12": header((6, 10**12)),
    "10^18 rows": header((10**18,), "<i8"),
    "a product that overflows": header((2**40, 2**40)),
    "a shape beyond 64 bits": header((10**30,)),
    "negative counts": header((-6, -32)),
    "a shape that is code": header("__import__('os').getpid()"),
    "no header": b"\x93NUMPY\x01\x00\xff\xff",
    "another version": b"\x93NUMPY\x09\x00" + bytes(200),
    "column order": header((2, 3), order=True),
    "structured values": header((2,), [("a", "<i4"), ("b", "O")]),
    "no file": b"",
    "an archive": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("file", ARRAYS)
def test_index_with_a_hostile_array_is_refused(index, file):
    assert_refused(*(opened(index, file, content) for content in CONTENTS.values()))
    assert not list(Path("/tmp").glob("unpickled-*"))


def changed(entries, key, value):
    """A copy of entries with another first number."""
    entries = entries.copy()
    entries[key][0] = value
    return entries


WRONG = {
    "starts.npy": lambda a: [a[::-1].copy(), a + 1, np.where(np.arange(len(a)) == 2, 1 << 40, a), a - (a > 3) * 9],
    "name_concepts.npy": lambda a: [a + 1, a - 1, np.full_like(a, 2**31 - 1), a.astype(np.int64), a[:-1]],
    "hashes.npy": lambda a: [a[::-1].copy(), a.astype(np.int64), a[:-1]],
    "entries.npy": lambda a: [
        *(changed(a, key, value) for key in ("row", "concept") for value in (6, -1, 2**31 - 1)),
        a[:-1],
    ],
    "preferences.npy": lambda a: [a[:-1], a.astype(np.int64)],
    "bounds.npy": lambda a: [a * np.nan, a + np.inf, -1 - a, a.astype(np.float32), a[:1]],
    "vectors.npy": lambda a: [a[:-1], a[:, :-1].copy(), a.astype(np.float64), a.astype(np.int8), a.ravel(), a.T.copy()],
}


@pytest.mark.parametrize("file", WRONG)
def test_index_with_numbers_out_of_range_is_refused(index, file):
    assert_refused(*(opened(index, file, npy(array)) for array in WRONG[file](np.load(index / file))))


def arrow(table):
    stream = io.BytesIO()
    with pa.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table)
    return stream.getvalue()


OFFSETS = [[0, 1, 2, 3, 4, 5, 2**31 - 1], [0, 5, 4, 3, 2, 1, 6], [0, -5, 2, 3, 4, 5, 6], [-(2**31)] * 7, [10**6] * 7]


@pytest.mark.parametrize("column", [0, 3])
@pytest.mark.parametrize("file", ["names", "concepts"])
def test_index_with_a_hostile_table_is_refused(index, file, column):
    """Offsets of strings and lists out of their buffers, descending or negative; invalid UTF-8; nulls; other columns; no table."""
    whole = pa.ipc.open_file(index / f"{file}.arrow").read_all()
    assert (n := whole.num_rows) == 6
    raw = arrow(whole)
    offsets = whole.column(column).chunk(0).buffers()[1].to_pybytes()[: 4 * (n + 1)]
    assert raw.count(offsets) >= 1
    contents = [raw.replace(offsets, np.array(other, np.int32).tobytes()) for other in OFFSETS]
    if column == 0:
        text = whole.column(0)[0].as_py().encode()
        contents.append(raw.replace(text, b"\xff" * len(text)))
        nulls = pa.array([None] * n, pa.string())
        contents.append(arrow(whole.set_column(0, whole.schema.field(0), nulls)))
        contents += [arrow(whole.drop_columns([whole.schema.names[0]])), arrow(whole.slice(1))]
        contents += [b"", b"ARROW1\0\0", raw[:-7], pickle.dumps(1), b"\xff" * len(raw)]
    assert_refused(*(opened(index, f"{file}.arrow", content) for content in contents))


def test_index_with_any_bytes_changed_and_right_hashes_never_crashes(index):
    """Bytes of the tables are overwritten at random; what still opens gives names as text."""
    rng = np.random.default_rng(0)
    files = sorted(file for file in index.iterdir() if file.suffix in (".arrow", ".npy"))

    def use():
        file = files[rng.integers(len(files))]
        before = file.read_bytes()
        changed = bytearray(before)
        for at in rng.integers(len(changed), size=4):
            changed[at] = rng.choice([0, 1, 127, 128, 255])
        file.write_bytes(changed)
        reseal(index)
        try:
            found = Index.load(index)
            found.names.to_pylist(), found.concepts.to_pylist()
        finally:
            file.unlink()  # what is mapped must not change
            file.write_bytes(before)

    assert {text.split(":")[0] for text in outcomes([use] * 100)} == {"one line", "no error"}


MANIFESTS = {
    "dimension": [10**12, -1, 0, "32", None, 32.5],
    "count": [10**12, -6, "6", None, 7],
    "vector_dtype": ["float64", "int8", None, 3],
    "languages": [3, True, {"en": 1}, [[1]]],
    "model": [None, [], {}, {"text": {"case": "upper"}}, "m"],
}


@pytest.mark.parametrize("key", MANIFESTS)
def test_index_with_a_hostile_manifest_is_refused_or_opens(index, key):
    def work(value):
        reseal(index, lambda manifest: manifest.update({key: value}))
        Index.load(index)

    found = outcomes([lambda value=value: work(value) for value in MANIFESTS[key]])
    assert {text.split(":")[0] for text in found} <= {"one line", *(["no error"] if key == "languages" else [])}
    assert len(found) == len(MANIFESTS[key])


def test_index_without_one_of_its_files_in_the_manifest_is_refused(index):
    whole = json.loads((index / MANIFEST).read_text())["files"]

    def work(name):
        reseal(index, lambda manifest: manifest.update(files={key: whole[key] for key in whole if key != name}))
        Index.load(index)

    names = [name for name in whole if not name.startswith(("calibration", "fusion"))]
    assert_refused(*(lambda name=name: work(name) for name in names))


@pytest.mark.parametrize("stem", ["calibration", "fusion"])
def test_index_with_hostile_fitted_numbers_is_refused(index, stem):
    (file,) = index.glob(f"{stem}-*.json")
    whole = json.loads(file.read_text())
    texts = [
        "",
        "null",
        "3",
        "[" * 100_000,
        "{}",
        '{"fusion_weight": NaN}',
        '{"fusion_weight": 1e400}',
        '{"fusion_weight": -1}',
    ]
    texts += ['{"fusion_weight": "x"}', '{"fusion_weight": {}}', '{"format": 1e999}', "\ud800"]
    texts += [json.dumps(whole | {key: value}) for key in whole for value in (None, -1, float("nan"), [], "x", {})]
    assert_refused(*(opened(index, file.name, text.encode("utf-8", "surrogatepass")) for text in texts))


# A part of an index, and a terminology

PLANS = {
    "names": [10**15, -1, 0, "x", None, 1.5],
    "dimension": [10**12, -1, "x", None],
    "rows_per_shard": [0, -1, None, "x"],
    "model": [None, {}, 3],
}
PARTS = {
    "part": [None, [], [0, 1], [2, 1], [1, 10**9], "11", [1.0, 1]],
    "shards": [None, [5], [-1], ["0"], [0, 0], [[]]],
}


def test_part_with_a_hostile_manifest_is_refused(tmp_path):
    terminology(("C1", "en", "one"), ("C2", "de", "zwei")).save(tmp_path / "t")
    build_index(tmp_path / "t", Ngrams(), tmp_path / "part", languages=None, shard=(1, 1))
    merge_shards([tmp_path / "part"], tmp_path / "merged")

    def work(change):
        shutil.rmtree(tmp_path / "changed", ignore_errors=True)
        shutil.copytree(tmp_path / "part", tmp_path / "changed")
        reseal(tmp_path / "changed", change)
        merge_shards([tmp_path / "changed"], tmp_path / "other", overwrite=True)

    plans = [lambda m, k=k, v=v: m["plan"].update({k: v}) for k, values in PLANS.items() for v in values]
    parts = [lambda m, k=k, v=v: m.update({k: v}) for k, values in PARTS.items() for v in values]
    gone = [lambda m, k=k: m.pop(k) for k in ("plan", "part", "shards", "dropped", "model_path")]
    assert_refused(*(lambda change=change: work(change) for change in [*plans, *parts, *gone]))


def test_terminology_with_hostile_tables_is_refused(tmp_path):
    rows = terminology(("C1", "en", "one"), ("C2", "de", "zwei"))
    for i, change in enumerate(
        [
            lambda f: (f / "names.parquet").write_bytes(b""),
            lambda f: (f / "names.parquet").write_bytes(b"PAR1" + bytes(50) + struct.pack("<I", 2**31) + b"PAR1"),
            lambda f: (f / "names.parquet").write_bytes(pickle.dumps([1])),
            lambda f: pq.write_table(pa.table({"concept_id": [1, 2]}), f / "names.parquet"),
            lambda f: pq.write_table(rows.names.drop_columns(["kind"]), f / "names.parquet"),
            lambda f: shutil.copy(f / "concepts.parquet", f / "names.parquet"),
            lambda f: (f / "names.parquet").unlink(),
            lambda f: (f / "concepts.parquet").unlink(),
        ]
    ):
        folder = tmp_path / str(i)
        rows.save(folder)
        change(folder)
        reseal(folder)
        assert_refused(lambda folder=folder: Terminology.load(folder))
        assert_refused(lambda folder=folder: NameSource.from_folder(folder))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["index", "terminology"])
def test_every_changed_byte_of_a_small_folder_is_found(whole_index, tmp_path, kind):
    folder = tmp_path / kind
    if kind == "index":
        shutil.copytree(whole_index, folder)
    else:
        terminology(("C1", "en", "one"), ("C2", "de", "zwei")).save(folder)
    for file in sorted(folder.iterdir()):
        before = file.read_bytes()
        for at in range(len(before)):
            file.write_bytes(before[:at] + bytes([before[at] ^ (1 << at % 8)]) + before[at + 1 :])
            with pytest.raises(ArtifactError):
                open_artifact(folder, kind)
            file.write_bytes(before[:at])
            with pytest.raises(ArtifactError):
                open_artifact(folder, kind)
        file.write_bytes(before)
    open_artifact(folder, kind)
