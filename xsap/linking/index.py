"""A terminology's names as vectors on disk, bound by hashes to the model that made them and the terminology they are of.

One vector for each unique name, as the model's text policy normalises it: a name that several concepts share keeps them all. Rows are in
the order in which the terminology (sorted by concept) first has the name. `vectors.npy` is memory-mapped; `names.parquet` says
what each row is; `concepts.parquet` is the terminology's, of the concepts that have a row.
"""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from xsap.artifacts import content_hash, open_artifact, publish
from xsap.errors import ArtifactError, ConfigError, DataError
from xsap.languages import ENGLISH
from xsap.linking.search import check_finite
from xsap.terms.terminology import CONCEPTS_SCHEMA, Terminology
from xsap.text import TextPolicy, normalise_all

NAMES_SCHEMA = pa.schema(
    [
        pa.field("normalised", pa.string(), nullable=False),  # unique
        pa.field("name", pa.string(), nullable=False),  # as its source has it, where several fell together the first
        pa.field("language", pa.string(), nullable=False),  # of `name`
        pa.field("concept_ids", pa.list_(pa.string()), nullable=False),  # sorted
    ]
)


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


@dataclass(frozen=True)
class Index:
    """vectors: (n, d) float32 unit vectors. names: NAMES_SCHEMA, a row for each vector. concepts: CONCEPTS_SCHEMA, sorted.

    terminology: its content hash. languages: those chosen, None for all. dropped: names left out, by reason. content: the index's
    own hash, once it is on disk.
    """

    vectors: NDArray[np.float32]
    names: pa.Table
    concepts: pa.Table
    model: Model
    terminology: str | None = None
    languages: tuple[str, ...] | None = (ENGLISH,)
    dropped: dict[str, int] = field(default_factory=dict)
    content: str | None = None

    @classmethod
    def build(
        cls,
        terminology: Terminology,
        encoder: Embedder,
        *,
        languages: Collection[str] | None = (ENGLISH,),
        model_path: Path | str | None = None,
        progress: bool = False,
    ) -> "Index":
        """Embed the names that a terminology has in these ISO languages (None: all).

        model_path: where `Linker.load` will look for the encoder. Raises DataError if there is no such name, or a vector isn't finite.
        """
        part = terminology.select(languages=languages)
        names, dropped = _unique_names(part.names, encoder.policy)
        if not names.num_rows:
            wanted = "any language" if languages is None else ", ".join(sorted(languages))
            found = ", ".join(f"{language} ({count:,})" for language, count in terminology.languages.items()) or "no names"
            raise DataError(f"expected a terminology with names in {wanted}; found {found}. Choose among these with --languages")
        concepts = part.concepts.filter(pc.is_in(part.concepts["concept_id"], pc.unique(pc.list_flatten(names["concept_ids"]))))
        vectors = np.ascontiguousarray(encoder.encode(names["name"].to_pylist(), progress=progress), np.float32)
        check_finite(vectors, "the vectors of an index")
        where = None if model_path is None else str(model_path)
        model = Model(encoder.content, where, encoder.pooling, encoder.max_length, encoder.policy)
        chosen = None if languages is None else tuple(sorted(languages))
        return cls(vectors, names, concepts, model, terminology.content, chosen, dropped)

    def save(self, path: Path | str, *, overwrite: bool = False) -> None:
        """Write the folder, at once or not at all. Raises ConfigError if the model was never saved, ArtifactError if `path` is taken."""
        if self.model.content is None:
            raise ConfigError("an index is bound to a model folder, but this one's model was never saved; save it, load it, build again")
        model = self.model
        facts = {
            "dtype": str(self.vectors.dtype),
            "dimension": self.vectors.shape[1],
            "count": len(self.vectors),
            "model": {"content": model.content, "pooling": model.pooling, "max_length": model.max_length, "text": model.policy.to_dict()}
            | _place(model.path, Path(path)),
            "terminology": self.terminology,
            "languages": self.languages,
            "dropped": self.dropped,
        }
        with publish(path, "index", facts, overwrite=overwrite) as folder:
            np.save(folder / "vectors.npy", self.vectors, allow_pickle=False)
            pq.write_table(self.names, folder / "names.parquet", compression="zstd")
            pq.write_table(self.concepts, folder / "concepts.parquet", compression="zstd")

    @classmethod
    def load(cls, path: Path | str) -> "Index":
        """Open an index folder, every hash checked, its vectors memory-mapped. Raises ArtifactError."""
        manifest, path = open_artifact(path, "index"), Path(path)
        try:
            vectors = np.load(path / "vectors.npy", mmap_mode="r", allow_pickle=False)
            names, concepts = (pq.read_table(path / f"{table}.parquet") for table in ("names", "concepts"))
            said = manifest["model"]
            model = Model(said["content"], _found(said, path), said["pooling"], said["max_length"], TextPolicy(**said["text"]))
            languages = None if manifest["languages"] is None else tuple(manifest["languages"])
            index = cls(vectors, names, concepts, model, manifest["terminology"], languages, manifest["dropped"], content_hash(manifest))
            sound = vectors.shape == (manifest["count"], manifest["dimension"]) and names.num_rows == len(vectors)
            sound &= str(vectors.dtype) == manifest["dtype"] == "float32" and (names.schema, concepts.schema) == (
                NAMES_SCHEMA,
                CONCEPTS_SCHEMA,
            )
        except (ValueError, KeyError, TypeError, AttributeError, OSError, pa.ArrowException):
            sound = False
        if not sound:
            raise ArtifactError(f"{path}: its files and its manifest don't fit together; the index is damaged, make it again")
        check_finite(vectors, f"{path}: its vectors")
        return index

    def facts(self) -> dict[str, Any]:
        """What it holds, as a report of scores states it."""
        return {
            "names": self.names.num_rows,
            "concepts": self.concepts.num_rows,
            "languages": self.languages,
            "terminology": self.terminology,
            "index": self.content,
        }


