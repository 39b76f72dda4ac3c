"""Counting tokens and leaving some out, against plain loops."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from xsap.encoding.packing import Tokens, drop_tokens

Name = list[tuple[int, float]]  # of each token its id and its random number
# equal to a rate now and then, which is where one more or one fewer goes
numbers = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1 - 2**-53]) | st.floats(0, 1, exclude_max=True)
names_of_tokens = st.lists(st.lists(st.tuples(st.integers(0, 250_001), numbers), min_size=2, max_size=9), max_size=9)
rates = st.sampled_from([0.0, 0.25, 0.5, 0.75, 0.999]) | st.floats(0, 1, exclude_max=True)


def tokens_of(names: list[Name]) -> Tokens:
    ids = [token for name in names for token, _ in name]
    return Tokens(np.array(ids, np.int32), np.cumsum([0, *map(len, names)]))


def listed(tokens: Tokens) -> list[list[int]]:
    return [tokens.ids[start:end].tolist() for start, end in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)]


def plainly_dropped(name: Name, rate: float) -> list[int]:
    first, *inner, last = name
    kept = [token for token, number in inner if number >= rate]
    return [first[0], *(kept or [token for token, _ in inner]), last[0]]


@given(names=names_of_tokens, rate=rates)
def test_dropped_tokens_are_those_of_a_plain_loop(names: list[Name], rate: float) -> None:
    tokens, random = tokens_of(names), np.array([number for name in names for _, number in name])
    before = tokens.ids.copy(), tokens.offsets.copy()
    found = drop_tokens(tokens, rate, random)
    assert listed(found) == [plainly_dropped(name, rate) for name in names]
    assert (found.ids.dtype, found.offsets.dtype) == (np.int32, np.int64)  # what `pack` is made for
    assert found.offsets[-1] == len(found.ids)
    assert all(map(np.array_equal, before, (tokens.ids, tokens.offsets)))


def test_the_share_that_is_left_out_is_the_rate() -> None:
    """Of 20,000 inner tokens in names of ten; a name that keeps nothing, which stays whole, is one in 10⁵ at this rate."""
    tokens = Tokens(np.arange(24_000, dtype=np.int32) % 12, np.arange(0, 24_001, 12))
    left = drop_tokens(tokens, 0.3, np.random.default_rng(0).random(24_000))
    assert abs(1 - (len(left.ids) - 4000) / 20_000 - 0.3) < 0.016  # five standard deviations
    at = left.ids[(left.ids > 0) & (left.ids < 11)]
    assert np.bincount(at).tolist()[1:] == [
        count for count in np.bincount(at)[1:] if 1300 < count < 1500
    ]  # any place alike


@given(names=names_of_tokens.filter(len), data=st.data())
def test_tokens_are_counted_where_asked(names: list[Name], data: st.DataObject) -> None:
    """Rows in any order, some of them twice, or none."""
    rows = data.draw(st.lists(st.integers(0, len(names) - 1), max_size=12))
    tokens, at = tokens_of(names), np.array(rows, np.int64)
    assert tokens.count(at) == sum(len(names[row]) for row in rows)
    assert listed(tokens.take(at)) == [[token for token, _ in names[row]] for row in rows]
    assert type(tokens.count(at)) is int  # it goes into JSON
