"""Which strings are at most one edit apart: equal, or one code point inserted, deleted or substituted. Swapped neighbours are two edits.

If two strings are, then one string is common to both sides: among the string itself and what is left of it when one code point is taken out.
So every string is turned into the 64-bit hashes of these, and only pairs that share a hash are compared. A string hashes to the sum of
v(c_k)·B^k modulo 2^64, so that taking out one code point divides what follows it by B, and all hashes of all strings come from one
cumulated sum. That two unlike strings share a hash costs a comparison, and never changes an answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Rows = NDArray[np.int64]

_CODE_POINTS = 0x110000
_BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse
_SPARE_BITS = 5  # a hash that nobody has passes the first look with a chance of one in 2^5


@dataclass(frozen=True)
class Neighbourhood:
    """Strings that others are compared with. hashes, rows: of the strings and of what is left of them, sorted by hash.
    taken: (2^bits,) bool, which leading bits occur among the hashes."""

    strings: Sequence[str]
    hashes: Hashes
    rows: Rows
    taken: NDArray[np.bool_]
    bits: int

    @classmethod
    def of(cls, strings: Sequence[str]) -> "Neighbourhood":
        """Without surrogates, as every string that comes from UTF-8."""
        hashes, rows = _hashes(strings)
        order = np.argsort(hashes, kind="stable")
        hashes, rows = hashes[order], rows[order]
        bits = max(len(hashes), 2).bit_length() + _SPARE_BITS
        taken = np.zeros(2**bits, np.bool_)
        taken[_leading(hashes, bits)] = True
        return cls(strings, hashes, rows, taken, bits)

    def pairs(self, others: Sequence[str]) -> list[tuple[int, int]]:
        """(row of `strings`, row of `others`) of each pair at most one edit apart, once and in order."""
        hashes, rows = _hashes(others)
        possible = self.taken[_leading(hashes, self.bits)]
        hashes, rows = hashes[possible], rows[possible]
        first, last = np.searchsorted(self.hashes, hashes, "left"), np.searchsorted(self.hashes, hashes, "right")
        found = last - first
        of_others = np.repeat(rows, found)
        within = np.arange(len(of_others)) - np.repeat(np.cumsum(found) - found, found)
        of_strings = self.rows[np.repeat(first, found) + within]
        candidates = np.unique(of_strings * len(others) + of_others)
        left, right = np.divmod(candidates, max(len(others), 1))
        return [(i, j) for i, j in zip(left.tolist(), right.tolist(), strict=True) if within_one_edit(self.strings[i], others[j])]


def within_one_edit(a: str, b: str) -> bool:
    """Whether two strings are equal or one edit apart."""
    if a == b:
        return True
    if abs(len(a) - len(b)) > 1:
        return False
    if len(a) > len(b):
        a, b = b, a
    same = next((i for i, (one, other) in enumerate(zip(a, b, strict=False)) if one != other), len(a))
    return a[same + (len(a) == len(b)) :] == b[same + 1 :]


def _hashes(strings: Sequence[str]) -> tuple[Hashes, Rows]:
    """The hash of each string, then the hashes of what is left of it without each of its code points; and the string's row for each."""
    lengths = np.fromiter(map(len, strings), np.int64, len(strings))
    codes = np.frombuffer("".join(strings).encode("utf-32-le"), np.uint32)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    sums = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum(_values()[codes] * _powers(int(lengths.max(initial=0)))[place], out=sums[1:])
    before = sums[:-1] - np.repeat(sums[starts], lengths)
    after = np.repeat(sums[ends], lengths) - sums[1:]
    left = before + after * np.uint64(pow(_BASE, -1, 2**64))
    rows = np.arange(len(strings))
    return np.concatenate([sums[ends] - sums[starts], left]), np.concatenate([rows, np.repeat(rows, lengths)])


def _powers(n: int) -> Hashes:
    """B^0 … B^(n-1) modulo 2^64."""
    powers = np.full(n, _BASE, np.uint64)
    powers[:1] = 1
    return np.cumprod(powers, dtype=np.uint64)


def _leading(hashes: Hashes, bits: int) -> NDArray[np.uint64]:
    shifted: NDArray[np.uint64] = hashes >> np.uint64(64 - bits)
    return shifted


@cache
def _values() -> Hashes:
    """v: a number for each code point, without pattern."""
    return np.random.default_rng(0).integers(0, 2**64, _CODE_POINTS, np.uint64)
