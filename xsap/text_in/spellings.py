"""Near spellings: the names that n-grams of a text would be if one letter were another, or an ending were another.

Nothing is built for it: the variants of an n-gram are hashed and searched as n-grams themselves are. They are bounded: n-grams of at most NEAR_WORDS words
outside the spans that are names already, with at least LETTERS letters, that begin and end with no stop word, and of each the keys with

    one edit      one letter more, less, another, or two neighboring ones exchanged, within a word of at least EDITED_LETTERS letters, never its first one
                  and never a digit, so that hepatitis A does not become hepatitis B
    endings       each word of at least INFLECTED_LETTERS letters as it is, or with or without -s or -es, in all combinations

which are some 50 keys for each letter. Letters are those of the n-gram's own alphabet (Latin, Cyrillic, Greek); other scripts have no near spellings.
"""

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import xxhash

from xsap.linking.name_keys import CODE_ENTRY
from xsap.text_in.spans import Keep, Span, SpanFinder, UnitKeys, known_queries
from xsap.text_in.stop_words import is_stop_word
from xsap.text_in.words import WORD, kind_of

NEAR_WORDS = 4
LETTERS = EDITED_LETTERS = 6
INFLECTED_LETTERS = 4
_ALPHABETS = ("abcdefghijklmnopqrstuvwxyz", "абвгдежзийклмнопрстуфхцчшщъыьэюяієї", "αβγδεζηθικλμνξοπρστυφχψω")
_ENDINGS = ("s", "es")
_KEYS_KEPT, _VARIANTS_PER_SEARCH = 1 << 16, 1 << 18
_NAMES_KEPT = 8  # that an n-gram may be a near spelling of; a filter may keep another one than the first


class NearSpellings:
    """Finds names and near spellings of names. Used by one thread at a time.

    Args:
        finder: Finds the names.
    """

    def __init__(self, finder: SpanFinder) -> None:
        self._finder = finder
        self._known: dict[str, list[str]] = {}  # the key of an n-gram → names that it may be a near spelling of

    def find(self, texts: Sequence[str], languages: Sequence[str], keep: Keep | None = None) -> list[list[Span]]:
        """The names in each text, and near spellings of names between them, as `SpanFinder.find`; of near spellings the longest come first.

        Args:
            texts: The texts.
            languages: The language of each, an ISO 639 code or UNKNOWN.
            keep: Which names may be answers; None for all.
        """
        exact = self._finder.find(texts, languages, keep)
        candidates = []
        for text, language, spans in zip(texts, languages, exact, strict=True):
            unit_keys = self._finder.unit_keys(text)
            candidates.append((unit_keys, list(_candidates(unit_keys, spans, language))))
        self._search({key: None for _, own in candidates for _, _, key in own})
        found = []
        for (unit_keys, own), spans, language in zip(candidates, exact, languages, strict=True):
            taken: set[int] = set()
            near = []
            for first, stop, key in sorted(own, key=lambda each: (each[0] - each[1], each[0])):
                names = self._known[key]
                if taken & set(range(first, stop)) or not any(keep is None or keep(name, language) for name in names):
                    continue
                taken |= set(range(first, stop))
                near.append(Span(unit_keys.units.starts[first], unit_keys.units.ends[stop - 1]))
            found.append(sorted([*spans, *near]))
        return found

    def _search(self, wanted: dict[str, None]) -> None:
        """Look up the near spellings of n-grams that are not known yet, by their keys."""
        if len(self._known) > _KEYS_KEPT:
            self._known.clear()
        new = [key for key in wanted if key not in self._known]
        variants: list[str] = []
        owners: list[str] = []
        for number, key in enumerate(new, start=1):
            self._known[key] = []
            words = key.split(_BETWEEN)
            own = list(near_spellings(words[::2], words[1::2]))
            variants += own
            owners += [key] * len(own)
            if len(variants) >= _VARIANTS_PER_SEARCH or number == len(new):
                self._match(variants, owners)
                variants, owners = [], []

    def _match(self, variants: list[str], owners: list[str]) -> None:
        dictionary = self._finder.dictionary
        digests = b"".join(xxhash.xxh3_64_digest(variant.encode("utf-8", "surrogatepass")) for variant in variants)
        queries = np.frombuffer(digests, ">u8").astype(np.uint64)
        found = known_queries(queries, dictionary.keys.hashes)
        for number, begin, end in zip(*(each.tolist() for each in found), strict=True):
            names = self._known[owners[number]]
            for row, _, _, _, preference in dictionary.keys.entries[begin:end].tolist():
                if preference != CODE_ENTRY and len(names) < _NAMES_KEPT:
                    name = dictionary.names["name"][row].as_py()
                    names += [] if name in names else [name]


