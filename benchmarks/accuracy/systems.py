"""The systems that --system names: lexical ones, models, indexes, fusions, and recipes that are trained first.

`exact`, `tfidf`, `A+B` (two fused), `recipe:xsap` and `recipe:reference`, `index:FOLDER`; everything else is a model: a
name of models.KNOWN_MODELS, a folder or a hub id, with `@cls` or `@mean` if its folder does not state its pooling.
`NAME=` before it names it in reports.

The recipes are the original SapBERT's and ours, trained for the same time on one terminology, each by a command in its
own process. Both start from the pretrained model of --base, and ours is `configs/train/from_pretrained.toml`; without
--base both start from random weights of one size (2 layers × 256) and train their vocabulary of 8,000 pieces on the same
names, and ours is `configs/train/small.toml`. Ours resumes after an interruption; the original's cannot resume and starts
again. Its learning rate is its published one from a pretrained model, and from random weights the best of those tried
(LOG.md). For both, time is counted from when names are tokenized.
"""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.accuracy.baselines import (
    DictionaryLinker,
    FusedLinker,
    NameLinker,
    exact_linker,
    search_rows_by_equality,
    search_rows_by_ngrams,
    tfidf_linker,
)
from benchmarks.accuracy.dictionary import SearchSpace
from benchmarks.accuracy.models import CachedEncoder, IndexLinker, parse_model
from benchmarks.accuracy.training_mentions import TrainingMentions, link_with_mentions
from xsap.artifacts import manifest_hash, read_manifest
from xsap.encoding.encoder import Dtype, Encoder
from xsap.errors import ConfigError, XsapError
from xsap.terminal import log

RECIPES = ("xsap", "reference")
REFERENCE_LEARNING_RATE = {"scratch": 1e-3, "base": 2e-5}
LEXICAL: Mapping[str, Callable[[SearchSpace], NameLinker]] = {"exact": exact_linker, "tfidf": tfidf_linker}
ROW_SEARCHES = {"exact": search_rows_by_equality, "tfidf": search_rows_by_ngrams}
_ROOT = Path(__file__).resolve().parents[2]
_CONFIGS = _ROOT / "configs" / "train"
_INDEX, _RECIPE = "index:", "recipe:"
_LABEL = re.compile(r"([\w., -]+)=(.+)")

RunCommand = Callable[[Sequence[str]], int]
"""Arguments for Python → exit code."""


def run_python(arguments: Sequence[str]) -> int:
    """Run Python in its own process, with its standard output discarded."""
    return subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=False).returncode


def train_recipe(
    recipe: str,
    terminology: Path,
    minutes: float,
    work: Path,
    base: str | None = None,
    *,
    run_command: RunCommand = run_python,
) -> Path:
    """Train a model by a recipe, unless it is there already.

    Args:
        recipe: One of RECIPES.
        terminology: Folder of the terminology to train on.
        minutes: Time of training.
        work: Folder for the model; its name depends on all other arguments.
        base: Model to continue from, as `parse_model` takes it; None for random weights.
        run_command: Runs Python with arguments and returns the exit code.

    Returns:
        The model's folder.

    Raises:
        XsapError: If the base cannot be opened, or the training fails.
    """
    _check_recipe(recipe)
    name, pooling = parse_model(base) if base else (None, None)
    config = _CONFIGS / ("from_pretrained.toml" if name else "small.toml")
    inputs = (
        f"{manifest_hash(read_manifest(terminology, 'terminology'))} {minutes} {config.read_text(encoding='utf-8')}"
    )
    if name:
        encoder = Encoder.from_pretrained(name, pooling=pooling)
        inputs += f" {encoder.content_hash} {json.dumps(encoder.config.to_dict())}"
    out = work / f"recipe-{recipe}-{hashlib.sha256(inputs.encode()).hexdigest()[:12]}"
    model = out if recipe == "reference" else out / "model"
    if model.is_dir():
        return model
    log(f"training by the recipe '{recipe}', {minutes:g} minutes{f', from {base}' if base else ''}")
    if recipe == "reference":
        options: dict[str, object] = {"terminology": terminology, "out": out, "minutes": minutes}
        options |= {"base": name} if name else {"size": "small"}
        options["learning-rate"] = REFERENCE_LEARNING_RATE["base" if name else "scratch"]
        arguments = ["-m", "benchmarks", "speed", "reference-run"]
        arguments += [word for key, value in options.items() for word in (f"--{key}", str(value))]
    else:
        settings: dict[str, object] = {"terminology": terminology, "output": out, "max_minutes": minutes}
        settings |= {"resume": "auto"} | ({"base": name} if name else {}) | ({"pooling": pooling} if pooling else {})
        arguments = [str(_ROOT / "xsap" / "train.py"), "--config", str(config)]
        arguments += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    code = run_command(arguments)
    if code:
        raise XsapError(f"training by the recipe '{recipe}' ended with exit code {code}; its own message is above")
    return model


