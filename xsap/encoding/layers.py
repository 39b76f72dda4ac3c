"""The layers of a Hugging Face encoder: all, the lowest alone, or a model in two parts that run one after the other."""

import copy
from typing import NamedTuple

from torch import nn

from xsap.encoding.packing import Transformer
from xsap.errors import ConfigError

_PATHS = (("encoder", "layer"), ("transformer", "layer"), ("encoder", "layers"), ("layers",))


class ModelParts(NamedTuple):
    """A model in two parts that share its weights.

    Attributes:
        lower: Its lowest layers, without a norm after the last.
        upper: The others, which are to take the states of the lower ones: `Between` with 0 layers.
    """

    lower: Transformer
    upper: Transformer


def transformer_layers(transformer: Transformer) -> list[nn.Module]:
    """The layers of an encoder, from the lowest to the highest. Raises ConfigError for an architecture without such a list."""
    return list(_find(transformer)[-1])


def lowest_layers(transformer: Transformer, layers: int) -> Transformer:
    """The same model with its lowest layers alone; weights are shared.

    Args:
        transformer: A Hugging Face encoder.
        layers: How many layers are left, at least 1.

    Raises:
        ConfigError: The model has fewer layers, or they are not known.
    """
    found = transformer_layers(transformer)
    if not 1 <= layers <= len(found):
        raise ConfigError(f"expected 1 to {len(found)} layers of the model, found {layers}")
    return _with_layers(transformer, found[:layers])


def cut_layers(transformer: Transformer, layers: int) -> ModelParts:
    """A model in two parts.

    Args:
        transformer: A Hugging Face encoder.
        layers: How many layers the lower part has; at least 1 and fewer than the model.

    Raises:
        ConfigError: The model has too few layers, or they are not known.
    """
    found = transformer_layers(transformer)
    if not 1 <= layers < len(found):
        raise ConfigError(f"expected 1 to {len(found) - 1} layers below the others, found {layers}")
    lower = _with_layers(transformer, found[:layers])
    if hasattr(lower, "final_norm"):  # ModernBERT's
        lower._modules["final_norm"] = nn.Identity()
    return ModelParts(lower, _with_layers(transformer, found[layers:]))


def _find(transformer: Transformer) -> list[Transformer]:
    """A model and its parts on the way to the list of its layers, that list last."""
    for path in _PATHS:
        holders = [transformer]
        for name in path:
            holders.append(getattr(holders[-1], name, None))
        if isinstance(holders[-1], nn.ModuleList) and len(holders[-1]):
            return holders
    raise ConfigError(f"the layers of a model of type {transformer.config.model_type} are not known")


def _with_layers(transformer: Transformer, layers: list[nn.Module]) -> Transformer:
    """The same model with some of its layers; all parts on the way to them are copied, and weights are shared."""
    holders = _find(transformer)
    changed: nn.Module = nn.ModuleList(layers)
    for holder, part in zip(reversed(holders[:-1]), reversed(holders[1:]), strict=True):
        name = next(name for name, module in holder._modules.items() if module is part)
        copied = copy.copy(holder)
        copied._modules = {**holder._modules, name: changed}
        changed = copied
    return changed
