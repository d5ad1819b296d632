"""What checkpoints hold, how two of them differ, and that a resumed run equals an uninterrupted one."""

import math
from collections import OrderedDict

import pytest
import torch
from helpers import build_blobs, interrupt_run, load_weights, read_rows, resume_run, train_runs

from dlopt.rundir.writer import RunWriter
from dlopt.training import running_metrics
from dlopt.training.checkpointing import STATE_KEYS, find_differences

ONE = {
    "step": 3,
    "model": {"a": torch.tensor([1.0, -0.0]), "b": torch.zeros(0, 2)},
    "state": (torch.arange(3), [1, {"t": torch.tensor(2.0)}]),
    "row": '{"val/loss": 0.1}',
    "average": None,
    "rate": math.nan,
}


def replace_at(x, place=None, value=None):
    """Return a deep copy, with another value at one place (keys and indices) if one is given."""
    if place == ():
        return value

    def replace_inner(key, y):
        return replace_at(y, place[1:] if place is not None and place[0] == key else None, value)

    if isinstance(x, dict):
        return {key: replace_inner(key, y) for key, y in x.items()}
    if isinstance(x, (tuple, list)):
        return type(x)(replace_inner(i, y) for i, y in enumerate(x))
    return x.clone() if isinstance(x, torch.Tensor) else x


def test_equal_contents_have_no_difference():
    assert list(find_differences(ONE, replace_at(ONE))) == []
    assert list(find_differences(OrderedDict(a=1), {"a": 1})) == []
    assert list(find_differences([1, 2], (1, 2))) == [], "a loaded checkpoint may hold either"
    for value in (torch.tensor(math.nan), torch.tensor([1e-45]), torch.zeros(3, 0), torch.tensor(True)):
        assert list(find_differences(value, value.clone())) == []
    strided = torch.arange(12.0).view(3, 4).T
    assert list(find_differences(strided, strided.contiguous())) == []


@pytest.mark.parametrize(("place", "value"), [
    (("step",), 4),
    (("step",), 3.0),
    (("model", "a"), torch.tensor([1.0, 0.0])),
    (("model", "a"), torch.tensor([1.0 + 2**-23, -0.0])),
    (("model", "a"), torch.tensor([1.0, -0.0], dtype=torch.float64)),
    (("model", "a"), torch.tensor([[1.0, -0.0]])),
    (("model", "a"), torch.tensor([1.0, -0.0]).view(torch.int32)),
    (("model", "a"), [1.0, -0.0]),
    (("model", "b"), torch.zeros(2, 0)),
    (("model", "b"), None),
    (("model",), {"a": torch.tensor([1.0, -0.0])}),
    (("state",), (torch.arange(3),)),
    (("state", 1, 1, "t"), torch.tensor(math.nan)),
    (("row",), '{"val/loss": 0.2}'),
    (("average",), 0),
    (("rate",), 0.0),
])  # fmt: skip
def test_each_difference_is_named_by_its_place(place, value):
    expected = ["".join(f"/{key}" for key in place)]
    assert list(find_differences(ONE, replace_at(ONE, place, value))) == expected
    assert list(find_differences(replace_at(ONE, place, value), ONE)) == expected


def test_all_entries_that_decide_how_a_run_resumes_are_compared(tmp_path):
    """Others: the clock, entries from the configuration, and rows, which are compared separately."""
    _, (run,) = train_runs(tmp_path, build_blobs())
    others = run.load("last").keys() - set(STATE_KEYS)
    assert others == {
        "format",
        "config",
        "settings",
        "preprocessing",
        "encoding",
        "logged",
        "row",
        "history",
        "seconds",
    }


# ------------------------------------------------------------------------------------------- resuming

CLOCK = ("seconds", "steps_per_second", "peak_memory")
RESUMED = {
    "rows within the epoch": (
        ("optimizer=adam", "schedule=cosine", "normalization=batch", "batch_size=10", "log_every=2",
         "regularization=[dropout,early_stopping]"),
        (1, 3, 7, 10),
    ),
    "rows across epochs": (("batch_size=13", "log_every=3", "eval_every=2", "epochs=4"), (4, 5, 8, 11)),
    "what the optimizer reports": (
        ("batch_size=13", "log_every=3", "eval_every=2", "epochs=4", "optimizer=custom", "optimizer._target_=mine.Reporting",
         "+optimizer.lr=0.5"),
        (4, 5, 8, 11),
    ),
    "mixed targets": (
        ("+data.shape=[1,6,6]", "batch_size=13", "epochs=4", "augmentation=[flip_horizontal,cowmix]", "log_every=2"),
        (3, 8),
    ),
    "averages, diagnostics and early best weights": (
        ("averaging=custom", "averaging._target_=mine.RunningMean", "diagnostic=gradients", "diagnostic.gradients.every=1",
         "log_every=1", "optimizer=sgd", "optimizer.lr=30", "precision=float64"),
        (2, 5),
    ),
}  # fmt: skip
"""Overrides, and the steps after which the run is interrupted: within an epoch, within an interval of rows, at the end of
an epoch. With lr = 30 the best evaluation lies before the interruption."""


@pytest.mark.parametrize("buffered", [None, 40])
@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_equals_an_uninterrupted_one(name, buffered, tmp_path, monkeypatch):
    """The same bits and the same rows; also if the outputs of the epoch so far are already reduced to metrics."""
    if buffered is not None:
        monkeypatch.setattr(running_metrics, "MAX_BUFFERED", buffered)
    overrides, stops = RESUMED[name]
    (whole,), (straight,) = train_runs(tmp_path / "straight", build_blobs(*overrides))
    for stop in stops:
        run = interrupt_run(tmp_path / str(stop), stop, build_blobs(*overrides))
        summary, run = resume_run(run.path, build_blobs(*overrides))
        for which in ("last", "best"):
            assert torch.equal(load_weights(run, which), load_weights(straight, which))
        assert read_rows(run) == read_rows(straight)
        assert {k: v for k, v in summary.items() if k not in CLOCK} == {
            k: v for k, v in whole.items() if k not in CLOCK
        }


def test_a_run_without_a_checkpoint_is_rerun_from_the_start(tmp_path):
    _, (straight,) = train_runs(tmp_path / "straight", build_blobs())
    run = RunWriter.create(tmp_path / "run")
    run.log({"step": 3, "epoch": 1.0, "seconds": 1.0, "train/loss": 9.0})
    run.finish("failed")
    _, run = resume_run(run.path, build_blobs())
    assert read_rows(run) == read_rows(straight)
    assert len(list(run.path.glob("events.*"))) == 1


def test_best_weights_of_steps_after_the_checkpoint_are_replaced(tmp_path):
    """A killed process had better weights after its last checkpoint, on a path that the resumed run does not take."""
    run = interrupt_run(tmp_path / "run", 3, build_blobs())
    run.lock.acquire()
    content = run.load("best")
    later = {name: value + 1.0 for name, value in content["model"].items()}
    run.save("best", content | {"step": 6, "model": later})
    run.lock.release()
    summary, _ = resume_run(run.path, build_blobs("optimizer.lr=1e-12"))
    best = run.load("best")
    assert best["step"] == summary["best/step"]
    assert not any(torch.equal(best["model"][name], value) for name, value in later.items())
