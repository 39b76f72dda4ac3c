"""Paths where nothing can be written or read: every command of every program says so in one line, without a traceback and before any work."""

import os
import re

import pytest

from xsap.errors import XsapError
from xsap.output_paths import check_new_file, check_output_path

TO_FILE = {
    "xsap": [
        ["link", "x", "--index", "no", "--out", "x.csv"],
        ["encode", "no", "--out", "x.npy"],
        ["calibrate", "no", "--index", "no", "--report", "x.html"],
    ],
    "xsap-prepare": [
        ["diff", "no", "no", "--out", "x.tsv"],
        ["leakage", "no", "no", "--out", "x.tsv"],
        ["update-mentions", "no", "--terminology", "no", "--out", "x.tsv"],
        ["export", "no", "--out", "x.txt"],
    ],
}
TO_FOLDER = {
    "xsap": [
        ["index", "no", "no", "--out", "x"],
        ["merge", "no", "--out", "x"],
        ["shrink", "no", "no", "--out", "x"],
    ],
    "xsap-prepare": [
        ["umls", "no", "--out", "x"],
        ["omop", "no", "--out", "x"],
        ["snomed", "no", "--out", "x"],
        ["ontology", "no", "--out", "x"],
        ["table", "no", "--out", "x"],
        ["merge", "no", "--out", "x"],
        ["map", "no", "--to", "UMLS", "--out", "x"],
        ["split", "no", "--out", "x"],
        ["leakage", "no", "no", "--hold-out", "x"],
    ],
    "python -m benchmarks": [["synthetic-umls", "--out", "x", "--rows", "100"]],
}
FROM = {
    "xsap": [
        ["link", "--index", "no", "--file", "x.csv"],
        ["link", "--index", "no", "--file", "x.xlsx"],
        ["link", "--index", "no", "--file", "x.parquet"],
        ["link", "y", "--index", "x"],
        ["encode", "no", "--out", "y.npy", "--names", "x.txt"],
        ["index", "no", "x", "--out", "y"],
        ["evaluate", "x.tsv", "--index", "no"],
        ["merge", "x", "--out", "y"],
    ],
    "xsap-prepare": [
        ["umls", "x", "--out", "y"],
        ["ontology", "x.obo", "--out", "y"],
        ["ontology", "x.owl", "--out", "y"],
        ["table", "x.csv", "--out", "y"],
        ["describe", "x"],
        ["diff", "x", "no"],
        ["export", "x", "--out", "y.txt"],
    ],
    "python -m benchmarks": [["report", "x"], ["compare", "a=x.json", "b=x.json"]],
}


def commands(table):
    return [pytest.param(program, words, id=" ".join(words[:1])) for program in table for words in table[program]]


def in_a_file(folder, name):
    (folder / "file").write_text("")
    return folder / "file" / name


def a_folder(folder, name):
    (folder / name).mkdir()
    (folder / name / "other").write_text("")
    return folder / name


def a_pipe(folder, name):
    os.mkfifo(folder / name)
    return folder / name


def a_device(folder, name):
    (folder / name).symlink_to("/dev/full")
    return folder / name


def too_long(folder, name):
    return folder / ("x" * 300 + name)


def nearly_too_long(folder, name):
    """No room for the temporary name beside it."""
    return folder / ("x" * (255 - len(name)) + name)


def with_a_nul(folder, name):
    return folder / f"a\0{name}"


def of_a_loop(folder, name):
    (folder / name).symlink_to(folder / name)
    return folder / name


OUTPUTS = [in_a_file, a_folder, a_pipe, a_device, too_long, nearly_too_long, with_a_nul, of_a_loop]


