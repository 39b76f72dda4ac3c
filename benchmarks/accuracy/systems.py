"""Two recipes trained for as many minutes on one terminology: the original SapBERT's, and ours. Each is a command of its own, and leaves a model.

Both start from random weights of one size (2 layers × 256) and train their vocabulary of 8,000 pieces on the same names. Ours is
`configs/train/small.toml`, and goes on where it was cut; the original's has no resume, so a run that was cut begins again. Its learning rate is the
best of those tried (LOG.md). The original's clock starts when its names are tokenized, ours too.

What may stand after --system, as something that links into any dictionary.

`exact`, `tfidf`, `A+B` (two fused), `recipe:xsap` and `recipe:reference` (trained first), `index:FOLDER`, and everything else is a model: a name of
models.KNOWN, a folder or a hub id, with `@cls` or `@mean` where its folder doesn't say how it pools. `NAME=` before it names it in reports.
"""

import hashlib
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.accuracy.baselines import Fused, Linking, exact, tfidf
from benchmarks.accuracy.dictionary import SearchSpace
from benchmarks.accuracy.models import CachedEncoder, IndexLinker
from xsap.artifacts import manifest_hash, read_manifest
from xsap.encoding.encoder import Dtype
from xsap.errors import ConfigError, XsapError

RECIPES = ("xsap", "reference")
REFERENCE_LR = 1e-3
_CONFIG = Path(__file__).resolve().parents[2] / "configs" / "train" / "small.toml"
_TRAIN = Path(__file__).resolve().parents[2] / "xsap" / "train.py"


def check_recipe(recipe: str) -> None:
    """Raise ConfigError if there is no such recipe."""
    if recipe not in RECIPES:
        raise ConfigError(f"unknown recipe '{recipe}'; they are {' and '.join(RECIPES)}")


def trained(recipe: str, terminology: Path, minutes: float, work: Path) -> Path:
    """The model's folder, trained unless it is there already. Raises XsapError if the training fails."""
    check_recipe(recipe)
    told = f"{manifest_hash(read_manifest(terminology, 'terminology'))} {minutes} {_CONFIG.read_text(encoding='utf-8')}"
    place = work / f"recipe-{recipe}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
    model = place if recipe == "reference" else place / "model"
    if model.is_dir():
        return model
    print(f"training by the recipe '{recipe}', {minutes:g} minutes", file=sys.stderr, flush=True)
    if recipe == "reference":
        words = ["-m", "benchmarks", "speed", "reference-run", "--terminology", str(terminology), "--out", str(place)]
        words += ["--size", "small", "--lr", str(REFERENCE_LR), "--minutes", str(minutes)]
    else:
        settings = {"terminology": terminology, "output": place, "max_minutes": minutes, "resume": "auto"}
        words = [
            str(_TRAIN),
            "--config",
            str(_CONFIG),
            *(word for key, value in settings.items() for word in ("--set", f"{key}={value}")),
        ]
    done = subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise XsapError(
            f"training by the recipe '{recipe}' ended with exit code {done.returncode}; its own message stands above"
        )
    return model


LEXICAL: Mapping[str, Callable[[SearchSpace], Linking]] = {"exact": exact, "tfidf": tfidf}
_INDEX, _RECIPE = "index:", "recipe:"
_LABEL = re.compile(r"([\w. -]+)=(.+)")


@dataclass(frozen=True)
class WorkDir:
    """Where vectors and trained models are kept, and how. training: what recipes are trained on, for `minutes` each."""

    folder: Path
    training: Path | None
    minutes: float
    dtype: Dtype = "float32"
    progress: bool = False


@dataclass(frozen=True)
class System:
    """A rival. facts: all that its results follow from. model: for what compares its text treatments; None of other kinds."""

    label: str
    metadata: dict[str, Any]
    link_into: Callable[[SearchSpace], Linking]
    model: CachedEncoder | None = None


def open_systems(given: Sequence[str], work: WorkDir) -> list[System]:
    """Systems by their words on the command line, recipes among them trained. Raises ConfigError where two have one name.

    What can be wrong is found before the first recipe is trained, which takes minutes.
    """
    labels = [_parse(words)[0] for words in given]
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(
                f"expected a name of its own for each system, found '{label}' twice; write --system NAME=…"
            )
    order = sorted(range(len(given)), key=lambda i: any(f"{_RECIPE}{name}" in given[i] for name in RECIPES))
    opened = {i: open_system(given[i], work) for i in order}
    return [opened[i] for i in range(len(given))]


def open_system(words: str, work: WorkDir) -> System:
    """One system. Raises XsapError."""
    label, spec = _parse(words)
    if spec in LEXICAL:
        return System(label, {"kind": spec}, LEXICAL[spec])
    if pair := _fusion(spec):
        first, second = (open_system(part, work) for part in pair)
        fused = {"kind": "fused", "of": [first.metadata, second.metadata]}
        return System(label, fused, lambda space: Fused(first.link_into(space), second.link_into(space)))
    if spec.startswith(_INDEX):
        path = spec.removeprefix(_INDEX)
        held = {"kind": "index", "index": manifest_hash(read_manifest(path, "index"))}
        return System(label, held, lambda space: IndexLinker.open(path, space, work.folder / "vectors"))
    metadata: dict[str, Any] = {"kind": "model", "given": spec}
    if spec.startswith(_RECIPE):
        recipe = spec.removeprefix(_RECIPE)
        check_recipe(recipe)
        if work.training is None:
            raise ConfigError(f"'{spec}' is trained first; say on what: --data training=TERMINOLOGY, or a task of HPO")
        metadata = {"kind": "recipe", "given": recipe, "minutes": work.minutes}
        spec = str(trained(recipe, work.training, work.minutes, work.folder))
    model = CachedEncoder.open(spec, work.folder / "vectors", dtype=work.dtype, progress=work.progress)
    return System(label, metadata | model.metadata(), model.link_into, model)


def _parse(words: str) -> tuple[str, str]:
    """The name that a system has in reports, and what it is."""
    found = _LABEL.fullmatch(words)
    label, spec = (found[1].strip(), found[2]) if found else ("", words)
    if label or spec in LEXICAL or _fusion(spec):
        return label or spec, spec
    if spec.startswith(_RECIPE):
        return f"{spec.removeprefix(_RECIPE)} recipe", spec
    path = Path(spec.removeprefix(_INDEX))
    return path.absolute().name if spec.startswith(_INDEX) or spec.count("/") > 1 else spec, spec


def _fusion(spec: str) -> tuple[str, str] | None:
    """`A+B` where one of the two is lexical, for a path may have a + of its own."""
    before, _, after = spec.rpartition("+")
    if before and after in LEXICAL:
        return before, after
    before, _, after = spec.partition("+")
    return (before, after) if after and before in LEXICAL else None
