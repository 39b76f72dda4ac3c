"""SSSOM: canonical writing, tolerant reading, and a round trip that loses nothing.

The oracle of written files is a JSON schema of our own, made from the slots and value lists of the specification, with a second reader of
the table (`csv`) and of the metadata (YAML with its types).
"""

import csv
import io
import json
import re
from collections import Counter
from dataclasses import replace
from itertools import takewhile

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.commands import ROOT
from tests.fixtures.examples import examples
from tests.fixtures.mappings import FEVER, OMOP_FEVER, distinct, mappings_of, without_gains
from xsap.errors import ConfigError, DataError
from xsap.exchange.fhir import write_concept_map
from xsap.exchange.mapping import Equivalence, MappedConcept, Mapping, Signature, Status
from xsap.exchange.sssom import JUSTIFICATIONS, read_sssom, write_sssom
from xsap.exchange.sssom_file import (
    OLD_SLOTS,
    QUOTED_METADATA,
    SCALARS,
    STRAY_QUOTES,
    TRAILING_TABS,
    UNDECLARED,
    join_values,
    number_text,
    split_values,
)
from xsap.exchange.sssom_slots import MULTIVALUED, ONLY_1_1, PROPAGATED, REFERENCES, SET_ONLY_1_1, SET_SLOTS, SLOTS
from xsap.exchange.usagi import read_usagi
from xsap.linking.results import Candidate

BUILT_IN = {"owl", "rdf", "rdfs", "semapv", "skos", "sssom", "xsd", "linkml"}
NUMBERS = {"confidence": (0, 1), "similarity_score": (0, 1), "reviewer_agreement": (-1, 1)}
CURIE = r"^[A-Za-z_][A-Za-z0-9_.-]*:[^\s<>\"{}|\\^`]+$"
DATE = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\d$"}


def slot_schema(slot):
    if slot in MULTIVALUED:
        item = {"type": "string", "minLength": 1} | ({"pattern": CURIE} if slot in REFERENCES else {})
        return {"type": "array", "items": item, "minItems": 1}
    if slot in NUMBERS:
        return {"type": "number", "minimum": NUMBERS[slot][0], "maximum": NUMBERS[slot][1]}
    if slot.endswith("_date"):
        return DATE
    if slot == "mapping_justification":
        return {"enum": sorted(JUSTIFICATIONS)}
    if slot.endswith("_type"):
        return {"enum": ["rdfs literal", "skos concept", "owl class"]}
    if slot == "predicate_modifier":
        return {"const": "Not"}
    return {"type": "string", "minLength": 1} | ({"pattern": CURIE} if slot in REFERENCES else {})


SCHEMA = {
    "type": "object",
    "required": ["mapping_set_id", "license"],
    "additionalProperties": False,
    "properties": {slot: slot_schema(slot) for slot in SET_SLOTS}
    | {
        "sssom_version": {"const": "1.1"},
        "curie_map": {"type": "object", "additionalProperties": {"type": "string", "pattern": "^https?://"}},
        "extension_definitions": {"type": "array"},
        "mappings": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["predicate_id", "mapping_justification", "object_id"],
                "additionalProperties": False,
                "properties": {slot: slot_schema(slot) for slot in SLOTS},
                "if": {"properties": {"subject_type": {"const": "rdfs literal"}}, "required": ["subject_type"]},
                "then": {"required": ["subject_label"]},
                "else": {"required": ["subject_id"]},
                "dependentRequired": {},
                "allOf": [
                    {
                        "if": {"anyOf": [{"required": ["review_date"]}, {"required": ["reviewer_agreement"]}]},
                        "then": {"anyOf": [{"required": ["reviewer_id"]}, {"required": ["reviewer_label"]}]},
                    }
                ],
            },
        },
    },
}


def plain_read(path):
    """The set as the specification says that it is read: no repair, no guess."""
    text = path.read_bytes().decode()
    lines = text.split("\n")
    head = list(takewhile(lambda line: line.startswith("#"), lines))
    metadata = yaml.load("\n".join(line[1:] for line in head), Loader=yaml.BaseLoader)
    rows = list(csv.DictReader(io.StringIO(text.split("\n", len(head))[-1], newline=""), delimiter="\t", strict=True))
    return metadata, rows


