"""The reconciliation API as pure functions: queries are read, candidates are scored and ordered, and answers are what the schemas demand."""

import re
from dataclasses import replace
from html import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures.builds import Ngrams
from tests.fixtures.dictionaries import terminology
from tests.fixtures.reconciliation_schemas import judge
from tests.fixtures.service import ODD_ID, ROWS, SCRIPT, TYPES, small_linker
from xsap.languages import UNKNOWN
from xsap.linking.index import Index
from xsap.linking.ranking import Filter
from xsap.linking.results import Candidate, Result
from xsap.server.concepts import ConceptTable
from xsap.server.reconciliation import (
    MATCH_CONFIDENCE,
    MOST_CANDIDATES,
    VERSIONS,
    Condition,
    ReconciliationQuery,
    candidates_by_id,
    describe_candidate,
    manifest,
    read_batch_of_02,
    read_batch_of_10,
    score_candidates,
)
from xsap.server.reconciliation_data import (
    ExtensionQuery,
    extend,
    preview,
    properties_of,
    read_extension,
    suggest_entities,
    suggest_properties,
    suggest_types,
)
from xsap.server.requests import RequestError


@pytest.fixture(scope="module")
def table():
    return ConceptTable(small_linker().index.dictionary)


def candidate(concept_id, score, match="similar", **facts):
    return Candidate(concept_id, f"name of {concept_id}", f"matched {concept_id}", score, match=match, **facts)


def answer_to(query, *candidates):
    return score_candidates(query, Result("x", candidates))


# Queries


def test_openrefines_query_is_read():
    batch = {
        "q0": {"query": "Fieber", "type": "T184", "type_strict": "should", "limit": 3,
               "properties": [{"pid": "lang", "v": "de-AT"}, {"pid": "source", "v": {"id": "HPO", "name": "HPO"}}]},
        "q1": {"query": "Husten"},
    }  # fmt: skip
    conditions = (Condition("types", frozenset(["T184"])), Condition("source", frozenset(["HPO"])))
    assert read_batch_of_02(batch) == {
        "q0": ReconciliationQuery("Fieber", (), 3, "de", conditions),
        "q1": ReconciliationQuery("Husten"),
    }


def test_a_draft_query_is_read():
    conditions = [
        {"matchType": "name", "propertyValue": "Fieber"},
        {"matchType": "property", "propertyId": "types", "propertyValue": ["T1", {"id": "T2"}], "required": True, "matchQuantifier": "all"},
        {"matchType": "property", "propertyId": "codes:ICD10", "propertyValue": 10},
    ]  # fmt: skip
    batch = {"queries": [{"conditions": conditions, "lang": "de", "type": "T184", "limit": 1000}]}
    assert read_batch_of_10(batch) == [
        ReconciliationQuery(
            "Fieber",
            (),
            MOST_CANDIDATES,
            "de",
            (
                Condition("types", frozenset(["T184"])),
                Condition("types", frozenset(["T1", "T2"]), "all", True),
                Condition("codes:ICD10", frozenset(["10"])),
            ),
        )
    ]


def test_an_unknown_language_does_not_stop_a_query():
    batch = {"q": {"query": "x", "properties": [{"pid": "lang", "v": "Klingon"}]}}
    assert read_batch_of_02(batch)["q"].language == UNKNOWN


@pytest.mark.parametrize(
    "batch",
    [
        None, [], "text", 3, {"q": None}, {"q": {}}, {"q": {"query": 3}}, {"q": {"query": "x", "limit": 0}}, {"q": {"query": "x", "limit": -1}},
        {"q": {"query": "x", "limit": "3"}}, {"q": {"query": "x", "props": []}}, {"q": {"properties": []}},
        {"q": {"query": "x", "properties": [{"pid": "lang"}]}}, {"q": {"query": "x", "type": 3}},
    ],
)  # fmt: skip
def test_malformed_batches_are_refused_in_one_line(batch):
    with pytest.raises(RequestError) as caught:
        read_batch_of_02(batch)
    assert caught.value.status == 400
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("kind", ["reconciliation-query-batch"])
@pytest.mark.parametrize("query", [
    {"conditions": []}, {"conditions": [{"propertyValue": "x"}]}, {"conditions": [{"matchType": "near", "propertyValue": "x"}]}, {},
    {"conditions": [{"matchType": "name", "propertyValue": "x"}], "type": ["a"]}, {"query": "x"},
    {"conditions": [{"matchType": "name", "propertyValue": "x"}]}, {"conditions": [{"matchType": "id", "propertyValue": ["a", 3, True]}], "dir": "rtl"},
])  # fmt: skip
def test_draft_queries_are_judged_as_the_schema_does(query, kind):
    batch = {"queries": [query]}
    try:
        read_batch_of_10(batch)
        accepted = True
    except RequestError:
        accepted = False
    assert accepted == (judge("1.0", kind, batch) == [])


