import csv
import io
import json
import os
import re
import shutil
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import typer

from xsap.cli import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def index_folder(tmp_path_factory, run, tiny_folder, sample_folder):
    """Built as a user builds it, in a process of its own."""
    out = tmp_path_factory.mktemp("cli") / "index"
    done = run("-m", "xsap.cli", "index", tiny_folder, sample_folder, "--out", out)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"{out}: ")
    return out


@pytest.fixture(scope="module")
def other_model(tmp_path_factory, tiny_folder):
    """The same model with other weights."""
    import torch

    from xsap.encoding.encoder import Encoder

    encoder = Encoder.from_pretrained(tiny_folder)
    with torch.no_grad():
        next(encoder.transformer.parameters()).add_(0.1)
    folder = tmp_path_factory.mktemp("other") / "model"
    encoder.save_pretrained(folder)
    return folder


@pytest.fixture
def xsap(capsys):
    """A command line in this process: (exit code, stdout, stderr)."""

    def call(*words):
        with pytest.raises(SystemExit) as stop:
            main(list(map(str, words)))
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return call


@pytest.fixture
def refused(xsap):
    """A command line that must end with exit code 2, nothing on stdout, and one line on stderr, which it returns."""

    def call(*words):
        code, out, err = xsap(*words)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err[7:-1]

    return call


@pytest.fixture
def stdin(monkeypatch):
    """Put bytes on stdin."""
    return lambda data: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def names_of(sample_folder, n):
    """n English names of the sample, each of one concept: with (concept_id, name)."""
    from xsap.terms.terminology import Terminology

    rows = Terminology.load(sample_folder).select(languages={"en"}).names.to_pylist()
    folded = [row["name"].casefold() for row in rows]
    return [(row["concept_id"], row["name"]) for row in rows if folded.count(row["name"].casefold()) == 1][:n]


def test_link_of_a_dictionary_name_gives_its_concept(run, index_folder, sample_folder):
    concept, name = names_of(sample_folder, 1)[0]
    done = run(
        "-m", "xsap.cli", "link", name.upper(), "fiebre", "", "--index", index_folder, "--top-k", 3, "--format", "jsonl"
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["mention"] for row in rows] == [name.upper()] * 3 + ["fiebre"] * 3 + [""]
    assert (rows[0]["concept_id"], rows[0]["score"]) == (concept, pytest.approx(1, abs=1e-5))
    assert [row["rank"] for row in rows] == [1, 2, 3, 1, 2, 3, None]
    assert rows[-1]["reason"] == "the mention is empty"
    assert len({row["concept_id"] for row in rows[:3]}) == 3


@pytest.mark.slow
def test_link_stops_quietly_when_stdout_is_closed(index_folder, tmp_path, template):
    (tmp_path / "mentions").write_bytes(b"".join(b"fever %d\n" % i for i in range(3000)))
    read, write = os.pipe()
    with (tmp_path / "mentions").open() as mentions, (tmp_path / "stderr").open("w") as errors:
        words = ["-m", "xsap.cli", "link", "--index", index_folder, "--format", "csv"]
        started = template.start(words, stdin=mentions.fileno(), stdout=write, stderr=errors.fileno())
    os.close(write)
    os.close(read)
    assert (started.wait(), (tmp_path / "stderr").read_text()) == (0, "")


def test_link_file_keeps_all_other_columns(xsap, tmp_path, index_folder):
    file = tmp_path / "terms.csv"
    file.write_text(
        '\ufeffid,term,name\n1,"fever, high",x\n2,   ,y\n3,fiebre,"two\nlines"\n4,%s,z\n' % ("x" * 100_000),
        encoding="utf-8",
    )
    code, out, _ = xsap(
        "link", "--file", file, "--column", "term", "--index", index_folder, "--top-k", 2, "--format", "csv"
    )
    rows = list(csv.DictReader(io.StringIO(out, newline="")))
    assert code == 0
    assert [(row["id"], row["name"], row["rank"]) for row in rows] == [
        ("1", "x", "1"), ("1", "x", "2"), ("2", "y", ""), ("3", "two\nlines", "1"), ("3", "two\nlines", "2"), ("4", "z", ""),
    ]  # fmt: skip
    assert rows[2]["reason"] == "the mention is blank"
    assert rows[5]["reason"] == "the mention has 100,000 characters; a term has at most 2,000"
    assert all(row["linked_name"] for row in rows if row["rank"])


