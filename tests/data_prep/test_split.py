import json
from collections import defaultdict

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.split import is_held_out, overlap_lines, split_terminology
from tests.fixtures.examples import examples
from xsap.artifacts import read_manifest
from xsap.errors import ArtifactError, ConfigError, DataError
from xsap.files import RowCounts
from xsap.terms.mentions import read_mentions
from xsap.terms.terminology import NAMES_SCHEMA, Terminology

Row = tuple[str, str, str, str | None]


def terminology_of(rows: list[Row]) -> Terminology:
    columns = list(zip(*rows, strict=True))
    names = dict(zip(("concept_id", "language", "name", "status"), columns, strict=True))
    names |= {"kind": ["synonym"] * len(rows), "source": ["x"] * len(rows), "code": [None] * len(rows)}
    return Terminology.build(pa.table({f.name: pa.array(names[f.name], f.type) for f in NAMES_SCHEMA}))[0]


def keys(terminology: Terminology) -> set[tuple[str, str, str]]:
    return {(row["concept_id"], row["language"], row["name"]) for row in terminology.names.to_pylist()}


row_lists = st.lists(
    st.tuples(
        st.integers(0, 30).map("C{}".format),
        st.sampled_from(["en", "es", "de"]),
        st.sampled_from(["a", "A", "b", "c", "d e", "ñ"]),
        st.sampled_from(["OFFICIAL", "CANDIDATE", None]),
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=examples(60), deadline=None)
@given(
    rows=row_lists,
    fraction=st.sampled_from([0.1, 0.5, 0.9]),
    seed=st.integers(0, 3),
    official=st.booleans(),
    shuffled=st.randoms(),
)
def test_split_holds_out_non_english_names(rows, fraction, seed, official, shuffled):
    rows = [*rows, *((f"K{i}", lang, "k", "OFFICIAL") for i in range(60) for lang in ("en", "es"))]
    terminology = terminology_of(rows)
    options = {"fraction": fraction, "seed": seed, "statuses": {"OFFICIAL"} if official else None}
    parts = split_terminology(terminology, **options)
    everything, training = keys(terminology), keys(parts.training)
    with_english = {concept for concept, language, _ in everything if language == "en"}
    held_out = {concept for concept in with_english if is_held_out(concept, fraction, seed)}
    away = {key for key in everything if key[0] in held_out and key[1] != "en"}
    assert training == everything - away  # so all English stays, and a held-out concept keeps nothing else
    assert (parts.names_held_out, parts.concepts_held_out) == (len(away), len({concept for concept, _, _ in away}))
    status = {(row["concept_id"], row["language"], row["name"]): row["status"] for row in terminology.names.to_pylist()}
    bearers = defaultdict(set)
    for concept, language, name in everything:
        bearers[language, name].add(concept)
    expected = {(key[1], key[2]) for key in away if not official or status[key] == "OFFICIAL"}
    found = {(row["language"], row["mention"]): row["concept_ids"] for row in parts.mentions.to_pylist()}
    assert len(found) == parts.mentions.num_rows
    assert found == {key: sorted(bearers[key]) for key in expected}
    shuffled.shuffle(rows)
    again = split_terminology(
        terminology_of([*rows, ("NEW", "es", "neu", "OFFICIAL"), ("NEW", "en", "new", None)]), **options
    )
    assert {key for key in keys(again.training) if key[0] != "NEW"} == training


def test_held_out_fraction_and_seed():
    chosen = {seed: {i for i in range(20_000) if is_held_out(f"HP:{i:07d}", 0.2, seed)} for seed in (0, 1)}
    assert all(3_830 < len(ids) < 4_170 for ids in chosen.values())  # three standard deviations around 4,000
    assert 700 < len(chosen[0] & chosen[1]) < 900
    assert all(is_held_out(f"HP:{i:07d}", 0.5, 0) for i in chosen[0])  # a larger share holds out more, and nothing less


def test_held_out_concepts_are_pinned():
    assert [i for i in range(30) if is_held_out(f"HP:{i:07d}", 0.2, 0)] == [
        2,
        3,
        5,
        12,
        21,
        22,
        23,
        29,
    ]  # a published split must come again


ROWS: list[Row] = [
    (f"C{i}", lang, f"{lang} {i}", status)
    for i in range(40)
    for lang, status in (("en", None), ("es", "OFFICIAL"), ("de", "CANDIDATE"))
]


def test_overlap_lines_count_known_strings():
    rows: list[Row] = [
        ("H", "en", "a", None),
        ("H", "es", "FIEBRE", None),
        ("H", "es", "Tos", None),
        ("H", "es", "nuevo", None),
    ]
    rows += [("S", "en", "Fiebre", None), ("S", "de", "fiebre", None), ("S", "de", "tos", None)]
    seed = next(s for s in range(99) if is_held_out("H", 0.5, s) and not is_held_out("S", 0.5, s))
    (_, line) = overlap_lines(split_terminology(terminology_of(rows), fraction=0.5, seed=seed))
    assert line.split() == ["es", "Spanish", "3", "1", "1"]


def test_split_is_saved_whole_or_not_at_all(tmp_path, monkeypatch):
    parts = split_terminology(terminology_of(ROWS), fraction=0.3, seed=1, statuses={"OFFICIAL"})
    parts.save(tmp_path / "s")
    assert read_mentions(tmp_path / "s" / "mentions.tsv").select(["mention", "concept_ids"]) == parts.mentions.select(
        ["mention", "concept_ids"]
    )
    training = Terminology.load(tmp_path / "s" / "terminology")
    assert training.names.equals(parts.training.names)
    assert training.metadata["split"] == {"of": None, "fraction": 0.3, "seed": 1, "test_status": ["OFFICIAL"]}
    assert set(read_manifest(tmp_path / "s", "split")["files"]) >= {"mentions.tsv", "terminology/manifest.json"}
    with pytest.raises(ArtifactError, match="exists already"):
        parts.save(tmp_path / "s")
    before = json.loads((tmp_path / "s" / "manifest.json").read_text())
    monkeypatch.setattr("data_prep.split.write_mentions", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        parts.save(tmp_path / "s", overwrite=True)
    assert json.loads((tmp_path / "s" / "manifest.json").read_text()) == before
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_split_fraction_must_be_between_0_and_1(fraction):
    with pytest.raises(ConfigError, match="the test fraction must be between 0 and 1"):
        split_terminology(terminology_of(ROWS), fraction=fraction)


def test_split_without_suitable_names_is_refused():
    with pytest.raises(DataError, match="has no English name"):
        split_terminology(terminology_of([row for row in ROWS if row[1] != "en"]), fraction=0.5)
    with pytest.raises(DataError, match="no name is held out"):
        split_terminology(terminology_of([row for row in ROWS if row[1] == "en"]), fraction=0.5)
    with pytest.raises(DataError, match="has no translation status 'OFFICAL'; did you mean 'OFFICIAL'?"):
        split_terminology(terminology_of(ROWS), fraction=0.5, statuses={"OFFICAL"})


def test_row_counts_must_add_up():
    counts = RowCounts(10, 7, {"x": 3}).then(5, {"x": 1, "y": 1, "z": 0})
    assert (counts.rows_in, counts.kept, dict(counts.dropped)) == (10, 5, {"x": 4, "y": 1})
    assert [line.split() for line in counts.lines()] == [
        ["names", "in", "10"],
        ["kept", "5"],
        ["dropped", "5"],
        ["x", "4"],
        ["y", "1"],
    ]
    with pytest.raises(AssertionError, match="not accounted for"):
        RowCounts(10, 7, {"x": 2})
