"""Mentions without an answer: words for missing values, numbers and signs, codes; and what is a term although it looks like these."""

import pytest

from xsap.linking.rejection import NO_LETTER, NULL_WORD, NULL_WORDS, UNKNOWN_CODE, non_term_reason, rejection_reason

FORMS = (str, str.lower, str.upper, str.title, lambda word: f" {word} ", lambda word: word.replace(".", ". "))


@pytest.mark.parametrize("language", NULL_WORDS)
def test_words_for_missing_values_have_a_reason_in_any_case(language):
    for word in NULL_WORDS[language].split("|"):
        for form in FORMS:
            assert non_term_reason(form(word)) == NULL_WORD, form(word)


@pytest.mark.parametrize(
    "mention", ["-", "--", "—", "0", "+++", ".", "?", "1/2", "37.5", "2026-01-31", "😀", "386661006", "①"]
)
def test_a_mention_without_a_letter_is_no_term(mention):
    assert non_term_reason(mention) == NO_LETTER


@pytest.mark.parametrize(
    "mention",
    ["I10", "J45", "R50.9", "S72.001A", "G40.9*", "HP:0001945", "HP_0001945", "MONDO:0005148", "C0015967", "D005334", "A10BA02",
     "BA00.Z", "ICD10:I10", "ICD-10:R50.9"],
)  # fmt: skip
def test_a_code_is_no_term(mention):
    assert non_term_reason(mention) == UNKNOWN_CODE


@pytest.mark.parametrize(
    "mention",
    ["B12", "CD4", "IgG4", "H1N1", "p53", "P53", "T3", "Q10", "T12", "C14", "HbA1c", "COVID-19", "i10", "TP53", "S100", "IL-6", "5-HT",
     "no", "unknown", "none of these", "o. B.", "L5", "mg", "発熱", "一", "null cell", "pH 7", "NAD", "Naevus", "47,XXY"],
)  # fmt: skip
def test_what_may_be_a_term_is_one(mention):
    assert non_term_reason(mention) is None


@pytest.mark.parametrize(
    "mention", ["\u200e", "\u202a\u202c", "\ufeff\u2060", "\u200d", "\ufe0f", "\u2066\u2069 \u3164"]
)
def test_invisible_characters_alone_are_blank(mention):
    assert rejection_reason(mention) == "the mention is blank"
