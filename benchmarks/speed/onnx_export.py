"""A transformer exported to ONNX and run by onnxruntime on the CPU, in float32 or in int8: a rival of our encoder.

Export and quantization are those that torch and onnxruntime document: `torch.onnx.export` with both dimensions dynamic, and dynamic
quantization of the weights to int8. The packages are not among xsap's dependencies; without them this rival is left out.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xsap.terminal import log

PACKAGES = ("onnxruntime", "onnx", "onnxscript")
_EXAMPLE = (
    2,
    7,
)  # names and tokens of the example to trace: more than one of each, so that neither is taken as constant


def missing_packages() -> list[str]:
    """The packages that this rival needs and that are not installed."""
    return [name for name in PACKAGES if find_spec(name) is None]


class OnnxModel(nn.Module):
    """An exported transformer in onnxruntime, with as many threads as torch has.

    Args:
        file: What `to_onnx` or `quantize_onnx` wrote; it can be deleted after it was loaded.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._session: Any = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The last layer's states.

        Args:
            ids: (n, length) int64.
            mask: (n, length) int64, 1 for tokens, 0 for padding.

        Returns:
            (n, length, hidden) float32.
        """
        states, *_ = self._session.run(["states"], {"ids": ids.numpy(), "mask": mask.numpy()})
        return torch.from_numpy(states)


class _States(nn.Module):
    """A Hugging Face model with plain tensors as its arguments and its result."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        states: Tensor = self.transformer(input_ids=ids, attention_mask=mask).last_hidden_state
        return states


def to_onnx(transformer: nn.Module, file: Path) -> None:
    """Export a transformer on the CPU to a new folder."""
    log("exporting to ONNX")
    file.parent.mkdir()
    ids = torch.ones(_EXAMPLE, dtype=torch.int64)
    dynamic = dict.fromkeys((0, 1), torch.export.Dim.DYNAMIC)
    with _silent():
        torch.onnx.export(
            _States(transformer).eval(),
            (ids, torch.ones_like(ids)),
            str(file),
            input_names=["ids", "mask"],
            output_names=["states"],
            dynamic_shapes=(dynamic, dynamic),
            dynamo=True,
            verbose=False,
        )


def quantize_onnx(file: Path) -> Path:
    """An exported model with int8 weights, quantized dynamically, as a file beside it."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    log("quantizing the ONNX model to int8")
    quantized = file.with_name("int8.onnx")
    with _silent():
        quantize_dynamic(str(file), str(quantized), weight_type=QuantType.QInt8)
    return quantized


@contextmanager
def _silent() -> Iterator[None]:
    """Without the advice that both print for developers of exporters."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