def as_set(path):
    """The written set as an instance of the schema, without its extensions; each of these is declared."""
    metadata, rows = plain_read(path)
    declared = {each["slot_name"] for each in metadata.pop("extension_definitions", [])}
    mappings = []
    for row in rows:
        mapping = {}
        for slot, cell in row.items():
            if slot not in SLOTS:
                assert slot in declared, slot
            elif cell:
                mapping[slot] = split_values(cell) if slot in MULTIVALUED else float(cell) if slot in NUMBERS else cell
        mappings.append(
            {slot: value for slot, value in metadata.items() if slot in PROPAGATED and slot in SLOTS} | mapping
        )
    assert {slot for row in rows for slot, cell in row.items() if cell} >= declared
    return metadata | {"mappings": mappings}


def check(path):
    jsonschema.Draft202012Validator(SCHEMA).validate(as_set(path))
    metadata, rows = plain_read(path)
    used = {"XSAP"} if metadata.get("extension_definitions") else set()
    for each in as_set(path)["mappings"] + [metadata]:
        for slot in REFERENCES & set(each):
            curies = each[slot] if isinstance(each[slot], list) else [each[slot]]
            used |= {curie.split(":")[0] for curie in curies}
    assert set(metadata.get("curie_map", {})) == used - BUILT_IN
    assert list(metadata.get("curie_map", {})) == sorted(metadata.get("curie_map", {}))
    columns = list(rows[0]) if rows else []
    assert [slot for slot in columns if slot in SLOTS] == sorted(
        (slot for slot in columns if slot in SLOTS), key=SLOTS.index
    )
    ordered = [[row[slot] or "" for slot in columns] for row in rows]
    assert ordered == sorted(ordered)
    for slot in PROPAGATED & set(columns):
        assert len({row[slot] for row in rows}) > 1, f"{slot} can be condensed"
    return as_set(path)["mappings"]


def written(tmp_path, mappings, **options):
    path = tmp_path / "out.sssom.tsv"
    write_sssom(mappings, path, **options)
    return path


# Writing


def test_an_approved_proposal_keeps_its_justification_and_has_a_reviewer(tmp_path):
    mapping = replace(
        FEVER,
        status=Status.APPROVED,
        equivalence=Equivalence.EQUAL,
        decided=Signature("A. Reviewer", 1_796_000_000_000),
    )
    [row] = check(written(tmp_path, [mapping]))
    assert row["subject_id"] == "LOCAL:R50.9"
    assert row["object_id"] == "HP:0001945"
    assert row["mapping_justification"] == "semapv:SemanticSimilarityThresholdMatching"
    assert (row["reviewer_label"], row["review_date"], row["reviewer_agreement"]) == (["A. Reviewer"], "2026-11-30", 1)
    assert (row["similarity_score"], row["confidence"], row["match_string"]) == (0.973, 0.9, ["Pyrexia"])
    assert "author_label" not in row


def test_a_concept_that_a_person_chose_is_manual_with_an_author(tmp_path):
    chosen = MappedConcept("HP:0012378", "Fatigue", "HPO", "")
    mapping = replace(
        FEVER,
        targets=(chosen,),
        status=Status.APPROVED,
        equivalence=Equivalence.WIDER,
        decided=Signature("orcid:0000-0002-1825-0097", 1_796_000_000_000),
        confirmed=Signature("B", 1_796_100_000_000),
    )
    [row] = check(written(tmp_path, [mapping]))
    assert row["mapping_justification"] == "semapv:ManualMappingCuration"
    assert row["predicate_id"] == "skos:broadMatch"
    assert (row["author_id"], row["reviewer_label"]) == (["orcid:0000-0002-1825-0097"], ["B"])
    assert (row["mapping_date"], row["review_date"]) == ("2026-11-30", "2026-12-01")
    assert "similarity_score" not in row, "the score is that of another concept"


