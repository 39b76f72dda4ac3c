"""SentenceTransformer folders: their modules, what these state, and the Dense layers after pooling.

`modules.json` lists the modules, each with a folder of its own or in the main one: a transformer, pooling, any number of Dense layers, and
normalization. Such a folder may come from anybody: every value is checked for its type, every tensor for its size and for finite numbers, and
modules with code of their own are refused.
"""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from xsap.encoding.model_json import describe_value, read_model_json, read_model_object, typed
from xsap.errors import ArtifactError, ConfigError
from xsap.text import TextPolicy

MODULES = "modules.json"
_MODES = ("cls", "mean")  # poolings of SentenceTransformer that xsap has
_WEIGHTS = "model.safetensors"
_LIBRARY = "sentence_transformers."  # what the types of its own modules begin with
_LONGEST_PATH = 100  # characters of a module's folder
_UNLIMITED = 100_000  # tokens; transformers writes 10^30 for "any length"
_TRANSFORMER_CONFIGS = [  # the newest name first; SentenceTransformer reads all of them
    f"sentence_{name}_config.json" for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta")
]
ACTIVATIONS = {each.__name__: each for each in (nn.Identity, nn.Tanh, nn.ReLU, nn.GELU, nn.Sigmoid)}  # of Dense modules


logger = logging.getLogger(__name__)


class Module(NamedTuple):
    """A module: its kind, such as Dense, and its folder."""

    kind: str
    folder: Path


def read_modules(folder: Path) -> list[Module]:
    """The modules that modules.json lists, in order; none without that file.

    Raises:
        ArtifactError: The file is malformed, or names a path outside of the folder.
        ConfigError: The modules are others than a transformer, pooling, Dense layers and normalization, in this order.
    """
    file = folder / MODULES
    if not file.is_file():
        return []
    entries = read_model_json(file)
    if not isinstance(entries, list):
        raise ArtifactError(f"{file}: expected a list of modules, found {describe_value(entries)}")
    modules = [_read_module(file, entry) for entry in entries]
    kinds = [module.kind for module in modules]
    first = 2 if "Pooling" in kinds[:2] else 1  # a model without pooling can be opened with a given one
    after = [kind for kind in kinds[first:] if kind != "Normalize"]
    if (
        kinds[:first] != ["Transformer", "Pooling"][:first]
        or set(after) - {"Dense"}
        or kinds[first:][: len(after)] != after
    ):
        raise ConfigError(
            f"{folder}: expected the modules Transformer, Pooling, Dense and Normalize in this order, the last two of which may be missing; "
            f"found {', '.join(kinds)[:200] or 'none'}"
        )
    return modules


def _read_module(file: Path, entry: object) -> Module:
    if not isinstance(entry, dict):
        raise ArtifactError(f"{file}: expected a JSON object for each module, found {describe_value(entry)}")
    kind, path = typed(file, entry, "type", str), typed(file, entry, "path", str)
    if kind is None or path is None:
        raise ArtifactError(f"{file}: expected type and path of each module, found no {'type' if path else 'path'}")
    if not path.isprintable() or len(path) > _LONGEST_PATH or Path(path).is_absolute() or ".." in Path(path).parts:
        raise ArtifactError(f"{file}: expected paths inside of the folder, found {describe_value(path)}")
    if not kind.startswith(_LIBRARY):
        raise ConfigError(
            f"{file}: expected modules of SentenceTransformer itself, found {describe_value(kind)}, which needs code of the model's own; xsap "
            "never runs such code. Use a model without it"
        )
    return Module(kind.rpartition(".")[2] if kind.isprintable() else describe_value(kind), file.parent / path)


def transformer_folder(folder: Path) -> Path:
    """Where the transformer and its tokenizer are: the main folder, or below it as in `0_Transformer`."""
    return next((module.folder for module in read_modules(folder)), folder)


def weight_folders(folder: Path) -> list[Path]:
    """The folders that have weights: the transformer's, and those of Dense modules."""
    return [transformer_folder(folder), *(path for kind, path in read_modules(folder) if kind == "Dense")]


def read_sentence_transformer(folder: Path, given_pooling: str | None = None) -> dict[str, Any]:
    """What a SentenceTransformer folder states: `policy`, and perhaps `pooling` and `max_length`, as in `EncoderConfig`.

    Args:
        folder: The model folder; nothing is stated by one that is not a SentenceTransformer.
        given_pooling: The caller's pooling, which one that xsap does not have needs.

    Raises:
        ArtifactError: A file is malformed.
        ConfigError: It has other modules, or pools in another way than by cls or mean and no pooling is given.
    """
    modules = read_modules(folder)
    if not modules:
        return {}
    pooling = next((module.folder for module in modules if module.kind == "Pooling"), None)
    mode = "none" if pooling is None else _pooling_mode(pooling / "config.json")
    if mode not in _MODES:
        expected = f"{folder}: expected a SentenceTransformer that pools by cls or mean; found '{mode[:100]}'"
        if given_pooling is None:
            raise ConfigError(
                f"{expected}. Give another pooling: one of cls, mean, mean_all; `xsap probe` compares them"
            )
        logger.info("%s, in place of which another pooling is used", expected)
    files = [modules[0].folder / name for name in _TRANSFORMER_CONFIGS]
    file = next((each for each in files if each.is_file()), files[0])
    stated = read_model_object(file) if file.is_file() else {}
    policy = TextPolicy(case="lower" if typed(file, stated, "do_lower_case", bool) else "cased")
    length = typed(file, stated, "max_seq_length", int)
    tokenizer = modules[0].folder / "tokenizer_config.json"  # where newer releases keep the length
    if length is None and tokenizer.is_file():
        length = int(
            min(typed(tokenizer, read_model_object(tokenizer), "model_max_length", float) or _UNLIMITED, _UNLIMITED)
        )
    found: dict[str, Any] = {"policy": policy} | ({"pooling": mode} if mode in _MODES else {})
    return found | ({} if length is None or length >= _UNLIMITED else {"max_length": length})


