"""Losses of re-rankers against plain restatements, mention by mention and candidate by candidate."""

import math

import pytest
import torch

from xsap.linking.cross_encoder import NO_CANDIDATE
from xsap.training.reranker_loss import fit_retrieval, listwise_cross_entropy, xmen_loss

# three mentions of up to three candidates: one right, two right, none right (and two candidates)
LOGITS = [[2.0, -1.0, 0.5, 0.25], [0.0, 1.5, -0.5, -1.0], [1.0, 3.0, NO_CANDIDATE, 0.75]]
RIGHT = [[False, True, False], [True, False, True], [False, False, False]]
SCORES = [[0.9, 0.8, 0.7], [0.85, 0.6, 0.55], [0.95, 0.5, 0.0]]
COUNTS = [3, 3, 2]


def plain_listwise(logits, right, count):
    """Cross-entropy of one mention: targets that sum to 1 over candidates and "none of them"."""
    kept = [*logits[:count], logits[-1]]
    targets = [1.0 * each for each in right[:count]]
    targets.append(0.0 if sum(targets) else 1.0)
    total = sum(map(math.exp, kept))
    return -sum(
        target / sum(targets) * math.log(math.exp(logit) / total) for target, logit in zip(targets, kept, strict=True)
    )


def plain_xmen(logits, right, scores, count, regularization):
    """The original code of one mention: NIL in place of the last candidate, raw logits against cosines, labels that do not sum to 1."""
    batch = [(logits[i], float(right[i]), scores[i]) for i in range(count)]
    label = 0.0 if any(right[:count]) else 1.0
    batch[-1] = (logits[-1], label, label)
    total = sum(math.exp(logit) for logit, _, _ in batch)
    entropy = -sum(label * math.log(math.exp(logit) / total) for logit, label, _ in batch)
    distance = math.sqrt(sum((logit - score + 1e-6) ** 2 for logit, _, score in batch))
    return entropy + regularization * distance


def test_listwise_cross_entropy_matches_a_plain_restatement():
    found = listwise_cross_entropy(torch.tensor(LOGITS), torch.tensor(RIGHT))
    expected = [plain_listwise(*each) for each in zip(LOGITS, RIGHT, COUNTS, strict=True)]
    assert found.item() == pytest.approx(sum(expected) / 3, abs=1e-6)
    # figures by hand: the second mention's two right candidates have half of the target each
    assert expected[1] == pytest.approx(
        -(0.5 * (0.0 + -0.5) - math.log(math.exp(0) + math.exp(1.5) + math.exp(-0.5) + math.exp(-1)))
    )


@pytest.mark.parametrize("regularization", [0.0, 1.0])
def test_xmen_loss_matches_a_plain_restatement_of_the_original(regularization):
    found = xmen_loss(
        torch.tensor(LOGITS),
        torch.tensor(RIGHT),
        torch.tensor(SCORES),
        torch.tensor(COUNTS),
        regularization=regularization,
    )
    expected = [plain_xmen(*each, regularization) for each in zip(LOGITS, RIGHT, SCORES, COUNTS, strict=True)]
    assert found.item() == pytest.approx(sum(expected) / 3, abs=1e-5)


def test_xmen_labels_nothing_where_the_last_candidate_is_the_right_one_and_ours_labels_it():
    logits, right = torch.tensor([[0.3, 0.2, 0.1, 0.9]]), torch.tensor([[False, False, True]])
    given = logits, right, torch.zeros(1, 3), torch.tensor([3])
    assert xmen_loss(*given, regularization=0.0).item() == 0.0
    assert listwise_cross_entropy(logits, right).item() > 1.0


def test_a_mention_of_several_right_concepts_counts_as_much_as_another():
    logits = torch.zeros(1, 4)
    one, two = (
        listwise_cross_entropy(logits, torch.tensor([right])) for right in ([True, False, False], [True, True, False])
    )
    assert one.item() == pytest.approx(two.item())
    scores, counts = torch.zeros(1, 3), torch.tensor([3])
    one, two = (
        xmen_loss(logits, torch.tensor([right]), scores, counts, regularization=0.0).item()
        for right in ([True, False, False], [True, True, False])
    )
    assert two == pytest.approx(2 * one)  # the original counts it twice


def test_gradients_are_finite_with_missing_candidates():
    for loss in (
        listwise_cross_entropy,
        lambda logits, right: xmen_loss(logits, right, torch.tensor(SCORES), torch.tensor(COUNTS)),
    ):
        logits = torch.tensor(LOGITS, requires_grad=True)
        loss(logits, torch.tensor(RIGHT)).backward()
        assert torch.isfinite(logits.grad).all()
        assert logits.grad[2, 2] == 0


def test_the_retrieval_scale_is_where_no_step_lowers_the_loss():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(200, 5, generator=generator).sort(1, descending=True).values
    right = torch.zeros(200, 5, dtype=torch.bool)
    right[torch.arange(150), torch.multinomial((8 * scores[:150]).softmax(1), 1, generator=generator)[:, 0]] = True
    real = torch.ones(200, 5, dtype=torch.bool)
    scale, nil = fit_retrieval(scores, right, real)

    def loss(w, b):
        return listwise_cross_entropy(torch.cat([w * scores, torch.full((200, 1), b)], 1), right).item()

    best = loss(scale, nil)
    assert all(loss(scale + dw, nil + db) >= best - 1e-4 for dw, db in [(0.1, 0), (-0.1, 0), (0, 0.1), (0, -0.1)])
    assert 4 < scale < 14  # drawn with 8
