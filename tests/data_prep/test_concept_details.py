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
        "in": 6,
        "kept": 2,
        "dropped": {
            "definition without quotes": 1,
            "obsolete concept": 1,
            "concept of another ontology": 1,
            "no translation": 1,
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
        "definitions in 4",
        "kept 1",
        "dropped 3",
        "concept of another ontology 1",
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
