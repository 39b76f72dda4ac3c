"""Folders on disk: published atomically, checked by size and hash when they are opened, and locked against a second writer.

An artifact is a folder whose `manifest.json`, written last, names every file in it. It is made under a hidden name beside its final path, fsynced,
and takes that path in one step, so a reader sees the old folder or the complete new one. Other folders refer to a file by its sha256; its XXH3
(https://github.com/Cyan4973/xxHash), about ten times faster to compute, finds damage each time the folder is opened. The manifest ends with a hash of
itself. Changes to a file after it was opened and memory-mapped are not detected.
"""

import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar

import xxhash

from xsap.atomic import (
    TAKEN,
    check_replaceable,
    fsync_path,
    hold,
    named_in_errors,
    release,
    remove_unfinished,
    replace_folder,
    resolve_target,
    temporary_folder,
    temporary_name,
)
from xsap.errors import ArtifactError, ConfigError
from xsap.output_paths import check_output_path

MANIFEST = "manifest.json"
FORMAT = 3
_REMAKE = {  # kind of folder → the command that makes it
    "terminology": "xsap-prepare umls | omop | snomed | hpo | ontology | table | …",
    "split": "xsap-prepare split",
    "model": "accelerate launch xsap/train.py, or xsap shrink",
    "checkpoint": "accelerate launch xsap/train.py",
    "index": "xsap index MODEL TERMINOLOGY --out INDEX",
    "index-shards": "xsap index MODEL TERMINOLOGY --out INDEX",
}
_SEAL = "manifest_sha256"  # the manifest's last key: a hash of all the text before it
_BYTES_PER_READ = 1 << 22
_MAX_MANIFEST_BYTES = 1 << 26
_READS = 20  # of a folder that is replaced each time while it is read, before that is an error

T = TypeVar("T")


