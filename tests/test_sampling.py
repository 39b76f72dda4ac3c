"""Sampling: every pair once, nothing but true pairs, ranks disjoint, and any step known without the ones before it."""

import subprocess
import sys
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsap.errors import ConfigError, DataError
from xsap.training.sampling import Concepts, FilePairs, GroupSampler, PairSampler, parse_choice, permute, share

concept_lists = st.lists(st.integers(0, 12), min_size=4, max_size=60).filter(lambda c: max(Counter(c).values()) >= 2)


def names_of(concepts: list[int]) -> tuple[np.ndarray, list[str]]:
    """Numbered concepts, and a language for each name: every third is English."""
    return np.array(concepts, np.int64), ["en" if i % 3 == 0 else "de" for i in range(len(concepts))]


def epoch_pairs(sampler: PairSampler | FilePairs, epoch: int) -> list[tuple[int, int]]:
    pairs = []
    for step in range(sampler.steps_per_epoch):
        rows = sampler.batch(epoch, step).rows.tolist()
        half = len(rows) // 2
        pairs += [tuple(sorted(pair)) for pair in zip(rows[:half], rows[half:], strict=True)]
    return pairs


@given(size=st.integers(1, 3000), key=st.integers(0, 2**62))
@settings(deadline=None)
def test_permute_is_a_permutation(size: int, key: int) -> None:
    assert sorted(permute(np.arange(size), size, key).tolist()) == list(range(size))


def test_permutations_look_random() -> None:
    """Each place goes everywhere about equally often: chi-square of 20,000 keys over 10 places, 81 degrees of freedom."""
    n, keys = 10, np.arange(20_000)
    counts = np.stack([np.bincount(permute(np.full_like(keys, place), n, keys), minlength=n) for place in range(n)])
    expected = len(keys) / n
    assert ((counts - expected) ** 2 / expected).sum() < 150  # its 99.9999 % point is about 150


@given(concepts=concept_lists, pairs=st.integers(1, 20), seed=st.integers(0, 99))
@settings(deadline=None)
def test_an_epoch_has_every_pair_exactly_once(concepts: list[int], pairs: int, seed: int) -> None:
    of, languages = names_of(concepts)
    sampler = PairSampler(Concepts(of, languages), pairs_per_concept=10_000, pairs=pairs, seed=seed)
    expected = {pair for pair in combinations(range(len(of)), 2) if of[pair[0]] == of[pair[1]]}
    found = epoch_pairs(sampler, epoch=0)
    assert len(found) == len(expected)
    assert set(found) == expected


