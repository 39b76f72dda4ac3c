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

from xsap.artifacts import added_file, amend, content_hash, open_artifact, publish
from xsap.encoding.encoder import Encoder, Precision
from xsap.errors import ArtifactError, ConfigError
from xsap.languages import ENGLISH
from xsap.linking.calibration import Calibration
from xsap.linking.dictionary import Contents, contents_of, in_memory, open_contents, write_contents
from xsap.search.approximate import Graph, check_installed
from xsap.search.vectors import FILES, Storage, Vectors, write_vectors
from xsap.terms.terminology import Terminology
from xsap.text import TextPolicy

PLACE = ("path", "relative")  # what a manifest says of a model besides its facts


class Embedder(Protocol):
    """What an index needs of an encoder, when it is built and when it is searched."""

    content: str | None

    @property
    def precision(self) -> str: ...  # noqa: D102
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

    content: hash of its folder, None if it was never saved. path: where that was, or its hub id. precision: of the products that made the
    vectors; mentions may be encoded in another.
    """

    content: str | None
    path: str | None
    pooling: str
    max_length: int
    policy: TextPolicy
    precision: str = "fp32"

    @classmethod
    def of(cls, encoder: Embedder, path: Path | str | None = None) -> "Model":
        """An encoder's, with where `Linker.load` will look for it."""
        place = None if path is None else str(path)
        return cls(encoder.content, place, encoder.pooling, encoder.max_length, encoder.policy, encoder.precision)

    def facts(self) -> dict[str, Any]:
        """As the manifest has it, but for its place."""
        described = {"pooling": self.pooling, "max_length": self.max_length, "text": self.policy.to_dict()}
        return {"content": self.content, **described, "precision": self.precision}

    @property
    def use(self) -> tuple[object, ...]:
        """What an index and an encoder must have in common: all but place and precision."""
        return self.content, self.pooling, self.max_length, self.policy

    def describe(self) -> str:
        """`use`, for people."""
        return f"{short(self.content)} ({self.pooling}, {self.max_length} tokens, {self.policy.case}, {self.policy.unicode})"

    def placed(self, index: Path) -> dict[str, Any]:
        """`facts`, and where the model is: absolute and from the index, so that both may move together; a hub id as it is."""
        if self.path is None or not Path(self.path).exists():
            return self.facts() | dict(zip(PLACE, (self.path, None), strict=True))
        absolute = Path(self.path).resolve()
        return self.facts() | dict(zip(PLACE, (str(absolute), os.path.relpath(absolute, index.resolve())), strict=True))

    @classmethod
    def read(cls, facts: Mapping[str, Any], path: str | None) -> "Model":
        """What `facts` gave, and a place. Raises KeyError and TypeError for what it didn't give."""
        precision = facts.get("precision", "fp32")  # older indexes don't say it, and had no other
        return cls(
            facts["content"], path, facts["pooling"], facts["max_length"], TextPolicy(**facts["text"]), precision
        )

    @classmethod
    def found(cls, facts: Mapping[str, Any], index: Path) -> "Model":
        """What `placed` gave, wherever both have been moved to since."""
        beside = index.resolve() / facts["relative"] if facts["relative"] else None
        return cls.read(facts, str(beside.resolve()) if beside and beside.is_dir() else facts["path"])


def open_encoder(
    built: Model,
    index_path: Path | str,
    model: Path | str | None,
    device: str | torch.device | None,
    precision: Precision,
) -> Encoder:
    """The encoder that an index was built with, from its place or from `model`. Raises ArtifactError if it is gone, or another."""
    path = str(model if model is not None else built.path)
    gone = built.path is None or (Path(path).is_absolute() and not Path(path).exists())
    if model is None and gone:
        raise ArtifactError(
            f"{index_path}: the model it was built with ({short(built.content)}) is no longer at {path}; give --model"
        )
    rebuild = f"Rebuild it: xsap index {path} TERMINOLOGY --out {index_path} --overwrite"
    try:
        described: dict[str, Any] = {"pooling": built.pooling, "max_length": built.max_length, "policy": built.policy}
        encoder = Encoder.from_pretrained(path, device=device, precision=precision, **described)
    except ConfigError as error:
        raise ArtifactError(f"{index_path} was built with another model than {path} ({error}). {rebuild}") from None
    if encoder.content != built.content:
        found = f"{path} ({short(encoder.content)})"
        raise ArtifactError(f"{index_path} was built with model {short(built.content)}, not with {found}. {rebuild}")
    return encoder


