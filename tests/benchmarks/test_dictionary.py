"""Dictionaries: what their rows stand for, what their hash says, and the published one, fetched whole or not at all."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.accuracy import dictionary as module
from benchmarks.accuracy.dictionary import (
    PUBLISHED,
    XLBEL_BLOB,
    XLBEL_FILE,
    SearchSpace,
    blob_id,
    fetch_xlbel,
    of_file,
    of_terminology,
    open_search_space,
)
from xsap.errors import ArtifactError, DataError
from xsap.evaluation.protocols import Dictionary
from xsap.terms.terminology import NAMES_SCHEMA, Terminology

NAMES = [
    ("C2", "en", "Rash"),
    ("C1", "en", "fever"),
    ("C1", "de", "Fieber"),
    ("C1", "en", "High fever"),
    ("C3", "de", "Husten"),
]
FRAGMENT = "D1||fever\nD2|D3||Cold\nD1||Pyrexia\nD4+D2||both\nD1||fever\n"


@pytest.fixture(scope="module")
def terminology(tmp_path_factory):
    """Saved, and opened again."""
    rows = [
        {"concept_id": c, "language": code, "name": name, "kind": "synonym", "source": "X"} for c, code, name in NAMES
    ]
    concepts = pa.table({"concept_id": ["C1", "C2"], "semantic_types": [["T184", "T033"], ["T047"]]})
    place = tmp_path_factory.mktemp("dictionary") / "invented"
    Terminology.build(pa.Table.from_pylist(rows, NAMES_SCHEMA), concepts)[0].save(place)
    return place


def test_the_names_of_a_terminology_in_its_order(terminology):
    space = of_terminology(Terminology.load(terminology), "invented")
    assert space.rows == (["C1", "C1", "C2"], ["High fever", "fever", "Rash"])
    assert space.concepts == ["C1", "C2"]
    assert space.concept_ids.to_pylist() == [["C1"], ["C1"], ["C2"]]
    assert space.preferred == {"C1": "High fever", "C2": "Rash"}
    assert space.types == {"C1": ["T033", "T184"], "C2": ["T047"]}
    assert space.terminology == Terminology.load(terminology).content_hash
    metadata = space.metadata()
    assert {key: metadata[key] for key in ("source", "rows", "concepts", "languages")} == {
        "source": "invented",
        "rows": 3,
        "concepts": 2,
        "languages": "en",
    }


def test_languages_are_chosen(terminology):
    opened = Terminology.load(terminology)
    assert of_terminology(opened, "x", ("de",)).rows.names == ["Fieber", "Husten"]
    every = of_terminology(opened, "x", None)
    assert len(every.rows.names) == 5
    assert every.metadata()["languages"] == "all"
    assert of_terminology(opened, "x", ("de", "en")).metadata()["languages"] == "de,en"
    with pytest.raises(DataError, match="^mine: expected names in ja, found none to link into$"):
        of_terminology(opened, "mine", ("ja",))


def test_a_row_may_stand_for_several_concepts(tmp_path):
    (tmp_path / "mine.txt").write_text(FRAGMENT)
    space = of_file(tmp_path / "mine.txt")
    assert space.rows == (["D1", "D2|D3", "D1", "D4+D2", "D1"], ["fever", "Cold", "Pyrexia", "both", "fever"])
    assert space.concept_ids.to_pylist() == [["D1"], ["D2", "D3"], ["D1"], ["D2", "D4"], ["D1"]]
    assert space.concepts == ["D1", "D2", "D3", "D4"]
    assert space.preferred == {"D1": "fever", "D2": "Cold", "D3": "Cold", "D4": "both"}  # by its first name
    assert space.types == {}
    assert space.metadata() == {
        "source": "mine.txt",
        "rows": 5,
        "concepts": 4,
        "sha256": hashlib.sha256(FRAGMENT.encode()).hexdigest(),
    }
    assert of_file(tmp_path / "mine.txt", "by another name").metadata()["source"] == "by another name"


@given(
    st.lists(
        st.tuples(st.sampled_from(["D1", "D2|D3"]), st.sampled_from(["a", "A", "ñ", "b||c", "\ud800"])),
        min_size=1,
        max_size=6,
    )
)
def test_the_hash_is_of_all_rows_in_their_order(rows):
    def of(pairs):
        return SearchSpace(Dictionary([i for i, _ in pairs], [n for _, n in pairs]), "x", {}, {}).content_hash

    assert (
        of(rows) == hashlib.sha256("".join(f"{i}||{n}\n" for i, n in rows).encode("utf-8", "surrogatepass")).hexdigest()
    )
    assert (of(rows) == of(rows[::-1])) == (rows == rows[::-1])
    assert of(rows) != of([*rows, rows[0]])


def test_opened_by_what_is_there(tmp_path, terminology):
    (tmp_path / "mine.txt").write_text(FRAGMENT)
    (tmp_path / "empty").mkdir()
    assert open_search_space(str(tmp_path / "mine.txt"), tmp_path).source == "mine.txt"
    opened = open_search_space(str(terminology), tmp_path, ("de",))
    assert (opened.source, opened.languages, opened.rows.names) == ("invented", ("de",), ["Fieber", "Husten"])
    assert open_search_space(str(terminology), tmp_path).languages == ("en",)
    for given_, kind, message in [
        ("nothing.txt", DataError, "expected a file, found nothing there"),
        ("empty", ArtifactError, "expected a terminology folder made by xsap"),
        (XLBEL_FILE, DataError, "expected a file, found nothing there. Is the path right?"),
    ]:
        with pytest.raises(kind, match=message):
            open_search_space(str(tmp_path / given_), tmp_path)
    (tmp_path / "bad.txt").write_text("D1||a\nD2\n")
    with pytest.raises(DataError, match="bad.txt:2: expected id"):
        open_search_space(str(tmp_path / "bad.txt"), tmp_path)


def test_a_file_of_the_published_name_must_be_the_published_one(tmp_path, monkeypatch):
    file = tmp_path / XLBEL_FILE
    file.write_text(FRAGMENT)
    with pytest.raises(
        DataError, match=f"expected git blob {XLBEL_BLOB}, found [0-9a-f]{{40}}; it is damaged, or another file"
    ):
        open_search_space(str(file), tmp_path)
    assert file.is_file()  # the user's own is never removed
    monkeypatch.setattr(module, "XLBEL_BLOB", blob_id(file))
    assert len(open_search_space(str(file), tmp_path).rows.names) == 5


# The published dictionary


@pytest.mark.parametrize(
    ("content", "blob"),
    [
        (b"", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"),
        (
            b"what is up, doc?",
            "bd9dbf5aae1a3862dd1526723246b20206e5fc37",
        ),  # git-scm.com/book/en/v2/Git-Internals-Git-Objects
        (b"test content\n", "d670460b4b4aece5915caf5c68d12f560a9fe3e4"),  # likewise
        (b"ab\r\n" * 700_000, None),  # in several pieces
    ],
)
def test_the_blob_id_is_git_s(tmp_path, content_hash, blob):
    (tmp_path / "file").write_bytes(content_hash)
    assert blob_id(tmp_path / "file") == (
        blob or hashlib.sha1(b"blob %d\0" % len(content_hash) + content_hash).hexdigest()
    )


def test_fetched_once(tmp_path):
    source, cache = tmp_path / "source.txt", tmp_path / "cache"
    source.write_text(FRAGMENT)
    blob = blob_id(source)
    place = fetch_xlbel(cache, source.as_uri(), blob)
    assert (place, place.read_text()) == (cache / XLBEL_FILE, FRAGMENT)
    source.unlink()
    assert fetch_xlbel(cache, source.as_uri(), blob) == place
    assert [file.name for file in cache.iterdir()] == [XLBEL_FILE]


def test_a_damaged_one_is_not_kept(tmp_path):
    source, cache = tmp_path / "source.txt", tmp_path / "cache"
    source.write_text(FRAGMENT)
    with pytest.raises(
        DataError, match=f"expected git blob {XLBEL_BLOB}, found {blob_id(source)}; it is damaged.*Fetch it again$"
    ):
        fetch_xlbel(cache, source.as_uri())
    assert list(cache.iterdir()) == []
    blob = blob_id(source)
    place = fetch_xlbel(cache, source.as_uri(), blob)
    place.write_text(FRAGMENT[:-3])  # damaged since
    with pytest.raises(DataError, match="it is damaged"):
        fetch_xlbel(cache, source.as_uri(), blob)
    assert fetch_xlbel(cache, source.as_uri(), blob).read_text() == FRAGMENT


def test_where_nothing_can_be_fetched_the_line_says_what_to_do(tmp_path):
    with pytest.raises(DataError) as error:
        fetch_xlbel(tmp_path / "cache", (tmp_path / "absent").as_uri())
    assert str(error.value).startswith(f"{(tmp_path / 'absent').as_uri()}: could not be fetched (")
    assert str(error.value).endswith(f"Where there is no network, give the file's path: --dictionary {XLBEL_FILE}")
    assert list((tmp_path / "cache").glob("*")) == []


class _Answers(BaseHTTPRequestHandler):
    """A server that answers by the path asked for: well, not at all, too little, or no HTTP."""

    accepted: list

    def do_GET(self):
        self.accepted.append(self.headers["Accept"])
        if self.path == "/garbage":
            self.wfile.write(b"no line of HTTP\r\n\r\n")
        elif self.path == "/gone":
            self.send_error(404)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(FRAGMENT) + (9 if self.path == "/cut" else 0)))
            self.end_headers()
            self.wfile.write(FRAGMENT.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def address(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(_Answers, "accepted", [], raising=False)
    server = HTTPServer(("127.0.0.1", 0), _Answers)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_over_http_it_asks_for_the_bytes_and_every_failure_is_one_line(tmp_path, address):
    blob = hashlib.sha1(b"blob %d\0" % len(FRAGMENT) + FRAGMENT.encode()).hexdigest()
    for path, message in [
        ("/gone", r"could not be fetched \(Not Found\)"),
        ("/garbage", r"could not be fetched \(no line of HTTP"),
    ]:
        with pytest.raises(DataError, match=message):
            fetch_xlbel(tmp_path / "cache", address + path, blob)
        assert list((tmp_path / "cache").glob("*")) == []
    with pytest.raises(DataError, match=r"could not be fetched|it is damaged"):  # the first since Python 3.12
        fetch_xlbel(tmp_path / "cache", f"{address}/cut", "0" * 40)
    assert list((tmp_path / "cache").glob("*")) == []
    assert fetch_xlbel(tmp_path / "cache", f"{address}/whole", blob).read_text() == FRAGMENT
    assert set(_Answers.accepted) == {"application/vnd.github.raw"}  # without it GitHub answers in JSON


def test_published_means_the_one_in_the_cache(tmp_path, monkeypatch):
    (tmp_path / "fetched").write_text(FRAGMENT)
    asked = []
    monkeypatch.setattr(module, "fetch_xlbel", lambda cache: asked.append(cache) or tmp_path / "fetched")
    space = open_search_space(PUBLISHED, tmp_path / "cache")
    assert (space.source, asked) == (f"XL-BEL's {XLBEL_FILE}", [tmp_path / "cache"])
    assert len(space.rows.names) == 5
