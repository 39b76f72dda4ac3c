"""Sampling: every pair once, only true pairs, disjoint ranks, any step without the ones before it, and an auxiliary source of names."""

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.examples import examples
from tests.fixtures.training import SMALL, assert_same_weights, read_weights
from xsap import Terminology
from xsap.config import load_settings
from xsap.errors import ConfigError, DataError
from xsap.terms.terminology import NAMES_SCHEMA
from xsap.text import TextPolicy
from xsap.training.dataset import NameSet, distinct, fingerprint, with_auxiliary
from xsap.training.run import train
from xsap.training.sampling import (
    Concepts,
    FilePairs,
    GroupSampler,
    Mixed,
    PairSampler,
    Stream,
    language_weights,
    names_of_rank,
    parse_language_choice,
    permute,
)

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


def test_permutations_are_uniform() -> None:
    """Each position is mapped everywhere about equally often: chi-square of 20,000 keys over 10 positions, 81 degrees of freedom."""
    n, keys = 10, np.arange(20_000)
    counts = np.stack(
        [np.bincount(permute(np.full_like(keys, position), n, keys), minlength=n) for position in range(n)]
    )
    expected = len(keys) / n
    assert ((counts - expected) ** 2 / expected).sum() < 150  # its 99.9999 % point is about 150


@given(concepts=concept_lists, pairs=st.integers(1, 20), seed=st.integers(0, 99))
@settings(deadline=None)
def test_epoch_has_every_pair_exactly_once(concepts: list[int], pairs: int, seed: int) -> None:
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
def test_epoch_has_every_pair_with_a_name_in_the_anchor_language(concepts: list[int], seed: int) -> None:
    of, languages = names_of(concepts)
    wanted = {
        pair
        for pair in combinations(range(len(of)), 2)
        if of[pair[0]] == of[pair[1]] and "en" in (languages[pair[0]], languages[pair[1]])
    }
    if not wanted:
        with pytest.raises(ConfigError, match="no concept has two names"):
            Concepts(of, languages, "en")
        return
    sampler = PairSampler(Concepts(of, languages, "en"), pairs_per_concept=10_000, pairs=5, seed=seed)
    assert sorted(epoch_pairs(sampler, epoch=0)) == sorted(wanted)


@given(concepts=concept_lists, m=st.integers(2, 5), seed=st.integers(0, 99), anchored=st.booleans())
@settings(deadline=None)
def test_epoch_of_groups_has_each_concept_once_with_distinct_names(
    concepts: list[int], m: int, seed: int, anchored: bool
) -> None:
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


def test_every_name_of_a_concept_is_drawn_equally_often() -> None:
    """In three epochs of 300 concepts."""
    sampler = GroupSampler(Concepts(np.repeat(np.arange(300), 9)), names_per_concept=3, names=900, seed=5)
    drawn = Counter(row % 9 for epoch in range(3) for row in sampler.batch(epoch, 0).rows.tolist())
    assert set(drawn) == set(range(9))
    assert 240 < min(drawn.values()) <= max(drawn.values()) < 360  # 300 expected, six standard deviations are 85


@pytest.mark.parametrize("mode", ["pairs", "groups", "file"])
def test_step_is_a_pure_function_of_seed_epoch_and_step(mode: str) -> None:
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


