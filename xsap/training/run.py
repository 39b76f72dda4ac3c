"""Settings → the parts of a run, put together and set going: the one place where training meets its configuration."""

import math
import shutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator, InitProcessGroupKwargs
from torch import Tensor

from xsap.config import Loss, Settings
from xsap.encoding.encoder import Encoder
from xsap.encoding.model_folder import REFERENCE_LENGTH, EncoderConfig
from xsap.encoding.packing import Tokens, tokenize_to_disk
from xsap.encoding.vocabulary import from_scratch
from xsap.errors import ConfigError, DataError
from xsap.evaluation.protocols import evaluate_concept, read_queries
from xsap.languages import ENGLISH, to_iso
from xsap.linking.index import Index
from xsap.linking.linker import Linker
from xsap.terms.terminology import Terminology
from xsap.text import TextPolicy
from xsap.training.dataset import NameSet, distinct, fingerprint, from_pairs, from_terminology, with_auxiliary
from xsap.training.embedding_table import trim, whole
from xsap.training.losses import circle, info_nce, lifted_structure, multi_similarity, nca, triplet
from xsap.training.mining import HardNegatives, triplet_margin
from xsap.training.report import write_report
from xsap.training.run_folder import check_run_folder, make_run_folder
from xsap.training.sampling import (
    Concepts,
    FilePairs,
    GroupSampler,
    Mixed,
    PairSampler,
    Sampler,
    language_weights,
    parse_choice,
)
from xsap.training.trainer import Objective, Trainer, adamw, schedule

