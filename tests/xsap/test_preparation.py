"""What is linked in place of a mention, and that the result says so."""

import pytest

from xsap.linking.mention_context import MentionContext
from xsap.linking.preparation import link_prepared, prepare_mentions
from xsap.linking.results import Candidate, Result, Results
from xsap.terms.abbreviations import Abbreviations

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


def last(prepared):
    """The text without all notes."""
    return prepared.texts[-1]


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
    assert last(found).text == linked
    assert found.mention == mention


def test_nothing_is_done_that_was_not_asked_for():
    assert last(prepare("V.a. HWI", abbreviations=None)).text == "HWI"
    assert last(prepare("HWI", abbreviations=None)).expansion is None
    assert last(prepare("V.a. HWI", clean=False)).text == "V.a. Harnwegsinfekt"


def test_the_context_keeps_the_position_of_the_mention():
    context = MentionContext("Z.n. Mitralstenose (MS), jetzt MS.")
    assert last(prepare("MS", context)).context == MentionContext(context.text, 20, 22)
    given = MentionContext(context.text, 31, 33)
    assert last(prepare("MS", given)).context == given
    assert last(prepare("Fieber", context)).context is context


def result(text, score):
    return Result(text, (Candidate("C1", "n", "n", score),) if score else ())


def test_a_mention_with_laterality_is_linked_with_and_without_it_and_the_higher_score_counts():
    prepared = prepare("V.a. DM li.")
    assert [text.text for text in prepared.texts] == ["Diabetes mellitus li.", "Diabetes mellitus"]
    for scores, linked, removed in (((0.9, 0.8), 0, ("V.a.",)), ((0.8, 0.9), 1, ("V.a.", "li.")), ((0.8, 0.8), 0, ("V.a.",)), ((None, 0.1), 1, ("V.a.", "li."))):  # fmt: skip
        found = prepared.complete([result("x", score) for score in scores])
        assert found.cleaned.removed == removed
        assert found.cleaned.laterality == "left"
        assert found.cleaned.suspected
        assert found.expansion.text == prepared.texts[linked].text
        assert found.mention == "V.a. DM li."
    only = prepare("DM li.").complete([result("x", 0.9), result("x", 0.8)])
    assert (only.cleaned.text, only.cleaned.removed, only.cleaned.laterality) == ("DM li.", (), "left")


def test_results_are_those_of_their_mentions():
    prepared = [prepare("V.a. DM li."), prepare("Fieber"), prepare("Z.n. Fraktur")]
    scores = {"Diabetes mellitus": 0.9, "Z.n. Fraktur": 0.5}

    def link(texts, *, languages, context):
        assert len(texts) == len(languages) == len(context) == 5
        return [result(text, scores.get(text, 0.1)) for text in texts]

    found = link_prepared(prepared, ["de"] * 3, link)
    assert [each.mention for each in found] == ["V.a. DM li.", "Fieber", "Z.n. Fraktur"]
    assert [each.cleaned and each.cleaned.text for each in found] == ["DM", None, "Z.n. Fraktur"]


def test_a_result_has_what_was_taken_out_and_written_out():
    found = prepare("V.a. DM").complete([result("Diabetes mellitus", 1.0)])
    assert found.to_dict()["cleaned"] == {
        "text": "DM", "negated": False, "suspected": True, "history": "", "laterality": "", "grade": "", "removed": ("V.a.",),
    }  # fmt: skip
    assert found.to_dict()["expansion"] == {"text": "Diabetes mellitus", "source": "table"}
    plain = prepare("Fieber").complete([result("Fieber", 0.5)])
    assert set(plain.to_dict()) == {"mention", "candidates", "reason"}


def test_data_frames_have_columns_for_what_was_prepared_if_any_was():
    prepared, plain = prepare("V.a. DM").complete([result("x", None)]), prepare("Fieber").complete([result("y", None)])
    rows = Results([prepared, plain]).to_dicts()
    assert [row["expansion"] for row in rows] == ["Diabetes mellitus", None]
    assert [row["suspected"] for row in rows] == [True, False]
    assert Results([prepared]).to_pandas()["removed"].tolist() == ["V.a."]
    assert "expansion" not in Results([plain]).to_dicts()[0]
