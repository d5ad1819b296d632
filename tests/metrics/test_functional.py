"""Metrics against slow definitions and scikit-learn, in float64."""

import itertools
import math

import numpy as np
import pytest
import sklearn.metrics
import torch
from helpers import assert_build_refused, build_blobs, train_runs
from sklearn.metrics import roc_auc_score, top_k_accuracy_score

from dlopt.metrics import functional
from dlopt.metrics.names import HEADLINE, find_direction, higher_is_better

OF_CLASSES = (
    functional.accuracy, functional.error, functional.top5, functional.auc, functional.f1, functional.precision,
    functional.recall, functional.average_precision, functional.balanced_accuracy, functional.calibration_error,
)  # fmt: skip


def batch(n=60, classes=7, lead=(), seed=0):
    draw = torch.Generator().manual_seed(seed)
    outputs = torch.randn(*lead, n, classes, generator=draw, dtype=torch.float64)
    targets = torch.randint(classes, (*lead, n), generator=draw)
    return outputs + 1.5 * torch.nn.functional.one_hot(targets, classes), targets


def slow_auc(outputs, targets):
    """Return the fraction of pairs in the right order, ties counted half, averaged over classes."""
    areas = []
    scores = outputs.softmax(-1)
    for c in set(targets.tolist()):
        inside, outside = scores[targets == c, c].tolist(), scores[targets != c, c].tolist()
        if outside:
            pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in itertools.product(inside, outside)]
            areas.append(sum(pairs) / len(pairs))
    return sum(areas) / len(areas) if areas else math.nan


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("different", [60, 12, 3, 1])
def test_auc_is_the_fraction_of_pairs_in_the_right_order(classes, different):
    outputs, targets = batch(classes=classes)
    outputs = outputs[torch.arange(60) % different]
    assert functional.auc(outputs, targets).item() == pytest.approx(slow_auc(outputs, targets), abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_auc_equals_that_of_scikit_learn(ties):
    outputs, targets = batch(n=200)
    if ties:
        outputs = outputs[torch.arange(200) % 15]
    p = outputs.softmax(-1)
    expected = roc_auc_score(targets, p, multi_class="ovr")
    assert functional.auc(outputs, targets).item() == pytest.approx(expected, abs=1e-12)
    two, sides = outputs[:, :2], targets % 2
    assert functional.auc(two, sides).item() == pytest.approx(roc_auc_score(sides, two.softmax(-1)[:, 1]), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [4, 6, 10, 33])
def test_auc_of_equal_rows_is_one_half_at_every_place_of_a_tensor(n, dtype):
    """Kernels compute the end of a tensor by other instructions than the rest, with other last bits."""
    for classes, seed in itertools.product((3, 4, 5, 10), range(20)):
        row = torch.randn(classes, generator=torch.Generator().manual_seed(seed), dtype=dtype)
        assert functional.auc(row.expand(n, classes).contiguous(), torch.arange(n) % classes) == 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_auc_counts_shifted_and_permuted_rows_as_ties(dtype):
    """The score of a class depends on the set of its differences from the other outputs only."""
    draw = torch.Generator().manual_seed(0)
    rows = torch.randint(-3, 4, (4, 5), generator=draw)
    outputs = torch.stack([rows[i % 4][torch.randperm(5, generator=draw)] for i in range(200)])
    targets = torch.randint(5, (200,), generator=draw)
    odds = [[-math.log(math.fsum(math.exp(b - a) for b in row)) for a in row] for row in outputs.tolist()]
    exact = [[round(score, 9) for score in column] for column in zip(*odds, strict=True)]
    expected = sum(roc_auc_score(targets == c, exact[c]) for c in range(5)) / 5
    shifted = outputs + torch.randint(-1000, 1000, (200, 1), generator=draw)
    assert functional.auc(shifted.to(dtype), targets).item() == pytest.approx(expected, abs=1e-6)


def test_auc_averages_over_the_classes_that_occur():
    outputs, targets = batch(classes=7)
    targets = targets.clamp(max=4)
    assert functional.auc(outputs, targets).item() == pytest.approx(slow_auc(outputs, targets), abs=1e-12)


def test_auc_of_one_class_or_of_nan_is_nan():
    outputs, targets = batch()
    assert functional.auc(outputs, torch.zeros_like(targets)).isnan()
    outputs[3, 2] = math.nan
    assert functional.auc(outputs, targets).isnan()
    lanes = torch.stack([batch()[0], outputs])
    assert functional.auc(lanes, targets.expand(2, -1)).isnan().tolist() == [False, True]


def test_auc_of_perfect_equal_and_opposite_outputs():
    _, targets = batch()
    truth = torch.nn.functional.one_hot(targets, 7).double()
    assert functional.auc(9 * truth, targets) == 1.0
    assert functional.auc(0 * truth, targets) == 0.5
    assert functional.auc(-9 * truth, targets) == 0.0


def test_sums_of_ranks_are_exact_in_float32():
    """The sum of 60,000 ranks is far above 2^24."""
    draw = torch.Generator().manual_seed(0)
    targets = (torch.arange(60_000) < 59_990).long()
    outputs = torch.randn(60_000, 2, generator=draw)
    expected = functional.auc(outputs.double(), targets)
    torch.testing.assert_close(functional.auc(outputs, targets).double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_auc_tells_apart_probabilities_that_round_to_one(classes):
    """In float32 a softmax rounds to one if the largest output exceeds the others by 17."""
    outputs, targets = batch(n=200, classes=classes)
    outputs = (1000 * outputs).round()
    others = outputs.unsqueeze(-2).masked_fill(torch.eye(classes).bool(), -math.inf).amax(-1)
    areas = [roc_auc_score(targets == c, (outputs - others)[:, c]) for c in range(classes)]
    assert functional.auc(outputs.float(), targets).item() == pytest.approx(sum(areas) / classes, abs=1e-6)


@pytest.mark.parametrize("infinite", [math.inf, -math.inf])
def test_auc_of_one_infinite_output_is_finite_and_of_several_nan(infinite):
    outputs, targets = batch()
    outputs[3, 2] = infinite
    finite = outputs.clamp(-1e6, 1e6)
    assert functional.auc(outputs, targets).item() == pytest.approx(functional.auc(finite, targets).item(), abs=1e-12)
    outputs[3] = infinite
    assert functional.auc(outputs, targets).isnan()


def test_top5_equals_that_of_scikit_learn():
    outputs, targets = batch(n=200)
    expected = top_k_accuracy_score(targets, outputs, k=5, labels=range(7))
    assert functional.top5(outputs, targets).item() == pytest.approx(expected)
    assert functional.accuracy(outputs, targets) < functional.top5(outputs, targets) < 1


def test_of_equal_outputs_those_of_the_first_classes_are_the_larger_ones():
    draw = torch.Generator().manual_seed(0)
    outputs, targets = torch.randint(3, (300, 9), generator=draw).double(), torch.randint(9, (300,), generator=draw)
    ranked = [sorted(range(9), key=lambda j, row=row: (-row[j], j)) for row in outputs.tolist()]
    for metric, k in ((functional.accuracy, 1), (functional.top5, 5)):
        hits = sum(y in order[:k] for y, order in zip(targets.tolist(), ranked, strict=True))
        assert metric(outputs, targets).item() == pytest.approx(hits / 300)
    outputs[:, 3] = math.nan
    assert functional.top5(outputs, torch.full_like(targets, 3)) == 0.0


@pytest.mark.parametrize("metric", ["f1", "precision", "recall"])
@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("lacking", [False, True])
def test_counts_of_a_class_equal_those_of_scikit_learn(metric, classes, lacking):
    """Binary for two classes, else the mean over the classes that occur or are predicted; 0 for 0 / 0."""
    outputs, targets = batch(classes=classes)
    if lacking:  # the first class never occurs, and the last one is never predicted
        targets[targets == 0] = classes - 1
        outputs[:, -1] = -math.inf
    oracle = getattr(sklearn.metrics, f"{metric}_score")
    average = "binary" if classes == 2 else "macro"
    expected = oracle(targets, outputs.argmax(-1), average=average, zero_division=0)
    assert getattr(functional, metric)(outputs, targets).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_balanced_accuracy_equals_that_of_scikit_learn(classes):
    outputs, targets = batch(classes=classes)
    outputs[:, -1] += 3  # a class that is predicted too often
    targets[targets == 1] = 0
    with pytest.warns(UserWarning, match="not in y_true"):
        expected = sklearn.metrics.balanced_accuracy_score(targets, outputs.argmax(-1))
    assert functional.balanced_accuracy(outputs, targets).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("different", [200, 15, 1])
def test_average_precision_equals_that_of_scikit_learn(classes, different):
    outputs, targets = batch(n=200, classes=classes)
    outputs = outputs[torch.arange(200) % different]
    scores = outputs.softmax(-1).numpy()
    one_hot = np.eye(classes)[targets]
    expected = sklearn.metrics.average_precision_score(one_hot[:, -1] if classes == 2 else one_hot,
                                                       scores[:, -1] if classes == 2 else scores)  # fmt: skip
    assert functional.average_precision(outputs, targets).item() == pytest.approx(expected, abs=1e-9)


def test_average_precision_is_over_the_classes_that_occur():
    outputs, targets = batch(classes=4)
    without = targets.where(targets != 3, 0)
    p = outputs.softmax(-1)
    each = [sklearn.metrics.average_precision_score(without == c, p[:, c]) for c in range(3)]
    assert functional.average_precision(outputs, without).item() == pytest.approx(sum(each) / 3, abs=1e-12)
    outputs[4, 1] = math.nan
    assert functional.average_precision(outputs, targets).isnan()


def slow_calibration_error(outputs, targets, bins=15):
    """Return the expected calibration error, bin by bin."""
    rows = [(max(p), p.index(max(p)) == y) for p, y in zip(outputs.softmax(-1).tolist(), targets.tolist(), strict=True)]
    total = 0.0
    for b in range(bins):
        inside = [row for row in rows if b / bins < row[0] <= (b + 1) / bins]
        if inside:
            confidence, accuracy = (sum(column) / len(inside) for column in zip(*inside, strict=True))
            total += len(inside) / len(rows) * abs(accuracy - confidence)
    return total


@pytest.mark.parametrize("classes", [2, 7])
@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 5.0, 200.0])
def test_calibration_error_is_the_mean_gap_of_the_bins(classes, scale):
    """From equal probabilities to certain predictions."""
    outputs, targets = batch(n=300, classes=classes)
    expected = slow_calibration_error(scale * outputs, targets)
    assert functional.calibration_error(scale * outputs, targets).item() == pytest.approx(expected, abs=1e-12)
    outputs[2, 1] = math.nan
    assert functional.calibration_error(outputs, targets).isnan()


