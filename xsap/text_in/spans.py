"""Spans of a text that are names of an index, found in the hashed names that the index has anyway.

Every n-gram of units (up to MAX_WORDS words, or MAX_CHARACTERS characters in scripts without spaces) gets the hash of its look-up key, and many of them
are searched together in the sorted hashes of `Keys`; nothing is built and nothing is kept beside the index. The key of an n-gram is a part of the key of
its text, which is made once: in one go if the text is ASCII, else of the keys of its units and of what stands between them. What is found is compared
with the names again, as `Keys.find` does: a span is a name as it is written, in another letter case, or without accents.

Spans are chosen from left to right, the longest first, and do not overlap. No mention is: a span without a letter, or with a single one; a span of stop
words and of words with fewer than three letters (two in scripts without letter case), unless it is written in capitals among other letters; a code,
unless it names its vocabulary (HP:0001945); and a name that is an abbreviation in capitals, of at most four letters, written in another way.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from xsap.linking.dictionary import Dictionary
from xsap.linking.name_keys import CODE_ENTRY, key_hashes, spelling_hash
from xsap.text import (
    AS_WRITTEN,
    EXACT_MATCH,
    expand_umlauts,
    fold_accents,
    fold_ascii,
    look_up_key,
    normalize,
    script_of,
)
from xsap.text_in.stop_words import is_stop_word
from xsap.text_in.words import CHARACTER, CLOSING, WORD, Units, ends_paragraph, is_plain, kind_of, units_of

MAX_WORDS, MAX_CHARACTERS = 10, 16
NGRAMS_PER_SEARCH = 1 << 17
_KEYS_KEPT, _SPANS_KEPT = 1 << 16, 1 << 15
_SHORTENED = re.compile("  +|a[ae]+|oe+|ue+")  # of which the key has the first character, see `look_up_key`
_LINE_END = re.compile("[\n\r\f\v\u2028\u2029]")
_LONGEST_SEPARATOR = 8  # characters between two units of a name
_LONGEST_ABBREVIATION = 4
_LAST_BITS = np.uint64(48)  # of a hash
_NEARBY = 60  # characters on each side that tell whether capitals mean anything
_SHORTEST, _SHORTEST_WITHOUT_CASE, _SHORTEST_OF_CHARACTERS = 3, 2, 2

Keep = Callable[[str, str], bool]
"""Whether a filter keeps a concept of the name that a span, in its language, is."""


class Span(NamedTuple):
    """A part of a text, `text[start:end]`, in code points."""

    start: int
    end: int


@dataclass(slots=True)
class UnitKeys:
    """A text as units with their look-up keys.

    Attributes:
        text: The text.
        units: Its units.
        key: The key of the whole text, UTF-8.
        starts: Where each unit begins in the key, in bytes.
        ends: Where it ends.
        counts: How many n-grams begin with each unit.
    """

    text: str
    units: Units
    key: bytes
    starts: list[int]
    ends: list[int]
    counts: list[int]

    def key_of(self, unit: int) -> str:
        """The key of a unit."""
        return self.key[self.starts[unit] : self.ends[unit]].decode("utf-8", "surrogatepass")


KnownNgram = tuple[int, int, int, int]
"""An n-gram that has the hash of a name: its first unit, the unit after its last, and the first and the end of the entries under that hash."""


class _Piece(NamedTuple):
    """Units of a text whose n-grams are searched together, all of them unless the text is very long: from `first` on and before `stop`."""

    text: UnitKeys
    first: int
    stop: int


class _KeyCache(dict[str, bytes]):
    """The look-up key of each unit, made when it is first asked for."""

    def __missing__(self, unit: str) -> bytes:
        if len(self) >= _KEYS_KEPT:
            self.clear()
        key = self[unit] = look_up_key(unit).encode("utf-8", "surrogatepass")
        return key


class _SeparatorCache(dict[str, bytes]):
    """The look-up key of what stands between two units."""

    def __missing__(self, separator: str) -> bytes:
        if len(separator) > _LONGEST_SEPARATOR:
            return b" "  # no name goes across it, unless it is white space
        if len(self) >= _KEYS_KEPT:
            self.clear()
        key = self[separator] = look_up_key(f"x{separator}x")[1:-1].encode("utf-8", "surrogatepass")
        return key


class SpanFinder:
    """Finds the names of a dictionary in texts. Used by one thread at a time.

    Args:
        dictionary: The names.
        further: Further names, as EXACT_MATCH normalizes them; they are hashed here.
        max_words: The longest n-gram that begins with a word, in units.
        max_characters: The longest n-gram that begins with a character of a script without spaces.
        ngrams_per_search: N-grams that are hashed and searched together.
    """

    def __init__(
        self,
        dictionary: Dictionary,
        further: Collection[str] = (),
        *,
        max_words: int = MAX_WORDS,
        max_characters: int = MAX_CHARACTERS,
        ngrams_per_search: int = NGRAMS_PER_SEARCH,
    ) -> None:
        self.dictionary, self._further = dictionary, frozenset(further)
        self._hashes = dictionary.keys.hashes
        self._further_hashes = np.sort(key_hashes(pa.array(list(further), pa.string())))
        self._longest = {WORD: max_words, CHARACTER: max_characters, CLOSING: 0}
        self._ngrams_per_search = ngrams_per_search
        self._keys, self._separators = _KeyCache(), _SeparatorCache()
        self._names: dict[str, bool] = {}
        self._starters: dict[tuple[str, str], bool] = {}  # whether a word makes a mention of what begins with it

    def find(self, texts: Sequence[str], languages: Sequence[str], keep: Keep | None = None) -> list[list[Span]]:
        """The spans of each text, in their order.

        Args:
            texts: The texts.
            languages: The language of each, an ISO 639 code or UNKNOWN.
            keep: Which names may be answers; None for all.

        Returns:
            Spans that do not overlap; `text[start:end]` is a name.
        """
        found: list[list[Span]] = []
        hits: list[KnownNgram] = []
        for group in self._groups(map(self.unit_keys, texts)):
            for piece, own in zip(group, self._look_up(group), strict=True):
                hits += own
                if piece.stop == len(piece.text.counts):
                    found.append(self._choose(piece.text, hits, languages[len(found)], keep) if hits else [])
                    hits = []
        return found

    def unit_keys(self, text: str) -> UnitKeys:
        """A text as units with their look-up keys."""
        units = units_of(text)
        counts = self._counts(len(units.words), breaks_in(text, units))
        if not is_plain(text):
            self._shorten(counts, list(map(kind_of, units.words)), units)
        if text.isascii():
            return UnitKeys(text, units, *ascii_key(text, units.starts, units.ends), counts)
        keys, separators = self._keys, self._separators
        parts: list[bytes] = [b""] * (2 * len(units.words))
        parts[::2] = [separators[separator] for separator in units.separators[:-1]]
        parts[1::2] = [keys[word] for word in units.words]
        edges = list(accumulate(map(len, parts)))
        return UnitKeys(text, units, b"".join(parts), edges[::2], edges[1::2], counts)

    def _is_name(self, span: str, entries: slice) -> bool:
        """Whether a span is a name, and no bare code and no abbreviation that is written in another way. entries: those under its hash."""
        known = self._names.get(span)
        if known is None:
            if len(self._names) >= _SPANS_KEPT:
                self._names.clear()
            known = self._equals_a_name(span, entries) or normalize(span, EXACT_MATCH) in self._further
            self._names[span] = known
        return known

    def _equals_a_name(self, span: str, entries: slice) -> bool:
        dictionary = self.dictionary
        written = spelling_hash(normalize(span, AS_WRITTEN))
        is_short = len(span) <= _LONGEST_ABBREVIATION and not span.isupper()
        forms: tuple[str, str] | None = None
        for row, _, spelling, _, preference in dictionary.keys.entries[entries].tolist():
            if preference == CODE_ENTRY:
                continue
            if spelling == written:
                return True
            name: str = dictionary.names["name"][row].as_py()
            if is_short and name.isupper():
                continue
            forms = forms or (fold_accents(span), expand_umlauts(span))
            if fold_accents(name) == forms[0] or expand_umlauts(name) == forms[1]:
                return True
        vocabulary, colon, code = span.partition(":")
        if not (colon and vocabulary and code):
            return False
        return bool(dictionary.keys.find(span, "", dictionary.names, dictionary.concepts))

    def _is_mention(self, unit_keys: UnitKeys, first: int, stop: int, language: str) -> bool:
        """`is_mention`, faster for most spans: those that begin with a long word that is no stop word."""
        word = unit_keys.units.words[first]
        if len(word) >= _SHORTEST and word.isalpha():
            known = self._starters.get((word, language))
            if known is None:
                if len(self._starters) >= _KEYS_KEPT:
                    self._starters.clear()
                known = kind_of(word) == WORD and not is_stop_word(unit_keys.key_of(first), language)
                self._starters[word, language] = known
            if known:
                return True
        return is_mention(unit_keys, first, stop, language)

    def _counts(self, size: int, breaks: list[int]) -> list[int]:
        """How many n-grams begin with each of some words, none of which goes across a break."""
        longest = self._longest[WORD]
        counts: list[int] = []
        first = 0
        for last in (*breaks, size):
            counts += [longest] * (last - first - longest)
            counts += range(min(last - first, longest), 0, -1)
            first = last
        return counts

    def _shorten(self, counts: list[int], kinds: list[int], units: Units) -> None:
        """Correct the counts of units that are no words."""
        if not any(kinds):
            return
        last = len(kinds)
        for number in range(len(kinds) - 1, -1, -1):
            if kinds[number] != WORD:
                counts[number] = min(self._longest[kinds[number]], last - number)
            if number and ends_paragraph_or_is_long(units.separators[number]):
                last = number

    def _groups(self, texts: Iterable[UnitKeys]) -> Iterator[list[_Piece]]:
        """Pieces of texts whose n-grams are searched together."""
        group: list[_Piece] = []
        size = 0
        for text in texts:
            for first, stop in self._cut(text.counts):
                group.append(_Piece(text, first, stop))
                size += sum(text.counts[first:stop])
                if size >= self._ngrams_per_search:
                    yield group
                    group, size = [], 0
        if group:
            yield group

    def _cut(self, counts: list[int]) -> list[tuple[int, int]]:
        """Where the units of a text are cut, so that no piece has more n-grams than are searched together, unless it has one unit."""
        if len(counts) * max(self._longest.values()) <= self._ngrams_per_search:
            return [(0, len(counts))]
        cuts, size = [0], 0
        for number, count in enumerate(counts):
            if size + count > self._ngrams_per_search and number > cuts[-1]:
                cuts.append(number)
                size = 0
            size += count
        return list(pairwise([*cuts, len(counts)]))

    def _look_up(self, group: list[_Piece]) -> list[list[KnownNgram]]:
        """The n-grams of each piece that have the hash of a name, in order."""
        queries, counts, bases = _hash_ngrams(group)
        at, entries, ends = known_queries(queries, self._hashes)
        if self._further:
            further, *_ = known_queries(queries, self._further_hashes)
            both = np.union1d(at, further)
            ranges = np.zeros((2, len(both)), np.int64)  # empty for names that are not the dictionary's
            ranges[:, np.searchsorted(both, at)] = entries, ends
            at, entries, ends = both, ranges[0], ranges[1]
        edges = np.cumsum(np.array(counts, np.int64))
        units = np.searchsorted(edges, at, "right")
        lengths = at - np.where(units > 0, edges[units - 1], 0) + 1
        owners = np.searchsorted(np.array(bases), units, "right") - 1
        firsts = units - np.array(bases)[owners] + np.array([piece.first for piece in group])[owners]
        ngrams = zip(firsts.tolist(), (firsts + lengths).tolist(), entries.tolist(), ends.tolist(), strict=True)
        found: list[list[KnownNgram]] = [[] for _ in group]
        for owner, ngram in zip(owners.tolist(), ngrams, strict=True):
            found[owner].append(ngram)
        return found

    def _choose(self, unit_keys: UnitKeys, hits: list[KnownNgram], language: str, keep: Keep | None) -> list[Span]:
        """From left to right the longest n-grams that are mentions."""
        spans: list[Span] = []
        units = unit_keys.units
        free = 0
        for first, own in groupby(hits, key=itemgetter(0)):
            if first < free:
                continue
            for _, stop, begin, end in reversed(list(own)):
                span = Span(units.starts[first], units.ends[stop - 1])
                text = unit_keys.text[span.start : span.end]
                if not self._is_mention(unit_keys, first, stop, language) or not self._is_name(text, slice(begin, end)):
                    continue
                if keep is None or keep(text, language):
                    spans.append(span)
                    free = stop
                    break
        return spans


def ascii_key(text: str, starts: list[int], ends: list[int]) -> tuple[bytes, list[int], list[int]]:
    """The look-up key of an ASCII text, white space at its ends included, and where its units begin and end in it.

    Args:
        text: The text.
        starts: Where its units begin in it.
        ends: Where they end.
    """
    folded = fold_ascii(text)
    if not ("ae" in folded or "oe" in folded or "ue" in folded or "aa" in folded or "  " in folded):
        return folded.encode(), starts, ends
    parts: list[str] = []
    edges: list[int] = []
    at = 0
    for match in _SHORTENED.finditer(folded):
        parts.append(folded[at : match.start() + 1])
        at = match.end()
        edges.append(at)
    removed = list(
        accumulate(edge - before - len(part) for before, edge, part in zip([0, *edges], edges, parts, strict=False))
    )
    key = "".join([*parts, folded[at:]]).encode()
    return key, _shifted(starts, edges, removed), _shifted(ends, edges, removed)


def _shifted(places: list[int], edges: list[int], removed: list[int]) -> list[int]:
    """Places in a text without what was removed from it. removed: how many characters before each edge; all lists are in order."""
    bounds = [bisect_left(places, edge) for edge in edges]
    shifted = places[: bounds[0]]
    for by, (first, last) in zip(removed, pairwise([*bounds, len(places)]), strict=True):
        shifted += [place - by for place in places[first:last]]
    return shifted


def breaks_in(text: str, units: Units) -> list[int]:
    """The units before which no name can go on: after an empty line, a page break, or a long separator."""
    if (text.isprintable() or not _LINE_END.search(text)) and max(map(len, units.separators)) <= _LONGEST_SEPARATOR:
        return []
    return [
        number
        for number, separator in enumerate(units.separators[:-1])
        if number and ends_paragraph_or_is_long(separator)
    ]


def ends_paragraph_or_is_long(separator: str) -> bool:
    """Whether no name goes across what stands between two units."""
    return ends_paragraph(separator) or (len(separator) > _LONGEST_SEPARATOR and not separator.isspace())


def _hash_ngrams(group: list[_Piece]) -> tuple[NDArray[np.uint64], list[int], list[int]]:
    """The hashes of all n-grams of pieces, how many begin with each unit, and the number of the first unit of each piece, and of one after the last."""
    digest = xxhash.xxh3_64_digest
    hashes: list[bytes] = []
    counts: list[int] = []
    bases = [0]
    for text, first, stop in group:
        key, ends = text.key, text.ends
        own = text.counts if stop - first == len(text.counts) else text.counts[first:stop]
        hashes += [
            digest(key[start:end])
            for number, start, count in zip(range(first, stop), text.starts[first:stop], own, strict=True)
            for end in ends[number : number + count]
        ]
        counts += own
        bases.append(len(counts))
    return np.frombuffer(b"".join(hashes), ">u8").astype(np.uint64), counts, bases


def known_queries(
    queries: NDArray[np.uint64], hashes: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Those of (q,) hashes that are among (n,) sorted ones: their numbers, and the first of the equal ones and the one after the last.

    What sorted queries read is in the processor's cache, so a search for them takes a fraction of the time. Few are known: where they were among the
    queries is found by their first 16 bits, which few others have.
    """
    if not len(hashes):
        return (np.zeros(0, np.int64),) * 3
    ordered = np.sort(queries)
    at = np.searchsorted(hashes, ordered)
    is_known = hashes[np.minimum(at, len(hashes) - 1)] == ordered
    known, begins = ordered[is_known], at[is_known]
    if not len(known):
        return (np.zeros(0, np.int64),) * 3
    ends = np.searchsorted(hashes, known, "right")
    begin_one = np.zeros(1 << 16, bool)
    begin_one[known >> _LAST_BITS] = True
    likely = np.flatnonzero(begin_one[queries >> _LAST_BITS])
    places = np.minimum(np.searchsorted(known, queries[likely]), len(known) - 1)
    is_one = known[places] == queries[likely]
    return likely[is_one], begins[places[is_one]], ends[places[is_one]]


