"""Every option of every group is trained, saved, resumed and trained in lanes, for a few steps."""

import math
from typing import Any

import pytest
import torch
import yaml
from helpers import (
    DEVICE,
    build_experiment,
    choose_option,
    find_key,
    interrupt_run,
    load_weights,
    resume_run,
    train_configured,
    train_runs,
    write_data_files,
)
from hydra.utils import get_object

from dlopt.config.compose import groups

OPTIONS = [
    (g, o) for g in groups.list_groups() if g != "experiment" for o in groups.list_option_names(g) if o != "custom"
]

CUSTOM = {
    "activation": ("mine.Square",),
    "arch": ("mine.NormDropoutNet",),
    "augmentation": ("mine.Jitter", "size=0.1"),
    "averaging": ("mine.RunningMean",),
    "bias_init": ("mine.ConstantInit",),
    "data": ("mine.Blobs",),
    "diagnostic": ("mine.StepLength", "every=2"),
    "distillation": ("mine.Match", "teacher=null", "trust=true", "weight=0.5"),
    "init": ("mine.ConstantInit",),
    "linesearch": ("mine.Halving", "tries=30"),
    "loss": ("mine.Hinge",),
    "normalization": ("mine.LayerNorm",),
    "optimizer": ("mine.Sign", "lr=0.01"),
    "preprocess": ("mine.Negation",),
    "regularization": ("mine.PullBack", "share=0.5"),
    "schedule": ("mine.Sawtooth",),
}


SERIES = ("rnn", "gru", "lstm", "transformer")
NETWORK_SHAPES = {
    **dict.fromkeys(("cnn", "resnet", "vgg", "googlenet", "deepobs_2c2d"), "[2,6,6]"),
    **dict.fromkeys(SERIES, "[2,5]"),
    "deepobs_3c3d": "[1,9,9]",
}
"""Shapes of examples for networks that do not take features."""
SMALL = {
    "cnn": ["arch.channels=[3,3]", "arch.kernels=[3,2]"],
    "resnet": ["arch.channels=[3,4]", "arch.blocks=1"],
    **{name: ["arch.width=0.05"] for name in ("vgg", "googlenet")},
    **{name: ["arch.width=4"] for name in SERIES},
}
"""Keys that make a network small."""
SEQUENCES = {
    "adding": ["data.length=8"],
    "characters": ["data.length=8"],
    "copying": ["data.delay=4", "data.word=2"],
    "sequential_digits": [],
    "text": ["data.length=8"],
}
"""Data of sequences, and keys that make them short."""
SHAPES = {0: "[4]", 1: "[1,8]", 2: "[2,6,6]"}


def problem(group: str, option: str) -> list[str]:
    """Return overrides for a small problem that suits the option."""
    shape = NETWORK_SHAPES.get(option) or SHAPES[max(dims(group, option))]
    common = ["batch_size=16", "epochs=2", f"device={DEVICE}", "precision=float64"]
    if option in ("surface", "quadratic") or (group, option) == ("data", "none"):
        data = "quadratic" if option == "quadratic" else "none"
        return [*common[1:], f"data={data}", "epochs=4", "batch_size=full"]
    if group == "data" and option in SEQUENCES:
        common += ["arch=lstm", "arch.width=4", *SEQUENCES[option]]
    elif group != "arch":
        common += ["arch=mlp", "arch.widths=[6]"]
    if group != "data" or option == "custom":
        is_of_pixels = declares(group, option, "uses_pixels")
        pixels = ["data._target_=mine.Pixels", "+data.shape=[3,6,6]", "preprocess=per_channel"]
        common += ["data=custom", *(pixels if is_of_pixels else ["data._target_=mine.Blobs", f"+data.shape={shape}"])]
    else:
        common += ["data.train_size=60"]
    if group == "loss" and option in ("mse", "output", "huber", "l1"):
        common = [c for c in common if "data" not in c] + ["data=custom", "data._target_=mine.Regression"]
    if option == "muon":
        common += ["arch.widths=[6,6]"]
    if (group, option) == ("loss", "nll"):
        common = [c for c in common if "arch" not in c] + ["arch=custom", "arch._target_=mine.LogProbabilities"]
    if option == "stochastic_depth":
        common = [c for c in common if "arch" not in c and "shape" not in c]
        common += ["arch=resnet", *SMALL["resnet"], f"+data.shape={SHAPES[1]}"]
    if option in ("warmup", "sequence"):
        common += ["schedule.length=1"]
    if (group, option) == ("normalization", "group"):
        common += ["normalization.groups=2"]
    if option == "forget_gate":
        common = [c for c in common if "arch" not in c] + ["arch=custom", "arch._target_=mine.LSTMNet"]
    return common + SMALL.get(option, [])


