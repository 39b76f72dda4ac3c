"""Which re-ranker a linker uses: the one that is stored in its index, or another one that is asked for.

An index stores which re-ranker it is used with, not the re-ranker itself: where its folder is, relative to the index, and its content hash, as it
stores these of its model. A re-ranker in turn states which retriever its scores were learned from (the model, as it is used, and the weight of
string similarity), and an index with another retriever is refused; another terminology is not. A calibration is valid for one
re-ranker only, so storing another one removes it, and a linker that is opened with another one has no confidences.
"""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from xsap.artifacts import find_updated, manifest_hash, open_artifact, read_manifest, update_files
from xsap.encoding.encoder import Encoder
from xsap.errors import ArtifactError, ConfigError
from xsap.linking.cross_encoder import RERANKER_KIND, CrossEncoder
from xsap.linking.encoder_spec import Embedder, record_location, resolve_location, short_hash
from xsap.linking.index import Index
from xsap.linking.index_files import CALIBRATION, INDEX_KIND, RERANKER_FILE
from xsap.linking.late_interaction import LateInteraction
from xsap.linking.rerank import RERANKED, Reranker
from xsap.linking.rerank_hook import HttpReranker

LATE, NO_RERANKING = "late", "none"
_SERVICE = ("http://", "https://")

RerankChoice = str | Path | Reranker | None
"""`late`, `none`, the address of a service, the folder of a cross-encoder, a re-ranker; None for what the index has stored."""

logger = logging.getLogger(__name__)


class OpenedReranker(NamedTuple):
    """A re-ranker, ready for an index.

    Attributes:
        reranker: None for none.
        top: Candidates that it scores.
        bound_index: The index, without its calibration if that is for another re-ranker.
    """

    reranker: Reranker | None
    top: int
    bound_index: Index


def retriever_of(index: Index) -> dict[str, Any]:
    """What retrieval scores come from."""
    return {"model": index.model.content_hash, "pooling": index.model.pooling, "fusion_weight": index.fusion_weight}


def open_reranker(choice: RerankChoice, index: Index, encoder: Embedder, *, top: int | None = None) -> OpenedReranker:
    """The re-ranker of a linker.

    Args:
        choice: What is asked for.
        index: The index.
        encoder: Its encoder.
        top: Candidates that are scored; None for what is stored, else as many as in its training, else RERANKED.

    Raises:
        ArtifactError: There is no such re-ranker, or it is damaged, another one, or was trained on another retriever.
        ConfigError: `late` with an encoder that has no tokens.
    """
    stored = _stored(index)
    if choice is None:
        if stored is None:
            return OpenedReranker(None, top or RERANKED, index)
        return OpenedReranker(_open_stored(stored, index, encoder), top or int(stored["top"]), index)
    reranker = _open(choice, index, encoder)
    if stored is None or reranker is None:  # a service has no hash, as the index without a re-ranker has none
        same = stored is None and reranker is None
    else:
        same = stored["content_hash"] == reranker.content_hash
    if index.calibration is not None and not same:
        logger.info("%s is calibrated for another re-ranking, so answers have no confidence", index.path or "the index")
        index = replace(index, calibration=None)
    top = top or (int(stored["top"]) if same and stored is not None else _usual_top(reranker))
    return OpenedReranker(reranker, top, index)


def _usual_top(reranker: Reranker | None) -> int:
    return reranker.top if isinstance(reranker, CrossEncoder) else RERANKED


def check_storable(choice: str | Path) -> None:
    """Raise ConfigError for a service, which can't be stored in an index."""
    if str(choice).startswith(_SERVICE):
        raise ConfigError(
            f"{choice}: a service can't be stored in an index, as it may change; give --rerank when linking"
        )


def choice_identity(choice: str | Path | None) -> dict[str, str] | None:
    """What answers depend on beside the index, for runs that resume: the re-ranker that was asked for; None for a service, which may change.

    Raises:
        ArtifactError: There is no such re-ranker, or it is damaged.
    """
    if choice is None:
        return {}
    if str(choice).startswith(_SERVICE):
        return None
    named = str(choice) in (LATE, NO_RERANKING)
    return {"reranker": str(choice) if named else manifest_hash(open_artifact(choice, RERANKER_KIND))}


