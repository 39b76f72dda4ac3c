"""Parts of a task's mentions: by what training has seen, by length, script and semantic group."""

import time

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.accuracy.breakdowns import LENGTHS, SEEN, by_group, by_length, by_script, by_seen, in_order
from xsap.errors import DataError
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


def test_what_training_has_seen():
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
    assert by_seen(mentions, training) == [label for _, _, label in rows]
    assert by_seen(mentions.slice(4, 2), training) == [CONCEPT, CONCEPT]
    assert by_seen(mentions.slice(0, 0), training) == []


strings = st.text(st.sampled_from("aAbﬁ é１1"), max_size=3)
ids = st.sampled_from(["C1", "C2", "C3", "C4"])


@settings(max_examples=60)
@given(
    names=st.lists(st.tuples(ids, st.sampled_from(["en", "de"]), strings), max_size=8),
    asked=st.lists(st.tuples(strings, st.lists(ids, max_size=2)), max_size=8),
    chunks=st.integers(1, 3),
)
def test_seen_agrees_with_a_plain_loop(names, asked, chunks):
    names = [name for name in names if name[2]]
    expected = []
    for mention, gold in asked:
        same = any(normalize(name, EXACT_MATCH) == normalize(mention, EXACT_MATCH) for _, _, name in names)
        known = any(concept in gold for concept, _, _ in names)
        expected.append(STRING if same else CONCEPT if known else NEITHER)
    mentions = _mentions([m for m, _ in asked], [g for _, g in asked])
    assert by_seen(mentions, _terminology(names, chunks)) == expected


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
def test_length_in_characters_of_the_normalized_mention(mention, label):
    assert by_length(_mentions([mention])) == [label]


@pytest.mark.parametrize("length", range(1, 60))
def test_the_label_of_a_length_says_it(length):
    label = by_length(_mentions(["x" * length]))[0]
    first, _, last = label.rstrip("+").partition("-")
    assert int(first) <= length <= (int(last) if last else 10**9)


def test_script():
    assert by_script(_mentions(["fever", "頭が痛い", "37.5", "жар"])) == ["Latin", "Kana", "none", "Cyrillic"]


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
def test_the_group_of_the_gold_concepts_types(gold, label):
    assert by_group(_mentions(["x"], [gold]), TYPES) == [label]


def test_every_type_falls_into_its_group():
    types = {tui: [tui] for group in GROUPS for tui in types_of(group)}
    expected = [group for group in GROUPS for tui in sorted(types_of(group))]
    gold = [[tui] for group in GROUPS for tui in sorted(types_of(group))]
    assert by_group(_mentions(["x"] * len(gold), gold), types) == expected


def test_the_corpus_s_own_groups_go_before_types():
    groups = [["CHEM"], ["DISO", "DISO"], ["CHEM", "DISO"], [], None]
    mentions = _mentions("abcde", [["C1"]] * 5, groups=groups)
    assert by_group(mentions, TYPES) == ["CHEM", "DISO", "several", "unknown", "unknown"]


def test_a_group_that_the_umls_has_not_is_named():
    with pytest.raises(
        DataError, match="the mentions' column 'groups' must hold semantic groups out of ACTI, .*; found 'Disease'"
    ):
        by_group(_mentions("ab", groups=[["DISO"], ["Disease"]]), {})


def test_labels_stand_in_the_order_of_a_report():
    assert in_order(reversed(SEEN)) == list(SEEN)
    assert in_order(sorted(LENGTHS)) == list(LENGTHS)
    assert in_order(["none", "Latin", "other", "Han", "Latin"]) == ["Han", "Latin", "other", "none"]
    assert in_order(["unknown", "several", "PROC", "ANAT"]) == ["ANAT", "PROC", "several", "unknown"]
    assert in_order([]) == []


def test_a_hundred_thousand_mentions_take_seconds():
    strings = [f"{'жар' if i % 3 else 'Fever'} № {i % 50_000} Ä" for i in range(100_000)]
    gold = [[f"C{i % 7}"] for i in range(100_000)]
    mentions, training = (
        _mentions(strings, gold),
        _terminology([(f"C{i}", "en", f"fever № {i * 3} ä") for i in range(20_000)]),
    )
    start = time.process_time()
    labels = [by_seen(mentions, training), by_length(mentions), by_script(mentions), by_group(mentions, TYPES)]
    assert time.process_time() - start < 8  # about one
    assert [len(column) for column in labels] == [100_000] * 4
    assert set(labels[0]) == {STRING, CONCEPT}
