import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.snomed import find_files, read_snomed
from tests.fixtures.commands import assert_refused
from tests.fixtures.examples import examples
from xsap.errors import DataError
from xsap.terms.terminology import Terminology
from xsap.text import TextPolicy, normalize

FSN, SYNONYM, DEFINITION = "900000000000003001", "900000000000013009", "900000000000550004"
PREFERRED, ACCEPTABLE = "900000000000548007", "900000000000549004"
SAME_AS, REPLACED_BY, POSSIBLY, MOVED = (
    "900000000000527005",
    "900000000000526001",
    "900000000000523009",
    "900000000000524003",
)
US, ES = "900000000000509007", "448879004"
HEADERS = {
    "Terminology/sct2_Concept_{}_": "id effectiveTime active moduleId definitionStatusId",
    "Terminology/sct2_Description_{}-en_": "id effectiveTime active moduleId conceptId languageCode typeId term caseSignificanceId",
    "Refset/Language/der2_cRefset_Language{}-en_": "id effectiveTime active moduleId refsetId referencedComponentId acceptabilityId",
    "Refset/Content/der2_cRefset_Association{}_": "id effectiveTime active moduleId refsetId referencedComponentId targetComponentId",
}


class Recorder:
    """Takes rows as an Assembly does, and keeps them."""

    def __init__(self):
        self.names, self.concepts, self.retired = [], [], []

    def add_names(self, rows: pa.Table) -> None:
        self.names += [tuple(row.values()) for row in rows.to_pylist()]

    def add_concepts(self, rows: pa.Table) -> None:
        self.concepts += [(row["concept_id"], *row["semantic_types"]) for row in rows.to_pylist()]

    def add_retired(self, rows: pa.Table) -> None:
        self.retired += [tuple(row.values()) for row in rows.to_pylist()]

    def add_definitions(self, rows: pa.Table, dropped=None) -> None:
        assert not rows.num_rows
        assert not dropped

    add_relations = add_definitions


def write(folder: Path, tables, release="INT_20260901", kind="Snapshot") -> Path:
    """One release: rows of concepts, descriptions, language and association members, each without moduleId and what stands last but is
    not read."""
    for (place, header), rows in zip(HEADERS.items(), tables, strict=True):
        file = folder / kind / f"{place.format(kind)}{release}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        columns = header.split()
        full = [(*row[:3], "900000000000207008", *row[3:], "900000000000074008")[: len(columns)] for row in rows]
        file.write_bytes("".join("\t".join(row) + "\r\n" for row in [columns, *full]).encode())
    return folder


def newest(releases, table):
    """Of each component the last row among those of the latest date, and how many others there are."""
    found, rows = {}, [row for release in releases for row in release[table]]
    for row in rows:
        if row[0] not in found or int(row[1]) >= int(found[row[0]][1]):
            found[row[0]] = row
    return list(found.values()), len(rows) - len(found)


ISO = {"en": "en", "es": "es", "nb": "no", "en-GB": "en"}


def naive(releases, languages, refsets):
    """What read_snomed hands over and drops, a row at a time."""
    concepts = {row[0]: row[2] for row in newest(releases, 0)[0]}
    descriptions, older = newest(releases, 1)
    members = [row for row in newest(releases, 2)[0] if row[2] == "1" and (refsets is None or row[3] in refsets)]
    dropped = Counter({"older version of a description": older})
    names, tags = [], {}
    for id_, _, active, concept, language, type_, term in descriptions:
        if active == "0":
            dropped["retired description"] += 1
            continue
        if concept not in concepts:
            dropped["concept in no concept file"] += 1
            continue
        if concepts[concept] == "0":
            dropped["retired concept"] += 1
            continue
        if type_ not in (FSN, SYNONYM):
            dropped["neither a fully specified name nor a synonym"] += 1
            continue
        name = normalize(term, TextPolicy())
        if type_ == FSN:
            rest, bracket, tag = name.removesuffix(")").rpartition("(")
            tagged = name.endswith(")") and bracket and rest.strip() and tag and ")" not in tag
            if tagged:
                name = rest.rstrip()
            tags.setdefault(concept, []).append((ISO.get(language) == "en", tag if tagged else None))
        if language not in ISO:
            dropped[f"language unknown to xsap: {language}"] += 1
        elif languages is not None and ISO[language] not in languages:
            dropped["language not chosen"] += 1
        elif refsets is not None and id_ not in {row[4] for row in members}:
            dropped["in no language reference set chosen"] += 1
        else:
            preferred = type_ == SYNONYM and any(row[4:] == (id_, PREFERRED) for row in members)
            kind = "preferred" if preferred else "synonym"
            names.append((concept, ISO[language], name, kind, "SNOMEDCT", concept, None, int(type_ == FSN)))
    types = [
        (concept, tag)
        for concept, of in tags.items()
        for english, tag in of
        if tag is not None and (english or not any(other for other, _ in of))
    ]
    retired = []
    members = [row for row in newest(releases, 3)[0] if row[2] == "1"]
    relations = {SAME_AS: "same", REPLACED_BY: "same", POSSIBLY: "related"}
    for concept, active in concepts.items():
        if active == "0":
            heirs = [
                (concept, row[5], relations[row[3]]) for row in members if row[4] == concept and row[3] in relations
            ]
            retired += heirs or [(concept, None, "deleted")]
    return names, types, retired, +dropped


