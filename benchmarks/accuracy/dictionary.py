"""What mentions are linked into, and the mentions that a terminology can answer.

A `SearchSpace` is a dictionary: rows of a concept id and one of its names, from a terminology, a file, or the one
published with XL-BEL. All systems of a task search the same rows, and a result states their number and hash, because a
score without its dictionary means nothing. A row whose id is `D1|D2` belongs to both concepts.

XL-BEL and Mantra give UMLS CUIs. A terminology that is not UMLS may cross-reference them ("UMLS:C0345335"); `restrict`
keeps the mentions whose CUI it references, with every concept that references one of their CUIs as gold.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPException
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import pyarrow as pa
import pyarrow.compute as pc

from xsap.artifacts import write_atomically
from xsap.errors import DataError
from xsap.evaluation.metrics import split_ids
from xsap.files import RowCounts, missing_file
from xsap.languages import ENGLISH
from xsap.terms.mentions import SCHEMA
from xsap.terms.terminology import Terminology

if TYPE_CHECKING:
    from xsap.evaluation.protocols import ReferenceDictionary


NOT_IN_TERMINOLOGY = "gold concept not in the terminology"
NO_GOLD = "no gold concept"
XLBEL = "xlbel"  # names the published dictionary on the command line
XLBEL_FILE = "umls_onto_all_lang_cased_wikimed_only_399931.txt"
XLBEL_BLOB = "d2fba9aa86f5edea6feffc4259863b855a613bcf"
_XLBEL_URL = (
    f"https://api.github.com/repos/cambridgeltl/sapbert/git/blobs/{XLBEL_BLOB}"  # by content, whatever its path
)


def count(mentions: pa.Table) -> dict[str, RowCounts]:
    """Row counts by language of a table from which nothing was dropped."""
    return {code: RowCounts(n, n, {}) for code, n in _rows_by_language(mentions).items()}


def restrict(
    mentions: pa.Table, terminology: Terminology, *, vocabulary: str = "UMLS"
) -> tuple[pa.Table, dict[str, RowCounts]]:
    """Keep the mentions whose gold is in a terminology, and replace the gold by concept ids of the terminology.

    Args:
        mentions: terms.mentions' SCHEMA.
        terminology: A gold id is in it if it is the id of a concept, or a concept references it as `vocabulary:id`.
        vocabulary: Prefix of the cross-references.

    Returns:
        The mentions, in their order, with sorted concept ids; and row counts by language.

    Raises:
        DataError: If no mention is left.
    """
    gold: list[list[str]] = mentions["concept_ids"].to_pylist()
    known = _concepts_of({one for ids in gold for one in ids}, terminology, vocabulary)
    mapped = [sorted({concept for one in ids for concept in known.get(one, ())}) for ids in gold]
    reasons = [
        None if found else NOT_IN_TERMINOLOGY if ids else NO_GOLD for ids, found in zip(gold, mapped, strict=True)
    ]
    kept = pa.array([reason is None for reason in reasons], pa.bool_())
    column = SCHEMA.get_field_index("concept_ids")
    field = SCHEMA.field(column)
    restricted = mentions.set_column(column, field, pa.array(mapped, field.type)).filter(kept)
    if not restricted.num_rows:
        raise DataError(
            f"none of {mentions.num_rows:,} mentions has its gold concept in the terminology; "
            f"are its concepts identified by, or cross-referenced to, {vocabulary}?"
        )
    return restricted, _row_counts(mentions, reasons)


def _concepts_of(ids: set[str], terminology: Terminology, vocabulary: str) -> dict[str, set[str]]:
    """Each of the ids that is in the terminology → its concepts there."""
    concepts = terminology.concepts
    own = concepts["concept_id"].filter(pc.is_in(concepts["concept_id"], pa.array(sorted(ids), pa.string())))
    known: dict[str, set[str]] = defaultdict(set)
    for one in own.to_pylist():
        known[one].add(one)
    references, concept_rows = (
        pc.list_flatten(concepts["cross_references"]),
        pc.list_parent_indices(concepts["cross_references"]),
    )
    hit = pc.is_in(references, pa.array(sorted(f"{vocabulary}:{one}" for one in ids), pa.string()))
    referring = concepts["concept_id"].take(concept_rows.filter(hit))
    for reference, concept in zip(references.filter(hit).to_pylist(), referring.to_pylist(), strict=True):
        known[reference.removeprefix(f"{vocabulary}:")].add(concept)
    return known


def _row_counts(mentions: pa.Table, reasons: list[str | None]) -> dict[str, RowCounts]:
    counted = Counter(zip(mentions["language"].to_pylist(), reasons, strict=True))
    counts = {}
    for code, rows_in in _rows_by_language(mentions).items():
        dropped = {reason: counted[code, reason] for reason in (NOT_IN_TERMINOLOGY, NO_GOLD) if counted[code, reason]}
        counts[code] = RowCounts(rows_in, counted[code, None], dropped)
    return counts


def _rows_by_language(mentions: pa.Table) -> dict[str, int]:
    return dict(sorted(Counter(mentions["language"].to_pylist()).items()))


@dataclass(frozen=True)
class SearchSpace:
    """A dictionary that mentions are linked into.

    Attributes:
        rows: Ids and names as written.
        source: Where it comes from, for reports.
        preferred: Concept → preferred name, where known.
        types: Concept → semantic types, where known.
        terminology_hash: Content hash of the terminology whose names these are; None for a file.
        languages: Languages of the names that were taken from the terminology; None for all.
    """

    rows: "ReferenceDictionary"
    source: str
    preferred: Mapping[str, str]
    types: Mapping[str, list[str]]
    terminology_hash: str | None = None
    languages: tuple[str, ...] | None = None

    @classmethod
    def from_terminology(
        cls, terminology: Terminology, source: str, languages: tuple[str, ...] | None = (ENGLISH,)
    ) -> "SearchSpace":
        """The names that a terminology has in some languages (None: all). Raises DataError if it has none."""
        from xsap.evaluation.protocols import ReferenceDictionary

        part = terminology.select(languages=languages)
        if not part.names.num_rows:
            wanted = ", ".join(languages or ["any language"])
            raise DataError(f"{source}: expected names in {wanted}, found none to link into")
        rows = ReferenceDictionary(part.names["concept_id"].to_pylist(), part.names["name"].to_pylist())
        ids, preferred, types = (
            part.concepts[name].to_pylist() for name in ("concept_id", "preferred_name", "semantic_types")
        )
        named, typed = dict(zip(ids, preferred, strict=True)), dict(zip(ids, types, strict=True))
        return cls(rows, source, named, typed, terminology.content_hash, languages)

    @classmethod
    def from_file(cls, path: Path, source: str | None = None) -> "SearchSpace":
        """A file of `id||name` lines, in its order. The preferred name of a concept is its first one."""
        from xsap.evaluation.protocols import ReferenceDictionary

        rows = ReferenceDictionary.read(path)
        preferred: dict[str, str] = {}
        for ids, name in zip(rows.concept_ids, rows.names, strict=True):
            for identifier in split_ids(ids):
                preferred.setdefault(identifier, name)
        return cls(rows, source or path.name, preferred, {})

    @cached_property
    def concept_ids(self) -> pa.ListArray:
        """The concepts of each row, sorted."""
        return pa.array([sorted(split_ids(ids)) for ids in self.rows.concept_ids], pa.list_(pa.string()))

    @cached_property
    def concepts(self) -> list[str]:
        """All concepts, sorted."""
        return sorted(set(self.concept_ids.flatten().to_pylist()))

    @cached_property
    def content_hash(self) -> str:
        """sha256 over all rows, in their order."""
        digest = hashlib.sha256()
        for identifier, name in zip(self.rows.concept_ids, self.rows.names, strict=True):
            digest.update(f"{identifier}||{name}\n".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def metadata(self) -> dict[str, Any]:
        """What a report states about it."""
        metadata: dict[str, Any] = {
            "source": self.source,
            "rows": len(self.rows.names),
            "concepts": len(self.concepts),
            "sha256": self.content_hash,
        }
        if self.terminology_hash:
            metadata["terminology"] = self.terminology_hash
            metadata["languages"] = "all" if self.languages is None else ",".join(self.languages)
        return metadata


def fetch_xlbel(cache: Path, url: str = _XLBEL_URL, blob: str = XLBEL_BLOB) -> Path:
    """The dictionary of XL-BEL in all languages, 399,931 names; downloaded unless it is in the cache.

    Args:
        cache: Folder for the file.
        url: Address to download it from.
        blob: Its git blob id.

    Raises:
        DataError: If it cannot be downloaded, or is not the file with this blob id.
    """
    file = cache / XLBEL_FILE
    if not file.is_file():
        request = Request(url, headers={"Accept": "application/vnd.github.raw"})
        try:
            with closing(urlopen(request, timeout=60)) as answer, write_atomically(file, binary=True) as stream:
                for chunk in _chunks(answer):
                    stream.write(chunk)
        except (URLError, TimeoutError, ConnectionError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            advice = f"Without network access, give the file's path: --dictionary {XLBEL_FILE}"
            raise DataError(f"{url}: could not be fetched ({reason}). {advice}") from None
    try:
        _check_blob(file, blob)
    except DataError:
        file.unlink()
        raise
    return file


def open_search_space(
    given: str,
    cache: Path,
    languages: tuple[str, ...] | None = (ENGLISH,),
    *,
    fetch: Callable[[Path], Path] = fetch_xlbel,
    blob: str = XLBEL_BLOB,
) -> SearchSpace:
    """A dictionary as it is given on the command line.

    Args:
        given: The folder of a terminology, a file of `id||name` lines, or `xlbel` for the published one.
        cache: Folder for the published one.
        languages: Whose names are taken from a terminology; None for all.
        fetch: Downloads the published one into the cache, unless it is there.
        blob: Git blob id that a file called like the published one must have.

    Raises:
        XsapError: If there is no such dictionary, or it cannot be read.
    """
    if given == XLBEL:
        return SearchSpace.from_file(fetch(cache), f"XL-BEL's {XLBEL_FILE}")
    path = Path(given)
    if path.is_dir():
        return SearchSpace.from_terminology(Terminology.load(path), path.name, languages)
    if path.name == XLBEL_FILE:
        _check_blob(path, blob)
    return SearchSpace.from_file(path)


def _check_blob(path: Path, expected: str) -> None:
    if not path.is_file():
        raise missing_file(path)
    found = blob_id(path)
    if found != expected:
        found = f"found {found}; it is damaged, or another file than XL-BEL's. Download it again"
        raise DataError(f"{path}: expected git blob {expected}, {found}")


def blob_id(path: Path) -> str:
    """Git's id of a file's content: sha1 of `blob <size>\\0` and it (git-scm.com/book/en/v2/Git-Internals-Git-Objects)."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        for chunk in _chunks(stream):
            digest.update(chunk)
    return digest.hexdigest()


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    read: Callable[[], bytes] = lambda: stream.read(1 << 20)  # noqa: E731
    return iter(read, b"")
