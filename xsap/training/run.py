"""A training run: the parts of training, put together from the settings. No other module of training reads the settings."""

import logging
import math
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from torch import Tensor

from xsap.artifacts import manifest_hash, read_manifest, sha256_of
from xsap.config import LossSettings, Settings
from xsap.encoding.encoder import Encoder
from xsap.encoding.model_card import TRAINED_ON, VOCABULARY_FROM, CardEvaluation
from xsap.encoding.model_folder import REFERENCE_LENGTH, EncoderConfig
from xsap.encoding.packing import Tokens, tokenize_to_disk
from xsap.encoding.precision import bfloat16_is_slow
from xsap.encoding.vocabulary import from_scratch
from xsap.errors import ConfigError, DataError
from xsap.evaluation.protocols import evaluate, read_queries
from xsap.languages import ENGLISH, to_iso
from xsap.linking.index import Index
from xsap.linking.linker import Linker
from xsap.terms.terminology import Terminology
from xsap.text import TextPolicy
from xsap.training.dataset import NameSet, distinct, fingerprint, from_pairs, from_terminology, with_auxiliary
from xsap.training.embedding_table import trim, whole_table
from xsap.training.frozen_layers import freeze
from xsap.training.losses import circle, info_nce, lifted_structure, multi_similarity, nca, triplet
from xsap.training.mining import HardNegatives, triplet_margin
from xsap.training.report import card_scores, read_log, write_report
from xsap.training.run_folder import check_run_folder, make_run_folder
from xsap.training.sampling import (
    Concepts,
    FilePairs,
    GroupSampler,
    Mixed,
    PairSampler,
    Sampler,
    language_weights,
    parse_language_choice,
)
from xsap.training.trainer import Objective, Trainer, adamw, schedule

# settings that may differ when a run is resumed; inputs must have the same content, not the same path
_NOT_IN_IDENTITY = {
    "output",
    "overwrite",
    "resume",
    "max_minutes",
    "tracker",
    "checkpoint",
    "evaluation",
    "base",
    "terminology",
    "auxiliary",
    "pairs",
}
SECONDS_BETWEEN_REPORTS = 60
_NEAREST_PER_HARD_NEGATIVE = 4  # a step draws its hard negatives from this many times as many nearest concepts

logger = logging.getLogger(__name__)


def train(settings: Settings, *, progress_bar: bool = False) -> Path:
    """Train an encoder.

    Args:
        settings: All settings of the run.
        progress_bar: Whether progress bars are drawn; otherwise a line is logged once a minute.

    Returns:
        The folder of the trained model.

    Raises:
        XsapError: A setting or an input is not usable; raised before anything is computed, wherever that can be known.
    """
    resume, settings = settings.resume == "auto", _with_mixed_precision(settings)
    check_run_folder(settings.output, resume=resume, overwrite=settings.overwrite)
    accelerator = _accelerator(settings)
    name_set = _name_set(settings)
    evaluate = _evaluation(settings, name_set)
    encoder = _encoder(settings, name_set)
    prepared = distinct(name_set, encoder.policy, _anchor_language(settings))
    sampler = _sampler(settings, prepared)
    _prepare_output(settings, accelerator)
    tokens = _tokenize(settings, accelerator, prepared, encoder, progress_bar=progress_bar)
    total = settings.epochs * sampler.steps_per_epoch if settings.max_steps is None else settings.max_steps
    data = fingerprint(tokens, prepared)
    table = trim(encoder.transformer, tokens, encoder.tokenizer.all_special_ids)
    tokens = table.renumber(tokens)
    encoder.to(accelerator.device)
    optim = settings.optim
    decay = optim.weight_decay if optim.frozen_layers is None else 0.0  # of embeddings that are not in training
    rate = schedule(optim.schedule, warmup_steps=optim.warmup_steps, total_steps=total)

    def whole_table_after(steps: int) -> AbstractContextManager[None]:
        factors = (1 - optim.learning_rate * rate(step) * decay for step in range(steps))
        return whole_table(encoder.transformer, table, math.prod(factors))

    def scores_after(steps: int) -> dict[str, Any]:
        with whole_table_after(steps):
            return evaluate(encoder) if evaluate else {}

    trainer = _trainer(
        settings,
        accelerator=accelerator,
        encoder=encoder,
        tokens=tokens,
        sampler=sampler,
        rate=rate,
        hard_negatives=_hard_negatives(settings, sampler, encoder, tokens, prepared),
        evaluate=scores_after if evaluate else None,
        identity=_identity(
            settings, base=encoder.content_hash, data=data, steps=total, processes=accelerator.num_processes
        ),
        total_steps=total,
        progress_bar=progress_bar,
    )
    steps = trainer.run(resume=resume)
    if accelerator.is_main_process:
        metadata, evaluation = _metadata(settings, prepared, steps), _card_evaluation(settings, name_set)
        with whole_table_after(steps):
            encoder.save_pretrained(settings.output / "model", overwrite=True, metadata=metadata, evaluation=evaluation)
        write_report(settings.output)
    accelerator.end_training()
    if accelerator.is_main_process:
        shutil.rmtree(settings.output / "tokens", ignore_errors=True)
    return settings.output / "model"


