import json
import subprocess
import sys
from pathlib import Path

import pytest

import xsap

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "sentencepiece",
    "safetensors",
    "pyarrow",
    "numpy",
    "pydantic",
    "duckdb",
    "typer",
    "tqdm",
}
REPORT = "; import json, sys; sys.stderr.write(json.dumps(sorted(sys.modules)))"


def python(code, folder):
    call = [sys.executable, "-c", f"import sys; sys.path[:0] = [{str(ROOT)!r}]; {code}"]
    return subprocess.run(call, capture_output=True, text=True, cwd=folder, timeout=120, check=True)


def loaded(code, folder):
    done = python(code + REPORT, folder)
    assert done.stdout == ""
    return set(json.loads(done.stderr))


def test_importing_xsap_prints_nothing_and_loads_nothing_else(tmp_path):
    new = loaded("import xsap", tmp_path) - loaded("import typing, importlib", tmp_path)
    assert new == {"xsap"}


def test_a_terminology_is_opened_without_torch(tmp_path):
    new = loaded("from xsap import Terminology; import xsap.terms.mentions, xsap.terms.mentions, xsap.config", tmp_path)
    assert not new & (HEAVY - {"pyarrow", "numpy", "pydantic"})
    assert "xsap.terms.terminology" in new


@pytest.mark.parametrize("module", ["xsap.cli", "xsap.train", "data_prep.__main__"])
def test_a_door_opens_without_torch(tmp_path, module):
    assert not loaded(f"import {module}", tmp_path) & {"torch", "transformers", "accelerate", "datasets"}


def test_the_public_names_are_the_classes_themselves_and_all_that_a_star_brings(tmp_path):
    code = "from xsap import *; [print(value.__module__, name) for name, value in sorted(vars().items()) if name[0] not in '_s']"
    assert python(code, tmp_path).stdout.split("\n")[:-1] == [
        "xsap.encoding.encoder Encoder",
        "xsap.linking.linker Linker",
        "xsap.terms.terminology Terminology",
    ]


@pytest.mark.parametrize("name", ["linker", "Index", "torch", "_HOME"])
def test_another_name_is_an_attribute_error(name):
    with pytest.raises(AttributeError, match=f"module 'xsap' has no attribute '{name}'"):
        getattr(xsap, name)


def test_the_kinds_of_error_are_one_family_and_no_other_error():
    from xsap.errors import ArtifactError, ConfigError, DataError, XsapError

    kinds = {ArtifactError, ConfigError, DataError}
    assert set(XsapError.__subclasses__()) == kinds
    assert all(kind.__mro__[1:] == (XsapError, Exception, BaseException, object) for kind in kinds)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\u2028", "\x85"])
def test_an_error_is_one_line_whatever_it_quotes(end):
    from xsap.errors import DataError

    assert str(DataError(f"found 'a{end}b'; expected c{end}")) == "found 'a b'; expected c"


def test_the_version_is_one():
    assert xsap.__version__.count(".") == 2
