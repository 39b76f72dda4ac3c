"""Model folders: how to open one, and which pooling, maximum length and text policy it states.

There are three kinds: ours (`xsap.json`), a SentenceTransformer (`modules.json`), and a bare Hugging Face folder, which
states none of these, so that the caller must give `pooling`. A name that is not a folder is taken as an id of the
Hugging Face hub.
"""

import hashlib
import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

from xsap.artifacts import MANIFEST, manifest_hash, open_artifact, sha256_of
from xsap.encoding.packing import Transformer
from xsap.errors import ArtifactError, ConfigError
from xsap.text import TextPolicy

POOLINGS = ("cls", "mean", "mean_all")
REFERENCE_LENGTH = 25  # tokens per name in the original SapBERT code, whose model folders do not state it


@dataclass(frozen=True)
class EncoderConfig:
    """How names become vectors, apart from the weights.

    Attributes:
        pooling: `cls`; `mean` over a name's tokens; or `mean_all`, over padding up to `max_length` too.
        max_length: Tokens after which a name is truncated, special tokens included.
        policy: Normalization of a name before it is tokenized.
    """

    pooling: str
    max_length: int = REFERENCE_LENGTH
    policy: TextPolicy = field(default_factory=TextPolicy)

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise ConfigError(f"pooling must be one of {', '.join(POOLINGS)}; found '{self.pooling}'")
        if self.max_length < 3:
            raise ConfigError(
                f"max_length must be at least 3 tokens, two of which are special; found {self.max_length}"
            )

    def to_dict(self) -> dict[str, Any]:
        """The keys of `xsap.json`."""
        return {"pooling": self.pooling, "max_length": self.max_length, "text": self.policy.to_dict()}


class Folder(NamedTuple):
    """An opened model; `content_hash` is the SHA-256 over its files."""

    transformer: Transformer
    tokenizer: PreTrainedTokenizerBase
    config: EncoderConfig
    content_hash: str


def open_folder(path: Path | str, *, pooling: str | None, max_length: int | None, policy: TextPolicy | None) -> Folder:
    """Open a model for `Encoder.from_pretrained`, which documents the arguments and errors.

    Args:
        path: A model folder, or an id of the Hugging Face hub.
        pooling: See `EncoderConfig`; required if the folder does not state it.
        max_length: See `EncoderConfig`.
        policy: See `EncoderConfig`.
    """
    folder = _locate(path)
    if not any((folder / file).is_file() for file in (MANIFEST, "config.json")):  # checked before anything is hashed
        raise ArtifactError(f"{path}: expected a model folder, found no config.json in it. Is the path right?")
    content_hash = manifest_hash(open_artifact(folder, "model")) if (folder / MANIFEST).is_file() else _hash_of(folder)
    config = _read_config(folder, {"pooling": pooling, "max_length": max_length, "policy": policy})
    if (folder / "config.json").is_file() and not any(folder.glob("*.safetensors")):
        raise ArtifactError(
            f"{path}: expected weights as .safetensors, found none; pickled weights (.bin) are never opened. "
            "If you trust them, convert them: AutoModel.from_pretrained(…).save_pretrained(…)"
        )
    try:
        with quiet():
            transformer, tokenizer = _open(folder)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ArtifactError(f"{path}: transformers cannot open it as a model: {str(error).splitlines()[0]}") from None
    longest = _positions(transformer) or config.max_length
    if max_length is not None and max_length > longest:
        raise ConfigError(
            f"{path}: max_length must be at most {longest}, the number of positions of the model; found {max_length}"
        )
    return Folder(transformer, tokenizer, replace(config, max_length=min(longest, config.max_length)), content_hash)


def _open(folder: Path) -> tuple[Transformer, PreTrainedTokenizerBase]:
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    # the pooler on top of [CLS] is a pre-training head that no pooling here uses
    options = inspect.signature(MODEL_MAPPING[type(config)].__init__).parameters
    extra = {"add_pooling_layer": False} if "add_pooling_layer" in options else {}
    transformer = AutoModel.from_pretrained(
        folder, config=config, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, **extra
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    check_tokenizer(tokenizer, transformer, str(folder))
    return transformer, tokenizer


def _positions(transformer: Transformer) -> int | None:
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


def _locate(path: Path | str) -> Path:
    folder = Path(path)
    if folder.is_dir():
        return folder
    if folder.exists() or str(path).count("/") > 1 or str(path).startswith((".", "/")):
        raise ArtifactError(
            f"{path}: expected a model folder, found {'a file' if folder.exists() else 'nothing there'}. Is the path right?"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                str(path),
                ignore_patterns=["*.bin", "*.pt", "*.h5", "*.msgpack", "*.onnx", "*.ot", "onnx/*", "openvino/*"],
            )
        )
    except Exception as error:  # the hub's client raises many kinds, which all mean the same to the user
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ArtifactError(
            f"{path}: expected a model folder or an id of the Hugging Face hub, found neither: {reason}"
        ) from None


