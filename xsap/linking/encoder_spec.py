"""The encoder that an index is bound to: what is recorded of it, and how it is opened again."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from xsap.encoding.encoder import Dtype, Encoder
from xsap.errors import ArtifactError, ConfigError
from xsap.search.vectors import Floats
from xsap.text import TextPolicy

_UP = ".."  # with it begins what is relative to an index
LOCATION = ("path", "relative_path")  # of the model, in a manifest
REVISION = "revision"  # in a manifest, if it is not the main one


class Embedder(Protocol):
    """What an index needs of an encoder, when it is built and when it is searched."""

    content_hash: str | None

    @property
    def dtype(self) -> str: ...  # noqa: D102
    @property
    def pooling(self) -> str: ...  # noqa: D102
    @property
    def max_length(self) -> int: ...  # noqa: D102
    @property
    def policy(self) -> TextPolicy: ...  # noqa: D102
    @property
    def dimension(self) -> int: ...  # noqa: D102
    def encode(  # noqa: D102
        self,
        names: Sequence[str],
        *,
        unit: bool = True,
        policy: TextPolicy | None = None,
        prompt: str | None = None,
        progress: bool = False,
    ) -> Floats: ...


def encode_as_mentions(encoder: Embedder, mentions: Sequence[str], **options: Any) -> Floats:
    """Vectors of mentions: `encode`, which is for names, with the prompt for mentions where a model has another one.

    Args:
        encoder: The encoder; one without `prompts` has none.
        mentions: n mentions, as text has them.
        options: Further arguments of `encode`.

    Returns:
        (n, dimension).
    """
    of_names, of_mentions = getattr(encoder, "prompts", ("", ""))
    return encoder.encode(mentions, **options | ({} if of_mentions == of_names else {"prompt": of_mentions}))


@dataclass(frozen=True)
class EncoderSpec:
    """The encoder that an index is bound to, and how it was used."""

    content_hash: str | None  # of its folder; None if it was never saved
    path: str | None  # its folder, or its id on the Hugging Face hub
    pooling: str
    max_length: int  # tokens
    policy: TextPolicy
    dtype: str = "float32"  # of the matrix products that made the vectors; mentions may be encoded in another one
    prompts: tuple[str, str] = ("", "")  # text before each name, and before each mention
    revision: str | None = None  # of the hub's repository

    @classmethod
    def from_encoder(cls, encoder: Embedder, path: Path | str | None = None) -> "EncoderSpec":
        """The spec of an encoder; `path` is where `Linker.load` will look for it."""
        location = None if path is None else str(path)
        prompts = getattr(encoder, "prompts", ("", ""))
        return cls(
            encoder.content_hash,
            location,
            encoder.pooling,
            encoder.max_length,
            encoder.policy,
            encoder.dtype,
            prompts,
            getattr(encoder, "revision", None),
        )

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], path: str | None) -> "EncoderSpec":
        """The inverse of `metadata`. Raises KeyError and TypeError for anything else."""
        text = TextPolicy(**metadata["text"])
        name_prompt, mention_prompt = metadata.get("prompts", ("", ""))
        prompts = (str(name_prompt), str(mention_prompt))
        content_hash, pooling, max_length = (metadata[key] for key in ("content_hash", "pooling", "max_length"))
        revision = metadata.get(REVISION)
        return cls(content_hash, path, pooling, max_length, text, metadata["dtype"], prompts, revision)

    @classmethod
    def from_manifest(cls, metadata: Mapping[str, Any], index: Path) -> "EncoderSpec":
        """The inverse of `manifest_entry`, for an index that may have been moved together with its model."""
        path, relative = (metadata[key] for key in LOCATION)
        beside = resolve_location(relative, index)
        return cls.from_metadata(metadata, resolve_location(path, index) if path and not _is_folder(beside) else beside)

    def metadata(self) -> dict[str, Any]:
        """All but the path, as JSON has it."""
        values = {
            "content_hash": self.content_hash,
            "pooling": self.pooling,
            "max_length": self.max_length,
            "text": self.policy.to_dict(),
            "dtype": self.dtype,
        }
        return values | ({"prompts": list(self.prompts)} if any(self.prompts) else {})

    def manifest_entry(self, index: Path) -> dict[str, Any]:
        """`metadata`, and the model's location, see `record_location`: in `relative_path` if it is relative to the index, else in `path`."""
        location = record_location(self.path, index)
        is_relative = location is not None and location.startswith(_UP)
        revision = {} if self.revision is None else {REVISION: self.revision}
        found = (None, location) if is_relative else (location, None)
        return self.metadata() | revision | dict(zip(LOCATION, found, strict=True))

    def matches(self, other: "EncoderSpec") -> bool:
        """Whether an index of the one can be searched with the other: equal in all but path, revision and dtype."""
        location: dict[str, Any] = {"path": None, "revision": None, "dtype": ""}
        return replace(self, **location) == replace(other, **location)

    def describe(self) -> str:
        """What `matches` compares, in a few words."""
        text = f"{self.policy.case}, {self.policy.unicode}"
        prompts = f", prompts '{self.prompts[0]}' and '{self.prompts[1]}'" if any(self.prompts) else ""
        return f"{short_hash(self.content_hash)} ({self.pooling}, {self.max_length} tokens, {text}{prompts})"


