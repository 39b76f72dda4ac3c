"""Abbreviations that a document defines: which places of it are found and linked, and that offsets stay those of the text as it is given."""

import csv
import io
import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures.notes import note_linker
from xsap.cli import main
from xsap.terms.abbreviations import FROM_CONTEXT, FROM_TABLE, Abbreviations, Expansion, find_definitions
from xsap.text_in.document_abbreviations import DocumentAbbreviations
from xsap.text_in.spans import Span

NAMES = [
    ("A", "en", "atrial septal defect"),
    ("B", "en", "autism spectrum disorder"),
    ("B", "en", "ASD"),
    ("C", "en", "ASD repair"),
    ("D", "fr", "insuffisance rénale"),
    ("E", "en", "fever"),
]
NOTE = "He has an atrial septal defect (ASD). 😀\r\nThe ASD was closed by ASD repair; no fever, TASD, asd."


@pytest.fixture(scope="module")
def linker():
    return note_linker(*NAMES)


@pytest.fixture(scope="module")
def without_short_form():
    return note_linker(*(name for name in NAMES if name[2] != "ASD"))


def shown(text, annotated):
    return [
        (text[span.start : span.end], span.result.candidates[0].concept_id, span.result.expansion)
        for span in annotated.spans
    ]


ASD = Expansion("atrial septal defect", FROM_CONTEXT)
EXPECTED = [("atrial septal defect", "A", None), ("ASD", "A", ASD), ("ASD", "A", ASD), ("ASD repair", "C", None), ("fever", "E", None)]  # fmt: skip


def test_a_short_form_is_what_its_document_says_also_if_it_is_another_name(linker):
    [found, other] = linker.annotate([NOTE, "ASD since birth"], abbreviations=Abbreviations())
    assert shown(NOTE, found) == EXPECTED
    assert [span.result.mention for span in found.spans] == [mention for mention, _, _ in EXPECTED]
    assert shown(other.text, other) == [("ASD", "B", None)]
    [plain] = linker.annotate([NOTE])
    assert [concept for _, concept, _ in shown(NOTE, plain)] == ["A", "B", "B", "C", "E"]


def test_a_short_form_that_is_no_name_is_found_if_its_long_form_is_one(without_short_form):
    [found] = without_short_form.annotate([NOTE], abbreviations=Abbreviations())
    assert shown(NOTE, found) == EXPECTED
    assert len(without_short_form.annotate([NOTE])[0].spans) == 3
    [other] = without_short_form.annotate(["unknown long form (ULF), ULF"], abbreviations=Abbreviations())
    assert other.spans == ()
    [filtered] = without_short_form.annotate([NOTE], abbreviations=Abbreviations(), filter={"languages": "fr"})
    assert filtered.spans == ()


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_offsets_are_those_of_the_text_as_it_is_given(without_short_form, form):
    text = unicodedata.normalize(form, "👩🏽\u200d⚕️ é\r\nInsuffisance\r\nrénale (IR) ; \u202bIR\u202c, IRé, éIR")
    [found] = without_short_form.annotate([text], languages=["fr"], abbreviations=Abbreviations())
    mentions = [text[span.start : span.end] for span in found.spans]
    assert [unicodedata.normalize("NFC", mention) for mention in mentions] == ["Insuffisance\r\nrénale", "IR", "IR"]
    assert {span.result.candidates[0].concept_id for span in found.spans} == {"D"}


def test_given_spans_are_written_out_and_no_others_are_added(linker):
    text = "An atrial septal defect (ASD): severe ASD, then ASD."
    spans = [(text.index("severe"), text.index(", then"))]
    [found] = linker.annotate([text], spans=[spans], abbreviations=Abbreviations())
    [span] = found.spans
    assert (span.result.mention, span.result.expansion.text) == ("severe ASD", "severe atrial septal defect")
    table = Abbreviations.from_rows([("XY", "fever", "und")])
    [found] = linker.annotate(["XY"], spans=[[(0, 2)]], abbreviations=table)
    assert found.spans[0].result.expansion == Expansion("fever", FROM_TABLE)
    assert found.spans[0].result.candidates[0].concept_id == "E"


@given(st.lists(st.sampled_from(["atrial septal defect (ASD)", "ASD", "a fever", "ASD repair", "xASD", "(", "é", "\r\n"]), max_size=8).map(" ".join))  # fmt: skip
def test_spans_are_in_order_without_overlap_and_none_is_lost(text):
    names = DocumentAbbreviations(Abbreviations(), lambda queries: [[1]] * len(queries))
    before = [Span(at, at + 5) for at in range(len(text)) if text.startswith("fever", at)]
    [found] = names.with_short_forms([text], ["en"], [find_definitions(text)], [before])
    assert set(before) <= set(found)
    assert all(first.end <= second.start for first, second in zip(found, found[1:], strict=False))
    if "defect (ASD)" in text:
        assert sum(text[span.start : span.end] == "ASD" for span in found) == text.count("ASD") - text.count("xASD")


@pytest.mark.slow
def test_the_command_shows_what_an_abbreviation_was_linked_as(sample_index, tmp_path, capsys):
    (tmp_path / "note.txt").write_text("Patient hat Fieber (FB). FB seit gestern.", encoding="utf-8")
    outputs = []
    for form in ("jsonl", "csv"):
        with pytest.raises(SystemExit) as stop:
            main(["text", str(tmp_path / "note.txt"), "--index", str(sample_index), "--language", "de", "--format", form])  # fmt: skip
        assert stop.value.code == 0
        outputs.append(capsys.readouterr().out)
    spans = json.loads(outputs[0])["spans"]
    assert [(span["text"], span.get("expansion"), span.get("expansion_source")) for span in spans] == [
        ("Fieber", None, None), ("FB", "Fieber", "context"), ("FB", "Fieber", "context"),
    ]  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(outputs[1])))
    assert [(row["mention"], row["expansion"], row["concept_id"]) for row in rows] == [
        ("Fieber", "", "C9000001"), ("FB", "Fieber", "C9000001"), ("FB", "Fieber", "C9000001"),
    ]  # fmt: skip
