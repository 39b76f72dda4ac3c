"""Published folders, their manifests and hashes, files written atomically, and locks."""

import errno
import hashlib
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import xxhash

from tests.fixtures.commands import heed_interrupts
from tests.fixtures.failing_disk import has_compiler, run_work
from xsap import artifacts, atomic
from xsap.artifacts import (
    MANIFEST,
    check_can_write,
    file_lock,
    manifest_hash,
    open_artifact,
    publish,
    read_manifest,
    read_unchanged,
    sha256_of,
    update_files,
    write_atomically,
)
from xsap.errors import ArtifactError, ConfigError, XsapError

FILES = {"a.txt": b"old words", "deep/b.bin": bytes(range(64)), "empty": b""}


def make(path, files=FILES, **options):
    with publish(path, "thing", {"color": "grün"}, **options) as folder:
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
    return path


def fill_and_fail(file, error):
    file.write_bytes(b"1")
    raise error


def write_and_fail(stream, error):
    stream.write("new" * 100_000)
    raise error


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def assert_published(path, files):
    assert contents(path).keys() == {*files, MANIFEST}
    assert contents(path) | files == contents(path)
    open_artifact(path, "thing")


@pytest.fixture
def thing(tmp_path):
    return make(tmp_path / "thing")


@pytest.fixture(params=["exchange", "two renames"])
def in_one_step(request, monkeypatch):
    """Whether two folders can exchange their names in one system call; where they can't, two renames replace a folder."""
    if request.param == "two renames":
        monkeypatch.setattr(atomic, "exchange_folders", lambda left, right: False)
    return request.param == "exchange"


def test_manifest_names_every_file_with_size_and_hashes(thing):
    manifest = json.loads((thing / MANIFEST).read_text(encoding="utf-8"))
    assert manifest["files"] == {
        name: {
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "xxh3": xxhash.xxh3_128_hexdigest(content),
        }
        for name, content in FILES.items()
    }
    assert (manifest["kind"], manifest["format"], manifest["color"]) == ("thing", 3, "grün")
    assert open_artifact(thing, "thing") == read_manifest(thing, "thing") == manifest


def test_metadata_may_be_added_in_the_block(tmp_path):
    metadata = {}
    with publish(tmp_path / "x", "thing", metadata):
        metadata["count"] = 3
    assert open_artifact(tmp_path / "x", "thing")["count"] == 3


def test_publish_leaves_nothing_but_the_folder(tmp_path):
    make(make(tmp_path / "deep" / "thing"), {"new": b"1"}, overwrite=True)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["thing"]
    assert_published(tmp_path / "deep" / "thing", {"new": b"1"})


def test_relative_path_is_resolved_before_the_block_changes_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with publish("x", "thing", {}):
        os.chdir("elsewhere")
    assert read_manifest(tmp_path / "x", "thing")["kind"] == "thing"


def test_nothing_is_at_the_path_before_the_block_ends(tmp_path):
    with publish(tmp_path / "x", "thing", {}) as folder:
        (folder / "a").write_bytes(b"1")
        assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_publish_leaves_the_old_folder_after_an_exception(thing, error):
    with pytest.raises(error), publish(thing, "thing", {}, overwrite=True) as folder:
        fill_and_fail(folder / "half", error)
    assert_published(thing, FILES)
    assert list(thing.parent.iterdir()) == [thing]


def test_publish_leaves_no_new_folder_after_an_exception(tmp_path):
    with pytest.raises(ValueError), publish(tmp_path / "x", "thing", {}):
        raise ValueError
    assert not list(tmp_path.iterdir())


def test_publish_leaves_the_old_folder_after_metadata_that_is_not_json(thing):
    with pytest.raises(TypeError), publish(thing, "thing", {"bad": {1}}, overwrite=True):
        pass
    assert_published(thing, FILES)
    assert list(thing.parent.iterdir()) == [thing]


def test_old_folder_is_restored_after_an_exception_between_the_two_renames(thing, monkeypatch):
    rename = Path.rename
    monkeypatch.setattr(atomic, "exchange_folders", lambda left, right: False)

    def fail(self, target):
        if self.name.endswith(".new"):
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(KeyboardInterrupt):
        make(thing, {"new": b"1"}, overwrite=True)
    assert_published(thing, FILES)
    assert list(thing.parent.iterdir()) == [thing]