@pytest.fixture
def refused(capsys, tmp_path, monkeypatch):
    """A command line in this process, in a folder of its own; the one line that it must end with."""
    from tests.test_programs import app_of
    from xsap.terminal import run as run_program

    monkeypatch.chdir(tmp_path)

    def call(program, words):
        before = sorted(map(str, tmp_path.rglob("*")))
        with pytest.raises(SystemExit) as stop:
            run_program(app_of(program), program, list(map(str, words)))
        out, err = capsys.readouterr()
        assert stop.value.code in (1, 2), err
        assert out == ""
        assert re.fullmatch(r"error: [^\n]+\n", err), err
        assert "Errno" not in err
        assert sorted(map(str, tmp_path.rglob("*"))) == before  # nothing was made or removed
        return stop.value.code, err

    return call


@pytest.mark.parametrize("place", OUTPUTS, ids=lambda place: place.__name__)
@pytest.mark.parametrize(("program", "words"), commands(TO_FILE))
def test_output_file_that_cannot_be_written_is_refused(refused, tmp_path, program, words, place):
    path = place(tmp_path, words[-1])
    code, err = refused(program, [*words[:-1], path])
    assert code == 2
    assert str(path)[:150] in err or place is with_a_nul  # which the parser of the command line refuses itself


@pytest.mark.parametrize("place", OUTPUTS, ids=lambda place: place.__name__)
@pytest.mark.parametrize(("program", "words"), commands(TO_FOLDER))
def test_output_folder_that_cannot_be_written_is_refused(refused, tmp_path, program, words, place):
    at = words.index("x")
    path = place(tmp_path, "x")
    code, err = refused(program, [*words[:at], path, *words[at + 1 :]])
    assert code == 2
    assert str(path)[:150] in err or place is with_a_nul  # which the parser of the command line refuses itself


@pytest.mark.parametrize(("program", "words"), commands(TO_FILE))
def test_existing_file_is_replaced_only_with_overwrite(refused, tmp_path, program, words):
    (tmp_path / words[-1]).write_text("before")
    code, err = refused(program, [*words[:-1], tmp_path / words[-1]])
    assert (code, err) == (
        2,
        f"error: {tmp_path / words[-1]} exists already; choose another path, or replace it with --overwrite\n",
    )
    assert "exists already" not in refused(program, [*words[:-1], tmp_path / words[-1], "--overwrite"])[1]
    assert (tmp_path / words[-1]).read_text() == "before"


@pytest.mark.parametrize(
    "place", [in_a_file, a_folder, too_long, with_a_nul, of_a_loop], ids=lambda place: place.__name__
)
@pytest.mark.parametrize(("program", "words"), commands(FROM))
def test_input_that_cannot_be_read_is_refused(refused, tmp_path, program, words, place):
    at = next(i for i, word in enumerate(words) if re.fullmatch(r"(?:a=)?x(\.\w+)?", word))
    path = place(tmp_path, words[at].removeprefix("a="))
    prefix = "a=" if words[at].startswith("a=") else ""
    refused(program, [*words[:at], f"{prefix}{path}", *words[at + 1 :]])


def test_folder_without_permission_to_write_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # tests may run as root, who may write anywhere
    for path in (tmp_path / "x.csv", tmp_path / "a" / "b" / "x.csv"):
        with pytest.raises(
            XsapError, match=rf"x\.csv: a file can't be written there: no permission .*\({tmp_path}\); choose"
        ):
            check_new_file(path, overwrite=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["a file", "a folder"])
def test_name_with_a_nul_is_refused_in_python(tmp_path, what):
    with pytest.raises(XsapError, match=rf"/a\\0b: expected the name of {what}, found one with a NUL character$"):
        check_output_path(tmp_path / "a\0b", what)


def test_paths_that_can_be_written_are_accepted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nothing")
    for name in ("new", "a/b/c", "file", "link", "dangling", "./x", "../x", "x y", "é" * 60, "-"):
        assert str(check_output_path(name, "a file")) in (name, name.removeprefix("./"))
    check_new_file("new", overwrite=False)
    check_new_file("file", overwrite=True)
    assert {each.name for each in tmp_path.iterdir()} == {"file", "link", "dangling"}