def test_each_epoch_has_its_own_order_of_concepts_and_names() -> None:
    concepts = Concepts(np.arange(600) // 6)
    for sampler in (
        PairSampler(concepts, pairs_per_concept=2, pairs=16, seed=1),
        GroupSampler(concepts, names_per_concept=3, names=24, seed=1),
    ):
        assert not np.array_equal(sampler.batch(0, 0).concepts, sampler.batch(1, 0).concepts)
        drawn = [
            {row for step in range(sampler.steps_per_epoch) for row in sampler.batch(epoch, step).rows.tolist()}
            for epoch in (0, 1)
        ]
        assert drawn[0] != drawn[1]


def test_file_pairs_without_shuffle_keep_their_order() -> None:
    sampler = FilePairs(np.repeat(np.arange(5), 2), pairs=2, shuffle=False, seed=0)
    assert sampler.steps_per_epoch == 3
    assert [sampler.batch(7, step).rows.tolist() for step in range(3)] == [[0, 2, 1, 3], [4, 6, 5, 7], [8, 9]]
    assert sampler.batch(0, 1).concepts.tolist() == [2, 3, 2, 3]


def test_shuffled_file_pairs_occur_once_per_epoch() -> None:
    sampler = FilePairs(np.repeat(np.arange(50), 2), pairs=8, shuffle=True, seed=0)
    pairs = epoch_pairs(sampler, 0)
    assert sorted(pairs) == [(2 * i, 2 * i + 1) for i in range(50)]
    assert pairs != sorted(pairs)


@given(count=st.integers(1, 40), processes=st.integers(1, 5))
def test_names_of_ranks_are_disjoint_and_complete(count: int, processes: int) -> None:
    names = FilePairs(np.repeat(np.arange(count), 2), pairs=count, shuffle=True, seed=0).batch(0, 0)
    parts = [names_of_rank(names, rank, processes) for rank in range(processes)]
    assert sorted(np.concatenate([part.rows for part in parts]).tolist()) == sorted(names.rows.tolist())
    assert max(len(p.rows) for p in parts) - min(len(p.rows) for p in parts) <= 1


def test_batches_do_not_depend_on_the_hash_seed() -> None:
    code = (
        "import numpy as np; from xsap.training.sampling import *; c = Concepts(np.arange(300) // 4);"
        "print(PairSampler(c, pairs_per_concept=3, pairs=20, seed=1).batch(1, 2).rows.tolist())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": s, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
        ).stdout
        for s in ("1", "2")
    }
    assert len(outputs) == 1
    assert outputs.pop().startswith(b"[")


def test_pairs_of_a_large_concept_are_exact() -> None:
    """The square root in the unranking of pairs stays exact for a concept of 5,000 names."""
    sampler = PairSampler(Concepts(np.zeros(5000, np.int64)), pairs_per_concept=20_000, pairs=20_000, seed=0)
    pairs = epoch_pairs(sampler, 0)
    assert len(set(pairs)) == 20_000
    assert all(0 <= left < right < 5000 for left, right in pairs)


@pytest.mark.parametrize(
    ("choice", "languages"),
    [
        ("all_syn", None),
        ("en_syn", {"en"}),
        ("en+es_syn", {"en", "es"}),
        ("en+SPA+deu_syn", {"en", "es", "de"}),
        ("es_syn", {"es"}),
    ],
)
def test_parse_choice_understands_the_papers_names(choice: str, languages: set[str] | None) -> None:
    assert parse_language_choice(choice) == languages


@pytest.mark.parametrize("choice", ["", "en", "_syn", "en_all"])
def test_parse_choice_rejects_other_names(choice: str) -> None:
    with pytest.raises(ConfigError, match="must be all_syn, en_syn or like en\\+es_syn"):
        parse_language_choice(choice)


def test_parse_choice_rejects_an_unknown_language() -> None:
    with pytest.raises(DataError, match="unknown language 'xx'"):
        parse_language_choice("en+xx_syn")


def test_step_must_hold_two_groups() -> None:
    with pytest.raises(ConfigError, match="at least 2 groups of 4 names, found 6"):
        GroupSampler(Concepts(np.zeros(9, np.int64)), names_per_concept=4, names=6, seed=0)


UNLIKELY = {2: 28, 9: 46}  # degrees of freedom → what chi-square exceeds once in a million times


def chi_square(found: np.ndarray, fractions: np.ndarray) -> float:
    wanted = fractions / fractions.sum() * found.sum()
    return float(((found - wanted) ** 2 / wanted).sum())


def many_concepts(of_each: dict[str, int], count: int) -> tuple[np.ndarray, list[str]]:
    """Concepts that all have so many names of each language."""
    languages = [code for code, names in of_each.items() for _ in range(names)]
    return np.repeat(np.arange(count), len(languages)), languages * count


@pytest.mark.parametrize("temperature", [0.0, 0.3, 0.5])
def test_language_weights_are_fractions_to_the_power_of_the_temperature(temperature: float) -> None:
    languages = ["de"] * 60 + ["fr"] * 30 + ["ja"] * 10
    weights = language_weights(languages, temperature)
    sums = np.array([weights[:60].sum(), weights[60:90].sum(), weights[90:].sum()])
    assert sums / sums.sum() == pytest.approx(
        np.array([0.6, 0.3, 0.1]) ** temperature / (np.array([0.6, 0.3, 0.1]) ** temperature).sum()
    )
    assert language_weights(languages, 1.0) is None


