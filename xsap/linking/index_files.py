"""The files of an index's folder: how they are called, written and hashed."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from xsap.artifacts import manifest_hash, publish
from xsap.linking.dictionary import Dictionary
from xsap.linking.dictionary_files import DICTIONARY_FORMAT, write_dictionary
from xsap.linking.encoder_spec import LOCATION, REVISION, EncoderSpec, check_model_saved
from xsap.linking.mention_files import write_mention_names
from xsap.linking.mention_names import MentionNames
from xsap.search.approximate import HnswIndex
from xsap.search.vectors import Floats, VectorDtype, Vectors, write_vectors

INDEX_KIND, CALIBRATION, FUSION, HNSW_FILE = "index", "calibration.json", "fusion.json", "hnsw.usearch"
RERANKER_FILE = "reranker.json"  # which re-ranker it is used with, see `rerank_choice`
VECTORS_PER_WRITE = 1 << 10  # divides every shard, for the last bit of a bound on rounding depends on the blocks
# what reading files of any content raises
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, OSError, ArithmeticError, RecursionError, MemoryError)


def index_hash(manifest: dict[str, Any]) -> str:
    """An index's content hash: of its files, and of how its model was used, because answers depend on both."""
    spec = {key: value for key, value in manifest["model"].items() if key not in (*LOCATION, REVISION)}
    return hashlib.sha256(f"{manifest_hash(manifest)}\0{json.dumps(spec, sort_keys=True)}".encode()).hexdigest()


def write_index(
    path: Path | str,
    dictionary: Dictionary,
    model: EncoderSpec,
    blocks: Iterable[Floats],
    *,
    terminology_hash: str | None,
    languages: Sequence[str] | None,
    dimension: int,
    vector_dtype: VectorDtype,
    build_hnsw: Callable[[Vectors], HnswIndex] | None = None,
    make_mentions: Callable[[Vectors], MentionNames] | None = None,
    overwrite: bool = False,
) -> HnswIndex | None:
    """Write an index's folder, whole or not at all.

    Args:
        path: The folder.
        dictionary: The names and their concepts.
        model: The encoder of the vectors.
        blocks: (m, dimension) vectors that are written together; in all one for each name, in order.
        terminology_hash: Content hash of the terminology.
        languages: Whose names were chosen; None for all languages.
        dimension: Components of a vector.
        vector_dtype: How vectors are stored.
        build_hnsw: Makes the HNSW index of the vectors on disk; None for an index without one.
        make_mentions: Makes the mention names from the vectors on disk; None for an index without them.
        overwrite: Whether to replace an index that is there.

    Returns:
        The HNSW index, if there is one.

    Raises:
        ConfigError: The model was never saved.
        ArtifactError: `path` exists and may not be replaced.
        DataError: A vector is not finite.
    """
    check_model_saved(model)
    metadata: dict[str, Any] = {
        "model": model.manifest_entry(Path(path)),
        "terminology_hash": terminology_hash,
        "languages": languages,
        "dropped": dictionary.dropped,
        "dictionary_format": DICTIONARY_FORMAT,
    }
    with publish(path, INDEX_KIND, metadata, overwrite=overwrite) as folder:
        write_dictionary(folder, dictionary)
        with write_vectors(folder, dictionary.names.num_rows, dimension, vector_dtype) as write:
            for block in blocks:
                write(block)
        vectors = Vectors.open(folder)
        metadata |= vectors.metadata()
        hnsw = None if build_hnsw is None else build_hnsw(vectors)
        if hnsw is not None:
            metadata["hnsw"] = hnsw.save(folder / HNSW_FILE)
        if make_mentions is not None:
            mention_names = make_mentions(vectors)
            write_mention_names(folder, mention_names)
            metadata["mentions"] = mention_names.metadata()
    return hnsw


def read_json(folder: Path, file: str | None) -> Any:
    """The content of a JSON file that was added to an index's folder; None if there is none."""
    if file is None:
        return None
    content = json.loads((folder / file).read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{file} is no JSON object")
    return content
