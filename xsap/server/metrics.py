"""Counters of a service, in the text format of Prometheus (https://prometheus.io/docs/instrumenting/exposition_formats/)."""

import threading
from collections import Counter
from collections.abc import Mapping

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # seconds
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class ServiceMetrics:
    """What a service has answered. Used by many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str, int]] = Counter()  # route, method, status
        self._seconds: Counter[str] = Counter()  # by route, in nanoseconds
        self._durations: Counter[tuple[str, float]] = Counter()  # route, upper bound
        self._batches = self._mentions = self._batch_nanoseconds = 0

    def observe_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request.

        Args:
            route: The route's name, one of few.
            method: Of HTTP.
            status: Of the answer.
            seconds: Until the answer was complete.
        """
        with self._lock:
            self._requests[route, method, status] += 1
            self._seconds[route] += round(seconds * 1e9)
            self._durations[route, next((bound for bound in BUCKETS if seconds <= bound), float("inf"))] += 1

    def observe_batch(self, mentions: int, seconds: float) -> None:
        """Count a call of the linker.

        Args:
            mentions: Mentions that it linked.
            seconds: That it took.
        """
        with self._lock:
            self._batches += 1
            self._mentions += mentions
            self._batch_nanoseconds += round(seconds * 1e9)

    def to_text(self, gauges: Mapping[str, tuple[str, float]]) -> str:
        """All counters.

        Args:
            gauges: Name → (description, value) of what is not counted here.
        """
        with self._lock:
            requests, seconds, durations = dict(self._requests), dict(self._seconds), dict(self._durations)
            batches, mentions, linking = self._batches, self._mentions, self._batch_nanoseconds / 1e9
        lines = _header("xsap_requests_total", "Answered requests.", "counter")
        for (route, method, status), count in sorted(requests.items()):
            lines.append(f'xsap_requests_total{{route="{route}",method="{method}",status="{status}"}} {count}')
        lines += _header("xsap_request_seconds", "Seconds from a request to its complete answer.", "histogram")
        for route, nanoseconds in sorted(seconds.items()):
            total = 0
            for bound in (*BUCKETS, float("inf")):
                total += durations.get((route, bound), 0)
                label = "+Inf" if bound == float("inf") else f"{bound:g}"
                lines.append(f'xsap_request_seconds_bucket{{route="{route}",le="{label}"}} {total}')
            lines.append(f'xsap_request_seconds_sum{{route="{route}"}} {nanoseconds / 1e9:g}')
            lines.append(f'xsap_request_seconds_count{{route="{route}"}} {total}')
        for name, text, value in (
            ("xsap_mentions_total", "Linked mentions.", mentions),
            ("xsap_batches_total", "Calls of the linker, each with the mentions of one or more requests.", batches),
            ("xsap_linking_seconds_total", "Seconds spent in the linker.", linking),
        ):
            lines += [*_header(name, text, "counter"), f"{name} {value:.10g}"]
        for name, (text, level) in gauges.items():
            lines += [*_header(name, text, "gauge"), f"{name} {level:.10g}"]
        return "\n".join(lines) + "\n"


def _header(name: str, text: str, kind: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
