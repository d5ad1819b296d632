"""Options inside options: the short form and Hydra's form."""

import pytest

from dlopt.config.compose import groups
from dlopt.config.compose.nested_options import from_hydra, load_nested_defaults, read_keys, to_hydra

CONVERTED = {
    "schedule.then=cosine": "schedule@schedule.then=cosine",
    "schedule.then=cosine,step": "schedule@schedule.then=cosine,step",
    "schedule.then=null": "schedule@schedule.then=null",
    "schedule.then.then=cosine": "schedule@schedule.then.then=cosine",
    "schedules.momentum=cosine": "+schedule@schedules.momentum=cosine",
    "schedules.momentum=nothing": "+schedule@schedules.momentum=nothing",
    "schedules.dropout.p=cosine,step": "+schedule@schedules.dropout.p=cosine,step",
    "schedules.gradient_noise.gamma=cosine": "+schedule@schedules.gradient_noise.gamma=cosine",
    "schedules.momentum.then=cosine": "schedule@schedules.momentum.then=cosine",
    "optimizer.groups.bias.lr=0.1,1": "++optimizer.groups.bias.lr=0.1,1",
    "optimizer.groups={a.*: {lr: 2}}": "++optimizer.groups={a.*: {lr: 2}}",
}
UNCHANGED = [
    "schedule=warmup",
    "schedule.then.final=0.1",
    "schedule.then._target_=mine.Sawtooth",
    "schedule.length=3",
    "schedule.thenceforth=cosine",
    "schedule@schedule.then=cosine",
    "schedule.then={_target_: mine.Sawtooth}",
    "schedules.momentum.final=0.2",
    "schedules.momentum.unit=steps",
    "schedules.momentum._target_=mine.Sawtooth",
    "schedules.l2.gamma=0.5",
    "schedules={}",
    "+schedule@schedules.momentum=cosine",
    "optimizer.lr=0.1",
    "epochs=3",
    "hydra.run.dir=a.b",
    "~schedule",
    "-m",
    "--cfg",
]


@pytest.mark.parametrize("argument", CONVERTED)
def test_a_nested_choice_is_converted_to_hydra_and_back(argument):
    assert to_hydra(argument) == CONVERTED[argument]
    assert from_hydra(CONVERTED[argument]) == argument
    assert to_hydra(to_hydra(argument)) == to_hydra(argument)


@pytest.mark.parametrize("argument", UNCHANGED)
def test_other_arguments_are_unchanged(argument):
    assert to_hydra(argument) == argument


def test_from_hydra_does_not_change_values():
    assert from_hydra("name=a@b.c") == "name=a@b.c"
    assert from_hydra("optimizer.lr=0.1") == "optimizer.lr=0.1"


def test_nested_defaults_and_keys_of_a_file(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text(
        "defaults:\n  - _self_\n  - override /loss@_global_.loss: mse\n  - /schedule@then: constant\n"
        "  - /init@inner.deep: he\n_target_: a.B\nlength: 3\n"
    )
    assert load_nested_defaults(file) == {"then": ("schedule", "constant"), "inner.deep": ("init", "he")}
    assert read_keys(file) == {"length", "then", "inner.deep"}
    assert load_nested_defaults(groups.CONF / "schedule" / "cosine.yaml") == {}


def test_nested_options_of_user_defined_folders(tmp_path):
    for group, text in {"optimizer": "defaults:\n- /schedule@warm.rate: constant\n", "schedule": ""}.items():
        (tmp_path / group).mkdir()
        (tmp_path / group / "a.yaml").write_text(text)
    folders = (groups.CONF, tmp_path)
    assert to_hydra("optimizer.warm.rate=cosine", folders) == "schedule@optimizer.warm.rate=cosine"
    assert to_hydra("optimizer.warm.rate.then=cosine", folders) == "schedule@optimizer.warm.rate.then=cosine"
    assert to_hydra("optimizer.warm.rate=cosine") == "optimizer.warm.rate=cosine"
