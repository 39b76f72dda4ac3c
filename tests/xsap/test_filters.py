"""Filters against a plain loop over the rows of an index, and what users may give as one."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures.dictionaries import TERM_ROWS, describe, terminology_of_rows
from xsap.errors import ConfigError, DataError
from xsap.linking.dictionary import NameSource, build_dictionary
from xsap.linking.ranking import Filter, apply_filter
from xsap.text import TextPolicy

some = st.none() | st.frozensets(st.sampled_from(["AAA", "B", "C", "AA"]), min_size=1, max_size=2)


@given(
    rows=TERM_ROWS,
    types=st.lists(
        st.tuples(st.sampled_from(["C1", "C2", "C3", "D"]), st.sampled_from(["T1", "T2", "T3"])), max_size=8
    ),
    wanted_types=st.none() | st.frozensets(st.sampled_from(["T1", "T2", "T3"]), min_size=1, max_size=2),
    sources=some,
    languages=st.none() | st.frozensets(st.sampled_from(["en", "de", "fi"]), min_size=1, max_size=2),
)
def test_apply_filter_matches_a_plain_loop(rows, types, wanted_types, sources, languages):
    dictionary = build_dictionary(
        NameSource.from_terminology(terminology_of_rows([*rows, ("Z", "en", "zz", "Z", None)], types)),
        None,
        TextPolicy("lower", "NFC"),
    )
    names, concepts, of_names, _ = describe(dictionary)
    good = {
        c["concept_id"]
        for c in concepts
        if (wanted_types is None or wanted_types & set(c["semantic_types"]))
        and (sources is None or sources & {code.split(":")[0] for code in c["codes"]})
    }
    kept = [
        row
        for row, name in enumerate(names)
        if good & set(of_names[row]) and (languages is None or languages & set(name["languages"]))
    ]
    absent = [
        f"'{value}'" if known else "at all"
        for wanted, known in (
            (wanted_types, {t for c in concepts for t in c["semantic_types"]}),
            (sources, {code.split(":")[0] for c in concepts for code in c["codes"]}),
            (languages, {la for name in names for la in name["languages"]}),
        )
        if wanted is not None and not wanted & known
        for value in sorted(wanted)
    ]
    wanted = Filter(semantic_types=wanted_types, sources=sources, languages=languages)
    if absent or not kept:
        with pytest.raises(DataError, match=f"has no .*{absent[0]}" if absent else "matches nothing"):
            apply_filter(dictionary, wanted)
        return
    found = apply_filter(dictionary, wanted)
    assert (list(range(len(names))) if found.rows is None else found.rows.tolist()) == kept
    ids = [c["concept_id"] for c in concepts]
    kept_concepts = [
        [ids[c] for c in found.name_concepts.concepts[a:b]]
        for a, b in zip(found.name_concepts.starts[:-1], found.name_concepts.starts[1:], strict=True)
    ]
    assert kept_concepts == [[c for c in row_concepts if c in good] for row_concepts in of_names]
    assert found.name_concepts.count == len(ids)
    assert found.name_concepts.starts.dtype == found.name_concepts.concepts.dtype == np.int64


@given(
    rows=TERM_ROWS,
    codes=st.none() | st.frozensets(st.sampled_from(["1", "2", "B:1", "AA:2", "C:3", "HP:1", "nothing"]), max_size=3),
    concepts=st.none() | st.frozensets(st.sampled_from(["C1", "C2", "C3", "Z", "nothing"]), max_size=3),
)
def test_filters_by_code_and_concept_match_a_plain_loop(rows, codes, concepts):
    fixed = [("Z", "en", "zz", "HPO", "HP:1"), ("C1", "en", "aa", "B", "1"), ("C2", "de", "bb", "AA", "2")]
    dictionary = build_dictionary(NameSource.from_terminology(terminology_of_rows([*rows, *fixed])), None, TextPolicy())
    _, described, of_names, _ = describe(dictionary)
    good = {
        c["concept_id"]
        for c in described
        if (codes is None or any(code in codes or code.split(":", 1)[1] in codes for code in c["codes"]))
        and (concepts is None or c["concept_id"] in concepts)
    }
    wanted = Filter(codes=codes, concepts=concepts)
    kept = [row for row, own in enumerate(of_names) if good & set(own)]
    if not kept:
        with pytest.raises(DataError, match="has no (code|concept) '|matches nothing"):
            apply_filter(dictionary, wanted)
        return
    found = apply_filter(dictionary, wanted).rows
    assert (list(range(len(of_names))) if found is None else found.tolist()) == kept


def test_types_and_groups_add_up_and_languages_become_iso():
    found = Filter(semantic_types=["Anything"], groups=["Disorders"], languages=["GER", "en"])
    assert {"Anything", "T047"} <= set(found.semantic_types or ())
    assert found.languages == {"de", "en"}
    assert Filter().semantic_types is None


@pytest.mark.parametrize("given", [["A", "B"], ("B", "A"), {"A", "B"}, frozenset("AB"), {"A": 1, "B": 2}.keys()])
def test_filters_of_lists_and_sets_are_equal_and_hashable(given):
    assert Filter(sources=given) == Filter(sources=["A", "B"])
    assert len({Filter(sources=given), Filter(sources=["B", "A"])}) == 1
    assert Filter.from_dict({"sources": given}) == Filter(sources=given)


def test_a_single_string_is_one_value():
    assert Filter(sources="AB", languages="GER") == Filter(sources=["AB"], languages=["de"])


def test_from_dict_takes_a_filter_a_dictionary_or_nothing():
    wanted = Filter(languages="en")
    assert Filter.from_dict(wanted) is wanted
    assert Filter.from_dict(None) == Filter.from_dict({}) == Filter()
    assert Filter.from_dict({"groups": "DISO", "languages": None}) == Filter(groups=["DISO"])
    assert copy.deepcopy(wanted) == wanted  # as it is copied to workers of a cluster


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"source": ["X"]}, r"^unknown filter 'source'; did you mean 'sources'\?$"),
        (
            {"x1": ["X"]},
            r"^unknown filter 'x1'; a filter has semantic_types, groups, sources, codes, concepts, languages$",
        ),
        ({3: ["X"]}, r"^unknown filter 3; a filter has semantic_types"),
        ({"sources": 5}, r"^the filter 'sources' takes a list of strings, found 5 \(int\)$"),
        ({"sources": {"X": 1}}, r"^the filter 'sources' takes a list of strings, found \{'X': 1\} \(dict\)$"),
        (
            {"languages": ["en", None]},
            r"^the filter 'languages' takes a list of strings, found None \(NoneType\) in it$",
        ),
        ("en", r"^a filter is a Filter or a dictionary with lists, found 'en'$"),
        (["en"], r"^a filter is a Filter or a dictionary with lists, found \['en'\]$"),
    ],
)
def test_wrong_filters_are_refused_in_one_line(given, message):
    with pytest.raises(ConfigError, match=message):
        Filter.from_dict(given)


@pytest.mark.parametrize("given", [{"groups": ["Nonsense"]}, {"languages": "klingon"}])
def test_an_unknown_group_or_language_is_refused(given):
    with pytest.raises(DataError, match=r"unknown (semantic group 'Nonsense'|language 'klingon')"):
        Filter(**given)


def test_the_source_of_a_code_ends_at_its_first_colon():
    dictionary = build_dictionary(
        NameSource.from_terminology(
            terminology_of_rows([("C1", "en", "a", "HPO", "HP:1"), ("C2", "en", "b", "HP", "2")])
        ),
        None,
        TextPolicy(),
    )
    rows = apply_filter(dictionary, Filter(sources=["HP"])).rows
    assert rows is not None
    assert rows.tolist() == [1]


def test_a_cross_reference_is_a_code_in_its_source():
    source = terminology_of_rows(
        [("C1", "en", "a", "HPO", None), ("C2", "en", "b", "HPO", "9")], references=[("C1", "MSH:D1")]
    )
    rows = apply_filter(
        build_dictionary(NameSource.from_terminology(source), None, TextPolicy()), Filter(sources=["MSH"])
    ).rows
    assert rows is not None
    assert rows.tolist() == [0]
