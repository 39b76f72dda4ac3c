"""Weights that were pickled by torch (`.bin`), converted to safetensors without running what a pickle could contain.

`torch.load(weights_only=True)` reads tensors and plain containers and refuses everything else. It runs in a child process
that runs this module, so that a damaged or hostile file can at worst end that process. The converted folder is kept in a
cache under the SHA-256 of the original files.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xsap.artifacts import MANIFEST, open_artifact, publish, sha256_of
from xsap.errors import ArtifactError

PICKLED_FILES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
KEPT = (".json", ".model", ".txt", ".safetensors")  # configuration, tokenizer, and weights of modules after pooling


def has_pickled_weights_only(folder: Path) -> bool:
    """Whether a model folder has weights as `.bin` and none as `.safetensors`."""
    return any((folder / name).is_file() for name in PICKLED_FILES) and not any(folder.glob("*.safetensors"))


def cache_folder() -> Path:
    """Where converted models are kept: `$XSAP_CACHE`, or `xsap` in the user's cache folder."""
    own = os.environ.get("XSAP_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xsap"


def converted(folder: Path, content_hash: str, pickled: Sequence[Path] | None = None) -> Path:
    """A copy of a model folder with its weights as safetensors, made at the first call and checked at every other.

    Args:
        folder: The model folder.
        content_hash: SHA-256 over its files, which names the copy.
        pickled: Itself and folders in it for which `has_pickled_weights_only` holds; by default itself alone.

    Returns:
        The folder of the copy.

    Raises:
        ArtifactError: The file contains anything but tensors, it is damaged, or the copy is.
    """
    target, pickled = cache_folder() / "converted" / content_hash, pickled or [folder]
    if any(not any(part.glob("*.safetensors")) for part in _in(target, folder, pickled)):
        convert(folder, target, pickled)
    open_artifact(target, "model")
    return target


def convert(folder: Path, target: Path, pickled: Sequence[Path]) -> None:
    """Write a copy of a model folder with its weights as safetensors.

    Args:
        folder: The model folder.
        target: The folder to write; a copy that is there already is replaced.
        pickled: Itself and folders in it for which `has_pickled_weights_only` holds.

    Raises:
        ArtifactError: The file contains anything but tensors, or it is damaged.
    """
    files = [file for part in pickled for file in sorted(part.glob("pytorch_model*"))]
    metadata = {"converted": {file.relative_to(folder).as_posix(): sha256_of(file) for file in files}}
    with publish(target, "model", metadata, overwrite=True) as aside:
        for source, part in zip(pickled, _in(aside, folder, pickled), strict=True):
            part.mkdir(parents=True, exist_ok=True)
            _run_child(source, part)
        for file in sorted(folder.rglob("*")):  # with the folders of SentenceTransformer's modules
            if file.is_file() and file.suffix in KEPT and file.name not in (MANIFEST, *PICKLED_FILES):
                copy = aside / file.relative_to(folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)


def _in(copy: Path, folder: Path, parts: Sequence[Path]) -> list[Path]:
    """The places in a copy of `folder` of folders in it."""
    return [copy / part.relative_to(folder) for part in parts]


def _run_child(folder: Path, aside: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "xsap.encoding.convert_weights", str(folder), str(aside)],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"the process ended with code {done.returncode}"])[-1]
        raise ArtifactError(
            f"{folder}: expected weights that contain only tensors, found {reason}; no code in the file was run. "
            "Ask its authors for model.safetensors; if the hub has it as refs/pr/1: xsap convert ID --revision refs/pr/1 --out FOLDER"
        )


def main(source: Path, target: Path) -> None:
    """The child process: read the tensors of `source` and write them to `target`."""
    import torch
    from safetensors.torch import save_file

    tensors: dict[str, Any] = {}
    for name in _weight_files(source):
        try:
            loaded = torch.load(source / name, map_location="cpu", weights_only=True)
        except Exception as error:  # UnpicklingError, RuntimeError, EOFError, …: all mean that the file is refused
            sys.exit(f"{name} with more than tensors, or damaged ({_first_line(error)})")
        if not isinstance(loaded, dict):
            sys.exit(f"{name} with a {type(loaded).__name__} in place of a dictionary of tensors")
        tensors |= loaded.get("state_dict", loaded) if isinstance(loaded.get("state_dict", loaded), dict) else loaded
    if other := [key for key, value in tensors.items() if not isinstance(value, torch.Tensor)]:
        sys.exit(f"'{other[0]}', which is no tensor")
    copies = {str(key): value.detach().clone().contiguous() for key, value in tensors.items()}
    save_file(copies, target / "model.safetensors", metadata={"format": "pt"})


def _weight_files(source: Path) -> list[str]:
    index = source / PICKLED_FILES[1]
    if not index.is_file():
        return [PICKLED_FILES[0]]
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    if any(Path(name).name != name for name in names):
        sys.exit(f"{index.name} with a path outside of the folder")
    return names


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
