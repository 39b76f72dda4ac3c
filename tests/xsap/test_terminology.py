import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.examples import examples
from xsap.artifacts import manifest_hash, open_artifact, publish
from xsap.errors import ArtifactError, DataError
from xsap.terms.terminology import CONCEPTS_SCHEMA, NAME_KINDS, NAMES_SCHEMA, Terminology

metadata = (
    st.sampled_from(NAME_KINDS),
    st.sampled_from(["A", "B"]),
    st.sampled_from([None, "1", "2"]),
    st.sampled_from([None, "OFFICIAL"]),
)
diverse = st.tuples(
    st.sampled_from(["C1", "C10", "C2", "c1"]),
    st.sampled_from(["de", "en", "zh"]),
    st.sampled_from(["", "fever", "Fever", "é", "e\u0301", "胸痛", " "]),
    *metadata,
)
alike = st.tuples(*map(st.just, ("C1", "en", "fever")), *metadata)
rows = st.lists(diverse | alike, max_size=20)
extras = st.dictionaries(
    st.sampled_from(["C1", "C2", "C9"]), st.tuples(*[st.lists(st.sampled_from(["T1", "T2"]), max_size=3)] * 2)
)
steady = settings(max_examples=examples(60), deadline=None)


def table(rows, chunks=1):
    whole = pa.table([list(column) for column in zip(*rows, strict=True)] or [[]] * 7, schema=NAMES_SCHEMA)
    step = -(-len(rows) // chunks) or 1
    return pa.concat_tables([whole.slice(0, 0), *(whole.slice(start, step) for start in range(0, len(rows), step))])


def extra(concepts):
    return pa.table(
        {
            "concept_id": pa.array(concepts, pa.string()),
            "semantic_types": pa.array([types for types, _ in concepts.values()], pa.list_(pa.string())),
            "cross_references": pa.array([others for _, others in concepts.values()], pa.list_(pa.string())),
        }
    )


def built(*rows, concepts=None, **metadata):
    return Terminology.build(table(rows), extra(concepts or {}), metadata)[0]


def row(concept, language, name, kind="synonym", source="A", code=None, status=None):
    return (concept, language, name, kind, source, code, status)


def plainly_built(rows, concepts):
    """The same by plain loops: names, concepts, and how many rows were empty or doubled."""
    best = {}
    for row in rows:
        value = (NAME_KINDS.index(row[3]), row[4], row[5] is None, row[5] or "", row[6] is None, row[6] or "")
        if row[2]:
            best[row[:3]] = min(best.get(row[:3], (value, row)), (value, row), key=lambda pair: pair[0])
    names = [best[key][1] for key in sorted(best)]
    found = []
    for concept in sorted({row[0] for row in names}):
        own = [row for row in names if row[0] == concept]
        best_name = min(own, key=lambda row: (row[1] != "en", NAME_KINDS.index(row[3]), row[1], row[2]))
        types, others = concepts.get(concept, ([], []))
        found.append((concept, best_name[2], best_name[4], best_name[5], sorted(set(types)), sorted(set(others))))
    empty = sum(not row[2] for row in rows)
    return names, found, {"empty name": empty, "same name of the same concept": len(rows) - empty - len(names)}


def as_rows(table):
    return [tuple(row.values()) for row in table.to_pylist()]


@steady
@given(rows=rows, concepts=extras, chunks=st.integers(1, 3))
def test_building_gives_what_plain_loops_give(rows, concepts, chunks):
    terminology, dropped = Terminology.build(table(rows, chunks), extra(concepts))
    names, found, reasons = plainly_built(rows, concepts)
    assert as_rows(terminology.names) == names
    assert as_rows(terminology.concepts) == found
    assert dropped == {reason: count for reason, count in reasons.items() if count}
    assert (terminology.names.schema, terminology.concepts.schema) == (NAMES_SCHEMA, CONCEPTS_SCHEMA)


@steady
@given(rows=rows)
def test_names_are_sorted_and_unique_and_every_row_is_accounted_for(rows):
    terminology, dropped = Terminology.build(table(rows))
    keys = [row[:3] for row in as_rows(terminology.names)]
    assert keys == sorted(set(keys))
    assert len(rows) == len(keys) + sum(dropped.values())


@steady
@given(rows.flatmap(lambda rows: st.tuples(st.just(rows), st.permutations(rows))))
def test_the_order_of_the_rows_makes_no_difference(two):
    (first, dropped), (second, also_dropped) = (Terminology.build(table(rows)) for rows in two)
    assert first.names.equals(second.names)
    assert first.concepts.equals(second.concepts)
    assert dropped == also_dropped


@steady
@given(rows=rows)
def test_building_again_changes_nothing(rows):
    once, _ = Terminology.build(table(rows))
    twice, dropped = Terminology.build(once.names, once.concepts)
    assert (twice.names.equals(once.names), twice.concepts.equals(once.concepts), dropped) == (True, True, {})


@pytest.mark.parametrize(
    ("rows", "called"),
    [
        (
            [row("C", "de", "Fieber", "preferred"), row("C", "en", "pyrexia"), row("C", "en", "fever", "preferred")],
            "fever",
        ),
        (
            [row("C", "de", "Fieber", "preferred"), row("C", "en", "Fvr", "abbreviation"), row("C", "en", "fever")],
            "fever",
        ),
        ([row("C", "de", "Fieber", "preferred"), row("C", "en", "Fvr", "tradename")], "Fvr"),
        (
            [
                row("C", "zh", "发热", "synonym"),
                row("C", "de", "Fieber", "preferred"),
                row("C", "de", "Brand", "synonym"),
            ],
            "Fieber",
        ),
        ([row("C", "en", "b"), row("C", "en", "a")], "a"),
    ],
)
def test_a_concept_is_called_by_its_first_preferred_english_name(rows, called):
    assert built(*rows).concepts["preferred_name"].to_pylist() == [called]


def test_of_two_equal_names_the_preferred_one_is_kept():
    found = built(
        row("C", "en", "a", "tradename", "A"),
        row("C", "en", "a", "preferred", "B"),
        row("C", "en", "a", "preferred", "C"),
    )
    assert as_rows(found.names) == [row("C", "en", "a", "preferred", "B")]


def test_case_and_unicode_form_make_different_names():
    assert built(row("C", "en", "é"), row("C", "en", "e\u0301"), row("C", "en", "É")).names.num_rows == 3


def test_an_unknown_kind_is_refused():
    with pytest.raises(DataError, match="must be one of preferred, synonym, abbreviation, tradename; found 'nickname'"):
        Terminology.build(table([row("C", "en", "a"), row("C", "en", "b", "nickname")]))


def test_concepts_may_lack_types_and_references():
    bare = pa.table({"concept_id": ["C"]})
    assert as_rows(Terminology.build(table([row("C", "en", "a")]), bare)[0].concepts) == [("C", "a", "A", None, [], [])]


def test_a_concept_has_the_vocabulary_and_code_of_its_preferred_name():
    rows = [
        row("C", "de", "Fieber", "preferred", "A", "7"),
        row("C", "en", "fever", "synonym", "B", "8"),
        row("D", "ja", "痛み"),
    ]
    concepts = built(*rows).concepts
    assert concepts.select(["vocabulary", "code"]).to_pylist() == [
        {"vocabulary": "B", "code": "8"},
        {"vocabulary": "A", "code": None},
    ]


def test_a_folder_of_an_older_format_is_refused(tmp_path):
    with publish(tmp_path / "old", "terminology", {"metadata": {}}) as folder:
        (folder / "names.parquet").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"expected a terminology of format 2, .*, found format 1; create it again"):
        Terminology.load(tmp_path / "old")


