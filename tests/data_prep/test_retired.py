"""Successors of retired identifiers, against a walk over the table, and mentions brought up to date by them."""

from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.retired import CIRCULAR, DELETED, NOT_THE_SAME, Successors, update_gold
from tests.fixtures.examples import examples
from xsap.terms.mentions import build_mentions, read_mentions, write_mentions
from xsap.terms.terminology import NAMES_SCHEMA, RELATIONS, RETIRED_SCHEMA, Terminology


def table(rows):
    return pa.table([pa.array([row[i] for row in rows], pa.string()) for i in range(3)], schema=RETIRED_SCHEMA)


def living(*ids):
    return pa.chunked_array([list(ids)], pa.string())


RETIRED = [
    ("R1", "A", "same"),  # plain
    ("R2", "R1", "same"),  # a chain
    ("R3", "R4", "same"),  # a circle of two
    ("R4", "R3", "same"),
    ("R5", "R5", "same"),  # and of one
    ("R6", "B", "broader"),
    ("R7", "B", "narrower"),
    ("R8", "B", "related"),
    ("R9", None, "deleted"),
    ("S1", "A", "same"),  # in two
    ("S1", "B", "same"),
    ("S2", "R9", "same"),  # a chain that ends nowhere
    ("S3", "R6", "same"),  # a chain whose end is only broader
    ("S4", "B", "broader"),  # the exact one is taken
    ("S4", "R1", "same"),
    ("S5", "R3", "same"),  # a way out of the circle
    ("S5", "B", "same"),
    ("S6", "elsewhere", "same"),  # a successor that this terminology leaves out
    ("A", "B", "same"),  # in use, whatever the table says
    ("S7", None, "same"),  # a row without the successor it speaks of
]
FATES = {
    "A": ["A"],
    "R1": ["A"],
    "R2": ["A"],
    "S1": ["A", "B"],
    "S4": ["A"],
    "S5": ["B"],
    "S6": ["elsewhere"],
    "unheard-of": ["unheard-of"],
    "R3": CIRCULAR,
    "R5": CIRCULAR,
    "R6": NOT_THE_SAME,
    "R7": NOT_THE_SAME,
    "R8": NOT_THE_SAME,
    "S3": NOT_THE_SAME,
    "R9": DELETED,
    "S2": DELETED,
    "S7": DELETED,
}


@pytest.mark.parametrize("identifier", FATES)
def test_successors_of_retired_identifiers(identifier):
    ends, rejection_reason = Successors.from_table(pa.array([identifier]), table(RETIRED), living("A", "B")).trace(
        identifier
    )
    assert (ends or rejection_reason) == FATES[identifier]
    assert (rejection_reason is None) == bool(ends)


ids = st.sampled_from(list("ABCDEFGH"))
rows_of = st.lists(st.tuples(ids, st.none() | ids, st.sampled_from(RELATIONS)), max_size=14)


@settings(max_examples=examples(150))
@given(rows=rows_of, alive=st.sets(ids, max_size=3), gold=st.lists(st.lists(ids, max_size=3), min_size=1, max_size=4))
def test_update_gold_matches_walk_over_the_table(rows, alive, gold):
    mentions = build_mentions(
        [f"m{i}" for i in range(len(gold))], ["de"] * len(gold), gold, start=list(range(len(gold)))
    )
    update = update_gold(mentions, table(rows), living(*sorted(alive)))
    retired = {one for one, _, _ in rows} - alive

    def walk(one, passed):
        if one not in retired:
            return {one}
        nexts = {heir for old, heir, relation in rows if old == one and heir and relation == "same"}
        return set().union(*(walk(heir, passed | {one}) for heir in nexts - passed - {one}))

    expected = [list(dict.fromkeys(heir for one in ids for heir in sorted(walk(one, set())))) for ids in gold]
    kept = [i for i, ids in enumerate(gold) if expected[i] or not ids]
    assert update.mentions["concept_ids"].to_pylist() == [expected[i] for i in kept]
    assert update.mentions["mention"].to_pylist() == [f"m{i}" for i in kept]
    assert update.mentions["start"].to_pylist() == kept
    assert (update.counts.rows_in, update.counts.kept) == (len(gold), len(kept))
    assert sum(update.identifiers.values()) == sum(map(len, gold))
    outcomes = Counter()
    for one in (one for ids in gold for one in ids):
        outcomes[
            "gone"
            if not walk(one, set())
            else "here"
            if one in alive
            else "unknown"
            if one not in retired
            else "replaced"
        ] += 1
    found = update.identifiers
    assert found.get("in use", 0) == outcomes["here"]
    assert found.get("not in the terminology, kept", 0) == outcomes["unknown"]
    assert found.get("replaced by successors", 0) == outcomes["replaced"]
    assert sum(n for outcome, n in found.items() if outcome.startswith("removed: ")) == outcomes["gone"]


