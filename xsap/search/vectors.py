"""Unit vectors as they are stored: in float32 or float16 for exact scores, in int8 for a fast first look, or in int8 alone.

int8 is symmetric, with a scale for each row: v ≈ scale · code, the greatest component at ±127. What makes a fast look safe is measured
while writing, row by row: `error` bounds how far any code is from its vector, `norm` how long any vector is. So the folder opens without a
pass over its rows, and a search can prove which of them it needn't look at. Small sets have no codes: one product over them is fast enough.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from xsap.errors import ArtifactError, DataError

SCAN_FROM = 65_536  # rows from which float32 and float16 sets have int8 codes, too
FILES = ("vectors.npy", "scan.npy", "scales.npy", "bounds.npy")
_AT_ONCE = 1 << 20  # components converted at once, so that they stay in the processor's cache
_MARGIN = 1e-3  # by how much a bound computed in float32 is raised; the error of a float32 norm is below d · 2⁻²⁴ of it

VectorDtype = Literal["float32", "float16", "int8"]
Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Vectors:
    """fine: (n, d) float32 or float16, None where int8 is all there is. scan: (n, d) int8 codes, None for small sets. scales: (n,) float32.

    error: at least ‖v − scale · code‖ of any row v; 0 where int8 is all there is, for then the vectors *are* scale · code. norm: at least
    ‖v‖ of any row. Arrays are C-contiguous and finite, in memory or mapped.
    """

    fine: NDArray[Any] | None
    scan: NDArray[np.int8] | None
    scales: Floats | None
    error: float
    norm: float

    @classmethod
    def of(cls, array: Floats, vector_dtype: VectorDtype = "float32") -> "Vectors":
        """(n, d) float32 → the same in memory; float32 is not copied. Raises DataError for a component that isn't finite in `vector_dtype`."""
        n, d = array.shape
        coded = _has_codes(n, vector_dtype)
        array = np.ascontiguousarray(array, np.float32)
        fine = (
            None if vector_dtype == "int8" else array if vector_dtype == "float32" else np.empty((n, d), vector_dtype)
        )
        scan, scales = (np.empty((n, d), np.int8), np.empty(n, np.float32)) if coded else (None, None)
        bounds = np.zeros(2)
        for start, rows in _parts(array):
            stored, codes, factors = _convert(rows, start, vector_dtype, coded, bounds)
            if fine is not None and fine is not array:
                fine[start : start + len(rows)] = stored
            if scan is not None and scales is not None:
                scan[start : start + len(rows)], scales[start : start + len(rows)] = codes, factors
        return cls(fine, scan, scales, *bounds.tolist())

    @classmethod
    def open(cls, folder: Path | str) -> "Vectors":
        """What `write_vectors` wrote, memory-mapped; shapes and types are checked, rows are not read. Raises ArtifactError."""
        folder = Path(folder)
        fine, scan, scales = (_mapped(folder / f"{name}.npy") for name in ("vectors", "scan", "scales"))
        bounds = _mapped(folder / "bounds.npy")
        large = scan if fine is None else fine
        sound = (
            bounds is not None
            and bounds.dtype == np.float64
            and bounds.shape == (2,)
            and bool((np.isfinite(bounds) & (bounds >= 0)).all())
        )
        sound &= large is not None and large.ndim == 2 and (scan is None) == (scales is None)
        if sound and large is not None:
            sound &= fine is None or fine.dtype in (np.float32, np.float16)
            sound &= scan is None or (scan.dtype == np.int8 and scan.shape == large.shape)
            sound &= scales is None or (scales.dtype == np.float32 and scales.shape == large.shape[:1])
            sound &= (scan is not None) == _has_codes(len(large), "int8" if fine is None else "float32")
        if not sound or bounds is None:
            found = ", ".join(
                f"{name} {'missing' if a is None else f'{a.dtype}{list(a.shape)}'}"
                for name, a in {"vectors": fine, "scan": scan, "scales": scales, "bounds": bounds}.items()
            )
            raise ArtifactError(
                f"{folder}: its vectors' files don't fit together (found {found}); the folder is damaged, make it again"
            )
        return cls(fine, scan, scales, *bounds.tolist())

    def __len__(self) -> int:
        return len(self._large)

    @property
    def dimension(self) -> int:
        """Components of a vector."""
        return int(self._large.shape[1])

    @property
    def vector_dtype(self) -> VectorDtype:
        """What `take` reads."""
        return "int8" if self.fine is None else "float16" if self.fine.dtype == np.float16 else "float32"

    def take(self, rows: Rows | slice) -> Floats:
        """(m, d) float32: these rows' vectors, on which exact scores are computed."""
        if self.fine is not None:
            return np.asarray(self.fine[rows], np.float32)
        assert self.scan is not None
        assert self.scales is not None
        return self.scan[rows] * self.scales[rows][:, None]

    def metadata(self) -> dict[str, Any]:
        """What a manifest says of them."""
        return {"storage": self.vector_dtype, "count": len(self), "dimension": self.dimension, "int8_error": self.error}

    @property
    def _large(self) -> NDArray[Any]:
        large = self.scan if self.fine is None else self.fine
        assert large is not None
        return large


