"""Merging, re-identifying and comparing terminologies, against plain Python on sets."""

import re
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.assemble import Assembly
from data_prep.diff import COLUMNS, change_lines, diff_terminologies, write_changes
from data_prep.merge import map_terminology, merge_terminologies
from tests.fixtures.examples import examples
from xsap.errors import ArtifactError, ConfigError, DataError
from xsap.terms.terminology import NAME_KINDS, NAMES_SCHEMA, RETIRED_SCHEMA, Terminology

KEY = ("concept_id", "language", "name")


def terminology(path, names, metadata=(), retired=()):
    """names: (concept, language, name, kind, source). facts: (concept, types, references). retired: (identifier, successor, relation)."""
    rows = [dict(zip(NAMES_SCHEMA.names, (*name, None, None), strict=True)) for name in names]
    concepts = pa.table(
        {
            "concept_id": pa.array([f[0] for f in metadata], pa.string()),
            "semantic_types": pa.array([f[1] for f in metadata], pa.list_(pa.string())),
            "cross_references": pa.array([f[2] for f in metadata], pa.list_(pa.string())),
        }
    )
    gone = pa.table([pa.array([r[i] for r in retired], pa.string()) for i in range(3)], schema=RETIRED_SCHEMA)
    built, _ = Terminology.build(
        pa.Table.from_pylist(rows, NAMES_SCHEMA), concepts if metadata else None, {"made": path.name}, gone
    )
    built.save(path, overwrite=True)
    return built


# Few values, so that concepts, names and references meet often.
ids = st.sampled_from("AABC")
texts = st.sampled_from(["x", "y", "z", "é", "熱 '", "X"])
names_of = st.lists(
    st.tuples(ids, st.sampled_from(["en", "en", "de"]), texts, st.sampled_from(NAME_KINDS[:2]), st.just("S")),
    min_size=3,
    max_size=10,
)
references = st.lists(st.sampled_from(["U:1", "U:1", "U:2", "U:A", "U:B:C", "U:", "UU:1", "V:U:1", "U"]), max_size=2)
facts_of = st.tuples(
    *(st.tuples(st.just(one), st.lists(st.sampled_from(["T1", "T2"]), max_size=2), references) for one in "ABC")
)
links = st.sampled_from(
    [
        ("A", "B", "same"),
        ("B", None, "deleted"),
        ("R", "A", "same"),
        ("R", "S", "broader"),
        ("S", "B", "same"),
        ("1", "2", "same"),
    ]
)
retired_of = st.lists(links, max_size=5, unique=True)
states = st.tuples(names_of, facts_of, retired_of)


def save(assembled, read, out):
    summary, counts = assembled.save(out, read.counts, read.metadata, overwrite=True)
    written = Terminology.load(out)
    assert summary.names == counts.kept == written.names.num_rows
    return written, counts


def called(rows):
    """The preferred names by a plain reading of the rule. rows: (row, rank of its terminology, whether it is preferred there)."""
    best = {}
    for row, rank, preferred in rows:
        key = (
            row["language"] != "en",
            NAME_KINDS.index(row["kind"]),
            rank,
            not preferred,
            row["language"],
            row["name"],
        )
        best[row["concept_id"]] = min(key, best.get(row["concept_id"], key))
    return {concept: key[-1] for concept, key in best.items()}


def lists(parts, field):
    """concept → the sorted union of a list field over several tables of concepts."""
    union = {}
    for row in (row for part in parts for row in part.to_pylist()):
        union.setdefault(row["concept_id"], set()).update(row[field])
    return {concept: sorted(values) for concept, values in union.items()}


