"""The host does not wait for the device between steps at which something is due.

On a GPU torch itself reports waiting. On a CPU nothing waits, so the tests look for operations that would make the host
wait for another device: those that read a value from it, and those that copy a number of the host to it.
"""

import contextlib
import dataclasses

import mine
import pytest
import torch
from helpers import DEVICE, build_experiment, choose_option, train_runs
from test_conformance import OPTIONS, choose_custom, problem
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from dlopt.parts import Step
from dlopt.training import running_metrics
from dlopt.training.recorder import Recorder

GROUPS = (
    *("activation", "augmentation", "averaging", "linesearch", "loss", "normalization", "optimizer", "regularization"),
    "schedule",
)
ATEN = torch.ops.aten
READS = {
    ATEN._local_scalar_dense, ATEN.is_nonzero, ATEN.item, ATEN.equal, ATEN.nonzero, ATEN.masked_select, ATEN.bincount,
    ATEN.unique_dim, ATEN.unique_consecutive, ATEN._unique, ATEN._unique2, ATEN.repeat_interleave, ATEN._linalg_check_errors,
}  # fmt: skip
"""Operations whose result or shape the host must know."""
INDEXES = {ATEN.index, ATEN.index_put, ATEN.index_put_, ATEN._index_put_impl_}
METHODS = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu, torch.Tensor.__array__}
"""Ways to the host that are not dispatched as operations on a CPU."""
FACTORIES = {torch.tensor, torch.as_tensor}
"""Ways from the host to a device: the copy waits until the device has finished."""


class Operations(TorchDispatchMode):
    def __init__(self, waits):
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket
        masked = name in INDEXES and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        if name in READS or masked:
            self.waits.append(str(func))
        return func(*args, **(kwargs or {}))


class Calls(TorchFunctionMode):
    def __init__(self, waits):
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in METHODS or (func in FACTORIES and kwargs.get("device") is not None):
            self.waits.append(func.__name__)
        return func(*args, **kwargs)


@contextlib.contextmanager
def record_waits(waits):
    """Append to `waits` what makes the host wait; on a GPU it is an error at once."""
    if DEVICE.startswith("cuda"):
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
    else:
        with Calls(waits), Operations(waits):
            yield


@pytest.fixture
def waits(monkeypatch):
    """Return what makes the host wait in steps of runs, except in the first, which copies constants to the device."""
    waits, stack = [], contextlib.ExitStack()
    should_continue, anything_due = Recorder.should_continue, Recorder.anything_due

    def begin_step(recorder):
        answer = should_continue(recorder)
        if answer and recorder.training.step > 0:
            stack.enter_context(record_waits(waits))
        return answer

    def end_step(recorder):
        answer = anything_due(recorder)
        stack.close()
        return answer

    monkeypatch.setattr(Recorder, "should_continue", begin_step)
    monkeypatch.setattr(Recorder, "anything_due", end_step)
    with stack:
        yield waits


def choose(group, option):
    """Return overrides for an option on a suitable problem, with epochs whose last batch is smaller."""
    if option != "custom":
        return [*choose_option(group, option), *problem(group, option), "batch_size=20"]
    return [*problem(group, option), *choose_custom(group), "batch_size=20"]


OF_STEPS = [(g, o) for g, o in OPTIONS if g in GROUPS] + [(g, "custom") for g in GROUPS]


def train_solo_and_in_lanes(folder, experiment):
    other = dataclasses.replace(experiment, settings=dataclasses.replace(experiment.settings, seed=1))
    train_runs(folder / "alone", experiment)
    train_runs(folder / "lanes", experiment, other)


@pytest.mark.parametrize(("group", "option"), OF_STEPS)
def test_a_step_does_not_wait_for_the_device(group, option, tmp_path, waits):
    experiment = build_experiment(*choose(group, option))
    if not experiment.optimizer.lanes:
        pytest.skip("an optimizer that decides on the host declares lanes = False")
    if experiment.optimizer.decides_on_host and DEVICE != "cpu":
        pytest.skip("waiting is an error there")
    train_solo_and_in_lanes(tmp_path, experiment)
    assert bool(waits) == experiment.optimizer.decides_on_host


@pytest.mark.parametrize(
    "option",
    ["gradients", "activations", "histograms", "weight_norms", "distance", "alignment", "noise", "gradient_flow"],
)
def test_a_diagnostic_does_not_wait_before_its_row(option, tmp_path, waits):
    often = ("normalization=batch", "regularization=dropout", "schedule=cosine", f"diagnostic.{option}.every=1")
    train_solo_and_in_lanes(tmp_path, build_experiment(*problem("diagnostic", option), f"diagnostic={option}", *often))
    assert waits == []


def test_reducing_outputs_that_exceed_the_buffer_does_not_wait(tmp_path, waits, monkeypatch):
    """The metrics of two full batches and a smaller one are computed during the epoch."""
    monkeypatch.setattr(running_metrics, "MAX_BUFFERED", 3 * 45)
    experiment = build_experiment(*problem("optimizer", "sgd"), "batch_size=20", "eval_every=2")
    folded = []
    fold = running_metrics.RunningMetrics._fold
    monkeypatch.setattr(running_metrics.RunningMetrics, "_fold", lambda metrics: folded.append(fold(metrics)))
    train_solo_and_in_lanes(tmp_path, experiment)
    assert folded
    assert waits == []


WAITING = {
    "item": lambda x: x[0].item(),
    "a test": lambda x: bool(x.sum() > 0),
    "a number": lambda x: float(x[0]),
    "an index": lambda x: torch.arange(3)[x.long()[0]],
    "a list": lambda x: x.tolist(),
    "an array": lambda x: x.cpu().numpy(),
    "a mask": lambda x: x[x > 0],
    "a mask, written": lambda x: x.index_put_((x > 0,), x),
    "nonzero": lambda x: x.nonzero(),
    "comparison": lambda x: torch.equal(x, x + 1),
    "unique values": lambda x: x.unique(),
    "a solver's check": lambda x: torch.linalg.solve(torch.diag(x), x),
    "a number of the host's": lambda x: x + torch.tensor(1.0, device=x.device),
}


@pytest.mark.parametrize("name", WAITING)
def test_operations_that_wait_are_recorded(name):
    x, waits = torch.ones(3, device=DEVICE), []
    try:
        with record_waits(waits):
            WAITING[name](x)
    except RuntimeError as error:  # raised by torch on a GPU
        waits.append(error)
    assert waits


@pytest.mark.skipif(DEVICE != "cpu", reason="an error on a GPU")
def test_an_optimizer_that_reads_its_loss_is_recorded_at_every_step_but_the_first(tmp_path, waits, monkeypatch):
    def step(optimizer, w, state, objective):
        loss, g = objective.gradient(w)
        return Step(w - optimizer.lr * g.sign() if loss > 0 else w, state, loss, g)

    monkeypatch.setattr(mine.Sign, "step", step)
    train_runs(tmp_path, build_experiment(*choose("optimizer", "custom")))
    assert len(waits) == 5
