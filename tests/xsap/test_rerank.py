"""Re-ranking in a linker: what stays of the retriever's order, what a re-ranker gets, hooks, and which re-ranker an index is used with."""

import json
import pickle  # of references, see Linker.__reduce__
import shutil
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from tests.fixtures.encoders import LOWER, tiny_encoder, train_unigram
from tests.fixtures.examples import examples
from xsap import Encoder
from xsap.artifacts import publish
from xsap.encoding.layers import lowest_layers
from xsap.encoding.token_vectors import TokenVectors, token_vectors
from xsap.errors import ArtifactError, ConfigError, RerankerError
from xsap.evaluation.context_ablation import ablate_context
from xsap.linking.cross_encoder import RERANKER_JSON, RERANKER_KIND, CrossEncoder, join_tokens, with_markers
from xsap.linking.cross_inputs import MARKERS, InputWindows, candidate_text, cross_inputs
from xsap.linking.index import Index
from xsap.linking.late_interaction import LateInteraction, interactions
from xsap.linking.linker import Linker
from xsap.linking.mention_context import MentionContext
from xsap.linking.rerank import RerankCandidate, RerankQuery, ranking_scores, rerank_order
from xsap.linking.rerank_choice import check_storable, choice_identity, open_reranker, retriever_of, store_reranker
from xsap.linking.rerank_hook import FunctionReranker, HttpReranker
from xsap.terms.mentions import build_mentions
from xsap.terms.terminology import NAMES_SCHEMA, Terminology

CONCEPTS = {
    "C1": ["multiple sclerosis", "MS", "disseminated sclerosis"],
    "C2": ["mitral stenosis", "MS", "narrow mitral valve"],
    "C3": ["mitral regurgitation", "MR", "leaking mitral valve"],
    "C4": ["mental retardation", "MR", "intellectual disability"],
    "C5": ["chest pain", "pain of the chest"],
    "C6": ["fièver", "high temperature"],
    "C7": ["fever"],
}
MENTIONS = ["MS", "mitral valve", "pain", "Fiever", "high fever", "C5", "MR"]
WINDOWS = InputWindows(16, 12)
SENTENCE = MentionContext("A murmur and MS were found", 13, 15)


@pytest.fixture(scope="module")
def terminology():
    rows = [
        {
            "concept_id": each,
            "language": "en",
            "name": name,
            "kind": "synonym" if at else "preferred",
            "source": "T",
            "code": each,
        }
        for each, names in CONCEPTS.items()
        for at, name in enumerate(names)
    ]
    return Terminology.build(pa.Table.from_pylist(rows, NAMES_SCHEMA))[0]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, terminology):
    """A model, and an index of it."""
    folder = tmp_path_factory.mktemp("rerank")
    tiny_encoder(train_unigram([name for names in CONCEPTS.values() for name in names]), "Unigram").save_pretrained(
        folder / "model"
    )
    encoder = Encoder.from_pretrained(folder / "model")
    Index.build(terminology, encoder, model_path=folder / "model").save(folder / "index")
    return folder


def new_cross_encoder(folder, *, head=0.0, uses_context=True):
    """One whose head is 0, as before training, or drawn at random with this spread."""
    torch.manual_seed(0)
    encoder = with_markers(Encoder.from_pretrained(folder / "model"))
    model = CrossEncoder(encoder, WINDOWS, uses_context=uses_context)
    torch.nn.init.normal_(model.head.weight, std=head)
    model.set_numbers(scale=20.0, nil=10.0, exact=0.5 if head else 0.0)
    return model.eval()


@pytest.fixture(scope="module")
def scorers(folders):
    """A cross-encoder and late interaction."""
    return new_cross_encoder(folders, head=3.0), LateInteraction(Encoder.from_pretrained(folders / "model"))


def candidate(number, score, name="pain"):
    return RerankCandidate(f"C{number}", name, name, (f"{name} {number}",), ("T184",), "", score, "similar")


def query_of(names, context=None):
    return RerankQuery("MS", "en", context, tuple(candidate(i, 0.9 - i / 100, name) for i, name in enumerate(names)))