@settings(steady, max_examples=examples(20))
@given(rows=rows.filter(lambda rows: any(row[2] for row in rows)), concepts=extras)
def test_a_folder_gives_back_what_was_saved(tmp_path_factory, rows, concepts):
    folder = tmp_path_factory.getbasetemp() / "lr=1" / "terminology"
    saved, _ = Terminology.build(table(rows), extra(concepts), {"reader": "ünïcode", "release": 3})
    saved.save(folder, overwrite=True)
    loaded = Terminology.load(folder)
    assert loaded.names.equals(saved.names)
    assert loaded.concepts.equals(saved.concepts)
    assert (loaded.metadata, loaded.languages) == ({"reader": "ünïcode", "release": 3}, saved.languages)
    assert (loaded.names.schema, loaded.concepts.schema) == (NAMES_SCHEMA, CONCEPTS_SCHEMA)
    assert loaded.content_hash == manifest_hash(open_artifact(folder, "terminology"))


def test_the_content_is_that_of_the_rows_not_of_their_order_or_place(tmp_path):
    rows = [row("C", "en", "a"), row("C", "de", "b"), row("D", "en", "a")]
    built(*rows, release=1).save(tmp_path / "1")
    built(*rows[::-1], release=2).save(tmp_path / "2")
    built(*rows[:2]).save(tmp_path / "3")
    contents = [Terminology.load(tmp_path / name).content_hash for name in "123"]
    assert contents[0] == contents[1] != contents[2]


