"""Frozen layers: the embeddings and the lowest layers of a pretrained model stay as they are, and the others are trained.

A frozen weight has no gradient and no optimizer state, and since nothing below the lowest trained layer needs a gradient,
no activation is kept there and the backward pass ends there: steps are faster and take less memory.
"""

from itertools import chain

from xsap.encoding.encoder import Encoder
from xsap.encoding.layers import transformer_layers
from xsap.errors import ConfigError


def freeze(encoder: Encoder, layers: int) -> None:
    """Freeze the embeddings and the lowest layers of an encoder, and all that they share with the others.

    Args:
        encoder: The encoder, whose parameters are changed in place.
        layers: How many layers are frozen; 0 for the embeddings alone.

    Raises:
        ConfigError: The model has fewer layers, or they are not known.
    """
    found = transformer_layers(encoder.transformer)
    if layers >= len(found):
        raise ConfigError(
            f"optim.frozen_layers must be below {len(found)}, the number of layers of the model; found {layers}"
        )
    last_norm = getattr(encoder.transformer, "final_norm", None)  # ModernBERT's
    trained = chain(found[layers:], filter(None, (last_norm, encoder.dense)))
    kept = {id(parameter) for module in trained for parameter in module.parameters()}
    for parameter in encoder.parameters():
        parameter.requires_grad_(id(parameter) in kept)
