"""Labels of mentions, compared with plain loops; kinds of error, each by hand; and the ablation, compared with loops over exact products."""

import math
import time
import zlib
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.accuracy.breakdowns import (
    ERROR_KINDS,
    GOLD_ABSENT,
    GOLD_NOT_FOUND,
    LENGTHS,
    NOTHING_FOUND,
    RANK_2_TO_5,
    RANK_6_ON,
    SAME_NAME,
    SEEN,
    TIED,
    ErrorExample,
    cached_ablation,
    case_and_similarity_ablation,
    classify_errors,
    label_by_group,
    label_by_length,
    label_by_script,
    label_by_seen,
    sort_labels,
)
from benchmarks.accuracy.scores import ANSWERS_SCHEMA, RankedAnswers
from tests.fixtures.accuracy_tasks import task_of as any_task_of
from tests.fixtures.examples import examples
from xsap.errors import ArtifactError, DataError
from xsap.evaluation.metrics import MISS
from xsap.terms.mentions import build_mentions
from xsap.terms.semantic_types import GROUPS, types_of
from xsap.terms.terminology import NAMES_SCHEMA, Terminology
from xsap.text import EXACT_MATCH, normalize

STRING, CONCEPT, NEITHER = SEEN


def _terminology(names, chunks=1):
    """names: (concept, language, name)."""
    rows = [
        {"concept_id": c, "language": lang, "name": name, "kind": "synonym", "source": "X"} for c, lang, name in names
    ]
    built = Terminology.build(pa.Table.from_pylist(rows, NAMES_SCHEMA))[0]
    n = built.names.num_rows
    edges = [n * i // chunks for i in range(chunks + 1)]
    parts = [built.names.slice(a, b - a).combine_chunks() for a, b in zip(edges, edges[1:], strict=False)]
    return Terminology(pa.concat_tables(parts) if parts else built.names, built.concepts)


def _mentions(strings, gold=None, languages=None, groups=None):
    table = build_mentions(list(strings), languages or ["de"] * len(strings), gold or [[] for _ in strings])
    return table if groups is None else table.append_column("groups", pa.array(groups, pa.list_(pa.string())))


def test_label_by_seen():
    training = _terminology(
        [("C1", "en", "Night Fever"), ("C1", "es", "fiebre nocturna"), ("C2", "ja", "ｺﾚﾗ"), ("C3", "de", "Straße  7")]
    )
    rows = [
        ("night  fever", ["C9"], STRING),  # a name of any concept
        ("FIEBRE\u00a0nocturna", ["C1"], STRING),  # in any language
        ("コレラ", [], STRING),
        ("straße 7", ["C3"], STRING),
        ("Strasse 7", ["C3"], CONCEPT),
        ("night fevers", ["C9", "C2"], CONCEPT),  # one of its gold ids
        ("night fevers", ["C9", "C1x"], NEITHER),
        ("night", [], NEITHER),
        ("", ["C9"], NEITHER),
    ]
    mentions = _mentions([m for m, _, _ in rows], [g for _, g, _ in rows])
    assert label_by_seen(mentions, training) == [label for _, _, label in rows]
    assert label_by_seen(mentions.slice(4, 2), training) == [CONCEPT, CONCEPT]
    assert label_by_seen(mentions.slice(0, 0), training) == []


strings = st.text(st.sampled_from("aAbﬁ é１1"), max_size=3)
ids = st.sampled_from(["C1", "C2", "C3", "C4"])


@settings(max_examples=examples(60))
@given(
    names=st.lists(st.tuples(ids, st.sampled_from(["en", "de"]), strings), max_size=8),
    wanted=st.lists(st.tuples(strings, st.lists(ids, max_size=2)), max_size=8),
    chunks=st.integers(1, 3),
)
def test_label_by_seen_matches_plain_loop(names, wanted, chunks):
    names = [name for name in names if name[2]]
    expected = []
    for mention, gold in wanted:
        same = any(normalize(name, EXACT_MATCH) == normalize(mention, EXACT_MATCH) for _, _, name in names)
        known = any(concept in gold for concept, _, _ in names)
        expected.append(STRING if same else CONCEPT if known else NEITHER)
    mentions = _mentions([m for m, _ in wanted], [g for _, g in wanted])
    assert label_by_seen(mentions, _terminology(names, chunks)) == expected


@pytest.mark.parametrize(
    ("mention", "label"),
    [
        ("", "0"),
        (" \u200b", "0"),
        ("a", "1-5"),
        ("abcde", "1-5"),
        ("  ab   cde  ", "6-10"),
        ("a" * 6, "6-10"),
        ("a" * 10, "6-10"),
        ("a" * 11, "11-20"),
        ("a" * 20, "11-20"),
        ("a" * 21, "21-40"),
        ("a" * 40, "21-40"),
        ("a" * 41, "41+"),
        ("a" * 400, "41+"),
        ("e\u0301" * 5, "1-5"),  # composed
        ("ﬁve㎎", "6-10"),  # five, mg
        ("子宫切除", "1-5"),
    ],
)
def test_label_by_length_counts_characters_after_normalization(mention, label):
    assert label_by_length(_mentions([mention])) == [label]


@pytest.mark.parametrize("length", range(1, 60))
def test_length_label_contains_the_length(length):
    label = label_by_length(_mentions(["x" * length]))[0]
    first, _, last = label.rstrip("+").partition("-")
    assert int(first) <= length <= (int(last) if last else 10**9)


def test_label_by_script():
    assert label_by_script(_mentions(["fever", "頭が痛い", "37.5", "жар"])) == ["Latin", "Kana", "none", "Cyrillic"]


TYPES = {
    "C1": ["T047"],
    "C2": ["T184", "T047"],
    "C3": ["T121"],
    "C4": ["T047", "T121"],
    "C5": [],
    "C6": ["HP", "T999"],
    "C7": ("T999", "T061"),
}


@pytest.mark.parametrize(
    ("gold", "label"),
    [
        (["C1"], "DISO"),
        (["C2"], "DISO"),  # two types of one group
        (["C1", "C2"], "DISO"),
        (["C3"], "CHEM"),
        (["C1", "C3"], "several"),
        (["C4"], "several"),
        (["C5"], "unknown"),
        (["C6"], "unknown"),
        (["C7"], "PROC"),
        (["C9"], "unknown"),
        (["C9", "C1"], "DISO"),
        ([], "unknown"),
    ],
)
def test_label_by_group_of_gold_types(gold, label):
    assert label_by_group(_mentions(["x"], [gold]), TYPES) == [label]


def test_every_type_has_its_group():
    types = {tui: [tui] for group in GROUPS for tui in types_of(group)}
    expected = [group for group in GROUPS for tui in sorted(types_of(group))]
    gold = [[tui] for group in GROUPS for tui in sorted(types_of(group))]
    assert label_by_group(_mentions(["x"] * len(gold), gold), types) == expected


def test_groups_of_the_corpus_come_before_types():
    groups = [["CHEM"], ["DISO", "DISO"], ["CHEM", "DISO"], [], None]
    mentions = _mentions("abcde", [["C1"]] * 5, groups=groups)
    assert label_by_group(mentions, TYPES) == ["CHEM", "DISO", "several", "unknown", "unknown"]


def test_unknown_group_is_reported():
    with pytest.raises(
        DataError, match="the mentions' column 'groups' must hold semantic groups out of ACTI, .*; found 'Disease'"
    ):
        label_by_group(_mentions("ab", groups=[["DISO"], ["Disease"]]), {})


def test_sort_labels():
    assert sort_labels(reversed(SEEN)) == list(SEEN)
    assert sort_labels(sorted(LENGTHS)) == list(LENGTHS)
    assert sort_labels(["none", "Latin", "other", "Han", "Latin"]) == ["Han", "Latin", "other", "none"]
    assert sort_labels(["unknown", "several", "PROC", "ANAT"]) == ["ANAT", "PROC", "several", "unknown"]
    assert sort_labels([]) == []


@pytest.mark.slow
def test_labeling_many_mentions_takes_seconds():
    strings = [f"{'жар' if i % 3 else 'Fever'} № {i % 50_000} Ä" for i in range(100_000)]
    gold = [[f"C{i % 7}"] for i in range(100_000)]
    mentions, training = (
        _mentions(strings, gold),
        _terminology([(f"C{i}", "en", f"fever № {i * 3} ä") for i in range(20_000)]),
    )
    start = time.process_time()
    labels = [
        label_by_seen(mentions, training),
        label_by_length(mentions),
        label_by_script(mentions),
        label_by_group(mentions, TYPES),
    ]
    assert time.process_time() - start < 8  # about one
    assert [len(column) for column in labels] == [100_000] * 4
    assert set(labels[0]) == {STRING, CONCEPT}


# Kinds of error

PREFERRED = {"A": "alpha", "B": "beta", "C": "gamma"}


DICTIONARY = (("A", "alpha"), ("B", "beta"), ("C", "gamma"), ("D|E", "delta"))


def task_of(rows, dictionary=DICTIONARY, *, composite=False):
    return any_task_of(rows, dictionary, composite=composite, preferred=PREFERRED)


def found(rows):
    """rows: (mention, language, gold, rank, what was found first, by which name, its score, the gold's score)."""
    columns = [[row[0] for row in rows], [row[1] for row in rows], [row[3] for row in rows], [MISS] * len(rows)]
    columns += [[row[i] for row in rows] for i in (4, 5, 6, 7)]
    return RankedAnswers(
        pa.table([pa.array(c, f.type) for c, f in zip(columns, ANSWERS_SCHEMA, strict=True)], ANSWERS_SCHEMA), "key"
    )


ROWS = {
    None: ("right", "de", ["A"], 0, "A", "alpha", 0.9, 0.9),
    GOLD_ABSENT: ("Beta", "de", ["Z", "Y"], MISS, "B", "beta", 0.9, None),  # though the name found is the mention
    NOTHING_FOUND: ("nothing", "de", ["B", "Z"], MISS, None, None, None, None),
    TIED: ("BETA", "es", ["C"], 1, "B", "beta", 0.5, 0.5),  # though the name found is the mention
    SAME_NAME: ("  ALPHA ", "es", ["C"], 7, "A", "Alpha", 0.5, 0.25),
    RANK_2_TO_5: ("near", "es", ["A"], 4, "Q", "queer", 0.123456, 0.1),
    RANK_6_ON: ("far", "es", ["E"], 5, "B", "beta", 0.5, 0.25),
    GOLD_NOT_FOUND: ("lost", "es", ["A", "B", "C", "D", "E"], MISS, "Q", "queer", 0.5, None),
}


@pytest.mark.parametrize("kind", ROWS)
def test_each_kind_of_error_alone(kind):
    assert list(classify_errors(task_of([ROWS[kind]]), found([ROWS[kind]]))) == [kind for kind in [kind] if kind]


def test_all_kinds_of_error_with_examples():
    rows = list(ROWS.values())
    errors = classify_errors(task_of(rows), found(rows))
    assert tuple(errors) == ERROR_KINDS
    assert [errors[kind].n for kind in ERROR_KINDS] == [1] * len(ERROR_KINDS)
    near, lost, nothing = (errors[kind].examples[0] for kind in (RANK_2_TO_5, GOLD_NOT_FOUND, NOTHING_FOUND))
    assert near == ErrorExample("near", "es", ["A alpha"], 5, "Q", "queer", 0.1235)
    assert (lost.gold, lost.rank, lost.found) == (["A alpha", "B beta", "C gamma", "2 more"], None, "Q")
    assert (nothing.gold, nothing.found, nothing.matched, nothing.score) == (
        ["B beta", "Z"],
        None,
        None,
        None,
    )


def test_gold_not_found_with_same_name():
    row = ("alpha", "de", ["C"], MISS, "A", "alpha", 0.5, None)
    assert list(classify_errors(task_of([row]), found([row]))) == [SAME_NAME]


def test_limits_of_rank_kinds():
    rows = [(f"m{rank}", "de", ["A"], rank, "B", "beta", 0.9, 0.1) for rank in (0, 1, 4, 5, 63)]
    errors = classify_errors(task_of(rows), found(rows))
    assert {kind: group.n for kind, group in errors.items()} == {RANK_2_TO_5: 2, RANK_6_ON: 2}
    assert {e.rank for e in errors[RANK_2_TO_5].examples} == {2, 5}
    assert {e.rank for e in errors[RANK_6_ON].examples} == {6, 64}


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.randoms())
def test_examples_differ_and_do_not_depend_on_order(numbers, rng):
    rows = [(f"m{number}", "de", ["A", "B"], 3, "C", "gamma", 0.5, 0.25) for number in numbers]
    errors = classify_errors(task_of(rows), found(rows))[RANK_2_TO_5]
    assert errors.n == len(numbers)
    mentions = [example.mention for example in errors.examples]
    assert len(mentions) == len(set(mentions)) == min(3, len(set(numbers)))
    rng.shuffle(rows)
    assert classify_errors(task_of(rows), found(rows))[RANK_2_TO_5] == errors


