"""The base of all corpus readers: opening a published corpus, locating mentions in its texts, and their table.

A corpus is a zip, the folder it unpacks to, or one of its files; `open_corpus` gives the three one form, so a reader
states once where its files are. Every text passes through `collapse`, so that `context[start:end]` is still the mention
after the table was written to TSV and read again. A few annotations of every corpus have offsets that point at other
words (MedMentions' issue 6, BigBIO's issue 738): such a mention keeps its context but gets no offsets, because wrong
ones would mark other words for readers of contexts.

Cells of identifiers follow the conventions of PubTator, BioSyn's `.concept` files and BigBIO: `|` joins the concepts of
a composite mention, `+` those that make up one concept together (Doğan et al., NCBI disease corpus, J Biomed Inform
2014); NLM-Chem, BioRED and PubTator's own output use `,` and `;`. No reader can use the difference, so all of them are
gold concepts of the mention.
"""

import csv
import io
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pyarrow as pa

from xsap.errors import DataError
from xsap.files import ZIP_ERRORS, decode
from xsap.terms.mentions import build_mentions
from xsap.terms.semantic_types import GROUPS, group_of
from xsap.text import EXACT_MATCH, normalize

GROUPS_COLUMN = "groups"  # list<string>: the semantic groups that a corpus gives its mentions
_BOM = b"\xef\xbb\xbf"

# CUIs and MeSH identifiers are unlike all others, and half of the corpora write them bare; an OMIM number is not.
_PREFIX = re.compile(r"(?:UMLS|MESH):\s*", re.IGNORECASE)
_NO_CONCEPT = frozenset(
    ["", "-", "-1", "cui-less", "cui_less", "cuiless", "concept_less", "concept-less"]
    + ["no_map", "nomap", "null", "nil", "none", "nan"]
)

_CLASSES = {
    "DISO": "Disease DiseaseOrPhenotypicFeature SpecificDisease DiseaseClass CompositeMention Modifier ENFERMEDAD",
    "CHEM": "Chemical ChemicalEntity",
    "LIVB": "Species OrganismTaxon",
}  # of PubTator, BioRED, NCBI disease and DisTEMIST. A gene class includes gene products (CHEM), so its group is unknown
_GROUP_OF_CLASS = {name: group for group, names in _CLASSES.items() for name in names.split()}

# MedMentions ST21pv gives a concept's ancestor among 21 types. Below these four are types of several groups (T038, Biologic
# Function, includes diseases and physiology), so they do not determine the concept's own group.
_ANCESTORS_OF_SEVERAL_GROUPS = frozenset({"T017", "T033", "T038", "T082"})

Location = tuple[int | None, int | None]


class Row(NamedTuple):
    """One mention of a corpus. groups: abbreviations as in terms.semantic_types; empty where unknown."""

    mention: str
    language: str
    concept_ids: list[str]
    context: str | None = None
    start: int | None = None
    end: int | None = None
    document_id: str | None = None
    groups: Sequence[str] = ()


def to_table(rows: Sequence[Row], *, with_groups: bool) -> pa.Table:
    """A table with terms.mentions' SCHEMA, in the rows' order, plus GROUPS_COLUMN where the corpus gives classes."""
    columns = {name: [row[i] for row in rows] for i, name in enumerate(Row._fields)}
    groups = columns.pop("groups")
    table = build_mentions(columns.pop("mention"), columns.pop("language"), columns.pop("concept_ids"), **columns)  # type: ignore[arg-type]
    return table.append_column(GROUPS_COLUMN, pa.array(groups, pa.list_(pa.string()))) if with_groups else table


