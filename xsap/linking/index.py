"""The encoder that an index is bound to: which one, where it is, and how it was used.

A terminology's names as vectors on disk, bound by hashes to the model that made them and the terminology they are of.

`vectors.py` says how vectors are stored, `contents.py` which rows there are, `approximate.py` what a graph of them is, where one was
asked for. Tables are Arrow files, uncompressed, so that all of an index is memory-mapped: millions of names open in an instant, and only what
an answer needs is read. (Parquet would have to be unpacked first.)
"""

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from xsap.artifacts import find_updated, manifest_hash, open_artifact, publish, update_files
from xsap.encoding.encoder import Dtype, Encoder
from xsap.errors import ArtifactError, ConfigError
from xsap.languages import ENGLISH
from xsap.linking.calibration import Calibration
from xsap.linking.dictionary import Dictionary, build_dictionary, in_memory, open_dictionary, write_dictionary
from xsap.search.approximate import HnswIndex, check_usearch_installed
from xsap.search.vectors import FILES, VectorDtype, Vectors, write_vectors
from xsap.terms.terminology import Terminology
from xsap.text import TextPolicy

PLACE = ("path", "relative")  # what a manifest says of a model besides its facts


class Embedder(Protocol):
    """What an index needs of an encoder, when it is built and when it is searched."""

    content_hash: str | None

    @property
    def dtype(self) -> str: ...  # noqa: D102
    @property
    def pooling(self) -> str: ...  # noqa: D102
    @property
    def max_length(self) -> int: ...  # noqa: D102
    @property
    def policy(self) -> TextPolicy: ...  # noqa: D102
    def encode(self, names: Sequence[str], *, progress: bool = False) -> NDArray[np.float32]: ...  # noqa: D102


@dataclass(frozen=True)
class EncoderSpec:
    """The encoder that an index is bound to, and how it was used.

    content: hash of its folder, None if it was never saved. path: where that was, or its hub id. precision: of the products that made the
    vectors; mentions may be encoded in another.
    """

    content_hash: str | None
    path: str | None
    pooling: str
    max_length: int
    policy: TextPolicy
    dtype: str = "float32"

    @classmethod
    def of(cls, encoder: Embedder, path: Path | str | None = None) -> "EncoderSpec":
        """An encoder's, with where `Linker.load` will look for it."""
        place = None if path is None else str(path)
        return cls(encoder.content_hash, place, encoder.pooling, encoder.max_length, encoder.policy, encoder.dtype)

    def metadata(self) -> dict[str, Any]:
        """As the manifest has it, but for its place."""
        described = {"pooling": self.pooling, "max_length": self.max_length, "text": self.policy.to_dict()}
        return {"content": self.content_hash, **described, "precision": self.dtype}

    @property
    def use(self) -> tuple[object, ...]:
        """What an index and an encoder must have in common: all but place and precision."""
        return self.content_hash, self.pooling, self.max_length, self.policy

    def describe(self) -> str:
        """`use`, for people."""
        return f"{short(self.content_hash)} ({self.pooling}, {self.max_length} tokens, {self.policy.case}, {self.policy.unicode})"

    def placed(self, index: Path) -> dict[str, Any]:
        """`metadata`, and where the model is: absolute and from the index, so that both may move together; a hub id as it is."""
        if self.path is None or not Path(self.path).exists():
            return self.metadata() | dict(zip(PLACE, (self.path, None), strict=True))
        absolute = Path(self.path).resolve()
        return self.metadata() | dict(
            zip(PLACE, (str(absolute), os.path.relpath(absolute, index.resolve())), strict=True)
        )

    @classmethod
    def read(cls, metadata: Mapping[str, Any], path: str | None) -> "EncoderSpec":
        """What `metadata` gave, and a place. Raises KeyError and TypeError for what it didn't give."""
        dtype = metadata.get("precision", "float32")  # older indexes don't say it, and had no other
        return cls(
            metadata["content"],
            path,
            metadata["pooling"],
            metadata["max_length"],
            TextPolicy(**metadata["text"]),
            dtype,
        )

    @classmethod
    def found(cls, metadata: Mapping[str, Any], index: Path) -> "EncoderSpec":
        """What `placed` gave, wherever both have been moved to since."""
        beside = index.resolve() / metadata["relative"] if metadata["relative"] else None
        return cls.read(metadata, str(beside.resolve()) if beside and beside.is_dir() else metadata["path"])


