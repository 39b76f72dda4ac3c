"""Every setting of a training run, its type, its default and its bounds: a TOML file states only what differs, `--set` what differs again.

Settings are frozen, and an unknown key is an error that names the nearest known one. The doors read them; no class takes a settings
object, so each part can be used, and tested, with plain arguments.
"""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from xsap.errors import ConfigError, did_you_mean
from xsap.text import Case, Form

Positive = Annotated[int, Field(gt=0)]
Natural = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Sampling(_Section):
    """Which names meet in a batch."""

    mode: Literal["pairs", "groups"] = "pairs"
    languages: str = "all_syn"  # the paper's names: all_syn, en_syn, en+es_syn
    anchor_language: str | None = None  # a language of which every pair or group has a name
    pairs_per_concept: Positive = 50
    names_per_concept: Annotated[int, Field(ge=2)] = 4
    shuffle: bool = True
    language_temperature: Annotated[float, Field(ge=0, le=1)] = 1.0  # groups: 1: names as they come; 0: languages alike
    hard_negatives: Natural = 0  # groups: of how many nearest concepts each drawn one brings names into the batch
    auxiliary_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1  # of a step, where there is a second source
    hard_negatives_refresh_steps: Positive = 500  # steps until the nearest concepts are looked up anew
    token_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # share of tokens left out of the names of a step


class Batch(_Section):
    """How much makes one step, over all processes."""

    pairs: Positive = 256
    names: Positive = 512
    chunk: Natural = 0  # names encoded at once on each process, for batches that memory can't hold; 0: all


class Loss(_Section):
    """What makes vectors agree. Each loss reads only the settings that its formula has."""

    name: Literal["multi_similarity", "info_nce", "circle", "triplet", "lifted_structure", "nca"] = "multi_similarity"
    miner: Literal["triplet_margin", "none"] = "triplet_margin"
    margin: Amount = 0.2  # the miner's
    alpha: Annotated[float, Field(gt=0)] = 1.0
    beta: Annotated[float, Field(gt=0)] = 60.0
    base: float = 0.5
    temperature: Annotated[float, Field(gt=0)] = 0.05
    m: float = 0.4  # circle
    gamma: Annotated[float, Field(gt=0)] = 80.0  # circle
    triplet_margin: Amount = 0.2
    neg_margin: float = 1.0  # lifted_structure
    pos_margin: float = 0.0  # lifted_structure
    softmax_scale: Annotated[float, Field(gt=0)] = 10.0  # nca


class Optim(_Section):
    """AdamW and its learning rate."""

    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    weight_decay: Amount = 0.01
    schedule: Literal["constant", "linear"] = "constant"
    warmup_steps: Natural = 0
    max_grad_norm: Amount = 0.0  # largest norm of the gradient; 0: any


class Checkpoint(_Section):
    """How often a run's state is saved, and how many of them are kept."""

    save_steps: Natural = 1000  # steps; 0: never
    save_total_limit: Positive = 2


class Evaluation(_Section):
    """Mentions that are linked into the terminology's English names during training."""

    mentions: Path | None = None
    dictionary: Path | None = None  # a terminology; the training one, unless given
    eval_steps: Natural = 0  # steps; 0: only before the first and after the last


class Text(_Section):
    """The text policy of a model that has none yet: one from scratch, or a bare folder."""

    case: Case = "cased"
    unicode: Form = "NFC"


class Scratch(_Section):
    """The size of a model that starts from nothing."""

    vocabulary_size: Positive = 16_000
    layers: Positive = 2
    hidden: Positive = 256
    heads: Positive = 4
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1


