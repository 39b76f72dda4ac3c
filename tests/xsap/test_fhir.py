"""ConceptMaps of FHIR R4 and R5: valid as fhir.resources and the constraints of the specification have it, and a round trip that loses nothing.

fhir.resources takes any word as a code, so words are compared with HL7's lists, written out here.
"""

import json
import logging
from collections import Counter
from dataclasses import replace

import pytest
from fhir.resources.conceptmap import ConceptMap as ConceptMapR5
from fhir.resources.R4B.conceptmap import ConceptMap as ConceptMapR4
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.examples import examples
from tests.fixtures.mappings import FEVER, OMOP_FEVER, distinct, mappings_of, without_gains
from xsap.errors import ConfigError, DataError
from xsap.exchange.fhir import CONDITIONS, UNKNOWN_EQUIVALENCES, UNMAPPED_RULES, read_concept_map, write_concept_map
from xsap.exchange.mapping import Equivalence, MappedConcept, Mapping, Signature, Status

R4 = {
    "relatedto",
    "equivalent",
    "equal",
    "wider",
    "subsumes",
    "narrower",
    "specializes",
    "inexact",
    "unmatched",
    "disjoint",
}
R5 = {"related-to", "equivalent", "source-is-narrower-than-target", "source-is-broader-than-target", "not-related-to"}
SYSTEMS = {"My Voc": "https://example.org/my"}


def check(path, release):
    """The resource, valid: by fhir.resources, and by the constraints and value lists of its release."""
    resource = json.loads(path.read_text(encoding="utf-8"))
    logging.disable(logging.CRITICAL)
    (ConceptMapR4 if release == "r4" else ConceptMapR5).model_validate(resource)
    logging.disable(logging.NOTSET)
    declared = {each["code"] for each in resource.get("property", [])}
    for group in resource.get("group", []):
        assert group["element"]
        for element in group["element"]:
            assert element["code"] == " ".join(element["code"].split()) != ""
            assert not (element.get("noMap") and "target" in element)
            for target in element.get("target", []):
                word = target["equivalence" if release == "r4" else "relationship"]
                assert word in (R4 if release == "r4" else R5)
                needs_comment = {"narrower", "inexact", "source-is-broader-than-target", "not-related-to"}
                assert target.get("comment") or word not in needs_comment
                assert ("code" in target) != (word == "unmatched")
                assert {each["code"] for each in target.get("property", [])} <= declared
    return resource


def written(tmp_path, mappings, release="r4", **options):
    path = tmp_path / "map.json"
    write_concept_map(mappings, path, release=release, **options)
    return check(path, release)


@pytest.mark.parametrize(
    ("equivalence", "r4", "r5"),
    [
        (Equivalence.EQUAL, "equal", "equivalent"),
        (Equivalence.EQUIVALENT, "equivalent", "equivalent"),
        (Equivalence.WIDER, "wider", "source-is-narrower-than-target"),
        (Equivalence.NARROWER, "narrower", "source-is-broader-than-target"),
        (Equivalence.INEXACT, "inexact", "related-to"),
        (Equivalence.UNREVIEWED, "relatedto", "related-to"),
    ],
)
def test_equivalences_are_those_of_the_crosswalk(tmp_path, equivalence, r4, r5):
    mapping = replace(FEVER, status=Status.APPROVED, equivalence=equivalence)
    for release, word in (("r4", r4), ("r5", r5)):
        [group] = written(tmp_path, [mapping], release)["group"]
        assert group["target"] == "http://human-phenotype-ontology.org"
        [target] = group["element"][0]["target"]
        assert (target["code"], target["display"]) == ("HP:0001945", "Fever")
        assert target["equivalence" if release == "r4" else "relationship"] == word


