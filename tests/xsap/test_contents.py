"""What an index holds: against plain loops over the terminology's rows, whatever the blocks in which it streams by."""

from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsap.errors import ArtifactError, DataError
from xsap.linking import dictionary as contents_module
from xsap.linking import dictionary as unique
from xsap.linking.dictionary import (
    CONCEPTS_SCHEMA,
    NAMES_SCHEMA,
    Keys,
    build_dictionary,
    hashes_of,
    in_memory,
    on_disk,
    open_dictionary,
    values_at,
    write_dictionary,
)
from xsap.terms.terminology import NAMES_SCHEMA as TERMS_SCHEMA
from xsap.terms.terminology import Terminology
from xsap.text import EXACT_MATCH, TextPolicy, normalize

POLICIES = [TextPolicy(), TextPolicy("lower", "NFC"), TextPolicy("lower", "NFKC"), TextPolicy("cased", "none")]
NAMES = [
    "Cold",
    "cold",
    "COLD",
    "Common  cold",
    "common cold",
    "ﬁbre",
    "fibre",
    "e\u0301",
    "é",
    "É",
    " \u200b",
    "\t",
    "名前",
    "x y",
]
ROWS = st.lists(
    st.tuples(
        st.sampled_from(["C1", "C2", "C3", "C10", "D"]),
        st.sampled_from(["en", "de", "es"]),
        st.sampled_from(NAMES),
        st.sampled_from(["AAA", "B", "C"]),
        st.sampled_from([None, "1", "2", "1:3"]),
    ),
    min_size=1,
    max_size=40,
)
CHOICES = st.sampled_from([None, ("en",), ("de", "en"), ("fi",)])


REFERENCES = st.lists(
    st.tuples(
        st.sampled_from(["C1", "C2", "D"]),
        st.sampled_from(["AAA:1", "B:1:3", "X:9", "X:10", "Y: z", "loose", ":1", "Z:", "é:ü"]),
    ),
    max_size=12,
)


def terminology(rows, types=(), references=()):
    """rows: (concept_id, language, name, source, code). types, references: of concepts, (concept_id, semantic type or cross-reference)."""
    names = [
        dict(zip(TERMS_SCHEMA.names, (c, la, n, "synonym", s, code, None), strict=True)) for c, la, n, s, code in rows
    ]
    concepts = pa.table(
        {
            "concept_id": pa.array([c for c, _ in (*types, *references)], pa.string()),
            "semantic_types": pa.array([*([t] for _, t in types), *([] for _ in references)], pa.list_(pa.string())),
            "cross_references": pa.array([*([] for _ in types), *([r] for _, r in references)], pa.list_(pa.string())),
        }
    )
    return Terminology.build(pa.Table.from_pylist(names, TERMS_SCHEMA), concepts)[0]


def plainly(source, languages, policy):
    """Names and concepts as dictionaries in the order of their rows, the concepts of each name, and how many names are blank."""
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
            **{c: row[c] for c in ("concept_id", "preferred_name", "semantic_types")},
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


def described(dictionary):
    ids = dictionary.concepts["concept_id"].to_pylist()
    starts, owners = dictionary.owners.starts, dictionary.owners.concepts
    of_names = [[ids[c] for c in owners[a:b]] for a, b in zip(starts[:-1], starts[1:], strict=True)]
    assert dictionary.owners.count == len(ids)
    return (
        dictionary.names.to_pylist(),
        dictionary.concepts.to_pylist(),
        of_names,
        dictionary.dropped.get("empty name", 0),
    )


@given(rows=ROWS, types=st.lists(st.tuples(st.sampled_from(["C1", "C2", "D"]), st.sampled_from(["T1", "T2"]))), references=REFERENCES,
       languages=CHOICES, policy=st.sampled_from(POLICIES), block=st.integers(1, 9))  # fmt: skip
def test_contents_against_a_plain_loop(rows, types, references, languages, policy, block):
    source = terminology(rows, types, references)
    expected = plainly(source, languages, policy)
    with patch.object(unique, "_AT_ONCE", block):
        if not expected[0]:
            with pytest.raises(DataError, match="expected a terminology with names in"):
                build_dictionary(in_memory(source), languages, policy)
            return
        dictionary = build_dictionary(in_memory(source), languages, policy)
    assert described(dictionary) == expected
    assert (dictionary.names.schema, dictionary.concepts.schema) == (NAMES_SCHEMA, CONCEPTS_SCHEMA)
    assert sorted(dictionary.keys.rows) == list(range(dictionary.names.num_rows))


