"""AdamW and its learning rate as a function of the step."""

from collections.abc import Callable

import torch
from torch import nn


def adamw(model: nn.Module, *, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, ICLR 2019) in its fused form, on every parameter alike, as the SapBERT recipe has it."""
    return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay, fused=True)


def schedule(name: str, *, warmup_steps: int, total_steps: int) -> Callable[[int], float]:
    """The share of the learning rate that step 0, 1, … takes: a linear warm-up, then constant, or linear down to zero after the last."""

    def share(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        if name == "constant":
            return 1.0
        return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))

    return share
