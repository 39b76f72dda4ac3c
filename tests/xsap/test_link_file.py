"""Linking a column: rows and answers, interrupted runs, remote linkers, and the folder of a run that can be resumed."""

import csv
import gzip
import io
import itertools
import json
import random
import signal
import subprocess
import sys
import tracemalloc
from collections import Counter, OrderedDict
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.commands import ROOT
from tests.fixtures.examples import examples
from tests.fixtures.linkers import (
    FIVE_ANSWERS,
    IDENTITY,
    Filter,
    StandInLinker,
    StandInRemoteLinkers,
    csv_table,
    interrupt,
    interrupted,
    link_to_bytes,
    link_to_file,
)
from xsap.errors import ConfigError, DataError
from xsap.files import RowCounts
from xsap.languages import to_iso
from xsap.tabular.link_file import (
    QUERY_BYTES,
    LinkCounts,
    LruByBytes,
    PlannedChunk,
    RemoteLinkers,
    answer_chunks,
    link_file,
)
from xsap.tabular.readers import open_table, table_of_terms
from xsap.tabular.resume import count_parts, read_part, resume_folder, write_part
from xsap.tabular.writers import OutputFormat

MENTIONS = [f"t{i * i % 23}" for i in range(60)] + ["", "x" * 30]


# Rows and their answers


def test_every_row_is_linked_or_counted_by_reason(tmp_path):
    source = csv_table(tmp_path, ["fever", " ", "x" * 30, "fever", "y" * 1234, "cold", ""])
    counts, data = link_to_bytes(source, chunk_rows=3)
    rows = [json.loads(line) for line in data.splitlines()]
    assert [(row["id"], row["rank"]) for row in rows] == [("0", 1), ("0", 2), ("1", None), ("2", None), ("3", 1), ("3", 2), ("4", None), ("5", 1), ("5", 2), ("6", None)]  # fmt: skip
    reasons = {"the mention is blank": 2, "the mention has … characters; a term has at most …": 2}
    assert counts == LinkCounts(RowCounts(7, 3, reasons), distinct=6, resumed=0, written=10)
    assert counts.summary() == (
        "7 rows, 6 distinct mentions, 3 linked, 4 unlinked, by reason "
        "(the mention is blank: 2; the mention has … characters; a term has at most …: 2)"
    )
    counts.resumed, counts.written = 2, 1 << 20
    assert counts.summary().endswith(
        "; 2 rows resumed from an interrupted run; a spreadsheet can open only 1,048,576 rows"
    )


def test_equal_mentions_are_linked_once(tmp_path):
    mentions = [f"t{i % 7}" for i in range(100)]
    linker = StandInLinker()
    counts, data = link_to_bytes(csv_table(tmp_path, mentions), linker, chunk_rows=5)
    assert [mention for call in linker.calls for mention, _ in call] == [f"t{i}" for i in range(7)]
    assert (counts.distinct, len(data.splitlines())) == (7, 200)
    assert len({line.split(b'"term"')[1] for line in data.splitlines()}) == 14


def test_mentions_are_equal_only_in_the_same_language(tmp_path):
    (tmp_path / "x.tsv").write_text("term\tof\ngift\ten\ngift\tGER\ngift\t\ngift\tEnglish\ngift\t \n")
    linker, source = StandInLinker(), open_table(tmp_path / "x.tsv")
    link_to_bytes(source, linker, language_column="of")
    assert linker.calls == [[("gift", "en"), ("gift", "de"), ("gift", None)]]
    (tmp_path / "x.tsv").write_text("term\tof\na\ten\nb\tde\nc\tKlingon\n")
    linker, source = StandInLinker(), open_table(tmp_path / "x.tsv")
    with pytest.raises(
        DataError,
        match=r"x\.tsv: row 3, column 'of': unknown language 'Klingon': .*; correct it, leave the cell empty, or remove --strict$",
    ):
        link_to_bytes(source, linker, language_column="of", chunk_rows=1, strict=True)
    assert linker.calls == []  # reported before any work
    with pytest.raises(DataError, match="expected a column 'off', found term, of; did you mean 'of'"):
        link_to_bytes(source, linker, language_column="off")


