"""Definitions and relations to broader concepts, as every reader finds them, and what work on terminologies makes of them."""

import json

import pytest

from data_prep.ontology import read_hpo, read_ontology
from xsap.terms.terminology import Terminology

OBO = r"""[Term]
id: HP:0
name: All

[Term]
id: HP:1
name: Fever
alt_id: HP:11
def: "Body temperature\, \"raised\"." [HPO:x "a \"b\""] {comment="x"}
is_a: HP:0 {source="y"} ! All
is_a: HP:9 ! Gone

[Term]
id: HP:11
name: Raised temperature
def: "The same." []
is_obsolete: true

[Term]
id: HP:2
name: High fever
def: no quotes
is_a: HP:11 ! Fever, merged
is_a: HP:1
is_a: MP:5 ! of another ontology

[Term]
id: HP:9
name: Gone
def: "Was here." []
is_a: HP:0
is_obsolete: true

[Term]
id: MP:5
name: Mouse fever
def: "In mice." []
"""
BABELON = """subject_id\tsource_language\ttranslation_language\tpredicate_id\tsource_value\ttranslation_status\ttranslation_value
HP:1\ten\tde\trdfs:label\tFever\tOFFICIAL\tFieber
HP:1\ten\tde\tIAO:0000115\tA definition\tOFFICIAL\t" Erhöhte  Temperatur "
HP:2\ten\tde\tIAO:0000115\tA definition\tNOT_TRANSLATED\tA definition
HP:2\ten\tde\trdfs:comment\tA comment\tOFFICIAL\tEin Kommentar
"""


def definitions(terminology):
    return [tuple(row.values()) for row in terminology.definitions.to_pylist()]


def relations(terminology):
    return [tuple(row.values()) for row in terminology.relations.to_pylist()]


def test_obo_definitions_and_parents_are_kept_or_counted(tmp_path):
    (tmp_path / "hp.obo").write_text(OBO)
    tables = tmp_path / "tables"
    tables.mkdir()
    (tables / "hp-de.babelon.tsv").write_text(BABELON)
    terminology, counts = read_hpo(tmp_path / "hp.obo", tables)
    assert definitions(terminology) == [
        ("HP:1", "de", "Erhöhte Temperatur", "HPO-translations"),
        ("HP:1", "en", 'Body temperature, "raised".', "HPO"),
    ]
    assert relations(terminology) == [("HP:1", "HP:0"), ("HP:2", "HP:1")]
    assert terminology.metadata["definitions"] == {
        "in": 7,
        "kept": 2,
        "dropped": {
            "definition without quotes": 1,
            "obsolete concept": 1,
            "concept of another ontology": 1,
            "no translation": 1,
            "definition of a merged concept": 1,
        },
    }
    assert terminology.metadata["relations"] == {
        "in": 6,
        "kept": 2,
        "dropped": {"child is not kept": 1, "parent is not kept": 2, "same relation": 1},
    }
    assert counts.dropped["a comment or another property, not a name"] == 1
    terminology.save(tmp_path / "folder")
    saved = Terminology.load(tmp_path / "folder")
    assert (definitions(saved), relations(saved)) == (definitions(terminology), relations(terminology))


OWL = """<?xml version="1.0"?>
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:owl="http://www.w3.org/2002/07/owl#"
  xmlns:rdfs="http://www.w3.org/2000/01/rdf-schema#" xmlns:skos="http://www.w3.org/2004/02/skos/core#"
  xmlns:obo="http://purl.obolibrary.org/obo/">
<owl:Class rdf:about="http://purl.obolibrary.org/obo/X_0"><rdfs:label>All</rdfs:label></owl:Class>
<owl:Class rdf:about="http://purl.obolibrary.org/obo/X_1"><rdfs:label>Fever</rdfs:label>
  <rdfs:subClassOf rdf:resource="http://purl.obolibrary.org/obo/X_0"/>
  <rdfs:subClassOf><owl:Restriction><owl:onProperty rdf:resource="http://purl.obolibrary.org/obo/p_1"/></owl:Restriction></rdfs:subClassOf>
  <obo:IAO_0000115 xml:lang="de">Erhöhte Temperatur.</obo:IAO_0000115></owl:Class>
<owl:Class rdf:about="http://purl.obolibrary.org/obo/X_2"><rdfs:label>High fever</rdfs:label>
  <rdfs:subClassOf><owl:Class rdf:about="http://purl.obolibrary.org/obo/X_1"/></rdfs:subClassOf></owl:Class>
<skos:Concept rdf:about="http://purl.obolibrary.org/obo/X_3"><skos:prefLabel>Low fever</skos:prefLabel>
  <skos:broader rdf:resource="http://purl.obolibrary.org/obo/X_1"/><skos:definition>Little.</skos:definition>
  <skos:narrower rdf:resource="http://purl.obolibrary.org/obo/X_2"/></skos:Concept>
</rdf:RDF>"""


