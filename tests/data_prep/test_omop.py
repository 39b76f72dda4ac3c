import gzip
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.omop import find_files, read_omop
from tests.fixtures.commands import assert_refused
from tests.fixtures.examples import examples
from xsap.errors import DataError
from xsap.terms.terminology import Terminology
from xsap.text import TextPolicy, normalize

HEADERS = {
    "CONCEPT": "concept_id concept_name domain_id vocabulary_id concept_class_id standard_concept concept_code valid_start_date "
    "valid_end_date invalid_reason",
    "CONCEPT_SYNONYM": "concept_id concept_synonym_name language_concept_id",
    "CONCEPT_RELATIONSHIP": "concept_id_1 concept_id_2 relationship_id valid_start_date valid_end_date invalid_reason",
    "VOCABULARY": "vocabulary_id vocabulary_name vocabulary_reference vocabulary_version vocabulary_concept_id",
}
DATES = ("19700101", "20991231")


class Recorder:
    """Takes rows as an Assembly does, and keeps them."""

    def __init__(self):
        self.names, self.concepts, self.relations, self.left_out = [], [], [], Counter()

    def add_names(self, rows: pa.Table) -> None:
        self.names += [tuple(row.values()) for row in rows.to_pylist()]

    def add_concepts(self, rows: pa.Table) -> None:
        self.concepts += [(row["concept_id"], *row["semantic_types"]) for row in rows.to_pylist()]

    def add_relations(self, rows: pa.Table, dropped=None) -> None:
        self.relations += [tuple(row.values()) for row in rows.to_pylist()]
        self.left_out.update(dropped or {})


def concept(id_, name, domain="Condition", vocabulary="SNOMED", standard="S", code="c", invalid=""):
    return (str(id_), name, domain, vocabulary, "Clinical Finding", standard, code, *DATES, invalid)


def relation(one, two, kind="Maps to", invalid=""):
    return (str(one), str(two), kind, *DATES, invalid)


LANGUAGES = [
    concept(4180186, "English language", "Language", "SNOMED", "S", "297487008"),
    concept(4182511, "Spanish language", "Language", "SNOMED", "S", "297504001"),
    concept(4182948, "Chinese language", "Observation", "Language", "", "zh"),
    concept(900, "Ron language", "Language", "Language", "S", "ron"),
]
ISO = {"4180186": "en", "4182511": "es", "4182948": "zh"}
VERSIONS = [
    ("None", "OMOP Standardized Vocabularies", "OMOP generated", "v5.0 31-AUG-26", "44819096"),
    ("SNOMED", "x", "y", "2026", "1"),
]


def write(folder: Path, concepts=(), synonyms=(), relations=(), *, languages=LANGUAGES, packed=False) -> Path:
    folder.mkdir(exist_ok=True)
    tables = {
        "CONCEPT": [*languages, *concepts],
        "CONCEPT_SYNONYM": synonyms,
        "CONCEPT_RELATIONSHIP": relations,
        "VOCABULARY": VERSIONS,
    }
    for table, rows in tables.items():
        text = "".join("\t".join(row) + "\n" for row in [HEADERS[table].split(), *rows]).encode()
        (folder / (f"{table}.csv.gz" if packed else f"{table}.csv")).write_bytes(
            gzip.compress(text) if packed else text
        )
    return folder


