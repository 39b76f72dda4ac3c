"""Crash consistency: whatever fails while a folder or a file is written, the old one is whole, or the new one is, and the next run succeeds."""

import errno
import multiprocessing
import os
import resource
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.fixtures.failing_disk import has_compiler, run_work
from xsap import artifacts
from xsap.artifacts import MANIFEST, open_artifact, publish, read_unchanged, update_files, write_atomically
from xsap.errors import ArtifactError, ConfigError, XsapError

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
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
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


def test_readers_of_a_folder_that_is_replaced_200_times_see_one_version_whole(tmp_path):
    path, stop = tmp_path / "x", multiprocessing.get_context("fork").Event()
    save(path, "000000")
    os_fsync, os.fsync = os.fsync, lambda _: None
    writer = multiprocessing.get_context("fork").Process(target=replace_until, args=(path, stop))
    writer.start()
    try:
        seen = [read_unchanged(path, lambda: read(path)) for _ in range(200)]
    finally:
        stop.set()
        writer.join()
        os.fsync = os_fsync
    assert seen == sorted(seen)
    assert len(set(seen)) > 20


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