def test_examples_are_drawn_at_random():
    rows = [(f"m{number:03}", "de", ["A"], 3, "C", "gamma", 0.5, 0.25) for number in range(300)]
    drawn = {example.mention for example in classify_errors(task_of(rows), found(rows))[RANK_2_TO_5].examples}
    assert len(drawn) == 3
    assert drawn != {"m000", "m001", "m002"}


NAME_VECTORS = [
    (3, 4),
    (6, 8),
    (4, 3),
    (12, 9),
    (5, 12),
    (12, 5),
    (0, 7),
    (7, 0),
    (8, 15),
]  # lengths are integers: cosines tie where they should
QUERY_VECTORS = [(2, 1), (1, 3), (5, 1)]


class StubEncoder:
    """A string's vector, drawn by a hash of its letters: integers, whose cosines and products are the same however they are computed."""

    def __init__(self):
        self.encoded = []

    @staticmethod
    def vector(name, among):
        return among[zlib.crc32(name.encode()) % len(among)]

    def encode(self, names, *, unit, policy):
        assert (unit, policy.unicode) == (False, "none")
        self.encoded += names
        return np.array(
            [self.vector(name.lower() if policy.case == "lower" else name, QUERY_VECTORS) for name in names], np.float32
        )


class StubModel:
    """What `case_and_similarity_ablation` needs of a model."""

    def __init__(self):
        self.encoder = StubEncoder()

    def vectors(self, names, *, unit, policy):
        assert (unit, policy.case, policy.unicode) == (False, "cased", "none")
        return np.array([StubEncoder.vector(name, NAME_VECTORS) for name in names], np.float32)