# Scores


def test_without_calibration_scores_are_a_hundred_times_the_linkers():
    found = answer_to(
        ReconciliationQuery("x"), candidate("a", 1.0, "exact"), candidate("b", 0.75), candidate("c", -0.1)
    )
    assert [(each.candidate.concept_id, each.score) for each in found] == [("a", 100.0), ("b", 75.0), ("c", 0.0)]


def test_with_calibration_the_first_score_is_the_confidence_and_others_share_what_it_leaves():
    sure = answer_to(ReconciliationQuery("x"), candidate("a", 0.8, confidence=0.9), candidate("b", 0.4))
    assert [each.score for each in sure] == [90.0, 5.0]
    unsure = answer_to(ReconciliationQuery("x"), candidate("a", 0.8, confidence=0.25), candidate("b", 0.4))
    assert [each.score for each in unsure] == [25.0, 12.5]


@pytest.mark.parametrize(
    ("candidates", "matches"),
    [
        ([candidate("a", 1.0, "exact"), candidate("b", 0.99)], True),
        ([candidate("a", 1.0, "case")], True),
        ([candidate("a", 1.0, "code")], True),
        ([candidate("a", 1.0, "exact"), candidate("b", 1.0, "case")], False),
        ([candidate("a", 0.99, "accents")], False),
        ([candidate("a", 0.9999)], False),
        ([candidate("a", 1.0, "exact", confidence=MATCH_CONFIDENCE - 0.001)], False),
        ([candidate("a", 0.7, confidence=MATCH_CONFIDENCE)], True),
    ],
)
def test_a_match_is_one_exact_name_or_a_high_confidence(candidates, matches):
    found = answer_to(ReconciliationQuery("x"), *candidates)
    assert [each.match for each in found] == [matches, *[False] * (len(candidates) - 1)]


def test_a_wished_type_decides_between_two_concepts_of_the_same_name():
    query = ReconciliationQuery("Cold", conditions=(Condition("types", frozenset(["T047"])),))
    same = [
        candidate("a", 1.0, "exact", semantic_types=("T070",)),
        candidate("b", 1.0, "exact", semantic_types=("T047",)),
    ]
    found = answer_to(query, *same)
    assert [(each.candidate.concept_id, each.score, each.match) for each in found] == [
        ("b", 100.0, True),
        ("a", 50.0, False),
    ]


CANDIDATES = st.lists(
    st.builds(
        candidate,
        st.uuids().map(str),
        st.floats(-1, 1),
        st.sampled_from(["exact", "case", "code", "accents", "similar"]),
        semantic_types=st.sets(st.sampled_from("ABC")).map(tuple),
        codes=st.sets(st.sampled_from(["X:1", "X:2", "Y:1"])).map(tuple),
        language=st.sampled_from(["en", "de"]),
    ),
    max_size=8,
)
CONDITIONS = st.lists(
    st.builds(
        Condition,
        st.sampled_from(["types", "source", "codes:X", "lang", "nothing"]),
        st.sets(st.sampled_from(["A", "B", "X", "1", "2", "de"]), min_size=1).map(frozenset),
        st.sampled_from(["any", "all", "none"]),
        st.booleans(),
    ),
    max_size=3,
)


