"""A terminology's names as vectors on disk, bound by hashes to the model that made them and the terminology they are of.

`vectors.py` says how vectors are stored, `contents.py` which rows there are. Tables are Arrow files, uncompressed, so that all of an index is
memory-mapped: millions of names open in an instant, and only what an answer needs is read. (Parquet would have to be unpacked first.)
"""

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from xsap.artifacts import added_file, amend, content_hash, open_artifact, publish
from xsap.errors import ArtifactError, ConfigError
from xsap.languages import ENGLISH
from xsap.linking.calibration import Calibration
from xsap.linking.contents import Contents, open_contents, write_contents
from xsap.linking.unique import contents_of, in_memory
from xsap.linking.vectors import Storage, Vectors, write_vectors
from xsap.terms.terminology import Terminology
from xsap.text import TextPolicy

KIND, CALIBRATION, FUSION = "index", "calibration.json", "fusion.json"
WRITTEN = 1 << 10  # vectors written at once: a divisor of every shard's, for bounds on their rounding depend on it in the last bit


class Embedder(Protocol):
    """What an index needs of an encoder, when it is built and when it is searched."""

    content: str | None

    @property
    def pooling(self) -> str: ...  # noqa: D102
    @property
    def max_length(self) -> int: ...  # noqa: D102
    @property
    def policy(self) -> TextPolicy: ...  # noqa: D102
    def encode(self, names: Sequence[str], *, progress: bool = False) -> NDArray[np.float32]: ...  # noqa: D102


@dataclass(frozen=True)
class Model:
    """The encoder that an index is bound to, and how it was used.

    content: hash of its folder, None if it was never saved. path: where that was, or its hub id.
    """

    content: str | None
    path: str | None
    pooling: str
    max_length: int
    policy: TextPolicy

    @classmethod
    def of(cls, encoder: Embedder, path: Path | str | None = None) -> "Model":
        """An encoder's, with where `Linker.load` will look for it."""
        return cls(encoder.content, None if path is None else str(path), encoder.pooling, encoder.max_length, encoder.policy)

    def facts(self) -> dict[str, Any]:
        """As the manifest has it, but for its place."""
        return {"content": self.content, "pooling": self.pooling, "max_length": self.max_length, "text": self.policy.to_dict()}


