"""Speed of the service: clients that send batches to `xsap serve`, against `Linker.link` in this process on the same mentions, in turn.

The service is started as users start it, on a free port of this computer. Mentions are names of the index, half of them changed, so that most have no
exact name. Its answers must be those of `Linker.link`. Then more clients than fit into its queue send at once: each request has to be answered, with
status 200 or 503.
"""

import http.client
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from subprocess import PIPE, Popen
from typing import Any

import numpy as np
import torch

from benchmarks.speed.harness import Machine, Target, describe_machine, format_figure, target, to_markdown
from xsap.errors import ConfigError
from xsap.linking.linker import Linker
from xsap.terminal import Dtype, log

BATCH_LIMIT = 256  # mentions of a request, the default of the service
QUEUE_LIMIT = 1024  # mentions that wait, fewer than by default, so that the queue is soon full
CLIENTS_TOO_MANY = 4 * QUEUE_LIMIT // BATCH_LIMIT
TOP_K, SEED = 5, 0
TARGET_SPEED = 100.0  # mentions a second
SCORE_TOLERANCE = 1e-3  # rounding depends on what is encoded together
REQUEST_SECONDS = 300  # seconds for one request


@dataclass(frozen=True, slots=True)
class Serving:
    """What was measured.

    Attributes:
        machine: Where.
        mentions: How many in each round.
        clients: That send at the same time.
        batch: Mentions in a request.
        service: Mentions a second by the service, in each round.
        linker: By one call of `Linker.link`.
        median_seconds: Of a request.
        p95_seconds: 95 percent of the requests took at most this.
        different: Mentions whose candidates differ.
        statuses: Status → requests, when more were sent than fit into the queue; "lost" for no answer.
        longest_refusal: Seconds of the slowest answer with status 503.
        targets: What must be reached.
    """

    machine: Machine
    mentions: int
    clients: int
    batch: int
    service: list[float]
    linker: list[float]
    median_seconds: float
    p95_seconds: float
    different: int
    statuses: dict[str, int]
    longest_refusal: float
    targets: list[Target]


def compare_serving(
    index: Path, *, model: str | None, mentions: int, clients: int, batch: int, rounds: int, dtype: Dtype
) -> Serving:
    """Measure the service and `Linker.link` in turn.

    Args:
        index: The index.
        model: Its model, if it was moved.
        mentions: How many are linked in each round.
        clients: How many send at the same time.
        batch: Mentions in a request.
        rounds: How often each is measured.
        dtype: Of the model's matrix products, in both.

    Returns:
        All figures.

    Raises:
        ConfigError: More mentions than fit into the queue would be under way, or the service did not start.
    """
    if batch > BATCH_LIMIT or clients * batch > QUEUE_LIMIT:
        raise ConfigError(
            f"expected at most {BATCH_LIMIT} mentions in a request and {QUEUE_LIMIT} under way, found {batch} and {clients * batch}"
        )
    linker = Linker.load(index, model=model, dtype=dtype.value, device="cpu")
    asked = sample_mentions(linker.index.names["name"].to_pylist(), mentions)
    parts = [asked[start : start + batch] for start in range(0, len(asked), batch)]
    service_speeds, linker_speeds, seconds = [], [], []
    with service_process(index, model, dtype) as port:
        _send_all(port, parts[:clients], clients)  # warm-up
        linker.link(asked[:batch], TOP_K)
        for number in range(1, rounds + 1):
            start = time.perf_counter()
            sent = _send_all(port, parts, clients)
            service_speeds.append(len(asked) / (time.perf_counter() - start))
            start = time.perf_counter()
            expected = [result.to_dict() for result in linker.link(asked, TOP_K)]
            linker_speeds.append(len(asked) / (time.perf_counter() - start))
            seconds += [each.seconds for each in sent]
            log(
                f"round {number}: service {service_speeds[-1]:.0f}, Linker.link {linker_speeds[-1]:.0f} mentions a second"
            )
        failed = Counter(each.status for each in sent if each.status != "200")
        found = [result for each in sent for result in each.results]
        statuses, longest = _overload(port, asked)
    different = len(asked) if failed else sum(map(_differs, found, expected))
    targets = [
        target("mentions a second by the service", median(service_speeds), TARGET_SPEED),
        target("mentions with other candidates than Linker.link", different, 0, at_most=True),
        target("requests without an answer of status 200 or 503", _lost(statuses), 0, at_most=True),
    ]
    p95 = quantiles(seconds, n=20)[-1]
    return Serving(
        describe_machine(torch.device("cpu"), ("starlette", "uvicorn")), len(asked), clients, batch, service_speeds, linker_speeds,
        median(seconds), p95, different, statuses, longest, targets,
    )  # fmt: skip


