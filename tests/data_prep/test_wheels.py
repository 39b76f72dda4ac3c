import sys

import pytest

from data_prep.wheels import Wheel, extract_from_wheel
from tests.fixtures.wheels import MEMBERS, write_wheel
from xsap.errors import DataError


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder of wheels that pip takes all packages from."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.mark.parametrize(
    "file_name",
    [
        "invented-1.2-py3-none-any.whl",
        "invented-1.2-py3-none-win_arm64.whl",
        "invented-1.2-py3-none-macosx_11_0_arm64.manylinux2014_s390x.whl",
    ],
)
def test_members_of_a_wheel_for_any_platform_are_written(index, tmp_path, file_name):
    wheel = write_wheel(index, file_name)
    targets = {member: tmp_path / f"{number}.out" for number, member in enumerate(MEMBERS)}
    extract_from_wheel(wheel, targets)
    assert {member: target.read_bytes() for member, target in targets.items()} == MEMBERS


@pytest.mark.parametrize(
    ("wheel", "members", "message"),
    [
        (Wheel("invented-1.2-py3-none-any.whl", "0" * 64), ["invented/big.bin"], "expected sha256 000.*, found "),
        (Wheel("invented-1.3-py3-none-any.whl", "0" * 64), [], r"invented==1.3: pip could not download it \(.*1\.3"),
        (Wheel("invented-1.2-py2-none-any.whl", "0" * 64), [], "expected the wheel invented-1.2-py2-none-any.whl from pip, found invented-1.2-py3"),
        (None, ["invented/other"], "expected the file invented/other in the wheel, found none"),
    ],
)  # fmt: skip
def test_wheel_that_is_not_the_expected_one_is_refused(index, tmp_path, wheel, members, message):
    present = write_wheel(index, "invented-1.2-py3-none-any.whl")
    with pytest.raises(DataError, match=message):
        extract_from_wheel(wheel or present, dict.fromkeys(members, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_python_without_pip_is_refused_with_the_way_to_install_it(tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "{sys.executable}: No module named pip" >&2\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(DataError, match="has no pip. Install it: .* -m ensurepip"):
        extract_from_wheel(Wheel("invented-1.2-py3-none-any.whl", "0" * 64), {})
