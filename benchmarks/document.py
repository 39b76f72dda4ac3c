"""A document and where its mentions stand: one context for all of them, and a place only where the text says what the annotation says.

Corpora hold a few annotations whose offsets point at other words (MedMentions' issue 6, BigBIO's issue 738). Such a mention keeps its text and
its context; its place is unknown, for a wrong one would mark other words to whoever reads contexts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.context import collapse
from xsap.text import EXACT_MATCH, normalise


@dataclass(frozen=True, slots=True)
class Document:
    """text: what a corpus's offsets count in. context: the same as `collapse` writes it, shared by the document's mentions."""

    text: str
    context: str

    @classmethod
    def of(cls, text: str) -> "Document":
        """The document with this text."""
        context = " ".join(text.split())
        return cls(text, text if context == text else context)

    def place(self, spans: Sequence[tuple[int, int]], pieces: Sequence[str]) -> tuple[int | None, int | None]:
        """Where in the context the first span begins and the last one ends.

        spans: (start, end) in the text, each with the piece of the mention that stands there. (None, None) if one doesn't, compared as
        EXACT_MATCH does, or if there are none.
        """
        if not spans or len(spans) != len(pieces) or not all(self._says(*span, piece) for span, piece in zip(spans, pieces, strict=True)):
            return None, None
        start, end = min(start for start, _ in spans), max(end for _, end in spans)
        while self.text[start].isspace():
            start += 1
        while self.text[end - 1].isspace():
            end -= 1
        return (start, end) if self.context is self.text else collapse(self.text, start, end)[1:]

    def _says(self, start: int, end: int, piece: str) -> bool:
        found = normalise(self.text[start:end], EXACT_MATCH) if 0 <= start < end <= len(self.text) else ""
        return found != "" and found == normalise(piece, EXACT_MATCH)