def test_link_writes_the_format_of_the_ending(xsap, tmp_path, index_folder):
    code, out, _ = xsap("link", "fever", "--index", index_folder, "--out", tmp_path / "linked.tsv", "--top-k", 2)
    assert (code, out) == (0, "")
    lines = (tmp_path / "linked.tsv").read_text().split("\n")
    assert lines[0].split("\t") == [
        "mention", "rank", "concept_id", "name", "vocabulary", "code", "matched_name", "language", "source", "semantic_types", "codes", "score", "confidence", "match", "reason",
    ]  # fmt: skip
    assert len(lines) == 4
    assert [file.name for file in tmp_path.iterdir()] == ["linked.tsv"]


def test_link_reads_terms_from_stdin(xsap, stdin, index_folder):
    stdin("\ufefffièvre\r\n\r\nfever\n".encode())
    code, out, _ = xsap("link", "--index", index_folder, "--top-k", 1)
    lines = out.splitlines()
    assert code == 0
    assert lines[0].startswith("rank   score  concept ")
    assert (lines[1], lines[3], lines[4].strip(), lines[5]) == ("fièvre", "(blank)", "the mention is empty", "fever")
    assert len(lines) == 7


def test_link_refuses_wrong_input_in_one_line(refused, stdin, monkeypatch, tmp_path, index_folder):
    (tmp_path / "t.csv").write_text("id,terms\n1,fever\n")
    link = ("link", "--index", index_folder)
    assert refused(*link, "--file", tmp_path / "t.csv").endswith(
        "expected a column 'term', found id, terms; did you mean 'terms'?"
    )
    assert "found both: 'fever' and" in refused(*link, "fever", "--file", tmp_path / "t.csv")
    assert "found nothing there" in refused(*link, "--file", tmp_path / "none.csv")
    assert "found nothing there" in refused("link", "fever", "--index", tmp_path / "none")
    assert refused(*link, "fever", "--top-k", 0) == "top_k must be at least 1, found 0"
    assert "--format" in refused(*link, "fever", "--format", "xml")
    assert "--index" in refused("link", "fever")
    assert refused("link", "fever").endswith("'--index'. See xsap --help")
    assert refused(*link, "fever", "--top-k", "x").endswith("string as an integer. See xsap --help")
    assert refused(*link, "fever", "--sheet", "S") == "--sheet 'S' needs --file, found none; remove it or add --file"
    assert "See xsap --help" in refused("linke")
    stdin(b"fi\xe8vre\n")
    assert refused(*link).startswith("stdin: expected UTF-8, found byte 0xe8 at offset 2")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert refused(*link).startswith("expected terms as arguments, on stdin")


def test_link_replaces_a_file_only_with_overwrite(xsap, refused, tmp_path, index_folder):
    (tmp_path / "out.csv").write_text("before")
    words = ("link", "fever", "--index", index_folder, "--out", tmp_path / "out.csv")
    assert refused(*words) == f"{tmp_path}/out.csv exists already; choose another path, or replace it with --overwrite"
    refused(*words, "--overwrite", "--top-k", 0)
    assert (tmp_path / "out.csv").read_text() == "before"
    assert xsap(*words, "--overwrite")[0] == 0
    assert (tmp_path / "out.csv").read_text() != "before"


