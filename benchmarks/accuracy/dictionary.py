"""The part of a benchmark that a terminology can answer: mentions whose gold concept is in it, under its own ids.

XL-BEL and Mantra give UMLS CUIs. A terminology that is not UMLS may cross-reference them ("UMLS:C0345335"), and then those mentions
become a benchmark of it: their gold is every concept that names one of the CUIs.

What a task's mentions are linked into: rows of a concept and one of its names, from a terminology, a file, or the one published with XL-BEL.

All systems of a task search the same rows, and a result states their number and hash: a score without its dictionary means nothing. A row
whose id is written `D1|D2` stands for both.
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
from xsap.languages import ENGLISH
from xsap.terms.mentions import SCHEMA
from xsap.terms.terminology import Terminology

if TYPE_CHECKING:
    from xsap.evaluation.protocols import ReferenceDictionary


ABSENT = "gold concept not in the terminology"
NO_GOLD = "no gold concept"


@dataclass(frozen=True, slots=True)
class RowCounts:
    """What became of one language's rows: rows_in = kept + the sum of dropped, whose keys are reasons in plain words."""

    rows_in: int
    kept: int
    dropped: Mapping[str, int]

    def __post_init__(self) -> None:
        assert self.rows_in == self.kept + sum(self.dropped.values()), f"rows that nobody accounts for: {self}"


def count(mentions: pa.Table) -> dict[str, RowCounts]:
    """The account of a table from which nothing was dropped, by language."""
    return {code: RowCounts(n, n, {}) for code, n in _by_language(mentions).items()}


def restrict(
    mentions: pa.Table, terminology: Terminology, *, vocabulary: str = "UMLS"
) -> tuple[pa.Table, dict[str, RowCounts]]:
    """Mentions whose gold is in the terminology, as its concept ids (sorted), in their order; and an account by language.

    mentions: terms.mentions' SCHEMA. A gold id is in the terminology if a concept has it as its id, or cross-references it as
    `vocabulary:id`. Raises DataError if no mention is left.
    """
    gold: list[list[str]] = mentions["concept_ids"].to_pylist()
    known = _concepts_of({one for ids in gold for one in ids}, terminology, vocabulary)
    mapped = [sorted({concept for one in ids for concept in known.get(one, ())}) for ids in gold]
    reasons = [None if found else ABSENT if ids else NO_GOLD for ids, found in zip(gold, mapped, strict=True)]
    kept = pa.array([reason is None for reason in reasons], pa.bool_())
    at = SCHEMA.get_field_index("concept_ids")
    out = mentions.set_column(at, SCHEMA.field(at), pa.array(mapped, SCHEMA.field(at).type)).filter(kept)
    if not out.num_rows:
        raise DataError(
            f"none of {mentions.num_rows:,} mentions has its gold concept in the terminology; "
            f"are its concepts identified by, or cross-referenced to, {vocabulary}?"
        )
    return out, _accounts(mentions, reasons)


def _concepts_of(ids: set[str], terminology: Terminology, vocabulary: str) -> dict[str, set[str]]:
    """Each of the ids that the terminology has → its concepts there."""
    concepts = terminology.concepts
    own = concepts["concept_id"].filter(pc.is_in(concepts["concept_id"], pa.array(sorted(ids), pa.string())))
    known: dict[str, set[str]] = defaultdict(set)
    for one in own.to_pylist():
        known[one].add(one)
    references, owners = (
        pc.list_flatten(concepts["cross_references"]),
        pc.list_parent_indices(concepts["cross_references"]),
    )
    hit = pc.is_in(references, pa.array(sorted(f"{vocabulary}:{one}" for one in ids), pa.string()))
    owned = concepts["concept_id"].take(owners.filter(hit))
    for reference, concept in zip(references.filter(hit).to_pylist(), owned.to_pylist(), strict=True):
        known[reference.removeprefix(f"{vocabulary}:")].add(concept)
    return known


def _accounts(mentions: pa.Table, reasons: list[str | None]) -> dict[str, RowCounts]:
    counted = Counter(zip(mentions["language"].to_pylist(), reasons, strict=True))
    accounts = {}
    for code, rows_in in _by_language(mentions).items():
        dropped = {reason: counted[code, reason] for reason in (ABSENT, NO_GOLD) if counted[code, reason]}
        accounts[code] = RowCounts(rows_in, counted[code, None], dropped)
    return accounts


def _by_language(mentions: pa.Table) -> dict[str, int]:
    return dict(sorted(Counter(mentions["language"].to_pylist()).items()))


