"""Documents in, annotated documents out: every format read back by another reader, resume, given spans, and what is refused."""

import csv
import html
import io
import json
import re
from pathlib import Path

import pytest

from tests.fixtures.commands import assert_refused
from tests.fixtures.notes import LANGUAGES, generated_note, note_linker
from xsap.cli import main
from xsap.errors import ConfigError, DataError
from xsap.terms.bigbio import read_bigbio
from xsap.terms.brat import parse_brat
from xsap.text_in.documents import document_of, open_documents
from xsap.text_in.formats import to_brat
from xsap.text_in.given_spans import GivenSpans
from xsap.text_in.text_file import TextFormat, annotate_file

HOSTILE = 'fever & <img src=x onerror=alert(1)> "quoted" =1+1 chronic\r\nkidney disease 👩🏽‍⚕️ fever'
IDENTITY = {"index": "abc"}


@pytest.fixture(scope="module")
def linker():
    return note_linker()


class CountingLinker:
    """A linker that counts the texts that it is asked for, and fails at one call.

    Args:
        linker: What annotates.
        fail_at: The call that is interrupted.
    """

    def __init__(self, linker, fail_at=None):
        self.linker, self.fail_at, self.calls, self.texts = linker, fail_at, 0, 0

    def annotate(self, texts, top_k=1, **options):
        self.calls += 1
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        self.texts += len(texts)
        return self.linker.annotate(texts, top_k, **options)


def write_jsonl(path, notes):
    path.write_text("".join(json.dumps(note) + "\n" for note in notes), encoding="utf-8")
    return path


def generated_notes(path, count=40):
    notes = [generated_note(seed) for seed in range(count)]
    return write_jsonl(
        path, [{"id": f"n/{i}", "text": text, "lang": LANGUAGES[script]} for i, (script, text, _) in enumerate(notes)]
    ), notes


def annotate(linker, documents, out, form=None, **options):
    return annotate_file(linker, documents, out, TextFormat.for_file(out, form), identity=IDENTITY, **options)


def test_offsets_are_exact_in_every_format_of_documents(linker, tmp_path):
    source, notes = generated_notes(tmp_path / "notes.jsonl")
    documents = open_documents(source, language_column="lang")
    outs = {
        "jsonl": tmp_path / "a.jsonl",
        "bigbio": tmp_path / "b.jsonl",
        "pubannotation": tmp_path / "p.jsonl",
        "brat": tmp_path / "brat",
    }
    for form, out in outs.items():
        counts = annotate(linker, documents, out, form)
        assert (counts.documents, counts.spans.rows.kept) == (40, sum(len(places) for _, _, places in notes))
    records, bigbio, pub = (
        [json.loads(line) for line in outs[form].read_bytes().splitlines()]
        for form in ("jsonl", "bigbio", "pubannotation")
    )
    for i, (_, text, places) in enumerate(notes):
        assert records[i]["text"] == bigbio[i]["passages"][0]["text"][0] == pub[i]["text"] == text
        assert [(span["start"], span["end"]) for span in records[i]["spans"]] == places
        assert [span["text"] for span in records[i]["spans"]] == [text[start:end] for start, end in places]
        assert [tuple(entity["offsets"][0]) for entity in bigbio[i]["entities"]] == places
        assert [(each["span"]["begin"], each["span"]["end"]) for each in pub[i]["denotations"]] == places
        assert (outs["brat"] / f"n_{i}.txt").read_bytes().decode() == text
        annotations = parse_brat((outs["brat"] / f"n_{i}.ann").read_text(encoding="utf-8"), "x.ann")
        assert [(each.spans[0][0], each.spans[-1][1]) for each in annotations] == places
        for each in annotations:
            assert each.mention == " ".join(" ".join(text[start:end] for start, end in each.spans).split())


def ids_in(value):
    """All values of the key `id`, at any depth."""
    if isinstance(value, dict):
        return [*([value["id"]] if "id" in value else []), *(each for own in value.values() for each in ids_in(own))]
    return [each for own in value for each in ids_in(own)] if isinstance(value, list) else []


