import gzip
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from xsap.errors import ConfigError
from xsap.tabular.link_file import parts_in, read_part, take_over, write_part


@dataclass(frozen=True)
class Filter:
    types: frozenset[str]
    source: Path


def killed(out, run, parts):
    """A run that leaves some parts, as if it had been killed."""

    def begin():
        with take_over(out, run) as folder:
            for number, lines in parts.items():
                write_part(folder, number, lines)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        begin()


def test_the_same_run_takes_over_and_leaves_nothing(tmp_path):
    out = tmp_path / "x.csv"
    killed(out, {"a": 1}, {0: [b"x", b""], 1: []})
    assert sorted(each.name for each in (tmp_path / ".x.csv.part").iterdir()) == [
        "000000.gz",
        "000001.gz",
        "lock",
        "run.json",
    ]
    with take_over(out, {"a": 1}) as folder:
        assert parts_in(folder) == 2
        assert read_part(folder, 0, 2) == [b"x", b""]
        assert read_part(folder, 1, 0) == []
        assert read_part(folder, 1, 1) is None  # another number of answers than are asked for
        assert read_part(folder, 2, 0) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("before", "after"), [({"a": 1}, {"a": 2}), ({"a": 1}, None), (None, {"a": 1}), (None, None)])
def test_another_run_drops_what_was_left(tmp_path, before, after):
    killed(tmp_path / "x.csv", before, {0: [b"x"]})
    with take_over(tmp_path / "x.csv", after) as folder:
        assert parts_in(folder) == 0


def test_parts_of_a_run_whose_facts_are_damaged_are_dropped(tmp_path):
    killed(tmp_path / "x.csv", {"a": "é"}, {0: [b"x"]})
    file = tmp_path / ".x.csv.part" / "run.json"
    whole = file.read_bytes()
    damage = [whole[:cut] for cut in range(len(whole))]
    damage += [whole[:i] + bytes([whole[i] ^ 1 << bit]) + whole[i + 1 :] for i in range(len(whole)) for bit in range(8)]
    for data in damage:
        killed(tmp_path / "x.csv", {"a": "é"}, {0: [b"x"]})
        file.write_bytes(data)
        with take_over(tmp_path / "x.csv", {"a": "é"}) as folder:
            assert parts_in(folder) == 0


def test_parts_are_counted_from_the_first_without_a_gap(tmp_path):
    killed(tmp_path / "x.csv", {}, {0: [], 1: [], 3: []})
    assert parts_in(tmp_path / ".x.csv.part") == 2


def test_a_run_that_fails_before_its_first_part_leaves_nothing(tmp_path):
    killed(tmp_path / "sub" / "x.csv", {}, {})
    assert list((tmp_path / "sub").iterdir()) == []


def test_files_that_were_being_written_go(tmp_path):
    killed(tmp_path / "x.csv", {}, {0: [b"x"]})
    (tmp_path / ".x.csv.part" / ".output.123.new").write_bytes(b"x" * 99)
    with take_over(tmp_path / "x.csv", {}) as folder:
        assert sorted(each.name for each in folder.iterdir()) == ["000000.gz", "lock", "run.json"]


def test_facts_are_told_apart_whatever_the_order_of_a_set(tmp_path):
    """Sets of texts come in another order in another process."""
    names = [f"T{i}" for i in range(40)]
    code = (
        "import sys; from tests.test_leftovers import *\n"
        f"killed(Path(sys.argv[1]) / 'x.csv', {{'keep': Filter(frozenset({names}), Path('a')), 'b': {{2, 1}}}}, {{0: []}})"
    )
    for seed in ("1", "2"):
        root = Path(__file__).resolve().parents[2]
        subprocess.run(
            [sys.executable, "-c", code, tmp_path],
            check=True,
            cwd=root,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
        )
    texts = {(tmp_path / ".x.csv.part" / "run.json").read_text()}
    with take_over(tmp_path / "x.csv", {"b": {1, 2}, "keep": Filter(frozenset(names[::-1]), Path("a"))}) as folder:
        assert parts_in(folder) == 1
        assert texts == {(folder / "run.json").read_text()}
    with (
        pytest.raises(TypeError, match="object can't be told apart"),
        take_over(tmp_path / "x.csv", {"keep": object()}),
    ):
        pass


def test_two_runs_at_once(tmp_path):
    with (
        take_over(tmp_path / "x.csv", {}),
        pytest.raises(ConfigError, match=r"^another run is writing .*x\.csv; wait for it"),
    ):  # noqa: SIM117
        with take_over(tmp_path / "x.csv", {}):
            pass
    with take_over(tmp_path / "x.csv", {}), take_over(tmp_path / "y.csv", {}):
        pass


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    folder = tmp_path / ".x.csv.part"
    folder.mkdir()
    (folder / "mine.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"\.x\.csv\.part is needed for the progress of .*x\.csv, but has other files in it; move it away"), take_over(tmp_path / "x.csv", {}):  # fmt: skip
        pass
    assert [each.name for each in folder.iterdir()] == ["mine.txt"]


def test_a_damaged_part_is_none(tmp_path):
    lines = [b'[[["C1","Fever"]],null]', b'[[],"the mention is blank"]'] * 5
    write_part(tmp_path, 7, lines)
    file = tmp_path / "000007.gz"
    whole = file.read_bytes()
    assert read_part(tmp_path, 7, 10) == lines
    for cut in range(len(whole)):
        file.write_bytes(whole[:cut])
        assert read_part(tmp_path, 7, 10) is None
    found = set()
    for place in range(len(whole)):
        for bit in range(8):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            same = read_part(tmp_path, 7, 10)
            assert same in (None, lines)
            found.add(same is None)
    assert found == {True, False}  # a bit of the time or the system's name in gzip's header changes nothing
    assert gzip.decompress(whole)
