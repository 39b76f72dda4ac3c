"""Speed and memory of finding names in texts, against a loop over n-grams in a Python dictionary of the same names.

Names and sentences are synthetic: names of one to five words of a vocabulary with Zipf's frequencies, in sentences of twenty such words of which one is
replaced by a name. Both implementations find the longest names from left to right, in one thread; seconds are those of the processor, so that what else
runs on it counts little. The dictionary is what such a loop needs beside the index; xsap searches the keys of the index itself. Near spellings, for
which no such loop is plain, are looked for in the first sentences alone.
"""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.speed.harness import (
    Machine,
    Target,
    describe_machine,
    format_figure,
    memory_bytes,
    target,
    to_markdown,
)
from xsap.linking.dictionary import INDEX_CONCEPTS_SCHEMA, INDEX_NAMES_SCHEMA, Dictionary, NameConcepts
from xsap.linking.name_keys import ENTRY, OTHER, Keys, key_hashes, spelling_hashes
from xsap.terminal import log
from xsap.text import look_up_key
from xsap.text_in.spans import MAX_WORDS, Span, SpanFinder
from xsap.text_in.spellings import NearSpellings

NAMES_SEARCHED, SENTENCES, NEAR_SENTENCES, WORDS = 1_000_000, 5_000, 50, 20
_LOOK_UP, _LOOP, _NEAR = "xsap", "loop over a Python set", "xsap with near spellings"
SENTENCES_PER_SECOND = 5_000  # of one core, at least
SEED_OF_TEXTS = 0
_SYLLABLES = "ba co di fe gu hy ka lo mi ne pa ro si te vu xa zo car der phil gen lyt path meg str osis emia itis oma"

Find = Callable[[list[str]], list[list[Span]]]


@dataclass(frozen=True, slots=True)
class TextSpeed:
    """An implementation: seconds of the processor for its sentences in each round, and bytes that it needs beside the index, None if not measured."""

    seconds: list[float]
    memory: int | None
    sentences: int

    @property
    def best(self) -> float:
        """Sentences a second in the best round."""
        return self.sentences / min(self.seconds)


@dataclass(frozen=True, slots=True)
class TextComparison:
    """Result of `compare_text`."""

    machine: Machine
    names: int
    spans: int
    implementations: dict[str, TextSpeed]
    targets: list[Target]


