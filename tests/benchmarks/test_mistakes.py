"""Kinds of error, each by hand; and what case and cosine do, against plain loops over vectors whose products are exact."""

import math
import zlib
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.accuracy.breakdowns import (
    ABSENT,
    FAR,
    KINDS,
    LOST,
    NEAR,
    NOTHING,
    SAME_NAME,
    TIE,
    cached_ablation,
    case_and_similarity_ablation,
    classify_errors,
)
from benchmarks.accuracy.dictionary import SearchSpace, count
from benchmarks.accuracy.scores import ANSWERS_SCHEMA, RankedAnswers
from benchmarks.accuracy.tasks import Task
from xsap.errors import ArtifactError
from xsap.evaluation.metrics import MISS
from xsap.evaluation.protocols import Dictionary
from xsap.terms.mentions import build_mentions

PREFERRED = {"A": "alpha", "B": "beta", "C": "gamma"}


def task_of(rows, dictionary=(("A", "alpha"), ("B", "beta"), ("C", "gamma"), ("D|E", "delta")), *, composite=False):
    mentions = build_mentions(
        [m for m, *_ in rows], [code for _, code, *_ in rows], [list(gold) for _, _, gold, *_ in rows]
    )
    space = SearchSpace(
        Dictionary([ids for ids, _ in dictionary], [name for _, name in dictionary]), "here", PREFERRED, {}
    )
    return Task("t", "invented", mentions, space, count(mentions), composite)


def found(rows):
    """rows: (mention, language, gold, rank, what was found first, by which name, its score, the gold's score)."""
    columns = [[row[0] for row in rows], [row[1] for row in rows], [row[3] for row in rows], [MISS] * len(rows)]
    columns += [[row[place] for row in rows] for place in (4, 5, 6, 7)]
    return RankedAnswers(
        pa.table([pa.array(c, f.type) for c, f in zip(columns, ANSWERS_SCHEMA, strict=True)], ANSWERS_SCHEMA), "key"
    )


ROWS = {
    None: ("right", "de", ["A"], 0, "A", "alpha", 0.9, 0.9),
    ABSENT: ("Beta", "de", ["Z", "Y"], MISS, "B", "beta", 0.9, None),  # though the name found is the mention
    NOTHING: ("nothing", "de", ["B", "Z"], MISS, None, None, None, None),
    TIE: ("BETA", "es", ["C"], 1, "B", "beta", 0.5, 0.5),  # though the name found is the mention
    SAME_NAME: ("  ALPHA ", "es", ["C"], 7, "A", "Alpha", 0.5, 0.25),
    NEAR: ("near", "es", ["A"], 4, "Q", "queer", 0.123456, 0.1),
    FAR: ("far", "es", ["E"], 5, "B", "beta", 0.5, 0.25),
    LOST: ("lost", "es", ["A", "B", "C", "D", "E"], MISS, "Q", "queer", 0.5, None),
}


@pytest.mark.parametrize("kind", ROWS)
def test_each_kind_alone(kind):
    assert list(classify_errors(task_of([ROWS[kind]]), found([ROWS[kind]]))) == [kind for kind in [kind] if kind]


def test_all_kinds_with_what_was_found_instead():
    rows = list(ROWS.values())
    told = classify_errors(task_of(rows), found(rows))
    assert tuple(told) == KINDS
    assert [told[kind]["n"] for kind in KINDS] == [1] * len(KINDS)
    near, lost, nothing = (told[kind]["examples"][0] for kind in (NEAR, LOST, NOTHING))
    assert near == {
        "mention": "near",
        "language": "es",
        "gold": ["A alpha"],
        "rank": 5,
        "found": "Q",
        "matched": "queer",
        "score": 0.1235,
    }
    assert (lost["gold"], lost["rank"], lost["found"]) == (["A alpha", "B beta", "C gamma", "2 more"], None, "Q")
    assert (nothing["gold"], nothing["found"], nothing["matched"], nothing["score"]) == (
        ["B beta", "Z"],
        None,
        None,
        None,
    )


def test_a_miss_of_the_same_name():
    row = ("alpha", "de", ["C"], MISS, "A", "alpha", 0.5, None)
    assert list(classify_errors(task_of([row]), found([row]))) == [SAME_NAME]


def test_the_bounds_of_near_and_far():
    rows = [(f"m{rank}", "de", ["A"], rank, "B", "beta", 0.9, 0.1) for rank in (0, 1, 4, 5, 63)]
    told = classify_errors(task_of(rows), found(rows))
    assert {kind: by["n"] for kind, by in told.items()} == {NEAR: 2, FAR: 2}
    assert {e["rank"] for e in told[NEAR]["examples"]} == {2, 5}
    assert {e["rank"] for e in told[FAR]["examples"]} == {6, 64}


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.randoms())
def test_examples_are_few_and_differ_and_are_the_same_in_whatever_order(places, rng):
    rows = [(f"m{place}", "de", ["A", "B"], 3, "C", "gamma", 0.5, 0.25) for place in places]
    told = classify_errors(task_of(rows), found(rows))[NEAR]
    assert told["n"] == len(places)
    mentions = [example["mention"] for example in told["examples"]]
    assert len(mentions) == len(set(mentions)) == min(3, len(set(places)))
    rng.shuffle(rows)
    assert classify_errors(task_of(rows), found(rows))[NEAR] == told


