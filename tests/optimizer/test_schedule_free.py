"""Schedule-free learning, against the paper's algorithm and its limits."""

import pytest
import torch
from helpers import build_blobs, interrupt_run, load_weights, make_option, resume_run, train_runs
from test_optimizers import STEPS, P, Quadratic, draw_start
from torch import nn

from dlopt.base.dotted_fields import replace_fields
from dlopt.base.layout import Layout


def make_rule(**keys):
    return make_option("optimizer", "schedule_free", **{"lr": 0.05, **keys})


class Noisy(Quadratic):
    """Noise of its own at each step, the same for every caller."""

    def gradient(self, w):
        noise = torch.randn(P, dtype=torch.float64, generator=torch.Generator().manual_seed(len(self.queries)))
        value, g = super().gradient(w)
        return value, g + 0.3 * noise


RATES = [0.05 * min(1.0, (t + 1) / 10) for t in range(STEPS)]


def trace(one, w, rates=RATES):
    """Return the iterates x, and the points where the gradient was queried."""
    objective, w, iterates = Noisy(), w.clone(), []
    state = one.init(w, objective.layout)
    for lr in rates:
        w, state, *_ = replace_fields(one, {"lr": lr}).step(w, state, objective)
        iterates.append(w.clone())
    return torch.stack(iterates), torch.stack(objective.queries)


def trace_paper(one, w, rates=RATES):
    """Defazio et al. 2024, algorithm 1, and for sgd equations 3 to 5, lines in their order, with all sums written out."""
    objective, x, z, iterates, squares = Noisy(), w, w, [], []
    for t, lr in enumerate(rates, start=1):
        y = (1 - one.beta) * z + one.beta * x
        _, g = objective.gradient(y)
        squares.append(g**2)
        if one.form == "adam":
            v = sum((1 - one.beta2) * one.beta2 ** (t - i) * s for i, s in enumerate(squares, start=1))
            g = g / ((v / (1 - one.beta2**t)).sqrt() + one.eps)
        z = z - lr * g - lr * one.weight_decay * y
        c = lr**2 / sum(r**2 for r in rates[:t])
        x = (1 - c) * x + c * z
        iterates.append(x)
    return torch.stack(iterates), torch.stack(objective.queries)


@pytest.mark.parametrize("form", ["adam", "sgd"])
@pytest.mark.parametrize(
    "keys", [{}, {"beta": 0.0, "weight_decay": 0.3}, {"beta": 1.0, "beta2": 0.9}, {"beta": 0.5, "eps": 0.1}]
)
def test_steps_are_those_of_the_paper(form, keys):
    one = make_rule(form=form, **keys)
    for mine, theirs in zip(trace(one, draw_start()), trace_paper(one, draw_start()), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("form", "lr"), [("adam", 0.0025), ("sgd", 1.0)])
def test_without_a_learning_rate_it_takes_that_of_the_form(form, lr, tmp_path):
    """The defaults of AdamWScheduleFree and SGDScheduleFree in the authors' code."""
    common = ("optimizer=schedule_free", f"optimizer.form={form}", "schedule=cosine", "epochs=2")
    experiments = [build_blobs(*common, f"optimizer.lr={value}") for value in ("null", lr, 2 * lr)]
    default, explicit, other = map(load_weights, train_runs(tmp_path, *experiments)[1])
    assert torch.equal(default, explicit)
    assert not torch.equal(default, other)


def test_with_beta_zero_it_is_the_average_of_the_iterates_of_gradient_descent():
    """Polyak 1990, Ruppert 1988: the gradients are those along plain gradient descent, whose mean is w."""
    x, queries = trace(make_rule(form="sgd", beta=0.0), draw_start(), [0.05] * STEPS)
    objective, z, means = Noisy(), draw_start(), []
    for t in range(1, STEPS + 1):
        z = z - 0.05 * objective.gradient(z)[1]
        means.append(z if t == 1 else means[-1] + (z - means[-1]) / t)
    torch.testing.assert_close(queries, torch.stack(objective.queries))
    torch.testing.assert_close(x, torch.stack(means))


def test_with_beta_one_the_gradient_is_taken_at_the_average():
    x, queries = trace(make_rule(form="sgd", beta=1.0), draw_start())
    torch.testing.assert_close(queries[1:], x[:-1])


def test_averaging_reduces_noise():
    """After many steps at a constant rate x is nearer to the minimum than z, the iterate of plain steps."""
    one, objective, w = make_rule(form="sgd", lr=0.3), Noisy(), draw_start()
    state = one.init(w, objective.layout)
    for _ in range(500):
        w, state, *_ = one.step(w, state, objective)
    assert w.norm() < 0.3 * state.z.norm()


@pytest.mark.parametrize("form", ["adam", "sgd"])
def test_lanes_with_numbers_of_their_own_equal_runs_alone(form):
    column = torch.tensor([[0.0], [0.5], [1.0]], dtype=torch.float64)
    together, _ = trace(
        replace_fields(make_rule(form=form), {"beta": column, "weight_decay": column / 2}), draw_start((3,))
    )
    for i, b in enumerate([0.0, 0.5, 1.0]):
        alone, _ = trace(make_rule(form=form, beta=b, weight_decay=b / 2), draw_start((3,))[i])
        torch.testing.assert_close(together[:, i], alone, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("lead", [(), (2,)])
def test_a_rate_that_starts_at_zero_moves_nothing(lead):
    x, _ = trace(make_rule(), draw_start(lead), [0.0, 0.0, 0.1])
    torch.testing.assert_close(x[0], draw_start(lead))
    torch.testing.assert_close(x[1], draw_start(lead))
    assert x[2].isfinite().all()
    assert not torch.equal(x[2], draw_start(lead))


def test_a_rate_whose_square_is_too_large_a_number_diverges(tmp_path):
    (summary,), _ = train_runs(
        tmp_path, build_blobs("optimizer=schedule_free", "optimizer.lr=1e300", "precision=float64")
    )
    assert summary["status"] == "diverged"


@pytest.mark.parametrize("form", ["adam", "sgd"])
def test_only_weights_decay(form):
    class Flat(Quadratic):
        layout = Layout.of(nn.Linear(P - 1, 1))

        def gradient(self, w):
            return w.sum(-1) * 0, torch.zeros_like(w)

    one, w = make_rule(form=form, lr=0.1, weight_decay=0.5), draw_start()
    after, *_ = one.step(w.clone(), one.init(w, Flat.layout), Flat())
    torch.testing.assert_close(after[:-1], w[:-1] * (1 - 0.1 * 0.5))
    assert after[-1] == w[-1]


def test_a_run_resumes_and_lanes_equal_runs_alone(tmp_path):
    common = (
        "optimizer=schedule_free",
        "optimizer.form=sgd",
        "schedule=warmup",
        "schedule.length=1",
        "precision=float64",
    )
    variants = [("optimizer.beta=0.5", "seed=1"), ("optimizer.weight_decay=0.1", "optimizer.lr=0.1")]
    _, lanes = train_runs(tmp_path / "lanes", *(build_blobs(*common, *v) for v in variants))
    for i, v in enumerate(variants):
        _, (whole,) = train_runs(tmp_path / f"solo{i}", build_blobs(*common, *v))
        torch.testing.assert_close(load_weights(lanes[i]), load_weights(whole), rtol=1e-9, atol=1e-9)
    half = interrupt_run(tmp_path / "half", 4, build_blobs(*common, *v))
    _, half = resume_run(half.path, build_blobs(*common, *v))
    assert torch.equal(load_weights(half), load_weights(whole))
