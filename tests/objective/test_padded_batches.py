"""Sequences of different lengths: a padded batch has the loss, gradient and curvature of its single sequences."""

import pytest
import torch
from helpers import build_experiment
from torch.testing import assert_close

from dlopt.base.sequences import mask_steps
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.objective.problem import Problem
from dlopt.prng import Key

KEY = Key(0, 0)
ARCHS = {
    "rnn": ["arch.layers=2"],
    "gru": ["arch.pooling=mean"],
    "lstm": ["arch.bidirectional=true"],
    "transformer": ["arch.heads=2", "arch.causal=false"],
}


def build(arch, kind, *, per_step, numbers=False, padded=True):
    return build_experiment(
        "data=custom", "data._target_=mine.Sequences", f"+data.kind={kind}", f"+data.per_step={per_step}",
        f"+data.numbers={numbers}", f"+data.padded={padded}", f"loss={'mse' if numbers else 'cross_entropy'}",
        f"arch={arch}", "arch.width=4", *ARCHS[arch], "batch_size=16", "precision=float64", "device=cpu",
    )  # fmt: skip


@pytest.mark.parametrize(("kind", "numbers"), [("tokens", False), ("series", True)])
@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("arch", ARCHS)
def test_a_padded_batch_has_the_derivatives_of_its_single_sequences(arch, per_step, kind, numbers):
    """Of one run and of lanes: value, gradient, product with the Hessian, and gradients of single examples."""
    experiment = build(arch, kind, per_step=per_step, numbers=numbers)
    x, y = (t[:7].double() if t.is_floating_point() else t[:7] for t in experiment.train.gather())
    lengths = mask_steps(x).sum(-1).tolist()
    assert len(set(lengths)) > 2
    w, v = (
        experiment.w,
        torch.randn(experiment.w.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
    )

    alone = Problem(build(arch, kind, per_step=per_step, numbers=numbers, padded=False).model, experiment.loss)
    values, gradients, products = [], [], []
    for i, n in enumerate(lengths):
        single = MiniBatchObjective(alone, x[i : i + 1, ..., :n], y[i : i + 1, :n] if per_step else y[i : i + 1], KEY)
        value, g = single.gradient(w)
        values, gradients, products = [*values, value], [*gradients, g.clone()], [*products, single.hvp(w, v)]
    expected = [torch.stack(terms).mean(0) for terms in (values, gradients, products)]

    objective = MiniBatchObjective(Problem(experiment.model, experiment.loss), x, y, KEY)
    assert_close([*objective.gradient(w), objective.hvp(w, v)], expected)
    assert_close(torch.cat([*objective.example_gradients(w, len(x))]), torch.stack(gradients))

    lanes = Problem(experiment.model, experiment.loss, lanes=2)
    keys = Key(torch.tensor([0, 0]), torch.tensor([0, 0]))
    both = MiniBatchObjective(lanes, x.expand(2, *x.shape), y.expand(2, *y.shape), keys)
    stacked = torch.stack([w, 0.5 * w])
    results = [*both.gradient(stacked), both.hvp(stacked, torch.stack([v, v]))]
    assert_close([result[0] for result in results], expected)
