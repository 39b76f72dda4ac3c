"""Abbreviations: Schwartz and Hearst's definitions against an exhaustive search, tables, and terms written out."""

import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.fixtures.dictionaries import terminology_of_rows
from tests.fixtures.examples import examples
from xsap.errors import DataError
from xsap.terms.abbreviations import (
    FROM_CONTEXT,
    FROM_TABLE,
    FROM_TERM,
    Abbreviations,
    Expansion,
    align,
    find_definitions,
    is_short_form,
    read_abbreviations,
)
from xsap.terms.terminology import NAMES_SCHEMA, Terminology
from xsap.text import fold_characters

SHORT = st.text("aAbBéE1-", min_size=2, max_size=5).filter(is_short_form)
LONG = st.lists(st.text("aAbBéeE1-x", min_size=1, max_size=5), min_size=1, max_size=6).map(" ".join)


def exhaustive(short, text):
    """The shortest end of a text that begins at a word with the first letter, and has all others after it in their order."""
    letters = [letter for letter in fold_characters(short) if letter.isalnum()]
    for start in reversed(range(len(text))):
        end = fold_characters(text[start:])
        begins_word = text[start].isalnum() and (start == 0 or not text[start - 1].isalnum())
        rest = iter(end[1:])
        if begins_word and end[0] == letters[0] and all(letter in rest for letter in letters[1:]):
            found = text[start:]
            words = [word.strip(",;:.()[]{}/\"'") for word in found.split()]
            return found if len(found) > len(short) and short not in words else None
    return None


@given(SHORT, LONG)
@settings(max_examples=examples(300))
def test_align_equals_an_exhaustive_search(short, text):
    assert align(short, text) == exhaustive(short, text)


@given(st.lists(st.text("abcdefgh", min_size=2, max_size=8), min_size=2, max_size=6, unique=True))
@settings(max_examples=examples(100))
def test_initials_in_parentheses_are_defined_by_the_words_before(words):
    short = "".join(word[0] for word in words).upper()
    assume(short.lower() not in words)  # a long form does not contain its short form
    found = find_definitions(f"Sentences end here. The {' '.join(words)} ({short}) was seen.")
    assert found[short].split()[-1] == words[-1]
    assert fold_characters(found[short])[0] == fold_characters(short)[0]
    assert find_definitions(f"{short} ({' '.join(words)})").keys() <= {short}


