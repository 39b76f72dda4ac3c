"""None"""

import bz2
import csv
import gzip
import io
import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.assemble import Assembly
from data_prep.bitext import read_bitext
from data_prep.lists import read_list
from tests.fixtures.examples import examples
from xsap.errors import ConfigError, DataError
from xsap.terms.terminology import Terminology
from xsap.text import TextPolicy, normalize

ROWS = [
    {
        "concept_id": "A1",
        "name": "fever",
        "language": "en",
        "kind": "preferred",
        "source": "own",
        "code": "7",
        "status": "",
        "semantic_types": "T1|T2",
    },
    {
        "concept_id": "A1",
        "name": "Fieber",
        "language": "GER",
        "kind": "",
        "source": "",
        "code": "",
        "status": "OFFICIAL",
        "semantic_types": "T2",
    },
    {
        "concept_id": "B2",
        "name": ' "tos"; seca ',
        "language": "es",
        "kind": "",
        "source": "",
        "code": "",
        "status": "",
        "semantic_types": "",
    },
]
NAMES = [
    {
        "concept_id": "A1",
        "language": "de",
        "name": "Fieber",
        "kind": "synonym",
        "source": "mine",
        "code": None,
        "status": "OFFICIAL",
    },
    {
        "concept_id": "A1",
        "language": "en",
        "name": "fever",
        "kind": "preferred",
        "source": "own",
        "code": "7",
        "status": None,
    },
    {
        "concept_id": "B2",
        "language": "es",
        "name": '"tos"; seca',
        "kind": "synonym",
        "source": "mine",
        "code": None,
        "status": None,
    },
]


