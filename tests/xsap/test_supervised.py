"""Tuning on mentions: BioSyn's own figures, candidates and losses by plain loops, and resumption bit by bit."""

import json
import math
import signal
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertModel, BertTokenizer

from tests.fixtures.commands import ROOT, Launch, Run, Template
from tests.fixtures.training import assert_same_weights, read_losses, read_steps, set_options
from xsap import Encoder, Terminology
from xsap.config import load_settings
from xsap.encoding.packing import tokenize_names
from xsap.errors import ConfigError, DataError
from xsap.linking.fusion import string_similarity
from xsap.terms.mentions import build_mentions, write_mentions
from xsap.text import TextPolicy
from xsap.training import candidates
from xsap.training.candidates import CandidateSearch
from xsap.training.losses import biosyn_marginal_likelihood, marginal_likelihood
from xsap.training.mention_set import CandidateNames, MentionSet, mentions_to_learn, right_candidates
from xsap.training.ngrams import NgramNames, set_of_grams, tf_idf
from xsap.training.run import train

# Names, queries and figures of the original BioSyn code (github.com/dmis-lab/BioSyn at 19f55d37), run on torch 2.13 with transformers 5.24, for a
# BERT whose weights follow from the seed 0: the text of each line is that of the names' sorted letters, from which its vocabulary is made.
NAMES = {
    "C1": "hohes fieber|high fever|fiebre alta",
    "C2": "brustschmerz|chest pain|dolor toracico",
    "C3": "kopfschmerz|headache|dolor de cabeza",
    "C4": "rueckenschmerz|back pain|dolor de espalda",
    "C5": "fever|fieber",
    "C6": "pain|schmerz",
}
QUERIES = {
    "fieber hoch": "C1",
    "schmerzen in der brust": "C2",
    "cefalea": "C3",
    "kopfweh": "C3",
    "dolor espalda": "C4",
    "fiebre": "C5",
}
STRINGS = [name for names in NAMES.values() for name in names.split("|")]
SPARSE = [
    [0, 13, 2, 8, 1, 15],
    [3, 9, 15, 4, 6, 8],
    [2, 7, 11, 8, 12, 13],
    [6, 0, 5, 1, 9, 10],
    [11, 8, 5, 2, 7, 4],
    [13, 2, 0, 12, 3, 1],
]
DENSE = [  # of each epoch
    [[0, 1, 6, 2, 7, 4], [9, 3, 6, 4, 15, 0], [12, 2, 13, 1, 7, 4], [6, 15, 9, 0, 3, 1], [11, 8, 5, 12, 0, 6], [13, 2, 12, 1, 4, 0]],
    [[0, 7, 1, 4, 6, 2], [9, 4, 7, 3, 0, 1], [7, 4, 8, 12, 1, 0], [6, 7, 9, 15, 0, 4], [11, 8, 5, 0, 7, 12], [13, 12, 1, 2, 4, 7]],
    [[7, 0, 8, 1, 4, 11], [9, 4, 7, 3, 8, 1], [7, 8, 11, 4, 1, 12], [7, 8, 11, 6, 9, 4], [11, 8, 5, 7, 10, 0], [12, 13, 1, 7, 4, 2]],
]  # fmt: skip
LOSSES = [
    1.1944957971572876,
    1.5569652318954468,
    0.9622932076454163,
    1.3227483034133911,
    0.9614126086235046,
    0.9594658017158508,
]
POSITIVES = [6, 4, 7, 5, 7, 7]
SPARSE_WEIGHTS = [0.0187087282538414, 0.03483425825834274, 0.050212495028972626]
TIE = 5e-6  # between scores near 32, whose spacing in float32 is 1.9e-6
SPARSE_SCORES = {
    (0, 0): 0.7396858930587769,
    (0, 14): 0.0524262897670269,
    (3, 6): 0.7055625915527344,
    (5, 13): 0.7325618267059326,
}


def build_terminology(names: dict[str, str]) -> Terminology:
    rows = [(concept, name) for concept, each in names.items() for name in each.split("|")]
    columns = {"concept_id": [concept for concept, _ in rows], "name": [name for _, name in rows]}
    more = {"language": "und", "kind": "synonym", "source": "test"}
    table = pa.table(columns | {key: [value] * len(rows) for key, value in more.items()})
    table = table.append_column("code", pa.nulls(len(rows), pa.string())).append_column(
        "status", pa.nulls(len(rows), pa.string())
    )
    return Terminology.build(table)[0]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """BioSyn's example as files: a tiny BERT, a terminology and mentions."""
    folder = tmp_path_factory.mktemp("inputs")
    letters = sorted({letter for text in [*STRINGS, *QUERIES] for letter in text if letter != " "})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(pieces), max_position_embeddings=40, **size, **dropout)).save_pretrained(
        folder / "bert"
    )
    BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}).save_pretrained(folder / "bert")
    build_terminology(NAMES).save(folder / "terminology")
    mentions = build_mentions(list(QUERIES), ["und"] * len(QUERIES), [[concept] for concept in QUERIES.values()])
    write_mentions(mentions, folder / "mentions.tsv")
    return SimpleNamespace(bert=folder / "bert", terminology=folder / "terminology", mentions=folder / "mentions.tsv")


