"""Probing a model: which pooling tells synonyms apart from other names, for a model folder that does not state it.

Twenty pairs of everyday medical synonyms, some in two languages, are embedded under each pooling. The pooling under which
most names have their own synonym as nearest neighbor is a guess made visible, never one made silently: `xsap probe`
prints it, and the user gives `--pooling`.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsap.encoding.encoder import Encoder
from xsap.encoding.model_folder import POOLINGS, REFERENCE_LENGTH
from xsap.encoding.sample_names import SAMPLE_NAMES


@dataclass(frozen=True)
class ProbeResult:
    """How well one pooling finds the synonyms.

    Attributes:
        pooling: As in `EncoderConfig`.
        nearest: Fraction of the 40 names whose nearest other name is its synonym.
        margin: Mean, over the names, of the cosine to the synonym minus the largest to any other name.
    """

    pooling: str
    nearest: float
    margin: float

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        return asdict(self)


def probe(encoder: Encoder) -> list[ProbeResult]:
    """Embed the synonyms under each pooling, best pooling first, with 25 tokens a name at most: `mean_all` pads every name to that.

    Args:
        encoder: The model; its own pooling is not changed.
    """
    results, length = [], min(encoder.max_length, REFERENCE_LENGTH)
    for pooling in POOLINGS:
        config = replace(encoder.config, pooling=pooling, max_length=length)
        other = Encoder(encoder.transformer, encoder.tokenizer, config, encoder.dense).eval()
        results.append(ProbeResult(pooling, *_separation(other.encode(SAMPLE_NAMES))))
    return sorted(results, key=lambda result: (-result.nearest, -result.margin))


def _separation(vectors: NDArray[np.float32]) -> tuple[float, float]:
    """Fraction of rows whose nearest other row is their partner (rows 2i and 2i + 1), and the mean margin."""
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    rows = np.arange(len(vectors))
    partner = rows ^ 1
    own = cosines[rows, partner]
    cosines[rows, partner] = -np.inf
    rival = cosines.max(1)
    return float((own > rival).mean()), float((own - rival).mean())


def open_for_probe(path: Path | str, revision: str | None = None, prompt: str | None = None) -> Encoder:
    """A model whatever pooling it states, one that xsap does not have among them; it is set to `cls`, which `probe` does not use.

    Args:
        path: A model folder, or an id of the Hugging Face hub.
        revision: Branch, tag or commit of a model on the hub.
        prompt: Text before every name; by default the model's own.
    """
    return Encoder.from_pretrained(path, pooling="cls", prompt=prompt, revision=revision, override=True)
