"""The line formats of the original SapBERT code: `id||name||name` for two names of one concept, `id||name` for one."""

from pathlib import Path
from typing import NamedTuple

from xsap.artifacts import read_lines
from xsap.errors import DataError


class Pairs(NamedTuple):
    """Three columns of one length: the concept's identifier, and two of its names."""

    concept_ids: list[str]
    left: list[str]
    right: list[str]


class IdNames(NamedTuple):
    """Two columns of one length: the concept's identifiers as written, and one of its names."""

    concept_ids: list[str]
    names: list[str]


def read_pairs(path: Path | str) -> Pairs:
    """Read training pairs, `id||name||name`, in their order. Raises DataError with file and line."""
    return Pairs(*_columns(path, ("id", "name", "name")))


def read_id_names(path: Path | str) -> IdNames:
    """Read a dictionary or queries of the original evaluation, `id||name`, in their order. Raises DataError with file and line."""
    return IdNames(*_columns(path, ("id", "name")))


def _columns(path: Path | str, form: tuple[str, ...]) -> list[list[str]]:
    """The fields of every line, none of them empty, by column."""
    rows = []
    for number, line in enumerate(read_lines(path), start=1):
        fields = [part.strip() for part in line.split("||")]
        if len(fields) != len(form) or not all(fields):
            found = f"{len(fields)} field(s), {sum(map(bool, fields))} of them not empty"
            raise DataError(f"{path}:{number}: expected {'||'.join(form)}, found {found}")
        rows.append(fields)
    if not rows:
        raise DataError(f"{path}: expected at least one line {'||'.join(form)}, found an empty file")
    return [list(column) for column in zip(*rows, strict=True)]