def test_unknown_languages_are_counted_and_linked_as_no_language(tmp_path):
    """What is unknown is what to_iso refuses, whatever else is in the column; no other language is guessed."""
    codes = ["en", "qqq", "", "Klingon", " ", "GER", "qqq", "x" * 50, "42", "de_AT", "qqq", "Español"]
    (tmp_path / "x.jsonl").write_text(
        "".join(json.dumps({"term": f"t{i}", "of": code}) + "\n" for i, code in enumerate(codes))
    )
    linker = StandInLinker()
    counts, _ = link_to_bytes(open_table(tmp_path / "x.jsonl"), linker, language_column="of", chunk_rows=5)
    expected, unknown = [], Counter()
    for i, code in enumerate(codes):
        try:
            expected.append((f"t{i}", to_iso(code) if code.strip() else None))
        except DataError:
            expected.append((f"t{i}", None))
            unknown[code] += 1
    assert [query for call in linker.calls for query in call] == expected
    assert counts.unknown_languages == unknown
    assert f"; rows of a language that is not known: {unknown.total()} ('qqq': 3, 'Klingon': 1, " in counts.summary()
    assert counts.rows.rows_in == counts.rows.kept == len(codes)


def test_unknown_languages_are_counted_by_name_up_to_a_limit():
    counts = LinkCounts()
    counts.add_unknown_languages(pa.chunked_array([[f"language {i % 1500}" for i in range(3000)]]))
    assert len(counts.unknown_languages) == 1001
    assert counts.unknown_languages.total() == 3000
    assert counts.summary().endswith(
        "rows of a language that is not known: 3,000 (others: 1,000, 'language 0': 2, 'language 1': 2, 'language 2': 2, 'language 3': 2, …)"
    )


class NaiveLru:
    """LruByBytes by scanning lists."""

    def __init__(self, limit):
        self.limit, self.entries = limit, []

    def complete(self, keys):
        distinct = list(OrderedDict.fromkeys(keys))
        known = [key for key, _ in self.entries]
        missing = [key for key in distinct if key not in known]
        sizes = dict(self.entries) | {key: QUERY_BYTES + len(key[0]) + 10 for key in missing}
        self.entries = [(key, size) for key, size in self.entries if key not in distinct] + [
            (key, sizes[key]) for key in distinct
        ]
        while sum(size for _, size in self.entries) > self.limit:
            self.entries.pop(0)
        return missing


@given(chunks=st.lists(st.lists(st.sampled_from("abcdef"), max_size=5), max_size=8), held=st.integers(0, 5))
def test_lru_drops_the_least_recently_used_first(chunks, held):
    cache, naive = LruByBytes(held * (QUERY_BYTES + 11), 10), NaiveLru(held * (QUERY_BYTES + 11))
    there = set()
    for chunk in chunks:
        keys = [(mention, None) for mention in chunk]
        asked, dropped = cache.take(keys)
        assert asked == naive.complete(keys)
        assert not there & set(asked)
        there |= set(asked)
        assert there >= set(keys)  # all that the chunk needs, before anything is dropped
        assert len(dropped) == len(set(dropped))
        there -= set(dropped)
        assert there == {key for key, _ in naive.entries}


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.tsv", "x.jsonl", "x.parquet", "x.xlsx"])
def test_every_input_format_gives_the_same_answers(tmp_path, name):
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
    expected = link_to_bytes(csv_table(tmp_path, mentions, "again.csv"), chunk_rows=2)
    counts, data = link_to_bytes(open_table(path), chunk_rows=2)
    blank = [line.replace(b'"term": null', b'"term": ""') for line in data.splitlines()]
    assert (counts, blank) == (expected[0], expected[1].splitlines())


