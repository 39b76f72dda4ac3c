"""Definitions and parents in an index, against plain loops over the terminology, in memory and on disk."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures.builds import CASED, Ngrams, assert_same_files, build_small
from tests.fixtures.dictionaries import terminology, terminology_of_rows
from xsap.errors import ArtifactError
from xsap.linking.build import merge_shards
from xsap.linking.details import DETAIL_FILES
from xsap.linking.dictionary import NameSource, build_dictionary
from xsap.linking.index import Index
from xsap.terms.concept_details import DEFINITIONS_SCHEMA, RELATIONS_SCHEMA
from xsap.terms.terminology import Terminology

IDS = ["C1", "C10", "C2", "C3", "D"]
names = st.lists(
    st.tuples(
        st.sampled_from(IDS), st.sampled_from(["en", "de"]), st.sampled_from("abcd"), st.sampled_from(["S", "T"])
    ),
    min_size=1,
    max_size=12,
)
definitions = st.lists(
    st.tuples(
        st.sampled_from(IDS), st.sampled_from(["en", "de", "fr"]), st.sampled_from("xyz"), st.sampled_from("STU")
    ),
    max_size=12,
)
relations = st.lists(st.tuples(st.sampled_from(IDS), st.sampled_from(IDS)), max_size=12)


def with_details(given_names, given_definitions=(), given_relations=()):
    rows = terminology_of_rows([(*row, None) for row in given_names])
    tables = [
        pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in found], schema)
        for found, schema in ((given_definitions, DEFINITIONS_SCHEMA), (given_relations, RELATIONS_SCHEMA))
    ]
    return rows.with_details(*tables)[0]


def index_of(term, languages=None):
    return Index.build(term, Ngrams(), languages=languages)


def plain_definition(term, concept_id, language):
    """The rule, word for word."""
    own = {row["concept_id"]: row["vocabulary"] for row in term.concepts.to_pylist()}
    for code in (language, "en", *sorted({row["language"] for row in term.definitions.to_pylist()})):
        found = [r for r in term.definitions.to_pylist() if r["concept_id"] == concept_id and r["language"] == code]
        found.sort(key=lambda row: (row["source"] != own[concept_id], row["source"], row["definition"]))
        if found:
            return found[0]["definition"]
    return None


def plain_parents(term, kept, concept_id):
    above = {row["concept_id"]: set() for row in term.concepts.to_pylist()}
    for row in term.relations.to_pylist():
        above[row["concept_id"]].add(row["parent_id"])
    found, pending, seen = set(), list(above[concept_id]), set()
    while pending:
        one = pending.pop()
        if one in kept:
            found |= {one} - {concept_id}
        elif one not in seen:
            seen.add(one)
            pending += above[one]
    return sorted(found)


@given(names, definitions, relations, st.booleans())
def test_definitions_and_parents_are_those_of_a_plain_loop(
    given_names, given_definitions, given_relations, all_languages
):
    term = with_details(given_names, given_definitions, given_relations)
    languages = None if all_languages or "en" not in term.languages else ["en"]
    index = index_of(term, languages)
    kept = index.concepts["concept_id"].to_pylist()
    for concept_id in kept:
        for language in ("en", "de", "es", None):
            assert index.definition_of(concept_id, language) == plain_definition(term, concept_id, language)
        assert index.parents_of(concept_id) == plain_parents(term, set(kept), concept_id)
    assert (index.definition_of("unknown"), index.parents_of("unknown")) == (None, [])


def test_of_other_vocabularies_definitions_the_first_by_source_is_kept():
    given = [("C1", "en", "x", "U"), ("C1", "en", "z", "S"), ("C1", "en", "y", "S")]
    assert index_of(with_details([("C1", "en", "a", "T")], given)).definition_of("C1") == "y"


TERM = with_details(
    [("C1", "en", "fever", "S"), ("C2", "de", "hohes Fieber", "S"), ("C3", "en", "very high fever", "S")],
    [("C1", "de", "warm", "S"), ("C1", "en", "hot", "S"), ("C3", "fr", "chaud", "S")],
    [("C2", "C1"), ("C3", "C2")],
)


def opened(folder):
    index = Index.load(folder)
    ids = index.concepts["concept_id"].to_pylist()
    return {one: (index.definition_of(one), index.parents_of(one)) for one in ids}


def test_a_saved_index_has_the_same_details_however_it_was_built(tmp_path):
    TERM.save(tmp_path / "term")
    index_of(TERM).save(tmp_path / "memory")
    encoder = Ngrams()
    build_small(tmp_path / "term", encoder, tmp_path / "disk", model_path=tmp_path / "model")
    for i in (1, 2):
        build_small(tmp_path / "term", encoder, tmp_path / f"p{i}", model_path=tmp_path / "model", shard=(i, 2))
    merge_shards([tmp_path / "p2", tmp_path / "p1"], tmp_path / "merged")
    wanted = {"C1": ("hot", []), "C2": (None, ["C1"]), "C3": ("chaud", ["C2"])}
    assert opened(tmp_path / "memory") == opened(tmp_path / "disk") == opened(tmp_path / "merged") == wanted
    assert_same_files(tmp_path / "disk", tmp_path / "merged")


def test_an_index_without_details_has_none_of_their_files_and_opens(tmp_path):
    plain = terminology(("C1", "en", "fever"))
    index_of(plain).save(tmp_path / "index")
    assert not any((tmp_path / "index" / file).exists() for file in DETAIL_FILES)
    index = Index.load(tmp_path / "index")
    assert (index.dictionary.details, index.definition_of("C1"), index.parents_of("C1")) == (None, None, [])


@pytest.mark.parametrize(("given_definitions", "given_relations", "files"), [
    ([("C1", "en", "hot", "S")], [], [True, False, False]),
    ([], [("C1", "C2")], [False, True, True]),
])  # fmt: skip
def test_either_kind_of_details_is_stored_alone(tmp_path, given_definitions, given_relations, files):
    term = with_details([("C1", "en", "a", "S"), ("C2", "en", "b", "S")], given_definitions, given_relations)
    index_of(term).save(tmp_path / "index")
    assert [(tmp_path / "index" / file).exists() for file in DETAIL_FILES] == files
    index = Index.load(tmp_path / "index")
    assert index.definition_of("C1") == (given_definitions[0][2] if given_definitions else None)
    assert index.parents_of("C1") == [parent for _, parent in given_relations]


def test_a_terminology_without_details_is_built_as_before(tmp_path):
    plain = terminology(("C1", "en", "fever"))
    plain.save(tmp_path / "term")
    assert sorted(file.name for file in (tmp_path / "term").iterdir()) == ["concepts.parquet", "manifest.json", "names.parquet"]  # fmt: skip
    assert build_dictionary(NameSource.from_folder(tmp_path / "term"), None, CASED).details is None
    assert Terminology.load(tmp_path / "term").relations.num_rows == 0


@pytest.mark.parametrize("damage", ["definitions.arrow", "parents.npy", "parent_starts.npy", "one array"])
def test_details_that_do_not_fit_are_refused(tmp_path, damage, monkeypatch):
    from xsap.linking import details

    broken = with_details([("C1", "en", "a", "S"), ("C2", "en", "b", "S")], [("C1", "en", "hot", "S")], [("C2", "C1")])

    def write(folder, found):
        real(folder, found)
        if damage == "definitions.arrow":
            table = pa.table([[7], ["en"], ["hot"]], schema=details.INDEX_DEFINITIONS_SCHEMA)
            with pa.OSFile(str(folder / damage), "wb") as stream, pa.ipc.new_file(stream, table.schema) as writer:
                writer.write_table(table)
        elif damage == "one array":
            (folder / "parents.npy").unlink()
        else:
            np.save(folder / damage, np.load(folder / damage) + 7)

    real = details.write_details
    monkeypatch.setattr("xsap.linking.dictionary_files.write_details", write)
    index_of(broken).save(tmp_path / "index")
    with pytest.raises(ArtifactError, match="fit together"):
        Index.load(tmp_path / "index")
