"""A column of terms, linked: millions of rows in the memory of one chunk, each distinct mention once, and a killed run goes on where it was.

Three iterations make it: a source's chunks, the answers to each chunk's mentions, the chunks written with their answers. What a mention was
answered is remembered for the rows that follow, the longest unused forgotten first, up to a number of bytes. A mention is the
same only if its text and its language are. Which mentions are asked together follows from the input alone, so a run that takes over
another's leftovers (see leftovers.py) asks, and writes, exactly what an unbroken one does.
"""

import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol

from tqdm import tqdm

from xsap import __version__
from xsap.artifacts import sha256_of, write_atomically
from xsap.errors import ConfigError, DataError
from xsap.languages import to_iso
from xsap.linking.results import Result
from xsap.sheets.answers import CANDIDATE, Answer, packed, unpacked
from xsap.sheets.cells import cells_of, text
from xsap.sheets.columns import Sheet, Source
from xsap.sheets.leftovers import parts_in, read_part, take_over, write_part
from xsap.sheets.writers import Layout, open_writer

CHUNK = 8192  # rows
REMEMBERED = 1 << 28  # bytes of answers: some 200,000 at five candidates each
_ENTRY = 300  # bytes that a remembered answer takes besides its text
_SPREADSHEET = 1 << 20  # rows that a spreadsheet holds

Key = tuple[str, str | None]  # a mention and its language
Ask = Callable[[int, list[Key]], list[bytes]]  # chunk's number, distinct mentions → their answers, packed


class Links(Protocol):
    """What is needed of a linker."""

    def link(  # noqa: D102
        self,
        mentions: Iterable[str | None],
        top_k: int = 5,
        *,
        languages: Sequence[str | None] | None = None,
        keep: Any = None,
        threshold: float | None = None,
        precision: float | None = None,
    ) -> Sequence[Result]: ...


