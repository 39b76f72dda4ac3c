"""Routes of FHIR operations under /fhir/r4 and /fhir/r5: what a linker can answer of a terminology service, and errors as OperationOutcomes."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from xsap.errors import RerankerError, XsapError
from xsap.exchange.fhir import RELEASES, Release
from xsap.exchange.fhir_capabilities import capability_statement, code_systems, terminology_capabilities
from xsap.exchange.fhir_terminology import (
    IndexTerminology,
    OperationError,
    expand_value_set,
    lookup_code,
    operation_outcome,
    request_parameters,
    translate_term,
)
from xsap.linking.index import Index
from xsap.linking.results import Result
from xsap.server.concepts import ConceptTable
from xsap.server.link_queue import LinkOptions, LinkQueue, LinkRequest, QueueFullError
from xsap.server.requests import JSON, RETRY_AFTER, RequestError, json_value, read_body, service_address

FHIR_PREFIX = "/fhir/"
FHIR_JSON = "application/fhir+json"
BASES_KEPT = 8  # addresses of the service, by which clients call it
_KINDS = {404: "not-found", 405: "not-supported", 408: "timeout", 413: "too-long", 415: "not-supported"}

Operation = Callable[[IndexTerminology, Mapping[str, str]], dict[str, Any]]


class QueuedLinker:
    """Links through the queue of the service, for callers that wait in a thread of their own."""

    def __init__(self, queue: LinkQueue) -> None:
        self._queue = queue

    def link(
        self, mentions: Sequence[str], top_k: int = 5, *, languages: Sequence[str | None] | None = None
    ) -> Sequence[Result]:
        """As `Linker.link`. Raises QueueFullError, too."""
        spoken = [None] * len(mentions) if languages is None else languages
        return self._queue.submit([LinkRequest(mentions, spoken, LinkOptions(top_k))])[0].result()


def fhir_routes(queue: LinkQueue, index: Index, table: ConceptTable, public_url: str | None = None) -> list[BaseRoute]:
    """All routes of both releases.

    Args:
        queue: Links terms.
        index: The index.
        table: Its concepts.
        public_url: The address of the service, where that is not the one of a request.
    """
    linker = QueuedLinker(queue)
    version = (index.content_hash or "unsaved")[:12]

    @lru_cache(maxsize=BASES_KEPT)
    def terminology_at(url: str, release: Release) -> IndexTerminology:
        return IndexTerminology(linker, index.dictionary, table, url, version, _now, release)

    def route(release: Release, path: str, operation: Operation, methods: Sequence[str] = ("GET",)) -> Route:
        async def answer(request: Request) -> Response:
            try:
                parameters = dict(request.query_params)
                if request.method == "POST":
                    body = await read_body(request, media_types=(FHIR_JSON, JSON))
                    parameters |= request_parameters(json_value(body))
                url = f"{service_address(request, public_url)}{FHIR_PREFIX}{release}"
                found = await run_in_threadpool(operation, terminology_at(url, release), parameters)
            except OperationError as error:
                return _resource(error.outcome(), error.status)
            except RequestError as error:
                return _resource(operation_outcome(_KINDS.get(error.status, "invalid"), error.message), error.status)
            except RerankerError as error:
                return _resource(operation_outcome("transient", str(error)), 502)
            except XsapError as error:
                return _resource(operation_outcome("invalid", str(error)), 400)
            except QueueFullError as error:
                headers = {"Retry-After": str(RETRY_AFTER)}
                return _resource(operation_outcome("throttled", str(error)), 503, headers)
            return _resource(found)

        return Route(f"{FHIR_PREFIX}{release}/{path}", answer, methods=methods)

    both = ("GET", "POST")
    return [
        each
        for release in RELEASES
        for each in (
            route(release, "ValueSet/$expand", expand_value_set, both),
            route(release, "CodeSystem/$lookup", lookup_code, both),
            route(release, "ConceptMap/$translate", translate_term, both),
            route(release, "CodeSystem", lambda terminology, given: code_systems(terminology, given.get("url"))),
            route(release, "metadata", _metadata),
        )
    ]


def _metadata(terminology: IndexTerminology, parameters: Mapping[str, str]) -> dict[str, Any]:
    if parameters.get("mode") == "terminology":
        return terminology_capabilities(terminology)
    return capability_statement(terminology)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _resource(content: dict[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse(content, status, headers, media_type=FHIR_JSON)
