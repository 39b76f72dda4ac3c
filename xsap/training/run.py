"""A training run: the parts of training, put together from the settings. Beside `alignment`, no other module of training reads them."""

import logging
import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn

from xsap.artifacts import manifest_hash, read_manifest, sha256_of
from xsap.config import Settings
from xsap.encoding.encoder import Encoder
from xsap.encoding.model_card import FUSION_WEIGHT, MENTIONS_SOURCE, TRAINED_ON, TUNED, VOCABULARY_FROM, CardEvaluation
from xsap.encoding.model_folder import REFERENCE_LENGTH, EncoderConfig
from xsap.encoding.packing import Tokens, tokenize_to_disk
from xsap.encoding.vocabulary import from_scratch
from xsap.errors import ConfigError, DataError
from xsap.evaluation.protocols import evaluate, read_queries
from xsap.exchange.decided_mentions import read_gold
from xsap.languages import ENGLISH
from xsap.linking.index import Index
from xsap.linking.linker import Linker
from xsap.terms.terminology import Terminology
from xsap.text import TextPolicy
from xsap.training.alignment import (
    alignment_sampler,
    anchor_language,
    hard_negatives_of,
    objective_of,
    regularizing_sampler,
)
from xsap.training.base_weights import copy_weights, interpolated
from xsap.training.dataset import NameSet, distinct, fingerprint, from_pairs, from_terminology, with_auxiliary
from xsap.training.embedding_table import trim, whole_table
from xsap.training.frozen_layers import freeze
from xsap.training.mention_set import CandidateNames, MentionSet, mentions_to_learn
from xsap.training.mining import PairLoss
from xsap.training.processes import choose_mixed_precision, start_accelerator
from xsap.training.report import card_scores, read_log, write_report
from xsap.training.run_folder import check_run_folder, make_run_folder
from xsap.training.sampling import Sampler, parse_language_choice
from xsap.training.supervised import SparseWeight, tuning_optimizer, tuning_task
from xsap.training.trainer import LearningTask, Trainer, adamw, schedule

# settings that may differ when a run is resumed; inputs must have the same content, not the same path
_NOT_IN_IDENTITY = dict.fromkeys(
    (
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
    ),
    True,
)
SECONDS_BETWEEN_REPORTS = 60

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
    resume = settings.resume == "auto"
    if settings.mixed_precision == "auto":
        settings = settings.model_copy(update={"mixed_precision": choose_mixed_precision()})
    check_run_folder(settings.output, resume=resume, overwrite=settings.overwrite)
    accelerator = start_accelerator(settings.mixed_precision, settings.tracker, settings.output)
    name_set = _name_set(settings)
    evaluate = _evaluation(settings, name_set)
    encoder = _encoder(settings, name_set)
    prepared = distinct(name_set, encoder.policy, anchor_language(settings))
    mentions = _mentions(settings, prepared, encoder.policy) if settings.tuning.mentions else None
    sampler = regularizing_sampler(settings, prepared) if mentions else alignment_sampler(settings, prepared)
    _prepare_output(settings, accelerator)
    tokens = _tokenize(settings, accelerator, prepared, mentions, encoder, progress_bar=progress_bar)
    data = fingerprint(tokens, prepared) + (mentions.fingerprint if mentions else "")
    start = copy_weights(encoder) if settings.base_fraction else {}
    # Adam with decay in the gradient moves rows that are not in use, too
    kept = range(len(encoder.tokenizer)) if settings.tuning.as_biosyn else encoder.tokenizer.all_special_ids
    table = trim(encoder.transformer, tokens, kept)
    tokens = table.renumber(tokens)
    encoder.to(accelerator.device)
    task = _task(settings, prepared, mentions, encoder, tokens, sampler)
    total = settings.epochs * task.sampler.steps_per_epoch if settings.max_steps is None else settings.max_steps
    optim, processes = settings.optim, accelerator.num_processes
    decay = optim.weight_decay if optim.frozen_layers is None else 0.0  # of embeddings that are not in training
    rate = schedule(optim.schedule, warmup_steps=optim.warmup_steps, total_steps=total)

    @contextmanager
    def saved_weights(steps: int) -> Iterator[None]:  # of the model as it is evaluated and saved
        factor = math.prod(1 - optim.learning_rate * rate(step) * decay for step in range(steps))
        with whole_table(encoder.transformer, table, factor), interpolated(encoder, start, settings.base_fraction):
            yield

    def scores_after(steps: int) -> dict[str, Any]:
        with saved_weights(steps):
            return evaluate(encoder) if evaluate else {}

    trainer = _trainer(
        settings,
        accelerator=accelerator,
        encoder=encoder,
        tokens=tokens,
        task=task,
        rate=rate,
        evaluate=scores_after if evaluate else None,
        identity=_identity(settings, base=encoder.content_hash, data=data, steps=total, processes=processes),
        total_steps=total,
        progress_bar=progress_bar,
    )
    steps = trainer.run(resume=resume)
    if accelerator.is_main_process:
        metadata = _metadata(settings, prepared, steps, mentions, task.head)
        evaluation = _card_evaluation(settings, name_set)
        with saved_weights(steps):
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


def _metadata(
    settings: Settings, name_set: NameSet, steps: int, mentions: MentionSet | None, head: nn.Module | None
) -> dict[str, Any]:
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
            "base_fraction": settings.base_fraction or None,
            "seed": settings.seed,
        },
    }
    if settings.base == "scratch":
        metadata[VOCABULARY_FROM] = dict(name_set.sources)
    if mentions is None or not isinstance(head, SparseWeight):
        return metadata
    return _tuned(metadata, mentions, head, as_biosyn=settings.tuning.as_biosyn)


