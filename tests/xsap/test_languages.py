import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
steady = settings(max_examples=60, deadline=None)


@pytest.mark.parametrize("lat", UMLS)
def test_each_language_of_the_umls_is_known_both_ways(lat):
    assert to_iso(lat) == UMLS[lat]
    assert to_umls(UMLS[lat]) == lat


@pytest.mark.parametrize(
    "spelling", ["ENG", "eng", "en", "EN", "English", "english", "en-GB", "en_us", " en ", "en-Latn-GB"]
)
def test_every_spelling_of_english_is_english(spelling):
    assert to_iso(spelling) == "en"


@pytest.mark.parametrize("code", BY_THREE)
def test_both_three_letter_codes_are_known(code):
    assert to_iso(code) == BY_THREE[code]


def test_croatian_under_its_old_name_is_croatian():
    assert (to_iso("SCR"), to_iso("HRV"), to_umls("SCR"), to_name("scr")) == ("hr", "hr", "HRV", "Croatian")


def test_codes_that_look_alike_are_told_apart():
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


def test_an_undetermined_language_is_a_language():
    assert (to_iso("UND"), to_iso(UNKNOWN), to_name("und")) == (UNKNOWN, UNKNOWN, "Undetermined")


@pytest.mark.parametrize(
    ("wrong", "nearest"), [("germn", "german"), ("Spanisch", "spanish"), ("engl", "eng"), ("korr", "kor")]
)
def test_an_unknown_language_names_the_nearest(wrong, nearest):
    with pytest.raises(
        DataError, match=f"unknown language '{wrong}'.*did you mean '{nearest}' \\({to_name(nearest)}\\)"
    ):
        to_iso(wrong)


@pytest.mark.parametrize("wrong", ["", " ", "-", "qqqqqq", "12"])
def test_what_resembles_no_language_is_refused_without_a_guess(wrong):
    with pytest.raises(DataError, match=r"expected a UMLS or ISO 639 code such as ENG, en or deu$"):
        to_iso(wrong)


@steady
@given(st.text(max_size=12))
def test_any_text_is_a_code_that_stands_for_itself_or_an_error(text):
    try:
        code = to_iso(text)
    except DataError:
        return
    assert to_iso(code) == code
    assert to_iso(to_umls(code)) == to_iso(to_name(code)) == code


@pytest.mark.parametrize("text", ["all", " ALL "])
def test_all_is_no_choice(text):
    assert parse_languages(text) is None


def test_a_list_may_mix_spellings_and_repeat():
    assert parse_languages("ENG, spa,de,,German") == {"en", "es", "de"}


@pytest.mark.parametrize("text", ["", " ", ",", " , "])
def test_a_list_without_a_language_is_refused(text):
    with pytest.raises(DataError, match="expected 'all' or languages such as 'en,es'"):
        parse_languages(text)


def test_a_list_with_an_unknown_language_is_refused():
    with pytest.raises(DataError, match="'xq'"):
        parse_languages("en,xq")