def _pooling_mode(file: Path) -> str:
    """Such as `mean`; `max+mean` for a pooling by both."""
    stated = read_model_object(file)
    modes = stated.get("pooling_mode") or [
        key.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
        for key in stated
        if key.startswith("pooling_mode_") and typed(file, stated, key, bool)
    ]
    modes = modes if isinstance(modes, list) else [typed(file, stated, "pooling_mode", str)]
    return "+".join(mode if isinstance(mode, str) and mode.isprintable() else describe_value(mode) for mode in modes)


def check_prompt_is_pooled(folder: Path) -> None:
    """Raise ConfigError if the folder's pooling leaves out the tokens of a prompt, which only SentenceTransformer can do."""
    for module in read_modules(folder):
        if module.kind != "Pooling":
            continue
        file = module.folder / "config.json"
        if typed(file, read_model_object(file), "include_prompt", bool) is False:
            raise ConfigError(
                f"{file}: expected include_prompt true for a model with a prompt, found false: xsap can't leave the prompt's tokens out of the "
                "pooling. Open it without a prompt (prompt='' and override=True in Python), or set include_prompt to true in a copy and "
                "train or evaluate that; its vectors are not those of SentenceTransformer"
            )


def open_dense(folder: Path, width: int) -> nn.Sequential | None:
    """The Dense modules of a SentenceTransformer folder, in order, each followed by its activation; None without any.

    Args:
        folder: The model folder, with weights as safetensors.
        width: Components of a vector before them: the transformer's hidden size.

    Raises:
        ArtifactError: Weights are missing, damaged, not finite, or of other sizes than stated.
        ConfigError: The activation function or another option is not known.
    """
    layers: list[nn.Module] = []
    for module in read_modules(folder):
        if module.kind == "Dense":
            linear, activation = _open_linear(module.folder, width)
            layers += [linear, activation]
            width = linear.out_features
    return nn.Sequential(*layers) if layers else None


def _open_linear(folder: Path, width: int) -> tuple[nn.Linear, nn.Module]:
    file = folder / "config.json"
    stated = read_model_object(file)
    name = typed(file, stated, "activation_function", str) or "torch.nn.modules.activation.Tanh"  # their default
    activation = ACTIVATIONS.get(name.rpartition(".")[2]) if name.startswith("torch.") else None
    if activation is None:
        raise ConfigError(
            f"{file}: expected one of torch's activation functions {', '.join(ACTIVATIONS)}; found {describe_value(name)}"
        )
    names = {typed(file, stated, key, str) for key in ("module_input_name", "module_output_name")}
    if typed(file, stated, "use_residual", bool) or names - {None, "sentence_embedding"}:
        raise ConfigError(
            f"{file}: expected a Dense module from sentence embeddings to sentence embeddings, without use_residual; found another"
        )
    inputs, outputs = typed(file, stated, "in_features", int), typed(file, stated, "out_features", int)
    if inputs != width:
        raise ArtifactError(
            f"{file}: expected in_features {width}, the components of a vector before it; found {inputs}"
        )
    has_bias = typed(file, stated, "bias", bool) is not False
    expected = {"linear.weight": (outputs, inputs)} | ({"linear.bias": (outputs,)} if has_bias else {})
    tensors = _read_tensors(folder / _WEIGHTS)
    for tensor_name, shape in expected.items():
        _check_tensor(folder / _WEIGHTS, tensor_name, tensors.get(tensor_name), shape)
    if extra := sorted(set(tensors) - set(expected)):
        raise ArtifactError(
            f"{folder / _WEIGHTS}: expected only {' and '.join(expected)}, found {describe_value(extra[0])}"
        )
    linear = nn.Linear(width, len(tensors["linear.weight"]), bias=has_bias)
    linear.load_state_dict({name.removeprefix("linear."): value.float() for name, value in tensors.items()})
    return linear, activation()


def _read_tensors(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise ArtifactError(
            f"{file.parent}: expected {_WEIGHTS} or pytorch_model.bin, found neither. Is the download complete?"
        )
    try:
        tensors: dict[str, Tensor] = load_file(file)
        return tensors
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ArtifactError(f"{file}: expected readable safetensors, found: {reason}. Get the model again") from None


def _check_tensor(file: Path, name: str, tensor: Tensor | None, shape: tuple[int | None, ...]) -> None:
    expected = " × ".join(map(str, shape))
    if tensor is None or tuple(tensor.shape) != shape or not len(tensor):
        found = "none" if tensor is None else " × ".join(map(str, tensor.shape)) or "a single number"
        raise ArtifactError(f"{file}: expected {name} of shape {expected}, found {found}; get the model again")
    if not bool(torch.isfinite(tensor.float()).all()):
        raise ArtifactError(f"{file}: expected finite weights, found NaN or infinity in {name}; get the model again")
