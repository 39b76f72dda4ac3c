"""The benchmarks of re-ranking on tiny inputs: the cost in one run, and the ablation of the context."""

import json

import pytest

from benchmarks.speed.rerank import MOST, compare_reranking, to_text
from tests.fixtures.homonyms import homonyms
from xsap import Encoder
from xsap.encoding.model_folder import EncoderConfig
from xsap.encoding.vocabulary import from_scratch
from xsap.errors import ConfigError
from xsap.linking.index import Index
from xsap.terms.mentions import write_mentions
from xsap.text import TextPolicy


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rerank-benchmarks")
    terminology, _, tested = homonyms()
    size = {"vocabulary_size": 400, "layers": 1, "hidden": 32, "heads": 2, "dropout": 0.0}
    names = terminology.names["name"].to_pylist()
    from_scratch(names, EncoderConfig("mean", 80, TextPolicy("lower")), **size, seed=1).save_pretrained(
        folder / "model"
    )
    Index.build(terminology, Encoder.from_pretrained(folder / "model"), model_path=folder / "model").save(
        folder / "index"
    )
    write_mentions(tested.slice(0, 24), folder / "mentions.tsv")
    return folder


def test_cost_is_what_rerankers_add_to_retrieval_in_one_run(made):
    found = compare_reranking(made / "index", mentions=12, rounds=2, top=4)
    assert set(found.added) == set(MOST)
    assert found.retrieval > 0
    assert {each.limit for each in found.targets} == set(MOST.values())
    assert "12 mentions, the first 4 candidates of each" in to_text(found)
    of_file = compare_reranking(made / "index", mentions=12, rounds=1, top=4, file=made / "mentions.tsv")
    assert of_file.retrieval > 0
    with pytest.raises(ConfigError, match="at least 1,000 names"):
        compare_reranking(made / "index", mentions=1000, rounds=1, top=4)


def test_context_command_compares_the_variants_in_one_run(made, tmp_path, run_here):
    words = [
        "--index",
        made / "index",
        "--mentions",
        made / "mentions.tsv",
        "--reranker",
        "late",
        "--mention-only",
        "late",
    ]
    done = run_here("-m", "benchmarks", "context", *words, "--json", tmp_path / "x.json")
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "x.json").read_text())
    assert figures["n"] == figures["with_context"] == 24
    variants = figures["variants"]
    assert set(variants) == {
        "no re-ranker",
        "mention only",
        "with context",
        "shuffled context",
        "mention only, trained so",
    }
    assert (
        variants["with context"]["acc@1"] == variants["shuffled context"]["acc@1"]
    )  # late interaction reads no context
    assert done.stdout.count("\n") == 7
