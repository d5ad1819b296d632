"""The weights of another run: which are copied, which are trained, and resuming without that run."""

import shutil
from collections import OrderedDict

import pytest
import safetensors.torch
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


def get_state_dict(experiment):
    """Return the state dict at the start of training."""
    training = TrainState([experiment])
    return model_state_dict(training, training.w, training.problem.running, 0)


def copying(source, *keys):
    return (*NET, *DATA, "init=pretrained", f"init.run={source.path}", *keys)


def test_all_layers_are_copied(source):
    own, other = get_state_dict(build_experiment(*copying(source))), source.load("best")["model"]
    assert own.keys() == other.keys()
    assert all(torch.equal(value.cpu(), other[name]) for name, value in own.items())


@pytest.mark.parametrize("frozen", ["true", "false"])
def test_only_the_first_layer_with_its_normalization_is_copied(source, frozen):
    experiment = build_experiment(*copying(source, "init.layers=1", f"init.frozen={frozen}"))
    own, other = get_state_dict(experiment), source.load("best")["model"]
    plain = get_state_dict(build_experiment(*NET, *DATA, "init=he"))
    assert all(torch.equal(own[name].cpu(), other[name]) for name in FIRST)
    assert all(torch.equal(own[name], plain[name]) for name in OTHERS)
    assert not torch.equal(plain[FIRST[0]].cpu(), other[FIRST[0]])


def test_no_layer_is_copied_with_layers_0(source):
    """The baseline of a sweep over the number of layers: as without the other run, frozen or not."""
    plain = get_state_dict(build_experiment(*NET, *DATA, "init=he"))
    for frozen in ("true", "false"):
        own = get_state_dict(build_experiment(*copying(source, "init.layers=0", f"init.frozen={frozen}")))
        assert all(torch.equal(value, plain[name]) for name, value in own.items())


def test_the_default_samples_the_other_layers(source):
    rest = ("init.layers=2", "init@init.default=xavier", "init.default.gain=2.0")
    own, plain = (
        build_experiment(*copying(source, *rest)).w,
        build_experiment(*NET, *DATA, "init=xavier", "init.gain=2.0").w,
    )
    assert torch.equal(own[-21:], plain[-21:])
    assert not torch.equal(own[:-21], plain[:-21])


def test_frozen_layers_do_not_change_and_others_do(source, tmp_path):
    there = source.load("best")["model"]
    for frozen in (True, False):
        keys = copying(source, "init.layers=1", f"init.frozen={frozen}")
        _, (run,) = train_runs(tmp_path / str(frozen), build_experiment(*keys))
        after = run.load("last")["model"]
        assert all(torch.equal(after[name], there[name]) is frozen for name in FIRST)
        assert not torch.equal(after["output.weight"], there["output.weight"])


@pytest.mark.parametrize("frozen", ["true", "false"])
def test_a_run_resumes_to_the_same_bits_without_the_other_run(source, tmp_path, frozen):
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


def test_a_run_can_be_named_by_a_checkpoint_file(source):
    one = build_experiment(*copying(source))
    other = build_experiment(*NET, *DATA, "init=pretrained", f"init.run={source.checkpoint('best')}")
    assert torch.equal(one.w, other.w)


def test_runs_in_lanes_must_agree_in_frozen_parameters_and_running_statistics(source, tmp_path):
    keys = copying(source, "init.layers=1", "init.frozen=true", "averaging=swa")
    _, solo = train_runs(tmp_path / "solo", build_experiment(*keys))
    _, lanes = train_runs(tmp_path / "lanes", build_experiment(*keys), build_experiment(*keys, "seed=1"))
    torch.testing.assert_close(load_weights(lanes[0]), load_weights(solo[0]), rtol=1e-9, atol=1e-9)
    averages = [run.load("average")["model"] for run in (*solo, *lanes)]
    there = source.load("best")["model"]
    assert all(torch.equal(average[name], there[name]) for average in averages for name in FIRST)
    with pytest.raises(ValueError, match="other parameters are trained"):
        train_runs(tmp_path / "a", build_experiment(*keys), build_experiment(*NET, *DATA, "averaging=swa"))
    with pytest.raises(ValueError, match=r"hidden\.1\.running_(mean|var) is not trained, and differs"):
        train_runs(tmp_path / "b", build_experiment(*copying(source, "init.layers=1")), build_experiment(*NET, *DATA))


