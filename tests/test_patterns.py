"""Regular expressions: none takes time that grows with the square of a line's length, whatever is in the line."""

import gc
import importlib
import re
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.fixtures.commands import ROOT

PIECES = [
    *"a\"\\ {}[]()|*_`<&1.,+-:/@>%=~#;!'x\t",
    *(
        '\\"',
        "} ",
        '"a',
        " {",
        "&#",
        "1,",
        "C1 ",
        "C1 + ",
        "0 0;",
        "A:",
        "__",
        "\u200d",
        "e\u0301",
        "%%",
        "1.1",
        ", ",
        " EXACT",
    ),
]
CHARS = 20_000
SECONDS = 0.25  # of the processor; a pattern of linear time takes a hundredth of it
USED_ON_SHORT_TEXT = {"xsap.terminal._SIZE", "benchmarks.accuracy.systems._LABEL"}  # options of a command line


METHODS: dict[str, Callable[["re.Pattern[str]", str], object]] = {
    "search": re.Pattern.search,
    "match": re.Pattern.match,
    "fullmatch": re.Pattern.fullmatch,
    "sub": lambda pattern, line: pattern.sub("", line),
    "subn": lambda pattern, line: pattern.subn("", line),
    "split": re.Pattern.split,
    "findall": re.Pattern.findall,
    "finditer": lambda pattern, line: list(pattern.finditer(line)),
}


class TooSlowError(Exception):
    """A pattern took too long."""


def patterns() -> Iterator[tuple[str, "re.Pattern[str]", list[str]]]:
    """Every compiled pattern of a module: its name, the pattern, and the methods that are called on it."""
    files = [file for package in ("xsap", "data_prep", "benchmarks") for file in sorted((ROOT / package).rglob("*.py"))]
    texts = {file: file.read_text(encoding="utf-8") for file in files}
    calls = defaultdict(set)
    for word, method in re.findall(rf"\b(\w+)\.({'|'.join(METHODS)})\b", "".join(texts.values())):
        calls[word].add(method)
    for file, text in texts.items():
        if file.name == "__main__.py" or "re.compile(" not in text:
            continue
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for key, value in vars(importlib.import_module(name)).items():
            values = list(value.values()) if isinstance(value, dict) else [value]
            for pattern in values:
                if isinstance(pattern, re.Pattern) and isinstance(pattern.pattern, str) and f"{key} = " in text:
                    used = calls.get(key) or set(re.findall(rf"\bpattern\.({'|'.join(METHODS)})\(", text))
                    yield f"{name}.{key}", pattern, sorted(used) or ["fullmatch", "search"]


def seconds(work: Callable[[], object]) -> float:
    """Time of the processor that some work takes; it is stopped when it takes too long.

    The garbage collector waits: in a large test process one collection can take longer than the limit, and an error
    that is raised in a callback of a collection is lost. The timer fires once, so that nothing is raised after the
    inner block.
    """

    def stop(*_: object) -> None:
        raise TooSlowError

    before, collects = signal.signal(signal.SIGVTALRM, stop), gc.isenabled()
    gc.disable()
    start = time.process_time()
    try:
        try:
            signal.setitimer(signal.ITIMER_VIRTUAL, 2 * SECONDS)
            work()
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    except TooSlowError:
        pass
    taken = time.process_time() - start
    signal.signal(signal.SIGVTALRM, before)
    if collects:
        gc.enable()
    return taken


def slowest(pattern: "re.Pattern[str]", methods: list[str]) -> tuple[float, str, str]:
    """The longest time, the method, and the repeated piece of the line that took it."""
    worst = (0.0, "", "")
    for piece in PIECES:
        for start in ("", '"'):
            line = start + piece * (CHARS // len(piece)) + "\n\n"
            for method in methods:
                work = partial(METHODS[method], pattern, line)
                taken = seconds(work)
                if taken > SECONDS:  # of a busy processor, or of the pattern
                    taken = min(taken, seconds(work), seconds(work))
                worst = max(worst, (taken, method, piece))
            if worst[0] > SECONDS:
                return worst
    return worst


def test_a_slow_garbage_collection_is_not_counted_as_the_work():
    """As in a process that holds many objects: a callback of the collector takes longer than the limit."""

    def slow_collection(*_: object) -> None:
        start = time.process_time()
        while time.process_time() - start < 3 * SECONDS:
            pass

    gc.callbacks.append(slow_collection)
    try:
        taken = seconds(lambda: [[] for _ in range(CHARS)])
    finally:
        gc.callbacks.remove(slow_collection)
    assert taken < SECONDS
    assert gc.isenabled()


def test_slow_patterns_are_distinguished_from_fast_ones():
    assert slowest(re.compile(r"\s+x"), ["search"])[0] > SECONDS
    assert slowest(re.compile(r'"(?:[^"\\]|\\.)*"'), ["match"])[0] < SECONDS


@pytest.mark.parametrize(("name", "pattern", "methods"), [pytest.param(*each, id=each[0]) for each in patterns()])
def test_pattern_takes_linear_time(name, pattern, methods):
    if name not in USED_ON_SHORT_TEXT:
        taken, method, piece = slowest(pattern, methods)
        assert taken < SECONDS, f"{method} on {piece!r} repeated: {taken:.2f} s"
