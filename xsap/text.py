"""Normalization of names (letter case, Unicode, white space), forms of a name that exact look-up compares, and the script of a name.

The text policy is part of a model and is saved with it. It is applied to the names of a dictionary and to the mentions that are linked to
it, so that both are always normalized the same way. No other module changes case or composes Unicode.

Exact look-up compares names in several forms, each of which makes more names equal than the one before: as they are written (`AS_WRITTEN`),
without letter case by the rules of a language (`fold_case`), without letter case by the rules of all languages at once, and without accents
(`fold_accents`, or `expand_umlauts` for ä written as ae). `look_up_key` is equal wherever one of these forms is.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal, get_args

from xsap.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

Case = Literal["cased", "lower"]
Form = Literal["none", "NFC", "NFKC"]

# Invisible and without meaning inside a term: Unicode's property Default_Ignorable_Code_Point (DerivedCoreProperties.txt), which has the soft
# hyphen, controls of writing direction, isolates, zero-width spaces, the byte-order mark, fillers and variation selectors, and the marks of
# interlinear annotation. The zero-width joiner and non-joiner stay where they are part of the spelling: between two characters of a script whose
# letters join or form conjuncts (Persian, Kurdish, Indic scripts, …). Anywhere else they too are invisible.
_IGNORABLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_INVISIBLE = re.compile(f"[{_IGNORABLE}]")
_JOINING = "\u0600-\u061b\u061d-\u08ff\u0900-\u109f\u1700-\u17b3\u17b6-\u180a\u1810-\u18af\u1a20-\u1aad\u1b00-\u1c4f\ua800-\uaaff"
_JOINING += "\uabc0-\uabff\ufb50-\ufdff\ufe70-\ufefc"
_STRAY_JOINERS = re.compile(f"(?<![{_JOINING}])[\u200c\u200d]|[\u200c\u200d](?![{_JOINING}])")
_SOME_INVISIBLE = re.compile(f"[{_IGNORABLE}\u200c\u200d]")  # one search, for most names have none

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")  # Unicode's category Cc

# Words of characters that no policy of this case and form changes, one space between them. For NFC: letters that are composed already and have
# no combining marks among them (NFC_Quick_Check=Yes and combining class 0 in Unicode's DerivedNormalizationProps).
_LETTERS = r"\x{a1}-\x{ac}\x{ae}-\x{2ff}\x{388}-\x{3ff}\x{400}-\x{482}\x{48a}-\x{52f}\x{5d0}-\x{5ea}"
_LETTERS += r"\x{1e00}-\x{1eff}\x{3041}-\x{3096}\x{30a1}-\x{30fc}\x{4e00}-\x{9fff}\x{ac00}-\x{d7a3}"
_UNTOUCHED = {"cased": r"\x21-\x7e", "lower": r"\x21-\x40\x5b-\x7e"}

NO_SCRIPT = "none"
OTHER_SCRIPT = "other"
_KANA = "Kana"
_ALPHABETS = """
    LATIN GREEK CYRILLIC ARMENIAN GEORGIAN HEBREW ARABIC SYRIAC THAANA ETHIOPIC DEVANAGARI BENGALI GURMUKHI GUJARATI ORIYA TAMIL TELUGU
    KANNADA MALAYALAM SINHALA THAI LAO TIBETAN MYANMAR KHMER MONGOLIAN HANGUL BOPOMOFO
