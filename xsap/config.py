"""Settings of a training run: their types, defaults, bounds and meanings.

A TOML file states what differs from the defaults here, and `--set` what differs from the file. Settings are frozen; an
unknown key is an error that suggests a known one, by spelling or by meaning. Only `xsap.training.run` and `alignment` take
a settings object; all other parts of training take plain arguments, so that they can be used and tested alone.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from xsap.settings_files import Section, Tree, describe_model, read_settings, recipe_names
from xsap.text import Case, Form

_Positive = Annotated[int, Field(gt=0)]
_NotNegative = Annotated[int, Field(ge=0)]
_Amount = Annotated[float, Field(ge=0)]
_Scale = Annotated[float, Field(gt=0)]


class SamplingSettings(Section):
    """Which names make up a batch."""

    mode: Literal["pairs", "groups"] = Field(
        default="pairs", description="Pairs of names of one concept, or groups of names per concept."
    )
    languages: str = Field(
        default="all_syn", description="Languages of the names: all_syn for all, or for example en_syn or en+es_syn."
    )
    anchor_language: str | None = Field(
        default=None, description="Language of which every pair or group must have a name."
    )
    pairs_per_concept: _Positive = Field(default=50, description="pairs: maximum pairs per concept and epoch.")
    names_per_concept: int = Field(default=4, ge=2, description="groups: names per concept and step.")
    shuffle: bool = Field(default=True, description="Whether to shuffle a file of pairs.")
    language_temperature: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="groups: 1 draws languages in proportion to their names, 0 draws them equally.",
    )
    hard_negatives: _NotNegative = Field(
        default=0, description="groups: hard negatives per drawn concept: its nearest concepts, added to the step."
    )
    hard_negatives_refresh_steps: _Positive = Field(
        default=500, description="Steps between searches for hard negatives with the current model."
    )
    auxiliary_fraction: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="Fraction of each step that comes from the auxiliary terminology, if there is one.",
    )
    token_dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Fraction of tokens that are dropped from names at random."
    )


class BatchSettings(Section):
    """The batch: names per step, over all processes."""

    pairs: _Positive = Field(default=256, description="sampling.mode = pairs: pairs per step.")
    names: _Positive = Field(default=512, description="sampling.mode = groups: names per step.")
    chunk: _NotNegative = Field(
        default=0,
        description="Names that each process encodes at a time, for batches that do not fit into memory; 0: all.",
    )


class LossSettings(Section):
    """The loss function, and the settings of each; those of other loss functions are ignored."""

    name: Literal["multi_similarity", "info_nce", "circle", "triplet", "lifted_structure", "nca"] = Field(
        default="multi_similarity", description="Loss function."
    )
    miner: Literal["triplet_margin", "none"] = Field(
        default="triplet_margin", description="Pairs that enter the loss: those of hard triplets, or all (none)."
    )
    margin: _Amount = Field(default=0.2, description="Margin of the miner.")
    alpha: _Scale = Field(default=1.0, description="multi_similarity: scale of positive pairs.")
    beta: _Scale = Field(default=60.0, description="multi_similarity: scale of negative pairs.")
    base: float = Field(default=0.5, description="multi_similarity: cosine that is subtracted from that of each pair.")
    temperature: _Scale = Field(default=0.05, description="info_nce, and tuning: divides the cosines.")
    m: float = Field(default=0.4, description="circle: margin.")
    gamma: _Scale = Field(default=80.0, description="circle: scale.")
    triplet_margin: _Amount = Field(default=0.2, description="triplet: margin.")
    neg_margin: float = Field(default=1.0, description="lifted_structure: margin of negative pairs.")
    pos_margin: float = Field(default=0.0, description="lifted_structure: margin of positive pairs.")
    softmax_scale: _Scale = Field(default=10.0, description="nca: multiplies the squared distances.")


class OptimSettings(Section):
    """AdamW and its learning rate."""

    learning_rate: _Scale = Field(default=2e-5, description="Peak learning rate.")
    weight_decay: _Amount = Field(default=0.01, description="Weight decay, on every parameter.")
    schedule: Literal["constant", "linear"] = Field(
        default="constant", description="Learning rate after the warm-up: constant, or linear to zero."
    )
    warmup_steps: _NotNegative = Field(default=0, description="Steps of linear warm-up.")
    max_grad_norm: _Amount = Field(
        default=0.0, description="Maximum norm of the gradient, which is clipped; 0: no clipping."
    )
    frozen_layers: _NotNegative | None = Field(
        default=None,
        description="Lowest layers that are not trained, with the embeddings; 0: only the embeddings are frozen; by default everything is trained.",
    )


class CheckpointSettings(Section):
    """Saving the state of a run, so that it can be resumed."""

    save_steps: _NotNegative = Field(default=1000, description="Steps between checkpoints; 0: none.")
    save_total_limit: _Positive = Field(default=2, description="Maximum number of checkpoints to keep.")


class EvaluationSettings(Section):
    """Evaluation during training: link mentions to a dictionary's English names."""

    mentions: Path | None = Field(
        default=None, description="Mentions with their concepts; by default there is no evaluation."
    )
    dictionary: Path | None = Field(
        default=None, description="Terminology folder with the names to link to; by default the one to train on."
    )
    eval_steps: _NotNegative = Field(
        default=0, description="Steps between evaluations; 0: only before the first and after the last step."
    )


