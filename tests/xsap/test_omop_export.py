"""SOURCE_TO_CONCEPT_MAP as a database takes it, and concepts of other vocabularies mapped to OMOP's by a download from Athena."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.athena import write_athena
from tests.fixtures.examples import examples
from tests.fixtures.mappings import PYREXIA
from xsap.errors import ConfigError, DataError
from xsap.exchange.athena import AMBIGUOUS, NO_TARGET, NOT_IN_CONCEPT, map_to_omop
from xsap.exchange.mapping import MappedConcept, Mapping, Status
from xsap.exchange.omop import write_source_to_concept_map

# https://github.com/OHDSI/CommonDataModel, v5.4, with the lengths that DuckDB would not check by itself
TABLE = """CREATE TABLE source_to_concept_map (
    source_code varchar(50) NOT NULL CHECK (length(source_code) BETWEEN 1 AND 50), source_concept_id integer NOT NULL,
    source_vocabulary_id varchar(20) NOT NULL CHECK (length(source_vocabulary_id) BETWEEN 1 AND 20),
    source_code_description varchar(255) NULL CHECK (length(source_code_description) <= 255), target_concept_id integer NOT NULL,
    target_vocabulary_id varchar(20) NOT NULL CHECK (length(target_vocabulary_id) BETWEEN 1 AND 20), valid_start_date date NOT NULL,
    valid_end_date date NOT NULL, invalid_reason varchar(1) NULL CHECK (length(invalid_reason) <= 1))"""
GOLDEN = (
    "source_code,source_concept_id,source_vocabulary_id,source_code_description,target_concept_id,target_vocabulary_id,valid_start_date,"
    "valid_end_date,invalid_reason\n"
    '1,0,WARD,"pain, ""here""",101,SNOMED,1970-01-01,2099-12-31,\n'
    "2,2000000001,WARD,both,102,SNOMED,1970-01-01,2099-12-31,\n"
    "2,2000000001,WARD,both,103,LOINC,1970-01-01,2099-12-31,\n"
    "3,0,WARD,nothing,0,None,1970-01-01,2099-12-31,\n"
)


def target(number, vocabulary="SNOMED"):
    return MappedConcept(str(number), "c", vocabulary)


def approved(code, name, *targets, **fields):
    return Mapping(code, name, targets, Status.APPROVED, **fields)


REVIEWED = [
    approved("1", 'pain, "here"', target(101)),
    approved("2", "both", target(102), target(103, "LOINC"), columns={"sourceConceptId": "2000000001"}),
    Mapping("3", "nothing", status=Status.NO_MATCH),
]
OTHERS = [
    Mapping("4", "guess", (target(104),)),
    Mapping("5", "doubt", (target(104),), Status.FLAGGED),
    Mapping("6", "bad", (), Status.REJECTED),
    Mapping("7", "blank"),
]


def written(folder, mappings, **options):
    counts = write_source_to_concept_map(mappings, folder / "m.csv", **({"source_vocabulary": "WARD"} | options))
    return (folder / "m.csv").read_bytes().decode(), counts


def loaded(file):
    """The rows, in a table with the types, lengths and conditions of the common data model."""
    import duckdb

    with duckdb.connect() as database:
        database.execute(TABLE)
        read = f"read_csv('{file}', header = true, all_varchar = true, delim = ',', quote = '\"', escape = '\"', strict_mode = true)"
        database.execute(f"INSERT INTO source_to_concept_map SELECT * FROM {read}")
        return database.execute(
            "SELECT source_code, source_concept_id, target_concept_id, target_vocabulary_id FROM source_to_concept_map"
        ).fetchall()


def test_reviewed_mappings_are_rows_and_all_others_are_counted(tmp_path):
    text, counts = written(tmp_path, [*OTHERS, *REVIEWED])
    assert text == GOLDEN
    assert (counts.rows_in, counts.kept) == (7, 3)
    assert counts.dropped == {"unreviewed": 2, "flagged": 1, "rejected": 1}
    assert loaded(tmp_path / "m.csv") == [
        ("1", 0, 101, "SNOMED"), ("2", 2000000001, 102, "SNOMED"), ("2", 2000000001, 103, "LOINC"), ("3", 0, 0, "None"),
    ]  # fmt: skip