def test_no_match_is_unmatched_in_r4_and_no_map_in_r5(tmp_path):
    nil = Mapping("X1", "xyzzy", status=Status.NO_MATCH, equivalence=Equivalence.UNMATCHED, comment="no such thing")
    [group] = written(tmp_path, [FEVER, nil])["group"]
    assert group["element"][1]["target"] == [{"equivalence": "unmatched", "comment": "no such thing"}]
    [group] = written(tmp_path, [FEVER, nil], "r5")["group"]
    assert group["element"][1]["noMap"] is True


def test_what_is_undecided_flagged_or_rejected_is_no_match(tmp_path):
    mappings = [
        Mapping("1", "a"),
        replace(FEVER, source_code="2", status=Status.FLAGGED, equivalence=Equivalence.EQUAL),
        replace(FEVER, source_code="3", status=Status.REJECTED, targets=()),
    ]
    [group] = written(tmp_path, mappings)["group"]
    by_code = {element["code"]: element.get("target") for element in group["element"]}
    assert by_code["1"] is None
    assert [by_code[code][0]["equivalence"] for code in "23"] == ["relatedto", "disjoint"]


def test_targets_of_several_systems_are_in_several_groups(tmp_path):
    both = replace(FEVER, targets=(*FEVER.targets, *OMOP_FEVER.targets), candidates=())
    resource = written(tmp_path, [both])
    assert [group["target"] for group in resource["group"]] == [
        "http://human-phenotype-ontology.org",
        "http://snomed.info/sct",
    ]
    assert "targetUri" not in resource
    [read], counts, _ = read_concept_map(tmp_path / "map.json")
    assert without_gains([read], [both]) == [both]
    assert counts.rows_in == 2


def test_confidence_is_a_property_in_r5(tmp_path):
    resource = written(tmp_path, [FEVER], "r5")
    assert [(each["code"], each["type"]) for each in resource["property"]] == [
        ("confidence", "decimal"),
        ("score", "decimal"),
    ]
    [target] = resource["group"][0]["element"][0]["target"]
    assert {each["code"]: each["valueDecimal"] for each in target["property"]} == {
        "confidence": 0.9,
        "score": 0.9731234,
    }


def test_terms_without_codes_are_numbered_and_come_back_without(tmp_path):
    mappings = [replace(FEVER, source_code=""), Mapping("", "b")]
    resource = written(tmp_path, mappings)
    assert [element["code"] for element in resource["group"][0]["element"]] == ["1", "2"]
    assert without_gains(read_concept_map(tmp_path / "map.json")[0], mappings) == distinct(mappings)


def test_some_terms_without_codes_get_codes_that_are_free(tmp_path):
    resource = written(tmp_path, [FEVER, Mapping("term-1", "x"), Mapping("", "b"), Mapping(" ", "c")])
    codes = [element["code"] for element in resource["group"][0]["element"]]
    assert len(set(codes)) == 4


def test_an_unknown_vocabulary_is_asked_for_and_taken(tmp_path):
    own = replace(FEVER, targets=(MappedConcept("77", "fever", "My Voc", "77"),), candidates=())
    with pytest.raises(ConfigError, match=r"no URI is known for the vocabulary 'My Voc' .*--target-system My Voc=URI"):
        written(tmp_path, [own])
    assert not list(tmp_path.iterdir())
    assert written(tmp_path, [own], target_systems=SYSTEMS)["group"][0]["target"] == "https://example.org/my"


def test_written_bytes_are_the_same_each_time(tmp_path):
    written(tmp_path, [FEVER, OMOP_FEVER])
    first = (tmp_path / "map.json").read_bytes()
    written(tmp_path, [FEVER, OMOP_FEVER])
    assert (tmp_path / "map.json").read_bytes() == first


@settings(max_examples=examples(150))
@given(mappings=mappings_of(), release=st.sampled_from(["r4", "r5"]))
def test_round_trip_loses_nothing(tmp_path_factory, mappings, release):
    path = tmp_path_factory.mktemp("fhir") / "map.json"
    write_concept_map(mappings, path, release=release, target_systems=SYSTEMS, vocabulary="OMOP")
    read, counts, repairs = read_concept_map(path)
    assert without_gains(read, mappings) == distinct(mappings)
    assert (counts.dropped, repairs) == ({}, Counter())


