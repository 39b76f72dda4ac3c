"""Folders on disk: written aside, published at once, and checked by size and hash when they are opened.

An artifact is a folder whose `manifest.json`, written last, names every file in it. It is made under a hidden name beside its
place, fsynced, and renamed into place, so a reader sees the old folder, or the whole new one, or none. A file's sha256 is what other folders are
bound to; its XXH3 (github.com/Cyan4973/xxHash), ten times as fast to compute, finds damage each time it is opened. The manifest ends
with a hash of itself. What changes in a file after it was opened, and memory-mapped, is not looked for.

One process at a time in one place: by a lock that the system lets go when its holder dies.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import xxhash

from xsap.errors import ArtifactError, ConfigError

MANIFEST = "manifest.json"
FORMAT = 3
_REMAKE = {  # kind of folder → the command that makes it
    "terminology": "xsap-prepare umls | omop | snomed | hpo | ontology | table | …",
    "split": "xsap-prepare split",
    "model": "accelerate launch xsap/train.py, or xsap convert",
    "checkpoint": "accelerate launch xsap/train.py",
    "index": "xsap index MODEL TERMINOLOGY --out INDEX",
    "index-shards": "xsap index MODEL TERMINOLOGY --out INDEX",
}
_SEAL = "manifest_sha256"  # the manifest's last key: of all the text before it
_BUFFER = 1 << 22  # bytes read at once


@contextmanager
def publish(path: Path | str, kind: str, metadata: dict[str, Any], *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder to fill; on leaving it is completed with a manifest and takes its place as `path`.

    kind: what the folder is ("terminology", "model", …). facts: further keys of the manifest; the block may still add to them.
    If the block raises, nothing is left behind. Raises ArtifactError if `path` exists and may not be replaced.
    """
    path = Path(path).absolute()
    check_can_write(path, overwrite=overwrite, kind=kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.parent / f".{path.name}.{os.getpid()}.new"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        yield aside
        _seal(aside, {"kind": kind, "format": FORMAT, **metadata})
        _swap(aside, path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def check_can_write(path: Path | str, *, overwrite: bool, kind: str | None = None) -> None:
    """Raise ArtifactError if something stands at `path` that `publish` would not replace: ask before hours of work, not after.

    kind: what shall stand there; a folder of another kind, which may be what it is made of, is never replaced.
    """
    path = Path(path)
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists() and not overwrite:
        raise ArtifactError(f"{path} exists already; choose another place, or allow it to be replaced with --overwrite")
    if path.exists() and not (path / MANIFEST).is_file():
        raise ArtifactError(
            f"{path} was not made by xsap (it has no {MANIFEST}), so it is not replaced; choose another place"
        )
    if path.exists() and kind is not None and (found := _kind_of(path)) not in (kind, None):
        raise ArtifactError(
            f"{path} is {_a(found or '')} folder, which {_a(kind)} folder doesn't replace; choose another place, or remove it"
        )


def _kind_of(folder: Path) -> str | None:
    """What a manifest says that its folder is; None if it can't be read."""
    try:
        return str(json.loads((folder / MANIFEST).read_bytes())["kind"])
    except (ValueError, KeyError, TypeError):
        return None


def _seal(folder: Path, manifest: dict[str, Any]) -> None:
    files = {}
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        files[file.relative_to(folder).as_posix()] = _entry(file)
        _fsync(file)
    manifest_file = folder / MANIFEST
    manifest_file.write_text(_sealed(manifest | {"files": files}), encoding="utf-8")
    for entry in [manifest_file, *(p for p in folder.rglob("*") if p.is_dir()), folder]:
        _fsync(entry)


def update_files(path: Path | str, kind: str, files: dict[str, str | None]) -> None:
    """Add text files to a published folder, or replace or (None) remove those that an earlier call added; all others stay as they are.

    A file's name in the folder gets its hash, so that the old manifest and the new one each name whole files at any time. Raises
    ArtifactError for a folder that isn't whole.
    """
    path = Path(path)
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
        stream.write(_sealed(manifest | {"files": entries}))
    for name in set(old) - entries.keys():
        (path / name).unlink()


def find_updated(manifest: dict[str, Any], file: str) -> str | None:
    """The name under which a folder has what `update_files` added as `file`; None if there is none."""
    return next((name for name in manifest["files"] if _updated_name(name, file)), None)


def _updated_name(name: str, file: str) -> bool:
    stem, ending = file.split(".")
    return name.startswith(f"{stem}-") and name.endswith(f".{ending}")


def _swap(new: Path, path: Path) -> None:
    old = path.parent / f".{path.name}.{os.getpid()}.old"
    shutil.rmtree(old, ignore_errors=True)
    try:
        if path.exists():
            path.rename(old)
        new.rename(path)
    except BaseException:
        if old.exists() and not path.exists():
            old.rename(path)
        raise
    _fsync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(file: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _entry(file: Path) -> dict[str, Any]:
    return {"size": file.stat().st_size, "sha256": sha256_of(file), "xxh3": _xxh3_of(file)}


def _sealed(manifest: dict[str, Any]) -> str:
    """A manifest's text, its hash of itself included."""
    text = json.dumps(manifest, indent=1, ensure_ascii=False).removesuffix("\n}")
    return f'{text},\n "{_SEAL}": "{_sha256(text)}"\n}}\n'


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _xxh3_of(file: Path) -> str:
    digest = xxhash.xxh3_128()
    buffer = memoryview(bytearray(_BUFFER))
    with file.open("rb", buffering=0) as stream:
        while size := stream.readinto(buffer):
            digest.update(buffer[:size])
    return digest.hexdigest()


def read_manifest(path: Path | str, kind: str) -> dict[str, Any]:
    """The manifest of a folder, its files checked for being there and having their size, but not read.

    Raises ArtifactError when the folder is missing, of another kind or format, or incomplete.
    """
    path = Path(path)
    if not path.exists():
        raise ArtifactError(f"{path}: expected {_a(kind)} folder, found nothing there. Is the path right?")
    file = path / MANIFEST
    if not file.is_file():
        raise ArtifactError(f"{path}: expected {_a(kind)} folder made by xsap, found no {MANIFEST} in it")
    try:
        text = file.read_bytes().decode("utf-8")
        manifest: dict[str, Any] = json.loads(text)
        found, version, files = str(manifest["kind"]), manifest["format"], manifest["files"]
        sizes = {
            name: int(entry["size"])
            for name, entry in files.items()
            if version != FORMAT or (entry["sha256"] and entry["xxh3"])
        }
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise ArtifactError(f"{file}: not a readable manifest; the folder is damaged, make it again") from None
    if found != kind:
        raise ArtifactError(f"{path}: expected {_a(kind)} folder, found {_a(found)} folder")
    if version != FORMAT:
        command = f": {_REMAKE[kind]}" if kind in _REMAKE else ""
        raise ArtifactError(
            f"{path}: expected {_a(kind)} folder of format {FORMAT}, found format {version}; "
            f"make it again with this version of xsap{command}"
        )
    body, _, _ = text.rpartition(f',\n "{_SEAL}": ')
    if text != f'{body},\n "{_SEAL}": "{_sha256(body)}"\n}}\n':
        raise ArtifactError(f"{file}: its hash of itself is not right; the {kind} folder is damaged, make it again")
    for name, size in sizes.items():
        member = path / name
        if not member.is_file():
            raise ArtifactError(
                f"{member}: named by the manifest, but missing; the {kind} folder is damaged, make it again"
            )
        if member.stat().st_size != size:
            raise ArtifactError(
                f"{member}: expected {size:,} bytes, found {member.stat().st_size:,}; the {kind} folder is damaged, make it again"
            )
    return manifest


def open_artifact(path: Path | str, kind: str) -> dict[str, Any]:
    """`read_manifest`, and every file's hash checked too. Raises ArtifactError at the first that differs."""
    manifest = read_manifest(path, kind)
    for name, entry in manifest["files"].items():
        if _xxh3_of(Path(path) / name) != entry["xxh3"]:
            raise ArtifactError(
                f"{Path(path) / name}: its hash is not the manifest's; the {kind} folder is damaged, make it again"
            )
    return manifest


def _a(kind: str) -> str:
    return f"an {kind}" if kind.startswith(tuple("aeiou")) else f"a {kind}"


def manifest_hash(manifest: dict[str, Any]) -> str:
    """One sha256 for all files that a manifest names: what other folders are bound to."""
    lines = [f"{name}\0{entry['sha256']}\n" for name, entry in sorted(manifest["files"].items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@contextmanager
def write_atomically(path: Path | str, *, binary: bool = False) -> Iterator[IO[Any]]:
    """A single file, UTF-8 unless binary, written aside and renamed into place when the block ends; nothing is left when it raises."""
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.parent / f".{path.name}.{os.getpid()}.new"
    try:
        with aside.open("wb") if binary else aside.open("w", encoding="utf-8", newline="") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        aside.rename(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


@contextmanager
def file_lock(file: Path, busy: str) -> Iterator[None]:
    """Hold the lock of a file meanwhile; it is made, its folder too, and left. busy: what the ConfigError says if another process holds it.

    Where the system or the file system has no such locks, nothing is held.
    """
    if find_spec("fcntl") is None:  # not on Windows
        yield
        return
    import fcntl

    file.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(file, os.O_CREAT | os.O_RDWR)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(busy) from None
        except OSError:
            pass
        yield
    finally:
        os.close(lock)
