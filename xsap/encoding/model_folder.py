"""Model folders: how to open one, and which pooling, maximum length and text policy it states.

There are three kinds: ours (`xsap.json`), a SentenceTransformer (`modules.json`), and a bare Hugging Face folder, which
states none of these: then a known model's values are used (`known_models.toml`), or else the caller must give `pooling`.
A name that is not a folder is taken as an id of the Hugging Face hub. Weights are read from safetensors alone; pickled
ones (`.bin`) are converted first (`convert_weights`).
"""

import hashlib
import inspect
import logging as python_logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

from xsap.artifacts import MANIFEST, manifest_hash, open_artifact, sha256_of
from xsap.encoding.convert_weights import converted, has_pickled_weights_only
from xsap.encoding.known_models import KnownModel, find_known_model
from xsap.encoding.model_card import read_provenance, read_stated
from xsap.encoding.model_json import describe_value, read_model_object, typed
from xsap.encoding.packing import Transformer
from xsap.encoding.sentence_transformer import (
    MODULES,
    check_prompt_is_pooled,
    open_dense,
    read_sentence_transformer,
    transformer_folder,
    weight_folders,
)
from xsap.errors import ArtifactError, ConfigError, XsapError
from xsap.text import TextPolicy

logger = python_logging.getLogger(__name__)

POOLINGS = ("cls", "mean", "mean_all")
MOST_LAYERS = 1_000
REFERENCE_LENGTH = 25  # tokens per name in the original SapBERT code, whose model folders do not state it


@dataclass(frozen=True)
class EncoderConfig:
    """How names become vectors, apart from the weights.

    Attributes:
        pooling: `cls`; `mean` over a name's tokens; or `mean_all`, over padding up to `max_length` too.
        max_length: Tokens after which a name is truncated, special tokens included.
        policy: Normalization of a name before it is tokenized.
        name_prompt: Text before each name of a dictionary, such as E5's `query: `; as it is, not normalized.
        mention_prompt: Text before each mention.
    """

    pooling: str
    max_length: int = REFERENCE_LENGTH
    policy: TextPolicy = field(default_factory=TextPolicy)
    name_prompt: str = ""
    mention_prompt: str = ""

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise ConfigError(f"pooling must be one of {', '.join(POOLINGS)}; found '{self.pooling}'")
        if self.max_length < 3:
            raise ConfigError(
                f"max_length must be at least 3 tokens, two of which are special; found {self.max_length}"
            )

    def to_dict(self) -> dict[str, Any]:
        """The keys of `xsap.json`."""
        values: dict[str, Any] = {
            "pooling": self.pooling,
            "max_length": self.max_length,
            "text": self.policy.to_dict(),
        }
        if self.name_prompt or self.mention_prompt:
            values["prompts"] = {"name": self.name_prompt, "mention": self.mention_prompt}
        return values


class Folder(NamedTuple):
    """An opened model.

    `content_hash` is the SHA-256 over its files, `dense` the layers after pooling, if there are any; `provenance` is from `read_provenance`;
    `revision` is that of the hub's repository, None for the main one and for a folder.
    """

    transformer: Transformer
    tokenizer: PreTrainedTokenizerBase
    config: EncoderConfig
    content_hash: str
    dense: nn.Sequential | None
    provenance: dict[str, Any]
    revision: str | None


def open_folder(
    path: Path | str,
    *,
    pooling: str | None,
    max_length: int | None,
    policy: TextPolicy | None,
    prompt: str | tuple[str, str] | None = None,
    revision: str | None = None,
    override: bool = False,
) -> Folder:
    """Open a model for `Encoder.from_pretrained`, which documents the arguments and errors.

    Args:
        path: A model folder, or an id of the Hugging Face hub.
        pooling: See `EncoderConfig`; required if neither the folder nor the table of known models states it.
        max_length: See `EncoderConfig`.
        policy: See `EncoderConfig`.
        prompt: Both prompts of `EncoderConfig`, or the one for names and the one for mentions.
        revision: Branch, tag or commit of a model on the hub; by default the one that the table of known models has.
        override: Whether an argument may differ from what the folder states, as when another model is trained from it.
    """
    known = find_known_model(path)
    folder, revision = _locate(path, revision, known)
    known = known or find_known_model(path, folder)
    if not any((folder / file).is_file() for file in (MANIFEST, MODULES, "config.json")):  # before anything is hashed
        raise ArtifactError(f"{path}: expected a model folder, found no config.json in it. Is the path right?")
    content_hash = manifest_hash(open_artifact(folder, "model")) if (folder / MANIFEST).is_file() else _hash_of(folder)
    given = {"pooling": pooling, "max_length": max_length, "policy": policy}
    given |= zip(
        ("name_prompt", "mention_prompt"), prompt if isinstance(prompt, tuple) else (prompt, prompt), strict=True
    )
    config = _read_config(folder, given, known, override=override)
    if config.name_prompt or config.mention_prompt:
        check_prompt_is_pooled(folder)
    provenance = read_provenance(path, folder, read_stated(folder))
    if pickled := [part for part in weight_folders(folder) if has_pickled_weights_only(part)]:
        folder = converted(folder, content_hash, pickled)
        logger.info("%s: weights converted from .bin to safetensors, in %s", path, folder)
    try:
        with quiet():
            transformer, tokenizer = _open(transformer_folder(folder))
        dense = open_dense(folder, int(transformer.config.hidden_size))
    except XsapError:
        raise
    except Exception as error:  # a folder of any content makes transformers raise errors of any kind
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ArtifactError(f"{path}: transformers cannot open it as a model: {reason}") from None
    longest = position_count(transformer) or config.max_length
    if max_length is not None and max_length > longest:
        raise ConfigError(
            f"{path}: max_length must be at most {longest}, the number of positions of the model; found {max_length}"
        )
    config = replace(config, max_length=min(longest, config.max_length))
    check_finite_weights(transformer, str(path))
    return Folder(transformer, tokenizer, config, content_hash, dense, provenance, revision)


