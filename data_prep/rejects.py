"""Records that a reader could not take: where each one stands and why, in a file beside the terminology, and how many are too many."""

from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from xsap.artifacts import write_atomically
from xsap.errors import DataError

_BEYOND = 99  # records listed beyond the first that is too many, before reading stops: enough to see a pattern


@dataclass
class Rejects:
    """Rejected records, at most `limit` of them. A context: on leaving it, they are written to `file` (none: no file).

    The file is tab-separated: file, line (from 1), byte offset of the line's start (in the uncompressed file), reason.
    """

    file: Path
    limit: int = 0
    rows: list[tuple[str, int, int, str]] = field(default_factory=list)
    _first: str = ""

    def __enter__(self) -> "Rejects":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.rows:
            with write_atomically(self.file) as stream:
                stream.write("file\tline\toffset\treason\n")
                stream.writelines(f"{name}\t{line}\t{offset}\t{reason}\n" for name, line, offset, reason in self.rows)

    def add(self, path: Path, line: int, offset: int, reason: str) -> None:
        """Take one record. Raises DataError when there are far too many."""
        self.rows.append((path.name, line, offset, reason))
        self._first = self._first or f"{path}:{line}: {reason}"
        if len(self.rows) > self.limit + _BEYOND:
            self.check(" so far")

    def check(self, so_far: str = "") -> None:
        """Raise DataError, naming the first record, if there are more than the limit."""
        if (found := len(self.rows)) > self.limit:
            told = f"{found:,} record{'s' if found > 1 else ''}{so_far} rejected, --max-rejects allows {self.limit:,}"
            raise DataError(f"{self._first} ({told}; all are listed in {self.file})")