def as_csv(delimiter):
    stream = io.StringIO()
    writer = csv.DictWriter(stream, ROWS[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return stream.getvalue()


WRITTEN = {
    "mine.tsv": "".join("\t".join(cells) + "\n" for cells in [ROWS[0].keys(), *(row.values() for row in ROWS)]) + "\n",
    "mine.csv": as_csv(","),
    "mine.de.csv": as_csv(";"),
    "mine.jsonl": "".join(
        json.dumps(row | {"semantic_types": row["semantic_types"].split("|"), "code": row["code"] or None}) + "\n"
        for row in ROWS
    ),
}


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet", "xlsx"])
def test_missing_column_is_refused_with_the_option_that_names_it(tmp_path, ending):
    file, rows = tmp_path / f"x.{ending}", pd.DataFrame({"Code": ["A"], "name": ["fever"], "language": ["en"]})
    if ending == "jsonl":
        rows.to_json(file, orient="records", lines=True)
    else:
        {"csv": rows.to_csv, "xlsx": rows.to_excel, "parquet": rows.to_parquet}[ending](file, index=False)
    with pytest.raises(DataError, match="concept_id") as caught:
        read_list(file)
    assert str(caught.value).count("--column concept_id=HEADER") == 1
    assert read_list(file, columns={"concept_id": "Code"})[1].kept == 1


@pytest.mark.parametrize("name", WRITTEN)
def test_list_formats_give_the_same_terminology(tmp_path, name):
    (tmp_path / name).write_bytes(WRITTEN[name].encode())
    terminology, counts = read_list(tmp_path / name)
    assert terminology.names.to_pylist() == NAMES
    assert terminology.concepts["semantic_types"].to_pylist() == [["T1", "T2"], []]
    assert (counts.rows_in, counts.kept) == (3, 3)


def test_list_columns_language_and_source_can_be_given(tmp_path):
    (tmp_path / "x.csv").write_text("Code,Term,Notes\nA,fiebre,x\nA,fiebre,y\n")
    terminology, counts = read_list(
        tmp_path / "x.csv", columns={"concept_id": "Code", "name": "Term"}, language="SPA", source="ICD"
    )
    (row,) = terminology.names.to_pylist()
    assert (row["concept_id"], row["language"], row["name"], row["source"]) == ("A", "es", "fiebre", "ICD")
    assert dict(counts.dropped) == {"same name of the same concept": 1}


words = st.text(st.sampled_from('ab "\té熱|,;'), min_size=1, max_size=8).filter(
    lambda s: "||" not in s and s.strip(" |\t")
)


@given(
    pairs=st.lists(st.tuples(st.sampled_from(["C1", "C2"]), words.map(lambda s: s.strip("|"))), min_size=1, max_size=10)
)
def test_id_name_lines_are_read(tmp_path_factory, pairs):
    file = tmp_path_factory.mktemp("list") / "names.txt"
    file.write_text("".join(f"{concept}||{name}\n\n" for concept, name in pairs))
    terminology, counts = read_list(file)
    found = {(row["concept_id"], row["language"], row["name"]) for row in terminology.names.to_pylist()}
    expected = {(concept, "en", normalize(name, TextPolicy())) for concept, name in pairs}
    assert found == {row for row in expected if row[2]}
    assert counts.rows_in == len(pairs)


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        (
            "x.tsv",
            "concept_id\tname\nA\tb\n",
            {},
            ":2: expected a language in 'language', found none; name the language of the whole file with --language",
        ),
        (
            "x.tsv",
            "concept_id\tname\tlanguage\nA\tb\tenx\n",
            {},
            ":2: expected rows with an identifier and a known language, found none (language unknown to xsap: enx: 1)",
        ),
        (
            "x.tsv",
            "concept_id\tname\tlanguage\n\tb\ten\n",
            {},
            ":2: expected rows with an identifier and a known language, found none (no identifier in 'concept_id': 1)",
        ),
        ("x.tsv", "concept_id\tname\tlanguage\nA\tb\n", {}, ":2: expected a language in 'language', found none"),
        (
            "x.tsv",
            "concept_id\tname\tlanguage\tkind\nA\tb\ten\tsynonim\n",
            {},
            ":2: a name has no kind 'synonim'; did you mean 'synonym'?",
        ),
        ("x.tsv", "", {}, ":1: expected a header with the column 'concept_id', found an empty file"),
        (
            "x.tsv",
            "id\tname\n",
            {},
            ":1: expected a header with the column 'concept_id', found id, name; name the file's own with --column, such as --column concept_id=HEADER",
        ),
        ("x.tsv", "concept_id\tname\n", {"columns": {"name": "term"}}, ":1: expected a header with the column 'term'"),
        ("x.csv", 'concept_id,name,language\nA,"b" c,en\n', {}, ":2: expected CSV as in RFC 4180"),
        (
            "x.jsonl",
            '{"concept_id": "A", "name": "b", "language": "en"}\n[1]\n',
            {},
            ":2: expected a JSON object with concept_id, name, found [1]",
        ),
        (
            "x.csv",
            'concept_id,name,language\nA,"b\nc",en\nA,b,c,d\n',
            {},
            ":4: expected 3 field(s) as in the header, found 4",
        ),
        ("x.jsonl", '\n{"concept_id": "A"}\n', {}, ":2: expected a JSON object"),
        ("x.jsonl", '{"concept_id": \n', {}, ":1: expected one JSON object per line"),
        ("x.txt", "A||b\nA||b||c\n", {}, ":2: expected id||name, found 3 field(s)"),
        ("x.txt", "A||b\n", {"columns": {"name": "term"}}, ": lines id||name have no headers"),
        ("x.xlsx", "A b\n", {}, ": expected a workbook, found text"),
        ("x.txt", "", {}, ": expected a .tsv, .csv, .jsonl, .parquet or workbook file, or lines id||name; found ''"),
    ],
)
def test_malformed_list_error_names_line(tmp_path, name, text, options, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as caught:
        read_list(tmp_path / name, **options)
    assert str(caught.value).startswith(f"{tmp_path / name}{message}")


def test_unknown_field_error_suggests_nearest(tmp_path):
    with pytest.raises(DataError, match="a terminology has no field 'langauge'; did you mean 'language'?"):
        read_list(tmp_path / "x.tsv", columns={"langauge": "lang"})


@pytest.mark.parametrize("name", WRITTEN)
def test_compressed_list_gives_the_same_terminology(tmp_path, name):
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(("\ufeff" + WRITTEN[name]).encode()))
    (tmp_path / f"{name}.BZ2").write_bytes(bz2.compress(WRITTEN[name].encode()))
    assert read_list(tmp_path / f"{name}.gz")[0].names.to_pylist() == NAMES
    assert read_list(tmp_path / f"{name}.BZ2")[0].names.to_pylist() == NAMES
    for ending in ("gz", "BZ2"):
        cut = tmp_path / f"cut.{name}.{ending}"
        cut.write_bytes((tmp_path / f"{name}.{ending}").read_bytes()[:-9])
        with pytest.raises(
            DataError, match="expected a whole compressed file, found its end too early. Is the file cut short"
        ):
            read_list(cut)


# Dictionaries: a concept a line

