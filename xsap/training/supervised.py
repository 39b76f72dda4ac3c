"""Supervised tuning: mentions are drawn to names of their concepts, by marginal likelihood over the candidates of each mention.

The score of a name is its cosine plus a learned weight times its string similarity (Sung et al., ACL 2020). A step has some mentions, their
candidates, each string once, and, as a regularizer, names of the terminology that are aligned with their synonyms as in self-alignment, so that
concepts of which nobody annotated a mention do not decay.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from xsap.encoding.encoder import Encoder
from xsap.encoding.packing import Tokens
from xsap.training.candidates import CandidateSearch
from xsap.training.losses import biosyn_marginal_likelihood, marginal_likelihood
from xsap.training.mention_set import CandidateNames, MentionSet
from xsap.training.ngrams import NgramNames, set_of_grams, tf_idf
from xsap.training.sampling import CandidatesOfStep, Names, Sampler, Stream, mix, permute
from xsap.training.trainer import BatchLoss, LearningTask

NO_ALIGNMENT = -1  # in place of a concept, of names that are not aligned


class SparseWeight(nn.Module):
    """The weight of string similarity in a score.

    Args:
        start: Its first value.
    """

    def __init__(self, start: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([start]))

    @property
    def fusion_weight(self) -> float:
        """The weight w with which an index ranks alike: (1 - w) · cosine + w · similarity; 0 for a negative weight."""
        weight = max(0.0, float(self.weight.detach()))
        return weight / (1 + weight)


@dataclass
class MentionSampler:
    """The mentions of each step in random order, with their candidates, and names to align.

    Attributes:
        search: Has the candidates.
        mentions: Mentions per step.
        seed: Of the order.
        shuffle: Whether the order is random; else that of the mentions.
        alignment: Sampler of the names to align; None without any. Its epochs are counted from the steps taken.
        alignment_start: The row of its first name.
        steps_per_epoch: Steps in which each mention comes once.
    """

    search: CandidateSearch
    mentions: int
    seed: int
    shuffle: bool = True
    alignment: Sampler | None = None
    alignment_start: int = 0
    steps_per_epoch: int = field(init=False)

    def __post_init__(self) -> None:
        self.steps_per_epoch = -(-len(self.search.mentions.texts) // self.mentions)

    def batch(self, epoch: int, step: int) -> Names:
        """The names of a step: mentions, candidates, then names to align. The last step of an epoch may have fewer mentions."""
        total = len(self.search.mentions.texts)
        at = np.arange(step * self.mentions, min((step + 1) * self.mentions, total))
        if self.shuffle:
            at = permute(at, total, mix(self.seed, epoch, Stream.MENTION_ORDER))
        different, place = np.unique(self.search.found[at], return_inverse=True)
        rows = np.concatenate([self.search.first_mention + at, self.search.names.rows[different]])
        candidates = CandidatesOfStep(
            len(at) + place.reshape(len(at), -1), self.search.right[at], self.search.similarity[at], len(rows)
        )
        concepts = np.full(len(rows), NO_ALIGNMENT)
        if self.alignment is not None:
            number = epoch * self.steps_per_epoch + step
            aligned = self.alignment.batch(*divmod(number, self.alignment.steps_per_epoch))
            rows = np.concatenate([rows, aligned.rows + self.alignment_start])
            concepts = np.concatenate([concepts, aligned.concepts])
        return Names(rows, concepts, candidates)


@dataclass(frozen=True)
class MentionLoss:
    """The loss of a step's mentions, and of the names that are aligned.

    Attributes:
        sparse_weight: The weight of string similarity.
        temperature: Divides scores.
        alignment: Loss of the aligned names; None without any.
        alignment_weight: Its weight.
        as_biosyn: Whether likelihoods are bounded as in the original code.
    """

    sparse_weight: SparseWeight
    temperature: float
    alignment: BatchLoss | None = None
    alignment_weight: float = 0.0
    as_biosyn: bool = False

    def __call__(self, vectors: Tensor, names: Names) -> Tensor:
        """The loss.

        Args:
            vectors: (n, d) of the step's names.
            names: What they are of, in the same order.
        """
        step = names.candidates
        assert step is not None, "a step without mentions"
        device, count = vectors.device, len(step.names)
        similarity, right = (torch.from_numpy(array).to(device) for array in (step.similarity, step.right))
        dense = torch.einsum("bd,bkd->bk", vectors[:count], vectors[torch.from_numpy(step.names).to(device)])
        scores = (self.sparse_weight.weight * similarity + dense) / self.temperature
        loss = (biosyn_marginal_likelihood if self.as_biosyn else marginal_likelihood)(scores, right)
        if self.alignment is None:
            return loss
        aligned = Names(names.rows[step.aligned :], names.concepts[step.aligned :])
        return loss + self.alignment_weight * self.alignment(vectors[step.aligned :], aligned)


def tuning_optimizer(
    encoder: Encoder,
    head: SparseWeight,
    *,
    learning_rate: float,
    weight_decay: float,
    sparse_learning_rate: float,
    as_biosyn: bool,
) -> torch.optim.Optimizer:
    """AdamW, or for BioSyn Adam with decay in the gradient, for the encoder's trained weights; the sparse weight does not decay.

    Args:
        encoder: The model in training.
        head: The sparse weight.
        learning_rate: Of the encoder.
        weight_decay: Of the encoder.
        sparse_learning_rate: Of the sparse weight.
        as_biosyn: Whether to use Adam.
    """
    groups = [
        {"params": [parameter for parameter in encoder.parameters() if parameter.requires_grad]},
        {"params": list(head.parameters()), "lr": sparse_learning_rate, "weight_decay": 0.0},
    ]
    kind: Callable[..., torch.optim.Optimizer] = torch.optim.Adam if as_biosyn else torch.optim.AdamW
    return kind(groups, lr=learning_rate, weight_decay=weight_decay, fused=True)


def tuning_task(
    encoder: Encoder,
    tokens: Tokens,
    names: CandidateNames,
    strings: Sequence[str],
    mentions: MentionSet,
    *,
    first_mention: int,
    per_step: int,
    candidates: int,
    dense_fraction: float,
    temperature: float,
    sparse_weight: float,
    alignment: Sampler | None,
    alignment_start: int,
    alignment_loss: BatchLoss,
    alignment_weight: float,
    as_biosyn: bool,
    shuffle: bool,
    seed: int,
) -> LearningTask:
    """What a run learns from mentions.

    Args:
        encoder: The model in training, on its device.
        tokens: Token ids of all names, then of the mentions.
        names: The names that can be candidates.
        strings: All names of the terminology, normalized.
        mentions: The mentions.
        first_mention: The row of the first mention in `tokens`.
        per_step: Mentions per step.
        candidates: Candidates per mention.
        dense_fraction: Fraction of them that vectors find.
        temperature: Divides scores; 1 for BioSyn.
        sparse_weight: First weight of string similarity.
        alignment: Sampler of the names to align; None without any.
        alignment_start: The row of its first name.
        alignment_loss: Loss of the names to align.
        alignment_weight: Its weight.
        as_biosyn: Whether candidates, labels, scores and loss are those of the original BioSyn.
        shuffle: Whether mentions are in random order.
        seed: Of that order.
    """
    distinct = [strings[row] for row in names.rows.tolist()]
    to_bag = tf_idf(distinct) if as_biosyn else set_of_grams
    search = CandidateSearch(
        encoder,
        tokens,
        names,
        mentions,
        first_mention,
        NgramNames(map(to_bag, distinct)),
        [to_bag(text) for text in mentions.texts],
        count=candidates,
        dense=int(candidates * dense_fraction),
        refresh_steps=-(-len(mentions.texts) // per_step),
        as_biosyn=as_biosyn,
    )
    head = SparseWeight(sparse_weight).to(next(encoder.parameters()).device)
    sampler = MentionSampler(search, per_step, seed, shuffle, alignment, alignment_start)
    loss = MentionLoss(
        head,
        1.0 if as_biosyn else temperature,
        None if alignment is None else alignment_loss,
        alignment_weight,
        as_biosyn,
    )
    return LearningTask(sampler, loss, search, head, unit=not as_biosyn)
