"""A terminology's description as one picture of four panels: languages, sources, how languages overlap, and how long names are.

What a terminology holds, in numbers: names and concepts by language, source, kind and semantic type, how languages overlap, which
names are shared, and how long names are.

The numbers are one dictionary that JSON can write; the tables for people and the picture (data_prep.describe) are views of it. Lengths in tokens
include the special tokens that a tokenizer adds, since those count against a model's maximum length, and nothing is cut off.
"""

from collections import Counter
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from data_prep.store import StoredTerminology, database
from xsap.artifacts import write_atomically
from xsap.errors import ConfigError, DataError
from xsap.files import aligned
from xsap.languages import to_name
from xsap.text import EXACT_MATCH, normalize_all

if TYPE_CHECKING:
    import duckdb
    from matplotlib.axes import Axes
    from tokenizers import Tokenizer


_BARS = 12  # at most, the last of them for all others
_LABEL = 24  # characters
_BLUE, _ORANGE, _GREY = "#0b63d4", "#ee4a10", "#9aa4ae"
_REACH = 0.999  # the share of names that the curves of lengths go up to; a few are longer than any axis


def check_plot(path: Path) -> None:
    """Raise ConfigError if a picture can't be written there: before the work, not after."""
    if path.suffix != ".png":
        raise ConfigError(f"a plot is written as PNG: expected a file that ends in .png, found {path}")
    if find_spec("matplotlib") is None:
        raise ConfigError('--plot needs matplotlib; install it: pip install "xsap[plot]"')


def plot(told: Mapping[str, Any], path: Path) -> None:
    """Write the picture as PNG. told: what `data_prep.describe.describe` gives. Raises ConfigError as `check_plot`."""
    check_plot(path)
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(12, 9), dpi=120, layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.15))
    figure.suptitle(f"{Path(told['terminology']).name}: {told['names']:,} names of {told['concepts']:,} concepts")
    ((languages, sources), (overlap, lengths)) = figure.subplots(2, 2)
    _bars(languages, {to_name(code): n["names"] for code, n in told["by_language"].items()}, "Names by language")
    _bars(sources, {source: n["names"] for source, n in told["by_source"].items()}, "Names by source")
    _matrix(overlap, told["overlap"])
    _curves(lengths, told)
    with write_atomically(path, binary=True) as stream:
        figure.savefig(stream, format="png")


