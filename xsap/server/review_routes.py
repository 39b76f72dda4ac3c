"""The routes of the review page: its files, and what the page asks for and decides, as JSON.

Everything that the page shows comes from the store when it is asked for, and a decision is answered when it is on disk.
"""

import time
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Annotated, Any, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from xsap.errors import RerankerError, XsapError
from xsap.exchange.code_systems import Vocabularies
from xsap.exchange.mapping import MAPS_TO, Equivalence, MappedConcept, Signature, Status
from xsap.languages import UNKNOWN
from xsap.linking.results import Candidate, Result
from xsap.server.requests import JSON, RequestError, json_value, read_body, validated
from xsap.server.review_decisions import MAX_NOTE, Choice
from xsap.server.review_list import (
    Cursor,
    ReviewFilter,
    Sort,
    bulk_condition,
    bulk_effect,
    count_facets,
    count_terms,
    listed_terms,
    read_page,
)
from xsap.server.review_store import Outcome, ReviewStore, candidate_to_json

MAX_REQUEST_BYTES = 1 << 20
MAX_SELECTED = 5000  # terms that are decided at once by selecting them
SEARCH_RESULTS = 20
MEDIA_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_SETTLED = (Status.APPROVED, Status.NO_MATCH, Status.REJECTED)

B = TypeVar("B", bound=BaseModel)
Version = Annotated[int, Field(ge=0)]


class LinksOne(Protocol):
    """What is needed of a linker."""

    def link(self, mentions: str, top_k: int = 5, *, languages: str | None = None) -> Result: ...  # noqa: D102


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=False)


class ConceptBody(_Body):
    """A concept that was chosen."""

    concept_id: str = Field(min_length=1, max_length=500)
    name: Annotated[str, Field(max_length=5000)] = ""
    vocabulary: Annotated[str, Field(max_length=500)] = ""
    code: Annotated[str, Field(max_length=500)] = ""
    domain: Annotated[str, Field(max_length=500)] = ""
    mapping_type: Annotated[str, Field(max_length=100)] = MAPS_TO


class ListBody(_Body):
    """Which page of the list."""

    filter: ReviewFilter = ReviewFilter()
    sort: Sort = "position"
    after: tuple[float | str, int] | None = None


class FacetsBody(_Body):
    """Of which list facets are counted."""

    filter: ReviewFilter = ReviewFilter()


class TermBody(_Body):
    """Which term is shown."""

    term: int


class DecideBody(_Body):
    """A decision. versions: pairs of a term and the version of it that was shown; following: the term to show next."""

    versions: list[tuple[int, Version]] = Field(min_length=1, max_length=MAX_SELECTED)
    status: Status | None = None
    targets: Annotated[list[ConceptBody] | None, Field(max_length=20)] = None
    equivalence: Equivalence | None = None
    comment: Annotated[str | None, Field(max_length=MAX_NOTE)] = None
    confirm: bool = False
    following: int | None = None

    def choice(self) -> Choice:
        """The choice as the store takes it."""
        targets = None if self.targets is None else tuple(MappedConcept(**each.model_dump()) for each in self.targets)
        return Choice(self.status, targets, self.equivalence, self.comment, self.confirm)


class UndoBody(_Body):
    """Nothing: the last action of the reviewer is undone."""


class BulkBody(_Body):
    """An action on all terms of a filter. rows: as many as were shown; None to be shown how many there are."""

    filter: ReviewFilter = ReviewFilter()
    status: Literal[Status.APPROVED, Status.NO_MATCH, Status.FLAGGED, Status.UNREVIEWED] = Status.APPROVED
    min_confidence: Annotated[float | None, Field(ge=0, le=1)] = None
    rows: int | None = None


class SearchBody(_Body):
    """What is searched among all concepts."""

    text: str = Field(max_length=500)
    language: Annotated[str, Field(max_length=40)] = ""


