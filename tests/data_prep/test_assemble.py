"""Assembly: rows in any order and any parts, sorted on disk, give the terminology that `Terminology.build` makes in memory."""

from pathlib import Path
from tempfile import gettempdir

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.accounting import Summary
from data_prep.assemble import Assembly
from tests.fixtures.examples import examples
from xsap.errors import ArtifactError, ConfigError, DataError
from xsap.files import RowCounts
from xsap.terms.terminology import NAME_KINDS, NAMES_SCHEMA, PRECEDENCE, RETIRED_SCHEMA, Terminology

row = st.fixed_dictionaries(
    {
        "concept_id": st.sampled_from(["C1", "C10", "C2", "é", "c", "Ω", "C" * 30]),
        "language": st.sampled_from(["en", "es"]),
        "name": st.sampled_from(["a", "b", "ü", "", "漢", '"', "\U0001f600"]),
        "kind": st.sampled_from(NAME_KINDS),
        "source": st.sampled_from(["s", "t"]),
        "code": st.sampled_from([None, "", "1"]),
        "status": st.sampled_from([None, "OFFICIAL"]),
        PRECEDENCE: st.integers(0, 2),
    }
)
concept_data = st.tuples(
    st.sampled_from(["C1", "C2", "gone", "é"]), st.lists(st.sampled_from(["T1", "T2"]), max_size=2), st.booleans()
)
SCHEMA = NAMES_SCHEMA.append(pa.field(PRECEDENCE, pa.int64()))


@settings(max_examples=examples(40))
@given(
    rows=st.lists(row, min_size=1, max_size=40),
    metadata=st.lists(concept_data, max_size=8),
    names_per_part=st.integers(1, 9),
    cut=st.integers(1, 15),
    max_unsorted=st.sampled_from([0, 7, 1000]),
)
def test_assembly_on_disk_matches_terminology_built_in_memory(
    tmp_path_factory, rows, metadata, names_per_part, cut, max_unsorted
):
    out = tmp_path_factory.mktemp("assembled") / "t"
    table = pa.Table.from_pylist(rows, SCHEMA)
    lists: dict[str, dict[str, set[str]]] = {}
    for concept, values, semantic in metadata:
        lists.setdefault(concept, {"semantic_types": set(), "cross_references": set()})[
            "semantic_types" if semantic else "cross_references"
        ] |= set(values)
    concepts = pa.table(
        {"concept_id": pa.array(list(lists), pa.string())}
        | {
            name: pa.array([sorted(v[name]) for v in lists.values()], pa.list_(pa.string()))
            for name in ("semantic_types", "cross_references")
        }
    )
    retired = pa.table(
        {"retired_id": ["X", "X", "Y"], "concept_id": ["C1", "C1", None], "relation": ["same", "same", "deleted"]},
        RETIRED_SCHEMA,
    )
    counts = RowCounts(len(rows), len(rows), {})
    with Assembly(200_000_000, names_per_part=names_per_part, max_unsorted=max_unsorted) as assembly:
        for first in range(0, len(rows), cut):
            assembly.add_names(table.slice(first, cut))
        for concept, values, semantic in metadata:
            assembly.add_concepts(
                pa.table(
                    {
                        "concept_id": [concept],
                        "semantic_types" if semantic else "cross_references": pa.array([values], pa.list_(pa.string())),
                    }
                )
            )
        assembly.add_retired(retired)
        if not any(r["name"] for r in rows):
            with pytest.raises(DataError, match="found none to write"):
                assembly.save(out, counts, {})
            assert not list(out.parent.iterdir())
            return
        summary, after = assembly.save(out, counts, {"x": 1})
    built, dropped = Terminology.build(table, concepts, retired=retired.slice(1))
    found = Terminology.load(out)
    assert found.names.equals(built.names)
    assert found.concepts.equals(built.concepts)
    assert found.retired.equals(built.retired)
    assert (found.metadata, summary) == ({"x": 1}, Summary.from_terminology(built))
    assert after == RowCounts(len(rows), built.names.num_rows, dropped)


@pytest.mark.slow
def test_sorting_uses_disk_beyond_max_memory(tmp_path):
    names = [f"name {i} {'x' * 90}" for i in range(60_000)]
    rows = {
        "concept_id": [f"C{i * 7919 % 60_000:05d}" for i in range(60_000)],
        "language": ["en"] * 60_000,
        "name": names,
    }
    rows |= {"kind": ["synonym"] * 60_000, "source": ["s"] * 60_000, "code": names, "status": names}
    table = pa.table({f.name: pa.array(rows[f.name], f.type) for f in NAMES_SCHEMA})
    with Assembly(120_000_000) as assembly:
        for _ in range(8):
            assembly.add_names(table)
        summary, counts = assembly.save(tmp_path / "t", RowCounts(480_000, 480_000, {}), {})
    assert (summary.names, summary.concepts, dict(counts.dropped)) == (
        60_000,
        60_000,
        {"same name of the same concept": 420_000},
    )
    assert Terminology.load(tmp_path / "t").names.equals(Terminology.build(table)[0].names)


def test_too_little_memory_for_sorting_is_a_config_error(tmp_path):
    table = pa.table(
        {
            f.name: pa.array(["x" * 900] * 60_000 if f.name != "kind" else ["synonym"] * 60_000, f.type)
            for f in NAMES_SCHEMA
        }
    )
    with Assembly(12_000_000, max_unsorted=1000) as assembly:
        assembly.add_names(table)
        with pytest.raises(
            ConfigError,
            match="sorting needs more memory than the 12,000,000 bytes it may take; allow more with --max-memory",
        ):
            assembly.add_names(table.set_column(0, "concept_id", pa.array(["w"] * 60_000)))  # out of order
    assert not list(tmp_path.iterdir())


def test_assembly_leaves_no_temporary_files_and_replaces_nothing(tmp_path):
    before = set(Path(gettempdir()).glob("xsap-prepare-*"))
    (tmp_path / "mine").write_text("")
    with Assembly() as assembly:
        assert set(Path(gettempdir()).glob("xsap-prepare-*")) > before
        with pytest.raises(ArtifactError, match="exists already"):
            assembly.save(tmp_path, RowCounts(0, 0, {}), {})
    assert set(Path(gettempdir()).glob("xsap-prepare-*")) <= before


def test_reader_that_loses_rows_fails_an_assertion(tmp_path):
    with pytest.raises(AssertionError, match="kept 1 names but added 0"), Assembly() as assembly:
        assembly.save(tmp_path / "t", RowCounts(1, 1, {}), {})