def _prepare_output(settings: Settings, accelerator: Accelerator) -> None:
    """Make the run's folder, and start the tracker."""
    if accelerator.is_main_process:
        make_run_folder(settings.output, settings.model_dump(mode="json"), resume=settings.resume == "auto")
    accelerator.wait_for_everyone()
    if settings.tracker:
        accelerator.init_trackers("xsap")


def _metadata(settings: Settings, name_set: NameSet, steps: int) -> dict[str, Any]:
    """What `xsap.json` and the model card state of the run; no path, as a model may be shared."""
    sampling, batch, loss, optim = settings.sampling, settings.batch, settings.loss, settings.optim
    metadata: dict[str, Any] = {
        "languages": sorted(set(name_set.languages)),
        "terminology": name_set.terminology.content_hash if name_set.terminology else None,
        "steps": steps,
        TRAINED_ON: dict(name_set.sources),
        "training": {
            "steps": steps,
            "sampling": sampling.mode,
            "batch": f"{batch.names:,} names" if sampling.mode == "groups" else f"{batch.pairs:,} pairs",
            "loss": loss.name,
            "miner": loss.miner,
            "hard_negatives": sampling.hard_negatives or None,
            "learning_rate": optim.learning_rate,
            "schedule": optim.schedule,
            "mixed_precision": settings.mixed_precision,
            "seed": settings.seed,
        },
    }
    return metadata | ({VOCABULARY_FROM: dict(name_set.sources)} if settings.base == "scratch" else {})


def _card_evaluation(settings: Settings, name_set: NameSet) -> CardEvaluation | None:
    """The last evaluation of the run, for the model card."""
    scores, path = card_scores(read_log(settings.output / "metrics.jsonl")), settings.evaluation.dictionary
    if settings.evaluation.mentions is None or not scores:
        return None
    used = name_set.terminology.content_hash if name_set.terminology else None
    dictionary = manifest_hash(read_manifest(path, "terminology")) if path else used
    return CardEvaluation(scores, str(dictionary), sha256_of(settings.evaluation.mentions))


def _identity(settings: Settings, *, base: str | None, **inputs: str | int) -> dict[str, Any]:
    """What a resumed run must have in common with this one."""
    return settings.model_dump(mode="json", exclude=_NOT_IN_IDENTITY) | {"base": base or "scratch"} | inputs


def _trainer(settings: Settings, *, encoder: Encoder, **parts: Any) -> Trainer:
    """The trainer of these parts, with what it takes from the settings."""
    optim = settings.optim
    return Trainer(
        encoder=encoder,
        optimizer=adamw(encoder, learning_rate=optim.learning_rate, weight_decay=optim.weight_decay),
        objective=_objective(settings.loss),
        report=_report_once_per_minute(settings.output),
        output=settings.output,
        seed=settings.seed,
        learning_rate=optim.learning_rate,
        max_grad_norm=optim.max_grad_norm,
        chunk=settings.batch.chunk,
        token_dropout=settings.sampling.token_dropout,
        max_minutes=settings.max_minutes,
        save_steps=settings.checkpoint.save_steps,
        save_total_limit=settings.checkpoint.save_total_limit,
        eval_steps=settings.evaluation.eval_steps,
        **parts,
    )


def _with_mixed_precision(settings: Settings) -> Settings:
    """The settings with what `mixed_precision = auto` stands for here."""
    if settings.mixed_precision != "auto":
        return settings
    slow = not torch.cuda.is_bf16_supported() if torch.cuda.is_available() else bfloat16_is_slow()
    return settings.model_copy(update={"mixed_precision": "no" if slow else "bf16"})


