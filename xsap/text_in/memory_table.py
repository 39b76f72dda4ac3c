"""The entities of an entity memory: a short vector for each concept of an index.

An entity's vector is that of its concept's preferred name, reduced by principal components and scaled to unit length. The components come from the
index that the memory was first built with, and stay: the concepts of any other index of the same encoder get vectors in the same space, so that
they can take the place of the first ones without training. KeBioLM (Yuan et al., BioNLP 2021) trains such vectors from a knowledge graph
(TransE), which can't be done for concepts that come later.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from xsap.errors import ArtifactError, ConfigError
from xsap.linking.dictionary import NameConcepts
from xsap.linking.encoder_spec import EncoderSpec
from xsap.linking.index import Index
from xsap.search.vectors import Floats

ENTITIES_SCHEMA = pa.schema(
    [
        pa.field("concept_id", pa.string(), nullable=False),
        pa.field("preferred_name", pa.string(), nullable=False),
    ]
)
_VECTORS_FILE, _NAMES_FILE = "entities.safetensors", "entities.arrow"
_ROWS_PER_PART = 1 << 14


@dataclass(frozen=True)
class EntityTable:
    """The entities of a memory.

    Attributes:
        entities: ENTITIES_SCHEMA, a row for each.
        vectors: (entities, size) float32, of unit length.
        mean: (dimension,) mean of the vectors of the first index.
        components: (dimension, size) principal components, orthonormal columns.
        model: The encoder of the index; None for a table without one.
        index_hash: Content hash of the index that the entities come from; None if it was never saved.
    """

    entities: pa.Table = field(repr=False)
    vectors: Floats = field(repr=False)
    mean: Floats = field(repr=False)
    components: Floats = field(repr=False)
    model: EncoderSpec | None
    index_hash: str | None

    @classmethod
    def from_index(cls, index: Index, size: int) -> "EntityTable":
        """The concepts of an index.

        Args:
            index: The index.
            size: Components of a vector; at most the dimension of the index.

        Raises:
            ConfigError: The size is out of bounds.
        """
        dimension = index.vectors.dimension
        if not 1 <= size <= dimension:
            raise ConfigError(f"entity_size must be from 1 to {dimension}, the dimension of the index; found {size}")
        rows = preferred_rows(index.dictionary.name_concepts)
        mean, components = _principal_components(index, rows, size)
        return cls(*_entities(index, rows, mean, components), mean, components, index.model, index.content_hash)

    def with_index(self, index: Index) -> "EntityTable":
        """The concepts of another index of the same encoder, in the same space.

        Args:
            index: The index.

        Raises:
            ConfigError: The index was built with another encoder.
        """
        if self.model is None or not self.model.matches(index.model):
            expected = (
                "none, for the memory is one of the original code" if self.model is None else self.model.describe()
            )
            raise ConfigError(
                f"an entity memory needs an index built with the encoder that its entities come from: expected {expected}, found "
                f"{index.model.describe()}; build the index with that model"
            )
        rows = preferred_rows(index.dictionary.name_concepts)
        entities, vectors = _entities(index, rows, self.mean, self.components)
        return replace(self, entities=entities, vectors=vectors, model=index.model, index_hash=index.content_hash)

    def __len__(self) -> int:
        return len(self.vectors)

    def rows_of(self, concept_ids: list[str]) -> NDArray[np.int64]:
        """The row of each concept; -1 for one that the table does not have."""
        row_of = {concept: row for row, concept in enumerate(self.entities["concept_id"].to_pylist())}
        return np.array([row_of.get(concept, -1) for concept in concept_ids], np.int64)

    def write(self, folder: Path) -> None:
        """Write the files into a folder that its caller publishes."""
        arrays = {"vectors": self.vectors, "mean": self.mean, "components": self.components}
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / _VECTORS_FILE)
        with pa.ipc.new_file(str(folder / _NAMES_FILE), ENTITIES_SCHEMA) as writer:
            writer.write_table(self.entities)

    def metadata(self, folder: Path) -> dict[str, Any]:
        """What the manifest of the folder says of the table."""
        model = None if self.model is None else self.model.manifest_entry(folder)
        return {"entities": len(self), "index_hash": self.index_hash, "index_model": model}

    @classmethod
    def read(cls, folder: Path, metadata: dict[str, Any]) -> "EntityTable":
        """Read what `write` wrote; `metadata` from the manifest, whose hashes were checked. Raises ArtifactError."""
        arrays = load_file(folder / _VECTORS_FILE)
        with pa.memory_map(str(folder / _NAMES_FILE)) as source:
            entities = pa.ipc.open_file(source).read_all()
        model = metadata["index_model"]
        spec = None if model is None else EncoderSpec.from_manifest(model, folder)
        table = cls(entities, arrays["vectors"], arrays["mean"], arrays["components"], spec, metadata["index_hash"])
        if entities.schema != ENTITIES_SCHEMA or entities.num_rows != len(table) or len(table) != metadata["entities"]:
            raise ArtifactError(f"{folder}: its files and manifest don't fit together; it is damaged; create it again")
        return table


def preferred_rows(name_concepts: NameConcepts) -> NDArray[np.int64]:
    """(concepts,) the row of each concept's preferred name; of several that are preferred equally, the first."""
    names = np.repeat(np.arange(len(name_concepts)), np.diff(name_concepts.starts))
    order = np.lexsort((names, -name_concepts.preferences.astype(np.int64), name_concepts.concepts))
    concepts = name_concepts.concepts[order]
    first = np.concatenate([[True], concepts[1:] != concepts[:-1]])
    rows: NDArray[np.int64] = names[order][first]
    return rows


def _entities(index: Index, rows: NDArray[np.int64], mean: Floats, components: Floats) -> tuple[pa.Table, Floats]:
    """ENTITIES_SCHEMA and the vectors of an index's concepts in the space of these components."""
    vectors = np.empty((len(rows), components.shape[1]), np.float32)
    for start in range(0, len(rows), _ROWS_PER_PART):
        part = index.vectors.take(rows[start : start + _ROWS_PER_PART]).astype(np.float32)
        vectors[start : start + len(part)] = (part - mean) @ components
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return index.concepts.select(ENTITIES_SCHEMA.names).cast(ENTITIES_SCHEMA).combine_chunks(), vectors


def _principal_components(index: Index, rows: NDArray[np.int64], size: int) -> tuple[Floats, Floats]:
    """Mean and principal components of the vectors at `rows`, in float64; the largest entry of a component is positive, so that it has one sign."""
    dimension = index.vectors.dimension
    total, products = np.zeros(dimension), np.zeros((dimension, dimension))
    for start in range(0, len(rows), _ROWS_PER_PART):
        part = index.vectors.take(rows[start : start + _ROWS_PER_PART]).astype(np.float64)
        total += part.sum(0)
        products += part.T @ part
    mean = total / len(rows)
    _, vectors = np.linalg.eigh(products / len(rows) - np.outer(mean, mean))
    components = vectors[:, ::-1][:, :size]
    largest = np.abs(components).argmax(0)
    components = components * np.sign(components[largest, np.arange(size)])
    return mean.astype(np.float32), components.astype(np.float32)
