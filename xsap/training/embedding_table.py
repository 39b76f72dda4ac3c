"""Embedding table trimming: during training the model has only the embeddings that the run's names use.

XLM-R's table has 250,002 rows, 69 % of its parameters, of which a terminology uses a tenth. The others would get no
gradient, and AdamW would only multiply them by 1 - learning rate · weight decay at each step. So they are set aside,
and come back multiplied by the product of these factors. Gradients, their norm, and moments of the used rows are those
of training with the whole table.
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
    """A table of which only some rows are in training.

    Attributes:
        whole: (pieces, hidden) the table before training, on the CPU.
        rows: (k,) the rows in training, ascending.
    """

    whole: Tensor
    rows: NDArray[np.int64]

    def renumber(self, tokens: Tokens) -> Tokens:
        """The same names with token ids that count the kept rows."""
        return Tokens(np.searchsorted(self.rows, tokens.ids).astype(np.int32), tokens.offsets)


def trim(transformer: Transformer, tokens: Tokens, special: Collection[int]) -> TrimmedEmbedding:
    """Reduce a model's embedding table to the rows in use. Rows up to the padding keep their ids, from which positions may count.

    Args:
        transformer: The model; changed in place.
        tokens: Token ids of all names.
        special: Ids of the tokenizer's special tokens.
    """
    table = transformer.get_input_embeddings()
    # a table without a padding row: it is one of the special tokens
    padding = max(special, default=0) if table.padding_idx is None else table.padding_idx
    used = np.concatenate([tokens.ids, np.arange(padding + 1), np.array([*special], np.int64)])
    rows = np.unique(used).astype(np.int64)
    whole, trained = table.weight.detach().to("cpu"), table.weight.requires_grad
    kept = table.weight.detach()[torch.from_numpy(rows).to(table.weight.device)].clone()
    _set_embeddings(transformer, nn.Parameter(kept, requires_grad=trained))
    return TrimmedEmbedding(whole, rows)


@contextmanager
def whole_table(transformer: Transformer, table: TrimmedEmbedding, decay: float) -> Iterator[None]:
    """Within this context the model has its whole table.

    Args:
        transformer: The model whose table was trimmed.
        table: What `trim` returned.
        decay: Factor of the rows that are not in training.
    """
    trained = transformer.get_input_embeddings().weight
    with torch.no_grad():
        joined = table.whole * decay
        joined[torch.from_numpy(table.rows)] = trained.detach().to("cpu")
    _set_embeddings(transformer, nn.Parameter(joined.to(trained.device)))
    try:
        yield
    finally:
        _set_embeddings(transformer, trained)


def _set_embeddings(transformer: Transformer, weight: nn.Parameter) -> None:
    table = transformer.get_input_embeddings()
    table.weight, table.num_embeddings = weight, len(weight)
    transformer.config.vocab_size = len(weight)
