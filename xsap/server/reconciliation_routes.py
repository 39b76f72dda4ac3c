"""Routes of the reconciliation API under /reconcile/0.2 and /reconcile/1.0.

A web page of any origin may call them, as both versions demand, so they show only what the index has. ApiVersion 0.2 also answers scripts (JSONP),
which OpenRefine falls back to.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from xsap.errors import DataError
from xsap.linking.results import Result
from xsap.server.concepts import ConceptEntry, ConceptTable
from xsap.server.link_queue import LinkOptions, LinkQueue, LinkRequest
from xsap.server.reconciliation import (
    VERSIONS,
    ApiVersion,
    ReconciliationQuery,
    candidates_by_id,
    describe_candidate,
    manifest,
    read_batch_of_02,
    read_batch_of_10,
    score_candidates,
)
from xsap.server.reconciliation_data import (
    PREVIEW_POLICY,
    describe_entity,
    extend,
    preview,
    properties_of,
    read_extension,
    suggest_entities,
    suggest_properties,
    suggest_types,
)
from xsap.server.requests import (
    FORM,
    JSON,
    RequestError,
    json_value,
    parse_form,
    read_body,
    service_address,
    whole_number,
)

DEFAULT_SUGGESTIONS, MOST_SUGGESTIONS = 10, 100
PREFIX = "/reconcile/"
_CALLBACK = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]{0,99}(\.[A-Za-z_$][A-Za-z0-9_$]{0,99}){0,9}")

Endpoint = Callable[[Request], Awaitable[Response]]


class Reconciliation:
    """The service behind the routes: an index's concepts and the queue of the linker."""

    def __init__(self, queue: LinkQueue, table: ConceptTable, name: str, public_url: str | None = None) -> None:
        """Nothing is loaded here.

        Args:
            queue: Links terms.
            table: The concepts of the index.
            name: Of the service, in its manifest.
            public_url: Its address, where that is not the one of a request.
        """
        self.queue, self.table, self.name, self.public_url = queue, table, name, public_url

    def routes(self) -> list[BaseRoute]:
        """All routes of both versions."""
        return [route for version in VERSIONS for route in self._routes_of(version)]

    def _routes_of(self, version: ApiVersion) -> list[BaseRoute]:
        def route(
            path: str, endpoint: Callable[[ApiVersion, Request], Awaitable[Response]], methods: Sequence[str] = ("GET",)
        ) -> Route:
            async def answer(request: Request) -> Response:
                return await endpoint(version, request)

            return Route(f"{PREFIX}{version}{path}", answer, methods=methods)

        common = [
            route("/suggest/entity", self._suggest_entity),
            route("/suggest/property", self._suggest_property),
            route("/suggest/type", self._suggest_type),
            route("/extend/propose", self._propose),
            route("/view/{id:path}", self._page),
        ]
        if version == "0.2":
            root = [route(path, self._root_of_02, ("GET", "POST")) for path in ("", "/")]
            return [*root, *common, route("/preview/{id:path}", self._page)]
        root = [route(path, self._manifest) for path in ("", "/")]
        return [
            *root,
            *common,
            route("/preview", self._page),
            route("/match", self._match, ("POST",)),
            route("/extend", self._extend_of_10, ("POST",)),
        ]

    async def _manifest(self, version: ApiVersion, request: Request) -> Response:
        base = f"{service_address(request, self.public_url)}{PREFIX}{version}"
        answer = manifest(version, base, self.name, self.table.types, self.queue.max_batch)
        return _answer(version, request.query_params.get("callback"), answer)

    async def _root_of_02(self, version: ApiVersion, request: Request) -> Response:
        fields = dict(request.query_params)
        if request.method == "POST":
            fields |= parse_form(await read_body(request, media_types=[FORM]))
        callback = fields.get("callback")
        if "queries" in fields:
            queries = read_batch_of_02(json_value(fields["queries"]))
            found = await self.reconcile(list(queries.values()))
            return _answer(version, callback, {key: {"result": each} for key, each in zip(queries, found, strict=True)})
        if "extend" in fields:
            return _answer(version, callback, await self._extended(version, json_value(fields["extend"])))
        if request.method == "POST":
            raise RequestError(400, "expected a form with the field queries or extend, found neither")
        return await self._manifest(version, request)

    async def _match(self, version: ApiVersion, request: Request) -> Response:
        queries = read_batch_of_10(json_value(await read_body(request, media_types=[JSON])))
        return _answer(version, None, {"results": [{"candidates": each} for each in await self.reconcile(queries)]})

    async def _extend_of_10(self, version: ApiVersion, request: Request) -> Response:
        return _answer(
            version, None, await self._extended(version, json_value(await read_body(request, media_types=[JSON])))
        )

    async def _extended(self, version: ApiVersion, query: Any) -> dict[str, Any]:
        extension = read_extension(query, self.queue.max_batch)
        return await run_in_threadpool(extend, version, extension, self.table)

    async def reconcile(self, queries: Sequence[ReconciliationQuery]) -> list[list[dict[str, Any]]]:
        """The candidates of each query, as both versions write them.

        Args:
            queries: The queries of one request.

        Raises:
            RequestError: There are more than a batch may have (413).
            QueueFullError: Too many mentions wait.
        """
        if len(queries) > self.queue.max_batch:
            raise RequestError(
                413, f"expected at most {self.queue.max_batch:,} queries in a batch, found {len(queries):,}"
            )
        by_options: dict[LinkOptions, list[int]] = {}
        for number, query in enumerate(queries):
            if query.text and not query.concept_ids:
                by_options.setdefault(query.options(), []).append(number)
        results = await self._link(queries, by_options)
        answers = []
        for number, query in enumerate(queries):
            result = results.get(number)
            scored = (
                candidates_by_id(query, self.table.find)
                if query.concept_ids
                else score_candidates(query, result)
                if result
                else []
            )
            answers.append([describe_candidate(query, each) for each in scored])
        return answers

    async def _link(
        self, queries: Sequence[ReconciliationQuery], by_options: dict[LinkOptions, list[int]]
    ) -> dict[int, Result]:
        """The results of the queries with these numbers; none where a required property has a value that the index does not have."""
        requests = [
            LinkRequest(
                [queries[number].text for number in numbers], [queries[number].language for number in numbers], options
            )
            for options, numbers in by_options.items()
        ]
        futures = [asyncio.wrap_future(future) for future in self.queue.submit(requests)]
        results: dict[int, Result] = {}
        for numbers, found in zip(
            by_options.values(), await asyncio.gather(*futures, return_exceptions=True), strict=True
        ):
            if isinstance(found, BaseException):
                if not isinstance(found, DataError):
                    raise found
                continue
            results.update(zip(numbers, found, strict=True))
        return results

    async def _suggest_entity(self, version: ApiVersion, request: Request) -> Response:
        prefix, limit, skipped = _suggestion_query(request)
        entries: list[ConceptEntry] = []
        if prefix.strip():
            wanted = limit + skipped
            [found] = await asyncio.wrap_future(
                self.queue.submit([LinkRequest([prefix], [None], LinkOptions(wanted))])[0]
            )
            entries = await run_in_threadpool(suggest_entities, prefix, self.table, found.candidates, wanted)
        described = [describe_entity(each) for each in entries[skipped:]]
        return _answer(version, request.query_params.get("callback"), {"result": described})

    async def _suggest_property(self, version: ApiVersion, request: Request) -> Response:
        prefix, limit, skipped = _suggestion_query(request)
        found = suggest_properties(prefix, self.table)[skipped : skipped + limit]
        return _answer(version, request.query_params.get("callback"), {"result": found})

    async def _suggest_type(self, version: ApiVersion, request: Request) -> Response:
        prefix, limit, skipped = _suggestion_query(request)
        found = suggest_types(prefix, self.table.types)[skipped : skipped + limit]
        return _answer(version, request.query_params.get("callback"), {"result": found})

    async def _propose(self, version: ApiVersion, request: Request) -> Response:
        limit = whole_number(
            request.query_params.get("limit"), "limit", default=MOST_SUGGESTIONS, least=1, most=MOST_SUGGESTIONS
        )
        proposed = {
            "properties": properties_of(self.table)[:limit],
            "limit": limit,
            "type": request.query_params.get("type", ""),
        }
        return _answer(version, request.query_params.get("callback"), proposed)

    async def _page(self, version: ApiVersion, request: Request) -> Response:
        del version  # the page is the same
        concept_id = request.path_params.get("id", request.query_params.get("id", ""))
        entry = await run_in_threadpool(self.table.find, concept_id)
        if entry is None:
            raise RequestError(404, f"the index has no concept '{concept_id[:80]}'")
        names = await run_in_threadpool(self.table.names_of, entry)
        page = preview(entry, names, self.table.definition_of(entry), self.table.parents_of(entry))
        return HTMLResponse(page, headers={"Content-Security-Policy": PREVIEW_POLICY})


def _suggestion_query(request: Request) -> tuple[str, int, int]:
    """What was typed, how many suggestions are wanted, and how many are skipped."""
    parameters = request.query_params
    limit = whole_number(parameters.get("limit"), "limit", default=DEFAULT_SUGGESTIONS, least=1, most=MOST_SUGGESTIONS)
    given = parameters.get("offset", parameters.get("cursor"))
    skipped = whole_number(given, "offset", default=0, least=0, most=MOST_SUGGESTIONS)
    return parameters.get("prefix", ""), limit, skipped


def _answer(version: ApiVersion, callback: str | None, content: Any) -> Response:
    """JSON; or where version 0.2 is asked for one, a script that calls a function with it."""
    if callback is None or version != "0.2":
        return JSONResponse(content)
    if not _CALLBACK.fullmatch(callback):
        raise RequestError(400, "expected callback to be the name of a function of JavaScript")
    text = json.dumps(content)  # ASCII, so that no line separator of Unicode ends a string
    return Response(f"/**/{callback}({text});".replace("<", "\\u003c"), media_type="text/javascript")
