"""Vectors that a build does not have to encode: shards that are complete, parts to merge, an index that is reused.

A shard is a file of a fixed number of float32 vectors. It ends with an XXH3-128 over them, its number and the plan that
they follow from, so a file that is cut short, damaged, of another build or under another shard's name is not used.
Files are renamed when they are complete: a build may be killed at any time, and several processes may fill one folder. A part
of a build is a published folder of some shards; the first part also has the dictionary, so that merging needs neither
the terminology nor the model.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from xsap.artifacts import open_artifact, publish, read_manifest, read_unchanged, write_atomically
from xsap.errors import ArtifactError, ConfigError
from xsap.linking.dictionary import Dictionary, find_rows, hash_names
from xsap.linking.dictionary_files import DICTIONARY_FORMAT, check_dictionary_format, open_dictionary, write_dictionary
from xsap.linking.encoder_spec import EncoderSpec, record_location, resolve_location
from xsap.linking.index import Index
from xsap.linking.index_files import INDEX_KIND, UNREADABLE, index_hash
from xsap.search.vectors import Floats, Rows, VectorDtype, Vectors

PART_KIND = "index-shards"
_DIGEST_BYTES = 16
_PLAN = "plan.json"


@dataclass(frozen=True)
class Plan:
    """All that the vectors of a build follow from. Its keys in JSON are these names."""

    terminology_hash: str
    model: dict[str, Any]  # `EncoderSpec.metadata()`
    languages: list[str] | None  # of the names, sorted; None for all
    reused_hash: str | None  # of the index whose vectors are reused
    names: int
    dimension: int
    rows_per_shard: int
    vector_dtype: VectorDtype
    dictionary_format: int = DICTIONARY_FORMAT

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return -(-self.names // self.rows_per_shard)

    def rows_of(self, shard: int) -> range:
        """The rows of a shard; shards are numbered from 0."""
        return range(shard * self.rows_per_shard, min(self.names, (shard + 1) * self.rows_per_shard))

    def to_json(self) -> str:
        """The plan as a line of text; `Plan(**json.loads(text))` is the plan again."""
        return json.dumps(asdict(self), sort_keys=True) + "\n"


@dataclass(frozen=True)
class ShardFolder:
    """Shards of one plan in a folder."""

    path: Path
    plan: Plan

    def prepare(self) -> None:
        """Make the folder ready: shards of another plan are removed, and so are unfinished files."""
        file = self.path / _PLAN
        if not (file.is_file() and file.read_bytes() == self.plan.to_json().encode()):
            shutil.rmtree(self.path, ignore_errors=True)
            with write_atomically(file) as stream:
                stream.write(self.plan.to_json())
        for unfinished in self.path.glob(".*.new"):
            unfinished.unlink()

    def file(self, shard: int) -> Path:
        """Path of a shard."""
        return self.path / f"{shard:05}.shard"

    def write(self, shard: int, vectors: Floats) -> None:
        """Write the (m, dimension) vectors of a shard."""
        assert vectors.shape == (len(self.plan.rows_of(shard)), self.plan.dimension), f"{shard}: {vectors.shape}"
        data = np.ascontiguousarray(vectors, "<f4").tobytes()
        with write_atomically(self.file(shard), binary=True) as stream:
            stream.write(data)
            stream.write(self._digest(shard, data))

    def read(self, shard: int) -> Floats | None:
        """The (m, dimension) vectors of a shard; None if it is missing or damaged."""
        file, size = self.file(shard), len(self.plan.rows_of(shard)) * self.plan.dimension * 4
        if not file.is_file() or file.stat().st_size != size + _DIGEST_BYTES:
            return None
        with file.open("rb") as stream:
            data = np.fromfile(stream, "<f4", size // 4)
            digest = stream.read()
        return data.reshape(-1, self.plan.dimension) if digest == self._digest(shard, data.data) else None

    def missing(self, shards: Iterable[int]) -> list[int]:
        """Those of some shards that are missing or damaged."""
        return [shard for shard in shards if self.read(shard) is None]

    def _digest(self, shard: int, data: bytes | memoryview) -> bytes:
        plan = hashlib.sha256(self.plan.to_json().encode()).digest()
        digest = xxhash.xxh3_128(plan + shard.to_bytes(8, "little"))
        digest.update(data)
        return digest.digest()


@dataclass(frozen=True)
class Reused:
    """An index whose vectors are reused: bitwise identical from float32 or from the dtype of the new index."""

    path: Path
    content_hash: str
    rows: Rows  # (n,) the row of each new name in it, -1 for a name that it does not have
    reused: int  # new names that it has
    removed: int  # its names that are not among the new ones

    @classmethod
    def from_index(
        cls, path: Path | str, model: EncoderSpec, names: pa.ChunkedArray, vector_dtype: VectorDtype
    ) -> "Reused":
        """Look new names up in an index.

        Args:
            path: The index's folder.
            model: The encoder of the new index.
            names: (n,) its names.
            vector_dtype: How it stores vectors.

        Raises:
            ArtifactError: The index is damaged or of another model.
            ConfigError: It stores vectors less exactly.
        """
        index = Index.load(path)
        if model.metadata() != index.model.metadata():
            raise ArtifactError(
                f"{path} was built with another model, or with other options of this one; build without --reuse"
            )
        found = index.vectors.vector_dtype
        if found not in ("float32", vector_dtype):
            raise ConfigError(
                f"{path} stores {found}, from which {vector_dtype} can't be restored; "
                f"add --vector-dtype {found}, or build without --reuse"
            )
        assert index.content_hash is not None
        rows = find_rows(hash_names(names, model.policy), hash_names(index.names["name"], model.policy))
        reused = int((rows >= 0).sum())
        return cls(Path(path), index.content_hash, rows, reused, index.names.num_rows - reused)

    def take(self, rows: Rows) -> Floats:
        """(m, dimension) vectors of its rows; opened each time, as a memory map keeps its pages until it is closed.

        Raises ArtifactError if another index has taken its place.
        """
        if index_hash(read_manifest(self.path, INDEX_KIND)) != self.content_hash:
            raise ArtifactError(f"{self.path} was replaced while its vectors were reused; run the command again")
        return Vectors.open(self.path).take(rows)


def publish_part(
    out: Path,
    model: EncoderSpec,
    dictionary: Dictionary,
    source: ShardFolder,
    part: tuple[int, int],
    *,
    overwrite: bool,
) -> None:
    """Publish the shards of a part.

    Args:
        out: The folder to make.
        model: The encoder of the vectors.
        dictionary: Of the whole index; the first part gets it.
        source: Where the shards are.
        part: (i, n) for the i-th of n parts, from 1.
        overwrite: Whether to replace a folder that is there.

    Raises:
        ArtifactError: The folder exists and may not be replaced.
    """
    shards = shards_of(source.plan, part)
    metadata = {
        "part": part,
        "plan": asdict(source.plan),
        "shards": list(shards),
        "model_path": record_location(model.path, Path(out)),
        "dropped": dictionary.dropped,
        "dictionary_format": DICTIONARY_FORMAT,
    }
    with publish(out, PART_KIND, metadata, overwrite=overwrite) as folder:
        for shard in shards:
            shutil.copyfile(source.file(shard), folder / source.file(shard).name)
        if part[0] == 1:
            write_dictionary(folder, dictionary)


def open_parts(parts: Sequence[Path | str]) -> tuple[EncoderSpec, Plan, Dictionary, dict[int, ShardFolder]]:
    """Open all parts of one build, in any order; every hash is checked.

    Args:
        parts: Their folders.

    Returns:
        The encoder, the plan, the dictionary, and where each shard is.

    Raises:
        ArtifactError: A part is damaged, of another build, given twice or missing.
        ConfigError: No folder is given, or one of them twice.
    """
    if not parts:
        raise ConfigError("merge needs the folders of all parts of an index, found none")
    manifests = {Path(part): read_unchanged(part, partial(_open_part, Path(part))) for part in parts}
    if len(manifests) < len(parts):
        raise ConfigError("merge needs each part once, found one of the folders twice")
    (first, manifest), folders = next(iter(manifests.items())), dict[int, ShardFolder]()
    plan, number = Plan(**manifest["plan"]), manifest["part"][1]
    for folder, other in manifests.items():
        if differing := [key for key, value in other["plan"].items() if value != manifest["plan"][key]]:
            raise ArtifactError(
                f"{folder} is not of the same build as {first}: they differ in {', '.join(differing)}; "
                "build all parts with the same options"
            )
        for shard in other["shards"]:
            if shard in folders:
                raise ArtifactError(f"{folder} and {folders[shard].path} both have shard {shard}; give each part once")
            folders[shard] = ShardFolder(folder, plan)
    if len(folders) < plan.shards:
        raise ArtifactError(
            f"{plan.shards - len(folders):,} of {plan.shards:,} shards are in none of the parts; "
            f"add {_missing_parts(manifests, number)}"
        )
    home = folders[0].path
    try:
        model = EncoderSpec.from_metadata(plan.model, resolve_location(manifests[home]["model_path"], home))
        dictionary = open_dictionary(home, manifests[home]["dropped"])
    except (*UNREADABLE, pa.ArrowException):
        raise ArtifactError(
            f"{home}: its files and manifest don't fit together; it is damaged; create it again"
        ) from None
    return model, plan, dictionary, folders


def _open_part(path: Path) -> dict[str, Any]:
    """The manifest of a part, after checks of every hash and of what `open_parts` reads of it. Raises ArtifactError."""
    manifest = open_artifact(path, PART_KIND)
    check_dictionary_format(manifest, path)
    try:
        plan, (part, number), shards = Plan(**manifest["plan"]), manifest["part"], manifest["shards"]
        counts = (plan.names, plan.dimension, plan.rows_per_shard, part, number)
        sound = all(type(count) is int and count > 0 for count in counts) and 0 < number <= 10**6
        sound = sound and shards == list(islice(shards_of(plan, (part, number)), len(manifest["files"]) + 1))
        sound = sound and {"model_path", "dropped"} <= manifest.keys()
    except UNREADABLE:
        sound = False
    if not sound:
        raise ArtifactError(f"{path}: its manifest is not that of a part of an index; it is damaged; create it again")
    return manifest


def _missing_parts(manifests: Mapping[Path, Mapping[str, Any]], number: int) -> str:
    given = {manifest["part"][0] for manifest in manifests.values() if manifest["part"][1] == number}
    return "part " + ", ".join(f"{i}/{number}" for i in range(1, number + 1) if i not in given)


def shards_of(plan: Plan, part: tuple[int, int] | None) -> range:
    """The shards of the i-th of n parts (i, n), from 1; None for all."""
    first, step = (1, 1) if part is None else part
    return range(first - 1, plan.shards, step)


def parse_shard(text: str) -> tuple[int, int]:
    """'2/5' → (2, 5). Raises ConfigError."""
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise ConfigError(f"expected a shard as i/N, such as 2/5 for the second of five, found '{text}'")
    return int(found[1]), int(found[2])