def short(content: str | None) -> str:
    """The beginning of a content hash, for people."""
    return f"{content[:8]}…" if content else "an unsaved one"


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
    contents: Contents
    model: Model
    terminology: str | None = None
    languages: tuple[str, ...] | None = (ENGLISH,)
    content: str | None = None
    path: Path | None = None
    calibration: Calibration | None = None
    lexical: float = 0.0
    graph: Graph | None = None

    @classmethod
    def build(
        cls,
        terminology: Terminology,
        encoder: Embedder,
        *,
        languages: Collection[str] | None = (ENGLISH,),
        model_path: Path | str | None = None,
        storage: Storage = "float32",
        approximate: bool = False,
        progress: bool = False,
    ) -> "Index":
        """Embed the names that a terminology has in these ISO languages (None: all), in memory; `building.build_index` does it on disk.

        approximate: with a graph, too. Raises DataError if there is no such name, or a vector isn't finite; ConfigError for a graph without
        usearch.
        """
        if approximate:
            check_installed()
        contents = contents_of(in_memory(terminology), languages, encoder.policy)
        vectors = Vectors.of(encoder.encode(contents.names["name"].to_pylist(), progress=progress), storage)
        chosen = None if languages is None else tuple(sorted(languages))
        graph = Graph.build(vectors, progress=progress) if approximate else None
        return cls(vectors, contents, Model.of(encoder, model_path), terminology.content, chosen, graph=graph)

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
        with writing(path, self.model, self.terminology, self.languages, self.contents, overwrite=overwrite) as (
            folder,
            facts,
        ):
            n, d = len(self.vectors), self.vectors.dimension
            with write_vectors(folder, n, d, self.vectors.storage) as put:
                for start in range(0, n, WRITTEN):
                    put(self.vectors.take(slice(start, start + WRITTEN)))
            facts |= Vectors.open(folder).facts()
            if self.graph is not None:
                facts["graph"] = self.graph.save(folder / GRAPH)

    @classmethod
    def load(cls, path: Path | str, *, approximate: bool = False) -> "Index":
        """Open an index folder, every hash checked, all of it memory-mapped. approximate: with its graph, whose recall is then checked.

        Raises ArtifactError; ConfigError for a graph that isn't there, or without usearch.
        """
        if approximate:
            check_installed()
        manifest, path = open_artifact(path, KIND), Path(path)
        if strays := [file for file in FILES if (path / file).exists() and file not in manifest["files"]]:
            raise ArtifactError(
                f"{path / strays[0]}: not named by the manifest, so nobody knows whether it is whole; remove it"
            )
        try:
            vectors = Vectors.open(path)
            contents = open_contents(path, manifest["dropped"])
            model = Model.found(manifest["model"], path)
            languages = None if manifest["languages"] is None else tuple(manifest["languages"])
            calibration = _calibration(path, added_file(manifest, CALIBRATION))
            lexical = _lexical(path, added_file(manifest, FUSION))
            whole = manifest["terminology"], languages, content_of(manifest), path
            index = cls(vectors, contents, model, *whole, calibration, lexical)
            sound = len(vectors) == manifest["count"] == contents.names.num_rows
        except (ValueError, KeyError, TypeError, AttributeError, OSError, IndexError, pa.ArrowException):
            sound = False
        if not sound:
            raise ArtifactError(
                f"{path}: its files and its manifest don't fit together; the index is damaged, make it again"
            )
        return replace(index, graph=_graph(index, manifest.get("graph"))) if approximate else index

    def calibrated(self, calibration: Calibration) -> "Index":
        """The same with a calibration, which its folder keeps from now on. Raises ConfigError for an index that was never saved."""
        if self.path is None:
            raise ConfigError(
                "a calibration is kept in the folder of its index, but this index was never saved; save it first"
            )
        amend(self.path, KIND, {CALIBRATION: json.dumps(calibration.to_dict(), indent=1) + "\n"})
        return Index.load(self.path, approximate=self.graph is not None)

    def weighted(self, lexical: float) -> "Index":
        """The same with a weight for likeness in spelling, which its folder keeps, and without a calibration, which held for another.

        Raises ConfigError for an index that was never saved.
        """
        assert 0 <= lexical <= 1, f"a weight of {lexical}"
        if self.path is None:
            raise ConfigError(
                "a weight is kept in the folder of its index, but this index was never saved; save it first"
            )
        amend(self.path, KIND, {FUSION: json.dumps({"lexical": lexical}) + "\n", CALIBRATION: None})
        return Index.load(self.path, approximate=self.graph is not None)

    def facts(self) -> dict[str, Any]:
        """What it holds, as a report of scores states it."""
        return {
            "names": self.names.num_rows,
            "concepts": self.concepts.num_rows,
            "languages": self.languages,
            "terminology": self.terminology,
            "storage": self.vectors.storage,
            "index": self.content,
            "search": "exact" if self.graph is None else {"approximate": self.graph.facts()},
        }


def content_of(manifest: dict[str, Any]) -> str:
    """An index's own hash: of its files, and of how its model was used, for answers depend on that, too."""
    use = {key: value for key, value in manifest["model"].items() if key not in PLACE}
    return hashlib.sha256(f"{content_hash(manifest)}\0{json.dumps(use, sort_keys=True)}".encode()).hexdigest()


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
        raise ConfigError(
            "an index is bound to a model folder, but this one's model was never saved; save it, load it, build again"
        )
    facts: dict[str, Any] = {
        "model": model.placed(Path(path)),
        "terminology": terminology,
        "languages": languages,
        "dropped": contents.dropped,
    }
    with publish(path, KIND, facts, overwrite=overwrite) as folder:
        write_contents(folder, contents)
        yield folder, facts


def _graph(index: Index, facts: dict[str, Any] | None) -> Graph:
    assert index.path is not None
    if facts is None:
        languages = "all" if index.languages is None else ",".join(index.languages)
        alike = f"--languages {languages} --storage {index.vectors.storage} --pooling {index.model.pooling}"
        alike += f" --max-length {index.model.max_length} --encoder-precision {index.model.precision}"
        again = ". Then weigh and calibrate it again" if index.calibration or index.lexical else ""
        command = f"xsap index {index.model.path or 'MODEL'} TERMINOLOGY --out {index.path} --update {index.path} --overwrite {alike} --approximate"
        raise ConfigError(
            f"{index.path} has no graph for approximate search; search exactly, or add one, which encodes no name again: {command}{again}"
        )
    graph = Graph.open(index.path / GRAPH, index.vectors, facts)
    graph.confirm(index.path / GRAPH)
    return graph


def _calibration(folder: Path, file: str | None) -> Calibration | None:
    return None if file is None else Calibration.from_dict(json.loads((folder / file).read_text(encoding="utf-8")))


def _lexical(folder: Path, file: str | None) -> float:
    weight = 0.0 if file is None else float(json.loads((folder / file).read_text(encoding="utf-8"))["lexical"])
    if not 0 <= weight <= 1:
        raise ValueError(f"a weight of {weight}")
    return weight
