"""Losses and their metrics against formulas and torch, in float64."""

import math
from typing import get_args

import numpy as np
import pytest
import sklearn.metrics
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
from sklearn.utils.class_weight import compute_class_weight
from torch.func import jacrev

from dlopt.analysis.run_table import read_runs, sort_runs
from dlopt.analysis.search_record import read_search
from dlopt.cli import main
from dlopt.config.reopen.load_predictor import load_predictor
from dlopt.config.schema.signature import read_signature
from dlopt.loss.hinge import Hinge
from dlopt.metrics import functional
from dlopt.rundir.directory import RunDirectory

LOSSES = {name: make_option("loss", name) for name in list_options("loss")}
CROSS_ENTROPY, SQUARED = LOSSES["cross_entropy"], LOSSES["mse"]
losses = pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name, loss in LOSSES.items()
        for kind in ("classes", "numbers")
        if loss.targets in (kind, "both")
    ],
)
NLL = LOSSES["nll"]
N, C = 12, 4
LOG_PROBABILITIES = (
    *(o for o in BLOBS if not o.startswith("arch")),
    "arch=custom",
    "arch._target_=mine.LogProbabilities",
)


def draw_batch(kind, lead=(), name=""):
    outputs = torch.randn(*lead, N, C, dtype=torch.float64)
    targets = torch.randint(C, (*lead, N)) if kind == "classes" else torch.randn(*lead, N, C, dtype=torch.float64)
    if kind == "numbers" and name == "bce":
        targets = targets.sigmoid()
    if kind == "numbers" and name == "kl":
        targets = targets.softmax(-1)
    return outputs, targets


@losses
def test_a_loss_is_a_finite_differentiable_scalar(name, kind):
    loss = LOSSES[name].fit(kind, None)
    outputs, targets = draw_batch(kind, name=name)
    value = loss(outputs.requires_grad_(), targets)
    assert value.shape == ()
    assert value.isfinite()
    assert torch.autograd.gradcheck(lambda o: loss(o, targets), (outputs,))


@losses
def test_a_loss_is_the_mean_over_the_examples(name, kind):
    loss = LOSSES[name].fit(kind, None)
    outputs, targets = draw_batch(kind, name=name)
    loss.check_targets(targets)
    each = torch.stack([loss(outputs[i : i + 1], targets[i : i + 1]) for i in range(N)])
    torch.testing.assert_close(loss(outputs, targets), each.mean())


@losses
@pytest.mark.parametrize("lead", [(2, 3)])
def test_metrics_of_many_lanes_are_those_of_each(name, kind, lead):
    loss = make_option("loss", name, **list_metrics(name)).fit(kind, None)
    outputs, targets = draw_batch(kind, lead, name)
    together = loss.measure(outputs, targets)
    flat, flat_targets = outputs.flatten(0, -3), targets.flatten(0, len(lead) - 1)
    for metric, values in together.items():
        assert values.shape == lead
        alone = [loss.measure(o, t)[metric] for o, t in zip(flat, flat_targets, strict=True)]
        torch.testing.assert_close(values.flatten(), torch.stack(alone))


def list_metrics(name):
    """Return the keys of a loss with every metric that can be measured with four outputs."""
    hint = read_signature(type(LOSSES[name])).parameters.get("metrics")
    return {} if hint is None else {"metrics": [m for m in get_args(get_args(hint.hint)[0]) if m != "top5"]}


@losses
def test_an_example_of_a_sequence_or_a_lane_has_the_loss_that_it_has_alone(name, kind):
    loss = LOSSES[name].fit(kind, None)
    outputs, targets = draw_batch(kind, (3,), name)
    each = torch.stack([loss(o, t) for o, t in zip(outputs, targets, strict=True)])
    torch.testing.assert_close(torch.vmap(loss)(outputs, targets), each)
    torch.testing.assert_close(loss.mean(outputs, targets), each.mean())


TWINS = {
    "bce": F.binary_cross_entropy_with_logits,
    "huber": lambda o, y: F.huber_loss(o, y, delta=0.7),
    "kl": lambda o, y: F.kl_div(o.log_softmax(-1), y, reduction="batchmean"),
    "l1": F.l1_loss,
    "mse": F.mse_loss,
}