def test_ids_of_bigbio_are_unique_in_the_file_whatever_ids_documents_have(linker, tmp_path):
    names = ["a", "a_1", "a", "a_text", "1", "1_1", "2"]
    source = write_jsonl(tmp_path / "n.jsonl", [{"id": name, "text": "fever, fever"} for name in names])
    counts = annotate(linker, open_documents(source), tmp_path / "b.jsonl", "bigbio", documents_per_chunk=2)
    records = [json.loads(line) for line in (tmp_path / "b.jsonl").read_bytes().splitlines()]
    assert [record["document_id"] for record in records] == names
    ids = ids_in(records)
    assert len(ids) == len(set(ids)) == 4 * len(names)
    assert counts.remarks[-1] == "documents with the id of an earlier one: 1"


def test_bigbio_is_what_its_reader_reads(linker, tmp_path):
    documents = open_documents(
        write_jsonl(tmp_path / "n.jsonl", [{"text": "He had fever and chronic  kidney disease"}])
    )
    annotate(linker, documents, tmp_path / "b.jsonl", "bigbio")
    table = read_bigbio(tmp_path / "b.jsonl", db_name="TEST", language="en").to_pylist()
    assert [(row["mention"], row["concept_ids"]) for row in table] == [
        ("fever", ["C000"]),
        ("chronic  kidney disease", ["C001"]),
    ]
    assert [row["context"][row["start"] : row["end"]] for row in table] == ["fever", "chronic kidney disease"]


def test_brat_has_references_and_cuts_spans_at_line_ends(linker, tmp_path):
    counts = annotate(linker, document_of(HOSTILE), tmp_path / "out", "brat")
    assert counts.summary() == "1 documents, 1 with spans; 3 spans, 3 linked, 0 unlinked"
    assert (tmp_path / "out" / "stdin.txt").read_bytes().decode() == HOSTILE
    lines = (tmp_path / "out" / "stdin.ann").read_text(encoding="utf-8").splitlines()
    start = HOSTILE.index("chronic")
    assert lines[:4] == [
        "T1\tConcept 0 5\tfever",
        "N1\tReference T1 TEST:C000\tfever",
        f"T2\tConcept {start} {start + 7};{start + 9} {start + 23}\tchronic kidney disease",
        "N2\tReference T2 TEST:C001\tchronic kidney disease",
    ]
    assert "Concept" in (tmp_path / "out" / "annotation.conf").read_text(encoding="utf-8")


def brat_reads(text, ann):
    """The lines of an `.ann` file as brat's server takes them: (type, quoted text) and (resource, entry); ValueError for one that it refuses."""
    spans, references = [], []
    for line in ann.splitlines():
        name, _, rest = line.partition("\t")
        data, _, tail = rest.partition("\t")
        if name.startswith("T"):
            kind, _, offsets = data.partition(" ")
            pieces = [text[int(start) : int(end)] for start, end in (each.split() for each in offsets.split(";"))]
            if " ".join(pieces) != tail or not tail.strip():
                raise ValueError(line)
            spans.append((kind, tail))
        else:
            match = re.fullmatch(r"(\S+) (\S+) (\S+?):(\S+)", data)
            if match is None:
                raise ValueError(line)
            references.append((match[3], match[4]))
    return spans, references


@pytest.mark.parametrize(
    ("concept_id", "vocabulary", "reference"),
    [
        ("HP:0001945", "HP", ("HP", "0001945")),
        ("my fever 1", "My own list", ("My_own_list", "my_fever_1")),
        ("http://purl.org/HP_1", None, ("xsap", "http://purl.org/HP_1")),
        ("a:b:c d", None, ("a", "b:c_d")),
    ],
)
def test_brat_takes_every_line_whatever_ids_and_texts_there_are(concept_id, vocabulary, reference):
    from xsap.linking.results import Candidate, Result
    from xsap.tabular.answers import Answer
    from xsap.text_in.documents import TextDocument
    from xsap.text_in.formats import SpanAnswer, brat_text

    text = "a\tfe\ud800ver\r\n\u2028in \x85 it"
    candidate = Candidate(concept_id, "a\nname\u2028", "fever", 1.0, vocabulary=vocabulary)
    answer = Answer.from_result(Result("fever", (candidate,)))
    document = TextDocument("x", text)
    spans = [SpanAnswer(0, 8, answer), SpanAnswer(2, len(text), answer), SpanAnswer(11, len(text), answer)]
    written = to_brat(document, spans)
    assert len(brat_text(document)) == len(text)
    assert brat_reads(brat_text(document), written) == (
        [("Concept", "a\tfe?ver"), ("Concept", "fe?ver in   it"), ("Concept", "in   it")],
        [reference] * 3,
    )