def test_no_match_is_no_term_found_with_the_source_that_was_searched(tmp_path):
    nil = Mapping("X1", "xyzzy", status=Status.NO_MATCH, equivalence=Equivalence.UNMATCHED, decided=Signature("A", 0))
    rows = check(written(tmp_path, [FEVER, nil]))
    assert [row["object_id"] for row in rows] == ["HP:0001945", "sssom:NoTermFound"]
    assert rows[1]["object_source"] == "bioregistry:HP"
    assert rows[1]["author_label"] == ["A"]


def test_a_term_without_a_code_is_a_literal(tmp_path):
    [row] = check(written(tmp_path, [replace(FEVER, source_code="")]))
    assert row["subject_type"] == "rdfs literal"
    assert row["subject_label"] == "Fieber"
    assert "subject_id" not in row


def test_a_rejected_proposal_is_not_a_match(tmp_path):
    rejected = replace(FEVER, targets=(), status=Status.REJECTED, decided=Signature("A", 0))
    [row] = check(written(tmp_path, [rejected]))
    assert (row["predicate_modifier"], row["object_id"]) == ("Not", "HP:0001945")


@pytest.mark.parametrize("status", [Status.UNREVIEWED, Status.FLAGGED])
def test_what_is_undecided_has_neither_reviewer_nor_author(tmp_path, status):
    people = {"decided": Signature("A", 5), "confirmed": Signature("B", 6)}
    mapping = replace(FEVER, status=status, equivalence=Equivalence.UNREVIEWED, **people)
    [row] = check(written(tmp_path, [mapping]))
    assert row["predicate_id"] == "skos:closeMatch"
    assert not {"reviewer_label", "author_label"} & set(row)


def test_a_score_outside_of_0_to_1_is_left_blank(tmp_path):
    [row] = check(written(tmp_path, [replace(FEVER, score=-0.2, confidence=None)]))
    assert not {"similarity_score", "confidence"} & set(row)


def test_written_bytes_do_not_depend_on_the_order(tmp_path):
    mappings = [FEVER, OMOP_FEVER, Mapping("a", "b"), Mapping("", "c")]
    first = written(tmp_path, mappings).read_bytes()
    assert written(tmp_path, mappings[::-1]).read_bytes() == first
    assert b"\r" not in first
    assert not first.startswith(b"\xef")


def test_condensed_slots_stand_once_in_the_metadata(tmp_path):
    path = written(tmp_path, [FEVER, replace(FEVER, source_code="2", source_name="Febris")])
    metadata, rows = plain_read(path)
    assert metadata["mapping_tool"] == "xsap"
    assert metadata["object_source"] == "bioregistry:HP"
    assert not {"mapping_tool", "object_source", "subject_source"} & set(rows[0])
    mixed = written(tmp_path, [FEVER, replace(FEVER, source_code="2", candidates=(), score=None, confidence=None)])
    metadata, rows = plain_read(mixed)
    assert "mapping_tool" not in metadata
    assert [row["mapping_tool"] for row in rows] == ["", "xsap"]


def test_version_1_0_has_no_slot_of_1_1(tmp_path):
    mapping = replace(FEVER, status=Status.APPROVED, equivalence=Equivalence.EQUAL, decided=Signature("A", 86_400_000))
    path = written(tmp_path, [mapping], version="1.0")
    metadata, [row] = plain_read(path)
    assert not ONLY_1_1 & set(row)
    assert not {*SET_ONLY_1_1, "sssom_version"} & set(metadata)
    assert without_gains(read_sssom(path)[0], [mapping]) == distinct([mapping])


def test_an_unknown_vocabulary_is_asked_for_and_taken(tmp_path):
    own = replace(FEVER, targets=(MappedConcept("77", "fever", "MYVOC", "7 7"),), candidates=())
    with pytest.raises(ConfigError, match=r"no URI is known for the vocabulary 'MYVOC' .*--prefix MYVOC=URI"):
        written(tmp_path, [own])
    assert not (tmp_path / "out.sssom.tsv").exists()
    [row] = check(written(tmp_path, [own], prefixes={"MYVOC": "https://example.org/my/"}))
    assert row["object_id"] == "MYVOC:7%207"