def naive(concepts, synonyms, relations, languages, sources, domains):
    """What read_omop hands over and drops, a row at a time."""
    by_id = {row[0]: row for row in concepts}

    def is_standard(id_):
        return id_ in by_id and by_id[id_][5] == "S" and by_id[id_][9] == ""

    kept, dropped = [], Counter()
    rows = [(row[0], row[1], "4180186", True) for row in concepts] + [(*row, False) for row in synonyms]
    for id_, name, tongue, own_name in rows:
        if id_ not in by_id:
            dropped["concept not in CONCEPT.csv"] += 1
            continue
        is_language = tongue in by_id and "Language" in by_id[tongue][2:4]
        if not is_language and tongue != "4180186":
            dropped["language not in CONCEPT.csv"] += 1
            continue
        if tongue not in ISO:
            dropped[f"language unknown to xsap: {by_id[tongue][1].removesuffix(' language')}"] += 1
            continue
        if languages is not None and ISO[tongue] not in languages:
            dropped["language not chosen"] += 1
            continue
        if sources is not None and by_id[id_][3] not in sources:
            dropped["vocabulary not chosen"] += 1
            continue
        valid = [row for row in relations if row[0] == id_ and row[5] == ""]
        targets = {row[1] for row in valid if row[2] == "Maps to"}
        if is_standard(id_):
            heir = id_
        elif any(row[2] == "Maps to value" for row in valid):
            dropped["non-standard concept that maps to one with a value"] += 1
            continue
        elif len(targets) > 1:
            dropped["non-standard concept that maps to several"] += 1
            continue
        elif not targets or not is_standard(min(targets)):
            dropped["non-standard concept that maps to no standard one"] += 1
            continue
        else:
            (heir,) = targets
        if domains is not None and by_id[heir][2] not in domains:
            dropped["domain not chosen"] += 1
            continue
        kind = "preferred" if own_name and heir == id_ else "synonym"
        code = by_id[id_][6] or None
        kept.append(
            (heir, ISO[tongue], normalize(name, TextPolicy()), kind, by_id[id_][3], code, None, int(heir == id_))
        )
    return kept, dropped


ids = st.sampled_from([str(n) for n in (1, 2, 3, 44, 5_000_000_000)])
texts = st.text(st.sampled_from("fé\"e'\r\u2028\u00ad |\\N熱"), max_size=5).filter(lambda text: not text.endswith("\r"))
concepts_of = st.lists(
    st.builds(
        concept,
        ids,
        texts,
        domain=st.sampled_from(["Condition", "Drug"]),
        vocabulary=st.sampled_from(["SNOMED", "ICD10CM", "Language"]),
        standard=st.sampled_from(["S", "S", "C", "", ""]),
        code=st.sampled_from(["", "R50.9"]),
        invalid=st.sampled_from(["", "", "", "D", "U"]),
    ),
    max_size=5,
    unique_by=lambda row: row[0],
)
synonyms_of = st.lists(st.tuples(ids, texts, st.sampled_from([*ISO, "900", "7", "0", ""])), max_size=8)
relations_of = st.lists(
    st.builds(
        relation,
        ids,
        ids,
        kind=st.sampled_from(["Maps to"] * 4 + ["Maps to value", "Is a"]),
        invalid=st.sampled_from(["", "", "D"]),
    ),
    max_size=8,
)
choices = st.tuples(
    st.sampled_from([None, None, {"en"}, {"en", "es"}]),
    st.sampled_from([None, None, {"SNOMED"}, {"SNOMED", "Language"}]),
    st.sampled_from([None, None, {"Condition"}, {"Drug", "Language"}]),
)


@settings(max_examples=examples(120), deadline=None)
@given(concepts_of, synonyms_of, relations_of, choices, st.integers(20, 400), st.booleans())
def test_omop_names_and_reasons_match_naive_reader(
    tmp_path_factory, concepts, synonyms, relations, chosen, block_bytes, without_languages
):
    stock = [concept(77, "in stock")] if without_languages else LANGUAGES
    rows = [*stock, *concepts]
    synonyms = [*synonyms, ("77", "común", "4182511")]  # so that Spanish occurs, where it is known
    there = ({"en"} if without_languages else {"en", "es"}, {row[3] for row in rows}, {row[2] for row in rows})
    languages, sources, domains = (wanted and wanted & known for wanted, known in zip(chosen, there, strict=True))
    folder = write(tmp_path_factory.mktemp("athena"), concepts, synonyms, relations, languages=stock)
    recorder = Recorder()
    counts, metadata = read_omop(
        folder, recorder, languages=languages, sources=sources, domains=domains, block_bytes=block_bytes
    )
    kept, dropped = naive(rows, synonyms, relations, languages, sources, domains)
    assert sorted(recorder.names, key=repr) == sorted(kept, key=repr)
    assert counts.dropped == dropped
    assert counts.rows_in == len(rows) + len(synonyms)
    standard = [row for row in rows if row[5] == "S" and not row[9]]
    assert sorted(recorder.concepts) == sorted((row[0], row[2]) for row in standard)
    broader, is_standard = [row for row in relations if row[2] == "Is a"], {row[0] for row in standard}
    between = [row[:2] for row in broader if not row[5] and set(row[:2]) <= is_standard]
    retired = sum(bool(row[5]) for row in broader)
    assert sorted(recorder.relations) == sorted(between)
    left_out = {"retired relationship": retired, "not between standard concepts": len(broader) - retired - len(between)}
    assert recorder.left_out == +Counter(left_out)
    assert metadata["sources"] == (None if sources is None else sorted(sources))


