"""Abbreviations: definitions found in text, a table of a user's own, and a term with its abbreviations written out.

Definitions are found as in Schwartz and Hearst, "A simple algorithm for identifying abbreviation definitions in biomedical text" (PSB 2003): a
short form in parentheses after its long form, or the other way round, whose letters are found in the long form from right to left. A definition in
the term or in its context has precedence over a table, because the same abbreviation has other meanings in other documents.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from xsap.errors import DataError
from xsap.languages import UNKNOWN, to_iso
from xsap.tabular.cells import to_cells, to_text
from xsap.tabular.readers import InputTable, open_table
from xsap.terms.terminology import Terminology
from xsap.text import COMBINING_ACCENTS, fold_case, fold_characters

FROM_TERM, FROM_CONTEXT, FROM_TABLE = ("term", "context", "table")
"""Where an expansion is from, by precedence: the term itself has the definition, its context has it, or a table lists it."""

SHORTEST, LONGEST = 2, 10  # characters of a short form
_MOST_WORDS = 2  # of a short form
_SHORTEST_WORD = 4  # letters of a word that is no abbreviation
_PARENTHESES = re.compile(r"\(([^()]{1,300})\)|\[([^\[\]]{1,300})\]")
_CUT = re.compile(r"[;,]\s")  # what follows in the parentheses is no part of the definition
# Where the search for a long form ends. A point after a short word may be that of an abbreviation, so it ends nothing: the letters decide.
_SENTENCE_END = re.compile(r"(?<=[^\W\d_]{6}[.!?])\s|[;:]\s|\n\s*\n")
_WORD_START = re.compile(rf"(?<![^\W_])(?<![{COMBINING_ACCENTS}])[^\W_]")  # an accent after its letter ends no word
_WORD = re.compile(r"\S+")
_WORD_OF_TERM = re.compile(r"[^\s/,;:()\[\]{}+\"]+")
_LONGEST_SEARCH = 1_000  # characters before parentheses
_EDGES = ",;:.()[]{}/\"'"  # around a word of a term
_ROWS_PER_CHUNK = 1 << 14
_EXAMPLES = 5  # of abbreviations in a message
_COLUMNS = ("abbreviation", "expansion", "language")


class Expansion(NamedTuple):
    """A term with its abbreviations written out.

    Attributes:
        text: The whole term.
        source: Where the expansion is from: FROM_TERM, FROM_CONTEXT or FROM_TABLE; of several, the first.
    """

    text: str
    source: str


class _Definition(NamedTuple):
    """A definition in a text. start, end: its part that is not the long form. rest: what else stands in the parentheses."""

    short: str
    long: str
    start: int
    end: int
    rest: str


def find_definitions(text: str) -> dict[str, str]:
    """The abbreviations that a text defines in parentheses: short form → long form; of two definitions of one short form the first.

    >>> find_definitions("Acute myocardial infarction (AMI) after CABG (coronary artery bypass graft).")
    {'AMI': 'Acute myocardial infarction', 'CABG': 'coronary artery bypass graft'}
    """
    found: dict[str, str] = {}
    for definition in _definitions(text):
        found.setdefault(definition.short, definition.long)
    return found


def _definitions(text: str) -> Iterator[_Definition]:
    for match in _PARENTHESES.finditer(text):
        content = match[1] if match[1] is not None else match[2]
        inside = _CUT.split(content, maxsplit=1)[0].strip()
        before = text[max(0, match.start() - _LONGEST_SEARCH) : match.start()].rstrip()
        if is_short_form(inside):
            start = max((end.end() for end in _SENTENCE_END.finditer(before)), default=0)
            long = align(inside, _last_words(before[start:], _most_words(inside)))
            if long and not _is_other_word(inside, long):
                yield _Definition(inside, long, *match.span(), content.strip()[len(inside) :])
                continue
        short = before.rsplit(maxsplit=1)[-1].lstrip(_EDGES) if before else ""
        if len(inside.split()) > 1 and is_short_form(short) and short[-1].isalnum():
            long = align(short, inside) or ""
            if long and len(long.split()) <= _most_words(short) and not _is_other_word(short, long):
                yield _Definition(short, long, text.rindex(short, 0, match.start()), match.end(), content)


def is_short_form(text: str) -> bool:
    """Whether a text has the form of an abbreviation.

    By the paper it has at most two words, 2 to 10 characters, a letter, and a letter or digit at its start. Here it has a capital letter, too: without
    this rule "dolor (de acostarse … día)" defines the word "dolor".
    """
    return any(map(str.isupper, text)) and (
        SHORTEST <= len(text) <= LONGEST
        and len(text.split()) <= _MOST_WORDS
        and text[0].isalnum()
        and any(map(str.isalpha, text))
    )


def _is_other_word(short: str, long: str) -> bool:
    """Whether a short form is a word with a capital, as nouns are in German, that is no beginning of the long form: "Entzündung der Niere (Ende)"."""
    is_word = len(short) >= _SHORTEST_WORD and short.isalpha() and short.istitle()
    return is_word and not fold_characters(long).startswith(fold_characters(short))


def _most_words(short: str) -> int:
    """The most words of a long form (section 3.1 of the paper)."""
    return min(len(short) + 5, 2 * len(short))


def _last_words(text: str, count: int) -> str:
    """The last words of a text, with what stands between them."""
    starts = [match.start() for match in _WORD.finditer(text)][-count:]
    return text[starts[0] :] if starts else ""


def align(short: str, text: str) -> str | None:
    """The long form of an abbreviation at the end of a text (figure 1 of the paper); None if there is none.

    Each letter and digit of the short form is found in the text, from right to left and as far to the right as possible, the first one at the start
    of a word. Letters are compared without case and accents. A long form is longer than the short form and does not contain it as a word.

    >>> align("HSF", "binds to heat shock transcription factor"), align("MS", "left ventricle")
    ('heat shock transcription factor', None)
    """
    letters = [letter for letter in fold_characters(short) if letter.isalnum()]
    plain = fold_characters(text)
    at = len(plain)
    for letter in reversed(letters[1:]):
        at = plain.rfind(letter, 0, at)
        if at < 0:
            return None
    starts = [match.start() for match in _WORD_START.finditer(text[:at])]
    start = next((each for each in reversed(starts) if plain[each] == letters[0]), None)
    if start is None:
        return None
    long = text[start:]
    return long if len(long) > len(short) and short not in _words(long) else None


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


def _words(text: str) -> set[str]:
    return {word.strip(_EDGES) for word in text.split()}


@dataclass(frozen=True)
class Abbreviations:
    """What abbreviations mean, and how terms are written out with them.

    With no entries, only definitions in a term and in its context are used.

    Attributes:
        entries: (abbreviation, language) → expansion; the language UNKNOWN is for terms of every language.
        of_names: Those of the entries that a terminology has as names. A term that is such a name as a whole is looked up as it is, which finds
            all of its concepts.
        ambiguous: Abbreviations that a table lists with several expansions; they are not used.
    """

    entries: Mapping[tuple[str, str], str] = field(default_factory=dict)
    of_names: frozenset[tuple[str, str]] = frozenset()
    ambiguous: tuple[str, ...] = ()

    @classmethod
    def from_rows(cls, rows: Iterable[tuple[str, str, str]], *, are_names: bool = False) -> "Abbreviations":
        """A table of (abbreviation, expansion, language). An abbreviation with several expansions in a language is not used, and reported."""
        expansions: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
        for abbreviation, expansion, language in rows:
            if abbreviation.strip() and expansion.strip() and fold_case(abbreviation) != fold_case(expansion):
                expansions[abbreviation.strip(), language].setdefault(fold_case(expansion), expansion.strip())
        entries = {key: next(iter(given.values())) for key, given in expansions.items() if len(given) == 1}
        ambiguous = sorted({abbreviation for (abbreviation, _), given in expansions.items() if len(given) > 1})
        return cls(entries, frozenset(entries if are_names else ()), tuple(ambiguous))

    @classmethod
    def from_terminology(cls, terminology: Terminology) -> "Abbreviations":
        """Names of kind `abbreviation` of a terminology, each with its concept's preferred name in the same language, or else in any.

        Those of several concepts are not used.
        """
        names = terminology.names.select(["concept_id", "language", "name", "kind"]).to_pylist()
        wanted = {row["concept_id"] for row in names if row["kind"] == "abbreviation"}
        preferred: dict[tuple[str, str], str] = {
            (row["concept_id"], row["language"]): row["name"]
            for row in names
            if row["kind"] == "preferred" and row["concept_id"] in wanted
        }
        ids, shown = (terminology.concepts[column].to_pylist() for column in ("concept_id", "preferred_name"))
        by_default: dict[str, str] = dict(zip(ids, shown, strict=True))
        rows = [
            (
                row["name"],
                preferred.get((row["concept_id"], row["language"]), by_default[row["concept_id"]]),
                row["language"],
            )
            for row in names
            if row["kind"] == "abbreviation"
        ]
        return cls.from_rows(rows, are_names=True)

    def __len__(self) -> int:
        return len(self.entries)

    @cached_property
    def content_hash(self) -> str:
        """sha256 of the entries."""
        rows = sorted([*key, expansion, key in self.of_names] for key, expansion in self.entries.items())
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    def describe(self) -> str:
        """One line for people: how many entries are used, and which abbreviations are not."""
        shown = ", ".join(self.ambiguous[:_EXAMPLES]) + (", …" if len(self.ambiguous) > _EXAMPLES else "")
        unused = f"; with several expansions, not used: {len(self.ambiguous):,} ({shown})" if self.ambiguous else ""
        return f"abbreviations: {len(self.entries):,}{unused}"

    def expand(
        self, term: str, language: str = UNKNOWN, definitions: Mapping[str, str] | None = None, *, is_name: bool = False
    ) -> Expansion | None:
        """A term with its abbreviations written out; None if it has none that is known.

        A term that is an abbreviation as a whole is looked up in any letter case; a word of a longer term only as it is written.

        Args:
            term: The term.
            language: Its language; UNKNOWN for any.
            definitions: Those of its context, by `find_definitions`.
            is_name: Whether the term is a name of the index. Then only a definition, or a table's entry for the whole term, has precedence over it.
        """
        whole, definitions = term.strip(), definitions or {}
        if (long := self._defined_in(whole)) is not None:
            return None if is_name else Expansion(long, FROM_TERM)
        if (found := self._whole(whole, language, definitions, is_name=is_name)) is not None:
            return found
        return None if is_name else self._inside(whole, language, definitions)

    def _defined_in(self, term: str) -> str | None:
        """A term without the short forms that it defines itself."""
        kept, end, has_definition = "", 0, False
        for found in _definitions(term):
            if found.start >= end:
                before = term[end : found.start]
                kept += (before.rstrip() if found.rest.startswith((",", ";")) else before) + found.rest
                end, has_definition = found.end, True
        return " ".join((kept + term[end:]).split()) if has_definition else None

    def _whole(self, term: str, language: str, definitions: Mapping[str, str], *, is_name: bool) -> Expansion | None:
        for form in (term, term.removesuffix(".")):
            if form in definitions:
                return Expansion(_on_one_line(definitions[form]), FROM_CONTEXT)
        forms = (term, term.removesuffix("."), fold_case(term))
        for key in ((form, of) for form in forms for of in (language, UNKNOWN)):
            expansion = self.entries.get(key) or self._by_folded.get(key)
            if expansion is not None and not (is_name and key in self.of_names):
                return Expansion(expansion, FROM_TABLE)
        return None

    def _inside(self, term: str, language: str, definitions: Mapping[str, str]) -> Expansion | None:
        sources = set()

        def written_out(match: re.Match[str]) -> str:
            for form in (match[0], match[0].removesuffix(".")):
                if form in definitions:
                    sources.add(FROM_CONTEXT)
                    return _on_one_line(definitions[form])
                found = self.entries.get((form, language)) or self.entries.get((form, UNKNOWN))
                if found is not None:
                    sources.add(FROM_TABLE)
                    return found
            return match[0]

        text = _WORD_OF_TERM.sub(written_out, term)
        return Expansion(text, FROM_CONTEXT if FROM_CONTEXT in sources else FROM_TABLE) if sources else None

    @cached_property
    def _by_folded(self) -> dict[tuple[str, str], str]:
        """Entries by their form without case; those that then have several expansions, or are names of a terminology, are left out."""
        given: dict[tuple[str, str], set[str]] = defaultdict(set)
        for (abbreviation, language), expansion in self.entries.items():
            if (abbreviation, language) not in self.of_names:
                given[fold_case(abbreviation), language].add(expansion)
        return {key: min(expansions) for key, expansions in given.items() if len(expansions) == 1}


def read_abbreviations(
    path: Path | str, *, sheet: str | None = None, encoding: str | None = None, header_row: int = 1
) -> Abbreviations:
    """Read a table of abbreviations, or take those of a terminology.

    Args:
        path: A terminology's folder; or a file that `open_table` reads, with the columns abbreviation, expansion and, where entries hold for
            one language alone, language.
        sheet: See `open_table`.
        encoding: See `open_table`.
        header_row: See `open_table`.

    Raises:
        DataError: The table has not these columns, no entries, or a language that is not known.
        ArtifactError: The folder is no terminology.
    """
    if Path(path).is_dir():
        return Abbreviations.from_terminology(Terminology.load(path))
    table = open_table(path, sheet=sheet, encoding=encoding, header_row=header_row)
    has_language = "language" in map(fold_case, table.header)
    places = [table.column_index(name) for name in _COLUMNS[: 3 if has_language else 2]]
    abbreviations = Abbreviations.from_rows(_rows(table, places))
    if not abbreviations.entries and not abbreviations.ambiguous:
        raise DataError(f"{table.where}: expected at least one abbreviation with its expansion, found none")
    return abbreviations


def _rows(table: InputTable, places: list[int]) -> Iterator[tuple[str, str, str]]:
    number = 0
    for chunk in table.chunks(_ROWS_PER_CHUNK):
        columns = [map(to_text, to_cells(chunk.column(place))) for place in places]
        for abbreviation, expansion, *rest in zip(*columns, strict=True):
            number += 1
            code = rest[0].strip() if rest else ""
            try:
                yield abbreviation, expansion, to_iso(code) if code else UNKNOWN
            except DataError as error:
                raise DataError(
                    f"{table.where}: row {number:,}, column 'language': {error}; correct it, or leave the cell empty"
                ) from None