def test_unreviewed_mappings_are_written_on_request_if_they_have_a_concept(tmp_path):
    _, counts = written(tmp_path, [*OTHERS, *REVIEWED], unreviewed=True)
    assert (counts.kept, counts.dropped["unreviewed, without a concept"]) == (4, 1)
    assert ("4", 0, 104, "SNOMED") in loaded(tmp_path / "m.csv")


@settings(max_examples=examples(60), deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0\\"), max_size=60), st.text("a,\"é;'=", max_size=300), st.integers(0, 2**32)),
        min_size=1,
        max_size=5,
    ),
    cut=st.booleans(),
)  # fmt: skip
def test_what_is_written_loads_and_what_is_refused_would_not(tmp_path_factory, rows, cut):
    folder = tmp_path_factory.mktemp("stcm")
    mappings = [approved(code, name, target(number)) for code, name, number in rows if number]
    if not any(code for code, _, _ in rows) or not mappings:
        return
    good = all(
        0 < len(m.source_code) <= 50 and (cut or len(m.source_name) <= 255) and int(m.targets[0].concept_id) < 2**31
        for m in mappings
    )
    one_decision = len({m.key for m in mappings}) == len({(m.key, m.targets) for m in mappings})
    if good and one_decision:
        _, counts = written(folder, mappings, cut=cut)
        found = loaded(folder / "m.csv")
        assert len(found) == counts.kept == len({(m.key, m.targets) for m in mappings})
    else:
        with pytest.raises(DataError):
            written(folder, mappings, cut=cut)
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("mapping", "error"),
    [
        (approved("x" * 51, "a", target(1)), "1 to 50 characters as source_code of 'a'"),
        (approved("", "a", target(1)), "1 to 50 characters as source_code"),
        (approved("A", "é" * 256, target(1)), "0 to 255 characters as source_code_description .*cut them with --cut"),
        (approved("A", "a", target("HP:1")), "a concept of OMOP, as target_concept_id .*found 'HP:1'.*--athena"),
        (approved("A", "a", target(2**31)), "target_concept_id"),
        (approved("A", "a", target(1, "")), "1 to 20 characters as target_vocabulary_id.*--athena"),
        (approved("A", "a", target(1, "v" * 21)), "target_vocabulary_id"),
        (approved("A", "a", target(1), columns={"sourceConceptId": "7"}), "0 or a number above 2,000,000,000 as source_concept_id"),
    ],
)  # fmt: skip
def test_what_the_database_would_refuse_is_refused(tmp_path, mapping, error):
    with pytest.raises(DataError, match=error):
        written(tmp_path, [*REVIEWED, mapping])
    assert list(tmp_path.iterdir()) == []


def test_nothing_reviewed_and_two_decisions_and_a_long_name_of_the_source_are_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"expected reviewed mappings .*unreviewed: 2, flagged: 1, rejected: 1.*--unreviewed"
    ):
        written(tmp_path, OTHERS)
    with pytest.raises(DataError, match="one decision for each term, found two that differ for 'both'"):
        written(tmp_path, [*REVIEWED, approved("2", "both", target(9))])
    for name in ("", "v" * 21):
        with pytest.raises(ConfigError, match="--source-vocabulary with 1 to 20 characters"):
            written(tmp_path, REVIEWED, source_vocabulary=name)


# Athena


@pytest.fixture
def athena(tmp_path):
    concepts = [
        (1, 'Fever "high"', "Condition", "SNOMED", "S", "386661006", ""),
        (2, "Fever", "Condition", "ICD10CM", "", "R50.9", ""),
        (3, "Old fever", "Condition", "SNOMED", "", "77", "U"),
        (4, "Pair", "Condition", "ICD10CM", "", "X1", ""),
        (5, "Cough", "Condition", "SNOMED", "S", "49727002", ""),
        (6, "Lost", "Condition", "ICD10CM", "", "X2", ""),
        (7, "Class", "Condition", "ATC", "C", "A01", ""),
        (8, "Gone", "Condition", "SNOMED", "S", "88", "D"),
        (386661006, "Another", "Drug", "RxNorm", "S", "5", ""),
    ]
    links = [
        (1, 1, "Maps to", ""), (2, 1, "Maps to", ""), (3, 1, "Maps to", ""), (4, 5, "Maps to", ""), (4, 1, "Maps to", ""),
        (6, 1, "Maps to", "D"), (6, 1, "Is a", ""), (6, 8, "Maps to", ""), (7, 1, "Mapped from", ""), (2, 5, "Maps to value", ""),
    ]  # fmt: skip
    return write_athena(tmp_path / "athena", concepts, links)


