"""An index: a terminology's names as vectors, bound by hashes to the encoder and the terminology that they come from.

It can be made in memory (`Index.build`) or on disk in bounded memory (`build_index`); both write the same files. All
tables and arrays of an index folder are uncompressed, so that they are memory-mapped: an index of millions of names
opens without reading them, and a search reads only what it needs.
"""

import json
import logging
import shlex
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from xsap.artifacts import find_updated, open_artifact, read_manifest, read_unchanged, update_files
from xsap.errors import ArtifactError, ConfigError
from xsap.linking.calibration import Calibration
from xsap.linking.dictionary import Dictionary, NameSource, build_dictionary, row_of, values_at
from xsap.linking.dictionary_files import DICTIONARY_FILES, check_dictionary_format, open_dictionary
from xsap.linking.encoder_spec import Embedder, EncoderSpec, open_encoder, short_hash
from xsap.linking.index_files import (
    CALIBRATION,
    FUSION,
    HNSW_FILE,
    INDEX_KIND,
    RERANKER_FILE,
    UNREADABLE,
    VECTORS_PER_WRITE,
    index_hash,
    read_json,
    write_index,
)
from xsap.linking.mention_build import build_mention_names, vectors_to_reuse
from xsap.linking.mention_files import MENTION_FILES, open_mention_names
from xsap.linking.mention_names import MentionNames
from xsap.search.approximate import HnswIndex, check_usearch_installed
from xsap.search.vectors import FILES, VectorDtype, Vectors
from xsap.terms.terminology import Terminology

