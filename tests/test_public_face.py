"""The names that `import xsap` offers, what they load, and the errors that they raise."""

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


def test_terminology_loads_no_torch(tmp_path):
    new = loaded("from xsap import Terminology; import xsap.terms.mentions, xsap.config", tmp_path)
    assert not new & (HEAVY - {"pyarrow", "numpy", "pydantic"})
    assert "xsap.terms.terminology" in new


@pytest.mark.parametrize("module", ["xsap.cli", "xsap.train", "data_prep.__main__"])
def test_a_program_imports_no_torch(tmp_path, module):
    assert not loaded(f"import {module}", tmp_path) & {"torch", "transformers", "accelerate", "datasets"}


PUBLIC = {
    "Candidate": "xsap.linking.results",
    "Encoder": "xsap.encoding.encoder",
    "Filter": "xsap.linking.ranking",
    "Index": "xsap.linking.index",
    "Linker": "xsap.linking.linker",
    "Result": "xsap.linking.results",
    "Terminology": "xsap.terms.terminology",
    "build_index": "xsap.linking.build",
    "calibrate": "xsap.evaluation.calibration_report",
    "evaluate": "xsap.evaluation.protocols",
    "link_file": "xsap.tabular.link_file",
}


def test_dir_shows_the_public_names_and_nothing_else(run, tmp_path):
    assert set(dir(xsap)) == {*PUBLIC, "__version__"}
    used = "import xsap, xsap.linking.linker; xsap.Linker; print(sorted(dir(xsap)) == sorted([*xsap.__all__, '__version__']))"
    assert run("-c", used, cwd=tmp_path).stdout == "True\n"


def test_the_public_names_are_the_objects_themselves_and_all_that_a_star_imports(run, tmp_path):
    code = "from xsap import *; [print(name, value.__module__) for name, value in sorted(vars().items()) if name[0] != '_' and name != 'sys']"
    assert dict(line.split() for line in run("-c", code, cwd=tmp_path).stdout.splitlines()) == PUBLIC


@pytest.mark.parametrize("name", ["linker", "Result_", "torch", "import_module", "_import", "Any"])
def test_another_name_is_an_attribute_error(name):
    with pytest.raises(AttributeError, match=f"module 'xsap' has no attribute '{name}'"):
        getattr(xsap, name)


def test_errors_have_one_base_class_and_no_other():
    from xsap.errors import ArtifactError, ConfigError, DataError, RerankerError, XsapError

    kinds = {ArtifactError, ConfigError, DataError, RerankerError}
    assert set(XsapError.__subclasses__()) == kinds
    assert all(kind.__mro__[1:] == (XsapError, Exception, BaseException, object) for kind in kinds)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\u2028", "\x85"])
def test_an_error_is_one_line_even_if_it_quotes_line_breaks(end):
    from xsap.errors import DataError

    assert str(DataError(f"found 'a{end}b'; expected c{end}")) == "found 'a b'; expected c"


def test_the_version_has_three_parts():
    assert xsap.__version__.count(".") == 2
