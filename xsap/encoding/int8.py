"""int8 linear layers, for encoding on CPUs with instructions for products of int8 codes.

A layer's weights are quantized once, with a scale per output; its input each time, with a scale and an offset per token,
so that a row's codes do not depend on the rows beside it. Sums of products are exact in 32 bits; what is lost is
the rounding of both factors, at most half a code each (Wu et al., "Integer quantization for deep learning inference",
2020, § 3). Everything else stays in float32.

A few channels of the states of transformers are many times as large as the others, and would leave the others few codes. So
channels of the input are divided, and their weights multiplied, by powers of two that even out both (SmoothQuant, Xiao et
al. 2023, equation 4), and the largest channels are multiplied in float32 (LLM.int8(), Dettmers et al. 2022, § 3.2). Which
they are is read off a few names.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

_CHANNELS_PER_OUTLIER = 48  # one in so many channels is multiplied in float32
_SMOOTHING = 0.3  # 0 evens out the weights alone, 1 the states alone


@cache
def int8_is_faster() -> bool:
    """Whether torch multiplies int8 matrices correctly here, and faster than float32: on processors with VNNI instructions.

    Without them oneDNN's sums of two products may saturate at 16 bits ("Nuances of int8 computations" in its guide), or
    a plain loop is many times slower. The processor's flags are read and the largest codes are multiplied; nothing is
    timed, because timing is unreliable on a busy machine.
    """
    right = torch.where(torch.arange(64 * 768).view(64, 768) % 3 == 0, -127, 127).to(torch.int8)
    left = torch.full((32, 768), 127, dtype=torch.int8)
    left[1::2] = -128
    expected = left.int() @ right.int().T
    try:
        return torch.cpu._is_vnni_supported() and all(
            bool((torch._int_mm(left[:q], right.T) == expected[:q]).all()) for q in (1, 32)
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


def int8_layers(model: nn.Module, encode_sample: Callable[[], object]) -> list[Replacement]:
    """An `Int8Linear` for every linear layer that a model uses; the model is not changed.

    Args:
        model: The model, in float32.
        encode_sample: Calls the model on some names, which show how large each channel of a layer's input is.
    """
    quantizers: dict[nn.Linear, InputQuantizer] = {}
    for layers, largest in _shared_inputs(model, encode_sample):
        weights = torch.cat([layer.weight.detach() for layer in layers])
        quantizer = InputQuantizer(largest, weights, shared=len(layers) > 1)
        quantizers |= dict.fromkeys(layers, quantizer)
    return [
        Replacement(parent, name, child, Int8Linear(child, quantizers[child]))
        for parent in list(model.modules())
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear) and child in quantizers
    ]


def to_int8(model: nn.Module, encode_sample: Callable[[], object]) -> None:
    """Replace every linear layer that a model uses by an `Int8Linear`; arguments as for `int8_layers`."""
    for each in int8_layers(model, encode_sample):
        each.use_int8()


def _shared_inputs(model: nn.Module, encode_sample: Callable[[], object]) -> list[tuple[list[nn.Linear], Tensor]]:
    """The layers that share an input, as query, key and value do, and (k,) the largest magnitude of each of its channels."""
    largest: dict[nn.Linear, Tensor] = {}
    groups: list[list[nn.Linear]] = []
    previous: Tensor | None = None

    def observe(layer: nn.Linear, given: tuple[Tensor]) -> None:
        nonlocal previous
        if layer not in largest:
            if given[0] is previous:
                groups[-1].append(layer)
            else:
                groups.append([layer])
            previous = given[0]
        found = given[0].detach().float().flatten(0, -2).abs().amax(0)
        largest[layer] = torch.maximum(largest.get(layer, found), found)

    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    handles = [layer.register_forward_pre_hook(observe) for layer in linear]
    try:
        encode_sample()
    finally:
        for handle in handles:
            handle.remove()
    return [(layers, torch.stack([largest[layer] for layer in layers]).amax(0)) for layers in groups]


@dataclass(frozen=True)
class QuantizedRows:
    """Rows of an input: states · factors ≈ scales · (codes - offsets), but for the outlier channels.

    Attributes:
        codes: (m, k) int8.
        scales: (m, 1) float32; a row that is not finite has a scale that is not finite.
        float_inputs: (m, outliers + 2) what is multiplied in float32: scales · offsets, ones, and the outlier channels.
    """

    codes: Tensor
    scales: Tensor
    float_inputs: Tensor


class InputQuantizer:
    """Quantizes each row of an input with its own scale and offset.

    Where several layers get the same input, the last result is kept for the next of them. The input is recognized by
    identity, so no layer may change it in place; those of transformers don't.

    Args:
        largest: (k,) the largest magnitude of each channel of the input.
        weights: (outputs, k) the weights of all layers that get the input.
        shared: Whether several layers get it. A kept result takes memory for as long as the model is used.

    Attributes:
        outliers: (outliers,) the channels that are multiplied in float32.
        factors: (k,) what each channel is multiplied by before it is quantized: powers of two; 0 for the outliers.
    """

    def __init__(self, largest: Tensor, weights: Tensor, *, shared: bool) -> None:
        self.outliers = largest.topk(max(1, len(largest) // _CHANNELS_PER_OUTLIER)).indices.sort().values
        largest, weights = largest.clamp_min(1e-3), weights.float().abs().amax(0).clamp_min(1e-4)
        exponents = (1 - _SMOOTHING) * weights.log2() - _SMOOTHING * largest.log2()
        self.factors = exponents.round().exp2().index_fill(0, self.outliers, 0)
        self._shared = shared
        self._last: tuple[Tensor, QuantizedRows] | None = None

    def __call__(self, states: Tensor) -> QuantizedRows:
        """Quantize (…, k) states of any float dtype; m rows are the product of the leading sizes."""
        if not self._shared:
            return self._quantize(states)
        last = self._last
        if last is None or last[0] is not states:
            # assigned at once, so that another thread sees the old pair or the new one
            self._last = last = states, self._quantize(states)
        return last[1]

    def _quantize(self, states: Tensor) -> QuantizedRows:
        rows = states.reshape(-1, states.shape[-1]).float()
        smoothed = rows * self.factors
        # 0 is included, so that offsets are no larger than codes; torch.aminmax along rows is ten times slower
        least, greatest = smoothed.amin(1, keepdim=True).clamp_max_(0), smoothed.amax(1, keepdim=True).clamp_min_(0)
        scales = ((greatest - least) / 254).clamp_min(1e-30)
        offsets = (-127.5 - least / scales).round()  # an integer, so that zero stays zero
        codes = torch.addcmul(offsets, smoothed, 1 / scales).round_().to(torch.int8)
        float_inputs = torch.cat([scales * offsets, torch.ones_like(scales), rows[:, self.outliers]], 1)
        return QuantizedRows(codes, scales, float_inputs)


class Int8Linear(nn.Module):
    """A linear layer on int8 codes; for inference on CPUs only."""

    def __init__(self, linear: nn.Linear, quantize: InputQuantizer) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        factors = quantize.factors
        smoothed = torch.where(factors > 0, weight / factors.clamp_min(1e-30), 0)
        self.scales = smoothed.abs().amax(1).clamp_min_(1e-30).div_(127)
        self.weight = (smoothed / self.scales[:, None]).round_().to(torch.int8).T
        bias = torch.zeros(len(weight)) if linear.bias is None else linear.bias.detach().float()
        offset = -self.weight.sum(0, dtype=torch.int32) * self.scales
        # (outliers + 2, outputs): what `QuantizedRows.float_inputs` is multiplied by
        self.float_weight = torch.cat([offset[None], bias[None], weight[:, quantize.outliers].T])
        self._quantize = quantize

    def forward(self, states: Tensor) -> Tensor:
        """(…, inputs) float32 → (…, outputs) float32."""
        rows = self._quantize(states)
        products = torch._int_mm(rows.codes, self.weight).to(torch.float32).mul_(rows.scales).mul_(self.scales)
        return products.addmm_(rows.float_inputs, self.float_weight).view(*states.shape[:-1], len(self.scales))
