"""JSON files of model folders, read with a check of every value's type: such a folder may come from anybody."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from xsap.errors import ArtifactError

T = TypeVar("T")
_KINDS: dict[type, str] = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "a JSON object",
}


def read_model_json(file: Path) -> Any:
    """The content of a JSON file of a model folder. Raises ArtifactError."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        json.dumps(content, ensure_ascii=False).encode()  # no tokenizer and no file takes half of a surrogate pair
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{file}: expected readable JSON, found: {error}") from None
    return content


def read_model_object(file: Path) -> dict[str, Any]:
    """The content of a file that holds one JSON object. Raises ArtifactError."""
    content = read_model_json(file)
    if not isinstance(content, dict):
        raise ArtifactError(f"{file}: expected a JSON object, found {describe_value(content)}")
    return content


def typed(file: Path, stated: Mapping[str, Any], key: str, kind: type[T]) -> T | None:
    """A value of a JSON object, None if it is absent or null.

    Args:
        file: Where the object stands, for the error.
        stated: The object.
        key: Of the value.
        kind: One of str, bool, int, float, list and dict; a float is finite or an int, and no bool is a number.

    Raises:
        ArtifactError: The value is of another type.
    """
    value = stated.get(key)
    if value is None or _is_of(value, kind):
        return value
    raise ArtifactError(f"{file}: expected {key} as {_KINDS[kind]}, found {describe_value(value)}")


def _is_of(value: object, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return isinstance(value, kind)


def describe_value(value: object) -> str:
    """A value of JSON for an error: a list or object by its type alone, since it may be of any size and depth."""
    if value is None:
        return "null"
    if isinstance(value, int) and abs(value) > 10**50:  # the longest have no decimal form
        return "a very large number"
    return _KINDS[type(value)] if isinstance(value, list | dict) else repr(value)[:60]