CONCEPTS = [
    concept(437663, "Fever of the test", code="386661006"),
    concept(35207168, 'Fever, "unspecified"', "Observation", "ICD10CM", standard="", code="R50.9"),
    concept(35207169, "Fever and cough", vocabulary="ICD10CM", standard="", code="R50.8"),
    concept(254761, "Cough of the test", code="49727002"),
    concept(35225396, "History of fever", vocabulary="ICD10CM", standard="", code="Z87"),
    concept(1503297, "Testformin", "Drug", "RxNorm", "S", "6809"),
    concept(1503298, "Testformin, withdrawn", "Drug", "RxNorm", "S", "6810", "D"),
    concept(21600744, "TESTS", "Drug", "ATC", "C", "A10"),
]
SYNONYMS = [
    ("437663", "Fever of the test", "4180186"),
    ("437663", "Fiebre de prueba", "4182511"),
    ("437663", "发热", "4182948"),
    ("35207168", "fever NOS", "4180186"),
    ("437663", "ron!", "900"),
    ("437663", "?", "12345"),
    ("777", "of nobody", "4180186"),
]
RELATIONS = [
    relation(437663, 437663),
    relation(35207168, 437663),
    relation(35207168, 254761, invalid="D"),
    relation(35207168, 254761, "Is a"),
    relation(35207169, 437663),
    relation(35207169, 254761),
    relation(35225396, 254761),
    relation(35225396, 437663, "Maps to value"),
    relation(1503298, 1503297),
]


@pytest.mark.parametrize("packed", [False, True])
def test_omop_command_reads_download(tmp_path, run_here, packed):
    folder = write(tmp_path / "athena", CONCEPTS, SYNONYMS, RELATIONS, packed=packed)
    done = run_here("-m", "data_prep", "omop", folder, "--out", tmp_path / "out", "--max-memory", "500MB")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"{tmp_path}/out: 6 concepts",
        "names in                                              19",
        "kept                                                  11",
        "dropped                                                8",
        "  non-standard concept that maps to no standard one    2",
        "  concept not in CONCEPT.csv                           1",
        "  language not in CONCEPT.csv                          1",
        "  language unknown to xsap: Ron                        1",
        "  non-standard concept that maps to one with a value   1",
        "  non-standard concept that maps to several            1",
        "  same name of the same concept                        1",
        "",
        "language     names  concepts",
        "en  English      9         6",
        "es  Spanish      1         1",
        "zh  Chinese      1         1",
        "all             11         6",
        "",
        "relations in                     1",
        "kept                             0",
        "dropped                          1",
        "  not between standard concepts  1",
    ]
    terminology = Terminology.load(tmp_path / "out")
    rows = [tuple(row.values())[1:6] for row in terminology.names.to_pylist() if row["concept_id"] == "437663"]
    assert rows == [
        ("en", "Fever of the test", "preferred", "SNOMED", "386661006"),
        ("en", 'Fever, "unspecified"', "synonym", "ICD10CM", "R50.9"),
        ("en", "fever NOS", "synonym", "ICD10CM", "R50.9"),
        ("es", "Fiebre de prueba", "synonym", "SNOMED", "386661006"),
        ("zh", "发热", "synonym", "SNOMED", "386661006"),
    ]
    found = {
        row["concept_id"]: (row["preferred_name"], row["semantic_types"]) for row in terminology.concepts.to_pylist()
    }
    assert found["437663"] == ("Fever of the test", ["Condition"])
    assert found["1503297"] == ("Testformin", ["Drug"])
    assert "1503298" not in found
    assert [row["name"] for row in terminology.names.to_pylist() if row["source"] == "RxNorm"] == [
        "Testformin",
        "Testformin, withdrawn",
    ]
    metadata = json.loads((tmp_path / "out" / "manifest.json").read_text())["metadata"]
    assert metadata["vocabularies"] == {"None": "v5.0 31-AUG-26", "SNOMED": "2026"}
    assert sorted(metadata["files"]) == sorted(f"{table}.csv{'.gz' if packed else ''}" for table in HEADERS)