def _check_recipe(recipe: str) -> None:
    if recipe not in RECIPES:
        raise ConfigError(f"unknown recipe '{recipe}'; they are {' and '.join(RECIPES)}")


@dataclass(frozen=True)
class WorkDir:
    """Where vectors and trained models are kept, and how they are made.

    Attributes:
        folder: The folder.
        training: Terminology that recipes are trained on.
        minutes: Time of training for each recipe.
        dtype: Number format of encoders' matrix products.
        progress: Whether to show progress bars.
        base: Model that recipes continue from; None for random weights.
        train: Trains a recipe, as `train_recipe`.
    """

    folder: Path
    training: Path | None
    minutes: float
    dtype: Dtype = "float32"
    progress: bool = False
    base: str | None = None
    train: Callable[[str, Path, float, Path, str | None], Path] = train_recipe


@dataclass(frozen=True)
class System:
    """A system to be measured.

    Attributes:
        label: Its name in reports.
        metadata: Everything that its results depend on.
        link_into: A dictionary → a linker.
        model: For the ablation of case and similarity; None for systems that are not a model alone.
        with_mentions: A dictionary and training mentions → a linker; None for systems that cannot add names to a dictionary.
    """

    label: str
    metadata: dict[str, Any]
    link_into: Callable[[SearchSpace], DictionaryLinker]
    model: CachedEncoder | None = None
    with_mentions: Callable[[SearchSpace, TrainingMentions], DictionaryLinker] | None = None

    def trained_on(self, mentions: TrainingMentions) -> "System":
        """The system whose dictionary has the strings of training mentions, too. Raises ConfigError if it cannot have them."""
        if self.with_mentions is None:
            raise ConfigError(
                f"--training-mentions: expected systems that name their dictionary's names themselves, found '{self.label}'; "
                "build an index with xsap index --mentions, and measure it with xsap evaluate"
            )
        link = self.with_mentions
        metadata = self.metadata | {"training_mentions": mentions.metadata()}
        return System(mentions.label(self.label), metadata, lambda space: link(space, mentions))


def open_systems(
    given: Sequence[str], work: WorkDir, training_mentions: Sequence[TrainingMentions] = ()
) -> list[System]:
    """Systems as given on the command line, with recipes trained.

    Recipes are trained last, since that takes minutes, so that errors in the other systems are found before.

    Args:
        given: Texts as after --system.
        work: Where vectors and trained models are kept.
        training_mentions: Each system is measured with these as well.

    Raises:
        ConfigError: If two systems have one name, or one cannot have training mentions.
        XsapError: If a system cannot be opened.
    """
    labels = [_parse(text)[0] for text in given]
    for label in labels:
        if labels.count(label) > 1:
            expected = "expected different names for all systems"
            raise ConfigError(f"{expected}, found '{label}' twice; write --system NAME=…")
    order = sorted(range(len(given)), key=lambda i: any(f"{_RECIPE}{name}" in given[i] for name in RECIPES))
    opened = {i: open_system(given[i], work) for i in order}
    plain = [opened[i] for i in range(len(given))]
    return [system for each in plain for system in (each, *map(each.trained_on, training_mentions))]


