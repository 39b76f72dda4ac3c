"""Files of mappings of every kind: how they are recognized and read, as gold, by `xsap export` and by `xsap check`."""

import json
from dataclasses import replace

import pytest

from tests.fixtures.athena import write_athena
from tests.fixtures.mappings import FEVER, OMOP_FEVER, PYREXIA
from xsap.cli import main
from xsap.errors import ConfigError, DataError
from xsap.exchange.checks import check_mapping_file
from xsap.exchange.decided_mentions import read_gold
from xsap.exchange.mapping import (
    Equivalence,
    MappedConcept,
    Mapping,
    Signature,
    Status,
    find_repeated,
    number_codes,
    unite_repeated,
)
from xsap.exchange.mapping_files import MappingFile, read_mappings, recognize_mapping_file
from xsap.exchange.review_workbook import write_workbook
from xsap.exchange.sssom import write_sssom
from xsap.exchange.usagi_writer import write_usagi
from xsap.linking.results import Result
from xsap.tabular.answers import Answer
from xsap.tabular.readers import open_table
from xsap.tabular.writers import OutputFormat, open_writer
from xsap.terms.mentions import SCHEMA

DECIDED = [
    replace(OMOP_FEVER, columns={"original": "Fieber", "lang": "de"}, language="de"),
    Mapping("2", "two", (MappedConcept("1"), MappedConcept("2")), Status.APPROVED, columns={"original": "zwei", "lang": "de"}, language="de"),
    Mapping("3", "none", status=Status.NO_MATCH, equivalence=Equivalence.UNMATCHED, columns={"original": "", "lang": "de"}, language="de"),
    Mapping("4", "guess", (MappedConcept("1"),), columns={"original": "x", "lang": "de"}, language="de"),
    Mapping("5", "doubt", (MappedConcept("1"),), Status.FLAGGED, columns={"original": "y", "lang": "de"}, language="de"),
]  # fmt: skip


@pytest.fixture
def xsap(capsys):
    """A command line in this process: (exit code, stdout, stderr)."""

    def call(*words):
        with pytest.raises(SystemExit) as stop:
            main(list(map(str, words)))
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return call


def linked(tmp_path, name="linked.csv", **options):
    """A file as `xsap link` writes it, of a table with the columns Code, Diagnose, n."""
    (tmp_path / "in.csv").write_text("Code,Diagnose,n\nA1,Fieber,3\nA1,Fieber,4\nB2,=x,\n", encoding="utf-8")
    results = [
        Result("Fieber", (PYREXIA,)),
        Result("Fieber", (PYREXIA,)),
        Result("=x", (), "too uncertain", (PYREXIA,)),
    ]
    source = open_table(tmp_path / "in.csv")
    with (
        (tmp_path / name).open("wb") as stream,
        open_writer(stream, OutputFormat.for_file(tmp_path / name, None, **options), source) as write,
    ):
        [table] = source.chunks(9)
        write(table, [result.mention for result in results], list(map(Answer.from_result, results)))
    return tmp_path / name


COLUMNS = {"name": "Diagnose", "code": "Code", "frequency": "n"}


@pytest.mark.parametrize(
    ("name", "options"),
    [("l.csv", {}), ("l.csv", {"excel": True}), ("l.tsv", {}), ("l.csv", {"wide": True}), ("l.xlsx", {}), ("l.jsonl", {}), ("l.parquet", {"wide": True})],
)  # fmt: skip
def test_the_output_of_link_is_read_in_every_form(tmp_path, name, options):
    found = read_mappings(linked(tmp_path, name, **options), columns=COLUMNS)
    plain = [replace(mapping, created=Signature(), candidates=()) for mapping in found.mappings]
    fields = {"score": 0.973123, "confidence": 0.9}
    first = Mapping("A1", "Fieber", (MappedConcept("HP:0001945", "Fever", "HPO", "", "T184"),), frequency=3, **fields)
    assert plain == [first, replace(first, frequency=4), Mapping("B2", "=x", **fields)]
    assert [mapping.candidates for mapping in found.mappings] == [(replace(PYREXIA, score=0.973123),)] * 3
    assert found.remarks[:3] == [
        "terms from column 'Diagnose'",
        "codes from column 'Code'",
        "frequencies from column 'n'",
    ]


def test_columns_with_usual_names_are_found_and_the_term_must_be_known(tmp_path):
    file = linked(tmp_path)
    with pytest.raises(
        ConfigError, match=r"expected a column of terms, found Code, Diagnose, n; name the column: --column name=HEADER"
    ):
        read_mappings(file)
    with pytest.raises(DataError, match="Diagnos"):
        read_mappings(file, columns={"name": "Diagnos"})
    with pytest.raises(ConfigError, match="a field out of name, code, language, frequency; found 'concept'"):
        read_mappings(file, columns={"concept": "Code"})
    assert [mapping.source_code for mapping in read_mappings(file, columns={"name": "Diagnose"}).mappings] == [
        "A1",
        "A1",
        "B2",
    ]


