"""`POST /link`: link mentions from another program, with the arguments and the answers of `Linker.link`, as JSON."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from xsap.errors import ConfigError
from xsap.languages import UNKNOWN
from xsap.linking.arguments import languages_of
from xsap.linking.ranking import Filter
from xsap.linking.results import Result
from xsap.server.link_queue import LinkOptions, LinkRequest
from xsap.server.requests import RequestError, validated
from xsap.terms.abbreviations import Abbreviations

MOST_CONCEPTS = 100  # per mention


class FilterBody(BaseModel):
    """The arguments of `Filter`."""

    model_config = ConfigDict(extra="forbid", strict=True)
    semantic_types: list[str] | None = None
    groups: list[str] | None = None
    sources: list[str] | None = None
    codes: list[str] | None = None
    concepts: list[str] | None = None
    languages: list[str] | None = None


class LinkBody(BaseModel):
    """The arguments of `Linker.link`. languages: one for each mention, or one for all. abbreviations: each with its expansion."""

    model_config = ConfigDict(extra="forbid", strict=True)
    mentions: list[str | None]
    languages: list[str | None] | str | None = None
    context: list[str | None] | None = None
    top_k: Annotated[int, Field(ge=1, le=MOST_CONCEPTS)] = 5
    filter: FilterBody | None = None
    min_confidence: Annotated[float, Field(ge=0, le=1)] | None = None
    min_precision: Annotated[float, Field(ge=0, le=1)] | None = None
    broader: bool = False
    clean: bool = False
    abbreviations: dict[str, str] | None = None


_BODY = TypeAdapter(LinkBody)


def read_link_body(value: Any, max_mentions: int) -> LinkRequest:
    """What a body asks for.

    Args:
        value: The body as JSON.
        max_mentions: Mentions that a request may have.

    Raises:
        RequestError: It is something else (400), or has too many mentions (413).
        DataError: A language or a group is not known.
        ConfigError: There is not a language, or a context, for each mention.
    """
    body = validated(_BODY, value, "the body")
    if len(body.mentions) > max_mentions:
        raise RequestError(
            413, f"expected at most {max_mentions:,} mentions in a request, found {len(body.mentions):,}"
        )
    count = len(body.mentions)
    languages = [body.languages] * count if isinstance(body.languages, str) else body.languages
    wanted = Filter.from_dict(None if body.filter is None else body.filter.model_dump(exclude_none=True))
    listed = [(short, long, UNKNOWN) for short, long in (body.abbreviations or {}).items()]
    abbreviations = None if body.abbreviations is None else Abbreviations.from_rows(listed)
    options = LinkOptions(
        body.top_k, wanted, body.min_confidence, body.min_precision, body.broader, body.clean, abbreviations
    )
    if body.context is not None and len(body.context) != count:
        raise ConfigError(f"expected a context for each mention, found {len(body.context):,} for {count:,}")
    return LinkRequest(tuple(body.mentions), tuple(languages_of(languages, count)), options, body.context)


def describe_results(results: list[Result], index_hash: str | None) -> dict[str, Any]:
    """The answer: a result for each mention, in their order, and the index that it comes from."""
    return {"results": [result.to_dict() for result in results], "index": index_hash}