def dies_at(nth, work):
    """Run `work` in a forked process that ends without any clean-up at its nth rename, exchange or fsync; True if it got that far."""
    child = os.fork()
    if child == 0:
        try:
            left = iter(range(nth - 1))

            def counted(act):
                return lambda *words: act(*words) if next(left, None) is not None else os._exit(9)

            os.fsync, Path.rename, atomic.exchange_folders = map(
                counted, (os.fsync, Path.rename, atomic.exchange_folders)
            )
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_process_killed_at_any_point_of_publish_loses_no_folder(tmp_path, in_one_step):
    """The next writer of the same path finds the folder, old or new, and removes what was left beside it."""
    seen, nth, new = set(), 1, {"new": b"1"}
    while True:
        path = make(tmp_path / str(nth) / "thing")
        died = dies_at(nth, lambda path=path: make(path, new, overwrite=True))
        if path.exists():
            state = "new" if (path / "new").exists() else "old"
            assert_published(path, new if state == "new" else FILES)
        else:
            state = "none"
            (aside,) = path.parent.glob(".thing.*.old")
            assert_published(aside, FILES)
            with pytest.raises(ArtifactError, match="exists already"):
                make(path, {"newer": b"2"})
        make(path, {"newer": b"2"}, overwrite=True)
        assert_published(path, {"newer": b"2"})
        assert list(path.parent.iterdir()) == [path]
        seen.add(state)
        if not died:
            break
        nth += 1
    assert nth >= 5
    assert seen == ({"old", "new"} if in_one_step else {"old", "none", "new"})


def test_process_killed_at_any_point_of_write_atomically_leaves_the_old_or_the_new_file(tmp_path):
    seen, nth = set(), 1

    def write(file):
        with write_atomically(file) as stream:
            stream.write("new")

    while True:
        file = tmp_path / f"{nth}.txt"
        file.write_text("old")
        died = dies_at(nth, lambda file=file: write(file))
        seen.add(file.read_text())
        if not died:
            break
        nth += 1
    assert seen == {"old", "new"}


