"""Training mentions as names of a dictionary: in linkers that are not trained, and on the command line."""

import sys

import pytest

from benchmarks.__main__ import app
from benchmarks.accuracy.baselines import exact_linker, search_rows_by_equality, search_rows_by_ngrams, tfidf_linker
from benchmarks.accuracy.training_mentions import TrainingMentions, link_with_mentions, with_ids_of
from tests.fixtures.accuracy_tasks import space_of
from xsap.terminal import run as run_app
from xsap.terms.mentions import build_mentions

NAMES = [("A", "fever"), ("B", "common cold"), ("C", "chest pain"), ("D", "headache"), ("A", "elevated temperature")]
ANNOTATED = [("hot", "A"), ("pain in the chest", "C"), ("sore head", "D"), ("running nose", "B")]
ASKED = ["fevers", "hot", "Pain in my chest", "head sore", "cold", "common  cold", "x", "temperature"]
KINDS = {"tfidf": (tfidf_linker, search_rows_by_ngrams), "exact": (exact_linker, search_rows_by_equality)}


def mentions_of(pairs):
    return build_mentions([text for text, _ in pairs], ["en"] * len(pairs), [[one] for _, one in pairs])


def answers(linker):
    return [
        [(each.concept_id, pytest.approx(each.score, abs=1e-6)) for each in result.candidates]
        for result in linker.link(ASKED, 4)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_with_the_weight_1_annotated_strings_are_names_like_all_others(kind):
    plain, search = KINDS[kind]
    space = space_of(NAMES)
    linker = link_with_mentions(plain(space), space, TrainingMentions(mentions_of(ANNOTATED), 1), search)
    expected = plain(space_of([*NAMES, *((one, text) for text, one in ANNOTATED)]))
    assert answers(linker) == answers(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_with_the_weight_0_the_linker_stays_the_same(kind):
    plain, search = KINDS[kind]
    space = space_of(NAMES)
    linker = plain(space)
    assert link_with_mentions(linker, space, TrainingMentions(mentions_of(ANNOTATED), 0), search) is linker


def test_a_low_weight_keeps_equal_mentions_first_and_lets_similar_names_of_the_dictionary_win():
    space = space_of(NAMES)
    conflicting = mentions_of([*ANNOTATED, ("colds", "A"), ("colds", "A"), ("colds", "B")])
    linker = link_with_mentions(tfidf_linker(space), space, TrainingMentions(conflicting, 0.05), search_rows_by_ngrams)
    found = linker.link(["colds", "cold"], 2)
    assert [(each.concept_id, each.score) for each in found[0].candidates] == [("A", 1.0), ("B", 0.5)]
    assert found[1].candidates[0].concept_id == "B"


def test_codes_of_icd_10_are_written_as_the_dictionary_has_them():
    space = space_of([("R50.9", "fever"), ("r51", "headache")])
    table = with_ids_of(space, mentions_of([("hot", "r509"), ("head", "r51"), ("x", "Z1")]))
    assert table["concept_ids"].to_pylist() == [["R50.9"], ["r51"], ["Z1"]]


def test_each_system_is_measured_without_and_with_training_mentions(tmp_path, monkeypatch, capsys):
    (tmp_path / "dict.txt").write_text("".join(f"{one}||{name}\n" for one, name in NAMES))
    for file, rows in {
        "train.tsv": ANNOTATED,
        "test.tsv": [("hot", "A"), ("head sore", "D"), ("fever", "A"), ("cold", "B")],
    }.items():
        (tmp_path / file).write_text("mention\tconcept_ids\n" + "".join(f"{text}\t{one}\n" for text, one in rows))
    monkeypatch.chdir(tmp_path)

    def call(*words):
        command = [
            "linking",
            "--task",
            "mentions:test.tsv",
            "--dictionary",
            "dict.txt",
            "--system",
            "tfidf",
            "--out",
            "out",
            *words,
        ]
        monkeypatch.setattr(sys, "argv", ["benchmarks", *command])
        with pytest.raises(SystemExit) as stop:
            run_app(app, "python -m benchmarks", command)
        return stop.value.code, *capsys.readouterr()

    code, _, log = call("--training-mentions", "train.tsv", "--mention-weight", "1")
    assert not code
    assert "mentions:test.tsv: tfidf → tfidf with training mentions of weight 1" in log
    assert [line.split()[:2] for line in log.splitlines() if line.startswith("  ")] == [
        ["mentions", "n"], ["all", "4"], ["string", "seen"], ["concept", "seen"],
    ]  # fmt: skip
    report = (tmp_path / "out" / "report.md").read_text()
    assert "tfidf with training mentions of weight 1" in report
    code, _, log = call("--mention-weight", "1")
    assert (code, "found no --training-mentions" in log) == (2, True)
