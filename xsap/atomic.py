"""Replacing files and folders in one step: temporary names, exchange of two folders, and what killed writers leave behind.

New content is written under a hidden name beside its target, so that a rename never crosses a file system, and a reader sees the old
content, or the complete new one. On Linux two folders exchange their names in one system call; elsewhere the old folder is renamed away first,
so that a reader may find nothing for a moment, and the next writer puts an old folder back that a killed one left there. A temporary name is
locked by its writer; one that nobody holds was left by a killed process and is removed by the next writer of the same target.
"""

import contextlib
import ctypes
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xsap.errors import ArtifactError

_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
_WORKING_FOLDER = -100  # AT_FDCWD
TAKEN, _NO_LOCKS = -2, -1  # instead of a lock
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)


def resolve_target(path: Path | str) -> Path:
    """The absolute path that is replaced: where `path` is a symbolic link, what it points to, so that the link stays."""
    return Path(os.path.realpath(path))


def check_replaceable(path: Path, example: str) -> None:
    """Raise ArtifactError for a folder that no rename can replace.

    Args:
        path: The folder, which need not exist.
        example: The name of a folder inside it that the error suggests.
    """
    target = resolve_target(path)
    with contextlib.suppress(OSError):  # the current folder may have been removed
        current = Path.cwd()
        reason = "the current folder" if target == current else "above the current folder"
        if os.path.ismount(target):
            reason = "a mount point"
        if os.path.ismount(target) or target == current or target in current.parents:
            raise ArtifactError(
                f"{path} is {reason}, so it can't be replaced; choose a folder in it, such as {example}"
            )


def temporary_name(target: Path) -> Path:
    """A new hidden name beside a target."""
    return target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.new")


@contextmanager
def temporary_folder(target: Path) -> Iterator[Path]:
    """A new, empty, hidden folder beside a target. What has its name at the end of the block is removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(target)
    while True:
        folder = temporary_name(target)
        folder.mkdir()
        lock = hold(folder)
        if lock != TAKEN and folder.exists():
            break  # else another writer took it for a leftover in the moment before
    try:
        with named_in_errors(target):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        release(lock)


@contextmanager
def named_in_errors(target: Path) -> Iterator[None]:
    """Name what is written in the error of a full disk: the system's own error has no path."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL and error.filename is None:
            error.filename = str(target)
        raise


def hold(path: Path) -> int:
    """Lock a file or folder until `release`, or until the process ends; -2 if another process holds it, -1 where there are no such locks."""
    try:
        import fcntl

        descriptor = os.open(path, os.O_RDONLY)
    except (ImportError, OSError):
        return _NO_LOCKS
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        return TAKEN if isinstance(error, BlockingIOError) else _NO_LOCKS
    return descriptor


def release(lock: int | None) -> None:
    """Give up what `hold` returned, if anything."""
    if lock is not None and lock >= 0:
        os.close(lock)


def remove_unfinished(target: Path) -> None:
    """Remove what killed writers of a target left beside it; an old folder that one of them had renamed away is put back."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.\d+-[0-9a-f]{{8}}\.(new|old)")
    try:
        left = [file for file in target.parent.iterdir() if pattern.fullmatch(file.name)]
    except OSError:
        return
    for file in sorted(left):
        if file.suffix == ".old":
            _settle_old(file, target)
        elif (lock := hold(file)) >= 0:
            _remove(file)
            release(lock)


def _settle_old(old: Path, target: Path) -> None:
    """Put an old folder back, or remove it if there is a newer one, unless its writer is at work."""
    writer = hold(old.with_suffix(".new"))
    if writer == TAKEN:
        return
    if target.exists():
        _remove(old)
    else:
        with contextlib.suppress(OSError):
            old.rename(target)
    release(writer)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def replace_folder(new: Path, target: Path, *, overwrite: bool) -> None:
    """Rename a folder to `target`. A folder that is there is replaced if it is empty or with `overwrite`.

    Afterward the old folder, if there was one, may still be under the name of the new one; the caller removes it.

    Raises:
        ArtifactError: Without `overwrite`, if a folder with content is there.
    """
    try:
        if not (overwrite and target.exists()):
            new.rename(target)
        elif not exchange_folders(new, target):
            _replace_in_two_steps(new, target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY) or overwrite:
            raise
        raise ArtifactError(
            f"{target} exists already: another process made it meanwhile; choose another path, or replace it with --overwrite"
        ) from None
    fsync_path(target.parent)


def exchange_folders(left: Path, right: Path) -> bool:
    """Exchange the names of two folders in one step; False where the system or the file system can't."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    if call(_WORKING_FOLDER, os.fsencode(left), _WORKING_FOLDER, os.fsencode(right), _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(right))


def _replace_in_two_steps(new: Path, target: Path) -> None:
    old = new.with_suffix(".old")
    try:
        target.rename(old)
        new.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def fsync_path(path: Path) -> None:
    """Write a file's content, or a folder's entries, through to the disk; file systems that can't do so for folders are left alone."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # folders on Windows
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)
