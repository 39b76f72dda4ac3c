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
from xsap.encoding import int8
from xsap.encoding.int8 import CachedQuantizer, Int8Linear, int8_is_faster, quantize_rows, to_int8
from xsap.encoding.model_folder import EncoderConfig
from xsap.errors import ConfigError

fast = pytest.mark.skipif(not int8_is_faster(), reason="this processor has no fast int8 products")


@settings(deadline=None, max_examples=examples(60))
@given(
    st.integers(1, 40),
    st.integers(2, 70),
    st.integers(1, 30),
    st.integers(0, 2**32 - 1),
    st.floats(1e-6, 1e6),
    st.booleans(),
)
def test_int8_linear_is_the_product_of_nearest_codes(m, k, n, seed, size, biased):
    random = torch.Generator().manual_seed(seed)
    linear = nn.Linear(k, n, bias=biased)
    states = torch.randn(m, k, generator=random) * size * torch.rand(m, 1, generator=random)
    states[0] = 0
    codes, scales = quantize_rows(states)
    assert codes.dtype == torch.int8
    assert int(codes.int().abs().max()) <= 127
    exact = states.double() / scales.double()
    assert float((exact - codes.double()).abs().max()) <= 0.5 + 1e-4  # each is the nearest
    assert (
        codes.int().abs().amax(1) == torch.where(states.abs().amax(1) > 0, 127, 0)
    ).all()  # and the scale the finest
    layer = Int8Linear(linear, quantize_rows)
    weight = layer.weight.T.double() * layer.scales.double()[:, None]
    assert ((linear.weight.detach().double() - weight).abs().amax(1) <= 0.5001 * layer.scales.double()).all()
    assert (layer.weight.int().abs().amax(0) == 127).all()  # a scale for each output
    expected = (codes.double() * scales.double()) @ weight.T + (linear.bias.detach().double() if biased else 0)
    reach = (codes.double() * scales.double()).abs() @ weight.abs().T + 1e-12
    assert float(((layer(states).double() - expected).abs() / (reach + expected.abs())).max()) < 1e-6


def test_int8_linear_error_is_within_half_a_code_of_each_factor():
    torch.manual_seed(0)
    linear, states = nn.Linear(64, 48), torch.randn(5, 7, 64)
    layer = Int8Linear(linear, quantize_rows)
    lost = (layer(states) - linear(states)).detach().abs().flatten(0, 1)
    half_states, half_weights = quantize_rows(states)[1] / 2, layer.scales / 2
    bound = half_states * linear.weight.abs().sum(1) + half_weights * (
        states.abs().sum(-1).flatten()[:, None] + 64 * half_states
    )
    assert (lost <= bound * 1.001).all()
    assert layer(states).shape == (5, 7, 48)
    assert float(lost.max()) > 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_int8_linear_propagates_values_that_are_not_finite(bad):
    states = torch.ones(3, 8)
    states[1, 2] = bad
    out = Int8Linear(nn.Linear(8, 4), quantize_rows)(states)
    assert not out[1].isfinite().any()
    assert out[[0, 2]].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_quantize_rows_is_exact_for_16_bit_states(dtype):
    torch.manual_seed(0)
    states = torch.randn(2000, 96).to(dtype)
    codes, scales = quantize_rows(states)
    assert torch.equal(codes, quantize_rows(states.float())[0])
    assert ((codes.float() * scales - states.float()).abs() <= 0.501 * scales).all()


def test_int8_linear_keeps_leading_sizes():
    layer = Int8Linear(nn.Linear(8, 4), quantize_rows)
    assert layer(torch.ones(2, 1, 8)).shape == (2, 1, 4)


def test_quantize_rows_does_not_depend_on_other_rows():
    states = torch.randn(9, 16)
    together = quantize_rows(states)
    for row in range(9):
        alone = quantize_rows(states[row : row + 1] if row % 2 else torch.cat([states[row : row + 1], 1000 * states]))
        assert torch.equal(alone[0][0], together[0][row])
        assert torch.equal(alone[1][0], together[1][row])


def test_to_int8_quantizes_a_shared_input_once(monkeypatch):
    class Parent(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.key, self.inner = (
                nn.Linear(4, 4),
                nn.Linear(4, 4),
                nn.Sequential(nn.Linear(4, 4), nn.ReLU()),
            )

    asked = []
    monkeypatch.setattr(int8, "quantize_rows", lambda states: asked.append(states) or quantize_rows(states))
    parent = Parent()
    plain = [parent.query, parent.key, parent.inner[0]]
    to_int8(parent)
    assert not any(isinstance(module, nn.Linear) for module in parent.modules())
    first, second = torch.randn(2, 4), torch.randn(2, 4)
    for states in (first, second, first):
        for linear, layer in zip(plain, (parent.query, parent.key, parent.inner[0]), strict=True):
            torch.testing.assert_close(layer(states), linear(states), atol=0.05, rtol=0)
    assert len(asked) == 6  # of nine


def test_cached_quantizer_recognizes_its_input_by_identity():
    last, states = CachedQuantizer(), torch.randn(2, 4)
    codes = last(states)
    assert last(states) is codes
    assert last(states.clone()) is not codes


@fast
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
    np.testing.assert_allclose(encoder.encode(names[::-1], tokens_per_batch=64)[::-1], near, atol=2e-3)


@fast
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
    right = torch._int_mm

    def missing(left, other):
        raise RuntimeError("not implemented for this processor")

    for wrong in (lambda left, other: right(left, other).clamp(-(2**15), 2**15 - 1), missing):
        monkeypatch.setattr(torch, "_int_mm", wrong)
        assert not int8_is_faster.__wrapped__()
