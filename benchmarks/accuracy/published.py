"""Figures that others published, as data: read from published.toml, shown beside our own and never mixed with them.

Each figure keeps its source, and whether we read it there ("paper") or somebody reported it to us ("second-hand"). The
file groups figures by source, since that is how they are checked; callers get one PublishedFigure for each, in the
file's order.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from xsap.errors import DataError
from xsap.files import missing_file
from xsap.languages import to_iso

PUBLISHED_FILE = Path(__file__).with_name("published.toml")
MEAN = "mean"  # instead of a language: each language with equal weight


def _check_language(code: str) -> str:
    try:
        known = code == MEAN or to_iso(code) == code
    except DataError:
        known = False
    if not known:
        raise ValueError(f"expected '{MEAN}' or an ISO 639-1 code such as de")
    return code


NonBlankText = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
BenchmarkName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
LanguageOrMean = Annotated[str, AfterValidator(_check_language)]
Metric = Literal["acc@1", "acc@5"]
Percent = Annotated[float, Field(ge=0, le=100)]
Url = Annotated[str, StringConstraints(pattern=r"^https?://\S+$")]
ReadIn = Literal["paper", "second-hand"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class PublishedFigure(_Strict):
    """What a system scored on a benchmark, in percent, and who states it. benchmark: its name among our tasks."""

    system: NonBlankText
    benchmark: BenchmarkName
    language: LanguageOrMean
    metric: Metric
    value: Percent
    source: NonBlankText
    url: Url
    read: ReadIn
    note: str = ""


class _Row(_Strict):
    system: NonBlankText
    benchmark: BenchmarkName
    language: LanguageOrMean
    scores: Annotated[dict[Metric, Percent], Field(min_length=1)]
    note: str = ""

    @model_validator(mode="after")
    def _scores_rise_with_k(self) -> Self:
        values = [value for _, value in sorted(self.scores.items(), key=lambda item: int(item[0].partition("@")[2]))]
        if values != sorted(values):
            raise ValueError("expected no lower a score for more candidates")
        return self


class _Source(_Strict):
    citation: NonBlankText
    url: Url
    read: ReadIn
    figures: Annotated[list[_Row], Field(min_length=1)]

    @model_validator(mode="after")
    def _no_figure_is_repeated(self) -> Self:
        rows = [(row.system, row.benchmark, row.language) for row in self.figures]
        repeated = next((row for i, row in enumerate(rows) if row in rows[:i]), None)
        if repeated:
            raise ValueError(f"expected each figure once, found {' on '.join(repeated[:2])} ({repeated[2]}) twice")
        return self


class _File(_Strict):
    sources: list[_Source]


def read_published(path: Path | str = PUBLISHED_FILE) -> list[PublishedFigure]:
    """All figures of a TOML file like published.toml, in its order. Raises DataError that names the entry."""
    path = Path(path)
    try:
        sources = _File.model_validate(_read_toml(path)).sources
    except ValidationError as error:
        raise DataError(f"{path}: {_explain(error.errors()[0])}") from None
    return [
        PublishedFigure(
            **row.model_dump(include={"system", "benchmark", "language", "note"}),
            metric=metric,
            value=value,
            source=source.citation,
            url=source.url,
            read=source.read,
        )
        for source in sources
        for row in source.figures
        for metric, value in row.scores.items()
    ]


def published_for(benchmark: str) -> list[PublishedFigure]:
    """What others published on one of our tasks; an empty list if there is nothing."""
    return [figure for figure in read_published() if figure.benchmark == benchmark]


def _read_toml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise missing_file(path, "a TOML file of published figures")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a TOML file: {error}") from None


def _explain(error: Any) -> str:
    """`sources 1, figures 3, language: expected …; found 'xx'`, counted from 1."""
    steps = [f" {step + 1}" if isinstance(step, int) else f", {step}" for step in error["loc"] if step != "[key]"]
    entry = "".join(steps).removeprefix(", ")
    if error["type"] == "extra_forbidden":
        return f"{entry}: unknown key"
    if error["type"] == "missing":
        return f"{entry}: must be given"
    found = f"; found {error['input']!r:.60}" if isinstance(error["input"], str | int | float) else ""
    return f"{entry}: {error['msg'].removeprefix('Value error, ')}{found}"
