"""What is linked in place of a mention: the mention without its clinical qualifiers, and with its abbreviations written out.

A mention that is a name or a code of the index is linked as it is, for "Fracture of right femur" may be a concept, and its qualifiers part of the name.
Two things have precedence over that name: a definition of the mention in its context ("MS" for mitral stenosis), and the user's own table.
Whether the concepts of an index have laterality, grade and history differs from one to another. So a mention with such qualifiers is linked with and
without them, and the text whose first candidate has the higher score is taken.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from xsap.linking.mention_context import MentionContext, find_mention
from xsap.linking.rejection import rejection_reason
from xsap.linking.results import Result
from xsap.terms.abbreviations import Abbreviations, Expansion, find_definitions
from xsap.terms.clinical_text import SPECIFIC, CleanedTerm, clean_term

FindHits = Callable[[Sequence[tuple[str, str]]], Sequence[Sequence[object]]]
"""Mentions and their languages → the names and codes of the index that equal each."""


class LinkedText(NamedTuple):
    """A text that is linked in place of a mention.

    Attributes:
        text: The text.
        context: The context of the mention; for another text than it with its position in the context.
        cleaned: The clinical qualifiers of the mention; None if it has none.
        expansion: The text with its abbreviations written out; None if it has none that is known.
    """

    text: str
    context: MentionContext | None
    cleaned: CleanedTerm | None = None
    expansion: Expansion | None = None


class PreparedMention(NamedTuple):
    """A mention, and the texts that are linked in its place, one or two."""

    mention: str
    texts: tuple[LinkedText, ...]

    def complete(self, results: Sequence[Result]) -> Result:
        """The result for the mention, from one for each of `texts`: that with the highest first score, of equal ones the first."""
        best = max(range(len(results)), key=lambda i: (_first_score(results[i]), -i))
        text = self.texts[best]
        return replace(results[best], mention=self.mention, cleaned=text.cleaned, expansion=text.expansion)


def _first_score(result: Result) -> float:
    found = result.candidates or result.uncertain
    return found[0].score if found else -math.inf


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
        clean: Whether clinical qualifiers are taken out.
        abbreviations: How abbreviations are written out; None to leave them.
    """
    asked = list(dict.fromkeys(zip(mentions, languages, strict=True)))
    asked = [query for query in asked if rejection_reason(query[0]) is None]
    names = dict(zip(asked, map(bool, hits(asked)), strict=True))
    cleaned = {query: _cleaned_forms(*query) for query, is_name in names.items() if clean and not is_name}
    new = sorted({(form.text, query[1]) for query, forms in cleaned.items() for form in forms} - names.keys())
    if abbreviations is not None:
        names.update(zip(new, map(bool, hits(new)), strict=True))
    definitions: dict[str, dict[str, str]] = {}

    def written_out(text: str, language: str, context: MentionContext | None) -> Expansion | None:
        if abbreviations is None or (text, language) not in names:
            return None
        if context is not None and context.text not in definitions:
            definitions[context.text] = find_definitions(context.text)
        own = None if context is None else definitions[context.text]
        return abbreviations.expand(text, language, own, is_name=names[text, language])

    prepared = []
    for mention, language, context in zip(mentions, languages, contexts, strict=True):
        texts = []
        forms: Sequence[CleanedTerm | None] = cleaned.get((mention, language)) or [None]
        for form in forms:
            text = mention if form is None else form.text
            expansion = written_out(text, language, context)
            linked = text if expansion is None else expansion.text
            placed = context if linked == mention or context is None else _placed(mention, context)
            texts.append(LinkedText(linked, placed, form, expansion))
        prepared.append(PreparedMention(mention, tuple(texts)))
    return prepared


def link_prepared(
    prepared: Sequence[PreparedMention], languages: Sequence[str], link: Callable[..., Sequence[Result]]
) -> list[Result]:
    """Link what `prepare_mentions` made.

    Args:
        prepared: n mentions.
        languages: (n,) their languages.
        link: `Linker.link` with all other arguments.

    Returns:
        The result for each mention.
    """
    asked = [(text, language) for each, language in zip(prepared, languages, strict=True) for text in each.texts]
    codes, contexts = [language for _, language in asked], [text.context for text, _ in asked]
    found = iter(link([text.text for text, _ in asked], languages=codes, context=contexts))
    return [each.complete([next(found) for _ in each.texts]) for each in prepared]


def _cleaned_forms(mention: str, language: str) -> list[CleanedTerm]:
    """A mention without the qualifiers that no concept has in its name, and without all qualifiers, if these are two; none if it has no qualifiers."""
    general, bare = clean_term(mention, language, keep=SPECIFIC), clean_term(mention, language)
    if general is None or bare is None:
        return []
    return [general] if general.text == bare.text else [general, bare]


def _placed(mention: str, context: MentionContext) -> MentionContext:
    """A context with the position of its mention, for the text that is linked does not occur in it."""
    found = find_mention(mention, context.text) if context.start is None else None
    return context if found is None else MentionContext(context.text, *found)
