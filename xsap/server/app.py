"""The service: one ASGI application with the reconciliation API, `POST /link`, FHIR operations, health and metrics.

Every error is one JSON object with an `error` of one line. What a browser may do is decided here, for all routes: pages of other origins may
read the reconciliation API and nothing else, and where the service listens on this computer alone, requests that name another host are
refused, because a page could have given its own name this computer's address.
"""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xsap import __version__
from xsap.errors import ConfigError, RerankerError, XsapError
from xsap.linking.index import Index
from xsap.server.concepts import ConceptTable
from xsap.server.fhir_routes import FHIR_PREFIX, fhir_routes
from xsap.server.link_queue import BatchLinker, LinkQueue, QueueFullError
from xsap.server.link_route import describe_results, read_link_body
from xsap.server.metrics import CONTENT_TYPE, ServiceMetrics
from xsap.server.reconciliation_routes import PREFIX, Reconciliation
from xsap.server.requests import JSON, RETRY_AFTER, RequestError, json_value, read_body

MAX_BATCH, MAX_QUEUE = 256, 4096  # mentions
ROUTES = (
    "/link",
    "/health",
    "/metrics",
    f"{FHIR_PREFIX}r4",
    f"{FHIR_PREFIX}r5",
    f"{PREFIX}0.2",
    f"{PREFIX}1.0",
)  # by which requests are counted
WARM_UP = ("fever", "fièvre aiguë", "头痛", "chronic obstructive pulmonary disease with acute exacerbation")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_CORS = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
    (b"access-control-allow-headers", b"Accept, Accept-Language, Content-Type"),
    (b"access-control-max-age", b"86400"),
)
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """Bounds of the service.

    Attributes:
        max_batch: Mentions that one request may have, and that are linked in one call.
        max_queue: Mentions that may wait for their answers.
    """

    max_batch: int = MAX_BATCH
    max_queue: int = MAX_QUEUE


def create_service(
    linker: BatchLinker,
    index: Index,
    *,
    limits: ServiceLimits = ServiceLimits(),
    local_only: bool = True,
    public_url: str | None = None,
) -> ASGIApp:
    """The ASGI application of an index; its thread starts here, and ends with the application.

    Args:
        linker: Links mentions to the concepts of the index.
        index: The index.
        limits: What may wait.
        local_only: Whether requests must name this computer, or the host of `public_url`, as their host.
        public_url: The address that clients use, where the service stands behind another one.

    Raises:
        ConfigError: The limits do not fit together, or the address is none.
    """
    hosts = None if not local_only else frozenset([host_of(public_url)] if public_url else [])
    metrics = ServiceMetrics()
    queue = LinkQueue(linker, max_batch=limits.max_batch, max_waiting=limits.max_queue, on_batch=metrics.observe_batch)
    table = ConceptTable(index.dictionary)
    called = f"xsap {index.path.name}" if index.path is not None else "xsap"
    reconciliation = Reconciliation(queue, table, f"{called}: {len(table):,} concepts", public_url)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        del app
        yield
        await asyncio.to_thread(queue.close)  # all requests have their answers by now

    app = Starlette(
        routes=[
            *_own_routes(queue, index, table, metrics),
            *reconciliation.routes(),
            *fhir_routes(queue, index, table, public_url),
        ],
        lifespan=lifespan,
        exception_handlers={
            RequestError: _on_request_error,
            XsapError: _on_user_error,
            RerankerError: _on_reranker_error,
            QueueFullError: _on_full_queue,
            HTTPException: _on_http_error,
        },
    )
    return _observed(_guarded(app, hosts), metrics)


def warm_up(linker: BatchLinker) -> None:
    """Link a few mentions, so that the first request is as fast as the others."""
    linker.link(WARM_UP, 5)