@pytest.mark.parametrize(
    ("temperature", "weights"),
    [
        (0.5, [60**0.5, 30**0.5, 10**0.5]),
        pytest.param(0.0, [1, 1, 1], marks=pytest.mark.slow),
        pytest.param(1.0, [60, 30, 10], marks=pytest.mark.slow),
    ],
)
def test_weighted_names_beside_the_anchor_have_the_expected_languages(temperature: float, weights: list[float]) -> None:
    """One other name of each of 40,000 groups; and within a language all names are equally likely."""
    of, languages = many_concepts({"en": 1, "de": 60, "fr": 30, "ja": 10}, 1000)
    sampler = GroupSampler(
        Concepts(of, languages, "en"),
        names_per_concept=2,
        names=2000,
        seed=3,
        weights=language_weights(languages, temperature),
    )
    drawn = np.concatenate([sampler.batch(epoch, 0).rows for epoch in range(40)]) % 101  # which name of its concept
    assert (drawn[::2] == 0).all()
    counts = np.bincount(drawn[1::2], minlength=101)[1:]
    by_language = np.array([counts[:60].sum(), counts[60:90].sum(), counts[90:].sum()])
    assert by_language.sum() == 40_000
    assert chi_square(by_language, np.array(weights)) < UNLIKELY[2]
    assert chi_square(counts[90:], np.ones(10)) < UNLIKELY[9]


@pytest.mark.slow
def test_weighted_names_without_an_anchor_have_the_expected_languages() -> None:
    """For both names of each group, the first included."""
    of, languages = many_concepts({"de": 60, "fr": 30, "ja": 30}, 1000)
    sampler = GroupSampler(
        Concepts(of, languages), names_per_concept=2, names=2000, seed=3, weights=language_weights(languages, 0.0)
    )
    drawn = np.concatenate([sampler.batch(epoch, 0).rows for epoch in range(20)]) % 120
    counts = np.bincount(np.digitize(drawn, [60, 90]), minlength=3)
    assert (counts / counts.sum()).tolist() == pytest.approx([1 / 3] * 3, abs=0.02)


def test_weighted_names_are_drawn_without_replacement() -> None:
    """Two of five by weights 4, 4, 1, 1, 1, one after the other, each in proportion to what is left: ten pairs with known probabilities."""
    of, languages = many_concepts({"en": 1, "de": 5}, 1000)
    weights = np.tile([1.0, 4, 4, 1, 1, 1], 1000)
    sampler = GroupSampler(Concepts(of, languages, "en"), names_per_concept=3, names=3000, seed=1, weights=weights)
    pairs = list(combinations(range(5), 2))
    fractions = dict.fromkeys(pairs, 0.0)
    for first, second in permutations(range(5), 2):
        left = [4, 4, 1, 1, 1]
        fractions[tuple(sorted((first, second)))] += left[first] / 11 * left[second] / (11 - left[first])
    drawn = np.concatenate([sampler.batch(epoch, 0).rows for epoch in range(30)]).reshape(-1, 3) % 6
    found = Counter(tuple(sorted((row - 1).tolist())) for row in drawn[:, 1:])
    assert set(found) == set(pairs)
    assert (
        chi_square(np.array([found[pair] for pair in pairs]), np.array([fractions[pair] for pair in pairs]))
        < UNLIKELY[9]
    )


@given(
    concepts=concept_lists,
    m=st.integers(2, 5),
    seed=st.integers(0, 99),
    anchored=st.booleans(),
    temperature=st.sampled_from([0.0, 0.5]),
)
@settings(deadline=None)
def test_epoch_of_weighted_groups_has_each_concept_once_with_distinct_names(
    concepts: list[int], m: int, seed: int, anchored: bool, temperature: float
) -> None:
    """Distinct names mean that the first is not drawn again, whatever its weight."""
    of, languages = names_of(concepts)
    try:
        usable = Concepts(of, languages, "en" if anchored else None)
    except ConfigError:
        return
    sampler = GroupSampler(
        usable, names_per_concept=m, names=3 * m, seed=seed, weights=language_weights(languages, temperature)
    )
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
    assert sorted(met) == sorted(usable.numbers.tolist())


def hard_sampler(concepts: int, hard: int, groups: int, nearest: np.ndarray | None) -> GroupSampler:
    """Concepts of three names, numbered otherwise than they are counted."""
    of = np.repeat(np.arange(concepts), 3) * 10 + 7
    sampler = GroupSampler(
        Concepts(of), names_per_concept=2, names=2 * (1 + hard) * groups, seed=4, hard_negatives=hard
    )
    sampler.nearest = nearest
    return sampler