def _hash_of(folder: Path) -> str:
    """SHA-256 over weights, configuration and tokenizer of a folder without a manifest."""
    wanted = {".safetensors", ".bin", ".json", ".model", ".txt"}
    files = sorted(p for p in folder.rglob("*") if p.suffix in wanted and p.is_file())
    return hashlib.sha256("".join(f"{p.relative_to(folder)}\0{sha256_of(p)}\n" for p in files).encode()).hexdigest()


def _read_config(folder: Path, given: dict[str, Any]) -> EncoderConfig:
    """What the folder states and what the caller gives; the two must not differ."""
    given = {key: value for key, value in given.items() if value is not None}
    stated = _read_xsap_config(folder) or _read_sentence_transformer_config(folder)
    for key, value in given.items():
        if stated.get(key, value) != value:
            raise ConfigError(f"{folder}: states {key} {stated[key]}, found {value} given; leave {key} out")
    stated |= given
    if "pooling" not in stated:
        raise ArtifactError(
            f"{folder}: has neither xsap.json nor modules.json, so its pooling is unknown; give pooling: one of "
            f"{', '.join(POOLINGS)} (the published SapBERT models: cls, or mean where their name says so)"
        )
    return EncoderConfig(**stated)


def _read_xsap_config(folder: Path) -> dict[str, Any]:
    """From `xsap.json`, if there is one."""
    if not (folder / "xsap.json").is_file():
        return {}
    stated = _read_json(folder / "xsap.json")
    try:
        policy = TextPolicy(**stated["text"])
        return {"pooling": stated["pooling"], "max_length": stated["max_length"], "policy": policy}
    except (KeyError, TypeError):
        raise ArtifactError(
            f"{folder / 'xsap.json'}: expected pooling, max_length and text; save the model again"
        ) from None


def _read_sentence_transformer_config(folder: Path) -> dict[str, Any]:
    """From a SentenceTransformer folder: its modules.json and the files that it names."""
    if not (folder / "modules.json").is_file():
        return {}
    modules = {
        str(module["type"]).rsplit(".", 1)[-1]: folder / module["path"]
        for module in _read_json(folder / "modules.json")
    }
    if not set(modules) <= {"Transformer", "Pooling", "Normalize"} or "Pooling" not in modules:
        raise ConfigError(
            f"{folder}: expected the modules Transformer, Pooling and Normalize; found {', '.join(modules)}"
        )
    pooling = _read_json(modules["Pooling"] / "config.json")
    mode = pooling.get("pooling_mode") or "+".join(
        key.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
        for key, on in pooling.items()
        if key.startswith("pooling_mode_") and on is True
    )
    if mode not in ("cls", "mean"):
        raise ConfigError(f"{folder}: expected a SentenceTransformer that pools by cls or mean; found '{mode}'")
    transformer = folder / "sentence_bert_config.json"
    stated = _read_json(transformer) if transformer.is_file() else {}
    policy = TextPolicy(case="lower" if stated.get("do_lower_case") else "cased")
    tokenizer = folder / "tokenizer_config.json"  # where newer releases keep the length
    length = stated.get("max_seq_length") or (
        _read_json(tokenizer).get("model_max_length") if tokenizer.is_file() else None
    )
    known = isinstance(length, int) and length < 100_000  # transformers writes 10^30 for "any"
    return {"pooling": mode, "policy": policy} | ({"max_length": length} if known else {})


def sentence_transformer_files(config: EncoderConfig, dimension: int) -> dict[str, Any]:
    """The files (path → JSON) with which SentenceTransformer opens the folder; keys that all its releases since 2.0 read."""
    if config.pooling == "mean_all":
        return {}
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    pooling = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens"}
    return {
        "modules.json": modules,
        "sentence_bert_config.json": {
            "max_seq_length": config.max_length,
            "do_lower_case": config.policy.case == "lower",
        },
        "1_Pooling/config.json": {"word_embedding_dimension": dimension}
        | {key: name == config.pooling for name, key in pooling.items()},
        "2_Normalize/config.json": {},
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


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{file}: expected readable JSON, found: {error}") from None
