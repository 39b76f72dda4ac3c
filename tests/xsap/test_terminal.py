"""Amounts of memory as options take them; messages, progress bars and failures on stderr."""

import io
import logging
import re
import sys
import time

import pytest
from tqdm import tqdm

from xsap.errors import ConfigError, DataError
from xsap.terminal import announce_wait, check_stdout, end_sentence, exit_codes, log, parse_size, show_progress


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GB", 4_000_000_000),
        ("4gb", 4_000_000_000),
        ("500MB", 500_000_000),
        (" 1.5 GB ", 1_500_000_000),
        ("2GiB", 2**31),
        ("1kB", 1000),
        ("3MiB", 3 * 2**20),
        ("1TB", 10**12),
    ],
)
def test_parse_size_reads_units_of_1000_and_1024(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "4", "4G", "GB", "-4GB", "4 B", "4GB and more", "four GB", "1e3MB", "0GB", "0.0001kB", "٤GB\n4GB"]
)
def test_parse_size_rejects_other_text(text):
    with pytest.raises(ConfigError, match="expected an amount of memory such as 4GB or 500MB, found"):
        parse_size(text)


class Terminal(io.StringIO):
    """A stream that is a terminal, which keeps all that is written to it."""

    def isatty(self):
        return True

    def screen(self):
        """The lines as a terminal shows them: a carriage return goes back to the start of the line, and what follows replaces it."""
        lines = []
        for line in self.getvalue().split("\n"):
            cells = []
            for part in line.split("\r"):
                cells[: len(part)] = part
            lines.append("".join(cells).rstrip())
        return lines


def open_terminal(monkeypatch):
    """stdout and stderr as one terminal, from within a test: pytest sets them itself before each."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(sys, "stdout", stream)
    return stream


def test_messages_never_run_into_a_progress_bar(monkeypatch):
    terminal = open_terminal(monkeypatch)
    with tqdm(total=3, desc="link", file=sys.stderr) as bar, exit_codes("xsap"):
        for number in range(3):
            bar.update()
            log(f"message {number}")
            logging.getLogger("xsap.test").warning("warning %d", number)
    lines = terminal.screen()
    assert [line for line in lines if "message" in line or "warning" in line] == [
        f"{kind} {number}" for number in range(3) for kind in ("message", "warning")
    ]
    assert any(line.startswith("link: 100%") for line in lines)


def test_no_bar_where_results_share_its_terminal(monkeypatch):
    open_terminal(monkeypatch)
    assert show_progress()
    assert not show_progress(results_on_stdout=True)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert show_progress(results_on_stdout=True)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert not show_progress()


def test_long_waits_are_announced_in_a_line_of_their_own(monkeypatch):
    terminal = open_terminal(monkeypatch)
    with announce_wait("loading the model", seconds=0.01):
        time.sleep(0.5)
    with announce_wait("waiting", seconds=30):
        pass
    with pytest.raises(ZeroDivisionError), announce_wait("failing", seconds=30):
        raise ZeroDivisionError
    assert terminal.getvalue() == "loading the model …\n"
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with announce_wait("loading", seconds=0.01):
        time.sleep(0.1)
    assert sys.stderr.getvalue() == ""


def test_binary_data_is_not_written_to_a_terminal(monkeypatch):
    open_terminal(monkeypatch)
    check_stdout("csv", binary=False)
    with pytest.raises(
        ConfigError, match=r"expected --out or a pipe for the format xlsx, found a terminal; add --out FILE\.xlsx"
    ):
        check_stdout("xlsx", binary=True)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    check_stdout("xlsx", binary=True)


@pytest.mark.parametrize("name", ["a", "b"])
def test_failures_of_the_system_name_the_file(capsys, tmp_path, name):
    (tmp_path / "a").mkdir()
    with pytest.raises(SystemExit) as stop, exit_codes("xsap"):
        (tmp_path / name).read_bytes()
    assert stop.value.code == 1
    assert re.fullmatch(
        rf"error: {tmp_path}/{name}: (Is a directory|No such file or directory)\n", capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "text", ["\x1b[2J\x1b]0;title\x07", "\x9b31m", "\u202eabc", "\x00\x08\x7f", "a\u2028b\x85c\x0cd", "\u2066x"]
)
def test_errors_and_messages_print_no_control_characters(text, capsys):
    log(f"read {text}")
    with pytest.raises(SystemExit), exit_codes("xsap"):
        raise DataError(f"found '{text}'")
    err = capsys.readouterr().err
    assert err.count("\n") == 2
    assert all(sign.isprintable() for sign in err.replace("\n", ""))


def test_long_messages_are_cut(capsys):
    with pytest.raises(SystemExit), exit_codes("xsap"):
        raise DataError("x" * 10_000_000)
    assert len(capsys.readouterr().err) < 2100


@pytest.mark.parametrize("end", ["", ".", "?", "!", "…", ". ", "?\n"])
def test_sentence_before_another_ends_with_one_mark(end):
    assert end_sentence(f"no such command{end}") == f"no such command{end.strip() or '.'}"


@pytest.mark.parametrize(
    "words", [["lnik"], ["link", "--indx", "x"], ["link", "--top-k", "many"], ["--no-such-option"]]
)
def test_errors_about_options_have_no_mark_twice(words, capsys):
    from xsap.cli import main

    with pytest.raises(SystemExit):
        main(words)
    line = capsys.readouterr().err
    assert line.endswith(" See xsap --help\n")
    assert not re.search(r"[.?!][.?!]|[.?!] [.?!]|[^.?!] See xsap", line), line
