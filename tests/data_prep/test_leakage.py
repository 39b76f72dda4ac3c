"""The leakage ledger, against the textbook's edit distance over all pairs."""

import csv

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.assemble import Assembly
from data_prep.leakage import LEDGER_SCHEMA, STATUSES, Neighborhood, build_ledger, hold_out, within_one_edit
from data_prep.store import StoredTerminology
from tests.fixtures.examples import examples
from xsap.terms.mentions import build_mentions, write_mentions
from xsap.terms.terminology import NAMES_SCHEMA, RETIRED_SCHEMA, Terminology
from xsap.text import EXACT_MATCH, TextPolicy, normalize


def distance(a, b):
    """Edits between two strings, by the table of Wagner and Fischer (1974)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


# Combining marks, letters beyond the 16 bits, Han, half-width forms, what normalization drops or folds, repeated letters.
LETTERS = "aab \u0301\u0308éÉ熱発ｱア\U00020000\U0001f912ß'\u200b\u00ad"
strings = st.text(st.sampled_from(LETTERS), max_size=5)


@settings(max_examples=examples(300))
@given(left=st.lists(strings, unique=True, max_size=12), right=st.lists(strings, max_size=12))
def test_neighborhood_pairs_match_textbook_edit_distance(left, right):
    expected = [(i, j) for i, a in enumerate(left) for j, b in enumerate(right) if distance(a, b) <= 1]
    assert Neighborhood.from_strings(left).pairs(right) == expected


@settings(max_examples=examples(300))
@given(a=strings, b=strings)
def test_within_one_edit_matches_textbook_edit_distance(a, b):
    assert within_one_edit(a, b) == (distance(a, b) <= 1)


@pytest.mark.parametrize(
    ("a", "b", "near"),
    [("ab", "ba", False), ("", "", True), ("", "a", True), ("", "ab", False), ("é", "e\u0301", False), ("e", "e\u0301", True), ("aa", "aaa", True), ("熱", "発", True), ("abc", "bcd", False)],
)  # fmt: skip
def test_within_one_edit_on_examples(a, b, near):
    assert within_one_edit(a, b) is within_one_edit(b, a) is near
    assert Neighborhood.from_strings([a]).pairs([b]) == ([(0, 0)] if near else [])


def test_neighborhood_finds_every_edit_of_a_long_string():
    letters = np.random.default_rng(1).permutation(3000)
    long = "".join(chr(0x4E00 + i) for i in letters)
    edited = [
        long[:i] + middle + long[i + gap :]
        for i in (0, 1, 1500, 2998, 2999)
        for middle, gap in (("", 1), ("x", 1), ("x", 0))
    ]
    twice = [one[:700] + "y" + one[701:] for one in edited]
    assert Neighborhood.from_strings([long, "x"]).pairs([*edited, *twice, long]) == [(0, j) for j in (*range(15), 30)]


def test_hash_collisions_do_not_change_pairs():
    rng = np.random.default_rng(2)
    left, right = (["".join(rng.choice(list("abc"), 4)) for _ in range(40)] for _ in range(2))
    expected = [(i, j) for i, a in enumerate(left) for j, b in enumerate(right) if distance(a, b) <= 1]
    same_hash = np.zeros(0x110000, np.uint64)
    assert Neighborhood.from_strings(left, same_hash).pairs(right) == expected


def terminology(path, names, retired=()):
    """names: (concept, language, name, kind); a name is normalized as readers do it, and left out if nothing is left of it."""
    rows = [dict(zip(NAMES_SCHEMA.names, (c, lang, normalize(name, TextPolicy()), kind, "S", None, None), strict=True)) for c, lang, name, kind in names]  # fmt: skip
    concepts = pa.table({"concept_id": ["A"], "semantic_types": [["T1"]], "cross_references": [["U:1"]]})
    gone = pa.table([pa.array([row[i] for row in retired], pa.string()) for i in range(3)], schema=RETIRED_SCHEMA)
    built, _ = Terminology.build(pa.Table.from_pylist(rows, NAMES_SCHEMA), concepts, {"made": "here"}, gone)
    built.save(path, overwrite=True)
    return built


kinds = st.sampled_from(["synonym", "preferred"])
names_of = st.lists(
    st.tuples(st.sampled_from("ABC"), st.sampled_from(["en", "ja"]), strings, kinds), min_size=1, max_size=10
)


@st.composite
def names_and_mentions(draw):
    """Mentions are names with at most two edits, or upper case, so that each status occurs."""
    names = draw(names_of)
    mentions = []
    for _ in range(draw(st.integers(1, 6))):
        text = draw(st.sampled_from(names))[2]
        for edit in draw(st.lists(st.sampled_from(["insert", "delete", "substitute", "swap", "upper"]), max_size=2)):
            at, letter = draw(st.integers(0, len(text))), draw(st.sampled_from(LETTERS))
            text = {
                "insert": text[:at] + letter + text[at:],
                "delete": text[:at] + text[at + 1 :],
                "substitute": text[:at] + letter + text[at + 1 :],
                "swap": text[:at] + text[at : at + 2][::-1] + text[at + 2 :],
                "upper": text.upper(),
            }[edit]
        mentions.append((text, draw(st.lists(st.sampled_from("ABZ"), max_size=2, unique=True))))
    return names, mentions


@settings(max_examples=examples(40))
@given(names_and_mentions())
def test_ledger_matches_comparison_of_all_pairs(tmp_path_factory, drawn):
    names, mentions = drawn
    folder = tmp_path_factory.mktemp("ledger")
    built = terminology(folder / "t", [*names, ("C", "en", "qqqqqqqq", "synonym")])
    table = build_mentions([m for m, _ in mentions], ["ja"] * len(mentions), [list(gold) for _, gold in mentions])
    stored = StoredTerminology.open(folder / "t")
    ledger = build_ledger(stored, table)

    rows = built.names.to_pylist()
    leaks, edits = {}, [2] * len(rows)
    for i, (mention, gold) in enumerate(mentions):
        string = normalize(mention, EXACT_MATCH)
        for j, row in enumerate(rows):
            apart = distance(string, normalize(row["name"], EXACT_MATCH))
            if apart <= 1:
                leaks.setdefault(i, []).append(
                    (2 * apart + (row["concept_id"] not in gold), row["concept_id"], row["name"])
                )
                if row["concept_id"] in gold:
                    edits[j] = min(edits[j], apart)
    expected = [min(leaks.get(i, [(4, None, None)])) for i in range(len(mentions))]
    found = zip(
        *(ledger.rows[column].to_pylist() for column in ("status", "matched_concept_id", "matched_name")), strict=True
    )
    assert list(found) == [(STATUSES[rank], concept, name) for rank, concept, name in expected]
    living = set(built.concepts["concept_id"].to_pylist())
    assert ledger.rows["gold_in_terminology"].to_pylist() == [bool(living & set(gold)) for _, gold in mentions]
    assert ledger.edits.tolist() == edits

    with Assembly() as assembly:
        counts, metadata = hold_out(stored, ledger, assembly, {"m.tsv": "0"})
        _, counts = assembly.save(folder / "held", counts, metadata)
    held = Terminology.load(folder / "held")
    assert held.names.to_pylist() == [row for row, apart in zip(rows, edits, strict=True) if apart > 1]
    assert dict(counts.dropped) == {reason: n for reason, n in (("equal to a mention of its concept", edits.count(0)), ("one edit from a mention of its concept", edits.count(1))) if n}  # fmt: skip
    again = build_ledger(StoredTerminology.open(folder / "held"), table)
    assert set(again.rows["status"].to_pylist()) <= {"seen: other", "near: other", "unseen"}
    preferred = dict(
        zip(built.concepts["concept_id"].to_pylist(), built.concepts["preferred_name"].to_pylist(), strict=True)
    )
    left = {(row["concept_id"], row["name"]) for row in held.names.to_pylist()}
    for concept in held.concepts.to_pylist():
        was = preferred[concept["concept_id"]]
        assert (concept["preferred_name"] == was) or (concept["concept_id"], was) not in left


NAMES = [
    ("A", "en", "Fever", "preferred"),
    ("A", "de", "Fieber", "preferred"),
    ("A", "en", "Pyrexia", "synonym"),
    ("B", "en", "Fevers", "preferred"),
    ("B", "de", "Grippe", "preferred"),
    ("C", "en", "Lever", "preferred"),
]
MENTIONS = [
    ("FEVER", "de", ["A"], "seen: gold", "A", "Fever", "yes"),
    ("fever", "fr", ["B"], "seen: other", "A", "Fever", "yes"),
    ("grippe\u0301", "fr", ["B", "Z"], "near: gold", "B", "Grippe", "yes"),
    ("Gripe", "es", ["Z"], "near: other", "B", "Grippe", "no"),
    ("tos", "es", [], "unseen", "", "", "no"),
]


def test_leakage_command_prints_ledger_and_holds_out_names(tmp_path, run_here):
    built = terminology(tmp_path / "t", NAMES, [("R", "A", "same")])
    write_mentions(
        build_mentions([m[0] for m in MENTIONS], [m[1] for m in MENTIONS], [m[2] for m in MENTIONS]), tmp_path / "m.tsv"
    )
    words = [
        "-m",
        "data_prep",
        "leakage",
        tmp_path / "t",
        tmp_path / "m.tsv",
        "--out",
        tmp_path / "l.tsv",
        "--hold-out",
        tmp_path / "held",
    ]
    done = run_here(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"{tmp_path}/m.tsv in {tmp_path}/t",
        "mentions     n  seen: gold  seen: other  near: gold  near: other  unseen  gold absent",
        "es  Spanish  2           0            0           0            1       1            2",
        "fr  French   2           0            1           1            0       0            0",
        "de  German   1           1            0           0            0       0            0",
        "all          5           1            1           1            1       1            2",
        "",
        f"{tmp_path}/l.tsv: all mentions",
        "",
        f"{tmp_path}/held: 2 concepts",
        f"1 concepts have no name left: train on it, but link into {tmp_path}/t",
        "names in                                  6",
        "kept                                      3",
        "dropped                                   3",
        "  one edit from a mention of its concept  2",
        "  equal to a mention of its concept       1",
        "",
        "language     names  concepts",
        "en  English      2         2",
        "de  German       1         1",
        "all              3         2",
    ]
    with (tmp_path / "l.tsv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert rows[0] == LEDGER_SCHEMA.names
    assert rows[1:] == [[m[0], m[1], "|".join(m[2]), *m[3:]] for m in MENTIONS]
    held = Terminology.load(tmp_path / "held")
    assert held.names["name"].to_pylist() == [
        "Fieber",
        "Pyrexia",
        "Lever",
    ]  # "Fevers" of B is one edit from B's mention "fever"
    assert held.concepts["preferred_name"].to_pylist() == ["Pyrexia", "Lever"]
    assert held.concepts["semantic_types"].to_pylist() == [["T1"], []]
    assert held.retired.num_rows == 1
    assert held.metadata["made"] == "here"
    assert held.metadata["held_out"]["of"] == Terminology.load(tmp_path / "t").content_hash
    assert list(held.metadata["held_out"]["files"]) == ["m.tsv"]
    assert built.names.num_rows == 6
    (tmp_path / "l.tsv").unlink()
    done = run_here(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{tmp_path}/held exists already" in done.stderr


def test_holding_out_all_names_is_refused(tmp_path, run_here):
    terminology(tmp_path / "t", [("A", "en", "Fever", "preferred")])
    (tmp_path / "m.tsv").write_text("mention\tconcept_ids\nfever\tA\n")
    done = run_here("-m", "data_prep", "leakage", tmp_path / "t", tmp_path / "m.tsv", "--hold-out", tmp_path / "held")
    assert done.returncode == 2
    assert "a terminology needs at least one name" in done.stderr
    assert not (tmp_path / "held").exists()


def test_ledger_does_not_depend_on_batch_size(tmp_path):
    built = terminology(
        tmp_path / "t",
        [(c, "en", name, "synonym") for c in "ABC" for name in ("fever", "fevers", "cough", "xyz", "熱")],
    )
    table = build_mentions(["Fever", "熱"], ["en", "ja"], [["A", "C"], ["B"]])
    stored = StoredTerminology.open(tmp_path / "t")
    whole = build_ledger(stored, table)
    apart = build_ledger(StoredTerminology.open(tmp_path / "t", rows_per_batch=2), table)
    assert apart.rows.equals(whole.rows)
    assert apart.edits.tolist() == whole.edits.tolist()
    with Assembly() as assembly:
        counts, metadata = hold_out(stored, whole, assembly, {})
        assembly.save(tmp_path / "held", counts, metadata)
    kept = [row for row, edits in zip(built.names.to_pylist(), whole.edits.tolist(), strict=True) if edits > 1]
    assert Terminology.load(tmp_path / "held").names.to_pylist() == kept
