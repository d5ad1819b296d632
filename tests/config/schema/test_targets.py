"""Components of dlopt are instantiated as Hydra would; everything else is left to Hydra."""

import copy

import hydra.utils
import pytest
from helpers import compose_every_option

from dlopt.config.compose import groups
from dlopt.config.schema import targets


@pytest.fixture
def without_hydra(monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("Hydra was called")

    monkeypatch.setattr(hydra.utils, "instantiate", fail)


def test_each_option_is_instantiated_as_by_hydra(request):
    nodes = {
        (group, option): [tree] if groups.is_single(group) else list(tree.values())
        for (group, option), tree in compose_every_option().items()
        if group != "arch" and tree  # averaging=none has no node
    }
    assert len(nodes) > 100
    expected = {
        choice: [repr(hydra.utils.instantiate({**node, "_convert_": "all"})) for node in several]
        for choice, several in nodes.items()
    }
    request.getfixturevalue("without_hydra")
    assert {
        choice: [repr(targets.instantiate(node)) for node in several] for choice, several in nodes.items()
    } == expected


def test_a_component_shares_no_list_with_its_configuration(without_hydra):
    node = {"_target_": "dlopt.data.table.TableData", "drop": ["a"], "categorical": [], "path": None, "target": None,
            "missing": "fill", "delimiter": "auto", "decimal": "auto", "test_fraction": 0.2, "kind": "auto", "encoding": "auto",
            "standardize_target": True, "dates": [], "date_format": "auto", "group": None, "time": None,
            "validation_path": None, "test_path": None,
            "train_size": None, "label_noise": 0.0, "drop_last": False, "order": "reshuffle"}  # fmt: skip
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
def test_trees_with_other_classes_are_left_to_hydra(node, without_hydra):
    with pytest.raises(AssertionError, match="Hydra was called"):
        targets.instantiate(node)
