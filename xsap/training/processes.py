"""Devices and processes of a run, by Accelerate, and the number format that it computes in."""

import logging
import os
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import parse_flag_from_env

from xsap.encoding.precision import bfloat16_is_slow
from xsap.errors import ConfigError

WAIT = timedelta(hours=12)  # of other processes, while one searches, evaluates or saves

logger = logging.getLogger(__name__)


def start_processes() -> PartialState:
    """The processes of a run, where they are needed before its Accelerator: as that would start them, which takes them as they are.

    Raises:
        ConfigError: Not all processes that were launched are part of the run, so that each would run it alone.
    """
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=WAIT)
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if state.num_processes < launched:
        raise ConfigError(
            f"{launched} processes were launched, but Accelerate sees {state.num_processes}; on CPUs launch them with accelerate launch --cpu"
        )
    return state


def choose_mixed_precision() -> str:
    """What `mixed_precision = auto` stands for here: bf16 where it is fast, else no."""
    slow = not torch.cuda.is_bf16_supported() if torch.cuda.is_available() else bfloat16_is_slow()
    return "no" if slow else "bf16"


def start_accelerator(mixed_precision: str, tracker: str | None, output: Path) -> Accelerator:
    """Accelerate's view of devices and processes.

    Args:
        mixed_precision: no, bf16 or fp16.
        tracker: An experiment tracker, if there is one.
        output: The run's folder.

    Raises:
        ConfigError: These are not available here, or processes were launched in a way that would give wrong results.
    """
    try:
        start_processes()
        accelerator = Accelerator(
            mixed_precision=mixed_precision,
            log_with=tracker,
            project_dir=str(output),
        )
    except (ValueError, ImportError, RuntimeError) as error:
        raise ConfigError(
            f"Accelerate does not support mixed_precision = {mixed_precision}, tracker = {tracker} here: {error}"
        ) from None
    if mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ConfigError("mixed_precision = fp16 needs a GPU, found a CPU; use bf16 or no")
    if mixed_precision == "bf16" and accelerator.device.type == "cpu" and bfloat16_is_slow():
        logger.warning("this CPU emulates bfloat16, which is slower than float32; set mixed_precision=no")
    kind, accumulated = accelerator.distributed_type.value, accelerator.gradient_accumulation_steps
    if accumulated != 1 or not (kind == "NO" or kind.startswith("MULTI_")):  # would run, with wrong results
        raise ConfigError(
            f"Accelerate must run whole models on each process, without gradient accumulation; found {kind} with {accumulated} "
            "accumulated steps; launch without FSDP and DeepSpeed, and use batch.chunk for batches that don't fit into memory"
        )
    if tracker and not accelerator.log_with:  # Accelerate itself would ignore it
        raise ConfigError(f"the package of tracker = {tracker} is not installed; install it, or leave tracker out")
    return accelerator
