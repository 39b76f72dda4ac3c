"""The command line of the benchmarks: fast help, complete help texts, and one line for wrong use."""

import re

import pytest
import typer

from benchmarks.__main__ import app, main

COMMANDS = {
    "linking",
    "report",
    "compare",
    "nil",
    "synthetic-umls",
    "mentions xlbel",
    "mentions mantra",
    "mentions corpus",
    "speed train",
    "speed serve",
    "speed mentions",
    "speed rerank",
    "speed text",
    "annotation",
    "context",
    "memory",
    "speed loss-curve",
    "speed reference-run",
    "speed encode",
    "speed search",
    "speed prepare",
}


def commands():
    """Name → command, groups resolved."""
    found = {}
    for name, command in typer.main.get_command(app).commands.items():
        nested = getattr(command, "commands", None)
        found |= {f"{name} {each}": inner for each, inner in nested.items()} if nested else {name: command}
    return found


def outcome(capsys, *words):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


def test_help_starts_without_torch_and_pyarrow(run):
    modules = "{'torch', 'transformers', 'matplotlib', 'pyarrow'}"
    done = run("-c", f"import sys, benchmarks.__main__; print({modules} & set(sys.modules))", fresh=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "set()"


def test_commands_are_grouped():
    assert set(commands()) == COMMANDS


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_command_and_options_have_help_texts(name, capsys):
    code, printed, _ = outcome(capsys, *name.split(), "-h")
    assert code == 0
    command = commands()[name]
    assert command.help
    assert command.help.split()[0] in printed
    for parameter in command.params:
        assert getattr(parameter, "help", None), parameter.name


def test_version_is_printed(capsys):
    code, printed, _ = outcome(capsys, "--version")
    assert code == 0
    assert re.fullmatch(r"xsap \S+\n", printed)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["speed", "fast"], r"No such command 'fast'"),
        (["nil", "--index", "x"], r"Missing option '--mentions'"),
        (["speed", "search", "--distribution", "flat"], r"--distribution.*'flat' is not one of 'clustered', 'uniform'"),
        (["speed", "prepare", "--meta", "x", "--rounds", "0"], r"--rounds.*greater than or equal to 1"),
        (["mentions", "corpus", "medmention", "x", "--out", "m.tsv"], r"unknown corpus 'medmention'.*medmentions"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(words, message, capsys):
    code, printed, errors = outcome(capsys, *words)
    assert (code, printed) == (2, "")
    assert len(errors.splitlines()) == 1
    assert errors.startswith("error: ")
    assert re.search(message, errors)
