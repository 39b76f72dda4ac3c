"""What is reviewed: tables that are linked or not, save files of Usagi, reviews; and when a review is made again."""

import re
import signal
import urllib.error
import urllib.request

import pytest

from tests.fixtures.commands import assert_refused
from tests.fixtures.reviews import SearchLinker, mapping, new_review
from xsap.artifacts import publish
from xsap.errors import ConfigError, DataError
from xsap.exchange.mapping import MappedConcept, Signature, Status
from xsap.exchange.usagi_writer import write_usagi
from xsap.linking.results import Result
from xsap.server.review_decisions import Choice
from xsap.server.review_input import ReviewInput, open_review, review_path
from xsap.server.review_store import read_review


class Linker(SearchLinker):
    """Links tables, too."""

    def link(self, mentions, top_k=5, *, languages=None, filter=None, min_confidence=None, min_precision=None):  # noqa: A002
        if isinstance(mentions, str):
            return super().link(mentions)
        return [
            super(Linker, self).link(each) if each != "nothing" else Result(each, (), "no term") for each in mentions
        ]


def no_linker():
    raise AssertionError("nothing is to be linked")


@pytest.fixture
def terms(tmp_path):
    file = tmp_path / "terms.csv"
    file.write_text("code,term,ward\n1,Fieber,ER\n2,nothing,\n", encoding="utf-8")
    return file


def test_table_is_linked_once_and_the_review_is_opened_as_it_is_after_that(terms, tmp_path):
    source = ReviewInput(terms, code_column="code")
    store, line = open_review(source, None, "hash", Linker)
    assert store.path == tmp_path / "terms.review.sqlite"
    assert "2 rows, 2 terms" in line
    store.decide({1: 0}, Choice(Status.APPROVED), "decide", Signature("Ann", 1))
    store.close()
    store, line = open_review(source, None, "hash", no_linker)
    assert line == "2 terms, 1 to review"
    store.close()
    [first, second] = read_review(store.path)
    assert (first.status, first.targets[0].name, dict(first.columns)) == (Status.APPROVED, "Fieber 0", {"ward": "ER"})
    assert (second.candidates, second.targets) == ((), ())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["terms.csv", "terms.review.sqlite"]


@pytest.mark.parametrize("change", ["table", "index", "option"])
def test_changed_input_or_index_is_linked_anew_and_decisions_stay(terms, change):
    store, _ = open_review(ReviewInput(terms, code_column="code"), None, "hash", Linker)
    store.decide({1: 0}, Choice(Status.NO_MATCH), "decide", Signature("Ann", 1))
    store.close()
    if change == "table":
        terms.write_text("code,term,ward\n3,new,ER\n1,Fieber,ICU\n", encoding="utf-8")
    option = {"frequency_column": "ward"} if change == "option" else {}
    store, line = open_review(
        ReviewInput(terms, code_column="code", **option), None, "new" if change == "index" else "hash", Linker
    )
    assert "terms whose decisions were kept: 1" in line
    assert {each.source_name: each.status for each in read_review(store.path)}["Fieber"] is Status.NO_MATCH
    store.close()


def test_save_file_of_usagi_keeps_its_decisions(tmp_path):
    approved = mapping("a", "1", status=Status.APPROVED, frequency=1)
    approved = approved.__class__(
        "1", "a", (MappedConcept("7", "x"),), Status.APPROVED, frequency=1, decided=Signature("Ann", 5)
    )
    write_usagi([approved, mapping("b", "2", frequency=2)], tmp_path / "save.csv")
    store, line = open_review(ReviewInput(tmp_path / "save.csv"), None, "hash", no_linker)
    assert "terms with decisions in the input: 1" in line
    first, second = read_review(store.path)
    assert (first.status, first.targets[0].concept_id, first.decided.by) == (Status.APPROVED, "7", "Ann")
    assert second.status is Status.UNREVIEWED
    store.close()


def test_review_is_opened_by_its_own_name_without_options_of_tables(tmp_path):
    path = tmp_path / "x.review.sqlite"
    new_review(path).close()
    store, line = open_review(ReviewInput(path), None, "any", no_linker)
    assert line == "9 terms, 9 to review"
    store.close()
    with pytest.raises(
        ConfigError, match=r"--code-column is for tables, found the review .*x\.review\.sqlite; remove it"
    ):
        open_review(ReviewInput(path, code_column="code"), None, "any", no_linker)


