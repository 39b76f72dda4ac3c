"""Interpolation with the weights of the base model.

A model that was trained on one terminology links that one better, and others less well than it could: it has moved away
from its base. A model on the line between both keeps most of what it learned and most of what its base knew (Wortsman et
al., Robust fine-tuning of zero-shot models, CVPR 2022: θ = (1 - α) · base + α · trained; here `base_fraction` is 1 - α).
Training itself does not change: the interpolated weights are those that are evaluated and saved.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def copy_weights(module: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters by name, on the CPU."""
    return {name: parameter.detach().to("cpu", copy=True) for name, parameter in module.named_parameters()}


@contextmanager
def interpolated(module: nn.Module, base: Mapping[str, Tensor], fraction: float) -> Iterator[None]:
    """Within this context the model has weights between its own and those of its base; after it, exactly its own.

    Args:
        module: The model.
        base: What `copy_weights` returned for the base model, with the same names and shapes; unused if fraction is 0.
        fraction: Weight of the base, at least 0 and less than 1.
    """
    if not fraction:
        yield
        return
    own, parameters = copy_weights(module), dict(module.named_parameters())
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.lerp_(base[name].to(parameter.device, parameter.dtype), fraction)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(own[name])
