"""Malformed rows of every source: refused with the way out, or skipped, counted and listed."""

import json

import pytest

from tests.fixtures.fuzz_inputs import INPUTS
from xsap.terms.terminology import Terminology

MARKED = "malformed: see the file of rejects"
DESCRIPTIONS = "Snapshot/Terminology/sct2_Description_Snapshot-en_INT_20200101.txt"
MEMBERS = "Snapshot/Refset/Language/der2_cRefset_LanguageSnapshot-en_INT_20200101.txt"
BAD_NODE = b'{"type": "CLASS", "id": "x:1", "lbl": "half", "meta": {"synonyms": [{"pred": 3}]}},'
BAD_ROW = b'{"cui": {"value": 7}, "label": {"value": "x", "xml:lang": "de"}},'
CONCEPT_ROW = "\t".join(["{}", "Pain", "Condition", "SNOMED", "X", "S", "1", "19700101", "20991231", ""]).encode()
# name: input, file, what is put into it, the line that it becomes (or what precedes it in a line), command and options, counted rows
MALFORMED = {
    "umls": ("umls", "MRCONSO.RRF", b"C1|ENG", 2, ["umls", "."], 1),
    "omop, short": ("omop", "CONCEPT.csv", b"7\tPain", 3, ["omop", "."], 1),
    "omop, concept without a number": ("omop", "CONCEPT.csv", CONCEPT_ROW.replace(b"{}", b"x"), 2, ["omop", "."], 1),
    "omop, not UTF-8": ("omop", "CONCEPT_SYNONYM.csv", b"1\t\xe8\t4180186", 2, ["omop", "."], 1),
    "omop, mapping without a number": (
        "omop",
        "CONCEPT_RELATIONSHIP.csv",
        b"2\tx\tMaps to\t19700101\t20991231\t",
        2,
        ["omop", "."],
        0,
    ),
    "omop, version": ("omop", "VOCABULARY.csv", b"ICD10", 2, ["omop", "."], 0),
    "snomed, long": ("snomed", DESCRIPTIONS, b"\t" * 9, 3, ["snomed", "."], 1),
    "snomed, neither active nor not": ("snomed", DESCRIPTIONS, b"13\t20200101\t2" + b"\t" * 6, 2, ["snomed", "."], 1),
    "snomed, without a date": ("snomed", DESCRIPTIONS, b"13\tnever\t1" + b"\t" * 6, 4, ["snomed", "."], 1),
    "snomed, member": ("snomed", MEMBERS, b"", 2, ["snomed", "."], 0),
    "obo, synonym": ("obo", "hp.obo", b"synonym: no quotes", 6, ["hpo", "--obo", "hp.obo"], 1),
    "obo, term without id": ("obo", "hp.obo", b"[Term]\nname: none", 3, ["ontology", "hp.obo"], 1),
    "obographs": ("obographs", "hp.json", BAD_NODE, b'"nodes": [', ["ontology", "hp.json"], 1),
    "babelon": ("babelon", "tables/hp-de.babelon.tsv", b"en\tde", 2, ["hpo", "--obo", "hp.obo", "--translations", "tables"], 1),
    "robot": ("babelon", "tables/hp-es.synonyms.tsv", b"HP:1\ta\tb\tc", 3, ["hpo", "--obo", "hp.obo", "--translations", "tables"], 1),
    "tsv": ("tsv", "a.tsv", b"C1\ten\tpain\t\t\tmore", 2, ["table", "a.tsv"], 1),
    "csv": ("csv", "a.csv", b"C1,en,pain,more", 3, ["table", "a.csv"], 1),
    "tsv, kind": ("tsv", "a.tsv", b"C1\ten\tpain\tbest\t", 3, ["table", "a.tsv"], 1),
    "jsonl": ("jsonl", "a.jsonl", b'{"concept_id": "C3"}', 2, ["table", "a.jsonl"], 1),
    "jsonl, no JSON": ("jsonl", "a.jsonl", b'{"concept_id": ', 1, ["table", "a.jsonl"], 1),
    "jsonl, concept": ("scispacy", "a.jsonl", b'{"concept_id": [], "canonical_name": {}}', 2, ["table", "a.jsonl", "--language", "en"], 1),
    "id||name": ("id-names", "a.txt", b"C1||a||b", 2, ["table", "a.txt"], 1),
    "bitext": ("bitext", "en-de.txt", b"a b c", 2, ["bitext", "en-de.txt", "--languages", "en,de"], 1),
    "wikidata, line": ("wikidata", "dump.json", b'{"id": "Q9", ', 3, ["wikidata", "dump.json", "--key", "umls"], 1),
    "wikidata, entity": ("wikidata", "dump.json", b'{"claims": {"P2892": 3}},', 2, ["wikidata", "dump.json", "--key", "umls"], 1),
    "wikidata, no JSON": ("wikidata", "dump.json", b'{"P2892" "claims"},', 3, ["wikidata", "dump.json", "--key", "umls"], 1),
    "sparql": ("sparql", "rows.json", BAD_ROW, b'"bindings": [', ["wikidata", "rows.json", "--key", "umls"], 1),
}  # fmt: skip


