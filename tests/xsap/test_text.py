"""Normalization of names, and scripts."""

import doctest
import re
import unicodedata

import pyarrow as pa
import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fixtures.examples import examples
from xsap import text
from xsap.errors import ConfigError
from xsap.text import (
    _LETTERS,
    _SCRIPTS,
    EXACT_MATCH,
    NO_SCRIPT,
    OTHER_SCRIPT,
    TextPolicy,
    normalize,
    normalize_all,
    normalize_column,
    script_of,
)

POLICIES = [TextPolicy(case, form) for case in ("cased", "lower") for form in ("none", "NFC", "NFKC")]
COMPOSING = [policy for policy in POLICIES if policy.unicode != "none"]
INVISIBLE = "\ufeff\u200b\u2060\u00ad\u200e\u200f\u061c\u202a\u202e\u2066\u2069\u034f\u3164\ufe0f\U000e0101\u115f"

awkward = st.sampled_from(
    "aeijAEJHΣσςİıßẞÅﬁ①℃ﾊﾞ゙が각ᄀ\u0301\u030c\u0331\u0307\u0327\u0323 \t\n\r\x00\x1f\x7f\x85\u00a0\u2028\u3000\u200c\u200d"
    + INVISIBLE
)
names = st.text(awkward | st.characters(exclude_categories=["Cs"]), max_size=12)
PROPERTY = settings(max_examples=examples(60), deadline=None)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@PROPERTY
@given(name=names)
@example(name="e\u00ad\u0301")
@example(name="İI\u0307")
@example(name="J\u030c")
def test_normalize_is_idempotent(policy, name):
    once = normalize(name, policy)
    assert normalize(once, policy) == once


@pytest.mark.parametrize("policy", COMPOSING, ids=str)
@PROPERTY
@given(name=names, form=st.sampled_from(["NFC", "NFD"]))
def test_canonically_equal_strings_normalize_to_the_same(policy, name, form):
    assert normalize(unicodedata.normalize(form, name), policy) == normalize(name, policy)


@pytest.mark.parametrize("policy", COMPOSING, ids=str)
@PROPERTY
@given(before=names, invisible=st.sampled_from(INVISIBLE), after=names)
@example(before="e", invisible="\u200b", after="\u0301")
@example(before="fiebre", invisible="\ufeff", after=" alta")
def test_invisible_characters_do_not_change_a_name(policy, before, invisible, after):
    assert normalize(before + invisible + after, policy) == normalize(before + after, policy)


@pytest.mark.parametrize("policy", COMPOSING, ids=str)
@PROPERTY
@given(name=names)
def test_words_are_separated_by_one_space_and_controls_removed(policy, name):
    found = normalize(name, policy)
    assert "" not in found.split(" ") or found == ""
    assert not any(c != " " and (c.isspace() or unicodedata.category(c) == "Cc") for c in found)
    assert not set(found) & set(INVISIBLE)


@PROPERTY
@given(name=names)
def test_policy_without_unicode_and_case_changes_nothing(name):
    assert normalize(name, TextPolicy("cased", "none")) == name
    assert normalize(name, TextPolicy("lower", "none")) == name.lower()


@pytest.mark.parametrize(
    "space",
    [
        "\t",
        "\n",
        "\r\n",
        "\x00",
        "\x0b",
        "\x1c",
        "\x7f",
        "\x85",
        "\u00a0",
        "\u2003",
        "\u2028",
        "\u2029",
        "\u3000",
        "  ",
    ],
)
def test_any_white_space_or_control_becomes_one_space(space):
    assert normalize(f"{space}fiebre{space}alta{space}", TextPolicy()) == "fiebre alta"


@pytest.mark.parametrize(
    ("name", "nfc", "nfkc", "matched"),
    [
        ("ﬁbrosis", "ﬁbrosis", "fibrosis", "fibrosis"),
        ("ＣＯＶＩＤ－１９", "ＣＯＶＩＤ－１９", "COVID-19", "covid-19"),
        ("ﾊﾟｰｷﾝｿﾝ病", "ﾊﾟｰｷﾝｿﾝ病", "パーキンソン病", "パーキンソン病"),
        ("u\u0308belkeit", "übelkeit", "übelkeit", "übelkeit"),
        ("İltihap", "İltihap", "İltihap", "i\u0307ltihap"),
        ("ΠΥΡΕΤΌΣ", "ΠΥΡΕΤΌΣ", "ΠΥΡΕΤΌΣ", "πυρετός"),
        ("Fußschmerz", "Fußschmerz", "Fußschmerz", "fußschmerz"),
        ("می\u200cخواهم", "می\u200cخواهم", "می\u200cخواهم", "می\u200cخواهم"),
        ("J\u030c", "J\u030c", "J\u030c", "ǰ"),
        ("37 °C", "37 °C", "37 °C", "37 °c"),
    ],
)
def test_policies_normalize_examples(name, nfc, nfkc, matched):
    assert normalize(name, TextPolicy()) == nfc
    assert normalize(name, TextPolicy("cased", "NFKC")) == nfkc
    assert normalize(name, EXACT_MATCH) == matched


def test_normalize_all_keeps_order_and_number():
    assert normalize_all(iter(["B", "", " a ", "B"]), TextPolicy("lower", "NFC")) == ["b", "", "a", "b"]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_policy_equals_the_one_from_its_dict(policy):
    assert TextPolicy(**policy.to_dict()) == policy


@pytest.mark.parametrize(("case", "form"), [("upper", "NFC"), ("cased", "NFD")])
def test_unknown_policy_is_rejected(case: str, form: str) -> None:
    with pytest.raises(ConfigError, match="must be one of .*; found '(upper|NFD)'"):
        TextPolicy(case, form)