@given(CANDIDATES, CONDITIONS, st.none() | st.floats(0, 1), st.integers(1, 10))
def test_conditions_order_candidates_and_only_required_ones_exclude(candidates, conditions, confidence, limit):
    if candidates:
        candidates[0] = replace(candidates[0], confidence=confidence)
    query = ReconciliationQuery("x", limit=limit, conditions=tuple(conditions))
    found = score_candidates(query, Result("x", tuple(candidates)))

    def has(each, condition):  # what the specification says, word by word
        own = {
            "types": set(each.semantic_types),
            "source": {code.split(":")[0] for code in each.codes} | {each.source},
            "codes:X": {code[2:] for code in each.codes if code.startswith("X:")},
            "lang": {each.language},
            "nothing": set(),
        }[condition.property_id]
        hits = [value in own for value in condition.values]
        return {"any": any(hits), "all": all(hits), "none": not any(hits)}[condition.quantifier]

    allowed = [
        each for each in candidates if all(has(each, condition) for condition in conditions if condition.required)
    ]
    assert len(found) == min(limit, len(allowed))
    assert {each.candidate.concept_id for each in found} <= {each.concept_id for each in allowed}
    scores = [each.score for each in found]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 100 for score in scores)
    assert [each.match for each in found[1:]] == [False] * len(found[1:])
    if not [condition for condition in conditions if not condition.required]:
        assert [each.candidate for each in found] == allowed[:limit]


def test_a_type_that_no_candidate_has_leaves_all_of_them():
    query = ReconciliationQuery("x", limit=2, conditions=(Condition("types", frozenset(["none"])),))
    assert [each.score for each in answer_to(query, candidate("a", 0.8), candidate("b", 0.6), candidate("c", 0.4))] == [
        40.0,
        30.0,
    ]


def test_required_conditions_become_a_filter_of_the_search():
    conditions = (
        Condition("types", frozenset(["T1"]), required=True),
        Condition("source", frozenset(["HPO"]), required=True),
        Condition("codes:ICD10", frozenset(["I10"]), required=True),
        Condition("lang", frozenset(["de"]), required=True),
        Condition("types", frozenset(["T2"]), "none", required=True),
        Condition("types", frozenset(["T3"])),
    )
    options = ReconciliationQuery("x", conditions=conditions).options()
    assert options.filter == Filter(semantic_types="T1", sources="HPO", codes="ICD10:I10", languages="de")
    assert options.top_k == 25
    assert ReconciliationQuery("x", limit=3).options().top_k == 3


# Answers


@pytest.mark.parametrize("version", VERSIONS)
def test_manifest_is_valid(version):
    types = ["T047", SCRIPT, "Condition"]
    found = manifest(version, "http://localhost:8000/reconcile/x", "xsap", types, 256)
    assert judge(version, "manifest", found) == []
    assert found["batchSize"] == 256
    assert [each["id"] for each in found["defaultTypes"]] == types
    assert manifest(version, "b", "n", list(map(str, range(200))), 1)["defaultTypes"] == []


def test_manifest_of_02_has_what_openrefine_reads():
    found = manifest("0.2", "http://h/r", "xsap", [], 9)
    assert found["view"]["url"] == "http://h/r/view/{{id}}"
    assert found["preview"]["url"] == "http://h/r/preview/{{id}}"
    for kind in ("entity", "type", "property"):
        assert found["suggest"][kind] == {"service_url": "http://h/r", "service_path": f"/suggest/{kind}"}
    assert found["extend"]["propose_properties"] == {"service_url": "http://h/r", "service_path": "/extend/propose"}


@given(CANDIDATES, st.sampled_from(["de", UNKNOWN]))
def test_candidates_are_valid_in_both_versions(candidates, language):
    query = ReconciliationQuery("x", language=language)
    described = [describe_candidate(query, each) for each in score_candidates(query, Result("x", tuple(candidates)))]
    assert judge("0.2", "reconciliation-result-batch", {"q0": {"result": described}}) == []
    assert judge("1.0", "reconciliation-result-batch", {"results": [{"candidates": described}]}) == []
    assert all(isinstance(each["type"], list) for each in described)
    assert all({"id", "name", "value"} == set(feature) for each in described for feature in each["features"])