"""
_SCRIPTS = {
    word: word.capitalize() for word in _ALPHABETS.split()
}  # the first word of a letter's Unicode name → its script
_SCRIPTS |= {
    "CJK": "Han",
    "IDEOGRAPHIC": "Han",
    "HIRAGANA": _KANA,
    "KATAKANA": _KANA,
    "KATAKANA-HIRAGANA": _KANA,
    "HENTAIGANA": _KANA,
}


@dataclass(frozen=True, slots=True)
class TextPolicy:
    """How a string is normalized before it is tokenized or compared.

    Attributes:
        case: "lower" for lower case, "cased" to keep it.
        unicode: The normal form; "none" leaves the string unchanged, white space included, as the original SapBERT code does.
    """

    case: Case = "cased"
    unicode: Form = "NFC"

    def __post_init__(self) -> None:
        for field, value, known in (("case", self.case, get_args(Case)), ("unicode", self.unicode, get_args(Form))):
            if value not in known:
                raise ConfigError(f"a text policy's {field} must be one of {', '.join(known)}; found '{value}'")

    def to_dict(self) -> dict[str, str]:
        """The policy as JSON has it."""
        return asdict(self)


EXACT_MATCH = TextPolicy(case="lower", unicode="NFKC")
"""The policy under which two strings count as the same name where they are counted or compared, outside of an index."""

AS_WRITTEN = TextPolicy()
"""The policy under which two strings are written in the same way."""


def drop_invisible(text: str) -> str:
    """A text without invisible characters; joiners stay where they are part of the spelling.

    >>> drop_invisible("\u202afever\u202c"), len(drop_invisible("می\u200cخواهم"))
    ('fever', 8)
    """
    return _STRAY_JOINERS.sub("", _INVISIBLE.sub("", text)) if _SOME_INVISIBLE.search(text) else text


def normalize(name: str, policy: TextPolicy) -> str:
    """A name normalized by a policy: without invisible characters, each run of white space and controls as one space, trimmed.

    >>> normalize(" Fièvre\u200b  Jaune\\n", TextPolicy(case="lower"))
    'fièvre jaune'
    """
    if policy.unicode != "none":
        if not name.isascii():
            name = unicodedata.normalize(
                policy.unicode, drop_invisible(name)
            )  # first, for they keep an accent from its letter
        if not name.isprintable():  # no control is printable, so most names skip the substitution
            name = _CONTROL.sub(" ", name)
        name = " ".join(name.split())
    if policy.case == "lower":
        name = name.lower()
        if policy.unicode != "none":  # lower-casing can decompose ("İ"), so compose again
            name = unicodedata.normalize(policy.unicode, name)
    return name


def normalize_column(names: "pa.ChunkedArray", policy: TextPolicy) -> "pa.Array":
    """`normalize` for an Arrow column of strings without nulls; names that it leaves unchanged, which most are, never become Python objects."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = names.combine_chunks() if isinstance(names, pa.ChunkedArray) else names
    word = f"[{_UNTOUCHED[policy.case]}{_LETTERS if (policy.case, policy.unicode) == ('cased', 'NFC') else ''}]+"
    others = pc.invert(pc.match_substring_regex(column, f"^{word}(?: {word})*$"))
    return pc.replace_with_mask(
        column, others, pa.array(normalize_all(column.filter(others).to_pylist(), policy), pa.string())
    )


def normalize_all(names: Iterable[str], policy: TextPolicy) -> list[str]:
    """`normalize` for each name, in order."""
    return [normalize(name, policy) for name in names]


# Forms of a name that exact look-up compares

_DASHES = "\u00ad\u058a\u05be\u1806\u2010-\u2015\u2043\u2212\u2e3a\u2e3b\ufe31\ufe32\ufe58\ufe63\uff0d"
_SINGLE_QUOTES = (
    "`\u00b4\u1fef\u1ffd\u02b9-\u02bf\u02c8\u02ca\u02cb\u2018-\u201b\u2032\u2035\u2039\u203a\uff07\uff40\ua78b\ua78c"
)
_DOUBLE_QUOTES = "\u00ab\u00bb\u02ba\u02dd\u02ee\u201c-\u201f\u2033\u2036\u301d-\u301f\uff02"
_UNWRITTEN = "\u0640\u200c\u200d"  # the stretching of Arabic letters, and joiners, which keyboards often lack


