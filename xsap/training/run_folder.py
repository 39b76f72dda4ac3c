"""The folder of a run: what stands in it, and what may be replaced there.

Save and resume a run: weights, optimizer, and the place in the data, which is a single number.

Names and dropout of a step are pure functions of the seed and the step, so no sampler state and no generator state has to be kept.
A checkpoint is an artifact like any other: published whole, opened only when every hash is right.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from xsap.artifacts import check_can_write, open_artifact, publish, write_atomically
from xsap.errors import ArtifactError, ConfigError

_PARTS = ("config.json", "metrics.jsonl", "report.html", "checkpoints", "model", "tokens")


def check_run_folder(output: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse a place that holds another run, for runs are never mixed; or files of a run's names that are none of ours: ArtifactError."""
    if output.exists() and not output.is_dir():
        raise ArtifactError(f"{output}: expected a folder for the run, found a file")
    present = [name for name in _PARTS if (output / name).exists()]
    if present and not _is_run(output):
        raise ArtifactError(
            f"{output} holds {present[0]}, yet no run of xsap's, and it is not replaced; choose another output"
        )
    if present and not resume and not overwrite:
        raise ArtifactError(
            f"{output} holds a run already; choose another output, or --set resume=auto, or --set overwrite=true"
        )
    check_can_write(output / "model", overwrite=True)


def _is_run(output: Path) -> bool:
    try:
        return "sampling" in json.loads((output / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def make_run_folder(output: Path, config: dict[str, Any], *, resume: bool) -> None:
    """Make the run's folder, without what an earlier run left there unless that is continued; nothing foreign is deleted."""
    aside = [
        left for name in _PARTS for end in ("new", "old") for left in output.glob(f".{name}.*.{end}")
    ]  # by a run that was killed
    replaced = (
        [] if resume else [output / name for name in _PARTS[1:]]
    )  # the first, which says that this is a run, is replaced
    for old in [*aside, *replaced]:
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)
    output.mkdir(parents=True, exist_ok=True)
    with write_atomically(output / "config.json") as stream:
        json.dump(config, stream, indent=1)


_KIND = "checkpoint"


def save(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    identity: dict[str, Any],
    more: dict[str, Any],
    arrays: dict[str, torch.Tensor],
    *,
    keep: int,
) -> None:
    """Publish `folder`/step-N, then remove all but the newest `keep`. step: how many are done. identity: what a resumed run must share.

    more, arrays: any other JSON and tensors to get back. What a killed save left aside, and damaged ones that `resume` passed over, are removed first.
    """
    for left in [*folder.glob(".step-*"), *(place for place in _newest_first(folder) if _step(place) >= step)]:
        shutil.rmtree(left)
    metadata = {"step": step, "identity": identity, "more": more}
    with publish(folder / f"step-{step}", _KIND, metadata) as place:
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, place / "model.safetensors")
        save_file(_moments(model, optimizer), place / "optimizer.safetensors")
        save_file(arrays, place / "arrays.safetensors")
    for old in _newest_first(folder)[keep:]:
        shutil.rmtree(old)


def resume(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, identity: dict[str, Any]
) -> tuple[int, dict[str, Any], dict[str, torch.Tensor]] | None:
    """Load the newest checkpoint that is whole into model and optimizer → (steps done, `more` and `arrays` of its `save`), or None.

    A damaged one is named on stderr and passed over. Raises ConfigError if the run differs from the one that was saved.
    """
    for place in _newest_first(folder):
        try:
            manifest = open_artifact(place, _KIND)
            step, saved, more = manifest["step"], manifest["identity"], manifest["more"]
        except (ArtifactError, KeyError) as error:
            print(f"passed over: {place}: {error}", file=sys.stderr)
            continue
        _compare(saved, identity, place)
        model.load_state_dict(load_file(place / "model.safetensors"))
        _restore(model, optimizer, load_file(place / "optimizer.safetensors"))
        return step, more, load_file(place / "arrays.safetensors")
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted((p for p in folder.glob("step-*") if p.name.removeprefix("step-").isdigit()), key=_step, reverse=True)


def _step(place: Path) -> int:
    return int(place.name.removeprefix("step-"))


def _moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Every tensor of the optimizer's state under its parameter's name."""
    return {
        f"{name}|{key}": value.contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _restore(model: nn.Module, optimizer: torch.optim.Optimizer, moments: dict[str, torch.Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for name, value in moments.items():
        owner, _, key = name.partition("|")
        optimizer.state[parameters[owner]][key] = value.to(parameters[owner].device)


def _compare(saved: dict[str, Any], current: dict[str, Any], place: Path) -> None:
    for key in sorted(saved.keys() | current.keys()):
        if saved.get(key) != current.get(key):
            raise ConfigError(
                f"{place} was saved with {key} = {saved.get(key)}, this run has {current.get(key)}; "
                "set it back, or start anew with --set resume=never --set overwrite=true"
            )
