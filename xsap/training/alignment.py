"""Self-alignment from the settings of a run: which names a step has, its hard negatives, and mining and loss."""

import logging
import math
from collections.abc import Callable
from functools import partial

import numpy as np
from torch import Tensor

from xsap.config import LossSettings, Settings
from xsap.encoding.encoder import Encoder
from xsap.encoding.packing import Tokens
from xsap.errors import ConfigError
from xsap.languages import to_iso
from xsap.training.dataset import NameSet
from xsap.training.losses import circle, info_nce, lifted_structure, multi_similarity, nca, triplet
from xsap.training.mining import HardNegatives, Objective, triplet_margin
from xsap.training.sampling import Concepts, FilePairs, GroupSampler, Mixed, PairSampler, Sampler, language_weights

_NEAREST_PER_HARD_NEGATIVE = 4  # a step draws its hard negatives from this many times as many nearest concepts
_STEP_COST = 3  # of training on a name, in terms of encoding one: a forward pass, and a backward pass of two
_LARGEST_SHARE = 0.2  # of the time, for searches for hard negatives, that is not warned of

logger = logging.getLogger(__name__)


def anchor_language(settings: Settings) -> str | None:
    """ISO code of the language of which each pair or group must have a name; None for any."""
    code = settings.sampling.anchor_language
    return to_iso(code) if code else None


def alignment_sampler(settings: Settings, name_set: NameSet) -> Sampler:
    """The names of each step; raises ConfigError for settings that do not fit together."""
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
    concepts = Concepts(name_set.concepts, name_set.languages, anchor_language(settings))
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


def regularizing_sampler(settings: Settings, name_set: NameSet) -> Sampler | None:
    """The sampler of synonyms to align while tuning: of the auxiliary terminology if there is one, else of the terminology itself."""
    if settings.tuning.as_biosyn or not settings.tuning.alignment_weight:
        return None
    source = name_set if name_set.auxiliary_start is None else name_set.split()[1]
    if np.bincount(source.concepts).max(initial=0) < 2:
        logger.warning(
            "no concept has two names, so synonyms can't be aligned while tuning, and concepts without mentions may become worse; "
            "a terminology with synonyms can be given: --set auxiliary=FOLDER"
        )
        return None
    return _concept_sampler(settings, source, 1, 0)


def hard_negatives_of(
    settings: Settings, sampler: Sampler, encoder: Encoder, tokens: Tokens, name_set: NameSet
) -> HardNegatives | None:
    """The search for hard negatives; None where the settings or the sampler have none."""
    hard = settings.sampling.hard_negatives
    sampler = sampler.main if isinstance(sampler, Mixed) else sampler
    if not hard or not isinstance(sampler, GroupSampler):
        return None
    refresh_steps = settings.sampling.hard_negatives_refresh_steps
    is_searched = settings.max_steps is None or settings.max_steps > refresh_steps
    warning = search_warning(len(sampler.concepts.numbers), refresh_steps, settings.batch.names)
    if is_searched and warning:
        logger.warning(warning)
    _, strings = np.unique(np.array(name_set.names, dtype=object), return_inverse=True)
    return HardNegatives(
        sampler,
        encoder,
        tokens,
        strings.astype(np.int64),
        kept=_NEAREST_PER_HARD_NEGATIVE * hard,
        refresh_steps=refresh_steps,
    )


def search_warning(concepts: int, refresh_steps: int, names: int) -> str | None:
    """A line if searches for hard negatives take much of the training time; None if they do not.

    A search encodes one name of each concept. What comparing the vectors adds is not counted: it depends on the device.

    Args:
        concepts: Number of concepts.
        refresh_steps: Steps between searches.
        names: Names per step.
    """
    share = concepts / (concepts + _STEP_COST * refresh_steps * names)
    if share <= _LARGEST_SHARE:
        return None
    steps = math.ceil(concepts * (1 / _LARGEST_SHARE - 1) / (_STEP_COST * names))
    return (
        f"each search for hard negatives encodes {concepts:,} names, at least {share:.0%} of the training time; "
        f"sampling.hard_negatives_refresh_steps={steps} makes it {_LARGEST_SHARE:.0%}"
    )


def objective_of(loss: LossSettings) -> Objective:
    """Mining and loss."""
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
