import csv
import gzip
import io
import itertools
import json
import signal
import subprocess
import sys
import tracemalloc
import zlib
from collections import Counter, OrderedDict
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsap.errors import ConfigError, DataError
from xsap.linking.results import Candidate, Result
from xsap.tabular.link_file import ENTRY, Account, LruByBytes, link_file
from xsap.tabular.readers import open_source, terms_source
from xsap.tabular.writers import OutputFormat

ROOT = Path(__file__).resolve().parents[2]


class Standin:
    """Answers by the mention, its language and, as rounding may make it, by what else is asked at the same time. die_at: the call to die in."""

    def __init__(self, die_at=None, death=None):
        self.calls, self.die_at, self.death = [], die_at, death

    def link(self, mentions, top_k=5, *, languages=None, filter=None, progress=False):
        mentions = list(mentions)
        self.calls.append(list(zip(mentions, languages or [None] * len(mentions), strict=True)))
        if len(self.calls) == self.die_at:
            self.death()
        together = zlib.crc32(repr(self.calls[-1]).encode("utf-8", "backslashreplace"))
        return [self.answer(*pair, top_k, filter, together) for pair in self.calls[-1]]

    def answer(self, mention, language, top_k, filter, together):
        if not mention.strip():
            return Result(mention, (), "the mention is blank")
        if len(mention) > 20:
            return Result(mention, (), f"the mention has {len(mention):,} characters; a term has at most 20")
        count = min(top_k, len(mention))
        own = zlib.crc32(f"{mention}{language}{filter}".encode("utf-8", "backslashreplace"))
        scores = [own % (rank + 7) / 7 + together % 1000 / 1e6 for rank in range(count)]
        return Result(
            mention,
            tuple(
                Candidate(f"C{own % 97}.{rank}", mention[::-1], f"={mention}", scores[rank]) for rank in range(count)
            ),
        )


def stop():
    raise KeyboardInterrupt


def file_of(folder, mentions, name="x.csv"):
    with (folder / name).open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["id", "term"], *([i, mention] for i, mention in enumerate(mentions))])
    return open_source(folder / name)


def linked(source, linker=None, layout=None, **options):
    stream = io.BytesIO()
    account = link_file(
        linker or Standin(), source, stream, layout or OutputFormat("jsonl", 2), column="term", **options
    )
    return account, stream.getvalue()


# What is asked and what is told


def test_every_row_is_accounted_for(tmp_path):
    source = file_of(tmp_path, ["fever", " ", "x" * 30, "fever", "y" * 1234, "cold", ""])
    account, data = linked(source, chunk=3)
    rows = [json.loads(line) for line in data.splitlines()]
    assert [(row["id"], row["rank"]) for row in rows] == [("0", 1), ("0", 2), ("1", None), ("2", None), ("3", 1), ("3", 2), ("4", None), ("5", 1), ("5", 2), ("6", None)]  # fmt: skip
    reasons = {"the mention is blank": 2, "the mention has … characters; a term has at most …": 2}
    assert account == Account(7, 3, Counter(reasons), asked=6, taken_over=0, written=10)
    assert account.rows == account.linked + account.reasons.total()
    assert account.summary() == (
        "7 rows, 6 distinct mentions, 3 linked, 4 without an answer "
        "(the mention is blank: 2; the mention has … characters; a term has at most …: 2)"
    )
    account.taken_over, account.written = 2, 1 << 20
    assert account.summary().endswith(
        "; 2 rows taken over from an earlier run; a spreadsheet holds only 1,048,576 rows"
    )


def test_equal_mentions_are_linked_once(tmp_path):
    mentions = [f"t{i % 7}" for i in range(100)]
    linker = Standin()
    account, data = linked(file_of(tmp_path, mentions), linker, chunk=5)
    assert [mention for call in linker.calls for mention, _ in call] == [f"t{i}" for i in range(7)]
    assert (account.asked, len(data.splitlines())) == (7, 200)
    assert len({line.split(b'"term"')[1] for line in data.splitlines()}) == 14