def open_encoder(
    built: EncoderSpec,
    index_path: Path | str,
    model: Path | str | None,
    device: str | torch.device | None,
    dtype: Dtype,
) -> Encoder:
    """The encoder that an index was built with, from its place or from `model`. Raises ArtifactError if it is gone, or another."""
    path = str(model if model is not None else built.path)
    gone = built.path is None or (Path(path).is_absolute() and not Path(path).exists())
    if model is None and gone:
        raise ArtifactError(
            f"{index_path}: the model it was built with ({short(built.content_hash)}) is no longer at {path}; give --model"
        )
    rebuild = f"Rebuild it: xsap index {path} TERMINOLOGY --out {index_path} --overwrite"
    try:
        described: dict[str, Any] = {"pooling": built.pooling, "max_length": built.max_length, "policy": built.policy}
        encoder = Encoder.from_pretrained(path, device=device, dtype=dtype, **described)
    except ConfigError as error:
        raise ArtifactError(f"{index_path} was built with another model than {path} ({error}). {rebuild}") from None
    if encoder.content_hash != built.content_hash:
        found = f"{path} ({short(encoder.content_hash)})"
        raise ArtifactError(
            f"{index_path} was built with model {short(built.content_hash)}, not with {found}. {rebuild}"
        )
    return encoder


def short(content_hash: str | None) -> str:
    """The beginning of a content hash, for people."""
    return f"{content_hash[:8]}…" if content_hash else "an unsaved one"


KIND, CALIBRATION, FUSION, GRAPH = "index", "calibration.json", "fusion.json", "graph.usearch"
WRITTEN = (
    1 << 10
)  # vectors written at once: a divisor of every shard's, for bounds on their rounding depend on it in the last bit


@dataclass(frozen=True)
class Index:
    """vectors: a unit vector for each of contents.names. terminology: its content hash. languages: those chosen, None for all.

    content: the index's own hash, once it is on disk. path: its folder then. calibration: how sure its answers are, if that was fitted.
    lexical: how much likeness in spelling counts, from 0 to 1. graph: for approximate search, if the index was built or opened with it.
    """

    vectors: Vectors
    dictionary: Dictionary
    model: EncoderSpec
    terminology: str | None = None
    languages: tuple[str, ...] | None = (ENGLISH,)
    content_hash: str | None = None
    path: Path | None = None
    calibration: Calibration | None = None
    fusion_weight: float = 0.0
    graph: HnswIndex | None = None

    @classmethod
    def build(
        cls,
        terminology: Terminology,
        encoder: Embedder,
        *,
        languages: Collection[str] | None = (ENGLISH,),
        model_path: Path | str | None = None,
        vector_dtype: VectorDtype = "float32",
        ann: bool = False,
        progress: bool = False,
    ) -> "Index":
        """Embed the names that a terminology has in these ISO languages (None: all), in memory; `building.build_index` does it on disk.

        approximate: with a graph, too. Raises DataError if there is no such name, or a vector isn't finite; ConfigError for a graph without
        usearch.
        """
        if ann:
            check_usearch_installed()
        dictionary = build_dictionary(in_memory(terminology), languages, encoder.policy)
        vectors = Vectors.of(encoder.encode(dictionary.names["name"].to_pylist(), progress=progress), vector_dtype)
        chosen = None if languages is None else tuple(sorted(languages))
        graph = HnswIndex.build(vectors, progress=progress) if ann else None
        return cls(
            vectors, dictionary, EncoderSpec.of(encoder, model_path), terminology.content_hash, chosen, graph=graph
        )

    @property
    def names(self) -> pa.Table:
        """NAMES_SCHEMA, a row for each vector."""
        return self.dictionary.names

    @property
    def concepts(self) -> pa.Table:
        """CONCEPTS_SCHEMA, sorted."""
        return self.dictionary.concepts

    def save(self, path: Path | str, *, overwrite: bool = False) -> None:
        """Write the folder, at once or not at all. Raises ConfigError if the model was never saved, ArtifactError if `path` is taken."""
        with writing(path, self.model, self.terminology, self.languages, self.dictionary, overwrite=overwrite) as (
            folder,
            metadata,
        ):
            n, d = len(self.vectors), self.vectors.dimension
            with write_vectors(folder, n, d, self.vectors.vector_dtype) as put:
                for start in range(0, n, WRITTEN):
                    put(self.vectors.take(slice(start, start + WRITTEN)))
            metadata |= Vectors.open(folder).metadata()
            if self.graph is not None:
                metadata["graph"] = self.graph.save(folder / GRAPH)

    @classmethod
    def load(cls, path: Path | str, *, ann: bool = False) -> "Index":
        """Open an index folder, every hash checked, all of it memory-mapped. approximate: with its graph, whose recall is then checked.

        Raises ArtifactError; ConfigError for a graph that isn't there, or without usearch.
        """
        if ann:
            check_usearch_installed()
        manifest, path = open_artifact(path, KIND), Path(path)
        if strays := [file for file in FILES if (path / file).exists() and file not in manifest["files"]]:
            raise ArtifactError(
                f"{path / strays[0]}: not named by the manifest, so nobody knows whether it is whole; remove it"
            )
        try:
            vectors = Vectors.open(path)
            dictionary = open_dictionary(path, manifest["dropped"])
            model = EncoderSpec.found(manifest["model"], path)
            languages = None if manifest["languages"] is None else tuple(manifest["languages"])
            calibration = _calibration(path, find_updated(manifest, CALIBRATION))
            fusion_weight = _fusion_weight(path, find_updated(manifest, FUSION))
            whole = manifest["terminology"], languages, hash_of_index(manifest), path
            index = cls(vectors, dictionary, model, *whole, calibration, fusion_weight)
            sound = len(vectors) == manifest["count"] == dictionary.names.num_rows
        except (ValueError, KeyError, TypeError, AttributeError, OSError, IndexError, pa.ArrowException):
            sound = False
        if not sound:
            raise ArtifactError(
                f"{path}: its files and its manifest don't fit together; the index is damaged, make it again"
            )
        return replace(index, graph=_graph(index, manifest.get("graph"))) if ann else index

    def with_calibration(self, calibration: Calibration) -> "Index":
        """The same with a calibration, which its folder keeps from now on. Raises ConfigError for an index that was never saved."""
        if self.path is None:
            raise ConfigError(
                "a calibration is kept in the folder of its index, but this index was never saved; save it first"
            )
        update_files(self.path, KIND, {CALIBRATION: json.dumps(calibration.to_dict(), indent=1) + "\n"})
        return Index.load(self.path, ann=self.graph is not None)

    def with_fusion_weight(self, fusion_weight: float) -> "Index":
        """The same with a weight for likeness in spelling, which its folder keeps, and without a calibration, which held for another.

        Raises ConfigError for an index that was never saved.
        """
        assert 0 <= fusion_weight <= 1, f"a weight of {fusion_weight}"
        if self.path is None:
            raise ConfigError(
                "a weight is kept in the folder of its index, but this index was never saved; save it first"
            )
        update_files(self.path, KIND, {FUSION: json.dumps({"lexical": fusion_weight}) + "\n", CALIBRATION: None})
        return Index.load(self.path, ann=self.graph is not None)

    def metadata(self) -> dict[str, Any]:
        """What it holds, as a report of scores states it."""
        return {
            "names": self.names.num_rows,
            "concepts": self.concepts.num_rows,
            "languages": self.languages,
            "terminology": self.terminology,
            "storage": self.vectors.vector_dtype,
            "index": self.content_hash,
            "search": "exact" if self.graph is None else {"approximate": self.graph.metadata()},
        }


