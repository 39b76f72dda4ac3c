"""An index's vectors while they are being made: in files of as many rows each, so that none is encoded twice.

A file holds float32 numbers, row by row, and ends with an XXH3-128 over them, their place and the plan that they follow from. So a file that
is cut short, damaged, of another build or in another's place is none. Files are written aside and renamed: a build may be killed at any
time, and several processes may fill one folder.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from xsap.artifacts import write_atomically
from xsap.linking.vectors import Storage

_DIGEST = 16  # bytes
_PLAN = "plan.json"

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Plan:
    """All that vectors follow from. terminology, update: content hashes. model: `Model.facts()`. languages: None for all.

    names: how many vectors of `dimension` components; rows: how many of them a shard has. storage: how they will be stored.
    """

    terminology: str
    model: dict[str, Any]
    languages: list[str] | None
    update: str | None
    names: int
    dimension: int
    rows: int
    storage: Storage

    @property
    def shards(self) -> int:
        """How many there are."""
        return -(-self.names // self.rows)

    def of(self, shard: int) -> slice:
        """The rows of a shard, which are numbered from 0."""
        return slice(shard * self.rows, min(self.names, (shard + 1) * self.rows))

    def facts(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    def fingerprint(self) -> bytes:
        """The sha256 of all of it."""
        return hashlib.sha256(json.dumps(self.facts(), sort_keys=True).encode()).digest()


def file_of(folder: Path, shard: int) -> Path:
    """Where a shard is."""
    return folder / f"{shard:05}.shard"


def open_shards(folder: Path, plan: Plan) -> None:
    """Make a folder ready for a plan: one of another plan is emptied, and half-written files go."""
    file = folder / _PLAN
    text = json.dumps(plan.facts(), indent=1) + "\n"
    if not (file.is_file() and file.read_bytes() == text.encode()):
        shutil.rmtree(folder, ignore_errors=True)
        with write_atomically(file) as stream:
            stream.write(text)
    for aside in folder.glob(".*.new"):
        aside.unlink()


def write_shard(folder: Path, plan: Plan, shard: int, vectors: Floats) -> None:
    """vectors: the shard's rows, (m, dimension)."""
    rows = plan.of(shard)
    assert vectors.shape == (rows.stop - rows.start, plan.dimension), f"shard {shard} of {vectors.shape}"
    data = np.ascontiguousarray(vectors, "<f4").tobytes()
    with write_atomically(file_of(folder, shard), binary=True) as stream:
        stream.write(data)
        stream.write(_digest(plan, shard, data))


def read_shard(folder: Path, plan: Plan, shard: int) -> Floats | None:
    """(m, dimension); None if the shard isn't there, or isn't whole."""
    file, rows = file_of(folder, shard), plan.of(shard)
    size = (rows.stop - rows.start) * plan.dimension * 4
    if not file.is_file() or file.stat().st_size != size + _DIGEST:
        return None
    with file.open("rb") as stream:
        data = np.fromfile(stream, "<f4", size // 4)
        digest = stream.read()
    return data.reshape(-1, plan.dimension) if digest == _digest(plan, shard, data.data) else None


def missing(folder: Path, plan: Plan, shards: Iterable[int]) -> list[int]:
    """Those that are still to be made."""
    return [shard for shard in shards if read_shard(folder, plan, shard) is None]


def _digest(plan: Plan, shard: int, data: bytes | memoryview) -> bytes:
    digest = xxhash.xxh3_128(plan.fingerprint() + shard.to_bytes(8, "little"))
    digest.update(data)
    return digest.digest()