def test_mentions_are_equal_only_in_the_same_language(tmp_path):
    (tmp_path / "x.tsv").write_text("term\tof\ngift\ten\ngift\tGER\ngift\t\ngift\tEnglish\ngift\t \n")
    linker, source = Standin(), open_source(tmp_path / "x.tsv")
    linked(source, linker, language_column="of")
    assert linker.calls == [[("gift", "en"), ("gift", "de"), ("gift", None)]]
    (tmp_path / "x.tsv").write_text("term\tof\na\ten\nb\tde\nc\tKlingon\n")
    linker, source = Standin(), open_source(tmp_path / "x.tsv")
    with pytest.raises(
        DataError, match=r"x\.tsv: row 3, column 'of': unknown language 'Klingon': .*; leave empty what isn't known$"
    ):
        linked(source, linker, language_column="of", chunk=1)
    assert linker.calls == []  # told of before the work
    with pytest.raises(DataError, match="expected a column 'off', found term, of; did you mean 'of'"):
        linked(source, linker, language_column="off")


class NaiveRecent:
    """The same by scanning lists."""

    def __init__(self, limit):
        self.limit, self.entries = limit, []

    def complete(self, keys):
        distinct = list(OrderedDict.fromkeys(keys))
        known = [key for key, _ in self.entries]
        missing = [key for key in distinct if key not in known]
        sizes = dict(self.entries) | {key: ENTRY + len(key[0]) + 10 for key in missing}
        self.entries = [(key, size) for key, size in self.entries if key not in distinct] + [
            (key, sizes[key]) for key in distinct
        ]
        while sum(size for _, size in self.entries) > self.limit:
            self.entries.pop(0)
        return missing


@given(chunks=st.lists(st.lists(st.sampled_from("abcdef"), max_size=5), max_size=8), held=st.integers(0, 5))
def test_the_longest_unused_is_forgotten_first(chunks, held):
    recent, naive = LruByBytes(held * (ENTRY + 11), 10), NaiveRecent(held * (ENTRY + 11))
    there = set()
    for chunk in chunks:
        keys = [(mention, None) for mention in chunk]
        asked, forgotten = recent.take(keys)
        assert asked == naive.complete(keys)
        assert not there & set(asked)
        there |= set(asked)
        assert there >= set(keys)  # all that the chunk needs, before anything goes
        assert len(forgotten) == len(set(forgotten))
        there -= set(forgotten)
        assert there == {key for key, _ in naive.entries}


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.tsv", "x.jsonl", "x.parquet", "x.xlsx"])
def test_the_same_answers_from_every_kind_of_file(tmp_path, name):
    mentions = ["fever", "fièvre\u2028", "", "cold", "fever"]
    table = pa.table({"id": list("01234"), "term": mentions})
    path = tmp_path / name
    if name == "x.parquet":
        pq.write_table(table, path, row_group_size=2)
    elif name == "x.xlsx":
        import openpyxl

        book = openpyxl.Workbook()
        for row in [table.column_names, *zip(*table.to_pydict().values(), strict=True)]:
            book.active.append(row)
        book.save(path)
    else:
        write = {"x.jsonl": lambda i, t: json.dumps({"id": i, "term": t}), "x.tsv": "{}\t{}".format}.get(
            name, "{},{}".format
        )
        lines = [] if name == "x.jsonl" else [write("id", "term")]
        text = "\n".join(lines + [write(i, t) for i, t in zip("01234", mentions, strict=True)]).encode()
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    expected = linked(file_of(tmp_path, mentions, "again.csv"), chunk=2)
    account, data = linked(open_source(path), chunk=2)
    blank = [line.replace(b'"term": null', b'"term": ""') for line in data.splitlines()]
    assert (account, blank) == (expected[0], expected[1].splitlines())


def test_bare_terms_from_an_endless_stream(tmp_path):
    """What comes in is asked and written at once."""
    numbers = itertools.count()
    stream = io.BytesIO()
    with pytest.raises(KeyboardInterrupt):
        link_file(
            Standin(4, stop),
            terms_source((f"t{n}" for n in numbers), "stdin"),
            stream,
            OutputFormat("csv", 1),
            column="mention",
            chunk=10,
        )
    assert next(numbers) == 40
    assert stream.getvalue().count(b"\n") == 31
    out = tmp_path / "x.csv"
    account = link_file(
        Standin(), terms_source(["a", "b"], "arguments", rows=2), out, OutputFormat.to(out, None), column="mention"
    )
    assert (account.rows, len(list(csv.reader(out.open(newline=""))))) == (2, 3)
    assert [each.name for each in tmp_path.iterdir()] == ["x.csv"]


