"""Language codes: UMLS, ISO 639, language tags and names."""

import doctest
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.examples import examples
from xsap import languages
from xsap.errors import DataError
from xsap.languages import UNKNOWN, named_language, parse_languages, to_iso, to_name, to_umls
from xsap.text import fold_accents

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
PROPERTY = settings(max_examples=examples(60), deadline=None)


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
    ("names", "iso"),
    [
        ("German Deutsch deutsch DEUTSCH", "de"),
        ("Spanish español Espanol ESPAÑOL castellano Castilian", "es"),
        ("French français Français francais FRANÇAIS", "fr"),
        ("Chinese 中文 汉语 漢語 普通话 Mandarin", "zh"),
        ("Russian русский Русский РУССКИЙ", "ru"),
        ("Turkish Türkçe turkce TÜRKÇE", "tr"),
        ("Czech čeština Čeština cestina", "cs"),
        ("Greek Ελληνικά ελληνικα ΕΛΛΗΝΙΚΆ", "el"),
        ("Norwegian norsk bokmål Bokmal nynorsk", "no"),
        ("Arabic العربية", "ar"),
        ("Japanese 日本語", "ja"),
        ("Korean 한국어", "ko"),
        ("Hindi हिन्दी", "hi"),
        ("Dutch Nederlands Flemish Vlaams", "nl"),
        ("Persian Farsi فارسی", "fa"),
        ("Latin Latina", "la"),
    ],
)
def test_names_of_a_language_are_known_in_any_case_and_without_accents(names, iso):
    assert {to_iso(name) for name in names.split()} == {named_language(name) for name in names.split()} == {iso}


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_every_name_of_the_table_is_found_whatever_its_form_case_and_accents(form):
    for iso, names in languages._NAMES.items():
        for name in names:
            for spelling in (name, name.upper(), name.title(), f" {name} ", f"{name} (Brasil)", f"{name}（中国）"):
                assert to_iso(unicodedata.normalize(form, spelling)) == iso, spelling
            plain = "".join(c for c in unicodedata.normalize("NFD", name) if not "\u0300" <= c <= "\u036f")
            assert to_iso(plain) == iso


def test_no_code_and_no_name_stands_for_two_languages():
    keys = [(code.lower(), iso) for iso, *codes, _ in languages._ROWS for code in {iso, *(c.lower() for c in codes)}]
    groups = [group.split() for group in languages._OTHER_CODES.split(";")]
    keys += [(code, iso) for iso, *codes in groups for code in codes]
    assert len({code for code, _ in keys}) == len(keys)
    names = {(fold_accents(name), iso) for iso, several in languages._NAMES.items() for name in several}
    assert len({name for name, _ in names}) == len(names)
    assert [name for name, iso in names if languages._ISO_OF_CODE.get(name, iso) != iso] == []


def test_every_language_of_xlm_r_is_known():
    codes = (
        "af am ar as az be bg bn br bs ca cs cy da de el en eo es et eu fa fi fr fy ga gd gl gu ha he hi hr hu hy id is it ja jv ka kk km kn ko "
        "ku ky la lo lt lv mg mk ml mn mr ms my ne nl no om or pa pl ps pt ro ru sa sd si sk sl so sq sr su sv sw ta te th tl tr ug uk ur uz vi "
        "xh yi zh"
    )
    assert [code for code in codes.split() if to_iso(code) != code or to_iso(to_name(code)) != code] == []


@pytest.mark.parametrize(
    ("tag", "iso"),
    [
        ("pt-BR", "pt"), ("pt_PT", "pt"), ("zh-Hans", "zh"), ("zh_Hant_TW", "zh"), ("zh-cmn-Hans-CN", "zh"), ("es-419", "es"),
        ("de-DE-1996", "de"), ("de-formal", "de"), ("be-tarask", "be"), ("ca-valencia", "ca"), ("en-US-x-medical", "en"),
        ("de_DE.UTF-8", "de"), ("sr_RS@latin", "sr"), ("eng-GB", "en"), ("nb-NO", "no"), ("iw", "he"), ("cmn", "zh"), ("fil", "tl"),
    ],
)  # fmt: skip
def test_language_tags_and_locales_give_their_language(tag, iso):
    assert to_iso(tag) == to_iso(tag.upper()) == iso


@pytest.mark.parametrize(
    "wrong",
    ["", " ", "-", "qqqqqq", "12", "germn", "Rumänisch", "dutsch", "anglais", "Spanisch", "engl", "Greek (ancient)", "Old English", "nds-nl",
     "English-based creole", "en-", "-en", "en--US", "Norman", "sh"],
)  # fmt: skip
def test_unknown_language_is_no_other_one_and_suggests_none(wrong):
    with pytest.raises(DataError, match=r"expected a UMLS or ISO 639 code, .* such as GER, de, German or Deutsch$"):
        to_iso(wrong)
    assert named_language(wrong) is None


def test_named_language_takes_no_code():
    assert [named_language(code) for code in ("de", "ron", "ENG", "zh-Hans", "Deutsch", "Romanian")] == [None] * 4 + [
        "de",
        "ro",
    ]


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