def check_rows(rows: Sequence[Row], files: "CorpusFiles", concepts: str, *, with_texts: bool) -> None:
    """Check that rows are usable as a benchmark. Many wrong offsets mean that the texts are of another release.

    Args:
        rows: All mentions of the corpus.
        files: The corpus, for the error.
        concepts: What the gold concepts are and where they come from, for the error.
        with_texts: Whether every row must be located in its text; else only rows with a context.

    Raises:
        DataError: If there are no rows, none has a gold concept, or most are not found in their texts at their offsets.
    """
    if not any(row.concept_ids for row in rows):
        found = f"found {len(rows):,} mentions and no such concept"
        raise DataError(f"{files.path}: expected {files.layout}, with {concepts}; {found}")
    located = [row.start is not None for row in rows if with_texts or row.context is not None]
    if sum(located) * 2 < len(located):
        found = f"found {sum(located):,} of {len(located):,}. Are the texts of the same release?"
        raise DataError(f"{files.path}: expected mentions whose offsets match the texts; {found}")


def parse_ids(cell: str) -> list[str]:
    """The identifiers in a cell, each once, in order, without `UMLS:` and `MESH:`; none for -1, CUI-less and the like.

    A `+` that joins nothing, as in ICD-10's `A39.2+`, is kept.
    """
    ids: list[str] = []
    for joined in re.split(r"[|,;]", cell):
        parts = [part.strip() for part in joined.split("+")]
        ids += parts if all(parts) else [joined.strip()]
    bare = [_PREFIX.sub("", one, count=1) if _PREFIX.match(one) else one for one in ids]
    return list(dict.fromkeys(one for one in bare if normalize(one, EXACT_MATCH) not in _NO_CONCEPT))


def groups_of(classes: Iterable[str], *, ancestors: bool = False) -> list[str]:
    """The semantic groups of a mention's classes, each once, in order; an unknown class adds none.

    Args:
        classes: TUIs, abbreviations of groups, or classes as corpora name them.
        ancestors: Whether the TUIs are those of MedMentions ST21pv.
    """
    names = [name for name in map(str.strip, classes) if not (ancestors and name in _ANCESTORS_OF_SEVERAL_GROUPS)]
    groups = [name if name in GROUPS else group_of(name) or _GROUP_OF_CLASS.get(name) for name in names]
    return list(dict.fromkeys(group for group in groups if group))


def is_st21pv(cell: str) -> bool:
    """Whether a cell of identifiers is from MedMentions ST21pv, which alone writes `UMLS:` before a CUI."""
    return cell.strip().startswith("UMLS:")


@dataclass(frozen=True, slots=True)
class Document:
    """A text that offsets refer to, and the context of all its mentions: the same text with whitespace collapsed."""

    text: str
    context: str

    @classmethod
    def from_text(cls, text: str) -> "Document":
        """The document with this text."""
        context = " ".join(text.split())
        return cls(text, text if context == text else context)

    def locate(self, spans: Sequence[tuple[int, int]], pieces: Sequence[str]) -> Location:
        """Where a mention is in the context.

        Args:
            spans: (start, end) of each piece of the mention in the text, end exclusive.
            pieces: The piece of the mention at each span.

        Returns:
            The start of the first span and the end of the last one, in the context; (None, None) if there are no spans,
            or one of them has another text than its piece, compared as EXACT_MATCH normalizes them.
        """
        if not spans or len(spans) != len(pieces) or not all(map(self._matches, spans, pieces)):
            return None, None
        start, end = min(start for start, _ in spans), max(end for _, end in spans)
        while self.text[start].isspace():
            start += 1
        while self.text[end - 1].isspace():
            end -= 1
        return (start, end) if self.context is self.text else collapse(self.text, start, end)[1:]

    def _matches(self, span: tuple[int, int], piece: str) -> bool:
        start, end = span
        found = normalize(self.text[start:end], EXACT_MATCH) if 0 <= start < end <= len(self.text) else ""
        return found != "" and found == normalize(piece, EXACT_MATCH)


def collapse(text: str, start: int, end: int) -> tuple[str, int, int]:
    """The text with each run of whitespace as one space and the ends trimmed, and where [start, end) is now.

    The span must not begin or end with whitespace.
    """
    before = " ".join((text[:start] + "x").split())
    return " ".join(text.split()), len(before) - 1, len(" ".join(text[:end].split()))


