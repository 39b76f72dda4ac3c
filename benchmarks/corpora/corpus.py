"""A document and where its mentions stand: one context for all of them, and a place only where the text says what the annotation says.

Corpora hold a few annotations whose offsets point at other words (MedMentions' issue 6, BigBIO's issue 738). Such a mention keeps its text and
its context; its place is unknown, for a wrong one would mark other words to whoever reads contexts.

A mention's place in its text, in a form that a line of TSV can hold: runs of white space, line ends among them, become one space.

Loaders hand every text through `collapse`, so that `context[start:end]` stays the mention after the table was written and read again.

What corpora say of a mention beside its text: identifiers joined in one cell, "none of them", its class; and the table of such mentions.

PubTator files, BioSyn's `.concept` files and BigBIO share these habits. `|` joins the concepts of a composite mention, `+` those that one
concept is put together from (Doğan et al., NCBI disease corpus, J Biomed Inform 2014), `,` and `;` do the like in NLM-Chem, BioRED and
PubTator's own output. No reader can use the difference, so all of them are the mention's gold.

A corpus as it is published: a zip, the folder that it unpacks to, or one of its files alone; and its texts, with the places in them.

`open_corpus` makes the three one thing: names of files, with `/` between their parts, and the texts under them. So a loader says once
where its files lie, and zips are read unopened. What offsets point to is looked up in the text as it stands, and with line ends of one
character where they are two, for some offsets were counted so.
"""

import csv
import io
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pyarrow as pa

from benchmarks.accuracy.breakdowns import GROUPS_COLUMN
from xsap.errors import DataError
from xsap.terms.mentions import build_mentions
from xsap.terms.semantic_types import GROUPS, group_of
from xsap.text import EXACT_MATCH, normalize


@dataclass(frozen=True, slots=True)
class Document:
    """text: what a corpus's offsets count in. context: the same as `collapse` writes it, shared by the document's mentions."""

    text: str
    context: str

    @classmethod
    def of(cls, text: str) -> "Document":
        """The document with this text."""
        context = " ".join(text.split())
        return cls(text, text if context == text else context)

    def place(self, spans: Sequence[tuple[int, int]], pieces: Sequence[str]) -> tuple[int | None, int | None]:
        """Where in the context the first span begins and the last one ends.

        spans: (start, end) in the text, each with the piece of the mention that stands there. (None, None) if one doesn't, compared as
        EXACT_MATCH does, or if there are none.
        """
        if (
            not spans
            or len(spans) != len(pieces)
            or not all(self._says(*span, piece) for span, piece in zip(spans, pieces, strict=True))
        ):
            return None, None
        start, end = min(start for start, _ in spans), max(end for _, end in spans)
        while self.text[start].isspace():
            start += 1
        while self.text[end - 1].isspace():
            end -= 1
        return (start, end) if self.context is self.text else collapse(self.text, start, end)[1:]

    def _says(self, start: int, end: int, piece: str) -> bool:
        found = normalize(self.text[start:end], EXACT_MATCH) if 0 <= start < end <= len(self.text) else ""
        return found != "" and found == normalize(piece, EXACT_MATCH)


def collapse(text: str, start: int, end: int) -> tuple[str, int, int]:
    """The text with its white space collapsed and its ends trimmed, and where [start, end) now lies. The span must not begin or end in white space."""
    before = " ".join((text[:start] + "x").split())
    return " ".join(text.split()), len(before) - 1, len(" ".join(text[:end].split()))


# CUIs and MeSH identifiers can be told from all others, and half of the corpora write them bare; a bare OMIM number would be any number.
_PREFIX = re.compile(r"(?:UMLS|MESH):\s*", re.IGNORECASE)
_NONE = {
    "",
    "-",
    "-1",
    "cui-less",
    "cui_less",
    "cuiless",
    "concept_less",
    "concept-less",
    "no_map",
    "nomap",
    "null",
    "nil",
    "none",
    "nan",
}

_CLASSES = {
    "DISO": "Disease DiseaseOrPhenotypicFeature SpecificDisease DiseaseClass CompositeMention Modifier ENFERMEDAD",
    "CHEM": "Chemical ChemicalEntity",
    "LIVB": "Species OrganismTaxon",
}  # of PubTator, BioRED, the NCBI disease corpus and DisTEMIST. A gene stands for its products too, which are CHEM, so its group is unknown
_GROUP_OF_CLASS = {name: group for group, names in _CLASSES.items() for name in names.split()}

# MedMentions ST21pv gives a concept's ancestor among 21 types. Below these four of them lie types of several groups (T038, Biologic
# Function, holds diseases and physiology), so they don't tell the concept's own.
_SPREAD = frozenset({"T017", "T033", "T038", "T082"})


class Row(NamedTuple):
    """A mention as a loader finds it. groups: abbreviations as in terms.semantic_types; empty where unknown."""

    mention: str
    language: str
    concept_ids: list[str]
    context: str | None = None
    start: int | None = None
    end: int | None = None
    document_id: str | None = None
    groups: Sequence[str] = ()


