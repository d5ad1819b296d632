"""Losses and their metrics against formulas and torch, in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import (
    BLOBS,
    assert_build_refused,
    build_blobs,
    build_experiment,
    list_options,
    load_weights,
    make_option,
    train_runs,
)

from dlopt.analysis.run_table import read_runs, sort_runs
from dlopt.analysis.search_record import read_search
from dlopt.cli import main
from dlopt.loss.hinge import Hinge

LOSSES = {name: make_option("loss", name) for name in list_options("loss")}
CROSS_ENTROPY, SQUARED = LOSSES["cross_entropy"], LOSSES["mse"]
losses = pytest.mark.parametrize("name", LOSSES)
NLL = LOSSES["nll"]
N, C = 12, 4
LOG_PROBABILITIES = (
    *(o for o in BLOBS if not o.startswith("arch")),
    "arch=custom",
    "arch._target_=mine.LogProbabilities",
)


def draw_batch(kind, lead=()):
    outputs = torch.randn(*lead, N, C, dtype=torch.float64)
    targets = torch.randint(C, (*lead, N)) if kind == "classes" else torch.randn(*lead, N, C, dtype=torch.float64)
    return outputs, targets


@losses
def test_a_loss_is_a_finite_differentiable_scalar(name):
    loss = LOSSES[name]
    outputs, targets = draw_batch(loss.targets)
    value = loss(outputs.requires_grad_(), targets)
    assert value.shape == ()
    assert value.isfinite()
    assert torch.autograd.gradcheck(lambda o: loss(o, targets), (outputs,))


@losses
def test_a_loss_is_the_mean_over_the_examples(name):
    loss = LOSSES[name]
    outputs, targets = draw_batch(loss.targets)
    each = torch.stack([loss(outputs[i : i + 1], targets[i : i + 1]) for i in range(N)])
    torch.testing.assert_close(loss(outputs, targets), each.mean())


@losses
@pytest.mark.parametrize("lead", [(2, 3)])
def test_metrics_of_many_lanes_are_those_of_each(name, lead):
    loss = LOSSES[name]
    outputs, targets = draw_batch(loss.targets, lead)
    together = loss.measure(outputs, targets)
    flat, flat_targets = outputs.flatten(0, -3), targets.flatten(0, len(lead) - 1)
    for metric, values in together.items():
        assert values.shape == lead
        alone = [loss.measure(o, t)[metric] for o, t in zip(flat, flat_targets, strict=True)]
        torch.testing.assert_close(values.flatten(), torch.stack(alone))


@pytest.mark.parametrize("kind", ["classes", "probabilities"])
def test_cross_entropy_is_minus_the_mean_of_the_expected_log_probability(kind):
    outputs, targets = draw_batch("classes")
    p = draw_probabilities() if kind == "probabilities" else F.one_hot(targets, C).double()
    total = 0.0
    for row, weights in zip(outputs.tolist(), p.tolist(), strict=True):
        log_total = math.log(sum(math.exp(o) for o in row))
        total -= sum(q * (o - log_total) for o, q in zip(row, weights, strict=True))
    loss = CROSS_ENTROPY(outputs, p if kind == "probabilities" else targets)
    assert loss.item() == pytest.approx(total / N)
    assert torch.autograd.gradcheck(lambda o: CROSS_ENTROPY(o, p), (outputs.requires_grad_(),))


def test_cross_entropy_of_equal_outputs_is_the_log_of_the_number_of_classes():
    _, targets = draw_batch("classes")
    assert CROSS_ENTROPY(torch.full((N, C), 7.0).double(), targets).item() == pytest.approx(math.log(C))


def test_adding_a_number_to_all_outputs_changes_nothing():
    outputs, targets = draw_batch("classes")
    shifted = outputs + 1000 * torch.randn(N, 1, dtype=torch.float64)
    torch.testing.assert_close(CROSS_ENTROPY(shifted, targets), CROSS_ENTROPY(outputs, targets))


@pytest.mark.parametrize("kind", ["classes", "probabilities"])
def test_accuracy_counts_the_right_ones_and_error_the_wrong_ones(kind):
    """For probabilities the class is the largest."""
    outputs, targets = draw_batch("classes")
    targets = draw_probabilities() if kind == "probabilities" else targets
    classes = targets.argmax(-1) if kind == "probabilities" else targets
    right = sum(row.index(max(row)) == y for row, y in zip(outputs.tolist(), classes.tolist(), strict=True))
    metrics = CROSS_ENTROPY.measure(outputs, targets)
    assert 0 < right < N
    assert metrics["accuracy"].item() == pytest.approx(right / N)
    assert metrics["error"].item() == pytest.approx(1 - right / N)


def draw_probabilities():
    return torch.randn(N, C, dtype=torch.float64).softmax(-1)


@pytest.mark.parametrize("lead", [(), (3,)])
def test_probabilities_of_one_are_classes(lead):
    outputs, targets = draw_batch("classes", lead)
    certain = F.one_hot(targets, C).double()
    mapped = torch.vmap(CROSS_ENTROPY) if lead else CROSS_ENTROPY
    torch.testing.assert_close(mapped(outputs, certain), mapped(outputs, targets))
    torch.testing.assert_close(CROSS_ENTROPY.measure(outputs, certain), CROSS_ENTROPY.measure(outputs, targets))


def test_mean_squared_error_is_the_mean_of_squares_over_examples_and_outputs():
    outputs, targets = draw_batch("numbers")
    pairs = zip(outputs.flatten().tolist(), targets.flatten().tolist(), strict=True)
    expected = sum((o - t) ** 2 for o, t in pairs) / (N * C)
    assert SQUARED(outputs, targets).item() == pytest.approx(expected)


@pytest.mark.parametrize("error", [0.0, 0.5])
def test_r2_of_constant_targets_is_nan(error):
    targets = torch.full((6, 2), 0.25, dtype=torch.float64)
    assert SQUARED.measure(targets + error, targets)["r2"].isnan()


def test_r2_is_the_explained_fraction_of_the_variance():
    outputs, targets = draw_batch("numbers")
    r2 = SQUARED.measure(outputs, targets)["r2"]
    variance = targets.var(0, correction=0).mean()
    torch.testing.assert_close(r2, 1 - SQUARED(outputs, targets) / variance)


# ------------------------------------------------------------------------------------------- hinge


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("margin", [0.3, 1.0, 2.5])
def test_the_hinge_loss_and_its_gradient_are_those_of_torch(power, margin):
    outputs, targets = draw_batch("classes")
    outputs.requires_grad_()
    ours, theirs = Hinge(margin, power, ["accuracy", "error"]), torch.nn.MultiMarginLoss(p=power, margin=margin)
    a, b = ours(outputs, targets), theirs(outputs, targets)
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(torch.autograd.grad(a, outputs), torch.autograd.grad(b, outputs))


def test_a_lead_by_the_margin_has_no_loss_and_no_gradient():
    _, targets = draw_batch("classes")
    outputs = 1.5 * F.one_hot(targets, 4).double().requires_grad_()
    loss = make_option("loss", "hinge")(outputs, targets)
    assert loss == 0.0
    assert (torch.autograd.grad(loss, outputs)[0] == 0).all()
    assert make_option("loss", "hinge", margin=2.0)(outputs, targets).item() == pytest.approx(0.5 * 3 / 4)


@pytest.mark.parametrize("power", [1, 2])
def test_the_number_of_classes_times_the_hinge_loss_bounds_the_error(power):
    """A wrong class in front has a loss of at least margin^power / C = 1 / C."""
    outputs, targets = draw_batch("classes")
    loss = Hinge(1.0, power, ["accuracy", "error"])
    assert 4 * loss(outputs, targets) >= loss.measure(outputs, targets)["error"]


def test_lanes_may_differ_in_the_margin(tmp_path):
    runs = [build_blobs("loss=hinge", f"loss.margin={m}", "precision=float64") for m in (0.5, 2.0)]
    together, _ = train_runs(tmp_path / "lanes", *runs)
    for i, run in enumerate(runs):
        (alone,), _ = train_runs(tmp_path / f"alone{i}", run)
        assert together[i]["test/loss"] == pytest.approx(alone["test/loss"], rel=1e-9)
    assert together[0]["test/loss"] != together[1]["test/loss"]


@pytest.mark.parametrize(
    ("override", "key"), [("loss.power=3", "loss.power"), ("loss.margin=0", "loss.margin"), ("loss.power=1.5", "loss.power")]
)  # fmt: skip
def test_an_invalid_hinge_loss_is_refused(override, key):
    assert_build_refused(lambda: build_blobs("loss=hinge", override), key, "must be")


def test_the_hinge_loss_refuses_mixed_targets():
    mixing = ("augmentation=custom", "augmentation.custom._target_=mine.MixOpposites")
    assert_build_refused(lambda: build_blobs("loss=hinge", *mixing), "loss", "Hinge does not take")


# ------------------------------------------------------------------------------------------- negative log-likelihood


def test_nll_is_that_of_torch_and_cross_entropy_after_a_log_softmax():
    outputs, targets = draw_batch("classes")
    log_p = outputs.log_softmax(-1)
    torch.testing.assert_close(NLL(log_p, targets), F.nll_loss(log_p, targets))
    torch.testing.assert_close(NLL(log_p, targets), CROSS_ENTROPY(outputs, targets))
    soft = torch.randn(N, C, dtype=torch.float64).softmax(-1)
    torch.testing.assert_close(NLL(log_p, soft), CROSS_ENTROPY(outputs, soft))
    certain = F.one_hot(targets, C).double()
    torch.testing.assert_close(NLL(log_p, certain), NLL(log_p, targets))


def test_training_with_nll_is_training_with_cross_entropy(tmp_path):
    """A log-softmax of log-probabilities changes nothing, so the two losses are one function of the weights."""
    both = [
        build_experiment(*LOG_PROBABILITIES, "precision=float64", f"loss={name}") for name in ("nll", "cross_entropy")
    ]
    (one,), (other,) = (train_runs(tmp_path / str(i), experiment)[1] for i, experiment in enumerate(both))
    torch.testing.assert_close(load_weights(one), load_weights(other), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("wrong", [0.01, math.nan, -1.0])
def test_outputs_that_are_not_log_probabilities_are_refused(wrong):
    log_p = draw_batch("classes")[0].log_softmax(-1)
    NLL.check(log_p)
    NLL.check(torch.full((2, 10_000), -math.log(10_000)))
    log_p[7] += wrong
    with pytest.raises(ValueError, match=r"sum to .*cross_entropy"):
        NLL.check(log_p)


def test_a_run_with_such_a_network_does_not_start():
    assert_build_refused(lambda: build_blobs("loss=nll"), "loss", "needs log-probabilities")


# ------------------------------------------------------------------------------------------------ directions

MARGIN = ("loss=custom", "loss._target_=mine.Margin")


@pytest.mark.parametrize(("metric", "choose"), [("val/margin", max), ("val/shortfall", min)])
def test_the_best_step_has_the_best_value_in_the_declared_direction(metric, choose, tmp_path):
    keys = (*MARGIN, f"objective={metric}", "epochs=8", "optimizer=sgd", "optimizer.lr=1.5")
    (summary,), (run,) = train_runs(tmp_path, build_blobs(*keys))
    values = [row[metric] for row in run.rows()]
    assert len(set(values)) > 1
    assert summary[metric] == choose(values)
    assert summary["best/step"] == choose(run.rows(), key=lambda row: row[metric])["step"]


def test_early_stopping_and_plateau_follow_the_declared_direction(tmp_path):
    """The margin, of which more is better, falls at each evaluation."""
    keys = ("regularization=early_stopping", "regularization.early_stopping.patience=2", "schedule=plateau",
            "schedule.patience=0", "epochs=6", "optimizer=sgd", "optimizer.lr=0.01")  # fmt: skip
    monitors = [f"{key}.monitor=val/margin" for key in ("schedule", "regularization.early_stopping")]
    (summary,), (run,) = train_runs(tmp_path, build_blobs(*MARGIN, *keys, *monitors))
    margins = [row["val/margin"] for row in run.rows()]
    assert margins == sorted(set(margins), reverse=True)
    assert summary["epoch"] == 3
    assert [row["lr"] for row in run.rows()] == pytest.approx([0.01, 0.01, 0.001])


@pytest.mark.parametrize(("overrides", "key", "words"), [
    (["objective=val/undeclared"], "objective", 'directions = {"undeclared": "max"}'),
    (["schedule=plateau", "schedule.monitor=val/undeclared"], "schedule.monitor", "in the class Margin"),
    (["loss._target_=mine.WrongDirection"], "loss.directions", '"min" or "max"'),
    (["loss._target_=mine.ReversedDirection"], "loss.directions", 'accuracy is known as "max"'),
])  # fmt: skip
def test_a_metric_without_a_direction_does_not_select(overrides, key, words):
    assert_build_refused(lambda: build_blobs(*MARGIN, *overrides), key, words)


def test_a_sweep_and_its_tables_follow_the_declared_direction(here, capsys):
    lr = "optimizer.lr=0.01,0.1,0.03"
    command = [*BLOBS, *MARGIN, "optimizer=sgd", lr, "objective=val/margin", "hydra.sweep.dir=sweep"]
    assert main(["train", "-m", *command]) == 0
    runs = read_runs(here / "sweep")
    assert [r.directions for r in runs] == [{"margin": "max", "shortfall": "min"}] * 3
    best = max(runs, key=lambda r: r.metrics["val/margin"])
    assert f"in sweep/{best.name}\n" in capsys.readouterr().out
    for metric, sign in (("val/margin", -1), ("val/shortfall", 1)):
        assert sort_runs(metric, runs) == sorted(runs, key=lambda r: sign * r.metrics[metric])
    search = read_search(here / "sweep")
    assert (search.higher_is_better, search.best.path) == (True, best.path)
    (here / "sweep/sweep.json").unlink()  # then from the runs
    search = read_search(here / "sweep")
    assert (search.objective, search.higher_is_better, search.best.path) == ("val/margin", True, best.path)