def by_rank(size: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Words of a vocabulary, drawn with the frequencies of words in texts, 1 / (rank + 2.7) (Mandelbrot's form of Zipf's law)."""
    weights = 1 / (np.arange(1, size + 1) + 2.7)
    return np.searchsorted(np.cumsum(weights) / weights.sum(), rng.random(count)).clip(max=size - 1)


def synthetic_names(count: int, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Distinct names, and the vocabulary of their words, the most frequent first."""
    syllables, size = _SYLLABLES.split(), max(1_000, count // 20)
    words = dict.fromkeys("".join(rng.choice(syllables, rng.integers(2, 5))) for _ in range(2 * size))
    vocabulary = list(words)[:size]
    names: dict[str, None] = {}
    while len(names) < count:
        drawn = by_rank(len(vocabulary), 5 * count, rng)
        lengths = rng.integers(1, 6, count)
        for row, length in zip(drawn.reshape(count, 5).tolist(), lengths.tolist(), strict=True):
            names[" ".join(vocabulary[word] for word in row[:length])] = None
            if len(names) == count:
                break
    return list(names), vocabulary


def dictionary_of(names: list[str]) -> Dictionary:
    """The dictionary of an index with these names, each of a concept of its own, as far as look-up reads it."""
    count = len(names)
    blank = pa.array(["en"] * count)
    lists = pa.array([["en"]] * count, pa.list_(pa.string()))
    column = pa.array(names, pa.string())
    table = pa.table([column, blank, blank, lists, lists], schema=INDEX_NAMES_SCHEMA)
    entries = np.zeros(count, ENTRY)
    entries["row"] = entries["concept"] = np.arange(count)
    entries["spelling"], entries["preference"] = spelling_hashes(names), OTHER
    numbers = np.arange(count + 1)
    concepts = NameConcepts(numbers, numbers[:-1], count, np.zeros(count, np.uint8))
    return Dictionary(
        table, INDEX_CONCEPTS_SCHEMA.empty_table(), concepts, Keys.from_entries(key_hashes(column), entries), {}
    )


def synthetic_sentences(names: list[str], vocabulary: list[str], count: int, rng: np.random.Generator) -> list[str]:
    """Sentences of WORDS words, one of which is replaced by a name."""
    drawn = by_rank(len(vocabulary), count * WORDS, rng).reshape(count, WORDS).tolist()
    planted, places = rng.integers(0, len(names), count).tolist(), rng.integers(0, WORDS, count).tolist()
    sentences = []
    for row, name, place in zip(drawn, planted, places, strict=True):
        words = [f"{vocabulary[word]}q" for word in row]  # no name has such words
        words[place] = names[name]
        sentences.append(" ".join(words).capitalize() + ".")
    return sentences


def loop_over(names: frozenset[str]) -> Find:
    """A plain loop: the longest n-grams of words that are in a set of look-up keys, from left to right."""

    def find(sentences: list[str]) -> list[list[Span]]:
        found = []
        for sentence in sentences:
            words = sentence.rstrip(".").split(" ")
            keys = [look_up_key(word) for word in words]
            starts = np.cumsum([0, *(len(word) + 1 for word in words)]).tolist()
            spans, first = [], 0
            while first < len(words):
                for stop in range(min(len(words), first + MAX_WORDS), first, -1):
                    if " ".join(keys[first:stop]) in names:
                        spans.append(Span(starts[first], starts[stop] - 1))
                        break
                first = stop if spans and spans[-1].end == starts[stop] - 1 else first + 1
            found.append(spans)
        return found

    return find


def compare_text(*, names: int = NAMES_SEARCHED, sentences: int = SENTENCES, rounds: int = 5) -> TextComparison:
    """Time all implementations on the same sentences, one after the other in each round.

    Args:
        names: Names of the index.
        sentences: Sentences of a round.
        rounds: Rounds; each begins with empty caches.

    Returns:
        Seconds and memory. The target counts only at full size.
    """
    import torch

    rng = np.random.default_rng(SEED_OF_TEXTS)
    drawn, vocabulary = synthetic_names(names, rng)
    texts = synthetic_sentences(drawn, vocabulary, sentences, rng)
    dictionary = dictionary_of(drawn)
    languages = ["en"] * len(texts)
    gc.collect()
    before = memory_bytes("VmRSS")
    found = SpanFinder(dictionary).find(texts, languages)
    used: dict[str, int | None] = {_LOOK_UP: max(0, memory_bytes("VmRSS") - before)}
    before = memory_bytes("VmRSS")
    loop = loop_over(frozenset(map(look_up_key, drawn)))
    used[_LOOP] = max(0, memory_bytes("VmRSS") - before)
    assert loop(texts) == found, "both find the same spans"
    few = texts[:NEAR_SENTENCES]
    finds: dict[str, tuple[Find, list[str]]] = {
        _LOOK_UP: (lambda each: SpanFinder(dictionary).find(each, languages), texts),
        _LOOP: (loop, texts),
        _NEAR: (lambda each: NearSpellings(SpanFinder(dictionary)).find(each, languages[: len(each)]), few),
    }
    seconds: dict[str, list[float]] = {name: [] for name in finds}
    for number in range(1, rounds + 1):
        for name, (find, own) in finds.items():
            start = time.process_time()
            find(own)
            seconds[name].append(time.process_time() - start)
            log(f"round {number}, {name}: {len(own) / seconds[name][-1]:,.0f} sentences a second")
    results = {name: TextSpeed(each, used.get(name), len(finds[name][1])) for name, each in seconds.items()}
    targets = (
        [target("sentences a second of one core", results[_LOOK_UP].best, SENTENCES_PER_SECOND)]
        if names >= NAMES_SEARCHED
        else []
    )
    return TextComparison(describe_machine(torch.device("cpu")), len(drawn), sum(map(len, found)), results, targets)


def to_text(result: TextComparison) -> str:
    """A table and its notes."""
    rows = [["implementation", "sentences a second, best round", "all rounds", "MB beside the index"]]
    for name, each in result.implementations.items():
        rounds = ", ".join(format_figure(each.sentences / seconds) for seconds in each.seconds)
        rows.append(
            [name, format_figure(each.best), rounds, "–" if each.memory is None else format_figure(each.memory / 1e6)]
        )
    ours, loop, near = (result.implementations[name].best for name in (_LOOK_UP, _LOOP, _NEAR))
    notes = [
        f"{result.names:,} names; {result.spans:,} spans found by both; seconds of the processor, one thread; {result.machine}",
        f"xsap: {ours / loop:.2f} of the loop's sentences a second",
        f"near spellings: exact look-up finds {ours / near:,.0f} times as many sentences a second",
        *result.targets,
    ]
    return to_markdown(rows, notes)
