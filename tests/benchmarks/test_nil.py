"""NIL detection and abstention: synthetic mentions, the masked linker, and what a calibration's promises are worth."""

import json
import zlib
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from benchmarks import __main__ as command_line
from benchmarks.accuracy import nil
from benchmarks.accuracy.nil import MaskedLinker, evaluate_nil, isotonic, nil_table, synthetic_mentions, table_rows
from tests.fixtures.examples import examples
from xsap.linking.results import Candidate, Result
from xsap.terms.mentions import build_mentions, write_mentions

TABLES = (nil.GENERAL, nil.CLINICAL, nil.LINKS, nil.REMARKS)


def candidate(concept_id, score):
    others = {"language": "en", "source": "s", "semantic_types": (), "codes": (), "confidence": None}
    fields = {name: value for name, value in others.items() if name in Candidate.__dataclass_fields__}
    return Candidate(concept_id=concept_id, name="n", matched_name="n", score=score, **fields)


class NumberLinker:
    """A linker whose concepts are numbers: `12 es` is nearest to C12 or a neighbor, and any other string is near to none."""

    def __init__(self, concepts=400):
        self.concept_ids = frozenset(f"C{i:03}" for i in range(concepts))
        self.concepts = concepts

    def link(self, mentions, top_k, *, languages):
        pairs = zip(mentions, languages, strict=True)
        return [
            Result(m, self._candidates(m, language, top_k), None if m.strip() else "blank") for m, language in pairs
        ]

    def _candidates(self, mention, language, top_k):
        if not mention.strip():
            return ()
        rng = np.random.default_rng(zlib.crc32(f"{mention} {language}".encode()))
        word = mention.split()[0]
        if word.isdecimal():
            wrong = int(rng.random() < 0.05)
            position, best = int(word) + wrong, rng.normal(0.85 - 0.1 * wrong, 0.05)
        else:
            position, best = rng.integers(self.concepts), rng.normal(0.6, 0.05)
        distance = np.abs((np.arange(self.concepts) - position + self.concepts / 2) % self.concepts - self.concepts / 2)
        scores = best - 0.12 * distance**0.5
        best_first = np.lexsort((np.arange(self.concepts), -scores))[:top_k]
        return tuple(candidate(f"C{i:03}", float(scores[i])) for i in best_first)


def number_mentions(concepts=400):
    rows = [(f"{i} {code}", code, [f"C{i:03}"]) for i in range(concepts) for code in ("es", "ja", "sw")]
    return build_mentions(*map(list, zip(*rows, strict=True)))


@pytest.fixture(scope="module")
def result():
    return evaluate_nil(NumberLinker(), number_mentions(), seed=0)


def test_tables_have_words_in_every_language():
    for table in TABLES:
        rows = table_rows(table)
        assert {len(row) for row in rows} == {len(nil.LANGUAGES)}
        assert all(cell == cell.strip() and cell for row in rows for cell in row)


@pytest.mark.parametrize("language", ["en", "de", "es", "fr", "ja", "tr", "zh", "sw"])
def test_synthetic_mentions_differ_and_are_of_both_kinds(language):
    found = synthetic_mentions(language, 300, half=0, seed=0)
    assert len({each.mention for each in found}) == 300
    assert Counter(each.kind for each in found) == {"general": 150, "clinical": 150}
    assert found == synthetic_mentions(language, 300, half=0, seed=0)
    assert found != synthetic_mentions(language, 300, half=0, seed=1)


@pytest.mark.parametrize("language", ["de", "ja"])
def test_halves_have_no_word_in_common(language):
    column = nil.LANGUAGES.index(language)
    for table in (nil.GENERAL, nil.CLINICAL):
        words = [row[column] for row in table_rows(table)]
        used = [
            {
                word
                for each in synthetic_mentions(language, 10_000, half=half, seed=3)
                for word in words
                if word in each.mention
            }
            for half in (0, 1)
        ]
        # a word may lie inside another one, such as "Bett" in "Krankenhausbett"; none does here
        assert used[0] | used[1] == set(words)
        assert not used[0] & used[1]


def test_synthetic_mentions_are_fewer_where_words_run_out():
    assert 1000 < len(synthetic_mentions("es", 10_000, half=0, seed=0)) < 10_000
    assert synthetic_mentions("es", 0, half=0, seed=0) == []
    assert [each.kind for each in synthetic_mentions("es", 1, half=0, seed=0)] == ["general"]


def test_language_without_words_gets_english_mentions():
    assert {each.mention for each in synthetic_mentions("sw", 10_000, half=1, seed=0)} == {
        each.mention for each in synthetic_mentions("en", 10_000, half=1, seed=0)
    }


@settings(max_examples=examples(40))
@given(
    hidden=st.sets(st.integers(0, 39)),
    top_k=st.integers(1, 5),
    asked=st.lists(st.tuples(st.sampled_from(["3", "39", "x", " "]), st.sampled_from(["es", "ja"])), max_size=5),
)
def test_masked_linker_matches_filtering_all_candidates(hidden, top_k, asked):
    mentions, languages = [m for m, _ in asked], [language for _, language in asked]
    linker = NumberLinker(40)
    gone = {f"C{i:03}" for i in hidden}
    masked = MaskedLinker(linker, gone)
    assert masked.concept_ids == linker.concept_ids - gone
    expected = [
        tuple(c for c in r.candidates if c.concept_id not in gone)[:top_k]
        for r in linker.link(mentions, 40, languages=languages)
    ]
    found = masked.link(mentions, top_k, languages=languages)
    assert [r.candidates for r in found] == expected
    assert [(r.mention, r.reason) for r in found] == [(m, None if m.strip() else "blank") for m in mentions]


