"""What a terminology contains: names and concepts by language, source, kind and semantic type, overlaps of languages, shared names, lengths.

`describe_terminology` counts; tables for people and charts are views of its `Description`. Lengths in tokens include the special tokens that a
tokenizer adds, because they count against a model's maximum length, and nothing is truncated.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from data_prep.store import StoredTerminology, database
from xsap.errors import DataError
from xsap.files import aligned
from xsap.languages import to_name
from xsap.plots import Line, Plot, check_plot, heat_map, horizontal_bars, line_chart, save
from xsap.terms.concept_details import CIRCULAR_RELATIONS, numbered
from xsap.terms.hierarchy import Hierarchy
from xsap.text import EXACT_MATCH, normalize_all

if TYPE_CHECKING:
    import duckdb
    from tokenizers import Tokenizer

__all__ = ["Description", "check_plot", "describe_terminology", "description_lines", "save_plot"]

SAMPLE_SIZE = 200_000  # names that are tokenized, of terminologies that have more
SEED = 0
_TABLE_ROWS = 20
_BARS = 12
_LABEL_CHARACTERS = 24
_CURVE_END = 0.999  # fraction of names that the curves of lengths show; a few names are longer than any axis
_QUANTILES = (0.5, 0.95, 0.99)

Histogram = Counter[int]  # length → names


@dataclass(frozen=True, slots=True)
class Count:
    """Numbers of names and of concepts."""

    names: int
    concepts: int


@dataclass(frozen=True, slots=True)
class Overlap:
    """concepts[i][j]: the number of concepts that have names in both languages i and j."""

    languages: list[str]
    concepts: list[list[int]]


@dataclass(frozen=True, slots=True)
class SharedName:
    """A string and the number of concepts that it names."""

    name: str
    concepts: int


@dataclass(frozen=True, slots=True)
class SharedNames:
    """Strings, equal under EXACT_MATCH and in any language, that name several concepts.

    strings: how many there are. names: how many names equal one of them. most: those with most concepts.
    """

    strings: int
    names: int
    most: list[SharedName]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of names, in characters or tokens.

    by_language: language, or `all` → n, p50, p95, p99, max; a quantile is the smallest length that so many names do not exceed.
    histogram: length → number of names.
    """

    by_language: dict[str, dict[str, int]]
    histogram: dict[int, int]


@dataclass(frozen=True, slots=True)
class TokenLengths(Lengths):
    """Lengths in tokens of a tokenizer, over a sample of the names."""

    tokenizer: str
    sampled: int


@dataclass(frozen=True, slots=True)
class HierarchySize:
    """The relations to broader concepts.

    relations: how many there are. roots: concepts without a broader one that are broader than others. apart: concepts without relations.
    several: concepts with several broader ones. levels: the most steps from a root, by the shortest way. circular: concepts above themselves.
    """

    relations: int
    roots: int
    apart: int
    several: int
    levels: int
    circular: int


