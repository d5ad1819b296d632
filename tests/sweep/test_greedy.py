"""Greedy pretraining: which layers each stage gets and trains, and the networks that have no stages."""

import pytest
import torch

from dlopt.cli import main
from dlopt.rundir.directory import RunDirectory

TINY = (
    "train", "-q", "-m", "hydra/sweeper=greedy", "data=digits", "data.train_size=100", "batch_size=20", "steps=6",
    "threads=1", "device=cpu", "hydra.sweep.dir=sweep",
)  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(stage, which="last"):
    return RunDirectory(f"sweep/{stage}").load(which)["model"]


@pytest.mark.parametrize(
    ("keys", "frozen"),
    [
        (("arch=mlp", "arch.widths=[5,6,7]", "normalization=batch", "init=normal", "init.std=0.3"), True),
        (("arch=cnn", "arch.channels=[2,3]", "arch.kernels=[3,3]", "arch.stride=1", "init=pretrained", "init.frozen=false"), False),
    ],
    ids=["frozen", "trained"],
)  # fmt: skip
def test_a_stage_begins_with_the_layers_of_the_one_before(keys, frozen, here, capsys):
    """A frozen layer keeps its bits, with the statistics of its normalization; the last stage trains every weight."""
    assert main([*TINY, *keys]) == 0
    n = 3 if frozen else 2
    for stage in range(1, n):
        former, present = load(stage - 1, "best"), load(stage)
        shared = {name: value for name, value in former.items() if name.startswith("hidden.")}
        assert shared.keys() < present.keys()
        assert {torch.equal(value, present[name]) for name, value in shared.items()} == {frozen}
        assert any(name not in former for name in present)
    former, last = load(n - 1, "best"), load(n)
    assert former.keys() == last.keys()
    assert not any(torch.equal(value, last[name]) for name, value in former.items() if name.endswith("weight"))
    inits = [RunDirectory(f"sweep/{stage}").config()["init"] for stage in range(n + 1)]
    assert [init["layers"] for init in inits] == [*range(n), n + 1]
    assert [init["frozen"] for init in inits] == [frozen] * n + [False]
    if frozen:
        assert {init["default"]["std"] for init in inits} == {0.3}
    capsys.readouterr()
    assert main(["show", "sweep"]) == 0
    table = capsys.readouterr().out.splitlines()[-n - 1 :]
    assert [line.split()[:2] for line in table] == [[str(k + 1), str(k if k < n else n + 1)] for k in range(n + 1)]


REFUSED = {
    "no depth": (["arch=linear"], "arch", "has no depth"),
    "one hidden layer": (["arch=mlp", "arch.widths=[5]"], "arch", "needs two or more"),
    "several layers in a stage": (["arch=resnet"], "arch", "layers with weights at depth 1"),
    "several values": (["arch=mlp", "optimizer.lr=0.1,0.2"], "optimizer.lr", "give one value"),
    "seeds": (["arch=mlp", "hydra.sweeper.seeds=2"], "hydra.sweeper.seeds", "a sweep for each seed"),
    "folds": (["arch=mlp", "validation.scheme=kfold"], "validation.fold", "choose a fold"),
    "a pruner": (["arch=mlp", "hydra.sweeper.pruner=median"], "hydra.sweeper.pruner", "leave it out"),
    "a pool": (["arch=mlp", "hydra/launcher=pool"], "hydra/launcher", "leave out"),
    "a run of its own": (["arch=mlp", "init=pretrained", "init.run=x"], "init.run", "is set by greedy"),
    "an init of a whole network": (["arch=mlp", "init=lsuv"], "init.default", "such as he"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_stages_is_refused(case, here, capsys):
    keys, key, words = REFUSED[case]
    assert main([*TINY, *keys]) == 2
    error = capsys.readouterr().err
    assert f"  {key} " in error
    assert words in error
    assert not (here / "sweep").exists()
