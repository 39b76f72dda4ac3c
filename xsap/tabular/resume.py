"""Resume support for linking a table.

While `linked.csv` is made, there is a hidden folder `.linked.csv.part` beside it. Its `run.json` states what the answers depend on (the input's
size and sha256, the options, the index), and `000012.gz` has the answers that chunk 12 was the first to ask for, written atomically when they
were complete. What is kept is answers, not output: a resumed run reads and writes everything again from the first row, which takes a small part
of the time that linking takes. Answers that a different run left are deleted; the folder is removed when the output is complete.
"""

import gzip
import json
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from xsap.artifacts import file_lock, write_atomically
from xsap.errors import ConfigError

_RUN = "run.json"
_LOCK = "lock"


@contextmanager
def resume_folder(out: Path, run: Mapping[str, Any] | None) -> Iterator[Path]:
    """Yield the folder for `out`, with the parts in it that an equal run left; it is removed at the end, unless the block raises.

    Args:
        out: The output file.
        run: What the answers depend on, as JSON has it, sets and dataclasses too; None if that isn't known, so that no part is kept.

    Raises:
        ConfigError: If another run is writing `out`, or the folder was not made by xsap.
    """
    folder = out.parent / f".{out.name}.part"
    metadata = json.dumps(run, default=_plain, sort_keys=True, ensure_ascii=False)
    folder.mkdir(parents=True, exist_ok=True)
    if not {_RUN, _LOCK} & {entry.name for entry in folder.iterdir()} and any(folder.iterdir()):
        raise ConfigError(
            f"{folder} is needed for the progress of {out}, but has other files in it; move it away, or choose another --out"
        )
    with file_lock(folder / _LOCK, f"another run is writing {out}; wait for it, or choose another --out"):
        file = folder / _RUN
        equal = run is not None and file.is_file() and file.read_bytes() == metadata.encode()
        for entry in folder.iterdir():  # .new: files that were being written when a run was interrupted
            if entry.name.endswith(".new") or (entry.name.endswith(".gz") and not equal):
                entry.unlink()
        with write_atomically(file) as stream:
            stream.write(metadata)
        try:
            yield folder
        except BaseException:
            if not any(folder.glob("*.gz")):
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


def _plain(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} can't be compared from one run to the next")


def count_parts(folder: Path) -> int:
    """How many chunks, from the first on, have their part."""
    count = 0
    while _part(folder, count).is_file():
        count += 1
    return count


def read_part(folder: Path, number: int, size: int) -> list[bytes] | None:
    """The lines of a part; None if it isn't there, is damaged, or doesn't have `size` of them."""
    try:
        lines = gzip.decompress(_part(folder, number).read_bytes()).split(b"\n")[:-1]
    except (FileNotFoundError, EOFError, gzip.BadGzipFile, zlib.error):
        return None
    return lines if len(lines) == size else None


def write_part(folder: Path, number: int, lines: list[bytes]) -> None:
    """Write a part: lines without line ends in them."""
    with write_atomically(_part(folder, number), binary=True) as stream:
        stream.write(gzip.compress(b"".join(line + b"\n" for line in lines), compresslevel=1, mtime=0))


def _part(folder: Path, number: int) -> Path:
    return folder / f"{number:06}.gz"
