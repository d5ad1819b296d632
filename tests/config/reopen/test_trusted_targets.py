"""A configuration may name the options of dlopt and the classes of torch, and nothing else."""

import inspect
import sys

import pytest
import torch
import yaml
from helpers import compose_every_option
from hydra.utils import get_object
from torch import nn

from dlopt.config.compose import groups
from dlopt.config.problems import Problems
from dlopt.config.reopen import trusted_targets


def find_problems(config):
    collected = Problems()
    trusted_targets.check(config, collected)
    return dict(collected.errors)


def test_every_option_of_dlopt_may_be_opened():
    refused = {(g, o): wrong for (g, o), tree in compose_every_option().items() if (wrong := find_problems({g: tree}))}
    assert refused == {}


@pytest.mark.parametrize("module", [nn, nn.modules, torch.optim], ids=lambda m: m.__name__)
def test_the_classes_of_torch_may_be_named(module):
    kinds = (nn.Module, torch.optim.Optimizer)
    classes = {n: c for n, c in vars(module).items() if inspect.isclass(c) and issubclass(c, kinds)}
    assert len(classes) > 10
    for name, cls in classes.items():
        expected = cls if f"{cls.__module__}.".startswith(("torch.nn.modules.", "torch.optim.")) else None
        assert trusted_targets.find_class(f"{module.__name__}.{name}") is expected
        if expected:
            assert trusted_targets.find_class(f"{cls.__module__}.{cls.__qualname__}") is cls


def iter_names():
    """Yield every dotted name up to two attributes below the modules of dlopt, torch.nn and torch.optim."""
    places = [m for n, m in sorted(sys.modules.items()) if n.startswith(("torch.nn", "torch.optim", "dlopt.")) and m]
    for module in places:
        for name, value in list(vars(module).items()):
            yield f"{module.__name__}.{name}"
            if inspect.ismodule(value) or inspect.isclass(value):
                yield from (f"{module.__name__}.{name}.{inner}" for inner in list(vars(value)))


def test_accepted_names_are_component_classes_and_hydra_finds_the_same():
    accepted = 0
    for name in iter_names():
        cls = trusted_targets.find_class(name)
        if cls is not None:
            accepted += 1
            assert get_object(name) is cls
            assert inspect.isclass(cls)
            of_ours = cls.__module__.startswith(tuple(f"dlopt.{g}." for g in groups.list_groups()))
            assert of_ours or issubclass(cls, (nn.Module, torch.optim.Optimizer))
    assert accepted > 300


@pytest.mark.parametrize(
    "name",
    ["", ".", "torch", "torch.nn", "dlopt.arch", "dlopt.arch.cnn", "dlopt.arch.cnn.", "dlopt.arch.cnn.nn", "dlopt.arch.cnn.CNN.forward",
     "dlopt.arch.__init__.CNN", "dlopt.rundir.directory.RunDirectory", "dlopt.parts.Data", "dlopt.optimizer.adam.Optimizer", "torch.Tensor", "torch.nn.Parameter",
     "torch.nn.modules.module.torch.nn.Linear", "torch.optim.lr_scheduler.LambdaLR", "torch.optim.swa_utils.AveragedModel", "numpy.load",
     None, 3, ["os.system"], {"a": 1}],
)  # fmt: skip
def test_other_names_are_refused(name):
    assert trusted_targets.find_class(name) is None


def test_checking_imports_nothing(tmp_path, monkeypatch):
    (tmp_path / "outsider.py").write_text("raise AssertionError\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    for name in ("outsider.Part", "torch.utils.tensorboard.SummaryWriter", "antigravity.x", "dlopt.cli.main"):
        assert find_problems({"arch": {"_target_": name}}).keys() == {"arch._target_"}
    assert set(sys.modules) == before


def test_the_problem_names_the_key_and_the_remedy():
    (message,) = find_problems({"a": [{"b": {"_target_": "os.system"}}]}).values()
    assert find_problems({"a": [{"b": {"_target_": "os.system"}}]}).keys() == {"a.0.b._target_"}
    assert "'os.system'" in message
    assert "executes no code" in message
    assert "--trust" in message


@pytest.mark.parametrize("key", ["_args_", "_partial_", "_recursive_", "_convert_"])
def test_keys_of_hydra_are_refused(key):
    for node in ({"_target_": "torch.nn.Identity", key: []}, {key: []}):
        assert find_problems({"arch": node}).keys() == {f"arch.{key}"}


def test_an_optimizer_of_torch_is_named_by_name_or_path():
    node = {"_target_": "dlopt.optimizer.torch_optim.TorchOptim", "lr": 0.1, "options": {}}
    for name in ("AdamW", "torch.optim.SGD", "torch.optim.adam.Adam"):
        assert find_problems({"optimizer": {**node, "name": name}}) == {}
    for name in ("mine.Lion", "torch.hub.load", "os.system", "Nothing", None, 3):
        assert find_problems({"optimizer": {**node, "name": name}}).keys() == {"optimizer.name"}


def test_huge_numbers_for_classes_of_torch_are_refused():
    for node in (
        {"_target_": "torch.nn.LSTM", "num_layers": 10**9},
        {"_target_": "torch.nn.Fold", "output_size": [2, [10**9]]},
        {"_target_": "torch.nn.Sequential", "inner": {"more": 10**9}},
    ):
        (problem,) = find_problems({"arch": node}).items()
        assert problem[0].startswith("arch.")
        assert "at most 1,000,000" in problem[1]
        assert "--trust" in problem[1]
    node = {"_target_": "dlopt.optimizer.torch_optim.TorchOptim", "name": "LBFGS", "lr": 0.1}
    assert find_problems({"optimizer": {**node, "options": {"max_iter": 10**12}}}).keys() == {
        "optimizer.options.max_iter"
    }
    assert find_problems({"optimizer": {**node, "options": {"max_iter": 10**6}}, "seed": 2**32 - 1}) == {}


def test_data_are_downloaded_from_the_address_of_the_option_only():
    for option in ("mnist", "fashion_mnist", "cifar10"):
        node = yaml.safe_load((groups.CONF / "data" / f"{option}.yaml").read_text())
        assert find_problems({"data": node}) == find_problems({"data": {**node, "url": None}}) == {}
        assert find_problems({"data": {**node, "url": f"{node['url']}x"}}).keys() == {"data.url"}
