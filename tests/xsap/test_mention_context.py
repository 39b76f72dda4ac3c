"""Contexts of mentions: what is taken as one, and where the mention stands in it."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xsap.errors import ConfigError
from xsap.linking.mention_context import (
    ContextParts,
    MentionContext,
    contexts_in,
    contexts_of,
    find_mention,
    shuffled_contexts,
    split_context,
)
from xsap.terms.mentions import build_mentions

TEXT = "MS after MS"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        (" ", None),
        (float("nan"), None),
        ("a text", MentionContext("a text")),
        (("a text", 2, 6), MentionContext("a text", 2, 6)),
        (("a text", None, float("nan")), MentionContext("a text")),
        (MentionContext("a text", 2.0, 6.0), MentionContext("a text", 2, 6)),
    ],
)
def test_context_is_a_text_alone_or_with_the_position_of_the_mention(given, expected):
    assert contexts_of([given], 1) == [expected]


@pytest.mark.parametrize("given", ["a text", ["a", "b"], [7], [("a", 1, 2, 3)], [("a", "x", "y")], [("a", [1], [2])]])
def test_other_contexts_are_refused(given):
    with pytest.raises(ConfigError, match="context|position of a mention"):
        contexts_of(given, 1)


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (None, ("", "")),
        (MentionContext(TEXT, 9, 11), ("MS after ", "")),
        (MentionContext(TEXT), ("", " after MS")),
        (MentionContext(TEXT, 9, 99), ("", " after MS")),
        (MentionContext("no such term"), ("", "no such term")),
    ],
)
def test_context_is_cut_at_its_position_else_at_the_first_occurrence_else_before_the_text(context, expected):
    assert split_context("MS", context) == ContextParts(*expected)


@pytest.mark.parametrize(
    ("mention", "text", "expected"),
    [
        ("MS", "EMS came, MS was seen", "MS was seen"),
        ("MS", "MSA, EMS_MS and ms", "ms"),  # whole words in another letter case, rather than a part of a word
        ("MS", "the EMS", "MS"),
        ("Infarkt", "Myokardinfarkt links", "infarkt links"),
        ("発熱", "昨日から発熱がある", "発熱がある"),
        ("حمى", "المريض لديه حمى اليوم", "حمى اليوم"),
        ("chronic pain", "Chronic\r\n  pain. chronic\npain?", "chronic\npain?"),
        ("fièvre", "pas de fie\u0300vre hier", "fie\u0300vre hier"),
        ("fie\u0300vre", "pas de Fièvre hier", "Fièvre hier"),
        ("cafe", "le café", "café"),
        ("caf", "cafe\u0301 caf", "caf"),
        ("pain", "👩🏽\u200d⚕️ sees pain", "pain"),
        ("(MS)", "disease (MS), MS", "(MS), MS"),
        ("a.c", "abc a.c", "a.c"),
        ("MS", "at the end: MS", "MS"),
    ],
)
def test_a_mention_is_found_as_whole_words_first(mention, text, expected):
    start, end = find_mention(mention, text)
    assert text[start:] == expected
    folded = [unicodedata.normalize("NFD", part).casefold().split() for part in (mention, text[start:end])]
    assert len(folded[0]) == len(folded[1])


@given(st.text("MSm é\u0301.\r\n", max_size=12), st.text("MSm é\u0301.\r\n", max_size=4))
def test_what_stands_before_and_after_a_mention_is_all_but_the_mention(text, mention):
    left, right = split_context(mention, MentionContext(text))
    assert text.startswith(left)
    assert text.endswith(right)
    if mention.strip() and mention.strip() in text:
        assert len(left) + len(right) < len(text)


def test_contexts_of_a_table():
    table = build_mentions(["a", "b"], ["en", "en"], [[], []], context=["x a", None], start=[2, None], end=[3, None])
    assert contexts_in(table) == [MentionContext("x a", 2, 3), None]


def test_shuffled_contexts_put_each_mention_into_another_ones_place():
    mentions = ["a", "bb", "c", "d"]
    contexts = [MentionContext(f"before{i} {mention} after{i}") for i, mention in enumerate(mentions)]
    contexts[3] = None
    found = shuffled_contexts(mentions, contexts, seed=0)
    assert found[3] is None
    places = []
    for mention, context in zip(mentions[:3], found, strict=False):
        assert context.text[context.start : context.end] == mention
        places.append(context.text[6])
    assert sorted(places) == ["0", "1", "2"]
    assert all(place != str(i) for i, place in enumerate(places))
