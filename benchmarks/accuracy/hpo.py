"""The Human Phenotype Ontology as a benchmark: held-out names of a fifth of its concepts, and training on the rest.

`xsap-prepare hpo` and `xsap-prepare split` do the work, each in a process of its own, and leave folders. HPO's own folder has an `.obo`
file and a folder of translation tables, as `xsap-prepare fetch hpo` brings them. Only OFFICIAL translations are mentions.
"""

import hashlib
import subprocess
import sys
from pathlib import Path

from xsap.artifacts import sha256_of
from xsap.errors import DataError, XsapError

TEST_FRACTION, TEST_STATUS = "0.2", "OFFICIAL"
_LAYOUT = (
    "a folder with an .obo file and a folder 'translations' of .tsv tables, such as `xsap-prepare fetch hpo` makes"
)


def held_out_hpo(folder: Path, work: Path) -> Path:
    """The split's folder (terminology/, mentions.tsv), made in `work` unless one of the same files is there. Raises XsapError."""
    ontologies, tables = sorted(folder.glob("*.obo")), sorted((folder / "translations").glob("*.tsv"))
    if len(ontologies) != 1 or not tables:
        raise DataError(
            f"{folder}: expected {_LAYOUT}; found {len(ontologies)} .obo file(s) and {len(tables)} table(s)"
        )
    bytes_of = "".join(f"{file.name} {sha256_of(file)}\n" for file in [*ontologies, *tables])
    place = work / f"hpo-{hashlib.sha256(bytes_of.encode()).hexdigest()[:12]}"
    whole, split = place / "whole", place / "split"
    if not whole.is_dir():
        _prepare("hpo", "--obo", ontologies[0], "--translations", folder / "translations", "--out", whole)
    if not split.is_dir():
        _prepare("split", whole, "--out", split, "--test-fraction", TEST_FRACTION, "--test-status", TEST_STATUS)
    return split


def _prepare(*words: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "data_prep", *map(str, words)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = (done.stderr.strip() or "nothing was said").splitlines()[-1].removeprefix("error: ")
        raise XsapError(f"xsap-prepare {words[0]} ended with exit code {done.returncode}: {said}")