KILLED = """
import sys, time
from xsap.artifacts import publish
with publish(sys.argv[1], "thing", {}, overwrite=True) as folder:
    (folder / "half").write_bytes(b"1")
    print("now", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=lambda s: s.name)
def test_signal_during_publish_leaves_the_old_folder(thing, how):
    root = str(Path(artifacts.__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(thing)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": root},
        preexec_fn=heed_interrupts,
    ) as process:
        assert process.stdout.readline() == b"now\n"
        process.send_signal(how)
        assert process.wait(30) != 0
    assert_published(thing, FILES)
    visible = [p for p in thing.parent.iterdir() if how == signal.SIGINT or not p.name.startswith(".")]
    assert visible == [thing]


@contextmanager
def recorded_events(monkeypatch):
    """What is fsynced (inodes) and renamed (new paths) in the block, in order."""
    events, fsync, rename = [], os.fsync, Path.rename
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda fd: (events.append(os.fstat(fd).st_ino), fsync(fd)))
        patch.setattr(Path, "rename", lambda self, to: (events.append(Path(to)), rename(self, to)))
        yield events


def test_publish_fsyncs_everything_before_the_rename(tmp_path, monkeypatch):
    with recorded_events(monkeypatch) as events:
        make(tmp_path / "x")
    renamed = events.index(tmp_path / "x")
    inodes = {p: p.stat().st_ino for p in [tmp_path / "x", *(tmp_path / "x").rglob("*")]}
    assert set(inodes.values()) == set(events[:renamed])
    assert events.index(inodes[tmp_path / "x" / MANIFEST]) > max(
        events.index(inodes[tmp_path / "x" / name]) for name in FILES
    )
    assert tmp_path.stat().st_ino in events[renamed:]


def test_write_atomically_fsyncs_before_the_rename(tmp_path, monkeypatch):
    with recorded_events(monkeypatch) as events, write_atomically(tmp_path / "x") as stream:
        stream.write("1")
    assert events == [(tmp_path / "x").stat().st_ino, tmp_path / "x", tmp_path.stat().st_ino]


SOME_OR_ALL = pytest.mark.parametrize(
    "step", [pytest.param(9, id="one bit of each byte"), pytest.param(1, id="all bits", marks=pytest.mark.slow)]
)


@SOME_OR_ALL
@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_of_a_file_is_found(thing, name, step):
    for bit in range(0, len(FILES[name]) * 8, step):
        damaged = bytearray(FILES[name])
        damaged[bit // 8] ^= 1 << bit % 8
        (thing / name).write_bytes(damaged)
        with pytest.raises(ArtifactError, match=f"{name}: its hash is not the manifest's.*create it again"):
            open_artifact(thing, "thing")


@SOME_OR_ALL
def test_every_flipped_bit_of_the_manifest_is_found(thing, step):
    whole = (thing / MANIFEST).read_bytes()
    for bit in range(0, len(whole) * 8, step):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        (thing / MANIFEST).write_bytes(damaged)
        with pytest.raises(ArtifactError):
            read_manifest(thing, "thing")


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_every_truncation_and_addition_is_found(thing, name):
    whole = (thing / name).read_bytes()
    for damaged in [*(whole[:length] for length in range(len(whole))), whole + b"x"]:
        (thing / name).write_bytes(damaged)
        with pytest.raises(
            ArtifactError,
            match=rf"{name}: (expected [\d,]+ bytes, found [\d,]+|expected a readable manifest|its content does not match)",
        ):
            read_manifest(thing, "thing")


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_removed_file_is_named(thing, name):
    (thing / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        read_manifest(thing, "thing")


def test_read_manifest_does_not_read_the_files(thing):
    (thing / "a.txt").write_bytes(b"OLD WORDS")
    assert read_manifest(thing, "thing")["kind"] == "thing"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "model"}, "expected a thing folder, found a model folder"),
        ({"format": 2}, "expected a thing folder of format 3, found format 2; create it again"),
        ({"files": None}, "expected a readable manifest"),
        ({"files": {"a.txt": 3}}, "expected a readable manifest"),
        ({"kind": None}, "expected a thing folder, found a None folder"),
        ({"kind": ""}, "expected a thing folder, found a  folder"),
        ({"files": {"a.txt": {"size": 9}}}, "expected a readable manifest"),
        ({"files": {"a.txt": {"size": float("inf"), "sha256": "0", "xxh3": "0"}}}, "expected a readable manifest"),
        ({"files": {"a.txt": {"size": "many", "sha256": "0"}}}, "expected a readable manifest"),
        ({"files": {"a.txt": {"size": None, "sha256": "0", "xxh3": "0"}}}, "expected a readable manifest"),
        ({"files": {"a.txt": {"size": 9, "sha256": "0"}}}, "expected a readable manifest"),
        ({"color": "rot"}, "its content does not match its own hash"),
    ],
)
def test_manifest_of_another_kind_or_format_is_rejected(thing, change, message):
    manifest = json.loads((thing / MANIFEST).read_text())
    (thing / MANIFEST).write_text(json.dumps(manifest | change))
    with pytest.raises(ArtifactError, match=message):
        open_artifact(thing, "thing")


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b"null", b"\xff\xfe", b"{", b"[" * 100_000])
def test_unreadable_manifest_is_rejected(thing, content):
    (thing / MANIFEST).write_bytes(content)
    with pytest.raises(ArtifactError, match=f"{MANIFEST}: expected a readable manifest"):
        open_artifact(thing, "thing")


def test_missing_folder_and_other_folder_give_different_errors(tmp_path):
    with pytest.raises(ArtifactError, match="expected a thing folder, found nothing there"):
        open_artifact(tmp_path / "none", "thing")
    with pytest.raises(ArtifactError, match=f"expected a thing folder made by xsap, found no {MANIFEST}"):
        open_artifact(tmp_path, "thing")


def existing(tmp_path, what):
    path = tmp_path / "x"
    if what == "file":
        path.write_text("mine")
    elif what == "ours":
        make(path)
    elif what != "nothing":
        path.mkdir()
        if what == "foreign":
            (path / "thesis.tex").write_text("mine")
    return path


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(("what", "free", "replaced"), [("nothing", True, True), ("empty", True, True), ("ours", False, True), ("foreign", False, False), ("file", False, False)])  # fmt: skip
def test_only_folders_of_xsap_are_replaced_and_only_with_overwrite(tmp_path, what, free, replaced, overwrite):
    path = existing(tmp_path, what)
    if replaced if overwrite else free:
        check_can_write(path, overwrite=overwrite)
        assert_published(make(path, {"new": b"1"}, overwrite=overwrite), {"new": b"1"})
        return
    before = {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")}
    for attempt in (check_can_write, make):
        with pytest.raises(
            ArtifactError, match="was not made by xsap" if overwrite else "exists already; .*--overwrite"
        ):
            attempt(path, overwrite=overwrite)
    assert {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")} == before


def test_folder_of_another_kind_is_never_replaced(tmp_path):
    thing = make(tmp_path / "thing")
    for overwrite in (False, True):
        with pytest.raises(
            ArtifactError,
            match="a thing folder, which an index folder doesn't replace" if overwrite else "exists already",
        ):
            check_can_write(thing, overwrite=overwrite, kind="index")
        with pytest.raises(ArtifactError), publish(thing, "index", {}, overwrite=overwrite):
            raise AssertionError("it was opened")
    open_artifact(thing, "thing")
    check_can_write(thing, overwrite=True, kind="thing")
    (thing / "manifest.json").write_text("{}")
    check_can_write(thing, overwrite=True, kind="index")  # a damaged one


def test_file_that_the_manifest_does_not_name_is_ignored(thing):
    before = manifest_hash(open_artifact(thing, "thing"))
    (thing / "notes.txt").write_text("mine")
    assert manifest_hash(open_artifact(thing, "thing")) == before


def test_manifest_hash_depends_on_names_and_bytes_only(tmp_path):
    def hash_of(name, files, **metadata):
        with publish(tmp_path / name, "thing", metadata) as folder:
            for file, content in files.items():
                (folder / file).write_bytes(content)
        return manifest_hash(open_artifact(tmp_path / name, "thing"))

    first = hash_of("1", {"a": b"x", "b": b"y"})
    files = open_artifact(tmp_path / "1", "thing")["files"]
    assert manifest_hash({"files": dict(reversed(files.items()))}) == first
    assert hash_of("2", {"b": b"y", "a": b"x"}, more=3) == first
    others = [
        hash_of(str(n), files)
        for n, files in enumerate([{"a": b"y", "b": b"x"}, {"a": b"x", "c": b"y"}, {"a": b"x"}, {}], start=3)
    ]
    assert len({first, *others}) == 5


def test_sha256_of_equals_hashlib(tmp_path):
    content = os.urandom(3_000_001)
    (tmp_path / "x").write_bytes(content)
    assert sha256_of(tmp_path / "x") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("binary", [False, True])
def test_write_atomically_creates_the_file_and_its_folders_only(tmp_path, binary):
    text = "a\nb\r\nγ\u2028\n"
    with write_atomically(tmp_path / "new" / "x", binary=binary) as stream:
        stream.write(text.encode() if binary else text)
        assert not (tmp_path / "new" / "x").exists()
    assert contents(tmp_path) == {"new/x": text.encode()}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, BrokenPipeError])
def test_write_atomically_leaves_the_old_file_after_an_exception(tmp_path, error):
    (tmp_path / "x").write_text("old")
    with pytest.raises(error), write_atomically(tmp_path / "x") as stream:
        write_and_fail(stream, error)
    assert contents(tmp_path) == {"x": b"old"}


def test_write_atomically_leaves_nothing_after_text_that_utf8_cannot_encode(tmp_path):
    with pytest.raises(UnicodeEncodeError), write_atomically(tmp_path / "x") as stream:
        stream.write("\ud800")
    assert not list(tmp_path.iterdir())


# Locks


HOLD = "import sys; from pathlib import Path; from xsap.artifacts import file_lock\nwith file_lock(Path(sys.argv[1]), 'busy'): print('held', flush=True); sys.stdin.read()"


def test_file_lock_is_held_by_one_process_until_it_ends(tmp_path):
    file = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="^somebody is there; wait$"), file_lock(file, "somebody is there; wait"):
            raise AssertionError("two hold it")
        other.kill()
    with file_lock(file, "busy"), pytest.raises(ConfigError, match="busy"), file_lock(file, "busy"):
        raise AssertionError("two hold it")
    with file_lock(tmp_path / "new" / "folder" / "lock", "busy"):
        pass
    with pytest.raises(KeyError), file_lock(file, "busy"):
        raise KeyError
    with file_lock(file, "busy"):
        pass


def test_file_lock_does_nothing_where_the_system_has_no_locks(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with file_lock(tmp_path / "lock", "busy"), file_lock(tmp_path / "lock", "busy"):
        assert not (tmp_path / "lock").exists()


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o027, 0o077])
def test_files_and_folders_have_the_modes_that_the_umask_leaves(tmp_path, mask):
    """Also those that were made by libraries that let only their owner read them, as safetensors and tempfile do."""
    before = os.umask(mask)
    try:
        with publish(tmp_path / "x", "thing", {}) as folder:
            (folder / "deep").mkdir(mode=0o700)
            for name in ("a", "deep/b"):
                os.close(os.open(folder / name, os.O_CREAT | os.O_WRONLY, 0o600))
        with write_atomically(tmp_path / "file") as stream:
            stream.write("x")
    finally:
        os.umask(before)
    modes = {p.relative_to(tmp_path).as_posix(): p.stat().st_mode & 0o777 for p in tmp_path.rglob("*")}
    folders = {"x", "x/deep"}
    files = {"file", "x/a", "x/deep/b", f"x/{MANIFEST}"}
    assert modes == dict.fromkeys(folders, 0o777 & ~mask) | dict.fromkeys(files, 0o666 & ~mask)


# Crash consistency: whatever fails while a folder or a file is written, the old one is whole, or the new one is, and the next run succeeds.


needs_compiler = pytest.mark.skipif(not has_compiler(), reason="needs Linux and gcc")

HELPERS = """
import shutil
from xsap.artifacts import open_artifact, publish, update_files, write_atomically

