"""int8 linear layers: the fastest way to encode on a CPU.

A layer's weights are quantized once, to codes in -127…127 with a scale per output; its input each time, with a scale
per token, so that a name's vector does not depend on the names beside it. Sums of products are exact in 32 bits; what
is lost is the rounding of both factors, at most half a code each (symmetric quantization, Wu et al., "Integer
quantization for deep learning inference", 2020, § 3). Everything else stays in float32.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

_MAX_CODE = 127.0


@cache
def int8_is_faster() -> bool:
    """Whether torch multiplies int8 matrices correctly here, and faster than float32: on processors with VNNI instructions.

    Without them oneDNN's sums of two products may saturate at 16 bits ("Nuances of int8 computations" in its guide), or
    a plain loop is many times slower. The processor's flags are read and the largest codes are multiplied; nothing is
    timed, because timing is unreliable on a busy machine.
    """
    right = torch.where(torch.arange(64 * 768).view(64, 768) % 3 == 0, -127, 127).to(torch.int8)
    left = torch.full((32, 768), 127, dtype=torch.int8)
    expected = left[0].int() @ right.int().T
    try:
        return torch.cpu._is_vnni_supported() and all(
            bool((torch._int_mm(left[:q], right.T) == expected).all()) for q in (1, 32)
        )
    except (AttributeError, RuntimeError):
        return False


@dataclass(frozen=True)
class Replacement:
    """A linear layer of a model and its `Int8Linear`, either of which can be the child `name` of `parent`."""

    parent: nn.Module
    name: str
    linear: nn.Linear
    quantized: "Int8Linear"

    def use_int8(self) -> None:
        """Put the int8 layer in place."""
        setattr(self.parent, self.name, self.quantized)

    def use_float(self) -> None:
        """Put the layer itself in place."""
        setattr(self.parent, self.name, self.linear)


def int8_layers(model: nn.Module) -> list[Replacement]:
    """An `Int8Linear` for every linear layer of a model, which is not changed."""
    found = []
    for parent in list(model.modules()):
        linear = {name: child for name, child in parent.named_children() if isinstance(child, nn.Linear)}
        quantize = CachedQuantizer() if len(linear) > 1 else quantize_rows
        found += [Replacement(parent, name, child, Int8Linear(child, quantize)) for name, child in linear.items()]
    return found


def to_int8(model: nn.Module) -> None:
    """Replace every linear layer by an `Int8Linear`."""
    for each in int8_layers(model):
        each.use_int8()


def quantize_rows(states: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize each row symmetrically, with its own scale.

    Args:
        states: (…, k) of any float dtype.

    Returns:
        (m, k) int8 codes and (m, 1) float32 scales, m being the product of the leading sizes: states ≈ scales · codes.
        A row that is not finite gets a scale that is not finite.
    """
    rows = states.reshape(-1, states.shape[-1]).float()  # in 16 bits 127 could become 128
    greatest = torch.maximum(rows.amax(1, keepdim=True), -rows.amin(1, keepdim=True)).clamp_min_(1e-30)
    codes = (rows * (_MAX_CODE / greatest)).round_().to(torch.int8)
    return codes, greatest.div_(_MAX_CODE)


class CachedQuantizer:
    """`quantize_rows` that keeps its last result: query, key and value layers get the same input.

    The input is recognized by identity, so no layer may change it in place; those of transformers don't.
    """

    def __init__(self) -> None:
        self._last: tuple[Tensor, tuple[Tensor, Tensor]] | None = None

    def __call__(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Same as `quantize_rows`."""
        last = self._last
        if last is None or last[0] is not states:
            # assigned at once, so that another thread sees the old pair or the new one
            self._last = last = states, quantize_rows(states)
        return last[1]


class Int8Linear(nn.Module):
    """A linear layer on int8 codes; for inference on CPUs only."""

    def __init__(self, linear: nn.Linear, quantize: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scales = weight.abs().amax(1).clamp_min_(1e-30).div_(_MAX_CODE)
        self.weight = (weight / scales[:, None]).round_().to(torch.int8).T
        self.scales = scales
        self.bias = None if linear.bias is None else linear.bias.detach().float()
        self._quantize = quantize

    def forward(self, states: Tensor) -> Tensor:
        """(…, inputs) float32 → (…, outputs) float32."""
        codes, scales = self._quantize(states)
        products = torch._int_mm(codes, self.weight).to(torch.float32).mul_(scales).mul_(self.scales)
        products = products if self.bias is None else products.add_(self.bias)
        return products.view(*states.shape[:-1], len(self.scales))
