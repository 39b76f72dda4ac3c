"""FHIR's terminology operations on a small index: valid as fhir.resources has them, and what they say as the index has it."""

import json
import logging
from dataclasses import replace

import pyarrow as pa
import pytest
from fhir.resources import get_fhir_model_class
from fhir.resources.R4B import get_fhir_model_class as get_r4_model_class

from tests.fixtures.builds import Ngrams
from tests.fixtures.dictionaries import terminology_of_rows
from xsap.exchange.fhir_capabilities import capability_statement, code_systems, terminology_capabilities
from xsap.exchange.fhir_terminology import (
    IndexTerminology,
    OperationError,
    expand_value_set,
    lookup_code,
    operation_outcome,
    request_parameters,
    translate_term,
)
from xsap.linking.index import Index
from xsap.linking.linker import Linker
from xsap.server.concepts import ConceptTable
from xsap.terms.concept_details import DEFINITIONS_SCHEMA, RELATIONS_SCHEMA

HPO, UMLS, SNOMED = (
    "http://human-phenotype-ontology.org",
    "http://www.nlm.nih.gov/research/umls",
    "http://snomed.info/sct",
)
URL = "http://127.0.0.1:8000/fhir"
ROWS = [
    ("HP:0001945", "en", "Fever", "HPO", None),
    ("HP:0001945", "de", "Fieber", "HPO", None),
    ("HP:0002315", "en", "Headache", "HPO", None),
    ("HP:0002315", "fr", "Céphalée", "HPO", None),
    ("437663", "en", "Chest pain", "SNOMED", "29857009"),
    ("X:1", "en", "Local thing", "LOCALVOC", None),
]


@pytest.fixture(scope="module", params=["r4", "r5"])
def terminology(request):
    source = terminology_of_rows(ROWS, [("HP:0001945", "T184")], [("HP:0001945", "UMLS:C0015967")])
    index = Index.build(source, Ngrams())
    return IndexTerminology(
        Linker(Ngrams(), index), index.dictionary, ConceptTable(index.dictionary), URL, "abc123", lambda: "2026-11-30T10:00:00Z", request.param
    )  # fmt: skip


def valid(terminology, resource):
    """The resource, if fhir.resources takes it."""
    find = get_r4_model_class if terminology.release == "r4" else get_fhir_model_class
    logging.disable(logging.CRITICAL)
    find(resource["resourceType"]).model_validate(resource)
    logging.disable(logging.NOTSET)
    assert json.loads(json.dumps(resource)) == resource
    return resource


def contained(resource):
    return [(each["system"], each["code"], each["display"]) for each in resource["expansion"].get("contains", [])]


def values(resource, name):
    """The parameters of a name: their value, or their parts as a dictionary."""
    found = []
    for each in resource["parameter"]:
        if each["name"] == name:
            parts = {part["name"]: next(v for k, v in part.items() if k != "name") for part in each.get("part", [])}
            found.append(parts or next(value for key, value in each.items() if key != "name"))
    return found


def test_expand_finds_a_name_of_any_language(terminology):
    found = contained(valid(terminology, expand_value_set(terminology, {"filter": "Fieber", "count": "2"})))
    assert found[0] == (HPO, "HP:0001945", "Fever")
    assert len(found) == 2


def test_expand_displays_names_in_the_language_asked_for(terminology):
    asked = {"filter": "Fever", "count": "1", "displayLanguage": "de-AT,en", "includeDesignations": "true"}
    resource = valid(terminology, expand_value_set(terminology, asked))
    [entry] = resource["expansion"]["contains"]
    assert entry["display"] == "Fieber"
    assert {(each["language"], each["value"]) for each in entry["designation"]} == {("en", "Fever"), ("de", "Fieber")}


def test_expand_of_one_system_has_its_concepts_alone(terminology):
    found = contained(
        valid(terminology, expand_value_set(terminology, {"url": f"{SNOMED}?fhir_vs", "filter": "chest"}))
    )
    assert found == [(SNOMED, "29857009", "Chest pain")]


def test_pages_of_an_expansion_together_are_all_concepts_once(terminology):
    pages = [valid(terminology, expand_value_set(terminology, {"count": "2", "offset": str(at)})) for at in (0, 2, 4)]
    assert [page["expansion"]["total"] for page in pages] == [4, 4, 4]
    assert sorted(code for page in pages for _, code, _ in contained(page)) == [
        "29857009",
        "HP:0001945",
        "HP:0002315",
        "X:1",
    ]


@pytest.mark.parametrize(
    ("parameters", "kind"),
    [
        ({"url": "http://nowhere"}, "not-found"),
        ({"url": f"{SNOMED}?fhir_vs=ecl/<<1"}, "not-supported"),
        ({"count": "-1"}, "invalid"),
        ({"offset": "x"}, "invalid"),
        ({"displayLanguage": "klingon"}, "invalid"),
    ],
)
def test_what_expand_can_not_do_is_an_outcome(terminology, parameters, kind):
    with pytest.raises(OperationError) as error:
        expand_value_set(terminology, {"filter": "x"} | parameters)
    assert error.value.kind == kind
    assert 400 <= error.value.status < 500
    valid(terminology, error.value.outcome())


@pytest.mark.parametrize(("system", "code"), [(HPO, "HP:0001945"), (f"{URL}/CodeSystem/index", "HP:0001945")])
def test_lookup_has_names_types_and_codes(terminology, system, code):
    resource = valid(terminology, lookup_code(terminology, {"system": system, "code": code}))
    assert values(resource, "display") == ["Fever"]
    assert {"language": "de", "value": "Fieber"} in values(resource, "designation")
    assert values(resource, "property") == [
        {"code": "semanticType", "value": "T184"},
        {"code": "crossReference", "value": "UMLS:C0015967"},
    ]