@settings(max_examples=examples(20))
@given(parts=st.lists(states, min_size=2, max_size=3))
def test_merge_matches_plain_dictionaries(tmp_path_factory, parts):
    folder = tmp_path_factory.mktemp("merge")
    built = [terminology(folder / f"t{i}", *part) for i, part in enumerate(parts)]
    with Assembly() as assembly:
        merged = merge_terminologies([folder / f"t{i}" for i in range(len(parts))], assembly)
        written, counts = save(assembly, merged, folder / "out")

    expected, ranked = {}, []
    for rank, one in enumerate(built):
        preferred = dict(
            zip(one.concepts["concept_id"].to_pylist(), one.concepts["preferred_name"].to_pylist(), strict=True)
        )
        for row in one.names.to_pylist():
            key = tuple(row[column] for column in KEY)
            if key not in expected:
                expected[key] = row
                ranked.append((row, rank, preferred[row["concept_id"]] == row["name"]))
    assert {tuple(row[column] for column in KEY): row for row in written.names.to_pylist()} == expected
    assert counts.rows_in == sum(one.names.num_rows for one in built)
    assert sum(counts.dropped.values()) == counts.rows_in - len(expected)
    assert set(counts.dropped) <= {"same name of the same concept in a terminology named before"}
    living = set(written.concepts["concept_id"].to_pylist())
    assert dict(
        zip(written.concepts["concept_id"].to_pylist(), written.concepts["preferred_name"].to_pylist(), strict=True)
    ) == called(ranked)
    for field in ("semantic_types", "cross_references"):
        assert lists([written.concepts], field) == lists([one.concepts for one in built], field)
    retired = {tuple(row.values()) for one in built for row in one.retired.to_pylist()}
    assert {tuple(row.values()) for row in written.retired.to_pylist()} == {
        row for row in retired if row[0] not in living
    }
    assert merged.in_use == len({row[0] for row in retired if row[0] in living})
    new, before = [], set()
    for one in built:
        new.append(len(set(one.concepts["concept_id"].to_pylist()) - before))
        before |= set(one.concepts["concept_id"].to_pylist())
    assert [share.new for share in merged.sources] == new
    assert sum(share.kept for share in merged.sources) == len(expected)


@settings(max_examples=examples(20))
@given(state=states, keep_ambiguous=st.booleans(), keep_prefix=st.booleans())
def test_map_matches_plain_dictionaries(tmp_path_factory, state, keep_ambiguous, keep_prefix):
    folder = tmp_path_factory.mktemp("map")
    built = terminology(folder / "t", *state)
    concepts = {row["concept_id"]: row for row in built.concepts.to_pylist()}
    found = {c: [r for r in row["cross_references"] if re.fullmatch("U:.+", r)] for c, row in concepts.items()}
    chosen = {
        c: [r if keep_prefix else r[2:] for r in rs]
        for c, rs in found.items()
        if len(rs) == 1 or (keep_ambiguous and rs)
    }
    with Assembly() as assembly:
        if not any(found.values()):
            with pytest.raises(DataError, match="has no cross-references to 'U'"):
                map_terminology(folder / "t", "U", assembly, keep_ambiguous=keep_ambiguous, keep_prefix=keep_prefix)
            return
        mapped = map_terminology(folder / "t", "U:", assembly, keep_ambiguous=keep_ambiguous, keep_prefix=keep_prefix)
        if not chosen:
            with pytest.raises(DataError, match="a terminology needs at least one name"):
                save(assembly, mapped, folder / "out")
            return
        written, counts = save(assembly, mapped, folder / "out")

    rows = [(row, new) for row in built.names.to_pylist() for new in chosen.get(row["concept_id"], [])]
    assert {tuple(row[column] for column in KEY) for row in written.names.to_pylist()} == {(new, row["language"], row["name"]) for row, new in rows}  # fmt: skip
    ranked = [
        (row | {"concept_id": new}, 0, concepts[row["concept_id"]]["preferred_name"] == row["name"])
        for row, new in rows
    ]
    names = dict(
        zip(written.concepts["concept_id"].to_pylist(), written.concepts["preferred_name"].to_pylist(), strict=True)
    )
    # Where equal names of several concepts meet, one row stays, by its kind: so the best of each is what `called` looks at.
    assert names == called(ranked)
    expected = {}
    for concept, targets in chosen.items():
        for target in targets:
            itself = {target, target if keep_prefix else f"U:{target}"}
            others = {*concepts[concept]["cross_references"], concept} - itself
            types, refs = expected.setdefault(target, (set(), set()))
            types.update(concepts[concept]["semantic_types"])
            refs.update(others)
    assert lists([written.concepts], "semantic_types") == {c: sorted(types) for c, (types, _) in expected.items()}
    assert lists([written.concepts], "cross_references") == {c: sorted(refs) for c, (_, refs) in expected.items()}
    new = {target for targets in chosen.values() for target in targets}
    succession = {(c, target, "same") for c, targets in chosen.items() for target in targets}
    succession |= {(r["retired_id"], heir, r["relation"]) for r in built.retired.to_pylist() for heir in chosen.get(r["concept_id"], [r["concept_id"]])}  # fmt: skip
    assert {tuple(row.values()) for row in written.retired.to_pylist()} == {
        row for row in succession if row[0] not in new
    }
    fates = Counter(
        0 if row["concept_id"] in chosen else len(found[row["concept_id"]]) or -1 for row in built.names.to_pylist()
    )
    assert mapped.counts.dropped.get("concept without a reference to U", 0) == fates[-1]
    assert mapped.counts.dropped.get("concept with several references to U", 0) == sum(
        n for size, n in fates.items() if size > 1
    )
    assert mapped.copies == len(rows) - fates[0]
    assert counts.rows_in == built.names.num_rows + mapped.copies
    sizes = [len(f) for f in found.values()]
    by_target = Counter(target for targets in chosen.values() for target in targets)
    expected_counts = [len(sizes), sizes.count(1), sum(n > 1 for n in sizes), sizes.count(0), len(by_target), sum(n > 1 for n in by_target.values())]  # fmt: skip
    assert list(mapped.concepts.values()) == expected_counts


