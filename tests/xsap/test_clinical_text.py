"""Clinical notes beside a term: what is taken out, what is left, and that nothing is lost."""

import re
import unicodedata
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.commands import ROOT
from tests.fixtures.examples import examples
from xsap.languages import UNKNOWN
from xsap.terms.clinical_text import KINDS, clean_term, marker_languages, marker_table

LANGUAGES = ["de", "en", "es", "fr", "it", "nl", "pt"]
WORDS = [form.strip().replace("*", "en").replace("#", "2") for section in marker_table().values() if isinstance(section, dict)
         for places in section.values() if isinstance(places, dict) for forms in places.values() for form in forms.split("|")]  # fmt: skip
TERMS = st.lists(
    st.one_of(st.sampled_from(WORDS), st.sampled_from(["HWI", "fièvre", "Fraktur", "pain", "(", ")", "[", "]", ",", ";", ":", "-", " - ", "/", "2", "?", "d'", "\u00a0", ".", "\n"])),
    max_size=8,
).flatmap(lambda parts: st.sampled_from([" ".join(parts), "".join(parts)]))  # fmt: skip
LANGUAGE = st.sampled_from([*LANGUAGES, UNKNOWN, "fi"])


def characters(*texts):
    return Counter(character for text in texts for character in text if not character.isspace())


def is_subsequence(part, whole):
    rest = iter(whole)
    return all(character in rest for character in part)


@given(TERMS, LANGUAGE)
@settings(max_examples=examples(300), deadline=None)
def test_nothing_is_lost_and_nothing_is_added(term, language):
    found = clean_term(term, language)
    if found is None:
        return
    assert characters(found.text, *found.removed) == characters(term)
    for part in (found.text, *found.removed):
        assert is_subsequence(part.replace(" ", ""), term)
    assert any(map(str.isalnum, found.text))
    assert all(found.removed)


@given(TERMS, LANGUAGE, st.sets(st.sampled_from(KINDS)))
@settings(max_examples=examples(300), deadline=None)
def test_what_is_kept_is_reported_and_not_taken_out(term, language, keep):
    found, all_out = clean_term(term, language, keep=keep), clean_term(term, language)
    if found is None or all_out is None:
        assert found == all_out
        return
    assert replace(found, text="", removed=()) == replace(all_out, text="", removed=())
    assert characters(found.text, *found.removed) == characters(term)
    assert set(found.removed) <= set(all_out.removed)


@given(TERMS, LANGUAGE)
@settings(max_examples=examples(300), deadline=None)
def test_a_cleaned_term_has_no_notes(term, language):
    found = clean_term(term, language)
    assert found is None or clean_term(found.text, language) is None


@given(st.text(max_size=40), LANGUAGE)
@settings(max_examples=examples(200), deadline=None)
def test_any_text_is_cleaned_without_loss(term, language):
    found = clean_term(term, language)
    assert found is None or characters(found.text, *found.removed) == characters(term)


