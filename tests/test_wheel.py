import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import xsap

ROOT = Path(__file__).resolve().parents[1]
IMPORT = """
import importlib, sys
from pathlib import Path
home = Path(sys.prefix).resolve()
for name in sys.argv[1:]:
    file = Path(importlib.import_module(name).__file__).resolve()
    if not file.is_relative_to(home):
        sys.exit(f"{name} came from {file}, not from {home}")
"""


def call(*words, cwd):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")} | {
        "HF_HUB_OFFLINE": "1"
    }
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, cwd=cwd, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (file,) = out.iterdir()
    return file


@pytest.fixture(scope="module")
def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """An environment with the wheel alone; what it depends on is seen through a path file."""
    home = tmp_path_factory.mktemp("environment")
    call(sys.executable, "-m", "venv", "--without-pip", home, cwd=home)
    python = home / "bin" / "python"
    call(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=home)
    site = Path(call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).stdout.strip())
    (site / "dependencies.pth").write_text("".join(sysconfig.get_path(kind) + "\n" for kind in ("purelib", "platlib")))
    return home


def modules_of(package):
    return {file.relative_to(ROOT).as_posix() for file in (ROOT / package).rglob("*.py")}


def test_the_wheel_holds_both_packages_whole_and_nothing_else(names):
    packaged = {name for name in names if not name.startswith(f"xsap-{xsap.__version__}.dist-info/")}
    assert {name for name in packaged if name.endswith(".py")} == modules_of("xsap") | modules_of("data_prep")
    assert {name.split("/")[0] for name in packaged} == {"xsap", "data_prep"}
    assert not [name for name in packaged if "__pycache__" in name or name.endswith(".pyc")]


def test_the_wheel_holds_the_sample_and_the_marks_of_types(names):
    sample = {
        f"data_prep/sample/{file}" for file in ("MRCONSO.RRF", "MRSTY.RRF", "MRFILES.RRF", "mentions.tsv", "README.md")
    }
    assert names >= sample | {"xsap/py.typed", "data_prep/py.typed"}


def test_the_wheel_holds_the_recipes_of_training(names):
    recipes = {f"xsap/recipes/{file.name}" for file in (ROOT / "configs" / "train").glob("*.toml")}
    assert len(recipes) >= 5
    assert {name for name in names if "/recipes/" in name} == recipes


@pytest.mark.slow
def test_training_finds_a_recipe_of_the_installed_wheel(environment, tmp_path):
    code = "from xsap.config import load_settings; print(load_settings('small', ['output=o', 'terminology=t']).pooling)"
    assert call(environment / "bin" / "python", "-c", code, cwd=tmp_path).stdout == "mean\n"
    assert "small" in call(environment / "bin" / "xsap", "train", "--help", cwd=tmp_path).stdout


def test_the_wheel_states_licence_version_and_commands(wheel, names):
    info = f"xsap-{xsap.__version__}.dist-info"
    assert f"{info}/licenses/LICENSE" in names
    with zipfile.ZipFile(wheel) as archive:
        assert f"\nVersion: {xsap.__version__}\n" in archive.read(f"{info}/METADATA").decode()
        commands = archive.read(f"{info}/entry_points.txt").decode()
    assert "xsap = xsap.cli:main" in commands
    assert "xsap-prepare = data_prep.__main__:main" in commands


@pytest.mark.slow
def test_every_module_is_imported_from_the_installed_wheel_and_prints_nothing(environment, tmp_path):
    files = modules_of("xsap") | modules_of("data_prep")
    modules = sorted(file.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for file in files)
    done = call(environment / "bin" / "python", "-c", IMPORT, *modules, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("command", ["xsap", "xsap-prepare"])
def test_the_commands_are_installed(environment, tmp_path, command):
    assert "Usage: " in call(environment / "bin" / command, "--help", cwd=tmp_path).stdout
