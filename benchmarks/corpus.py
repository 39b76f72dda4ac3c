"""A corpus as it is published: a zip, the folder that it unpacks to, or one of its files alone; and its texts, with the places in them.

`open_corpus` makes the three one thing: names of files, with `/` between their parts, and the texts under them. So a loader says once
where its files lie, and zips are read unopened. What offsets point to is looked up in the text as it stands, and with line ends of one
character where they are two, for some offsets were counted so.
"""

import csv
import io
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from benchmarks.document import Document
from benchmarks.gold import Row
from xsap.errors import DataError


@dataclass(frozen=True, slots=True)
class Corpus:
    """The files under `root`. names: in order, hidden ones and macOS's left out. layout: what the corpus looks like, for errors."""

    root: Path
    names: Sequence[str]
    layout: str
    bytes_of: Callable[[str], bytes | None]
    is_one_file: bool = False

    @property
    def given(self) -> str:
        """The path that was opened, as an error names it."""
        return self.where(self.names[0]) if self.is_one_file else str(self.root)

    def where(self, name: str) -> str:
        """A file as an error names it."""
        return f"{self.root}/{name}"

    def text(self, name: str) -> str:
        """A file's text. Raises DataError where there is no such file, or it is not UTF-8."""
        text = self.text_if_there(name)
        if text is None:
            raise DataError(f"{self.where(name)}: expected {self.layout}; found no such file")
        return text

    def text_if_there(self, name: str) -> str | None:
        """`text`, but None where there is no such file."""
        content = self.bytes_of(name)
        try:
            return None if content is None else content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            found = f"found byte 0x{error.object[error.start]:02x} at offset {error.start:,}"
            raise DataError(f"{self.where(name)}: expected UTF-8, {found}") from None

    def the(self, file: str) -> str:
        """The name of the one file that is called so, in whatever folder; or of the file itself, where the path was that of one file."""
        found = [name for name in self.names if self.is_one_file or PurePosixPath(name).name == file]
        if len(found) != 1:
            raise DataError(f"{self.given}: expected {self.layout}; found {len(found) or 'no'} files called {file}")
        return found[0]


@contextmanager
def open_corpus(path: Path, layout: str) -> Iterator[Corpus]:
    """The files of a zip, a folder or a single file; the last under a name that begins with its folder's, so that its neighbours are found.

    Raises DataError, also while the block reads, where a zip is damaged.
    """
    if path.is_dir():
        names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
        yield Corpus(path, _shown(names), layout, lambda name: _bytes_of(path / name))
    elif not path.is_file():
        raise DataError(f"{path}: expected {layout}; found nothing there. Is the path right?")
    elif path.suffix == ".zip" or zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                held = {entry.filename for entry in archive.infolist() if not entry.is_dir()}
                yield Corpus(path, _shown(held), layout, lambda name: archive.read(name) if name in held else None)
        except (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise DataError(f"{path}: expected a zip file of {layout}; found: {error}") from None
    else:
        file = path.absolute()
        root = file.parent.parent
        yield Corpus(root, [f"{file.parent.name}/{file.name}"], layout, lambda name: _bytes_of(root / name), is_one_file=True)


def _shown(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if not any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts))


def _bytes_of(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None


def tsv_rows(text: str, where: str) -> list[tuple[int, list[str]]]:
    """The cells of each line of a tab-separated file, after the line's number; empty lines are passed over.

    Cells with quotes or line ends in them are quoted, as pandas writes them (RFC 4180 with tabs). Raises DataError with file and line.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True)
    try:
        return [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise DataError(f"{where}:{reader.line_num}: expected tab-separated cells, their quotes closed; found: {error}") from None


def documents_of(text: str) -> list[Document]:
    """The ways to count the characters of a text: as it stands, and with its line ends as one character each."""
    return [Document.of(one) for one in dict.fromkeys((text, text.replace("\r\n", "\n")))]


def place(documents: Sequence[Document], spans: Sequence[tuple[int, int]], pieces: Sequence[str]) -> tuple[int | None, int | None]:
    """Document.place in the first of the documents where it is known. Their contexts are equal."""
    return next((found for found in (one.place(spans, pieces) for one in documents) if found[0] is not None), (None, None))


def check_rows(rows: Sequence[Row], files: Corpus, what: str, *, with_texts: bool) -> None:
    """Raise DataError where there are no rows, none has a gold concept, or most don't stand in their texts where their offsets say.

    what: the gold concepts, and where they come from. with_texts: every row's text is there; else, those of rows with a context. A few wrong
    offsets are every corpus's; many say that the texts are of another release.
    """
    if not any(row.concept_ids for row in rows):
        raise DataError(f"{files.given}: expected {files.layout}, with {what}; found {len(rows):,} mentions and no such concept")
    standing = [row.start is not None for row in rows if with_texts or row.context is not None]
    if sum(standing) * 2 < len(standing):
        found = f"found {sum(standing):,} of {len(standing):,}. Are the texts of the same release?"
        raise DataError(f"{files.given}: expected mentions that stand at their offsets; {found}")