def test_brat_has_a_file_for_every_document_whatever_its_id(linker, tmp_path):
    names = ["熱" * 150, "熱" * 149, "a/b", "a_b", "a_b", "a_b_2", "..", "", "x" * 300, "note.txt"]
    source = write_jsonl(tmp_path / "n.jsonl", [{"id": name, "text": f"fever {i}"} for i, name in enumerate(names)])
    annotate(linker, open_documents(source), tmp_path / "out", "brat", documents_per_chunk=3)
    texts = sorted(each.read_text(encoding="utf-8") for each in (tmp_path / "out").glob("*.txt"))
    assert texts == sorted(f"fever {i}" for i in range(len(names)))
    assert len(list((tmp_path / "out").glob("*.ann"))) == len(names)


def test_html_marks_the_spans_and_escapes_everything(linker, tmp_path):
    annotate(linker, document_of(HOSTILE, where='<b>"'), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_bytes().decode()
    [marked] = re.findall(r'<p class=marked dir="auto">(.*?)</p>', page, flags=re.DOTALL)
    assert html.unescape(re.sub(r"</?mark[^>]*>", "", marked)) == HOSTILE
    assert [html.unescape(each) for each in re.findall(r"<mark[^>]*>(.*?)</mark>", marked, flags=re.DOTALL)] == [
        "fever",
        "chronic\r\nkidney disease",
        "fever",
    ]
    assert "<img" not in page
    assert "<b>" not in page
    assert '<mark title="C000 fever">' in marked


def test_table_has_a_row_for_each_span(linker, tmp_path):
    source = write_jsonl(
        tmp_path / "n.jsonl", [{"id": "a", "text": HOSTILE}, {"id": "b", "text": ""}, {"id": "c", "text": "\nfever"}]
    )
    annotate(linker, open_documents(source), tmp_path / "out.csv")
    at = [0, HOSTILE.index("chronic"), HOSTILE.rindex("fever"), 1]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_bytes().decode(), newline="")))
    assert [(row["document_id"], row["start"], row["end"], row["concept_id"]) for row in rows] == [
        ("a", "0", "5", "C000"), ("a", f"{at[1]}", f"{at[1] + 23}", "C001"), ("a", f"{at[2]}", f"{len(HOSTILE)}", "C000"), ("c", "1", "6", "C000"),
    ]  # fmt: skip
    assert rows[1]["mention"] == "chronic\r\nkidney disease"
    annotate(linker, open_documents(source), tmp_path / "out.xlsx")
    annotate(linker, open_documents(source), tmp_path / "out.parquet")
    from xsap.tabular.readers import open_table

    for name in ("out.xlsx", "out.parquet"):
        table = next(open_table(tmp_path / name).chunks(99))
        assert table.column("concept_id").to_pylist() == ["C000", "C001", "C000", "C000"]
        assert table.column("start").to_pylist() == at


def test_folder_of_files_keeps_every_character(linker, tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "a.txt").write_bytes(b"\xef\xbb\xbffever\r\n\r\nfever")
    (tmp_path / "in" / "sub" / "b.txt").write_bytes("Épilepsie ".encode())
    documents = open_documents(tmp_path / "in", language="fr")
    assert [list(chunk) for chunk in documents.chunks(1)] == [
        [("a", "fever\r\n\r\nfever", "fr")],
        [("sub/b", "Épilepsie ", "fr")],
    ]
    annotate(linker, documents, tmp_path / "out", "brat")
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == [
        "a.ann",
        "a.txt",
        "annotation.conf",
        "sub_b.ann",
        "sub_b.txt",
    ]


def test_interrupted_run_is_resumed_to_the_same_bytes(linker, tmp_path):
    source, _ = generated_notes(tmp_path / "notes.jsonl", 30)
    documents = open_documents(source, language_column="lang")
    annotate(linker, documents, tmp_path / "whole.jsonl", documents_per_chunk=4)
    with pytest.raises(KeyboardInterrupt):
        annotate(CountingLinker(linker, fail_at=4), documents, tmp_path / "out.jsonl", documents_per_chunk=4)
    assert not (tmp_path / "out.jsonl").exists()
    again = CountingLinker(linker)
    counts = annotate(again, documents, tmp_path / "out.jsonl", documents_per_chunk=4)
    assert (again.texts, counts.resumed) == (18, 12)
    assert "12 documents resumed from an interrupted run" in counts.summary()
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["notes.jsonl", "out.jsonl", "whole.jsonl"]