def test_endless_stream_of_terms_is_linked_as_it_comes(tmp_path):
    numbers = itertools.count()
    stream = io.BytesIO()
    with pytest.raises(KeyboardInterrupt):
        link_file(
            StandInLinker(4, interrupt),
            table_of_terms((f"t{n}" for n in numbers), "stdin"),
            stream,
            OutputFormat("csv", 1),
            column="mention",
            chunk_rows=10,
        )
    assert next(numbers) == 40
    assert stream.getvalue().count(b"\n") == 31
    out = tmp_path / "x.csv"
    counts = link_file(
        StandInLinker(),
        table_of_terms(["a", "b"], "arguments", rows=2),
        out,
        OutputFormat.for_file(out, None),
        column="mention",
    )
    assert (counts.rows.rows_in, len(list(csv.reader(out.open(newline=""))))) == (2, 3)
    assert [each.name for each in tmp_path.iterdir()] == ["x.csv"]


def test_options_reach_the_linker(tmp_path):
    source = csv_table(tmp_path, ["fever"])
    assert link_to_bytes(source, options={"filter": "x"})[1] != link_to_bytes(source)[1]
    assert link_to_bytes(source, output_format=OutputFormat("jsonl", 1))[0].written == 1
    with pytest.raises(DataError, match="expected a column 'terms', found id, term; did you mean 'term'"):
        link_file(StandInLinker(), source, io.BytesIO(), OutputFormat("csv"), column="terms")


def test_outputs_that_cannot_be_written_are_rejected(tmp_path):
    source = csv_table(tmp_path, ["fever"])
    before = (tmp_path / "x.csv").read_bytes()
    (tmp_path / "link.csv").symlink_to(tmp_path / "x.csv")
    for out, message in ((tmp_path, "is a folder"), (tmp_path / "x.csv", "is the input file"), (tmp_path / "link.csv", "is the input file")):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            link_file(StandInLinker(), source, out, OutputFormat("csv"), column="term")
    assert (tmp_path / "x.csv").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_input_changed_while_linking_is_reported(tmp_path):
    source = csv_table(tmp_path, ["fever", "cold"])
    grow = lambda: (tmp_path / "x.csv").open("a").write("3,new\n")  # noqa: E731, SIM115
    with pytest.raises(DataError, match=r"x\.csv was changed while it was linked; run the command again$"):
        link_file(StandInLinker(1, grow), source, tmp_path / "y.csv", OutputFormat("csv"), column="term", chunk_rows=1)
    assert not (tmp_path / "y.csv").exists()


# Interrupted runs


MENTIONS = [f"t{i * i % 23}" for i in range(60)] + ["", "x" * 30]


@pytest.mark.parametrize("name", ["y.csv", "y.csv.gz", "y.jsonl", "y.parquet", "y.xlsx", "y"])
@pytest.mark.parametrize("fail_at", [1, 2, 6])
def test_interrupted_run_resumes_and_writes_the_same_bytes(tmp_path, name, fail_at):
    csv_table(tmp_path, MENTIONS)
    whole = StandInLinker()
    counts = link_to_file(tmp_path, name, whole)
    expected = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    with pytest.raises(KeyboardInterrupt):
        link_to_file(tmp_path, name, StandInLinker(fail_at, interrupt))
    assert sorted(each.name for each in tmp_path.iterdir()) == ([f".{name}.part"] if fail_at > 1 else []) + ["x.csv"]
    second = StandInLinker()
    again = link_to_file(tmp_path, name, second)
    assert second.calls == whole.calls[fail_at - 1 :]
    assert (tmp_path / name).read_bytes() == expected
    assert again.resumed == 7 * (fail_at - 1)
    again.resumed = 0
    assert again == counts
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([name, "x.csv"])


@settings(max_examples=examples(40))
@given(
    mentions=st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=40),
    deaths=st.lists(st.integers(1, 4), max_size=3),
    held=st.integers(0, 4),
)
def test_run_interrupted_several_times_writes_the_same_bytes_and_asks_nothing_twice(
    tmp_path_factory, mentions, deaths, held
):
    folder = tmp_path_factory.mktemp("stopped")
    csv_table(folder, mentions)
    options = {"chunk_rows": 3, "cache_bytes": held * 700}
    whole, calls = StandInLinker(), []
    counts = link_to_file(folder, "whole.csv", whole, **options)
    for fail_at in deaths:
        linker = StandInLinker(fail_at, interrupt)
        try:
            link_to_file(folder, "y.csv", linker, **options)
            calls += linker.calls
            break
        except KeyboardInterrupt:
            calls += linker.calls[:-1]
    else:
        linker = StandInLinker()
        link_to_file(folder, "y.csv", linker, **options)
        calls += linker.calls
    assert (folder / "y.csv").read_bytes() == (folder / "whole.csv").read_bytes()
    assert calls == whole.calls
    assert counts.rows.rows_in == len(mentions)


