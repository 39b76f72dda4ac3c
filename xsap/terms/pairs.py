"""Training pairs in the form of the original SapBERT code: a line `id||name||name` for two names of one concept."""

from pathlib import Path
from typing import NamedTuple

from xsap.artifacts import read_lines
from xsap.errors import DataError


class Pairs(NamedTuple):
    """Three columns of one length: the concept's identifier, and two of its names."""

    concept_ids: list[str]
    left: list[str]
    right: list[str]


def read_pairs(path: Path | str) -> Pairs:
    """Read `id||name||name` lines, in their order. Raises DataError with file and line."""
    rows = []
    for number, line in enumerate(read_lines(path), start=1):
        fields = tuple(part.strip() for part in line.split("||"))
        if len(fields) != 3 or not all(fields):
            raise DataError(
                f"{path}:{number}: expected id||name||name, found {len(fields)} field(s), {sum(map(bool, fields))} of them not empty"
            )
        rows.append(fields)
    if not rows:
        raise DataError(f"{path}: expected at least one line id||name||name, found an empty file")
    return Pairs(*(list(column) for column in zip(*rows, strict=True)))


class IdNames(NamedTuple):
    """Two columns of one length: the concept's identifiers as written, and one of its names."""

    concept_ids: list[str]
    names: list[str]


def read_id_names(path: Path | str) -> IdNames:
    """Read `id||name` lines (dictionaries and queries of the original evaluation), in their order. Raises DataError with file and line."""
    rows = []
    for number, line in enumerate(read_lines(path), start=1):
        fields = tuple(part.strip() for part in line.split("||"))
        if len(fields) != 2 or not all(fields):
            raise DataError(f"{path}:{number}: expected id||name, found {len(fields)} field(s), {sum(map(bool, fields))} of them not empty")
        rows.append(fields)
    if not rows:
        raise DataError(f"{path}: expected at least one line id||name, found an empty file")
    return IdNames(*(list(column) for column in zip(*rows, strict=True)))