def test_run_with_other_options_does_not_use_what_another_left(linker, tmp_path):
    source, _ = generated_notes(tmp_path / "notes.jsonl", 8)
    documents = open_documents(source)
    with pytest.raises(KeyboardInterrupt):
        annotate(CountingLinker(linker, fail_at=2), documents, tmp_path / "out", "brat", documents_per_chunk=4)
    again = CountingLinker(linker)
    annotate_file(
        again,
        documents,
        tmp_path / "out",
        TextFormat.for_file(None, "jsonl"),
        identity={"index": "other"},
        documents_per_chunk=4,
    )
    assert again.texts == 8


def test_given_spans_are_linked_and_those_that_do_not_fit_are_counted(linker, tmp_path):
    source = write_jsonl(tmp_path / "n.jsonl", [{"id": "a", "text": "no fever today"}, {"id": "b", "text": "well"}])
    rows = [
        "document_id,start,end,mention",
        "a,3,8,fever",
        "a,3,8,fever",
        "a,0,2,xx",
        "a,3,99,",
        "a,2,3,",
        "b,0,4,well",
        "c,0,1,",
    ]
    (tmp_path / "spans.csv").write_text("\n".join(rows), encoding="utf-8")
    stream = io.BytesIO()
    given = GivenSpans(tmp_path / "spans.csv")
    counts = annotate_file(
        linker,
        open_documents(source),
        stream,
        TextFormat("jsonl", TextFormat.for_file(None, "jsonl").output),
        given=given,
    )
    records = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [[(span["start"], span["end"], span["text"]) for span in record["spans"]] for record in records] == [
        [(3, 8, "fever")],
        [(0, 4, "well")],
    ]
    assert records[0]["spans"][0]["candidates"][0]["concept_id"] == "C000"
    assert counts.remarks[-4:] == [
        "spans whose text is not the mention given: 1",
        "spans outside their document: 1",
        "spans of white space only: 1",
        "spans of documents that are not in the input: 1",
    ]


def test_annotate_takes_texts_and_spans_of_a_user(linker):
    [one] = linker.annotate(["a fever"])
    assert one == linker.annotate(["a fever", None])[0]
    with pytest.raises(ConfigError, match="annotate takes a list of texts"):
        linker.annotate("a fever")
    assert one.to_dict()["spans"][0]["candidates"][0]["concept_id"] == "C000"
    assert [
        span.result.mention for span in linker.annotate(["a fever"], spans=[[(2, 7), (0, 1), (2, 7)]])[0].spans
    ] == [
        "a",
        "fever",
    ]
    for spans in ([(0, 9)], [(3, 3)], [(-1, 2)]):
        with pytest.raises(DataError, match="expected spans inside a text of 7 characters"):
            linker.annotate(["a fever"], spans=[spans])
    with pytest.raises(ConfigError, match="a text must be a string"):
        linker.annotate([5])
    with pytest.raises(ConfigError, match="expected a list of spans for each text, found 0 for 1"):
        linker.annotate(["x"], spans=[])


def test_a_filter_finds_only_what_it_keeps(linker):
    text = "fever лихорадка"
    assert [span.result.mention for span in linker.annotate([text], filter={"languages": "ru"})[0].spans] == [
        "лихорадка"
    ]


class ContextLinker:
    """A linker that keeps the contexts that it is given."""

    uses_context = True

    def link(self, mentions, top_k, *, languages, context):
        from xsap.linking.results import Result

        self.context = context
        return [Result(mention, (), "none") for mention in mentions]


def test_each_span_is_linked_in_its_sentence(linker):
    from xsap.text_in.annotate import annotate_texts

    links = ContextLinker()
    annotate_texts(links, linker.span_finder.find, ["All well. He had fever! Then none."], 1)
    [context] = links.context
    assert context == ("He had fever!", 7, 12)


# The command


@pytest.fixture
def text(capsys):
    """`xsap text` in this process: (exit code, stdout, stderr)."""

    def call(*words):
        with pytest.raises(SystemExit) as stop:
            main(["text", *map(str, words)])
        return stop.value.code, *capsys.readouterr()

    return call


def test_command_annotates_a_file_and_says_what_it_did(text, sample_index, tmp_path):
    (tmp_path / "note.txt").write_bytes(b"Patient hat Fieber.\r\nKein Fieber mehr.")
    code, out, err = text(tmp_path / "note.txt", "--index", sample_index, "--language", "de", "--format", "jsonl")
    record = json.loads(out)
    assert (code, record["document_id"], record["language"]) == (0, "note", "de")
    assert [(span["start"], span["end"], span["candidates"][0]["concept_id"]) for span in record["spans"]] == [
        (12, 18, "C9000001"),
        (26, 32, "C9000001"),
    ]
    assert err == f"{tmp_path}/note.txt: 1 documents, 1 with spans; 2 spans, 2 linked, 0 unlinked\n"