# term, language, what is left, what the columns say
CASES = [
    ("V.a. HWI li.", "de", "HWI", "suspected left"),
    ("V. a. Pneumonie re.", "de", "Pneumonie", "suspected right"),
    ("V.a.HWI", "de", "HWI", "suspected"),
    ("Z.n. Appendektomie", "de", "Appendektomie", "past"),
    ("St.p. Myokardinfarkt", "de", "Myokardinfarkt", "past"),
    ("kein Anhalt für Lungenembolie", "de", "Lungenembolie", "negated"),
    ("Fieber: nein", "de", "Fieber", "negated"),
    ("Lunge o. B.", "de", "Lunge", "negated"),
    ("Gonarthrose li. und re., Grad III", "de", "Gonarthrose", "bilateral grade:Grad III"),
    ("Fraktur (links)", "de", "Fraktur", "left"),
    ("Pneumonie (V.a.)", "de", "Pneumonie", "suspected"),
    ("Diabetes mellitus Typ 2, nnbz.", "de", "Diabetes mellitus Typ 2", ""),
    ("Herzinsuffizienz NYHA III", "de", "Herzinsuffizienz", "grade:NYHA III"),
    ("Mammakarzinom re. pT2 pN0 M0", "de", "Mammakarzinom", "right grade:pT2 pN0 M0"),
    ("Verbrennung 2. Grades", "de", "Verbrennung", "grade:2. Grades"),
    ("no evidence of pulmonary embolism", "en", "pulmonary embolism", "negated"),
    ("no history of stroke", "en", "stroke", "negated"),
    ("h/o MI", "en", "MI", "past"),
    ("family history of breast cancer", "en", "breast cancer", "family"),
    ("?PE", "en", "PE", "suspected"),
    ("R/O pneumonia", "en", "pneumonia", "suspected"),
    ("Asthma, NOS", "en", "Asthma", ""),
    ("3rd degree AV block", "en", "AV block", "grade:3rd degree"),
    ("pain in left knee", "en", "pain in knee", "left"),
    ("niega fiebre", "es", "fiebre", "negated"),
    ("sospecha de TEP", "es", "TEP", "suspected"),
    ("fractura de fémur dcho.", "es", "fractura de fémur", "right"),
    ("antecedentes de HTA", "es", "HTA", "past"),
    ("cáncer de mama estadio IIIb", "es", "cáncer de mama", "grade:estadio IIIb"),
    ("pas d'argument pour embolie pulmonaire", "fr", "embolie pulmonaire", "negated"),
    ("ATCD d’AVC", "fr", "AVC", "past"),
    ("suspicion d'appendicite", "fr", "appendicite", "suspected"),
    ("gonarthrose droite", "fr", "gonarthrose", "right"),
    ("asthme SAI", "fr", "asthme", ""),
    ("pregresso IMA", "it", "IMA", "past"),
    ("sospetta polmonite dx", "it", "polmonite", "suspected right"),
    ("nega febbre", "it", "febbre", "negated"),
    ("geen koorts", "nl", "koorts", "negated"),
    ("verdenking op pneumonie li", "nl", "pneumonie", "suspected left"),
    ("St.n. CVA", "nl", "CVA", "past"),
    ("sem febre", "pt", "febre", "negated"),
    ("NÃO febre", "pt", "febre", "negated"),
    ("suspeita de dengue", "pt", "dengue", "suspected"),
    ("fratura do fêmur esq.", "pt", "fratura do fêmur", "left"),
    ("PE cannot be ruled out", "en", "PE", "suspected"),
    ("PE not ruled out", "en", "PE", "suspected"),
    ("Embolie nicht sicher ausgeschlossen", "de", "Embolie", "suspected"),
    ("TEP no descartado", "es", "TEP", "suspected"),
    ("TEP descartado", "es", "TEP", "negated"),
    ("embolie non exclue", "fr", "embolie", "suspected"),
    ("embolie exclue", "fr", "embolie", "negated"),
    ("embolia non esclusa", "it", "embolia", "suspected"),
    ("embolia esclusa", "it", "embolia", "negated"),
    ("TEP não descartado", "pt", "TEP", "suspected"),
    ("réflexes: absents", "fr", "réflexes", "negated"),
    ("V.a. HWI", UNKNOWN, "HWI", "suspected"),
    ("s/p stroke", "fi", "stroke", "past"),
]
KEPT = [
    ("Non-Hodgkin lymphoma", "en"), ("left ventricular hypertrophy", "en"), ("right-to-left shunt", "en"), ("no-reflow phenomenon", "en"),
    ("Gram (-)", "en"), ("fever 39°", "en"), ("hepatitis D", "fr"), ("insuficiencia cardíaca derecha", "es"), ("placenta previa", "es"),
    ("linfoma no Hodgkin", "es"), ("ventricule gauche dilaté", "fr"), ("Früherkennung", "de"), ("Links-rechts-Shunt", "de"), ("Zn-Mangel", "de"),
    ("Früher Abort", "de"), ("ohne festen Wohnsitz", "de"), ("no light perception", "en"), ("query fever", "en"), ("absent uvula", "en"),
    ("No unión de fractura", "es"), ("reflejo aquíleo ausente", "es"), ("sin hogar", "es"), ("exclusion sociale", "fr"), ("réflexes absents", "fr"),
    ("orteils avec écartement", "fr"), ("esclusione sociale", "it"), ("negativismo catatonico", "it"), ("aumentata sospettosità", "it"),
    ("riflessi assenti", "it"), ("afwezig", "nl"), ("reflex afwezig", "nl"), ("deficiência de antígeno", "pt"), ("úvula ausente", "pt"),
    ("VA", "de"), ("AP", "pt"), ("links", "de"), ("DD", "de"), ("Diabetes mellitus Typ 2", "de"), ("", "de"), ("?", "en"), ("no fever", UNKNOWN), ("sin tratamiento", "de"),
]  # fmt: skip