def test_what_is_passed_on(tmp_path):
    source = file_of(tmp_path, ["fever"])
    assert linked(source, options={"keep": "x"})[1] != linked(source)[1]
    assert linked(source, layout=OutputFormat("jsonl", 1))[0].written == 1
    with pytest.raises(DataError, match="expected a column 'terms', found id, term; did you mean 'term'"):
        link_file(Standin(), source, io.BytesIO(), OutputFormat("csv"), column="terms")


def test_places_that_can_t_be_written(tmp_path):
    source = file_of(tmp_path, ["fever"])
    before = (tmp_path / "x.csv").read_bytes()
    (tmp_path / "link.csv").symlink_to(tmp_path / "x.csv")
    for out, message in ((tmp_path, "is a folder"), (tmp_path / "x.csv", "is the file that is read"), (tmp_path / "link.csv", "is the file that is read")):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            link_file(Standin(), source, out, OutputFormat("csv"), column="term")
    assert (tmp_path / "x.csv").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_that_changes_meanwhile(tmp_path):
    source = file_of(tmp_path, ["fever", "cold"])
    grow = lambda: (tmp_path / "x.csv").open("a").write("3,new\n")  # noqa: E731, SIM115
    with pytest.raises(DataError, match=r"x\.csv was changed while it was linked; start again$"):
        link_file(Standin(1, grow), source, tmp_path / "y.csv", OutputFormat("csv"), column="term", chunk=1)
    assert not (tmp_path / "y.csv").exists()


# A run that was killed


MENTIONS = [f"t{i * i % 23}" for i in range(60)] + ["", "x" * 30]
IDENTITY = {"index": "abc"}


def run(folder, name, linker, **options):
    options = {"column": "term", "identity": IDENTITY, "chunk": 7, "remembered": 5 * (ENTRY + 300)} | options
    return link_file(
        linker, open_source(folder / "x.csv"), folder / name, OutputFormat.to(folder / name, None, top_k=3), **options
    )


@pytest.mark.parametrize("name", ["y.csv", "y.csv.gz", "y.jsonl", "y.parquet", "y"])
@pytest.mark.parametrize("die_at", [1, 2, 6])
def test_a_run_that_was_stopped_goes_on_and_writes_the_same(tmp_path, name, die_at):
    file_of(tmp_path, MENTIONS)
    whole = Standin()
    account = run(tmp_path, name, whole)
    expected = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, name, Standin(die_at, stop))
    assert sorted(each.name for each in tmp_path.iterdir()) == ([f".{name}.part"] if die_at > 1 else []) + ["x.csv"]
    second = Standin()
    again = run(tmp_path, name, second)
    assert second.calls == whole.calls[die_at - 1 :]
    assert (tmp_path / name).read_bytes() == expected
    assert again.taken_over == 7 * (die_at - 1)
    again.taken_over = 0
    assert again == account
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([name, "x.csv"])


@settings(max_examples=40)
@given(
    mentions=st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=40),
    deaths=st.lists(st.integers(1, 4), max_size=3),
    held=st.integers(0, 4),
)
def test_however_often_it_is_stopped(tmp_path_factory, mentions, deaths, held):
    folder = tmp_path_factory.mktemp("stopped")
    file_of(folder, mentions)
    options = {"chunk": 3, "remembered": held * 700}
    whole, calls = Standin(), []
    account = run(folder, "whole.csv", whole, **options)
    for die_at in deaths:
        linker = Standin(die_at, stop)
        try:
            run(folder, "y.csv", linker, **options)
            calls += linker.calls
            break
        except KeyboardInterrupt:
            calls += linker.calls[:-1]
    else:
        linker = Standin()
        run(folder, "y.csv", linker, **options)
        calls += linker.calls
    assert (folder / "y.csv").read_bytes() == (folder / "whole.csv").read_bytes()
    assert calls == whole.calls  # nothing is asked twice
    assert account.rows == len(mentions)


