"""Storage of unit vectors: float32 or float16 values, int8 codes for fast approximate scores, or int8 codes alone.

int8 quantization is symmetric with one scale per row: v ≈ scale · code, where the largest component has the code ±127. Two bounds are
measured while the vectors are written: `code_error`, how far any code is from its vector, and `max_norm`, the length of the longest vector.
With them a folder opens without a pass over its rows, and a search can prove which rows its approximate scores rule out. Small sets have no
codes, because one matrix product over their values is fast enough.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from xsap.errors import ArtifactError, DataError

MIN_ROWS_WITH_CODES = 65_536  # from so many rows on, float32 and float16 vectors have int8 codes too
FILES = ("vectors.npy", "scan.npy", "scales.npy", "bounds.npy")
COMPONENTS_PER_PART = 1 << 20  # components converted at once, so that they stay in the processor's cache
_BOUND_MARGIN = 1e-3  # relative; bounds are computed in float32, whose norms have a relative error below d · 2⁻²⁴

VectorDtype = Literal["float32", "float16", "int8"]
Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Vectors:
    """n vectors of d components. All arrays are C-contiguous and finite, in memory or memory-mapped.

    Attributes:
        values: (n, d) float32 or float16; None if only int8 codes are stored.
        codes: (n, d) int8; None for small sets.
        scales: (n,) float32, one per row of `codes`.
        code_error: Upper bound of ‖v − scale · code‖ over all rows; 0 without `values`, where the vectors are scale · code.
        max_norm: Upper bound of ‖v‖ over all rows.
    """

    values: NDArray[Any] | None
    codes: NDArray[np.int8] | None
    scales: Floats | None
    code_error: float
    max_norm: float

    @classmethod
    def from_array(
        cls,
        array: Floats,
        vector_dtype: VectorDtype = "float32",
        *,
        min_rows_with_codes: int | None = None,
        components_per_part: int = COMPONENTS_PER_PART,
    ) -> "Vectors":
        """Convert an array of vectors in memory.

        Args:
            array: (n, d) float32. It is not copied if it is C-contiguous and stays float32.
            vector_dtype: How the vectors are stored.
            min_rows_with_codes: From how many rows on values have int8 codes too; `MIN_ROWS_WITH_CODES` if None.
            components_per_part: How many components are converted at once.

        Raises:
            DataError: A component is not finite in `vector_dtype`.
        """
        n, d = array.shape
        coded = _has_codes(n, vector_dtype, min_rows_with_codes)
        array = np.ascontiguousarray(array, np.float32)
        values = array if vector_dtype == "float32" else None
        if vector_dtype == "float16":
            values = np.empty((n, d), np.float16)
        codes, scales = (np.empty((n, d), np.int8), np.empty(n, np.float32)) if coded else (None, None)
        bounds = np.zeros(2)
        for start, rows in _parts(array, components_per_part):
            stored, row_codes, row_scales = _convert(rows, start, vector_dtype, coded, bounds)
            if values is not None and values is not array:
                values[start : start + len(rows)] = stored
            if codes is not None and scales is not None:
                codes[start : start + len(rows)], scales[start : start + len(rows)] = row_codes, row_scales
        return cls(values, codes, scales, *bounds.tolist())

    @classmethod
    def open(cls, folder: Path | str, *, min_rows_with_codes: int | None = None) -> "Vectors":
        """Memory-map what `write_vectors` wrote. Shapes and types are checked; rows are not read.

        Args:
            folder: The folder that has the files.
            min_rows_with_codes: As `write_vectors` was given it.

        Raises:
            ArtifactError: A file is missing or damaged, or the files do not fit together.
        """
        folder = Path(folder)
        values, codes, scales = (_open_mapped(folder / f"{name}.npy") for name in ("vectors", "scan", "scales"))
        bounds = _open_mapped(folder / "bounds.npy")
        large = codes if values is None else values
        sound = (
            bounds is not None
            and bounds.dtype == np.float64
            and bounds.shape == (2,)
            and bool((np.isfinite(bounds) & (bounds >= 0)).all())
        )
        sound &= large is not None and large.ndim == 2 and (codes is None) == (scales is None)
        if sound and large is not None:
            sound &= values is None or values.dtype in (np.float32, np.float16)
            sound &= codes is None or (codes.dtype == np.int8 and codes.shape == large.shape)
            sound &= scales is None or (scales.dtype == np.float32 and scales.shape == large.shape[:1])
            vector_dtype: VectorDtype = "int8" if values is None else "float32"
            sound &= (codes is not None) == _has_codes(len(large), vector_dtype, min_rows_with_codes)
        if not sound or bounds is None:
            found = ", ".join(
                f"{name} {'missing' if array is None else f'{array.dtype}{list(array.shape)}'}"
                for name, array in {"vectors": values, "scan": codes, "scales": scales, "bounds": bounds}.items()
            )
            raise ArtifactError(
                f"{folder}: the files of its vectors don't fit together (found {found}); the folder is damaged; create it again"
            )
        return cls(values, codes, scales, *bounds.tolist())

    def __len__(self) -> int:
        return len(self._large)

    @property
    def dimension(self) -> int:
        """Components of a vector."""
        return int(self._large.shape[1])

    @property
    def vector_dtype(self) -> VectorDtype:
        """How the vectors that `take` reads are stored."""
        return "int8" if self.values is None else "float16" if self.values.dtype == np.float16 else "float32"

    def take(self, rows: Rows | slice) -> Floats:
        """(m, d) float32 vectors of the given rows; exact scores are computed on them."""
        if self.values is not None:
            return np.asarray(self.values[rows], np.float32)
        assert self.codes is not None
        assert self.scales is not None
        return self.codes[rows] * self.scales[rows][:, None]

    def between(self, start: int, stop: int) -> "Vectors":
        """The rows from `start` up to `stop`, not copied, with the bounds of all rows."""
        part = slice(start, stop)
        return replace(
            self,
            values=None if self.values is None else self.values[part],
            codes=None if self.codes is None else self.codes[part],
            scales=None if self.scales is None else self.scales[part],
        )

    def metadata(self) -> dict[str, Any]:
        """The entries of a manifest about these vectors."""
        return {
            "vector_dtype": self.vector_dtype,
            "count": len(self),
            "dimension": self.dimension,
            "int8_error": self.code_error,
        }

    @property
    def _large(self) -> NDArray[Any]:
        large = self.codes if self.values is None else self.values
        assert large is not None
        return large


@contextmanager
def write_vectors(
    folder: Path | str,
    n: int,
    d: int,
    vector_dtype: VectorDtype,
    *,
    min_rows_with_codes: int | None = None,
    components_per_part: int = COMPONENTS_PER_PART,
) -> Iterator[Callable[[Floats], None]]:
    """Write vectors into the folder of an artifact, one block after another; memory does not grow with n.

    Args:
        folder: An existing folder, such as that of an artifact before it is published.
        n: How many vectors will be written in all.
        d: Components of a vector.
        vector_dtype: How the vectors are stored.
        min_rows_with_codes: From how many rows on values have int8 codes too; `MIN_ROWS_WITH_CODES` if None.
        components_per_part: How many components are converted at once.

    Yields:
        A function that takes the next block, (m, d) float32, and raises DataError for a component that is not finite in `vector_dtype`.
    """
    folder, coded, bounds, done = Path(folder), _has_codes(n, vector_dtype, min_rows_with_codes), np.zeros(2), 0
    files: dict[str, tuple[str, tuple[int, ...]]] = (
        {} if vector_dtype == "int8" else {"vectors": (vector_dtype, (n, d))}
    )
    files |= {"scan": ("int8", (n, d)), "scales": ("float32", (n,))} if coded else {}
    with ExitStack() as stack:
        streams = {name: stack.enter_context((folder / f"{name}.npy").open("wb")) for name in files}
        for name, (dtype, shape) in files.items():
            header = {"descr": np.dtype(dtype).newbyteorder("<").str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(streams[name], header)

        def write(block: Floats) -> None:
            nonlocal done
            assert block.ndim == 2, f"expected a matrix, found {block.ndim} dimensions"
            assert block.shape[1] == d, f"expected {d} components, found {block.shape[1]}"
            for start, rows in _parts(block, components_per_part):
                stored, codes, scales = _convert(rows, done + start, vector_dtype, coded, bounds)
                for name, part in (("vectors", stored), ("scan", codes), ("scales", scales)):
                    if name in streams:
                        streams[name].write(np.ascontiguousarray(part).data)
            done += len(block)

        yield write
    assert done == n, f"{n:,} vectors were announced, {done:,} came"
    np.save(folder / "bounds.npy", bounds, allow_pickle=False)


def quantize(rows: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Symmetric int8 quantization with one scale per row.

    Args:
        rows: (n, d) float32.

    Returns:
        (n, d) int8 codes in −127…127 and (n,) float32 scales ≥ 0, such that rows ≈ scales · codes. A zero row has scale 0.
    """
    scales = np.abs(rows).max(1, initial=0) / np.float32(127)
    codes = rows / np.where(scales > 0, scales, np.float32(1))[:, None]
    np.rint(codes, out=codes)
    return np.clip(codes, -127, 127, out=codes).astype(np.int8), scales


