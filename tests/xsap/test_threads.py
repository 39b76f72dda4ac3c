"""Linking from many threads and with many linkers: the same calls get the same answers, to the last bit."""

import gc
import multiprocessing
import pickle  # of references, see Linker.__reduce__
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import pytest

from xsap.encoding.encoder import Encoder
from xsap.errors import ArtifactError, ConfigError
from xsap.linking.calibration import Calibration, LogisticModel, RiskCoverageCurve
from xsap.linking.index import Index
from xsap.linking.linker import Linker
from xsap.linking.ranking import Filter
from xsap.linking.results import Result
from xsap.search.vectors import MIN_ROWS_WITH_CODES
from xsap.terms.terminology import Terminology

LONG = "pain " * 500  # no term


class Call(NamedTuple):
    """The arguments of one call."""

    mentions: list[str | None]
    top_k: int
    languages: list[str | None] | None
    filter: Filter | None
    min_confidence: float | None
    min_precision: float | None

    def ask(self, linker: Linker) -> list[Result]:
        mentions, top_k, *options = self
        return list(linker.link(mentions, top_k, **dict(zip(self._fields[2:], options, strict=True))))


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny_folder, sample_folder):
    """Indexes of all names of the sample: plain float32; float16, calibrated and with a fusion weight; int8, with a weight. All have int8 codes."""
    terms, encoder = Terminology.load(sample_folder), Encoder.from_pretrained(tiny_folder)
    odds = LogisticModel((0.8, 0.2), (0.1, 0.1), (1.0, 0.5), 0.3, {"de": 0.1, "es": -0.2}, 0.1)
    confidences = np.linspace(0, 1, 2000)
    curve = RiskCoverageCurve.from_sample(
        confidences, np.random.default_rng(0).random(2000) < confidences**0.2, [str(i) for i in range(2000)]
    )
    with patch("xsap.search.vectors.MIN_ROWS_WITH_CODES", 100):
        made = {}
        for vector_dtype, weight, with_calibration in (
            ("float32", 0, False),
            ("float16", 0.2, True),
            ("int8", 0.5, False),
        ):
            made[vector_dtype] = tmp_path_factory.mktemp("threads") / vector_dtype
            built = Index.build(terms, encoder, languages=None, model_path=tiny_folder, vector_dtype=vector_dtype)
            built.save(made[vector_dtype])
            if weight:
                Index.load(made[vector_dtype]).with_fusion_weight(weight)
            if with_calibration:
                Index.load(made[vector_dtype]).with_calibration(Calibration(odds, curve))
        yield made