def _open(folder: Path) -> tuple[Transformer, PreTrainedTokenizerBase]:
    _check_openable(folder)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if (heads := getattr(config, "num_attention_heads", 1)) < 1:
        raise ConfigError(f"{folder / 'config.json'}: num_attention_heads must be positive, found {heads}")
    if (layers := getattr(config, "num_hidden_layers", 1)) > MOST_LAYERS:  # transformers would make them one by one
        raise ConfigError(
            f"{folder / 'config.json'}: num_hidden_layers must be at most {MOST_LAYERS:,}, found {layers}"
        )
    # the pooler on top of [CLS] is a pre-training head that no pooling here uses
    options = inspect.signature(MODEL_MAPPING[type(config)].__init__).parameters
    extra = {"add_pooling_layer": False} if "add_pooling_layer" in options else {}
    extra |= {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}  # checked here
    transformer, loaded = AutoModel.from_pretrained(
        folder, config=config, dtype=torch.float32, trust_remote_code=False, **extra
    )
    _check_shapes(loaded["mismatched_keys"], folder)
    _check_complete(loaded["missing_keys"], folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    check_tokenizer(tokenizer, transformer, str(folder))
    return transformer, tokenizer


def _check_openable(folder: Path) -> None:
    """Raise XsapError for a folder without configuration or weights, or whose model needs code of its own."""
    file = folder / "config.json"
    if not file.is_file():
        raise ArtifactError(f"{folder}: expected a model, found no config.json in it. Is the download complete?")
    if not any(folder.glob("*.safetensors")):
        raise ArtifactError(
            f"{folder}: expected weights as .safetensors or pytorch_model.bin, found none. Is the download complete?"
        )
    stated = read_model_object(file)
    model_type = typed(file, stated, "model_type", str)
    if stated.get("auto_map") and model_type not in CONFIG_MAPPING:
        raise ConfigError(
            f"{file}: expected an architecture that transformers has itself, such as bert or xlm-roberta; found {describe_value(model_type)}, "
            "which needs code of the model's own (auto_map). xsap never runs such code: use another model"
        )


def _check_shapes(mismatched: Collection[tuple[str, Sequence[int], Sequence[int]]], folder: Path) -> None:
    """Raise ArtifactError for weights (name, shape found, shape expected) of other shapes than config.json gives. A pooler is not used."""
    wrong = sorted((name, tuple(found), tuple(expected)) for name, found, expected in mismatched)
    wrong = [each for each in wrong if "pooler" not in each[0].split(".")]
    if wrong:
        name, found, expected = wrong[0]
        shapes = [" × ".join(map(str, shape)) or "a single number" for shape in (expected, found)]
        more = f", and {len(wrong) - 1:,} more of other shapes" if len(wrong) > 1 else ""
        raise ArtifactError(
            f"{folder}: expected {name} of shape {shapes[0]}, which follows from config.json, found {shapes[1]} in .safetensors{more}. "
            "Is config.json that of these weights? Get both again"
        )


def _check_complete(missing: Collection[str], folder: Path) -> None:
    """Raise ArtifactError for weights that the folder lacks: transformers draws them at random. A pooler is not used."""
    if lacking := sorted(name for name in missing if "pooler" not in name.split(".")):
        more = f" and {len(lacking) - 1:,} more" if len(lacking) > 1 else ""
        raise ArtifactError(
            f"{folder}: expected all weights of the model in its .safetensors, found no {lacking[0]}{more}. "
            "Is the download complete, and config.json that of these weights?"
        )


def check_finite_weights(transformer: nn.Module, where: str) -> None:
    """Raise ArtifactError for weights that are not finite numbers."""
    bad = [name for name, weight in transformer.named_parameters() if not bool(torch.isfinite(weight.sum()))]
    bad = [name for name in bad if not bool(torch.isfinite(transformer.get_parameter(name)).all())]
    if bad:
        raise ArtifactError(f"{where}: expected finite weights, found NaN or infinity in {bad[0]}; get the model again")


def position_count(transformer: Transformer) -> int | None:
    """Number of positions of a model, None without a table of them. RoBERTa's first rows are not positions."""
    table = getattr(getattr(transformer, "embeddings", None), "position_embeddings", None)
    if not isinstance(table, torch.nn.Embedding):
        return None
    return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars, and its warning about the pooler that is left out on purpose."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _locate(path: Path | str, revision: str | None, known: KnownModel | None) -> tuple[Path, str | None]:
    """A model's folder, downloaded if need be, and its revision on the hub."""
    folder = Path(path)
    if folder.is_dir():
        if revision is not None:
            raise ConfigError(
                f"{path}: expected revision for a model of the hub alone, found '{revision}' for a folder; leave revision out"
            )
        return folder, None
    if folder.exists() or str(path).count("/") > 1 or str(path).startswith((".", "/")):
        raise ArtifactError(
            f"{path}: expected a model folder, found {'a file' if folder.exists() else 'nothing there'}. Is the path right?"
        )
    from huggingface_hub.errors import RevisionNotFoundError

    of_table = known.revision if known else None
    revision = revision or of_table
    try:
        try:
            return _download(str(path), revision), revision
        except RevisionNotFoundError:
            if revision is None or revision != of_table:  # given by the caller alone
                raise
            logger.warning("%s: the hub no longer has its revision %s; the main one is used instead", path, revision)
            return _download(str(path), None), None
    except XsapError:
        raise
    except Exception as error:  # the hub's client raises many kinds, which all mean the same to the user
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        at = f" at revision '{revision}'" if revision else ""
        raise ArtifactError(
            f"{path}: expected a model folder or an id of the Hugging Face hub, found neither{at}: {reason}"
        ) from None


def _download(model_id: str, revision: str | None) -> Path:
    """The folder of a model in the hub's cache, with pickled weights only where there are no others."""
    from huggingface_hub import snapshot_download

    unused = ["*.pt", "*.h5", "*.msgpack", "*.onnx", "*.ot", "onnx/*", "openvino/*"]
    folder = Path(snapshot_download(model_id, revision=revision, ignore_patterns=[*unused, "*.bin"]))
    if not all(any(part.glob("*.safetensors")) for part in weight_folders(folder)):
        folder = Path(snapshot_download(model_id, revision=revision, ignore_patterns=unused))
    return folder


def _hash_of(folder: Path) -> str:
    """SHA-256 over weights, configuration and tokenizer of a folder without a manifest."""
    wanted = {".safetensors", ".bin", ".json", ".model", ".txt"}
    files = sorted(p for p in folder.rglob("*") if p.suffix in wanted and p.is_file())
    return hashlib.sha256("".join(f"{p.relative_to(folder)}\0{sha256_of(p)}\n" for p in files).encode()).hexdigest()


def _read_config(folder: Path, given: dict[str, Any], known: KnownModel | None, *, override: bool) -> EncoderConfig:
    """What the folder states, the caller gives, and is known of the model; the first two must not differ unless overridden."""
    given = {key: value for key, value in given.items() if value is not None}
    stated = _read_xsap_config(folder)
    if not stated:
        stated = read_sentence_transformer(folder, given.get("pooling")) | _read_prompts(folder)
    for key, value in given.items():
        if not override and stated.get(key, value) != value:
            if key.endswith("_prompt"):
                side = "names" if key == "name_prompt" else "mentions"
                expected = f"{folder}: the model puts '{stated[key]}' before {side}"
                raise ConfigError(f"{expected}, found the prompt '{value}'; leave prompt out")
            raise ConfigError(f"{folder}: states {key} {stated[key]}, found {value} given; leave {key} out")
    stated |= given
    if known is not None:
        values = known.stated()
        if lacking := [key for key in values if key not in stated]:
            logger.info(known.describe(lacking))
        stated = values | stated
    if "pooling" not in stated:
        raise ArtifactError(
            f"{folder}: has neither xsap.json nor modules.json, so its pooling is unknown; give pooling: one of "
            f"{', '.join(POOLINGS)} (the published SapBERT models: cls); `xsap probe` compares them"
        )
    return EncoderConfig(**stated)


def _read_xsap_config(folder: Path) -> dict[str, Any]:
    """From `xsap.json`, if there is one."""
    file = folder / "xsap.json"
    if not file.is_file():
        return {}
    stated = read_model_object(file)
    pooling, length = typed(file, stated, "pooling", str), typed(file, stated, "max_length", int)
    text, prompts = typed(file, stated, "text", dict), typed(file, stated, "prompts", dict) or {}
    if pooling is None or length is None or text is None or not set(text) <= {"case", "unicode"}:
        raise ArtifactError(
            f"{file}: expected pooling, max_length, and text with case and unicode; save the model again"
        )
    return {
        "pooling": pooling,
        "max_length": length,
        "policy": TextPolicy(**{key: typed(file, text, key, str) for key in text}),  # type: ignore[arg-type]
        "name_prompt": typed(file, prompts, "name", str) or "",
        "mention_prompt": typed(file, prompts, "mention", str) or "",
    }


def _read_prompts(folder: Path) -> dict[str, Any]:
    """The prompts of a SentenceTransformer: the default one for both sides, else those for queries and documents."""
    file = folder / "config_sentence_transformers.json"
    if not (file.is_file() and (folder / MODULES).is_file()):
        return {}
    stated = read_model_object(file)
    texts = typed(file, stated, "prompts", dict) or {}
    prompts = {key: text for key in texts if (text := typed(file, texts, key, str)) is not None}
    default_name = typed(file, stated, "default_prompt_name", str)
    default = prompts.get(default_name or "")
    if default_name and default is None:
        raise ArtifactError(
            f"{file}: expected default_prompt_name to be one of its prompts, found {describe_value(default_name)}; correct it there"
        )
    name = default if default is not None else prompts.get("document", prompts.get("passage", ""))
    mention = default if default is not None else prompts.get("query", "")
    return {"name_prompt": name, "mention_prompt": mention} if name or mention else {}


def sentence_transformer_files(config: EncoderConfig, dimension: int, dense: nn.Sequential | None) -> dict[str, Any]:
    """The files (path → JSON) with which SentenceTransformer opens the folder; keys that all its releases since 2.0 read.

    Args:
        config: Pooling, maximum length, text policy and prompts.
        dimension: Hidden size of the transformer, before `dense`.
        dense: Layers after pooling: linear ones, each followed by its activation.
    """
    if config.pooling == "mean_all":
        return {}
    layers = list(dense or ())
    pairs = list(zip(layers[::2], layers[1::2], strict=True))
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")]
    kinds += [(f"{i + 2}_Dense", "Dense") for i in range(len(pairs))]
    kinds += [(f"{len(pairs) + 2}_Normalize", "Normalize")]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    pooling = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens"}
    prompts = {"query": config.mention_prompt, "document": config.name_prompt}
    return {
        "modules.json": modules,
        "sentence_bert_config.json": {
            "max_seq_length": config.max_length,
            "do_lower_case": config.policy.case == "lower",
        },
        "config_sentence_transformers.json": {  # no version: a newer one than is installed would warn
            "model_type": "SentenceTransformer",
            "prompts": prompts,
            "default_prompt_name": "document" if config.name_prompt else None,
            "similarity_fn_name": "cosine",
        },
        "1_Pooling/config.json": {"word_embedding_dimension": dimension}
        | {key: name == config.pooling for name, key in pooling.items()},
        f"{len(pairs) + 2}_Normalize/config.json": {},
    } | {f"{i + 2}_Dense/config.json": _dense_config(*pair) for i, pair in enumerate(pairs)}


def _dense_config(linear: nn.Module, activation: nn.Module) -> dict[str, Any]:
    assert isinstance(linear, nn.Linear)
    kind = type(activation)
    return {
        "in_features": linear.in_features,
        "out_features": linear.out_features,
        "bias": linear.bias is not None,
        "activation_function": f"{kind.__module__}.{kind.__name__}",
    }


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, transformer: Transformer, where: str) -> None:
    """Raise ArtifactError for a tokenizer that does not fit its model.

    That is one that maps all words to the unknown token (a SentencePiece file converted without protobuf), or that has
    more pieces than the model has embeddings.
    """
    ids = tokenizer("fever, cough and chest pain", add_special_tokens=False)["input_ids"]
    if not ids or all(i == tokenizer.unk_token_id for i in ids):
        raise ArtifactError(
            f"{where}: the tokenizer maps plain words to {tokenizer.unk_token}. Is the package protobuf installed?"
        )
    rows = transformer.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ArtifactError(
            f"{where}: the tokenizer has {len(tokenizer):,} pieces, the model only {rows:,} embeddings for them"
        )
