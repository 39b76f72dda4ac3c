"""Text that spreadsheet programs would run or change."""

import random
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xsap.tabular.spreadsheet_text import escape_for_excel, escape_formula


@pytest.mark.parametrize("sign", "=+-@＝＋－＠")
@pytest.mark.parametrize(
    "before", ["", " ", '"', "'", "\u00a0", "' \"", "\t", "\r\n", "\ufeff", "\0", "\x01", "\u200b"]
)
def test_formulas_get_an_apostrophe(sign, before):
    for after in ("", "cmd", "1+1", " 1"):
        assert escape_formula(f"{before}{sign}{after}") == f"'{before}{sign}{after}"


@pytest.mark.parametrize("cell", ["\tx", "\rx", "\nx", "\0x", "\t", "'\tx", '"\tx'])
def test_cells_that_begin_with_a_tab_or_line_end_get_an_apostrophe(cell):
    assert escape_formula(cell) == f"'{cell}"


@pytest.mark.parametrize(
    "cell", ["-1.5", "+1", "-1,5", "-1.234,56", "+1e-5", "-5%", "-.5", "1-2", "a=b", "", "'", "fever", "(-)", "<5"]
)
def test_numbers_and_other_text_get_no_apostrophe(cell):
    assert escape_formula(cell) == cell


@pytest.mark.parametrize(
    "cell", ["-1+2", "-1.5.", "-", "--1", "+1\n", "-1e", "-e5", "+49 30 1234", "-٣", "@SUM(1)", "-1|cmd", "＝1"]
)
def test_text_that_resembles_a_number_gets_an_apostrophe(cell):
    assert escape_formula(cell) == f"'{cell}"


@given(st.text("=+-@'\" \t\r\n1.,a%e＝\ufeff\0", max_size=6))
def test_escaped_formulas_can_be_restored(cell):
    """And nothing that is written begins a formula, except after blanks and quotes."""
    found = escape_formula(cell)
    assert (found[1:] if found.startswith("'") and escape_formula(found) != found else found) == cell
    if not found.startswith("'") and found.strip('" \t\r\n\ufeff\0')[:1] in set("=+-@＝"):
        assert set(found) <= set("+-0123456789.,eE%")
        assert found == cell


# What Excel takes for a number or a date: rules of its own in each country, so the examples are from Excel's documentation and from papers on
# gene names (https://doi.org/10.1186/s13059-016-1044-7)
CHANGED = [
    "007", "0123", "00", "1.50", "123456789012", "386661006386661006", "-0012", "+49301234", "+1", "1/2", "3-4", "1-2-3", "01.02.2024",
    "2024-01-02", "1.2.", "3 1/2", "10:30", "1:2:3", "2 pm", "12:00 am", "1E5", "2e10", "9E-2", "1 234", "1'234", "(5)", "( 7 )", "12,345.67",
    "MARCH1", "SEPT2", "Sep-7", "1-Dec", "DEC1", "oct4", "5. Mai 2020", "Jan 2020", "mrz 3", "1. März", "12 août", "3 ene", " 007", "007 ",
]  # fmt: skip
UNCHANGED = [
    "", "0", "7", "42", "-5", "1.5", "0.25", "-0.5", "12345678901", "fever", "I10", "C0015967", "HP:0001945", "250.00x", "grade 3", "type 2",
    "March", "markers 2", "genotype 2", "SNOMEDCT_US:386661006", "1 mg", "5%", "x" * 99, "1" * 99, "T047|T184", "٣", "2 pmx",
]  # fmt: skip


@pytest.mark.parametrize("cell", CHANGED)
def test_text_that_excel_would_change_is_a_formula_of_itself(cell):
    assert escape_for_excel(cell) == f'="{cell}"'


@pytest.mark.parametrize("cell", UNCHANGED)
def test_text_that_excel_leaves_as_it_is_stays(cell):
    assert escape_for_excel(cell) == cell


def test_decimal_sign_is_that_of_the_country():
    for sign, other in (".,", ",."):
        assert escape_for_excel(f"12{sign}5", sign) == f"12{sign}5"
        assert escape_for_excel(f"12{other}5", sign) == f'="12{other}5"'


@given(st.integers(-(10**20), 10**20))
def test_integers_stay_numbers_as_long_as_excel_shows_all_digits(number):
    assert (escape_for_excel(str(number)) == str(number)) == (len(str(number)) <= 11)


@given(st.text("=+-@'\" \t\r\n1.,a%e/:(＝\ufeff\0", max_size=6), st.sampled_from(".,"))
def test_formulas_are_escaped_for_excel_too(cell, sign):
    """What is not escaped by an apostrophe is a number, or a formula whose value is the text."""
    found = escape_for_excel(cell, sign)
    if found != escape_formula(cell):
        assert found == f'="{cell}"'
        assert not re.search('["\\x00-\\x1f]', cell)  # nothing that ends the text within the formula


def test_long_cells_are_matched_in_linear_time():
    """A pattern that backtracks would need hours."""
    rng, start = random.Random(0), time.process_time()
    for cell in ("1 " * 50_000, "1-" * 19 + "x", "jan" + " 1" * 18 + "x", "".join(rng.choices("1.,:/ -", k=39)) + "!"):
        escape_for_excel(cell)
    assert time.process_time() - start < 5
