"""The embedding table while training: the rows that a run's names use, and no others.

XLM-R's table has 250,002 rows, 69 % of its parameters, of which a terminology uses a tenth. The others would get no gradient, and AdamW
would do one thing to them: multiply them by 1 - lr · weight decay at each step. So they stay aside, and come back multiplied by the
product of that. Gradients, their norm, and moments of the rows in use are those of the whole table.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xsap.encoding.packing import Tokens, Transformer


@dataclass(frozen=True)
class TrimmedEmbedding:
    """whole: (pieces, hidden), as the base has it, on the CPU. rows: (k,) ascending, those in training."""

    whole: Tensor
    rows: NDArray[np.int64]

    def renumber(self, tokens: Tokens) -> Tokens:
        """The same names by the numbers of the kept rows."""
        return Tokens(np.searchsorted(self.rows, tokens.ids).astype(np.int32), tokens.offsets)


def trim(transformer: Transformer, tokens: Tokens, special: Collection[int]) -> TrimmedEmbedding:
    """Cut the model's table to the pieces of the names and the special ones; padding keeps its number, from which positions may count."""
    table = transformer.get_input_embeddings()
    padding = (
        max(special, default=0) if table.padding_idx is None else table.padding_idx
    )  # unknown, it is one of the special ones
    rows = np.unique(np.concatenate([tokens.ids, np.arange(padding + 1), np.array([*special], np.int64)])).astype(
        np.int64
    )
    whole = table.weight.detach().to("cpu")
    _set(transformer, nn.Parameter(table.weight.detach()[torch.from_numpy(rows).to(table.weight.device)].clone()))
    return TrimmedEmbedding(whole, rows)


@contextmanager
def whole(transformer: Transformer, table: TrimmedEmbedding, decay: float) -> Iterator[None]:
    """Within it the model has its whole table: the trained rows, and the others times `decay`."""
    trained = transformer.get_input_embeddings().weight
    with torch.no_grad():
        joined = table.whole * decay
        joined[torch.from_numpy(table.rows)] = trained.detach().to("cpu")
    _set(transformer, nn.Parameter(joined.to(trained.device)))
    try:
        yield
    finally:
        _set(transformer, trained)


def _set(transformer: Transformer, weight: nn.Parameter) -> None:
    table = transformer.get_input_embeddings()
    table.weight, table.num_embeddings = weight, len(weight)
    transformer.config.vocab_size = len(weight)