@settings(max_examples=examples(20))
@given(old=states, new=states)
def test_diff_turns_old_version_into_new_one(tmp_path_factory, old, new):
    folder = tmp_path_factory.mktemp("diff")
    before, after = terminology(folder / "old", *old), terminology(folder / "new", *new)
    with diff_terminologies(folder / "old", folder / "new") as connection:
        write_changes(connection, folder / "changes.tsv")
        printed = change_lines(connection)
    header, *lines = [line.split("\t") for line in (folder / "changes.tsv").read_text(encoding="utf-8").splitlines()]
    assert tuple(header) == COLUMNS
    assert lines == sorted(lines)
    assert len(set(map(tuple, lines))) == len(lines)
    rows = {change: [row[1:] for row in lines if row[0] == change] for change in {row[0] for row in lines}}
    keys = [{tuple(row[column] for column in KEY) for row in one.names.to_pylist()} for one in (before, after)]
    left = {tuple(row[:3]) for change in ("name removed", "name moved") for row in rows.get(change, [])}
    came = {tuple(row[:3]) for row in rows.get("name added", [])}
    landed = {(other, row[1], row[2]) for row in rows.get("name moved", []) for other in row[3].split("|")}
    assert left == keys[0] - keys[1]
    assert came.isdisjoint(landed)
    assert came | landed == keys[1] - keys[0]
    assert sum(map(len, rows.values())) == len(lines)
    concepts = [set(one.concepts["concept_id"].to_pylist()) for one in (before, after)]
    assert {row[0] for row in rows.get("concept added", [])} == concepts[1] - concepts[0]
    lost = {row[0]: row[3] for change in ("concept moved", "concept retired") for row in rows.get(change, [])}
    assert lost == {concept: heirs(concept, after) for concept in concepts[0] - concepts[1]}
    assert all(
        (row[3] != "") == (change == "concept moved")
        for change, found in rows.items()
        if change.startswith("concept ")
        for row in found
    )
    total = next(line.split() for line in printed if line.startswith("all "))
    counts = [
        len(keys[0]),
        len(keys[1]),
        *(len(rows.get(f"name {what}", [])) for what in ("added", "moved", "removed")),
    ]
    assert total[1:] == list(map(str, counts))