WRONG = {
    "no run": (["init.run=null"], "init.run", "name a run"),
    "last": (["init.run=last"], "init.run", "another run tomorrow"),
    "a run that is not there": (["init.run=nowhere"], "init.run", "no run"),
    "a file of another kind": (["init.run=pyproject.toml"], "init.run", "cannot be read"),
    "too many layers": (["init.layers=4"], "init.layers", "at most 3"),
    "everything frozen": (["init.frozen=true"], "init.frozen", "nothing to train"),
    "another width": (["arch.widths=[7,5]"], "init.run", "hidden.3.weight, of shape (5, 7) here, is (6, 7) there; hidden.3.bias, of shape (5,) here, is (6,) there; hidden.4"),
    "another width of the output": (["arch.widths=[7,5]"], "init.run", "output.weight, of shape (3, 5) here, is (3, 6) there; take the same network, fewer layers (init.layers), or init.match"),
    "another depth": (["arch.widths=[7,6,6]"], "init.run", "hidden.6.weight, of shape (6, 6) here, is missing there"),
    "a shallower one": (["arch.widths=[7]"], "init.run", "output.weight, of shape (3, 7) here, is (3, 6) there; others there: hidden.3.weight (6, 7), hidden.3.bias (6,)"),
    "a pattern that matches nothing": (["init.match=hiden"], "init.match", "hiden matches no parameter"),
    "no pattern": (["init.match=[]"], "init.match", "names no pattern"),
    "a part of another shape": (["init.match=[hidden.1,output]", "arch.widths=[7,5]"], "init.run", "output.weight, of shape (3, 5) here, is (3, 6) there"),
    "a default that needs data": (["init@init.default=lsuv"], "init.default", "such as he"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_run_that_does_not_fit_is_refused(source, name):
    keys, key, words = WRONG[name]
    with pytest.raises(ConfigError) as error:
        build_experiment(*copying(source, *keys))
    ((place, message),) = error.value.problems
    assert place == key
    assert words in message


def test_layers_after_the_copied_ones_may_differ(source):
    experiment = build_experiment(*copying(source, "init.layers=1", "arch.widths=[7,9,4]"))
    assert torch.equal(get_state_dict(experiment)[FIRST[0]].cpu(), source.load("best")["model"][FIRST[0]])


def test_a_default_that_needs_the_whole_network_is_refused():
    Pretrained("x", None, None, False, He(2**0.5))
    Pretrained("x", None, None, False, KeepModuleInit())
    assert_refused(lambda: Pretrained("x", None, None, False, Lsuv(0.1, 1)), "default", "Lsuv")


def test_frozen_normalizations_take_mini_batches_of_one_example(source):
    keys = copying(source, "init.layers=2", "batch_size=1")
    build_experiment(*keys, "init.frozen=true")
    with pytest.raises(ConfigError, match="normalize"):
        build_experiment(*keys, "init.frozen=false")


@pytest.mark.parametrize(("match", "layers"), [("hidden.[01]", "null"), ("[hidden.0,hidden.1]", "2"), ("hidden", "1")])
def test_only_parameters_that_match_are_copied(source, match, layers):
    experiment = build_experiment(*copying(source, f"init.match='{match}'" if "," not in match else f"init.match={match}", f"init.layers={layers}", "arch.widths=[7,9]"))  # fmt: skip
    own, other = get_state_dict(experiment), source.load("best")["model"]
    assert all(torch.equal(own[name].cpu(), other[name]) for name in FIRST)
    assert own["hidden.3.weight"].shape == (9, 7)


def test_copied_layers_learn_at_a_rate_of_their_own(source):
    rate = ("+optimizer.groups.pretrained.lr=0.1", "+optimizer.groups.pretrained.layer_decay=0.5")
    experiment = build_experiment(*copying(source, "init.layers=2", *rate))
    rates = {p.name: p.factors.lr for p in TrainState([experiment]).layout}
    expected = {"hidden.0": 0.025, "hidden.1": 0.025, "hidden.3": 0.05, "hidden.4": 0.05, "output": 1.0}
    assert rates == {name: pytest.approx(expected[name.rpartition(".")[0]]) for name in rates}


@pytest.mark.parametrize("form", ["safetensors", "pt", "wrapped.pt"])
def test_the_weights_can_be_a_state_dict_of_torch(source, tmp_path, form):
    state = source.load("best")["model"]
    file = tmp_path / f"net.{form}"
    if form == "safetensors":
        safetensors.torch.save_file(state, file)
    else:
        torch.save({"epoch": 3, "state_dict": state} if "wrapped" in form else OrderedDict(state), file)
    one = build_experiment(*NET, *DATA, "init=pretrained", f"init.run={file}")
    assert torch.equal(one.w, build_experiment(*copying(source)).w)


def test_files_without_a_state_dict_are_refused(tmp_path):
    for name, content in {"numbers.pt": {"lr": 0.1}, "list.pt": [torch.zeros(2)]}.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(ConfigError, match="neither a checkpoint of a run nor a state dict"):
            build_experiment(*NET, *DATA, "init=pretrained", f"init.run={tmp_path / name}")
    (tmp_path / "broken.safetensors").write_bytes(b"\x08" + bytes(7) + b"[1, 2]  ")
    with pytest.raises(ConfigError, match="not a safetensors file"):
        build_experiment(*NET, *DATA, "init=pretrained", f"init.run={tmp_path / 'broken.safetensors'}")
