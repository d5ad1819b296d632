"""diagnostic=weight_norms and diagnostic=distance against norms of the weights in checkpoints."""

import pytest
import torch
from helpers import build_blobs, interrupt_run, load_weights, read_rows, resume_run, train_runs
from torch import nn

from dlopt.base.layout import Layout
from dlopt.diagnostic.distance import Distance
from dlopt.diagnostic.weight_norms import WeightNorms
from dlopt.parts import StepRecord

LAYOUT = Layout.of(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)))


def make_record(after, *, evaluates=False):
    none = torch.zeros(after.shape[:-1])
    return StepRecord(0, after + 1, after, none, after, 0.1, LAYOUT, None, evaluates=evaluates)


def test_norms_are_those_of_the_weights_after_the_step():
    w = torch.randn(2, LAYOUT.size, dtype=torch.float64)
    tags, memory = WeightNorms(None).measure(make_record(w), None)
    assert memory is None
    for layer, s in (("/0", slice(0, 15)), ("/1", slice(15, 23)), ("", slice(None))):
        torch.testing.assert_close(tags.pop(f"weight/norm{layer}"), (w[:, s] ** 2).sum(-1).sqrt())
    assert not tags


def test_distances_are_from_the_start_and_from_the_last_evaluation():
    diagnostic = Distance(None)
    start, *path = torch.randn(4, LAYOUT.size, dtype=torch.float64)
    initial = start.clone()
    memory = diagnostic.init(start, LAYOUT)
    start.zero_()  # the weights are overwritten in place
    reference = initial
    for w, evaluates in zip(path, (False, True, False), strict=True):
        tags, memory = diagnostic.measure(make_record(w.clone(), evaluates=evaluates), memory)
        assert tags["distance/init"].item() == pytest.approx((w - initial).norm().item())
        assert tags["distance/relative"].item() == pytest.approx(((w - initial).norm() / initial.norm()).item())
        assert tags["distance/evaluation"].item() == pytest.approx((w - reference).norm().item())
        reference = w if evaluates else reference


def test_a_start_at_zero_has_no_relative_distance():
    w = torch.zeros(LAYOUT.size)
    tags, _ = Distance(None).measure(make_record(w + 1), Distance(None).init(w, LAYOUT))
    assert tags["distance/relative"] == 0


def test_a_run_measures_distances_at_evaluations_too(tmp_path):
    """Against checkpoints of the same steps; the first row is an evaluation at step 3, the second a measurement at 5."""
    overrides = ("diagnostic=distance", "diagnostic.distance.every=5", "precision=float64", "optimizer=sgd")
    experiment = build_blobs(*overrides)
    _, (run,) = train_runs(tmp_path / "run", experiment)
    w = {
        3 * n: load_weights(train_runs(tmp_path / f"{n}", build_blobs(*overrides, f"epochs={n}"))[1][0]) for n in (1, 2)
    }
    rows = {row["step"]: row for row in read_rows(run) if "distance/init" in row}
    assert list(rows) == [3, 5, 6, 9]
    assert rows[3]["distance/evaluation"] == rows[3]["distance/init"]
    assert rows[6]["distance/evaluation"] == pytest.approx((w[6] - w[3]).norm().item())
    assert rows[6]["distance/init"] == pytest.approx((w[6] - experiment.w.double()).norm().item(), rel=1e-6)


def test_added_on_resume_distances_start_there(tmp_path):
    plain, watched = build_blobs("optimizer=sgd"), build_blobs("optimizer=sgd", "diagnostic=distance")
    run = interrupt_run(tmp_path, 3, plain)
    first = load_weights(run)
    _, run = resume_run(tmp_path, watched)
    last = read_rows(run)[-1]
    assert last["distance/init"] == pytest.approx((load_weights(run) - first).norm().item(), rel=1e-5)