_PLANE = "".join(map(chr, range(0x10000)))
_PUNCTUATION: dict[int, str] = {
    ord(character): plain
    for ranges, plain in ((_DASHES, "-"), (_SINGLE_QUOTES, "'"), (_DOUBLE_QUOTES, '"'), (_UNWRITTEN, ""))
    for character in re.findall(f"[{ranges}]", _PLANE)
}
_SOME_PUNCTUATION = re.compile(f"[{_DASHES}{_SINGLE_QUOTES}{_DOUBLE_QUOTES}{_UNWRITTEN}]")
_TURKIC = frozenset({"az", "tr"})  # languages whose capital of i is İ and whose small letter of I is ı
_DOT = "\u0307"  # the dot that İ leaves in lower case, and that Lithuanian keeps on i and j under an accent
_SOFT_DOTS = re.compile(f"(?<=[ij\u012f]){_DOT}")
_GREEK = re.compile("[\u0370-\u03ff\u1f00-\u1fff]")
COMBINING_ACCENTS = "\u0300-\u036f"  # that follow their letter, as in decomposed text; for a regular expression's […]
_GREEK_ACCENTS = re.compile(f"(?<=[\u0370-\u03ff])[{COMBINING_ACCENTS}]+")  # capitals are written without
# Accents, and the points of Hebrew and vowel signs of Arabic; not the marks of kana and of Indic scripts, which are letters of their own.
_ACCENTS = re.compile(
    "[\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u064b-\u0655\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed"
    "\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]"
)
_BASE_LETTERS = str.maketrans(
    dict(zip("øđłħŧðŋıəɛɔɨ", "odlhtdnieeoi", strict=True)) | {"æ": "ae", "œ": "oe", "þ": "th"}
)
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe"})
_SQUASHED = (("a[ae]+", "a"), ("oe+", "o"), ("ue+", "u"))  # what `fold_accents` and `expand_umlauts` may differ in
_SOME_SQUASHED = re.compile("aa|[aou]e")


def fold_case(name: str, language: str | None = None) -> str:
    """A name without differences of letter case, width, ligatures, white space and kinds of dashes and quotes.

    Args:
        name: The name.
        language: By whose rules letters change case: i and ı are two letters in Turkish and Azeri. None for the rules of all languages at
            once: I, İ, i and ı are one letter, and Greek letters have no accents, for capitals have none.

    >>> fold_case("GÖĞÜS AĞRISI", "tr"), fold_case("göğüs ağrısı"), fold_case("Fußschmerz – ΠΌΝΟΣ")
    ('göğüs ağrısı', 'göğüs ağrisi', 'fussschmerz - πονοσ')
    """
    if language in _TURKIC:
        name = unicodedata.normalize("NFC", name).replace("I", "ı").replace("İ", "i")
    if name.isascii():
        folded = name.lower().replace("`", "'")
    else:
        folded = unicodedata.normalize("NFKC", _plain_punctuation(drop_invisible(name))).casefold()
        folded = _plain_punctuation(_SOFT_DOTS.sub("", unicodedata.normalize("NFKC", folded)))
        folded = unicodedata.normalize("NFKC", folded)
        if language is None:
            folded = folded.replace("ı", "i")
        if language in (None, "el") and _GREEK.search(folded):
            folded = _GREEK_ACCENTS.sub("", unicodedata.normalize("NFD", folded))
            folded = unicodedata.normalize("NFKC", folded.replace("ς", "σ"))
    if not folded.isprintable():
        folded = _CONTROL.sub(" ", folded)
    return " ".join(folded.split())


def fold_ascii(name: str) -> str:
    """An ASCII name or text as `fold_case` has it, but character for character: with a space for each control character, and all spaces.

    >>> fold_ascii("No  Fever\\n")
    'no  fever '
    """
    folded = name.lower().replace("`", "'")
    return folded if folded.isprintable() else _CONTROL.sub(" ", folded)


def fold_accents(name: str) -> str:
    """`fold_case` by the rules of all languages, and without accents: é is e, ö and ø are o, ł is l, æ is ae.

    >>> fold_accents("Hépatomégalie"), fold_accents("smørebrød Ödem")
    ('hepatomegalie', 'smorebrod odem')
    """
    return _strip_accents(fold_case(name))


