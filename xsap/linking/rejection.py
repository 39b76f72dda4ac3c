"""Why a mention has no answer: it is no text, or it is no term although it is text.

A string that is not a term (a word for a missing value, a number, a code of some vocabulary) has a nearest name all the same, and that would be
a wrong answer. It is recognized by its form alone, so every rule is narrow: what may be a term is one (B12, CD4, p53, T3). A name or a code of
the index is always a term, whatever its form.
"""

import re

from xsap.errors import ConfigError
from xsap.text import AS_WRITTEN, EXACT_MATCH, fold_case, normalize

LONGEST_MENTION = 2_000  # characters; a longer string is a document, not a term

NULL_WORDS = {
    "files and programs": (
        "null|nan|none|na|n/a|#n/a|n.a.|#null!|#value!|#ref!|#name?|#div/0!|#num!|<na>|nat|undefined|(null)|[null]|(blank)"
    ),
    "en": "not applicable|not available|no data|not recorded|not stated|not documented|missing value",
    "de": "k.A.|keine Angabe|keine Angaben|o.A.|ohne Angabe|ohne Angaben|nicht angegeben|nicht zutreffend|entfällt|n.z.",
    "fr": "s.o.|sans objet|n.d.|n.r.|non disponible|non renseigné|non applicable|non précisé",
    "es": "s/d|n/d|n/c|sin datos|sin dato|no aplica|no disponible|no consta",
    "pt": "não se aplica|não informado|não disponível|sem informação|sem dados",
    "it": "non disponibile|non applicabile|non pervenuto",
    "nl": "n.v.t.|niet van toepassing|niet beschikbaar|niet ingevuld",
    "pl": "b/d|b.d.|brak danych|nie dotyczy",
    "cs": "neuvedeno|není k dispozici",
    "tr": "veri yok|uygulanamaz|belirtilmemiş",
    "sv": "uppgift saknas|ej tillämpligt|ej angivet",
    "fi": "ei tietoa|ei saatavilla",
    "ru": "н/д|нет данных|не применимо|не указано",
    "zh": "不适用|無資料|无数据|未填写|未填",
    "ja": "該当なし|記載なし|未記入|データなし",
    "ko": "해당 없음|해당없음|자료 없음",
}
"""Words for a missing value, by language. Words that are findings or answers, too, are left out: o. B., unknown, no, ninguno, 无."""

NULL_WORD = "the mention is a word for a missing value, not a term"
NO_LETTER = "the mention has no letter, so it is not a term"
UNKNOWN_CODE = "the mention is a code that is not in the index, not a term"
UNKNOWN_TEXT = "the model's vocabulary has no part of the mention"

# ICD-10 (R50.9, J45), ATC (A10BA02), ICD-11 with its dot, UMLS and MeSH identifiers, and any prefix:number
_CODES = re.compile(
    r"[A-Z][0-9][0-9AB]\.[0-9A-Z]{1,4}[-*+!†]?|[A-Z][0-9]{2}[-*+!†]?|[A-Z][0-9]{2}[A-Z]{2}[0-9]{2}|[0-9A-Z][A-Z][0-9][0-9A-Z]\.[0-9A-Z]{1,3}"
    r"|[CDM][0-9]{6,9}|[A-Za-z][A-Za-z0-9]*[:_][A-Z]{0,3}[0-9]{4,}|[A-Za-z][A-Za-z0-9-]+:[A-Z][0-9]{2}(?:\.[0-9A-Z]{1,4})?"
)
# A letter and two digits that is a vitamin, a coenzyme, a vertebra, an isotope, a protein or a dose
_TERMS_LIKE_CODES = re.compile(
    r"B12|Q10|T1[0-2]|[CN]1[1345]|O15|F18|P[0-9]{2}|Y90|D[0-9]{2}|H[0-9]{2}|K40|G12|V[0-9]{2}|L1[0-9]"
)


def rejection_reason(mention: object) -> str | None:
    """Why a mention cannot be linked; None if it can. Raises ConfigError if it is not a string."""
    if not isinstance(mention, str):
        raise ConfigError(f"a mention must be text, found {mention!r} ({type(mention).__name__})")
    if len(mention) > LONGEST_MENTION:
        return f"the mention has {len(mention):,} characters; a term has at most {LONGEST_MENTION:,}"
    if not mention:
        return "the mention is empty"
    if not normalize(mention, EXACT_MATCH):
        return "the mention is blank"
    if any("\ud800" <= character <= "\udfff" for character in mention):
        return "the mention is not valid Unicode: it has half of a surrogate pair"
    return None


def non_term_reason(mention: str) -> str | None:
    """Why a mention that is no name and no code of the index is not a term; None if it may be one."""
    if not any(map(str.isalpha, mention)):
        return NO_LETTER
    if _closed(fold_case(mention)) in _NULL_WORDS:
        return NULL_WORD
    written = normalize(mention, AS_WRITTEN)
    return UNKNOWN_CODE if _CODES.fullmatch(written) and not _TERMS_LIKE_CODES.fullmatch(written) else None


def _closed(word: str) -> str:
    """A word without blanks around points and slashes, and without a last point: k. A. is k.A."""
    return re.sub(r"\s*([./])\s*", r"\1", word).removesuffix(".")


_NULL_WORDS = frozenset(_closed(fold_case(word)) for row in NULL_WORDS.values() for word in row.split("|"))