def test_the_manifest_counts_what_is_inside(tmp_path):
    built(row("C", "en", "a"), row("C", "de", "b"), row("D", "en", "a")).save(tmp_path / "x")
    manifest = open_artifact(tmp_path / "x", "terminology")
    assert (manifest["names"], manifest["concepts"], manifest["languages"]) == (3, 2, {"en": 2, "de": 1})
    assert set(manifest["files"]) == {"names.parquet", "concepts.parquet"}


def test_a_terminology_without_names_is_not_written(tmp_path):
    with pytest.raises(DataError, match="needs at least one name.*are the filters too strict"):
        built().save(tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_folder_is_replaced_only_with_overwrite(tmp_path):
    built(row("C", "en", "a")).save(tmp_path / "x")
    with pytest.raises(ArtifactError, match="exists already"):
        built(row("C", "en", "b")).save(tmp_path / "x")
    assert Terminology.load(tmp_path / "x").names["name"].to_pylist() == ["a"]
    built(row("C", "en", "b")).save(tmp_path / "x", overwrite=True)
    assert Terminology.load(tmp_path / "x").names["name"].to_pylist() == ["b"]


@pytest.mark.parametrize("name", ["names.parquet", "concepts.parquet"])
def test_a_damaged_folder_is_not_opened(tmp_path, name):
    built(row("C", "en", "a")).save(tmp_path / "x")
    file = tmp_path / "x" / name
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    file.write_bytes(damaged)
    with pytest.raises(ArtifactError, match=f"{name}: its hash"):
        Terminology.load(tmp_path / "x")


@pytest.mark.parametrize("key", ["metadata", "files", "kind", "format"])
def test_a_manifest_without_one_of_its_keys_is_not_opened(tmp_path, key):
    built(row("C", "en", "a")).save(tmp_path / "x")
    file = tmp_path / "x" / "manifest.json"
    file.write_text(file.read_text().replace(f'"{key}"', '"x"', 1))
    with pytest.raises(ArtifactError, match="damaged"):
        Terminology.load(tmp_path / "x")


def test_languages_are_counted_most_first():
    found = built(
        row("C", "zh", "a"), row("C", "de", "a"), row("C", "en", "a"), row("C", "en", "b"), row("D", "zh", "c")
    )
    assert list(found.languages.items()) == [("en", 2), ("zh", 2), ("de", 1)]


choice = st.none() | st.sets(st.sampled_from(["de", "en", "A", "B", "T1", "T2", "x"]))


@steady
@given(rows=rows, concepts=extras, languages=choice, sources=choice, types=choice, chunks=st.integers(1, 3))
def test_selecting_keeps_what_plain_loops_keep(rows, concepts, languages, sources, types, chunks):
    whole, _ = Terminology.build(table(rows), extra(concepts), {"release": 3})
    parts = [whole.concepts.slice(start, chunks) for start in range(0, whole.concepts.num_rows, chunks)]
    whole = Terminology(whole.names, pa.concat_tables([whole.concepts.slice(0, 0), *parts]), whole.metadata)
    part = whole.select(languages=languages, sources=sources, semantic_types=types)

    typed = {c[0] for c in as_rows(whole.concepts) if types is None or set(c[4]) & types}
    names = [
        row
        for row in as_rows(whole.names)
        if row[0] in typed and (languages is None or row[1] in languages) and (sources is None or row[4] in sources)
    ]
    assert as_rows(part.names) == names
    assert as_rows(part.concepts) == [c for c in as_rows(whole.concepts) if c[0] in {row[0] for row in names}]
    assert part.metadata == whole.metadata


def test_a_part_is_not_taken_for_the_whole(tmp_path):
    built(row("C", "en", "a"), row("C", "de", "b")).save(tmp_path / "x")
    whole = Terminology.load(tmp_path / "x")
    assert whole.content_hash
    assert whole.select(languages=["de"]).content_hash is None
    assert whole.select(languages=["de"]).concepts["preferred_name"].to_pylist() == ["a"]
