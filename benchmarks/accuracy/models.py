"""Linkers by vectors: any Hugging Face or SentenceTransformer model, by path or hub id, and an xsap index.

The models of the literature have short names here. Vectors of a dictionary are cached in a folder named by the hash of
everything they depend on (model, pooling, length, text policy, prompts, dtype, names), so a second run encodes nothing.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np

from benchmarks.accuracy.baselines import NameLinker, UniqueNames
from benchmarks.accuracy.dictionary import SearchSpace
from xsap.artifacts import open_artifact, publish
from xsap.encoding.encoder import Dtype, Encoder
from xsap.errors import ArtifactError, ConfigError, DataError
from xsap.evaluation.protocols import CASED, reference_vectors
from xsap.linking.encoder_spec import encode_as_mentions
from xsap.linking.linker import Linker
from xsap.linking.mention_weight import RowSearch
from xsap.linking.ranking import NameSearch
from xsap.linking.results import Result
from xsap.search.exact import search_array, search_vectors
from xsap.search.vectors import Floats, Rows, Vectors, check_finite
from xsap.text import TextPolicy

KNOWN_MODELS = {  # name → id on the hub; what the table of xsap.encoding.known_models has of it is used
    "sapbert": "cambridgeltl/SapBERT-from-PubMedBERT-fulltext",
    "sapbert-mean": "cambridgeltl/SapBERT-from-PubMedBERT-fulltext-mean-token",
    "sapbert-xlmr": "cambridgeltl/SapBERT-UMLS-2020AB-all-lang-from-XLMR",
    "sapbert-xlmr-large": "cambridgeltl/SapBERT-UMLS-2020AB-all-lang-from-XLMR-large",
    "coder": "GanjinZero/coder_all",
    "coder-en": "GanjinZero/coder_eng",
    "biobert": "dmis-lab/biobert-base-cased-v1.2",
    "scibert": "allenai/scibert_scivocab_uncased",
    "pubmedbert": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract-fulltext",
    "biolord": "FremyCompany/BioLORD-2023",
    "biolord-multilingual": "FremyCompany/BioLORD-2023-M",
    "sapbert-es": "BSC-NLP4BIA/SapBERT-from-roberta-base-biomedical-clinical-es",
    "roberta-es": "PlanTL-GOB-ES/roberta-base-biomedical-clinical-es",
}  # KeBioLM's weights are not on the hub (https://github.com/GanjinZero/KeBioLM): give their folder, with @cls


def parse_model(given: str) -> tuple[str, str | None]:
    """A folder or hub id, and a pooling if one is stated, of a model as it is given on the command line.

    Args:
        given: A name of KNOWN_MODELS, a folder or a hub id; `…@cls` (or mean, mean_all) states a pooling.
    """
    name, _, pooling = given.rpartition("@")
    if not name or "/" in pooling:  # no pooling: a path may contain an @
        name, pooling = given, ""
    return KNOWN_MODELS.get(name, name), pooling or None


@dataclass(frozen=True)
class CachedEncoder:
    """An encoder with a cache for the vectors of its dictionaries."""

    encoder: Encoder
    cache: Path
    progress: bool = False

    @classmethod
    def from_name(cls, given: str, cache: Path, *, dtype: Dtype = "float32", progress: bool = False) -> Self:
        """Load a model as it is given on the command line.

        Args:
            given: A name of KNOWN_MODELS, a folder or a hub id; `…@cls` (or mean, mean_all) states a pooling.
            cache: Folder for vectors of dictionaries.
            dtype: Number format of the encoder's matrix products.
            progress: Whether to show progress bars.

        Raises:
            XsapError: If there is no such model, or its pooling is unknown.
        """
        name, pooling = parse_model(given)
        return cls(Encoder.from_pretrained(name, pooling=pooling, dtype=dtype), cache, progress)

    def metadata(self) -> dict[str, Any]:
        """What a report states about it."""
        encoder = self.encoder
        return {
            "model": encoder.content_hash,
            "pooling": encoder.pooling,
            "max_length": encoder.max_length,
            "text": encoder.policy.to_dict(),
            "dtype": encoder.dtype,
        } | ({"prompts": list(encoder.prompts)} if any(encoder.prompts) else {})

    def vectors(self, names: Sequence[str], *, unit: bool, policy: TextPolicy) -> Floats:
        """Vectors of a dictionary's names, from the cache if they are there.

        Args:
            names: The names.
            unit: Whether to scale vectors to unit length.
            policy: The text policy to normalize names by.

        Returns:
            (names, dimension) float32, memory-mapped from the cache after its hash was checked.

        Raises:
            DataError: If a vector is not finite.
            ArtifactError: If the cache is damaged.
        """
        assert self.encoder.content_hash, "a model that was never saved has no hash for the cache"
        inputs = [self.metadata() | {"text": policy.to_dict()}, unit]
        digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode())
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
            raise ArtifactError(f"{error}: remove {folder} to encode its names again") from None
        vectors: Floats = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
        return vectors

    def link_into(self, space: SearchSpace) -> NameLinker:
        """A linker by cosine under the model's own text policy; the reference protocol's own way for its rows."""
        encoder = self.encoder
        names = UniqueNames.from_space(space, encoder.policy)
        unit = self.vectors(names.texts, unit=True, policy=encoder.policy)

        @cache
        def raw() -> Floats:  # encoded only where the reference protocol is asked for
            return reference_vectors(space.rows.names, lambda names: self.vectors(names, unit=False, policy=CASED))

        def concept_search(mentions: Sequence[str]) -> NameSearch:
            queries = encode_as_mentions(encoder, mentions)
            return lambda part, k: search_array(unit, queries[part], k)

        def reference_search(mentions: Sequence[str]) -> NameSearch:
            queries = encode_as_mentions(encoder, mentions, unit=False, policy=CASED)
            return lambda part, k: search_array(raw(), queries[part], k)

        return NameLinker(space, names, concept_search, reference_search, -np.inf)

    def search_rows(self, names: Sequence[str]) -> Callable[[Sequence[str]], RowSearch]:
        """Mentions → a search by cosine for the names nearest to some of them, among given rows."""
        unit = Vectors.from_array(self.vectors(names, unit=True, policy=self.encoder.policy))

        def searches(mentions: Sequence[str]) -> RowSearch:
            queries = encode_as_mentions(self.encoder, mentions)
            return lambda part, k, rows: search_vectors(unit, queries[part], k, rows=rows)

        return searches


@dataclass(frozen=True)
class IndexLinker:
    """An xsap index, as `xsap link` uses it; under the reference protocol the names of its dictionary, by its model."""

    linker: Linker
    reference: NameLinker

    @classmethod
    def load(cls, path: str, space: SearchSpace, cache: Path) -> Self:
        """Load an index. Raises DataError if it was not built from the task's dictionary: scores would not be comparable."""
        linker = Linker.load(path)
        index = linker.index
        if space.terminology_hash is None:
            expected = "expected a dictionary that is a terminology, as an index's is"
            raise DataError(f"{path}: {expected}; found {space.source}")
        if index.terminology_hash != space.terminology_hash or index.languages != space.languages:
            wanted, found = (
                f"terminology {str(each.terminology_hash)[:8]}… in {','.join(each.languages or ('all',))}"
                for each in (space, index)
            )
            expected = f"expected an index of the task's dictionary, {space.source}: {wanted}"
            languages = ",".join(space.languages or ("all",))
            remedy = f"build it from that terminology: xsap index MODEL TERMINOLOGY --languages {languages} --out INDEX"
            raise DataError(f"{path}: {expected}; found {found}; {remedy}")
        if not isinstance(linker.encoder, Encoder):
            raise ConfigError(f"{path}: expected an index with a model of its own")
        return cls(linker, CachedEncoder(linker.encoder, cache).link_into(space))

    @property
    def concept_ids(self) -> Collection[str]:
        """Every concept that can be an answer."""
        return self.linker.concept_ids

    def link(self, mentions: Sequence[str], top_k: int, *, languages: Sequence[str] | None = None) -> Sequence[Result]:
        """As `xsap link`."""
        return self.linker.link(mentions, top_k, languages=languages)

    def dictionary_rows(self, mentions: Sequence[str], k: int) -> Rows:
        """As NameLinker's."""
        return self.reference.dictionary_rows(mentions, k)