@dataclass(frozen=True, slots=True)
class Description:
    """What a terminology holds. A concept with several semantic types is counted for each.

    definitions: language → concepts with a definition in it. hierarchy: None without relations.
    """

    terminology: str
    content_hash: str
    names: int
    concepts: int
    retired: int
    definitions: dict[str, int]
    hierarchy: HierarchySize | None
    by_language: dict[str, Count]
    by_source: dict[str, Count]
    by_kind: dict[str, Count]
    by_semantic_type: dict[str, Count]
    overlap: Overlap
    shared: SharedNames
    characters: Lengths
    tokens: TokenLengths | None

    def to_dict(self) -> dict[str, Any]:
        """The description for JSON; without `tokens` if nothing was tokenized."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def describe_terminology(
    stored: StoredTerminology,
    tokenizer: Path | str | None = None,
    *,
    sample_size: int = SAMPLE_SIZE,
    overlap_languages: int = 10,
    shared_examples: int = 5,
) -> Description:
    """Count what a terminology holds.

    Args:
        stored: The terminology.
        tokenizer: A folder with tokenizer.json, such a file, or the name of a model on the Hugging Face Hub, for lengths in tokens.
        sample_size: The most names that are tokenized; of more, a random sample.
        overlap_languages: How many of the largest languages the overlap covers.
        shared_examples: How many of the shared names with most concepts are listed.

    Returns:
        The description.

    Raises:
        DataError: The tokenizer cannot be read.
    """
    tokens = _token_lengths(stored, tokenizer, sample_size) if tokenizer else None
    with database(t=stored) as connection:
        by_column = {
            column: _counts(
                connection, f"SELECT {column}, count(*), count(DISTINCT concept_id) FROM t_names GROUP BY ALL"
            )
            for column in ("language", "source", "kind")
        }
        histograms: dict[str, Histogram] = {}
        lengths = connection.sql("SELECT language, length(name), count(*) FROM t_names GROUP BY ALL").fetchall()
        for language, length, n in lengths:
            histograms.setdefault(language, Counter())[length] = n
        return Description(
            str(stored.folder),
            stored.content_hash,
            stored.count("names"),
            stored.count("concepts"),
            stored.count("retired"),
            _definitions(connection),
            _hierarchy(stored),
            by_column["language"],
            by_column["source"],
            by_column["kind"],
            _counts(connection, _BY_TYPE),
            _overlap(connection, list(by_column["language"])[:overlap_languages]),
            _shared(connection, stored, shared_examples),
            Lengths(*_summarize_lengths(histograms)),
            tokens,
        )


def _definitions(connection: "duckdb.DuckDBPyConnection") -> dict[str, int]:
    """Language → concepts with a definition in it, most first."""
    counted = (
        "SELECT language, count(DISTINCT concept_id) AS n FROM t_definitions GROUP BY ALL ORDER BY n DESC, language"
    )
    return dict(connection.sql(counted).fetchall())


def _hierarchy(stored: StoredTerminology) -> HierarchySize | None:
    relations = stored.read("relations")
    if not relations.num_rows:
        return None
    ids = stored.read("concepts", ["concept_id"])["concept_id"].combine_chunks()
    hierarchy = Hierarchy.from_pairs(*numbered(relations, ids), len(ids))
    above, below = np.diff(hierarchy.starts), np.diff(hierarchy.reversed.starts)
    return HierarchySize(
        relations.num_rows,
        int(((above == 0) & (below > 0)).sum()),
        int(((above == 0) & (below == 0)).sum()),
        int((above > 1).sum()),
        int(hierarchy.levels().max()),
        sum(map(len, hierarchy.circles())),
    )


_BY_TYPE = """SELECT semantic_type, sum(n)::BIGINT, count(*) FROM (SELECT concept_id, unnest(semantic_types) AS semantic_type FROM t_concepts)
    JOIN (SELECT concept_id, count(*) AS n FROM t_names GROUP BY concept_id) USING (concept_id) GROUP BY semantic_type"""


def _counts(connection: "duckdb.DuckDBPyConnection", query: str) -> dict[str, Count]:
    """Value → names and concepts, most names first."""
    rows = sorted(connection.sql(query).fetchall(), key=lambda row: (-row[1], row[0]))
    return {value: Count(names, concepts) for value, names, concepts in rows}


def _overlap(connection: "duckdb.DuckDBPyConnection", languages: list[str]) -> Overlap:
    bits = pa.array([2**i for i in range(len(languages))], pa.int32())
    connection.register("largest", pa.table({"language": languages, "bit": bits}))
    masks = "SELECT bit_or(bit) AS mask FROM t_names JOIN largest USING (language) GROUP BY concept_id"
    matrix = np.zeros((len(languages), len(languages)), np.int64)
    for mask, n in connection.sql(f"SELECT mask, count(*) FROM ({masks}) GROUP BY mask").fetchall():
        at = [i for i in range(len(languages)) if mask >> i & 1]
        matrix[np.ix_(at, at)] += n
    return Overlap(languages, matrix.tolist())


def _shared(connection: "duckdb.DuckDBPyConnection", stored: StoredTerminology, examples: int) -> SharedNames:
    connection.execute("CREATE TABLE keys (key VARCHAR, concept_id VARCHAR)")
    for rows in stored.batches("names", ["name", "concept_id"]):
        keys = pa.array(normalize_all(rows["name"].to_pylist(), EXACT_MATCH), pa.string())
        connection.register("part", pa.table({"key": keys, "concept_id": rows["concept_id"]}))
        connection.execute("INSERT INTO keys SELECT * FROM part")
    connection.execute("""CREATE TABLE shared AS SELECT key, sum(n)::BIGINT AS names, count(*) AS concepts
        FROM (SELECT key, concept_id, count(*) AS n FROM keys GROUP BY ALL) GROUP BY key HAVING count(*) > 1""")
    ((strings, names),) = connection.sql("SELECT count(*), coalesce(sum(names), 0)::BIGINT FROM shared").fetchall()
    most = connection.sql(f"SELECT key, concepts FROM shared ORDER BY concepts DESC, key LIMIT {examples}").fetchall()
    return SharedNames(strings, names, [SharedName(*row) for row in most])


def _token_lengths(stored: StoredTerminology, name: Path | str, sample_size: int) -> TokenLengths:
    """Lengths in tokens of all names, or of a sample that depends on their number alone."""
    tokenizer, n = _open_tokenizer(name), stored.count("names")
    sampled = min(n, sample_size)
    chosen = np.zeros(n, np.bool_)
    chosen[np.random.default_rng(SEED).choice(n, sampled, replace=False, shuffle=False)] = True
    histograms: dict[str, Histogram] = {}
    start = 0
    for rows in stored.batches("names", ["language", "name"]):
        sample = rows.filter(pa.array(chosen[start : start + rows.num_rows]))
        start += rows.num_rows
        encodings = tokenizer.encode_batch(sample["name"].to_pylist())
        for language, encoding in zip(sample["language"].to_pylist(), encodings, strict=True):
            histograms.setdefault(language, Counter())[len(encoding.ids)] += 1
    return TokenLengths(*_summarize_lengths(histograms), str(name), sampled)


def _open_tokenizer(name: Path | str) -> "Tokenizer":
    from tokenizers import Tokenizer

    path = Path(name)
    try:
        if path.exists():
            tokenizer = Tokenizer.from_file(str(path / "tokenizer.json" if path.is_dir() else path))
        else:
            tokenizer = Tokenizer.from_pretrained(str(name))
    except Exception as error:  # the library raises no narrower type
        expected = "expected a folder with tokenizer.json, such a file, or a model on the Hugging Face Hub that has one"
        raise DataError(f"{name}: {expected}; found: {error}") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _summarize_lengths(histograms: Mapping[str, Histogram]) -> tuple[dict[str, dict[str, int]], dict[int, int]]:
    """The fields of `Lengths`: summaries of all languages together and of each, most names first; the histogram of all."""
    total: Histogram = sum(histograms.values(), Counter())
    largest = sorted(histograms, key=lambda language: (-histograms[language].total(), language))
    by_language = {"all": total} | {language: histograms[language] for language in largest}
    return {language: _length_summary(one) for language, one in by_language.items()}, dict(sorted(total.items()))


def _length_summary(histogram: Histogram) -> dict[str, int]:
    values = np.array(sorted(histogram))
    cumulative = np.cumsum([histogram[value] for value in values.tolist()])
    n = int(cumulative[-1])
    quantiles = {f"p{100 * q:.0f}": int(values[np.searchsorted(cumulative, np.ceil(q * n))]) for q in _QUANTILES}
    return {"n": n, **quantiles, "max": int(values[-1])}


def description_lines(description: Description) -> list[str]:
    """Tables for people; of long ones the first rows."""
    lines = [
        f"{description.terminology}: {description.names:,} names of {description.concepts:,} concepts, "
        f"{description.retired:,} retired identifiers"
    ]
    by_language = {f"{code}  {to_name(code)}": count for code, count in description.by_language.items()}
    lines += [*_detail_lines(description), "", *_count_table("language", by_language)]
    lines += ["", *_count_table("source", description.by_source)]
    lines += ["", *_count_table("kind", description.by_kind)]
    lines += ["", *_count_table("semantic type", description.by_semantic_type)]
    codes, shared = description.overlap.languages, description.shared
    rows = [(code, *(f"{n:,}" for n in row)) for code, row in zip(codes, description.overlap.concepts, strict=True)]
    lines += ["", "concepts with names in both languages", *aligned([("", *codes), *rows])]
    lines += [
        "",
        f"{shared.strings:,} strings name several concepts (ignoring case); {shared.names:,} names are one of them",
    ]
    lines += [f"  {one.name}: {one.concepts:,} concepts" for one in shared.most]
    lines += ["", *_length_table("characters", description.characters)]
    if tokens := description.tokens:
        complete = tokens.sampled == description.names
        names = "all names" if complete else f"a sample of {tokens.sampled:,} names, seed {SEED}"
        lines += ["", f"tokens of {tokens.tokenizer}, including special tokens, of {names}"]
        lines += _length_table("tokens", tokens)
    return lines


def _detail_lines(description: Description) -> list[str]:
    lines = []
    if description.definitions:
        by_language = (f"{code} {n:,}" for code, n in description.definitions.items())
        lines.append(f"concepts with a definition: {', '.join(by_language)}")
    if (found := description.hierarchy) is not None:
        lines.append(
            f"relations to broader concepts: {found.relations:,} (roots: {found.roots:,}, levels below them: {found.levels:,}, "
            f"concepts with several broader ones: {found.several:,}, without relations: {found.apart:,})"
        )
        lines += [f"{found.circular:,} {CIRCULAR_RELATIONS}"] if found.circular else []
    return lines


def _count_table(what: str, counts: Mapping[str, Count]) -> list[str]:
    if not counts:
        return [f"no {what}s"]
    rows = [(label, f"{count.names:,}", f"{count.concepts:,}") for label, count in counts.items()]
    more = [f"and {len(rows) - _TABLE_ROWS:,} more"] if len(rows) > _TABLE_ROWS else []
    return [*aligned([(what, "names", "concepts"), *rows[:_TABLE_ROWS]]), *more]


def _length_table(unit: str, lengths: Lengths) -> list[str]:
    columns = ("n", "p50", "p95", "p99", "max")
    rows = [(language, *(f"{row[column]:,}" for column in columns)) for language, row in lengths.by_language.items()]
    return aligned([(unit, "names", "median", "95 %", "99 %", "longest"), *rows[: _TABLE_ROWS + 1]])


def save_plot(description: Description, path: Path) -> None:
    """Write four charts (languages, sources, overlap of languages, lengths) as .png or .svg. Raises ConfigError as `check_plot` does."""
    by_language = {to_name(code): count for code, count in description.by_language.items()}
    plots = [
        _bars("Names by language", by_language),
        _bars("Names by source", description.by_source),
        _overlap_map(description.overlap),
        _length_curves({"characters": description.characters, "tokens": description.tokens}),
    ]
    title = f"{Path(description.terminology).name}: {description.names:,} names of {description.concepts:,} concepts"
    save(plots, path, title=title, columns=2)


def _bars(title: str, counts: Mapping[str, Count]) -> Plot:
    """Bars of the largest values, and one for all others together."""
    shown = {_shortened(name, counts): count.names for name, count in list(counts.items())[:_BARS]}
    others = ""
    if len(counts) > _BARS:
        shown = dict(list(shown.items())[: _BARS - 1])
        others = f"{len(counts) - len(shown):,} others"
        shown[others] = sum(count.names for count in counts.values()) - sum(shown.values())
    return horizontal_bars(shown, title=title, highlighted=lambda name: name != others, slots=_BARS // 2)


def _shortened(name: str, names: Sequence[str] | Mapping[str, Any]) -> str:
    """A label of limited length: the name without its middle, unless another name would get the same label."""
    if len(name) <= _LABEL_CHARACTERS:
        return name
    start, end = name[: _LABEL_CHARACTERS - 9], name[-8:]
    unique = sum(other.startswith(start) and other.endswith(end) for other in names) == 1
    return f"{start}…{end}" if unique else name


def _overlap_map(overlap: Overlap) -> Plot:
    counts = np.array(overlap.concepts, np.float64)
    return heat_map(
        100 * counts / np.diag(counts)[:, None],
        rows=[to_name(code) for code in overlap.languages],
        columns=overlap.languages,
        title="Row's concepts with names in the column's language, %",
    )


def _length_curves(lengths: Mapping[str, Lengths | None]) -> Plot:
    """The percentage of names up to each length."""
    lines = []
    for unit, one in lengths.items():
        if one:
            cumulative = np.cumsum(list(one.histogram.values())) / sum(one.histogram.values())
            end = int(np.searchsorted(cumulative, _CURVE_END)) + 1
            lines.append(Line(unit, [0, *list(one.histogram)[:end]], [0, *(100 * cumulative[:end])]))
    title = "Names up to this length, %"
    return line_chart(lines, title=title, x_label="length", y_limits=(0, 104), stepped=True, width=6.0)