def calls_of(linker: Linker, n: int, seed: int) -> list[Call]:
    """n mentions in calls of 1 to 400: names unchanged, in capitals, cut short, joined or reversed, a few of them often; blanks, missing ones and
    a document among them; with languages or without, filtered or not, with a minimal confidence, a minimal precision or neither."""
    rng, index = np.random.default_rng(seed), linker.index
    names = index.names["name"].to_pylist()
    types = [{kind} for kind in index.concepts["semantic_types"][0].as_py()]
    filters = [
        None,
        None,
        Filter(languages={"en"}),
        Filter(semantic_types=types[0], languages={"en", "es", "de"}),
    ]
    calls: list[Call] = []
    while n > 0:
        size = min(n, int(rng.integers(1, 400)))
        n -= size
        mentions: list[str | None] = []
        common = (len(names) * rng.random(size) ** 3).astype(int)
        for kind, at, other in zip(rng.random(size), common, rng.integers(len(names), size=size), strict=True):
            name = names[at]
            changed = {
                0: name,
                1: name.upper(),
                2: name[: len(name) // 2 + 1],
                3: f"{name} {names[other]}",
                4: name[::-1],
            }[int(kind * 5)]
            mentions.append(["", None, "  \t", LONG, "\u200b"][int(kind * 1000)] if kind < 0.005 else changed)
        spoken = (
            rng.choice(np.array(["de", "es", "en", None, "fi"], object), size).tolist() if rng.random() < 0.5 else None
        )
        sure = rng.random() if index.calibration else 1.0
        wanted = filters[rng.integers(len(filters))]
        top_k = int(rng.choice([1, 5, 20]))
        calls.append(
            Call(mentions, top_k, spoken, wanted, 0.6 if sure < 0.25 else None, 0.7 if 0.25 <= sure < 0.5 else None)
        )
    return calls


def by_threads(linker: Linker, calls: list[Call], threads: int) -> list[list[Result]]:
    """Answers in the order of the calls; threads are switched as often as possible."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(lambda call: call.ask(linker), calls))
    finally:
        sys.setswitchinterval(interval)


def assert_varied(answers: list[list[Result]]) -> None:
    """The compared answers have all kinds of content."""
    results = [result for part in answers for result in part]
    assert {len(result.candidates) for result in results} >= {0, 1, 5, 20}
    reasons = {(result.reason or "").split(",")[0] for result in results}
    assert reasons >= {"", "the mention is empty", "the mention is blank", "the confidence of the first candidate"}
    assert any(candidate.confidence is not None for result in results for candidate in result.candidates)


@pytest.mark.slow
def test_eight_threads_get_the_answers_of_one(folders):
    linker = Linker.load(folders["float16"])
    calls = calls_of(linker, 1800, seed=1)
    alone = [call.ask(linker) for call in calls]
    assert by_threads(Linker.load(folders["float16"]), calls, 8) == alone
    assert_varied(alone)


@pytest.mark.slow
def test_linkers_used_at_the_same_time_do_not_interfere(folders):
    """Each opened and used by threads of its own."""

    def work(vector_dtype: str) -> tuple[list[Call], list[list[Result]]]:
        linker = Linker.load(folders[vector_dtype])
        calls = calls_of(linker, 100, seed=2)
        return calls, by_threads(linker, calls, 3)

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(work, [*folders, *folders]))
    for vector_dtype, (calls, answers) in zip([*folders, *folders], found, strict=True):
        linker = Linker.load(folders[vector_dtype])
        assert answers == [call.ask(linker) for call in calls]


def test_linkers_with_the_same_encoder_do_not_interfere(folders, tiny_folder):
    encoder = Encoder.from_pretrained(tiny_folder)
    linkers = [Linker(encoder, Index.load(folder)) for folder in folders.values()] * 2
    calls = [calls_of(linker, 100, seed=3) for linker in linkers]
    alone = [[call.ask(linker) for call in own] for linker, own in zip(linkers, calls, strict=True)]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda linker, own: by_threads(linker, own, 3), linkers, calls)) == alone


# In other processes


@pytest.fixture
def folder(tmp_path, tiny_folder, sample_folder):
    """An index as other processes open it, too: without the change of `folders`."""
    with patch("xsap.search.vectors.MIN_ROWS_WITH_CODES", MIN_ROWS_WITH_CODES):
        encoder = Encoder.from_pretrained(tiny_folder)
        built = Index.build(Terminology.load(sample_folder), encoder, languages={"en", "de"}, model_path=tiny_folder)
        built.save(tmp_path / "index")
        yield tmp_path / "index"


def link_here(linker: Linker, mentions: list[str]) -> list[Result]:
    """A task for another process."""
    return list(linker.link(mentions, 3))


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_two_processes_at_once_get_the_answers_of_their_parent(folder, method):
    linker = Linker.load(folder)
    mentions = [mention for mention in linker.index.names["name"].to_pylist()[::37] if mention]
    parts = [mentions[::2], mentions[1::2]]
    expected = [link_here(linker, part) for part in parts]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        found = list(pool.map(link_here, [linker, linker], parts, timeout=200))
    for answers, right in zip(found, expected, strict=True):
        assert [[c.concept_id for c in r.candidates] for r in answers] == [
            [c.concept_id for c in r.candidates] for r in right
        ]
        for answer, own in zip(answers, right, strict=True):
            np.testing.assert_allclose(
                [c.score for c in answer.candidates], [c.score for c in own.candidates], atol=1e-6
            )


FORK = """
import os, signal, sys, threading, torch
from xsap.linking.linker import Linker

torch.set_num_threads(4)
linker = Linker.load(sys.argv[1])
mentions = [f"fever {i}" for i in range(60)]
expected = [[c.concept_id for c in r.candidates] for r in linker.link(mentions)]
done = threading.Event()

def work():
    while not done.is_set():
        linker.link(mentions[:20])

threads = [threading.Thread(target=work) for _ in range(3)]
[thread.start() for thread in threads]
children = []
for _ in range(4):
    child = os.fork()
    if not child:
        signal.alarm(60)
        found = [[c.concept_id for c in r.candidates] for r in linker.link(mentions)]
        os._exit(0 if found == expected else 3)
    children.append(child)
codes = [os.waitpid(child, 0)[1] for child in children]
done.set()
[thread.join() for thread in threads]
print(codes)
"""


def test_children_forked_while_threads_link_link_too(folder, run):
    """Without a hook at fork a child waits forever: for threads of OpenMP, or for a lock that another thread held."""
    done = run("-c", FORK, folder)
    assert (done.stdout, done.returncode) == (f"{[0] * 4}\n", 0), done.stderr


def test_a_pickled_linker_is_a_reference_and_opens_what_was_pickled(folders, tmp_path):
    shutil.copytree(folders["float32"], tmp_path / "index")
    linker = Linker.load(tmp_path / "index")
    linker = Linker(linker.encoder, replace(linker.index, fusion_weight=0.3), mentions_per_batch=7)
    data = pickle.dumps(linker)
    assert len(data) < 2000
    opened = pickle.loads(data)  # noqa: S301
    mentions = linker.index.names["name"].to_pylist()[:50]
    assert list(opened.link(mentions)) == list(linker.link(mentions))
    assert (opened.mentions_per_batch, opened.index.fusion_weight) == (7, 0.3)
    assert pickle.loads(data).encoder is opened.encoder  # noqa: S301  # opened once in a process


def test_unpickling_refuses_an_index_that_was_replaced(folders, tmp_path):
    shutil.copytree(folders["int8"], tmp_path / "index")
    data = pickle.dumps(Linker.load(tmp_path / "index"))
    shutil.rmtree(tmp_path / "index")
    with pytest.raises(ArtifactError, match="found nothing there"):
        pickle.loads(data)  # noqa: S301
    shutil.copytree(folders["float32"], tmp_path / "index")
    with pytest.raises(
        ArtifactError, match=r"is another index \(.*…\) than when it was pickled \(.*…\); open and pickle it again$"
    ):
        pickle.loads(data)  # noqa: S301


def test_a_linker_of_an_index_in_memory_is_not_pickled(tiny_folder, sample_folder):
    encoder = Encoder.from_pretrained(tiny_folder)
    index = Index.build(Terminology.load(sample_folder), encoder, languages={"fi"})
    for value in (index, Linker(encoder, index)):
        with pytest.raises(ConfigError, match="save "):
            pickle.dumps(value)


@pytest.mark.slow
def test_opening_and_dropping_linkers_leaves_no_open_files(folders):
    psutil = pytest.importorskip("psutil")
    process = psutil.Process()

    def opened(times: int) -> int:
        for _ in range(times):
            Linker.load(folders["float16"]).link(["fever"])
        gc.collect()
        return process.num_fds() + len(process.memory_maps(grouped=False))

    before = opened(2)
    assert opened(5) <= before + 2


@pytest.mark.slow
def test_ten_thousand_calls_take_no_more_memory(folders):
    psutil = pytest.importorskip("psutil")
    linker, process = Linker.load(folders["float32"]), psutil.Process()
    names = linker.index.names["name"].to_pylist()
    for call in range(1000):
        linker.link(f"{names[call % len(names)]} {call}")
    before = process.memory_info().rss
    for call in range(10_000):
        linker.link(f"{names[call % len(names)]} {call}")
    assert process.memory_info().rss - before < 8 << 20


@pytest.mark.slow
@pytest.mark.parametrize("vector_dtype", ["float32", "float16", "int8"])
def test_sixty_four_threads_get_the_answers_of_one_for_a_hundred_thousand_mentions(folders, vector_dtype):
    linker = Linker.load(folders[vector_dtype])
    calls = calls_of(linker, 100_000, seed=4)
    assert sum(len(call.mentions) for call in calls) == 100_000
    alone = [call.ask(linker) for call in calls]
    assert by_threads(linker, calls, 64) == alone
    if vector_dtype == "float16":
        assert_varied(alone)


@pytest.mark.slow
def test_mentions_linked_in_one_call_or_many_differ_by_rounding_only(folders):
    """The same mentions, all in one call or in many: scores differ by rounding, and concepts only where scores do by no more than that."""
    linker = Linker.load(folders["float16"])
    linker = Linker(linker.encoder, replace(linker.index, calibration=None))
    mentions = [mention for call in calls_of(linker, 20_000, seed=5) for mention in call.mentions]
    at_once = linker.link(mentions, 5)
    parts = [mentions[start : start + 100] for start in range(0, len(mentions), 100)]
    with ThreadPoolExecutor(64) as pool:
        one_by_one = [result for part in pool.map(lambda part: linker.link(part, 5), parts) for result in part]
    for left, right in zip(at_once, one_by_one, strict=True):
        assert (left.mention, left.reason, len(left.candidates)) == (right.mention, right.reason, len(right.candidates))
        np.testing.assert_allclose([c.score for c in left.candidates], [c.score for c in right.candidates], atol=1e-6)