SCISPACY = {
    "concept_id": "C9000001",
    "canonical_name": "Invented ague",
    "aliases": ["Made-up chill", "Invented ague", "", "ague|chill"],
    "types": ["T047", "T184"],
    "definition": "Not a name.",
}
XMEN = {"concept_id": 9000002, "canonical_name": "Husten", "aliases": ["Hüsteln"], "types": [], "definition": None}
OF_CUIS = {
    "cui": "C9000003",
    "name": "Dry invention",
    "synonyms": ["Arid invention"],
    "type": "T046",
    "source": "own",
    "language": "ENG",
}


def names_of(terminology):
    return {
        (row["concept_id"], row["language"], row["name"], row["kind"], row["source"])
        for row in terminology.names.to_pylist()
    }


def test_jsonl_line_may_be_a_concept_with_all_its_names(tmp_path):
    plain = {
        "concept_id": "C9000004",
        "name": "One name",
        "kind": "abbreviation",
        "semantic_types": ["T001"],
        "nested": {"ignored": [True]},
    }
    (tmp_path / "kb.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (SCISPACY, XMEN, OF_CUIS, plain)))
    terminology, counts = read_list(tmp_path / "kb.jsonl", language="de")
    assert names_of(terminology) == {
        ("C9000001", "de", "Invented ague", "preferred", "kb"),
        ("C9000001", "de", "Made-up chill", "synonym", "kb"),
        ("C9000001", "de", "ague|chill", "synonym", "kb"),
        ("9000002", "de", "Husten", "preferred", "kb"),
        ("9000002", "de", "Hüsteln", "synonym", "kb"),
        ("C9000003", "en", "Dry invention", "preferred", "own"),
        ("C9000003", "en", "Arid invention", "synonym", "own"),
        ("C9000004", "de", "One name", "abbreviation", "kb"),
    }
    assert (counts.rows_in, counts.kept) == (10, 8)
    assert dict(counts.dropped) == {"empty name": 1, "same name of the same concept": 1}
    types = dict(zip(*(terminology.concepts[c].to_pylist() for c in ("concept_id", "semantic_types")), strict=True))
    assert types == {"9000002": [], "C9000001": ["T047", "T184"], "C9000003": ["T046"], "C9000004": ["T001"]}


def test_jsonl_concept_columns_can_be_given(tmp_path):
    row = {"sctid": 7, "term": "tos", "synonyms": ["tosecilla"], "lang": "spa", "version": "x"}
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    terminology, _ = read_list(
        tmp_path / "x.jsonl", columns={"concept_id": "sctid", "name": "term", "language": "lang", "code": "version"}
    )
    assert names_of(terminology) == {("7", "es", "tos", "preferred", "x"), ("7", "es", "tosecilla", "synonym", "x")}
    assert terminology.names["code"].to_pylist() == ["x", "x"]


def test_jsonl_list_of_names_gives_several_names(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"concept_id": "A", "name": ["tos", "tosecilla"], "language": "es"}')
    assert {row[2] for row in names_of(read_list(tmp_path / "x.jsonl")[0])} == {"tos", "tosecilla"}


def test_jsonl_concept_without_name_is_counted(tmp_path):
    (tmp_path / "x.jsonl").write_text(
        '{"concept_id": "A", "canonical_name": null, "aliases": []}\n{"concept_id": "B", "canonical_name": "b", "aliases": null}'
    )
    terminology, counts = read_list(tmp_path / "x.jsonl", language="en")
    assert (terminology.names["concept_id"].to_pylist(), counts.rows_in, dict(counts.dropped)) == (
        ["B"],
        2,
        {"empty name": 1},
    )


ids = st.sampled_from(["C1", "C2", 3])
some = st.text(st.sampled_from("ab |é热"), max_size=4)
concept_lines = st.fixed_dictionaries(
    {
        "concept_id": ids,
        "canonical_name": st.none() | some,
        "aliases": st.lists(some | st.none() | st.integers(0, 9), max_size=4),
        "types": st.lists(st.sampled_from(["T1", "T2"])),
    }
)


@settings(max_examples=examples(60), deadline=None)
@given(lines=st.lists(concept_lines, min_size=1, max_size=5))
def test_jsonl_dictionaries_match_naive_reader(tmp_path_factory, lines):
    file = tmp_path_factory.mktemp("list") / "kb.jsonl"
    file.write_text("\n\n".join(map(json.dumps, lines)))
    terminology, counts = read_list(file, language="en")
    offered, types = [], {}
    for line in lines:
        names = [(line["canonical_name"], "preferred")] if line["canonical_name"] is not None else []
        names += [("" if alias is None else str(alias), "synonym") for alias in line["aliases"]]
        offered += [
            (str(line["concept_id"]), normalize(name, TextPolicy()), kind) for name, kind in names or [("", "synonym")]
        ]
        types.setdefault(str(line["concept_id"]), set()).update(line["types"])
    named = {(concept, name) for concept, name, _ in offered if name}
    assert {(row[0], row[2], row[3]) for row in names_of(terminology)} == {
        (concept, name, "preferred" if (concept, name, "preferred") in offered else "synonym")
        for concept, name in named
    }
    assert (counts.rows_in, counts.kept) == (len(offered), len(named))
    for row in terminology.concepts.to_pylist():
        assert row["semantic_types"] == sorted(types[row["concept_id"]])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            '{"canonical_name": "x", "aliases": []}',
            ":1: expected rows with an identifier and a known language, found none (no identifier in 'concept_id': 1)",
        ),
        (
            '{"concept_id": "A", "canonical_name": {"x": 1}}',
            ":1: expected a text in 'canonical_name', found true, false, a list or an object",
        ),
        (
            '{"concept_id": "A", "canonical_name": "x", "aliases": [["y"]]}',
            ":1: expected a text in 'aliases', found true, false, a list or an object",
        ),
        (
            '{"concept_id": "A", "canonical_name": "x", "aliases": {"y": 1}}',
            ":1: expected a text in 'aliases', found true, false, a list or an object",
        ),
        ('{"concept_id": ["A", "B"], "name": "x"}', ":1: expected a text in 'concept_id', found true"),
        (
            '{"concept_id": true, "canonical_name": "x"}',
            ":1: expected a text in 'concept_id', found true, false, a list or an object",
        ),
        (
            '{"concept_id": "A", "canonical_name": "x", "types": [null, {}]}',
            ":1: expected a text in 'types', found true, false, a list or an object",
        ),
        ('{"concept_id": "A", "name": false}', ":1: expected a text in 'name', found true, false, a list or an object"),
        (
            '{"concept_id": "A", "name": "\\udc00"}',
            ":1: expected one JSON object per line, found half of a surrogate pair in it",
        ),
        ("[" * 100_000, ":1: expected one JSON object per line, found one that is nested too deeply to be read"),
        ('{"concept_id": "A", "name": "x", "ignored": ' + "[" * 900 + "]" * 900 + "}", None),
    ],
)
def test_jsonl_value_of_wrong_type_is_refused(tmp_path, row, message):
    (tmp_path / "x.jsonl").write_text(row)
    if message is None:
        assert read_list(tmp_path / "x.jsonl", language="en")[1].kept == 1
    else:
        with pytest.raises(DataError) as caught:
            read_list(tmp_path / "x.jsonl", language="en")
        assert str(caught.value).startswith(f"{tmp_path / 'x.jsonl'}{message}")


