import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.lists import read_list
from xsap.errors import DataError
from xsap.text import TextPolicy, normalise

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
    {"concept_id": "A1", "language": "de", "name": "Fieber", "kind": "synonym", "source": "mine", "code": None, "status": "OFFICIAL"},
    {"concept_id": "A1", "language": "en", "name": "fever", "kind": "preferred", "source": "own", "code": "7", "status": None},
    {"concept_id": "B2", "language": "es", "name": '"tos"; seca', "kind": "synonym", "source": "mine", "code": None, "status": None},
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
        json.dumps(row | {"semantic_types": row["semantic_types"].split("|"), "code": row["code"] or None}) + "\n" for row in ROWS
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_each_format_gives_the_same_terminology(tmp_path, name):
    (tmp_path / name).write_bytes(WRITTEN[name].encode())
    terminology, tally = read_list(tmp_path / name)
    assert terminology.names.to_pylist() == NAMES
    assert terminology.concepts["semantic_types"].to_pylist() == [["T1", "T2"], []]
    assert (tally.rows_in, tally.kept) == (3, 3)


def test_columns_language_and_source_can_be_told(tmp_path):
    (tmp_path / "x.csv").write_text("Code,Term,Notes\nA,fiebre,x\nA,fiebre,y\n")
    terminology, tally = read_list(tmp_path / "x.csv", columns={"concept_id": "Code", "name": "Term"}, language="SPA", source="ICD")
    (row,) = terminology.names.to_pylist()
    assert (row["concept_id"], row["language"], row["name"], row["source"]) == ("A", "es", "fiebre", "ICD")
    assert dict(tally.dropped) == {"same name of the same concept": 1}


words = st.text(st.sampled_from('ab "\té熱|,;'), min_size=1, max_size=8).filter(lambda s: "||" not in s and s.strip(" |\t"))


@given(pairs=st.lists(st.tuples(st.sampled_from(["C1", "C2"]), words.map(lambda s: s.strip("|"))), min_size=1, max_size=10))
def test_lines_of_the_original_code(tmp_path_factory, pairs):
    file = tmp_path_factory.mktemp("list") / "names.txt"
    file.write_text("".join(f"{concept}||{name}\n\n" for concept, name in pairs))
    terminology, tally = read_list(file)
    found = {(row["concept_id"], row["language"], row["name"]) for row in terminology.names.to_pylist()}
    expected = {(concept, "en", normalise(name, TextPolicy())) for concept, name in pairs}
    assert found == {row for row in expected if row[2]}
    assert tally.rows_in == len(pairs)


@pytest.mark.parametrize(
    ("name", "text", "told", "message"),
    [
        (
            "x.tsv",
            "concept_id\tname\nA\tb\n",
            {},
            ":2: expected a language in 'language', found none; name the language of the whole file with --language",
        ),
        ("x.tsv", "concept_id\tname\tlanguage\nA\tb\tenx\n", {}, ":2: unknown language 'enx'"),
        ("x.tsv", "concept_id\tname\tlanguage\n\tb\ten\n", {}, ":2: expected a concept's identifier in 'concept_id', found none"),
        ("x.tsv", "concept_id\tname\tlanguage\nA\tb\n", {}, ":2: expected 3 fields, found 2"),
        ("x.tsv", "concept_id\tname\tlanguage\tkind\nA\tb\ten\tsynonim\n", {}, ":2: a name has no kind 'synonim'; did you mean 'synonym'?"),
        ("x.tsv", "", {}, ":1: expected a header with the column 'concept_id', found an empty file"),
        ("x.tsv", "id\tname\n", {}, ":1: expected a header with the column 'concept_id', found id, name"),
        ("x.tsv", "concept_id\tname\n", {"columns": {"name": "term"}}, ":1: expected a header with the column 'term'"),
        ("x.csv", 'concept_id,name,language\nA,"b" c,en\n', {}, ":2: expected CSV as in RFC 4180"),
        (
            "x.jsonl",
            '{"concept_id": "A", "name": "b", "language": "en"}\n[1]\n',
            {},
            ":2: expected a JSON object with concept_id, name, found [1]",
        ),
        ("x.csv", 'concept_id,name,language\nA,"b\nc",en\nA,b\n', {}, ":4: expected 3 fields, found 2"),
        ("x.jsonl", '\n{"concept_id": "A"}\n', {}, ":2: expected a JSON object"),
        ("x.jsonl", '{"concept_id": \n', {}, ":1: expected one JSON object a line"),
        ("x.txt", "A||b\nA||b||c\n", {}, ":2: expected id||name, found 3 field(s)"),
        ("x.txt", "A||b\n", {"columns": {"name": "term"}}, ": lines id||name have no headers"),
        ("x.xlsx", "A b\n", {}, ": expected a .tsv, .csv or .jsonl file, or lines id||name; found 'A b'"),
        ("x.txt", "", {}, ": expected a .tsv, .csv or .jsonl file, or lines id||name; found ''"),
    ],
)
def test_a_faulty_list_is_refused_with_its_line(tmp_path, name, text, told, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as caught:
        read_list(tmp_path / name, **told)
    assert str(caught.value).startswith(f"{tmp_path / name}{message}")


def test_a_field_that_no_terminology_has_names_the_nearest(tmp_path):
    with pytest.raises(DataError, match="a terminology has no field 'langauge'; did you mean 'language'?"):
        read_list(tmp_path / "x.tsv", columns={"langauge": "lang"})