def test_owl_and_skos_definitions_and_parents(tmp_path):
    (tmp_path / "x.owl").write_text(OWL)
    terminology, _ = read_ontology(tmp_path / "x.owl")
    assert definitions(terminology) == [("X:1", "de", "Erhöhte Temperatur.", "x"), ("X:3", "en", "Little.", "x")]
    assert relations(terminology) == [("X:1", "X:0"), ("X:2", "X:1"), ("X:2", "X:3"), ("X:3", "X:1")]


def test_obographs_definitions_and_parents(tmp_path):
    iri = "http://purl.obolibrary.org/obo/X_{}".format
    nodes = [{"id": iri(i), "type": "CLASS", "lbl": f"name {i}"} for i in range(3)]
    nodes[1]["meta"] = {"definition": {"val": "One.", "xrefs": []}}
    edges = [
        {"sub": iri(1), "pred": "is_a", "obj": iri(0)},
        {"sub": iri(2), "pred": "http://purl.obolibrary.org/obo/BFO_0000050", "obj": iri(0)},
        {"sub": iri(2), "pred": "is_a", "obj": iri(1)},
    ]
    (tmp_path / "x.json").write_text(json.dumps({"graphs": [{"nodes": nodes, "edges": edges}]}))
    terminology, _ = read_ontology(tmp_path / "x.json")
    assert definitions(terminology) == [("X:1", "en", "One.", "x")]
    assert relations(terminology) == [("X:1", "X:0"), ("X:2", "X:1")]


def test_circles_are_kept_and_said(tmp_path):
    circle = "[Term]\nid: A:{0}\nname: n{0}\nis_a: A:{1}\nis_a: A:{0}\n"
    (tmp_path / "a.obo").write_text("\n".join(circle.format(i, (i + 1) % 3) for i in range(3)))
    terminology, _ = read_ontology(tmp_path / "a.obo")
    assert relations(terminology) == [("A:0", "A:1"), ("A:1", "A:2"), ("A:2", "A:0")]
    assert terminology.metadata["relations"] == {
        "in": 6,
        "kept": 3,
        "dropped": {"relation of a concept with itself": 3},
        "circular": 3,
        "examples": ["A:0", "A:1", "A:2"],
    }