def test_masked_linker_asks_for_more_where_all_near_concepts_are_hidden():
    linker = NumberLinker(40)
    masked = MaskedLinker(linker, {c.concept_id for c in linker.link(["3"], 37, languages=["es"])[0].candidates})
    (result,) = masked.link(["3"], 2, languages=["es"])
    assert result.candidates == linker.link(["3"], 40, languages=["es"])[0].candidates[37:39]
    assert len(masked.link(["3"], 5, languages=["es"])[0].candidates) == 3  # there are no more


@settings(max_examples=examples(60))
@given(
    rows=st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=50),
    at=st.lists(st.integers(-5, 25), max_size=5),
)
def test_isotonic_matches_scikit_learn(rows, at):
    values, right = np.array([v / 20 for v, _ in rows]), np.array([r for _, r in rows])
    positions = np.concatenate([values, np.array(at) / 20])
    theirs = IsotonicRegression(out_of_bounds="clip").fit(values, right)
    assert isotonic(values, right, positions) == pytest.approx(theirs.predict(positions), abs=1e-6)


def test_half_of_the_mentions_have_no_concept_and_halves_have_none_in_common(result, monkeypatch):
    tables = []
    original = nil.link_sample

    def watched(linker, mentions):
        tables.append((linker, mentions))
        return original(linker, mentions)

    monkeypatch.setattr(nil, "link_sample", watched)
    assert evaluate_nil(NumberLinker(), number_mentions(), seed=0) == result
    seen, synthetic = [], []
    for start in (0, 4):
        masked = tables[start][0]
        known, hidden, general, clinical = (table for _, table in tables[start : start + 4])
        assert all(not masked.concept_ids.isdisjoint(gold) for gold in known["concept_ids"].to_pylist())
        assert all(masked.concept_ids.isdisjoint(gold) for gold in hidden["concept_ids"].to_pylist())
        assert all(gold == [] for table in (general, clinical) for gold in table["concept_ids"].to_pylist())
        counts = [Counter(table["language"].to_pylist()) for table in (known, hidden, general, clinical)]
        for code in ("es", "ja", "sw"):
            assert counts[0][code] == sum(count[code] for count in counts[1:])
        synthetic.append({mention for table in (general, clinical) for mention in table["mention"].to_pylist()})
        seen.append(
            {concept for table in (known, hidden) for gold in table["concept_ids"].to_pylist() for concept in gold}
        )
    assert not seen[0] & seen[1]
    assert not synthetic[0] & synthetic[1]
    assert seen[0] | seen[1] == NumberLinker().concept_ids
    assert len(NumberLinker().concept_ids - tables[0][0].concept_ids) == 133


def test_promised_precision_is_kept(result):
    whole = result.report.rows["all"]
    assert whole.n == sum(result.counts["measured"].values())
    assert whole.without_concept + whole.gold_not_in_dictionary == whole.n - result.counts["measured"]["known"]
    assert result.kinds["hidden"].right == result.kinds["general"].right == 0
    kept = whole.at_precision["0.95"]
    assert kept.precision >= 0.93
    assert result.target == nil.precision_target(kept)
    assert result.target.met
    assert kept.answered == sum(row.at_precision["0.95"].answered for row in result.kinds.values())
    assert result.fitted_on_known.at_precision["0.9"].precision < 0.9  # so mentions without a concept are needed
    assert result.variants["as it is"].log_loss < result.variants["without the lead"].log_loss
    assert result.variants["as it is"].ece == pytest.approx(whole.ece)
    json.dumps(asdict(result), allow_nan=False)


def test_mentions_without_a_concept_of_their_own_count_as_hidden(result):
    rows = number_mentions().to_pylist() + [
        {"mention": f"9999 {i}", "language": "es", "concept_ids": []} for i in range(40)
    ]
    columns = [[row[name] for row in rows] for name in ("mention", "language", "concept_ids")]
    found = evaluate_nil(NumberLinker(), build_mentions(*columns), seed=0)
    for half in ("fitted", "measured"):
        assert found.counts[half]["hidden"] == result.counts[half]["hidden"] + 20


@pytest.mark.slow
def test_nil_command_prints_writes_and_judges(tmp_path, monkeypatch, capsys):
    write_mentions(number_mentions(), tmp_path / "mentions.tsv")
    monkeypatch.setattr("xsap.linking.linker.Linker.load", lambda *_: NumberLinker())
    words = [
        "nil",
        "--index",
        "index",
        "--mentions",
        str(tmp_path / "mentions.tsv"),
        "--json",
        str(tmp_path / "x.json"),
    ]
    with pytest.raises(SystemExit) as ended:
        command_line.main(words)
    assert ended.value.code == 0
    written = json.loads((tmp_path / "x.json").read_text())
    assert written["target"]["met"]
    assert len(written["mentions"]) == 64
    printed = capsys.readouterr().out
    assert printed == nil_table(evaluate_nil(NumberLinker(), number_mentions(), seed=0)) + "\n"
    assert printed.startswith("fitted: ")
    for text in ("answered at 0.95", "fitted without NIL", "without the lead", "| hidden "):
        assert text in printed
    monkeypatch.setattr(nil, "MIN_PRECISION", 1.1)
    with pytest.raises(SystemExit) as ended:
        command_line.main(words)
    assert ended.value.code == 3


def test_nil_command_refuses_too_few_mentions_in_one_line(tmp_path, monkeypatch, capsys):
    write_mentions(number_mentions(20), tmp_path / "mentions.tsv")
    monkeypatch.setattr("xsap.linking.linker.Linker.load", lambda *_: NumberLinker())
    with pytest.raises(SystemExit) as ended:
        command_line.main(["nil", "--index", "index", "--mentions", str(tmp_path / "mentions.tsv")])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: a calibration needs at least 50 mentions")