@given(
    rows=ROWS,
    references=REFERENCES,
    policy=st.sampled_from(POLICIES),
    blocks=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
@settings(max_examples=25)
def test_from_disk_they_are_the_same_and_so_are_their_files_whatever_the_blocks(
    rows, references, policy, blocks, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("contents")
    source = terminology([*rows, ("C1", "en", "a name", "AAA", None)], references=references)
    source.save(folder / "terminology")
    files = []
    for i, block in enumerate(blocks):
        with patch.object(unique, "_AT_ONCE", block):
            dictionary = build_dictionary(on_disk(folder / "terminology") if i else in_memory(source), None, policy)
        (folder / str(i)).mkdir()
        write_dictionary(folder / str(i), dictionary)
        files.append({file.name: file.read_bytes() for file in (folder / str(i)).iterdir()})
        assert described(open_dictionary(folder / str(i), dictionary.dropped)) == plainly(source, None, policy)
    assert files[0] == files[1]


def test_codes_are_those_of_names_and_of_cross_references_each_once():
    names = [
        ("C1", "en", "a", "SNOMED", "7"),
        ("C1", "de", "b", "ICD", "A:1"),
        ("C2", "de", "c", "ICD", "B"),
        ("C3", "en", "d", "", "x"),
    ]
    references = [("C1", "MSH:D1"), ("C1", "SNOMED:7"), ("C1", "C0001"), ("C2", "MSH:D2"), ("C3", "ICD:A10")]
    dictionary = build_dictionary(in_memory(terminology(names, references=references)), {"en"}, TextPolicy())
    assert dict(
        zip(dictionary.concepts["concept_id"].to_pylist(), dictionary.concepts["codes"].to_pylist(), strict=True)
    ) == {
        "C1": ["ICD:A:1", "MSH:D1", "SNOMED:7"],
        "C3": [":x", "ICD:A10"],
    }


def test_tables_are_written_in_batches_of_as_many_rows(tmp_path):
    dictionary = build_dictionary(
        in_memory(terminology([("C1", "en", f"n{i}", "A", str(i)) for i in range(10)])), None, TextPolicy()
    )
    with patch.object(contents_module, "_AT_ONCE", 4):
        write_dictionary(tmp_path, dictionary)
    with pa.memory_map(str(tmp_path / "names.arrow")) as stream:
        file = pa.ipc.open_file(stream)
        assert [file.get_batch(i).num_rows for i in range(file.num_record_batches)] == [4, 4, 2]
    assert open_dictionary(tmp_path, {}).names == dictionary.names


@pytest.mark.parametrize("array", ["starts", "owners", "hashes", "rows"])
def test_files_that_do_not_fit_together_are_refused(tmp_path, array):
    write_dictionary(
        tmp_path,
        build_dictionary(
            in_memory(terminology([("C1", "en", "a", "A", None), ("C2", "en", "b", "A", None)])), None, TextPolicy()
        ),
    )
    np.save(tmp_path / f"{array}.npy", np.load(tmp_path / f"{array}.npy")[:-1])
    with pytest.raises(ValueError, match="fit together"):
        open_dictionary(tmp_path, {})


def test_names_that_are_not_of_the_concepts_are_refused():
    good = terminology([("C1", "en", "a", "A", None), ("C2", "en", "b", "A", None)])
    for concepts in (good.concepts.slice(1), good.concepts.take([1, 0]), good.concepts.slice(0, 1)):
        with pytest.raises(ArtifactError, match="not of its concepts"):
            build_dictionary(in_memory(Terminology(good.names, concepts)), None, TextPolicy())


@given(
    names=st.lists(st.text(max_size=4) | st.sampled_from(NAMES), min_size=1, max_size=20),
    mention=st.sampled_from(NAMES) | st.text(max_size=4),
)
def test_exact_look_up_against_a_plain_loop(names, mention):
    column = pa.chunked_array([names[:7], names[7:]], pa.string())
    with patch.object(contents_module, "_AT_ONCE", 3):
        keys = Keys.of(column)
    wanted = normalize(mention, EXACT_MATCH)
    expected = [row for row, name in enumerate(names) if wanted and normalize(name, EXACT_MATCH) == wanted]
    assert keys.find(mention, column) == expected


def test_half_a_surrogate_pair_is_no_name():
    assert Keys.of(pa.chunked_array([["a"]])).find("\ud800", pa.chunked_array([["a"]])) == []


@given(names=st.lists(st.sampled_from(NAMES), max_size=30), policy=st.sampled_from(POLICIES))
def test_hashes_are_equal_just_where_the_normalized_names_are(names, policy):
    hashes = [tuple(pair) for pair in hashes_of(pa.array(names, pa.string()), policy).tolist()]
    strings = [normalize(name, policy) for name in names]
    assert [[a == b for b in hashes] for a in hashes] == [[a == b for b in strings] for a in strings]


def test_half_of_a_hash_is_not_enough():
    hashes = np.array([[1, 2], [1, 3], [1, 2], [0, 2]], np.uint64)
    first, rows = unique._distinct(hashes)
    assert (first.tolist(), rows.tolist()) == ([True, True, False, True], [0, 1, 0, 2])


def test_values_at_rows():
    column = pa.chunked_array([["a", "b"], ["c"]])
    assert values_at(column, [2, 0, 0]) == ["c", "a", "a"]
    with patch.object(contents_module, "_FEW", 1):
        assert values_at(column, [2, 0, 0]) == ["c", "a", "a"]