def check_finite(vectors: Floats, what: str, *, first_row: int = 0) -> None:
    """Raise DataError if a component is not a finite number.

    Args:
        vectors: (n, d) floats; read in blocks, so they may be a memory map.
        what: What they are, as the error calls them.
        first_row: The number of the first one.
    """
    for start, rows in _parts(vectors, 1 << 23):
        bad = ~np.isfinite(rows).all(1)
        if bad.any():
            row = first_row + start + int(bad.argmax())
            raise DataError(f"{what} must be finite numbers; found another in row {row:,}. Is the model damaged?")


def _has_codes(n: int, vector_dtype: VectorDtype, min_rows: int | None) -> bool:
    return vector_dtype == "int8" or n >= (MIN_ROWS_WITH_CODES if min_rows is None else min_rows)


def _parts(block: NDArray[Any], components: int) -> Iterator[tuple[int, Floats]]:
    step = max(1, components // max(1, block.shape[1]))
    for start in range(0, len(block), step):
        yield start, np.asarray(block[start : start + step], np.float32)


def _convert(
    rows: Floats, first: int, vector_dtype: VectorDtype, coded: bool, bounds: NDArray[np.float64]
) -> tuple[NDArray[Any], ...]:
    """Convert (m, d) rows, of which the first is row `first`, and raise `bounds`, (code_error, max_norm), where they exceed them.

    Returns the rows as they are stored, their codes, and their scales; both are empty unless `coded`.
    """
    with np.errstate(over="ignore"):  # what exceeds float16 becomes infinite, and is refused below
        stored = rows.astype("float32" if vector_dtype == "int8" else vector_dtype, copy=False)
    check_finite(stored, "vectors", first_row=first)
    vectors = stored.astype(np.float32, copy=False)
    codes, scales = quantize(vectors) if coded else (np.empty((0, 0), np.int8), np.empty(0, np.float32))
    error = 0.0
    if vector_dtype == "int8":
        vectors = codes * scales[:, None]
    elif coded:  # the difference is rounded too
        error = _max_norm(vectors - codes * scales[:, None]) + 1e-6 * _max_norm(vectors)
    bounds[:] = np.maximum(bounds, np.multiply((error, _max_norm(vectors)), 1 + _BOUND_MARGIN))
    return stored, codes, scales


def _max_norm(rows: Floats) -> float:
    """The greatest norm of a row, in float32; above zero, because the squares of the smallest numbers underflow to 0."""
    return float(np.sqrt(np.einsum("ij,ij->i", rows, rows).max(initial=1e-32)))


def _open_mapped(file: Path) -> NDArray[Any] | None:
    """Memory-map an .npy file; None if it does not exist. Raises ArtifactError if it is damaged or cut short."""
    if not file.is_file():
        return None
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
        sound = isinstance(array, np.ndarray) and array.flags.c_contiguous
    except Exception:  # a damaged header raises whatever Python's parser does
        sound = False
    if not sound:
        raise ArtifactError(f"{file}: not a whole .npy file; the folder is damaged; create it again")
    return np.asarray(array)
