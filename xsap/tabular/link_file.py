"""Which mentions of a column are asked for, and when: chunk by chunk, each distinct mention once, of one linker or of several at a time.

What a mention was answered is remembered for the rows that follow, the longest unused forgotten first, up to about a number of bytes. A mention
is the same only if its text and its language are. What is asked, and what is asked together, follows from the input alone and not from any
answer; so chunks may be asked for before those ahead of them are answered, and the answers are the same.

What a run that was killed leaves behind, and how the next one takes it over.

Beside `linked.csv` stands a hidden folder `.linked.csv.part` while it is made: `run.json` says what the answers depend on (the input's size and
sha256, the options, the index), and `000012.gz` holds the answers that chunk 12 was the first to ask for, written aside and
renamed when it was complete. What is kept is answers, not output: a run that takes over reads and writes everything again from the first
row, which takes a small part of the time that linking takes, and so passes through the very states of an unbroken run. Another run's
leftovers are dropped. The folder goes when the output takes its place.

Answers as columns: what is said of a candidate, and a sheet with its answers beside it, long or wide.

Long: each row of the input comes again for each of its candidates, with their rank; a row without any comes once, with the reason. Wide: each row
comes once, with `concept_id_1`, `name_1`, …, `concept_id_2`, … beside it and the reason last. On its way an answer is a line of JSON:
that is what a run that was killed leaves behind, and what is remembered of mentions seen before, in a tenth of the objects' memory.
Whether a line is fresh, remembered or left behind, the same is written.

A column of terms, linked: millions of rows in the memory of some chunks, each distinct mention once, and a killed run goes on where it was.

Three iterations make it: a source's chunks, the answers to each chunk's mentions, the chunks written with their answers. Which mentions are
asked together follows from the input alone (see asking.py), so a run that takes over another's leftovers (see leftovers.py) asks, and
writes, exactly what an unbroken one does; and so does one that asks for several chunks at a time, of linkers elsewhere.
"""

import gzip
import json
import re
import shutil
import zlib
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, runtime_checkable

from tqdm import tqdm

from xsap import __version__
from xsap.artifacts import file_lock, sha256_of, write_atomically
from xsap.errors import ConfigError, DataError
from xsap.languages import to_iso
from xsap.linking.results import Result
from xsap.tabular.readers import Chunk, Column, InputTable, cells_of, text
from xsap.tabular.writers import CANDIDATE, Answer, OutputFormat, decode_answer, encode_answer, open_writer

ENTRY = 300  # bytes that a remembered answer takes besides its text
A_CANDIDATE = 200  # bytes of text for each candidate that may be in it, on the average

Query = tuple[str, str | None]  # a mention and its language
Ask = Callable[[int, list[Query]], list[bytes]]  # chunk's number, distinct mentions → their answers, packed


class Links(Protocol):
    """What is needed of a linker."""

    def link(  # noqa: D102
        self,
        mentions: Iterable[str | None],
        top_k: int = 5,
        *,
        languages: Sequence[str | None] | None = None,
        filter: Any = None,
        min_confidence: float | None = None,
        min_precision: float | None = None,
    ) -> Sequence[Result]: ...


@runtime_checkable
class RemoteLinkers(Protocol):
    """Linkers in other processes: how many chunks they should be asked for at once, and `answers_to` as they give it."""

    at_once: int

    def answers_to(
        self, keys: list[Query], top_k: int, *, by_language: bool, options: Mapping[str, Any]
    ) -> list[bytes]: ...


class LruByBytes:
    """Which mentions' answers are remembered, up to a number of bytes; the longest unused are forgotten first.

    It counts `answer` bytes for each, whatever it turns out to be: so it is known what is to be asked before anything is answered.
    """

    def __init__(self, limit: int, answer: int) -> None:
        self._limit, self._entry, self._size = limit, ENTRY + answer, 0
        self._keys: OrderedDict[Query, None] = OrderedDict()

    def take(self, keys: Iterable[Query]) -> tuple[list[Query], list[Query]]:
        """Those of some keys that are not remembered, once each; and those that are forgotten after these keys."""
        distinct = dict.fromkeys(keys)
        missing = [key for key in distinct if key not in self._keys]
        self._size += sum(self._entry + len(mention) for mention, _ in missing)
        for key in distinct:
            self._keys[key] = None
            self._keys.move_to_end(key)
        forgotten = []
        while self._size > self._limit:
            key, _ = self._keys.popitem(last=False)
            self._size -= self._entry + len(key[0])
            forgotten.append(key)
        return missing, forgotten


class Step(NamedTuple):
    """A chunk on its way. keys: of its rows. asked: those whose answers aren't remembered. forgotten: those whose answers go after it."""

    number: int
    sheet: Chunk
    keys: list[Query]
    asked: list[Query]
    forgotten: list[Query]