@contextmanager
def write_vectors(folder: Path | str, n: int, d: int, vector_dtype: VectorDtype) -> Iterator[Callable[[Floats], None]]:
    """Write n vectors of d components into an artifact's folder while it is being filled: yields a function for one block after another.

    A block is (m, d) float32; it is converted in small parts and written through, so memory doesn't grow with n. `Vectors.open` opens the
    folder. The function raises DataError for a component that isn't finite in `vector_dtype`.
    """
    folder, coded, bounds, done = Path(folder), _has_codes(n, vector_dtype), np.zeros(2), 0
    files: dict[str, tuple[str, tuple[int, ...]]] = (
        {} if vector_dtype == "int8" else {"vectors": (vector_dtype, (n, d))}
    )
    files |= {"scan": ("int8", (n, d)), "scales": ("float32", (n,))} if coded else {}
    with ExitStack() as stack:
        streams = {name: stack.enter_context((folder / f"{name}.npy").open("wb")) for name in files}
        for name, (dtype, shape) in files.items():
            header = {"descr": np.dtype(dtype).newbyteorder("<").str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(streams[name], header)

        def put(block: Floats) -> None:
            nonlocal done
            assert block.ndim == 2, f"expected a matrix, found {block.ndim} dimensions"
            assert block.shape[1] == d, f"expected {d} components, found {block.shape[1]}"
            for start, rows in _parts(block):
                stored, codes, factors = _convert(rows, done + start, vector_dtype, coded, bounds)
                for name, part in (("vectors", stored), ("scan", codes), ("scales", factors)):
                    if name in streams:
                        streams[name].write(np.ascontiguousarray(part).data)
            done += len(block)

        yield put
    assert done == n, f"{n:,} vectors were announced, {done:,} came"
    np.save(folder / "bounds.npy", bounds, allow_pickle=False)


def quantize(rows: Floats) -> tuple[NDArray[np.int8], Floats]:
    """(n, d) float32 → (n, d) codes in −127…127 and (n,) float32 scales ≥ 0, so that rows ≈ scales · codes. A zero row has scale 0."""
    scales = np.abs(rows).max(1, initial=0) / np.float32(127)
    codes = rows / np.where(scales > 0, scales, np.float32(1))[:, None]
    np.rint(codes, out=codes)
    return np.clip(codes, -127, 127, out=codes).astype(np.int8), scales


def _has_codes(n: int, vector_dtype: VectorDtype) -> bool:
    return vector_dtype == "int8" or n >= SCAN_FROM


def _parts(block: Floats) -> Iterator[tuple[int, Floats]]:
    step = max(1, _AT_ONCE // max(1, block.shape[1]))
    for start in range(0, len(block), step):
        yield start, np.asarray(block[start : start + step], np.float32)


def _convert(
    rows: Floats, first: int, vector_dtype: VectorDtype, coded: bool, bounds: NDArray[np.float64]
) -> tuple[NDArray[Any], ...]:
    """Rows as they are stored, their codes and scales (empty if not `coded`); raises `bounds`, (error, norm), where they need it."""
    with np.errstate(over="ignore"):  # beyond float16 is infinite, and refused below
        stored = rows.astype("float32" if vector_dtype == "int8" else vector_dtype, copy=False)
    bad = ~np.isfinite(stored).all(1)
    if bad.any():
        raise DataError(
            f"vectors must be finite numbers; found another in row {first + int(bad.argmax()):,}. Is the model damaged?"
        )
    vectors = stored.astype(np.float32, copy=False)
    codes, scales = quantize(vectors) if coded else (np.empty((0, 0), np.int8), np.empty(0, np.float32))
    error = 0.0
    if vector_dtype == "int8":
        vectors = codes * scales[:, None]
    elif coded:
        error = _longest(vectors - codes * scales[:, None]) + 1e-6 * _longest(vectors)  # the difference is rounded, too
    norm = _longest(vectors)
    bounds[:] = np.maximum(bounds, np.multiply((error, norm), 1 + _MARGIN))
    return stored, codes, scales


def _longest(rows: Floats) -> float:
    """The greatest norm of a row, in float32; more than nothing, as the squares of the smallest numbers are 0 there."""
    return float(np.sqrt(np.einsum("ij,ij->i", rows, rows).max(initial=1e-32)))


def _mapped(file: Path) -> NDArray[Any] | None:
    """An .npy file, memory-mapped; None if it isn't there. Raises ArtifactError if it is no such file, or is cut short."""
    if not file.is_file():
        return None
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
        sound = isinstance(array, np.ndarray) and array.flags.c_contiguous
    except Exception:  # a damaged header raises whatever Python's parser does
        sound = False
    if not sound:
        raise ArtifactError(f"{file}: not a whole .npy file; the folder is damaged, make it again")
    return np.asarray(array)
