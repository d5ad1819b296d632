"""Between steps at which something is due the host does not wait for the device.

On a GPU torch itself says where it waits. On a CPU nothing ever waits, so every operation is looked at that would make
the host wait for another device: those that read a value from it, and those that hand it a number of the host's own.
"""

import contextlib
import dataclasses

import mine
import pytest
import torch
from helpers import DEVICE, build_experiment, train_runs
from test_conformance import CUSTOM, OPTIONS, problem, several
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from dlopt.parts import Step
from dlopt.training import running_metrics
from dlopt.training.recorder import Recorder

GROUPS = ("activation", "augmentation", "averaging", "loss", "normalization", "optimizer", "regularization", "schedule")
ATEN = torch.ops.aten
READS = {
    ATEN._local_scalar_dense, ATEN.is_nonzero, ATEN.item, ATEN.equal, ATEN.nonzero, ATEN.masked_select, ATEN.bincount,
    ATEN.unique_dim, ATEN.unique_consecutive, ATEN._unique, ATEN._unique2, ATEN.repeat_interleave, ATEN._linalg_check_errors,
}  # fmt: skip
"""Operations whose result, or its shape, the host must know."""
INDEXES = {ATEN.index, ATEN.index_put, ATEN.index_put_, ATEN._index_put_impl_}
METHODS = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu, torch.Tensor.__array__}
"""Ways to the host that are no operation on a CPU."""
FACTORIES = {torch.tensor, torch.as_tensor}
"""Ways from the host to a device that is named: the copy waits for all that the device still has to do."""


class Operations(TorchDispatchMode):
    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket
        masked = name in INDEXES and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        if name in READS or masked:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


class Calls(TorchFunctionMode):
    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in METHODS or (func in FACTORIES and kwargs.get("device") is not None):
            self.found.append(func.__name__)
        return func(*args, **kwargs)


@contextlib.contextmanager
def listening(found):
    """Take down whatever makes the host wait; on a GPU it is an error at once."""
    if DEVICE.startswith("cuda"):
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
    else:
        with Calls(found), Operations(found):
            yield


@pytest.fixture
def waits(monkeypatch):
    """What made the host wait in the steps of runs, but for the first, in which constants go to the device once."""
    found, listener = [], contextlib.ExitStack()
    goes_on, is_due = Recorder.should_continue, Recorder.anything_due

    def begins(journal):
        answer = goes_on(journal)
        if answer and journal.training.step > 0:
            listener.enter_context(listening(found))
        return answer

    def ends(journal):
        answer = is_due(journal)
        listener.close()
        return answer

    monkeypatch.setattr(Recorder, "should_continue", begins)
    monkeypatch.setattr(Recorder, "anything_due", ends)
    with listener:
        yield found


def chosen(group, option):
    """The option on a problem that suits it, with several epochs and an incomplete last batch in each."""
    if option != "custom":
        return [f"{group}={option}", *problem(group, option), "batch_size=20"]
    target, *keys = CUSTOM[group]
    at = f"{group}.custom" if several(group) else group
    own = [f"{group}=custom", f"{at}._target_={target}", *(f"+{at}.{key}" for key in keys)]
    return [*problem(group, option), *own, "batch_size=20"]


OF_STEPS = [(g, o) for g, o in OPTIONS if g in GROUPS] + [(g, "custom") for g in GROUPS]


def alone_and_in_lanes(folder, experiment):
    other = dataclasses.replace(experiment, settings=dataclasses.replace(experiment.settings, seed=1))
    train_runs(folder / "alone", experiment)
    train_runs(folder / "lanes", experiment, other)


@pytest.mark.parametrize(("group", "option"), OF_STEPS)
def test_a_step_does_not_wait_for_the_device(group, option, tmp_path, waits):
    experiment = build_experiment(*chosen(group, option))
    if not experiment.optimizer.lanes:
        pytest.skip("a rule that decides on the host says lanes = False")
    alone_and_in_lanes(tmp_path, experiment)
    assert waits == []


@pytest.mark.parametrize("option", ["gradients", "activations", "histograms"])
def test_neither_does_a_measurement_before_its_row(option, tmp_path, waits):
    often = ("normalization=batch", "regularization=dropout", "schedule=cosine", f"diagnostic.{option}.every=1")
    alone_and_in_lanes(tmp_path, build_experiment(*problem("diagnostic", option), f"diagnostic={option}", *often))
    assert waits == []


def test_nor_do_outputs_that_are_too_many_to_be_kept(tmp_path, waits, monkeypatch):
    """Their metrics are computed at once, here of two whole batches and a smaller one."""
    monkeypatch.setattr(running_metrics, "MAX_BUFFERED", 3 * 45)
    experiment = build_experiment(*problem("optimizer", "sgd"), "batch_size=20", "eval_every=2")
    folded = []
    fold = running_metrics.RunningMetrics._fold
    monkeypatch.setattr(running_metrics.RunningMetrics, "_fold", lambda window: folded.append(fold(window)))
    alone_and_in_lanes(tmp_path, experiment)
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
def test_what_waits_is_heard(name):
    x, found = torch.ones(3, device=DEVICE), []
    try:
        with listening(found):
            WAITING[name](x)
    except RuntimeError as error:  # torch's own way to say so, on a GPU
        found.append(error)
    assert found


@pytest.mark.skipif(DEVICE != "cpu", reason="there it is an error")
def test_a_rule_that_looks_at_its_loss_is_heard_at_every_step_but_the_first(tmp_path, waits, monkeypatch):
    def step(rule, w, state, objective):
        loss, g = objective.gradient(w)
        return Step(w - rule.lr * g.sign() if loss > 0 else w, state, loss, g)

    monkeypatch.setattr(mine.Sign, "step", step)
    train_runs(tmp_path, build_experiment(*chosen("optimizer", "custom")))
    assert len(waits) == 5