def counts_of(report):
    """The lines of a report that count rows: what → how many."""
    lines = [line.rsplit(maxsplit=1) for line in report.splitlines()[1:]]
    return {what.strip(): int(n.replace(",", "")) for what, n in lines[: lines.index([])]}


@pytest.fixture(params=MALFORMED)
def malformed(request, tmp_path, monkeypatch):
    """Folders `whole` and `bad`, which has one malformed row; its file, its line, the command, and how many rows are counted as dropped."""
    reader, name, row, place, words, counted = MALFORMED[request.param]
    for folder in ("whole", "bad"):
        for file, data in INPUTS[reader]().items():
            if reader == "id-names":
                data = data.replace(b"C1|C2||so called", b"C2||so called")
            elif reader == "bitext":
                data = data.replace(b"the die\n", b"")
            if folder == "bad" and file == name:
                if isinstance(place, bytes):
                    data = data.replace(place, place + row, 1)
                    json.loads(data)
                else:
                    lines = data.split(b"\n")
                    data = b"\n".join([*lines[: place - 1], row, *lines[place - 1 :]])
            path = tmp_path / folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return tmp_path, name, place, words, counted


def test_malformed_row_is_refused_with_its_place_and_the_option_that_skips_it(malformed, prepare, monkeypatch):
    folder, name, place, words, _ = malformed
    monkeypatch.chdir(folder / "bad")
    code, out, err = prepare(*words, "--out", folder / "out")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{name}:{place}: " in err if isinstance(place, int) else f"{name}: $" in err
    listing = folder / "out.rejects.tsv"
    assert err.endswith(f"(1 malformed row, all listed in {listing}; skip up to N such rows with --max-rejects N)\n")
    assert not (folder / "out").exists()


def test_malformed_row_is_skipped_counted_and_listed_and_no_other_row_is_touched(malformed, prepare, monkeypatch):
    folder, name, place, words, counted = malformed
    reports = {}
    for case in ("whole", "bad"):
        monkeypatch.chdir(folder / case)
        code, out, err = prepare(*words, "--out", folder / f"{case}-out", "--max-rejects", "1")
        assert (code, err) == (0, "")
        reports[case] = counts_of(out)
    whole, bad = (Terminology.load(folder / f"{case}-out") for case in ("whole", "bad"))
    if not name.endswith(".txt"):  # where the line number is a concept's identifier
        assert bad.names.equals(whole.names)
        assert bad.concepts.equals(whole.concepts)
    assert reports["bad"].pop(MARKED, 0) == counted
    for what in ("names in", "dropped"):
        reports["bad"][what] -= counted
    assert reports["bad"] == reports["whole"]
    assert not (folder / "whole-out.rejects.tsv").exists()
    header, row = (folder / "bad-out.rejects.tsv").read_text(encoding="utf-8").splitlines()
    assert header == "file\tline\toffset\treason"
    file, line, _, reason = row.split("\t")
    assert file == name.split("/")[-1]
    assert line == str(place) if isinstance(place, int) else line.startswith("$.")
    assert reason.startswith(("expected ", "$.", "a name has no kind"))


def test_far_too_many_malformed_rows_stop_the_reading_early(tmp_path, prepare):
    (tmp_path / "a.csv").write_text("concept_id,language,name\n" + "C1,en,pain,more\n" * 5000)
    code, _, err = prepare("table", tmp_path / "a.csv", "--out", tmp_path / "out", "--max-rejects", "10")
    assert code == 2
    assert f"(110 malformed rows so far, all listed in {tmp_path}/out.rejects.tsv; --max-rejects allows 10; skip" in err