def to_text(serving: Serving) -> str:
    """The figures for people."""
    service, linker = median(serving.service), median(serving.linker)
    rows = [
        ["", "mentions a second", "against Linker.link"],
        ["xsap serve", format_figure(service), f"{service / linker:.2f}"],
        ["Linker.link, one call", format_figure(linker), "1"],
    ]
    overload = ", ".join(f"{status}: {count:,}" for status, count in sorted(serving.statuses.items()))
    notes = [
        f"{serving.mentions:,} mentions, {serving.clients} clients, {serving.batch} mentions a request; medians of {len(serving.service)} rounds",
        f"a request takes {serving.median_seconds:.3g} s (median), {serving.p95_seconds:.3g} s (95 %)",
        f"{CLIENTS_TOO_MANY} clients at once, queue of {QUEUE_LIMIT} mentions: {overload}; slowest refusal {serving.longest_refusal:.3g} s",
        *map(str, serving.targets),
        str(serving.machine),
    ]
    return to_markdown(rows, notes)


def sample_mentions(names: Sequence[str], count: int) -> list[str]:
    """Names of an index, half of them cut or joined, so that they are no exact names."""
    rng = np.random.default_rng(SEED)
    chosen = [names[number] for number in rng.integers(len(names), size=count)]
    others = [names[number] for number in rng.integers(len(names), size=count)]
    return [
        name if number % 2 else f"{name[: len(name) // 2 + 1]} {other}"[:200]
        for number, (name, other) in enumerate(zip(chosen, others, strict=True))
    ]


@contextmanager
def service_process(index: Path, model: str | None, dtype: Dtype) -> Iterator[int]:
    """`xsap serve` as a process of its own; the port that it listens on."""
    options = ["--index", str(index), "--port", "0", "--max-batch", str(BATCH_LIMIT), "--max-queue", str(QUEUE_LIMIT)]
    options += ["--dtype", dtype.value, *(["--model", model] if model else [])]
    command = [sys.executable, "-m", "xsap", "serve", *options]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    with Popen(command, stderr=PIPE, text=True, env=environment) as process:
        try:
            assert process.stderr is not None
            ready = process.stderr.readline()
            if not ready.startswith("http://"):
                raise ConfigError(f"the service did not start: {ready.strip() or process.wait()}")
            threading.Thread(target=process.stderr.read, daemon=True).start()
            yield int(ready.partition("/reconcile")[0].rpartition(":")[2])
        finally:
            process.terminate()
            process.wait(REQUEST_SECONDS)


@dataclass(frozen=True, slots=True)
class _Sent:
    """A request: the status of its answer or "lost", its results, and its seconds."""

    status: str
    results: list[dict[str, Any]]
    seconds: float


def _send_all(port: int, parts: Sequence[Sequence[str]], clients: int) -> list[_Sent]:
    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(lambda part: _send(port, part), parts))


def _send(port: int, mentions: Sequence[str]) -> _Sent:
    start = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=REQUEST_SECONDS)
    try:
        body = json.dumps({"mentions": mentions, "top_k": TOP_K})
        connection.request("POST", "/link", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = json.loads(answer.read())
        return _Sent(str(answer.status), content.get("results", []), time.perf_counter() - start)
    except (OSError, http.client.HTTPException, ValueError):
        return _Sent("lost", [], time.perf_counter() - start)
    finally:
        connection.close()


def _overload(port: int, mentions: Sequence[str]) -> tuple[dict[str, int], float]:
    """Full requests by more clients than the queue has room for: status → requests, and seconds of the slowest refusal."""
    repeated = [*mentions] * (BATCH_LIMIT * CLIENTS_TOO_MANY // len(mentions) + 1)
    full = [repeated[number * BATCH_LIMIT : (number + 1) * BATCH_LIMIT] for number in range(CLIENTS_TOO_MANY)]
    sent = _send_all(port, full, CLIENTS_TOO_MANY)
    return dict(Counter(each.status for each in sent)), max(
        (each.seconds for each in sent if each.status == "503"), default=0.0
    )


def _lost(statuses: dict[str, int]) -> int:
    return sum(count for status, count in statuses.items() if status not in ("200", "503"))


def _differs(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether two results differ in more than the rounding of scores, by which the last of nearly equal ones may change, too."""
    ours, theirs = (
        {each["concept_id"]: each["score"] for each in result["candidates"]} for result in (found, expected)
    )
    if found["reason"] != expected["reason"] or len(ours) != len(theirs):
        return True
    last = min(theirs.values(), default=0.0)
    return any(abs(score - theirs.get(concept, last)) > SCORE_TOLERANCE for concept, score in ours.items())
