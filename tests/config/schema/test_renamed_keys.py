"""Errors for old names of groups, options and keys suggest the new ones."""

import pytest
from helpers import list_options

from dlopt.config.compose import groups
from dlopt.config.compose.hydra_errors import explain
from dlopt.config.compose.static_config import StaticConfig
from dlopt.config.schema.renamed_keys import RENAMED_GROUPS, RENAMED_KEYS, RENAMED_OPTIONS, describe_renamed_key


def list_keys(group: str) -> set[str]:
    """Return the last names of the keys of a group's options."""
    names: set[str] = set()
    for option in groups.list_option_names(group):
        outline = StaticConfig({group: option})
        keys = outline.keys("hydra") if "/" in group else outline.keys(group) | outline.nested_keys(group)
        names |= {name for key in keys for name in key.split(".")[1:]}
    return names


def test_every_new_name_exists_and_no_old_name_does():
    for old, new in RENAMED_GROUPS.items():
        assert new in groups.list_groups()
        assert old not in groups.list_groups()
    for group, options in RENAMED_OPTIONS.items():
        assert set(options.values()) <= set(list_options(group))
        assert not set(options) & set(list_options(group))
    for group, renamed in RENAMED_KEYS.items():
        keys = list_keys({"hydra": "hydra/sweeper", "schedules": "schedule"}.get(group, group))
        assert set(renamed.values()) <= keys, group


@pytest.mark.parametrize(
    ("overrides", "answer"),
    [
        (
            ["regularization=early_stopping", "regularization.early_stopping.min_change=0.1"],
            "min_change is now min_delta",
        ),
        (["schedule=plateau", "schedule.floor=0.1"], "floor is now min_factor"),
        (["optimizer=schedule_free", "optimizer.decay=0.1"], "decay is now weight_decay"),
        (["init=search"], "init=search is now init=layer_scale"),
        (["bias=zeros"], "bias is now bias_init"),
    ],
)
def test_an_old_name_on_the_command_line(overrides, answer):
    ((key, message),) = explain(overrides, ValueError())
    assert message == answer
    assert key in (overrides[-1].partition("=")[0], "init")


def test_the_new_name_is_suggested_only_if_it_is_known():
    assert describe_renamed_key("optimizer.decay", ["lr", "weight_decay"]) == "decay is now weight_decay"
    assert describe_renamed_key("optimizer.decay", ["lr"]) is None
    assert describe_renamed_key("optimizer.base.lr", ["base_optimizer"]) == "base is now base_optimizer"
