"""Parts of dlopt's own are made as Hydra would make them, and nothing else is made past Hydra."""

import copy
from typing import Any

import hydra.utils
import pytest
from helpers import compose_config, list_options
from omegaconf import OmegaConf

from dlopt.config.compose import groups
from dlopt.config.schema import targets

OPTIONS = [
    (group, option)
    for group in groups.list_groups()
    if group not in ("arch", "experiment")
    for option in list_options(group)
]


def nodes(group: str, option: str) -> list[dict[str, Any]]:
    """What an option's file chooses, with the options inside it."""
    chosen = OmegaConf.to_container(compose_config(f"{group}={option}")[group])
    return [chosen] if groups.is_single(group) else list(chosen.values())


@pytest.fixture
def without_hydra(monkeypatch):
    def called(*_: object, **__: object) -> None:
        raise AssertionError("Hydra is asked")

    monkeypatch.setattr(hydra.utils, "instantiate", called)


def test_each_option_is_instantiated_as_hydra_does_it(request):
    expected, found = {}, {}
    chosen = {f"{group}={option}": [n for n in nodes(group, option) if n] for group, option in OPTIONS}
    for name, several in chosen.items():  # averaging=none has no node
        expected[name] = [repr(hydra.utils.instantiate({**node, "_convert_": "all"})) for node in several]
    request.getfixturevalue("without_hydra")
    for name, several in chosen.items():
        found[name] = [repr(targets.instantiate(node)) for node in several]
    assert found == expected


def test_a_part_shares_no_list_with_the_configuration_that_it_is_made_of(without_hydra):
    node = {"_target_": "dlopt.data.table.TableData", "drop": ["a"], "categorical": [], "path": None, "target": None,
            "missing": "fill", "delimiter": "auto", "test_fraction": 0.2, "kind": "auto", "standardize_target": True,
            "train_size": None, "label_noise": 0.0, "drop_last": False}  # fmt: skip
    before = copy.deepcopy(node)
    part = targets.instantiate(node)
    part.drop.append("b")
    assert node == before


@pytest.mark.parametrize("node", [
    {"_target_": "torch.nn.Identity"},
    {"_target_": "dlopt.parts.nn.Identity"},
    {"_target_": "dlopt.config.schema.targets.Wrapper"},
    {"_target_": "dlopt.init.he.He", "_partial_": False},
    {"_target_": "dlopt.init.he.He", "inner": {"_target_": "torch.nn.Identity"}},
    {"_target_": "dlopt.init.he.He", "inner": [{"deep": {"_target_": "torch.nn.Identity"}}]},
    {"_target_": "dlopt.config.schema.targets.instantiate"},
    {"_target_": "dlopt"},
    {"_target_": 3},
])  # fmt: skip
def test_what_is_not_altogether_of_dlopt_is_left_to_hydra(node, without_hydra):
    with pytest.raises(AssertionError, match="Hydra is asked"):
        targets.instantiate(node)
