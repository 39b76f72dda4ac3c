"""Dictionaries: rows, hashes, the published one downloaded whole or not at all; and mentions restricted to a terminology."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.accuracy.dictionary import (
    NO_GOLD,
    NOT_IN_TERMINOLOGY,
    XLBEL,
    XLBEL_BLOB,
    XLBEL_FILE,
    SearchSpace,
    blob_id,
    count,
    fetch_xlbel,
    open_search_space,
    restrict,
)
from xsap.errors import ArtifactError, DataError
from xsap.evaluation.protocols import ReferenceDictionary
from xsap.files import RowCounts
from xsap.terms.mentions import build_mentions, read_mentions
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
    folder = tmp_path_factory.mktemp("dictionary") / "synthetic"
    Terminology.build(pa.Table.from_pylist(rows, NAMES_SCHEMA), concepts)[0].save(folder)
    return folder


def test_space_from_terminology_has_its_names_in_order(terminology):
    space = SearchSpace.from_terminology(Terminology.load(terminology), "synthetic")
    assert space.rows == (["C1", "C1", "C2"], ["High fever", "fever", "Rash"])
    assert space.concepts == ["C1", "C2"]
    assert space.concept_ids.to_pylist() == [["C1"], ["C1"], ["C2"]]
    assert space.preferred == {"C1": "High fever", "C2": "Rash"}
    assert space.types == {"C1": ["T033", "T184"], "C2": ["T047"]}
    assert space.terminology_hash == Terminology.load(terminology).content_hash
    metadata = space.metadata()
    assert {key: metadata[key] for key in ("source", "rows", "concepts", "languages")} == {
        "source": "synthetic",
        "rows": 3,
        "concepts": 2,
        "languages": "en",
    }


def test_languages_select_names(terminology):
    opened = Terminology.load(terminology)
    assert SearchSpace.from_terminology(opened, "x", ("de",)).rows.names == ["Fieber", "Husten"]
    every = SearchSpace.from_terminology(opened, "x", None)
    assert len(every.rows.names) == 5
    assert every.metadata()["languages"] == "all"
    assert SearchSpace.from_terminology(opened, "x", ("de", "en")).metadata()["languages"] == "de,en"
    with pytest.raises(DataError, match="^mine: expected names in ja, found none to link into$"):
        SearchSpace.from_terminology(opened, "mine", ("ja",))


def test_row_may_have_several_concepts(tmp_path):
    (tmp_path / "mine.txt").write_text(FRAGMENT)
    space = SearchSpace.from_file(tmp_path / "mine.txt")
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
    assert SearchSpace.from_file(tmp_path / "mine.txt", "by another name").metadata()["source"] == "by another name"


@given(
    st.lists(
        st.tuples(st.sampled_from(["D1", "D2|D3"]), st.sampled_from(["a", "A", "ñ", "b||c", "\ud800"])),
        min_size=1,
        max_size=6,
    )
)
def test_content_hash_covers_all_rows_in_order(rows):
    def of(pairs):
        return SearchSpace(ReferenceDictionary([i for i, _ in pairs], [n for _, n in pairs]), "x", {}, {}).content_hash

    assert (
        of(rows) == hashlib.sha256("".join(f"{i}||{n}\n" for i, n in rows).encode("utf-8", "surrogatepass")).hexdigest()
    )
    assert (of(rows) == of(rows[::-1])) == (rows == rows[::-1])
    assert of(rows) != of([*rows, rows[0]])


def test_open_search_space_by_kind_of_path(tmp_path, terminology):
    (tmp_path / "mine.txt").write_text(FRAGMENT)
    (tmp_path / "empty").mkdir()
    assert open_search_space(str(tmp_path / "mine.txt"), tmp_path).source == "mine.txt"
    opened = open_search_space(str(terminology), tmp_path, ("de",))
    assert (opened.source, opened.languages, opened.rows.names) == ("synthetic", ("de",), ["Fieber", "Husten"])
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


def test_file_named_like_the_published_one_must_be_it(tmp_path):
    file = tmp_path / XLBEL_FILE
    file.write_text(FRAGMENT)
    with pytest.raises(
        DataError, match=f"expected git blob {XLBEL_BLOB}, found [0-9a-f]{{40}}; it is damaged, or another file"
    ):
        open_search_space(str(file), tmp_path)
    assert file.is_file()  # the user's own is never removed
    assert len(open_search_space(str(file), tmp_path, blob=blob_id(file)).rows.names) == 5


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
def test_blob_id_matches_git(tmp_path, content, blob):
    (tmp_path / "file").write_bytes(content)
    assert blob_id(tmp_path / "file") == (blob or hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest())


def test_fetch_downloads_once(tmp_path):
    source, cache = tmp_path / "source.txt", tmp_path / "cache"
    source.write_text(FRAGMENT)
    blob = blob_id(source)
    file = fetch_xlbel(cache, source.as_uri(), blob)
    assert (file, file.read_text()) == (cache / XLBEL_FILE, FRAGMENT)
    source.unlink()
    assert fetch_xlbel(cache, source.as_uri(), blob) == file
    assert [file.name for file in cache.iterdir()] == [XLBEL_FILE]


def test_damaged_download_is_not_kept(tmp_path):
    source, cache = tmp_path / "source.txt", tmp_path / "cache"
    source.write_text(FRAGMENT)
    with pytest.raises(
        DataError, match=f"expected git blob {XLBEL_BLOB}, found {blob_id(source)}; it is damaged.*Download it again$"
    ):
        fetch_xlbel(cache, source.as_uri())
    assert list(cache.iterdir()) == []
    blob = blob_id(source)
    file = fetch_xlbel(cache, source.as_uri(), blob)
    file.write_text(FRAGMENT[:-3])  # damaged since
    with pytest.raises(DataError, match="it is damaged"):
        fetch_xlbel(cache, source.as_uri(), blob)
    assert fetch_xlbel(cache, source.as_uri(), blob).read_text() == FRAGMENT


def test_failed_download_error_says_what_to_do(tmp_path):
    with pytest.raises(DataError) as error:
        fetch_xlbel(tmp_path / "cache", (tmp_path / "absent").as_uri())
    assert str(error.value).startswith(f"{(tmp_path / 'absent').as_uri()}: could not be fetched (")
    assert str(error.value).endswith(f"Without network access, give the file's path: --dictionary {XLBEL_FILE}")
    assert list((tmp_path / "cache").glob("*")) == []


class _Answers(BaseHTTPRequestHandler):
    """A server that answers by path: well, not at all, too little, or no HTTP."""

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


def test_fetch_over_http_reports_every_failure_in_one_line(tmp_path, address):
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


def test_xlbel_opens_the_downloaded_dictionary(tmp_path):
    (tmp_path / "fetched").write_text(FRAGMENT)
    caches = []
    space = open_search_space(
        XLBEL, tmp_path / "cache", fetch=lambda cache: caches.append(cache) or tmp_path / "fetched"
    )
    assert (space.source, caches) == (f"XL-BEL's {XLBEL_FILE}", [tmp_path / "cache"])
    assert len(space.rows.names) == 5


# Mentions restricted to a terminology

REFERENCES = {"HP:1": ["UMLS:C0000001", "MeSH:C0000009"], "HP:2": ["UMLS:C0000001", "UMLS:C0000002"], "C0000003": []}


def _referencing_terminology():
    rows = [{"concept_id": c, "language": "en", "name": c, "kind": "preferred", "source": "X"} for c in REFERENCES]
    concepts = pa.table({"concept_id": list(REFERENCES), "cross_references": list(REFERENCES.values())})
    return Terminology.build(pa.Table.from_pylist(rows, NAMES_SCHEMA), concepts)[0]


def _mentions():
    gold = [["C0000001"], ["C0000009"], ["C0000003", "C0000002"], ["C0000004", "C0000002"], [], ["HP:1"]]
    return build_mentions(list("abcdef"), ["de", "de", "de", "es", "es", "zh"], gold, start=[1, 2, 3, 4, 5, 6])


def test_restrict_maps_gold_to_all_referencing_concepts():
    table, accounts = restrict(_mentions(), _referencing_terminology())
    assert dict(zip(table["mention"].to_pylist(), table["concept_ids"].to_pylist(), strict=True)) == {
        "a": ["HP:1", "HP:2"],
        "c": ["C0000003", "HP:2"],
        "d": ["HP:2"],
        "f": ["HP:1"],
    }
    assert table["start"].to_pylist() == [1, 3, 4, 6]
    assert accounts == {
        "de": RowCounts(3, 2, {NOT_IN_TERMINOLOGY: 1}),
        "es": RowCounts(2, 1, {NO_GOLD: 1}),
        "zh": RowCounts(1, 1, {}),
    }
    assert count(table) == {"de": RowCounts(2, 2, {}), "es": RowCounts(1, 1, {}), "zh": RowCounts(1, 1, {})}


def test_restrict_by_other_vocabulary():
    table, _ = restrict(_mentions(), _referencing_terminology(), vocabulary="MeSH")
    assert dict(zip(table["mention"].to_pylist(), table["concept_ids"].to_pylist(), strict=True))["b"] == ["HP:1"]


def test_restrict_without_any_match_is_an_error():
    with pytest.raises(DataError, match="none of 1 mentions has its gold concept.*UMLS"):
        restrict(build_mentions(["a"], ["de"], [["C9"]]), _referencing_terminology())


def test_mentions_command_writes_mentions_and_row_counts(tmp_path, run_here):
    _referencing_terminology().save(tmp_path / "hp")
    file = tmp_path / "de_1k_test_query.txt"
    file.write_text("C0000001||eins\nC0000004||vier\n")
    done = run_here(
        "-m", "benchmarks", "mentions", "xlbel", file, "--out", tmp_path / "m.tsv", "--terminology", tmp_path / "hp"
    )
    assert (done.returncode, done.stderr) == (0, "")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()[2:]]
    assert cells[0] == ["language", "rows in", "kept", f"dropped: {NOT_IN_TERMINOLOGY}"]
    assert cells[2:] == [["de German", "2", "1", "1"], ["all", "2", "1", "1"]]
    assert read_mentions(tmp_path / "m.tsv").to_pylist()[0]["concept_ids"] == ["HP:1", "HP:2"]
    file.write_text("C0000001|eins\n")
    done = run_here("-m", "benchmarks", "mentions", "xlbel", file, "--out", tmp_path / "other.tsv")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert done.stderr.startswith(f"error: {file}:1: expected an XL-BEL line")
    assert not (tmp_path / "other.tsv").exists()