@pytest.mark.parametrize(
    "name",
    [
        "mine.csv",
        "mine.jsonl",
        "mine.txt",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("mine.tsv", "mine.de.csv")),
    ],
)
def test_truncated_list_is_read_or_refused(tmp_path, name):
    content = WRITTEN.get(name, "A1||fever\nA1||pyrexia\n").encode()
    for at in range(len(content)):
        (tmp_path / name).write_bytes(content[:at])
        message = str(tmp_path / name)
        try:
            read_list(tmp_path / name, language="en")
        except DataError as error:
            message = str(error)
        assert message.startswith(str(tmp_path / name))


def test_list_is_read_in_batches(tmp_path):
    (tmp_path / "x.txt").write_text("".join(f"C{i % 3}||name {i}\n" for i in range(7)))
    terminology, counts = read_list(tmp_path / "x.txt", names_per_batch=2)
    assert {(row[0], row[2]) for row in names_of(terminology)} == {(f"C{i % 3}", f"name {i}") for i in range(7)}
    assert counts.rows_in == 7


# Rows that are no names, and workbooks

HEADER = ["concept_id", "name", "language"]
ROWS = [["A:1", "fever", "en"], ["A:1", "febris", "la"], ["A:1", "nuqneH", "tlh"], ["", "", ""], ["A:2", "cough", "English"], ["", "x", "en"],
        ["A:2", "", "en"], [" ", "", " "], ["A:3", "x", "Klingon"], ["", "", ""]]  # fmt: skip