def dims(group: str, option: str) -> tuple[int, ...]:
    """Return the numbers of spatial dimensions that an option supports; 0, features, if it does not declare them."""
    return declares(group, option, "dims") or (0,)


def declares(group: str, option: str, name: str) -> Any:
    """Return what the class of an option declares under a name; None if it does not."""
    node = yaml.safe_load((groups.CONF / group / f"{option}.yaml").read_text()) or {}
    parts = [
        get_object(n["_target_"]) for n in node.values() if isinstance(n, dict) and n.get("_target_", "???") != "???"
    ]
    return next((getattr(part, name) for part in parts if hasattr(part, name)), None)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_an_option_trains_saves_and_resumes(group, option, tmp_path):
    files = write_data_files(option, tmp_path) if group == "data" else []
    if option == "pretrained":
        _, (source,) = train_runs(tmp_path / "source", build_experiment(*problem(group, option), "epochs=1"))
        files = [f"init.run={source.path}"]
    if group == "distillation" and option != "none":
        files = make_teacher(tmp_path)
    check([*choose_option(group, option), *problem(group, option), *files], tmp_path)


@pytest.mark.parametrize("group", CUSTOM)
def test_a_custom_component_trains_saves_and_resumes(group, tmp_path):
    files = make_teacher(tmp_path) if group == "distillation" else []
    check([*problem(group, "custom"), *choose_custom(group), *files], tmp_path)


def make_teacher(folder) -> list[str]:
    """Train a teacher, and return overrides that name it."""
    teacher = train_configured(folder / "teacher", *problem("distillation", "soft_targets"), "epochs=1")
    return [f"distillation.teacher={teacher.path}", "distillation.trust=true"]


@pytest.mark.parametrize("arch", ["rnn", "gru", "lstm", "transformer"])
@pytest.mark.parametrize("keys", [("+data.per_step=true",), ("+data.kind=series", "preprocess=per_channel")])
def test_a_network_on_sequences_of_different_lengths_trains_saves_and_resumes(arch, keys, tmp_path):
    common = [o for o in problem("arch", arch) if "data" not in o]
    check([f"arch={arch}", *common, "data=custom", "data._target_=mine.Sequences", *keys], tmp_path)


def choose_custom(group: str) -> list[str]:
    """Return the overrides that choose the custom component of a group."""
    target, *keys = CUSTOM[group]
    at = f"{group}.custom" if groups.takes_several(group) else find_key(group)
    return [*choose_option(group, "custom"), f"{at}._target_={target}", *(f"+{at}.{key}" for key in keys)]


def test_every_group_has_a_custom_component_here():
    assert set(CUSTOM) == set(groups.list_groups()) - {"experiment"}


def check(overrides: list[str], folder) -> None:
    (summary,), (run,) = train_runs(folder / "whole", build_experiment(*overrides))
    assert summary["status"] == "done"
    assert all(math.isfinite(row.get("train/loss", 0.0)) for row in run.rows())
    assert torch.isfinite(load_weights(run)).all()
    assert math.isfinite(summary["test/loss"])

    half = interrupt_run(folder / "half", summary["step"] // 2, build_experiment(*overrides))
    _, half = resume_run(half.path, build_experiment(*overrides))
    assert torch.equal(load_weights(half), load_weights(run))

    one, two = build_experiment(*overrides), build_experiment(*overrides, "seed=1")
    if not one.optimizer.lanes:
        with pytest.raises(ValueError, match="cannot train runs in lanes"):
            train_runs(folder / "lanes", one, two)
        return
    _, lanes = train_runs(folder / "lanes", one, two)
    torch.testing.assert_close(load_weights(lanes[0]), load_weights(run), rtol=1e-9, atol=1e-9)


@pytest.mark.long
@pytest.mark.parametrize("batch", ["16", "full"])
@pytest.mark.parametrize("option", [o for group, o in OPTIONS if group == "optimizer"])
def test_all_diagnostics_leave_every_optimizer_as_it_is(option, batch, tmp_path):
    """The same bits of weights and the same number of evaluations, also if every step has the same function."""
    diagnostics = [o for o in groups.list_option_names("diagnostic") if o not in ("custom", "none")]
    watched = [f"diagnostic=[{','.join(diagnostics)}]", *(f"diagnostic.{o}.every=1" for o in diagnostics)]
    overrides = [*problem("optimizer", option), f"optimizer={option}", f"batch_size={batch}"]
    (plain,), (run,) = train_runs(tmp_path / "plain", build_experiment(*overrides))
    (summary,), (measured,) = train_runs(tmp_path / "measured", build_experiment(*overrides, *watched))
    assert torch.equal(load_weights(run), load_weights(measured))
    assert summary["evaluations"] == plain["evaluations"]
    assert any("curvature/trace" in row for row in measured.rows())
