"""Where output can be written: checked before hours of work, with an error of one line that names the path.

A path is refused if it is a device or a pipe, which no rename may replace; if its name has a NUL character or is too long, also for the
temporary name beside it; or if a file, or a folder without permission to write, is on the way to it.
"""

import os
import stat
from pathlib import Path

from xsap.atomic import temporary_name
from xsap.errors import ConfigError

_SHOWN_CHARACTERS = 200  # of a path in a message


def check_new_file(path: Path | str, *, overwrite: bool) -> None:
    """Raise ConfigError if a file can't be written at `path`, or exists and may not be replaced.

    Args:
        path: The file's final path.
        overwrite: Whether a file that exists may be replaced.
    """
    if check_output_path(path, "a file").exists() and not overwrite:
        raise ConfigError(f"{path} exists already; choose another path, or replace it with --overwrite")


def check_output_path(path: Path | str, what: str) -> Path:
    """The path, if it is one where output can be written.

    Args:
        path: Where a file or a folder shall be.
        what: "a file" or "a folder".

    Raises:
        ConfigError: Nothing can be written there, or not `what`.
    """
    path = Path(path)
    shown = str(path)[:_SHOWN_CHARACTERS].replace("\0", "\\0")
    if "\0" in str(path):
        raise ConfigError(f"{shown}: expected the name of {what}, found one with a NUL character")
    try:
        mode = _mode_of(path)
        _check_parent(path.absolute().parent)
        _mode_of(temporary_name(path.absolute()))
    except OSError as error:
        named = isinstance(error, NotADirectoryError | PermissionError) and error.filename not in (None, str(path))
        reason = f"{error.strerror} ({error.filename})" if named else error.strerror
        raise ConfigError(f"{shown}: {what} can't be written there: {reason}; choose another path") from None
    if mode is not None and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ConfigError(
            f"{shown}: expected the path of {what}, found a device or a pipe, which can't be replaced; "
            "choose another path, or write to stdout where the command can"
        )
    if mode is not None and stat.S_ISDIR(mode) and what == "a file":
        raise ConfigError(f"{shown} is a folder; give the name of a file")
    return path


def _mode_of(path: Path) -> int | None:
    """The mode of what is at a path; None if nothing is there."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


def _check_parent(folder: Path) -> None:
    """Raise OSError if nothing can be made in a folder, or in the nearest one above it that exists."""
    while _mode_of(folder) is None:
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(20, "Not a directory", str(folder))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(13, "no permission to write, or a read-only file system", str(folder))