def expand_umlauts(name: str) -> str:
    """`fold_accents`, but ä, ö and ü become ae, oe and ue, ø becomes oe and å becomes aa, as they are written where keyboards lack them.

    >>> expand_umlauts("Ödem"), expand_umlauts("Oedem"), expand_umlauts("Épiglottite")
    ('oedem', 'oedem', 'epiglottite')
    """
    return _strip_accents(fold_case(name).translate(_UMLAUTS))


@cache
def _folded_character(character: str) -> str:
    return fold_accents(character)[:1] or character


def fold_characters(text: str) -> str:
    """Each character of a text without case and accent, one for one, so that positions in both are the same.

    >>> fold_characters("Ödem – Straße")
    'odem - strase'
    """
    return "".join(map(_folded_character, text))


def look_up_key(name: str) -> str:
    """A string that is equal for two names wherever `fold_case` (of any language), `fold_accents` or `expand_umlauts` is."""
    key = fold_accents(name)
    if _SOME_SQUASHED.search(key):
        for pattern, plain in _SQUASHED:
            key = re.sub(pattern, plain, key)
    return key


def look_up_keys(names: "pa.ChunkedArray") -> "pa.Array":
    """`look_up_key` for an Arrow column of strings without nulls; ASCII names, which most are, never become Python objects."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = names.combine_chunks() if isinstance(names, pa.ChunkedArray) else names
    word = r"[\x21-\x7e]+"
    others = pc.invert(pc.match_substring_regex(column, f"^{word}(?: {word})*$"))
    folded = [fold_accents(name) for name in column.filter(others).to_pylist()]
    keys = pc.replace_with_mask(pc.ascii_lower(column), others, pa.array(folded, pa.string()))
    keys = pc.replace_substring(keys, "`", "'")
    for pattern, plain in _SQUASHED:
        keys = pc.replace_substring_regex(keys, pattern, plain)
    return keys


def _plain_punctuation(text: str) -> str:
    return text.translate(_PUNCTUATION) if _SOME_PUNCTUATION.search(text) else text


def _strip_accents(folded: str) -> str:
    return (
        folded if folded.isascii() else _ACCENTS.sub("", unicodedata.normalize("NFKD", folded)).translate(_BASE_LETTERS)
    )


def script_of(text: str) -> str:
    """The script of most letters of a text: `Latin`, `Han`, `Cyrillic`, …; of two equally frequent ones, the first.

    A text with any kana is `Kana`, because Japanese mixes it with Han. `other`: letters of no script known here; `none`: no letters.
    Compatibility forms count as their NFKC form. The first word of a letter's Unicode name is used for the property Script of Unicode
    Standard Annex 24, which Python lacks.

    >>> script_of("Fièvre"), script_of("発熱する"), script_of("123")
    ('Latin', 'Kana', 'none')
    """
    counts = Counter(map(_letter_script, text if text.isascii() else unicodedata.normalize("NFKC", text)))
    del counts[""]
    return _KANA if _KANA in counts else max(counts, key=counts.__getitem__, default=NO_SCRIPT)


@cache
def _letter_script(character: str) -> str:
    """The script of a letter; empty for any other character."""
    if not character.isalpha():
        return ""
    return _SCRIPTS.get(unicodedata.name(character, "").partition(" ")[0], OTHER_SCRIPT)


@cache
def combining_marks() -> str:
    """Accents, vowel signs and other marks that belong to the character before them, as ranges for a regular expression's `[…]`.

    They are the characters of Unicode's category M in the planes 0, 1 and 14. The module `re` does not count them as part of a word.
    """
    ranges: list[list[int]] = []
    for code in (*range(0x300, 0x20000), *range(0xE0100, 0xE01F0)):
        if unicodedata.category(chr(code))[0] == "M":
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(chr(first) + (f"-{chr(last)}" if last > first else "") for first, last in ranges)
