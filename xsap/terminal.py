"""What every command-line program of xsap shares: options, output, logging, errors and exit codes.

Data goes to stdout; messages, logs and progress bars go to stderr; nothing ever prompts. A user error is one line `error: …` and exit code 2,
a failure of the system (full disk, a file that may not be read) one line and exit code 1, an interruption exit code 130. Anything else that escapes is
a defect of xsap and shows its traceback.
"""

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from threading import Timer
from typing import IO, Annotated, NoReturn

import typer

from xsap import __version__
from xsap.artifacts import write_atomically
from xsap.errors import ConfigError, DataError, XsapError

EXIT_FAILURE, EXIT_USAGE, EXIT_TARGET_MISSED, EXIT_INTERRUPTED = 1, 2, 3, 130

# what would move the cursor, change colors or reorder text, in names and files that somebody else wrote
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_MAX_LINE_CHARS = 2000
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt])(i?)b", re.IGNORECASE)


class Dtype(StrEnum):
    """Number format of an encoder's matrix products."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    INT8 = "int8"


class VectorFormat(StrEnum):
    """Vector dtypes of an index."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"


class Format(StrEnum):
    """Output formats of `link`."""

    TABLE = "table"
    CSV = "csv"
    TSV = "tsv"
    JSONL = "jsonl"
    PARQUET = "parquet"
    XLSX = "xlsx"


