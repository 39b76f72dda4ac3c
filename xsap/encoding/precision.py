"""The number format that encodes fastest on this computer with answers like those of float32: what `--dtype auto` stands for.

Which of float32, bfloat16 and int8 is fastest depends on the processor and on the model, and how much they change answers
depends on the model. So all that the processor supports are tried on `SAMPLE_NAMES`, and the result is kept in the
user's cache folder, under a hash of what it depends on. An encoder's dtype is always one of the tried ones, never `auto`.
"""

import hashlib
import json
import logging
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from xsap.artifacts import write_atomically
from xsap.encoding.convert_weights import cache_folder
from xsap.encoding.encoder import Dtype, Encoder
from xsap.encoding.int8 import Replacement, int8_is_faster, int8_layers
from xsap.encoding.sample_names import SAMPLE_NAMES
from xsap.errors import ConfigError, XsapError

DtypeChoice = Literal["float32", "bfloat16", "float16", "int8", "auto"]
TRIAL_SECONDS = 0.5
MIN_COSINE = 0.999  # of a name's vector with the one in float32
MAX_TIE = 1e-3  # another name may be the nearest one if its cosine in float32 is this close to the largest
MIN_SPEEDUP = 1.1  # vectors are not changed for less than this
VARIABLE = "XSAP_DTYPE"
TRIAL_METHOD = 2  # raised whenever a trial may have another result, so that kept ones are not used
_DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16", "float16", "int8")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DtypeTrial:
    """What one dtype does with the sample.

    Attributes:
        names_per_second: Speed of encoding.
        cosine: The smallest cosine of a vector with the one in float32.
        same_nearest: Whether all names have the same nearest name as in float32.
    """

    names_per_second: float
    cosine: float
    same_nearest: bool

    @property
    def agrees(self) -> bool:
        """Whether vectors and nearest names are those of float32, but for rounding."""
        return self.cosine >= MIN_COSINE and self.same_nearest


def open_encoder_in(dtype: DtypeChoice, open_in: Callable[[Dtype], Encoder]) -> Encoder:
    """Open an encoder in a dtype, or for `auto` in the fastest one that agrees with float32.

    Args:
        dtype: The dtype, or `auto`.
        open_in: Opens the encoder in a dtype.

    Raises:
        ConfigError: The environment variable XSAP_DTYPE, which replaces the trial, names no usable dtype.
    """
    if dtype != "auto":
        return open_in(dtype)
    if stated := os.environ.get(VARIABLE):
        if stated not in _DTYPES:
            raise ConfigError(f"{VARIABLE} must be {', '.join(_DTYPES[:-1])} or {_DTYPES[-1]}; found '{stated}'")
        return open_in(next(each for each in _DTYPES if each == stated))
    encoder = open_in("float32")
    use_fastest_dtype(encoder)
    return encoder


def use_fastest_dtype(encoder: Encoder, *, seconds: float = TRIAL_SECONDS) -> Dtype:
    """Set an encoder in float32 to the fastest dtype that agrees with it; an encoder in int8 can't be saved or trained.

    Args:
        encoder: The encoder, as `Encoder.from_pretrained` opened it.
        seconds: How long dtypes are timed; one that is slow is timed once.

    Returns:
        The dtype, which is from now on the encoder's.
    """
    candidates = supported_dtypes(next(encoder.parameters()).device)
    chosen, file = candidates[0], _cache_file(encoder)
    if len(candidates) > 1:
        kept = _read(file, candidates)
        if kept is None:
            results = try_dtypes(encoder, candidates, seconds=seconds)
            chosen = fastest(results)
            _write(file, chosen, results)
            logger.info("--dtype auto: %s", describe_choice(chosen, results))
        else:
            chosen = kept
            logger.debug("--dtype auto: %s, from %s", chosen, file)
    if chosen == "int8":
        for each in int8_layers(encoder.transformer, lambda: encoder.encode(SAMPLE_NAMES)):
            each.use_int8()
    encoder.dtype = chosen
    return chosen


def supported_dtypes(device: torch.device) -> list[Dtype]:
    """float32 and the dtypes that may be faster on a device."""
    if device.type != "cpu":
        return ["float32", "bfloat16"]
    dtypes: list[Dtype] = ["float32"]
    dtypes += [] if bfloat16_is_slow() else ["bfloat16"]
    dtypes += ["int8"] if int8_is_faster() else []
    return dtypes


def bfloat16_is_slow(size: int = 256, rounds: int = 3) -> bool:
    """Whether a bfloat16 matrix product takes longer than a float32 one here: CPUs without such instructions emulate it."""
    seconds = []
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(size, size, dtype=dtype)
        best = math.inf
        for _ in range(rounds):
            start = time.perf_counter()
            matrix @ matrix
            best = min(best, time.perf_counter() - start)
        seconds.append(best)
    return seconds[1] > seconds[0]


