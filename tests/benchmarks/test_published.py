"""Published figures: the file in the repository, and every way in which such a file can be wrong."""

import re
import tomllib

import pytest
from pydantic import ValidationError

from benchmarks.accuracy.published import PUBLISHED_FILE, PublishedFigure, published_for, read_published
from xsap.errors import DataError

GOOD = """
[[sources]]
citation = "A. Body 2030"
url = "https://example.org/paper"
read = "paper"
figures = [
  { system = "Linker", benchmark = "mantra", language = "de", scores = { "acc@1" = 70, "acc@5" = 81.5 } },
  { system = "Linker", benchmark = "mantra", language = "mean", scores = { "acc@5" = 80.25 }, note = "sic" },
]

[[sources]]
citation = "B. Body 2031"
url = "http://example.org"
read = "second-hand"
figures = [{ system = "Linker", benchmark = "mantra", language = "de", scores = { "acc@1" = 70.0 } }]
"""


@pytest.fixture
def write(tmp_path):
    def to(text):
        path = tmp_path / "figures.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return to


def test_each_score_of_file_is_a_figure(write):
    found = [
        (f.system, f.benchmark, f.language, f.metric, f.value, f.source, f.url, f.read, f.note)
        for f in read_published(write("\ufeff" + GOOD))
    ]
    first = ("A. Body 2030", "https://example.org/paper", "paper")
    assert found == [
        ("Linker", "mantra", "de", "acc@1", 70.0, *first, ""),
        ("Linker", "mantra", "de", "acc@5", 81.5, *first, ""),
        ("Linker", "mantra", "mean", "acc@5", 80.25, *first, "sic"),
        ("Linker", "mantra", "de", "acc@1", 70.0, "B. Body 2031", "http://example.org", "second-hand", ""),
    ]


def test_figure_is_frozen_and_validated(write):
    figure = read_published(write(GOOD))[0]
    with pytest.raises(ValidationError):
        figure.value = 1.0
    with pytest.raises(ValidationError):
        PublishedFigure(**figure.model_dump() | {"value": 101.0})
    with pytest.raises(ValidationError):
        PublishedFigure(**figure.model_dump(), year=2030)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("81.5", "815", "sources 1, figures 1, scores, acc@5: .*less than or equal to 100; found 815"),
        ("81.5", "-1", "scores, acc@5: .*greater than or equal to 0; found -1"),
        ("81.5", "nan", "scores, acc@5: .*finite number; found nan"),
        ("81.5", "inf", "scores, acc@5: .*; found inf"),
        ("81.5", "true", "scores, acc@5: .*valid number; found True"),
        ("81.5", '"81.5"', "scores, acc@5: .*valid number; found '81.5'"),
        ("81.5", "1" + "0" * 400, "scores, acc@5: .*"),
        ("81.5", "69.9", "sources 1, figures 1: expected no lower a score for more candidates"),
        (
            '"acc@5" = 80.25',
            '"acc@3" = 80.25',
            "sources 1, figures 2, scores, acc@3.*: .*'acc@1' or 'acc@5'; found 'acc@3'",
        ),
        ('"acc@5" = 80.25', "", "sources 1, figures 2, scores: .*at least 1"),
        (
            'language = "mean"',
            'language = "German"',
            "language: expected 'mean' or an ISO 639-1 code such as de; found 'German'",
        ),
        (
            'language = "mean"',
            'language = "xx"',
            "language: expected 'mean' or an ISO 639-1 code such as de; found 'xx'",
        ),
        (
            'language = "mean"',
            'language = "de"',
            r"sources 1: expected each figure once, found Linker on mantra \(de\) twice",
        ),
        (
            'benchmark = "mantra", language = "mean"',
            'benchmark = "Mantra GSC", language = "mean"',
            "figures 2, benchmark: .*; found 'Mantra GSC'",
        ),
        (
            'benchmark = "mantra", language = "mean"',
            'language = "mean"',
            "sources 1, figures 2, benchmark: must be given",
        ),
        ('note = "sic"', 'notes = "sic"', "sources 1, figures 2, notes: unknown key"),
        ('read = "second-hand"', 'read = "hearsay"', "sources 2, read: .*'paper' or 'second-hand'; found 'hearsay'"),
        ('read = "second-hand"', "", "sources 2, read: must be given"),
        ('citation = "B. Body 2031"', 'citation = " "', "sources 2, citation: .*at least 1 character"),
        ('url = "http://example.org"', 'url = "example.org"', "sources 2, url: .*; found 'example.org'"),
        ("[[sources]]", "[[source]]", "source: unknown key|sources: must be given"),
        (GOOD, "sources = 3", "sources: .*list; found 3"),
        (GOOD, "", "sources: must be given"),
        (GOOD, GOOD + "\nyear = 2030", "sources 2, year: unknown key"),
    ],
)
def test_each_error_is_one_line(write, old, new, message):
    path = write(GOOD.replace(old, new))
    with pytest.raises(DataError, match=f"^{re.escape(str(path))}: (.*{message})") as error:
        read_published(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["[[sources]\n", b"note = '\xff'", 'a = "1\n2"'])
def test_malformed_toml_is_reported(write, content):
    path = write(content)
    with pytest.raises(DataError, match=f"^{re.escape(str(path))}: not a TOML file: ") as error:
        read_published(path)
    assert "\n" not in str(error.value)


def test_missing_file_is_reported(tmp_path):
    with pytest.raises(DataError, match="expected a TOML file of published figures, found nothing there"):
        read_published(tmp_path / "gone.toml")
    with pytest.raises(DataError, match="found a folder there"):
        read_published(tmp_path)


# What ships


def test_shipped_file_matches_plain_reading():
    """A second, plain reading of the file."""
    found = read_published()
    plain = [
        (source["citation"], row["system"], row["benchmark"], row["language"], metric, value)
        for source in tomllib.loads(PUBLISHED_FILE.read_text(encoding="utf-8"))["sources"]
        for row in source["figures"]
        for metric, value in row["scores"].items()
    ]
    assert [(f.source, f.system, f.benchmark, f.language, f.metric, f.value) for f in found] == plain
    assert len(set(plain)) == len(plain)


def test_published_for_selects_one_benchmark():
    everything = read_published()
    benchmarks = {figure.benchmark for figure in everything}
    assert benchmarks == {"xlbel-v0", "xlbel-v1", "mantra", "quaero-emea", "codiesp-d", "cantemist"}
    assert sum(len(published_for(benchmark)) for benchmark in benchmarks) == len(everything)
    assert [(f.system, f.metric, f.value) for f in published_for("mantra")] == [
        ("SapBERT-XLMR", "acc@1", 73.4),
        ("SapBERT-XLMR", "acc@5", 87.0),
        ("BERGAMOT", "acc@1", 77.9),
        ("BERGAMOT", "acc@5", 89.9),
    ]
    assert published_for("xlbel") == published_for("nobody-published-this") == []  # the whole key, not its beginning


def test_shipped_figures_state_how_they_were_read():
    """Change this with the file, when somebody has read a figure in its source."""
    assert {(figure.source.split(",")[0], figure.read) for figure in read_published()} == {
        ("Sakhovskiy et al.", "second-hand"),
        ("Wang et al. 2026 (BioELX)", "second-hand"),
    }