_BETWEEN = "\x00"  # between the words and separators of an n-gram's key, which have no such character


def _candidates(unit_keys: UnitKeys, spans: Sequence[Span], language: str) -> Iterator[tuple[int, int, str]]:
    """(first unit, unit after the last, key) of each n-gram outside the spans that may be a near spelling."""
    units, count = unit_keys.units, len(unit_keys.units.starts)
    is_free = [True] * count
    at = 0
    for start, end in spans:
        while at < count and units.starts[at] < start:
            at += 1
        while at < count and units.starts[at] < end:
            is_free[at], at = False, at + 1
    keys = [unit_keys.key_of(number) for number in range(count)]
    is_word = [is_free[number] and kind_of(units.words[number]) == WORD for number in range(count)]
    is_edge = [is_word[number] and not is_stop_word(keys[number], language) for number in range(count)]
    for first in range(count):
        if not is_edge[first]:
            continue
        parts = keys[first]
        letters = len(keys[first])
        for stop in range(first + 1, first + 1 + min(NEAR_WORDS, unit_keys.counts[first])):
            if stop > first + 1:
                if not is_word[stop - 1]:
                    break
                separator = unit_keys.key[unit_keys.ends[stop - 2] : unit_keys.starts[stop - 1]]
                parts += f"{_BETWEEN}{separator.decode('utf-8', 'surrogatepass')}{_BETWEEN}{keys[stop - 1]}"
                letters += len(keys[stop - 1])
            if is_edge[stop - 1] and letters >= LETTERS:
                yield first, stop, parts


def near_spellings(words: list[str], separators: list[str]) -> Iterator[str]:
    """Keys of names that an n-gram may be a near spelling of; one may come several times, and the n-gram itself is not among them.

    Args:
        words: The look-up keys of its words.
        separators: The keys of what stands between them.
    """
    alphabet = next((each for each in _ALPHABETS if any(letter in each for letter in "".join(words))), None)
    if alphabet is None:
        return
    whole = _joined(words, separators)
    for number, word in enumerate(words):
        if len(word) < EDITED_LETTERS or not word.isalpha():
            continue
        for edited in edits_of(word, alphabet):
            yield _joined([*words[:number], edited, *words[number + 1 :]], separators)
    if len(words) > 1 and alphabet == _ALPHABETS[0]:
        for variant in product(*map(_inflections, words)):
            if (joined := _joined(list(variant), separators)) != whole:
                yield joined


def edits_of(word: str, alphabet: str) -> Iterator[str]:
    """The words at one edit from a word, its first letter kept (Damerau, Communications of the ACM 7, 1964)."""
    for at in range(1, len(word) + 1):
        before, after = word[:at], word[at:]
        for letter in alphabet:
            yield before + letter + after
            if after and letter != after[0]:
                yield before + letter + after[1:]
        if after:
            yield before + after[1:]
        if len(after) > 1 and after[0] != after[1]:
            yield before + after[1] + after[0] + after[2:]


def _inflections(word: str) -> list[str]:
    if len(word) < INFLECTED_LETTERS or not word.isalpha():
        return [word]
    longer = [word + ending for ending in _ENDINGS]
    return [word, *longer, *(word.removesuffix(ending) for ending in _ENDINGS if word.endswith(ending))]


def _joined(words: list[str], separators: list[str]) -> str:
    return words[0] + "".join(separator + word for separator, word in zip(separators, words[1:], strict=True))