@dataclass(frozen=True)
class Index:
    """vectors: a unit vector for each of contents.names. terminology: its content hash. languages: those chosen, None for all.

    content: the index's own hash, once it is on disk. path: its folder then. calibration: how sure its answers are, if that was fitted.
    lexical: how much likeness in spelling counts, from 0 to 1.
    """

    vectors: Vectors
    contents: Contents
    model: Model
    terminology: str | None = None
    languages: tuple[str, ...] | None = (ENGLISH,)
    content: str | None = None
    path: Path | None = None
    calibration: Calibration | None = None
    lexical: float = 0.0

    @classmethod
    def build(
        cls,
        terminology: Terminology,
        encoder: Embedder,
        *,
        languages: Collection[str] | None = (ENGLISH,),
        model_path: Path | str | None = None,
        storage: Storage = "float32",
        progress: bool = False,
    ) -> "Index":
        """Embed the names that a terminology has in these ISO languages (None: all), in memory; `building.build_index` does it on disk.

        Raises DataError if there is no such name, or a vector isn't finite.
        """
        contents = contents_of(in_memory(terminology), languages, encoder.policy)
        vectors = Vectors.of(encoder.encode(contents.names["name"].to_pylist(), progress=progress), storage)
        chosen = None if languages is None else tuple(sorted(languages))
        return cls(vectors, contents, Model.of(encoder, model_path), terminology.content, chosen)

    @property
    def names(self) -> pa.Table:
        """NAMES_SCHEMA, a row for each vector."""
        return self.contents.names

    @property
    def concepts(self) -> pa.Table:
        """CONCEPTS_SCHEMA, sorted."""
        return self.contents.concepts

    def save(self, path: Path | str, *, overwrite: bool = False) -> None:
        """Write the folder, at once or not at all. Raises ConfigError if the model was never saved, ArtifactError if `path` is taken."""
        with writing(path, self.model, self.terminology, self.languages, self.contents, overwrite=overwrite) as (folder, facts):
            n, d = len(self.vectors), self.vectors.dimension
            with write_vectors(folder, n, d, self.vectors.storage) as put:
                for start in range(0, n, WRITTEN):
                    put(self.vectors.take(slice(start, start + WRITTEN)))
            facts |= Vectors.open(folder).facts()

    @classmethod
    def load(cls, path: Path | str) -> "Index":
        """Open an index folder, every hash checked, all of it memory-mapped. Raises ArtifactError."""
        manifest, path = open_artifact(path, KIND), Path(path)
        try:
            vectors = Vectors.open(path)
            contents = open_contents(path, manifest["dropped"])
            said = manifest["model"]
            model = Model(said["content"], _found(said, path), said["pooling"], said["max_length"], TextPolicy(**said["text"]))
            languages = None if manifest["languages"] is None else tuple(manifest["languages"])
            calibration = _calibration(path, added_file(manifest, CALIBRATION))
            lexical = _lexical(path, added_file(manifest, FUSION))
            whole = manifest["terminology"], languages, content_hash(manifest), path
            index = cls(vectors, contents, model, *whole, calibration, lexical)
            sound = len(vectors) == manifest["count"] == contents.names.num_rows
        except (ValueError, KeyError, TypeError, AttributeError, OSError, IndexError, pa.ArrowException):
            sound = False
        if not sound:
            raise ArtifactError(f"{path}: its files and its manifest don't fit together; the index is damaged, make it again")
        return index

    def calibrated(self, calibration: Calibration) -> "Index":
        """The same with a calibration, which its folder keeps from now on. Raises ConfigError for an index that was never saved."""
        if self.path is None:
            raise ConfigError("a calibration is kept in the folder of its index, but this index was never saved; save it first")
        amend(self.path, KIND, {CALIBRATION: json.dumps(calibration.to_dict(), indent=1) + "\n"})
        return Index.load(self.path)

    def weighted(self, lexical: float) -> "Index":
        """The same with a weight for likeness in spelling, which its folder keeps, and without a calibration, which held for another.

        Raises ConfigError for an index that was never saved.
        """
        assert 0 <= lexical <= 1, f"a weight of {lexical}"
        if self.path is None:
            raise ConfigError("a weight is kept in the folder of its index, but this index was never saved; save it first")
        amend(self.path, KIND, {FUSION: json.dumps({"lexical": lexical}) + "\n", CALIBRATION: None})
        return Index.load(self.path)

    def facts(self) -> dict[str, Any]:
        """What it holds, as a report of scores states it."""
        return {
            "names": self.names.num_rows,
            "concepts": self.concepts.num_rows,
            "languages": self.languages,
            "terminology": self.terminology,
            "storage": self.vectors.storage,
            "index": self.content,
        }


@contextmanager
def writing(
    path: Path | str,
    model: Model,
    terminology: str | None,
    languages: tuple[str, ...] | None,
    contents: Contents,
    *,
    overwrite: bool = False,
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """An index's folder with all but its vectors, to add these, and its manifest's facts, to add theirs; published when the block ends.

    Raises ConfigError if the model was never saved, ArtifactError if `path` is taken.
    """
    if model.content is None:
        raise ConfigError("an index is bound to a model folder, but this one's model was never saved; save it, load it, build again")
    facts: dict[str, Any] = {
        "model": model.facts() | _place(model.path, Path(path)),
        "terminology": terminology,
        "languages": languages,
        "dropped": contents.dropped,
    }
    with publish(path, KIND, facts, overwrite=overwrite) as folder:
        write_contents(folder, contents)
        yield folder, facts


def _calibration(folder: Path, file: str | None) -> Calibration | None:
    return None if file is None else Calibration.from_dict(json.loads((folder / file).read_text(encoding="utf-8")))


def _lexical(folder: Path, file: str | None) -> float:
    weight = 0.0 if file is None else float(json.loads((folder / file).read_text(encoding="utf-8"))["lexical"])
    if not 0 <= weight <= 1:
        raise ValueError(f"a weight of {weight}")
    return weight


def _place(model_path: str | None, index_path: Path) -> dict[str, str | None]:
    """Where a model is, for the manifest: absolute and from the index, so that both may move together; a hub id as it is."""
    if model_path is None or not Path(model_path).exists():
        return {"path": model_path, "relative": None}
    absolute = Path(model_path).resolve()
    return {"path": str(absolute), "relative": os.path.relpath(absolute, index_path.resolve())}


def _found(model: Mapping[str, str | None], index_path: Path) -> str | None:
    beside = index_path.resolve() / model["relative"] if model["relative"] else None
    return str(beside.resolve()) if beside and beside.is_dir() else model["path"]
