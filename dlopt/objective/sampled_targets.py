"""Losses and gradients for targets that are drawn from the model, for estimates of its Fisher information."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor
from torch.func import grad

from dlopt import prng
from dlopt.base.loss import Loss
from dlopt.objective.auxiliary import add_losses
from dlopt.objective.micro_batches import Evaluation, Share, Targets
from dlopt.objective.problem import Problem
from dlopt.prng import Key


def make_sampling_key(key: Key, share: Share) -> Key:
    """Return the key of the targets of a micro-batch, from the key of its step."""
    return prng.fold_in(prng.fold_in(key, "fisher"), share.part)


def compute_sampled_gradient(
    problem: Problem, share: Share, w: Tensor, x: Tensor, y: Targets, key: Key,
    varying: Mapping[tuple[int, str], Tensor],
) -> tuple[Tensor, Evaluation]:  # fmt: skip
    """Return the gradient, (P,), of one lane on a micro-batch, of its term of the mean loss for targets of the model.

    It is without penalties. The evaluation is that of the mini-batch's own targets.
    """
    loss, *rules = problem.with_lane_values(varying)

    def value(w: Tensor) -> tuple[Tensor, Evaluation]:
        network = problem.functional
        outputs = problem.outputs(network, rules, w, x, key, varying=varying, part=share.part)
        evaluation = problem.evaluate(loss, outputs, problem.targets(rules, y), network.pop_batch_stats())[1]
        sampled = compute_sampled_loss(problem, loss, outputs, outputs.detach(), make_sampling_key(key, share))
        return sampled * share.fraction, evaluation

    return grad(value, has_aux=True)(w)


def compute_sampled_loss(problem: Problem, loss: Loss, outputs: Tensor, drawn_from: Tensor, key: Key) -> Tensor:
    """Return the loss with targets drawn from the model with the outputs `drawn_from`.

    Each auxiliary output has targets of its own. So its gradients are independent of those of the others, and add
    auxiliary_weight times its own Fisher information if they are scaled by the root of auxiliary_weight.
    """
    losses: list[Tensor] = []
    for k, (head, source) in enumerate(zip(*map(problem.split_heads, (outputs, drawn_from)), strict=True)):
        losses.append(loss.mean(head, loss.sample_targets(source, prng.fold_in(key, k) if k else key)))
    weight = problem.auxiliary_weight
    return add_losses(losses, None if weight is None else math.sqrt(weight))