def test_link_with_another_model_names_the_command_that_rebuilds(refused, index_folder, other_model):
    line = refused("link", "fever", "--index", index_folder, "--model", other_model)
    assert line.startswith(f"{index_folder} was built with model ")
    assert f"not with {other_model} (" in line
    assert line.endswith(f"Rebuild it: xsap index {other_model} TERMINOLOGY --out {index_folder} --overwrite")


def test_link_with_another_pooling_names_the_command_that_rebuilds(refused, tmp_path, tiny_folder, index_folder):
    shutil.copytree(tiny_folder, tmp_path / "model")
    (tmp_path / "model" / "manifest.json").unlink()
    described = tmp_path / "model" / "xsap.json"
    described.write_text(described.read_text().replace('"mean"', '"cls"'))
    line = refused("link", "fever", "--index", index_folder, "--model", tmp_path / "model")
    assert "was built with another model than" in line
    assert "pooling" in line
    assert "Rebuild it: " in line


def test_moved_model_is_accepted_by_its_hash(xsap, refused, tmp_path, tiny_folder, sample_folder):
    shutil.copytree(tiny_folder, tmp_path / "model")
    assert xsap("index", tmp_path / "model", sample_folder, "--out", tmp_path / "index")[0] == 0
    shutil.move(tmp_path / "model", tmp_path / "moved")
    line = refused("link", "fever", "--index", tmp_path / "index")
    assert f"no longer at {tmp_path / 'model'}; give --model" in line
    assert xsap("link", "fever", "--index", tmp_path / "index", "--model", tmp_path / "moved")[0] == 0


def test_index_refuses_wrong_input_in_one_line(refused, tmp_path, tiny_folder, sample_folder, index_folder):
    before = (index_folder / "manifest.json").read_bytes()
    assert "exists already" in refused(
        "index", "no-model", "no-terminology", "--out", index_folder
    )  # said before any work
    assert (index_folder / "manifest.json").read_bytes() == before
    out = ("--out", tmp_path / "index")
    assert "expected a terminology with names in nl; found " in refused(
        "index", tiny_folder, sample_folder, *out, "--languages", "nl"
    )
    assert "unknown language 'Germn'" in refused("index", tiny_folder, sample_folder, *out, "--languages", "Germn")
    assert "expected a terminology folder, found a model folder" in refused("index", tiny_folder, tiny_folder, *out)
    assert "found nothing there" in refused("index", tmp_path / "none", sample_folder, *out)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def mentions(tmp_path, sample_folder):
    """Thirty names of the dictionary itself as mentions in two languages, one of them with no concept of the dictionary."""
    rows = [
        f"{name}\t{'de' if i % 2 else 'es'}\t{concept}" for i, (concept, name) in enumerate(names_of(sample_folder, 30))
    ]
    rows[0] = "fiebre alta\tes\tX9"
    file = tmp_path / "mentions.tsv"
    file.write_text("\n".join(["mention\tlanguage\tconcept_ids", *rows]) + "\n", encoding="utf-8")
    return file


def test_evaluate_of_dictionary_names_scores_one(xsap, tmp_path, mentions, index_folder):
    code, out, _ = xsap("evaluate", mentions, "--index", index_folder, "--json")
    report = json.loads(out)
    assert code == 0
    assert (report["protocol"], report["k"], set(report["languages"])) == ("concept", 10, {"de", "es"})
    assert report["languages"]["de"] | {"mrr": None, "mrr_interval": None} == {
        "n": 15, "gold_not_in_dictionary": 0, "mrr": None, "mrr_interval": None,
        **{f"acc@{k}{suffix}": [1, 1] if suffix else 1 for k in (1, 5, 10) for suffix in ("", "_interval")},
    }  # fmt: skip
    assert report["languages"]["es"]["acc@1"] == pytest.approx(14 / 15)
    assert report["mean"]["gold_not_in_dictionary"] == 1
    assert report["dictionary"]["concepts"] > 100
    assert len(report["model"]) == len(report["mentions"]["sha256"]) == 64
    assert report["risk_coverage"]["curve"][-1] == pytest.approx([1, 1 / 30])
    code, out, err = xsap("evaluate", mentions, "--index", index_folder, "--plot", tmp_path / "risk.svg")
    assert code == 0
    assert "risk.svg: risk-coverage curve" in err
    assert "<svg" in (tmp_path / "risk.svg").read_text()
    assert out.splitlines()[4].startswith("mean")
    assert out.splitlines()[-1].startswith("wrong")