def _bars(axes: "Axes", counts: Mapping[str, int], title: str) -> None:
    """Horizontal bars, the largest on top, each with its number."""
    shown = list(counts.items())
    if len(shown) > _BARS:
        rest = shown[_BARS - 1 :]
        shown = [*shown[: _BARS - 1], (f"{len(rest):,} others", sum(n for _, n in rest))]
    colors = [_GREY if len(counts) > _BARS and i == len(shown) - 1 else _BLUE for i in range(len(shown))]
    labels = [label if len(label) <= _LABEL else f"{label[: _LABEL - 9]}…{label[-8:]}" for label, _ in shown]
    heights = [n for _, n in shown]
    axes.barh(range(len(shown)), heights, color=colors, height=0.7)
    axes.set_yticks(range(len(shown)), labels)
    axes.set_ylim(max(len(shown), _BARS // 2) - 0.5, -0.5)  # the first on top, and a few bars no thicker than many
    for place, n in enumerate(heights):
        axes.annotate(f"{n:,}", (n, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_xlim(
        0, max(heights) * 1.18
    )  # room for the longest bar's number, so that the panels below need not be narrower
    axes.set_xticks([])
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(length=0)


def _matrix(axes: "Axes", overlap: Mapping[str, Any]) -> None:
    """Of the concepts that have names in a row's language, the share that has names in a column's, rounded down: 100 means all."""
    codes, counts = overlap["languages"], np.array(overlap["concepts"], np.float64)
    shares = 100 * counts / np.diag(counts)[:, None]
    axes.imshow(
        shares, cmap="Blues", vmin=0, vmax=130, aspect="auto"
    )  # beyond 100, so that the darkest cell is not too dark for its number
    for (i, j), share in np.ndenumerate(shares):
        axes.text(j, i, f"{int(share)}", ha="center", va="center", fontsize=8, color="white" if share > 75 else "black")
    axes.set_xticks(range(len(codes)), codes)
    axes.set_yticks(range(len(codes)), [to_name(code) for code in codes])
    axes.set_title("Row's concepts with names in the column's language, %", loc="left", fontsize=11)
    axes.tick_params(length=0)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)


def _curves(axes: "Axes", told: Mapping[str, Any]) -> None:
    """The share of names that are at most so long."""
    for unit, color in (("characters", _BLUE), ("tokens", _ORANGE)):
        if histogram := told.get(f"{unit}_histogram"):
            lengths, shares = np.array(list(histogram)), np.cumsum(list(histogram.values())) / sum(histogram.values())
            end = int(np.searchsorted(shares, _REACH)) + 1
            axes.step([0, *lengths[:end]], [0, *(100 * shares[:end])], where="post", color=color, label=unit)
    axes.set_ylim(0, 104)
    axes.set_xlim(left=0)
    axes.set_xlabel("length")
    axes.set_title("Names that are at most so long, %", loc="left", fontsize=11)
    axes.grid(True, color="#dddddd")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    axes.legend(loc="lower right", frameon=False)


LARGEST = 10  # languages in the matrix of overlaps
SAMPLE, SEED = 200_000, 0  # names that are tokenized, of terminologies that have more
EXAMPLES = 5
_SHOWN = 20  # rows of a table for people
_QUANTILES = (0.5, 0.95, 0.99)

Histogram = Counter[int]  # length → names


def describe(stored: StoredTerminology, tokenizer: Path | str | None = None) -> dict[str, Any]:
    """The numbers. tokenizer: a folder with tokenizer.json, such a file, or the name of a model on the Hugging Face Hub.

    `by_…` map a value to {names, concepts}; of a concept with several semantic types each counts it. `overlap.concepts[i][j]`: concepts that
    have names in languages i and j. `shared`: strings, equal under EXACT_MATCH and in whatever language, that name several concepts.
    `characters`, `tokens`: language (or `all`) → {n, p50, p95, p99, max}, a quantile being the least length that so many names do not
    exceed; `…_histogram`: length → names. Raises DataError for a tokenizer that cannot be read.
    """
    told: dict[str, Any] = {
        "terminology": str(stored.folder),
        "content": stored.content_hash,
        "names": stored.count("names"),
        "concepts": stored.count("concepts"),
        "retired": stored.count("retired"),
    }
    told |= _tokens(stored, tokenizer) if tokenizer else {}
    with database(t=stored) as connection:
        for column in ("language", "source", "kind"):
            told[f"by_{column}"] = _counts(
                connection, f"SELECT {column}, count(*), count(DISTINCT concept_id) FROM t_names GROUP BY ALL"
            )
        told["by_semantic_type"] = _counts(connection, _BY_TYPE)
        told["overlap"] = _overlap(connection, list(told["by_language"])[:LARGEST])
        lengths: dict[str, Histogram] = {}
        for language, length, n in connection.sql(
            "SELECT language, length(name), count(*) FROM t_names GROUP BY ALL"
        ).fetchall():
            lengths.setdefault(language, Counter())[length] = n
        told |= _lengths("characters", lengths)
        told["shared"] = _shared(connection, stored)
    return told


_BY_TYPE = """SELECT semantic_type, sum(n)::BIGINT, count(*) FROM (SELECT concept_id, unnest(semantic_types) AS semantic_type FROM t_concepts)
    JOIN (SELECT concept_id, count(*) AS n FROM t_names GROUP BY concept_id) USING (concept_id) GROUP BY semantic_type"""


def _counts(connection: "duckdb.DuckDBPyConnection", query: str) -> dict[str, dict[str, int]]:
    """value → names and concepts, most names first."""
    rows = sorted(connection.sql(query).fetchall(), key=lambda row: (-row[1], row[0]))
    return {value: {"names": names, "concepts": concepts} for value, names, concepts in rows}


def _overlap(connection: "duckdb.DuckDBPyConnection", languages: list[str]) -> dict[str, Any]:
    """Concepts by pairs of languages; on the diagonal, by language."""
    connection.register(
        "largest", pa.table({"language": languages, "bit": pa.array([2**i for i in range(len(languages))], pa.int32())})
    )
    masks = "SELECT bit_or(bit) AS mask FROM t_names JOIN largest USING (language) GROUP BY concept_id"
    matrix = np.zeros((len(languages), len(languages)), np.int64)
    for mask, n in connection.sql(f"SELECT mask, count(*) FROM ({masks}) GROUP BY mask").fetchall():
        at = [i for i in range(len(languages)) if mask >> i & 1]
        matrix[np.ix_(at, at)] += n
    return {"languages": languages, "concepts": matrix.tolist()}


def _shared(connection: "duckdb.DuckDBPyConnection", stored: StoredTerminology) -> dict[str, Any]:
    """Strings that name several concepts, the names that are these strings, and those that name most concepts."""
    connection.execute("CREATE TABLE keys (key VARCHAR, concept_id VARCHAR)")
    for rows in stored.batches("names", ["name", "concept_id"]):
        keys = pa.array(normalize_all(rows["name"].to_pylist(), EXACT_MATCH), pa.string())
        connection.register("part", pa.table({"key": keys, "concept_id": rows["concept_id"]}))
        connection.execute("INSERT INTO keys SELECT * FROM part")
    connection.execute("""CREATE TABLE shared AS SELECT key, sum(n)::BIGINT AS names, count(*) AS concepts
        FROM (SELECT key, concept_id, count(*) AS n FROM keys GROUP BY ALL) GROUP BY key HAVING count(*) > 1""")
    ((strings, names),) = connection.sql("SELECT count(*), coalesce(sum(names), 0)::BIGINT FROM shared").fetchall()
    most = connection.sql(f"SELECT key, concepts FROM shared ORDER BY concepts DESC, key LIMIT {EXAMPLES}").fetchall()
    return {
        "strings": strings,
        "names": names,
        "most": [{"name": name, "concepts": concepts} for name, concepts in most],
    }


def _lengths(unit: str, lengths: dict[str, Histogram]) -> dict[str, Any]:
    total: Histogram = sum(lengths.values(), Counter())
    largest = sorted(lengths, key=lambda language: (-lengths[language].total(), language))
    spread = {
        language: _spread(histogram)
        for language, histogram in [("all", total), *((code, lengths[code]) for code in largest)]
    }
    return {unit: spread, f"{unit}_histogram": dict(sorted(total.items()))}


def _spread(histogram: Histogram) -> dict[str, int]:
    values = np.array(sorted(histogram))
    reached = np.cumsum([histogram[value] for value in values.tolist()])
    n = int(reached[-1])
    quantiles = {f"p{100 * q:.0f}": int(values[np.searchsorted(reached, np.ceil(q * n))]) for q in _QUANTILES}
    return {"n": n, **quantiles, "max": int(values[-1])}


def _tokens(stored: StoredTerminology, name: Path | str) -> dict[str, Any]:
    """Lengths in tokens, of all names or of a sample that depends on their number alone."""
    tokenizer, n = _open_tokenizer(name), stored.count("names")
    size = min(n, SAMPLE)
    chosen = np.zeros(n, np.bool_)
    chosen[np.random.default_rng(SEED).choice(n, size, replace=False, shuffle=False)] = True
    lengths: dict[str, Histogram] = {}
    start = 0
    for rows in stored.batches("names", ["language", "name"]):
        taken = rows.filter(pa.array(chosen[start : start + rows.num_rows]))
        start += rows.num_rows
        for language, encoding in zip(
            taken["language"].to_pylist(), tokenizer.encode_batch(taken["name"].to_pylist()), strict=True
        ):
            lengths.setdefault(language, Counter())[len(encoding.ids)] += 1
    return {"tokenizer": str(name), "tokenized": size} | _lengths("tokens", lengths)


def _open_tokenizer(name: Path | str) -> "Tokenizer":
    from tokenizers import Tokenizer

    path = Path(name)
    try:
        if path.exists():
            tokenizer = Tokenizer.from_file(str(path / "tokenizer.json" if path.is_dir() else path))
        else:
            tokenizer = Tokenizer.from_pretrained(str(name))
    except Exception as error:  # the library raises no narrower kind
        expected = "expected a folder with tokenizer.json, such a file, or a model on the Hugging Face Hub that has one"
        raise DataError(f"{name}: {expected}; found: {error}") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def description_lines(told: dict[str, Any]) -> list[str]:
    """The numbers for people; of long tables the first rows."""
    title = f"{told['terminology']}: {told['names']:,} names of {told['concepts']:,} concepts, {told['retired']:,} retired identifiers"
    lines = [title]
    for column in ("language", "source", "kind", "semantic_type"):
        lines += ["", *_count_lines(column, told[f"by_{column}"])]
    codes, matrix = told["overlap"]["languages"], told["overlap"]["concepts"]
    rows = [(code, *(f"{n:,}" for n in row)) for code, row in zip(codes, matrix, strict=True)]
    lines += ["", "concepts with names in both languages", *aligned([("", *codes), *rows])]
    shared = told["shared"]
    lines += [
        "",
        f"{shared['strings']:,} strings name several concepts (case aside); {shared['names']:,} names are one of them",
    ]
    lines += [f"  {row['name']}: {row['concepts']:,} concepts" for row in shared["most"]]
    lines += ["", *_length_lines("characters", told["characters"])]
    if "tokenizer" in told:
        sample = (
            f"a sample of {told['tokenized']:,} names, seed {SEED}"
            if told["tokenized"] < told["names"]
            else "all names"
        )
        lines += [
            "",
            f"tokens of {told['tokenizer']}, special ones included, over {sample}",
            *_length_lines("tokens", told["tokens"]),
        ]
    return lines


def _count_lines(column: str, counts: dict[str, dict[str, int]]) -> list[str]:
    what = column.replace("_", " ")
    if not counts:
        return [f"no {what}s"]
    labels = [f"{value}  {to_name(value)}" if column == "language" else value for value in counts]
    rows = [(label, f"{n['names']:,}", f"{n['concepts']:,}") for label, n in zip(labels, counts.values(), strict=True)]
    more = [f"and {len(rows) - _SHOWN:,} more"] if len(rows) > _SHOWN else []
    return [*aligned([(what, "names", "concepts"), *rows[:_SHOWN]]), *more]


def _length_lines(unit: str, spread: dict[str, dict[str, int]]) -> list[str]:
    heads = ("n", "p50", "p95", "p99", "max")
    rows = [(language, *(f"{row[head]:,}" for head in heads)) for language, row in spread.items()]
    return aligned([(unit, "names", "median", "95 %", "99 %", "longest"), *rows[: _SHOWN + 1]])