def test_link_file_resumes_after_sigkill(tmp_path):
    """Killed twice in another process; the last run writes what an uninterrupted one writes."""
    csv_table(tmp_path, [f"t{i * i % 101}" for i in range(400)])
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from tests.fixtures.linkers import *\n"
        "kill = lambda: os.kill(os.getpid(), signal.SIGKILL)\n"
        "print(link_to_file(Path(sys.argv[1]), sys.argv[2], StandInLinker(int(sys.argv[3]), kill)).resumed)"
    )

    def start(name, fail_at):
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path, name, str(fail_at)], cwd=ROOT, capture_output=True, text=True
        )
        return done.returncode, done.stdout.strip()

    link_to_file(tmp_path, "whole.parquet", StandInLinker())
    assert start("y.parquet", 5) == (-signal.SIGKILL, "")
    assert not (tmp_path / "y.parquet").exists()
    assert start("y.parquet", 9) == (-signal.SIGKILL, "")
    assert (
        len(list((tmp_path / ".y.parquet.part").glob(".output.*.new"))) == 1
    )  # incomplete, and deleted by the next run
    assert start("y.parquet", -1) == (0, str(7 * 12))
    assert (tmp_path / "y.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["whole.parquet", "x.csv", "y.parquet"]
    assert duckdb.sql(f"select count(distinct id) from '{tmp_path}/y.parquet'").fetchall() == [(400,)]


def test_answers_of_a_damaged_part_are_asked_again(tmp_path):
    csv_table(tmp_path, MENTIONS)
    whole = StandInLinker()
    link_to_file(tmp_path, "whole.csv", whole)
    with pytest.raises(KeyboardInterrupt):
        link_to_file(tmp_path, "y.csv", StandInLinker(5, interrupt))
    part = tmp_path / ".y.csv.part" / "000001.gz"
    part.write_bytes(part.read_bytes()[:-5])
    linker = StandInLinker()
    link_to_file(tmp_path, "y.csv", linker)
    assert linker.calls == [whole.calls[1], *whole.calls[4:]]
    assert (tmp_path / "y.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def rewrite_version(file, version):
    """State another version of xsap in what a run left."""
    metadata = json.loads(file.read_text())
    file.write_text(json.dumps(metadata | {"xsap": version}, sort_keys=True, ensure_ascii=False))


OTHERS = [
    {"identity": {"index": "other"}},
    {"identity": None},
    {"chunk_rows": 8},
    {"cache_bytes": 10_000},
    {"column": "id"},
    {"language_column": "id"},
    {"version": "0.0.0"},
]


@pytest.mark.parametrize("other", OTHERS, ids=lambda other: next(iter(other)))
def test_run_with_other_options_does_not_resume(tmp_path, other):
    other = dict(other)
    csv_table(tmp_path, MENTIONS)
    if "language_column" in other:
        (tmp_path / "x.csv").write_text("id,term\n" + "".join(f"en,t{i}\n" for i in range(60)))
    with pytest.raises(KeyboardInterrupt):
        link_to_file(tmp_path, "y.csv", StandInLinker(3, interrupt))
    if "version" in other:
        rewrite_version(tmp_path / ".y.csv.part" / "run.json", other.pop("version"))
    assert link_to_file(tmp_path, "y.csv", StandInLinker(), **other).resumed == 0
    assert not (tmp_path / ".y.csv.part").exists()


def test_other_output_format_resumes_and_other_input_does_not(tmp_path):
    csv_table(tmp_path, MENTIONS)
    with pytest.raises(KeyboardInterrupt):
        link_to_file(tmp_path, "y.csv", StandInLinker(3, interrupt))
    output_format = OutputFormat("csv", 3, wide=True)
    source = open_table(tmp_path / "x.csv")
    counts = link_file(
        StandInLinker(),
        source,
        tmp_path / "y.csv",
        output_format,
        column="term",
        identity=IDENTITY,
        chunk_rows=7,
        cache_bytes=FIVE_ANSWERS,
    )
    assert counts.resumed == 14
    (tmp_path / "y.csv").unlink()
    with pytest.raises(KeyboardInterrupt):
        link_to_file(tmp_path, "y.csv", StandInLinker(3, interrupt))
    changed = (tmp_path / "x.csv").read_bytes().replace(b"t1\r", b"t2\r")
    (tmp_path / "x.csv").write_bytes(changed)
    assert link_to_file(tmp_path, "y.csv", StandInLinker()).resumed == 0


def test_failed_run_leaves_an_earlier_output_unchanged(tmp_path):
    csv_table(tmp_path, MENTIONS)
    (tmp_path / "y.csv").write_text("before")
    with pytest.raises(
        ConfigError, match=r"y\.csv exists already; choose another path, or replace it with --overwrite$"
    ):
        link_to_file(tmp_path, "y.csv", StandInLinker())
    with pytest.raises(KeyboardInterrupt):
        link_to_file(tmp_path, "y.csv", StandInLinker(3, interrupt), overwrite=True)
    assert (tmp_path / "y.csv").read_text() == "before"
    assert link_to_file(tmp_path, "y.csv", StandInLinker(), overwrite=True).resumed == 14
    assert (tmp_path / "y.csv").read_text() != "before"


# Memory and progress


SLOW = [pytest.param(form, marks=pytest.mark.slow) for form in ("parquet", "xlsx")]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["csv", *SLOW])
def test_linking_needs_the_memory_of_a_chunk_and_the_cache(tmp_path, form):
    def peak(count):
        (tmp_path / "x.csv").write_text("id,term\n" + "".join(f"{i},t{i}\n" for i in range(count)))
        out = tmp_path / f"y.{form}"
        source = open_table(tmp_path / "x.csv")
        linker = StandInLinker()
        linker.calls = LastCall()
        tracemalloc.start()
        counts = link_file(
            linker,
            source,
            out,
            OutputFormat(form, 2),
            column="term",
            identity={},
            overwrite=True,
            chunk_rows=50,
            cache_bytes=25_000,
        )
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (counts.rows.rows_in, counts.written) == (count, 2 * count)
        return used

    small, large = peak(500), peak(4_000)
    assert large < 1.5 * small + 200_000


class LastCall(list):
    def append(self, call):
        self[:] = [call]


def test_progress_bar_shows_rows_and_speed(tmp_path, capsys):
    source = csv_table(tmp_path, MENTIONS)
    link_to_bytes(source, progress=True, chunk_rows=7)
    shown = capsys.readouterr().err
    assert f"/{len(MENTIONS)} [" in shown
    assert "rows/s" in shown
    link_to_bytes(source, progress=False)
    assert capsys.readouterr().err == ""


# Remote linkers


def test_local_linker_is_not_remote():
    assert isinstance(StandInRemoteLinkers(2), RemoteLinkers)
    assert not isinstance(StandInLinker(), RemoteLinkers)


@settings(max_examples=examples(40))
@given(
    mentions=st.lists(st.sampled_from("abcdefghij"), max_size=40),
    held=st.integers(0, 4),
    at_once=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_remote_linkers_are_asked_the_same_and_give_the_same_bytes(tmp_path_factory, mentions, held, at_once, seed):
    """held: about how many answers are cached, so that some are dropped and asked again."""
    source = csv_table(tmp_path_factory.mktemp("asked"), mentions)
    options = {"chunk_rows": 3, "cache_bytes": held * 1600}
    whole = StandInLinker()
    expected = link_to_bytes(source, whole, **options)
    rng = random.Random(seed)
    away = StandInRemoteLinkers(at_once, lambda _: rng.random() / 500)
    assert link_to_bytes(source, away, **options) == expected
    assert sorted(map(repr, away.linker.calls)) == sorted(map(repr, whole.calls))


def test_as_many_chunks_are_asked_at_once_as_allowed(tmp_path):
    source = csv_table(tmp_path, [f"t{i}" for i in range(60)])
    away = StandInRemoteLinkers(4, lambda _: 0.01)
    expected = link_to_bytes(source, chunk_rows=3)
    assert link_to_bytes(source, away, chunk_rows=3) == expected
    assert away.most == 4


def test_chunks_are_read_a_bounded_number_ahead():
    read = []

    def chunks():
        for number in range(100):
            read.append(number)
            yield PlannedChunk(number, None, [], [number], [])

    under_way = answer_chunks(chunks(), lambda number, asked: asked * 2, 3)
    for expected in range(20):
        chunk, answers = next(under_way)
        assert (chunk.number, answers) == (expected, [expected] * 2)
        assert len(read) <= expected + 6
    under_way.close()


@pytest.mark.parametrize("fail_at", [1, 4, 9])
def test_remote_failure_is_raised_and_answers_are_kept(tmp_path, fail_at):
    """A local linker resumes what remote ones left, and the other way round."""
    csv_table(tmp_path, MENTIONS)
    expected = StandInLinker()
    counts = link_to_file(tmp_path, "whole.csv", expected)
    with pytest.raises(DataError, match="this chunk can't be answered"):
        link_to_file(tmp_path, "y.csv", StandInRemoteLinkers(3, fail_at=fail_at))
    kept = len(list((tmp_path / ".y.csv.part").glob("*.gz"))) if fail_at > 1 else 0
    assert kept >= fail_at - 1
    with pytest.raises(KeyboardInterrupt):
        link_to_file(tmp_path, "y.csv", StandInLinker(1, interrupt))
    last = StandInRemoteLinkers(2)
    again = link_to_file(tmp_path, "y.csv", last)
    assert (tmp_path / "y.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert last.calls <= len(expected.calls) - kept + sum(not asked for asked in expected.calls) + 1
    assert (again.rows, again.distinct) == (counts.rows, counts.distinct)


def test_remote_linkers_get_the_languages(tmp_path):
    (tmp_path / "x.tsv").write_text("term\tof\ngift\ten\ngift\tGER\ngift\t\ngift\tEnglish\ngift\t \n")
    options = {"column": "term", "language_column": "of", "chunk_rows": 2, "identity": IDENTITY}
    results = []
    for linker in (StandInLinker(), StandInRemoteLinkers(2)):
        stream = io.BytesIO()
        link_file(linker, open_table(tmp_path / "x.tsv"), stream, OutputFormat("jsonl", 2), **options)
        results.append(stream.getvalue())
    assert results[0] == results[1]


# The folder of a run of linking that can be resumed.


def test_equal_run_resumes_and_leaves_nothing(tmp_path):
    out = tmp_path / "x.csv"
    interrupted(out, {"a": 1}, {0: [b"x", b""], 1: []})
    assert sorted(each.name for each in (tmp_path / ".x.csv.part").iterdir()) == [
        "000000.gz",
        "000001.gz",
        "lock",
        "run.json",
    ]
    with resume_folder(out, {"a": 1}) as folder:
        assert count_parts(folder) == 2
        assert read_part(folder, 0, 2) == [b"x", b""]
        assert read_part(folder, 1, 0) == []
        assert read_part(folder, 1, 1) is None  # another number of answers than are asked for
        assert read_part(folder, 2, 0) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("before", "after"), [({"a": 1}, {"a": 2}), ({"a": 1}, None), (None, {"a": 1}), (None, None)])
def test_other_run_deletes_the_parts(tmp_path, before, after):
    interrupted(tmp_path / "x.csv", before, {0: [b"x"]})
    with resume_folder(tmp_path / "x.csv", after) as folder:
        assert count_parts(folder) == 0


def test_parts_of_a_run_with_damaged_metadata_are_deleted(tmp_path):
    interrupted(tmp_path / "x.csv", {"a": "é"}, {0: [b"x"]})
    file = tmp_path / ".x.csv.part" / "run.json"
    whole = file.read_bytes()
    damage = [whole[:cut] for cut in range(len(whole))]
    damage += [whole[:i] + bytes([whole[i] ^ 1 << bit]) + whole[i + 1 :] for i in range(len(whole)) for bit in range(8)]
    for data in damage:
        interrupted(tmp_path / "x.csv", {"a": "é"}, {0: [b"x"]})
        file.write_bytes(data)
        with resume_folder(tmp_path / "x.csv", {"a": "é"}) as folder:
            assert count_parts(folder) == 0


def test_parts_are_counted_up_to_the_first_gap(tmp_path):
    interrupted(tmp_path / "x.csv", {}, {0: [], 1: [], 3: []})
    assert count_parts(tmp_path / ".x.csv.part") == 2


def test_run_that_fails_before_its_first_part_leaves_nothing(tmp_path):
    interrupted(tmp_path / "sub" / "x.csv", {}, {})
    assert list((tmp_path / "sub").iterdir()) == []


def test_incomplete_files_are_deleted(tmp_path):
    interrupted(tmp_path / "x.csv", {}, {0: [b"x"]})
    (tmp_path / ".x.csv.part" / ".output.123.new").write_bytes(b"x" * 99)
    with resume_folder(tmp_path / "x.csv", {}) as folder:
        assert sorted(each.name for each in folder.iterdir()) == ["000000.gz", "lock", "run.json"]


def test_metadata_does_not_depend_on_the_order_of_a_set(tmp_path):
    """Sets of strings have another order in another process."""
    names = [f"T{i}" for i in range(40)]
    code = (
        "import sys; from pathlib import Path; from tests.fixtures.linkers import *\n"
        f"interrupted(Path(sys.argv[1]) / 'x.csv', {{'filter': Filter(frozenset({names}), Path('a')), 'b': {{2, 1}}}}, {{0: []}})"
    )
    for seed in ("1", "2"):
        root = Path(__file__).resolve().parents[2]
        subprocess.run(
            [sys.executable, "-c", code, tmp_path],
            check=True,
            cwd=root,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
        )
    texts = {(tmp_path / ".x.csv.part" / "run.json").read_text()}
    with resume_folder(
        tmp_path / "x.csv", {"b": {1, 2}, "filter": Filter(frozenset(names[::-1]), Path("a"))}
    ) as folder:
        assert count_parts(folder) == 1
        assert texts == {(folder / "run.json").read_text()}
    with (
        pytest.raises(TypeError, match="object can't be compared from one run to the next"),
        resume_folder(tmp_path / "x.csv", {"filter": object()}),
    ):
        pass


def test_second_run_at_the_same_time_is_rejected(tmp_path):
    busy = pytest.raises(ConfigError, match=r"^another run is writing .*x\.csv; wait for it")
    with resume_folder(tmp_path / "x.csv", {}), busy, resume_folder(tmp_path / "x.csv", {}):
        pass
    with resume_folder(tmp_path / "x.csv", {}), resume_folder(tmp_path / "y.csv", {}):
        pass


def test_folder_with_other_files_is_left_unchanged(tmp_path):
    folder = tmp_path / ".x.csv.part"
    folder.mkdir()
    (folder / "mine.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"\.x\.csv\.part is needed for the progress of .*x\.csv, but has other files in it; move it away"), resume_folder(tmp_path / "x.csv", {}):  # fmt: skip
        pass
    assert [each.name for each in folder.iterdir()] == ["mine.txt"]


def test_damaged_parts_are_not_read(tmp_path):
    lines = [b'[[["C1","Fever"]],null]', b'[[],"the mention is blank"]'] * 5
    write_part(tmp_path, 7, lines)
    file = tmp_path / "000007.gz"
    whole = file.read_bytes()
    assert read_part(tmp_path, 7, 10) == lines
    for cut in range(len(whole)):
        file.write_bytes(whole[:cut])
        assert read_part(tmp_path, 7, 10) is None
    found = set()
    for at in range(len(whole)):
        for bit in range(8):
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            same = read_part(tmp_path, 7, 10)
            assert same in (None, lines)
            found.add(same is None)
    assert found == {True, False}  # a bit of the time or the system's name in gzip's header changes nothing
    assert gzip.decompress(whole)
