"""The Human Phenotype Ontology as a benchmark: held-out names of a fifth of its concepts, and training on the rest.

`xsap-prepare hpo` and `xsap-prepare split` do the work, each in its own process, and leave folders. The source folder
has an `.obo` file and a folder of translation tables, as `xsap-prepare fetch hpo` downloads them. Only OFFICIAL
translations become mentions.
"""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from xsap.artifacts import sha256_of
from xsap.errors import DataError, XsapError

TEST_FRACTION, TEST_STATUS = "0.2", "OFFICIAL"
_LAYOUT = "a folder with an .obo file (or .obo.gz) and a folder 'translations' of .tsv tables, such as `xsap-prepare fetch hpo` makes"


def prepare_hpo(*arguments: object) -> None:
    """Run `xsap-prepare` in its own process. Raises XsapError with its last line if it fails."""
    command = [sys.executable, "-m", "data_prep", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        message = (done.stderr.strip() or "no message").splitlines()[-1].removeprefix("error: ")
        raise XsapError(f"xsap-prepare {arguments[0]} ended with exit code {done.returncode}: {message}")


def held_out_hpo(folder: Path, work: Path, *, prepare: Callable[..., None] = prepare_hpo) -> Path:
    """Split HPO into a training terminology and held-out mentions.

    Args:
        folder: The source files.
        work: Folder for the results; a split of the same files that is there is used again.
        prepare: Runs `xsap-prepare` with its arguments.

    Returns:
        The split's folder, with terminology/ and mentions.tsv.

    Raises:
        XsapError: If the folder has other files, or they cannot be read.
    """
    ontologies, tables = (
        sorted([*folder.glob("*.obo"), *folder.glob("*.obo.gz")]),
        sorted((folder / "translations").glob("*.tsv")),
    )
    if len(ontologies) != 1 or not tables:
        found = f"{len(ontologies)} .obo file(s) and {len(tables)} table(s)"
        raise DataError(f"{folder}: expected {_LAYOUT}; found {found}")
    hashes = "".join(f"{file.name} {sha256_of(file)}\n" for file in [*ontologies, *tables])
    results = work / f"hpo-{hashlib.sha256(hashes.encode()).hexdigest()[:12]}"
    whole, split = results / "whole", results / "split"
    if not whole.is_dir():
        prepare("hpo", "--obo", ontologies[0], "--translations", folder / "translations", "--out", whole)
    if not split.is_dir():
        prepare("split", whole, "--out", split, "--test-fraction", TEST_FRACTION, "--test-status", TEST_STATUS)
    return split
