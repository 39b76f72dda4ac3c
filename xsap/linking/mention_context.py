"""The context of a mention: the text that it was found in, and where it stands there."""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from xsap.errors import ConfigError
from xsap.linking.arguments import is_missing
from xsap.text import COMBINING_ACCENTS, combining_marks, fold_characters

_ACCENT = re.compile(f"[{COMBINING_ACCENTS}]")


class MentionContext(NamedTuple):
    """A text in which a mention occurs.

    Attributes:
        text: The text, such as a sentence or a note.
        start: Where the mention begins in it, in characters (code points); None if that is not known.
        end: Where it ends.
    """

    text: str
    start: int | None = None
    end: int | None = None


Context = str | MentionContext | None
"""What users give as the context of a mention; a string alone is searched for the mention."""


class ContextParts(NamedTuple):
    """A context cut at its mention: what stands before the mention, and what stands after it."""

    left: str
    right: str


def contexts_of(given: Sequence[Context] | None, n: int) -> list[MentionContext | None]:
    """The contexts of n mentions, None where there is none.

    Args:
        given: One for each mention: a string, a `MentionContext`, a tuple like it, or what a table has where a value is missing.
        n: The number of mentions.

    Raises:
        ConfigError: There is another number of them, or one is something else.
    """
    if given is None:
        return [None] * n
    if isinstance(given, str | MentionContext):
        raise ConfigError(f"context takes one for each mention, found the single one {given!r:.60}; put it into a list")
    given = list(given)
    if len(given) != n:
        raise ConfigError(f"expected a context for each mention, found {len(given):,} for {n:,}")
    return [_context(each) for each in given]


def _context(given: object) -> MentionContext | None:
    if isinstance(given, str):
        return MentionContext(given) if given.strip() else None
    if isinstance(given, tuple) and len(given) in (1, 2, 3) and isinstance(given[0], str):
        try:
            start, end = (None if is_missing(part) else int(part) for part in (*given[1:], None, None)[:2])
        except (TypeError, ValueError):
            raise ConfigError(f"the position of a mention is two whole numbers, found {given[1:]!r:.40}") from None
        return MentionContext(given[0], start, end) if given[0].strip() else None
    if is_missing(given):
        return None
    raise ConfigError(f"a context is a text, or (text, start, end); found {given!r:.40} ({type(given).__name__})")


def split_context(mention: str, context: MentionContext | None) -> ContextParts:
    """What stands before and after a mention in its context.

    The offsets count where they lie in the text, whatever they mark: text may be normalized differently than a list of mentions. Without
    offsets, or with others, `find_mention` says where it is; where it is not found, the whole text is taken to follow the mention.

    Args:
        mention: The mention.
        context: Its context; None for none.
    """
    if context is None:
        return ContextParts("", "")
    text, start, end = context
    if start is None or end is None or not 0 <= start < end <= len(text):
        found = find_mention(mention, text)
        if found is None:
            return ContextParts("", text)
        start, end = found
    return ContextParts(text[:start], text[end:])


def find_mention(mention: str, text: str) -> tuple[int, int] | None:
    """Where a mention begins and ends in a text; None if it is not there.

    The first occurrence as whole words counts: *MS* is not in "EMS". As it is written has precedence over another letter case and other accents, and
    both over a part of a word, as in compounds and in scripts without spaces. All white space is equal.

    >>> find_mention("MS", "EMS was called; MS suspected"), find_mention("ms", "MS"), find_mention("pain", "fever")
    ((16, 18), (0, 2), None)
    """
    if not mention.strip():
        return None
    written = _pattern(mention)
    if (match := _whole_words(written, text)) is not None:
        return match.span()
    folded, places = _folded(text)
    similar = _pattern(_folded(mention)[0].strip() or mention)  # an accent alone stays as it is
    if (match := _whole_words(similar, folded)) is None:
        if (part := written.search(text)) is not None:
            return part.span()
        match = similar.search(folded)
    return None if match is None else (places[match.start()], places[match.end()])


def _pattern(mention: str) -> re.Pattern[str]:
    return re.compile(r"\s+".join(map(re.escape, mention.split())))


def _whole_words(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """The first match that begins and ends between words."""
    return next((each for each in pattern.finditer(text) if not any(_in_word(text, at) for at in each.span())), None)


def _in_word(text: str, at: int) -> bool:
    """Whether a word has characters before and after a place."""
    return 0 < at < len(text) and _two_of_word().match(text, at - 1) is not None


@cache
def _two_of_word() -> re.Pattern[str]:
    """Two characters of one word."""
    return re.compile(rf"[\w{combining_marks()}]{{2}}")


def _folded(text: str) -> tuple[str, list[int]]:
    """A text without case and accents, and the place in the text of each of its characters and of its end."""
    folded = fold_characters(text)
    places = [i for i, character in enumerate(folded) if not _ACCENT.match(character)]
    return "".join(folded[i] for i in places), [*places, len(text)]


def contexts_in(mentions: pa.Table) -> list[MentionContext | None]:
    """The contexts of the mentions of a table of `terms.mentions.SCHEMA`."""
    texts, starts, ends = (mentions[name].to_pylist() for name in ("context", "start", "end"))
    given: list[Any] = [None if each[0] is None else each for each in zip(texts, starts, ends, strict=True)]
    return contexts_of(given, mentions.num_rows)


def shuffled_contexts(
    mentions: Sequence[str], contexts: Sequence[MentionContext | None], *, seed: int
) -> list[MentionContext | None]:
    """Each mention in the place of another one that is drawn at random, in that one's context: what the right context is worth.

    Args:
        mentions: n mentions.
        contexts: Of each.
        seed: Of the order.
    """
    having = [i for i, context in enumerate(contexts) if context is not None]
    order = np.random.default_rng(seed).permutation(len(having))
    following = {having[at]: having[order[(place + 1) % len(order)]] for place, at in enumerate(order.tolist())}
    shuffled: list[MentionContext | None] = [None] * len(mentions)
    for at, other in following.items():
        left, right = split_context(mentions[other], contexts[other])
        shuffled[at] = MentionContext(left + mentions[at] + right, len(left), len(left) + len(mentions[at]))
    return shuffled