@given(
    concepts=st.integers(8, 40),
    hard=st.integers(1, 3),
    groups=st.integers(1, 5),
    epoch=st.integers(0, 50),
    known=st.booleans(),
)
@settings(deadline=None, max_examples=examples(30))
def test_epoch_has_each_concept_once_with_its_hard_negatives(
    concepts: int, hard: int, groups: int, epoch: int, known: bool
) -> None:
    rng = np.random.default_rng(concepts)
    near = np.stack([rng.permutation(np.delete(np.arange(concepts), at))[: hard + 3] for at in range(concepts)])
    sampler = hard_sampler(concepts, hard, groups, near if known else None)
    assert sampler.steps_per_epoch == -(-concepts // groups)
    seeds: list[int] = []
    for step in range(sampler.steps_per_epoch):
        batch = sampler.batch(epoch, step)
        assert len(set(batch.rows.tolist())) == len(batch.rows) <= 2 * (1 + hard) * groups
        assert (batch.rows // 3 * 10 + 7 == batch.concepts).all()
        met = list(dict.fromkeys(batch.concepts.tolist()))
        assert batch.concepts.tolist() == [
            concept for concept in met for _ in range(2)
        ]  # one group of each, in one piece
        own = [(concept - 7) // 10 for concept in met[: min(groups, concepts - step * groups)]]
        others = {(concept - 7) // 10 for concept in met} - set(own)
        assert len(others) <= hard * len(own)
        if known:
            assert others <= set(near[own].ravel().tolist())
            assert all(len({*own, *others} & set(near[concept].tolist())) >= hard for concept in own)
        seeds += own
    assert sorted(seeds) == list(range(concepts))


@pytest.mark.slow
def test_each_of_the_nearest_concepts_is_drawn_equally_often() -> None:
    """In 80 epochs of 12 concepts each of ten is drawn about as often."""
    sampler = hard_sampler(12, hard=1, groups=1, nearest=(np.arange(12)[:, None] + 1 + np.arange(10)) % 12)
    steps = [sampler.batch(epoch, step).concepts // 10 for epoch in range(80) for step in range(12)]
    drawn = np.array([(concepts[-1] - concepts[0]) % 12 - 1 for concepts in steps])
    assert len(np.unique(drawn.reshape(80, 12), axis=0)) == 80  # another draw in each epoch
    assert chi_square(np.bincount(drawn, minlength=10), np.ones(10)) < UNLIKELY[9]


@contextmanager
def seconds(limit: float) -> Iterator[None]:
    """Raise TimeoutError after that many seconds, so that an endless loop fails."""

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("hard", [3, 9])
def test_more_hard_negatives_than_concepts_are_all_others_or_rejected(hard: int, known: bool) -> None:
    others = np.array([[1, 2], [0, 2], [0, 1]])
    with seconds(30):
        try:
            sampler = hard_sampler(3, hard, groups=2, nearest=others if known else None)
        except ConfigError:
            return
        for epoch in range(20):
            for step in range(sampler.steps_per_epoch):
                assert set(sampler.batch(epoch, step).concepts.tolist()) <= {7, 17, 27}


def test_step_must_hold_a_group_and_its_hard_negatives() -> None:
    with pytest.raises(ConfigError, match="at least 4 groups of 2 names, found 7"):
        GroupSampler(Concepts(np.repeat(np.arange(9), 2)), names_per_concept=2, names=7, seed=0, hard_negatives=3)


def test_random_streams_differ() -> None:
    assert len({int(stream) for stream in Stream}) == len(Stream.__members__)


class _Terminology:  # as far as NameSet uses one
    def __init__(self, concepts: int) -> None:
        self.concepts = type("Table", (), {"num_rows": concepts})()


def make_name_set(concepts: int, names: int, stem: str) -> NameSet:
    owners = np.repeat(np.arange(concepts), names)
    return NameSet(
        [f"{stem} {i}" for i in range(len(owners))], owners, ["en"] * len(owners), False, _Terminology(concepts)
    )


def test_mixed_step_has_the_names_of_both_sources_and_counts_their_epochs_apart():
    first, second = make_name_set(40, 3, "a"), make_name_set(7, 2, "b")
    both = distinct(with_auxiliary(first, second), TextPolicy(), None)
    assert both.split()[0].names == first.names
    assert both.split()[1].names == second.names
    samplers = (
        GroupSampler(Concepts(first.concepts), names_per_concept=2, names=12, seed=3),
        PairSampler(Concepts(second.concepts), pairs_per_concept=50, pairs=3, seed=3),
    )
    mixed = Mixed(*samplers, rows=len(first.names), concepts=both.auxiliary_start)
    seen: Counter[str] = Counter()
    for step in range(14):  # two epochs of the first, which has 7 steps; the second's has 3
        names = mixed.batch(*divmod(step, mixed.steps_per_epoch))
        alone = samplers[0].batch(*divmod(step, 7)), samplers[1].batch(*divmod(step, 3))
        strings = [both.names[row] for row in names.rows]
        assert strings == [first.names[row] for row in alone[0].rows] + [second.names[row] for row in alone[1].rows]
        assert (both.concepts[names.rows] == names.concepts).all()
        seen.update(string for string in strings if string[0] == "b")
    assert set(seen.values()) == {4, 5}  # fourteen steps are four epochs of the second and two thirds of a fifth
    assert len(seen) == 14


def test_fingerprint_depends_on_where_the_auxiliary_source_starts():
    tokens = type("Tokens", (), {"ids": np.arange(3), "offsets": np.arange(3)})()
    one = NameSet(["a", "b"], np.array([0, 0]), ["en", "en"], False)
    assert fingerprint(tokens, one) != fingerprint(
        tokens, NameSet(one.names, one.concepts, one.languages, False, None, 5)
    )


@pytest.fixture(scope="module")
def auxiliary(tmp_path_factory) -> Path:
    """A terminology of 60 English-German word pairs."""
    row = {"kind": "synonym", "source": "bitext", "code": "", "status": ""}
    rows = [
        row | {"concept_id": f"W{i}", "language": language, "name": f"{word}{i}"}
        for i in range(60)
        for language, word in (("en", "word"), ("de", "Wort"))
    ]
    folder = tmp_path_factory.mktemp("auxiliary") / "terminology"
    Terminology.build(pa.Table.from_pylist(rows, NAMES_SCHEMA), None)[0].save(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        ["batch.pairs=20", "sampling.auxiliary_fraction=0.25"],
        [
            "sampling.mode=groups",
            "batch.names=60",
            "sampling.auxiliary_fraction=0.3",
            "sampling.hard_negatives=1",
            "sampling.hard_negatives_refresh_steps=2",
        ],
    ],
)
def test_run_with_auxiliary_source_resumes_to_the_same_weights(sample_folder, auxiliary, tmp_path, how):
    words = [f"terminology={sample_folder}", f"auxiliary={auxiliary}", *SMALL, *how, "checkpoint.save_steps=2"]
    train(load_settings(None, [*words, "max_steps=5", f"output={tmp_path / 'whole'}"]))
    train(load_settings(None, [*words, "max_steps=5", "max_minutes=0.0001", f"output={tmp_path / 'parts'}"]))
    train(load_settings(None, [*words, "max_steps=5", f"output={tmp_path / 'parts'}", "resume=auto"]))
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")
    train(
        load_settings(
            None, [*[w for w in words if not w.startswith("auxiliary=")], "max_steps=5", f"output={tmp_path / 'alone'}"]
        )
    )
    one, other = (read_weights(tmp_path / run) for run in ("whole", "alone"))
    assert one["embeddings.word_embeddings.weight"].shape != other["embeddings.word_embeddings.weight"].shape or any(
        (one[name] != other[name]).any() for name in one
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pairs=P", "terminology=null"], "a file of pairs allows no auxiliary source"),
        (
            ["sampling.auxiliary_fraction=0.001"],
            "sampling.auxiliary_fraction must give at least one pair per step, found 0.001; increase it",
        ),
    ],
)
def test_auxiliary_source_rejects_incompatible_settings(sample_folder, auxiliary, tmp_path, words, message):
    (tmp_path / "P").write_text("C1||a||b\n")
    words = [word.replace("=P", f"={tmp_path / 'P'}") for word in words]
    with pytest.raises(ConfigError, match=message):
        train(
            load_settings(
                None,
                [f"terminology={sample_folder}", f"auxiliary={auxiliary}", *SMALL, f"output={tmp_path / 'x'}", *words],
            )
        )