# what may differ between a run and its continuation; of the inputs their contents must be the same, not their places
_FREE = {
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
_NEAREST = 4  # times as many near concepts are known as each step draws from


def run(settings: Settings) -> Path:
    """A whole run → the folder of the trained model. Raises XsapError before anything is computed, wherever that can be known."""
    check_run_folder(settings.output, resume=settings.resume == "auto", overwrite=settings.overwrite)
    accelerator = _accelerator(settings)
    name_set = _name_set(settings)
    evaluate = _evaluation(settings, name_set)
    encoder = _encoder(settings, name_set)
    prepared = distinct(
        name_set, encoder.policy, settings.sampling.anchor_language and to_iso(settings.sampling.anchor_language)
    )
    sampler = _sampler(settings, prepared)
    if accelerator.is_main_process:
        make_run_folder(settings.output, settings.model_dump(mode="json"), resume=settings.resume == "auto")
    accelerator.wait_for_everyone()
    if settings.tracker:
        accelerator.init_trackers("xsap")
    tokens = _tokens(settings, accelerator, prepared, encoder)
    data = fingerprint(tokens, prepared)
    table = trim(encoder.transformer, tokens, encoder.tokenizer.all_special_ids)
    tokens = table.renumber(tokens)
    total = settings.epochs * sampler.steps_per_epoch if settings.max_steps is None else settings.max_steps
    identity = settings.model_dump(mode="json", exclude=_FREE)
    identity |= {"base": encoder.content_hash or "scratch", "data": data}
    identity |= {"steps": total, "processes": accelerator.num_processes}
    encoder.to(accelerator.device)
    optim = settings.optim
    rate = schedule(optim.schedule, warmup_steps=optim.warmup_steps, total_steps=total)

    def whole_after(done: int) -> AbstractContextManager[None]:
        return whole(
            encoder.transformer,
            table,
            math.prod(1 - optim.learning_rate * rate(step) * optim.weight_decay for step in range(done)),
        )

    def scores_after(done: int) -> dict[str, Any]:
        with whole_after(done):
            return evaluate(encoder) if evaluate else {}

    trainer = Trainer(
        accelerator=accelerator,
        encoder=encoder,
        optimizer=adamw(encoder, learning_rate=optim.learning_rate, weight_decay=optim.weight_decay),
        tokens=tokens,
        sampler=sampler,
        objective=_objective(settings.loss),
        rate=rate,
        hard_negatives=_hard_negatives(settings, sampler, encoder, tokens, prepared),
        evaluate=scores_after if evaluate else None,
        report=lambda: write_report(settings.output),
        output=settings.output,
        identity=identity,
        seed=settings.seed,
        learning_rate=optim.learning_rate,
        max_grad_norm=optim.max_grad_norm,
        chunk=settings.batch.chunk,
        token_dropout=settings.sampling.token_dropout,
        total_steps=total,
        max_minutes=settings.max_minutes,
        save_steps=settings.checkpoint.save_steps,
        save_total_limit=settings.checkpoint.save_total_limit,
        eval_steps=settings.evaluation.eval_steps,
    )
    steps = trainer.run(resume=settings.resume == "auto")
    if accelerator.is_main_process:
        content_hash = name_set.terminology.content_hash if name_set.terminology else None
        metadata = {"languages": sorted(set(prepared.languages)), "terminology": content_hash, "steps": steps}
        with whole_after(steps):
            encoder.save_pretrained(settings.output / "model", overwrite=True, metadata=metadata)
        write_report(settings.output)
    accelerator.end_training()
    if accelerator.is_main_process:
        shutil.rmtree(settings.output / "tokens", ignore_errors=True)
    return settings.output / "model"


def _accelerator(settings: Settings) -> Accelerator:
    try:
        patience = InitProcessGroupKwargs(timeout=timedelta(hours=12))  # of the others while one evaluates or saves
        accelerator = Accelerator(
            mixed_precision=settings.mixed_precision,
            log_with=settings.tracker,
            project_dir=str(settings.output),
            kwargs_handlers=[patience],
        )
    except (ValueError, ImportError, RuntimeError) as error:
        raise ConfigError(
            f"Accelerate can't run with mixed_precision = {settings.mixed_precision}, tracker = {settings.tracker}: {error}"
        ) from None
    if settings.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ConfigError("mixed_precision = fp16 needs a GPU, found a CPU; use bf16 or no")
    kind, accumulated = accelerator.distributed_type.value, accelerator.gradient_accumulation_steps
    if accumulated != 1 or not (
        kind == "NO" or kind.startswith("MULTI_")
    ):  # neither would fail: the result would be wrong
        raise ConfigError(
            f"Accelerate must run whole models on each process, a step at a time; found {kind} with {accumulated} accumulated steps; "
            "launch without FSDP, DeepSpeed and gradient accumulation, and set the batch's size here"
        )
    if settings.tracker and not accelerator.log_with:  # Accelerate itself would go on without a word
        raise ConfigError(
            f"the package of tracker = {settings.tracker} is not installed; install it, or leave tracker out"
        )
    return accelerator


def _name_set(settings: Settings) -> NameSet:
    languages = parse_choice(settings.sampling.languages)
    if settings.pairs is None:
        name_set = from_terminology(settings.terminology or Path(), languages)
        return with_auxiliary(name_set, from_terminology(settings.auxiliary, None)) if settings.auxiliary else name_set
    if settings.auxiliary:
        raise ConfigError("a file of pairs allows no second source; give a terminology instead")
    wanted = settings.sampling
    if (
        wanted.mode != "pairs"
        or wanted.anchor_language
        or languages
        or wanted.hard_negatives
        or wanted.language_temperature != 1
    ):
        raise ConfigError(
            "a file of pairs allows neither sampling.mode = groups, nor languages, an anchor, sampling.hard_negatives or "
            "sampling.language_temperature; give a terminology instead"
        )
    return from_pairs(settings.pairs)


def _encoder(settings: Settings, name_set: NameSet) -> Encoder:
    policy = TextPolicy(case=settings.text.case, unicode=settings.text.unicode) if settings.text else None
    if settings.base != "scratch":
        return Encoder.from_pretrained(
            settings.base, pooling=settings.pooling, max_length=settings.max_length, policy=policy, device="cpu"
        )
    description = EncoderConfig(
        settings.pooling or "cls", settings.max_length or REFERENCE_LENGTH, policy or TextPolicy()
    )
    size = settings.scratch.model_dump()
    return from_scratch(name_set.names, description, **size, seed=settings.seed)


def _tokens(settings: Settings, accelerator: Accelerator, name_set: NameSet, encoder: Encoder) -> Tokens:
    """Every process tokenizes alike, by way of its own file in the run's folder: no process waits for, or trusts, another's."""
    folder = settings.output / "tokens"
    folder.mkdir(parents=True, exist_ok=True)  # on another machine the run's folder may not be there
    file = folder / f"{accelerator.process_index}.arrow"
    return tokenize_to_disk(name_set.names, encoder.tokenizer, encoder.max_length, file)


def _sampler(settings: Settings, name_set: NameSet) -> Sampler:
    wanted, batch, seed = settings.sampling, settings.batch, settings.seed
    if name_set.is_pairs:
        return FilePairs(name_set.concepts, pairs=batch.pairs, shuffle=wanted.shuffle, seed=seed)
    if not wanted.shuffle:
        raise ConfigError(
            "sampling.shuffle = false keeps the order of a file of pairs; a terminology has no such order"
        )
    if name_set.auxiliary_start is None:
        return _of_concepts(settings, name_set, 1)
    first, second = name_set.split()
    if wanted.auxiliary_fraction * min(batch.pairs, batch.names) < 1:
        raise ConfigError(
            f"sampling.auxiliary_fraction = {wanted.auxiliary_fraction} of a step is not even a pair; make it larger"
        )
    samplers = (
        _of_concepts(settings, first, 1 - wanted.auxiliary_fraction),
        _of_concepts(settings, second, wanted.auxiliary_fraction, hard=0),
    )
    return Mixed(*samplers, rows=len(first.names), concepts=name_set.auxiliary_start)


def _of_concepts(
    settings: Settings, name_set: NameSet, share: float, *, hard: int | None = None
) -> PairSampler | GroupSampler:
    """What draws names of one source, so many that they are this share of a step."""
    wanted, batch, seed = settings.sampling, settings.batch, settings.seed
    hard = wanted.hard_negatives if hard is None else hard
    concepts = Concepts(
        name_set.concepts, name_set.languages, wanted.anchor_language and to_iso(wanted.anchor_language)
    )
    if wanted.mode == "groups":
        weights = language_weights(name_set.languages, wanted.language_temperature)
        size = {
            "names_per_concept": wanted.names_per_concept,
            "names": round(batch.names * share),
            "hard_concepts": hard,
        }
        return GroupSampler(concepts, **size, seed=seed, weights=weights)
    if wanted.hard_negatives or wanted.language_temperature != 1:
        raise ConfigError(
            "sampling.hard_negatives and sampling.language_temperature need sampling.mode = groups; found pairs"
        )
    return PairSampler(
        concepts, pairs_per_concept=wanted.pairs_per_concept, pairs=round(batch.pairs * share), seed=seed
    )


def _hard_negatives(
    settings: Settings, sampler: Sampler, encoder: Encoder, tokens: Tokens, name_set: NameSet
) -> HardNegatives | None:
    hard = settings.sampling.hard_negatives
    sampler = sampler.first if isinstance(sampler, Mixed) else sampler
    if not hard or not isinstance(sampler, GroupSampler):
        return None
    _, strings = np.unique(np.array(name_set.names, dtype=object), return_inverse=True)
    return HardNegatives(
        sampler,
        encoder,
        tokens,
        strings.astype(np.int64),
        _NEAREST * hard,
        settings.sampling.hard_negatives_refresh_steps,
    )


def _objective(loss: Loss) -> Objective:
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
    """Linking of the mentions into the dictionary's English names, by the encoder as it then is."""
    wanted = settings.evaluation
    if wanted.mentions is None:
        return None
    mentions = read_queries(wanted.mentions)
    dictionary = Terminology.load(wanted.dictionary) if wanted.dictionary else name_set.terminology
    if dictionary is None:
        raise ConfigError(
            "evaluation.mentions needs a dictionary when training is on a file of pairs; add --set evaluation.dictionary=FOLDER"
        )
    if ENGLISH not in dictionary.languages:
        raise DataError(
            f"the dictionary of an evaluation must have English names, found {', '.join(dictionary.languages)}"
        )

    def evaluate(encoder: Encoder) -> dict[str, Any]:
        index = Index.build(dictionary, encoder, languages={ENGLISH})
        scores: dict[str, Any] = evaluate_concept(Linker(encoder, index), mentions)
        mean = scores["mean"]["acc@1"]
        print(f"Acc@1 {mean:.3f}, mean of {len(scores['languages'])} languages", file=sys.stderr)
        return scores

    return evaluate
