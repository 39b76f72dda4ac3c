"""int8 products on this processor, and linear layers made of them: the fastest way to encode on a CPU.

A layer's weights get codes in −127…127 with a scale for each output, once; its input a scale for each token, anew each time, so that a name's
vector doesn't depend on the names beside it. Sums of products are exact in 32 bits; what is lost is the rounding of both sides, at most half
a code (symmetric quantization, Wu et al., "Integer quantization for deep learning inference", 2020, § 3). All else stays in float32.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

_TOP = 127.0  # the greatest code


@cache
def int8_is_faster() -> bool:
    """Whether torch multiplies int8 matrices faster than float32 here, and rightly: on processors with VNNI instructions.

    Without them oneDNN's sums of two products may saturate at 16 bits ("Nuances of int8 computations" in its guide), or a plain loop takes
    many times as long. Asked of the processor and tried on the largest codes, not timed: a clock says little on a busy machine.
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


def to_int8(model: nn.Module) -> None:
    """Put an `Int8Linear` in the place of every linear layer."""
    for parent in list(model.modules()):
        linear = {name: child for name, child in parent.named_children() if isinstance(child, nn.Linear)}
        code = CachedQuantizer() if len(linear) > 1 else quantize_rows
        for name, child in linear.items():
            setattr(parent, name, Int8Linear(child, code))


def quantize_rows(states: Tensor) -> tuple[Tensor, Tensor]:
    """(…, k) floats → (m, k) int8 codes and (m, 1) float32 scales: states ≈ scales · codes. What isn't finite gives a scale that isn't."""
    rows = states.reshape(-1, states.shape[-1]).float()  # in 16 bits 127 could become 128
    greatest = torch.maximum(rows.amax(1, keepdim=True), -rows.amin(1, keepdim=True)).clamp_min_(1e-30)
    codes = (rows * (_TOP / greatest)).round_().to(torch.int8)
    return codes, greatest.div_(_TOP)


class CachedQuantizer:
    """`quantize_rows`, which is not computed again where the input is the last one: query, key and value are made of the same states.

    No layer of a transformer may change its input in place; those of transformers don't.
    """

    def __init__(self) -> None:
        self._last: tuple[Tensor, tuple[Tensor, Tensor]] | None = None

    def __call__(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """As `quantize_rows`."""
        last = self._last
        if last is None or last[0] is not states:
            self._last = last = (
                states,
                quantize_rows(states),
            )  # set at once: another thread sees the old pair or the new one
        return last[1]


class Int8Linear(nn.Module):
    """What a linear layer computes, of codes; for inference only, on a CPU."""

    def __init__(self, linear: nn.Linear, code: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scales = weight.abs().amax(1).clamp_min_(1e-30).div_(_TOP)
        self.weight = (weight / scales[:, None]).round_().to(torch.int8).T
        self.scales = scales
        self.bias = None if linear.bias is None else linear.bias.detach().float()
        self._code = code

    def forward(self, states: Tensor) -> Tensor:
        """(…, inputs) float32 → (…, outputs) float32."""
        codes, scales = self._code(states)
        products = torch._int_mm(codes, self.weight).to(torch.float32).mul_(scales).mul_(self.scales)
        products = products if self.bias is None else products.add_(self.bias)
        return products.view(*states.shape[:-1], len(self.scales))