def save(path, version):
    with publish(path, "thing", {"version": version}, overwrite=True) as made:
        (made / "a").write_bytes(version.encode() * 1000)
        (made / "deep").mkdir()
        (made / "deep" / "b").write_bytes(version.encode())

def clear(folder):
    shutil.rmtree(folder)
    folder.mkdir()
"""
WORKS = {
    "publish": """
def prepare(folder):
    clear(folder)
    save(folder / "x", "old")
def work(folder):
    save(folder / "x", "new")
def state(folder):
    return open_artifact(folder / "x", "thing")["version"]
def after(folder):
    work(folder)
    return " ".join(sorted(p.name for p in folder.iterdir())) + " " + state(folder)
""",
    "update": """
def prepare(folder):
    clear(folder)
    save(folder / "x", "a")
    update_files(folder / "x", "thing", {"note.json": "old"})
def work(folder):
    update_files(folder / "x", "thing", {"note.json": "new"})
def state(folder):
    (name,) = [n for n in open_artifact(folder / "x", "thing")["files"] if n.startswith("note")]
    return (folder / "x" / name).read_text()
def after(folder):
    work(folder)
    return " ".join(sorted(p.name[:5] for p in (folder / "x").iterdir())) + " " + state(folder)
""",
    "file": """
def prepare(folder):
    clear(folder)
    (folder / "x").write_text("old")