def settings(inputs: SimpleNamespace, output: Path, *more: str) -> list[str]:
    sources = [f"base={inputs.bert}", f"terminology={inputs.terminology}", f"tuning.mentions={inputs.mentions}"]
    sizes = [
        "tuning.mentions_per_step=3",
        "tuning.candidates=6",
        "batch.pairs=4",
        "epochs=3",
        "optim.learning_rate=1e-3",
    ]
    return [*sources, f"output={output}", "pooling=cls", *sizes, *more]


BIOSYN = ["tuning.as_biosyn=true", "max_length=25", "text.unicode=none", "sampling.shuffle=false"]


def test_losses_and_sparse_weight_are_those_of_the_original_biosyn(
    inputs: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its candidates, as two names may be equally near to a mention but for rounding; wherever other ones are found, they are."""
    assert len(Encoder.from_pretrained(inputs.bert, pooling="cls").tokenizer) == 49
    searches: list[np.ndarray] = []
    different: list[int] = []
    order = Terminology.load(inputs.terminology).names["name"].to_pylist()
    at = [order.index(name) for name in STRINGS]  # a terminology has an order of its own
    search = CandidateSearch.search

    def found_by_original(self: CandidateSearch, device: torch.device) -> np.ndarray:
        own, epoch = search(self, device), len(searches)
        searches.append(own)
        merged = [[at[n] for n in dict.fromkeys(s[:3] + d)][:6] for s, d in zip(SPARSE, DENSE[epoch], strict=True)]
        rows = np.concatenate([self.names.rows, self.first_mention + np.arange(len(QUERIES))])
        vectors = candidates.encode_rows(self.encoder, self.tokens, rows, device, unit=False).double()
        scores = vectors[len(STRINGS) :] @ vectors[: len(STRINGS)].T
        for mention, pair in enumerate(zip(own.tolist(), merged, strict=True)):
            only_own, only_original = (scores[mention, list(set(a) - set(b))] for a, b in (pair, pair[::-1]))
            different.append(len(only_own))
            assert only_own.tolist() == pytest.approx(only_original.tolist(), abs=TIE)
        return np.array(merged)

    monkeypatch.setattr(CandidateSearch, "search", found_by_original)
    more = [*BIOSYN, "checkpoint.save_steps=2", "checkpoint.save_total_limit=3"]
    train(load_settings(None, settings(inputs, tmp_path / "run", *more)))
    assert len(different) == 18
    assert sum(different) <= 2  # one candidate of two mentions
    assert read_losses(tmp_path / "run") == pytest.approx(LOSSES, abs=1e-5)
    assert [step["right_candidates"] for step in read_steps(tmp_path / "run")] == POSITIVES
    files = [tmp_path / f"run/checkpoints/step-{step}/model.safetensors" for step in (2, 4, 6)]
    weights = [load_file(file)["head.weight"].item() for file in files]
    assert weights == pytest.approx(SPARSE_WEIGHTS, abs=1e-6)
    assert "fusion_weight" not in json.loads((tmp_path / "run" / "model" / "xsap.json").read_text())


def test_tf_idf_and_its_candidates_are_those_of_biosyn() -> None:
    to_bag = tf_idf(STRINGS)
    names, bags = NgramNames(map(to_bag, STRINGS)), [to_bag(query) for query in QUERIES]
    assert names.nearest(bags, 6).tolist() == SPARSE
    scores = names.scores(bags, np.tile(np.arange(16), (6, 1)))
    assert {at: scores[at] for at in SPARSE_SCORES} == pytest.approx(SPARSE_SCORES, abs=1e-6)


def test_sets_of_ngrams_have_the_string_similarity_of_an_index() -> None:
    queries = [*QUERIES, "", "qqq"]
    names, bags = NgramNames(map(set_of_grams, STRINGS)), list(map(set_of_grams, queries))
    every = np.tile(np.arange(16), (len(queries), 1))
    expected = string_similarity(queries, every, pa.chunked_array([STRINGS]))
    assert names.scores(bags, every) == pytest.approx(expected, abs=1e-6)
    best = np.argsort(-np.round(expected, 6), axis=1, kind="stable")
    assert np.array_equal(names.nearest(bags, 5), best[:, :5])
    assert names.nearest(bags[-1:], 99).tolist() == [list(range(16))]


def test_marginal_likelihood_matches_a_loop() -> None:
    rng = np.random.default_rng(0)
    scores, right = rng.normal(size=(7, 5)), rng.random((7, 5)) < 0.4
    right[2] = False
    losses = [
        -math.log(sum(math.exp(s) for s, r in zip(line, wanted, strict=True) if r) / sum(map(math.exp, line)))
        for line, wanted in zip(scores.tolist(), right.tolist(), strict=True)
        if any(wanted)
    ]
    given = torch.tensor(scores, requires_grad=True), torch.tensor(right)
    assert marginal_likelihood(*given).item() == pytest.approx(np.mean(losses))
    assert biosyn_marginal_likelihood(*given).item() == pytest.approx(np.mean(losses))
    marginal_likelihood(*given).backward()
    assert given[0].grad is not None
    assert (given[0].grad[2] == 0).all()
    nothing = marginal_likelihood(given[0], torch.zeros(7, 5, dtype=torch.bool))
    assert nothing.item() == 0


def test_unlikely_right_candidate_has_a_gradient_but_not_in_biosyn() -> None:
    for loss_of, learns in ((marginal_likelihood, True), (biosyn_marginal_likelihood, False)):
        scores = torch.tensor([[0.0, 60.0]], requires_grad=True)
        loss = loss_of(scores, torch.tensor([[True, False]]))
        loss.backward()
        assert loss.item() == pytest.approx(60.0 if learns else -math.log(1e-9))
        assert bool((scores.grad != 0).any()) is learns


def test_biosyns_labels_take_a_part_of_an_id_for_the_id() -> None:
    concepts = [("C1",), ("C10",), ("C2", "C3"), ("XC1",)]
    found = np.array([[0, 1, 2, 3], [2, 0, 1, 3]])
    gold = [("C1",), ("C3", "C9")]
    assert right_candidates(gold, found, concepts, as_biosyn=False).tolist() == [
        [True, False, False, False],
        [True, False, False, False],
    ]
    assert right_candidates(gold, found, concepts, as_biosyn=True).tolist() == [[True, True, False, True], [False] * 4]


def test_mentions_that_teach_nothing_are_dropped_by_reason() -> None:
    rows = [
        ("Fever ", ["C1"]),
        ("fever", ["C1"]),  # equal once normalized
        ("fever", ["C2", "C1"]),  # another set of concepts
        ("cough", []),
        ("pain", ["C9"]),
        ("", ["C1"]),
        ("pain", ["C9", "C2"]),
    ]
    table = build_mentions([text for text, _ in rows], ["en"] * len(rows), [ids for _, ids in rows])
    known = frozenset({"C1", "C2"})
    found = mentions_to_learn(table, known, TextPolicy("lower"), composite=True)
    assert list(zip(found.texts, found.gold, strict=True)) == [
        ("fever", ("C1",)),
        ("fever", ("C1", "C2")),
        ("pain", ("C2",)),
    ]
    reasons = {
        "without a concept (NIL)": 1,
        "gold not in dictionary": 1,
        "cannot be linked": 1,
        "equal to another one": 1,
    }
    assert found.counts.dropped == reasons
    assert found.counts.rows_in == len(rows)
    single = mentions_to_learn(table, known, TextPolicy("lower"), composite=False)
    assert single.counts.dropped["of several concepts (composite)"] == 2
    with pytest.raises(DataError, match="none among 1"):
        mentions_to_learn(table.slice(0, 1), frozenset({"C2"}), TextPolicy("lower"), composite=True)


def make_search(inputs: SimpleNamespace, **more: object) -> CandidateSearch:
    encoder = Encoder.from_pretrained(inputs.bert, pooling="cls", device="cpu")
    names = CandidateNames.from_names(
        [*STRINGS, "pain"], [c for c, each in NAMES.items() for _ in each.split("|")] + ["C9"]
    )
    counts = SimpleNamespace()
    mentions = MentionSet(list(QUERIES), [(concept,) for concept in QUERIES.values()], counts)
    tokens = tokenize_names([*STRINGS, "pain", *QUERIES], encoder.tokenizer, 25)
    bags = list(map(set_of_grams, QUERIES))
    options = {"count": 4, "dense": 2, "refresh_steps": 2} | more
    return CandidateSearch(
        encoder, tokens, names, mentions, 17, NgramNames(map(set_of_grams, STRINGS)), bags, **options
    )


ALONE = SimpleNamespace(device=torch.device("cpu"), is_main_process=True, num_processes=1)


@pytest.mark.parametrize("block", [1 << 16, 5], ids=["one block", "blocks of five names"])
def test_candidates_match_brute_force(inputs: SimpleNamespace, block: int) -> None:
    search = make_search(inputs, names_per_block=block)
    assert len(search.names.rows) == 16  # the name of two concepts is one candidate
    search.refresh(ALONE)
    names, queries = search.encoder.encode(STRINGS), search.encoder.encode(list(QUERIES))
    cosines = queries.astype(np.float64) @ names.astype(np.float64).T
    every = np.tile(np.arange(16), (6, 1))
    lexical = np.argsort(
        -np.round(string_similarity(list(QUERIES), every, pa.chunked_array([STRINGS])), 6), axis=1, kind="stable"
    )
    owners = [concept for concept, each in NAMES.items() for _ in each.split("|")]
    for i, concept in enumerate(QUERIES.values()):
        wanted = list(dict.fromkeys([*lexical[i, :2].tolist(), *np.argsort(-cosines[i], kind="stable").tolist()]))[:4]
        if concept not in [owners[name] for name in wanted]:
            own = [name for name, owner in enumerate(owners) if owner == concept]
            wanted[-1] = max(own, key=lambda name: cosines[i, name])
        assert search.found[i].tolist() == wanted
        assert search.right[i].tolist() == [owners[name] == concept for name in wanted]
    assert search.similarity == pytest.approx(
        string_similarity(list(QUERIES), search.found, pa.chunked_array([STRINGS])), abs=1e-6
    )


def test_later_searches_encode_only_names_that_were_near(
    inputs: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = make_search(inputs, count=2, dense=1, nearest_per_candidate=1)
    search.refresh(ALONE)
    encoded: Counter[int] = Counter()
    encode = candidates.encode_rows

    def recorded(encoder: Encoder, tokens: object, rows: np.ndarray, *more: object, **options: object) -> torch.Tensor:
        encoded.update(rows.tolist())
        return encode(encoder, tokens, rows, *more, **options)

    monkeypatch.setattr(candidates, "encode_rows", recorded)
    first = search.found.copy()
    search.refresh(ALONE)
    assert np.array_equal(search.found, first)  # the model has not changed
    again = [row for row in encoded if row < 17]
    assert set(first.ravel().tolist()) <= {search.names.rows.tolist().index(row) for row in again}
    assert len(again) < 16
    resumed = make_search(inputs, count=2, dense=1)
    resumed.load_state_dict(search.state_dict())
    assert np.array_equal(resumed.found, search.found)
    assert np.array_equal(resumed.right, search.right)
    assert np.array_equal(resumed.similarity, search.similarity)


def test_tuned_model_learns_its_mentions_and_states_the_weight(inputs: SimpleNamespace, tmp_path: Path) -> None:
    train(load_settings(None, settings(inputs, tmp_path / "run", "epochs=12")))
    losses = read_losses(tmp_path / "run")
    assert np.mean(losses[-2:]) < 0.6 * np.mean(losses[:2])
    stated = json.loads((tmp_path / "run" / "model" / "xsap.json").read_text())
    assert 0 < stated["fusion_weight"] < 1
    assert stated["trained_on"] == {"test": 16, "mentions with known concepts": 6}
    assert stated["training"]["mentions"] == "6 of 6"
    assert "mentions with known concepts | 6" in (tmp_path / "run" / "model" / "README.md").read_text()


@pytest.mark.parametrize(
    ("mode", "stopped"),
    [
        ("default", 2),
        pytest.param("default", 1, marks=pytest.mark.slow),
        pytest.param("biosyn", 3, marks=pytest.mark.slow),
    ],
)
def test_resumed_tuning_is_the_same_bit_by_bit(
    inputs: SimpleNamespace, tmp_path: Path, mode: str, stopped: int
) -> None:
    """Stopped within an epoch, between two, and after a second search."""
    more = [
        "epochs=2",
        "checkpoint.save_steps=1",
        *(BIOSYN if mode == "biosyn" else ["batch.chunk=7", "optim.max_grad_norm=1.0"]),
    ]
    train(load_settings(None, settings(inputs, tmp_path / "whole", *more)))
    output, more = tmp_path / "broken", [*more, "resume=auto"]
    words = settings(inputs, output, *more)
    steps = Counter[int]()
    save = CandidateSearch.state_dict

    def stop(self: CandidateSearch) -> dict[str, torch.Tensor]:
        steps[0] += 1
        if steps[0] == stopped + 1:
            raise KeyboardInterrupt
        return save(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CandidateSearch, "state_dict", stop)
        with pytest.raises(KeyboardInterrupt):
            train(load_settings(None, words))
    assert not (output / "model").exists()
    train(load_settings(None, words))
    assert_same_weights(tmp_path / "whole", output)
    assert read_losses(tmp_path / "whole") == read_losses(output)


def test_without_learning_rates_the_vectors_are_those_of_the_base(inputs: SimpleNamespace, tmp_path: Path) -> None:
    still = ["optim.learning_rate=1e-30", "optim.weight_decay=0", "tuning.sparse_learning_rate=0", "epochs=1"]
    model = train(load_settings(None, settings(inputs, tmp_path / "run", *still)))
    base = Encoder.from_pretrained(inputs.bert, pooling="cls", device="cpu")
    assert np.array_equal(Encoder.from_pretrained(model, device="cpu").encode(STRINGS), base.encode(STRINGS))
    assert json.loads((model / "xsap.json").read_text())["fusion_weight"] == 0


def test_chunks_give_the_gradients_of_a_whole_step(inputs: SimpleNamespace, tmp_path: Path) -> None:
    for name, more in (("whole", []), ("chunks", ["batch.chunk=2"])):
        train(load_settings(None, settings(inputs, tmp_path / name, "max_steps=2", *more)))
    whole, chunks = (read_losses(tmp_path / name) for name in ("whole", "chunks"))
    assert whole[0] == pytest.approx(chunks[0], rel=1e-6)
    assert whole[1] == pytest.approx(chunks[1], rel=1e-4)  # after an update
    assert whole[1] != pytest.approx(whole[0], rel=1e-2)


def test_terminology_without_synonyms_is_tuned_without_alignment(
    inputs: SimpleNamespace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    single = {concept: names.split("|")[0] for concept, names in NAMES.items()}
    build_terminology(single).save(tmp_path / "single")
    words = settings(inputs, tmp_path / "run", f"terminology={tmp_path / 'single'}", "max_steps=2")
    train(load_settings(None, words))
    assert "no concept has two names" in caplog.text
    assert read_steps(tmp_path / "run")[0]["names"] <= 3 + 6
    with_auxiliary = settings(
        inputs, tmp_path / "more", f"terminology={tmp_path / 'single'}", f"auxiliary={inputs.terminology}"
    )
    train(load_settings(None, [*with_auxiliary, "max_steps=2"]))
    assert read_steps(tmp_path / "more")[0]["names"] > 3 + 6


def test_pairs_cannot_be_tuned_on_mentions(inputs: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text("C1||fever||fieber\n")
    words = settings(inputs, tmp_path / "run", "terminology=null", f"pairs={tmp_path / 'pairs.txt'}")
    with pytest.raises(ConfigError, match=r"tuning\.mentions needs a terminology"):
        train(load_settings(None, words))


@pytest.mark.slow
def test_killed_tuning_resumes_bit_by_bit(
    inputs: SimpleNamespace, tmp_path: Path, run: Run, template: Template
) -> None:
    common = ["epochs=30", "checkpoint.save_steps=3"]
    train(load_settings(None, settings(inputs, tmp_path / "whole", *common)))
    words = set_options(settings(inputs, tmp_path / "killed", *common, "resume=auto"))
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    with (tmp_path / "stderr").open("w") as errors:
        started = template.start([ROOT / "xsap" / "train.py", *words], tmp_path, [threads], stderr=errors.fileno())
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed" / "checkpoints" / "step-12").exists():
        assert started.is_running(), (tmp_path / "stderr").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    started.kill(signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "model").exists()
    done = run(ROOT / "xsap" / "train.py", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same_weights(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_tune_as_one(inputs: SimpleNamespace, tmp_path: Path, launch: Launch, processes: int) -> None:
    common = ["checkpoint.save_steps=6"]
    train(load_settings(None, settings(inputs, tmp_path / "one", *common)))
    words = set_options(settings(inputs, tmp_path / "several", *common))
    done = launch(processes, ROOT / "xsap" / "train.py", *words)
    assert done.returncode == 0, done.stderr
    assert read_losses(tmp_path / "several") == pytest.approx(read_losses(tmp_path / "one"), rel=2e-3)
    weights = [
        load_file(tmp_path / name / "checkpoints/step-6/model.safetensors")["head.weight"].item()
        for name in ("one", "several")
    ]
    assert weights[0] == pytest.approx(weights[1], abs=1e-4)