@contextmanager
def publish(path: Path | str, kind: str, metadata: dict[str, Any], *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder to fill; at the end of the block it gets a manifest and is renamed to `path`.

    If the block raises, nothing is left behind.

    Args:
        path: The folder's final path.
        kind: What the folder is: "terminology", "model", "index", …
        metadata: Further keys of the manifest; the block may still add to them.
        overwrite: Whether a folder of the same kind is replaced.

    Raises:
        ArtifactError: If `path` exists and may not be replaced.
    """
    path = check_output_path(path, "a folder").absolute()
    check_can_write(path, overwrite=overwrite, kind=kind)
    target = resolve_target(path)
    with temporary_folder(target) as folder:
        yield folder
        _seal(folder, {"kind": kind, "format": FORMAT, **metadata})
        check_can_write(path, overwrite=overwrite, kind=kind)  # another process may have written there meanwhile
        replace_folder(folder, target, overwrite=overwrite)


def check_can_write(path: Path | str, *, overwrite: bool, kind: str | None = None) -> None:
    """Raise ArtifactError if `publish` would not replace what exists at `path`; to be called before hours of work, not after.

    Args:
        path: The folder's final path.
        overwrite: Whether a folder of the same kind may be replaced.
        kind: What the new folder is. A folder of another kind, which may be its input, is never replaced.
    """
    path = check_output_path(path, "a folder")
    empty = path.is_dir() and not any(path.iterdir())
    if path.exists() and not empty and not overwrite:
        raise ArtifactError(f"{path} exists already; choose another path, or replace it with --overwrite")
    if path.exists() and not empty and not (path / MANIFEST).is_file():
        raise ArtifactError(
            f"{path} was not made by xsap (it has no {MANIFEST}), so it is not replaced; choose another path"
        )
    if path.exists() and not empty and kind is not None and (found := read_kind(path)) not in (kind, None):
        raise ArtifactError(
            f"{path} is {_a(found or '')} folder, which {_a(kind)} folder doesn't replace; choose another path, or remove it"
        )
    check_replaceable(path, str(path / (kind or "new")))


def read_kind(folder: Path) -> str | None:
    """The kind that a folder's manifest states; None if it can't be read."""
    try:
        return str(json.loads((folder / MANIFEST).read_bytes())["kind"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _seal(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest of a folder whose files are complete; files and folders get the modes that the process's umask leaves."""
    files = {}
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        files[file.relative_to(folder).as_posix()] = _entry(file)
        fsync_path(file)
    manifest_file = folder / MANIFEST
    manifest_file.write_text(sealed_text(manifest | {"files": files}), encoding="utf-8")
    as_opened = {True: stat.S_IMODE(folder.stat().st_mode), False: stat.S_IMODE(manifest_file.stat().st_mode)}
    for entry in folder.rglob("*"):  # safetensors and tempfile make files that only their owner may read
        if stat.S_IMODE(entry.stat().st_mode) != as_opened[entry.is_dir()]:
            entry.chmod(as_opened[entry.is_dir()])
    for entry in [manifest_file, *(p for p in folder.rglob("*") if p.is_dir()), folder]:
        fsync_path(entry)


def update_files(path: Path | str, kind: str, files: dict[str, str | None]) -> None:
    """Add text files to a published folder, or replace or remove those that an earlier call added; all others stay as they are.

    A file's name in the folder includes its hash, so that the old manifest and the new one each name complete files at any time.

    Args:
        path: The folder.
        kind: What the folder is.
        files: Name → content; None removes the file.

    Raises:
        ArtifactError: For a folder that is missing or damaged.
        ConfigError: Another process updates it.
    """
    path = Path(path)
    with _held(path):
        manifest = open_artifact(path, kind)
        del manifest[_SEAL]
        old = [name for name in manifest["files"] if any(_updated_name(name, file) for file in files)]
        entries = {name: entry for name, entry in manifest["files"].items() if name not in old}
        for file, content in files.items():
            if content is not None:
                stem, ending = file.split(".")
                named = f"{stem}-{_sha256(content)[:12]}.{ending}"
                with write_atomically(path / named) as stream:
                    stream.write(content)
                entries[named] = _entry(path / named)
        with write_atomically(path / MANIFEST) as stream:
            stream.write(sealed_text(manifest | {"files": entries}))
        for member in path.iterdir():  # what was replaced, and what an update that was killed left behind
            if member.name not in entries and any(_updated_name(member.name, file) for file in files):
                member.unlink()


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Keep other processes from updating a folder. Raises ConfigError if one of them does."""
    lock = hold(folder)
    try:
        if lock == TAKEN:
            raise ConfigError(f"{folder}: another process updates it; try again when that is done")
        yield
    finally:
        release(lock)


def find_updated(manifest: dict[str, Any], file: str) -> str | None:
    """The name that a file added by `update_files` has in its folder; None if there is none."""
    return next((name for name in manifest["files"] if _updated_name(name, file)), None)


def _updated_name(name: str, file: str) -> bool:
    stem, ending = file.split(".")
    return name.startswith(f"{stem}-") and name.endswith(f".{ending}")


def sha256_of(file: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _entry(file: Path) -> dict[str, Any]:
    return {"size": file.stat().st_size, "sha256": sha256_of(file), "xxh3": _xxh3_of(file)}


def sealed_text(manifest: dict[str, Any]) -> str:
    """A manifest's text with its hash of itself, in place of one that it has already."""
    manifest = {key: value for key, value in manifest.items() if key != _SEAL}
    text = json.dumps(manifest, indent=1, ensure_ascii=False).removesuffix("\n}")
    return f'{text},\n "{_SEAL}": "{_sha256(text)}"\n}}\n'


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _xxh3_of(file: Path) -> str:
    digest = xxhash.xxh3_128()
    buffer = memoryview(bytearray(_BYTES_PER_READ))
    with file.open("rb", buffering=0) as stream:
        while size := stream.readinto(buffer):
            digest.update(buffer[:size])
    return digest.hexdigest()


def read_manifest(path: Path | str, kind: str) -> dict[str, Any]:
    """The manifest of a folder, after a check that its files are there with their sizes; their bytes are not read.

    Raises:
        ArtifactError: If the folder is missing, of another kind or format, or incomplete.
    """
    path = Path(path)
    if not path.exists():
        raise ArtifactError(f"{path}: expected {_a(kind)} folder, found nothing there. Is the path right?")
    file = path / MANIFEST
    if not file.is_file():
        raise ArtifactError(f"{path}: expected {_a(kind)} folder made by xsap, found no {MANIFEST} in it")
    try:
        with file.open("rb") as stream:
            text = stream.read(_MAX_MANIFEST_BYTES).decode("utf-8")
        manifest: dict[str, Any] = json.loads(text)
        found, version, files = str(manifest["kind"])[:80], manifest["format"], manifest["files"]
        sizes = {name: _size_of(name, entry) for name, entry in files.items()} if version == FORMAT else {}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise ArtifactError(
            f"{file}: expected a readable manifest, found a damaged one; create the folder again"
        ) from None
    if found != kind:
        raise ArtifactError(f"{path}: expected {_a(kind)} folder, found {_a(found)} folder")
    if version != FORMAT:
        command = f": {_REMAKE[kind]}" if kind in _REMAKE else ""
        raise ArtifactError(
            f"{path}: expected {_a(kind)} folder of format {FORMAT}, found format {version!r:.40}; "
            f"create it again with this version of xsap{command}"
        )
    body, _, _ = text.rpartition(f',\n "{_SEAL}": ')
    if text != f'{body},\n "{_SEAL}": "{_sha256(body)}"\n}}\n':
        raise ArtifactError(
            f"{file}: its content does not match its own hash; the {kind} folder is damaged; create it again"
        )
    for name, size in sizes.items():
        member = path / name
        if not member.is_file():
            raise ArtifactError(
                f"{member}: listed in the manifest, but missing; the {kind} folder is damaged; create it again"
            )
        if member.stat().st_size != size:
            raise ArtifactError(
                f"{member}: expected {size:,} bytes, found {member.stat().st_size:,}; the {kind} folder is damaged; create it again"
            )
    return manifest


def _size_of(name: str, entry: dict[str, Any]) -> int:
    """The size that a manifest states of a file. Raises ValueError for an entry that no manifest of ours has, such as a path out of the folder."""
    parts = PurePosixPath(name).parts
    inside = parts and ".." not in parts and not name.startswith("/") and not set(name) & set("\\:\0")
    size, hashes = entry["size"], (entry["sha256"], entry["xxh3"])
    if not inside or type(size) is not int or size < 0 or not all(isinstance(value, str) and value for value in hashes):
        raise ValueError(name)
    return size


def read_unchanged(path: Path | str, load: Callable[[], T]) -> T:
    """What `load` reads from a folder; it is called again if the folder was replaced or updated meanwhile, so that it never mixes two.

    Args:
        path: The folder.
        load: Opens everything that it reads later, for files that are open stay those of the folder that it saw.

    Raises:
        ArtifactError: The folder was replaced each time.
    """
    for attempt in range(_READS):
        before = _identity(Path(path))
        try:
            loaded = load()
        except Exception:
            if _identity(Path(path)) == before:
                raise
        else:
            if _identity(Path(path)) == before:
                return loaded
        time.sleep(0.01 * attempt)
    raise ArtifactError(f"{path} was replaced {_READS} times while it was read; try again when nothing writes there")


def _identity(path: Path) -> tuple[int, int, bytes] | None:
    """What tells a folder from the one that replaces it; None if there is none."""
    try:
        with (path / MANIFEST).open("rb") as stream:
            return path.stat().st_ino, os.fstat(stream.fileno()).st_ino, stream.read(_MAX_MANIFEST_BYTES)
    except OSError:
        return None


def open_artifact(path: Path | str, kind: str) -> dict[str, Any]:
    """`read_manifest`, which also checks the hash of every file. Raises ArtifactError at the first that differs."""
    manifest = read_manifest(path, kind)
    for name, entry in manifest["files"].items():
        if _xxh3_of(Path(path) / name) != entry["xxh3"]:
            raise ArtifactError(
                f"{Path(path) / name}: its hash is not the manifest's; the {kind} folder is damaged; create it again"
            )
    return manifest


def _a(kind: str) -> str:
    return f"an {kind}" if kind.startswith(tuple("aeiou")) else f"a {kind}"


def manifest_hash(manifest: dict[str, Any]) -> str:
    """One sha256 of all files that a manifest names, by which other folders refer to it."""
    lines = [f"{name}\0{entry['sha256']}\n" for name, entry in sorted(manifest["files"].items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@contextmanager
def write_atomically(path: Path | str, *, binary: bool = False) -> Iterator[IO[Any]]:
    """A single file, UTF-8 unless binary, written under a temporary name and renamed at the end of the block; nothing is left if it raises."""
    target = resolve_target(check_output_path(path, "a file"))
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(target)
    aside, lock = temporary_name(target), None
    try:
        opened = aside.open("xb") if binary else aside.open("x", encoding="utf-8", newline="")
        with named_in_errors(target), opened as stream:
            lock = hold(aside)
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        aside.rename(target)
        fsync_path(target.parent)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    finally:
        release(lock)


@contextmanager
def file_lock(file: Path, busy: str) -> Iterator[None]:
    """Hold the lock of a file during the block; the system releases it when the process ends, however it ends.

    Where the system or the file system has no such locks, nothing is held.

    Args:
        file: The lock's file; it is created, with its folder, and not removed.
        busy: The message of the error if another process holds the lock.

    Raises:
        ConfigError: If another process holds the lock.
    """
    try:
        import fcntl
    except ImportError:  # on Windows
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    while True:
        lock = os.open(file, os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise ConfigError(busy) from None
        except OSError:
            break
        try:
            if os.path.samestat(os.fstat(lock), file.stat()):
                break
        except FileNotFoundError:
            pass
        os.close(lock)  # the process that held it has removed the file meanwhile: what was locked is no longer there
    try:
        yield
    finally:
        os.close(lock)