@given(concepts=concept_lists, cap=st.integers(1, 6), seed=st.integers(0, 99))
@settings(deadline=None)
def test_no_concept_gives_more_pairs_than_allowed(concepts: list[int], cap: int, seed: int) -> None:
    of, languages = names_of(concepts)
    sampler = PairSampler(Concepts(of, languages), pairs_per_concept=cap, pairs=7, seed=seed)
    found = epoch_pairs(sampler, epoch=1)
    assert len(set(found)) == len(found)
    for concept, count in Counter(concepts).items():
        assert sum(of[left] == concept for left, _ in found) == min(cap, count * (count - 1) // 2)


@given(concepts=concept_lists, seed=st.integers(0, 99))
@settings(deadline=None)
def test_with_an_anchor_each_pair_has_an_anchor_name_and_no_such_pair_is_missing(concepts: list[int], seed: int) -> None:
    of, languages = names_of(concepts)
    wanted = {
        pair for pair in combinations(range(len(of)), 2) if of[pair[0]] == of[pair[1]] and "en" in (languages[pair[0]], languages[pair[1]])
    }
    if not wanted:
        with pytest.raises(ConfigError, match="no concept has two names"):
            Concepts(of, languages, "en")
        return
    sampler = PairSampler(Concepts(of, languages, "en"), pairs_per_concept=10_000, pairs=5, seed=seed)
    assert sorted(epoch_pairs(sampler, epoch=0)) == sorted(wanted)


@given(concepts=concept_lists, m=st.integers(2, 5), seed=st.integers(0, 99), anchored=st.booleans())
@settings(deadline=None)
def test_groups_meet_each_concept_once_with_distinct_names(concepts: list[int], m: int, seed: int, anchored: bool) -> None:
    of, languages = names_of(concepts)
    try:
        usable = Concepts(of, languages, "en" if anchored else None)
    except ConfigError:
        return
    sampler = GroupSampler(usable, names_per_concept=m, names=3 * m, seed=seed)
    met: list[int] = []
    for step in range(sampler.steps_per_epoch):
        batch = sampler.batch(0, step)
        assert len(set(batch.rows.tolist())) == len(batch.rows)
        assert (of[batch.rows] == batch.concepts).all()
        for concept in dict.fromkeys(batch.concepts.tolist()):
            rows = batch.rows[batch.concepts == concept]
            assert len(rows) == min(m, Counter(concepts)[concept])
            assert not anchored or languages[rows[0]] == "en"
            met.append(concept)
    counts = Counter(concepts)
    english = {c for c, language in zip(concepts, languages, strict=True) if language == "en"}
    assert sorted(met) == sorted(c for c in counts if counts[c] >= 2 and (not anchored or c in english))


def test_every_name_of_a_group_gets_its_turn() -> None:
    of = np.zeros(9, np.int64)
    sampler = GroupSampler(Concepts(of), names_per_concept=3, names=6, seed=5)
    drawn = Counter(row for epoch in range(900) for row in sampler.batch(epoch, 0).rows.tolist())
    assert set(drawn) == set(range(9))
    assert 240 < min(drawn.values()) <= max(drawn.values()) < 360  # 300 expected, six standard deviations are 85


@pytest.mark.parametrize("mode", ["pairs", "groups", "file"])
def test_a_step_is_the_same_alone_as_in_sequence_and_epochs_and_seeds_differ(mode: str) -> None:
    of, languages = names_of([i // 3 for i in range(600)])

    def make(seed: int) -> PairSampler | GroupSampler | FilePairs:
        if mode == "pairs":
            return PairSampler(Concepts(of, languages), pairs_per_concept=50, pairs=16, seed=seed)
        if mode == "groups":
            return GroupSampler(Concepts(of, languages), names_per_concept=3, names=24, seed=seed)
        return FilePairs(of, pairs=16, shuffle=True, seed=seed)

    walked = [make(1).batch(2, step).rows for step in range(6)]
    assert np.array_equal(make(1).batch(2, 5).rows, walked[5])
    assert not np.array_equal(make(1).batch(3, 5).rows, walked[5])
    assert not np.array_equal(make(2).batch(2, 5).rows, walked[5])


def test_each_epoch_has_its_own_order_of_concepts_and_its_own_names_of_each() -> None:
    concepts = Concepts(np.arange(600) // 6)
    for sampler in (
        PairSampler(concepts, pairs_per_concept=2, pairs=16, seed=1),
        GroupSampler(concepts, names_per_concept=3, names=24, seed=1),
    ):
        assert not np.array_equal(sampler.batch(0, 0).concepts, sampler.batch(1, 0).concepts)
        drawn = [{row for step in range(sampler.steps_per_epoch) for row in sampler.batch(epoch, step).rows.tolist()} for epoch in (0, 1)]
        assert drawn[0] != drawn[1]


def test_a_file_in_order_stays_in_order() -> None:
    sampler = FilePairs(np.repeat(np.arange(5), 2), pairs=2, shuffle=False, seed=0)
    assert sampler.steps_per_epoch == 3
    assert [sampler.batch(7, step).rows.tolist() for step in range(3)] == [[0, 2, 1, 3], [4, 6, 5, 7], [8, 9]]
    assert sampler.batch(0, 1).concepts.tolist() == [2, 3, 2, 3]


def test_a_shuffled_file_has_each_pair_once() -> None:
    sampler = FilePairs(np.repeat(np.arange(50), 2), pairs=8, shuffle=True, seed=0)
    pairs = epoch_pairs(sampler, 0)
    assert sorted(pairs) == [(2 * i, 2 * i + 1) for i in range(50)]
    assert pairs != sorted(pairs)


@given(count=st.integers(1, 40), processes=st.integers(1, 5))
def test_processes_share_a_step_without_overlap(count: int, processes: int) -> None:
    names = FilePairs(np.repeat(np.arange(count), 2), pairs=count, shuffle=True, seed=0).batch(0, 0)
    parts = [share(names, rank, processes) for rank in range(processes)]
    assert sorted(np.concatenate([part.rows for part in parts]).tolist()) == sorted(names.rows.tolist())
    assert max(len(p.rows) for p in parts) - min(len(p.rows) for p in parts) <= 1


def test_batches_do_not_depend_on_the_hash_seed() -> None:
    code = (
        "import numpy as np; from xsap.training.sampling import *; c = Concepts(np.arange(300) // 4);"
        "print(PairSampler(c, pairs_per_concept=3, pairs=20, seed=1).batch(1, 2).rows.tolist())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": s, "PYTHONPATH": ":".join(sys.path)}, capture_output=True
        ).stdout
        for s in ("1", "2")
    }
    assert len(outputs) == 1
    assert outputs.pop().startswith(b"[")


def test_large_concepts_keep_exact_pairs() -> None:
    """The square root in the unranking of pairs stays exact for a concept of 5,000 names."""
    sampler = PairSampler(Concepts(np.zeros(5000, np.int64)), pairs_per_concept=20_000, pairs=20_000, seed=0)
    pairs = epoch_pairs(sampler, 0)
    assert len(set(pairs)) == 20_000
    assert all(0 <= left < right < 5000 for left, right in pairs)


@pytest.mark.parametrize(
    ("choice", "languages"),
    [("all_syn", None), ("en_syn", {"en"}), ("en+es_syn", {"en", "es"}), ("en+SPA+deu_syn", {"en", "es", "de"}), ("es_syn", {"es"})],
)
def test_choices_are_the_papers_names(choice: str, languages: set[str] | None) -> None:
    assert parse_choice(choice) == languages


@pytest.mark.parametrize("choice", ["", "en", "_syn", "en_all"])
def test_other_choices_are_refused(choice: str) -> None:
    with pytest.raises(ConfigError, match="must be all_syn, en_syn or such as en\\+es_syn"):
        parse_choice(choice)


def test_an_unknown_language_in_a_choice_is_refused() -> None:
    with pytest.raises(DataError, match="unknown language 'xx'"):
        parse_choice("en+xx_syn")


def test_a_batch_must_hold_two_groups() -> None:
    with pytest.raises(ConfigError, match="at least 2 groups of 4 names, found 6"):
        GroupSampler(Concepts(np.zeros(9, np.int64)), names_per_concept=4, names=6, seed=0)