def test_sigkill(tmp_path):
    """Killed as the system kills, in another process, again and again; the last one writes what an unbroken run writes."""
    file_of(tmp_path, [f"t{i * i % 101}" for i in range(400)])
    code = (
        "import os, signal, sys\n"
        "from tests.test_bulk import *\n"
        "kill = lambda: os.kill(os.getpid(), signal.SIGKILL)\n"
        "print(run(Path(sys.argv[1]), sys.argv[2], Standin(int(sys.argv[3]), kill)).taken_over)"
    )

    def start(name, die_at):
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path, name, str(die_at)], cwd=ROOT, capture_output=True, text=True
        )
        return done.returncode, done.stdout.strip()

    run(tmp_path, "whole.parquet", Standin())
    assert start("y.parquet", 5) == (-signal.SIGKILL, "")
    assert not (tmp_path / "y.parquet").exists()
    assert start("y.parquet", 9) == (-signal.SIGKILL, "")
    assert len(list((tmp_path / ".y.parquet.part").glob(".output.*.new"))) == 1  # cut short, and dropped by the next
    assert start("y.parquet", -1) == (0, str(7 * 12))
    assert (tmp_path / "y.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["whole.parquet", "x.csv", "y.parquet"]
    assert duckdb.sql(f"select count(distinct id) from '{tmp_path}/y.parquet'").fetchall() == [(400,)]


def test_a_damaged_part_is_asked_again(tmp_path):
    file_of(tmp_path, MENTIONS)
    whole = Standin()
    run(tmp_path, "whole.csv", whole)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "y.csv", Standin(5, stop))
    part = tmp_path / ".y.csv.part" / "000001.gz"
    part.write_bytes(part.read_bytes()[:-5])
    linker = Standin()
    run(tmp_path, "y.csv", linker)
    assert linker.calls == [whole.calls[1], *whole.calls[4:]]
    assert (tmp_path / "y.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


OTHERS = [
    {"identity": {"index": "other"}},
    {"identity": None},
    {"chunk": 8},
    {"remembered": 10_000},
    {"column": "id"},
    {"language_column": "id"},
    {"version": "0.0.0"},
]


@pytest.mark.parametrize("other", OTHERS, ids=lambda other: next(iter(other)))
def test_another_command_does_not_take_over(tmp_path, other, monkeypatch):
    other = dict(other)
    file_of(tmp_path, MENTIONS)
    if "language_column" in other:
        (tmp_path / "x.csv").write_text("id,term\n" + "".join(f"en,t{i}\n" for i in range(60)))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "y.csv", Standin(3, stop))
    if "version" in other:
        monkeypatch.setattr("xsap.tabular.link_file.__version__", other.pop("version"))
    assert run(tmp_path, "y.csv", Standin(), **other).taken_over == 0
    assert not (tmp_path / ".y.csv.part").exists()


def test_another_input_does_not_take_over_and_another_form_does(tmp_path):
    file_of(tmp_path, MENTIONS)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "y.csv", Standin(3, stop))
    layout = OutputFormat("csv", 3, wide=True)
    source = open_source(tmp_path / "x.csv")
    account = link_file(
        Standin(),
        source,
        tmp_path / "y.csv",
        layout,
        column="term",
        identity=IDENTITY,
        chunk=7,
        remembered=5 * (ENTRY + 300),
    )
    assert account.taken_over == 14
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "y.csv", Standin(3, stop))
    changed = (tmp_path / "x.csv").read_bytes().replace(b"t1\r", b"t2\r")
    (tmp_path / "x.csv").write_bytes(changed)
    assert run(tmp_path, "y.csv", Standin()).taken_over == 0


def test_a_failed_run_leaves_an_earlier_file_alone(tmp_path):
    file_of(tmp_path, MENTIONS)
    (tmp_path / "y.csv").write_text("before")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "y.csv", Standin(3, stop))
    assert (tmp_path / "y.csv").read_text() == "before"


# Many rows


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_memory_does_not_grow_with_the_rows(tmp_path, form):
    def peak(count):
        (tmp_path / "x.csv").write_text("id,term\n" + "".join(f"{i},t{i}\n" for i in range(count)))
        out = tmp_path / f"y.{form}"
        source = open_source(tmp_path / "x.csv")
        linker = Standin()
        linker.calls = Forgetful()
        tracemalloc.start()
        account = link_file(
            linker, source, out, OutputFormat(form, 2), column="term", identity={}, chunk=200, remembered=100_000
        )
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (account.rows, account.written) == (count, 2 * count)
        return used

    small, large = peak(1_000), peak(8_000)
    assert large < 1.5 * small + 200_000


class Forgetful(list):
    def append(self, call):
        self[:] = [call]


def test_progress_says_how_many_rows_are_left(tmp_path, capsys):
    source = file_of(tmp_path, MENTIONS)
    linked(source, progress=True, chunk=7)
    shown = capsys.readouterr().err
    assert f"/{len(MENTIONS)} [" in shown
    assert "rows/s" in shown
    linked(source, progress=False)
    assert capsys.readouterr().err == ""
