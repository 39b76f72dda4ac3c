"""Answers as plain text for people: a header, each mention, and its candidates below it.

The names come last in a line, so that the other columns are aligned whatever the width of the characters in a name. A name in a right-to-left
script is isolated (Unicode TR 9, FSI … PDI): a terminal that supports such scripts would otherwise reorder it with what stands beside it.
Characters that move the cursor or turn the text around are shown as their escapes, `\\x1b`.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from xsap.tabular.answers import CANDIDATE, NOTES, Answer

_LONGEST_MENTION = 80  # characters; what is longer is cut
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]")
_ISOLATE, _END = "\u2068", "\u2069"


def text_table() -> Callable[[Sequence[str], Sequence[Answer]], Iterator[str]]:
    """A function from mentions and their answers to lines, to be called for one chunk of rows after the other.

    The header comes before the first chunk that has candidates. The column of confidences is there if the index is calibrated.
    """
    width = 0

    def lines(mentions: Sequence[str], answers: Sequence[Answer]) -> Iterator[str]:
        nonlocal width
        rows = [[dict(zip(CANDIDATE, each, strict=True)) for each in answer.candidates] for answer in answers]
        found = [candidate for candidates in rows for candidate in candidates]
        calibrated = any(candidate["confidence"] is not None for candidate in found)
        started = width > 0
        width = max([width, *(len(candidate["concept_id"]) for candidate in found)])
        if width and not started:
            width = max(width, len("concept"))
            confidence = "confidence  " if calibrated else ""
            yield f"rank   score  {confidence}{'concept':{width}}  language  name (matched name)\n"
        for mention, candidates, answer in zip(mentions, rows, answers, strict=True):
            yield _mention(mention) + "\n"
            if answer.notes:
                yield f"      {_shown(_linked_as(answer.notes))}\n"
            for rank, candidate in enumerate(candidates, start=1):
                yield _candidate(rank, candidate, width, calibrated=calibrated) + "\n"
            if answer.reason is not None:
                yield f"      {_shown(answer.reason)}\n"

    return lines


def _mention(mention: str) -> str:
    cut = mention if len(mention) <= _LONGEST_MENTION else f"{mention[: _LONGEST_MENTION - 1]}…"
    return _shown(" ".join(cut.split())) or "(blank)"


def _linked_as(notes: Sequence[Any]) -> str:
    """What was linked in place of a mention, and why."""
    of = dict(zip(NOTES, notes, strict=True))
    said = [kind for kind in ("negated", "suspected") if of[kind]]
    said += [of[column].replace("|", ", ") for column in ("history", "laterality", "grade") if of[column]]
    reasons = [f"expansion from the {of['expansion_source']}"] if of["expansion"] else []
    reasons += (
        [f"without {', '.join(of['removed'])}" + (f": {', '.join(said)}" if said else "")] if of["removed"] else []
    )
    return f"linked as {of['expansion'] or of['cleaned']} ({'; '.join(reasons)})"


def _candidate(rank: int, candidate: dict[str, Any], width: int, *, calibrated: bool) -> str:
    confidence = candidate["confidence"]
    likely = "" if confidence is None else f"{100 * confidence:.0f} %"  # only the first candidate has one
    name, matched = candidate["name"], candidate["matched_name"]
    names = _shown(name) if matched == name else f"{_shown(name)} ({_shown(matched)})"
    if candidate["annotations"] is not None:
        names += f"  annotated {candidate['annotations']:,} times, {100 * candidate['share']:.0f} %"
    return (
        f"{rank:>4}  {candidate['score']:6.3f}  {f'{likely:>10}  ' if calibrated else ''}"
        f"{_shown(candidate['concept_id']):{width}}  {candidate['language']:8}  {names}"
    )


def _shown(text: str) -> str:
    """Text without effects on a terminal."""
    text = _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return f"{_ISOLATE}{text}{_END}" if _RIGHT_TO_LEFT.search(text) else text