def test_concepts_without_a_vocabulary_are_asked_for_and_taken(tmp_path):
    own = replace(FEVER, targets=(MappedConcept("437663", "Fever"),), candidates=())
    with pytest.raises(ConfigError, match="--vocabulary OMOP"):
        written(tmp_path, [own])
    [row] = check(written(tmp_path, [own], vocabulary="OMOP"))
    assert row["object_id"] == "OMOP:437663"


def test_what_can_not_be_written_is_counted(tmp_path):
    counts = write_sssom([FEVER, Mapping("", "")], tmp_path / "x.sssom.tsv")
    assert (counts.rows_in, counts.kept, counts.dropped) == (2, 1, {"neither code nor name": 1})


@pytest.mark.parametrize(
    ("number", "text"),
    [(1.0, "1"), (0.0, "0"), (-0.0, "0"), (0.9734, "0.973"), (0.0005, "0.001"), (0.5, "0.5"), (1e-9, "0"), (-1, "-1")],
)
def test_numbers_have_up_to_three_decimals(number, text):
    assert number_text(number) == text


@given(st.lists(st.text(alphabet='ab|\\"', min_size=1)))
def test_values_of_a_cell_come_back(values):
    assert split_values(join_values(values)) == values


def test_values_are_split_as_in_the_specification():
    assert split_values("Alice\\\\Bob|Charlie\\\\|David\\\\\\|Eve\\\\") == ["Alice\\Bob", "Charlie\\", "David\\|Eve\\"]
    assert split_values("C:\\new|x") == ["C:\\new", "x"]


# Round trip


@settings(max_examples=examples(150))
@given(mappings=mappings_of(), version=st.sampled_from(["1.0", "1.1"]))
def test_round_trip_loses_nothing(tmp_path_factory, mappings, version):
    path = tmp_path_factory.mktemp("sssom") / "x.sssom.tsv"
    prefixes = {"My Voc": "https://example.org/my/"}
    write_sssom(mappings, path, version=version, prefixes=prefixes, vocabulary="OMOP")
    if version == "1.1":
        check(path)
    read, counts, repairs = read_sssom(path)
    assert repairs == Counter()
    assert without_gains(read, mappings) == distinct(mappings)
    assert counts.dropped == {}
    again = path.with_name("again.sssom.tsv")
    write_sssom(read, again, version=version, prefixes=prefixes, vocabulary="OMOP")
    assert again.read_bytes() == path.read_bytes()


def test_round_trip_of_the_other_direction_keeps_slots_that_a_mapping_has_not(tmp_path):
    path = tmp_path / "in.sssom.tsv"
    path.write_text(
        "#curie_map:\n#  HP: http://purl.obolibrary.org/obo/HP_\n#  MP: http://purl.obolibrary.org/obo/MP_\n"
        "#license: https://example.org/l\n#mapping_set_id: https://example.org/s\n#mapping_provider: https://example.org/p\n"
        "subject_id\tsubject_label\tpredicate_id\tobject_id\tmapping_justification\tsee_also\tmapping_date\n"
        "HP:0000175\tCleft palate\tskos:exactMatch\tMP:0000111\tsemapv:LexicalMatching\thttps://a|https://b\t2026-01-02\n",
        encoding="utf-8",
    )
    [mapping], _, repairs = read_sssom(path)
    assert repairs == Counter()
    assert (mapping.source_code, mapping.status, mapping.equivalence) == (
        "HP:0000175",
        Status.UNREVIEWED,
        Equivalence.EQUAL,
    )
    assert mapping.columns["sssom:mapping_justification"] == "semapv:LexicalMatching"
    [row] = check(written(tmp_path, [mapping]))
    assert row["mapping_justification"] == "semapv:LexicalMatching"
    assert row["see_also"] == ["https://a", "https://b"]
    assert row["mapping_provider"] == "https://example.org/p"
    assert row["mapping_date"] == "2026-01-02"