def try_dtypes(
    encoder: Encoder,
    dtypes: Sequence[Dtype],
    *,
    seconds: float = TRIAL_SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Dtype, DtypeTrial]:
    """Encode `SAMPLE_NAMES` in each dtype, interleaved, and compare vectors and speed.

    Args:
        encoder: An encoder in float32, which it is again afterward.
        dtypes: float32 and others.
        seconds: How long they are timed; each at least once.
        clock: Seconds from any fixed moment.
    """
    layers = int8_layers(encoder.transformer, lambda: encoder.encode(SAMPLE_NAMES)) if "int8" in dtypes else []
    vectors: dict[Dtype, NDArray[np.float32]] = {}
    best: dict[Dtype, float] = {}
    for dtype in dtypes:
        with _in_dtype(encoder, dtype, layers):
            vectors[dtype] = encoder.encode(SAMPLE_NAMES)
    until = clock() + seconds
    while not best or clock() < until:
        for dtype in dtypes:
            with _in_dtype(encoder, dtype, layers):
                start = clock()
                encoder.encode(SAMPLE_NAMES)
                best[dtype] = min(best.get(dtype, math.inf), clock() - start)
    return {
        dtype: DtypeTrial(len(SAMPLE_NAMES) / max(best[dtype], 1e-9), *_agreement(vectors["float32"], vectors[dtype]))
        for dtype in dtypes
    }


def fastest(results: dict[Dtype, DtypeTrial]) -> Dtype:
    """The fastest dtype that agrees with float32, if it is noticeably faster than that."""
    chosen: Dtype = "float32"
    least = MIN_SPEEDUP * results[chosen].names_per_second
    for dtype, result in results.items():
        if result.agrees and result.names_per_second >= least:
            chosen, least = dtype, result.names_per_second
    return chosen


def describe_choice(chosen: Dtype, results: dict[Dtype, DtypeTrial]) -> str:
    """One line: the chosen dtype and what each does."""
    parts = []
    for dtype, result in results.items():
        differs = "" if result.agrees else f", other answers (cosine {result.cosine:.4f})"
        parts.append(f"{dtype} {result.names_per_second:,.0f} names/s{differs}")
    return f"{chosen} ({'; '.join(parts)})"


def _agreement(expected: NDArray[np.float32], found: NDArray[np.float32]) -> tuple[float, bool]:
    """The smallest cosine of a row with its counterpart, and whether each row has the same nearest other row, but for ties."""
    if not np.isfinite(found).all():
        return -1.0, False
    nearest = _cosines(found).argmax(1)
    cosines = _cosines(expected)
    same = cosines[np.arange(len(cosines)), nearest] >= cosines.max(1) - MAX_TIE
    return float((expected * found).sum(1).min()), bool(same.all())


def _cosines(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    cosines: NDArray[np.float32] = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    return cosines


@contextmanager
def _in_dtype(encoder: Encoder, dtype: Dtype, layers: Sequence[Replacement]) -> Iterator[None]:
    """The encoder in another dtype than float32, during the block."""
    used = layers if dtype == "int8" else []
    for each in used:
        each.use_int8()
    encoder.dtype = dtype
    try:
        yield
    finally:
        encoder.dtype = "float32"
        for each in used:
            each.use_float()


def _cache_file(encoder: Encoder) -> Path:
    """Where the result for this encoder on this computer is kept."""
    device = next(encoder.parameters()).device
    inputs = {
        "method": TRIAL_METHOD,
        "model": encoder.content_hash,
        "config": encoder.config.to_dict(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": _processor(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    return cache_folder() / "dtype" / f"{hashlib.sha256(json.dumps(inputs).encode()).hexdigest()}.json"


def _processor() -> list[str]:
    """The processor's model and what it supports, as far as the system says."""
    stated = [platform.machine(), torch.backends.cpu.get_cpu_capability()]
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines():
            stated += [line] if line.startswith(("model name", "flags", "Features", "CPU part")) else []
    return stated


def _read(file: Path, candidates: Sequence[Dtype]) -> Dtype | None:
    """The kept result; None without a usable one."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))["dtype"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return next((dtype for dtype in candidates if dtype == kept), None)


def _write(file: Path, chosen: Dtype, results: dict[Dtype, DtypeTrial]) -> None:
    """Keep a result; where the folder cannot be written, the next command tries again."""
    content: dict[str, Any] = {"dtype": chosen, "trial": {dtype: asdict(result) for dtype, result in results.items()}}
    with suppress(OSError, XsapError), write_atomically(file) as stream:
        stream.write(json.dumps(content, indent=1) + "\n")
