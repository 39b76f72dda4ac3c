"""What is linked in place of a mention, and that the result says so."""

import pytest

from xsap.linking.mention_context import MentionContext
from xsap.linking.preparation import prepare_mentions
from xsap.linking.results import Candidate, Result, Results
from xsap.terms.abbreviations import Abbreviations, Expansion

NAMES = {"V.a. Rotlauf", "MS", "HWI", "ASD Typ 2"}
TABLE = Abbreviations.from_rows([("HWI", "Harnwegsinfekt", "de"), ("DM", "Diabetes mellitus", "und")])


def prepare(mention, context=None, *, clean=True, abbreviations=TABLE, language="de"):
    asked = []

    def hits(queries):
        asked.extend(queries)
        return [["hit"] if text in NAMES else [] for text, _ in queries]

    found = prepare_mentions(
        [mention] * 2, [language] * 2, [context] * 2, hits, clean=clean, abbreviations=abbreviations
    )
    assert found[0] == found[1]
    assert len(asked) == len(set(asked))
    return found[0]


@pytest.mark.parametrize(
    ("mention", "context", "linked"),
    [
        ("Fieber", None, "Fieber"),
        ("V.a. Fieber", None, "Fieber"),
        ("V.a. Rotlauf", None, "V.a. Rotlauf"),  # a name of the index
        ("V.a. DM li.", None, "Diabetes mellitus"),
        ("HWI", None, "Harnwegsinfekt"),  # the user's table has precedence over a name
        ("MS", None, "MS"),
        ("MS", "Mitralstenose (MS).", "Mitralstenose"),  # so has the document's own definition
        ("V.a. MS", "Mitralstenose (MS).", "Mitralstenose"),
        ("ASD Typ 2", "Atriumseptumdefekt (ASD)", "ASD Typ 2"),
        ("ASD Typ 1", "Atriumseptumdefekt (ASD)", "Atriumseptumdefekt Typ 1"),
        ("", None, ""),
        (" ", "Mitralstenose (MS)", " "),
        ("x" * 3000, None, "x" * 3000),
    ],
)  # fmt: skip
def test_what_is_linked(mention, context, linked):
    found = prepare(mention, None if context is None else MentionContext(context))
    assert found.text == linked
    assert found.mention == mention


def test_nothing_is_done_that_was_not_asked_for():
    assert prepare("V.a. HWI", abbreviations=None).text == "HWI"
    assert prepare("HWI", abbreviations=None).expansion is None
    assert prepare("V.a. HWI", clean=False).text == "V.a. Harnwegsinfekt"


def test_the_context_keeps_the_position_of_the_mention():
    context = MentionContext("Z.n. Mitralstenose (MS), jetzt MS.")
    assert prepare("MS", context).context == MentionContext(context.text, 20, 22)
    given = MentionContext(context.text, 31, 33)
    assert prepare("MS", given).context == given
    assert prepare("Fieber", context).context is context


def test_a_result_has_what_was_taken_out_and_written_out():
    prepared = prepare("V.a. DM li.")
    result = prepared.complete(Result("Diabetes mellitus", (Candidate("C1", "n", "n", 1.0),)))
    assert result.mention == "V.a. DM li."
    assert result.expansion == Expansion("Diabetes mellitus", "table")
    assert result.to_dict()["cleaned"] == {
        "text": "DM", "negated": False, "suspected": True, "history": "", "laterality": "left", "grade": "", "removed": ("V.a.", "li."),
    }  # fmt: skip
    assert result.to_dict()["expansion"] == {"text": "Diabetes mellitus", "source": "table"}
    plain = prepare("Fieber").complete(Result("Fieber", ()))
    assert set(plain.to_dict()) == {"mention", "candidates", "reason"}


def test_data_frames_have_columns_for_what_was_prepared_if_any_was():
    prepared, plain = prepare("V.a. DM li."), prepare("Fieber")
    rows = Results([prepared.complete(Result("x", ())), plain.complete(Result("y", ()))]).to_dicts()
    assert [row["expansion"] for row in rows] == ["Diabetes mellitus", None]
    assert [row["suspected"] for row in rows] == [True, False]
    frame = Results([prepared.complete(Result("x", ()))]).to_pandas()
    assert frame["removed"].tolist() == ["V.a.|li."]
    assert "expansion" not in Results([plain.complete(Result("y", ()))]).to_dicts()[0]
