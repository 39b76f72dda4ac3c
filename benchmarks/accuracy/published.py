"""Figures that others published, as data: read from published.toml, shown beside our own and never mixed with them.

Each keeps its source, and whether we read the figure there ("paper") or were told of it ("second-hand"). The file groups them by source,
for that is how they are checked; callers get one Published a figure, in the file's order.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from xsap.errors import DataError
from xsap.languages import to_iso

PUBLISHED = Path(__file__).with_name("published.toml")
MEAN = "mean"  # in the place of a language: each language alike


def _check_language(code: str) -> str:
    try:
        known = code == MEAN or to_iso(code) == code
    except DataError:
        known = False
    if not known:
        raise ValueError(f"expected '{MEAN}' or an ISO 639-1 code such as de")
    return code


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Key = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
Language = Annotated[str, AfterValidator(_check_language)]
Metric = Literal["acc@1", "acc@5"]
Percent = Annotated[float, Field(ge=0, le=100)]
Address = Annotated[str, StringConstraints(pattern=r"^https?://\S+$")]
Read = Literal["paper", "second-hand"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Published(_Strict):
    """One figure: what a system scored on a benchmark (its key among our tasks), per cent, and who says so. note: empty if there is none."""

    system: Text
    benchmark: Key
    language: Language
    metric: Metric
    value: Percent
    source: Text
    url: Address
    read: Read
    note: str = ""


class _Row(_Strict):
    system: Text
    benchmark: Key
    language: Language
    scores: Annotated[dict[Metric, Percent], Field(min_length=1)]
    note: str = ""

    @model_validator(mode="after")
    def _more_candidates_hit_more(self) -> Self:
        values = [value for _, value in sorted(self.scores.items(), key=lambda item: int(item[0].partition("@")[2]))]
        if values != sorted(values):
            raise ValueError("expected no lower a score for more candidates")
        return self


class _Source(_Strict):
    citation: Text
    url: Address
    read: Read
    figures: Annotated[list[_Row], Field(min_length=1)]

    @model_validator(mode="after")
    def _says_each_thing_once(self) -> Self:
        rows = [(row.system, row.benchmark, row.language) for row in self.figures]
        twice = next((row for place, row in enumerate(rows) if row in rows[:place]), None)
        if twice:
            raise ValueError(f"expected each figure once, found {' on '.join(twice[:2])} ({twice[2]}) twice")
        return self


class _File(_Strict):
    sources: list[_Source]


def read_published(path: Path | str = PUBLISHED) -> list[Published]:
    """All figures of a TOML file like published.toml, in its order. Raises DataError that names the entry."""
    path = Path(path)
    try:
        sources = _File.model_validate(_read_toml(path)).sources
    except ValidationError as error:
        raise DataError(f"{path}: {_explain(error.errors()[0])}") from None
    return [
        Published(
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


def figures(benchmark: str) -> list[Published]:
    """What others published on one of our tasks; none where nobody did."""
    return [figure for figure in read_published() if figure.benchmark == benchmark]


def _read_toml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(
            f"{path}: expected a TOML file of published figures, found {'a folder' if path.is_dir() else 'nothing'} there"
        )
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a TOML file: {error}") from None


def _explain(error: Any) -> str:
    """`sources 1, figures 3, language: expected …; found 'xx'`, counted from 1."""
    steps = [f" {step + 1}" if isinstance(step, int) else f", {step}" for step in error["loc"] if step != "[key]"]
    where = "".join(steps).removeprefix(", ")
    if error["type"] == "extra_forbidden":
        return f"{where}: no such key is known here"
    if error["type"] == "missing":
        return f"{where}: must be given"
    found = f"; found {error['input']!r:.60}" if isinstance(error["input"], str | int | float) else ""
    return f"{where}: {error['msg'].removeprefix('Value error, ')}{found}"