def test_command_reads_stdin_and_writes_a_table_for_people(text, sample_index, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"no fever,\r\nFieber")))
    code, out, err = text("--index", sample_index)
    assert code == 0, err
    assert "stdin 3–8 fever" in out
    assert "stdin 11–17 Fieber" in out


def test_command_reads_stdin_in_its_encoding_and_language(text, sample_index, monkeypatch):
    for raw, encoding in (("No fièvre".encode("cp1252"), ("--encoding", "cp1252")), ("No fièvre".encode("utf-16"), ())):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw)))
        code, out, err = text("--index", sample_index, "--format", "jsonl", "--language", "French", *encoding)
        assert code == 0, err
        record = json.loads(out)
        assert (record["language"], [span["text"] for span in record["spans"]]) == ("fr", ["fièvre"])


def test_command_does_not_replace_the_table_of_spans(text, sample_index, tmp_path):
    (tmp_path / "note.txt").write_text("fever", encoding="utf-8")
    (tmp_path / "spans.csv").write_text("document_id,start,end\nnote,0,5\n", encoding="utf-8")
    spans = tmp_path / "spans.csv"
    words = (tmp_path / "note.txt", "--index", sample_index, "--spans", spans, "--out", spans, "--overwrite")
    assert_refused(text(*words), "is the input file")


def test_command_refuses_in_one_line(text, sample_index, tmp_path):
    (tmp_path / "note.txt").write_text("fever", encoding="utf-8")
    (tmp_path / "table.csv").write_text("note_text\nfever\n", encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes(b"fi\xe8vre")
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.docx").write_text("x", encoding="utf-8")
    (tmp_path / "spans.csv").write_text("document_id,start,end\nnote,a,b\n", encoding="utf-8")
    note, index = tmp_path / "note.txt", ("--index", sample_index)
    for words, message in [
        ((note, "--column", "text"), "--column 'text' is for tables"),
        ((tmp_path / "table.csv",), "expected a column 'text', found note_text"),
        ((tmp_path / "missing.txt",), "expected a text file, a folder of .txt files or a table, found nothing there"),
        ((tmp_path / "latin.txt",), "expected UTF-8, found byte 0xe8"),
        ((tmp_path / "empty",), "expected .txt files in the folder, found none"),
        ((note, "--out", note, "--format", "jsonl"), "is the input file"),
        ((note, "--out", tmp_path / "table.csv"), "exists already"),
        ((note, "--format", "brat"), "the format brat needs --out FOLDER"),
        ((note, "--format", "brat", "--out", tmp_path / "full"), "exists already"),
        (
            (note, "--format", "brat", "--out", tmp_path / "full", "--overwrite"),
            "only a folder of .txt and .ann files, found 'thesis.docx'",
        ),
        ((note, "--out", tmp_path / "x"), "expected a name that ends in .jsonl"),
        ((note, "--spans", tmp_path / "spans.csv"), "expected a whole number in column 'start', found 'a' in row 1"),
        ((note, "--spans", tmp_path / "spans.csv", "--fuzzy"), "expected --spans or --fuzzy, found both"),
        ((note, "--language", "klingonish"), "klingonish"),
    ]:
        assert_refused(text(*words, *index), message)


def test_command_replaces_a_brat_folder_with_overwrite(text, sample_index, tmp_path):
    (tmp_path / "note.txt").write_text("fever", encoding="utf-8")
    words = (tmp_path / "note.txt", "--index", sample_index, "--format", "brat", "--out", tmp_path / "out")
    assert text(*words)[0] == 0
    (tmp_path / "note.txt").write_text("no fever", encoding="utf-8")
    assert text(*words, "--overwrite")[0] == 0
    assert Path(tmp_path / "out" / "note.ann").read_text(encoding="utf-8").startswith("T1\t")
    assert " 3 8\tfever" in (tmp_path / "out" / "note.ann").read_text(encoding="utf-8")


def test_brat_of_a_document_without_spans_is_empty():
    from xsap.text_in.documents import TextDocument

    assert to_brat(TextDocument("a", "text"), []) == ""
