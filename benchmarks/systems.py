"""What may stand after --system, as something that links into any dictionary.

`exact`, `tfidf`, `A+B` (two fused), `recipe:xsap` and `recipe:reference` (trained first), `index:FOLDER`, and everything else is a model: a name of
models.KNOWN, a folder or a hub id, with `@cls` or `@mean` where its folder doesn't say how it pools. `NAME=` before it names it in reports.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.baselines import Fused, Linking, exact, tfidf
from benchmarks.dictionary import Space
from benchmarks.models import IndexLinker, Model
from benchmarks.recipes import trained
from xsap.artifacts import content_hash, read_manifest
from xsap.encoding.encoder import Precision
from xsap.errors import ConfigError

LEXICAL: Mapping[str, Callable[[Space], Linking]] = {"exact": exact, "tfidf": tfidf}
_LABEL = re.compile(r"([\w. -]+)=(.+)")


@dataclass(frozen=True)
class Workplace:
    """Where vectors and trained models are kept, and how. training: what recipes are trained on, for `minutes` each."""

    folder: Path
    training: Path | None
    minutes: float
    precision: Precision = "fp32"
    progress: bool = False


@dataclass(frozen=True)
class System:
    """A rival. facts: all that its results follow from. model: for what compares its text treatments; None of other kinds."""

    label: str
    facts: dict[str, Any]
    link_into: Callable[[Space], Linking]
    model: Model | None = None


def open_systems(given: Sequence[str], work: Workplace) -> list[System]:
    """Systems by their words on the command line, trained first where they are recipes. Raises ConfigError where two have one name."""
    systems = [open_system(words, work) for words in given]
    labels = [system.label for system in systems]
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(f"expected a name of its own for each system, found '{label}' twice; write --system NAME=…")
    return systems


def open_system(words: str, work: Workplace) -> System:
    """One system. Raises XsapError."""
    found = _LABEL.fullmatch(words)
    label, spec = (found[1].strip(), found[2]) if found else (None, words)
    kind, _, rest = spec.partition(":")
    if spec in LEXICAL:
        return System(label or spec, {"kind": spec}, LEXICAL[spec])
    if pair := _fusion(spec):
        first, second = (open_system(part, work) for part in pair)
        fused = {"kind": "fused", "of": [first.facts, second.facts]}
        return System(label or spec, fused, lambda space: Fused(first.link_into(space), second.link_into(space)))
    if kind == "index" and rest:
        held = {"kind": "index", "index": content_hash(read_manifest(rest, "index"))}
        return System(label or Path(rest).name, held, lambda space: IndexLinker.open(rest, space, work.folder / "vectors"))
    facts: dict[str, Any] = {"kind": "model", "given": spec}
    if kind == "recipe":
        if work.training is None:
            raise ConfigError(f"'{spec}' is trained first, on HPO without the held-out names: --data hpo=PATH")
        facts = {"kind": "recipe", "given": rest, "minutes": work.minutes}
        label, spec = label or f"{rest} recipe", str(trained(rest, work.training, work.minutes, work.folder))
    model = Model.open(spec, work.folder / "vectors", precision=work.precision, progress=work.progress)
    label = label or (spec if spec.count("/") < 2 else Path(spec).name)
    return System(label, facts | model.facts(), model.link_into, model)


def _fusion(spec: str) -> tuple[str, str] | None:
    """`A+B` where one of the two is lexical, for a path may have a + of its own."""
    before, _, after = spec.rpartition("+")
    if before and after in LEXICAL:
        return before, after
    before, _, after = spec.partition("+")
    return (before, after) if after and before in LEXICAL else None
