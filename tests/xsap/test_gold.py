"""Gold concepts of mentions: counts by a plain loop, and ids that are written in another way."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xsap.errors import DataError
from xsap.evaluation.gold import GoldCounts, check_gold

ids = st.sampled_from(["A", "B", "C", "D", "E"])


@given(gold=st.lists(st.lists(ids, max_size=3), max_size=8), known=st.sets(ids))
def test_counts_match_a_plain_loop(gold, known):
    kinds = ["nil" if not each else "known" if known & set(each) else "other" for each in gold]
    expected = GoldCounts(kinds.count("known"), kinds.count("other"), kinds.count("nil"))
    if expected.in_dictionary:
        assert check_gold(gold, known) == expected
    else:
        with pytest.raises(DataError, match="found none"):
            check_gold(gold, known)


WAYS = [
    "HP_{}",
    "hp:{}",
    "HP{}",
    "HP-{}",
    "http://purl.obolibrary.org/obo/HP_{}",
    "https://example.org/HP#{}",
    "{}",
    "UMLS:HP:{}",
    "HP: {}",
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("number", ["0001945", "0000001"])
def test_id_in_another_way_of_writing_is_shown_with_its_own(way, number):
    known = {f"HP:{i:07}" for i in range(1, 3000)}
    gold = [[way.format("0009999")], [way.format(number)], []]
    with pytest.raises(DataError) as error:
        check_gold(gold, known)
    message = str(error.value)
    assert message.count("\n") == 0
    assert message.startswith("expected mentions whose gold concepts are in the index, found none among 2: ")
    assert f"gold '{way.format(number)}', index 'HP:{number}'; write the ids as the index has them" in message


def test_ids_that_have_nothing_in_common_are_shown_as_well():
    with pytest.raises(
        DataError, match=re.escape("gold 'C0015967', dictionary 'HP:1'; are they ids of one terminology")
    ):
        check_gold([["C0015967"]], ["HP:2", "HP:1"], dictionary="dictionary")
    with pytest.raises(DataError, match="index no concepts"):
        check_gold([["C0015967"]], [])
    with pytest.raises(DataError, match=re.escape(f"gold '{60 * 'x'}…'")):
        check_gold([["x" * 10_000]], ["A"])


@pytest.mark.parametrize("missing", range(6))
def test_few_gold_concepts_in_the_index_are_warned_of(caplog, missing):
    gold = [["A"]] * (5 - missing) + [["a:"]] * missing
    if missing == 5:
        with pytest.raises(DataError, match="gold 'a:', index 'A'"):
            check_gold(gold, ["A", "B"])
        return
    check_gold([*gold, [], []], ["A", "B"])
    warned = f"only {5 - missing} of 5 mentions with gold concepts have one in the index: gold 'a:', index 'A'"
    assert (warned in caplog.text) == (missing > 2)