def test_weight_zero_is_the_retriever_to_the_bit(folders):
    plain, reranked = (
        Linker(Encoder.from_pretrained(folders / "model"), Index.load(folders / "index"), reranker=reranker)
        for reranker in (None, new_cross_encoder(folders))
    )
    for top_k in (1, 3, 7):
        expected, found = (
            plain.link(MENTIONS, top_k),
            reranked.link(MENTIONS, top_k, context=["some text"] * len(MENTIONS)),
        )
        assert found == expected
        assert [each.score for result in found for each in result.candidates] == [
            each.score for result in expected for each in result.candidates
        ]
    moved = Linker(reranked.encoder, reranked.index, reranker=new_cross_encoder(folders, head=3.0))
    assert moved.link(MENTIONS, 7) != plain.link(MENTIONS, 7)


def test_equal_scores_keep_the_order_of_the_retriever_and_accents_their_place():
    given = ranking_scores([0.7, 0.9, 0.8, 0.8])  # the first differs in accents alone
    assert given == [0.9, 0.9, 0.8, 0.8]
    assert rerank_order(given) == [0, 1, 2, 3]
    assert rerank_order([0.2, 0.2, 0.2]) == [0, 1, 2]
    assert rerank_order([0.7, 0.9, 0.8, 1.0]) == [3, 1, 2, 0]


def test_what_differs_in_accents_is_re_ranked_by_the_scores_alone(folders):
    asked = []

    def score(queries, change):
        asked.extend(queries)
        return [[each.score - change * (each.match == "accents") for each in query.candidates] for query in queries]

    encoder, index = Encoder.from_pretrained(folders / "model"), Index.load(folders / "index")
    plain = Linker(encoder, index).link("Fiever", 7).candidates
    assert plain[0].match == "accents"
    assert plain[0].score < plain[1].score  # otherwise this shows nothing
    for change in (0.0, 0.01):
        linker = Linker(encoder, index, reranker=FunctionReranker(lambda queries, by=change: score(queries, by)))
        found = linker.link("Fiever", 7).candidates
        assert asked[-1].candidates[0].score == plain[1].score
        assert [each.concept_id for each in found[:2]] == [plain[i].concept_id for i in ([1, 0] if change else [0, 1])]


@settings(max_examples=examples(20))
@given(order=st.permutations(range(5)), data=st.data())
def test_permuted_candidates_and_mentions_have_the_same_scores(scorers, order, data):
    model, late = scorers
    names = ["mitral stenosis", "multiple sclerosis", "fever", "chest pain", "mental retardation"]
    query = query_of(names, SENTENCE)
    [expected] = model.score([query])
    permuted = query._replace(candidates=tuple(query.candidates[i] for i in order))
    assert model.score([permuted])[0] == [expected[i] for i in order]
    assert late.score([permuted])[0] == pytest.approx([late.score([query])[0][i] for i in order], abs=1e-6)
    fewer = data.draw(st.integers(1, 5))
    alone = model.score([query_of(["fever"]), permuted._replace(candidates=permuted.candidates[:fewer])])[1]
    assert alone == pytest.approx([expected[i] for i in order[:fewer]], abs=2e-5)


def test_scores_are_the_written_formula(folders):
    model = new_cross_encoder(folders, head=3.0)
    query = query_of(["mitral stenosis", "fever"], SENTENCE)
    inputs = cross_inputs([query], model.encoder.tokenizer, LOWER, WINDOWS)
    with torch.inference_mode():
        logits = model(inputs)
        own = [
            float(
                model.head.weight[0]
                @ model._states(inputs.prefixes, inputs.texts.take(np.array([i])), np.array([1]))[0]
            )
            for i in range(2)
        ]
    expected = [20.0 * each.score + value for each, value in zip(query.candidates, own, strict=True)]
    assert logits[0].tolist() == pytest.approx([*expected, 10.0], abs=1e-4)
    assert model.score([query])[0] == pytest.approx([value / 20.0 for value in expected], abs=1e-5)
    assert model.nil_score == pytest.approx(0.5)