def test_a_report_counts_definitions_and_relations(tmp_path, run_here):
    (tmp_path / "hp.obo").write_text(OBO)
    done = run_here("-m", "data_prep", "hpo", "--obo", tmp_path / "hp.obo", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [" ".join(line.split()) for line in lines[lines.index("") + 1 :]][4:] == [
        "definitions in 5",
        "kept 1",
        "dropped 4",
        "concept of another ontology 1",
        "definition of a merged concept 1",
        "definition without quotes 1",
        "obsolete concept 1",
        "relations in 6",
        "kept 2",
        "dropped 4",
        "parent is not kept 2",
        "child is not kept 1",
        "same relation 1",
    ]


def test_a_part_of_a_terminology_bridges_the_concepts_that_are_left_out(tmp_path):
    (tmp_path / "x.obo").write_text(
        "".join(f'[Term]\nid: X:{i}\nname: name {i}\nis_a: X:{i - 1}\ndef: "d{i}" []\n\n' for i in range(4))
        + "[Term]\nid: X:9\nname: name 9\n"
    )
    terminology, _ = read_ontology(tmp_path / "x.obo")
    names = terminology.names.filter([i not in ("X:1", "X:2") for i in terminology.names["concept_id"].to_pylist()])
    terminology = Terminology(names.set_column(4, "source", [["x", "y", "y"]]), terminology.concepts, definitions=terminology.definitions, relations=terminology.relations)  # fmt: skip
    part = terminology.select(languages=["en"])
    assert relations(part) == [("X:3", "X:0")]
    assert [row[0] for row in definitions(part)] == ["X:0", "X:3"]
    assert relations(terminology.select(sources=["x"])) == []


@pytest.mark.parametrize("table", ["definitions", "relations"])
def test_a_folder_with_a_damaged_table_is_refused(tmp_path, table, run_here):
    (tmp_path / "hp.obo").write_text(OBO)
    terminology, _ = read_hpo(tmp_path / "hp.obo")
    terminology.save(tmp_path / "folder")
    file = tmp_path / "folder" / f"{table}.parquet"
    file.write_bytes(file.read_bytes()[:-9] + b"123456789")
    done = run_here("-m", "data_prep", "describe", tmp_path / "folder")
    assert done.returncode == 2
    assert f"{table}.parquet" in done.stderr


def rrf(folder, **files):
    for name, rows in files.items():
        (folder / f"{name}.RRF").write_text("".join("|".join(row) + "|\n" for row in rows))


def consolidated(cui, name, source="ATC", language="ENG"):
    return (cui, language, "P", f"L{cui}", "PF", f"S{cui}", "Y", f"A{cui}", "", "", "", source, "PT", cui, name, "0", "N", "")  # fmt: skip


def related(one, rel, two, rela="", source="ATC", suppress="N"):
    return (one, f"A{one}", "AUI", rel, two, f"A{two}", "AUI", rela, "R1", "", source, source, "", "", suppress, "")


UMLS = {
    "MRCONSO": [*(consolidated(f"C{i}", f"name {i}") for i in range(1, 6)), consolidated("C6", "Name 6", "MSHGER", "GER")],
    "MRDEF": [
        ("C1", "A1", "AT1", "", "ATC", "  The\tfirst. ", "N", ""),
        ("C1", "A1", "AT2", "", "MSHGER", "Das erste.", "N", ""),
        ("C1", "A1", "AT3", "", "ATC", "Suppressed.", "O", ""),
        ("C9", "A9", "AT4", "", "ATC", "Of no concept.", "N", ""),
    ],
    "MRREL": [
        # as in ATC: the group has the beta blockers as its child, and they have it as their parent
        related("C1", "CHD", "C2", "isa"),
        related("C2", "PAR", "C1", "inverse_isa"),
        related("C3", "PAR", "C2"),  # of a source without RELA
        related("C4", "PAR", "C1", "part_of"),
        related("C5", "RB", "C1", "inverse_isa", "RXNORM"),
        related("C5", "RB", "C2", "", "MTH"),
        related("C3", "RN", "C4", "isa", "RXNORM"),
        related("C4", "CHD", "C4"),
        related("C4", "PAR", "C8"),
        related("C4", "CHD", "C5", "isa", suppress="O"),
        related("C1", "SIB", "C2"),
    ],
    "MRSAB": [
        ("", "", f"{source}2026", source, "", "", "", "", "", "", "", "", "", "0", "", "", "", "", "", language, "UTF-8", "Y", "Y", "", "")
        for source, language in (("ATC", "ENG"), ("MSHGER", "GER"))
    ],
}  # fmt: skip


def test_umls_definitions_and_hierarchy(tmp_path, prepare):
    rrf(tmp_path, **UMLS)
    code, out, err = prepare("umls", tmp_path, "--out", tmp_path / "out", "--hierarchy")
    assert (code, err) == (0, "")
    terminology = Terminology.load(tmp_path / "out")
    assert definitions(terminology) == [("C1", "de", "Das erste.", "MSHGER"), ("C1", "en", "The first.", "ATC")]
    assert relations(terminology) == [("C2", "C1"), ("C3", "C2"), ("C4", "C3"), ("C5", "C1")]
    assert terminology.metadata["definitions"] == {
        "in": 4,
        "kept": 2,
        "dropped": {"suppressed": 1, "definition of a concept that is not kept": 1},
    }
    assert terminology.metadata["relations"] == {
        "in": 10,
        "kept": 4,
        "dropped": {
            "suppressed": 1,
            "not a relation of kinds": 2,
            "relation of a concept with itself": 1,
            "parent is not kept": 1,
            "same relation": 1,
        },
    }
    assert "relations in" in out


def test_umls_hierarchy_is_read_only_if_asked_for_and_of_chosen_sources_and_languages(tmp_path, prepare):
    rrf(tmp_path, **UMLS)
    assert prepare("umls", tmp_path, "--out", tmp_path / "plain")[0] == 0
    assert Terminology.load(tmp_path / "plain").relations.num_rows == 0
    words = ("--hierarchy", "--sources", "ATC", "--languages", "en")
    assert prepare("umls", tmp_path, "--out", tmp_path / "chosen", *words)[0] == 0
    chosen = Terminology.load(tmp_path / "chosen")
    assert (definitions(chosen), relations(chosen)) == ([("C1", "en", "The first.", "ATC")], [("C2", "C1"), ("C3", "C2")])  # fmt: skip
    assert chosen.metadata["relations"]["dropped"]["source not chosen"] == 3
    (tmp_path / "MRREL.RRF").unlink()
    code, _, err = prepare("umls", tmp_path, "--out", tmp_path / "no", "--hierarchy")
    assert code == 2
    assert "the hierarchy needs MRREL.RRF" in err


def rf2(folder, name, header, rows):
    file = folder / "Snapshot" / "Terminology" / f"sct2_{name}_INT_20260901.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join("\t".join(row) + "\r\n" for row in [header.split(), *rows]))


def described(number, active, concept, term, kind, language="en", date="20260901"):
    return (f"{number}", date, active, "m", concept, language, kind, term, "c")


def test_snomed_text_definitions_and_inferred_is_a(tmp_path, prepare):
    columns = "id effectiveTime active moduleId conceptId languageCode typeId term caseSignificanceId"
    concepts = [(f"{i}", "20260901", "0" if i == 4 else "1", "m", "d") for i in range(1, 5)]
    rf2(tmp_path, "Concept_Snapshot", "id effectiveTime active moduleId definitionStatusId", concepts)
    names = [described(10 + i, "1", f"{i}", f"name {i}", "900000000000013009") for i in range(1, 5)]
    rf2(tmp_path, "Description_Snapshot-en", columns, names)
    kind = "900000000000550004"
    texts = [
        described(21, "1", "1", "Newer.", kind, date="20260901"),
        described(21, "1", "1", "Older.", kind, date="20250901"),
        described(22, "0", "2", "Retired.", kind),
        described(23, "1", "4", "Of a retired concept.", kind),
        described(24, "1", "3", "Definición.", kind, "es"),
        described(25, "1", "3", "?", kind, "xx"),
    ]
    rf2(tmp_path, "TextDefinition_Snapshot-en", columns, texts)
    is_a, inferred, stated = "116680003", "900000000000011006", "900000000000010007"
    rows = [
        ("31", "20260901", "1", "m", "2", "1", "0", is_a, inferred, "s"),
        ("31", "20250901", "0", "m", "2", "1", "0", is_a, inferred, "s"),
        ("32", "20260901", "0", "m", "3", "1", "0", is_a, inferred, "s"),
        ("33", "20260901", "1", "m", "3", "2", "0", is_a, inferred, "s"),
        ("34", "20260901", "1", "m", "1", "3", "0", is_a, stated, "s"),
        ("35", "20260901", "1", "m", "3", "4", "0", is_a, inferred, "s"),
        ("36", "20260901", "1", "m", "1", "3", "0", "363698007", inferred, "s"),
    ]
    header = "id effectiveTime active moduleId sourceId destinationId relationshipGroup typeId characteristicTypeId modifierId"
    rf2(tmp_path, "Relationship_Snapshot", header, rows)
    code, out, err = prepare("snomed", tmp_path, "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    terminology = Terminology.load(tmp_path / "out")
    assert definitions(terminology) == [("1", "en", "Newer.", "SNOMEDCT"), ("3", "es", "Definición.", "SNOMEDCT")]
    assert relations(terminology) == [("2", "1"), ("3", "2")]
    assert terminology.metadata["definitions"] == {
        "in": 6,
        "kept": 2,
        "dropped": {
            "older version of a definition": 1,
            "retired definition": 1,
            "language unknown to xsap: xx": 1,
            "definition of a concept that is not kept": 1,
        },
    }
    assert terminology.metadata["relations"] == {
        "in": 6,
        "kept": 2,
        "dropped": {
            "older version of a relationship": 1,
            "retired relationship": 1,
            "stated, not inferred": 1,
            "parent is not kept": 1,
        },
    }


def test_omop_is_a_between_standard_concepts(tmp_path, prepare):
    def concept(number, standard="S"):
        return (f"{number}", f"name {number}", "Condition", "SNOMED", "x", standard, f"c{number}", "19700101", "20991231", "")  # fmt: skip

    def relation(one, two, kind="Is a", invalid=""):
        return (f"{one}", f"{two}", kind, "19700101", "20991231", invalid)

    tables = {
        "CONCEPT": [
            [
                "concept_id",
                "concept_name",
                "domain_id",
                "vocabulary_id",
                "concept_class_id",
                "standard_concept",
                "concept_code",
                "valid_start_date",
                "valid_end_date",
                "invalid_reason",
            ],
            *map(concept, (1, 2, 3)),
            concept(4, ""),
        ],
        "CONCEPT_SYNONYM": [["concept_id", "concept_synonym_name", "language_concept_id"]],
        "CONCEPT_RELATIONSHIP": [
            ["concept_id_1", "concept_id_2", "relationship_id", "valid_start_date", "valid_end_date", "invalid_reason"],
            relation(2, 1),
            relation(1, 2, "Subsumes"),
            relation(3, 1, invalid="D"),
            relation(4, 1),
            relation(3, 2),
            relation(3, 99),
        ],
        "VOCABULARY": [
            ["vocabulary_id", "vocabulary_name", "vocabulary_reference", "vocabulary_version", "vocabulary_concept_id"],
            ("SNOMED", "x", "y", "1", "1"),
        ],
    }
    for name, rows in tables.items():
        (tmp_path / f"{name}.csv").write_text("".join("\t".join(row) + "\n" for row in rows))
    code, _, err = prepare("omop", tmp_path, "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    terminology = Terminology.load(tmp_path / "out")
    assert relations(terminology) == [("2", "1"), ("3", "2")]
    assert terminology.metadata["relations"] == {
        "in": 5,
        "kept": 2,
        "dropped": {"retired relationship": 1, "not between standard concepts": 2},
    }


def test_icd10cm_codes_have_the_code_above_them(tmp_path, prepare):
    (tmp_path / "x.xml").write_text(
        "<ICD10CM.tabular><chapter><name>1</name><desc>Chapter</desc><section id='A00-A01'><desc>Section</desc>"
        "<diag><name>A00</name><desc>Fracture</desc><sevenChrDef><extension char='A'>initial</extension></sevenChrDef>"
        "<diag><name>A00.0</name><desc>Of toe</desc></diag></diag></section></chapter></ICD10CM.tabular>"
    )
    assert prepare("icd", tmp_path / "x.xml", "--out", tmp_path / "out")[0] == 0
    terminology = Terminology.load(tmp_path / "out")
    assert relations(terminology) == [("A00.0", "A00"), ("A00.0XXA", "A00.0")]


def test_claml_codes_have_the_code_above_them_and_definitions(tmp_path, prepare):
    def one(code, kind, label, *, above="", more=""):
        superclass = f"<SuperClass code='{above}'/>" if above else ""
        return f"<Class code='{code}' kind='{kind}'>{superclass}{more}<Rubric kind='preferred'><Label xml:lang='de'>{label}</Label></Rubric></Class>"

    definition = "<Rubric kind='definition'><Label xml:lang='de'>Eine <Para>Störung</Para></Label></Rubric>"
    (tmp_path / "x.xml").write_text(
        "<ClaML version='2.0.0'><Title name='X' version='1'>X</Title>"
        "<Modifier code='M_4'/><ModifierClass modifier='M_4' code='.1'><SuperClass code='M_4'/>"
        "<Rubric kind='preferred'><Label xml:lang='de'>akut</Label></Rubric></ModifierClass>"
        + one("F00-F09", "block", "Block")
        + one("F00", "category", "Oben", above="F00-F09", more="<SubClass code='F00.0'/>")
        + one("F00.0", "category", "Unten", above="F00", more=definition)
        + one("F01", "category", "Geteilt", above="F00-F09", more="<ModifiedBy code='M_4'/>")
        + "</ClaML>"
    )
    code, out, err = prepare("icd", tmp_path / "x.xml", "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    terminology = Terminology.load(tmp_path / "out")
    assert relations(terminology) == [("F00.0", "F00"), ("F01.1", "F01")]
    assert definitions(terminology) == [("F00.0", "de", "Eine Störung", "X")]


def test_a_table_has_definitions_and_parents_in_columns(tmp_path, prepare):
    (tmp_path / "x.csv").write_text(
        "id,name,language,definition,up\n"
        "A,alpha,en,The first.,\nB,beta,en, The  second. ,A|A\nB,Beta,de,Das zweite.,A\nB,bet,en,The second.,Z\n"
    )
    words = ("--column", "concept_id=id", "--column", "parents=up", "--source", "S")
    code, out, err = prepare("table", tmp_path / "x.csv", "--out", tmp_path / "out", *words)
    assert (code, err) == (0, "")
    terminology = Terminology.load(tmp_path / "out")
    assert definitions(terminology) == [("A", "en", "The first.", "S"), ("B", "de", "Das zweite.", "S"), ("B", "en", "The second.", "S")]  # fmt: skip
    assert relations(terminology) == [("B", "A")]
    assert terminology.metadata["relations"]["dropped"] == {"parent is not kept": 1}


def test_a_line_of_a_concept_has_a_definition_as_in_scispacy(tmp_path, prepare):
    concept = {"concept_id": "C1", "canonical_name": "fever", "aliases": ["pyrexia"], "types": ["T184"], "definition": "Hot."}  # fmt: skip
    (tmp_path / "x.jsonl").write_text(json.dumps(concept) + "\n")
    assert prepare("table", tmp_path / "x.jsonl", "--out", tmp_path / "out", "--language", "en")[0] == 0
    assert definitions(Terminology.load(tmp_path / "out")) == [("C1", "en", "Hot.", "x")]


def terminology_of(folder, name, text):
    """An OBO file as a terminology folder."""
    (folder / f"{name}.obo").write_text(text)
    read_ontology(folder / f"{name}.obo", source=name)[0].save(folder / name)
    return folder / name


def term(number, *parents, definition="", reference=""):
    lines = [f"id: X:{number}", f"name: name {number}", *(f"is_a: X:{parent}" for parent in parents)]
    lines += [f'def: "{definition}" []'] if definition else []
    lines += [f"xref: {reference}"] if reference else []
    return "[Term]\n" + "\n".join(lines) + "\n\n"


def test_merged_terminologies_have_the_definitions_and_relations_of_all(tmp_path, prepare):
    one = terminology_of(tmp_path, "one", term(1, definition="a") + term(2, 1))
    two = terminology_of(tmp_path, "two", term(1, definition="a") + term(2, 1, 3, definition="b") + term(3))
    code, out, err = prepare("merge", one, two, "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    merged = Terminology.load(tmp_path / "out")
    assert definitions(merged) == [("X:1", "en", "a", "one"), ("X:2", "en", "b", "two")]
    assert relations(merged) == [("X:2", "X:1"), ("X:2", "X:3")]
    assert merged.metadata["definitions"]["dropped"] == {"same definition of the same concept": 1}
    assert merged.metadata["relations"]["dropped"] == {"same relation": 1}


def test_mapped_terminologies_bridge_concepts_that_have_no_reference(tmp_path, prepare):
    text = term(1, reference="U:C1", definition="a") + term(2, 1, definition="b") + term(3, 2, reference="U:C3")
    folder = terminology_of(tmp_path, "one", text + term(4, 3, reference="U:C3"))
    code, out, err = prepare("map", folder, "--to", "U", "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    mapped = Terminology.load(tmp_path / "out")
    assert definitions(mapped) == [("C1", "en", "a", "one")]
    assert relations(mapped) == [("C3", "C1")]  # X:4 is a kind of X:3, and both are C3
    assert mapped.metadata["definitions"]["dropped"] == {"definition of a concept that is not mapped": 1}
    assert mapped.metadata["relations"]["dropped"] == {"relation of a concept with itself": 1}


def test_changes_of_definitions_and_parents_are_listed_once(tmp_path, prepare):
    old = terminology_of(tmp_path, "old", term(1, definition="a") + term(2, 1, definition="b") + term(3, 1))
    new = terminology_of(tmp_path, "new", term(1, definition="a") + term(2, 1, definition="c") + term(3, 2))
    code, out, err = prepare("diff", old, new, "--out", tmp_path / "changes.tsv")
    assert (code, err) == (0, "")
    changes = [tuple(line.split("\t")) for line in (tmp_path / "changes.tsv").read_text().splitlines()[1:]]
    assert changes == [
        ("definition added", "X:2", "en", "c", ""),
        ("definition removed", "X:2", "en", "b", ""),
        ("parent added", "X:3", "", "name 3", "X:2"),
        ("parent removed", "X:3", "", "name 3", "X:1"),
    ]
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert {"definitions added 1", "definitions removed 1", "parents added 1", "parents removed 1"} <= set(lines)


def test_changes_against_a_version_without_relations_leave_them_out(tmp_path, prepare):
    old = terminology_of(tmp_path, "old", term(1) + term(2))
    new = terminology_of(tmp_path, "new", term(1, definition="a") + term(2, 1))
    code, out, err = prepare("diff", old, new, "--out", tmp_path / "changes.tsv")
    assert (code, (tmp_path / "changes.tsv").read_text().splitlines()[1:]) == (0, [])


def test_a_split_keeps_relations_and_english_definitions(tmp_path, prepare):
    (tmp_path / "x.csv").write_text(
        "concept_id,name,language,definition,parents\n"
        "A,alpha,en,The first.,\nA,Alpha!,de,Das erste.,\nB,beta,en,The second.,A\nB,Beta!,de,Das zweite.,A\n"
    )
    assert prepare("table", tmp_path / "x.csv", "--out", tmp_path / "t", "--source", "S")[0] == 0
    assert prepare("split", tmp_path / "t", "--out", tmp_path / "split", "--test-fraction", "0.99")[0] == 0
    training = Terminology.load(tmp_path / "split" / "terminology")
    assert definitions(training) == [("A", "en", "The first.", "S"), ("B", "en", "The second.", "S")]
    assert relations(training) == [("B", "A")]


def test_what_is_held_out_leaves_definitions_and_relations(tmp_path, prepare):
    folder = terminology_of(tmp_path, "one", term(1, definition="a") + term(2, 1) + term(3, 2))
    (tmp_path / "m.tsv").write_text("mention\tlanguage\tconcept_ids\nname 2\ten\tX:2\n")
    code, out, err = prepare("leakage", folder, tmp_path / "m.tsv", "--hold-out", tmp_path / "out")
    assert (code, err) == (0, "")
    held_out = Terminology.load(tmp_path / "out")
    assert (definitions(held_out), relations(held_out)) == ([("X:1", "en", "a", "one")], [])
    assert held_out.metadata["relations"]["dropped"] == {"child is not kept": 1, "parent is not kept": 1}


def test_a_description_counts_definitions_and_relations(tmp_path, prepare):
    folder = terminology_of(tmp_path, "one", term(1, definition="a") + term(2, 1) + term(3, 2, 1) + term(4) + term(5, 6) + term(6, 5))  # fmt: skip
    code, out, err = prepare("describe", folder)
    assert (code, err) == (0, "")
    assert out.splitlines()[1:4] == [
        "concepts with a definition: en 1",
        "relations to broader concepts: 5 (roots: 1, levels below them: 1, concepts with several broader ones: 1, without relations: 1)",
        "2 concepts above themselves, by circular relations",
    ]
    found = json.loads(prepare("describe", folder, "--json")[1])
    assert found["hierarchy"] == {"relations": 5, "roots": 1, "apart": 1, "several": 1, "levels": 1, "circular": 2}
