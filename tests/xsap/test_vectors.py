"""Stored vectors, in memory and in files, against conversions by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.examples import examples
from xsap.errors import ArtifactError, DataError
from xsap.search.vectors import Vectors, quantize, write_vectors

VECTOR_DTYPES = ("float32", "float16", "int8")
FROM_TEN = {"min_rows_with_codes": 10}


def units(seed, n, d):
    vectors = np.random.default_rng(seed).standard_normal((n, d), dtype=np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)


def write(folder, array, vector_dtype, blocks=(), **sizes):
    folder.mkdir(exist_ok=True)
    with write_vectors(folder, *array.shape, vector_dtype, **FROM_TEN, **sizes) as put:
        for block in np.split(array, blocks):
            put(block)
    return folder


def test_quantize_gives_the_codes_computed_by_hand():
    rows = np.array([[1, -0.5, 0.25, 0], [0, 0, 0, 0], [-2.54, 1.27, 0.01, -0.014]], np.float32)
    codes, scales = quantize(rows)
    assert codes.tolist() == [[127, -64, 32, 0], [0, 0, 0, 0], [-127, 64, 0, -1]]  # 63.5 and 31.75; half to even
    np.testing.assert_allclose(scales, [1 / 127, 0, 0.02], rtol=1e-6)
    assert codes.dtype == np.int8
    assert scales.dtype == np.float32


@settings(max_examples=examples(100), deadline=None)
@given(
    values=st.lists(
        st.lists(st.floats(-1, 1, width=32) | st.sampled_from([0, 1e-30, 1e-45, -1]), min_size=3, max_size=3),
        min_size=1,
        max_size=8,
    ),
    vector_dtype=st.sampled_from(VECTOR_DTYPES),
)
def test_bounds_hold_for_every_row_and_are_tight(values, vector_dtype):
    array = np.array(values, np.float32)
    vectors = Vectors.from_array(array, vector_dtype, min_rows_with_codes=1)
    exact = vectors.take(slice(None)).astype(np.float64)
    assert np.linalg.norm(exact, axis=1).max() <= vectors.max_norm
    coded = vectors.codes.astype(np.float64) * vectors.scales.astype(np.float64)[:, None]
    lost = np.linalg.norm(exact - coded, axis=1).max()
    if vector_dtype == "int8":
        assert vectors.code_error == 0
        assert lost <= 1e-7 * vectors.max_norm  # the one rounding to float32
    else:
        assert lost <= vectors.code_error
        assert vectors.code_error <= 1.01 * lost + 1e-5 * vectors.max_norm + 1e-15  # and not much too high
    assert np.abs(exact - array).max() <= {"float32": 0, "float16": 2**-11, "int8": 0.51 / 127}[vector_dtype]


@pytest.mark.parametrize("vector_dtype", VECTOR_DTYPES)
@pytest.mark.parametrize("n", [0, 1, 9, 10, 37])
def test_vectors_written_in_blocks_equal_those_in_memory(tmp_path, vector_dtype, n):
    array, four_rows = units(n, n, 6), {"components_per_part": 24}
    expected = Vectors.from_array(array, vector_dtype, **FROM_TEN, **four_rows)
    folder = write(tmp_path, array, vector_dtype, [n // 3, n // 3, n // 2], **four_rows)
    found = Vectors.open(folder, **FROM_TEN)
    assert (len(found), found.dimension, found.vector_dtype) == (n, 6, vector_dtype)
    assert (found.codes is not None) == (vector_dtype == "int8" or n >= 10)
    assert (found.values is None) == (vector_dtype == "int8")
    for name in ("values", "codes", "scales"):
        one, other = getattr(found, name), getattr(expected, name)
        assert (one is None) == (other is None)
        if one is not None:
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
    assert (found.code_error, found.max_norm) == pytest.approx((expected.code_error, expected.max_norm), rel=1e-5)
    assert found.metadata() == {
        "vector_dtype": vector_dtype,
        "count": n,
        "dimension": 6,
        "int8_error": found.code_error,
    }


def test_take_returns_the_stored_values(tmp_path):
    array, rows = units(0, 12, 5), np.array([7, 0, 7, 11])
    np.testing.assert_array_equal(Vectors.from_array(array).take(rows), array[rows])
    np.testing.assert_array_equal(
        Vectors.from_array(array, "float16").take(slice(2, 5)), array.astype(np.float16)[2:5].astype(np.float32)
    )
    codes, scales = quantize(array)
    coded = Vectors.open(write(tmp_path, array, "int8"), **FROM_TEN)
    assert coded.take(rows).dtype == np.float32
    assert coded.take(rows).tolist() == [[np.float32(c) * scales[r] for c in codes[r]] for r in rows]


def test_vectors_that_are_not_finite_are_refused(tmp_path):
    array = units(0, 20, 3)
    array[13, 1] = np.nan
    for vector_dtype in VECTOR_DTYPES:
        with pytest.raises(
            DataError, match=r"^vectors must be finite numbers; found another in row 13\. Is the model damaged\?$"
        ):
            Vectors.from_array(array, vector_dtype)
        with pytest.raises(DataError, match="row 13"):
            write(tmp_path, array, vector_dtype, [11])
    array[13, 1] = 1e6
    assert np.isfinite(Vectors.from_array(array).max_norm)
    with pytest.raises(DataError, match="row 13"):
        Vectors.from_array(array, "float16")


def test_another_number_of_rows_or_components_than_announced_is_refused(tmp_path):
    with (
        pytest.raises(AssertionError, match="7 vectors were announced, 3 came"),
        write_vectors(tmp_path, 7, 2, "float32") as put,
    ):
        put(units(0, 3, 2))
    with (
        pytest.raises(AssertionError, match="expected 2 components, found 4"),
        write_vectors(tmp_path, 7, 2, "float32") as put,
    ):
        put(units(0, 3, 4))


def test_open_maps_the_files_without_reading_rows(tmp_path):
    write(tmp_path, units(0, 30, 4), "float16")
    for vectors in (Vectors.open(tmp_path, **FROM_TEN), Vectors.open(str(tmp_path), **FROM_TEN)):
        for array in (vectors.values, vectors.codes, vectors.scales):
            base = array
            while not isinstance(base, np.memmap):
                base = base.base  # ends in an AttributeError if nothing is mapped
            assert not array.flags.writeable


def replaced(array):
    return lambda file: np.save(file, array)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("vectors", lambda file: file.write_bytes(b""), "vectors.npy: not a whole .npy file"),
        ("scan", lambda file: file.write_bytes(file.read_bytes()[:-1]), "scan.npy: not a whole .npy file"),
        (
            "vectors",
            lambda file: file.write_bytes(file.read_bytes().replace(b"descr", b"desc\x00")),
            "not a whole .npy file",
        ),
        (
            "vectors",
            lambda file: file.write_bytes(file.read_bytes().replace(b"(30, 4)", b"(30,(4)")),
            "not a whole .npy file",
        ),
        (
            "vectors",
            lambda file: file.write_bytes(file.read_bytes().replace(b"False", b"True ")),
            "not a whole .npy file",
        ),
        ("scales", lambda file: file.unlink(), r"scan int8\[30, 4\], scales missing"),
        ("bounds", lambda file: file.unlink(), "bounds missing"),
        ("scan", replaced(np.zeros((30, 5), np.int8)), r"scan int8\[30, 5\]"),
        ("scan", replaced(np.zeros((30, 4), np.uint8)), "scan uint8"),
        ("scales", replaced(np.zeros(29, np.float32)), r"scales float32\[29\]"),
        ("scales", replaced(np.zeros(30)), "scales float64"),
        ("vectors", replaced(np.zeros((30, 4))), "vectors float64"),
        ("vectors", replaced(np.zeros(30, np.float32)), r"vectors float32\[30\]"),
        ("bounds", replaced(np.array([np.nan, 1])), "don't fit together"),
        ("bounds", replaced(np.array([-0.1, 1])), "don't fit together"),
        ("bounds", replaced(np.zeros(3)), "don't fit together"),
        ("vectors", replaced(np.array([None] * 3)), "not a whole .npy file"),
    ],
)
def test_damaged_files_are_refused_in_one_line(tmp_path, name, damage, message):
    write(tmp_path, units(0, 30, 4), "float32")
    damage(tmp_path / f"{name}.npy")
    with pytest.raises(ArtifactError, match=message) as caught:
        Vectors.open(tmp_path, **FROM_TEN)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_open_requires_codes_from_so_many_rows_on(tmp_path):
    write(tmp_path, units(0, 30, 4), "float32")
    for name in ("scan", "scales"):
        (tmp_path / f"{name}.npy").unlink()
    with pytest.raises(ArtifactError, match="scan missing"):
        Vectors.open(tmp_path, **FROM_TEN)
    with pytest.raises(ArtifactError, match="vectors missing"):
        Vectors.open(tmp_path / "nowhere", **FROM_TEN)