def is_mention(unit_keys: UnitKeys, first: int, stop: int, language: str) -> bool:
    """Whether some units can be a mention, by their form: see the rules above."""
    units, text = unit_keys.units, unit_keys.text
    span = text[units.starts[first] : units.ends[stop - 1]]
    if len(span) < 2 or not any(map(str.isalpha, span)):
        return False
    kinds = list(map(kind_of, units.words[first:stop]))
    if kinds[0] == WORD and sum(kind != CLOSING for kind in kinds) == 1 and len(units.words[first]) == 1:
        return False  # a letter, as in `a)`
    for number, kind in enumerate(kinds, first):
        word = units.words[number]
        if kind == CHARACTER:
            is_long = stop - first > 1 or len(word) >= _SHORTEST_OF_CHARACTERS + (
                script_of(word) not in ("Han", "Kana")
            )
            whole = unit_keys.key[unit_keys.starts[first] : unit_keys.ends[stop - 1]].decode("utf-8", "surrogatepass")
            if is_long and not is_stop_word(whole, language):
                return True
        elif kind == WORD:
            has_case = word.isupper() or word.islower() or word.istitle()
            if len(word) >= (_SHORTEST if has_case else _SHORTEST_WITHOUT_CASE) and not is_stop_word(
                unit_keys.key_of(number), language
            ):
                return True
    return span.isupper() and not _is_shouted(text, units.starts[first], units.ends[stop - 1])


def _is_shouted(text: str, start: int, end: int) -> bool:
    """Whether the text around a span is in capitals too, so that its own capitals mean nothing."""
    around = text[max(0, start - _NEARBY) : start] + text[end : end + _NEARBY]
    return sum(map(str.isupper, around)) > sum(map(str.islower, around))