def test_mae_equals_that_of_scikit_learn():
    outputs, targets = batch()[0], batch(seed=1)[0]
    expected = sklearn.metrics.mean_absolute_error(targets, outputs)
    assert functional.mae(outputs, targets).item() == pytest.approx(expected)


@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, 0.7, -1e4])
def test_r2_of_constant_targets_is_nan_whatever_their_mean_rounds_to(value):
    targets = torch.full((2, 1000, 3), value)
    targets[1, 5, 1] += 1.0
    assert functional.r2(torch.zeros_like(targets), targets).isnan().tolist() == [True, False]


@pytest.mark.parametrize("metric", OF_CLASSES)
@pytest.mark.parametrize("lead", [(3,), (2, 3)])
def test_lanes_equal_single_runs_and_probabilities_count_as_the_largest(metric, lead):
    outputs, targets = batch(lead=lead)
    together = metric(outputs, targets)
    assert together.shape == lead
    flat = zip(outputs.flatten(0, -3), targets.flatten(0, -2), strict=True)
    torch.testing.assert_close(together.flatten(), torch.stack([metric(o, y) for o, y in flat]))
    soft = 0.6 * torch.nn.functional.one_hot(targets, 7) + 0.4 / 7
    assert torch.equal(metric(outputs, soft), together)