concept_ids = st.sampled_from(["101009", "102002", "103007", "104001"])
description_ids = st.sampled_from([f"{n}011" for n in range(1, 8)])
times = st.sampled_from(["20020131", "20260301", "20260901"])
active = st.sampled_from("1110")
terms = st.one_of(
    st.sampled_from(
        [
            "Fever (finding)",
            "Fiebre (hallazgo)",
            "Fever",
            "(x)",
            "a (b) (c)",
            "a (b (c))",
            "a ()",
            'a  "b" (c d) ',
            "a(b)",
        ]
    ),
    st.text(st.sampled_from('aé"() \r\u2028熱'), max_size=6).filter(lambda term: not term.endswith("\r")),
)
releases_of = st.lists(
    st.tuples(
        st.lists(st.tuples(concept_ids, times, active), max_size=6),
        st.lists(
            st.tuples(
                description_ids,
                times,
                active,
                concept_ids,
                st.sampled_from(["en", "en", "es", "nb", "en-GB", "xx"]),
                st.sampled_from([FSN, SYNONYM, SYNONYM, DEFINITION]),
                terms,
            ),
            max_size=8,
        ),
        st.lists(
            st.tuples(
                st.sampled_from("abcdef"),
                times,
                active,
                st.sampled_from([US, ES]),
                description_ids,
                st.sampled_from([PREFERRED, ACCEPTABLE]),
            ),
            max_size=6,
        ),
        st.lists(
            st.tuples(
                st.sampled_from("abcd"),
                times,
                active,
                st.sampled_from([SAME_AS, REPLACED_BY, POSSIBLY, MOVED]),
                concept_ids,
                concept_ids,
            ),
            max_size=6,
        ),
    ),
    min_size=1,
    max_size=2,
)


@settings(max_examples=examples(120), deadline=None)
@given(releases_of, st.booleans(), st.sampled_from([None, None, {US}, {US, ES}]), st.integers(30, 600))
def test_snomed_names_and_reasons_match_naive_reader(tmp_path_factory, releases, choose, refsets, block_bytes):
    top = tmp_path_factory.mktemp("releases")
    folders = [write(top / str(i), tables, f"X{i}_20260901") for i, tables in enumerate(releases)]
    there = {ISO[row[4]] for row in newest(releases, 1)[0] if row[4] in ISO}
    languages = there & {"es", "no"} if choose else None
    active_sets = {row[3] for row in newest(releases, 2)[0] if row[2] == "1"}
    refsets = refsets and refsets & active_sets
    recorder = Recorder()
    counts, metadata = read_snomed(
        folders, recorder, languages=languages, refsets=refsets, block_bytes=block_bytes, names_per_batch=3
    )
    names, types, retired, dropped = naive(releases, languages, refsets)
    assert sorted(recorder.names, key=repr) == sorted(names, key=repr)
    assert sorted(recorder.concepts) == sorted(types)
    assert sorted(recorder.retired, key=repr) == sorted(retired, key=repr)
    assert (counts.rows_in, counts.dropped) == (sum(len(release[1]) for release in releases), dropped)
    assert metadata["release"] == max((row[1] for row in newest(releases, 0)[0]), default=None)


