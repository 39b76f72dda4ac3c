"""The folder of a run: what stands in it, and what may be replaced there."""

import json
import shutil
from pathlib import Path
from typing import Any

from xsap.artifacts import refuse_to_replace, write_atomically
from xsap.errors import ArtifactError

_PARTS = ("config.json", "metrics.jsonl", "report.html", "checkpoints", "model", "tokens")


def check_place(output: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse a place that holds another run, for runs are never mixed; or files of a run's names that are none of ours: ArtifactError."""
    if output.exists() and not output.is_dir():
        raise ArtifactError(f"{output}: expected a folder for the run, found a file")
    present = [name for name in _PARTS if (output / name).exists()]
    if present and not _is_run(output):
        raise ArtifactError(f"{output} holds {present[0]}, yet no run of xsap's, and it is not replaced; choose another output")
    if present and not resume and not overwrite:
        raise ArtifactError(f"{output} holds a run already; choose another output, or --set resume=auto, or --set overwrite=true")
    refuse_to_replace(output / "model", overwrite=True)


def _is_run(output: Path) -> bool:
    try:
        return "sampling" in json.loads((output / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def make_place(output: Path, config: dict[str, Any], *, resume: bool) -> None:
    """Make the run's folder, without what an earlier run left there unless that is continued; nothing foreign is deleted."""
    aside = [left for name in _PARTS for end in ("new", "old") for left in output.glob(f".{name}.*.{end}")]  # by a run that was killed
    replaced = [] if resume else [output / name for name in _PARTS[1:]]  # the first, which says that this is a run, is replaced
    for old in [*aside, *replaced]:
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)
    output.mkdir(parents=True, exist_ok=True)
    with write_atomically(output / "config.json") as stream:
        json.dump(config, stream, indent=1)
