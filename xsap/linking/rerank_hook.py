"""Re-rankers that users run themselves: a function in Python, or a service over HTTP.

Neither is ever used unless it is asked for. A service gets `POST` requests with JSON:

    {"queries": [{"mention": "MS", "language": "en", "context": {"text": "…", "start": 10, "end": 12},
                  "candidates": [{"concept_id": "…", "preferred_name": "…", "matched_name": "…", "names": ["…"],
                                  "semantic_types": ["…"], "definition": "…", "score": 0.83, "match": "similar"}]}]}

and answers `{"scores": [[0.2, …]]}`: for each query a list with a finite number for each candidate, higher is better. `context` is null
where there is none, as are its start and end where they are not known. What is sent, and to which host, is logged before the first request.
A redirect is not followed, for it may lead to another host than the one that was named.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from time import monotonic
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

from xsap.errors import ConfigError, RerankerError
from xsap.linking.rerank import RerankCandidate, RerankQuery, checked_scores

QUERIES_PER_REQUEST = 32
SECONDS_PER_REQUEST = 120.0
_MAX_ANSWER_BYTES = 1 << 24
_BYTES_PER_READ = 1 << 16

ScoreQueries = Callable[[Sequence[RerankQuery]], Sequence[Sequence[float]]]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FunctionReranker:
    """Re-ranks by a function of the user.

    Attributes:
        function: Queries → a list of scores for each, higher is better.
        uses_context: Whether it reads the contexts of mentions.
        content_hash: What identifies it, so that an interrupted run can resume; None if nothing does.
    """

    function: ScoreQueries
    uses_context: bool = True
    content_hash: str | None = None

    def score(self, queries: Sequence[RerankQuery]) -> Sequence[Sequence[float]]:
        """The function's scores. Raises RerankerError if these are not finite numbers, one for each candidate."""
        return checked_scores(queries, self.function(queries), "the re-ranking function")


@dataclass
class HttpReranker:
    """Re-ranks by a service over HTTP.

    Attributes:
        url: Where requests are sent.
        seconds: How long an answer may take.
        queries_per_request: Mentions of one request, at most.
    """

    url: str
    seconds: float = SECONDS_PER_REQUEST
    queries_per_request: int = QUERIES_PER_REQUEST
    _announced: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # brackets that are not closed, or a port that is none
            known = False
        if not known:
            raise ConfigError(
                f"expected the address of a service such as http://localhost:8000/rerank, found '{self.url}'"
            )
        if parts.username or parts.password:
            raise ConfigError(
                f"expected an address without a password, found one for {parts.hostname}; let a proxy add it"
            )

    @property
    def uses_context(self) -> bool:
        """Contexts are sent."""
        return True

    @property
    def content_hash(self) -> str | None:
        """A service may change at any time."""
        return None

    def score(self, queries: Sequence[RerankQuery]) -> Sequence[Sequence[float]]:
        """The service's scores.

        Raises:
            RerankerError: It does not answer, or with something else than scores.
        """
        if not self._announced and queries:
            logger.info(
                "re-ranking: %s gets each mention, its language and its context, and of each candidate %s",
                urlsplit(self.url).netloc,
                ", ".join(RerankCandidate._fields),
            )
            self._announced = True
        scores: list[list[float]] = []
        for start in range(0, len(queries), self.queries_per_request):
            part = queries[start : start + self.queries_per_request]
            answer = self._post({"queries": [_as_json(query) for query in part]})
            scores += checked_scores(part, answer.get("scores") if isinstance(answer, dict) else answer, self.url)
        return scores

    def _post(self, body: dict[str, Any]) -> Any:
        # ASCII alone, for a text may have half of a surrogate pair, which UTF-8 has not
        request = Request(
            self.url, json.dumps(body).encode("ascii"), {"Content-Type": "application/json"}, method="POST"
        )
        try:
            until = monotonic() + self.seconds
            with _opener().open(request, timeout=self.seconds) as answer:
                return json.loads(_read(answer, until, self.url))
        except HTTPError as error:
            moved = f" to {error.headers['Location']}; give that address" if error.headers.get("Location") else ""
            raise RerankerError(
                f"{self.url}: expected scores, found the answer {error.code} {error.reason}{moved}"
            ) from None
        except (URLError, OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise RerankerError(
                f"{self.url}: expected an answer, found none ({reason}). Is the service running?"
            ) from None
        except (ValueError, RecursionError):
            raise RerankerError(f"{self.url}: expected JSON with scores, found something else") from None


def _opener() -> OpenerDirector:
    """What sends requests, through the proxies of the environment, and follows no redirect."""
    opener = OpenerDirector()
    for handler in (ProxyHandler(), HTTPHandler(), HTTPSHandler(), HTTPErrorProcessor(), HTTPDefaultErrorHandler()):
        opener.add_handler(handler)
    return opener


def _read(answer: HTTPResponse, until: float, url: str) -> bytes:
    """The body of an answer. Raises RerankerError for more than _MAX_ANSWER_BYTES, and TimeoutError if it is not complete in time."""
    parts: list[bytes] = []
    while part := answer.read1(_BYTES_PER_READ):
        parts.append(part)
        if sum(map(len, parts)) > _MAX_ANSWER_BYTES:
            raise RerankerError(f"{url}: expected scores, found an answer of more than {_MAX_ANSWER_BYTES >> 20} MB")
        if monotonic() > until:
            raise TimeoutError("the answer was not complete in time")
    return b"".join(parts)


def _as_json(query: RerankQuery) -> dict[str, Any]:
    context = None if query.context is None else query.context._asdict()
    candidates = [each._asdict() for each in query.candidates]
    return {"mention": query.mention, "language": query.language, "context": context, "candidates": candidates}