class TuningSettings(Section):
    """Tuning on mentions with known concepts: the candidates of a mention are similar names, and training raises the scores of the right ones."""

    mentions: Path | None = Field(default=None, description="Mentions to tune on; by default there is no tuning.")
    mentions_per_step: _Positive = Field(default=16, description="Mentions per step.")
    candidates: int = Field(default=20, ge=2, description="Names that are scored for each mention.")
    dense_fraction: float = Field(
        default=0.5, ge=0, le=1, description="Fraction of the candidates by vectors; the others are by n-grams."
    )
    sparse_weight: _Amount = Field(default=0.0, description="Weight of string similarity before the first step.")
    sparse_learning_rate: _Amount = Field(default=0.01, description="Learning rate of that weight; 0 keeps it fixed.")
    alignment_weight: _Amount = Field(
        default=1.0,
        description="Weight of the loss over synonyms, drawn by the settings sampling and batch, in the loss of a step.",
    )
    as_biosyn: bool = Field(
        default=False,
        description="Whether candidates, labels, scores and optimizer are as in the original BioSyn code.",
    )


class TextSettings(Section):
    """Normalization of names, if the base model does not state it."""

    case: Case = Field(default="cased", description="cased keeps upper and lower case, lower makes names lower case.")
    unicode: Form = Field(default="NFC", description="Unicode normal form; none: names are used exactly as they are.")


class ScratchSettings(Section):
    """The size of a new model, for base = scratch."""

    vocabulary_size: _Positive = Field(default=16_000, description="Maximum number of pieces in the vocabulary.")
    layers: _Positive = Field(default=2, description="Transformer layers.")
    hidden: _Positive = Field(default=256, description="Hidden size, which is also the dimension of the vectors.")
    heads: _Positive = Field(default=4, description="Attention heads; must divide scratch.hidden.")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="Dropout rate.")


class Settings(Section):
    """A whole run."""

    base: str = Field(
        default="FacebookAI/xlm-roberta-base",
        description="Model to start from: a folder, an id of the Hugging Face hub, or scratch for a new model.",
    )
    base_fraction: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Saved weights: base_fraction × those of the base + (1 - base_fraction) × the trained ones. Above 0, the model keeps more of what its base knows.",
    )
    terminology: Path | None = Field(default=None, description="Terminology folder to train on.")
    pairs: Path | None = Field(
        default=None, description="File of id||name||name lines to train on, instead of a terminology."
    )
    auxiliary: Path | None = Field(
        default=None,
        description="Auxiliary terminology, whose names are added to each step, such as general-domain translations.",
    )
    output: Path = Field(description="Folder of the run, to write.")
    overwrite: bool = Field(default=False, description="Whether to replace an earlier run in the output folder.")
    resume: Literal["auto", "never"] = Field(
        default="never", description="auto: resume the run in the output folder from its newest checkpoint."
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="Seed of sampling, dropout and new weights.")
    pooling: Literal["cls", "mean", "mean_all"] | None = Field(
        default=None, description="Pooling, if the base model does not state it; for base = scratch, cls by default."
    )
    max_length: Annotated[int, Field(ge=3)] | None = Field(
        default=None, description="Maximum tokens per name; by default what the base model states, else 25."
    )
    prompt: str | None = Field(
        default=None, description="Text before every name, such as 'query: '; by default what the base model states."
    )
    revision: str | None = Field(default=None, description="Branch, tag or commit of a base model on the hub.")
    mixed_precision: Literal["no", "bf16", "fp16", "auto"] = Field(
        default="no",
        description="Mixed precision; fp16 needs a GPU; auto: bf16 where the processor or GPU has instructions for it, else no.",
    )
    epochs: _Positive = Field(default=1, description="Epochs to train.")
    max_steps: _NotNegative | None = Field(
        default=None, description="Steps to train, instead of epochs; 0: save the untrained model."
    )
    max_minutes: _Scale | None = Field(default=None, description="Minutes after which training stops.")
    tracker: str | None = Field(
        default=None, description="Experiment tracker that Accelerate supports: tensorboard, wandb, …"
    )
    sampling: SamplingSettings = SamplingSettings()
    batch: BatchSettings = BatchSettings()
    loss: LossSettings = LossSettings()
    optim: OptimSettings = OptimSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    tuning: TuningSettings = TuningSettings()
    text: TextSettings | None = None
    scratch: ScratchSettings = ScratchSettings()


