"""Run folders: their layout, what may be overwritten, and checkpoints.

A run's folder holds config.json, metrics.jsonl, report.html, checkpoints/, model/ or memory/, and tokens/ while it lasts. A
checkpoint is an artifact like any other: published as a whole, opened only if every hash matches. The names and the
dropout of a step are pure functions of the seed and the step, so it has no state of samplers or random generators:
weights, optimizer state and the number of steps suffice.
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from xsap.artifacts import check_can_write, open_artifact, publish, write_atomically
from xsap.errors import ArtifactError, ConfigError

_CHECKPOINT = "checkpoint"
_ENTRIES = ("config.json", "metrics.jsonl", "report.html", "checkpoints", "model", "memory", "tokens")

logger = logging.getLogger(__name__)


def check_run_folder(output: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise ArtifactError if the folder has another run, or has files with the names of a run's files but no run."""
    if output.exists() and not output.is_dir():
        raise ArtifactError(f"{output}: expected a folder for the run, found a file")
    present = [name for name in _ENTRIES if (output / name).exists()]
    if present and not _is_run(output):
        raise ArtifactError(
            f"{output} has a {present[0]} but is not a run of xsap, so it is not replaced; choose another output"
        )
    if present and not resume and not overwrite:
        raise ArtifactError(
            f"{output} already has a run; choose another output, or add --set resume=auto or --set overwrite=true"
        )
    check_can_write(output / "model", overwrite=True)


def _is_run(output: Path) -> bool:
    try:
        return bool({"sampling", "memory"} & json.loads((output / "config.json").read_text(encoding="utf-8")).keys())
    except (OSError, ValueError, TypeError, AttributeError):
        return False


def make_run_folder(output: Path, config: dict[str, Any], *, resume: bool) -> None:
    """Make the run's folder and its config.json. What an earlier run left there is deleted unless it is resumed; other files stay."""
    temporary = [left for name in _ENTRIES for end in ("new", "old") for left in output.glob(f".{name}.*.{end}")]
    # config.json, which marks the folder as a run, is replaced but never missing
    earlier = [] if resume else [output / name for name in _ENTRIES if name != "config.json"]
    for old in [*temporary, *earlier]:
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)
    output.mkdir(parents=True, exist_ok=True)
    with write_atomically(output / "config.json") as stream:
        json.dump(config, stream, indent=1)


class Checkpoint(NamedTuple):
    """What `load_checkpoint` found: the number of steps done, and what `save_checkpoint` got as `more` and `arrays`."""

    step: int
    more: dict[str, Any]
    arrays: dict[str, torch.Tensor]


def save_checkpoint(
    folder: Path,
    checkpoint: Checkpoint,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    identity: dict[str, Any],
    *,
    keep: int,
) -> None:
    """Publish `folder`/step-N and remove all but the newest checkpoints.

    What an interrupted save left behind, and damaged checkpoints that `load_checkpoint` skipped, are removed first.

    Args:
        folder: The folder of a run's checkpoints.
        checkpoint: The number of steps done, and further JSON and tensors to restore.
        model: Its weights are saved.
        optimizer: Its state is saved.
        identity: What a resumed run must have in common with this one.
        keep: Checkpoints to keep.
    """
    for left in [*folder.glob(".step-*"), *(path for path in _newest_first(folder) if _step(path) >= checkpoint.step)]:
        shutil.rmtree(left)
    metadata = {"step": checkpoint.step, "identity": identity, "more": checkpoint.more}
    with publish(folder / f"step-{checkpoint.step}", _CHECKPOINT, metadata) as path:
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path / "model.safetensors")
        save_file(_optimizer_state(model, optimizer), path / "optimizer.safetensors")
        save_file(checkpoint.arrays, path / "arrays.safetensors")
    for old in _newest_first(folder)[keep:]:
        shutil.rmtree(old)


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, identity: dict[str, Any]
) -> Checkpoint | None:
    """Restore model and optimizer from the newest undamaged checkpoint; damaged ones are skipped with a warning.

    Args:
        folder: The folder of a run's checkpoints.
        model: Gets the saved weights.
        optimizer: Gets the saved state.
        identity: What this run must have in common with the saved one.

    Returns:
        The checkpoint, or None without any.

    Raises:
        ConfigError: The checkpoint is of a run with another identity.
    """
    for path in _newest_first(folder):
        try:
            manifest = open_artifact(path, _CHECKPOINT)
            step, saved, more = manifest["step"], manifest["identity"], manifest["more"]
        except (ArtifactError, KeyError) as error:
            logger.warning("skipped damaged checkpoint %s: %s", path, error)
            continue
        _check_identity(saved, identity, path)
        model.load_state_dict(load_file(path / "model.safetensors"))
        _restore_optimizer(model, optimizer, load_file(path / "optimizer.safetensors"))
        return Checkpoint(step, more, load_file(path / "arrays.safetensors"))
    return None


def _newest_first(folder: Path) -> list[Path]:
    paths = (path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdigit())
    return sorted(paths, key=_step, reverse=True)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Every tensor of the optimizer's state under its parameter's name."""
    return {
        f"{name}|{key}": value.contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, torch.Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for name, value in state.items():
        parameter, _, key = name.partition("|")
        optimizer.state[parameters[parameter]][key] = value.to(parameters[parameter].device)


def _check_identity(saved: dict[str, Any], current: dict[str, Any], path: Path) -> None:
    for key in sorted(saved.keys() | current.keys()):
        if saved.get(key) != current.get(key):
            raise ConfigError(
                f"{path} was saved with {key} = {saved.get(key)}, this run has {current.get(key)}; "
                "use the saved value, or start over with --set resume=never --set overwrite=true"
            )