def _accelerator(settings: Settings) -> Accelerator:
    try:
        timeout = InitProcessGroupKwargs(
            timeout=timedelta(hours=12)
        )  # other processes wait while one evaluates or saves
        accelerator = Accelerator(
            mixed_precision=settings.mixed_precision,
            log_with=settings.tracker,
            project_dir=str(settings.output),
            kwargs_handlers=[timeout],
        )
    except (ValueError, ImportError, RuntimeError) as error:
        raise ConfigError(
            f"Accelerate does not support mixed_precision = {settings.mixed_precision}, tracker = {settings.tracker} here: {error}"
        ) from None
    if settings.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ConfigError("mixed_precision = fp16 needs a GPU, found a CPU; use bf16 or no")
    if settings.mixed_precision == "bf16" and accelerator.device.type == "cpu" and bfloat16_is_slow():
        logger.warning("this CPU emulates bfloat16, which is slower than float32; set mixed_precision=no")
    kind, accumulated = accelerator.distributed_type.value, accelerator.gradient_accumulation_steps
    if accumulated != 1 or not (kind == "NO" or kind.startswith("MULTI_")):  # would run, with wrong results
        raise ConfigError(
            f"Accelerate must run whole models on each process, without gradient accumulation; found {kind} with {accumulated} "
            "accumulated steps; launch without FSDP and DeepSpeed, and use batch.chunk for batches that don't fit into memory"
        )
    if settings.tracker and not accelerator.log_with:  # Accelerate itself would ignore it
        raise ConfigError(
            f"the package of tracker = {settings.tracker} is not installed; install it, or leave tracker out"
        )
    return accelerator


def _name_set(settings: Settings) -> NameSet:
    languages = parse_language_choice(settings.sampling.languages)
    if settings.pairs is None:
        name_set = from_terminology(settings.terminology or Path(), languages)
        return with_auxiliary(name_set, from_terminology(settings.auxiliary, None)) if settings.auxiliary else name_set
    if settings.auxiliary:
        raise ConfigError("a file of pairs allows no auxiliary source; use a terminology instead")
    sampling = settings.sampling
    if (
        sampling.mode != "pairs"
        or sampling.anchor_language
        or languages
        or sampling.hard_negatives
        or sampling.language_temperature != 1
    ):
        raise ConfigError(
            "a file of pairs allows neither sampling.mode = groups nor sampling.languages, sampling.anchor_language, "
            "sampling.hard_negatives and sampling.language_temperature; use a terminology instead"
        )
    return from_pairs(settings.pairs)


def _encoder(settings: Settings, name_set: NameSet) -> Encoder:
    policy = TextPolicy(case=settings.text.case, unicode=settings.text.unicode) if settings.text else None
    if settings.base != "scratch":
        encoder = Encoder.from_pretrained(
            settings.base,
            pooling=settings.pooling,
            max_length=settings.max_length,
            policy=policy,
            prompt=settings.prompt,
            revision=settings.revision,
            override=True,  # another model is made, which may differ from its base
            device="cpu",
        )
    else:
        length = settings.max_length or REFERENCE_LENGTH
        config = EncoderConfig(settings.pooling or "cls", length, policy or TextPolicy())
        encoder = from_scratch(name_set.names, config, **settings.scratch.model_dump(), seed=settings.seed)
    if settings.optim.frozen_layers is not None:
        freeze(encoder, settings.optim.frozen_layers)
    return encoder


def _anchor_language(settings: Settings) -> str | None:
    code = settings.sampling.anchor_language
    return to_iso(code) if code else None


def _tokenize(
    settings: Settings, accelerator: Accelerator, name_set: NameSet, encoder: Encoder, *, progress_bar: bool
) -> Tokens:
    """Every process tokenizes all names with its own file in the run's folder, so that none waits for another."""
    folder = settings.output / "tokens"
    folder.mkdir(parents=True, exist_ok=True)  # on another machine the folder may not exist
    file = folder / f"{accelerator.process_index}.arrow"
    names = [encoder.prompts[0] + name for name in name_set.names]
    return tokenize_to_disk(
        names,
        encoder.tokenizer,
        encoder.max_length,
        file,
        progress_bar=progress_bar and accelerator.is_main_process,
    )


def _sampler(settings: Settings, name_set: NameSet) -> Sampler:
    sampling, batch = settings.sampling, settings.batch
    if name_set.is_pairs:
        return FilePairs(name_set.concepts, pairs=batch.pairs, shuffle=sampling.shuffle, seed=settings.seed)
    if not sampling.shuffle:
        raise ConfigError(
            "sampling.shuffle = false keeps the order of a file of pairs; a terminology has no such order"
        )
    if name_set.auxiliary_start is None:
        return _concept_sampler(settings, name_set, 1, sampling.hard_negatives)
    main, auxiliary = name_set.split()
    fraction = sampling.auxiliary_fraction
    if fraction * min(batch.pairs, batch.names) < 1:
        raise ConfigError(
            f"sampling.auxiliary_fraction must give at least one pair per step, found {fraction}; increase it"
        )
    return Mixed(
        _concept_sampler(settings, main, 1 - fraction, sampling.hard_negatives),
        _concept_sampler(settings, auxiliary, fraction, 0),
        rows=len(main.names),
        concepts=name_set.auxiliary_start,
    )


