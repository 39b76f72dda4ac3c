"""The folder of a run of linking that can be resumed."""

import gzip
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.linkers import Filter, interrupted
from xsap.errors import ConfigError
from xsap.tabular.resume import count_parts, read_part, resume_folder, write_part


def test_equal_run_resumes_and_leaves_nothing(tmp_path):
    out = tmp_path / "x.csv"
    interrupted(out, {"a": 1}, {0: [b"x", b""], 1: []})
    assert sorted(each.name for each in (tmp_path / ".x.csv.part").iterdir()) == [
        "000000.gz",
        "000001.gz",
        "lock",
        "run.json",
    ]
    with resume_folder(out, {"a": 1}) as folder:
        assert count_parts(folder) == 2
        assert read_part(folder, 0, 2) == [b"x", b""]
        assert read_part(folder, 1, 0) == []
        assert read_part(folder, 1, 1) is None  # another number of answers than are asked for
        assert read_part(folder, 2, 0) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("before", "after"), [({"a": 1}, {"a": 2}), ({"a": 1}, None), (None, {"a": 1}), (None, None)])
def test_other_run_deletes_the_parts(tmp_path, before, after):
    interrupted(tmp_path / "x.csv", before, {0: [b"x"]})
    with resume_folder(tmp_path / "x.csv", after) as folder:
        assert count_parts(folder) == 0


def test_parts_of_a_run_with_damaged_metadata_are_deleted(tmp_path):
    interrupted(tmp_path / "x.csv", {"a": "é"}, {0: [b"x"]})
    file = tmp_path / ".x.csv.part" / "run.json"
    whole = file.read_bytes()
    damage = [whole[:cut] for cut in range(len(whole))]
    damage += [whole[:i] + bytes([whole[i] ^ 1 << bit]) + whole[i + 1 :] for i in range(len(whole)) for bit in range(8)]
    for data in damage:
        interrupted(tmp_path / "x.csv", {"a": "é"}, {0: [b"x"]})
        file.write_bytes(data)
        with resume_folder(tmp_path / "x.csv", {"a": "é"}) as folder:
            assert count_parts(folder) == 0


def test_parts_are_counted_up_to_the_first_gap(tmp_path):
    interrupted(tmp_path / "x.csv", {}, {0: [], 1: [], 3: []})
    assert count_parts(tmp_path / ".x.csv.part") == 2


def test_run_that_fails_before_its_first_part_leaves_nothing(tmp_path):
    interrupted(tmp_path / "sub" / "x.csv", {}, {})
    assert list((tmp_path / "sub").iterdir()) == []


def test_incomplete_files_are_deleted(tmp_path):
    interrupted(tmp_path / "x.csv", {}, {0: [b"x"]})
    (tmp_path / ".x.csv.part" / ".output.123.new").write_bytes(b"x" * 99)
    with resume_folder(tmp_path / "x.csv", {}) as folder:
        assert sorted(each.name for each in folder.iterdir()) == ["000000.gz", "lock", "run.json"]


def test_metadata_does_not_depend_on_the_order_of_a_set(tmp_path):
    """Sets of strings have another order in another process."""
    names = [f"T{i}" for i in range(40)]
    code = (
        "import sys; from pathlib import Path; from tests.fixtures.linkers import *\n"
        f"interrupted(Path(sys.argv[1]) / 'x.csv', {{'filter': Filter(frozenset({names}), Path('a')), 'b': {{2, 1}}}}, {{0: []}})"
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
    with resume_folder(
        tmp_path / "x.csv", {"b": {1, 2}, "filter": Filter(frozenset(names[::-1]), Path("a"))}
    ) as folder:
        assert count_parts(folder) == 1
        assert texts == {(folder / "run.json").read_text()}
    with (
        pytest.raises(TypeError, match="object can't be compared from one run to the next"),
        resume_folder(tmp_path / "x.csv", {"filter": object()}),
    ):
        pass


def test_second_run_at_the_same_time_is_rejected(tmp_path):
    busy = pytest.raises(ConfigError, match=r"^another run is writing .*x\.csv; wait for it")
    with resume_folder(tmp_path / "x.csv", {}), busy, resume_folder(tmp_path / "x.csv", {}):
        pass
    with resume_folder(tmp_path / "x.csv", {}), resume_folder(tmp_path / "y.csv", {}):
        pass


def test_folder_with_other_files_is_left_unchanged(tmp_path):
    folder = tmp_path / ".x.csv.part"
    folder.mkdir()
    (folder / "mine.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"\.x\.csv\.part is needed for the progress of .*x\.csv, but has other files in it; move it away"), resume_folder(tmp_path / "x.csv", {}):  # fmt: skip
        pass
    assert [each.name for each in folder.iterdir()] == ["mine.txt"]


def test_damaged_parts_are_not_read(tmp_path):
    lines = [b'[[["C1","Fever"]],null]', b'[[],"the mention is blank"]'] * 5
    write_part(tmp_path, 7, lines)
    file = tmp_path / "000007.gz"
    whole = file.read_bytes()
    assert read_part(tmp_path, 7, 10) == lines
    for cut in range(len(whole)):
        file.write_bytes(whole[:cut])
        assert read_part(tmp_path, 7, 10) is None
    found = set()
    for at in range(len(whole)):
        for bit in range(8):
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            same = read_part(tmp_path, 7, 10)
            assert same in (None, lines)
            found.add(same is None)
    assert found == {True, False}  # a bit of the time or the system's name in gzip's header changes nothing
    assert gzip.decompress(whole)
