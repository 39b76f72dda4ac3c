"""Filters against a plain loop over an index's rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.xsap.test_contents import ROWS, described, terminology
from xsap.errors import DataError
from xsap.linking.dictionary import build_dictionary, in_memory
from xsap.linking.ranking import Filter, apply_filter
from xsap.text import TextPolicy

some = st.none() | st.frozensets(st.sampled_from(["AAA", "B", "C", "AA"]), min_size=1, max_size=2)


@given(
    rows=ROWS,
    types=st.lists(
        st.tuples(st.sampled_from(["C1", "C2", "C3", "D"]), st.sampled_from(["T1", "T2", "T3"])), max_size=8
    ),
    wanted_types=st.none() | st.frozensets(st.sampled_from(["T1", "T2", "T3"]), min_size=1, max_size=2),
    sources=some,
    languages=st.none() | st.frozensets(st.sampled_from(["en", "de", "fi"]), min_size=1, max_size=2),
)
def test_what_is_kept_against_a_plain_loop(rows, types, wanted_types, sources, languages):
    dictionary = build_dictionary(
        in_memory(terminology([*rows, ("Z", "en", "zz", "Z", None)], types)), None, TextPolicy("lower", "NFC")
    )
    names, concepts, of_names, _ = described(dictionary)
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
    wanted = Filter(wanted_types, sources, languages)
    if absent or not kept:
        with pytest.raises(DataError, match=f"has no .*{absent[0]}" if absent else "leaves nothing"):
            apply_filter(dictionary, wanted)
        return
    found = apply_filter(dictionary, wanted)
    assert (list(range(len(names))) if found.rows is None else found.rows.tolist()) == kept
    ids = [c["concept_id"] for c in concepts]
    owned = [
        [ids[c] for c in found.owners.concepts[a:b]]
        for a, b in zip(found.owners.starts[:-1], found.owners.starts[1:], strict=True)
    ]
    assert owned == [[c for c in owners if c in good] for owners in of_names]
    assert found.owners.count == len(ids)
    assert found.owners.starts.dtype == found.owners.concepts.dtype == np.int64


def test_types_and_groups_add_up_and_languages_become_iso():
    found = Filter.of(semantic_types=["Anything"], groups=["Disorders"], languages=["GER", "en"])
    assert {"Anything", "T047"} <= set(found.semantic_types or ())
    assert found.languages == {"de", "en"}
    assert Filter.of() == Filter()


def test_a_group_that_is_unknown_is_refused():
    with pytest.raises(DataError):
        Filter.of(groups=["Nonsense"])


def test_codes_with_colons_belong_to_what_stands_before_the_first():
    dictionary = build_dictionary(
        in_memory(terminology([("C1", "en", "a", "HPO", "HP:1"), ("C2", "en", "b", "HP", "2")])), None, TextPolicy()
    )
    rows = apply_filter(dictionary, Filter(sources=frozenset({"HP"}))).rows
    assert rows is not None
    assert rows.tolist() == [1]


def test_a_cross_reference_is_a_code_in_its_source():
    source = terminology([("C1", "en", "a", "HPO", None), ("C2", "en", "b", "HPO", "9")], references=[("C1", "MSH:D1")])
    rows = apply_filter(
        build_dictionary(in_memory(source), None, TextPolicy()), Filter(sources=frozenset({"MSH"}))
    ).rows
    assert rows is not None
    assert rows.tolist() == [0]