@pytest.mark.parametrize("own", [False, True])
def test_lookup_has_the_definition_and_the_concepts_above(terminology, own):
    definitions = pa.table([["HP:0001945"], ["de"], ["Erhöhte Temperatur."], ["HPO"]], schema=DEFINITIONS_SCHEMA)
    relations = pa.table([["HP:0001945"] * 2, ["HP:0002315", "437663"]], schema=RELATIONS_SCHEMA)
    source = terminology_of_rows(ROWS).with_details(definitions, relations)[0]
    index = Index.build(source, Ngrams())
    detailed = replace(
        terminology, linker=Linker(Ngrams(), index), dictionary=index.dictionary, table=ConceptTable(index.dictionary)
    )
    system = f"{URL}/CodeSystem/index" if own else HPO
    resource = valid(detailed, lookup_code(detailed, {"system": system, "code": "HP:0001945"}))
    found = [each for each in values(resource, "property") if each["code"] != "crossReference"]
    above = [{"code": "parent", "value": code} for code in (["437663"] if own else []) + ["HP:0002315"]]
    text = {"code": "definition", "value": "Erhöhte Temperatur."}
    assert found == above + ([text] if terminology.release == "r4" else [])
    assert values(resource, "definition") == ([] if terminology.release == "r4" else [text["value"]])


def test_lookup_finds_a_code_that_is_not_the_concepts_id(terminology):
    resource = valid(terminology, lookup_code(terminology, {"system": SNOMED, "code": "29857009"}))
    assert values(resource, "display") == ["Chest pain"]


@pytest.mark.parametrize(
    ("parameters", "kind"),
    [
        ({"system": SNOMED, "code": "1"}, "not-found"),
        ({"system": HPO, "code": "29857009"}, "not-found"),
        ({"system": "http://nowhere", "code": "1"}, "not-found"),
        ({"code": "1"}, "required"),
    ],
)
def test_lookup_of_nothing_is_an_outcome(terminology, parameters, kind):
    with pytest.raises(OperationError) as error:
        lookup_code(terminology, parameters)
    assert error.value.kind == kind


def test_translate_links_a_term_with_the_names_of_the_release(terminology):
    resource = valid(
        terminology,
        translate_term(
            terminology, {"code": "Fieber", "system": "http://ontoserver.csiro.au/fhir/CodeSystem/codesystem-terms"}
        ),
    )
    assert values(resource, "result") == [True]
    match = values(resource, "match")[0]
    assert match["concept"] == {"system": HPO, "code": "HP:0001945", "display": "Fever"}
    names = {"r4": {"equivalence", "concept", "source"}, "r5": {"relationship", "concept", "originMap"}}
    assert set(match) == names[terminology.release]


def test_translate_to_a_system_has_its_concepts_alone(terminology):
    asked = {"sourceCode": "chest pain", "targetSystem": SNOMED}
    assert {each["concept"]["system"] for each in values(translate_term(terminology, asked), "match")} == {SNOMED}
    nothing = valid(terminology, translate_term(terminology, asked | {"targetSystem": "http://loinc.org"}))
    assert values(nothing, "result") == [False]
    assert values(nothing, "message") == ["no concept found for 'chest pain'"]


def test_translate_of_a_code_gives_its_cross_references(terminology):
    resource = valid(
        terminology, translate_term(terminology, {"code": "HP:0001945", "system": HPO, "targetsystem": UMLS})
    )
    assert [each["concept"] for each in values(resource, "match")] == [{"system": UMLS, "code": "C0015967"}]


def test_translate_without_a_term_and_in_reverse_is_an_outcome(terminology):
    for parameters, kind in (({}, "required"), ({"code": "x", "reverse": "true"}, "not-supported")):
        with pytest.raises(OperationError) as error:
            translate_term(terminology, parameters)
        assert error.value.kind == kind


def test_parameters_of_a_body_are_those_of_a_url():
    body = {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "coding", "valueCoding": {"system": HPO, "code": "HP:1"}},
            {"name": "count", "valueInteger": 3},
            {"name": "includeDesignations", "valueBoolean": True},
            {"name": "codeableConcept", "valueCodeableConcept": {"text": "Fieber"}},
        ],
    }
    assert request_parameters(body) == {
        "system": HPO,
        "code": "HP:1",
        "count": "3",
        "includeDesignations": "true",
        "text": "Fieber",
    }


@pytest.mark.parametrize(
    "body",
    [None, [], {}, {"resourceType": "Parameters", "parameter": {}}, {"resourceType": "Parameters", "parameter": [1]}],
)
def test_a_body_that_is_no_parameters_resource_is_an_outcome(body):
    with pytest.raises(OperationError):
        request_parameters(body)


def test_statements_about_the_service_are_valid(terminology):
    statement = valid(terminology, capability_statement(terminology))
    assert statement["fhirVersion"] == {"r4": "4.0.1", "r5": "5.0.0"}[terminology.release]
    capabilities = valid(terminology, terminology_capabilities(terminology))
    assert [each["uri"] for each in capabilities["codeSystem"]] == [f"{URL}/CodeSystem/index", HPO, SNOMED]
    assert valid(terminology, code_systems(terminology, SNOMED))["total"] == 1
    assert valid(terminology, code_systems(terminology))["total"] == 3
    assert valid(terminology, code_systems(terminology, "http://nowhere"))["total"] == 0
    valid(terminology, operation_outcome("not-found", "x"))