def heirs(concept, after):
    """The ends of the chains of successors that are the same, by a walk over the table, as a TSV's cell has them."""
    living, same = set(after.concepts["concept_id"].to_pylist()), {}
    for row in after.retired.to_pylist():
        if row["retired_id"] not in living:
            same.setdefault(row["retired_id"], set()).update({row["concept_id"]} if row["relation"] == "same" else ())
    reached, edge = {concept}, {concept}
    while edge := {heir for one in edge for heir in same.get(one, ())} - reached:
        reached |= edge
    return "|".join(sorted(one for one in reached - {concept} if one not in same))


def test_merge_needs_two_terminologies(tmp_path):
    terminology(tmp_path / "a", [("A", "en", "x", "synonym", "S")])
    with (
        Assembly() as assembly,
        pytest.raises(ConfigError, match="expected two terminologies or more to merge, found 1"),
    ):
        merge_terminologies([tmp_path / "a"], assembly)
    with (
        Assembly() as assembly,
        pytest.raises(ArtifactError, match="expected a terminology folder, found nothing there"),
    ):
        merge_terminologies([tmp_path / "a", tmp_path / "b"], assembly)


def test_map_drops_reference_of_concept_to_itself(tmp_path):
    names = [("HP:1", "en", "x", "synonym", "S"), ("M:2", "en", "y", "synonym", "S")]
    terminology(
        tmp_path / "t",
        names,
        [("HP:1", [], ["HP:1", "V:1"]), ("M:2", [], ["HP:2", "HP:2 "])],
        [("M:0", "M:2", "same"), ("HP:2", None, "deleted")],
    )
    with Assembly() as assembly:
        mapped = map_terminology(tmp_path / "t", "HP", assembly, keep_ambiguous=True, keep_prefix=True)
        written, _ = save(assembly, mapped, tmp_path / "out")
    assert lists([written.concepts], "cross_references") == {
        "HP:1": ["V:1"],
        "HP:2": ["HP:2 ", "M:2"],
        "HP:2 ": ["HP:2", "M:2"],
    }
    gone = {tuple(row.values()) for row in written.retired.to_pylist()}
    assert gone == {
        ("M:0", "HP:2", "same"),
        ("M:0", "HP:2 ", "same"),
        ("M:2", "HP:2", "same"),
        ("M:2", "HP:2 ", "same"),
    }


def test_map_to_unknown_vocabulary_suggests_nearest(tmp_path):
    terminology(tmp_path / "a", [("A", "en", "x", "synonym", "S")], [("A", [], ["UMLS:C1", "MSH:D1"])])
    with Assembly() as assembly, pytest.raises(DataError) as caught:
        map_terminology(tmp_path / "a", "UMSL", assembly)
    assert str(caught.value) == f"{tmp_path / 'a'} has no cross-references to 'UMSL'; did you mean 'UMLS'?"
    terminology(tmp_path / "b", [("A", "en", "x", "synonym", "S")])
    with Assembly() as assembly, pytest.raises(DataError, match="has no cross-references to 'UMLS'; it has none"):
        map_terminology(tmp_path / "b", "UMLS", assembly)


def test_damaged_terminology_is_refused(tmp_path):
    for name in "ab":
        terminology(tmp_path / name, [("A", "en", "x", "synonym", "S")])
    (tmp_path / "b" / "names.parquet").write_bytes((tmp_path / "b" / "names.parquet").read_bytes()[:-1] + b"?")
    with (
        pytest.raises(ArtifactError, match="its hash is not the manifest's"),
        diff_terminologies(tmp_path / "a", tmp_path / "b"),
    ):
        pass


def test_merge_accepts_paths_with_quotes_and_stars(tmp_path):
    for name in ("it's [a] *", "b?"):
        terminology(tmp_path / name, [("A", "en", "x", "synonym", "S")])
    with Assembly() as assembly:
        merged = merge_terminologies([tmp_path / "it's [a] *", tmp_path / "b?"], assembly)
        written, _ = save(assembly, merged, tmp_path / "out")
    assert written.names.num_rows == 1
    assert [one["name"] for one in written.metadata["of"]] == ["it's [a] *", "b?"]
    assert written.metadata["of"][0]["content"] == Terminology.load(tmp_path / "it's [a] *").content_hash
    assert written.metadata["of"][0]["metadata"] == {"made": "it's [a] *"}


