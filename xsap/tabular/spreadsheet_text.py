"""Text that a spreadsheet program would change, or run, when it opens a CSV or TSV file.

A cell that begins with `=`, `+`, `-` or `@` is run as a formula, so every such cell of text gets an apostrophe before it
(https://owasp.org/www-community/attacks/CSV_Injection). Numbers don't. Cells whose formula follows blanks, quotes or apostrophes get one
too; so removing one apostrophe from each cell that matches gives back exactly what was there.

Excel turns text into numbers and dates: 007 into 7, an identifier of 18 digits into its first 15 and zeros, 1/2 and MARCH1 into dates. Files
written for Excel have such text as ="007", a formula whose value is the text itself, which is the only form that Excel leaves as it is in
all countries. Text that comes out of Excel as it went in, such as 42, is written as it is.
"""

import re

_SKIPPED = r"['\"\s\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u2060\ufeff]*"  # what a spreadsheet may skip before a formula
_FORMULA = re.compile(
    rf"['\"]*[\t\r\n\0]|{_SKIPPED}[=+\-@＝＋－＠]"
)  # full-width signs begin formulas in East Asian versions
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:[.,][0-9]+)*|[.,][0-9]+)(?:[eE][+-]?[0-9]+)?%?")

_LONGEST = 40  # characters of what Excel takes for a number, a date or a time
_SHOWN_DIGITS = 11  # of a number with more digits Excel shows 1.2E+11
_PLAIN = {sign: re.compile(rf"-?(?:0|[1-9][0-9]*)(?:{re.escape(sign)}[0-9]*[1-9])?") for sign in ".,"}
_DIGITS_AND_SIGNS = re.compile(r"[(+-]?(?=[.,:/'’ -]*[0-9])[0-9.,:/'’ -]+(?:[eE][+-]?[0-9]+)?\)?")
_TIME = re.compile(r"[0-9]{1,4}(?::[0-9]{1,2}){0,2} *[ap]m?", re.IGNORECASE)
_MONTHS = (  # in English and other languages of Europe
    "jan|january|januar|janvier|janv|enero|ene|gennaio|gen|janeiro|januari|feb|february|februar|février|févr|febrero|febbraio|"
    "fevereiro|fev|februari|mar|march|märz|mrz|mär|mars|marzo|março|maart|mrt|apr|april|avril|avr|abril|abr|aprile|may|mai|mayo|"
    "maggio|mag|maio|mei|maj|jun|june|juni|juin|junio|giugno|giu|junho|jul|july|juli|juillet|juil|julio|luglio|lug|julho|aug|"
    "august|août|agosto|ago|augustus|augusti|sep|sept|september|septembre|septiembre|settembre|set|setembro|oct|october|oktober|"
    "okt|octobre|octubre|ottobre|ott|outubro|out|nov|november|novembre|noviembre|novembro|dec|december|dezember|dez|décembre|déc|"
    "diciembre|dic|dicembre|dezembro"
)
_DATE = re.compile(
    rf"(?:[0-9]{{1,4}}[ ./-]*)?(?:{_MONTHS})\.?[ ,./-]*[0-9]{{0,4}}(?:[ ,./-]+[0-9]{{1,4}})?",
    re.IGNORECASE,
)


def escape_formula(cell: str) -> str:
    """A cell of text for CSV and TSV: one that a spreadsheet would run as a formula gets an apostrophe before it."""
    return f"'{cell}" if _FORMULA.match(cell) and not _NUMBER.fullmatch(cell) else cell


def escape_for_excel(cell: str, decimal_sign: str = ".") -> str:
    """A cell of text for a CSV or TSV file that Excel opens: besides formulas, what it would take for another number or a date is escaped.

    Args:
        cell: The text.
        decimal_sign: "." or ",", as in the country of the Excel.
    """
    return f'="{cell}"' if _changes_in_excel(cell, decimal_sign) else escape_formula(cell)


def unescape_cell(cell: str) -> str:
    """The text that `escape_formula` or `escape_for_excel` wrote as this cell; another cell as it is."""
    if cell.startswith('="') and cell.endswith('"') and len(cell) > len('=""'):
        return cell[2:-1]
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell[1:]) else cell


def _changes_in_excel(cell: str, decimal_sign: str) -> bool:
    if len(cell) > _LONGEST or not any("0" <= character <= "9" for character in cell) or any(c < " " for c in cell):
        return False
    if len(cell) <= _SHOWN_DIGITS and _PLAIN[decimal_sign].fullmatch(cell):
        return False
    text = cell.strip()
    return any(pattern.fullmatch(text) for pattern in (_DIGITS_AND_SIGNS, _TIME, _DATE))