XLBEL_FILE = "umls_onto_all_lang_cased_wikimed_only_399931.txt"
XLBEL_BLOB = "d2fba9aa86f5edea6feffc4259863b855a613bcf"
_ADDRESS = (
    f"https://api.github.com/repos/cambridgeltl/sapbert/git/blobs/{XLBEL_BLOB}"  # by what it holds, wherever it lies
)
PUBLISHED = "xlbel"


@dataclass(frozen=True)
class SearchSpace:
    """A dictionary. rows: ids and names as written. preferred, types: of each concept, where known. source: where it came from.

    terminology: the content hash of the one whose names (in `languages`, None for all) these are; None for a file.
    """

    rows: "ReferenceDictionary"
    source: str
    preferred: Mapping[str, str]
    types: Mapping[str, list[str]]
    terminology: str | None = None
    languages: tuple[str, ...] | None = None

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
        """What a report says of it."""
        languages = "all" if self.languages is None else ",".join(self.languages)
        said = {
            "source": self.source,
            "rows": len(self.rows.names),
            "concepts": len(self.concepts),
            "sha256": self.content_hash,
        }
        return said | ({"terminology": self.terminology, "languages": languages} if self.terminology else {})


def of_terminology(
    terminology: Terminology, source: str, languages: tuple[str, ...] | None = (ENGLISH,)
) -> SearchSpace:
    """The names that a terminology has in some languages (None: all). Raises DataError if it has none."""
    from xsap.evaluation.protocols import ReferenceDictionary

    part = terminology.select(languages=languages)
    if not part.names.num_rows:
        raise DataError(
            f"{source}: expected names in {', '.join(languages or ['any language'])}, found none to link into"
        )
    rows = ReferenceDictionary(part.names["concept_id"].to_pylist(), part.names["name"].to_pylist())
    concepts = part.concepts
    ids = concepts["concept_id"].to_pylist()
    preferred = dict(zip(ids, concepts["preferred_name"].to_pylist(), strict=True))
    types = dict(zip(ids, concepts["semantic_types"].to_pylist(), strict=True))
    return SearchSpace(rows, source, preferred, types, terminology.content_hash, languages)


def of_file(path: Path, source: str | None = None) -> SearchSpace:
    """A file of `id||name` lines, in its order. A concept is called by its first name."""
    from xsap.evaluation.protocols import ReferenceDictionary

    rows = ReferenceDictionary.read(path)
    preferred: dict[str, str] = {}
    for ids, name in zip(rows.concept_ids, rows.names, strict=True):
        for identifier in split_ids(ids):
            preferred.setdefault(identifier, name)
    return SearchSpace(rows, source or path.name, preferred, {})


def open_search_space(given: str, cache: Path, languages: tuple[str, ...] | None = (ENGLISH,)) -> SearchSpace:
    """A terminology's folder, a file of `id||name`, or `xlbel` for the published one, fetched once into `cache`. Raises XsapError."""
    if given == PUBLISHED:
        return of_file(fetch_xlbel(cache), f"XL-BEL's {XLBEL_FILE}")
    path = Path(given)
    if path.is_dir():
        return of_terminology(Terminology.load(path), path.name, languages)
    if path.name == XLBEL_FILE:
        _check_blob(path, XLBEL_BLOB)
    return of_file(path)


def fetch_xlbel(cache: Path, address: str = _ADDRESS, blob: str = XLBEL_BLOB) -> Path:
    """The dictionary of XL-BEL in all languages, 399,931 names: downloaded unless it is there. Raises DataError."""
    place = cache / XLBEL_FILE
    if not place.is_file():
        request = Request(address, headers={"Accept": "application/vnd.github.raw"})
        try:
            with closing(urlopen(request, timeout=60)) as answer, write_atomically(place, binary=True) as stream:
                for chunk in _chunks(answer):
                    stream.write(chunk)
        except (URLError, TimeoutError, ConnectionError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise DataError(
                f"{address}: could not be fetched ({reason}). Where there is no network, give the file's path: --dictionary {XLBEL_FILE}"
            ) from None
    try:
        _check_blob(place, blob)
    except DataError:
        place.unlink()
        raise
    return place


def _check_blob(path: Path, expected: str) -> None:
    if not path.is_file():
        raise DataError(f"{path}: expected a file, found nothing there. Is the path right?")
    found = blob_id(path)
    if found != expected:
        raise DataError(
            f"{path}: expected git blob {expected}, found {found}; it is damaged, or another file than XL-BEL's. Fetch it again"
        )


def blob_id(path: Path) -> str:
    """What git calls a file's bytes: sha1 of `blob <size>\\0` and them (git-scm.com/book/en/v2/Git-Internals-Git-Objects)."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        for chunk in _chunks(stream):
            digest.update(chunk)
    return digest.hexdigest()


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    read: Callable[[], bytes] = lambda: stream.read(1 << 20)  # noqa: E731
    return iter(read, b"")