def naive(rows, dictionary, composite, mention_case, dictionary_case, similarity):
    """Mean Acc@1 over languages, a name and a concept at a time."""

    def first(mention):
        query = StubEncoder.vector(mention.lower() if mention_case == "lower" else mention, QUERY_VECTORS)
        best = {}
        for ids, name in dictionary:
            vector = StubEncoder.vector(name.lower() if dictionary_case == "lower" else name, NAME_VECTORS)
            score = sum(a * b for a, b in zip(query, vector, strict=True)) / (
                math.hypot(*vector) if similarity == "cosine" else 1
            )
            for concept in ids.split("|"):
                best[concept] = max(best.get(concept, -1), round(score, 4))
        return min(best, key=lambda concept: (-best[concept], concept))

    hits = {}
    for mention, code, gold in rows:
        parts = mention.split("|") if composite else [mention]
        hits.setdefault(code, []).append(all(first(part) in gold for part in parts))
    return sum(sum(found) / len(found) for found in hits.values()) / len(hits)


name_texts = st.text(st.sampled_from("aAbB é"), min_size=1, max_size=4).filter(str.strip)
id_lists = st.sampled_from(["A", "B", "C", "D|E", "A|C"])
golds = st.sets(st.sampled_from("ABCDE"), min_size=1, max_size=2)