def test_examples_are_not_the_first_of_the_file():
    rows = [(f"m{place:03}", "de", ["A"], 3, "C", "gamma", 0.5, 0.25) for place in range(300)]
    drawn = {example["mention"] for example in classify_errors(task_of(rows), found(rows))[NEAR]["examples"]}
    assert len(drawn) == 3
    assert drawn != {"m000", "m001", "m002"}


TRIPLES = [
    (3, 4),
    (6, 8),
    (4, 3),
    (12, 9),
    (5, 12),
    (12, 5),
    (0, 7),
    (7, 0),
    (8, 15),
]  # lengths are whole numbers: cosines tie where they should
ASKED = [(2, 1), (1, 3), (5, 1)]


class Vectors:
    """A string's vector, drawn by a hash of its letters: whole numbers, whose cosines and products come out alike however they are reckoned."""

    def __init__(self):
        self.encoded = []

    @staticmethod
    def of(name, among):
        return among[zlib.crc32(name.encode()) % len(among)]

    def encode(self, names, *, unit, policy):
        assert (unit, policy.unicode) == (False, "none")
        self.encoded += names
        return np.array(
            [self.of(name.lower() if policy.case == "lower" else name, ASKED) for name in names], np.float32
        )


class Stub:
    """What `case_and_similarity_ablation` needs of a Model."""

    def __init__(self):
        self.encoder = Vectors()

    def vectors(self, names, *, unit, policy):
        assert (unit, policy.case, policy.unicode) == (False, "cased", "none")
        return np.array([Vectors.of(name, TRIPLES) for name in names], np.float32)


def naive(rows, dictionary, composite, mention_case, dictionary_case, product):
    """Mean Acc@1 over languages, a name and a concept at a time."""

    def first(mention):
        query = Vectors.of(mention.lower() if mention_case == "lower" else mention, ASKED)
        best = {}
        for ids, name in dictionary:
            vector = Vectors.of(name.lower() if dictionary_case == "lower" else name, TRIPLES)
            score = sum(a * b for a, b in zip(query, vector, strict=True)) / (
                math.hypot(*vector) if product == "cosine" else 1
            )
            for concept in ids.split("|"):
                best[concept] = max(best.get(concept, -1), round(score, 4))
        return min(best, key=lambda concept: (-best[concept], concept))

    hits = {}
    for mention, code, gold in rows:
        parts = mention.split("|") if composite else [mention]
        hits.setdefault(code, []).append(all(first(part) in gold for part in parts))
    return sum(sum(found) / len(found) for found in hits.values()) / len(hits)


names = st.text(st.sampled_from("aAbB é"), min_size=1, max_size=4).filter(str.strip)
ids = st.sampled_from(["A", "B", "C", "D|E", "A|C"])
golds = st.sets(st.sampled_from("ABCDE"), min_size=1, max_size=2)


@settings(max_examples=60)
@given(
    dictionary=st.lists(st.tuples(ids, names), min_size=1, max_size=10),
    rows=st.lists(
        st.tuples(st.one_of(names, st.just("ab|B")), st.sampled_from(["de", "es"]), golds), min_size=1, max_size=8
    ),
    composite=st.booleans(),
)
def test_the_eight_cells_by_plain_loops(dictionary, rows, composite):
    cells = case_and_similarity_ablation(task_of(rows, dictionary, composite=composite), Stub())
    assert len({(cell["mention"], cell["dictionary"], cell["product"]) for cell in cells}) == len(cells) == 8
    for cell in cells:
        expected = naive(rows, dictionary, composite, cell["mention"], cell["dictionary"], cell["product"])
        assert cell["acc@1"] == pytest.approx(expected), cell


def test_effects_are_kept(tmp_path):
    task, model = task_of([("alpha", "de", ["A"]), ("Beta", "de", ["A"])]), Stub()
    first = cached_ablation(task, model, tmp_path / "effects")
    assert len(first) == 8
    model.encoder.encoded.clear()
    assert (
        cached_ablation(replace(task, name="again"), model, tmp_path / "effects")
        == first
        == case_and_similarity_ablation(task, Stub())
    )
    assert model.encoder.encoded == []
    (tmp_path / "effects" / "effects.json").write_text("[]")
    with pytest.raises(ArtifactError, match="damaged"):
        cached_ablation(task, model, tmp_path / "effects")