class Settings(_Section):
    """A whole run."""

    base: str = "FacebookAI/xlm-roberta-base"  # hub id, folder, or "scratch"
    terminology: Path | None = None
    auxiliary: Path | None = None  # a terminology of general-domain pairs, say, that each step also takes names from
    pairs: Path | None = None  # instead of a terminology: lines id||name||name
    output: Path
    overwrite: bool = False
    resume: Literal["auto", "never"] = "never"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    pooling: Literal["cls", "mean", "mean_all"] | None = (
        None  # of a base that doesn't say; from scratch, unless given: cls
    )
    max_length: Annotated[int, Field(ge=3)] | None = None
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    epochs: Positive = 1
    max_steps: Natural | None = None  # 0: write the untrained model
    max_minutes: Annotated[float, Field(gt=0)] | None = None
    tracker: str | None = None  # any that Accelerate knows: tensorboard, wandb, …
    sampling: Sampling = Sampling()
    batch: Batch = Batch()
    loss: Loss = Loss()
    optim: Optim = Optim()
    checkpoint: Checkpoint = Checkpoint()
    evaluation: Evaluation = Evaluation()
    text: Text | None = None
    scratch: Scratch = Scratch()


def load_settings(file: Path | str | None, overrides: Sequence[str] = ()) -> Settings:
    """A TOML file (none: the defaults) and `key=value` strings, later ones winning, as Settings. Raises ConfigError, one line."""
    where: dict[str, str] = {}
    tree = _read_toml(Path(file)) if file else {}
    _note(tree, (), str(file), where)
    for override in overrides:
        path, value = _parse(override)
        branch = tree
        for part in path[:-1]:
            branch = branch.setdefault(part, {})
            if not isinstance(branch, dict):
                raise ConfigError(f"--set {override}: '{part}' is a value, not a section")
        branch[path[-1]] = value
        where |= {".".join(path[:end]): f"--set {override}" for end in range(1, len(path) + 1)}
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error.errors()[0], where)) from None
    if (settings.terminology is None) == (settings.pairs is None):
        found, remedy = (
            ("none", "terminology=FOLDER")
            if settings.pairs is None
            else ("both", "pairs=null, or --set terminology=null")
        )
        raise ConfigError(f"exactly one of 'terminology' and 'pairs' must be set, found {found}; add --set {remedy}")
    return settings


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"{file}: expected a TOML file of settings, found nothing there") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{file}: not a TOML file: {error}") from None


def _parse(override: str) -> tuple[list[str], Any]:
    key, equals, text = override.partition("=")
    path, text = [part.strip() for part in key.split(".")], text.strip()
    if not equals or not all(path) or not text:
        raise ConfigError(f"--set takes key=value, found '{override}'; for example --set optim.learning_rate=1e-4")
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        parsed = {}
    plain = len(parsed) == 1 and isinstance(parsed["value"], bool | int | float | str | list | dict)
    value = parsed["value"] if plain else text  # a bare word, such as a path, or a folder named by a date
    return path, None if text == "null" else value


def _note(tree: dict[str, Any], path: tuple[str, ...], where: str, into: dict[str, str]) -> None:
    for key, value in tree.items():
        into[".".join((*path, key))] = where
        if isinstance(value, dict):
            _note(value, (*path, key), where, into)


def _explain(error: Any, where: dict[str, str]) -> str:
    key = ".".join(str(part) for part in error["loc"])
    place = f" in {where[key]}" if key in where else ""
    if error["type"] == "extra_forbidden":
        return f"unknown setting '{key}'{place}{_suggestion(key)}"
    if error["type"] == "missing":
        return f"the setting '{key}' must be given; add --set {key}=…"
    return f"setting '{key}'{place}: {error['msg'][:1].lower()}{error['msg'][1:]}; found {error['input']!r}"


def _suggestion(key: str) -> str:
    """The setting that an unknown one may mean: one of its name elsewhere, else a similar one in its section, else a similar one anywhere."""
    section, _, name = key.rpartition(".")
    places: dict[str, list[str]] = {}  # name → the sections that have it
    for known in _keys(Settings):
        places.setdefault(known.rpartition(".")[2], []).append(known.rpartition(".")[0])
    beside = [] if name in places else [known for known, sections in places.items() if section in sections]
    return did_you_mean(name, beside) or did_you_mean(
        name, places, show=lambda near: f"'{'.'.join(filter(None, (places[near][0], near)))}'"
    )


def _keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                keys += _keys(kind, f"{prefix}{name}.")
    return keys