def open_system(given: str, work: WorkDir) -> System:
    """One system. Raises XsapError."""
    label, spec = _parse(given)
    if spec in LEXICAL:
        return System(label, {"kind": spec}, LEXICAL[spec], with_mentions=partial(_lexical_with_mentions, spec))
    if parts := _split_fusion(spec):
        first, second = (open_system(part, work) for part in parts)
        metadata: dict[str, Any] = {"kind": "fused", "of": [first.metadata, second.metadata]}
        return System(
            label,
            metadata,
            lambda space: FusedLinker(first.link_into(space), second.link_into(space)),
            with_mentions=_fused_with_mentions(first, second),
        )
    vectors = work.folder / "vectors"
    if spec.startswith(_INDEX):
        path = spec.removeprefix(_INDEX)
        metadata = {"kind": "index", "index": manifest_hash(read_manifest(path, "index"))}
        return System(label, metadata, lambda space: IndexLinker.load(path, space, vectors))
    metadata = {"kind": "model"} if Path(spec.partition("@")[0]).exists() else {"kind": "model", "given": spec}
    if spec.startswith(_RECIPE):
        recipe = spec.removeprefix(_RECIPE)
        _check_recipe(recipe)
        if work.training is None:
            expected = "give --data training=TERMINOLOGY, or a task of HPO"
            raise ConfigError(f"'{spec}' must be trained first, and there is no terminology for it; {expected}")
        metadata = {"kind": "recipe", "given": recipe, "minutes": work.minutes}
        if work.base:
            metadata["base"] = Path(work.base).name
        spec = str(work.train(recipe, work.training, work.minutes, work.folder, work.base))
    model = CachedEncoder.from_name(spec, vectors, dtype=work.dtype, progress=work.progress)
    return System(label, metadata | model.metadata(), model.link_into, model, partial(_model_with_mentions, model))


def _lexical_with_mentions(spec: str, space: SearchSpace, mentions: TrainingMentions) -> DictionaryLinker:
    return link_with_mentions(LEXICAL[spec](space), space, mentions, ROW_SEARCHES[spec])


def _model_with_mentions(model: CachedEncoder, space: SearchSpace, mentions: TrainingMentions) -> DictionaryLinker:
    return link_with_mentions(model.link_into(space), space, mentions, model.search_rows)


def _fused_with_mentions(
    first: System, second: System
) -> Callable[[SearchSpace, TrainingMentions], DictionaryLinker] | None:
    one, other = first.with_mentions, second.with_mentions
    if one is None or other is None:
        return None
    return lambda space, mentions: FusedLinker(one(space, mentions), other(space, mentions))


def _parse(given: str) -> tuple[str, str]:
    """The name of a system in reports, and what it is."""
    match = _LABEL.fullmatch(given)
    label, spec = (match[1].strip(), match[2]) if match else ("", given)
    if label or spec in LEXICAL or _split_fusion(spec):
        return label or spec, spec
    if spec.startswith(_RECIPE):
        return f"{spec.removeprefix(_RECIPE)} recipe", spec
    path = Path(spec.removeprefix(_INDEX))
    is_path = spec.startswith(_INDEX) or spec.count("/") > 1 or Path(spec.partition("@")[0]).exists()
    return path.absolute().name if is_path else spec, spec


def _split_fusion(spec: str) -> tuple[str, str] | None:
    """The parts of `A+B` if one of the two is lexical, since a path may contain a +."""
    before, _, after = spec.rpartition("+")
    if before and after in LEXICAL:
        return before, after
    before, _, after = spec.partition("+")
    return (before, after) if after and before in LEXICAL else None