@given(st.lists(names, max_size=12), st.sampled_from(POLICIES))
def test_normalize_column_equals_normalize(strings, policy):
    column = pa.chunked_array([pa.array(strings, pa.string())])
    assert normalize_column(column, policy).to_pylist() == normalize_all(strings, policy)


@pytest.mark.parametrize("every", [37, pytest.param(7, marks=pytest.mark.slow)])
@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_normalize_column_equals_normalize_for_every_character(policy, every):
    """And for some of the scripts that have very many."""
    strings = [f"a{chr(n)}b" for n in range(0x110000) if not 0xD800 <= n <= 0xDFFF and (n < 0x3400 or n % every == 0)]
    column = pa.chunked_array([pa.array(strings, pa.string())])
    assert normalize_column(column, policy).to_pylist() == normalize_all(strings, policy)


def test_letters_that_normalize_column_skips_are_composed():
    """What Unicode says of them: nothing composes them or takes them apart, and none combines with its neighbors."""
    ranges = re.findall(r"\\x\{([0-9a-f]+)\}-\\x\{([0-9a-f]+)\}", _LETTERS)
    letters = [chr(n) for first, last in ranges for n in range(int(first, 16), int(last, 16) + 1)]
    assert len(letters) > 30_000
    assert all(unicodedata.is_normalized("NFC", letter) and not unicodedata.combining(letter) for letter in letters)
    assert all(unicodedata.normalize("NFC", "e" + letter) == "e" + letter for letter in letters)


# Scripts


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("chest pain", "Latin"),
        ("Übelkeit", "Latin"),
        ("1a", "Latin"),
        ("u\u0308", "Latin"),
        ("Ｃ型肝炎", "Han"),
        ("частый жидкий стул", "Cyrillic"),
        ("πυρετός", "Greek"),
        ("β-blocker", "Latin"),
        ("ألم الصدر", "Arabic"),
        ("می\u200cخواهم", "Arabic"),
        ("כאב חזה", "Hebrew"),
        ("ใส่เครื่องช่วยหายใจ", "Thai"),
        ("सिरदर्द", "Devanagari"),
        ("মাথাব্যথা", "Bengali"),
        ("თავის ტკივილი", "Georgian"),
        ("ጉንፋን", "Ethiopic"),
        ("두통", "Hangul"),
        ("두통".encode().decode(), "Hangul"),
        ("\u1103\u116e", "Hangul"),
        ("子宫切除手术", "Han"),
        ("々々", "Han"),
        ("頭が痛い", "Kana"),
        ("ｲﾝﾌﾙｴﾝｻﾞ", "Kana"),
        ("パーキンソン病", "Kana"),
        ("Clostridioides difficile に", "Kana"),
        ("胸・痛", "Han"),  # a katakana sign, but no letter
        ("COVID-19 肺炎", "Latin"),
        ("2型糖尿病 HbA", "Han"),
        ("ab肺炎", "Latin"),  # as many: the first
        ("肺炎ab", "Han"),
        ("аb", "Cyrillic"),
        ("bа", "Latin"),
        ("ᏣᎳᎩ", OTHER_SCRIPT),
        ("𗀀", OTHER_SCRIPT),  # Tangut, whose letters Python has no names for
        ("ᏣᎳᎩ abcd", "Latin"),
        ("", NO_SCRIPT),
        ("37.5 °, +/- 2 % ①", NO_SCRIPT),
        ("\u0301\u200d", NO_SCRIPT),
    ],
)
def test_script_of_examples(text, script):
    assert script_of(text) == script


@pytest.mark.slow
def test_script_of_every_letter_equals_unicode():
    """`regex` knows the property Script; letters of its script Common, such as the mark of a long vowel in kana, are left out."""
    common = regex.compile(r"[\p{Script=Common}\p{Script=Inherited}]")
    known = {script: regex.compile(rf"\p{{Script={script}}}") for script in set(_SCRIPTS.values()) - {"Kana"}}
    known["Kana"] = regex.compile(r"[\p{Script=Hiragana}\p{Script=Katakana}]")
    letters, unlike = 0, set()
    for letter in filter(str.isalpha, map(chr, range(0x110000))):
        plain = unicodedata.normalize("NFKC", letter)
        if len(plain) > 1 or common.match(plain):
            continue
        letters += 1
        expected = next((script for script, pattern in known.items() if pattern.match(plain)), OTHER_SCRIPT)
        if script_of(letter) != expected:
            unlike.add((letter, script_of(letter)))
    assert letters > 130_000
    assert {found for _, found in unlike} == {
        OTHER_SCRIPT
    }  # phonetic signs and the like, whose names don't say a script
    assert len(unlike) < 15


def test_every_known_script_has_a_letter():
    letters = "aαаաაאاܐޅአअঅਅઅଅஅఅಅഅඅกກཀကកᠠㄅ가漢あ"
    assert {script_of(letter) for letter in letters} == set(_SCRIPTS.values())
    assert len(set(_SCRIPTS.values())) == len(letters)


scripts = st.sampled_from("abцдα胸痛두は ア1-ᏣЖÅ\u0301")


@given(st.text(scripts, max_size=8))
def test_script_is_the_first_of_the_most_frequent(text):
    of = [(letter, script_of(letter)) for letter in unicodedata.normalize("NFKC", text) if letter.isalpha()]
    found = [script for _, script in of]
    if "Kana" in found:
        assert script_of(text) == "Kana"
    elif not found:
        assert script_of(text) == NO_SCRIPT
    else:
        most = max(found.count(script) for script in found)
        assert script_of(text) == [script for script in found if found.count(script) == most][0]


def test_examples_of_docstrings():
    failed, tried = doctest.testmod(text)
    assert failed == 0
    assert tried