logger = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class Index:
    """Names as unit vectors, with the concepts of each name.

    Attributes:
        vectors: A unit vector for each name.
        dictionary: The names and their concepts.
        model: The encoder of the vectors.
        terminology_hash: Content hash of the terminology.
        languages: Whose names were chosen; None for all languages.
        content_hash: The index's own hash; None until it is on disk.
        path: Its folder; None until it is on disk.
        calibration: The confidence of answers, if it was fitted.
        fusion_weight: Weight of string similarity in a score, from 0 to 1.
        hnsw: For approximate search, if the index was built or opened with it.
        mention_names: Annotated mentions as further names, if there are any.
    """

    vectors: Vectors
    dictionary: Dictionary
    model: EncoderSpec
    terminology_hash: str | None = None
    languages: tuple[str, ...] | None = None
    content_hash: str | None = None
    path: Path | None = None
    calibration: Calibration | None = None
    fusion_weight: float = 0.0
    hnsw: HnswIndex | None = None
    mention_names: MentionNames | None = None

    @classmethod
    def build(
        cls,
        terminology: Terminology,
        encoder: Embedder,
        *,
        languages: Collection[str] | None = None,
        model_path: Path | str | None = None,
        vector_dtype: VectorDtype = "float32",
        ann: bool = False,
        progress: bool = False,
    ) -> "Index":
        """Embed a terminology's names in memory; `build_index` does it on disk.

        Args:
            terminology: The names and concepts.
            encoder: Embeds the names.
            languages: ISO codes of the names to embed; None for all, so that a mention that equals a name in any language is found.
            model_path: The encoder's folder or hub id, where `Linker.load` will look for it.
            vector_dtype: How vectors are stored: float32, float16 or int8.
            ann: Whether to build an HNSW index, too.
            progress: Whether to show a progress bar.

        Returns:
            The index.

        Raises:
            DataError: There is no name in these languages, or a vector is not finite.
            ConfigError: `ann` without usearch.
        """
        if ann:
            check_usearch_installed()
        dictionary = build_dictionary(NameSource.from_terminology(terminology), languages, encoder.policy)
        vectors = Vectors.from_array(
            encoder.encode(dictionary.names["name"].to_pylist(), progress=progress), vector_dtype
        )
        return cls(
            vectors,
            dictionary,
            EncoderSpec.from_encoder(encoder, model_path),
            terminology.content_hash,
            None if languages is None else tuple(sorted(languages)),
            hnsw=HnswIndex.build(vectors, progress=progress) if ann else None,
        )

    @property
    def names(self) -> pa.Table:
        """NAMES_SCHEMA, a row for each vector."""
        return self.dictionary.names

    @property
    def concepts(self) -> pa.Table:
        """CONCEPTS_SCHEMA, sorted by id."""
        return self.dictionary.concepts

    def definition_of(self, concept_id: str, language: str | None = None) -> str | None:
        """The definition of a concept; None if the index has none of it.

        Args:
            concept_id: The concept's id.
            language: ISO 639. Without a definition in it the English one is returned, else any.
        """
        row, details = row_of(self.concepts["concept_id"], concept_id), self.dictionary.details
        return None if row is None or details is None else details.definition_of(row, language)

    def parents_of(self, concept_id: str) -> list[str]:
        """The ids of the concepts right above a concept; none if the index has none of them.

        Args:
            concept_id: The concept's id.
        """
        row, details = row_of(self.concepts["concept_id"], concept_id), self.dictionary.details
        above = [] if row is None or details is None else details.hierarchy.parents_of(row)
        return values_at(self.concepts["concept_id"], above)

    def __repr__(self) -> str:
        languages = "all" if self.languages is None else ",".join(self.languages)
        size = f"{self.names.num_rows:,} names, {self.concepts.num_rows:,} concepts"
        model = short_hash(self.model.content_hash)
        return f"Index({size}, languages={languages}, vector_dtype={self.vectors.vector_dtype}, model={model})"

    def save(self, path: Path | str, *, overwrite: bool = False, vectors_per_write: int = VECTORS_PER_WRITE) -> None:
        """Write the index's folder, whole or not at all.

        Args:
            path: The folder.
            overwrite: Whether to replace an index that is there.
            vectors_per_write: Vectors that are converted and written together.

        Raises:
            ConfigError: The model was never saved.
            ArtifactError: `path` exists and may not be replaced.
        """
        hnsw, mention_names = self.hnsw, self.mention_names
        write_index(
            path,
            self.dictionary,
            self.model,
            (
                self.vectors.take(slice(start, start + vectors_per_write))
                for start in range(0, len(self.vectors), vectors_per_write)
            ),
            terminology_hash=self.terminology_hash,
            languages=self.languages,
            dimension=self.vectors.dimension,
            vector_dtype=self.vectors.vector_dtype,
            build_hnsw=None if hnsw is None else lambda _: hnsw,
            make_mentions=None if mention_names is None else lambda _: mention_names,
            overwrite=overwrite,
        )

    @classmethod
    def load(cls, path: Path | str, *, ann: bool = False) -> "Index":
        """Open an index's folder, every hash checked, memory-mapped.

        Args:
            path: The folder.
            ann: Whether to open its HNSW index, too, whose recall is then checked.

        Returns:
            The index.

        Raises:
            ArtifactError: It is missing or damaged.
            ConfigError: `ann`, but it has no HNSW index, or usearch is not installed.
        """
        if ann:
            check_usearch_installed()
        return read_unchanged(path, lambda: cls._load(Path(path), ann=ann))

    @classmethod
    def _load(cls, path: Path, *, ann: bool) -> "Index":
        manifest = open_artifact(path, INDEX_KIND)
        check_dictionary_format(manifest, path)
        files = (*FILES, *DICTIONARY_FILES, *MENTION_FILES, *([HNSW_FILE] if ann else []))
        if unnamed := [file for file in files if (path / file).exists() and file not in manifest["files"]]:
            raise ArtifactError(f"{path / unnamed[0]}: not listed in the manifest, so it can't be checked; remove it")
        try:
            vectors = Vectors.open(path)
            dictionary = open_dictionary(path, manifest["dropped"])
            calibration = read_json(path, find_updated(manifest, CALIBRATION))
            fusion = read_json(path, find_updated(manifest, FUSION))
            fusion_weight = 0.0 if fusion is None else float(fusion["fusion_weight"])
            index = cls(
                vectors,
                dictionary,
                EncoderSpec.from_manifest(manifest["model"], path),
                manifest["terminology_hash"],
                None if manifest["languages"] is None else tuple(manifest["languages"]),
                index_hash(manifest),
                path,
                None if calibration is None else Calibration.from_dict(calibration),
                fusion_weight,
                mention_names=open_mention_names(path, manifest.get("mentions"), dictionary.concepts.num_rows),
            )
            shape = (len(vectors), vectors.dimension, vectors.vector_dtype)
            stated = tuple(manifest[key] for key in ("count", "dimension", "vector_dtype"))
            sound = shape == stated and len(vectors) == dictionary.names.num_rows and 0 <= fusion_weight <= 1
        except (*UNREADABLE, pa.ArrowException):
            sound = False
        if not sound:
            raise ArtifactError(f"{path}: its files and manifest don't fit together; it is damaged; create it again")
        return index._with_hnsw(manifest.get("hnsw")) if ann else index

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by reference: path and content hash. Unpickling opens the folder anew; ArtifactError if its content has changed."""
        if self.path is None:
            raise ConfigError("an index in memory can't be pickled; save it, and open it with Index.load")
        in_memory = {"calibration": self.calibration, "fusion_weight": self.fusion_weight}
        return _reopen_index, (str(self.path.absolute()), self.content_hash, self.hnsw is not None, in_memory)

    def with_calibration(self, calibration: Calibration) -> "Index":
        """The index with a calibration, which is stored in its folder.

        Args:
            calibration: As fitted on mentions; the index must have been saved.
        """
        return self._updated({CALIBRATION: calibration.to_dict()})

    def with_fusion_weight(self, fusion_weight: float) -> "Index":
        """The index with a weight of string similarity, which is stored in its folder, and without a calibration.

        A calibration is removed because it is valid for one weight only.

        Args:
            fusion_weight: In [0, 1]; 0 ranks by cosine alone. The index must have been saved.
        """
        assert 0 <= fusion_weight <= 1, f"a weight of {fusion_weight}"
        return self._updated({FUSION: {"fusion_weight": fusion_weight}, CALIBRATION: None})

    def with_mentions(
        self,
        mentions: pa.Table,
        *,
        out: Path | str | None = None,
        encoder: Embedder | None = None,
        weight: float | None = None,
        seed: int = 0,
        overwrite: bool = False,
        progress: bool = False,
    ) -> "Index":
        """The index with annotated mentions as further names, instead of those that it has; no other name is encoded again.

        They have a weight of their own, see `linking.mention_names`. A calibration is not kept, as it is valid for the old answers only, and no
        re-ranker, which a calibration is for; both are logged.

        Args:
            mentions: A table of `terms.mentions.SCHEMA`, as `read_gold` reads it from any file.
            out: The folder to make; None to keep the new index in memory.
            encoder: The encoder of the index; None to open it where it was when the index was built.
            weight: From 0, the index without mentions, to 1, names like all others; None to learn it on the mentions.
            seed: Of the folds on which it is learned.
            overwrite: Whether to replace an index that is there.
            progress: Whether to show a progress bar.

        Raises:
            DataError: No mention has a concept of the index.
            ConfigError: The weight is out of range.
            ArtifactError: The encoder is another one than that of the index, or `out` may not be replaced.
        """
        if encoder is None:
            encoder = open_encoder(self.model, self.path or "the index", None, None, self.model.dtype)  # type: ignore[arg-type]
        elif not EncoderSpec.from_encoder(encoder).matches(self.model):
            raise ArtifactError(f"the index was built with model {self.model.describe()}; give that encoder")
        built = build_mention_names(
            mentions,
            self.dictionary,
            self.vectors,
            encoder,
            known=vectors_to_reuse(self.mention_names, self.vectors.vector_dtype),
            fusion_weight=self.fusion_weight,
            weight=weight,
            seed=seed,
            progress=progress,
        )
        index = replace(self, mention_names=built.names, calibration=None, content_hash=None, path=None)
        manifest = {} if self.path is None else read_manifest(self.path, INDEX_KIND)
        lost = [] if self.calibration is None else ["calibration"]
        lost += ["re-ranker"] if manifest and find_updated(manifest, RERANKER_FILE) else []
        if lost:
            options = " --rerank" if "re-ranker" in lost else ""
            logger.warning(
                "not kept of %s: %s; run xsap calibrate%s on the new index", self.path, " and ".join(lost), options
            )
        if out is None:
            return index
        source = self if self.hnsw is not None or "hnsw" not in manifest else Index.load(str(self.path), ann=True)
        replace(index, hnsw=source.hnsw).save(out, overwrite=overwrite)
        saved = Index.load(out, ann=self.hnsw is not None)
        return saved.with_fusion_weight(self.fusion_weight) if self.fusion_weight else saved

    def metadata(self) -> dict[str, Any]:
        """What a report of scores says of the index."""
        return {
            "names": self.names.num_rows,
            "concepts": self.concepts.num_rows,
            "languages": self.languages,
            "terminology_hash": self.terminology_hash,
            "vector_dtype": self.vectors.vector_dtype,
            "index_hash": self.content_hash,
            "search": "exact" if self.hnsw is None else {"hnsw": self.hnsw.metadata()},
            **({} if self.mention_names is None else {"mention_names": self.mention_names.metadata()}),
        }

    def _updated(self, files: dict[str, dict[str, Any] | None]) -> "Index":
        """The index with JSON files added to its folder, replaced, or (None) removed."""
        if self.path is None:
            raise ConfigError("calibrations and weights are kept in an index's folder; save this index first")
        texts = {
            file: None if content is None else json.dumps(content, indent=1) + "\n" for file, content in files.items()
        }
        update_files(self.path, INDEX_KIND, texts)
        return Index.load(self.path, ann=self.hnsw is not None)

    def _with_hnsw(self, metadata: dict[str, Any] | None) -> "Index":
        """The index with its HNSW index opened. metadata: from the manifest, None if there is none."""
        assert self.path is not None
        if metadata is None:
            languages = "all" if self.languages is None else ",".join(self.languages)
            options = (
                f"--languages {languages} --vector-dtype {self.vectors.vector_dtype} --pooling {self.model.pooling}"
            )
            options += f" --max-length {self.model.max_length} --dtype {self.model.dtype} --ann"
            prompt, of_mentions = self.model.prompts
            options += f" --prompt {shlex.quote(prompt)}" if prompt == of_mentions != "" else ""
            names = self.mention_names
            options += "" if names is None else f" --mentions FILE --mention-weight {names.weight:g}"
            path, model = self.path, self.model.path or "MODEL"
            command = f"xsap index {model} TERMINOLOGY --out {path} --reuse {path} --overwrite {options}"
            fitted = self.calibration or self.fusion_weight
            again = ". Then run xsap tune-fusion and xsap calibrate again" if fitted else ""
            raise ConfigError(
                f"{path} has no HNSW index; search exactly, or add one, without encoding names again: {command}{again}"
            )
        hnsw = HnswIndex.open(self.path / HNSW_FILE, self.vectors, metadata)
        hnsw.verify_recall(self.path / HNSW_FILE)
        return replace(self, hnsw=hnsw)


def _reopen_index(path: str, content_hash: str, ann: bool, in_memory: dict[str, Any]) -> Index:
    """An index that was pickled by reference."""
    return replace(_load_once(path, content_hash, ann), **in_memory)


@lru_cache(maxsize=1)
def _load_once(path: str, content_hash: str, ann: bool) -> Index:
    """An index of the given content; a process keeps the one that it unpickled last."""
    index = Index.load(path, ann=ann)
    if index.content_hash != content_hash:
        found, expected = short_hash(index.content_hash), short_hash(content_hash)
        raise ArtifactError(
            f"{path} is another index ({found}) than when it was pickled ({expected}); open and pickle it again"
        )
    return index