def record_location(path: str | None, folder: Path) -> str | None:
    """A model's location as a manifest in `folder` records it, so that both can be moved together and no user or machine is named in it.

    It is relative to the folder (`../model`) unless the two have nothing but the root in common; then it is below the home folder (`~/model`), or
    else absolute. A hub id stays.
    """
    if path is None or not Path(path).exists():
        return path
    model, folder = Path(path).resolve(), folder.resolve()
    if Path(os.path.commonpath([model, folder])) != Path(model.anchor):
        return os.path.relpath(model, folder)
    return f"~/{model.relative_to(Path.home())}" if model.is_relative_to(Path.home()) else str(model)


def resolve_location(location: str | None, folder: Path) -> str | None:
    """The inverse of `record_location`."""
    if location is None or not location.startswith((_UP, "~/")):
        return location
    return str(Path(os.path.normpath(folder.resolve() / Path(location).expanduser())))


def _is_folder(path: str | None) -> bool:
    return path is not None and Path(path).is_dir()


def open_encoder(
    spec: EncoderSpec,
    index_path: Path | str,
    model: Path | str | None,
    device: str | torch.device | None,
    dtype: Dtype,
) -> Encoder:
    """Open the encoder that an index was built with.

    Args:
        spec: The encoder of the index.
        index_path: The index's folder, for errors.
        model: Where the encoder is, if no longer at the path of the spec.
        device: As torch names it; None for the best one.
        dtype: Of the encoder's matrix products.

    Raises:
        ArtifactError: There is no model at that path, or another one.
    """
    path = str(model if model is not None else spec.path)
    if model is None and (spec.path is None or (Path(path).is_absolute() and not Path(path).exists())):
        raise ArtifactError(
            f"{index_path}: its model ({short_hash(spec.content_hash)}) is no longer at {path}; give --model"
        )
    revision = spec.revision if model is None else None
    at = f" --revision {revision}" if revision else ""
    rebuild = f"Rebuild it: xsap index {path}{at} TERMINOLOGY --out {index_path} --overwrite"
    try:
        encoder = Encoder.from_pretrained(
            path,
            pooling=spec.pooling,
            max_length=spec.max_length,
            policy=spec.policy,
            prompt=spec.prompts,
            revision=revision,
            device=device,
            dtype=dtype,
        )
    except ConfigError as error:
        raise ArtifactError(f"{index_path} was built with another model than {path} ({error}). {rebuild}") from None
    if encoder.content_hash != spec.content_hash:
        found = f"{path} ({short_hash(encoder.content_hash)})"
        raise ArtifactError(
            f"{index_path} was built with model {short_hash(spec.content_hash)}, not with {found}. {rebuild}"
        )
    return encoder


def short_hash(content_hash: str | None) -> str:
    """The beginning of a content hash."""
    return f"{content_hash[:8]}…" if content_hash else "an unsaved one"


def check_model_saved(model: EncoderSpec) -> None:
    """Raise ConfigError for an encoder without a hash, to which an index can't be bound."""
    if model.content_hash is None:
        raise ConfigError("an index needs a saved model, found an unsaved one; save it, load it, and build the index")
