"""int8 layers: codes and products against double precision, and an int8 encoder against the same one in float32."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.fixtures.examples import examples
from xsap import Encoder
from xsap.encoding import encoder as encoder_module
from xsap.encoding.int8 import InputQuantizer, Int8Linear, int8_is_faster, int8_layers, to_int8
from xsap.encoding.model_folder import EncoderConfig
from xsap.errors import ConfigError


@pytest.fixture
def usable(monkeypatch):
    """int8 encoders on any processor: without the instructions for it, products are right but slow."""
    monkeypatch.setattr(encoder_module, "int8_is_faster", lambda: True)


def quantizer(states, *layers, shared=False):
    """The quantizer of layers that get these states."""
    largest, weights = states.flatten(0, -2).abs().amax(0), torch.cat([layer.weight.detach() for layer in layers])
    return InputQuantizer(largest, weights, shared=shared)


def restored(quantize, states):
    """The states that the codes stand for, in double precision, with the outlier channels as they are."""
    rows = quantize(states)
    offsets = rows.float_inputs[:, :1].double() / rows.scales.double()
    smoothed = rows.scales.double() * (rows.codes.double() - offsets)
    kept = quantize.factors > 0
    smoothed[:, kept] /= quantize.factors[kept].double()
    smoothed[:, ~kept] = states.flatten(0, -2)[:, ~kept].double()
    return smoothed


@settings(deadline=None, max_examples=examples(60))
@given(
    st.integers(1, 40),
    st.integers(2, 200),
    st.integers(1, 30),
    st.integers(0, 2**32 - 1),
    st.floats(1e-3, 1e3),
    st.booleans(),
)
def test_int8_linear_is_the_product_of_nearest_codes(m, k, n, seed, size, biased):
    random = torch.Generator().manual_seed(seed)
    linear = nn.Linear(k, n, bias=biased)
    states = torch.randn(m, k, generator=random) * size * torch.rand(m, 1, generator=random)
    states[0] = 0
    quantize = quantizer(states, linear)
    rows, kept = quantize(states), quantize.factors > 0
    assert int((~kept).sum()) == len(quantize.outliers) == max(1, k // 48)
    assert float(states[:, ~kept].abs().amax()) == float(states.abs().amax())  # the largest channels are the outliers
    offsets = rows.float_inputs[:, :1] / rows.scales
    assert float((offsets - offsets.round()).abs().max()) < 1e-3  # so that zero is a code
    smoothed = states[:, kept].double() * quantize.factors[kept].double()
    exact = smoothed / rows.scales.double() + offsets.round().double()
    assert float((exact - rows.codes[:, kept].double()).abs().max()) <= 0.5 + 1e-3  # each is the nearest
    used = rows.codes.int().amax(1) - rows.codes.int().amin(1)
    assert (used[states.abs().amax(1) > 0] >= 253).all() or k < 3  # and the scale the finest
    layer = Int8Linear(linear, quantize)
    assert (layer.weight.int().abs().amax(0) == 127).all()  # a scale for each output
    weight = linear.weight.detach().double()
    coded = layer.weight.T.double() * layer.scales.double()[:, None] * quantize.factors.double()
    lost = (weight - coded)[:, kept].abs() / quantize.factors[kept].double()
    assert (lost <= 0.5001 * layer.scales.double()[:, None] + 1e-12).all()
    coded[:, ~kept] = weight[:, ~kept]
    given_states = restored(quantize, states)
    expected = given_states @ coded.T + (linear.bias.detach().double() if biased else 0)
    reach = (given_states.abs() + (rows.scales * 128 / quantize.factors.clamp_min(1e-9)).double()) @ coded.abs().T
    assert float(((layer(states).double() - expected).abs() / (reach + expected.abs() + 1e-12)).max()) < 1e-6


def test_int8_linear_error_is_within_half_a_code_of_each_factor():
    torch.manual_seed(0)
    linear, states = nn.Linear(64, 48), torch.randn(5, 7, 64)
    quantize = quantizer(states, linear)
    layer, factors, rows = Int8Linear(linear, quantize), quantize.factors, quantize(states)
    lost = (layer(states) - linear(states)).detach().abs().flatten(0, 1)
    weight = torch.where(factors > 0, linear.weight / factors.clamp_min(1e-9), 0)
    smoothed = states.flatten(0, 1) * factors
    bound = rows.scales / 2 * weight.abs().sum(1) + layer.scales / 2 * (
        smoothed.abs().sum(1, keepdim=True) + 63 * rows.scales / 2
    )
    assert (lost <= bound * 1.001).all()
    assert layer(states).shape == (5, 7, 48)
    assert float(lost.max()) > 0


@pytest.mark.parametrize("large", [[7], [3, 100]])
def test_channels_that_are_many_times_as_large_as_others_cost_no_accuracy(large):
    torch.manual_seed(0)
    linear, states = nn.Linear(192, 48), torch.randn(64, 192)
    plain = (Int8Linear(linear, quantizer(states, linear))(states) - linear(states)).norm()
    states[:, large] *= 1000
    with torch.no_grad():
        linear.weight[:, large] /= 1000
    assert (Int8Linear(linear, quantizer(states, linear))(states) - linear(states)).norm() < 1.1 * plain
    # the test can fail: with codes for all channels alike it does
    codes = (states * 127 / states.abs().amax(1, keepdim=True)).round()
    alike = codes * states.abs().amax(1, keepdim=True) / 127
    assert (alike @ linear.weight.T + linear.bias - linear(states)).norm() > 20 * plain


def test_channels_of_two_sizes_are_evened_out_by_powers_of_two():
    torch.manual_seed(0)
    linear, states = nn.Linear(96, 8), torch.randn(500, 96)
    states[:, 1::2] *= 1024
    quantize = quantizer(states, linear)
    kept = quantize.factors > 0
    exponents = quantize.factors[kept].log2()
    assert torch.equal(exponents, exponents.round())
    ratio = quantize.factors[::2][kept[::2]].median() / quantize.factors[1::2][kept[1::2]].median()
    assert ratio == 8  # 1024 to the power of 0.3; the weights take the rest


def test_weights_of_two_sizes_are_evened_out_by_powers_of_two():
    torch.manual_seed(0)
    linear, states = nn.Linear(96, 500), torch.randn(500, 96)
    with torch.no_grad():
        linear.weight[:, 1::2] = 1024 * linear.weight[:, ::2]
    states[:, 1::2] = states[:, ::2]
    states[:, :2] *= 100  # the outliers
    factors = quantizer(states, linear).factors
    assert factors[:2].tolist() == [0, 0]
    assert torch.equal(factors[3::2], 128 * factors[2::2])  # 1024 to the power of 0.7


def test_layers_that_share_an_input_are_evened_out_by_the_largest_weight_of_all():
    torch.manual_seed(0)
    parent, sample = Parent(), torch.randn(64, 4)
    sample[:, 3] *= 100  # the outlier
    with torch.no_grad():
        for layer in (parent.query, parent.key):
            layer.weight.fill_(0.5)
        parent.key.weight[:, 1] *= 1024
    sample[:, 1] = sample[:, 0]
    layers = {each.name: each.quantized for each in int8_layers(parent, lambda: parent(sample))}
    assert layers["query"]._quantize.factors[1] == 128 * layers["query"]._quantize.factors[0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("channel", [2, 5])
def test_int8_linear_propagates_values_that_are_not_finite(bad, channel):
    linear, states = nn.Linear(8, 4), torch.ones(3, 8)
    states[:, 5] = 2  # the outlier
    layer = Int8Linear(linear, quantizer(states, linear))
    states[1, channel] = bad
    out = layer(states)
    assert not out[1].isfinite().any()
    assert out[[0, 2]].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_quantizer_is_exact_for_16_bit_states(dtype):
    torch.manual_seed(0)
    linear, states = nn.Linear(96, 4), torch.randn(2000, 96).to(dtype)
    quantize = quantizer(states.float(), linear)
    found, exact = quantize(states), quantize(states.float())
    assert torch.equal(found.codes, exact.codes)
    assert torch.equal(found.float_inputs, exact.float_inputs)
    error = (restored(quantize, states.float()) - states.double()).abs() * quantize.factors
    assert (error <= 0.501 * exact.scales).all()


def test_int8_linear_keeps_leading_sizes():
    linear, states = nn.Linear(8, 4), torch.ones(2, 1, 8)
    assert Int8Linear(linear, quantizer(states, linear))(states).shape == (2, 1, 4)


def test_quantizer_does_not_depend_on_other_rows():
    linear, states = nn.Linear(16, 4), torch.randn(9, 16)
    quantize = quantizer(states, linear)
    together = quantize(states)
    for row in range(9):
        alone = quantize(states[row : row + 1] if row % 2 else torch.cat([states[row : row + 1], 1000 * states]))
        for part in ("codes", "scales", "float_inputs"):
            assert torch.equal(getattr(alone, part)[0], getattr(together, part)[row])


class Parent(nn.Module):
    """Layers that share an input and layers that do not, and one that is never called."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.unused = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))

    def forward(self, states):
        return self.inner(self.query(states) + self.key(states))


