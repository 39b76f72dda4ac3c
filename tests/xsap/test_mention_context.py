"""Contexts of mentions: what is taken as one, and where the mention stands in it."""

import pytest

from xsap.errors import ConfigError
from xsap.linking.mention_context import ContextParts, MentionContext, contexts_of, split_context

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