def test_models_that_cannot_be_packed_read_both_texts_as_one(folders):
    model = new_cross_encoder(folders, head=3.0)
    model._packs = False
    query = query_of(["mitral stenosis", "fever", "chest pain"], SENTENCE)
    inputs = cross_inputs([query], model.encoder.tokenizer, LOWER, WINDOWS)
    pairs = join_tokens(inputs.prefixes.take(np.zeros(3, np.int64)), inputs.texts)
    with torch.inference_mode():
        states = model._states(inputs.prefixes, inputs.texts, inputs.counts)
        for i in range(3):
            ids = torch.tensor(pairs.ids[pairs.offsets[i] : pairs.offsets[i + 1]][None].astype(np.int64))
            whole = model.encoder.transformer(input_ids=ids).last_hidden_state[0, inputs.prefixes.lengths[0]]
            torch.testing.assert_close(states[i], whole, atol=1e-5, rtol=0)


def read_back(model, tokens):
    return [
        model.encoder.tokenizer.convert_ids_to_tokens(tokens.ids[a:b].tolist())
        for a, b in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)
    ]


def test_the_mention_comes_first_and_is_marked_in_a_window_of_its_context(folders):
    def prefix_of(query):
        [prefix] = read_back(model, cross_inputs([query], model.encoder.tokenizer, LOWER, WINDOWS).prefixes)
        at = [0, *map(prefix.index, MARKERS), len(prefix) - 1]
        parts = ["".join(prefix[a + 1 : b]).replace("▁", " ").split() for a, b in pairwise(at)]
        return len(prefix), (prefix[0], prefix[-1]), parts

    model = new_cross_encoder(folders)
    text = "fever " * 30 + "MS" + " pain" * 2
    query = query_of(["fever"], MentionContext(text, 180, 182))
    size, ends, (mention, left, right) = prefix_of(query)
    assert (size, ends, mention) == (WINDOWS.context_tokens, ("<s>", "</s>"), ["ms"])
    assert right == ["pain", "pain"]  # all of it, and what is left of the window is to the left
    assert len(left) > 2
    assert set(left[1:]) == {"fever"}
    size, _, (mention, left, right) = prefix_of(
        query._replace(context=MentionContext("pain MS " + "fever " * 30, 5, 7))
    )
    assert (size, mention, left, right[0]) == (WINDOWS.context_tokens, ["ms"], ["pain"], "fever")
    size, ends, parts = prefix_of(query_of(["fever"]))
    assert (ends, parts) == (("<s>", "</s>"), [["ms"], [], []])


def test_a_tokenizer_with_one_special_token_begins_each_text_with_it(folders):
    model = new_cross_encoder(folders, head=3.0)
    end = model.encoder.tokenizer.convert_tokens_to_ids("</s>")
    model.encoder.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", end)]
    )
    query = query_of(["fever", "chest pain"], SENTENCE)
    inputs = cross_inputs([query], model.encoder.tokenizer, LOWER, WINDOWS)
    for tokens in (inputs.prefixes, inputs.texts):
        assert [row[0] for row in read_back(model, tokens)] == ["</s>"] * len(tokens)
        assert all(row.count("</s>") == 1 for row in read_back(model, tokens))
    first, second = model.score([query])[0]
    assert first != second


def test_candidate_text_has_preferred_name_types_nearest_names_and_definition():
    whole = RerankCandidate(
        "C1", "multiple sclerosis", "MS", ("MS", "disseminated"), ("T047",), "a disease of nerves", 0.5, "exact"
    )
    assert candidate_text(whole) == "multiple sclerosis (T047) | MS | disseminated: a disease of nerves"
    assert candidate_text(whole._replace(preferred_name="", names=("MS",), semantic_types=(), definition="")) == "MS"


def test_a_reranker_gets_the_names_nearest_to_the_mention_and_the_context(folders):
    asked = []

    def keep(queries):
        asked.extend(queries)
        return [[each.score for each in query.candidates] for query in queries]

    linker = Linker(
        Encoder.from_pretrained(folders / "model"), Index.load(folders / "index"), reranker=FunctionReranker(keep)
    )
    linker.link(["MS", "MS", "MS"], context=[SENTENCE, SENTENCE, None])
    assert [query.context for query in asked] == [SENTENCE, None]
    first = {each.concept_id: each for each in asked[0].candidates}
    assert first["C1"].names[0] == "MS"
    assert first["C1"].match == "exact"
    assert first["C1"].matched_name == "MS"
    for each, shown in zip(
        Linker(linker.encoder, linker.index).link(["MS"], 7)[0].candidates, asked[0].candidates, strict=True
    ):
        assert (each.concept_id, each.matched_name) == (shown.concept_id, shown.matched_name)
    assert set(first["C3"].names) == {"MR", "leaking mitral valve"}
    vectors = linker.encoder.encode(["MS", "MR", "leaking mitral valve"])
    nearest = ["MR", "leaking mitral valve"][int(np.argmax(vectors[1:] @ vectors[0]))]
    assert first["C3"].names[0] == nearest


