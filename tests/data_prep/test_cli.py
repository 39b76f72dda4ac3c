"""`python -m data_prep` as a user types it."""

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.fixtures.commands import assert_refused, heed_interrupts
from xsap.terms.mentions import read_mentions
from xsap.terms.terminology import Terminology

ROOT = Path(__file__).parents[2]
LINE = "C1|ENG|P|L1|PF|S1|Y|A1||M1|D1|MSH|PT|D005334|Fever|0|N|256|\n"


def run(*words: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "data_prep", *map(str, words)], cwd=ROOT, capture_output=True, check=False, timeout=60
    )


def meta(folder: Path, text: str | bytes = LINE, announced: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "MRCONSO.RRF").write_bytes(text.encode() if isinstance(text, str) else text)
    (folder / "MRSTY.RRF").write_text("C1|T184|A2.2.2|Sign or Symptom|AT1|256|\n")
    if announced:
        (folder / "MRFILES.RRF").write_text(f"MRCONSO.RRF|Concepts|CUI,LAT|18|{announced}|\n")
    return folder


def test_umls_command_writes_terminology_and_prints_counts(tmp_path):
    spanish = LINE.replace("ENG", "SPA").replace("Fever", 'fiebre "alta"\u2028y\rtos')
    both = LINE + spanish + LINE.replace("|N|", "|O|")
    done = run(
        "umls",
        meta(tmp_path / "META", both, f"3|{len(both.encode())}"),
        "--out",
        tmp_path / "out",
        "--languages",
        "ENG,es",
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().splitlines() == [
        f"{tmp_path}/out: 1 concepts",
        "names in      3",
        "kept          2",
        "dropped       1",
        "  suppressed  1",
        "",
        "language     names  concepts",
        "en  English      1         1",
        "es  Spanish      1         1",
        "all              2         1",
    ]
    terminology = Terminology.load(tmp_path / "out")
    assert terminology.names["name"].to_pylist() == [
        "Fever",
        'fiebre "alta" y tos',
    ]  # stray quote kept, line ends within are spaces
    assert terminology.names["code"].to_pylist() == ["D005334"] * 2
    assert terminology.concepts["semantic_types"].to_pylist() == [["T184"]]


def test_hpo_table_and_split_commands(tmp_path, prepare):
    (tmp_path / "hp.obo").write_text(
        "".join(f'[Term]\nid: HP:{i}\nname: Finding {i}\nsynonym: "Sign {i}" EXACT []\n\n' for i in range(50))
    )
    header = "subject_id\tsource_language\tsource_value\tpredicate_id\ttranslation_language\ttranslation_value\ttranslation_status\n"
    rows = [
        f"HP:{i}\ten\tFinding {i}\trdfs:label\tde\tBefund {i}\t{s}\n"
        for i, s in zip(range(50), ["OFFICIAL", "CANDIDATE"] * 25, strict=True)
    ]
    (tmp_path / "hp.babelon.tsv").write_text(header + "".join(rows))
    code, out, err = prepare("hpo", "--obo", tmp_path / "hp.obo", "--translations", tmp_path, "--out", tmp_path / "hpo")
    assert (code, err) == (0, "")
    assert out.splitlines()[:5] == [
        f"{tmp_path}/hpo: 50 concepts",
        *_counts("200", "150", "50", "  same name of the same concept", "50"),
    ]
    code, out, _ = prepare(
        "split", tmp_path / "hpo", "--out", tmp_path / "parts", "--test-fraction", "0.4", "--test-status", "OFFICIAL"
    )
    mentions = read_mentions(tmp_path / "parts" / "mentions.tsv")
    training = Terminology.load(tmp_path / "parts" / "terminology")
    assert code == 0
    assert f"{mentions.num_rows} mentions" in out
    assert 0 < mentions.num_rows < 25
    assert training.languages["en"] == 100
    assert not set(mentions["mention"].to_pylist()) & set(training.names["name"].to_pylist())
    (tmp_path / "own.csv").write_text("concept_id,term\nHP:1,Mal\n")
    code, out, _ = prepare(
        "table", tmp_path / "own.csv", "--column", "name=term", "--language", "es", "--out", tmp_path / "own"
    )
    assert (code, out.splitlines()[0]) == (0, f"{tmp_path}/own: 1 concepts")


def _counts(rows_in, kept, dropped, reason, n):
    width = len(reason)
    return [
        label.ljust(width) + f"  {value:>3}"
        for label, value in (("names in", rows_in), ("kept", kept), ("dropped", dropped), (reason, n))
    ]


FAULTS = {
    "missing file": (None, "", "MRCONSO.RRF: expected a file, found nothing there. Is the path right?"),
    "empty file": ("", "", "MRCONSO.RRF: expected records of 18 fields, found an empty file."),
    "17 fields": (
        LINE + LINE.replace("|PT|", "|"),
        "",
        "MRCONSO.RRF:2: expected 18 fields, found 17. Is the file cut short?",
    ),
    "19 fields": (
        LINE + LINE.replace("|PT|", "|PT||"),
        "",
        "MRCONSO.RRF:2: expected 18 fields, found 19. Is this the right file, or",
    ),
    "no closing bar": (
        LINE[:-2] + "\n",
        "",
        "MRCONSO.RRF:1: expected 18 fields, each closed by a bar, found no bar at the end.",
    ),
    "CRLF": (LINE.replace("\n", "\r\n"), "", "MRCONSO.RRF:1: expected a line end of LF alone, found CR LF"),
    "BOM": ("\ufeff" + LINE, "", "MRCONSO.RRF:1: expected plain UTF-8, found a byte-order mark"),
    "invalid UTF-8": (
        LINE.encode() + LINE.replace("Fever", "Fièvre").encode("latin-1"),
        "",
        "MRCONSO.RRF:2: expected UTF-8, found byte 0xe8",
    ),
    "NUL": (LINE.replace("Fever", "Fe\0ver"), "", "MRCONSO.RRF:1: expected text, found a NUL byte"),
    "too few rows": (LINE, "2|120", "MRCONSO.RRF: MRFILES.RRF announces 2 rows, found 1. Is the file cut short?"),
    "cut within a line": (LINE + LINE[:30], "2|120", "found 11. Is the file cut short? MRFILES.RRF announces 2 rows."),
    "unknown LAT": (LINE.replace("ENG", "KLI"), "", "MRCONSO.RRF: unknown language 'KLI'"),
    "only suppressed": (LINE.replace("|N|", "|O|"), "", "a terminology needs at least one name, found none to write"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_malformed_umls_file_is_one_error_line_and_leaves_nothing(tmp_path, prepare, fault):
    text, announced, message = FAULTS[fault]
    place = meta(tmp_path / "META", text or "", announced)
    if text is None:
        (place / "MRCONSO.RRF").unlink()
        place = place / "MRCONSO.RRF"
    assert_refused(prepare("umls", place, "--out", tmp_path / "out"), message)
    left = sorted(p.name for p in tmp_path.iterdir())
    if re.search(r"RRF:\d+:", message) or "cut within" in fault:
        assert left == ["META", "out.rejects.tsv"]
        assert "MRCONSO.RRF\t" in (tmp_path / "out.rejects.tsv").read_text(encoding="utf-8")
    else:
        assert left == ["META"]


def test_max_rejects_allows_malformed_lines(tmp_path, prepare):
    place = meta(tmp_path / "META", LINE + "no record\n" + LINE.replace("Fever", "Pyrexia"))
    code, out, _ = prepare("umls", place, "--out", tmp_path / "out", "--max-rejects", "1")
    assert code == 0
    assert "malformed: see the file of rejects  1" in out
    assert Terminology.load(tmp_path / "out").names["name"].to_pylist() == ["Fever", "Pyrexia"]
    expected = f"MRCONSO.RRF\t2\t{len(LINE)}\texpected 18 fields, found 1. Is the file cut short?"
    assert (tmp_path / "out.rejects.tsv").read_text().splitlines()[1] == expected


def test_bitext_and_export_commands(tmp_path, prepare):
    (tmp_path / "en-de.txt").write_text("fever Fieber\ntaxi Taxi\n")
    code, out, _ = prepare("bitext", tmp_path / "en-de.txt", "--languages", "en,de", "--out", tmp_path / "t")
    assert code == 0
    assert "both names equal  2" in out
    code, out, _ = prepare("export", tmp_path / "t", "--out", tmp_path / "pairs.txt", "--case", "cased")
    assert code == 0
    assert (
        out.splitlines()[1]
        == "policy: cased, unordered pairs of each concept's different names, at most 50 per concept, seed 0"
    )
    assert (tmp_path / "pairs.txt").read_text() == "en-de:1||Fieber||fever\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--languages", "SAP"],
            "error: unknown language 'SAP': expected a UMLS or ISO 639 code, or a name in English",
        ),
        (["--languages", ","], "error: expected 'all' or languages such as 'en,es', found ','"),
        (["--sources", "MHS"], "has no source 'MHS'; did you mean 'MSH'?"),
        (["--types", "T148"], "has no semantic type 'T148'; did you mean 'T184'?"),
        (["--language", "en"], "No such option: --language"),
    ],
)
def test_invalid_choice_is_refused(tmp_path, prepare, words, message):
    code, out, err = prepare("umls", meta(tmp_path / "META"), "--out", tmp_path / "out", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert not (tmp_path / "out").exists()


def test_existing_output_is_refused_before_the_work(tmp_path, prepare):
    out = tmp_path / "out"
    assert prepare("umls", meta(tmp_path / "META"), "--out", out)[0] == 0
    (tmp_path / "META" / "MRCONSO.RRF").write_text("not even RRF")
    code, _, err = prepare("umls", tmp_path / "META", "--out", out)
    assert (code, err) == (
        2,
        f"error: {out} exists already; choose another path, or replace it with --overwrite\n",
    )
    meta(tmp_path / "META", LINE.replace("Fever", "Pyrexia"))
    assert prepare("umls", tmp_path / "META", "--out", out, "--overwrite")[0] == 0
    assert Terminology.load(out).names["name"].to_pylist() == ["Pyrexia"]


def test_terminology_without_english_cannot_be_split(tmp_path, prepare):
    assert prepare("umls", meta(tmp_path / "META", LINE.replace("ENG", "SPA")), "--out", tmp_path / "es")[0] == 0
    words = ["--out", tmp_path / "parts"]
    assert_refused(prepare("split", tmp_path / "es", *words), "the terminology has no English name")
    assert_refused(prepare("split", tmp_path / "nothing", *words), "expected a terminology folder, found nothing there")
    assert not (tmp_path / "parts").exists()


def test_column_option_must_be_field_and_header(tmp_path, prepare):
    code, _, err = prepare("table", tmp_path / "x.csv", "--column", "name", "--out", tmp_path / "out")
    assert (code, err) == (2, "error: expected --column FIELD=HEADER such as name=term, found 'name'\n")


def test_fetch_command_prints_license_and_files(tmp_path, prepare, monkeypatch):
    code, _, err = prepare("fetch", "hop", "--out", tmp_path / "out")
    assert (code, err) == (2, "error: xsap-prepare fetch has no data set 'hop'; did you mean 'hpo'?\n")
    (tmp_path / "x").write_bytes(b"")
    from data_prep.download import SOURCES, OpenDataset, RemoteFile

    file = RemoteFile(
        "x", (tmp_path / "x").as_uri(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )
    monkeypatch.setitem(SOURCES, "mine", OpenDataset("Mine", "CC0", "https://example.org", (file,)))
    code, out, _ = prepare("fetch", "mine", "--out", tmp_path / "out")
    assert (code, out.splitlines()) == (
        0,
        [f"{tmp_path}/out: Mine", "license: CC0", "from: https://example.org", "  manifest.json", "  x"],
    )


def test_full_disk_exits_with_code_1(tmp_path, prepare, monkeypatch):
    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    code, out, err = prepare("umls", meta(tmp_path / "META"), "--out", tmp_path / "out")
    assert (code, out, err) == (1, "", f"error: {tmp_path}/out: No space left on device\n")
    assert [p.name for p in tmp_path.iterdir()] == ["META"]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks into /proc to see when the file is read")
def test_interrupted_command_exits_with_130_and_leaves_nothing(tmp_path):
    file = meta(tmp_path / "META") / "MRCONSO.RRF"
    file.write_text(LINE * 300_000)
    words = [sys.executable, "-m", "data_prep", "umls", str(tmp_path / "META"), "--out", str(tmp_path / "out")]
    program = subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heed_interrupts
    )
    while not _reads(program.pid, file):
        assert program.poll() is None
    program.send_signal(signal.SIGINT)
    out, err = program.communicate(timeout=30)
    assert (program.returncode, out) == (130, b"")
    assert b"Traceback" not in err
    assert [p.name for p in tmp_path.iterdir()] == ["META"]


def _reads(pid: int, file: Path) -> bool:
    with suppress(FileNotFoundError):  # a descriptor may close between being listed and being looked at
        return any(os.path.realpath(entry) == str(file) for entry in Path(f"/proc/{pid}/fd").iterdir())
    return False


def test_commands_import_no_torch():
    code = "import sys, data_prep.__main__; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
