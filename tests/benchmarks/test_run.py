"""`python -m benchmarks linking` and `report` as a user types them, on synthetic fragments: interrupted and resumed, repeated, and compared."""

import getpass
import json
import re
import shutil
import signal
import socket
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import app
from xsap.cli import app as xsap_app
from xsap.terminal import run as run_app
from xsap.terms.mentions import read_mentions
from xsap.terms.terminology import Terminology
from xsap.text import EXACT_MATCH, normalize

MENTIONS = {
    "de_1k_test_query.txt": "C9000001||Fieber\nC9000001||fever\nC9000002|C9000001||Wackeln\nC9999999||Leberrauschen\n",
    "es_1k_test_query.txt": "C9000001||Elevated body  temperature\nC9000002||tembleque\nC9000002||fever\n",
    "zh_1k_test_query.txt": "C9000003||发热\n",
}
DICTIONARY = "C9000001||fever\nC9000001||elevated body temperature\nC9000002||shakes\nC9000002|C9000003||tremble\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_folder, sample_folder):
    """A folder with XL-BEL's files, a dictionary, a model, and an index of the sample terminology; the current folder of the user."""
    folder = tmp_path_factory.mktemp("linking")
    (folder / "xlbel").mkdir()
    for name, text in MENTIONS.items():
        (folder / "xlbel" / name).write_text(text, encoding="utf-8")
    (folder / "dict.txt").write_text(DICTIONARY, encoding="utf-8")
    (folder / "tiny").symlink_to(tiny_folder)
    (folder / "sample").symlink_to(sample_folder)
    words = ("index", tiny_folder, sample_folder, "--languages", "en", "--out", folder / "index")
    with pytest.raises(SystemExit) as stop:
        run_app(xsap_app, "xsap", [*map(str, words)])
    assert not stop.value.code
    return folder