class ReviewPage:
    """What the routes answer.

    Args:
        store: The review.
        linker: Gives what searches concepts; it may still be loading.
        reviewer: Who decides.
        title: The name of the input.
        clock: Milliseconds since 1970.
        define: (concept, language of the term) → the concept's definition; None if it is not known, or not yet.
    """

    def __init__(
        self,
        store: ReviewStore,
        linker: Callable[[], LinksOne],
        reviewer: str,
        title: str,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        define: Callable[[str, str], str | None] = lambda *_: None,
    ) -> None:
        self._store, self._linker, self._reviewer, self._title, self._clock = store, linker, reviewer, title, clock
        self._define = define

    def about(self, _: UndoBody) -> dict[str, Any]:
        """What does not change while the page is open."""
        return {"title": self._title, "reviewer": self._reviewer, "terms": count_terms(self._store, ReviewFilter())}

    def page(self, body: ListBody) -> dict[str, Any]:
        """A page of the list."""
        after = None if body.after is None else Cursor(*body.after)
        page = read_page(self._store, body.filter, body.sort, after)
        return {"rows": [row._asdict() for row in page.rows], "following": page.following}

    def facets(self, body: FacetsBody) -> dict[str, Any]:
        """How many terms the filter keeps, how many are decided in all, and the counts of its conditions."""
        decided = count_terms(self._store, ReviewFilter(statuses=_SETTLED))
        return {
            "terms": count_terms(self._store, body.filter),
            "decided": decided,
            "facets": count_facets(self._store, body.filter),
        }

    def term(self, body: TermBody) -> dict[str, Any]:
        """A term with its candidates."""
        return {"term": self._shown(body.term)}

    def decide(self, body: DecideBody) -> dict[str, Any]:
        """Decide on the terms that were shown, and give the one to show next."""
        versions = dict(body.versions)
        outcome = self._store.decide(versions, body.choice(), "decide", self._signature())
        return self._outcome(outcome) | {"term": None if body.following is None else self._shown(body.following)}

    def undo(self, _: UndoBody) -> dict[str, Any]:
        """Undo the reviewer's last action."""
        outcome = self._store.undo(self._signature())
        first = next(iter((*outcome.terms, *outcome.conflicts)), None)
        return self._outcome(outcome) | {"term": None if first is None else self._shown(first)}

    def bulk(self, body: BulkBody) -> dict[str, Any]:
        """What an action on a filter would do; or do it, if it still is what was shown."""
        effect = bulk_effect(self._store, body.filter, body.status, body.min_confidence)
        if body.rows is None or body.rows != effect.rows:
            return {"done": False, **effect._asdict()}
        condition, parameters = bulk_condition(body.filter, body.status, body.min_confidence)
        outcome = self._store.decide_where(condition, parameters, Choice(body.status), self._signature())
        return {"done": True, **effect._asdict(), "rows": len(outcome.terms)}

    def search(self, body: SearchBody) -> dict[str, Any]:
        """Concepts that a text in any language may mean."""
        language = body.language if body.language not in ("", UNKNOWN) else None
        result = self._linker().link(body.text, SEARCH_RESULTS, languages=language)
        return {
            "candidates": [
                self._shown_candidate(each, body.language) for each in (result.candidates or result.uncertain)
            ],
            "reason": result.reason,
        }

    def _signature(self) -> Signature:
        return Signature(self._reviewer, self._clock())

    def _outcome(self, outcome: Outcome) -> dict[str, Any]:
        changed = (*outcome.terms, *outcome.conflicts)[:MAX_SELECTED]
        rows = [row._asdict() for row in listed_terms(self._store, changed)]
        return {
            "rows": rows,
            "changed": len(outcome.terms),
            "conflicts": outcome.conflicts[:MAX_SELECTED],
            "action": outcome.action,
        }

    def _shown(self, term: int) -> dict[str, Any] | None:
        found = self._store.term(term)
        if found is None:
            return None
        mapping = found.mapping
        return {
            "term": found.term, "version": found.version, "code": mapping.source_code, "name": mapping.source_name,
            "language": mapping.language, "frequency": mapping.frequency, "columns": list(mapping.columns.items()),
            "status": mapping.status, "equivalence": mapping.equivalence, "comment": mapping.comment,
            "targets": [
                {name: getattr(each, name) for name in MappedConcept.__slots__} | {"link": _link_of(each)} for each in mapping.targets
            ],
            "decided": [mapping.decided.by, mapping.decided.on], "confirmed": [mapping.confirmed.by, mapping.confirmed.on],
            "assigned": mapping.assigned_reviewer, "candidates": [self._shown_candidate(each, mapping.language) for each in mapping.candidates],
        }  # fmt: skip

    def _shown_candidate(self, candidate: Candidate, language: str) -> dict[str, Any]:
        concept = MappedConcept.from_candidate(candidate)
        names = ("vocabulary", "code", "domain")
        own = {name: getattr(concept, name) for name in names} | {"link": _link_of(concept)}
        definition = self._define(candidate.concept_id, language)
        return candidate_to_json(candidate) | own | ({"definition": definition} if definition else {})


def _link_of(concept: MappedConcept) -> str:
    """Where a concept is described on the web; empty if its vocabulary is not known."""
    coded = Vocabularies().find(concept)
    return "" if coded is None else coded.system.iri + coded.curie.partition(":")[2]


def review_app(page: ReviewPage) -> Starlette:
    """The application of a review page; to be served behind `OwnPageOnly`.

    Args:
        page: What the routes answer.
    """
    routes: list[BaseRoute] = [_file("/", "review.html")]
    routes += [_file(f"/static/{name}", name) for name in ("review.css", "review.js", "review.svg")]
    routes += [
        _post("/api/about", UndoBody, page.about),
        _post("/api/list", ListBody, page.page),
        _post("/api/facets", FacetsBody, page.facets),
        _post("/api/term", TermBody, page.term),
        _post("/api/decide", DecideBody, page.decide),
        _post("/api/undo", UndoBody, page.undo),
        _post("/api/bulk", BulkBody, page.bulk),
        _post("/api/search", SearchBody, page.search),
    ]
    return Starlette(routes=routes)


def _file(path: str, name: str) -> Route:
    content = files("xsap.server").joinpath("static", name).read_bytes()

    ending = name.rpartition(".")[2]
    kept = (
        {"Cache-Control": "max-age=86400"} if ending == "svg" else None
    )  # browsers ask for an icon at each change of the address

    async def answer(_: Request) -> Response:
        return Response(content, media_type=MEDIA_TYPES[ending], headers=kept)

    return Route(path, answer)


def _post(path: str, body_type: type[B], function: Callable[[B], dict[str, Any]]) -> Route:
    """A route that answers a checked body with JSON; a user error is answered with its line and status 400, or 502 if a re-ranker of the user's own failed."""
    adapter = TypeAdapter(body_type)

    async def answer(request: Request) -> Response:
        try:
            body = await read_body(request, media_types=[JSON], max_bytes=MAX_REQUEST_BYTES)
            checked = validated(adapter, json_value(body), "the request")
            return JSONResponse(await run_in_threadpool(function, checked))
        except RequestError as error:
            return JSONResponse({"error": error.message}, error.status)
        except XsapError as error:
            return JSONResponse({"error": str(error)}, 502 if isinstance(error, RerankerError) else 400)

    endpoint: Callable[[Request], Awaitable[Response]] = answer
    return Route(path, endpoint, methods=["POST"])