def steps_of(source: InputTable, at: int, language_at: int | None, chunk: int, recent: LruByBytes) -> Iterator[Step]:
    """A source's chunks, of so many rows, with what they ask. at, language_at: columns."""
    for number, sheet in enumerate(source.chunks(chunk)):
        keys = keys_of(sheet.columns[at], None if language_at is None else sheet.columns[language_at])
        yield Step(number, sheet, keys, *recent.take(keys))


def keys_of(mentions: Column, languages: Column | None) -> list[Query]:
    """A column's mentions, with their languages, if there is a column of these. Raises DataError for an unknown language."""
    if languages is None:
        return [(text(cell), None) for cell in cells_of(mentions)]
    return list(zip(map(text, cells_of(mentions)), map(language_of, cells_of(languages)), strict=True))


def language_of(cell: object) -> str | None:
    """What a cell says. Raises DataError for an unknown language."""
    code = text(cell)
    return to_iso(code) if code.strip() else None


def answered(steps: Iterator[Step], ask: Ask, at_once: int) -> Generator[tuple[Step, list[bytes]], None, None]:
    """The steps in their order, each with the answers to what it asks; so many are asked at once, and as many again wait to be written."""
    if at_once == 1:
        for step in steps:
            yield step, ask(step.number, step.asked)
        return
    pool, under_way = ThreadPoolExecutor(at_once), deque[tuple[Step, Future[list[bytes]]]]()
    try:
        for step in steps:
            under_way.append((step, pool.submit(ask, step.number, step.asked)))
            if len(under_way) == 2 * at_once:
                first, answers = under_way.popleft()
                yield first, answers.result()
        while under_way:
            first, answers = under_way.popleft()
            yield first, answers.result()
    finally:
        pool.shutdown(cancel_futures=True)  # what is being answered is still kept for the next run


def answers_to(
    linker: Links, keys: list[Query], top_k: int, *, by_language: bool, options: Mapping[str, Any]
) -> list[bytes]:
    """A linker's answers to mentions, packed. by_language: whether their languages are said. options: keep, threshold, precision."""
    if not keys:
        return []
    languages = [language for _, language in keys] if by_language else None
    return list(
        map(encode_answer, linker.link([mention for mention, _ in keys], top_k, languages=languages, **options))
    )


_RUN = "run.json"
_LOCK = "lock"


@contextmanager
def take_over(out: Path, run: Mapping[str, Any] | None) -> Iterator[Path]:
    """Yield the folder for `out`, with the parts in it that a run with the same facts left; it goes afterwards.

    run: what the answers depend on, as JSON has it (sets and dataclasses too); None if that isn't known, so nothing is taken over. When the
    block raises, the parts stay for the next run. Raises ConfigError if another run is at work there, or the folder is none of ours.
    """
    folder = out.parent / f".{out.name}.part"
    metadata = None if run is None else json.dumps(run, default=_plain, sort_keys=True, ensure_ascii=False)
    folder.mkdir(parents=True, exist_ok=True)
    if not {_RUN, _LOCK} & {entry.name for entry in folder.iterdir()} and any(folder.iterdir()):
        raise ConfigError(
            f"{folder} is needed for the progress of {out}, but has other files in it; move it away, or choose another --out"
        )
    with file_lock(folder / _LOCK, f"another run is writing {out}; wait for it, or choose another --out"):
        _clear(folder, parts=metadata is None or _read(folder / _RUN) != metadata.encode())
        with write_atomically(folder / _RUN) as stream:
            stream.write(metadata or "null")
        try:
            yield folder
        except BaseException:
            if not any(folder.glob("*.gz")):
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


def parts_in(folder: Path) -> int:
    """How many chunks from the first on have their part."""
    count = 0
    while _part(folder, count).is_file():
        count += 1
    return count


def read_part(folder: Path, number: int, size: int) -> list[bytes] | None:
    """The lines of a part; None if it isn't there, or is damaged, or doesn't have `size` of them."""
    try:
        lines = gzip.decompress(_part(folder, number).read_bytes()).split(b"\n")[:-1]
    except (FileNotFoundError, EOFError, gzip.BadGzipFile, zlib.error):
        return None
    return lines if len(lines) == size else None


def write_part(folder: Path, number: int, lines: list[bytes]) -> None:
    """Keep a part: lines without line ends in them."""
    with write_atomically(_part(folder, number), binary=True) as stream:
        stream.write(gzip.compress(b"".join(line + b"\n" for line in lines), compresslevel=1, mtime=0))


def _part(folder: Path, number: int) -> Path:
    return folder / f"{number:06}.gz"


def _clear(folder: Path, *, parts: bool) -> None:
    """Drop files that were being written when a run was killed; and its parts."""
    for entry in folder.iterdir():
        if entry.name.endswith(".new") or (parts and entry.name.endswith(".gz")):
            entry.unlink()


