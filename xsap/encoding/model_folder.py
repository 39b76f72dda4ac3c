"""What a model folder says of itself: how to pool, how long a name may be, how to treat its text; and how to open one.

Three kinds of folder: ours (`xsap.json`), a SentenceTransformer (`modules.json`), and a bare Hugging Face folder, which says nothing
and for which the caller must say `pooling`. A name that is no folder is an id of the Hugging Face hub.
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
REFERENCE_LENGTH = 25  # tokens a name in the original SapBERT code, whose folders don't state it


@dataclass(frozen=True)
class EncoderConfig:
    """How names become vectors, beyond the weights."""

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
    """An opened model. content: sha256 over its files."""

    transformer: Transformer
    tokenizer: PreTrainedTokenizerBase
    description: EncoderConfig
    content_hash: str


def open_folder(path: Path | str, *, pooling: str | None, max_length: int | None, policy: TextPolicy | None) -> Folder:
    """Open a model for `Encoder.from_pretrained`, which says what the arguments mean and what is raised."""
    folder = _locate(path)
    if not any(
        (folder / file).is_file() for file in (MANIFEST, "config.json")
    ):  # else a large folder would be hashed first
        raise ArtifactError(f"{path}: expected a model's folder, found no config.json in it. Is the path right?")
    content_hash = manifest_hash(open_artifact(folder, "model")) if (folder / MANIFEST).is_file() else _hash_of(folder)
    description = _describe(folder, {"pooling": pooling, "max_length": max_length, "policy": policy})
    if (folder / "config.json").is_file() and not any(folder.glob("*.safetensors")):
        raise ArtifactError(
            f"{path}: expected its weights as .safetensors, found none; pickled ones (.bin) are never opened. "
            "Where they can be trusted, convert them: AutoModel.from_pretrained(…).save_pretrained(…)"
        )
    try:
        with quiet():
            transformer, tokenizer = _open(folder)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ArtifactError(f"{path}: not a model that transformers can open: {str(error).splitlines()[0]}") from None
    longest = _longest(transformer) or description.max_length
    if max_length is not None and max_length > longest:
        raise ConfigError(
            f"{path}: max_length must be at most {longest}, the positions that its model has; found {max_length}"
        )
    return Folder(
        transformer, tokenizer, replace(description, max_length=min(longest, description.max_length)), content_hash
    )


def _open(folder: Path) -> tuple[Transformer, PreTrainedTokenizerBase]:
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    # the pooler on top of [CLS] is a pre-training head: no pooling of ours uses it
    options = inspect.signature(MODEL_MAPPING[type(config)].__init__).parameters
    extra = {"add_pooling_layer": False} if "add_pooling_layer" in options else {}
    transformer = AutoModel.from_pretrained(
        folder, config=config, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, **extra
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    check_tokenizer(tokenizer, transformer, str(folder))
    return transformer, tokenizer


def _longest(transformer: Transformer) -> int | None:
    """How many tokens a model has positions for; None if it has no table of them. RoBERTa's first rows are no positions."""
    table = getattr(getattr(transformer, "embeddings", None), "position_embeddings", None)
    if not isinstance(table, torch.nn.Embedding):
        return None
    return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' bars and its report of the pooler that we leave out on purpose."""
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
            f"{path}: expected a model folder, found {'a file' if folder.exists() else 'nothing there'}"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                str(path),
                ignore_patterns=["*.bin", "*.pt", "*.h5", "*.msgpack", "*.onnx", "*.ot", "onnx/*", "openvino/*"],
            )
        )
    except Exception as error:  # the hub's client raises many kinds, and all mean the same to the user
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ArtifactError(
            f"{path}: no folder there, and the Hugging Face hub gave no model of that name: {reason}"
        ) from None


def _hash_of(folder: Path) -> str:
    """What `manifest_hash` is to our own folders: a foreign one's weights, configuration and tokenizer."""
    wanted = {".safetensors", ".bin", ".json", ".model", ".txt"}
    files = sorted(p for p in folder.rglob("*") if p.suffix in wanted and p.is_file())
    return hashlib.sha256("".join(f"{p.relative_to(folder)}\0{sha256_of(p)}\n" for p in files).encode()).hexdigest()


def _describe(folder: Path, given: dict[str, Any]) -> EncoderConfig:
    given = {key: value for key, value in given.items() if value is not None}
    said = _read_xsap_config(folder) or _read_sentence_transformer_config(folder)
    for key, value in given.items():
        if said.get(key, value) != value:
            raise ConfigError(f"{folder}: its {key} is {said[key]}, found {value} asked for; leave it out")
    said |= given
    if "pooling" not in said:
        raise ArtifactError(
            f"{folder}: has neither xsap.json nor modules.json, so it doesn't say how it pools; give pooling: "
            f"one of {', '.join(POOLINGS)} (the published SapBERT models: cls, or mean where their name says so)"
        )
    return EncoderConfig(**said)


def _read_xsap_config(folder: Path) -> dict[str, Any]:
    if not (folder / "xsap.json").is_file():
        return {}
    said = _read_json(folder / "xsap.json")
    try:
        return {"pooling": said["pooling"], "max_length": said["max_length"], "policy": TextPolicy(**said["text"])}
    except (KeyError, TypeError):
        raise ArtifactError(
            f"{folder / 'xsap.json'}: expected pooling, max_length and text; make the model again"
        ) from None


def _read_sentence_transformer_config(folder: Path) -> dict[str, Any]:
    """Of a SentenceTransformer folder (its modules.json and the files it names), what our encoder can do too."""
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
    said = _read_json(transformer) if transformer.is_file() else {}
    policy = TextPolicy(case="lower" if said.get("do_lower_case") else "cased")
    tokenizer = folder / "tokenizer_config.json"  # where newer releases keep the length
    length = said.get("max_seq_length") or (
        _read_json(tokenizer).get("model_max_length") if tokenizer.is_file() else None
    )
    known = isinstance(length, int) and length < 100_000  # transformers writes 10^30 for "any"
    return {"pooling": mode, "policy": policy} | ({"max_length": length} if known else {})


def sentence_transformer_files(description: EncoderConfig, dimension: int) -> dict[str, Any]:
    """The files, path → JSON, that let SentenceTransformer open the folder (keys that its releases since 2.0 all read)."""
    if description.pooling == "mean_all":
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
            "max_seq_length": description.max_length,
            "do_lower_case": description.policy.case == "lower",
        },
        "1_Pooling/config.json": {"word_embedding_dimension": dimension}
        | {v: k == description.pooling for k, v in pooling.items()},
        "2_Normalize/config.json": {},
    }


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, transformer: Transformer, where: str) -> None:
    """Raise ArtifactError for a tokenizer that makes everything unknown (a SentencePiece file converted without protobuf), or that
    knows more pieces than the model has rows for."""
    ids = tokenizer("fever, cough and chest pain", add_special_tokens=False)["input_ids"]
    if not ids or all(i == tokenizer.unk_token_id for i in ids):
        raise ArtifactError(
            f"{where}: its tokenizer maps plain words to {tokenizer.unk_token}; is the package protobuf installed?"
        )
    rows = transformer.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ArtifactError(
            f"{where}: its tokenizer has {len(tokenizer):,} pieces, its model only {rows:,} rows for them"
        )


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{file}: expected readable JSON, found: {error}") from None