def work(folder):
    with write_atomically(folder / "x") as stream:
        stream.write("new")
def state(folder):
    return (folder / "x").read_text()
def after(folder):
    work(folder)
    return " ".join(sorted(p.name for p in folder.iterdir())) + " " + state(folder)
""",
}
AFTER = {"publish": "x new", "update": "a deep manif note- new", "file": "x new"}


@needs_compiler
@pytest.mark.parametrize(
    "code", [pytest.param(errno.EIO, id="EIO", marks=pytest.mark.slow), pytest.param(errno.ENOSPC, id="ENOSPC")]
)
@pytest.mark.parametrize("work", WORKS)
def test_write_that_fails_at_any_system_call_leaves_the_old_or_the_new_version(tmp_path, work, code):
    report = run_work(tmp_path, HELPERS + WORKS[work], code)
    assert len(report) >= 4
    assert {kind for kind, *_ in report[:-1]} <= {"one line", "done"}
    assert report[-1][0] == "done"
    assert {state for _, _, state, _ in report} == {"old", "new"}
    assert {after for *_, after in report} == {AFTER[work]}


def save(path, version, **options):
    with publish(path, "thing", {"version": version}, overwrite=True, **options) as made:
        for name in ("a", "b", "c"):
            (made / name).write_text(version * 100)


def read(path):
    """The version that a folder has in its manifest and in every file."""
    manifest = open_artifact(path, "thing")
    versions = {(path / name).read_text() for name in manifest["files"]}
    assert versions == {manifest["version"] * 100}, "a mix of two versions"
    return manifest["version"]


def replace_until(path, stop):
    """Replace a folder until an event is set."""
    number = 0
    while not stop.is_set():
        number += 1
        save(path, f"{number:06}")


def test_reader_of_a_folder_that_is_replaced_again_and_again_sees_one_version_whole(tmp_path):
    path, stop = tmp_path / "x", multiprocessing.get_context("fork").Event()
    save(path, "000000")
    os_fsync, os.fsync = os.fsync, lambda _: None
    writer = multiprocessing.get_context("fork").Process(target=replace_until, args=(path, stop))
    writer.start()
    try:
        seen = []
        # Counted in versions rather than reads: how often the writer gets a turn is the system's choice.
        while len(set(seen)) < 20:
            assert writer.is_alive()
            seen.append(read_unchanged(path, lambda: read(path)))
    finally:
        stop.set()
        writer.join()
        os.fsync = os_fsync
    assert seen == sorted(seen)


def test_reader_reads_again_after_a_folder_was_replaced_while_it_read(tmp_path):
    save(tmp_path / "x", "old")
    versions = iter(["new", "newer"])

    def load():
        found = read(tmp_path / "x")
        if (version := next(versions, None)) is not None:
            save(tmp_path / "x", version)
        return found

    assert read_unchanged(tmp_path / "x", load) == "newer"


def test_reader_of_a_folder_that_never_rests_gets_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    with pytest.raises(ArtifactError, match="was replaced 20 times while it was read"):
        read_unchanged(tmp_path / "x", lambda: save(tmp_path / "x", str(time.monotonic_ns())))


def test_error_of_a_folder_that_was_not_replaced_is_raised_at_once(tmp_path):
    save(tmp_path / "x", "old")
    (tmp_path / "x" / "a").write_text("damaged")
    calls = []
    with pytest.raises(ArtifactError, match="expected 300 bytes"):
        read_unchanged(tmp_path / "x", lambda: calls.append(1) or read(tmp_path / "x"))
    assert calls == [1]


def test_two_writers_of_one_folder_leave_one_of_their_versions_whole(tmp_path):
    for number in range(10):
        path = tmp_path / str(number) / "x"
        writers = [threading.Thread(target=save, args=(path, version)) for version in ("left", "right")]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert read(path) in ("left", "right")
        assert list(path.parent.iterdir()) == [path]


def test_writer_without_overwrite_does_not_replace_what_appeared_meanwhile(tmp_path):
    with pytest.raises(ArtifactError, match="exists already"), publish(tmp_path / "x", "thing", {}):
        save(tmp_path / "x", "theirs")
    assert read(tmp_path / "x") == "theirs"
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


def test_two_updates_of_one_folder_do_not_lose_a_file(tmp_path, monkeypatch):
    save(tmp_path / "x", "old")
    sealed, refused = artifacts.sealed_text, []

    def interrupted(manifest):
        monkeypatch.setattr(artifacts, "sealed_text", sealed)
        with pytest.raises(ConfigError, match="another process updates it") as error:
            update_files(tmp_path / "x", "thing", {"note.json": "theirs"})
        refused.append(error)
        return sealed(manifest)

    monkeypatch.setattr(artifacts, "sealed_text", interrupted)
    update_files(tmp_path / "x", "thing", {"note.json": "mine"})
    assert refused
    (name,) = [name for name in open_artifact(tmp_path / "x", "thing")["files"] if name.startswith("note")]
    assert (tmp_path / "x" / name).read_text() == "mine"


def test_lock_of_a_file_that_was_removed_meanwhile_is_taken_again(tmp_path):
    """A waits at a lock file that B removes when it is done; C makes a new one. A and C must not both hold the lock."""
    from xsap.artifacts import file_lock

    opened = os.open

    def slow_open(path, *options):
        descriptor = opened(path, *options)
        if Path(path).name == "lock" and not removed:
            removed.append(Path(path).unlink())
        return descriptor

    removed = []
    os.open = slow_open
    try:
        with file_lock(tmp_path / "lock", "busy"), pytest.raises(ConfigError), file_lock(tmp_path / "lock", "busy"):
            raise AssertionError("two hold it")
    finally:
        os.open = opened
    assert removed


def test_unfinished_folders_of_killed_writers_are_removed_and_those_of_running_ones_stay(tmp_path):
    left = tmp_path / ".x.999999-0123abcd.new"
    (left / "deep").mkdir(parents=True)
    (tmp_path / ".x.notes.new").mkdir()
    (tmp_path / ".xy.1-0123abcd.new").mkdir()
    with publish(tmp_path / "x", "thing", {}):
        living = {p.name for p in tmp_path.iterdir()}
        with publish(tmp_path / "x", "thing", {}, overwrite=True):
            pass
        assert living <= {*(p.name for p in tmp_path.iterdir()), left.name}
        shutil.rmtree(tmp_path / "x")
    assert {p.name for p in tmp_path.iterdir()} == {"x", ".x.notes.new", ".xy.1-0123abcd.new"}


def test_leftover_file_of_a_killed_writer_is_removed(tmp_path):
    (tmp_path / ".out.csv.999999-0123abcd.new").write_text("half")
    with write_atomically(tmp_path / "out.csv") as stream, write_atomically(tmp_path / "out.csv") as other:
        other.write("other")
        stream.write("whole")
    assert [p.name for p in tmp_path.iterdir()] == ["out.csv"]
    assert (tmp_path / "out.csv").read_text() == "whole"


# Unusual targets


def test_symbolic_link_stays_and_what_it_points_to_is_replaced(tmp_path):
    (tmp_path / "far").mkdir()
    save(tmp_path / "far" / "x", "old")
    (tmp_path / "far" / "file").write_text("old")
    for name in ("x", "file"):
        (tmp_path / name).symlink_to(tmp_path / "far" / name)
    (tmp_path / "dangling").symlink_to(tmp_path / "far" / "new")
    save(tmp_path / "x", "new")
    save(tmp_path / "dangling", "new")
    with write_atomically(tmp_path / "file") as stream:
        stream.write("new")
    assert all((tmp_path / name).is_symlink() for name in ("x", "file", "dangling"))
    assert read(tmp_path / "far" / "x") == read(tmp_path / "far" / "new") == read(tmp_path / "x") == "new"
    assert (tmp_path / "far" / "file").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dangling", "far", "file", "x"]
    assert sorted(p.name for p in (tmp_path / "far").iterdir()) == ["file", "new", "x"]


@pytest.mark.parametrize("where", [".", "..", "../.."])
@pytest.mark.parametrize("empty", [True, False])
def test_current_folder_is_not_replaced(tmp_path, monkeypatch, where, empty):
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b" / "c")
    if not empty:
        (tmp_path / "a" / MANIFEST).write_text("{}")
    with pytest.raises(ArtifactError, match="current folder|was not made by xsap"):
        save(where, "new")
    assert Path.cwd().is_dir()


def test_mount_point_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == tmp_path / "x")
    (tmp_path / "x").mkdir()
    with pytest.raises(
        ArtifactError, match=r"a mount point, so it can't be replaced; choose a folder in it, such as .*x/thing"
    ):
        save(tmp_path / "x", "new")


def test_output_beside_its_target_needs_no_rename_across_file_systems(tmp_path, monkeypatch):
    """The folder for temporary files may be on another file system, whose files os.rename can't move."""
    seen, rename = [], Path.rename
    monkeypatch.setattr(
        Path, "rename", lambda self, to: (seen.append((self.parent, Path(to).parent)), rename(self, to))
    )
    save(tmp_path / "x", "new")
    with write_atomically(tmp_path / "file") as stream:
        stream.write("new")
    assert seen == [(tmp_path, tmp_path)] * 2