def write_rows(path):
    """The rows in the format that a file's name says."""
    if path.suffix == ".xlsx":
        import xlsxwriter

        with xlsxwriter.Workbook(path) as book:
            sheet = book.add_worksheet()
            for number, row in enumerate([HEADER, *ROWS]):
                sheet.write_row(number, 0, row)
    elif path.suffix == ".parquet":
        pq.write_table(pa.table(dict(zip(HEADER, map(list, zip(*ROWS, strict=True)), strict=True))), path)
    else:
        separator = "\t" if path.suffix == ".tsv" else ","
        path.write_text("\n".join(separator.join(row) for row in [HEADER, *ROWS]) + "\n")


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.xlsx", "x.parquet"])
def test_blank_rows_are_no_rows_and_unusable_rows_are_counted(tmp_path, name):
    write_rows(tmp_path / name)
    terminology, counts = read_list(tmp_path / name)
    names = terminology.names
    assert set(zip(*(names[column].to_pylist() for column in HEADER), strict=True)) == {
        ("A:1", "fever", "en"), ("A:1", "febris", "la"), ("A:2", "cough", "en"),
    }  # fmt: skip
    assert (counts.rows_in, counts.kept) == (7, 3)
    assert {reason: n for reason, n in counts.dropped.items() if n} == {
        "language unknown to xsap: tlh": 1,
        "language unknown to xsap: Klingon": 1,
        "no identifier in 'concept_id'": 1,
        "empty name": 1,
    }


def test_encoding_and_header_row_of_a_text_table(tmp_path, prepare):
    (tmp_path / "x.csv").write_bytes("Meine Liste\nconcept_id;name;language\nA:1;Übelkeit;Deutsch\n".encode("cp1252"))
    options = ("--encoding", "cp1252", "--header-row", 2)
    code, _, err = prepare("table", tmp_path / "x.csv", "--out", tmp_path / "t", *options)
    assert (code, err) == (0, "")
    assert Terminology.load(tmp_path / "t").names["name"].to_pylist() == ["Übelkeit"]
    code, _, err = prepare("table", tmp_path / "x.csv", "--out", tmp_path / "u", "--sheet", "one")
    assert (code, err.count("\n"), "--sheet 'one' is for workbooks" in err) == (2, 1, True)


# Bitext: pairs of translations become concepts of two names.


def read(folder, text, languages="en,de", name="muse.txt"):
    file = folder / name
    file.write_text(text, encoding="utf-8")
    with Assembly(200_000_000) as assembly:
        _, counts = assembly.save(folder / "out", *read_bitext([file], assembly, languages=languages), overwrite=True)
    return Terminology.load(folder / "out"), counts


@pytest.mark.parametrize("separator", [" ", "\t", "||"])
def test_bitext_line_becomes_concept_of_two_names(tmp_path, separator):
    lines = ["the die", "House Haus", "", "house haus", "taxi Taxi", "fever Fieber"]
    terminology, counts = read(tmp_path, "\n".join(line.replace(" ", separator) for line in lines) + "\n")
    rows = [(r["concept_id"], r["language"], r["name"], r["source"]) for r in terminology.names.to_pylist()]
    expected = [("muse:1", "de", "die"), ("muse:1", "en", "the"), ("muse:2", "de", "Haus"), ("muse:2", "en", "House")]
    expected += [("muse:6", "de", "Fieber"), ("muse:6", "en", "fever")]
    assert rows == [(*row, "muse") for row in expected]
    assert (counts.rows_in, counts.kept, dict(counts.dropped)) == (10, 6, {"both names equal": 2, "repeated pair": 2})


def test_bitext_phrases_need_a_tab_and_identifiers_are_ignored(tmp_path):
    terminology, _ = read(tmp_path, "heart attack\tHerzinfarkt\n")
    assert terminology.names["name"].to_pylist() == ["Herzinfarkt", "heart attack"]
    terminology, _ = read(tmp_path, "muse_0||heart||Herz\n")
    assert terminology.names["name"].to_pylist() == ["Herz", "heart"]
    with pytest.raises(
        DataError,
        match=r"muse.txt:2: expected two columns separated by a tab, a space or \|\|, found 3; separate phrases",
    ):
        read(tmp_path, "a b\nheart attack Herzinfarkt\n")


@pytest.mark.parametrize("languages", ["en", "en,eng", "en,de,fr", ""])
def test_bitext_needs_two_languages(tmp_path, languages):
    with pytest.raises(ConfigError, match="expected the languages of the two columns such as en,de, found"):
        read(tmp_path, "a b\n", languages)


def test_bitext_pair_with_empty_name_is_counted(tmp_path):
    terminology, counts = read(tmp_path, "a\t\u200b\nfever\tFieber\n")
    assert (terminology.names.num_rows, dict(counts.dropped)) == (2, {"no name": 2})
