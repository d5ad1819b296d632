"""The weights of another run: which are taken over, which are trained, and what is left when that run is gone."""

import shutil

import pytest
import torch
from helpers import DEVICE, assert_refused, build_experiment, interrupt_run, load_weights, resume_run, train_runs

from dlopt.config.problems import ConfigError
from dlopt.init.he import He
from dlopt.init.lsuv import Lsuv
from dlopt.init.none import KeepModuleInit
from dlopt.init.pretrained import Pretrained
from dlopt.training.checkpointing import model_state_dict
from dlopt.training.state import TrainState

NET = ("arch=mlp", "arch.widths=[7,6]", "normalization=batch", "batch_size=16", "precision=float64", f"device={DEVICE}")
DATA = ("data=custom", "data._target_=mine.Blobs", "epochs=2")
FIRST = ("hidden.0.weight", "hidden.0.bias", "hidden.1.weight", "hidden.1.bias", "hidden.1.running_mean", "hidden.1.running_var")  # fmt: skip
OTHERS = ("hidden.3.weight", "hidden.3.bias", "hidden.4.weight", "hidden.4.running_mean", "output.weight")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run of another seed, trained."""
    return train_runs(tmp_path_factory.mktemp("source"), build_experiment(*NET, *DATA, "seed=5"))[1][0]


def network(experiment):
    """The state dict at the start of training."""
    training = TrainState([experiment])
    return model_state_dict(training, training.w, training.problem.running, 0)


def taking(source, *keys):
    return (*NET, *DATA, "init=pretrained", f"init.run={source.path}", *keys)


def test_all_of_it_is_taken_over(source):
    found, there = network(build_experiment(*taking(source))), source.load("best")["model"]
    assert found.keys() == there.keys()
    for name, value in found.items():
        assert torch.equal(value.cpu(), there[name]), name


@pytest.mark.parametrize("frozen", ["true", "false"])
def test_the_first_layer_with_its_normalization_is_taken_over_and_the_rest_is_as_without(source, frozen):
    experiment = build_experiment(*taking(source, "init.layers=1", f"init.frozen={frozen}"))
    found, there, plain = (
        network(experiment),
        source.load("best")["model"],
        network(build_experiment(*NET, *DATA, "init=he")),
    )
    for name in FIRST:
        assert torch.equal(found[name].cpu(), there[name])
    for name in OTHERS:
        assert torch.equal(found[name], plain[name])
    assert not torch.equal(plain[FIRST[0]].cpu(), there[FIRST[0]])


def test_the_rest_is_drawn_as_it_is_said(source):
    rest = ("init.layers=2", "init@init.default=xavier", "init.default.gain=2.0")
    found, plain = (
        build_experiment(*taking(source, *rest)),
        build_experiment(*NET, *DATA, "init=xavier", "init.gain=2.0"),
    )
    assert torch.equal(found.w[-21:], plain.w[-21:])
    assert not torch.equal(found.w[:-21], plain.w[:-21])


def test_frozen_layers_do_not_change_and_others_do(source, tmp_path):
    there = source.load("best")["model"]
    for frozen in (True, False):
        keys = taking(source, "init.layers=1", f"init.frozen={frozen}")
        _, (run,) = train_runs(tmp_path / str(frozen), build_experiment(*keys))
        after = run.load("last")["model"]
        assert all(torch.equal(after[name], there[name]) is frozen for name in FIRST[:4])
        assert not torch.equal(after["output.weight"], there["output.weight"])


@pytest.mark.parametrize("frozen", ["true", "false"])
def test_a_run_goes_on_to_the_same_bits_when_the_other_is_gone(source, tmp_path, frozen):
    copy = shutil.copytree(source.path, tmp_path / "copy")
    keys = (*NET, *DATA, "init=pretrained", f"init.run={copy}", "init.layers=1", f"init.frozen={frozen}")
    _, (whole,) = train_runs(tmp_path / "whole", build_experiment(*keys))
    half = interrupt_run(tmp_path / "half", 3, build_experiment(*keys))
    shutil.rmtree(copy)
    with pytest.raises(ConfigError, match=r"init\.run"):
        build_experiment(*keys)
    state = half.latest_checkpoint().content["model"]
    _, half = resume_run(half.path, build_experiment(*keys, saved=state))
    assert torch.equal(load_weights(half), load_weights(whole))


def test_a_run_is_named_by_its_file_too(source):
    one = build_experiment(*taking(source))
    other = build_experiment(*NET, *DATA, "init=pretrained", f"init.run={source.checkpoint('best')}")
    assert torch.equal(one.w, other.w)


def test_runs_in_lanes_agree_in_what_is_not_trained_and_in_running_statistics(source, tmp_path):
    keys = taking(source, "init.layers=1", "init.frozen=true")
    _, solo = train_runs(tmp_path / "solo", build_experiment(*keys))
    _, lanes = train_runs(tmp_path / "lanes", build_experiment(*keys), build_experiment(*keys, "seed=1"))
    torch.testing.assert_close(load_weights(lanes[0]), load_weights(solo[0]), rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="other parameters are trained"):
        train_runs(tmp_path / "a", build_experiment(*keys), build_experiment(*NET, *DATA))
    with pytest.raises(ValueError, match=r"hidden\.1\.running_(mean|var) is not trained, and differs"):
        train_runs(tmp_path / "b", build_experiment(*taking(source, "init.layers=1")), build_experiment(*NET, *DATA))


WRONG = {
    "no run": (["init.run=null"], "init.run", "name a run"),
    "last": (["init.run=last"], "init.run", "another run tomorrow"),
    "a run that is not there": (["init.run=nowhere"], "init.run", "no run"),
    "a file of another kind": (["init.run=pyproject.toml"], "init.run", "cannot be read"),
    "too many layers": (["init.layers=4"], "init.layers", "at most 3"),
    "everything frozen": (["init.frozen=true"], "init.frozen", "nothing to train"),
    "another width": (["arch.widths=[7,5]"], "init.run", "hidden.3.weight, of shape (5, 7), has shape (6, 7) there; take the same network, or fewer"),
    "another depth": (["arch.widths=[7,6,6]"], "init.run", "hidden.6.weight, of shape (6, 6), lacks it"),
    "a rest that looks at data": (["init@init.default=lsuv"], "init.default", "such as he"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused(source, name):
    keys, key, said = WRONG[name]
    with pytest.raises(ConfigError) as found:
        build_experiment(*taking(source, *keys))
    (problem,) = found.value.problems
    assert problem[0] == key
    assert said in problem[1]


def test_another_width_behind_the_layers_that_are_taken_over_does_not_matter(source):
    experiment = build_experiment(*taking(source, "init.layers=1", "arch.widths=[7,9,4]"))
    assert torch.equal(network(experiment)[FIRST[0]].cpu(), source.load("best")["model"][FIRST[0]])


def test_a_rest_draws_alone():
    Pretrained("x", None, False, He())
    Pretrained("x", None, False, KeepModuleInit())
    assert_refused(lambda: Pretrained("x", None, False, Lsuv(0.1, 1)), "default", "Lsuv")
