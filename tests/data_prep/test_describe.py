"""Descriptions of terminologies match counts in plain Python; their tables and charts are complete and readable."""

import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread
from matplotlib.text import Text
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from data_prep.describe import describe_terminology, description_lines, save_plot
from data_prep.store import StoredTerminology
from tests.fixtures.examples import examples
from xsap.errors import DataError
from xsap.terms.terminology import NAME_KINDS, NAMES_SCHEMA, Terminology
from xsap.text import EXACT_MATCH, normalize

ROOT = Path(__file__).parents[2]


def terminology(path, names, types=()):
    """names: (concept, language, name, kind, source). types: concept → semantic types."""
    rows = [dict(zip(NAMES_SCHEMA.names, (*name, None, None), strict=True)) for name in names]
    types = dict(types)
    concepts = pa.table({"concept_id": pa.array(list(types), pa.string()), "semantic_types": pa.array(list(types.values()), pa.list_(pa.string()))})  # fmt: skip
    built, _ = Terminology.build(pa.Table.from_pylist(rows, NAMES_SCHEMA), concepts if types else None)
    built.save(path, overwrite=True)
    return built


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A folder with a tokenizer that gives each character a token and adds two, and that would cut and pad if it were let."""
    tokens = Tokenizer(models.WordLevel({"?": 0, "<": 1, ">": 2}, unk_token="?"))
    tokens.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokens.post_processor = processors.TemplateProcessing(single="< $A >", special_tokens=[("<", 1), (">", 2)])
    tokens.enable_truncation(4)
    tokens.enable_padding(length=9)
    folder = tmp_path_factory.mktemp("tokenizer")
    tokens.save(str(folder / "tokenizer.json"))
    return folder


texts = st.text(st.sampled_from("aAé\u0301熱\U00020000 "), min_size=1, max_size=6).map(lambda text: text.strip() or "x")
texts |= st.sampled_from(["a", "A", "é", "e\u0301", "ａ"])  # these meet
name_rows = st.tuples(
    st.sampled_from("ABCD"),
    st.sampled_from(["en", "de", "ja", "zh"]),
    texts,
    st.sampled_from(NAME_KINDS),
    st.sampled_from("ST"),
)


@settings(max_examples=examples(40))
@given(names=st.lists(name_rows, min_size=1, max_size=14), types=st.dictionaries(st.sampled_from("ABCDE"), st.lists(st.sampled_from(["T1", "T2"]), unique=True)))  # fmt: skip
def test_description_matches_counts_in_plain_python(tmp_path_factory, tokenizer, names, types):
    folder = tmp_path_factory.mktemp("describe")
    built = terminology(folder / "t", names, types)
    description = describe_terminology(StoredTerminology.open(folder / "t"), tokenizer)
    described = description.to_dict()
    rows = built.names.to_pylist()
    for column in ("language", "source", "kind"):
        expected = {
            value: {
                "names": sum(r[column] == value for r in rows),
                "concepts": len({r["concept_id"] for r in rows if r[column] == value}),
            }
            for value in {r[column] for r in rows}
        }
        assert described[f"by_{column}"] == expected
        assert list(described[f"by_{column}"]) == sorted(expected, key=lambda value: (-expected[value]["names"], value))
    types_of = {row["concept_id"]: row["semantic_types"] for row in built.concepts.to_pylist()}
    by_type = {t: {"names": sum(t in types_of[r["concept_id"]] for r in rows), "concepts": sum(t in ts for ts in types_of.values())} for ts in types_of.values() for t in ts}  # fmt: skip
    assert described["by_semantic_type"] == by_type
    having = {
        code: {r["concept_id"] for r in rows if r["language"] == code} for code in described["overlap"]["languages"]
    }
    assert list(having) == list(described["by_language"])
    assert described["overlap"]["concepts"] == [
        [len(one & other) for other in having.values()] for one in having.values()
    ]
    bearers = {}
    for row in rows:
        bearers.setdefault(normalize(row["name"], EXACT_MATCH), []).append(row["concept_id"])
    shared = {name: concepts for name, concepts in bearers.items() if len(set(concepts)) > 1}
    assert (described["shared"]["strings"], described["shared"]["names"]) == (
        len(shared),
        sum(map(len, shared.values())),
    )
    most = sorted(((-len(set(concepts)), name) for name, concepts in shared.items()))[:5]
    assert [(-row["concepts"], row["name"]) for row in described["shared"]["most"]] == most
    for unit, more in (("characters", 0), ("tokens", 2)):
        lengths = {
            code: [len(r["name"]) + more for r in rows if code in ("all", r["language"])] for code in ("all", *having)
        }
        assert described[unit]["by_language"] == {code: length_summary(values) for code, values in lengths.items()}
        assert described[unit]["histogram"] == Counter(lengths["all"])
    assert described["tokens"]["sampled"] == described["names"] == len(rows)
    json.dumps(described)
    description_lines(description)


def length_summary(values):
    """By the definition of a quantile: the least value that so many do not exceed."""
    values = sorted(values)
    quantiles = {f"p{round(100 * q)}": values[max(math.ceil(q * len(values)), 1) - 1] for q in (0.5, 0.95, 0.99)}
    return {"n": len(values), **quantiles, "max": values[-1]}


def test_token_lengths_of_a_sample_are_reproducible(tmp_path, tokenizer):
    names = [("A", "en", "x" * length, "synonym", "S") for length in range(1, 401)]
    terminology(tmp_path / "t", names)
    stored = StoredTerminology.open(tmp_path / "t")
    first, second = (describe_terminology(stored, tokenizer, sample_size=100) for _ in range(2))
    assert first == second
    assert first.tokens.sampled == first.tokens.by_language["all"]["n"] == 100
    assert len(first.tokens.histogram) == 100  # each name at most once
    assert 150 < first.tokens.by_language["all"]["p50"] < 250
    assert any("of a sample of 100 names, seed 0" in line for line in description_lines(first))
    stored = StoredTerminology.open(tmp_path / "t", rows_per_batch=7)
    assert describe_terminology(stored, tokenizer, sample_size=100) == first


def test_describe_command_prints_tables_and_json(tmp_path, run_here, tokenizer):
    names = [
        ("A", "en", "Fever", "preferred", "S"),
        ("A", "de", "Fieber", "preferred", "T"),
        ("B", "en", "fever", "synonym", "S"),
        ("B", "en", "Hay fever", "preferred", "S"),
    ]
    built = terminology(tmp_path / "t", names, {"A": ["T184", "T047"]})
    done = run_here(
        "-m", "data_prep", "describe", tmp_path / "t", "--tokenizer", tokenizer, "--plot", tmp_path / "p.png"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"{tmp_path}/t: 4 names of 2 concepts, 0 retired identifiers",
        "",
        "language     names  concepts",
        "en  English      3         2",
        "de  German       1         1",
        "",
        "source  names  concepts",
        "S           3         2",
        "T           1         1",
        "",
        "kind       names  concepts",
        "preferred      3         2",
        "synonym        1         1",
        "",
        "semantic type  names  concepts",
        "T047               2         1",
        "T184               2         1",
        "",
        "concepts with names in both languages",
        "    en  de",
        "en   2   1",
        "de   1   1",
        "",
        "1 strings name several concepts (ignoring case); 2 names are one of them",
        "  fever: 2 concepts",
        "",
        "characters  names  median  95 %  99 %  longest",
        "all             4       5     9     9        9",
        "en              3       5     9     9        9",
        "de              1       6     6     6        6",
        "",
        f"tokens of {tokenizer}, including special tokens, of all names",
        "tokens  names  median  95 %  99 %  longest",
        "all         4       7    11    11       11",
        "en          3       7    11    11       11",
        "de          1       8     8     8        8",
    ]
    assert imread(tmp_path / "p.png").shape[1] == 1800
    done = run_here("-m", "data_prep", "describe", tmp_path / "t", "--json")
    described = json.loads(done.stdout)
    assert described["content_hash"] == Terminology.load(tmp_path / "t").content_hash
    assert described["by_language"]["en"] == {"names": 3, "concepts": 2}
    assert described["characters"]["histogram"] == {"5": 2, "6": 1, "9": 1}
    assert "tokens" not in described
    assert built.names.num_rows == 4


def test_long_tables_show_first_rows(tmp_path):
    names = [(f"C{i}", "en", f"name {i}", "synonym", f"S{i:02}") for i in range(25)]
    terminology(tmp_path / "t", names)
    description = describe_terminology(StoredTerminology.open(tmp_path / "t"))
    lines = description_lines(description)
    assert "and 5 more" in lines
    assert "no semantic types" in lines
    assert len(description.by_source) == 25


@pytest.mark.slow
def test_texts_in_plot_neither_overlap_nor_are_cut_off(tmp_path, tokenizer, monkeypatch):
    """No two texts of the figure meet, and none is cut off, with as many and as long labels as there can be."""
    languages = ["en", "de", "ja", "zh", "fr", "pt", "ru", "tr", "pl", "nl", "id", "lt", "ko", "und"]
    names = [(f"C{i}", languages[min(i % 40, i % 14)], f"name {i} " * (i % 9 + 1), "synonym", f"{'SOURCE_WITH_A_LONG_NAME_' * 3}{i % 23}") for i in range(900)]  # fmt: skip
    terminology(tmp_path / "t", [(c, lang, name.strip(), kind, source) for c, lang, name, kind, source in names])
    drawn, draw = {}, Text.draw
    monkeypatch.setattr(
        Text, "draw", lambda self, *words, **named: (drawn.setdefault(id(self), self), draw(self, *words, **named))[1]
    )
    save_plot(describe_terminology(StoredTerminology.open(tmp_path / "t"), tokenizer), tmp_path / "p.png")
    texts = [text for text in drawn.values() if text.get_text() and text.get_visible()]
    figure = texts[0].get_figure()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # at the resolution that the extents below are measured in
    renderer = canvas.get_renderer()
    boxes = {(text.get_text(), i): text.get_window_extent(renderer) for i, text in enumerate(texts)}
    assert len(boxes) > 150
    assert min(axes.get_position().width for axes in figure.axes) > 0.3
    items = [(key, box) for key, box in boxes.items() if box.width and box.height]
    width, height = figure.bbox.width, figure.bbox.height
    assert [key for key, box in items if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height] == []
    meeting = [
        (a, b)
        for n, (a, one) in enumerate(items)
        for b, other in items[n + 1 :]
        if one.padded(-1).overlaps(other.padded(-1))
    ]
    assert meeting == []
    assert np.ptp(imread(tmp_path / "p.png")[..., :3]) > 0.5


def test_unreadable_tokenizer_is_a_data_error(tmp_path):
    terminology(tmp_path / "t", [("A", "en", "x", "synonym", "S")])
    (tmp_path / "tokenizer.json").write_text("{}")
    for name in (tmp_path / "t", tmp_path, "no/such-model"):
        with pytest.raises(
            DataError, match="expected a folder with tokenizer.json, such a file, or a model on the Hugging Face Hub"
        ) as caught:
            describe_terminology(StoredTerminology.open(tmp_path / "t"), name)
        assert str(caught.value).startswith(f"{name}: ")


def test_plot_of_unknown_format_is_refused_before_the_work(tmp_path, run_here):
    done = run_here("-m", "data_prep", "describe", tmp_path / "nothing", "--plot", tmp_path / "p.pdf")
    assert (done.returncode, done.stderr) == (
        2,
        f"error: a plot is written as PNG or SVG: expected a file that ends in .png or .svg, found {tmp_path}/p.pdf\n",
    )


@pytest.mark.slow
def test_describe_imports_neither_torch_nor_matplotlib(tmp_path, tokenizer):
    terminology(tmp_path / "t", [("A", "en", "x", "synonym", "S")])
    code = f"""
import sys
from data_prep.__main__ import app
app(["describe", {str(tmp_path / "t")!r}, "--tokenizer", {str(tokenizer)!r}], standalone_mode=False)
sys.exit(bool({{"torch", "transformers", "matplotlib"}} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True).returncode == 0
