"""A mention's place in its text, in a form that a line of TSV can hold: runs of white space, line ends among them, become one space.

Loaders hand every text through `collapse`, so that `context[start:end]` stays the mention after the table was written and read again.
"""


def collapse(text: str, start: int, end: int) -> tuple[str, int, int]:
    """The text with its white space collapsed and its ends trimmed, and where [start, end) now lies. The span must not begin or end in white space."""
    before = " ".join((text[:start] + "x").split())
    return " ".join(text.split()), len(before) - 1, len(" ".join(text[:end].split()))
