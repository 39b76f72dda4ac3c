"""Answers as lines for people."""

import re

import pytest

from xsap.tabular.answers import CANDIDATE, Answer
from xsap.tabular.text_table import text_table


def row(concept, name, matched, language, score, confidence=None):
    """The fields of a candidate that a table shows, among all others."""
    given = {"concept_id": concept, "name": name, "matched_name": matched, "language": language}
    return [(given | {"score": score, "confidence": confidence}).get(field) for field in CANDIDATE]


TWO = Answer([row("C1", "Fever", "-pyrexia", "fr", 0.9, 0.876), row("C22", "Cold", "Cold", "en", -0.5)], None)
BLANK = Answer([], "the mention is blank")
UNCERTAIN = Answer([row("C9000001", "Cold", "Cold", "en", 0.123, 0.05)], "unsure")


def candidate(name, matched, language="he", concept="C1"):
    return Answer([row(concept, name, matched, language, 1.0)], None)


def shown(mentions, answers):
    return "".join(text_table()(mentions, answers)).splitlines()


def test_table_lists_candidates_below_each_mention():
    assert shown(["fiebre", " ", "x" * 90, "y\nz"], [TWO, BLANK, BLANK, UNCERTAIN]) == [
        "rank   score  confidence  concept   language  name (matched name)",
        "fiebre",
        "   1   0.900        88 %  C1        fr        Fever (-pyrexia)",
        "   2  -0.500              C22       en        Cold",
        "(blank)",
        "      the mention is blank",
        "x" * 79 + "…",
        "      the mention is blank",
        "y z",
        "   1   0.123         5 %  C9000001  en        Cold",
        "      unsure",
    ]


def test_header_comes_once_and_only_with_candidates():
    lines = text_table()
    parts = [
        list(lines(["a"], [answer]))
        for answer in (BLANK, candidate("é", "e", "fr", "C1"), TWO, candidate("x", "x", "fr", "C12345678"))
    ]
    assert [part[0].startswith("rank") for part in parts] == [False, True, False, False]
    assert (
        parts[1][0] == "rank   score  concept  language  name (matched name)\n"
    )  # without a calibration no column of confidences
    assert parts[3][-1] == "   1   1.000  C12345678  fr        x\n"


@pytest.mark.parametrize("name", ["発熱", "fièvre", "열", "e\u0301", "😀", "x" * 300])
def test_columns_are_aligned_whatever_the_width_of_a_name(name):
    header, _, line = shown([name], [candidate(name, "fever", "en")])
    assert line.index(name) == header.index("name")


@pytest.mark.parametrize("name", ["חום", "حمى", "تب", "ܐ", "މ"])
def test_names_from_right_to_left_are_isolated(name):
    lines = shown([name], [candidate(name, name + "2")])
    assert lines[1] == f"\u2068{name}\u2069"
    assert lines[2].endswith(f"\u2068{name}\u2069 (\u2068{name}2\u2069)")
    assert "\u2068" not in "".join(shown(["fièvre"], [candidate("発熱", "fièvre")]))


CONTROLS = [
    *map(chr, range(32)),
    *map(chr, range(127, 160)),
    *"\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u2028\ufeff",
]


def test_no_character_moves_the_cursor_or_turns_the_text_around():
    for control in CONTROLS:
        text = f"a{control}[31mb"
        answers = [Answer([row(text, text, text + "c", "en", 1.0)], text)]
        for line in shown([text], answers):
            assert not re.search(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]", line), control


def test_what_was_linked_in_place_of_a_mention_is_shown_below_it():
    notes = ("HWI", False, True, None, "left", None, ("V.a.", "li."), "Harnwegsinfekt", "table")
    lines = text_table()(["V.a. HWI li.", "HWI", "li. Knie"], [
        Answer([], "none", notes),
        Answer([], "none", (*[None] * 6, (), "Harnwegsinfekt", "context")),
        Answer([], "none", ("Knie", False, False, None, "left", None, ("li.",), None, None)),
    ])  # fmt: skip
    assert [line.strip() for line in lines if "linked as" in line] == [
        "linked as Harnwegsinfekt (expansion from the table; without V.a., li.: suspected, left)",
        "linked as Harnwegsinfekt (expansion from the context)",
        "linked as Knie (without li.: left)",
    ]