def _read(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None  # bytes, for it may be damaged


def _plain(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} can't be told apart from one run to the next")


CHUNK = 8192  # rows
REMEMBERED = 1 << 28  # bytes of answers: some 200,000 at five candidates each
_SPREADSHEET = 1 << 20  # rows that a spreadsheet holds


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
        self.reasons.update(
            re.sub(r"[0-9]+(?:[.,][0-9]+)*", "…", answer.reason) for answer in answers if answer.reason is not None
        )

    def summary(self) -> str:
        """One line for people."""
        without = "; ".join(f"{reason}: {count:,}" for reason, count in self.reasons.most_common())
        parts = [
            f"{self.rows:,} rows, {self.asked:,} distinct mentions",
            f"{self.linked:,} linked",
            f"{self.rows - self.linked:,} without an answer" + (f" ({without})" if without else ""),
        ]
        taken_over = f"; {self.taken_over:,} rows taken over from an earlier run" if self.taken_over else ""
        return (
            ", ".join(parts)
            + taken_over
            + (f"; a spreadsheet holds only {_SPREADSHEET:,} rows" if self.written >= _SPREADSHEET else "")
        )


def link_file(
    linker: Links | RemoteLinkers,
    source: InputTable,
    out: Path | IO[bytes],
    layout: OutputFormat,
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
    answers, at_once = (
        (linker.answers_to, linker.at_once) if isinstance(linker, RemoteLinkers) else (partial(answers_to, linker), 1)
    )
    ask = partial(answers, top_k=layout.top_k, by_language=language_at is not None, options=options or {})
    answer = layout.top_k * A_CANDIDATE
    steps = partial(steps_of, source, at, language_at, chunk, LruByBytes(remembered, answer))
    work = partial(_link, source, layout, steps, at_once=at_once, progress=progress)
    if not isinstance(out, Path):
        return work(out, lambda _, keys: ask(keys))
    _check_place(out, source)
    if source.path is None:
        with write_atomically(out, binary=True) as stream:
            return work(stream, lambda _, keys: ask(keys))
    before = source.path.stat()
    run = None if identity is None else {
        "xsap": __version__, "input": [before.st_size, sha256_of(source.path), source.sheet, column, language_column],
        "answer": CANDIDATE, "top_k": layout.top_k, "chunk": chunk, "remembered": [remembered, answer], "identity": identity,
    }  # fmt: skip
    with take_over(out, run) as folder:
        with write_atomically(folder / "output", binary=True) as stream:
            account = work(stream, partial(_kept, folder, ask), taken_over=parts_in(folder) * chunk)
            after = source.path.stat()
            if (before.st_size, before.st_mtime_ns, source.rows) != (after.st_size, after.st_mtime_ns, account.rows):
                raise DataError(f"{source.where} was changed while it was linked; start again")
        (folder / "output").replace(out)
    return account


def _check_place(out: Path, source: InputTable) -> None:
    if out.is_dir():
        raise ConfigError(f"{out} is a folder; give --out the name of a file")
    if source.path is not None and out.exists() and out.samefile(source.path):
        raise ConfigError(f"{out} is the file that is read; give --out another name")


def _check_languages(source: InputTable, at: int, chunk: int) -> None:
    everything = (cell for sheet in source.chunks(chunk) for cell in cells_of(sheet.columns[at]))
    for row, cell in enumerate(everything, start=1):
        try:
            language_of(cell)
        except DataError as error:
            where = f"{source.where}: row {row:,}, column '{source.header[at]}'"
            raise DataError(f"{where}: {error}; leave empty what isn't known") from None


def _link(
    source: InputTable,
    layout: OutputFormat,
    steps: Callable[[], Iterator[Step]],
    stream: IO[bytes],
    ask: Ask,
    *,
    at_once: int,
    progress: bool,
    taken_over: int = 0,
) -> Account:
    account, lines = Account(), dict[Query, bytes]()
    bar = tqdm(total=source.rows, initial=taken_over, desc="link", unit=" rows", disable=not progress)
    with bar, open_writer(stream, layout, source) as write, closing(answered(steps(), ask, at_once)) as done:
        for step, fresh in done:
            lines.update(zip(step.asked, fresh, strict=True))
            answers = {key: decode_answer(lines[key]) for key in dict.fromkeys(step.keys)}
            in_order = [answers[key] for key in step.keys]
            account.asked += len(step.asked)
            account.written += write(step.sheet, [mention for mention, _ in step.keys], in_order)
            account.add(in_order)
            bar.update(max(0, account.rows - max(taken_over, account.rows - len(step.keys))))
            for key in step.forgotten:
                del lines[key]
    account.taken_over = min(taken_over, account.rows)
    return account


def _kept(folder: Path, ask: Callable[[list[Query]], list[bytes]], number: int, keys: list[Query]) -> list[bytes]:
    """The answers that were left in the folder for this chunk, or else new ones, which are left there too."""
    lines = read_part(folder, number, len(keys))
    if lines is None:
        lines = ask(keys)
        write_part(folder, number, lines)
    return lines