def test_a_reranker_that_reads_no_context_is_asked_once_for_equal_mentions(folders):
    asked = []

    def keep(queries):
        asked.extend(queries)
        return [[each.score for each in query.candidates] for query in queries]

    linker = Linker(
        Encoder.from_pretrained(folders / "model"),
        Index.load(folders / "index"),
        reranker=FunctionReranker(keep, uses_context=False),
    )
    linker.link(["MS", "MS"], context=[SENTENCE, None])
    assert [query.context for query in asked] == [None]


@pytest.mark.parametrize(
    "given", [None, [[0.1]], [["a", "b"]], [[0.1, float("nan")]], [[True, False]], "ab", [0.1, 0.2]]
)
def test_scores_of_a_function_are_checked(given):
    with pytest.raises(RerankerError, match="the re-ranking function: expected"):
        FunctionReranker(lambda queries: given).score([query_of(["a", "b"])])


def test_a_function_may_return_arrays():
    given = np.array([[0.25, 0.5]], np.float32)
    assert FunctionReranker(lambda queries: given).score([query_of(["a", "b"])]) == [[0.25, 0.5]]
    assert FunctionReranker(lambda queries: [given[0]]).score([query_of(["a", "b"])]) == [[0.25, 0.5]]


ANSWERS = {
    "/broken": b"nothing",
    "/nested": b"[" * 200_000,
    "/large": b'{"scores": [[1' + b"0" * 400 + b", 1]]}",
    "/nan": b'{"scores": [[NaN, 1]]}',
    "/long": b" " * (1 << 24) + b'{"scores": [[1, 1]]}',
}


@pytest.fixture
def service():
    """A service that scores by the length of the preferred name, its address, and the bodies that it got."""
    bodies = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            bodies.append(body)
            scores = [[len(each["preferred_name"]) for each in query["candidates"]] for query in body["queries"]]
            answer = ANSWERS.get(self.path, json.dumps({"scores": scores}).encode())
            self.send_response({"/busy": 503, "/moved": 302}.get(self.path, 200))
            self.send_header("Location", "/rerank")
            self.end_headers()
            for part in [answer] if self.path != "/slow" else [b" "] * 100:
                self.wfile.write(part)
                self.wfile.flush()
                stop.wait(0.05 if self.path == "/slow" else 0)

        def do_GET(self):
            bodies.append("a redirect was followed")
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"scores": [[0, 0]]}')

        def log_message(self, *_):
            pass

    stop = threading.Event()
    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # a client that does not wait
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", bodies
    stop.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_service_gets_the_documented_json_and_is_named_once(folders, service, caplog):
    address, bodies = service
    caplog.set_level("INFO", "xsap")
    linker = Linker.load(folders / "index", rerank=f"{address}/rerank")
    found = linker.link(["MS", "pain"], 7, context=[SENTENCE, None])
    linker.link(["fever"])
    lengths = [len(each.name) for each in found[0].candidates]
    assert lengths == sorted(lengths, reverse=True)
    first = bodies[0]["queries"][0]
    assert {key: first[key] for key in ("mention", "language", "context")} == {
        "mention": "MS", "language": "und", "context": {"text": SENTENCE.text, "start": 13, "end": 15},
    }  # fmt: skip
    assert set(first["candidates"][0]) == set(RerankCandidate._fields)
    assert bodies[0]["queries"][1]["context"] is None
    told = [record.message for record in caplog.records if "re-ranking" in record.message]
    assert told == [
        f"re-ranking: {address.removeprefix('http://')} gets each mention, its language and its context, and of each candidate "
        "concept_id, preferred_name, matched_name, names, semantic_types, definition, score, match"
    ]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("busy", "found the answer 503"),
        ("broken", "expected JSON with scores"),
        ("nested", "expected JSON with scores"),
        ("large", "each a finite number; found 1000"),
        ("nan", "each a finite number; found nan"),
        ("long", "an answer of more than 16 MB"),
        ("slow", "the answer was not complete in time"),
    ],
)
def test_a_service_that_fails_is_named(service, path, message):
    with pytest.raises(RerankerError, match=message):
        HttpReranker(f"{service[0]}/{path}", seconds=0.3 if path == "slow" else 20).score([query_of(["a", "b"])])