@pytest.mark.slow
def test_reference_protocol_agrees_on_index_and_file(
    xsap, tmp_path, mentions, index_folder, sample_folder, tiny_folder
):
    """Mean pooling of raw vectors: a long vector may beat the name itself, so nothing is sure but that it runs, alike both ways."""
    from xsap.linking.index import Index

    index = Index.load(index_folder)
    ids, owners = index.concepts["concept_id"].to_pylist(), index.dictionary.name_concepts
    names = enumerate(index.names["name"].to_pylist())
    lines = [
        f"{ids[c]}||{name}" for row, name in names for c in owners.concepts[owners.starts[row] : owners.starts[row + 1]]
    ]
    (tmp_path / "dict.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    reference = ("--protocol", "reference", "--json")
    by_index = json.loads(xsap("evaluate", mentions, "--index", index_folder, *reference)[1])
    by_file = json.loads(
        xsap("evaluate", mentions, "--model", tiny_folder, "--dictionary", tmp_path / "dict.txt", *reference)[1]
    )
    assert by_index["languages"] == by_file["languages"]
    assert {f"acc@{k}" for k in range(1, 11)} < set(by_file["mean"])
    assert by_file["dictionary"]["names"] == len(lines)


@pytest.mark.slow
def test_ann_search_end_to_end(
    xsap, refused, tmp_path, monkeypatch, mentions, index_folder, sample_folder, tiny_folder
):
    pytest.importorskip("usearch")
    words = ("index", tiny_folder, sample_folder, "--ann", "--out")
    code, out, err = xsap(*words, tmp_path / "index")
    assert (code, out) == (0, "")
    assert re.search(
        r" names of [\d,]+ concepts; the HNSW index finds (9\d\.\d|100\.0) % of the 64 nearest names\n$", err
    )
    scores = {}
    for options in ((), ("--ann",)):
        report = json.loads(xsap("evaluate", mentions, "--index", tmp_path / "index", "--json", *options)[1])
        scores[options] = report["mean"]["acc@1"]
        assert (report["dictionary"]["search"] == "exact") == (not options)
        code, out, _ = xsap("link", "fever", "--index", tmp_path / "index", "--format", "jsonl", "--top-k", 1, *options)
        assert (code, json.loads(out)["mention"]) == (0, "fever")
    assert scores[("--ann",)] == pytest.approx(scores[()], abs=0.04)
    for command in (("link", "fever"), ("evaluate", mentions)):
        line = refused(*command, "--index", index_folder, "--ann")
        assert line.startswith(f"{index_folder} has no HNSW index")
    assert "compares all names" in refused(
        "evaluate", mentions, "--index", index_folder, "--ann", "--protocol", "reference"
    )
    monkeypatch.setitem(sys.modules, "usearch", None)
    assert "pip install 'xsap[ann]'" in refused("link", "fever", "--index", tmp_path / "index", "--ann")
    assert "pip install 'xsap[ann]'" in refused(
        "index", "no-model", "no-terminology", "--ann", "--out", tmp_path / "new"
    )
    assert "pip install 'xsap[ann]'" in refused("merge", tmp_path / "none", "--ann", "--out", tmp_path / "new")
    assert xsap("link", "fever", "--index", tmp_path / "index")[0] == 0


@pytest.mark.parametrize("precision", [pytest.param("bfloat16", marks=pytest.mark.slow), "int8"])
def test_dtype_end_to_end(xsap, refused, tmp_path, monkeypatch, mentions, sample_folder, tiny_folder, precision):
    from xsap.encoding import encoder
    from xsap.encoding.int8 import int8_is_faster

    option = ("--dtype", precision)
    if precision == "int8" and not int8_is_faster():
        pytest.skip("this processor has no fast int8 products")
    assert xsap("index", tiny_folder, sample_folder, "--out", tmp_path / "index", *option)[0] == 0
    assert json.loads((tmp_path / "index" / "manifest.json").read_text(encoding="utf-8"))["model"]["dtype"] == precision
    words = ("index", tiny_folder, sample_folder, "--out", tmp_path / "new", "--reuse", tmp_path / "index")
    assert "was built with another model, or with other options of this one" in refused(*words, "--dtype", "float32")
    assert ", encoded 0, " in xsap(*words, *option)[2]
    assert ", encoded 0, " in xsap(*words, "--overwrite")[2]  # auto is the dtype of the older index
    assert json.loads((tmp_path / "new" / "manifest.json").read_text(encoding="utf-8"))["model"]["dtype"] == precision
    reports = [
        json.loads(xsap("evaluate", mentions, "--index", tmp_path / "index", "--json", *more)[1])
        for more in ((), option)
    ]
    assert reports[0]["mean"]["acc@1"] == pytest.approx(reports[1]["mean"]["acc@1"], abs=0.04)
    assert [report["dtype"] for report in reports] == ["float32", precision]
    out = xsap("link", "fever", "--index", tmp_path / "index", "--format", "jsonl", "--top-k", 1, *option)[1]
    assert json.loads(out)["mention"] == "fever"
    (tmp_path / "names.txt").write_text("fever\nfiebre\n", encoding="utf-8")
    for file, more in (("exact.npy", ()), ("near.npy", option)):
        assert xsap("encode", tiny_folder, "--names", tmp_path / "names.txt", "--out", tmp_path / file, *more)[0] == 0
    exact, near = np.load(tmp_path / "exact.npy"), np.load(tmp_path / "near.npy")
    assert not np.array_equal(exact, near)
    assert (exact * near).sum(1).min() > 0.99
    if precision == "int8":
        monkeypatch.setattr(encoder, "int8_is_faster", lambda: False)
        for words in (
            ("link", "fever", "--index", tmp_path / "index"),
            ("index", tiny_folder, sample_folder, "--out", tmp_path / "other"),
        ):
            assert refused(*words, *option).startswith("dtype int8 needs a CPU with VNNI instructions")


def test_evaluate_refuses_wrong_input_in_one_line(refused, tmp_path, mentions, index_folder, tiny_folder):
    evaluate, index, model = ("evaluate", mentions), ("--index", index_folder), ("--model", tiny_folder)
    assert "found neither" in refused(*evaluate)
    assert "found both" in refused(*evaluate, *index, "--dictionary", mentions)
    assert "needs --model" in refused(*evaluate, "--dictionary", mentions, "--protocol", "reference")
    assert "needs --protocol reference" in refused(*evaluate, "--dictionary", mentions, *model)
    assert "an index records them" in refused(*evaluate, *index, "--pooling", "cls")
    assert "an index records them" in refused(*evaluate, *index, "--prompt", "")
    assert "found nothing there" in refused("evaluate", tmp_path / "none.tsv", *index)
    assert "mentions.tsv:1: expected id||name" in refused(
        *evaluate, "--dictionary", mentions, *model, "--protocol", "reference"
    )
    (tmp_path / "risk.svg").touch()
    assert "ends in .png or .svg" in refused(*evaluate, *index, "--plot", tmp_path / "risk.pdf")
    assert "exists already" in refused(*evaluate, *index, "--plot", tmp_path / "risk.svg")
    assert "--plot needs --protocol concept" in refused(
        *evaluate, *index, "--protocol", "reference", "--plot", tmp_path / "other.svg"
    )
    (tmp_path / "gold.tsv").write_text("mention\tlanguage\nfiebre\tes\n")
    assert "none that has any" in refused("evaluate", tmp_path / "gold.tsv", *index)


def test_help_lists_every_command(xsap):
    assert xsap("--help")[0] == 0
    assert "--format" in xsap("link", "--help")[1]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, typer.Abort])  # typer has handed on the one, and now the other