def test_to_int8_quantizes_a_shared_input_once(monkeypatch):
    torch.manual_seed(0)
    asked, quantize = [], InputQuantizer._quantize
    monkeypatch.setattr(
        InputQuantizer, "_quantize", lambda self, states: asked.append(states) or quantize(self, states)
    )
    parent, sample = Parent(), torch.randn(64, 4)
    plain = [parent.query, parent.key, parent.inner[0], parent.inner[2]]
    exact = parent(sample)
    to_int8(parent, lambda: parent(sample))
    assert not asked
    quantized = [parent.query, parent.key, parent.inner[0], parent.inner[2]]
    assert all(isinstance(layer, Int8Linear) for layer in quantized)
    assert type(parent.unused) is nn.Linear
    assert not any(layer._forward_pre_hooks for layer in plain)
    torch.testing.assert_close(parent(sample), exact, atol=0.05, rtol=0)
    assert len(asked) == 3  # of four
    asked.clear()
    first, second = torch.randn(2, 4), torch.randn(2, 4)
    for states in (first, second, first):
        for layer, linear in zip(quantized[:2], plain[:2], strict=True):
            torch.testing.assert_close(layer(states), linear(states), atol=0.05, rtol=0)
    assert len(asked) == 3  # of six


def test_layers_keep_the_ranges_of_all_calls():
    parent, states = Parent(), torch.ones(2, 4)

    def sample():
        parent(states)
        parent(torch.tensor([[1.0, 1.0, 1.0, 50.0]]))

    layers = {each.name: each.quantized for each in int8_layers(parent, sample)}
    assert layers["query"]._quantize is layers["key"]._quantize
    assert layers["query"]._quantize.outliers.tolist() == [3]
    assert layers["0"]._quantize is not layers["2"]._quantize


