"""Known models: what published models need that their folders do not state, by their id on the Hugging Face hub.

The table is `known_models.toml`, with the source of each claim. It only fills gaps: what a folder states, or the caller
gives, has precedence.
"""

import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from xsap.text import TextPolicy


@dataclass(frozen=True)
class KnownModel:
    """One entry of the table.

    Attributes:
        model_id: Id on the Hugging Face hub.
        pooling: As in `EncoderConfig`.
        source: Where the values come from.
        max_length: As in `EncoderConfig`; None: as the folder states.
        case: Letter case of names, as in `TextPolicy`; None: as the folder states.
        name_prompt: Text before each name of a dictionary.
        mention_prompt: Text before each mention.
        similarity: What the authors compare vectors with; xsap always compares by cosine.
        revision: Revision of the hub's repository that has weights as safetensors; None: the main one.
        unverified: The values that no source states.
    """

    model_id: str
    pooling: str
    source: str
    max_length: int | None = None
    case: str | None = None
    name_prompt: str = ""
    mention_prompt: str = ""
    similarity: str = "cosine"
    revision: str | None = None
    unverified: tuple[str, ...] = ()

    def stated(self) -> dict[str, Any]:
        """The values as keyword arguments of `EncoderConfig`."""
        values: dict[str, Any] = {"pooling": self.pooling}
        if self.max_length is not None:
            values["max_length"] = self.max_length
        if self.case is not None:
            values["policy"] = TextPolicy(case=self.case)  # type: ignore[arg-type]
        if self.name_prompt or self.mention_prompt:
            values |= {"name_prompt": self.name_prompt, "mention_prompt": self.mention_prompt}
        return values

    def describe(self, used: Collection[str] | None = None) -> str:
        """One line for the log: what is used and why.

        Args:
            used: The keys of `stated` that are used; None for all.
        """
        stated = self.stated()
        used = stated if used is None else used
        values = [f"pooling {self.pooling}"] if "pooling" in used else []
        values += [f"{self.max_length} tokens"] if "max_length" in used else []
        values += [f"case {self.case}"] if "policy" in used else []
        if "name_prompt" in used:
            values.append(f"prompts '{self.name_prompt}' before names and '{self.mention_prompt}' before mentions")
        doubtful = [value for value in self.unverified if ("policy" if value == "case" else value) in used]
        doubt = f"; not verified: {', '.join(doubtful)}" if doubtful else ""
        other = "" if self.similarity == "cosine" else f"; its authors compare by {self.similarity}, xsap by cosine"
        return f"{self.model_id}: {', '.join(values)} ({self.source}{doubt}){other}"


@cache
def known_models() -> dict[str, KnownModel]:
    """All entries of the table, by lower-case id."""
    table = tomllib.loads(files("xsap.encoding").joinpath("known_models.toml").read_text(encoding="utf-8"))
    return {
        model_id.casefold(): KnownModel(model_id, **entry | {"unverified": tuple(entry.get("unverified", ()))})
        for model_id, entry in table.items()
    }


def find_known_model(path: Path | str, folder: Path | None = None) -> KnownModel | None:
    """The entry of a hub id, or of a folder that holds such a model.

    A folder is recognized by a path that ends in the id (`…/intfloat/multilingual-e5-small`) or by the hub's cache
    (`models--intfloat--multilingual-e5-small`). `_name_or_path` in a config.json is no sign: fine-tuned models keep that
    of their base.

    Args:
        path: A hub id, or a folder.
        folder: Where the model's files are, if known.
    """
    candidates = [str(path)]
    if folder is not None:
        parts = folder.absolute().parts
        candidates += ["/".join(parts[-2:])] if len(parts) > 1 else []
        candidates += [part.removeprefix("models--").replace("--", "/", 1) for part in parts if "--" in part]
    table = known_models()
    return next((table[each.casefold()] for each in candidates if each.casefold() in table), None)