INTERNATIONAL = (
    [
        ("101009", "20020131", "1"),
        ("102002", "20020131", "0"),
        ("103007", "20020131", "0"),
        ("104001", "20260901", "0"),
    ],
    [
        ("1011", "20020131", "1", "101009", "en", FSN, "Testing fever (finding)"),
        ("2010", "20020131", "1", "101009", "en", SYNONYM, "Fever of the test"),
        ("3017", "20020131", "1", "101009", "en", SYNONYM, "Testing fever"),
        ("4014", "20020131", "0", "101009", "en", SYNONYM, "Test feverishness"),
        ("5019", "20020131", "1", "102002", "en", FSN, "Old fever (finding)"),
        ("6016", "20020131", "1", "101009", "en", SYNONYM, 'Fever "NOS"'),
    ],
    [
        ("aa", "20020131", "1", US, "1011", PREFERRED),
        ("bb", "20020131", "1", US, "2010", PREFERRED),
        ("cc", "20020131", "0", US, "3017", PREFERRED),
        ("dd", "20020131", "1", US, "3017", ACCEPTABLE),
    ],
    [
        ("ee", "20020131", "1", SAME_AS, "102002", "101009"),
        ("ff", "20260901", "1", POSSIBLY, "104001", "101009"),
        ("gg", "20260901", "1", MOVED, "103007", "101009"),
    ],
)
EXTENSION = (
    [("105000", "20260930", "1")],
    [
        ("7013", "20260930", "1", "101009", "es", SYNONYM, "Fiebre de prueba"),
        ("9017", "20260930", "1", "101009", "es", FSN, "Fiebre de prueba (hallazgo)"),
        ("8018", "20260930", "1", "105000", "es", FSN, "Gripe de prueba (hallazgo)"),
        ("6016", "20260930", "0", "101009", "en", SYNONYM, 'Fever "NOS"'),
    ],
    [("hh", "20260930", "1", ES, "7013", PREFERRED)],
    [],
)


def summary_lines(out: str) -> list[str]:
    """The lines of a report without what aligns them."""
    return [" ".join(line.split()) for line in out.splitlines()]


@pytest.fixture
def both(tmp_path):
    release = write(tmp_path / "International", INTERNATIONAL)
    for kind in ("Full", "Delta"):
        write(release, ([("1", "x", "broken")], [], [], []), kind=kind)
    text = release / "Snapshot" / "Terminology" / "sct2_RelationshipConcreteValues_Snapshot_INT_20260901.txt"
    text.write_text("not looked at")
    write(tmp_path / "Spanish", EXTENSION, "ES_20260930", "SpanishExtensionSnapshot")
    return tmp_path