class Recent:
    """Packed answers by their mention, up to a number of bytes; the longest unused are forgotten first."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._lines: OrderedDict[Key, bytes] = OrderedDict()

    def complete(self, keys: Iterable[Key], ask: Callable[[list[Key]], list[bytes]]) -> tuple[dict[Key, bytes], int]:
        """The answer to each distinct key, and how many of them were not remembered but asked, all at once."""
        distinct = dict.fromkeys(keys)
        missing = [key for key in distinct if key not in self._lines]
        fresh = dict(zip(missing, ask(missing), strict=True))
        lines = {key: fresh[key] if key in fresh else self._lines[key] for key in distinct}
        for key, line in lines.items():
            self._size += 0 if key in self._lines else _ENTRY + len(key[0]) + len(line)
            self._lines[key] = line
            self._lines.move_to_end(key)
        while self._size > self._limit:
            (mention, _), line = self._lines.popitem(last=False)
            self._size -= _ENTRY + len(mention) + len(line)
        return lines, len(missing)


@dataclass
class Account:
    """Where the rows went: rows = linked + those of `reasons`. Numbers in a reason are left out, so that it stays one reason.

    asked: distinct mentions that were linked, as far as they were remembered. taken_over: rows whose answers an earlier run left.
    written: rows of the output, its header not counted.
    """

    rows: int = 0
    linked: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    asked: int = 0
    taken_over: int = 0
    written: int = 0

    def add(self, answers: Sequence[Answer]) -> None:
        """Count the answers to some rows."""
        self.rows += len(answers)
        self.linked += sum(answer.reason is None for answer in answers)
        self.reasons.update(re.sub(r"[0-9]+(?:[.,][0-9]+)*", "…", answer.reason) for answer in answers if answer.reason is not None)

    def summary(self) -> str:
        """One line for people."""
        without = "; ".join(f"{reason}: {count:,}" for reason, count in self.reasons.most_common())
        parts = [
            f"{self.rows:,} rows, {self.asked:,} distinct mentions",
            f"{self.linked:,} linked",
            f"{self.rows - self.linked:,} without an answer" + (f" ({without})" if without else ""),
        ]
        taken_over = f"; {self.taken_over:,} rows taken over from an earlier run" if self.taken_over else ""
        return ", ".join(parts) + taken_over + (f"; a spreadsheet holds only {_SPREADSHEET:,} rows" if self.written >= _SPREADSHEET else "")


def link_file(
    linker: Links,
    source: Source,
    out: Path | IO[bytes],
    layout: Layout,
    *,
    column: str,
    language_column: str | None = None,
    options: Mapping[str, Any] | None = None,
    identity: Mapping[str, Any] | None = None,
    chunk: int = CHUNK,
    remembered: int = REMEMBERED,
    progress: bool = False,
) -> Account:
    """Link a column of `source` and write all its columns with the answers to `out`, which if it is a file appears whole or not at all.

    options: for the linker (keep, threshold, …). identity: all else that answers depend on, as JSON has it: these options and the
    index's content; None if that can't be told, so that nothing a killed run left is taken over. chunk: rows held at once. Raises DataError for an unknown language
    (before any work) and for a file that changes meanwhile; ConfigError for what can't be written there.
    """
    at = source.place(column)
    language_at = None if language_column is None else source.place(language_column)
    if language_at is not None:
        _check_languages(source, language_at, chunk)
    ask = partial(_linked, linker, layout.top_k, options or {}, language_at is not None)
    work = partial(_link, source, layout, at, language_at, chunk=chunk, remembered=remembered, progress=progress)
    if not isinstance(out, Path):
        return work(out, lambda _, keys: ask(keys))
    _check_place(out, source)
    if source.path is None:
        with write_atomically(out, binary=True) as stream:
            return work(stream, lambda _, keys: ask(keys))
    before = source.path.stat()
    run = None if identity is None else {
        "xsap": __version__, "input": [before.st_size, sha256_of(source.path), source.sheet, column, language_column],
        "answer": CANDIDATE, "top_k": layout.top_k, "chunk": chunk, "remembered": remembered, "identity": identity,
    }  # fmt: skip
    with take_over(out, run) as folder:
        with write_atomically(folder / "output", binary=True) as stream:
            account = work(stream, partial(_kept, folder, ask), taken_over=parts_in(folder) * chunk)
            after = source.path.stat()
            if (before.st_size, before.st_mtime_ns, source.rows) != (after.st_size, after.st_mtime_ns, account.rows):
                raise DataError(f"{source.where} was changed while it was linked; start again")
        (folder / "output").replace(out)
    return account


def _check_place(out: Path, source: Source) -> None:
    if out.is_dir():
        raise ConfigError(f"{out} is a folder; give --out the name of a file")
    if source.path is not None and out.exists() and out.samefile(source.path):
        raise ConfigError(f"{out} is the file that is read; give --out another name")


def _check_languages(source: Source, at: int, chunk: int) -> None:
    everything = (cell for sheet in source.chunks(chunk) for cell in cells_of(sheet.columns[at]))
    for row, cell in enumerate(everything, start=1):
        try:
            _language(cell)
        except DataError as error:
            where = f"{source.where}: row {row:,}, column '{source.header[at]}'"
            raise DataError(f"{where}: {error}; leave empty what isn't known") from None


def _language(cell: object) -> str | None:
    code = text(cell)
    return to_iso(code) if code.strip() else None


def _link(
    source: Source,
    layout: Layout,
    at: int,
    language_at: int | None,
    stream: IO[bytes],
    ask: Ask,
    *,
    chunk: int,
    remembered: int,
    progress: bool,
    taken_over: int = 0,
) -> Account:
    account, recent = Account(), Recent(remembered)
    bar = tqdm(total=source.rows, initial=taken_over, desc="link", unit=" rows", disable=not progress)
    with bar, open_writer(stream, layout, source) as write:
        for number, sheet in enumerate(source.chunks(chunk)):
            keys = _keys(sheet, at, language_at)
            lines, asked = recent.complete(keys, partial(ask, number))
            account.asked += asked
            answers = {key: unpacked(line) for key, line in lines.items()}
            in_order = [answers[key] for key in keys]
            account.written += write(sheet, [mention for mention, _ in keys], in_order)
            account.add(in_order)
            bar.update(max(0, account.rows - max(taken_over, account.rows - len(keys))))
    account.taken_over = min(taken_over, account.rows)
    return account


def _keys(sheet: Sheet, at: int, language_at: int | None) -> list[Key]:
    mentions = map(text, cells_of(sheet.columns[at]))
    if language_at is None:
        return [(mention, None) for mention in mentions]
    return list(zip(mentions, map(_language, cells_of(sheet.columns[language_at])), strict=True))


def _linked(linker: Links, top_k: int, options: Mapping[str, Any], by_language: bool, keys: list[Key]) -> list[bytes]:
    if not keys:
        return []
    languages = [language for _, language in keys] if by_language else None
    return list(map(packed, linker.link([mention for mention, _ in keys], top_k, languages=languages, **options)))


def _kept(folder: Path, ask: Callable[[list[Key]], list[bytes]], number: int, keys: list[Key]) -> list[bytes]:
    """The answers that were left in the folder for this chunk, or else new ones, which are left there too."""
    lines = read_part(folder, number, len(keys))
    if lines is None:
        lines = ask(keys)
        write_part(folder, number, lines)
    return lines
