"""Language codes: UMLS, ISO 639 and English names."""

import doctest

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsap import languages
from xsap.errors import DataError
from xsap.languages import UNKNOWN, parse_languages, to_iso, to_name, to_umls

UMLS = {
    "ARA": "ar", "BAQ": "eu", "CHI": "zh", "CZE": "cs", "DAN": "da", "DUT": "nl", "ENG": "en", "EST": "et", "FIN": "fi", "FRE": "fr",
    "GER": "de", "GRE": "el", "HEB": "he", "HUN": "hu", "ITA": "it", "JPN": "ja", "KOR": "ko", "LAV": "lv", "NOR": "no", "POL": "pl",
    "POR": "pt", "RUS": "ru", "SPA": "es", "SWE": "sv", "TUR": "tr", "UKR": "uk",
}  # fmt: skip
BY_THREE = {
    "deu": "de",
    "ger": "de",
    "fra": "fr",
    "fre": "fr",
    "zho": "zh",
    "chi": "zh",
    "ces": "cs",
    "nld": "nl",
    "ell": "el",
    "eus": "eu",
}
PROPERTY = settings(max_examples=60, deadline=None)


@pytest.mark.parametrize("lat", UMLS)
def test_umls_codes_convert_both_ways(lat):
    assert to_iso(lat) == UMLS[lat]
    assert to_umls(UMLS[lat]) == lat


@pytest.mark.parametrize(
    "spelling", ["ENG", "eng", "en", "EN", "English", "english", "en-GB", "en_us", " en ", "en-Latn-GB"]
)
def test_to_iso_accepts_codes_tags_and_names(spelling):
    assert to_iso(spelling) == "en"


@pytest.mark.parametrize("code", BY_THREE)
def test_to_iso_accepts_both_three_letter_codes(code):
    assert to_iso(code) == BY_THREE[code]


def test_to_iso_accepts_the_old_code_of_croatian():
    assert (to_iso("SCR"), to_iso("HRV"), to_umls("SCR"), to_name("scr")) == ("hr", "hr", "HRV", "Croatian")


def test_to_iso_distinguishes_similar_codes():
    assert [to_iso(c) for c in ("SLO", "SLV", "sl", "sk", "ES", "EST", "SPA", "tl", "TEL")] == [
        "sk",
        "sl",
        "sl",
        "sk",
        "es",
        "et",
        "es",
        "tl",
        "te",
    ]


def test_undetermined_language_is_known():
    assert (to_iso("UND"), to_iso(UNKNOWN), to_name("und")) == (UNKNOWN, UNKNOWN, "Undetermined")


@pytest.mark.parametrize(
    ("wrong", "nearest"), [("germn", "german"), ("Spanisch", "spanish"), ("engl", "eng"), ("korr", "kor")]
)
def test_unknown_language_suggests_the_most_similar(wrong, nearest):
    with pytest.raises(
        DataError, match=f"unknown language '{wrong}'.*did you mean '{nearest}' \\({to_name(nearest)}\\)"
    ):
        to_iso(wrong)


@pytest.mark.parametrize("wrong", ["", " ", "-", "qqqqqq", "12"])
def test_unknown_language_without_a_similar_one_gets_no_suggestion(wrong):
    with pytest.raises(DataError, match=r"expected a UMLS or ISO 639 code such as ENG, en or deu$"):
        to_iso(wrong)


@PROPERTY
@given(st.text(max_size=12))
def test_to_iso_of_its_own_result_is_the_same(text):
    try:
        code = to_iso(text)
    except DataError:
        return
    assert to_iso(code) == code
    assert to_iso(to_umls(code)) == to_iso(to_name(code)) == code


@pytest.mark.parametrize("text", ["all", " ALL "])
def test_parse_languages_all_means_no_restriction(text):
    assert parse_languages(text) is None


def test_parse_languages_accepts_mixed_codes_and_repetitions():
    assert parse_languages("ENG, spa,de,,German") == {"en", "es", "de"}


@pytest.mark.parametrize("text", ["", " ", ",", " , "])
def test_parse_languages_rejects_an_empty_list(text):
    with pytest.raises(DataError, match="expected 'all' or languages such as 'en,es'"):
        parse_languages(text)


def test_parse_languages_rejects_an_unknown_language():
    with pytest.raises(DataError, match="'xq'"):
        parse_languages("en,xq")


def test_examples_of_docstrings():
    failed, tried = doctest.testmod(languages)
    assert failed == 0
    assert tried