def _concept_sampler(
    settings: Settings, name_set: NameSet, fraction: float, hard_negatives: int
) -> PairSampler | GroupSampler:
    """The sampler of one source, which makes up this fraction of a step."""
    sampling, batch = settings.sampling, settings.batch
    concepts = Concepts(name_set.concepts, name_set.languages, _anchor_language(settings))
    if sampling.mode == "groups":
        return GroupSampler(
            concepts,
            names_per_concept=sampling.names_per_concept,
            names=round(batch.names * fraction),
            seed=settings.seed,
            hard_negatives=hard_negatives,
            weights=language_weights(name_set.languages, sampling.language_temperature),
        )
    if sampling.hard_negatives or sampling.language_temperature != 1:
        raise ConfigError(
            "sampling.hard_negatives and sampling.language_temperature need sampling.mode = groups; found pairs"
        )
    pairs = round(batch.pairs * fraction)
    return PairSampler(concepts, pairs_per_concept=sampling.pairs_per_concept, pairs=pairs, seed=settings.seed)


def _report_once_per_minute(output: Path) -> Callable[[], None]:
    """Writes the report of the run so far, unless that was done within the last minute: drawing charts takes a second or two."""
    written = time.monotonic()

    def report() -> None:
        nonlocal written
        if time.monotonic() - written > SECONDS_BETWEEN_REPORTS:
            write_report(output)
            written = time.monotonic()

    return report


def _hard_negatives(
    settings: Settings, sampler: Sampler, encoder: Encoder, tokens: Tokens, name_set: NameSet
) -> HardNegatives | None:
    hard = settings.sampling.hard_negatives
    sampler = sampler.main if isinstance(sampler, Mixed) else sampler
    if not hard or not isinstance(sampler, GroupSampler):
        return None
    _, strings = np.unique(np.array(name_set.names, dtype=object), return_inverse=True)
    return HardNegatives(
        sampler,
        encoder,
        tokens,
        strings.astype(np.int64),
        kept=_NEAREST_PER_HARD_NEGATIVE * hard,
        refresh_steps=settings.sampling.hard_negatives_refresh_steps,
    )


def _objective(loss: LossSettings) -> Objective:
    losses: dict[str, Callable[..., Tensor]] = {
        "multi_similarity": partial(multi_similarity, alpha=loss.alpha, beta=loss.beta, base=loss.base),
        "info_nce": partial(info_nce, temperature=loss.temperature),
        "circle": partial(circle, m=loss.m, gamma=loss.gamma),
        "triplet": partial(triplet, margin=loss.triplet_margin),
        "lifted_structure": partial(lifted_structure, neg_margin=loss.neg_margin, pos_margin=loss.pos_margin),
        "nca": partial(nca, softmax_scale=loss.softmax_scale),
    }
    chosen = losses[loss.name]
    if loss.miner == "none":
        return chosen
    return lambda similarity, positives, negatives: chosen(
        similarity, *triplet_margin(similarity, positives, negatives, margin=loss.margin)
    )


def _evaluation(settings: Settings, name_set: NameSet) -> Callable[[Encoder], dict[str, Any]] | None:
    """A function that links the mentions to the dictionary's English names with an encoder; None without mentions."""
    if settings.evaluation.mentions is None:
        return None
    mentions, path = read_queries(settings.evaluation.mentions), settings.evaluation.dictionary
    dictionary = Terminology.load(path) if path else name_set.terminology
    if dictionary is None:
        raise ConfigError(
            "evaluation.mentions needs a dictionary when training on a file of pairs; add --set evaluation.dictionary=FOLDER"
        )
    if ENGLISH not in dictionary.languages:
        raise DataError(f"evaluation needs a dictionary with English names, found {', '.join(dictionary.languages)}")

    def evaluate_encoder(encoder: Encoder) -> dict[str, Any]:
        index = Index.build(dictionary, encoder, languages={ENGLISH})
        scores = evaluate(Linker(encoder, index), mentions).to_dict()
        mean = scores["mean"]["acc@1"]
        logger.info("Acc@1 %.3f, mean of %d languages", mean, len(scores["languages"]))
        return scores

    return evaluate_encoder