@pytest.mark.parametrize("name", TWINS)
def test_a_loss_of_numbers_and_its_derivatives_are_those_of_torch(name):
    loss = make_option("loss", name, **({"delta": 0.7} if name == "huber" else {}))
    outputs, targets = draw_batch("numbers", name=name)
    torch.testing.assert_close(loss(outputs, targets), TWINS[name](outputs, targets))
    for derivative in (jacrev, lambda f: jacrev(jacrev(f))):
        actual, expected = (derivative(f)(outputs, targets) for f in (loss, TWINS[name]))
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("weight", [None, 3.0, [0.5, 1.0, 2.0, 4.0]])
@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_the_weight_of_positive_labels_is_that_of_torch(kind, weight):
    outputs, targets = draw_batch(kind, name="bce")
    loss = make_option("loss", "bce", pos_weight=weight).fit(kind, None)
    y = F.one_hot(targets, C).double() if kind == "classes" else targets
    q = None if weight is None else torch.tensor(weight, dtype=torch.float64)
    expected = F.binary_cross_entropy_with_logits(outputs, y, pos_weight=q)
    torch.testing.assert_close(loss(outputs, targets), expected)
    assert loss.has_distribution == (weight is None)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("alpha", [None, [0.3, 1.0, 2.0, 0.1]])
def test_the_focal_loss_multiplies_the_cross_entropy_of_each_example(gamma, alpha):
    outputs, targets = draw_batch("classes")
    loss = make_option("loss", "focal", gamma=gamma, alpha=alpha)
    cross_entropies = F.cross_entropy(outputs, targets, reduction="none")
    weights = torch.tensor(alpha or [1.0] * C, dtype=torch.float64)[targets]
    expected = weights * (1 - (-cross_entropies).exp()) ** gamma * cross_entropies
    torch.testing.assert_close(loss.losses(outputs, targets), expected)
    torch.testing.assert_close(loss(outputs, F.one_hot(targets, C).double()), expected.mean())