def test_interruption_exits_with_130(xsap, monkeypatch, stop):
    monkeypatch.setattr("xsap.commands.index.parse_languages", Mock(side_effect=stop))
    assert xsap("index", "a", "b", "--out", "c")[0] == 130


def test_unwritable_file_fails_in_one_line(xsap, tmp_path, index_folder):
    (tmp_path / "file").write_text("")
    code, out, err = xsap("link", "fever", "--index", index_folder, "--out", tmp_path / "file" / "linked.csv")
    assert (code, out) == (2, "")
    assert (
        err
        == f"error: {tmp_path}/file/linked.csv: a file can't be written there: Not a directory; choose another path\n"
    )


def test_defect_shows_its_traceback(monkeypatch):
    monkeypatch.setattr("xsap.commands.index.parse_languages", Mock(side_effect=ZeroDivisionError))
    with pytest.raises(ZeroDivisionError):
        main(["index", "a", "b", "--out", "c"])


def test_link_takes_out_notes_and_writes_out_abbreviations_as_columns(xsap, refused, tmp_path, index_folder):
    (tmp_path / "abbreviations.csv").write_text("abbreviation,expansion\nFBR,fever\nXY,a\nXY,b\n", encoding="utf-8")
    (tmp_path / "terms.csv").write_text("term,note\nV.a. FBR li.,1\nfever,2\n,3\nkein FBR,4\n", encoding="utf-8")
    words = ("link", "--file", tmp_path / "terms.csv", "--index", index_folder, "--top-k", 1)
    asked = ("--clean", "--abbreviations", tmp_path / "abbreviations.csv", "--language", "de")
    code, _, err = xsap(*words, *asked, "--out", tmp_path / "linked.jsonl")
    assert code == 0
    assert "abbreviations: 1; with several expansions, not used: 1 (XY)" in err
    rows = [json.loads(line) for line in (tmp_path / "linked.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["note"] for row in rows] == ["1", "2", "3", "4"]
    assert [(row["cleaned"], row["suspected"], row["negated"], row["laterality"]) for row in rows] == [
        ("FBR", True, False, "left"), (None, False, False, None), (None, False, False, None), ("FBR", False, True, None),
    ]  # fmt: skip
    assert rows[0]["removed"] == ["V.a.", "li."]
    assert [row["expansion"] for row in rows] == ["fever", None, None, "fever"]
    assert rows[0]["concept_id"] == rows[1]["concept_id"] == rows[3]["concept_id"]
    assert xsap(*words, "--out", tmp_path / "plain.jsonl")[0] == 0
    assert "cleaned" not in json.loads((tmp_path / "plain.jsonl").read_text(encoding="utf-8").splitlines()[0])
    (tmp_path / "notes.csv").write_text("term,note\nFVR,He has fever (FVR).\nFVR,none\n", encoding="utf-8")
    notes = ("link", "--file", tmp_path / "notes.csv", "--index", index_folder, "--top-k", 1)
    assert xsap(*notes, "--context-column", "note", "--out", tmp_path / "notes.jsonl")[0] == 0
    found = [json.loads(line) for line in (tmp_path / "notes.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["expansion"], row["expansion_source"]) for row in found] == [("fever", "context"), (None, None)]
    assert found[0]["concept_id"] == rows[1]["concept_id"]
    assert "Klingon" in refused(*words, "--language", "Klingon")
    assert "none.csv" in refused(*words, "--abbreviations", tmp_path / "none.csv")