@pytest.mark.parametrize("metric", OF_CLASSES)
def test_a_number_added_to_all_outputs_of_an_example_changes_nothing(metric):
    outputs, targets = batch()
    shift = torch.randint(-8, 8, (60, 1)).double()
    assert metric(outputs + shift, targets) == pytest.approx(metric(outputs, targets).item(), abs=1e-12)


def test_metrics_are_computed_by_name_in_any_order():
    outputs, targets = batch()
    assert functional.compute_by_name([], outputs, targets) == {}
    for metrics in (OF_CLASSES, OF_CLASSES[::-1]):
        values = functional.compute_by_name([m.__name__ for m in metrics], outputs, targets)
        assert list(values) == [m.__name__ for m in metrics]
        assert all(torch.equal(values[m.__name__], m(outputs, targets)) for m in metrics)
    assert [higher_is_better(f"val/{m.__name__}", {}) for m in OF_CLASSES] == [
        m not in (functional.error, functional.calibration_error) for m in OF_CLASSES
    ]
    assert not higher_is_better("val/mae", {})
    assert {"val/auc", "test/top5", "val/f1", "val/mae"} <= set(HEADLINE)


@pytest.mark.parametrize(("metric", "direction"), [
    ("val/f1", "max"), ("train/f1", "max"), ("last/test/f1", "max"), ("average/val/f1", "max"), ("val/cost/a", "min"),
    ("val/cost", None), ("f1", "max"), ("val/loss", "min"), ("average/test/r2", "max"), ("val/a", None),
])  # fmt: skip
def test_the_direction_of_a_metric_is_declared_or_known(metric, direction):
    assert find_direction(metric, {"f1": "max", "cost/a": "min"}) == direction


