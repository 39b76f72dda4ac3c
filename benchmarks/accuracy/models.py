"""What links by vectors: any Hugging Face or SentenceTransformer model, by path or hub id, and an xsap index.

The models of the literature stand here by name, with a pooling and where it is stated; most of their folders don't say it. A dictionary's
vectors are kept in a folder named by the hash of all that they follow from (model, pooling, length, text policy, precision, names), so a
second run encodes nothing.
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.accuracy.baselines import NameLinker, Names
from benchmarks.accuracy.dictionary import SearchSpace
from xsap.artifacts import open_artifact, publish
from xsap.encoding.encoder import Dtype, Encoder
from xsap.errors import ArtifactError, ConfigError, DataError
from xsap.linking.linker import Linker
from xsap.linking.ranking import NameSearch
from xsap.linking.results import Result
from xsap.search.exact import search_vectors
from xsap.search.vectors import Floats, Rows, Vectors, check_finite
from xsap.text import TextPolicy, normalize_all

AS_IT_STANDS, LOWER = TextPolicy(case="cased", unicode="none"), TextPolicy(case="lower", unicode="none")


class PublishedModel(NamedTuple):
    """A published model: its id on the hub, how it pools (None: its folder says), and where that is stated."""

    hub_id: str
    pooling: str | None
    source: str


_SAPBERT = "https://github.com/cambridgeltl/sapbert"
_CODER = "[CLS]; its authors take what the pooler makes of it, which no pooling here is (https://github.com/GanjinZero/CODER)"
_CLS = "[CLS], as SapBERT compares it (Liu et al., NAACL 2021, table 1)"
KNOWN = {
    "sapbert": PublishedModel("cambridgeltl/SapBERT-from-PubMedBERT-fulltext", "cls", _SAPBERT),
    "sapbert-mean": PublishedModel("cambridgeltl/SapBERT-from-PubMedBERT-fulltext-mean-token", "mean", _SAPBERT),
    "sapbert-xlmr": PublishedModel("cambridgeltl/SapBERT-UMLS-2020AB-all-lang-from-XLMR", "cls", _SAPBERT),
    "sapbert-xlmr-large": PublishedModel("cambridgeltl/SapBERT-UMLS-2020AB-all-lang-from-XLMR-large", "cls", _SAPBERT),
    "coder": PublishedModel("GanjinZero/coder_all", "cls", _CODER),
    "coder-en": PublishedModel("GanjinZero/coder_eng", "cls", _CODER),
    "biobert": PublishedModel("dmis-lab/biobert-base-cased-v1.2", "cls", _CLS),
    "scibert": PublishedModel("allenai/scibert_scivocab_uncased", "cls", _CLS),
    "pubmedbert": PublishedModel("microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract-fulltext", "cls", _CLS),
    "biolord": PublishedModel("FremyCompany/BioLORD-2023", None, "https://huggingface.co/FremyCompany/BioLORD-2023"),
    "biolord-multilingual": PublishedModel(
        "FremyCompany/BioLORD-2023-M", None, "https://huggingface.co/FremyCompany/BioLORD-2023-M"
    ),
    "sapbert-es": PublishedModel(
        "BSC-NLP4BIA/SapBERT-from-roberta-base-biomedical-clinical-es", "cls", "https://huggingface.co/BSC-NLP4BIA"
    ),
    "roberta-es": PublishedModel(
        "PlanTL-GOB-ES/roberta-base-biomedical-clinical-es", "cls", "https://huggingface.co/PlanTL-GOB-ES"
    ),
}  # KeBioLM's weights are not on the hub (https://github.com/GanjinZero/KeBioLM): give their folder, with @cls


@dataclass(frozen=True)
class CachedEncoder:
    """An encoder, and where the vectors of its dictionaries are kept."""

    encoder: Encoder
    cache: Path
    progress: bool = False

    @classmethod
    def open(cls, given: str, cache: Path, *, dtype: Dtype = "float32", progress: bool = False) -> "CachedEncoder":
        """given: a name of KNOWN, a folder or a hub id; `…@cls` (or mean, mean_all) states a pooling. Raises XsapError."""
        place, _, pooling = given.rpartition("@")
        if not place or "/" in pooling:  # no pooling: a path may have an @ of its own
            place, pooling = given, ""
        known = KNOWN.get(place)
        if known:
            place, pooling = known.hub_id, pooling or known.pooling or ""
        return cls(Encoder.from_pretrained(place, pooling=pooling or None, dtype=dtype), cache, progress)

    def metadata(self) -> dict[str, Any]:
        """What a report says of it."""
        encoder = self.encoder
        return {
            "model": encoder.content_hash,
            "pooling": encoder.pooling,
            "max_length": encoder.max_length,
            "text": encoder.policy.to_dict(),
            "precision": encoder.dtype,
        }

    def vectors(self, names: Sequence[str], *, unit: bool, policy: TextPolicy) -> Floats:
        """(names, dimension) vectors, out of the cache where they are there; then memory-mapped, their hash checked.

        Raises DataError for vectors that aren't finite, ArtifactError where the cache is damaged.
        """
        assert self.encoder.content_hash, "a model that was never saved has no name of its own in the cache"
        digest = hashlib.sha256(
            json.dumps([self.metadata() | {"text": policy.to_dict()}, unit], sort_keys=True).encode()
        )
        for name in names:
            digest.update(f"{len(name)} {name}\n".encode("utf-8", "surrogatepass"))
        folder = self.cache / digest.hexdigest()[:32]
        if not folder.is_dir():
            array = self.encoder.encode(names, unit=unit, policy=policy, progress=self.progress)
            check_finite(array, "the vectors of a dictionary")
            with publish(folder, "vectors", {"count": len(names), **self.metadata()}) as aside:
                np.save(aside / "vectors.npy", array, allow_pickle=False)
        try:
            open_artifact(folder, "vectors")
        except ArtifactError as error:
            raise ArtifactError(f"{error}: remove {folder}, and its names are encoded again") from None
        vectors: Floats = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
        return vectors

    def link_into(self, space: SearchSpace) -> NameLinker:
        """Cosine of unit vectors under the model's own text policy; for the reference protocol the dot product of raw ones, the
        dictionary lower-cased, mentions as they stand."""
        encoder = self.encoder
        names = Names.of(space, encoder.policy)
        unit = Vectors.from_array(self.vectors(names.texts, unit=True, policy=encoder.policy))
        lowered = normalize_all(space.rows.names, LOWER)
        unique = {
            name: i for i, name in enumerate(dict.fromkeys(lowered))
        }  # equal names get equal vectors, so that they tie
        array = self.vectors(list(unique), unit=False, policy=AS_IT_STANDS)[[unique[name] for name in lowered]]
        raw = Vectors.from_array(array)

        def as_linker(mentions: Sequence[str]) -> NameSearch:
            queries = encoder.encode(mentions)
            return lambda part, k: search_vectors(unit, queries[part], k)

        def as_reference(mentions: Sequence[str]) -> NameSearch:
            queries = encoder.encode(mentions, unit=False, policy=AS_IT_STANDS)
            return lambda part, k: search_vectors(raw, queries[part], k)

        return NameLinker(space, names, as_linker, as_reference, -np.inf)


@dataclass(frozen=True)
class IndexLinker:
    """An xsap index, as `xsap link` uses it; under the reference protocol the names of its dictionary, by its model."""

    linker: Linker
    reference: NameLinker

    @classmethod
    def open(cls, path: str, space: SearchSpace, cache: Path) -> "IndexLinker":
        """Raises DataError if the index is not of the task's dictionary, for then its scores would not compare."""
        linker = Linker.load(path)
        index = linker.index
        if space.terminology is None:
            raise DataError(
                f"{path}: expected a dictionary that is a terminology, as an index's is; found {space.source}"
            )
        if index.terminology_hash != space.terminology or index.languages != space.languages:
            wanted, found = (
                f"terminology {str(content_hash)[:8]}… in {','.join(languages or ('all',))}"
                for content_hash, languages in (
                    (space.terminology, space.languages),
                    (index.terminology_hash, index.languages),
                )
            )
            raise DataError(
                f"{path}: expected an index of the task's dictionary, {space.source}: {wanted}; found {found}; build it from that"
            )
        if not isinstance(linker.encoder, Encoder):
            raise ConfigError(f"{path}: expected an index with a model of its own")
        return cls(linker, CachedEncoder(linker.encoder, cache).link_into(space))

    @property
    def concept_ids(self) -> Collection[str]:
        """Every concept that can be an answer."""
        return self.linker.concept_ids

    def link(self, mentions: Sequence[str], top_k: int) -> Sequence[Result]:
        """As `xsap link`."""
        return self.linker.link(mentions, top_k)

    def dictionary_rows(self, mentions: Sequence[str], k: int) -> Rows:
        """As NameLinker's."""
        return self.reference.dictionary_rows(mentions, k)
