"""Reading settings: a TOML file or a recipe, `--set KEY=VALUE`, errors that suggest a known setting, and their description for `--help`.

A TOML file states what differs from the defaults of a model of pydantic, and `--set` what differs from the file.
"""

import textwrap
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from xsap.errors import ConfigError, did_you_mean

MEMORY_RECIPES = "memory_"  # with it begin the names of recipes of an entity memory; all others are of an encoder
T = TypeVar("T", bound=BaseModel)
Tree = dict[str, Any]


class Section(BaseModel):
    """Settings that belong together: frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def read_settings(
    model: type[T],
    file: Path | str | None,
    overrides: Sequence[str],
    *,
    other_names: Mapping[str, Sequence[str]],
    recipes: Sequence[str],
    problems_of: Callable[[Tree], list[tuple[str, str]]] = lambda _: [],
) -> T:
    """Read settings.

    Args:
        model: Their types, defaults and bounds.
        file: A TOML file, or the name of a recipe; None for the defaults.
        overrides: `key=value` strings, which take precedence over the file, later ones over earlier ones.
        other_names: Setting → what it is called in other programs, for suggestions.
        recipes: The names that `file` may have.
        problems_of: The given settings → what is wrong with them together, and the `key=value` that repairs it.

    Raises:
        ConfigError: A setting is unknown, missing or not valid.
    """
    sources: dict[str, str] = {}  # key → the file or option that sets it
    tree = _read_toml(_find_config(file, recipes)) if file else {}
    _note_sources(tree, (), str(file), sources)
    for override in overrides:
        path, value = _parse(override)
        branch = tree
        for part in path[:-1]:
            branch = branch.setdefault(part, {})
            if not isinstance(branch, dict):
                raise ConfigError(f"--set {override}: '{part}' is a value, not a section")
        branch[path[-1]] = value
        sources |= {".".join(path[:end]): f"--set {override}" for end in range(1, len(path) + 1)}
    settings, problems = None, []
    try:
        settings = model.model_validate(tree)
    except ValidationError as error:
        for details in error.errors():
            if details["type"] != "missing":
                raise ConfigError(_explain(details, sources, model, other_names)) from None
            key = ".".join(str(part) for part in details["loc"])
            problems.append((f"the setting '{key}' must be given", f"{key}=…"))
    problems += problems_of(tree)
    if settings is None or problems:
        what, remedies = zip(*problems, strict=True)
        raise ConfigError(f"{'; '.join(what)}; add {' '.join(f'--set {remedy}' for remedy in remedies)}")
    return settings


def describe_model(model: type[BaseModel], width: int) -> str:
    """All settings with type, default and meaning, section by section.

    Args:
        model: The settings.
        width: Columns of the text.
    """
    schema = model.model_json_schema()
    root: dict[str, Any] = {}
    sections: dict[str, dict[str, Any]] = {}
    for name, field in schema["properties"].items():
        references = [part["$ref"] for part in (field, *field.get("anyOf", ())) if "$ref" in part]
        if references:
            sections[name] = schema["$defs"][references[0].rpartition("/")[2]]
        else:
            root[name] = field
    lines = _describe_section("", root, schema["required"], width)
    for name, section in sections.items():
        lines += ["", textwrap.fill(f"[{name}] {section['description']}", width)]
        lines += _describe_section(f"{name}.", section["properties"], (), width)
    return "\n".join(lines)


def _describe_section(prefix: str, fields: dict[str, Any], required: Sequence[str], width: int) -> list[str]:
    lines = []
    for name, field in fields.items():
        default = "required" if name in required else f"default {_as_toml(field.get('default'))}"
        head = f"{prefix}{name} ({_type_name(field)}; {default})"
        lines += textwrap.wrap(head, width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
        text = field["description"]
        lines += textwrap.wrap(text, width, initial_indent=" " * 6, subsequent_indent=" " * 6, break_on_hyphens=False)
    return lines


def _type_name(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return next(_type_name(part) for part in field["anyOf"] if part["type"] != "null")
    if "enum" in field:
        return " | ".join(field["enum"])
    if field["type"] == "boolean":
        return "true | false"
    if field["type"] == "string":
        return "path" if field.get("format") == "path" else "text"
    signs = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    bounds = [f"{sign} {_as_toml(field[key])}" for key, sign in signs.items() if key in field]
    return f"{field['type']} {' and '.join(bounds)}".strip()


def _as_toml(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def recipe_names(*, memory: bool = False) -> list[str]:
    """The names of the recipes that are part of xsap: of an encoder, or of an entity memory."""
    names = sorted(file.stem for file in _recipes().glob("*.toml"))
    return [name for name in names if name.startswith(MEMORY_RECIPES) == memory]


def _recipes() -> Path:
    """The folder of the recipes: configs/train in a checkout, and a copy of it in the installed package."""
    package = Path(__file__).resolve().parent
    return next(folder for folder in (package / "recipes", package.parent / "configs" / "train") if folder.is_dir())


def _find_config(file: Path | str, recipes: Sequence[str]) -> Path:
    """The file that `--config` names, itself or as a recipe."""
    path = Path(file)
    if path.exists() or path.suffix or len(path.parts) != 1:
        return path
    if path.name not in recipes:
        known = ", ".join(recipes)
        hint = did_you_mean(path.name, recipes, otherwise=f"recipes are {known}; a file is given by its path")
        raise ConfigError(f"--config {path}: found neither such a file nor a recipe of that name{hint}")
    return _recipes() / f"{path.name}.toml"


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
    is_value = len(parsed) == 1 and isinstance(parsed["value"], bool | int | float | str | list | dict)
    value = parsed["value"] if is_value else text  # otherwise a bare word, such as a path, or a folder named by a date
    return path, None if text == "null" else value


def _note_sources(tree: dict[str, Any], path: tuple[str, ...], source: str, sources: dict[str, str]) -> None:
    for key, value in tree.items():
        sources[".".join((*path, key))] = source
        if isinstance(value, dict):
            _note_sources(value, (*path, key), source, sources)


def _explain(
    error: Any, sources: dict[str, str], model: type[BaseModel], other_names: Mapping[str, Sequence[str]]
) -> str:
    key = ".".join(str(part) for part in error["loc"])
    source = f" in {sources[key]}" if key in sources else ""
    if error["type"] == "extra_forbidden":
        return f"unknown setting '{key}'{source}{_suggest(key, model, other_names)}"
    return f"setting '{key}'{source}: {error['msg'][:1].lower()}{error['msg'][1:]}; found {error['input']!r}"


def _suggest(key: str, model: type[BaseModel], other_names: Mapping[str, Sequence[str]]) -> str:
    """A hint at the setting that an unknown one may mean: by its name or what it is called elsewhere, its own section first."""
    section, _, name = key.rpartition(".")
    meant = {other: known for known, others in other_names.items() for other in others}
    for known in sorted(setting_names(model), key=lambda known: known.rpartition(".")[0] == section):
        meant[known.rpartition(".")[2]] = known
    return did_you_mean(name, meant, show=lambda similar: f"'{meant[similar]}'")


def setting_names(model: type[BaseModel], prefix: str = "") -> list[str]:
    """The names of all settings and sections, such as `optim` and `optim.learning_rate`."""
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                keys += setting_names(kind, f"{prefix}{name}.")
    return keys