def shown(found):
    parts = [kind for kind in ("negated", "suspected") if getattr(found, kind)]
    parts += [*found.history.split("|"), *found.laterality.split("|")]
    return " ".join(filter(None, [*parts, found.grade and f"grade:{found.grade}"]))


@pytest.mark.parametrize(("term", "language", "left", "notes"), CASES)
def test_notes_are_taken_out_and_reported(term, language, left, notes):
    for written in (term, unicodedata.normalize("NFD", term), f"  {term} "):
        found = clean_term(written, language)
        assert unicodedata.normalize("NFC", found.text) == left
        assert unicodedata.normalize("NFC", shown(found)) == notes


@pytest.mark.parametrize(("term", "language"), KEPT)
def test_what_looks_like_a_note_and_is_none_stays(term, language):
    assert clean_term(term, language) is None


def test_kept_kinds_stay_in_the_term():
    found = clean_term("V.a. Fraktur li., Grad 2", "de", keep={"left", "grade"})
    assert (found.text, found.removed, found.laterality, found.grade) == (
        "Fraktur li., Grad 2",
        ("V.a.",),
        "left",
        "Grad 2",
    )


def test_pieces_are_in_the_order_of_the_term():
    assert clean_term("V.a. HWI (li.), nnbz.", "de").removed == ("V.a.", "(li.)", ", nnbz.")


def test_the_table_has_every_kind_in_every_language():
    assert marker_languages() == LANGUAGES
    for language in LANGUAGES:
        assert set(marker_table()[language]) == set(KINDS)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_marker_of_a_language_is_found(language):
    for kind, places in marker_table()[language].items():
        for place, forms in places.items():
            for form in filter(None, map(str.strip, forms.split("|"))):
                marker = form.replace("*", "").replace("#", "2")
                marker = "pT2 N0" if marker == "TNM" else marker
                term = {"start": f"{marker} xyzt", "end": f"xyzt {marker}", "anywhere": f"xyzt {marker} uvw", "brackets": f"xyzt ({marker})"}[place]  # fmt: skip
                found = clean_term(term, language)
                assert found is not None, (language, kind, place, form)
                assert "xyzt" in found.text
                said = {"negated" * found.negated, "suspected" * found.suspected, found.history, found.laterality}
                assert kind in {*said, "grade" * bool(found.grade), "unspecified"}, (language, kind, place, form)


def test_examples_of_the_documentation_come_out_so():
    page = (ROOT / "docs" / "messy-terms.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.splitlines()
        if re.match(r"\|.*\| [a-z]{2} \|", line)
    ]
    assert len(rows) > 10
    for term, language, left, notes, removed in rows:
        found = clean_term(term, language)
        said = shown(found).replace("grade:", "").replace(" ", "")
        assert (found.text, said) == (left, notes.replace("; ", "").replace(" ", ""))
        assert "; ".join(found.removed) == removed