def test_the_focal_loss_of_two_classes_is_that_of_the_paper():
    """One sigmoid of the difference of the outputs, alpha for the second class, and 1 - alpha for the first."""
    outputs, targets = torch.randn(N, 2, dtype=torch.float64), torch.arange(N) % 2
    p = (outputs[:, 1] - outputs[:, 0]).sigmoid()
    p_t, a_t = torch.where(targets == 1, p, 1 - p), torch.where(targets == 1, 0.25, 0.75)
    expected = (-a_t * (1 - p_t) ** 2 * p_t.log()).mean()
    torch.testing.assert_close(make_option("loss", "focal", alpha=0.25)(outputs, targets), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_derivatives_of_the_focal_loss_are_finite_where_the_probability_rounds_to_one(gamma):
    outputs = torch.tensor([[200.0, 0.0, -5.0]])
    loss = make_option("loss", "focal", gamma=gamma)
    for derivative in (jacrev, lambda f: jacrev(jacrev(f))):
        assert derivative(loss)(outputs, torch.tensor([0])).isfinite().all()


@pytest.mark.parametrize("kind", ["classes", "soft"])
def test_the_divergence_is_the_cross_entropy_minus_the_entropy_of_the_targets(kind):
    outputs, targets = draw_batch("classes")
    targets = draw_probabilities() if kind == "soft" else targets
    entropy = torch.special.entr(targets).sum(-1).mean() if kind == "soft" else 0.0
    torch.testing.assert_close(LOSSES["kl"](outputs, targets), CROSS_ENTROPY(outputs, targets) - entropy)


@pytest.mark.parametrize("name", ["accuracy", "f1", "precision", "recall", "auc", "average_precision"])
@pytest.mark.parametrize("count", [1, 4])
def test_metrics_of_labels_equal_those_of_scikit_learn(name, count):
    logits, y = torch.randn(200, count, dtype=torch.float64), (torch.rand(200, count) < 0.3).double()
    logits = (logits + y)[torch.arange(200) % 150]  # and ties
    predicted = (logits > 0).numpy()
    average = (
        {} if name == "accuracy" else {"average": "macro" if count > 1 or name == "average_precision" else "binary"}
    )
    scores = logits.numpy() if name in ("auc", "average_precision") else predicted
    oracle = getattr(sklearn.metrics, "roc_auc_score" if name == "auc" else f"{name}_score")
    if name == "accuracy":
        expected = oracle(y.flatten(), predicted.flatten())
    else:
        expected = oracle(y.numpy(), scores, **({} if name == "auc" else average))
    actual = make_option("loss", "bce", metrics=[name]).measure(logits, y)[name]
    assert actual.item() == pytest.approx(expected, abs=1e-12)


def test_balanced_accuracy_and_calibration_of_labels_are_means_over_labels_and_bins():
    logits, y = torch.randn(200, 3, dtype=torch.float64), (torch.rand(200, 3) < 0.3).double()
    metrics = make_option("loss", "bce", metrics=["balanced_accuracy", "calibration_error"]).measure(logits, y)
    columns = zip(y.T, (logits > 0).T, strict=True)
    expected = [sklearn.metrics.balanced_accuracy_score(a.numpy(), b.numpy()) for a, b in columns]
    assert metrics["balanced_accuracy"].item() == pytest.approx(sum(expected) / 3)
    pairs = torch.stack([-logits.flatten(), logits.flatten()], dim=-1) / 2  # whose softmax is the sigmoid
    expected = functional.calibration_error(pairs, y.flatten().long())
    torch.testing.assert_close(metrics["calibration_error"], expected)


@pytest.mark.parametrize("classes", [2, 4])
def test_metrics_of_classes_against_the_rest_are_of_the_largest_output(classes):
    outputs, targets = torch.randn(60, classes, dtype=torch.float64), torch.arange(60) % classes
    names = ["accuracy", "f1", "auc", "average_precision", "calibration_error"]
    loss = make_option("loss", "bce", metrics=names).fit("classes", None)
    metrics = loss.measure(outputs, targets)
    assert list(metrics) == names
    for name in ("accuracy", "f1"):
        torch.testing.assert_close(metrics[name], getattr(functional, name)(outputs, targets))
    one_hot = F.one_hot(targets, classes).numpy()
    assert metrics["auc"].item() == pytest.approx(sklearn.metrics.roc_auc_score(one_hot, outputs))
    first = 1 if classes == 2 else 0
    expected = sklearn.metrics.average_precision_score(one_hot[:, first:], outputs[:, first:])
    assert metrics["average_precision"].item() == pytest.approx(expected)
    torch.testing.assert_close(loss.measure(outputs, F.one_hot(targets, classes).double()), metrics)


# ------------------------------------------------------------------------------------------- class weights

WEIGHTED = ("cross_entropy", "nll", "hinge")


@pytest.mark.parametrize("weights", ["balanced", [0.2, 5.0, 1.0, 0.0]])
@pytest.mark.parametrize("name", WEIGHTED)
def test_class_weights_multiply_the_loss_of_each_example(name, weights):
    """Balanced, they are scikit-learn's; scaled to the mean one, the loss of the training split is torch's."""
    outputs, targets = torch.randn(40, C, dtype=torch.float64).log_softmax(-1), torch.arange(40).sqrt().long() % C
    plain = make_option("loss", name)
    loss = make_option("loss", name, class_weights=weights).fit("classes", targets.bincount(minlength=C))
    raw = (
        compute_class_weight("balanced", classes=np.arange(C), y=targets.numpy()) if weights == "balanced" else weights
    )
    raw = torch.tensor(raw, dtype=torch.float64)[targets]
    assert weights != "balanced" or raw.mean().item() == pytest.approx(1.0)
    torch.testing.assert_close(loss.losses(outputs, targets), plain.losses(outputs, targets) * raw / raw.mean())
    if name == "cross_entropy":
        w = torch.tensor(loss.class_weights, dtype=torch.float64)
        torch.testing.assert_close(loss(outputs, targets), F.cross_entropy(outputs, targets, w))
        one_hot = F.one_hot(targets, C).double()
        torch.testing.assert_close(loss(outputs, one_hot), loss(outputs, targets))
    assert not loss.has_distribution


def test_the_loss_of_guessing_with_balanced_weights_is_that_of_equal_classes():
    targets = torch.tensor([0, 0, 0, 0, 0, 1, 2, 2])
    loss = make_option("loss", "cross_entropy", class_weights="balanced").fit("classes", targets.bincount())
    assert loss.constant_loss(targets) == pytest.approx(math.log(3))
    assert loss(torch.zeros(8, 3).double(), targets).item() == pytest.approx(math.log(3))


@pytest.mark.parametrize(("overrides", "key", "words"), [
    (["loss.class_weights=[1,2]"], "loss.class_weights", "one weight for each of 3 classes, got 2"),
    (["loss.class_weights=[0,0,0]"], "loss.class_weights", "raise one of the weights"),
    (["loss.class_weights=[1,-2,3]"], "loss.class_weights", "number >= 0"),
    (["loss.class_weights=even"], "loss.class_weights", "balanced or a list"),
    (["loss.class_weights=balanced", "data._target_=mine.OneMissing"], "loss.class_weights", "class 2 has none"),
    (["loss.class_weights=balanced", "optimizer=kfac"], "optimizer.fisher", "CrossEntropy with weights has no"),
    (["loss=focal", "loss.alpha=0.3"], "loss.alpha", "a number is for two classes"),
    (["loss=focal", "loss.alpha=[1,2]"], "loss.alpha", "each of 3 classes"),
    (["loss=focal", "loss.gamma=-1"], "loss.gamma", ">= 0"),
    (["loss=bce", "loss.pos_weight=[1,2]"], "loss.pos_weight", "each of 3 outputs"),
    (["loss=bce", "data._target_=mine.Regression"], "loss", "labels from 0 to 1"),
    (["loss=kl", "data._target_=mine.Regression"], "loss", "rows of probabilities"),
    (["loss=bce", "data._target_=mine.Labels", "loss.metrics=[top5]"], "loss.metrics", "top5 is for classes"),
    (["loss=huber"], "loss", "Huber is for numbers"),
    (["loss=huber", "loss.delta=0", "data._target_=mine.Regression"], "loss.delta", "> 0"),
    (["loss=l1", "data._target_=mine.Regression", "optimizer=kfac"], "optimizer.fisher", "no distribution"),
])  # fmt: skip
def test_a_loss_that_does_not_fit_is_refused(overrides, key, words):
    assert_build_refused(lambda: build_blobs(*overrides), key, words)


def test_lanes_may_differ_in_the_weights_of_classes(tmp_path):
    """Their training splits have other numbers of examples of each class."""
    common = ("data._target_=mine.Unbalanced", "loss.class_weights=balanced", "precision=float64")
    runs = [build_blobs(*common, f"seed={seed}") for seed in (0, 1)]
    assert runs[0].loss.class_weights != runs[1].loss.class_weights
    together, _ = train_runs(tmp_path / "lanes", *runs)
    for i, run in enumerate(runs):
        (alone,), _ = train_runs(tmp_path / f"alone{i}", run)
        assert together[i]["test/loss"] == pytest.approx(alone["test/loss"], rel=1e-9)


def test_balanced_weights_raise_the_recall_of_a_rare_class(tmp_path):
    common = (
        "data._target_=mine.Unbalanced",
        "epochs=10",
        "optimizer.lr=0.03",
        "loss.metrics=[accuracy,recall]",
    )
    plain, weighted = (build_blobs(*common, *more) for more in ((), ("loss.class_weights=balanced",)))
    (one,), (other,) = (train_runs(tmp_path / str(i), run)[0] for i, run in enumerate((plain, weighted)))
    assert other["test/recall"] > one["test/recall"] + 0.1


def test_other_data_are_evaluated_with_the_weights_of_the_training_split(here):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(90, 4)), np.repeat([0, 1], [75, 15])
    np.savez("train.npz", x=x + 0.5 * y[:, None], y=y)
    np.savez("other.npz", x=x[::-1] + y[::-1, None], y=y[::-1])
    command = "train data=arrays data.path=train.npz arch=linear epochs=2 batch_size=10 loss.class_weights=balanced"
    assert main([*command.split(), "device=cpu", "hydra.run.dir=run"]) == 0
    predictor, _ = load_predictor(RunDirectory(here / "run"), data=["other.npz"])
    outputs, targets = predictor.predict_split("all")
    trained, _ = load_predictor(RunDirectory(here / "run"))
    assert predictor.loss == trained.loss
    w = torch.tensor(trained.loss.class_weights)
    assert w[1] / w[0] == pytest.approx(75 / 15, rel=0.1)
    expected = (w[targets] * F.cross_entropy(outputs, targets, reduction="none")).mean()
    assert predictor.evaluate("all")["loss"] == pytest.approx(expected.item(), rel=1e-5)


# ------------------------------------------------------------------------------------------- cross entropy


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
    ours, theirs = Hinge(margin, power, ["accuracy", "error"], None), torch.nn.MultiMarginLoss(p=power, margin=margin)
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
    loss = Hinge(1.0, power, ["accuracy", "error"], None)
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