def test_merge_map_and_diff_commands(tmp_path, run_here):
    first = [("H:1", "en", "Fever", "preferred", "H"), ("H:1", "de", "Fieber", "synonym", "H"), ("H:2", "en", "Cough", "preferred", "H"), ("H:3", "en", "Rash", "preferred", "H")]  # fmt: skip
    second = [
        ("H:1", "en", "Fever", "synonym", "K"),
        ("H:1", "en", "Ague", "preferred", "K"),
        ("H:4", "en", "Itch", "preferred", "K"),
    ]
    metadata = [("H:1", ["T184"], ["UMLS:C1"]), ("H:2", [], ["UMLS:C1", "UMLS:C2"])]
    terminology(tmp_path / "a", first, metadata, [("H:0", "H:1", "same"), ("H:4", "H:3", "same")])
    terminology(tmp_path / "b", second)
    done = run_here("-m", "data_prep", "merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "c")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:11] == [
        f"{tmp_path}/c: 4 concepts",
        "terminology".ljust(len(f"{tmp_path}/a")) + "  names  kept  concepts  new concepts",
        f"{tmp_path}/a      4     4         3             3",
        f"{tmp_path}/b      3     2         2             1",
        "1 retired identifiers are concepts of another terminology, so they are kept in use",
        "",
        "names in                                                       7",
        "kept                                                           6",
        "dropped                                                        1",
        "  same name of the same concept in a terminology named before  1",
        "",
    ]
    merged = Terminology.load(tmp_path / "c")
    assert merged.concepts["preferred_name"].to_pylist() == ["Fever", "Cough", "Rash", "Itch"]
    assert merged.retired.to_pylist() == [{"retired_id": "H:0", "concept_id": "H:1", "relation": "same"}]

    done = run_here("-m", "data_prep", "map", tmp_path / "c", "--to", "UMLS", "--out", tmp_path / "u")
    assert (done.returncode, done.stderr) == (0, "")
    assert "  with several         1" in done.stdout.splitlines()
    assert "  concept with several references to UMLS  1" in done.stdout.splitlines()
    mapped = Terminology.load(tmp_path / "u")
    assert mapped.concepts.to_pylist() == [{"concept_id": "C1", "preferred_name": "Fever", "vocabulary": "H", "code": None, "semantic_types": ["T184"], "cross_references": ["H:1"]}]  # fmt: skip
    assert mapped.retired.to_pylist() == [
        {"retired_id": one, "concept_id": "C1", "relation": "same"} for one in ("H:0", "H:1")
    ]
    done = run_here(
        "-m", "data_prep", "map", tmp_path / "c", "--to", "UMLS", "--ambiguous", "all", "--out", tmp_path / "all"
    )
    assert "1 of the names in are copies, for concepts with several references" in done.stdout.splitlines()
    assert Terminology.load(tmp_path / "all").names.num_rows == 5

    done = run_here("-m", "data_prep", "diff", tmp_path / "a", tmp_path / "u", "--out", tmp_path / "changes.tsv")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[:4] == [
        f"{tmp_path}/a → {tmp_path}/u",
        "concepts added    1",
        "concepts moved    1",
        "concepts retired  2",
    ]
    assert "  H:1  Fever  → C1" in lines
    assert "  H:1  de  Fieber  → C1" in lines
    assert "concept moved\tH:1\t\tFever\tC1" in (tmp_path / "changes.tsv").read_text(encoding="utf-8").splitlines()


def test_user_error_is_one_line(tmp_path, run_here):
    terminology(tmp_path / "a", [("A", "en", "x", "synonym", "S")])
    for words in (["merge", tmp_path / "a", "--out", tmp_path / "c"], ["diff", tmp_path / "a", tmp_path / "b"]):
        done = run_here("-m", "data_prep", *words)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert done.stderr.startswith("error: ")