def test_update_mentions_command(tmp_path, run_here):
    names = pa.Table.from_pylist(
        [dict(zip(NAMES_SCHEMA.names, (c, "en", "x", "synonym", "S", None, None), strict=True)) for c in "AB"]
    )
    Terminology.build(names, retired=table(RETIRED))[0].save(tmp_path / "t")
    gold = [["R2", "A"], ["R9"], ["R6", "unheard-of"], [], ["S1", "R3"]]
    contexts = ["the first", None, None, None, "with\ta tab"]
    write_mentions(
        build_mentions(list("abcde"), ["de", "fr", "de", "en", "zh"], gold, context=contexts), tmp_path / "m.tsv"
    )
    done = run_here(
        "-m",
        "data_prep",
        "update-mentions",
        tmp_path / "m.tsv",
        "--terminology",
        tmp_path / "t",
        "--out",
        tmp_path / "n.tsv",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"{tmp_path}/n.tsv: 4 mentions",
        "gold identifiers                                         7",
        "  replaced by successors                                 2",
        "  in use                                                 1",
        "  not in the terminology, kept                           1",
        "  removed: deleted, without a successor                  1",
        "  removed: only broader, narrower or related successors  1",
        "  removed: successors that lead back to it               1",
        "",
        "mentions in           5",
        "kept                  4",
        "dropped               1",
        "  no identifier left  1",
    ]
    written = read_mentions(tmp_path / "n.tsv")
    assert written["concept_ids"].to_pylist() == [["A"], ["unheard-of"], [], ["A", "B"]]
    assert written["mention"].to_pylist() == ["a", "c", "d", "e"]
    assert written["context"].to_pylist() == ["the first", None, None, "with a tab"]


def test_update_mentions_without_retired_table_changes_nothing(tmp_path, run_here):
    names = pa.Table.from_pylist(
        [dict(zip(NAMES_SCHEMA.names, ("A", "en", "x", "synonym", "S", None, None), strict=True))]
    )
    Terminology.build(names)[0].save(tmp_path / "t")
    (tmp_path / "m.tsv").write_text("mention\tconcept_ids\nfever\tA|Z\n")
    done = run_here(
        "-m",
        "data_prep",
        "update-mentions",
        tmp_path / "m.tsv",
        "--terminology",
        tmp_path / "t",
        "--out",
        tmp_path / "n.parquet",
    )
    assert done.returncode == 0
    assert read_mentions(tmp_path / "n.parquet").to_pylist() == read_mentions(tmp_path / "m.tsv").to_pylist()
    assert not (tmp_path / "t" / "retired.parquet").exists()


@pytest.mark.parametrize(("text", "message"), [(None, "m.tsv: expected a file, found nothing there"), ("mention\tgold\nx\ty\n", "m.tsv: expected gold concepts in the column")])  # fmt: skip
def test_malformed_mentions_are_one_error_line(tmp_path, run_here, text, message):
    names = pa.Table.from_pylist(
        [dict(zip(NAMES_SCHEMA.names, ("A", "en", "x", "synonym", "S", None, None), strict=True))]
    )
    Terminology.build(names)[0].save(tmp_path / "t")
    if text:
        (tmp_path / "m.tsv").write_text(text)
    done = run_here(
        "-m",
        "data_prep",
        "update-mentions",
        tmp_path / "m.tsv",
        "--terminology",
        tmp_path / "t",
        "--out",
        tmp_path / "n.tsv",
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert message in done.stderr.splitlines()[-1]
    assert not (tmp_path / "n.tsv").exists()