def test_a_shared_input_is_as_large_as_any_of_its_layers_found_it():
    parent, states = Parent(), torch.ones(2, 4)

    def sample():
        parent(states)
        parent.key(torch.tensor([[1.0, 50.0, 1.0, 1.0]]))

    layers = {each.name: each.quantized for each in int8_layers(parent, sample)}
    assert layers["query"]._quantize.outliers.tolist() == [1]


@pytest.mark.usefixtures("usable")
def test_only_layers_that_share_an_input_keep_its_codes(tiny_folder: Path, sample_names: list[str]):
    encoder = Encoder.from_pretrained(tiny_folder, dtype="int8")
    encoder.encode(sample_names[:100])
    layers = {name: layer for name, layer in encoder.transformer.named_modules() if isinstance(layer, Int8Linear)}
    keep = {name.split(".")[-1] for name, layer in layers.items() if layer._quantize._last is not None}
    assert keep == {"query", "key", "value"}
    assert len(layers) == 12  # two layers of six


def test_quantizer_recognizes_its_input_by_identity():
    linear, states = nn.Linear(4, 4), torch.randn(2, 4)
    assert quantizer(states, linear)._last is None
    quantize = quantizer(states, linear, linear, shared=True)
    codes = quantize(states)
    assert quantize(states) is codes
    assert quantize(states.clone()) is not codes


@pytest.mark.usefixtures("usable")
@pytest.mark.parametrize("pooling", ["cls", "mean", "mean_all"])
def test_int8_encoder_is_close_to_float32(tiny_folder: Path, tmp_path: Path, sample_names: list[str], pooling: str):
    names = sample_names[:300]
    plain = Encoder.from_pretrained(tiny_folder)
    plain.config = EncoderConfig(pooling, 25, plain.policy)
    plain.save_pretrained(tmp_path / "model")
    exact = Encoder.from_pretrained(tmp_path / "model").encode(names)
    encoder = Encoder.from_pretrained(tmp_path / "model", dtype="int8")
    near = encoder.encode(names)
    assert float((exact * near).sum(1).min()) > 0.99
    assert not np.array_equal(exact, near)
    np.testing.assert_allclose(np.linalg.norm(near, axis=1), 1, atol=1e-6)
    other = encoder.encode(names[::-1], tokens_per_batch=64)[::-1]
    np.testing.assert_allclose(other, near, atol=2e-3)
    assert float((other * near).sum(1).min()) > 0.9995


@pytest.mark.usefixtures("usable")
def test_int8_encoder_is_for_cpus_and_can_not_be_saved(tiny_folder: Path, tmp_path: Path, monkeypatch):
    encoder = Encoder.from_pretrained(tiny_folder, dtype="int8")
    with pytest.raises(ConfigError, match="can't be saved"):
        encoder.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    with pytest.raises(ConfigError, match="int8 is for CPUs, found device 'cuda'"):
        Encoder.from_pretrained(tiny_folder, dtype="int8", device="cuda")
    monkeypatch.setattr(encoder_module, "int8_is_faster", lambda: False)
    with pytest.raises(ConfigError, match="VNNI"):
        Encoder.from_pretrained(tiny_folder, dtype="int8")


def test_int8_is_faster_rejects_saturating_products(monkeypatch):
    def products(left, other):
        return left.int() @ other.int()

    def missing(left, other):
        raise RuntimeError("not implemented for this processor")

    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    monkeypatch.setattr(torch, "_int_mm", products)
    assert int8_is_faster.__wrapped__()
    for wrong in (lambda left, other: products(left, other).clamp(-(2**15), 2**15 - 1), missing):
        monkeypatch.setattr(torch, "_int_mm", wrong)
        assert not int8_is_faster.__wrapped__()