def _unique_names(names: pa.Table, policy: TextPolicy) -> tuple[pa.Table, dict[str, int]]:
    """A terminology's names → NAMES_SCHEMA, and how many were dropped for which reason."""
    spellings = names["name"].combine_chunks().dictionary_encode()
    normalised = pa.array(normalise_all(spellings.dictionary.to_pylist(), policy), pa.string()).take(spellings.indices)
    kept = pc.greater(pc.utf8_length(normalised), 0)
    dropped = {"empty name": names.num_rows - (pc.sum(kept).as_py() or 0)}
    names, unique = names.filter(kept), normalised.filter(kept).dictionary_encode()
    concepts = names["concept_id"].combine_chunks().dictionary_encode()
    rows, owners = unique.indices.to_numpy(), concepts.indices.to_numpy()
    first = np.unique(rows, return_index=True)[1]
    # the terminology is sorted by concept, so a concept's place in the dictionary is its place in the alphabet
    pairs = np.unique(rows.astype(np.int64) * len(concepts.dictionary) + owners)
    counts = np.bincount(pairs // max(1, len(concepts.dictionary)), minlength=len(first))
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    ids = concepts.dictionary.take(pa.array(pairs % max(1, len(concepts.dictionary))))
    columns = [unique.dictionary, names["name"].take(first), names["language"].take(first), pa.ListArray.from_arrays(offsets, ids)]
    return pa.table(dict(zip(NAMES_SCHEMA.names, columns, strict=True))).cast(NAMES_SCHEMA), {k: n for k, n in dropped.items() if n}


def _place(model_path: str | None, index_path: Path) -> dict[str, str | None]:
    """Where a model is, for the manifest: absolute and from the index, so that both may move together; a hub id as it is."""
    if model_path is None or not Path(model_path).exists():
        return {"path": model_path, "relative": None}
    absolute = Path(model_path).resolve()
    return {"path": str(absolute), "relative": os.path.relpath(absolute, index_path.resolve())}


def _found(model: dict[str, str | None], index_path: Path) -> str | None:
    beside = index_path.resolve() / model["relative"] if model["relative"] else None
    return str(beside.resolve()) if beside and beside.is_dir() else model["path"]