# Reading

HEAD = (
    "#curie_map:\n#  HP: http://purl.obolibrary.org/obo/HP_\n#  L: https://example.org/l/\n"
    "#license: https://example.org/license\n#mapping_set_id: https://example.org/set\n"
)
COLUMNS = "subject_id\tsubject_label\tpredicate_id\tobject_id\tmapping_justification"
ROW = "L:1\tFieber\tskos:exactMatch\tHP:0001945\tsemapv:ManualMappingCuration"


def read(tmp_path, text, name="in.sssom.tsv"):
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_sssom(path)


@pytest.mark.parametrize(
    ("change", "repair"),
    [
        (lambda head, body: head.replace("\n", "\t\t\t\t\n") + body, TRAILING_TABS),
        (lambda head, body: head.replace("#", "# ") + body, None),
        (lambda head, body: (head + body).replace("\n", "\r\n"), None),
        (lambda head, body: "\ufeff" + head + body, None),
        (lambda head, body: head.replace("#license: https://example.org/license", '"#license: ""https://example.org/license"""') + body, QUOTED_METADATA),
        (lambda head, body: head + "#creator_id: orcid:0000-0002-1825-0097\n" + body, SCALARS),
        (lambda head, body: head + body.replace("skos:exactMatch", "skos:exactMatch\t").replace("predicate_id", "predicate_id\tcomment").replace("\t\t", '\t"a 5" long\t'), STRAY_QUOTES),
        (lambda head, body: head.replace("#  L: https://example.org/l/\n", "") + body, UNDECLARED),
    ],
)  # fmt: skip
def test_a_file_that_people_have_is_read_and_the_repair_is_counted(tmp_path, change, repair):
    [mapping], counts, repairs = read(tmp_path, change(HEAD, f"{COLUMNS}\n{ROW}\n"))
    assert mapping.targets == (MappedConcept("HP:0001945", "", "HP", "HP:0001945"),)
    assert mapping.status is Status.APPROVED
    assert set(repairs) == ({repair} if repair else set())
    assert counts.kept == 1


def test_metadata_in_a_file_beside_is_found(tmp_path):
    (tmp_path / "in.sssom.yml").write_text(HEAD.replace("#", ""), encoding="utf-8")
    [mapping], _, repairs = read(tmp_path, f"{COLUMNS}\n{ROW}\n")
    assert repairs == Counter()
    assert mapping.source_name == "Fieber"


def test_slots_before_1_0_are_renamed(tmp_path):
    columns = "subject_id\tpredicate_id\tobject_id\tmatch_type\tsemantic_similarity_score\tmatch_term_type"
    rows = "L:1\tskos:closeMatch\tHP:0001945\tSemanticSimilarity\t0.75\tConceptMatch\n"
    [mapping], _, repairs = read(tmp_path, f"{HEAD}{columns}\n{rows}")
    assert mapping.score == 0.75
    assert mapping.columns["sssom:subject_type"] == "skos concept"
    assert repairs == Counter({OLD_SLOTS: 3})
    with pytest.raises(DataError, match="expected one of Lexical, .* in the column match_type, found 'Odd'"):
        read(tmp_path, f"{HEAD}{columns}\n{rows.replace('SemanticSimilarity', 'Odd')}")


def test_bad_values_are_counted_and_the_row_is_kept(tmp_path):
    row = f"{ROW.replace('ManualMappingCuration', 'Magic')}\t1.7\t30.11.2026"
    [mapping], counts, repairs = read(tmp_path, f"{HEAD}{COLUMNS}\tconfidence\tmapping_date\n{row}\n")
    assert sorted(repairs.values()) == [1, 1, 1]
    assert mapping.confidence is None
    assert counts.kept == 1


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("\t\tskos:exactMatch\tHP:1\tsemapv:LexicalMatching", "neither subject_id nor subject_label"),
        ("sssom:NoTermFound\t\tskos:exactMatch\tHP:1\tsemapv:LexicalMatching", "neither subject_id nor subject_label"),
        ("L:1\ta\tskos:exactMatch\t\tsemapv:LexicalMatching", "no object_id"),
        ("L:1\ta\t\tHP:1\tsemapv:LexicalMatching", "no predicate_id"),
    ],
)
def test_rows_that_map_nothing_are_dropped_by_reason(tmp_path, row, reason):
    mappings, counts, _ = read(tmp_path, f"{HEAD}{COLUMNS}\n{ROW}\n{row}\n")
    assert len(mappings) == 1
    assert (counts.rows_in, dict(counts.dropped)) == (2, {reason: 1})


