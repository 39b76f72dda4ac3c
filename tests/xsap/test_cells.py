import datetime
import decimal
import json
import math
import uuid

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xsap.tabular.readers import as_finite, cells_of, escape_surrogates, kind, text, type_of

UTC = datetime.UTC
ID = uuid.UUID(int=7)


@pytest.mark.parametrize(
    ("values", "of", "expected"),
    [
        (["a", None], pa.string(), ["a", None]),
        (["a", None], pa.large_string(), ["a", None]),
        (["a", "b", "a", None], pa.dictionary(pa.int8(), pa.string()), ["a", "b", "a", None]),
        ([1, None], pa.int64(), [1, None]),
        ([True, None], pa.bool_(), [True, None]),
        ([0.1, None], pa.float32(), [0.1, None]),
        ([0.1, None], pa.float64(), [0.1, None]),
        ([decimal.Decimal("1.50")], pa.decimal128(5, 2), ["1.50"]),
        ([datetime.date(2024, 2, 29), None], pa.date32(), ["2024-02-29", None]),
        ([1_000_000_001], pa.timestamp("ns"), ["1970-01-01 00:00:01.000000001"]),
        ([datetime.datetime(2024, 2, 29, tzinfo=UTC)], pa.timestamp("s", "UTC"), ["2024-02-29 00:00:00Z"]),
        ([datetime.time(8, 30)], pa.time32("s"), ["08:30:00"]),
        ([10**18], pa.timestamp("s"), ["<value out of range: 1000000000000000000>"]),
        (["é".encode(), b"\xff\x00", None], pa.binary(), ["é", "ff00", None]),
        ([["a", None], None], pa.list_(pa.string()), [["a", None], None]),
        ([[("k", 1)]], pa.map_(pa.string(), pa.int64()), [[["k", 1]]]),
        ([{"a": datetime.date(2024, 2, 29), "b": [b"x"]}], pa.struct({"a": pa.date32(), "b": pa.list_(pa.binary())}), [{"a": "2024-02-29", "b": ["x"]}]),
        ([None], pa.null(), [None]),
        ([ID.bytes], pa.uuid(), [str(ID)]),
    ],
    ids=lambda value: str(value) if isinstance(value, pa.DataType) else "",
)  # fmt: skip
def test_arrow_s_cells_as_json_has_them(values, of, expected):
    array = pa.array(values, of.storage_type).cast(of) if of == pa.uuid() else pa.array(values, of)
    found = cells_of(pa.chunked_array([array, array.slice(0, 0)]))
    assert found == expected
    assert list(map(type, found)) == list(map(type, expected))
    json.dumps(found)


def test_a_list_is_what_it_is():
    assert cells_of(column := [1, "a", None]) is column


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("a", "a"),
        (None, ""),
        (True, "true"),
        (1, "1"),
        (1.0, "1.0"),
        (math.nan, ""),
        (-math.inf, "-inf"),
        (["é", math.nan], '["é", null]'),
    ],
)
def test_a_cell_as_text(cell, expected):
    assert text(cell) == expected


def test_no_number_that_json_has_not():
    assert as_finite({"a": [math.nan, 1.5], "b": math.inf, "c": "x"}) == {"a": [None, 1.5], "b": "inf", "c": "x"}


def test_half_surrogate_pairs():
    assert escape_surrogates("a\udc80é") == "a\\udc80é"
    assert escape_surrogates("é") == "é"


numbers = st.one_of(st.integers(), st.integers(-5, 5), st.sampled_from([2**53, 2**53 + 1, 2**63 - 1, 2**63, -(2**63)]))
of_one_kind = [
    st.text("a1"),
    st.booleans(),
    numbers,
    st.floats(allow_nan=False),
    st.one_of(numbers, st.floats(allow_nan=False)),
]
anything = st.one_of(
    *of_one_kind, st.lists(st.integers(), max_size=2), st.dictionaries(st.text("k"), st.none(), max_size=1)
)


@given(cells=st.one_of(*(st.lists(st.one_of(st.none(), each), max_size=4) for each in [*of_one_kind, anything])))
def test_a_column_s_type_loses_nothing(cells):
    """What the type takes comes out as it went in; what no type takes becomes text; and text only where it must."""
    of = type_of({kind(cell) for cell in cells})
    given_ = {type(cell) for cell in cells} - {type(None)}
    if pa.types.is_string(of):
        integers = [cell for cell in cells if type(cell) is int]
        fits = given_ == {int} and all(-(2**63) <= cell < 2**63 for cell in integers)
        exact = given_ and given_ <= {int, float} and float in given_ and all(abs(cell) <= 2**53 for cell in integers)
        assert given_ != {bool}
        assert not fits
        assert not exact
    else:
        found = pa.array(cells, of).to_pylist()
        assert found == cells
        assert float in given_ or [type(cell) for cell in found] == [type(cell) for cell in cells]