def hash_of_index(manifest: dict[str, Any]) -> str:
    """An index's own hash: of its files, and of how its model was used, for answers depend on that, too."""
    use = {key: value for key, value in manifest["model"].items() if key not in PLACE}
    return hashlib.sha256(f"{manifest_hash(manifest)}\0{json.dumps(use, sort_keys=True)}".encode()).hexdigest()


@contextmanager
def writing(
    path: Path | str,
    model: EncoderSpec,
    terminology: str | None,
    languages: tuple[str, ...] | None,
    dictionary: Dictionary,
    *,
    overwrite: bool = False,
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """An index's folder with all but its vectors, to add these, and its manifest's facts, to add theirs; published when the block ends.

    Raises ConfigError if the model was never saved, ArtifactError if `path` is taken.
    """
    if model.content_hash is None:
        raise ConfigError(
            "an index is bound to a model folder, but this one's model was never saved; save it, load it, build again"
        )
    metadata: dict[str, Any] = {
        "model": model.placed(Path(path)),
        "terminology": terminology,
        "languages": languages,
        "dropped": dictionary.dropped,
    }
    with publish(path, KIND, metadata, overwrite=overwrite) as folder:
        write_dictionary(folder, dictionary)
        yield folder, metadata


def _graph(index: Index, metadata: dict[str, Any] | None) -> HnswIndex:
    assert index.path is not None
    if metadata is None:
        languages = "all" if index.languages is None else ",".join(index.languages)
        alike = f"--languages {languages} --vector-dtype {index.vectors.vector_dtype} --pooling {index.model.pooling}"
        alike += f" --max-length {index.model.max_length} --dtype {index.model.dtype}"
        again = ". Then weigh and calibrate it again" if index.calibration or index.fusion_weight else ""
        command = f"xsap index {index.model.path or 'MODEL'} TERMINOLOGY --out {index.path} --reuse {index.path} --overwrite {alike} --ann"
        raise ConfigError(
            f"{index.path} has no graph for approximate search; search exactly, or add one, which encodes no name again: {command}{again}"
        )
    graph = HnswIndex.open(index.path / GRAPH, index.vectors, metadata)
    graph.verify_recall(index.path / GRAPH)
    return graph


def _calibration(folder: Path, file: str | None) -> Calibration | None:
    return None if file is None else Calibration.from_dict(json.loads((folder / file).read_text(encoding="utf-8")))


def _fusion_weight(folder: Path, file: str | None) -> float:
    weight = 0.0 if file is None else float(json.loads((folder / file).read_text(encoding="utf-8"))["lexical"])
    if not 0 <= weight <= 1:
        raise ValueError(f"a weight of {weight}")
    return weight