def test_rows_of_one_subject_are_one_mapping_with_several_targets(tmp_path):
    other = ROW.replace("HP:0001945", "HP:0012378")
    narrower = other.replace("exact", "narrow")
    mappings, _, _ = read(tmp_path, f"{HEAD}{COLUMNS}\n{ROW}\n{other}\n{narrower}\n")
    assert [len(mapping.targets) for mapping in mappings] == [2, 1]


def test_a_reviewer_who_disagrees_rejects(tmp_path):
    columns = f"{COLUMNS}\treviewer_id\treviewer_agreement"
    lexical = ROW.replace("ManualMappingCuration", "LexicalMatching")
    mappings, _, _ = read(
        tmp_path, f"{HEAD}{columns}\n" + "".join(f"{lexical}\torcid:1\t{number}\n" for number in (-0.9, 0.0, 0.9))
    )
    assert [mapping.status for mapping in mappings] == [Status.REJECTED, Status.UNREVIEWED, Status.APPROVED]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "expected an SSSOM table with the columns subject_id, predicate_id and object_id, found the columns"),
        (f"#curie_map: [\n{COLUMNS}\n{ROW}\n", r"in\.sssom\.tsv:1: expected metadata in YAML"),
        (f"#just words\n{COLUMNS}\n{ROW}\n", "expected metadata as 'slot: value'"),
        (f"#curie_map: x\n{COLUMNS}\n{ROW}\n", "expected curie_map as 'prefix: IRI' lines"),
        (f"{HEAD}{COLUMNS}\n{ROW}\textra\tcells\n", r"in\.sssom\.tsv:7: expected 5 field"),
        ("", "expected an SSSOM table"),
        (HEAD, "expected an SSSOM table"),
        (b"PK\x03\x04abc", "found a zip file"),
        (f"#a: {'[' * 3000}\n{COLUMNS}\n{ROW}\n", "expected metadata in YAML"),
    ],
)  # fmt: skip
def test_what_is_no_sssom_file_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path, text)
    assert "\n" not in str(error.value)


def test_candidates_come_back_as_they_were(tmp_path):
    candidate = Candidate("C0015967", "Fever", "fièvre", 0.5, "fr", "MSH", ("T184",), ("MSH:D005334",), 0.25, "accents")
    mapping = replace(FEVER, candidates=(candidate, *FEVER.candidates))
    [read_back], _, _ = read_sssom(written(tmp_path, [mapping]))
    assert read_back.candidates == mapping.candidates


def test_documented_output_is_what_comes(tmp_path):
    page = (ROOT / "docs" / "sssom.md").read_text(encoding="utf-8")
    (tmp_path / "terms.csv").write_text(re.findall(r"```csv\n(.*?)```", page, re.DOTALL)[0], encoding="utf-8")
    mappings, _ = read_usagi(tmp_path / "terms.csv")
    path = written(tmp_path, mappings, vocabulary="OMOP")
    assert re.findall(r"```text\n(.*?)```", page, re.DOTALL) == [path.read_text(encoding="utf-8")]
    element = json.loads(re.findall(r"```json\n(.*?)```", (ROOT / "docs" / "fhir.md").read_text("utf-8"), re.DOTALL)[0])
    write_concept_map(mappings, tmp_path / "terms.json", vocabulary="OMOP")
    found = json.loads((tmp_path / "terms.json").read_text("utf-8"))["group"][0]["element"][0]
    for each in (found, *found["target"]):
        each.pop("extension")
    assert found == element