CASES = {
    "en": ("chronic obstructive pulmonary disease (COPD) and heart failure (HF)", {"COPD": "chronic obstructive pulmonary disease", "HF": "heart failure"}),
    "es": ("hipertensión arterial (HTA), diabetes mellitus (DM) y accidente cerebrovascular [ACV]", {"HTA": "hipertensión arterial", "DM": "diabetes mellitus", "ACV": "accidente cerebrovascular"}),
    "de": ("chronisch obstruktive Lungenerkrankung (COL); Vorhofflimmern (VHF)", {"COL": "chronisch obstruktive Lungenerkrankung", "VHF": "Vorhofflimmern"}),
    "fr": ("bronchopneumopathie chronique obstructive (BPCO), insuffisance rénale chronique (IRC)", {"BPCO": "bronchopneumopathie chronique obstructive", "IRC": "insuffisance rénale chronique"}),
    "it": ("Paziente con ipertensione arteriosa (IA) e infarto miocardico acuto (IMA)", {"IA": "ipertensione arteriosa", "IMA": "infarto miocardico acuto"}),
    "nl": ("boezemfibrilleren (BF) en transiënte ischemische aanval (TIA)", {"BF": "boezemfibrilleren", "TIA": "transiënte ischemische aanval"}),
    "pt": ("acidente vascular cerebral (AVC) e doença pulmonar obstrutiva crónica (DPOC)", {"AVC": "acidente vascular cerebral", "DPOC": "doença pulmonar obstrutiva crónica"}),
    "short form first": ("MRI (magnetic resonance imaging, 2 T) of the knee", {"MRI": "magnetic resonance imaging"}),
    "first definition": ("atrial septal defect (ASD), autism spectrum disorder (ASD)", {"ASD": "atrial septal defect"}),
    "no definition": ("fever (38.5), pain (see below), n (5), weight loss (kg)", {}),
    "a word with an explanation": ("dolor (de acostarse y a lo largo del día)", {}),
    "a noun with its capital": ("Er hatte eine Entzündung der Niere (Ende), Ende (eine Niere die)", {}),
    "the beginning of a word": ("Staphylococcus aureus (Staph), Kreatinin (Krea), Tuberkulose (Tbc)", {"Staph": "Staphylococcus aureus", "Krea": "Kreatinin"}),
    "accents after their letters": ("hipertensio\u0301n arterial (NA), enfermedad me\u0301dica (DC)", {}),
    "line ends": ("heart\r\nfailure (HF)\r\nand  acute\nrenal failure (ARF) 😀", {"HF": "heart\r\nfailure", "ARF": "acute\nrenal failure"}),
    "another sentence": ("Multiple stenoses. Pain (MS)", {}),
    "too many words": ("myocardial a b c d infarction (MI)", {}),
    "the long form has the short one": ("chronic COPD of a patient (COPD)", {}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_definitions_of_real_text(case):
    text, expected = CASES[case]
    assert find_definitions(text) == expected


@given(st.text("aAB() [];,.-1é", max_size=60))
@settings(max_examples=examples(200))
def test_definitions_are_parts_of_their_text(text):
    for short, long in find_definitions(text).items():
        assert short in text
        assert long in text
        assert len(long) > len(short)


TABLE = Abbreviations.from_rows(
    [
        ("HWI", "Harnwegsinfekt", "de"),
        ("HWI", "Hinterwandinfarkt", "nl"),
        ("MS", "Multiple Sklerose", "und"),
        ("AI", "Aorteninsuffizienz", "de"),
        ("AI", "Apoplexie", "de"),
        ("HI.", "Herzinsuffizienz", "und"),
        (" ", "nothing", "de"),
        ("DM", "dm", "und"),
    ]
)


@pytest.mark.parametrize(
    ("term", "language", "expected"),
    [
        ("HWI", "de", "Harnwegsinfekt"),
        (" hwi ", "de", "Harnwegsinfekt"),
        ("HWI", "nl", "Hinterwandinfarkt"),
        ("HWI", "en", None),
        ("MS", "fr", "Multiple Sklerose"),
        ("rez. HWI, MS/HI.", "de", "rez. Harnwegsinfekt, Multiple Sklerose/Herzinsuffizienz"),
        ("ms in Ruhe", "de", None),  # a word of a longer term counts as it is written
        ("AI", "de", None),
        ("DM", "de", None),
        ("AMS", "de", None),
        ("Multiple Sklerose (MS)", "de", "Multiple Sklerose"),
        ("MS (Multiple Sklerose) seit 2010", "de", "Multiple Sklerose seit 2010"),
        ("Multiple Sklerose (MS, schubförmig)", "de", "Multiple Sklerose, schubförmig"),
        ("", "de", None),
    ],
)
def test_a_term_is_written_out_by_the_table(term, language, expected):
    found = TABLE.expand(term, language)
    assert (None if found is None else found.text) == expected


def test_a_definition_has_precedence_over_the_table_and_over_a_name_of_the_index():
    definitions = find_definitions("Patient mit Mitralstenose (MS).")
    assert TABLE.expand("MS", "de", definitions, is_name=True) == Expansion("Mitralstenose", FROM_CONTEXT)
    assert TABLE.expand("MS", "de", is_name=True) == Expansion("Multiple Sklerose", FROM_TABLE)
    assert TABLE.expand("MS Typ 1", "de", definitions) == Expansion("Mitralstenose Typ 1", FROM_CONTEXT)
    assert TABLE.expand("MS Typ 1", "de", definitions, is_name=True) is None
    assert TABLE.expand("Mitralstenose (MS)", "de").source == FROM_TERM
    assert TABLE.expand("Mitralstenose (MS)", "de", is_name=True) is None


def test_an_expansion_is_one_line():
    definitions = find_definitions("Chronic heart\r\n  failure (HF)")
    assert TABLE.expand("HF", "de", definitions).text == "heart failure"
    assert TABLE.expand("severe HF", "de", definitions).text == "severe heart failure"


def test_an_abbreviation_with_several_expansions_is_reported_and_not_used():
    assert TABLE.ambiguous == ("AI",)
    assert len(TABLE) == 4


def test_abbreviations_of_a_terminology_are_expanded_where_they_are_no_names_of_the_index():
    built = terminology_of_rows(
        [
            ("C1", "de", "Vorhofseptumdefekt", "T", None),
            ("C2", "de", "Autismus", "T", None),
            ("C3", "de", "Fieber", "T", None),
        ]
    )
    rows = built.names.to_pylist()
    kinds = [("C1", "ASD"), ("C2", "ASD"), ("C1", "VSD")]
    rows += [{**rows[0], "concept_id": c, "name": n, "kind": "abbreviation"} for c, n in kinds]
    found = Abbreviations.from_terminology(Terminology.build(pa.Table.from_pylist(rows, NAMES_SCHEMA))[0])
    assert found.ambiguous == ("ASD",)
    assert found.expand("großer VSD", "de") == Expansion("großer Vorhofseptumdefekt", FROM_TABLE)
    assert found.expand("VSD", "de", is_name=True) is None
    assert found.expand("vsd", "de") is None
    assert found.expand("großer ASD", "de") is None


def test_a_table_is_read_with_and_without_languages(tmp_path):
    file = tmp_path / "abbreviations.csv"
    file.write_text(
        "Abbreviation;Expansion;Language;note\nHWI;Harnwegsinfekt;German;x\nRR;Blutdruck;;\n", encoding="utf-8"
    )
    read = read_abbreviations(file)
    assert dict(read.entries) == {("HWI", "de"): "Harnwegsinfekt", ("RR", "und"): "Blutdruck"}
    file.write_text("abbreviation,expansion\nHWI,Harnwegsinfekt\n", encoding="utf-8")
    assert dict(read_abbreviations(file).entries) == {("HWI", "und"): "Harnwegsinfekt"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("abbreviation,expansion\n", "abbreviation"),
        ("short,expansion\na,b\n", "abbreviation"),
        ("abbreviation,expansion,language\nHWI,Harnwegsinfekt,Klingon\n", "row 1, column 'language'.*Klingon"),
    ],
)
def test_another_table_is_an_error(tmp_path, text, message):
    file = tmp_path / "abbreviations.csv"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_abbreviations(file)