def test_omop_invalid_choice_is_refused(tmp_path, prepare):
    folder = write(tmp_path / "athena", CONCEPTS, SYNONYMS, RELATIONS)
    code, out, err = prepare(
        "omop",
        folder,
        "--out",
        tmp_path / "out",
        "--languages",
        "ENG",
        "--vocabularies",
        "ICD10CM",
        "--domains",
        "Condition",
    )
    assert (code, err) == (0, "")
    terminology = Terminology.load(tmp_path / "out")
    assert terminology.names["name"].to_pylist() == ['Fever, "unspecified"', "fever NOS"]
    assert terminology.concepts["concept_id"].to_pylist() == ["437663"]
    for option, value, message in (
        ("--languages", "fr", "has no names in French; it has Chinese, English, Spanish"),
        ("--vocabularies", "ICD10", "has no vocabulary 'ICD10'; did you mean 'ICD10CM'?"),
        ("--domains", "Conditions", "has no domain 'Conditions'; did you mean 'Condition'?"),
        ("--max-memory", "much", "expected an amount of memory such as 4GB or 500MB, found 'much'"),
    ):
        assert_refused(prepare("omop", folder, "--out", tmp_path / "no", option, value), message)
    assert_refused(prepare("omop", folder, "--out", tmp_path / "out"), "exists already")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["athena", "out"]


@pytest.mark.parametrize(
    ("table", "rows", "message"),
    [
        ("CONCEPT", [concept("x", "fever")], "CONCEPT.csv:6: expected a whole number in 'concept_id', found 'x'"),
        (
            "CONCEPT",
            [concept(1, "a\tb")],
            "CONCEPT.csv:6: expected 10 fields as in the header, found 11; does a field contain a tab?",
        ),
        ("CONCEPT", [concept(1, "a"), concept(1, "b")], "CONCEPT.csv: expected each concept_id once, found 1 twice"),
        (
            "CONCEPT_RELATIONSHIP",
            [relation(1, 2, "Is a"), relation(1, "")],
            "RELATIONSHIP.csv:3: expected a whole number in 'concept_id_2'",
        ),
        (
            "CONCEPT_SYNONYM",
            [("1", "a", "4180186"), ("", "b", "1")],
            "SYNONYM.csv:3: expected a whole number in 'concept_id', found ''",
        ),
        ("VOCABULARY", [("SNOMED",)], "VOCABULARY.csv:4: expected 5 fields as in the header, found 1"),
    ],
)
def test_omop_malformed_file_error_names_line(tmp_path, table, rows, message):
    folder = write(tmp_path / "athena", languages=LANGUAGES)
    with (folder / f"{table}.csv").open("a") as stream:
        stream.writelines("\t".join(row) + "\n" for row in rows)
    with pytest.raises(DataError) as caught:
        read_omop(folder, Recorder())
    assert message in str(caught.value)


def test_omop_missing_file_is_named(tmp_path):
    folder = write(tmp_path / "athena", CONCEPTS)
    assert find_files(folder / "CONCEPT.csv") == find_files(folder)
    write(folder, languages=[])
    with pytest.raises(DataError, match=r"CONCEPT\.csv: expected a row for each concept, found only a header"):
        read_omop(folder, Recorder())
    (folder / "CONCEPT_SYNONYM.csv").unlink()
    for place in (folder, tmp_path / "nowhere"):
        with pytest.raises(
            DataError, match=r": expected CONCEPT(_SYNONYM)?\.csv or .*\.gz in this folder, found neither"
        ):
            read_omop(place, Recorder())