@settings(max_examples=examples(60))
@given(
    dictionary=st.lists(st.tuples(id_lists, name_texts), min_size=1, max_size=10),
    rows=st.lists(
        st.tuples(st.one_of(name_texts, st.just("ab|B")), st.sampled_from(["de", "es"]), golds), min_size=1, max_size=8
    ),
    composite=st.booleans(),
)
def test_ablation_matches_plain_loops(dictionary, rows, composite):
    cells = case_and_similarity_ablation(task_of(rows, dictionary, composite=composite), StubModel())
    assert len({(cell.mention, cell.dictionary, cell.similarity) for cell in cells}) == len(cells) == 8
    for cell in cells:
        expected = naive(rows, dictionary, composite, cell.mention, cell.dictionary, cell.similarity)
        assert cell.accuracy == pytest.approx(expected), cell


def test_ablation_is_cached(tmp_path):
    task, model = task_of([("alpha", "de", ["A"]), ("Beta", "de", ["A"])]), StubModel()
    first = cached_ablation(task, model, tmp_path / "ablation")
    assert len(first) == 8
    model.encoder.encoded.clear()
    assert (
        cached_ablation(replace(task, name="again"), model, tmp_path / "ablation")
        == first
        == case_and_similarity_ablation(task, StubModel())
    )
    assert model.encoder.encoded == []
    (tmp_path / "ablation" / "ablation.json").write_text("[]")
    with pytest.raises(ArtifactError, match="damaged"):
        cached_ablation(task, model, tmp_path / "ablation")
