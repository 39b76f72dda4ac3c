"""The dictionary of an index against plain loops over the terminology's rows, for any size of batches."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.dictionaries import TERM_NAMES, TERM_ROWS, describe, terminology_of_rows
from tests.fixtures.examples import examples
from xsap.errors import ArtifactError, DataError
from xsap.linking.dictionary import (
    INDEX_CONCEPTS_SCHEMA,
    INDEX_NAMES_SCHEMA,
    NameSource,
    _deduplicate,
    build_dictionary,
    hash_names,
    values_at,
)
from xsap.linking.dictionary_files import open_dictionary, write_dictionary
from xsap.terms.terminology import Terminology
from xsap.text import TextPolicy, normalize

POLICIES = [TextPolicy(), TextPolicy("lower", "NFC"), TextPolicy("lower", "NFKC"), TextPolicy("cased", "none")]
CHOICES = st.sampled_from([None, ("en",), ("de", "en"), ("fi",)])


REFERENCES = st.lists(
    st.tuples(
        st.sampled_from(["C1", "C2", "D"]),
        st.sampled_from(["AAA:1", "B:1:3", "X:9", "X:10", "Y: z", "loose", ":1", "Z:", "é:ü"]),
    ),
    max_size=12,
)


def build(terminology, languages=None, policy=POLICIES[0], **options):
    return build_dictionary(NameSource.from_terminology(terminology), languages, policy, **options)


def describe_plainly(source, languages, policy):
    """What `describe` returns, by a plain loop."""
    names, owners, blank, known = {}, {}, 0, set()
    rows = source.names.to_pylist()
    for row in rows:
        if languages is not None and row["language"] not in languages:
            continue
        key = normalize(row["name"], policy)
        if not key:
            blank += 1
            continue
        known.add(row["concept_id"])
        entry = names.setdefault(
            key, {**{c: row[c] for c in ("name", "language", "source")}, "languages": set(), "sources": set()}
        )
        entry["languages"].add(row["language"])
        entry["sources"].add(row["source"])
        owners.setdefault(key, set()).add(row["concept_id"])
    concepts = [
        {
            **{c: row[c] for c in ("concept_id", "preferred_name", "vocabulary")},
            "code": row["code"] or "",
            "semantic_types": row["semantic_types"],
            "codes": sorted(
                {
                    f"{r['source']}:{r['code']}"
                    for r in rows
                    if r["concept_id"] == row["concept_id"] and r["code"] is not None
                }
                | {one for one in row["cross_references"] if one.partition(":")[0] and one.partition(":")[2]}
            ),
        }
        for row in source.concepts.to_pylist()
        if row["concept_id"] in known
    ]
    listed = [
        entry | {"languages": sorted(entry["languages"]), "sources": sorted(entry["sources"])}
        for entry in names.values()
    ]
    return listed, concepts, [sorted(ids) for ids in owners.values()], blank


@given(rows=TERM_ROWS, types=st.lists(st.tuples(st.sampled_from(["C1", "C2", "D"]), st.sampled_from(["T1", "T2"]))), references=REFERENCES,
       languages=CHOICES, policy=st.sampled_from(POLICIES), batch=st.integers(1, 9))  # fmt: skip
def test_dictionary_matches_plain_loop(rows, types, references, languages, policy, batch):
    source = terminology_of_rows(rows, types, references)
    expected = describe_plainly(source, languages, policy)
    if not expected[0]:
        with pytest.raises(DataError, match="expected a terminology with names in"):
            build(source, languages, policy, rows_per_batch=batch)
        return
    dictionary = build(source, languages, policy, rows_per_batch=batch)
    assert describe(dictionary) == expected
    assert (dictionary.names.schema, dictionary.concepts.schema) == (INDEX_NAMES_SCHEMA, INDEX_CONCEPTS_SCHEMA)
    assert set(dictionary.keys.entries["row"]) == set(range(dictionary.names.num_rows))


@given(
    rows=TERM_ROWS,
    references=REFERENCES,
    policy=st.sampled_from(POLICIES),
    batches=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    rows_written=st.integers(1, 9),
)
@settings(max_examples=examples(25))
def test_dictionary_from_disk_writes_equal_files_for_any_batch_size(
    rows, references, policy, batches, rows_written, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("dictionary")
    source = terminology_of_rows([*rows, ("C1", "en", "a name", "AAA", None)], references=references)
    source.save(folder / "terminology")
    streams = (NameSource.from_terminology(source), NameSource.from_folder(folder / "terminology"))
    files = []
    for i, (stream, batch) in enumerate(zip(streams, batches, strict=True)):
        dictionary = build_dictionary(stream, None, policy, rows_per_batch=batch)
        (folder / str(i)).mkdir()
        write_dictionary(folder / str(i), dictionary, rows_per_batch=rows_written)
        files.append({file.name: file.read_bytes() for file in (folder / str(i)).iterdir()})
        assert describe(open_dictionary(folder / str(i), dictionary.dropped)) == describe_plainly(source, None, policy)
    assert files[0] == files[1]


def test_codes_of_names_and_cross_references_are_united():
    names = [
        ("C1", "en", "a", "SNOMED", "7"),
        ("C1", "de", "b", "ICD", "A:1"),
        ("C2", "de", "c", "ICD", "B"),
        ("C3", "en", "d", "", "x"),
    ]
    references = [("C1", "MSH:D1"), ("C1", "SNOMED:7"), ("C1", "C0001"), ("C2", "MSH:D2"), ("C3", "ICD:A10")]
    dictionary = build(terminology_of_rows(names, references=references), {"en"})
    assert dict(
        zip(dictionary.concepts["concept_id"].to_pylist(), dictionary.concepts["codes"].to_pylist(), strict=True)
    ) == {
        "C1": ["ICD:A:1", "MSH:D1", "SNOMED:7"],
        "C3": [":x", "ICD:A10"],
    }


def test_tables_are_written_in_batches_of_equal_size(tmp_path):
    dictionary = build(terminology_of_rows([("C1", "en", f"n{i}", "A", str(i)) for i in range(10)]))
    write_dictionary(tmp_path, dictionary, rows_per_batch=4)
    with pa.memory_map(str(tmp_path / "names.arrow")) as stream:
        file = pa.ipc.open_file(stream)
        assert [file.get_batch(i).num_rows for i in range(file.num_record_batches)] == [4, 4, 2]
    assert open_dictionary(tmp_path, {}).names == dictionary.names


@pytest.mark.parametrize("array", ["starts", "name_concepts", "preferences", "hashes", "entries"])
def test_open_dictionary_rejects_files_that_do_not_fit_together(tmp_path, array):
    write_dictionary(tmp_path, build(terminology_of_rows([("C1", "en", "a", "A", None), ("C2", "en", "b", "A", None)])))
    np.save(tmp_path / f"{array}.npy", np.load(tmp_path / f"{array}.npy")[:-1])
    with pytest.raises(ValueError, match="fit together"):
        open_dictionary(tmp_path, {})


def test_names_of_other_concepts_are_rejected():
    good = terminology_of_rows([("C1", "en", "a", "A", None), ("C2", "en", "b", "A", None)])
    for concepts in (good.concepts.slice(1), good.concepts.take([1, 0]), good.concepts.slice(0, 1)):
        with pytest.raises(ArtifactError, match="names and concepts do not match"):
            build(Terminology(good.names, concepts))


@given(names=st.lists(st.sampled_from(TERM_NAMES), max_size=30), policy=st.sampled_from(POLICIES))
def test_hashes_are_equal_exactly_where_normalized_names_are(names, policy):
    hashes = [tuple(pair) for pair in hash_names(pa.array(names, pa.string()), policy, rows_per_batch=4).tolist()]
    strings = [normalize(name, policy) for name in names]
    assert [[a == b for b in hashes] for a in hashes] == [[a == b for b in strings] for a in strings]


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_hashes_with_equal_halves_are_distinct(batch):
    hashes = np.array([[1, 2], [1, 3], [1, 2], [0, 2]], np.uint64)
    first, rows = _deduplicate(hashes, batch)
    assert (first.tolist(), rows.tolist()) == ([True, True, False, True], [0, 1, 0, 2])


def test_values_at_rows_match_one_by_one_and_together():
    column = pa.chunked_array([["a", "b"], ["c"]])
    assert values_at(column, [2, 0, 0]) == values_at(column, [2, 0, 0], max_single_reads=1) == ["c", "a", "a"]