def test_files_are_recognized_by_their_content(tmp_path):
    write_usagi([OMOP_FEVER], tmp_path / "u.csv")
    write_sssom([FEVER], tmp_path / "s.tsv")
    write_workbook([FEVER], tmp_path / "w.xlsx")
    (tmp_path / "m.csv").write_text("mention,concept_ids\nfever,C1\n")
    kinds = {"u.csv": "Usagi", "s.tsv": "SSSOM", "w.xlsx": "review workbook", "linked.csv": "xsap link", "m.csv": None}
    linked(tmp_path)
    assert {name: recognize_mapping_file(tmp_path / name) for name in kinds} == kinds
    for name in ("u.csv", "s.tsv", "w.xlsx"):
        [mapping] = read_mappings(tmp_path / name).mappings
        assert mapping.source_name in ("fièvre", "Fieber")
    with pytest.raises(DataError, match="expected mappings: what xsap link .* found none of these"):
        read_mappings(tmp_path / "m.csv")


# Mappings


def test_terms_without_codes_are_numbered_and_those_with_codes_are_not():
    bare = [
        Mapping("", name, language=language) for name, language in (("a", "de"), ("b", "de"), ("a", "de"), ("a", "en"))
    ]
    assert [mapping.source_code for mapping in number_codes(bare)] == ["1", "2", "1", "3"]
    some = [*bare, Mapping("X", "c")]
    assert number_codes(some) == some


def test_mappings_of_a_term_are_united_where_they_agree():
    one, other = MappedConcept("1"), MappedConcept("2")
    guess, yes, no = (
        Mapping("A", "a", (one,), frequency=1),
        Mapping("A", "a", (one,), Status.APPROVED, frequency=2),
        Mapping("A", "a", (other,), Status.APPROVED),
    )
    assert unite_repeated([guess, Mapping("B", "b"), guess]) == [replace(guess, frequency=2), Mapping("B", "b")]
    assert unite_repeated([guess, yes]) == [replace(yes, frequency=3)] == unite_repeated([yes, guess])
    assert unite_repeated([yes, no]) == [yes, no]
    assert find_repeated([yes, guess, no, Mapping("B", "b")]) == [("A", "a")]


# Gold


@pytest.fixture
def saved(tmp_path):
    write_usagi(DECIDED, tmp_path / "gold.csv")
    return tmp_path / "gold.csv"


def rows(table):
    return [(row["mention"], row["language"], row["concept_ids"]) for row in table.to_pylist()]


def test_approved_mappings_are_mentions_and_undecided_ones_are_not(saved):
    assert read_gold(saved).schema == SCHEMA
    assert rows(read_gold(saved)) == [("fièvre", "de", ["437663"]), ("two", "de", ["1", "2"]), ("none", "de", [])]


def test_the_text_of_mentions_can_be_a_column_of_add_info(saved):
    expected = [("Fieber", "de", ["437663"]), ("zwei", "de", ["1", "2"])]
    for column in ("ADD_INFO:original", "original"):
        assert rows(read_gold(saved, columns={"mention": column, "language": "lang"})) == expected
    with pytest.raises(DataError, match="expected a column 'orignal'; did you mean 'original'"):
        read_gold(saved, columns={"mention": "ADD_INFO:orignal"})
    with pytest.raises(
        ConfigError, match="only mention and language can be named by --column, found --column concept_ids"
    ):
        read_gold(saved, columns={"concept_ids": "lang"})


def test_every_kind_of_file_with_decisions_is_the_same_gold(tmp_path, saved):
    write_workbook(DECIDED, tmp_path / "w.xlsx")
    decided = [(mention, ids) for mention, _, ids in rows(read_gold(saved))]
    assert [(mention, ids) for mention, _, ids in rows(read_gold(tmp_path / "w.xlsx"))] == decided


def test_a_file_where_nothing_is_decided_is_refused_and_other_mentions_are_read_as_before(tmp_path):
    write_usagi(DECIDED[3:], tmp_path / "u.csv")
    with pytest.raises(
        DataError, match=r"mappings that people approved, found none among 2 .unreviewed: 1, flagged: 1."
    ):
        read_gold(tmp_path / "u.csv")
    (tmp_path / "m.csv").write_text("mention,concept_ids\nfever,C1\n")
    assert rows(read_gold(tmp_path / "m.csv")) == [("fever", "und", ["C1"])]


# Commands


