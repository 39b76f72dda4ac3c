"""What is linked in place of a mention: the mention without its clinical notes, and with its abbreviations written out.

A mention that is a name or a code of the index is linked as it is, for "Fracture of right femur" may be a concept, and its notes part of the name.
Two things have precedence over that name: a definition of the mention in its context ("MS" for mitral stenosis), and the user's own table.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from xsap.linking.mention_context import MentionContext
from xsap.linking.rejection import rejection_reason
from xsap.linking.results import Result
from xsap.terms.abbreviations import Abbreviations, Expansion, find_definitions
from xsap.terms.clinical_text import CleanedTerm, clean_term

FindHits = Callable[[Sequence[tuple[str, str]]], Sequence[Sequence[object]]]
"""Mentions and their languages → the names and codes of the index that equal each."""


class PreparedMention(NamedTuple):
    """A mention and what is linked in its place.

    Attributes:
        mention: The mention as it was given.
        text: What is linked.
        context: Its context; where another text is linked, with the mention's position in it.
        cleaned: The clinical notes that were taken out; None if there are none.
        expansion: The mention with its abbreviations written out; None if it has none that is known.
    """

    mention: str
    text: str
    context: MentionContext | None
    cleaned: CleanedTerm | None = None
    expansion: Expansion | None = None

    def complete(self, result: Result) -> Result:
        """The result for the mention, from the result for the text that was linked."""
        return replace(result, mention=self.mention, cleaned=self.cleaned, expansion=self.expansion)


def prepare_mentions(
    mentions: Sequence[str],
    languages: Sequence[str],
    contexts: Sequence[MentionContext | None],
    hits: FindHits,
    *,
    clean: bool,
    abbreviations: Abbreviations | None,
) -> list[PreparedMention]:
    """What is linked in place of each mention.

    Args:
        mentions: n mentions.
        languages: (n,) their languages.
        contexts: (n,) their contexts.
        hits: Finds the names and codes of the index that mentions are.
        clean: Whether clinical notes are taken out.
        abbreviations: How abbreviations are written out; None to leave them.
    """
    asked = list(dict.fromkeys(zip(mentions, languages, strict=True)))
    asked = [query for query in asked if rejection_reason(query[0]) is None]
    names = dict(zip(asked, map(bool, hits(asked)), strict=True))
    cleaned = {query: clean_term(*query) for query, is_name in names.items() if clean and not is_name}
    if abbreviations is not None:
        left = {(found.text, language) for (_, language), found in cleaned.items() if found is not None}
        new = sorted(left - names.keys())
        names.update(zip(new, map(bool, hits(new)), strict=True))
    definitions = dict[str, dict[str, str]]()
    prepared = []
    for mention, language, context in zip(mentions, languages, contexts, strict=True):
        found = cleaned.get((mention, language))
        text = mention if found is None else found.text
        expansion = None
        if abbreviations is not None and (text, language) in names:
            if context is not None and context.text not in definitions:
                definitions[context.text] = find_definitions(context.text)
            own = {} if context is None else definitions[context.text]
            expansion = abbreviations.expand(text, language, own, is_name=names[text, language])
        text = text if expansion is None else expansion.text
        placed = context if text is mention or context is None else _placed(mention, context)
        prepared.append(PreparedMention(mention, text, placed, found, expansion))
    return prepared


def _placed(mention: str, context: MentionContext) -> MentionContext:
    """A context with the position of its mention, for the text that is linked does not occur in it."""
    core = mention.strip()
    start = context.text.find(core) if context.start is None else -1
    return context if start < 0 else MentionContext(context.text, start, start + len(core))