Pooling = Annotated[
    str | None, typer.Option(help="Pooling, if the model folder does not state it: cls, mean or mean_all.")
]
MaxLength = Annotated[int | None, typer.Option(help="Maximum tokens per name, if the model folder does not state it.")]
Prompt = Annotated[
    str | None,
    typer.Option(
        help="Text before every name and mention, such as 'query: ', if the model folder states none; '' for none where "
        "xsap knows one of the model."
    ),
]
Ann = Annotated[
    bool,
    typer.Option("--ann", help="Use the HNSW index: faster, approximate. A filtered search stays exact."),
]
OnRay = Annotated[
    str | None,
    typer.Option("--ray", help="Run on a Ray cluster: auto, host:port, or local to start one here. Needs xsap[ray]."),
]
DtypeOption = Annotated[
    Dtype,
    typer.Option(
        "--dtype",
        help="Number format of the encoder's matrix products. auto: a short trial chooses the fastest of float32, bfloat16 "
        "and int8 that agrees with float32 on forty names.",
    ),
]
Revision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of a model on the Hugging Face hub, such as refs/pr/1.")
]
MovedModel = Annotated[str | None, typer.Option("--model", help="Folder of the index's model, if it was moved.")]
Model = Annotated[str, typer.Argument(help="Model folder, or its id on the Hugging Face hub.")]
Rerank = Annotated[
    str | None,
    typer.Option(
        help="Re-ranker of the first candidates: a folder of train-reranker, 'late', the address of a service, or 'none'; by "
        "default the one that is stored in the index.",
    ),
]
Sheet = Annotated[str | None, typer.Option(help="Sheet of a workbook; by default the first visible one.")]
HeaderRow = Annotated[int, typer.Option(min=1, help="Row of the table with the column names, from 1.")]
TextEncoding = Annotated[
    str | None,
    typer.Option("--encoding", help="Encoding of a text file, such as cp1252; by default UTF-8."),
]
TerminologyFolder = Annotated[Path, typer.Argument(help="Terminology folder, as xsap-prepare writes it.")]
OutputFolder = Annotated[Path, typer.Option("--out", help="Folder to write.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]


def create_app(description: str) -> typer.Typer:
    """A Typer application with `-h`, `--help`, `--version` and plain help texts, for `run`."""
    app = typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(help=description)
    def _root(
        version: Annotated[
            bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
        ] = False,
    ) -> None:
        del version  # handled by the callback

    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"xsap {__version__}")
        raise typer.Exit


def run(app: Callable[..., int | None], program: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a Typer application and exit with its code.

    Args:
        app: What `create_app` made, with its commands.
        program: Its name in usage lines, such as `xsap`.
        arguments: The command line after the program's name; by default that of the process.
    """
    with exit_codes(program):
        sys.exit(app(args=arguments, prog_name=program, standalone_mode=False) or 0)
    raise AssertionError("exit_codes always exits")


@contextmanager
def exit_codes(program: str, *, if_interrupted: str = "interrupted") -> Iterator[None]:
    """Turn errors that a user can act on into one line on stderr and an exit code; set up logging and UTF-8 output."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    _set_up_logging()
    try:
        yield
    except XsapError as error:
        _fail(str(error), EXIT_USAGE)
    except (KeyboardInterrupt, typer.Abort):
        log(if_interrupted)
        sys.exit(EXIT_INTERRUPTED)
    except OSError as error:  # a full disk, a file that may not be read
        _fail(_described(error), EXIT_FAILURE)
    except Exception as error:
        usage = getattr(error, "format_message", None)  # click's usage errors; Typer may carry its own copy of click
        if usage is None:
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            print(usage())
            sys.exit(EXIT_USAGE)
        _fail(f"{end_sentence(usage())} See {program} --help", EXIT_USAGE)


def end_sentence(text: str) -> str:
    """A text that ends like a sentence, so that another may follow: with a full stop, unless it ends with another such mark."""
    text = text.strip()
    return text if text.endswith((".", "?", "!", "…")) else f"{text}."


class _Messages:
    """stderr for whole lines: progress bars on it are cleared before a line, and drawn again below it."""

    def write(self, text: str) -> None:
        from tqdm import tqdm

        with tqdm.external_write_mode(file=sys.stderr):
            sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def _set_up_logging() -> None:
    """Show the library's log messages on stderr, one line each."""
    logger = logging.getLogger("xsap")
    if not logger.handlers:
        handler = logging.StreamHandler(_Messages())
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
    logger.setLevel(logging.INFO)


def _described(error: OSError) -> str:
    """A failure of the system as `path: what failed`, without its number."""
    if error.strerror is None:
        return str(error)
    files = " → ".join(str(file) for file in (error.filename, error.filename2) if file is not None)
    return f"{files}: {error.strerror}" if files else error.strerror


def _fail(message: str, code: int) -> NoReturn:
    """Print one line `error: …`, with color on a terminal, and exit."""
    colored = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    prefix = typer.style("error:", fg=typer.colors.RED, bold=True) if colored else "error:"
    print(prefix, _as_line(" ".join(message.split())), file=sys.stderr)
    sys.exit(code)


def parse_size(text: str) -> int:
    """An amount of memory in bytes: `4GB`, `500 mb`, `2GiB`. kB, MB, GB, TB are powers of 1000; kiB … TiB of 1024.

    Raises:
        ConfigError: It is no such amount, or less than one byte.
    """
    amount = _SIZE.fullmatch(text.strip())
    size = 0
    if amount is not None:
        size = int(float(amount[1]) * (1024 if amount[3] else 1000) ** ("kmgtKMGT".index(amount[2]) % 4 + 1))
    if size < 1:
        raise ConfigError(f"expected an amount of memory such as 4GB or 500MB, found '{text}'")
    return size


def parse_list(text: str | None) -> list[str] | None:
    """The parts of a comma-separated option; None if it was not given."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def stdin_lines() -> list[str]:
    """The lines of stdin, UTF-8. Raises ConfigError if a person would have to type them, DataError if it isn't UTF-8."""
    if sys.stdin.isatty():
        raise ConfigError("expected terms as arguments, on stdin (one per line) or in --file, found none")
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"stdin: expected UTF-8, found byte 0x{error.object[error.start]:02x} at offset {error.start:,}"
        ) from None
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def check_stdout(form: str, *, binary: bool) -> None:
    """Raise ConfigError if binary data would be written to a terminal.

    Args:
        form: The name of the format, for the message.
        binary: Whether it is binary.
    """
    if binary and sys.stdout.isatty():
        raise ConfigError(f"expected --out or a pipe for the format {form}, found a terminal; add --out FILE.{form}")


@contextmanager
def output(path: Path | None) -> Iterator[IO[str]]:
    """A text file, published whole or not at all; stdout if there is no path."""
    if path:
        with write_atomically(path) as stream:
            yield stream
        return
    with _closed_pipe_is_fine():
        yield sys.stdout
        sys.stdout.flush()


@contextmanager
def path_or_stdout(path: Path | None) -> Iterator[Path | IO[bytes]]:
    """The path itself, or stdout as bytes if there is none."""
    if path:
        yield path
        return
    with _closed_pipe_is_fine():
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()


@contextmanager
def _closed_pipe_is_fine() -> Iterator[None]:
    """Stop quietly when the reader of stdout closes it early, as `head` does."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show_progress(*, results_on_stdout: bool = False) -> bool:
    """Whether progress bars are worth drawing: stderr is a terminal.

    Args:
        results_on_stdout: Whether results are written to stdout while the bar is there; if that is a terminal, too, they would run into it.
    """
    return sys.stderr.isatty() and not (results_on_stdout and sys.stdout.isatty())


def _as_line(message: str) -> str:
    """A message as one line of bounded length, without control characters."""
    line = _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", " ".join(message.splitlines()))
    return line if len(line) <= _MAX_LINE_CHARS else f"{line[:_MAX_LINE_CHARS]}…"


def log(message: str) -> None:
    """One line on stderr."""
    _Messages().write(_as_line(message) + "\n")


@contextmanager
def announce_wait(what: str, *, seconds: float = 2.0) -> Iterator[None]:
    """On a terminal, say what takes so long if the block takes longer than a while, such as `loading the model`.

    Args:
        what: What the block does.
        seconds: How long nothing is said.
    """
    timer = Timer(seconds, log, [f"{what} …"])
    timer.daemon = True
    if sys.stderr.isatty():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def print_lines(lines: Sequence[str]) -> None:
    """Lines on stdout."""
    print("\n".join(lines))