def _tuned(metadata: dict[str, Any], mentions: MentionSet, head: SparseWeight, *, as_biosyn: bool) -> dict[str, Any]:
    """The metadata of a model that was tuned on mentions."""
    names = Counter(metadata[TRAINED_ON]) + Counter({MENTIONS_SOURCE: mentions.counts.kept})
    training = metadata["training"] | {
        "mentions": f"{mentions.counts.kept:,} of {mentions.counts.rows_in:,}",
        "weight of string similarity": round(float(head.weight.detach()), 4),
    }
    weight = {} if as_biosyn else {FUSION_WEIGHT: head.fusion_weight}  # BioSyn's goes with dot products, not cosines
    return metadata | {TRAINED_ON: dict(names), "training": training} | weight


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
    if settings.tuning.mentions is None:
        excluded: dict[str, Any] = _NOT_IN_IDENTITY | {"tuning": True}
    else:
        excluded = _NOT_IN_IDENTITY | {"tuning": {"mentions"}}
    return settings.model_dump(mode="json", exclude=excluded) | {"base": base or "scratch"} | inputs


def _trainer(settings: Settings, *, encoder: Encoder, task: LearningTask, **parts: Any) -> Trainer:
    """The trainer of these parts, with what it takes from the settings."""
    optim = settings.optim
    rates = {"learning_rate": optim.learning_rate, "weight_decay": optim.weight_decay}
    if isinstance(task.head, SparseWeight):
        sparse = {"sparse_learning_rate": settings.tuning.sparse_learning_rate}
        optimizer = tuning_optimizer(encoder, task.head, as_biosyn=settings.tuning.as_biosyn, **rates, **sparse)
    else:
        optimizer = adamw(encoder, **rates)
    return Trainer(
        encoder=encoder,
        optimizer=optimizer,
        **task._asdict(),
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
    for key in (FUSION_WEIGHT, TUNED):  # of a base that was tuned; they hold for its vectors alone
        encoder.provenance.pop(key, None)
    if settings.optim.frozen_layers is not None:
        freeze(encoder, settings.optim.frozen_layers)
    return encoder


def _mentions(settings: Settings, name_set: NameSet, policy: TextPolicy) -> MentionSet:
    """The mentions to tune on."""
    if name_set.terminology is None:
        raise ConfigError("tuning.mentions needs a terminology, found a file of pairs")
    assert settings.tuning.mentions is not None, "no tuning"
    known = frozenset(name_set.terminology.concepts["concept_id"].to_pylist())
    table = read_gold(settings.tuning.mentions)
    found = mentions_to_learn(table, known, policy, composite=not settings.tuning.as_biosyn)
    for line in found.counts.lines("mentions"):
        logger.info(line)
    return found


def _task(
    settings: Settings,
    name_set: NameSet,
    mentions: MentionSet | None,
    encoder: Encoder,
    tokens: Tokens,
    sampler: Sampler | None,
) -> LearningTask:
    """What the run learns; sampler: of names to align, which only tuning can do without."""
    if mentions:
        return _tuning(settings, name_set, mentions, encoder, tokens, sampler)
    assert sampler is not None, "nothing to learn"
    hard_negatives = hard_negatives_of(settings, sampler, encoder, tokens, name_set)
    loss = PairLoss(objective_of(settings.loss), hard_negatives.strings if hard_negatives else None)
    return LearningTask(sampler, loss, hard_negatives)


def _tuning(
    settings: Settings,
    name_set: NameSet,
    mentions: MentionSet,
    encoder: Encoder,
    tokens: Tokens,
    alignment: Sampler | None,
) -> LearningTask:
    tuning, start = settings.tuning, name_set.auxiliary_start
    main = name_set if start is None else name_set.split()[0]
    assert name_set.terminology is not None
    ids = name_set.terminology.concepts["concept_id"].to_pylist()
    return tuning_task(
        encoder,
        tokens,
        CandidateNames.from_names(main.names, [ids[number] for number in main.concepts]),
        main.names,
        mentions,
        first_mention=len(name_set.names),
        per_step=tuning.mentions_per_step,
        candidates=tuning.candidates,
        dense_fraction=tuning.dense_fraction,
        temperature=settings.loss.temperature,
        sparse_weight=tuning.sparse_weight,
        alignment=alignment,
        alignment_start=0 if start is None else len(main.names),
        alignment_loss=PairLoss(objective_of(settings.loss)),
        alignment_weight=tuning.alignment_weight,
        as_biosyn=tuning.as_biosyn,
        shuffle=settings.sampling.shuffle,
        seed=settings.seed,
    )


def _tokenize(
    settings: Settings,
    accelerator: Accelerator,
    name_set: NameSet,
    mentions: MentionSet | None,
    encoder: Encoder,
    *,
    progress_bar: bool,
) -> Tokens:
    """All names, then the mentions. Every process tokenizes all with its own file in the run's folder, so that none waits for another."""
    folder = settings.output / "tokens"
    folder.mkdir(parents=True, exist_ok=True)  # on another machine the folder may not exist
    file = folder / f"{accelerator.process_index}.arrow"
    texts = [encoder.prompts[0] + name for name in name_set.names]
    texts += [encoder.prompts[1] + text for text in mentions.texts] if mentions else []
    return tokenize_to_disk(
        texts,
        encoder.tokenizer,
        encoder.max_length,
        file,
        progress_bar=progress_bar and accelerator.is_main_process,
    )


def _report_once_per_minute(output: Path) -> Callable[[], None]:
    """Writes the report of the run so far, unless that was done within the last minute: drawing charts takes a second or two."""
    written = time.monotonic()

    def report() -> None:
        nonlocal written
        if time.monotonic() - written > SECONDS_BETWEEN_REPORTS:
            write_report(output)
            written = time.monotonic()

    return report


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