def test_a_redirect_is_not_followed(service):
    with pytest.raises(RerankerError, match=r"found the answer 302 Found to /rerank; give that address"):
        HttpReranker(f"{service[0]}/moved").score([query_of(["a", "b"])])
    assert len(service[1]) == 1


def test_a_context_with_half_of_a_surrogate_pair_is_sent(service):
    text = "a \ud83d MS \U0001f600"
    HttpReranker(f"{service[0]}/rerank").score([query_of(["a", "b"], MentionContext(text))])
    assert service[1][0]["queries"][0]["context"]["text"] == text


def test_a_service_that_is_not_there_is_named():
    with pytest.raises(RerankerError, match="Is the service running"):
        HttpReranker("http://127.0.0.1:9/rerank", seconds=5).score([query_of(["a"])])


@pytest.mark.parametrize(
    "url", ["ftp://x/y", "http://", "http://user:word@x/y", "http://[::1", "http://x:99999/y", "http://x:port/y"]
)
def test_an_address_is_checked(url):
    with pytest.raises(ConfigError, match="address"):
        HttpReranker(url)


def test_interactions_match_a_plain_loop():
    rng = np.random.default_rng(0)
    lengths = [3, 1, 5, 2]
    vectors = rng.normal(size=(sum(lengths), 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    offsets = np.cumsum([0, *lengths])
    own = [vectors[a:b] for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
    left, right = np.array([0, 1, 2, 3, 2]), np.array([1, 2, 3, 0, 2])
    expected = []
    for i, j in zip(left, right, strict=True):
        cosines = own[i] @ own[j].T
        recall, precision = cosines.max(1).mean(), cosines.max(0).mean()
        expected.append(2 * recall * precision / (recall + precision) if recall + precision > 0 else 0.0)
    found = interactions(TokenVectors(torch.from_numpy(vectors), offsets), left, right, pairs_per_part=2)
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    assert found[-1].item() == pytest.approx(1.0)


@pytest.mark.parametrize("layers", [1, 2])
def test_token_vectors_are_those_of_the_hugging_face_model_without_special_tokens(folders, layers):
    encoder = Encoder.from_pretrained(folders / "model")
    names = ["mitral stenosis", "MS", "pain of the chest"]
    found = token_vectors(encoder, names, lowest_layers(encoder.transformer, layers), tokens_per_batch=6)
    for i, name in enumerate(names):
        ids = encoder.tokenizer([name.lower()], return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            states = encoder.transformer(input_ids=ids, output_hidden_states=True).hidden_states[layers][0, 1:-1]
        expected = torch.nn.functional.normalize(states, dim=-1)
        torch.testing.assert_close(found.vectors[found.offsets[i] : found.offsets[i + 1]], expected, atol=2e-6, rtol=0)
    assert len(encoder.transformer.encoder.layer) == 2  # the model itself keeps its layers
    with pytest.raises(ConfigError, match="expected 1 to 2 layers"):
        lowest_layers(encoder.transformer, 3)


def test_a_saved_cross_encoder_gives_the_same_scores(folders, tmp_path):
    model = new_cross_encoder(folders, head=2.0)
    index = Index.load(folders / "index")
    model.save(tmp_path / "reranker", retriever=retriever_of(index), metadata={"steps": 3})
    again = CrossEncoder.load(tmp_path / "reranker")
    query = query_of(["mitral stenosis", "fever"], SENTENCE)
    assert again.score([query]) == model.score([query])
    assert (again.scale, again.nil_score, again.windows) == (model.scale, model.nil_score, WINDOWS)
    assert json.loads((tmp_path / "reranker" / "reranker.json").read_text())["steps"] == 3
    (tmp_path / "reranker" / "head.safetensors").write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"head\.safetensors"):
        CrossEncoder.load(tmp_path / "reranker")


def test_an_index_is_used_with_the_reranker_that_is_stored_in_it(folders, tmp_path):
    index = copied_index(folders, tmp_path)
    new_cross_encoder(folders, head=3.0).save(tmp_path / "reranker", retriever=retriever_of(index), metadata={})
    linker = Linker.load(index.path)
    plain = linker.link(MENTIONS, 7)
    before = index.content_hash
    stored = store_reranker(index, tmp_path / "reranker", linker.encoder, top=3)
    assert stored.content_hash != before
    reranked = Linker.load(index.path)
    assert reranked.reranking.top == 3
    assert reranked.uses_context
    assert (
        reranked.link(MENTIONS, 7) == Linker.load(index.path, rerank=tmp_path / "reranker").link(MENTIONS, 7) != plain
    )
    assert Linker.load(index.path, rerank="none").link(MENTIONS, 7) == plain
    assert pickle.loads(pickle.dumps(reranked)).link(MENTIONS, 7) == reranked.link(MENTIONS, 7)  # noqa: S301
    (tmp_path / "reranker").rename(tmp_path / "moved")
    with pytest.raises(ArtifactError, match=r"its re-ranker \(.*\) is no longer at .*; give --rerank FOLDER"):
        Linker.load(index.path)
    assert Linker.load(index.path, rerank=tmp_path / "moved").link(MENTIONS, 7) == reranked.link(MENTIONS, 7)
    new_cross_encoder(folders, head=1.0).save(tmp_path / "reranker", retriever=retriever_of(index), metadata={})
    with pytest.raises(ArtifactError, match=r"is used with re-ranker .*, not with"):
        Linker.load(index.path)
    store_reranker(index, "none", linker.encoder)
    assert Linker.load(index.path).link(MENTIONS, 7) == plain


@pytest.mark.parametrize("joint", [None, 1])
def test_a_saved_reranker_gives_the_same_scores_and_one_of_another_version_is_refused(folders, tmp_path, joint):
    index, query = Index.load(folders / "index"), query_of(["mitral stenosis", "fever", "chest pain"], SENTENCE)
    encoder = with_markers(Encoder.from_pretrained(folders / "model"))
    model = CrossEncoder(encoder, WINDOWS, joint_layers=joint)
    torch.nn.init.normal_(model.head.weight)
    model.save(tmp_path / "reranker", retriever=retriever_of(index), metadata={})
    opened = CrossEncoder.load(tmp_path / "reranker")
    assert opened.joint_layers == joint
    assert opened.score([query]) == model.score([query])
    with publish(tmp_path / "old", RERANKER_KIND, {}) as folder:
        shutil.copytree(
            tmp_path / "reranker", folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json")
        )
        stated = json.loads((folder / RERANKER_JSON).read_text())
        del stated["joint_layers"]
        (folder / RERANKER_JSON).write_text(json.dumps(stated))
    with pytest.raises(ArtifactError, match="its files don't fit together; train it again: xsap train-reranker"):
        CrossEncoder.load(tmp_path / "old")


def copied_index(folders, to: Path) -> Index:
    index = Index.load(folders / "index")
    index.save(to / "index")
    return Index.load(to / "index")


def test_a_reranker_of_another_retriever_is_refused(folders, tmp_path):
    index = copied_index(folders, tmp_path)
    new_cross_encoder(folders).save(tmp_path / "reranker", retriever=retriever_of(index), metadata={})
    index = index.with_fusion_weight(0.3)
    with pytest.raises(
        ArtifactError,
        match=r"trained on an index with fusion_weight 0\.0, not 0\.3; train it again: xsap train-reranker",
    ):
        Linker.load(index.path, rerank=str(tmp_path / "reranker"))


def test_a_calibration_is_kept_only_for_the_reranker_that_it_was_fitted_with(folders, tmp_path):
    index, encoder = copied_index(folders, tmp_path), Encoder.from_pretrained(folders / "model")
    calibrated = replace(index, calibration="a calibration")
    assert open_reranker(None, calibrated, encoder).bound_index.calibration
    assert open_reranker("none", calibrated, encoder).bound_index.calibration
    for other in ("late", "http://localhost:1/rerank", FunctionReranker(lambda queries: [])):
        assert open_reranker(other, calibrated, encoder).bound_index.calibration is None, other
    calibrated = replace(store_reranker(index, "late", encoder), calibration="a calibration")
    for same in (None, "late"):
        assert open_reranker(same, calibrated, encoder).bound_index.calibration, same
    for other in ("none", "http://localhost:1/rerank", FunctionReranker(lambda queries: [])):
        assert open_reranker(other, calibrated, encoder).bound_index.calibration is None, other


def test_as_many_candidates_are_scored_as_in_training(folders, tmp_path):
    index = copied_index(folders, tmp_path)
    model = new_cross_encoder(folders)
    model.top = 5
    model.save(tmp_path / "reranker", retriever=retriever_of(index), metadata={})
    linker = Linker.load(index.path, rerank=tmp_path / "reranker")
    assert linker.reranking.top == 5
    store_reranker(index, tmp_path / "reranker", linker.encoder)
    assert Linker.load(index.path).reranking.top == 5


def test_a_service_is_refused_before_it_gets_anything(folders):
    index = Index.load(folders / "index")
    with pytest.raises(ConfigError, match="a service can't be stored in an index"):
        store_reranker(index, "http://localhost:1/rerank", None)
    with pytest.raises(ConfigError, match="a service can't be stored in an index"):
        check_storable("http://localhost:1/rerank")


def test_a_run_is_identified_by_the_content_of_its_reranker(folders, tmp_path):
    index = Index.load(folders / "index")
    found = []
    for spread in (1.0, 2.0, 1.0):
        model = new_cross_encoder(folders, head=spread)
        model.save(tmp_path / "reranker", retriever=retriever_of(index), metadata={}, overwrite=True)
        found.append(choice_identity(tmp_path / "reranker"))
    assert found[0] == found[2] != found[1]
    assert (choice_identity(None), choice_identity("http://localhost:1/rerank")) == ({}, None)
    assert choice_identity("late") != choice_identity("none")


def test_late_interaction_is_opened_by_name_and_moves_candidates(folders):
    linker = Linker.load(folders / "index", rerank="late")
    assert not linker.uses_context
    assert linker.link(MENTIONS, 7) != Linker.load(folders / "index").link(MENTIONS, 7)
    without = Linker(linker.encoder, linker.index, reranker=LateInteraction(linker.encoder, weight=0.0))
    assert without.link(MENTIONS, 7) == Linker.load(folders / "index").link(MENTIONS, 7)


def test_a_reranker_in_memory_is_not_pickled(folders):
    linker = Linker(
        Encoder.from_pretrained(folders / "model"), Index.load(folders / "index"), reranker=new_cross_encoder(folders)
    )
    with pytest.raises(ConfigError, match="pickled"):
        pickle.dumps(linker)


def test_windows_must_fit_the_model(folders):
    encoder = with_markers(Encoder.from_pretrained(folders / "model"))
    with pytest.raises(ConfigError, match="expected at most 32 tokens"):
        CrossEncoder(encoder, InputWindows(30, 12))
    with pytest.raises(ConfigError, match="at least 8 tokens of context and 4 of a candidate"):
        CrossEncoder(encoder, InputWindows(7, 12))


def test_an_unknown_reranker_is_refused(folders, tmp_path):
    linker = Linker.load(folders / "index")
    with pytest.raises(ArtifactError, match="expected a reranker folder, found nothing there"):
        open_reranker(tmp_path / "nothing", linker.index, linker.encoder)


@pytest.mark.filterwarnings("error")
def test_a_mention_without_any_candidate_counts_as_a_miss_in_the_ablation(folders):
    plain = Linker.load(folders / "index")
    linker = Linker(
        plain.encoder,
        plain.index,
        reranker=FunctionReranker(lambda queries: [[each.score for each in query.candidates] for query in queries]),
    )
    mentions = build_mentions(
        ["fever", "???"], ["en", "en"], [["C7"], ["C7"]], context=["no fever", "???"], start=[3, 0], end=[8, 3]
    )
    report = ablate_context(plain, linker, mentions, seed=0)
    assert {name: score.value for name, score in report.mrr.items()} == dict.fromkeys(report.mrr, 0.5)
    assert {name: score.value for name, score in report.accuracy.items()} == dict.fromkeys(report.mrr, 0.5)
