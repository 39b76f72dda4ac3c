"""Properties of ontologies: which hold names, and under which scope, whatever the format of the file."""

import json
from itertools import product

import pytest

from data_prep.obo import read_obo, read_obographs
from data_prep.ontology import read_ontology
from data_prep.ontology_model import LABEL, OBO_IN_OWL, PREFIXES, SCOPES, expand, holds_names, scope_of
from data_prep.owl import read_owl
from data_prep.translations import read_translations
from xsap.errors import DataError

OWL, RDF = PREFIXES["owl"], "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
READ = {
    "rdfs:label": LABEL, "skos:prefLabel": LABEL, "skos:altLabel": "EXACT", "skos:hiddenLabel": "RELATED", "efo:alternative_term": "EXACT",
    "IAO:0000118": "EXACT", "NCIT:P90": "EXACT", "schema:alternateName": "EXACT", "dcterms:title": "EXACT",
    "oboInOwl:hasExactSynonym": "EXACT", "oboInOwl:hasNarrowSynonym": "NARROW", "oboInOwl:hasBroadSynonym": "BROAD",
    "oboInOwl:hasRelatedSynonym": "RELATED", "oboInOwl:relatedSynonym": "RELATED", "oboInOwl:hasSynonym": "RELATED",
}  # fmt: skip
NOT_READ = [
    f"http://example.org/x#{name}"
    for name in ("shortName", "has_acronym", "alternative-label", "commercialName", "SYNONYM")
]
NO_NAMES = [
    f"http://example.org/x#{name}" for name in ("definition", "hasOBONamespace", "term_editor", "seeAlso", "P97")
]


def write_owl(path, values, extra=""):
    """An OWL file with one class that has a label and the (property, text) pairs."""
    lines = [
        f'<rdf:RDF xmlns:rdf="{RDF}" xmlns:owl="{OWL}" xmlns:rdfs="{PREFIXES["rdfs"]}">{extra}<owl:Class rdf:about="http://x.org/X_1">'
    ]
    lines.append("<rdfs:label>one</rdfs:label>")
    for iri, text in values:
        at = max(iri.rfind("/"), iri.rfind("#")) + 1
        lines.append(f'<p:{iri[at:]} xmlns:p="{iri[:at]}">{text}</p:{iri[at:]}>')
    path.write_text("\n".join([*lines, "</owl:Class></rdf:RDF>"]))
    return path


def write_obo(path, values):
    lines = [
        "format-version: 1.4",
        "idspace: dc http://purl.org/dc/elements/1.1/",
        "",
        "[Term]",
        "id: X:1",
        "name: one",
    ]
    path.write_text("\n".join([*lines, *(f'property_value: {iri} "{text}" xsd:string' for iri, text in values)]) + "\n")
    return path


def write_obographs(path, values, properties=()):
    node = {"id": "http://x.org/X_1", "type": "CLASS", "lbl": "one"}
    node["meta"] = {"basicPropertyValues": [{"pred": iri, "val": text} for iri, text in values]}
    path.write_text(json.dumps({"graphs": [{"nodes": [node, *properties]}]}))
    return path


FORMATS = {"owl": (read_owl, write_owl), "obo": (read_obo, write_obo), "json": (read_obographs, write_obographs)}


@pytest.mark.parametrize("ending", FORMATS)
def test_properties_of_names_are_read_equally_in_all_formats(tmp_path, ending):
    read, write = FORMATS[ending]
    values = [(expand(name), f"name {number}") for number, name in enumerate(READ)]
    found = {
        record.name: (record.scope, record.rejection_reason)
        for record in read(write(tmp_path / f"x.{ending}", values)).names
    }
    assert found == {"one": (LABEL, None)} | {f"name {i}": (scope, None) for i, scope in enumerate(READ.values())}


def test_obo_properties_may_be_written_with_a_prefix(tmp_path):
    names = read_obo(write_obo(tmp_path / "x.obo", [(name, name) for name in READ])).names
    assert {record.name: record.scope for record in names if record.name != "one"} == READ


@pytest.mark.parametrize(
    ("scope", "namespace"), product(SCOPES, [OBO_IN_OWL, OBO_IN_OWL.lower(), OBO_IN_OWL.replace("http:", "https:")])
)
def test_synonym_properties_are_known_in_the_spellings_that_files_have(scope, namespace):
    for form in ("has{}Synonym", "Has{}Synonym", "{}Synonym", "has_{}_synonym"):
        for word in (scope, scope.lower(), scope.title()):
            assert scope_of(namespace + form.format(word)) == scope


@pytest.mark.parametrize("ending", FORMATS)
def test_names_of_other_properties_are_counted_by_their_iri(tmp_path, ending):
    _, write = FORMATS[ending]
    values = [(iri, "a name") for iri in (*NOT_READ, *NOT_READ[:2], *NO_NAMES)]
    terminology, counts = read_ontology(write(tmp_path / f"x.{ending}", values))
    assert terminology.names["name"].to_pylist() == ["one"]
    expected = {f"names of a property that is not read: {iri}": 1 + (iri in NOT_READ[:2]) for iri in NOT_READ}
    assert (counts.rows_in, counts.kept, dict(counts.dropped)) == (8, 1, expected)