def test_a_candidate_says_its_matched_name_its_types_and_its_parts():
    query = ReconciliationQuery("Fieber", language="de")
    facts = {"language": "de", "semantic_types": ("T184",), "codes": ("HPO:1", "ICD10:R50"), "confidence": 0.5}
    [scored] = answer_to(query, candidate("a", 0.9, "exact", **facts))
    described = describe_candidate(query, scored)
    assert described["description"] == "matched a (German) · HPO:1 · ICD10:R50"
    assert described["type"] == [{"id": "T184", "name": "T184 (Disorders)"}]
    assert {each["id"]: each["value"] for each in described["features"]} == {
        "cosine": 0.9,
        "exact_name": True,
        "confidence": 0.5,
        "matched_language": True,
    }


def test_queries_for_ids_get_the_concepts_of_these_ids(table):
    one = candidates_by_id(ReconciliationQuery(concept_ids=("HP:1", "none")), table.find)
    assert [(each.candidate.concept_id, each.score, each.match) for each in one] == [("HP:1", 100.0, True)]
    two = candidates_by_id(ReconciliationQuery(concept_ids=("HP:1", ODD_ID, "HP:1")), table.find)
    assert [(each.candidate.concept_id, each.match) for each in two] == [("HP:1", False), (ODD_ID, False)]


# Concepts


def test_every_concept_is_found_by_its_id_with_its_names_and_no_other(table):
    for concept_id in {row[0] for row in ROWS}:
        entry = table.find(concept_id)
        rows = [row for row in ROWS if row[0] == concept_id]
        assert (entry.concept_id, entry.name) == (concept_id, rows[0][2])
        assert {name.text for name in table.names_of(entry)} == {row[2] for row in rows}
        assert set(entry.semantic_types) == {kind for concept, kind in TYPES if concept == concept_id}
        assert set(entry.codes) == {f"{row[3]}:{row[4]}" for row in rows if row[4]}
    for other in ("", "HP", "HP:10", "HP:0", "zzz", ODD_ID + " ", "\ud800"):
        assert table.find(other) is None
    assert len(table) == len({row[0] for row in ROWS})


def test_a_name_of_two_concepts_belongs_to_both_and_preferred_names_come_first():
    rows = [
        ("A", "en", "shared"),
        ("A", "en", "zeta"),
        ("M", "en", "middle"),
        ("Z", "en", "last"),
        ("Z", "en", "shared"),
    ]
    found = ConceptTable(Index.build(terminology(*rows), Ngrams()).dictionary)
    names = {each: [name.text for name in found.names_of(found.find(each))] for each in "AMZ"}
    assert {key: sorted(texts) for key, texts in names.items()} == {
        "A": ["shared", "zeta"],
        "M": ["middle"],
        "Z": ["last", "shared"],
    }
    assert all(texts[0] == found.find(key).name for key, texts in names.items())


@given(st.text(max_size=4) | st.sampled_from(["fi", "FIE", "cold", "Finding number 1", "hig", "حم", ".*", "(", "o|c"]))
def test_concepts_that_begin_with_a_text_are_those_of_a_plain_loop(table, text):
    limit = 1000
    found = [each.concept_id for each in table.starting_with(text, limit)]
    begun = {row[0]: len(row[2]) for row in reversed(ROWS) if text and row[2].casefold().startswith(text.casefold())}
    if text.isascii():
        assert set(found) == set(begun)
    else:
        assert set(found) >= {row[0] for row in ROWS if row[2].startswith(text)}
    assert len(found) == len(set(found))
    assert table.starting_with(text, 2) == table.starting_with(text, limit)[:2]


def test_types_sources_and_languages_are_those_of_the_index(table):
    assert table.types == tuple(sorted({kind for _, kind in TYPES}))
    assert table.sources == tuple(sorted({row[3] for row in ROWS if row[4]}))
    assert table.languages == ("ar", "de", "en", "es")


# Suggestions


def test_own_id_comes_first_then_exact_names_then_names_that_begin_so_then_similar_ones(table):
    linked = [candidate("HP:5", 1.0, "exact"), candidate("HP:4", 0.5)]
    assert suggest_entities("HP:3", table, linked, 9)[0].concept_id == "HP:3"
    found = [each.concept_id for each in suggest_entities("fie", table, linked, 9)]
    assert found == ["HP:5", "HP:1", "HP:4"]
    assert [each.concept_id for each in suggest_entities("fie", table, linked, 2)] == ["HP:5", "HP:1"]


