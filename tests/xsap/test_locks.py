"""A lock is held by one process at a time, and let go when its holder ends, however it ends."""

import subprocess
import sys

import pytest

from xsap.artifacts import file_lock
from xsap.errors import ConfigError

HOLD = "import sys; from pathlib import Path; from xsap.artifacts import file_lock\nwith file_lock(Path(sys.argv[1]), 'busy'): print('held', flush=True); sys.stdin.read()"


def test_one_process_holds_it_and_a_dead_one_does_not(tmp_path):
    file = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="^somebody is there; wait$"), file_lock(file, "somebody is there; wait"):
            raise AssertionError("two hold it")
        other.kill()
    with file_lock(file, "busy"), pytest.raises(ConfigError, match="busy"), file_lock(file, "busy"):
        raise AssertionError("two hold it")
    with file_lock(tmp_path / "new" / "folder" / "lock", "busy"):
        pass
    with pytest.raises(KeyError), file_lock(file, "busy"):
        raise KeyError
    with file_lock(file, "busy"):
        pass


def test_where_there_are_no_locks_nothing_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr("xsap.artifacts.find_spec", lambda name: None)
    with file_lock(tmp_path / "lock", "busy"), file_lock(tmp_path / "lock", "busy"):
        assert not (tmp_path / "lock").exists()