def to_table(rows: Sequence[Row], *, with_groups: bool) -> pa.Table:
    """terms.mentions' SCHEMA, in the rows' order, and after it the groups where the corpus gives classes."""
    columns = {name: [row[at] for row in rows] for at, name in enumerate(Row._fields)}
    groups = columns.pop("groups")
    table = build_mentions(columns.pop("mention"), columns.pop("language"), columns.pop("concept_ids"), **columns)  # type: ignore[arg-type]
    return table.append_column(GROUPS_COLUMN, pa.array(groups, pa.list_(pa.string()))) if with_groups else table


def ids_in(cell: str) -> list[str]:
    """The identifiers of a cell, each once, in its order, without `UMLS:` and `MESH:`; none for -1, CUI-less and their like.

    A `+` that joins nothing, as in ICD-10's `A39.2+`, stays.
    """
    found: list[str] = []
    for joined in re.split(r"[|,;]", cell):
        parts = [part.strip() for part in joined.split("+")]
        found += parts if all(parts) else [joined.strip()]
    bare = [_PREFIX.sub("", one, count=1) if _PREFIX.match(one) else one for one in found]
    return list(dict.fromkeys(one for one in bare if normalize(one, EXACT_MATCH) not in _NONE))


def groups_of(classes: Iterable[str], *, ancestors: bool = False) -> list[str]:
    """The semantic groups of a mention's classes, each once, in their order; a class that is not known here adds none.

    classes: TUIs, abbreviations of groups, or classes as corpora name them. ancestors: the TUIs are those of MedMentions ST21pv.
    """
    names = [name for name in map(str.strip, classes) if not (ancestors and name in _SPREAD)]
    groups = [name if name in GROUPS else group_of(name) or _GROUP_OF_CLASS.get(name) for name in names]
    return list(dict.fromkeys(group for group in groups if group))


def gives_ancestors(cell: str) -> bool:
    """Whether a cell of identifiers is one of MedMentions ST21pv's, which alone writes `UMLS:` before a CUI."""
    return cell.strip().startswith("UMLS:")


@dataclass(frozen=True, slots=True)
class CorpusFiles:
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
def open_corpus(path: Path, layout: str) -> Iterator[CorpusFiles]:
    """The files of a zip, a folder or a single file; the last under a name that begins with its folder's, so that its neighbors are found.

    Raises DataError, also while the block reads, where a zip is damaged.
    """
    if path.is_dir():
        names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
        yield CorpusFiles(path, _shown(names), layout, lambda name: _bytes_of(path / name))
    elif not path.is_file():
        raise DataError(f"{path}: expected {layout}; found nothing there. Is the path right?")
    elif path.suffix == ".zip" or zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                held = {entry.filename for entry in archive.infolist() if not entry.is_dir()}
                yield CorpusFiles(path, _shown(held), layout, lambda name: archive.read(name) if name in held else None)
        except (
            zipfile.BadZipFile,
            zipfile.LargeZipFile,
            zlib.error,
            EOFError,
            NotImplementedError,
            RuntimeError,
        ) as error:
            raise DataError(f"{path}: expected a zip file of {layout}; found: {error}") from None
    else:
        file = path.absolute()
        root = file.parent.parent
        yield CorpusFiles(
            root, [f"{file.parent.name}/{file.name}"], layout, lambda name: _bytes_of(root / name), is_one_file=True
        )


def _shown(names: Iterable[str]) -> list[str]:
    return sorted(
        name for name in names if not any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)
    )


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
        raise DataError(
            f"{where}:{reader.line_num}: expected tab-separated cells, their quotes closed; found: {error}"
        ) from None


def documents_of(text: str) -> list[Document]:
    """The ways to count the characters of a text: as it stands, and with its line ends as one character each."""
    return [Document.of(one) for one in dict.fromkeys((text, text.replace("\r\n", "\n")))]


def place(
    documents: Sequence[Document], spans: Sequence[tuple[int, int]], pieces: Sequence[str]
) -> tuple[int | None, int | None]:
    """Document.place in the first of the documents where it is known. Their contexts are equal."""
    return next(
        (found for found in (one.place(spans, pieces) for one in documents) if found[0] is not None), (None, None)
    )


def check_rows(rows: Sequence[Row], files: CorpusFiles, what: str, *, with_texts: bool) -> None:
    """Raise DataError where there are no rows, none has a gold concept, or most don't stand in their texts where their offsets say.

    what: the gold concepts, and where they come from. with_texts: every row's text is there; else, those of rows with a context. A few wrong
    offsets are every corpus's; many say that the texts are of another release.
    """
    if not any(row.concept_ids for row in rows):
        raise DataError(
            f"{files.given}: expected {files.layout}, with {what}; found {len(rows):,} mentions and no such concept"
        )
    standing = [row.start is not None for row in rows if with_texts or row.context is not None]
    if sum(standing) * 2 < len(standing):
        found = f"found {sum(standing):,} of {len(standing):,}. Are the texts of the same release?"
        raise DataError(f"{files.given}: expected mentions that stand at their offsets; {found}")
