"""Bitext: pairs of translations become concepts of two names."""

import pytest

from data_prep.assemble import Assembly
from data_prep.bitext import read_bitext
from xsap.errors import ConfigError, DataError
from xsap.terms.terminology import Terminology


def read(folder, text, languages="en,de", name="muse.txt"):
    file = folder / name
    file.write_text(text, encoding="utf-8")
    with Assembly(200_000_000) as assembly:
        _, counts = assembly.save(folder / "out", *read_bitext([file], assembly, languages=languages), overwrite=True)
    return Terminology.load(folder / "out"), counts


@pytest.mark.parametrize("separator", [" ", "\t", "||"])
def test_bitext_line_becomes_concept_of_two_names(tmp_path, separator):
    lines = ["the die", "House Haus", "", "house haus", "taxi Taxi", "fever Fieber"]
    terminology, counts = read(tmp_path, "\n".join(line.replace(" ", separator) for line in lines) + "\n")
    rows = [(r["concept_id"], r["language"], r["name"], r["source"]) for r in terminology.names.to_pylist()]
    expected = [("muse:1", "de", "die"), ("muse:1", "en", "the"), ("muse:2", "de", "Haus"), ("muse:2", "en", "House")]
    expected += [("muse:6", "de", "Fieber"), ("muse:6", "en", "fever")]
    assert rows == [(*row, "muse") for row in expected]
    assert (counts.rows_in, counts.kept, dict(counts.dropped)) == (10, 6, {"both names equal": 2, "repeated pair": 2})


def test_bitext_phrases_need_a_tab_and_identifiers_are_ignored(tmp_path):
    terminology, _ = read(tmp_path, "heart attack\tHerzinfarkt\n")
    assert terminology.names["name"].to_pylist() == ["Herzinfarkt", "heart attack"]
    terminology, _ = read(tmp_path, "muse_0||heart||Herz\n")
    assert terminology.names["name"].to_pylist() == ["Herz", "heart"]
    with pytest.raises(
        DataError,
        match=r"muse.txt:2: expected two columns separated by a tab, a space or \|\|, found 3; separate phrases",
    ):
        read(tmp_path, "a b\nheart attack Herzinfarkt\n")


@pytest.mark.parametrize("languages", ["en", "en,eng", "en,de,fr", ""])
def test_bitext_needs_two_languages(tmp_path, languages):
    with pytest.raises(ConfigError, match="expected the languages of the two columns such as en,de, found"):
        read(tmp_path, "a b\n", languages)


def test_bitext_pair_with_empty_name_is_counted(tmp_path):
    terminology, counts = read(tmp_path, "a\t\u200b\nfever\tFieber\n")
    assert (terminology.names.num_rows, dict(counts.dropped)) == (2, {"no name": 2})