def test_export_writes_what_usagi_reads_and_says_what_became_of_the_rows(xsap, tmp_path):
    athena = write_athena(
        tmp_path / "a",
        [(9, "Fever", "Condition", "SNOMED", "S", "5", ""), (8, "F", "Condition", "HPO", "", "HP:0001945", "")],
        [(8, 9, "Maps to", "")],
    )
    words = [
        "export",
        linked(tmp_path),
        "--to",
        "usagi",
        "--out",
        tmp_path / "u.csv",
        *(f"--column={field}={name}" for field, name in COLUMNS.items()),
    ]
    code, out, err = xsap(*words)
    assert (code, out) == (2, "")
    assert err.startswith(
        "error: expected a whole number up to 2,147,483,647, a concept of OMOP, as conceptId of 'Fieber'"
    )
    assert not (tmp_path / "u.csv").exists()
    code, out, err = xsap(*words, "--athena", athena)
    assert (code, out) == (0, "")
    assert err.splitlines()[0] == f"{tmp_path / 'u.csv'}: 2 of 3 mappings; equal terms, united: 1"
    assert "concepts mapped to OMOP (v5.0 31-AUG-26): 1" in err
    header, first, second = (tmp_path / "u.csv").read_text().splitlines()
    assert first.startswith("A1,Fieber,7,")
    assert ",9,Fever,Condition,MAPS_TO," in first
    assert second.startswith("B2,=x,-1,")
    assert ",0,Unmapped,," in second
    assert "ADD_INFO:candidate_1" in header
    assert "HP:0001945 Fever (0.973)" in second
    assert xsap(*words, "--athena", athena)[0] == 2  # the file exists


@pytest.mark.parametrize(
    ("to", "name"), [("sssom", "m.tsv"), ("fhir-r4", "m.json"), ("fhir-r5", "m.json"), ("workbook", "m.xlsx")]
)
def test_export_writes_every_other_format(xsap, tmp_path, saved, to, name):
    options = ["--vocabulary", "OMOP"] if to != "workbook" else []
    code, _, err = xsap("export", saved, "--to", to, "--out", tmp_path / name, *options)
    assert (code, err) == (0, f"{tmp_path / name}: 5 of 5 mappings\n")
    if name.endswith(".json"):
        assert json.loads((tmp_path / name).read_text())["resourceType"] == "ConceptMap"


def test_export_needs_the_name_of_the_source_and_refuses_options_of_other_formats(xsap, tmp_path, saved):
    words = ["export", saved, "--to", "source-to-concept-map", "--out", tmp_path / "m.csv"]
    assert "needs --source-vocabulary" in xsap(*words)[2]
    assert "--license is for --to sssom, found --to source-to-concept-map" in xsap(*words, "--license", "x:y")[2]
    code, _, err = xsap(*words, "--source-vocabulary", "WARD")
    assert code == 2
    assert "target_vocabulary_id" in err
    assert "--athena" in err
    assert not (tmp_path / "m.csv").exists()


def test_check_says_what_usagi_and_the_database_would_refuse(xsap, tmp_path, saved):
    code, out, err = xsap("check", saved)
    assert (code, out) == (
        0,
        "FinOMOP: conceptId: expected a concept other than 0 for APPROVED: 1 (found '0' in 'none' (code '3'))\n",
    )
    text = saved.read_text(encoding="utf-8").replace(",", ";").replace("two", "t" * 256)
    saved.write_text("\ufeff" + text, encoding="utf-8")
    code, out, _ = xsap("check", saved)
    assert code == 3
    assert out.splitlines() == [
        "Usagi: byte-order mark at the start: 1 (line 1)",
        "Usagi: semicolons or tabs instead of commas: 1 (line 1)",
        f"FinOMOP: sourceName: expected 1 to 255 characters: 1 (found '{'t' * 40}…' in '{'t' * 40}' (code '2'))",
        "FinOMOP: conceptId: expected a concept other than 0 for APPROVED: 1 (found '0' in 'none' (code '3'))",
        f"database: source_code_description: expected 0 to 255 characters: 1 (found '{'t' * 40}…' in '{'t' * 40}' (code '2'))",
    ]
    athena = write_athena(tmp_path / "a", [(1, "c", "Condition", "SNOMED", "S", "5", "")])
    assert (
        "Usagi: concepts not in CONCEPT in this download, which it sets to INVALID_TARGET: 2"
        in xsap("check", saved, "--athena", athena)[1]
    )


@pytest.mark.parametrize(
    ("mapping", "by", "what"),
    [
        (Mapping("x" * 51, "a"), {"FinOMOP", "database"}, "50 characters"),
        (Mapping("A", "a", (MappedConcept("HP:1"),)), {"Usagi", "database"}, "a concept of OMOP"),
        (Mapping("A", "a", (MappedConcept("1"), MappedConcept("1"))), {"FinOMOP"}, "each concept of a code once"),
        (Mapping("A", "a", columns={"sourceConceptId": "12"}), {"FinOMOP", "database"}, "above 2,000,000,000"),
        (Mapping("A", "a", columns={"sourceConceptClass": "c" * 21}), {"FinOMOP"}, "at most 20 characters"),
        (Mapping("A", "a", frequency=2**31), {"Usagi"}, "sourceFrequency"),
        (Mapping("Z", "other name"), {"Usagi"}, "codes with several names"),
    ],
)  # fmt: skip
def test_each_rule_finds_what_breaks_it(mapping, by, what):
    findings = check_mapping_file(MappingFile([Mapping("Z", "z"), mapping], "Usagi", []))
    assert {finding.by for finding in findings} == by
    assert any(what in finding.what for finding in findings)
