"""Language codes: UMLS LAT (ISO 639-2/B in capitals) ↔ ISO 639-1 ↔ names for people.

Inside xsap a language is its ISO 639-1 code, `en`; readers convert other codes. The LAT values are those of the UMLS's table of languages
(https://www.nlm.nih.gov/research/umls/knowledge_sources/metathesaurus/release/abbreviations.html); the other rows are ISO 639-2 codes
for the languages that HPO, OMOP, XL-BEL and Wikidata add.
"""

from functools import cache

from xsap.errors import DataError, did_you_mean

ENGLISH = "en"
UNKNOWN = "und"  # ISO 639-2 for an undetermined language

_TABLE = """
ar ARA ara Arabic
bg BUL bul Bulgarian
bn BEN ben Bengali
ca CAT cat Catalan
cs CZE ces Czech
cy WEL cym Welsh
da DAN dan Danish
de GER deu German
el GRE ell Greek
en ENG eng English
es SPA spa Spanish
et EST est Estonian
eu BAQ eus Basque
fa PER fas Persian
fi FIN fin Finnish
fr FRE fra French
gl GLG glg Galician
he HEB heb Hebrew
hi HIN hin Hindi
hr HRV hrv Croatian
hu HUN hun Hungarian
id IND ind Indonesian
is ICE isl Icelandic
it ITA ita Italian
ja JPN jpn Japanese
ka GEO kat Georgian
kk KAZ kaz Kazakh
ko KOR kor Korean
lt LIT lit Lithuanian
lv LAV lav Latvian
mk MAC mkd Macedonian
ms MAY msa Malay
nl DUT nld Dutch
no NOR nor Norwegian
pl POL pol Polish
pt POR por Portuguese
ro RUM ron Romanian
ru RUS rus Russian
sk SLO slk Slovak
sl SLV slv Slovenian
sq ALB sqi Albanian
sr SRP srp Serbian
sv SWE swe Swedish
sw SWA swa Swahili
ta TAM tam Tamil
te TEL tel Telugu
th THA tha Thai
tl TGL tgl Tagalog
tr TUR tur Turkish
uk UKR ukr Ukrainian
ur URD urd Urdu
uz UZB uzb Uzbek
vi VIE vie Vietnamese
zh CHI zho Chinese
und UND und Undetermined
"""
_ROWS = [line.split(maxsplit=3) for line in _TABLE.strip().splitlines()]
_NAMES = {iso: name for iso, _, _, name in _ROWS}
_UMLS = {iso: lat for iso, lat, _, _ in _ROWS}
_CODES = {key.lower(): iso for iso, lat, three, name in _ROWS for key in (iso, lat, three, name)}
_CODES["scr"] = "hr"  # the UMLS's name for Croatian up to 2012
_CODES["nb"] = _CODES["nob"] = _CODES["nn"] = _CODES["nno"] = (
    "no"  # both written forms, which the UMLS doesn't distinguish
)


@cache
def to_iso(code: str) -> str:
    """The ISO 639-1 code of a language, given by any of its codes or its English name.

    Raises DataError for an unknown one, with the most similar known one.

    >>> [to_iso(code) for code in ("ENG", "deu", "pt-BR", "Spanish")]
    ['en', 'de', 'pt', 'es']
    """
    key = code.strip().lower()
    found = _CODES.get(key) or _CODES.get(key.replace("_", "-").split("-")[0])
    if found is None:
        hint = did_you_mean(key, _CODES, show=lambda near: f"'{near}' ({_NAMES[_CODES[near]]})")
        raise DataError(f"unknown language '{code}': expected a UMLS or ISO 639 code such as ENG, en or deu{hint}")
    return found


def to_umls(code: str) -> str:
    """The UMLS LAT code of a language: `en` → `ENG`."""
    return _UMLS[to_iso(code)]


def to_name(code: str) -> str:
    """The English name of a language: `de` → `German`."""
    return _NAMES[to_iso(code)]


def parse_languages(text: str) -> frozenset[str] | None:
    """A comma-separated list of languages as ISO codes; None for `all`."""
    if text.strip().lower() == "all":
        return None
    codes = frozenset(to_iso(part) for part in text.split(",") if part.strip())
    if not codes:
        raise DataError(f"expected 'all' or languages such as 'en,es', found '{text}'")
    return codes