@pytest.mark.parametrize("apart", [True, False])
def test_snomed_command_reads_release_and_extension(both, run_here, apart):
    done = run_here(
        "-m",
        "data_prep",
        "snomed",
        *([both / "International", both / "Spanish"] if apart else [both]),
        "--out",
        both / "out",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert summary_lines(done.stdout) == [
        f"{both}/out: 2 concepts",
        "names in 10",
        "kept 4",
        "dropped 6",
        "retired description 2",
        "same name of the same concept 2",
        "older version of a description 1",
        "retired concept 1",
        "",
        "language names concepts",
        "en English 2 1",
        "es Spanish 2 2",
        "all 4 2",
    ]
    terminology = Terminology.load(both / "out")
    assert [tuple(row.values())[:6] for row in terminology.names.to_pylist()] == [
        ("101009", "en", "Fever of the test", "preferred", "SNOMEDCT", "101009"),
        ("101009", "en", "Testing fever", "synonym", "SNOMEDCT", "101009"),
        ("101009", "es", "Fiebre de prueba", "preferred", "SNOMEDCT", "101009"),
        ("105000", "es", "Gripe de prueba", "synonym", "SNOMEDCT", "105000"),
    ]
    columns = ("concept_id", "preferred_name", "vocabulary", "code", "semantic_types")
    assert [tuple(row[name] for name in columns) for row in terminology.concepts.to_pylist()] == [
        ("101009", "Fever of the test", "SNOMEDCT", "101009", ["finding"]),
        ("105000", "Gripe de prueba", "SNOMEDCT", "105000", ["hallazgo"]),
    ]
    assert [tuple(row.values()) for row in terminology.retired.to_pylist()] == [
        ("102002", "101009", "same"),
        ("103007", None, "deleted"),
        ("104001", "101009", "related"),
    ]
    metadata = json.loads((both / "out" / "manifest.json").read_text())["metadata"]
    assert metadata["release"] == "20260930"
    assert sum("Snapshot" in name for name in metadata["files"]) == len(metadata["files"]) == 8


def test_snomed_invalid_choice_is_refused(both, prepare):
    code, out, err = prepare("snomed", both, "--out", both / "out", "--refsets", US, "--languages", "en")
    assert (code, err) == (0, "")
    assert "in no language reference set chosen" not in out
    assert "language not chosen 3" in summary_lines(out)
    code, out, err = prepare("snomed", both, "--out", both / "es", "--refsets", ES)
    assert "in no language reference set chosen 5" in summary_lines(out)
    assert Terminology.load(both / "es").names["name"].to_pylist() == ["Fiebre de prueba"]
    assert Terminology.load(both / "es").concepts["semantic_types"].to_pylist() == [["finding"]]
    for option, value, message in (
        ("--languages", "fr", "has no names in French; it has English, Spanish"),
        ("--refsets", "448879005", "has no language reference set '448879005'; did you mean '448879004'?"),
    ):
        assert_refused(prepare("snomed", both, "--out", both / "no", option, value), message)
    assert_refused(
        prepare("snomed", both, both / "Spanish", "--out", both / "no"),
        "expected each release once, found der2_cRefset_AssociationSpanishExtensionSnapshot",
    )
    assert_refused(
        prepare("snomed", both / "Spanish" / "SpanishExtensionSnapshot" / "Refset", "--out", both / "no"),
        "expected a sct2_Concept_…Snapshot… file",
    )
    assert_refused(
        prepare("snomed", both / "International" / "Full", "--out", both / "no"),
        "found none in it. Full and Delta files are not read",
    )
    assert_refused(
        prepare("snomed", both / "nothing", "--out", both / "no"),
        "nothing: expected a folder with snapshot files of SNOMED CT",
    )
    assert not (both / "no").exists()


def test_snomed_extension_without_release_is_refused(both, prepare):
    code, out, err = prepare("snomed", both / "Spanish", "--out", both / "out")
    assert "concept in no concept file 2" in summary_lines(out)
    assert "kept 1" in summary_lines(out)


@pytest.mark.parametrize(
    ("table", "row", "message"),
    [
        (0, ("9", "20260901", "2"), "_INT_20260901.txt:2: expected 0 or 1 in 'active', found '2'"),
        (
            1,
            ("9", "2026-09-01", "1", "9", "en", FSN, "x"),
            "-en_INT_20260901.txt:2: expected a whole number in 'effectiveTime', found '20",
        ),
        (
            1,
            ("9", "20260901", "1", "9", "en", FSN, "x\ty"),
            "-en_INT_20260901.txt:2: expected 9 fields as in the header, found 10",
        ),
    ],
)
def test_snomed_malformed_file_error_names_line(tmp_path, table, row, message):
    write(tmp_path, [[row] if i == table else [] for i in range(4)])
    with pytest.raises(DataError) as caught:
        read_snomed([tmp_path], Recorder())
    assert message in str(caught.value)


NAMES = {
    "sct2_Concept_Snapshot_US1000124_20260901.txt": "Concept",
    "xsct2_Concept_Snapshot_INT_20260901.txt": "Concept",
    "sct2_Concept_UKEDSnapshot_GB_20260901.txt.gz": "Concept",
    "sct2_Description_Snapshot-de_DE1000274_20260901.txt": "Description",
    "der2_cRefset_LanguageSpanishExtensionSnapshot-es_INT_20260901.txt": "Language",
    "xder2_cRefset_UKExtensionLanguageSnapshot-en-GB_GB1000000_20260901.txt": "Language",
    "der2_cRefset_AssociationReferenceSnapshot_INT_20260901.txt": "Association",
    "sct2_Concept_Full_INT_20260901.txt": None,
    "sct2_Description_Delta-en_INT_20260901.txt": None,
    "sct2_TextDefinition_Snapshot-en_INT_20260901.txt": "TextDefinition",
    "xsct2_Relationship_SpanishExtensionSnapshot_INT_20260901.txt": "Relationship",
    "sct2_StatedRelationship_Snapshot_INT_20260901.txt": None,
    "sct2_RelationshipConcreteValues_Snapshot_INT_20260901.txt": None,
    "der2_cRefset_AttributeValueSnapshot_INT_20260901.txt": None,
    "._sct2_Concept_Snapshot_INT_20260901.txt": None,
}


def test_snomed_files_are_found_by_name(tmp_path):
    for name in NAMES:
        (tmp_path / name).touch()
    found = {file.name: kind for kind, files in find_files([tmp_path]).items() for file in files}
    assert found == {name: kind for name, kind in NAMES.items() if kind}