@pytest.mark.parametrize("concept_id", sorted({row[0] for row in ROWS})[:8])
def test_an_id_as_prefix_returns_its_concept(table, concept_id):
    assert suggest_entities(concept_id, table, [], 1)[0].concept_id == concept_id


def test_properties_and_types_are_suggested_by_id_and_name(table):
    every = [each["id"] for each in suggest_properties("", table)]
    assert every[:2] == ["preferred_name", "types"]
    assert {"names:de", "codes:ICD10", "lang", "source"} <= set(every)
    assert [each["id"] for each in suggest_properties("german", table)] == ["names:de"]
    assert [each["id"] for each in suggest_properties("codes:ICD10", table)] == ["codes:ICD10"]
    assert [each["id"] for each in suggest_types("disord", table.types)] == ["T047", "T184"]
    assert suggest_types("T07", table.types) == [{"id": "T070", "name": "T070 (Phenomena)"}]
    for version in VERSIONS:
        assert judge(version, "suggest-properties-response", {"result": suggest_properties("", table)}) == []
        assert judge(version, "suggest-types-response", {"result": suggest_types("", table.types)}) == []


# Extension


@pytest.mark.parametrize("version", VERSIONS)
def test_extension_has_a_value_for_each_property_of_each_concept(table, version):
    properties = ["preferred_name", "types", "names:de", "codes:ICD10", "codes:ODD", "unknown", "names:xx"]
    query = {
        "ids": ["HP:1", "HP:4", ODD_ID, "none"],
        "properties": [{"id": each, "settings": {}} for each in properties],
    }
    found = extend(version, read_extension(query, 10), table)
    assert judge(version, "data-extension-response", found) == []
    assert [each["id"] for each in found["meta"]] == properties
    rows = found["rows"]
    if version == "1.0":
        assert [row["id"] for row in rows] == query["ids"]
        rows = {row["id"]: {each["id"]: each["values"] for each in row["properties"]} for row in rows}
    texts = {key: {name: [each["str"] for each in values] for name, values in row.items()} for key, row in rows.items()}
    nothing = dict.fromkeys(properties, [])
    assert texts == {
        "HP:1": nothing | {"preferred_name": ["Fever"], "types": ["T184"], "names:de": ["Fieber"]},
        "HP:4": nothing
        | {"preferred_name": ["Cold"], "types": ["T047"], "names:de": ["Erkältung"], "codes:ICD10": ["J00"]},
        ODD_ID: nothing | {"preferred_name": [f'Odd {SCRIPT} & "name" \''], "types": [SCRIPT], "codes:ODD": ["a/b:c"]},
        "none": nothing,
    }


def test_extension_is_bounded():
    with pytest.raises(RequestError) as caught:
        read_extension({"ids": ["a"] * 11, "properties": []}, 10)
    assert caught.value.status == 413
    assert read_extension({"ids": [], "properties": []}, 10) == ExtensionQuery(ids=[], properties=[])


def test_every_proposed_property_can_be_asked_for(table):
    asked = ExtensionQuery(ids=["HP:4"], properties=[{"id": each["id"]} for each in properties_of(table)])
    [row] = extend("0.2", asked, table)["rows"].values()
    assert [key for key, values in row.items() if values] == [
        "preferred_name",
        "types",
        "names:de",
        "names:en",
        "codes:ICD10",
    ]


# Preview


def test_preview_shows_names_by_language_and_runs_nothing(table):
    page = preview(table.find("HP:1"), table.names_of(table.find("HP:1")))
    text = re.sub(r"<style>.*?</style>|<[^>]+>", " ", page)
    for part in ("Fever", "HP:1", "T184 (Disorders)", "HPO:1945", "German", "Fieber", "Fiebre"):
        assert part in text
    detailed = preview(table.find("HP:1"), [], "Hot <b>.", [table.find(ODD_ID)])
    assert "Hot &lt;b&gt;." in detailed
    assert f"({escape(ODD_ID)})" in detailed
    odd = preview(table.find(ODD_ID), table.names_of(table.find(ODD_ID)))
    assert "<script" not in odd
    assert odd.count("&lt;script&gt;") >= 3
    assert not re.search(r"\son\w+=|javascript:|<(img|iframe|link|object|form)|src=|href=", odd)
