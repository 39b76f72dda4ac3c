"""The four programs behave alike: help, version, errors in one line, exit codes, amounts of memory."""

import pytest

from xsap import __version__

PROGRAMS = {
    "xsap": ["-m", "xsap"],
    "xsap-prepare": ["-m", "data_prep"],
    "python -m benchmarks": ["-m", "benchmarks"],
    "accelerate launch -m xsap.train": ["-m", "xsap.train"],
}
TYPER = [name for name in PROGRAMS if "train" not in name]
COMMANDS = {
    "xsap": ["train", "tune", "index", "merge", "link", "evaluate", "calibrate", "tune-fusion", "encode",
             "probe", "convert", "shrink", "push", "review", "serve", "check", "silver", "swap-memory", "train-reranker",
             "export", "text", "train-memory"],
    "xsap-prepare": ["umls", "omop", "snomed", "hpo", "ontology", "icd", "table", "wikidata", "bitext", "merge", "map", "diff",
                     "split", "leakage", "update-mentions", "describe", "export", "fetch"],
    "python -m benchmarks": ["linking", "report", "context", "annotation", "memory", "compare", "nil", "synthetic-umls", "mentions", "speed"],
}  # fmt: skip


def app_of(program):
    if program == "xsap":
        from xsap.cli import app
    elif program == "xsap-prepare":
        from data_prep.__main__ import app
    else:
        from benchmarks.__main__ import app
    return app


@pytest.fixture
def call(capsys):
    """A command line of a Typer program in this process: (exit code, stdout, stderr)."""
    from xsap.terminal import run as run_program

    def call_program(program, *words):
        with pytest.raises(SystemExit) as stop:
            run_program(app_of(program), program, list(words))
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return call_program


@pytest.mark.parametrize("program", PROGRAMS)
def test_unknown_option_is_one_line_and_exit_code_2(run, program):
    done = run(*PROGRAMS[program], "--no-such-option")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "--help" in done.stderr


@pytest.mark.parametrize("program", TYPER)
def test_version_is_printed(call, program):
    assert call(program, "--version") == (0, f"xsap {__version__}\n", "")


@pytest.mark.parametrize("program", TYPER)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_lists_every_command(call, program, option):
    code, out, err = call(program, option)
    assert (code, err) == (0, "")
    listed = [
        line.split()[0]
        for line in out[out.index("Commands:") :].splitlines()[1:]
        if line.startswith("  ") and line[2] != " "
    ]
    assert listed == COMMANDS[program]
    assert [line for line in out.splitlines() if line.endswith("...") and not line.startswith("Usage:")] == []


@pytest.mark.parametrize(("program", "command"), [(name, command) for name in TYPER for command in COMMANDS[name]])
def test_help_of_a_command_fits_80_columns(call, program, command):
    code, out, err = call(program, command, "-h")
    assert (code, err) == (0, "")
    assert [line for line in out.splitlines() if len(line) > 80] == []


def test_help_of_training_lists_every_setting_within_80_columns(run):
    from xsap.config import Settings
    from xsap.settings_files import setting_names

    done = run(*PROGRAMS["accelerate launch -m xsap.train"], "--help")
    assert done.returncode == 0, done.stderr
    assert [name for name in setting_names(Settings) if name.rsplit(".", 1)[-1] not in done.stdout] == []
    assert [line for line in done.stdout.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("xsap", ["index", "model", "terminology", "--out", "out"]),
        ("xsap-prepare", ["omop", "folder", "--out", "out"]),
        ("python -m benchmarks", ["speed", "prepare", "--meta", "folder"]),
    ],
)
def test_wrong_amount_of_memory_is_refused_in_the_same_words(call, program, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(program, *words, "--max-memory", "2 potatoes")
    assert (code, out) == (2, "")
    assert err == "error: expected an amount of memory such as 4GB or 500MB, found '2 potatoes'\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("no space left")])
def test_interruption_and_system_failures_have_their_exit_codes(capsys, error):
    from xsap.terminal import exit_codes

    with pytest.raises(SystemExit) as stop, exit_codes("program"):
        raise error
    assert stop.value.code == (130 if error is KeyboardInterrupt else 1)
    assert capsys.readouterr().err in ("interrupted\n", "error: no space left\n")


def test_broken_invariant_shows_its_traceback():
    from xsap.terminal import exit_codes

    with pytest.raises(AssertionError), exit_codes("program"):
        raise AssertionError
