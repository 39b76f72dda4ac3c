"""Settings of a training run of an entity memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from xsap.config import OTHER_NAMES, CheckpointSettings, OptimSettings
from xsap.settings_files import Section, describe_model, read_settings, recipe_names


class MemorySizes(Section):
    """The memory: where it is, how large, and whether it is used."""

    entity_size: int = Field(default=100, gt=0, description="Components of an entity's vector.")
    context_layers: int | None = Field(
        default=None, gt=0, description="Layers below the memory; by default two thirds of the base model's."
    )
    candidates: int = Field(
        default=100, gt=0, description="Number of most similar entities whose vectors are added to a mention's tokens."
    )
    max_tokens: int = Field(default=256, ge=8, description="Maximum tokens of a window; longer texts are split.")
    feedback: bool = Field(
        default=True, description="Whether vectors of entities are added to the tokens; false is for comparison."
    )


class MemoryLossSettings(Section):
    """The three losses."""

    language: float = Field(default=1.0, ge=0, description="Weight of the masked language model.")
    detection: float = Field(
        default=10.0,
        ge=0,
        description="Weight of the detection of mentions, whose gradient is the smallest: a mean over all tokens.",
    )
    linking: float = Field(default=1.0, ge=0, description="Weight of linking.")
    softmax: Literal["batch", "full"] = Field(
        default="batch",
        description="Entities in the softmax of linking: those of the step and the most similar ones, or all.",
    )
    masked: float = Field(default=0.15, gt=0, lt=1, description="Fraction of tokens that are masked.")


class MemoryBatchSettings(Section):
    """The batch: windows per step, over all processes."""

    windows: int = Field(default=16, gt=0, description="Windows of texts per step.")


class MemorySettings(Section):
    """A whole run."""

    index: Path = Field(description="Index whose concepts are the entities.")
    mentions: Path = Field(
        description="Mentions with their text: a table with context, start, end and concept_ids, or a corpus."
    )
    base: str | None = Field(
        default=None,
        description="Model to start from: a folder, or an id of the Hugging Face hub; by default the model of the index.",
    )
    pooling: Literal["cls", "mean"] | None = Field(
        default=None,
        description="Pooling of the base model, if its folder does not state one; the memory does not use it.",
    )
    output: Path = Field(description="Folder of the run, to write.")
    overwrite: bool = Field(default=False, description="Whether to replace an earlier run in the output folder.")
    resume: Literal["auto", "never"] = Field(
        default="never", description="auto: resume the run in the output folder from its newest checkpoint."
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="Seed of the order, masks, dropout and new weights.")
    mixed_precision: Literal["no", "bf16", "fp16", "auto"] = Field(
        default="no",
        description="Mixed precision; fp16 needs a GPU; auto: bf16 where the processor or GPU has instructions for it, else no.",
    )
    epochs: int = Field(default=1, gt=0, description="Epochs to train.")
    max_steps: int | None = Field(default=None, ge=0, description="Steps to train, instead of epochs.")
    max_minutes: float | None = Field(default=None, gt=0, description="Minutes after which training stops.")
    tracker: str | None = Field(
        default=None, description="Experiment tracker that Accelerate supports: tensorboard, wandb, …"
    )
    head_learning_rate: float = Field(
        default=1e-3, gt=0, description="Peak learning rate of the memory's own weights; optim has the encoder's."
    )
    memory: MemorySizes = MemorySizes()
    loss: MemoryLossSettings = MemoryLossSettings()
    batch: MemoryBatchSettings = MemoryBatchSettings()
    optim: OptimSettings = OptimSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()


def load_memory_settings(file: Path | str | None, overrides: Sequence[str] = ()) -> MemorySettings:
    """Read the settings of a run.

    Args:
        file: A TOML file, or the name of a recipe, such as `memory_small`; None for the defaults.
        overrides: `key=value` strings, which take precedence over the file, later ones over earlier ones.

    Raises:
        ConfigError: A setting is unknown, missing or not valid.
    """
    others = {
        known: names for known, names in OTHER_NAMES.items() if known.partition(".")[0] in MemorySettings.model_fields
    }
    return read_settings(MemorySettings, file, overrides, other_names=others, recipes=recipe_names(memory=True))


def describe_memory_settings(width: int = 80) -> str:
    """All settings with type, default and meaning, section by section.

    Args:
        width: Columns of the text.
    """
    return describe_model(MemorySettings, width)
