"""Contexts of mentions: what is taken as one, and where the mention stands in it."""

import pytest

from xsap.errors import ConfigError
from xsap.linking.mention_context import (
    ContextParts,
    MentionContext,
    contexts_in,
    contexts_of,
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


@pytest.mark.parametrize("given", ["a text", ["a", "b"], [7], [("a", 1, 2, 3)]])
def test_other_contexts_are_refused(given):
    with pytest.raises(ConfigError, match="context"):
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