@pytest.mark.parametrize(
    ("concept", "expected", "reason"),
    [
        (MappedConcept("1", "", "SNOMED", "386661006"), ["1"], None),
        (MappedConcept("1"), ["1"], None),
        (MappedConcept("386661006", "", "SNOMEDCT", "386661006"), ["1"], None),  # a code of SNOMED, not the concept of that number
        (MappedConcept("C0015967", "", "SNOMEDCT_US", "386661006"), ["1"], None),
        (MappedConcept("2", "", "ICD10CM", "R50.9"), ["1"], None),
        (MappedConcept("C1", "", "ICD10CM", "X1"), ["1", "5"], None),
        (MappedConcept("3", "", "SNOMED", "77"), ["1"], None),  # what replaced it
        (MappedConcept("ICD10CM:R50.9"), ["1"], None),
        (MappedConcept("C2", "", "ICD10CM", "X2"), [], NO_TARGET),
        (MappedConcept("7", "", "ATC", "A01"), [], NO_TARGET),
        (MappedConcept("8"), [], NO_TARGET),
        (MappedConcept("C3", "", "MTH", "U1"), [], NOT_IN_CONCEPT),
        (MappedConcept("999"), [], NOT_IN_CONCEPT),
    ],
)  # fmt: skip
def test_a_concept_becomes_the_valid_standard_concepts_that_it_maps_to(athena, concept, expected, reason):
    done = map_to_omop([approved("A", "a", concept)], athena)
    [mapping] = done.mappings
    assert [each.concept_id for each in mapping.targets] == expected
    assert done.unmapped == (Counter({f"concepts {reason}": 1}) if reason else Counter())
    assert done.release == "v5.0 31-AUG-26"
    if expected:
        assert (mapping.targets[0].name, mapping.targets[0].vocabulary, mapping.targets[0].code) == (
            'Fever "high"',
            "SNOMED",
            "386661006",
        )
        assert mapping.status is Status.APPROVED
    else:
        assert (mapping.status, mapping.gold) == (Status.FLAGGED, None)
        assert mapping.comment.startswith("no standard concept of OMOP for ")


def test_the_codes_of_a_candidate_are_looked_up_in_the_order_of_vocabularies(athena):
    candidate = replace(PYREXIA, concept_id="C9", codes=("ICD10CM:X1", "SNOMEDCT_US:386661006", "MTH:1"))
    mapping = approved("A", "a", MappedConcept("C9", "", "MTH", "1"), candidates=(candidate,))
    assert [each.concept_id for each in map_to_omop([mapping], athena).mappings[0].targets] == ["1"]
    several = replace(mapping, candidates=(replace(candidate, codes=("SNOMED:386661006", "SNOMED:49727002")),))
    done = map_to_omop([several], athena)
    assert (done.mappings[0].targets, list(done.unmapped)) == ((), [f"concepts {AMBIGUOUS}"])


def test_a_mapping_keeps_its_other_targets_and_several_targets_are_rows(athena, tmp_path):
    both = approved("A", "a", MappedConcept("C1", "", "ICD10CM", "X1"))
    partly = approved("B", "b", MappedConcept("1"), MappedConcept("999"), comment="note")
    done = map_to_omop([both, partly], athena)
    assert done.mappings[1].comment == "note; no standard concept of OMOP for 999"
    assert [each.concept_id for each in done.mappings[1].targets] == ["1"]
    text, counts = written(tmp_path, done.mappings)
    assert [line.split(",")[4] for line in text.splitlines()[1:]] == ["1", "5"]
    assert counts.dropped == {"flagged": 1}
    assert done.remarks() == ["concepts mapped to OMOP (v5.0 31-AUG-26): 2", "concepts not in CONCEPT: 1, such as 999"]


def test_a_folder_that_is_no_download_is_refused(tmp_path, athena):
    with pytest.raises(DataError, match=r"expected CONCEPT.csv or CONCEPT.csv.gz in this folder, found neither"):
        map_to_omop(REVIEWED, tmp_path)
    (athena / "CONCEPT.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"CONCEPT.csv: expected tab-separated columns concept_id, "):
        map_to_omop(REVIEWED, athena)
