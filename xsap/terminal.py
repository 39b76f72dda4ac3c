"""What the commands share of the terminal: data on stdout, all else on stderr, never a prompt."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import IO, Annotated

import typer

from xsap.artifacts import write_atomically
from xsap.errors import ConfigError, DataError


class Dtype(StrEnum):
    """Of an encoder's matrix products."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    INT8 = "int8"


Pooling = Annotated[str | None, typer.Option(help="cls, mean or mean_all, for a model folder that doesn't say.")]
MaxLength = Annotated[int | None, typer.Option(help="Tokens a name is cut to, for a model folder that doesn't say.")]
Ann = Annotated[
    bool,
    typer.Option(
        "--ann",
        help="Ask the graph that index --ann built: faster, may miss a name. With a filter the search stays exact.",
    ),
]
OnRay = Annotated[
    str | None,
    typer.Option("--ray", help="Work on a Ray cluster: auto, host:port, or local to start one here (needs xsap[ray])."),
]
DtypeOption = Annotated[
    Dtype,
    typer.Option(
        "--dtype",
        help="Of the model's matrix products: on CPUs bfloat16 and int8 are some two and three times as fast, float16 is slow.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the folder if it is there.")]


def stdin_lines() -> list[str]:
    """The lines of stdin, UTF-8. Raises ConfigError where a person would have to type them, DataError."""
    if sys.stdin.isatty():
        raise ConfigError("expected terms as arguments, on stdin (one a line) or in --file, found none")
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"stdin: expected UTF-8, found byte 0x{error.object[error.start]:02x} at offset {error.start:,}"
        ) from None
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


@contextmanager
def output(path: Path | None) -> Iterator[IO[str]]:
    """A file, whole or not at all, or stdout; a reader of stdout that goes away early is no error."""
    if path:
        with write_atomically(path) as stream:
            yield stream
        return
    try:
        yield sys.stdout
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def watched() -> bool:
    """Whether somebody sees stderr, so that bars are worth drawing."""
    return sys.stderr.isatty()


def log(line: str) -> None:
    """One line on stderr."""
    print(" ".join(line.splitlines()), file=sys.stderr)