def test_missing_column_is_refused_before_anything_is_linked(terms, tmp_path):
    with pytest.raises(DataError, match="expected a column 'frequency'"):
        open_review(ReviewInput(terms, frequency_column="frequency"), None, "hash", no_linker)
    assert [file.name for file in tmp_path.iterdir()] == ["terms.csv"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.csv", "a.review.sqlite"), ("a.b.csv.gz", "a.b.review.sqlite"), ("a.xlsx", "a.review.sqlite")],
)
def test_review_is_kept_beside_its_table(tmp_path, name, expected):
    assert review_path(tmp_path / name) == tmp_path / expected


# The command


@pytest.fixture
def index(tmp_path):
    """A folder that states that it is an index; no model is loaded before somebody searches."""
    with publish(tmp_path / "index", "index", {}):
        pass
    return tmp_path / "index"


def test_command_prints_an_address_that_answers_until_it_is_stopped(index, tmp_path, tmp_path_factory, template):
    new_review(tmp_path / "x.review.sqlite").close()
    words = [
        "-m",
        "xsap",
        "review",
        tmp_path / "x.review.sqlite",
        "--index",
        index,
        "--reviewer",
        "Ann",
        "--no-browser",
    ]
    stdout = tmp_path_factory.mktemp("stdout") / "stdout"
    with stdout.open("w") as stream, template.reading("stderr", words, tmp_path, stdout=stream.fileno()) as started:
        assert started.output.readline() == f"{tmp_path}/x.review.sqlite: 9 terms, 9 to review\n"
        address, _, rest = started.output.readline().partition("  ")
        assert re.fullmatch(r"http://127\.0\.0\.1:[0-9]+/\?token=[\w-]{43}", address)
        assert rest == "reviewed by Ann; Ctrl+C stops\n"
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        assert b"<title>xsap review</title>" in opener.open(address, timeout=60).read()
        home = address.partition("?")[0]
        headers = {"Origin": home[:-1], "Content-Type": "application/json"}
        body = b'{"versions": [[1, 0]], "status": "no_match"}'
        opener.open(urllib.request.Request(f"{home}api/decide", body, headers), timeout=60).read()
        with pytest.raises(urllib.error.HTTPError):
            opener.open(urllib.request.Request(f"{home}api/search", b'{"text": "x"}', headers), timeout=60)
        started.kill(signal.SIGTERM)
        assert (started.wait(), stdout.read_text()) == (0, "")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["index", "x.review.sqlite"]
    assert read_review(tmp_path / "x.review.sqlite")[0].decided.by == "Ann"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--index", "nowhere"], "nowhere: expected an index folder, found nothing there"),
        (
            ["--index", "index", "--reviewer", " "],
            "expected --reviewer to be a name of at most 100 characters, found ''",
        ),
        (["--index", "index", "--column", "x"], "expected a column 'x', found code, term, ward"),
        (["--index", "index", "--sheet", "x"], "--sheet 'x' is for workbooks"),
    ],
)
def test_command_refuses_in_one_line_before_it_listens(terms, index, monkeypatch, capsys, options, message):
    from xsap.cli import main

    monkeypatch.chdir(terms.parent)
    with pytest.raises(SystemExit) as stop:
        main(["review", "terms.csv", "--no-browser", *options])
    captured = capsys.readouterr()
    assert_refused((stop.value.code, captured.out, captured.err), message)
    assert not (terms.parent / "terms.review.sqlite").exists()


@pytest.mark.parametrize(("used", "resumes"), [({"index": "a", "reranker": ["b", 16]}, True), (None, False)])
def test_only_a_linker_that_is_identified_resumes_an_interrupted_run(terms, monkeypatch, used, resumes):
    given = []

    class Known(Linker):
        identity = used

    def interrupted(*_, identity, **__):
        given.append(identity)
        raise KeyboardInterrupt

    monkeypatch.setattr("xsap.server.review_input.link_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_review(ReviewInput(terms, rerank="http://localhost:1/rerank"), None, "hash", Known)
    [identity] = given
    assert identity == ({**identity, "linker": used} if resumes else None)