def document_variants(text: str) -> list[Document]:
    """The text as it is, and with every line end as one character: offsets may refer to either."""
    return [Document.from_text(variant) for variant in dict.fromkeys((text, text.replace("\r\n", "\n")))]


def locate(documents: Sequence[Document], spans: Sequence[tuple[int, int]], pieces: Sequence[str]) -> Location:
    """Document.locate in the first of a text's variants where it is known. Their contexts are equal."""
    locations = (document.locate(spans, pieces) for document in documents)
    return next((location for location in locations if location[0] is not None), (None, None))


@dataclass(frozen=True, slots=True)
class CorpusFiles:
    """The files of a corpus.

    Attributes:
        root: The folder or zip that `names` are relative to.
        names: In order, `/` between their parts; hidden files and those of macOS are left out.
        layout: What the corpus looks like, for errors.
        bytes_of: A name → the file's content, None where there is no such file.
        is_one_file: Whether the path that was opened is that of a single file.
    """

    root: Path
    names: Sequence[str]
    layout: str
    bytes_of: Callable[[str], bytes | None]
    is_one_file: bool = False

    @property
    def path(self) -> str:
        """The path that was opened, for errors."""
        return self.path_of(self.names[0]) if self.is_one_file else str(self.root)

    def path_of(self, name: str) -> str:
        """A file's path, for errors."""
        return f"{self.root}/{name}"

    def text(self, name: str) -> str:
        """A file's text. Raises DataError if there is no such file, or it is not UTF-8."""
        text = self.optional_text(name)
        if text is None:
            raise DataError(f"{self.path_of(name)}: expected {self.layout}; found no such file")
        return text

    def optional_text(self, name: str) -> str | None:
        """A file's text, or None if there is no such file. Raises DataError if it is not UTF-8."""
        content = self.bytes_of(name)
        return None if content is None else decode(content.removeprefix(_BOM), self.path_of(name))

    def find(self, file_name: str) -> str:
        """The name of the only file called so, in any folder; of the file itself if a single file was opened."""
        found = [name for name in self.names if self.is_one_file or PurePosixPath(name).name == file_name]
        if len(found) != 1:
            number = len(found) or "no"
            raise DataError(f"{self.path}: expected {self.layout}; found {number} files called {file_name}")
        return found[0]


@contextmanager
def open_corpus(path: Path, layout: str) -> Iterator[CorpusFiles]:
    """The files of a zip, a folder, or a single file, whose name begins with its folder's so that files nearby can be read.

    Raises DataError if there is nothing at the path, or the zip is damaged, also while the block reads.
    """
    if path.is_dir():
        names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
        yield CorpusFiles(path, visible_names(names), layout, lambda name: _read(path / name))
    elif not path.is_file():
        raise DataError(f"{path}: expected {layout}; found nothing there. Is the path right?")
    elif path.suffix == ".zip" or zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                members = {entry.filename for entry in archive.infolist() if not entry.is_dir()}
                read = lambda name: archive.read(name) if name in members else None  # noqa: E731
                yield CorpusFiles(path, visible_names(members), layout, read)
        except ZIP_ERRORS as error:
            raise DataError(f"{path}: expected a zip file of {layout}; found: {error}") from None
    else:
        file = path.absolute()
        root = file.parent.parent
        names = [file.relative_to(root).as_posix()]
        yield CorpusFiles(root, names, layout, lambda name: _read(root / name), is_one_file=True)


def visible_names(names: Iterable[str]) -> list[str]:
    """The names of files in order, without hidden files and those of macOS."""
    return sorted(name for name in names if not re.search(r"(?:^|/)(?:\.|__MACOSX)", name))


def _read(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None


def tsv_rows(text: str, path: str) -> list[tuple[int, list[str]]]:
    """(line number, cells) of a tab-separated file; empty lines are skipped.

    Cells that contain quotes or line ends are quoted, as pandas writes them (RFC 4180 with tabs). Raises DataError with
    file and line.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True)
    try:
        return [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        expected = "expected tab-separated cells, their quotes closed"
        raise DataError(f"{path}:{reader.line_num}: {expected}; found: {error}") from None