@settings(max_examples=examples(60))
@given(mappings=mappings_of(), release=st.sampled_from(["r4", "r5"]))
def test_every_map_is_valid(tmp_path_factory, mappings, release):
    path = tmp_path_factory.mktemp("fhir") / "map.json"
    write_concept_map(mappings, path, release=release, target_systems=SYSTEMS, vocabulary="OMOP")
    check(path, release)


# Reading what others wrote


def concept_map(*elements, **group):
    groups = [{"source": "https://a", "target": "https://b", "element": list(elements), **group}]
    return {"resourceType": "ConceptMap", "status": "draft", "group": groups}


def read(tmp_path, content):
    path = tmp_path / "in.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return read_concept_map(path)


def test_a_foreign_map_is_read_and_what_is_not_read_is_counted(tmp_path):
    target = {"code": "x", "equivalence": "subsumes"}
    mappings, counts, repairs = read(
        tmp_path,
        concept_map(
            {"code": "1", "display": "one", "target": [target, {"code": "y", "equivalence": "subsumes"}]},
            {"code": "2", "target": [target | {"dependsOn": [{"property": "https://p", "value": "v"}]}]},
            {"code": "3", "target": [{"code": "z", "equivalence": "exactMatch"}]},
            {"code": "4", "target": [{"equivalence": "unmatched"}]},
            {"target": [target]},
            {"code": "6", "target": [{"equivalence": "equal"}]},
            unmapped={"mode": "fixed", "code": "other"},
        ),
    )
    assert [(each.source_code, each.status, each.equivalence, len(each.targets)) for each in mappings] == [
        ("1", Status.APPROVED, Equivalence.WIDER, 2),
        ("2", Status.APPROVED, Equivalence.WIDER, 1),
        ("3", Status.APPROVED, Equivalence.INEXACT, 1),
        ("4", Status.NO_MATCH, Equivalence.UNMATCHED, 0),
    ]
    assert (counts.rows_in, counts.kept) == (7, 5)
    assert dict(counts.dropped) == {"elements with neither code nor display": 1, "targets without a code": 1}
    assert repairs == Counter({CONDITIONS: 1, UNMAPPED_RULES: 1, UNKNOWN_EQUIVALENCES: 1})


def test_a_bundle_is_read(tmp_path):
    inner = concept_map({"code": "1", "target": [{"code": "x", "relationship": "equivalent"}]})
    mappings, _, _ = read(tmp_path, {"resourceType": "Bundle", "entry": [{"resource": inner}, {"request": {}}]})
    assert mappings[0].targets == (MappedConcept("x", "", "https://b", "x"),)
    assert written(tmp_path, mappings, "r5")["group"][0]["target"] == "https://b"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"resourceType": "Patient"}, "expected a FHIR ConceptMap, found Patient"),
        ({"resourceType": "Bundle", "entry": []}, "found none in the Bundle"),
        ({}, "found no resourceType"),
        ("<ConceptMap/>", "expected a ConceptMap in JSON, found XML"),
        ("[1]", "expected an object"),
        ("{", "expected a ConceptMap in JSON"),
        ({"resourceType": "ConceptMap", "group": {}}, "expected a list"),
        (concept_map("x"), "expected an object"),
    ],
)
def test_what_is_no_concept_map_is_refused_in_one_line(tmp_path, content, message):
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path, content)
    assert "\n" not in str(error.value)


def test_who_and_when_come_back(tmp_path):
    mapping = replace(
        FEVER, status=Status.APPROVED, decided=Signature("A", 1_700_000_000_123), confirmed=Signature("B", 1)
    )
    written(tmp_path, [mapping], "r5")
    assert without_gains(read_concept_map(tmp_path / "map.json")[0], [mapping]) == [mapping]