def store_reranker(index: Index, choice: str | Path, encoder: Embedder, *, top: int | None = None) -> Index:
    """Store in an index's folder which re-ranker it is used with; `none` for none. A calibration is removed, as it is valid for one only.

    Args:
        index: An index that was saved.
        choice: `late`, `none` or the folder of a cross-encoder.
        encoder: Of the index.
        top: Candidates that it scores; None for as many as in its training, else RERANKED.

    Raises:
        ArtifactError: As `open_reranker`.
        ConfigError: The index was never saved, or the re-ranker is a service, which has no hash.
    """
    if index.path is None:
        raise ConfigError("a re-ranker is stored in an index's folder; save this index first")
    check_storable(choice)
    reranker = _open(choice, index, encoder)
    content = None
    if reranker is not None:
        location = LATE if str(choice) == LATE else record_location(str(choice), index.path)
        stated = {"location": location, "content_hash": reranker.content_hash, "top": top or _usual_top(reranker)}
        content = json.dumps(stated, indent=1) + "\n"
    update_files(index.path, INDEX_KIND, {RERANKER_FILE: content, CALIBRATION: None})
    return Index.load(index.path, ann=index.hnsw is not None)


def pickled_reranker(reranker: Reranker) -> str:
    """What `open_reranker` opens in another process. Raises ConfigError for one that was not opened from a folder or an address."""
    if isinstance(reranker, HttpReranker):
        return reranker.url
    if isinstance(reranker, CrossEncoder) and reranker.path is not None:
        return str(reranker.path)
    if isinstance(reranker, LateInteraction) and reranker == LateInteraction(reranker.encoder):
        return LATE
    raise ConfigError(
        "a linker with a re-ranker in memory can't be pickled; save the re-ranker, and open it with Linker.load"
    )


def _open(choice: str | Path | Reranker, index: Index, encoder: Embedder) -> Reranker | None:
    if not isinstance(choice, str | Path):
        return choice
    if str(choice) == NO_RERANKING:
        return None
    if str(choice).startswith(_SERVICE):
        return HttpReranker(str(choice))
    if str(choice) == LATE:
        if not isinstance(encoder, Encoder):
            raise ConfigError("late interaction needs an encoder with tokens, such as a model folder has")
        return LateInteraction(encoder)
    device = next(encoder.transformer.parameters()).device if isinstance(encoder, Encoder) else None
    reranker = CrossEncoder.load(
        choice, device=device, dtype=encoder.dtype if isinstance(encoder, Encoder) else "float32"
    )
    if reranker.retriever != retriever_of(index):
        given, own = reranker.retriever or {}, retriever_of(index)
        key = next((each for each in own if given.get(each) != own[each]), "model")
        expected, found = (short_hash(part.get(key)) if key == "model" else part.get(key) for part in (given, own))
        raise ArtifactError(
            f"{choice} was trained on an index with {key} {expected}, not {found}; train it again: "
            f"xsap train-reranker MENTIONS --index {index.path or 'INDEX'} --out RERANKER"
        )
    return reranker


def _stored(index: Index) -> dict[str, Any] | None:
    """What an index has stored of its re-ranker."""
    if index.path is None:
        return None
    file = find_updated(read_manifest(index.path, INDEX_KIND), RERANKER_FILE)
    if file is None:
        return None
    try:
        stored = json.loads((index.path / file).read_text(encoding="utf-8"))
        return {"location": str(stored["location"]), "content_hash": stored["content_hash"], "top": int(stored["top"])}
    except (OSError, ValueError, KeyError, TypeError):
        raise ArtifactError(
            f"{index.path / file}: expected the index's re-ranker; store it again: xsap calibrate --rerank"
        ) from None


def _open_stored(stored: dict[str, Any], index: Index, encoder: Embedder) -> Reranker | None:
    assert index.path is not None
    location = resolve_location(stored["location"], index.path)
    if location != LATE and not Path(str(location)).is_dir():
        raise ArtifactError(
            f"{index.path}: its re-ranker ({short_hash(stored['content_hash'])}) is no longer at {location}; "
            "give --rerank FOLDER, or --rerank none"
        )
    reranker = _open(str(location), index, encoder)
    found = None if reranker is None else reranker.content_hash
    if found != stored["content_hash"]:
        expected = short_hash(stored["content_hash"])
        raise ArtifactError(
            f"{index.path} is used with re-ranker {expected}, not with {location} ({short_hash(found)}); "
            f"store it again: xsap calibrate MENTIONS --index {index.path} --rerank {location}"
        )
    return reranker
