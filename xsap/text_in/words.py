"""Texts cut into units: words, or characters in scripts that put no spaces between words; and into sentences.

A word is a run of letters, digits and underscores with the marks that belong to them, so a decomposed `é` does not end one. Han, Kana, Thai, Lao,
Khmer and Myanmar text has no spaces between words; there each character is a unit of its own, with its marks, vowel signs and subscripts. A closing
parenthesis, bracket, plus, percent sign or asterisk that directly follows a unit is a unit that no name begins with (CD4+, 50%). Offsets are in the
text as it is given, in code points: `text[start:end]`.
"""

import re
from collections.abc import Iterator
from functools import cache, lru_cache
from itertools import accumulate
from typing import NamedTuple

from xsap.text import combining_marks

WORD, CHARACTER, CLOSING = range(3)
"""Kinds of units."""

_HAN = (
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3038-\u303b\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_KANA = (
    "\u3031-\u3035\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9d\U0001aff0-\U0001b16f"
)
_THAI_LAO = "\u0e01-\u0e2f\u0e4f-\u0e5b\u0e81-\u0eaf\u0ebd\u0ed0-\u0edf"
_KHMER_MYANMAR = "\u1780-\u17b3\u17d4-\u17dc\u17e0-\u17e9\u1000-\u109f\ua9e0-\ua9fe\uaa60-\uaa7f"
_UNSPACED = _HAN + _KANA + _THAI_LAO + _KHMER_MYANMAR
_BEFORE = "\u0e40-\u0e44\u0ec0-\u0ec4"  # vowels of Thai and Lao that are written before their consonant
_AFTER = (
    "\u0e30\u0e32\u0e33\u0e45\u0e46\u0eb0\u0eb2\u0eb3\u0ec6\uff9e\uff9f"  # those after it; voicing of half-width kana
)
_STACKING = "\u17d2\u1039"  # the next consonant is written below
_INVISIBLE = "\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff"  # between two letters they are part of the word
_CLOSING, _CLOSING_CLASS = ")]+%*", r")\]+%*"
_CHARACTER = re.compile(f"[{_UNSPACED}{_BEFORE}{_AFTER}]")
_ASCII_WORDS = re.compile("([A-Za-z0-9_]+)")
_ASCII_UNITS = re.compile(rf"([A-Za-z0-9_]+|(?<=[^\s\-])[{_CLOSING_CLASS}])")
_PARAGRAPH = re.compile(r"\n[^\S\n]*\r?\n|\r[^\S\r\n]*\r|[\f\v\u2028\u2029]")
_SENTENCE = re.compile(
    r"[.!?…]+[\"'”’»)\]]*(?=\s)|[。！？｡；।॥။។؟۔]+[」』”’）)]*|\n[^\S\n]*(?=[\n\-*•·–])|\n\s*\n|[\f\u2028\u2029]"
)
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:[^\W\d_]{1,2}|Mrs|Prof|approx|resp|ggf|bzw|inkl|[^\W\d_](?:\.\s?[^\W\d_])+)\.$"
)
_LONGEST_ABBREVIATION = 12
_UNITS_KEPT = 1 << 16


class Units(NamedTuple):
    """The units of a text, and what stands before each.

    Attributes:
        words: The text of each unit.
        separators: What stands before each unit; one more for what stands after the last.
        starts: Where each unit begins.
        ends: Where it ends.
    """

    words: list[str]
    separators: list[str]
    starts: list[int]
    ends: list[int]


def units_of(text: str) -> Units:
    """The units of a text, in their order.

    >>> units_of("Chronic CD4+ 発熱").words
    ['Chronic', 'CD4', '+', '発', '熱']
    """
    ascii_units = _ASCII_WORDS if is_plain(text) else _ASCII_UNITS  # the first is faster
    parts = (ascii_units if text.isascii() else _any_units()).split(text)
    edges = list(accumulate(map(len, parts)))
    return Units(parts[1::2], parts[::2], edges[:-1:2], edges[1::2])


def is_plain(text: str) -> bool:
    """Whether a text is known to have no units but words."""
    has_closing = ")" in text or "]" in text or "+" in text or "%" in text or "*" in text  # slower as a loop
    return text.isascii() and not has_closing


@lru_cache(_UNITS_KEPT)
def kind_of(unit: str) -> int:
    """The kind of a unit."""
    if unit[0] in _CLOSING:
        return CLOSING
    return CHARACTER if _CHARACTER.match(unit) else WORD


@cache
def _any_units() -> re.Pattern[str]:
    """Units of a text with characters beyond ASCII."""
    marks = combining_marks()
    unspaced = f"[{_UNSPACED}]"
    character = f"[{_BEFORE}]?{unspaced}(?:[{_STACKING}]{unspaced}|[{marks}{_AFTER}])*|[{_BEFORE}{_AFTER}][{marks}]*"
    letter = rf"[^\W{_UNSPACED}{_BEFORE}{_AFTER}]"
    word = rf"{letter}(?:{letter}|[{marks}]|[{_INVISIBLE}]+(?={letter}))*"
    return re.compile(rf"({word}|{character}|(?<=[^\s\-])[{_CLOSING_CLASS}])")


def ends_paragraph(separator: str) -> bool:
    """Whether what stands between two units ends a paragraph: an empty line, or a break of a page or paragraph."""
    return _PARAGRAPH.search(separator) is not None


def sentence_at(text: str, start: int, end: int, *, longest: int = 1_000) -> tuple[int, int]:
    """The sentence around a span, which ends of sentences inside the span do not cut.

    Args:
        text: The text.
        start: Where the span begins.
        end: Where it ends.
        longest: Characters of the text that are searched on each side.

    Returns:
        Where the sentence begins and ends, without white space at its ends.
    """
    first, last = max(0, start - longest), min(len(text), end + longest)
    left = first
    for boundary in _boundaries(text, first, start):
        left = boundary
    right = next(_boundaries(text, end, last), last)
    while left < start and text[left].isspace():
        left += 1
    while right > end and text[right - 1].isspace():
        right -= 1
    return left, right


def _boundaries(text: str, start: int, end: int) -> Iterator[int]:
    """Where sentences end in a part of a text."""
    for found in _SENTENCE.finditer(text, start, end):
        before = text[max(0, found.start() + 1 - _LONGEST_ABBREVIATION) : found.start() + 1]
        if not (found[0] == "." and _ABBREVIATION.search(before)):
            yield found.end()
