"""Packing: token arrays against plain loops."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.examples import examples
from xsap.encoding.packing import Tokens, drop_tokens, pack

names_of_tokens = st.lists(st.lists(st.integers(5, 49), min_size=1, max_size=12), min_size=1, max_size=12)


def make_tokens(rows: list[list[int]]) -> Tokens:
    rows = [[0, *row, 2] for row in rows]
    return Tokens(np.concatenate(rows).astype(np.int32), np.concatenate([[0], np.cumsum([len(row) for row in rows])]))


@given(rows=names_of_tokens)
@settings(max_examples=examples(60), deadline=None)
def test_pack_keeps_every_token_once_at_the_stated_position(rows: list[list[int]]) -> None:
    tokens = make_tokens(rows)
    batch = pack(tokens)
    ids, position_ids, segment_ids = (
        part.flatten().tolist() for part in (batch.ids, batch.position_ids, batch.segment_ids)
    )
    size, free = batch.ids.shape[1], set(range(len(ids)))
    for row, start, slot in zip(rows, batch.starts.tolist(), batch.slots.tolist(), strict=True):
        positions = range(start, start + len(row) + 2)
        assert [ids[at] for at in positions] == [0, *row, 2]
        assert [position_ids[at] for at in positions] == list(range(len(positions)))
        assert {(at // size, segment_ids[at]) for at in positions} == {divmod(slot, batch.q)}
        assert free.issuperset(positions)
        free -= set(positions)
    assert all(segment_ids[at] == -1 for at in free)
    assert len(set(batch.slots.tolist())) == len(rows)


def test_packed_rows_are_almost_full() -> None:
    random = np.random.default_rng(0)
    rows = [random.integers(5, 50, size).tolist() for size in np.minimum(random.poisson(6, 512) + 1, 23)]
    batch = pack(make_tokens(rows))
    assert batch.ids.shape[1] == 64
    assert batch.segment_ids.eq(-1).float().mean() < 0.03


Name = list[tuple[int, float]]  # of each token its id and its random number
# sometimes equal to a rate, which is where an off-by-one would show
numbers = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1 - 2**-53]) | st.floats(0, 1, exclude_max=True)
numbered_names = st.lists(st.lists(st.tuples(st.integers(0, 250_001), numbers), min_size=2, max_size=9), max_size=9)
rates = st.sampled_from([0.0, 0.25, 0.5, 0.75, 0.999]) | st.floats(0, 1, exclude_max=True)


def tokens_of(names: list[Name]) -> Tokens:
    ids = [token for name in names for token, _ in name]
    return Tokens(np.array(ids, np.int32), np.cumsum([0, *map(len, names)]))


def as_lists(tokens: Tokens) -> list[list[int]]:
    return [tokens.ids[start:end].tolist() for start, end in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)]


def drop_by_loop(name: Name, rate: float) -> list[int]:
    first, *inner, last = name
    kept = [token for token, number in inner if number >= rate]
    return [first[0], *(kept or [token for token, _ in inner]), last[0]]


@given(names=numbered_names, rate=rates)
def test_drop_tokens_matches_a_plain_loop(names: list[Name], rate: float) -> None:
    tokens, random = tokens_of(names), np.array([number for name in names for _, number in name])
    before = tokens.ids.copy(), tokens.offsets.copy()
    found = drop_tokens(tokens, rate, random)
    assert as_lists(found) == [drop_by_loop(name, rate) for name in names]
    assert (found.ids.dtype, found.offsets.dtype) == (np.int32, np.int64)  # as `pack` expects them
    assert found.offsets[-1] == len(found.ids)
    assert all(map(np.array_equal, before, (tokens.ids, tokens.offsets)))


def test_drop_tokens_leaves_out_the_given_fraction() -> None:
    """20,000 inner tokens in names of ten; at this rate only one name in 10⁵ loses all and stays whole."""
    tokens = Tokens(np.arange(24_000, dtype=np.int32) % 12, np.arange(0, 24_001, 12))
    left = drop_tokens(tokens, 0.3, np.random.default_rng(0).random(24_000))
    assert abs(1 - (len(left.ids) - 4000) / 20_000 - 0.3) < 0.016  # five standard deviations
    at = left.ids[(left.ids > 0) & (left.ids < 11)]
    counts = np.bincount(at)[1:]
    assert ((counts > 1300) & (counts < 1500)).all()  # the same for every position


@given(names=numbered_names.filter(len), data=st.data())
def test_count_and_take_match_plain_loops(names: list[Name], data: st.DataObject) -> None:
    """Rows in any order, some of them twice, or none."""
    rows = data.draw(st.lists(st.integers(0, len(names) - 1), max_size=12))
    tokens, at = tokens_of(names), np.array(rows, np.int64)
    assert tokens.count(at) == sum(len(names[row]) for row in rows)
    assert as_lists(tokens.take(at)) == [[token for token, _ in names[row]] for row in rows]
    assert type(tokens.count(at)) is int  # it goes into JSON