# what settings are called elsewhere: transformers, sentence-transformers, the original SapBERT code
OTHER_NAMES = {
    "sampling.anchor_language": ["anchor"],
    "sampling.auxiliary_fraction": ["second_share"],
    "sampling.hard_negatives": ["hard_concepts", "num_negatives"],
    "batch.pairs' or 'batch.names": ["batch_size", "train_batch_size", "per_device_train_batch_size"],
    "batch.chunk": ["gradient_accumulation_steps", "mini_batch_size", "micro_batch_size"],
    "loss.name": ["criterion", "objective"],
    "loss.miner": ["use_miner", "type_of_triplets"],
    "loss.margin": ["miner_margin"],
    "loss.temperature": ["tau", "temp"],
    "loss.gamma": ["scale"],
    "optim.learning_rate": ["lr"],
    "optim.weight_decay": ["decay", "wd"],
    "optim.schedule": ["scheduler", "lr_scheduler", "lr_scheduler_type"],
    "optim.warmup_steps": ["warmup", "warmup_ratio"],
    "optim.frozen_layers": ["freeze_layers", "freeze", "num_frozen_layers"],
    "optim.max_grad_norm": ["clip", "grad_clip", "clip_grad_norm", "gradient_clipping", "max_norm"],
    "checkpoint.save_steps": ["checkpoint_step", "checkpoint_steps", "save_every", "save_checkpoint_all"],
    "checkpoint.save_total_limit": ["keep", "max_checkpoints"],
    "evaluation.mentions": ["dev_file", "eval_file", "validation_file"],
    "evaluation.eval_steps": ["evaluation_steps", "eval_every"],
    "tuning.candidates": ["topk", "top_k"],
    "tuning.dense_fraction": ["dense_ratio"],
    "text.case": ["lowercase", "lower_case", "do_lower_case"],
    "scratch.vocabulary_size": ["vocab_size"],
    "scratch.layers": ["num_layers", "num_hidden_layers"],
    "scratch.hidden": ["hidden_size", "dimension"],
    "scratch.heads": ["num_heads", "num_attention_heads"],
    "base": ["model", "model_name", "model_name_or_path", "model_dir", "pretrained_model"],
    "terminology' or 'pairs": ["train_dir", "train_file", "data", "dataset"],
    "auxiliary": ["second"],
    "output": ["output_dir", "out", "save_dir"],
    "overwrite": ["overwrite_output_dir", "force"],
    "resume": ["resume_from_checkpoint"],
    "seed": ["random_seed"],
    "pooling": ["agg_mode", "pooling_mode"],
    "max_length": ["max_seq_length", "max_len"],
    "mixed_precision": ["precision", "fp16", "bf16", "amp", "dtype"],
    "epochs": ["epoch", "num_epochs", "num_train_epochs"],
    "max_steps": ["steps", "total_steps", "max_train_steps", "train_steps"],
    "max_minutes": ["minutes", "max_time", "time_limit"],
    "tracker": ["report_to", "wandb", "log_with"],
}


def load_settings(file: Path | str | None, overrides: Sequence[str] = ()) -> Settings:
    """Read the settings of a run.

    Args:
        file: A TOML file, or the name of a recipe, such as `small`; None for the defaults.
        overrides: `key=value` strings, which take precedence over the file, later ones over earlier ones.

    Raises:
        ConfigError: A setting is unknown, missing or not valid.
    """
    return read_settings(
        Settings, file, overrides, other_names=OTHER_NAMES, recipes=recipe_names(), problems_of=_problems
    )


def _problems(tree: Tree) -> list[tuple[str, str]]:
    problems = []
    if tree.get("base") == "scratch" and tree.get("base_fraction"):
        problems.append(("base_fraction needs a pretrained base, found scratch", "base_fraction=0"))
    given = [key for key in ("terminology", "pairs") if tree.get(key) is not None]
    if len(given) != 1:
        found, remedy = ("both", "pairs=null, or --set terminology=null") if given else ("none", "terminology=FOLDER")
        problems.append((f"exactly one of 'terminology' and 'pairs' must be set, found {found}", remedy))
    return problems


def describe_settings(width: int = 80) -> str:
    """All settings with type, default and meaning, section by section.

    Args:
        width: Columns of the text.
    """
    return describe_model(Settings, width)
