"""Mention names of an index: their weight, conflicting annotations, what is encoded and kept, against plain loops."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.fixtures.builds import Ngrams, RecordingNgrams, build_small
from tests.fixtures.dictionaries import terminology
from xsap.artifacts import update_files
from xsap.errors import ArtifactError, ConfigError, DataError
from xsap.evaluation.folds import assign_folds
from xsap.linking.build import BuildSizes, build_index, merge_shards
from xsap.linking.index import Index
from xsap.linking.linker import Linker
from xsap.linking.mention_names import Annotations
from xsap.linking.mention_weight import LEAST_WEIGHT, MENTION_WEIGHTS, WEIGHT_FOLDS
from xsap.terms.mentions import build_mentions
from xsap.terms.terminology import Terminology
from xsap.text import TextPolicy

LOWER = TextPolicy("lower", "NFKC")
TERMS = terminology(
    ("C1", "en", "Fever"),
    ("C1", "de", "Fieber"),
    ("C2", "en", "Common cold"),
    ("C3", "en", "Cold sensation"),
    ("C3", "en", "Feeling cold"),
    ("C4", "en", "Chest pain"),
    ("C5", "en", "Headache"),
)
ANNOTATED = [
    ("cold", "C2"), ("cold", "C2"), ("Cold", "C3"), ("pain in the chest", "C4"), ("fever", "C3"), ("hot", "C1"), ("sore head", "C5"),
]  # fmt: skip


def mentions_of(pairs, documents=None):
    return build_mentions(
        [mention for mention, _ in pairs],
        ["en"] * len(pairs),
        [[each for each in ids.split("|") if each] for _, ids in pairs],
        document_id=documents or [None] * len(pairs),
    )


@pytest.fixture
def plain(tmp_path):
    Index.build(TERMS, Ngrams(policy=LOWER), model_path="model").save(tmp_path / "plain")
    return Index.load(tmp_path / "plain")


def linker_of(index):
    return Linker(Ngrams(policy=LOWER), index)


ASKED = [
    "cold",
    "COLD",
    "fever",
    "pain in chest",
    "hot head",
    "headache",
    "C4",
    "Fïeber",
    "nothing like it",
    "common cold",
]


def test_with_the_weight_0_answers_are_those_of_the_index_alone_to_the_bit(plain, tmp_path):
    index = plain.with_mentions(mentions_of(ANNOTATED), encoder=Ngrams(policy=LOWER), out=tmp_path / "new", weight=0)
    assert len(index.mention_names) == 5
    for options in ({}, {"filter": {"languages": "de"}}, {"filter": {"concepts": ["C1", "C4"]}}):
        left, right = (linker_of(each).link(ASKED, 5, **options) for each in (plain, index))
        assert left.to_dicts() == right.to_dicts()


@pytest.mark.parametrize("vector_dtype", ["float32", "float16", "int8"])
def test_all_other_files_stay_the_same_and_only_new_strings_are_encoded(tmp_path, vector_dtype):
    Index.build(TERMS, Ngrams(policy=LOWER), vector_dtype=vector_dtype).save(tmp_path / "plain")
    encoder = RecordingNgrams(policy=LOWER)
    first = Index.load(tmp_path / "plain").with_mentions(
        mentions_of(ANNOTATED), encoder=encoder, out=tmp_path / "one", weight=1
    )
    assert encoder.encoded == ["cold", "pain in the chest", "hot", "sore head"]  # "fever" is a name of the terminology
    encoder.encoded.clear()
    second = first.with_mentions(
        mentions_of([*ANNOTATED, ("new", "C1")]), encoder=encoder, out=tmp_path / "two", weight=1
    )
    assert encoder.encoded == ["new"]
    before, *after = (
        json.loads((tmp_path / name / "manifest.json").read_text())["files"] for name in ("plain", "one", "two")
    )
    for files in after:
        assert {name: entry for name, entry in files.items() if not name.startswith("mentions/")} == before
    same = [index.mention_names.vectors.take(slice(0, 5)) for index in (first, second)]
    np.testing.assert_array_equal(*same)
    assert first.content_hash != second.content_hash


def naive(index, mention, weight):
    """Concepts with scores, best first: of a name that is not equal, by a loop over all names."""
    encoder = Ngrams(policy=LOWER)
    query = encoder.encode([mention.lower()])[0]
    best = {}
    names = index.names["name"].to_pylist()
    owners = index.dictionary.name_concepts
    for row, vector in enumerate(index.vectors.take(slice(None))):
        for concept in owners.concepts[owners.starts[row] : owners.starts[row + 1]].tolist():
            best[concept] = max(best.get(concept, (-9, "")), (float(query @ vector), names[row]), key=lambda x: x[0])
    for name, vector in zip(
        index.mention_names.names["name"].to_pylist(), index.mention_names.vectors.take(slice(None)), strict=True
    ):
        score = 1 - (1 - float(query @ vector)) / weight
        for annotated, ids in ANNOTATED:
            if annotated.lower() == name.lower():
                concept = int(ids[1:]) - 1
                best[concept] = max(best.get(concept, (-9, "")), (score, name), key=lambda x: x[0])
    return sorted(((f"C{concept + 1}", score) for concept, (score, _) in best.items()), key=lambda x: -x[1])


@pytest.mark.parametrize("weight", [0.2, 0.7, 1.0])
def test_similar_mention_names_score_by_their_weighted_distance(plain, weight):
    index = plain.with_mentions(mentions_of(ANNOTATED), encoder=Ngrams(policy=LOWER), weight=weight)
    for mention in ("pain in chest", "hot head", "a cold feeling"):
        found = linker_of(index).link(mention, 5).candidates
        expected = naive(index, mention, weight)
        assert [each.score for each in found] == pytest.approx([score for _, score in expected], abs=1e-5)
        assert [each.concept_id for each in found][:2] == [concept for concept, _ in expected][:2]


def test_equal_mentions_rank_their_concepts_by_votes_and_show_shares(plain):
    index = plain.with_mentions(mentions_of(ANNOTATED), encoder=Ngrams(policy=LOWER), weight=0.5)
    cold = linker_of(index).link("COLD", 3).candidates
    assert [(each.concept_id, each.score, each.match, each.annotations) for each in cold[:2]] == [
        ("C2", 1.0, "case", 2),
        ("C3", 0.5, "case", 1),
    ]
    assert [each.share for each in cold[:2]] == pytest.approx([2 / 3, 1 / 3])
    assert cold[0].matched_name == "cold"
    assert cold[0].source == "mention"
    fever = (
        linker_of(index).link("fever", 3).candidates
    )  # the terminology's name against one annotation of another concept
    assert [(each.concept_id, each.score, each.annotations, each.share) for each in fever[:2]] == [
        ("C1", 1.0, 0, 0.0),
        ("C3", 0.5, 1, 1.0),
    ]
    often = plain.with_mentions(mentions_of([("fever", "C3")] * 3), encoder=Ngrams(policy=LOWER), weight=0.5)
    assert [each.concept_id for each in linker_of(often).link("fever", 2).candidates] == ["C3", "C1"]
    assert linker_of(index).link("headache", 1).candidates[0].annotations is None


def test_a_filter_holds_for_mention_names(plain):
    linker = linker_of(plain.with_mentions(mentions_of(ANNOTATED), encoder=Ngrams(policy=LOWER), weight=1))
    found = linker.link("cold", 5, filter={"concepts": ["C3", "C4"]}).candidates
    assert [(each.concept_id, each.match) for each in found] == [("C3", "exact"), ("C4", "similar")]
    german = linker.link("cold", 5, filter={"languages": "de"}).candidates  # the annotations are English
    assert [(each.concept_id, each.matched_name) for each in german] == [("C1", "Fieber")]


def test_mention_names_are_saved_with_hashes_and_how_they_were_weighted(plain, tmp_path):
    made = plain.with_mentions(mentions_of(ANNOTATED), encoder=Ngrams(policy=LOWER), weight=0.5)
    made.save(tmp_path / "saved")
    opened = Index.load(tmp_path / "saved")
    assert linker_of(made).link(ASKED, 5).to_dicts() == linker_of(opened).link(ASKED, 5).to_dicts()
    manifest = json.loads((tmp_path / "saved" / "manifest.json").read_text())
    assert manifest["mentions"] == {
        "names": 5, "annotations": 7, "dropped": {}, "weight": 0.5, "learnt": {"note": "given"},
    }  # fmt: skip
    counts = tmp_path / "saved" / "mentions" / "counts.npy"
    counts.write_bytes(counts.read_bytes()[:-1] + b"\1")
    with pytest.raises(ArtifactError, match=r"mentions/counts\.npy"):
        Index.load(tmp_path / "saved")


def test_what_is_no_annotation_of_the_index_is_counted(plain):
    given = mentions_of([("hot", "C1"), ("x", ""), (" ", "C1"), ("y", "D9"), ("both", "C1|C2")])
    annotations = Annotations.from_mentions(given, ["C1", "C2"])
    assert annotations.counts.kept == 2
    assert annotations.counts.dropped == {"without a concept (NIL)": 1, "no text": 1, "concept not in the index": 1}
    names = annotations.mention_names()
    assert [names.annotation(1, concept) for concept in (0, 1)] == [(1, 1), (1, 1)]
    with pytest.raises(DataError, match="found none among"):
        plain.with_mentions(mentions_of([("x", "D1")]), encoder=Ngrams(policy=LOWER))


def test_wrong_weights_and_encoders_are_refused(plain):
    with pytest.raises(ConfigError, match=r"between 0 and 1, found 1\.5"):
        plain.with_mentions(mentions_of(ANNOTATED), encoder=Ngrams(policy=LOWER), weight=1.5)
    with pytest.raises(ArtifactError, match="give that encoder"):
        plain.with_mentions(mentions_of(ANNOTATED), encoder=Ngrams(content_hash="b" * 64))


def test_few_annotations_have_the_least_weight(plain):
    names = plain.with_mentions(mentions_of(ANNOTATED), encoder=Ngrams(policy=LOWER)).mention_names
    assert (names.weight, names.learnt) == (LEAST_WEIGHT, {"note": "fewer than 50 annotations"})


WORDS = ["fever", "hot", "cold", "pain", "chest", "head", "ache", "sore", "feeling"]
ACCENTS = [("héadache", "C5"), ("héadaches", "C1"), ("chest pâin", "C4"), ("chest pâins", "C2"), ("cömmon cold", "C2"), ("cömmon colds", "C3")]  # fmt: skip
"""Names but for accents, and strings more similar to them that mean another concept."""


def many_annotations(more=()):
    random = np.random.default_rng(5)
    pairs = [(" ".join(random.choice(WORDS, 2)), f"C{random.integers(1, 6)}") for _ in range(80)]
    pairs = [(text.title() if i % 3 else text, concept) for i, (text, concept) in enumerate(pairs)] + list(more)
    return mentions_of(pairs, [f"d{i % 11}" for i in range(len(pairs))])


def right_in_folds(plain, mentions, by, weight):
    """Whether the answer to each mention is right, by indexes with the annotations of the other folds."""
    encoder = RecordingNgrams(policy=LOWER)
    folds, right = assign_folds(mentions, WEIGHT_FOLDS, by=by, seed=3), np.zeros(mentions.num_rows)
    for fold in range(WEIGHT_FOLDS):
        index = plain.with_mentions(mentions.filter(folds != fold), encoder=encoder, weight=weight)
        tested = mentions.filter(folds == fold)
        found = Linker(encoder, index).link(tested["mention"].to_pylist(), 1, languages=tested["language"].to_pylist())
        pairs = zip(found, tested["concept_ids"].to_pylist(), strict=True)
        right[folds == fold] = [result.candidates[0].concept_id in ids for result, ids in pairs]
    return right


@pytest.mark.parametrize(
    "more", [pytest.param([], id="plain", marks=pytest.mark.slow), pytest.param(ACCENTS, id="with accents")]
)
def test_the_learnt_weight_is_that_of_a_plain_loop_over_indexes_of_each_fold(plain, more):
    mentions = many_annotations(more)
    learnt = plain.with_mentions(mentions, encoder=RecordingNgrams(policy=LOWER), seed=3).mention_names
    accuracies = [right_in_folds(plain, mentions, "document", weight).mean() for weight in MENTION_WEIGHTS]
    assert learnt.learnt["accuracies"] == pytest.approx(accuracies)
    gains = learnt.learnt["unseen_gains"]
    allowed = next((i for i, gain in enumerate(gains, start=1) if gain["high"] < 0), len(MENTION_WEIGHTS))
    assert learnt.weight == MENTION_WEIGHTS[int(np.argmax(accuracies[:allowed]))]


def test_the_loss_of_unseen_concepts_is_that_of_a_plain_loop_where_equal_strings_count_once(plain):
    mentions = many_annotations()
    learnt = plain.with_mentions(mentions, encoder=RecordingNgrams(policy=LOWER), seed=3).mention_names.learnt
    folds, rows = assign_folds(mentions, WEIGHT_FOLDS, by="concept", seed=3), mentions.to_pylist()
    annotated = {(row["mention"].lower(), fold) for row, fold in zip(rows, folds, strict=True)}
    unseen = {}
    for i, (row, fold) in enumerate(zip(rows, folds, strict=True)):
        text = row["mention"].lower()
        if not any((text, other) in annotated for other in set(range(WEIGHT_FOLDS)) - {fold}):
            unseen.setdefault((text, row["concept_ids"][0]), i)
    assert len(unseen) < len({(row["mention"], row["concept_ids"][0]) for row in rows})
    before, *after = (right_in_folds(plain, mentions, "concept", w)[list(unseen.values())] for w in (0, 0.25, 1.0))
    found = [learnt["unseen_gains"][MENTION_WEIGHTS.index(weight) - 1]["difference"] for weight in (0.25, 1.0)]
    assert found == pytest.approx([(each - before).mean() for each in after])


def test_no_weight_is_learned_where_nothing_shows_what_other_concepts_lose(plain):
    """One string of all concepts: wherever it is tested, it was annotated too."""
    mentions = mentions_of([("same", f"C{i % 5 + 1}") for i in range(60)])
    names = plain.with_mentions(mentions, encoder=Ngrams(policy=LOWER)).mention_names
    assert names.weight == LEAST_WEIGHT
    assert list(names.learnt) == ["note"]


def test_a_build_adds_mentions_as_with_mentions_does(tmp_path):
    TERMS.save(tmp_path / "terminology")
    encoder = RecordingNgrams(policy=LOWER)
    build_small(tmp_path / "terminology", encoder, tmp_path / "plain")
    summary = build_small(
        tmp_path / "terminology", encoder, tmp_path / "both", mentions=mentions_of(ANNOTATED), mention_weight=0.5
    )
    assert (summary.mentions.encoded, len(summary.mentions.names)) == (4, 5)
    Index.load(tmp_path / "plain").with_mentions(
        mentions_of(ANNOTATED), encoder=encoder, weight=0.5, out=tmp_path / "added"
    )
    entries = [json.loads((tmp_path / name / "manifest.json").read_text())["files"] for name in ("both", "added")]
    assert entries[0] == entries[1]
    encoder.encoded.clear()
    build_small(
        tmp_path / "terminology", encoder, tmp_path / "again", reuse=tmp_path / "both",
        mentions=mentions_of([*ANNOTATED, ("new", "C1")]), mention_weight=0.5,
    )  # fmt: skip
    assert encoder.encoded == ["new"]
    with pytest.raises(ConfigError, match="merge the parts"):
        build_small(tmp_path / "terminology", encoder, tmp_path / "part", mentions=mentions_of(ANNOTATED), shard=(1, 2))


def test_a_build_learns_the_weight_of_mentions_with_that_of_string_similarity(tmp_path):
    """As an index that has the weight of string similarity already; the parts of a build give their index the same one."""
    TERMS.save(tmp_path / "terminology")
    encoder, mentions = RecordingNgrams(policy=LOWER), many_annotations()
    build_small(
        tmp_path / "terminology", encoder, tmp_path / "tuned", model_path="m", mentions=mentions, fusion_weight=0.6
    )
    build_small(tmp_path / "terminology", encoder, tmp_path / "plain", model_path="m")
    plain, tuned = (Index.load(tmp_path / name) for name in ("plain", "tuned"))
    assert tuned.fusion_weight == 0.6
    expected, without = (
        each.with_mentions(mentions, encoder=encoder).mention_names.learnt
        for each in (plain.with_fusion_weight(0.6), Index.build(TERMS, encoder))
    )
    assert tuned.mention_names.learnt == json.loads(json.dumps(expected))
    assert expected["accuracies"] != without["accuracies"]
    parts = [tmp_path / "1", tmp_path / "2"]
    sizes = BuildSizes(rows_per_shard=4, min_batch=3)
    for i, part in enumerate(parts, start=1):
        build_index(
            tmp_path / "terminology", encoder, part, model_path="m", shard=(i, 2), fusion_weight=0.6, sizes=sizes
        )
    merge_shards(parts, tmp_path / "merged")
    assert Index.load(tmp_path / "merged").fusion_weight == 0.6


def test_what_is_lost_with_new_mentions_is_said(tmp_path, caplog):
    Index.build(TERMS, Ngrams(policy=LOWER), model_path="m").save(tmp_path / "plain")
    fitted = Index.load(tmp_path / "plain")
    update_files(tmp_path / "plain", "index", {"reranker.json": "{}"})
    fitted.with_mentions(mentions_of(ANNOTATED), encoder=Ngrams(policy=LOWER), weight=0.5)
    assert "re-ranker; run xsap calibrate --rerank on the new index" in caplog.text
    fitted.with_mentions(mentions_of(ANNOTATED), encoder=Ngrams(policy=LOWER), weight=0.5, out=tmp_path / "new")
    with pytest.raises(ConfigError, match=r"--mentions FILE --mention-weight 0\.5"):
        Index.load(tmp_path / "new", ann=True)


def test_an_hnsw_index_and_a_fusion_weight_are_kept_and_a_calibration_is_not(tmp_path):
    pytest.importorskip("usearch")
    Index.build(TERMS, Ngrams(policy=LOWER), ann=True).save(tmp_path / "plain")
    fused = Index.load(tmp_path / "plain").with_fusion_weight(0.3)
    index = fused.with_mentions(mentions_of(ANNOTATED), encoder=Ngrams(policy=LOWER), out=tmp_path / "new", weight=0.5)
    assert index.fusion_weight == 0.3
    assert index.calibration is None
    opened = Index.load(tmp_path / "new", ann=True)
    assert opened.hnsw is not None
    assert replace(opened, hnsw=None).content_hash == index.content_hash


def test_the_command_adds_approved_mentions_and_link_shows_their_shares(tmp_path, run_here, tiny_folder, sample_folder):
    known = Terminology.load(sample_folder).concepts["concept_id"].to_pylist()[:2]
    rows = ["odd swelling", "odd swelling", "Odd swelling", "another thing"]
    gold = [known[0], known[0], known[1], "unknown"]
    table = "".join(f"{text}\t{one}\n" for text, one in zip(rows, gold, strict=True))
    (tmp_path / "approved.tsv").write_text(f"Term\tCode\n{table}")
    words = ["--mentions", tmp_path / "approved.tsv", "--column", "Term", "--column", "concept_ids=Code"]
    done = run_here("-m", "xsap", "index", tiny_folder, sample_folder, "--out", tmp_path / "index", *words)
    assert done.returncode == 0, done.stderr
    assert (
        "mention names: 1 of 3 annotations, 1 encoded; dropped 1 (concept not in the index); weight 0.05 (fewer than 50 annotations)"
        in done.stderr
    )
    done = run_here("-m", "xsap", "link", "odd swelling", "--index", tmp_path / "index", "--format", "tsv")
    header, first, second, *_ = [line.split("\t") for line in done.stdout.splitlines()]
    shown = [
        [line[header.index(column)] for column in ("concept_id", "source", "annotations", "share")]
        for line in (first, second)
    ]
    assert shown == [[known[0], "mention", "2", "0.666667"], [known[1], "mention", "1", "0.333333"]]
    done = run_here("-m", "xsap", "link", "odd swelling", "--index", tmp_path / "index")
    assert "annotated 2 times, 67 %" in done.stdout
    done = run_here("-m", "xsap", "index", tiny_folder, sample_folder, "--out", tmp_path / "x", "--column", "Term")
    assert (done.returncode, "found no --mentions" in done.stderr) == (2, True)