# ------------------------------------------------------------------------------------------------ in runs


def test_configured_metrics_are_in_every_row_and_the_summary(tmp_path):
    (summary,), (run,) = train_runs(tmp_path, build_blobs("loss.metrics=[error,auc]", "objective=val/auc"))
    for row in run.rows():
        assert {"train/auc", "val/auc", "train/error"} <= set(row)
        assert "train/accuracy" not in row
    assert {"val/auc", "test/auc", "last/test/auc"} <= set(summary)
    values = {row["step"]: row["val/auc"] for row in run.rows()}
    assert summary["val/auc"] == max(values.values())
    assert summary["best/step"] == min(step for step, value in values.items() if value == max(values.values()))


def test_early_stopping_maximizes_auc(tmp_path):
    stop = ("regularization=early_stopping", "regularization.early_stopping.monitor=val/auc",
            "regularization.early_stopping.patience=2", "regularization.early_stopping.warmup_evaluations=0")  # fmt: skip
    experiment = build_blobs("loss.metrics=[auc]", "epochs=60", "optimizer.lr=0.05", *stop)
    (summary,), (run,) = train_runs(tmp_path, experiment)
    values = [row["val/auc"] for row in run.rows()]
    best = max(values)
    assert len(values) < 60
    assert len(values) - 1 - values.index(best) == 2
    assert summary["status"] == "done"


@pytest.mark.parametrize(
    ("overrides", "key", "words"),
    [
        (("loss.metrics=[top5]",), "loss.metrics", "top5 is always 1 with 3 classes; leave it out"),
        (("loss.metrics=[acuracy]",), "loss.metrics", "one of accuracy, error, top5, auc, f1"),
        (("loss.metrics=auc",), "loss.metrics", "a list"),
        (("objective=val/auc",), "objective", "'auc' is not measured"),
        (
            ("data._target_=mine.Regression", "loss=mse", "loss.metrics=[auc]"),
            "loss.metrics",
            "must be a list [...] of one of r2, mae",
        ),
    ],
)
def test_invalid_metrics_are_refused(overrides, key, words):
    assert_build_refused(lambda: build_blobs(*overrides), key, words)


def test_lanes_with_different_metrics_are_refused(tmp_path):
    with pytest.raises(ValueError, match="lanes must agree in metrics"):
        train_runs(tmp_path, build_blobs(), build_blobs("seed=1", "loss.metrics=[auc]"))