def _own_routes(queue: LinkQueue, index: Index, table: ConceptTable, metrics: ServiceMetrics) -> list[BaseRoute]:
    async def link(request: Request) -> Response:
        asked = read_link_body(json_value(await read_body(request, media_types=[JSON])), queue.max_batch)
        results = await asyncio.wrap_future(queue.submit([asked])[0])
        return JSONResponse(describe_results(results, index.content_hash))

    async def health(request: Request) -> Response:
        del request
        described = {
            "version": __version__,
            "index": index.content_hash,
            "concepts": len(table),
            "names": index.names.num_rows,
        }
        return JSONResponse({"status": "ok"} | described)

    async def show_metrics(request: Request) -> Response:
        del request
        gauges = {
            "xsap_waiting_mentions": ("Mentions that were accepted and have no answer yet.", float(queue.waiting)),
            "xsap_waiting_mentions_limit": ("Mentions that may wait.", float(queue.max_waiting)),
        }
        return PlainTextResponse(metrics.to_text(gauges), media_type=CONTENT_TYPE)

    return [
        Route("/link", link, methods=["POST"]),
        Route("/health", health),
        Route("/metrics", show_metrics),
    ]


# Errors


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": message}, status, headers=headers)


async def _on_request_error(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, RequestError)
    return _error(error.status, error.message)


async def _on_user_error(request: Request, error: Exception) -> Response:
    del request
    return _error(400, str(error))


async def _on_reranker_error(request: Request, error: Exception) -> Response:
    del request
    return _error(502, str(error))


async def _on_full_queue(request: Request, error: Exception) -> Response:
    del request
    return _error(503, str(error), {"Retry-After": str(RETRY_AFTER)})


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path[:80]
    message = {404: f"there is nothing at {path}", 405: f"{path} does not take {request.method}"}.get(
        error.status_code, error.detail
    )
    return _error(error.status_code, message, error.headers)


# Around all routes


def is_loopback(host: str) -> bool:
    """Whether a name or address means this computer alone."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def host_of(url: str) -> str:
    """The host of an address, with its port if it states one. Raises ConfigError if it is no address of a service."""
    scheme, _, rest = url.partition("://")
    host = rest.partition("/")[0]
    if scheme not in ("http", "https") or not _HOST.fullmatch(host) or set(rest) & set("?#@ "):
        raise ConfigError(
            f"expected --public-url to be an address such as https://linker.example.org, found '{url[:80]}'"
        )
    return host


def _guarded(app: ASGIApp, hosts: frozenset[str] | None) -> ASGIApp:
    """Check the host (one of these or this computer; None for any), answer preflight requests of the reconciliation API, add headers, and turn what is not expected into an error 500."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        shared = scope["path"].startswith(PREFIX)
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                own = [(b"x-content-type-options", b"nosniff"), *(_CORS if shared else ())]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        host = _HOST.fullmatch(dict(scope["headers"]).get(b"host", b"").decode("latin-1"))
        if host is None or not (hosts is None or host[0] in hosts or is_loopback(host[1].strip("[]"))):
            refused = _error(400, "expected the host of this service, such as localhost, found another one")
            await refused(scope, receive, send)
        elif shared and scope["method"] == "OPTIONS":
            await Response(status_code=204)(scope, receive, send_with_headers)
        else:
            try:
                await app(scope, receive, send_with_headers)
            except Exception:
                logger.exception("%s %s failed", scope["method"], scope["path"])
                if not started:
                    failed = _error(500, "the service could not answer this request; its log says why")
                    await failed(scope, receive, send_with_headers)

    return answer


def _observed(app: ASGIApp, metrics: ServiceMetrics, clock: Callable[[], float] = time.perf_counter) -> ASGIApp:
    """Count each request by its route, method and status."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        status, start = 500, clock()

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await app(scope, receive, note_status)
        finally:
            path = scope["path"]
            route = next((each for each in ROUTES if path == each or path.startswith(f"{each}/")), "other")
            method = scope["method"] if scope["method"] in ("GET", "POST", "OPTIONS", "HEAD") else "other"
            metrics.observe_request(route, method, status, clock() - start)

    return answer