def test_property_is_known_to_hold_names_by_its_label(tmp_path):
    iri = "http://example.org/x#P107"
    declared = (
        f'<owl:AnnotationProperty rdf:about="{iri}"><rdfs:label>Display_Name</rdfs:label></owl:AnnotationProperty>'
    )
    owl = write_owl(tmp_path / "x.owl", [(iri, "a name")], declared)
    graphs = write_obographs(
        tmp_path / "x.json", [(iri, "a name")], [{"id": iri, "type": "PROPERTY", "lbl": "Display_Name"}]
    )
    for file in (owl, graphs):
        assert dict(read_ontology(file)[1].dropped) == {f"names of a property that is not read: {iri}": 1}
    assert not holds_names(iri)


@pytest.mark.parametrize("value", ["true", "True", "TRUE", " 1 ", '"true"^^xsd:boolean'])
def test_deprecated_is_read_however_it_is_written(tmp_path, value):
    other = '<owl:Class rdf:about="http://x.org/X_2"><rdfs:label>two</rdfs:label></owl:Class>'
    ontology = read_owl(write_owl(tmp_path / "x.owl", [(f"{OWL}deprecated", value)], other))
    assert (ontology.obsolete, ontology.living) == ({"X:1"}, {"X:2"})


@pytest.mark.parametrize(
    "node",
    [
        '<owl:DeprecatedClass rdf:about="http://x.org/X_2"><rdfs:label>two</rdfs:label></owl:DeprecatedClass>',
        f'<owl:Class rdf:about="http://x.org/X_2"><rdf:type rdf:resource="{OWL}DeprecatedClass"/></owl:Class>',
    ],
)
def test_deprecated_class_is_obsolete(tmp_path, node):
    ontology = read_owl(write_owl(tmp_path / "x.owl", [], node))
    assert (ontology.obsolete, ontology.living) == ({"X:2"}, {"X:1"})


def test_obo_escapes_are_undone_everywhere(tmp_path):
    (tmp_path / "x.obo").write_text(
        r"""format-version: 1.4

[Term]
id: X\:1
name: one\, two\: "three" \{four\}
synonym: "say \"ah\"\n\(now\)\Wx" EXACT [PMID\:1]
exact_synonym: "old\, exact" []
narrow_synonym: "old narrow" []
xref: UMLS\:C0000001
xref: http\://x.org/a\,b "a description, with words" {source="y"}
alt_id: X\:2
"""
    )
    ontology = read_obo(tmp_path / "x.obo")
    assert [(record.name, record.scope) for record in ontology.names] == [
        ('one, two: "three" {four}', LABEL), ('say "ah"\n(now) x', "EXACT"), ("old, exact", "EXACT"), ("old narrow", "NARROW"),
    ]  # fmt: skip
    assert ontology.references == {"X:1": ["UMLS:C0000001", "http://x.org/a,b"]}
    assert ontology.merged == {"X:2": "X:1"}


@pytest.mark.parametrize(
    ("header", "template", "row", "names"),
    [
        ("ID\tlabel\tsyn", "ID\tLABEL\tAL oboInOwl:hasExactSynonym@de SPLIT=|", "X:1\tone\tEins|Erstes", "en:one de:Eins de:Erstes"),
        ("a\tb\tc", "A rdfs:label\tID\tA oboInOwl:hasExactSynonym SPLIT=;", "one\t X:1 \tfirst;primary", "en:one en:first en:primary"),
        ("id\tn\td", "ID\t>AL skos:altLabel@fr\tA IAO:0000115", "X:1\tun\ta definition", "fr:un"),
        ("id\tn\tp", "ID\tA alternative term\tSC % SPLIT=|", "X:1\tfirst\tX:9", "en:first"),
        ("id\tn\tp", "ID\tAL rdfs:label@es\tTYPE", "X:1\tuno\towl:Class", "es:uno"),
    ],
)  # fmt: skip
def test_robot_template_is_read_by_its_second_row(tmp_path, header, template, row, names):
    (tmp_path / "x.synonyms.tsv").write_text(f"{header}\n{template}\n{row}\n")
    found = [f"{record.language}:{record.name}" for record in read_translations(tmp_path / "x.synonyms.tsv")]
    assert found == names.split()
    assert {record.concept_id for record in read_translations(tmp_path / "x.synonyms.tsv")} == {"X:1"}


@pytest.mark.parametrize("template", ["X\tLABEL", "ID\tID", "ID\tA IAO:0000115", "ID\tSC %"])
def test_robot_template_without_identifier_or_names_is_refused(tmp_path, template):
    (tmp_path / "x.synonyms.tsv").write_text(f"a\tb\n{template}\nX:1\tone\n")
    with pytest.raises(DataError, match=r"x\.synonyms\.tsv:2: expected a ROBOT template row"):
        list(read_translations(tmp_path / "x.synonyms.tsv"))
