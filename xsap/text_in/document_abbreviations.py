"""Abbreviations of running text: what a document defines in parentheses counts at every place in it where the short form is.

"… an atrial septal defect (ASD). The ASD was closed": each *ASD* of that document is linked as the atrial septal defect, also where the index has
another concept of that name, and also where it has no such name at all. A short form that is not a name becomes a span only if its long form is
one, as whatever else is a name decides what is found in texts. Offsets are those of the short form.
"""

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xsap.linking.preparation import FindHits
from xsap.linking.rejection import rejection_reason
from xsap.terms.abbreviations import Abbreviations, Expansion
from xsap.text import COMBINING_ACCENTS
from xsap.text_in.spans import Span


@dataclass(frozen=True)
class DocumentAbbreviations:
    """Writes out the abbreviations of texts.

    Attributes:
        table: Abbreviations of all texts; what a text defines itself has precedence.
        hits: Finds the names and codes of the index that mentions are.
    """

    table: Abbreviations
    hits: FindHits

    def with_short_forms(
        self,
        texts: Sequence[str],
        languages: Sequence[str],
        definitions: Sequence[Mapping[str, str]],
        spans: Sequence[Sequence[Span]],
    ) -> list[list[Span]]:
        """Spans of texts, and the short forms outside of them whose long form is a name.

        Args:
            texts: n texts.
            languages: (n,) their languages.
            definitions: What each defines, by `find_definitions`.
            spans: The spans of each, in order and without overlap.
        """
        names = self._names([(long, of) for own, of in zip(definitions, languages, strict=True) for long in own.values()])  # fmt: skip
        return [
            _with_places(text, [short for short, long in own.items() if names.get((long, language))], found)
            for text, language, own, found in zip(texts, languages, definitions, spans, strict=True)
        ]

    def expansions(
        self,
        texts: Sequence[str],
        languages: Sequence[str],
        definitions: Sequence[Mapping[str, str]],
        spans: Sequence[Sequence[Span]],
    ) -> list[list[Expansion | None]]:
        """What each span is linked as; None for as it is. Arguments as for `with_short_forms`."""
        asked = [
            (text[start:end], language)
            for text, language, own, found in zip(texts, languages, definitions, spans, strict=True)
            for start, end in (found if own or self.table.entries else ())
        ]
        names = self._names(asked)
        return [
            [self._expand(text[start:end], language, own, names) for start, end in found]
            for text, language, own, found in zip(texts, languages, definitions, spans, strict=True)
        ]

    def _expand(
        self, mention: str, language: str, definitions: Mapping[str, str], names: Mapping[tuple[str, str], bool]
    ) -> Expansion | None:
        if (mention, language) not in names:
            return None
        return self.table.expand(mention, language, definitions, is_name=names[mention, language])

    def _names(self, queries: Sequence[tuple[str, str]]) -> dict[tuple[str, str], bool]:
        """Whether each of some mentions is a name or a code of the index; those that can't be linked are left out."""
        distinct = [query for query in dict.fromkeys(queries) if rejection_reason(query[0]) is None]
        return dict(zip(distinct, map(bool, self.hits(distinct)), strict=True)) if distinct else {}


def _with_places(text: str, short_forms: Sequence[str], spans: Sequence[Span]) -> list[Span]:
    """Spans, and where short forms are as whole words outside of them, the longest form first."""
    found = list(spans)
    for short in sorted(short_forms, key=lambda each: (-len(each), each)):
        for match in re.finditer(rf"(?<![\w{COMBINING_ACCENTS}]){re.escape(short)}(?![\w{COMBINING_ACCENTS}])", text):
            at = bisect_right(found, match.span())
            before, after = found[at - 1 : at] if at else [], found[at : at + 1]
            if all(end <= match.start() for _, end in before) and all(start >= match.end() for start, _ in after):
                found.insert(at, Span(*match.span()))
    return found
