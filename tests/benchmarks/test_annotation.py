"""Annotation scores on a small corpus whose counts are known, and the speed benchmark of texts at a small size."""

import re

import pytest

from benchmarks.accuracy.annotation import compare_annotation, gold_texts, terminology_of_mentions
from tests.fixtures.dictionaries import terminology
from xsap.terms.mentions import build_mentions
from xsap.text_in.spans import Span

TERMS = [("C1", "en", "fever"), ("C2", "en", "cough"), ("C3", "en", "flu"), ("C4", "de", "Fieber")]


def mentions():
    """Four texts: a right span, a homonym of another concept, a mention that no name equals, one of a concept that the terminology lacks."""
    rows = [
        ("fever", "en", ["C1"], "no fever, dry cough", 3, 8),
        ("cough", "en", ["C3"], "no fever, dry cough", 14, 19),
        ("high fever", "en", ["C1"], "high fever", 0, 10),
        ("flu", "en", ["C9"], "flu then fever", 0, 3),
        ("fever", "en", ["C1"], "flu then fever", 9, 14),
        ("Fieber", "de", ["C4"], "kein Fieber", None, None),
        ("Fieber", "de", ["C4"], "kein Fieber", 5, 11),
        ("pain", "en", ["C9"], "pain and flu", 0, 4),
    ]
    mention, language, ids, context, start, end = map(list, zip(*rows, strict=True))
    return build_mentions(mention, language, ids, context=context, start=start, end=end)


def test_gold_is_what_the_terminology_has():
    gold = {each.text: each for each in gold_texts(mentions(), terminology(*TERMS))}
    assert set(gold) == {"no fever, dry cough", "high fever", "flu then fever", "kein Fieber"}
    assert gold["no fever, dry cough"].spans == {Span(3, 8): {"C1"}, Span(14, 19): {"C3"}}
    assert gold["flu then fever"].other == {Span(0, 3)}
    assert gold["kein Fieber"].unlocated == 1


def test_scores_are_those_counted_by_hand():
    result = compare_annotation("test", mentions(), terminology(*TERMS), fuzzy=True)
    scores = result.systems["names, linked by look-up"]
    assert set(scores) == {"all", "de", "en"}
    english = scores["en"]  # found: fever, cough | fever | (flu: another concept) fever; gold: 2 + 1 + 1
    assert (english.texts, english.gold, english.found) == (3, 4, 4)
    assert english.precision.value == english.recall.value == english.f1.value == 3 / 4
    assert english.linking.value == 2 / 4  # cough is C2, and no name is high fever
    assert english.end_to_end.value == 2 * 2 / 8
    german = scores["de"]
    assert (german.gold, german.found, german.recall.value, german.precision.value) == (2, 1, 1 / 2, 1)
    assert all(each.low <= each.value <= each.high for row in scores.values() for each in (row.f1, row.recall))


def test_mentions_of_a_training_set_are_names():
    made = terminology_of_mentions(mentions())
    assert {(row["concept_id"], row["name"]) for row in made.names.to_pylist()} >= {
        ("C1", "high fever"),
        ("C9", "pain"),
    }


def test_command_prints_a_table_of_a_corpus(run_here, tmp_path):
    folder = tmp_path / "Mantra-GSC" / "English" / "Medline_EN_DE_ec22-cui-best_man"
    folder.mkdir(parents=True)
    (folder / "d1.u1.txt").write_text("Fever again", encoding="utf-8")
    (folder / "d1.u1.ann").write_text("T1\tC0015967 0 5\tFever\n", encoding="utf-8")
    done = run_here("-m", "benchmarks", "annotation", "mantra", tmp_path, "--train", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "| en English |     1 |          1 |     1 | 100.0 [100.0, 100.0] |" in done.stdout
    refused = run_here("-m", "benchmarks", "annotation", "mantra", tmp_path)
    assert (refused.returncode, refused.stderr) == (2, "error: expected --terminology or --train, found none\n")


@pytest.mark.slow
def test_speed_benchmark_finds_the_same_spans_as_the_loop(run_here):
    done = run_here("-m", "benchmarks", "speed", "text", "--names", 2000, "--sentences", 50, "--rounds", 1)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\| loop over a Python set +\|", done.stdout)
    assert "50 spans found by both" in done.stdout or pytest.fail(done.stdout)