@pytest.fixture
def bench(folder, monkeypatch, capsys):
    """A command line in this process: (exit code, stdout, stderr)."""

    def call(*words):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["benchmarks", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            run_app(app, "python -m benchmarks", [*map(str, words)])
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return call


SYSTEMS = (
    "--system",
    "exact",
    "--system",
    "tfidf",
    "--system",
    "exact+tfidf",
    "--system",
    "tiny",
    "--system",
    "both=tiny+tfidf",
)
COMMAND = ("linking", "--task", "xlbel-v0", "--data", "xlbel=xlbel", "--dictionary", "dict.txt", *SYSTEMS)
INTO_SAMPLE = (
    "linking",
    "--task",
    "xlbel-v0",
    "--data",
    "xlbel=xlbel",
    "--dictionary",
    "sample",
    "--data",
    "training=sample",
)


def content_of(folder):
    """results.json without what no two runs share."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return {key: value for key, value in results.items() if key not in ("command", "created", "sha256")}


@pytest.fixture(scope="module")
def whole(folder, run):
    """A run that nobody disturbs."""
    done = run("-m", "benchmarks", *COMMAND, "--out", "whole", cwd=folder)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    return done


def test_reference_protocol_can_be_left_out(folder, whole, bench):
    code, _, err = bench(*COMMAND, "--no-reference", "--no-ablation", "--out", "concept-only", "--work", "concept-work")
    assert code == 0, err
    full, part = (content_of(folder / name)["scores"]["xlbel-v0"]["scores"] for name in ("whole", "concept-only"))
    assert {system: {"concept": each["concept"]} for system, each in full.items()} == part
    assert "reference Acc@1" in (folder / "whole" / "report.md").read_text(encoding="utf-8")
    report = (folder / "concept-only" / "report.md").read_text(encoding="utf-8")
    assert "reference Acc@1" not in report
    assert "by language, protocol reference" not in report
    encoded = [path for path in (folder / "concept-work" / "vectors").iterdir() if path.is_dir()]
    assert len(encoded) == 1  # the dictionary once, under the model's own text policy


def test_linking_command_writes_results_and_report(folder, whole):
    assert whole.stderr.splitlines() == [
        *(f"[1/1] xlbel-v0 × {system}" for system in ("exact", "tfidf", "exact+tfidf", "tiny", "both")),
        "whole: report.html, report.md, report.csv, report.tex, results.json",
    ]
    results = content_of(folder / "whole")
    scores = results["scores"]["xlbel-v0"]["scores"]
    assert {code: row["n"] for code, row in scores["exact"]["concept"].items()} == {
        "de": 4,
        "es": 3,
        "zh": 1,
        "mean": 8,
    }
    assert {code: row["scores"]["acc@1"][0] for code, row in scores["exact"]["concept"].items()} == pytest.approx(
        {"de": 0.25, "es": 1 / 3, "zh": 0, "mean": 7 / 36}, abs=1e-6
    )
    assert scores["exact"]["concept"]["de"]["gold_not_in_dictionary"] == 1
    assert scores["tfidf"]["concept"]["mean"]["scores"]["acc@1"][0] >= 7 / 36 - 1e-6
    assert results["systems"]["exact+tfidf"] == {"kind": "fused", "of": [{"kind": "exact"}, {"kind": "tfidf"}]}
    assert results["systems"]["tiny"]["pooling"] == "mean"
    assert set(results["ablations"]["xlbel-v0"]) == {"tiny"}
    report = (folder / "whole" / "report.md").read_text(encoding="utf-8")
    command = "python -m benchmarks " + " ".join(COMMAND) + " --out whole"
    assert f"| command | {command} |" in report
    for heading in (
        "## xlbel-v0",
        "### Published figures",
        "### Ablation of case and similarity",
        "### Examples: both",
        "## Provenance",
    ):
        assert f"\n{heading}\n" in report


@pytest.mark.slow
def test_linking_resumes_after_sigkill(folder, whole, bench, template):
    with template.reading("stderr", ["-m", "benchmarks", *COMMAND, "--out", "cut"], folder) as started:
        assert any("× tiny" in line for line in started.output)
        started.kill(signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL
    assert not (folder / "cut" / "results.json").exists()
    done = {
        file.name: file.stat().st_mtime_ns
        for file in (folder / "cut" / "answers").iterdir()
        if not file.name.startswith(".")
    }
    assert len(done) >= 3
    code, _, err = bench(*COMMAND, "--out", "cut")
    assert code == 0
    kept = [line.removeprefix("[1/1] xlbel-v0 × ") for line in err.splitlines() if line.startswith("[")]
    assert kept[:3] == [
        "exact: kept from an earlier run",
        "tfidf: kept from an earlier run",
        "exact+tfidf: kept from an earlier run",
    ]
    assert kept[4] == "both"
    assert content_of(folder / "cut") == content_of(folder / "whole")
    for name, at in done.items():
        assert (folder / "cut" / "answers" / name).stat().st_mtime_ns == at, "answered again"


def test_second_run_computes_nothing_and_gives_same_results(folder, whole, bench):
    before = content_of(folder / "whole")
    pages = {name: (folder / "whole" / name).read_text(encoding="utf-8") for name in ("report.html", "report.md")}
    files = {
        file: file.stat().st_mtime_ns
        for part in ("answers", "work")
        for file in (folder / "whole" / part).rglob("*")
        if file.is_file()
    }
    code, out, err = bench(*COMMAND, "--out", "whole")
    assert (code, out) == (0, "")
    assert [line.endswith(": kept from an earlier run") for line in err.splitlines()[:-1]] == [True] * 5
    assert content_of(folder / "whole") == before
    assert {
        file: file.stat().st_mtime_ns
        for part in ("answers", "work")
        for file in (folder / "whole" / part).rglob("*")
        if file.is_file()
    } == files
    again = {name: (folder / "whole" / name).read_text(encoding="utf-8") for name in pages}
    moment = re.compile(r"20\d\d-\d\d-\d\dT[\d:+]+")
    assert {name: moment.sub("", text) for name, text in again.items()} == {
        name: moment.sub("", text) for name, text in pages.items()
    }
    for name in pages:
        (folder / "whole" / name).unlink()
    assert bench("report", "whole") == (0, "", "whole: report.html, report.md, report.csv, report.tex\n")
    assert {
        name: (folder / "whole" / name).read_text(encoding="utf-8") for name in pages
    } == again  # out of results.json alone


def test_mentions_in_other_order_get_same_scores(folder, whole, bench):
    (folder / "reversed-xlbel").mkdir()
    for name, text in MENTIONS.items():
        (folder / "reversed-xlbel" / name).write_text("\n".join(reversed(text.splitlines())) + "\n", encoding="utf-8")
    command = [word.replace("xlbel=xlbel", "xlbel=reversed-xlbel") for word in COMMAND]
    assert bench(*command, "--out", "reversed")[0] == 0
    before, after = content_of(folder / "whole"), content_of(folder / "reversed")
    keys = [each["scores"]["xlbel-v0"].pop("answers") for each in (before, after)]
    assert keys[0].keys() == keys[1].keys()
    assert not set(keys[0].values()) & set(keys[1].values())
    assert after == before


def test_index_and_its_model_get_same_scores(folder, bench):
    command = (*INTO_SAMPLE, "--system", "index:index", "--system", "exact", "--system", "m=tiny@mean", "--no-ablation")
    code, _, err = bench(*command, "--out", "sampled", "--work", "kept")
    assert code == 0, err
    results = content_of(folder / "sampled")
    scores = results["scores"]["xlbel-v0"]["scores"]
    assert list(scores) == ["index", "exact", "m"]
    assert scores["index"] == scores["m"]  # the same vectors, searched by the linker and by the benchmark
    assert results["ablations"] == {}
    names = Terminology.load(folder / "sample").select(languages=["en"]).names.to_pylist()
    concepts_of = {}
    for row in names:
        concepts_of.setdefault(normalize(row["name"], EXACT_MATCH), set()).add(row["concept_id"])
    hit = {}
    for name, text in MENTIONS.items():
        for line in text.splitlines():
            ids, _, mention = line.partition("||")
            first = min(concepts_of.get(normalize(mention, EXACT_MATCH), {""}))
            hit.setdefault(name[:2], []).append(first in ids.split("|"))
    exact = {code: row["scores"]["acc@1"][0] for code, row in scores["exact"]["concept"].items() if code != "mean"}
    assert exact == pytest.approx({code: sum(found) / len(found) for code, found in hit.items()}, abs=1e-6)
    assert results["tasks"]["xlbel-v0"]["dictionary"]["languages"] == "en"
    assert len(results["tasks"]["xlbel-v0"]["training"]) == 64
    assert "string seen" in results["scores"]["xlbel-v0"]["breakdowns"]["seen"]["exact"]
    assert (folder / "kept" / "vectors").is_dir()
    assert not (folder / "sampled" / "work").exists()


@pytest.mark.slow
def test_report_against_older_folder(folder, whole, bench):
    worse = [word.replace("exact+tfidf", "tiny+exact") for word in COMMAND]
    assert bench(*worse, "--out", "other")[0] == 0
    code, out, err = bench("report", "other", "--against", "whole")
    assert (code, err) == (0, "")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines()]
    assert len({len(row) for row in rows}) == 1
    verdicts = {row[1]: row[4:] for row in rows[2:]}
    assert verdicts["exact"] == ["+0.0 [+0.0, +0.0]", "no significant difference"]
    assert verdicts["exact+tfidf"] == ["", "not compared: only in the older folder"]
    (folder / "worse").mkdir()
    (folder / "worse" / "de_1k_test_query.txt").write_text("C1||fevers\nC2||coughs\n" * 10, encoding="utf-8")
    (folder / "two.txt").write_text("C1||fever\nC2||cough\n", encoding="utf-8")
    words = ("linking", "--task", "xlbel-v0", "--data", "xlbel=worse", "--dictionary", "two.txt", "--system")
    for system in ("exact", "tfidf"):
        assert bench(*words, f"s={system}", "--out", f"s-{system}")[0] == 0
    code, out, _ = bench("report", "s-exact", "--against", "s-tfidf")
    assert code == 3
    row = [cell.strip() for cell in out.splitlines()[2].strip("|").split("|")]
    assert row == ["xlbel-v0", "s", "100.0", "0.0", "-100.0 [-100.0, -100.0]", "worse"]
    code, out, _ = bench("report", "s-tfidf", "--against", "s-exact")
    assert (code, out.split("|")[-2].strip()) == (0, "better")
    code, out, _ = bench("report", "s-tfidf", "--against", "other")
    assert (code, out.count("not compared: only in the")) == (0, 6)


def test_mentions_command_reads_any_corpus(folder, bench):
    code, out, _ = bench("mentions", "corpus", "xlbel-v0", "xlbel", "--out", "mentions.tsv")
    assert code == 0
    assert out.startswith("mentions.tsv: 8 mentions\n\n| language")
    assert re.search(r"\| all +\| +8 \| +8 \|", out)
    assert read_mentions(folder / "mentions.tsv")["mention"].to_pylist()[0] == "Fieber"
    code, out, _ = bench(
        "mentions", "corpus", "xlbel-v0", "xlbel", "--out", "within.parquet", "--terminology", "sample"
    )
    assert re.search(r"\| de German +\| +4 \| +3 \| +1 \|", out)
    assert read_mentions(folder / "within.parquet").num_rows == 7


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("linking",), r"Missing option '--task'"),
        (COMMAND, r"Missing option '--out'"),
        ((*COMMAND, "--out", "o", "--task", "xlbl-v0"), r"unknown corpus 'xlbl-v0'; did you mean 'xlbel-v0'\?"),
        (
            (*COMMAND, "--out", "o", "--system", "exact"),
            r"expected different names for all systems, found 'exact' twice",
        ),
        ((*COMMAND, "--out", "o", "--system", "nowhere/at/all"), r"nowhere/at/all"),
        ((*COMMAND, "--out", "o", "--system", "index:nowhere"), r"nowhere: expected an index folder, found nothing"),
        ((*COMMAND, "--out", "o", "--system", "recipe:xsap"), r"training="),
        ((*COMMAND, "--out", "o", "--dtype", "fp8"), r"--dtype must be float32, bfloat16 or float16, found 'fp8'"),
        ((*COMMAND, "--out", "o", "--languages", "xx1"), r"xx1"),
        ((*COMMAND, "--out", "o", "--data", "xlbel"), r"expected --data CORPUS=PATH"),
        ((*COMMAND, "--out", "o", "--data", "=x"), r"expected --data CORPUS=PATH"),
        (
            (*COMMAND, "--out", "o", "--data", "mantra=gone.zip"),
            r"--data mantra: expected files at gone\.zip, found nothing there",
        ),
        ((*COMMAND, "--out", "o", "--data", "xlbel=sample"), r"--data xlbel: expected once, found xlbel and sample"),
        (
            (*COMMAND, "--out", "o", "--data", "trainig=sample"),
            r"--data trainig: unknown key; did you mean 'training'\?",
        ),
        ((*COMMAND, "--out", "o", "--data", "training=xlbel"), r"xlbel: expected a terminology folder"),
        ((*COMMAND, "--out", "o", "--dictionary", "gone.txt"), r"gone\.txt: expected a file, found nothing"),
        (
            ("linking", "--task", "hpo", "--system", "exact", "--out", "o", "--dictionary", "dict.txt"),
            r"hpo have their own dictionary",
        ),
        (
            ("linking", "--task", "hpo", "--system", "exact", "--out", "o"),
            r"task 'hpo' needs the files of hpo: --data hpo=PATH",
        ),
        (
            ("linking", "--task", "hpo", "--system", "exact", "--out", "o", "--data", "hpo=xlbel"),
            r"expected a folder with an \.obo file",
        ),
        (
            ("linking", "--task", "xlbel-v1", *COMMAND[3:], "--out", "o"),
            r"expected a folder with files of XL-BEL .*; found none",
        ),
        (("report", "nowhere"), r"nowhere: expected a results folder"),
        (("report", "xlbel", "--against", "nowhere"), r"expected a results folder"),
        (("mentions", "corpus", "hpo", "xlbel", "--out", "x.tsv"), r"unknown corpus 'hpo'"),
        (("mentions", "corpus", "mantra", "dict.txt", "--out", "x.tsv"), r"dict\.txt: expected"),
    ],
)
def test_each_command_line_error_is_one_line(folder, bench, words, message):
    code, out, err = bench(*words)
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert err.startswith("error: ")
    assert re.search(message, err)
    assert not (folder / "o" / "results.json").exists()


def test_index_of_other_dictionary_is_rejected(folder, bench):
    code, out, err = bench(*COMMAND[:7], "--system", "index:index", "--out", "o")
    assert (code, out) == (2, "")
    assert err.splitlines()[1].startswith("error: index: expected a dictionary that is a terminology")


@pytest.mark.slow
def test_no_file_that_is_written_tells_of_folders_users_or_hosts(tmp_path, tiny_folder, sample_folder, bench, capsys):
    """The whole path in a folder with a tell-tale name, given by absolute paths; every byte that is written is searched."""
    home = tmp_path / "patients-of-dr-telltale"
    shutil.copytree(tiny_folder, home / "model")
    Terminology.load(sample_folder).select(languages={"en", "de"}).save(home / "terms")
    (home / "made").mkdir()
    names = Terminology.load(home / "terms").names.to_pylist()[:120]
    rows = [f"{name['name']},{name['language']},{name['concept_id']}" for name in names if "," not in name["name"]]
    own = home / "own mentions.csv"
    own.write_text("\n".join(["mention,language,concept_ids", *rows, *(f"zzz{i},en," for i in range(40))]) + "\n")

    def xsap(*words):
        with pytest.raises(SystemExit) as stop:
            run_app(xsap_app, "xsap", [*map(str, words)])
        out, err = capsys.readouterr()
        assert not stop.value.code, err
        return out

    index, made = home / "made" / "index", home / "made"
    xsap("index", home / "model", home / "terms", "--out", index)
    xsap("index", home / "model", home / "terms", "--out", made / "part", "--shard", "1/1")
    (made / "evaluation.json").write_text(xsap("evaluate", own, "--index", index, "--json"))
    xsap("calibrate", own, "--index", index, "--report", made / "calibration.html")
    systems = ("--system", home / "model", "--system", f"i=index:{index}", "--system", "exact")
    task = ("--task", f"mentions:{own}", "--dictionary", home / "terms", "--languages", "all")
    code, _, err = bench("linking", *task, *systems, "--out", made / "results")
    assert code == 0, err
    results = json.loads((made / "results" / "results.json").read_text(encoding="utf-8"))
    assert list(results["tasks"]) == ["mentions:own mentions.csv"]
    assert results["scores"]["mentions:own mentions.csv"]["scores"]["exact"]["concept"]["mean"]["n"] == len(rows)
    assert bench("report", made / "results", "--against", made / "results")[0] == 0
    compared = ("--csv", made / "c.csv", "--latex", made / "c.tex", "--plot", made / "c.svg")
    assert bench("compare", f"a={made / 'evaluation.json'}", f"b={made / 'evaluation.json'}", *compared)[0] == 0
    telling = [home.name, str(tmp_path), socket.gethostname(), f"/home/{getpass.getuser()}", str(Path.home())]
    written = [file for file in made.rglob("*") if file.is_file()]
    assert {file.name for file in written} >= {
        "report.html",
        "report.tex",
        "report.csv",
        "manifest.json",
        "calibration.html",
        "c.tex",
    }
    parts = {word: re.compile(rb"(?<!\w)" + re.escape(word.encode()) + rb"(?!\w)") for word in telling}
    binary = (".npy", ".arrow", ".parquet", ".shard")  # where a short host name may stand by chance
    found = [
        (file.relative_to(made).as_posix(), word)
        for file in written
        for word, pattern in parts.items()
        if pattern.search(file.read_bytes()) and not (word == socket.gethostname() and file.suffix in binary)
    ]
    assert found == []
    shutil.move(home, tmp_path / "moved")
    assert "fever" in xsap("link", "fever", "--index", tmp_path / "moved" / "made" / "index", "--format", "csv")


def test_own_mentions_need_a_dictionary_and_different_names(folder, bench, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "m.csv").write_text("mention,concept_ids\nfever,HP_0001945\n")
    first, second = (f"mentions:{tmp_path / name / 'm.csv'}" for name in ("a", "b"))
    (folder / "hp.txt").write_text("HP:0001945||fever\n")
    words = ("linking", "--system", "exact", "--out", "o", "--dictionary", "hp.txt")
    assert "expected files of different names" in bench(*words, "--task", first, "--task", second)[2]
    assert "needs something to link into" in bench("linking", "--system", "exact", "--out", "o", "--task", first)[2]
    assert "gold 'HP_0001945', dictionary 'HP:0001945'" in bench(*words, "--task", first)[2]


def test_error_in_own_process_is_one_line(folder, run):
    done = run("-m", "benchmarks", *COMMAND, "--out", "o", "--task", "xlbel", cwd=folder)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert done.stderr.startswith("error: unknown corpus 'xlbel'")