def as_nobody(work):
    """Run `work` in a child process without root's rights; its error as text."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            try:
                work()
                message = "done"
            except (XsapError, OSError) as error:
                message = f"{type(error).__name__}: {error}"
            os.write(write_end, message.encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as stream:
        found = stream.read()
    os.waitpid(child, 0)
    return found


def test_read_only_folder_is_refused_before_the_work(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o555)
    work = []

    def attempt():
        with publish(tmp_path / "locked" / "x", "thing", {}):
            work.append(1)

    assert "locked" in (found := as_nobody(attempt))
    assert "Permission denied" in found
    assert found.startswith("ConfigError")
    assert work == []


@pytest.mark.parametrize("limit", [1000, 20_000])
def test_file_size_limit_leaves_the_old_version(tmp_path, limit):
    """As on a full disk, a write stops in the middle of a file."""
    save(tmp_path / "x", "old")

    def attempt():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        with publish(tmp_path / "x", "thing", {}, overwrite=True) as folder:
            (folder / "large").write_bytes(bytes(100_000))

    assert "File too large" in as_nobody_but_same_user(attempt)
    assert read(tmp_path / "x") == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


def as_nobody_but_same_user(work):
    """`as_nobody` that keeps the user."""
    uid, os.geteuid = os.geteuid, lambda: 1
    try:
        return as_nobody(work)
    finally:
        os.geteuid = uid
