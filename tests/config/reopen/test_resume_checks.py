"""Settings that change when a run resumes: which are allowed, and which are reported to break exact resumption."""

import pytest
from bits import find_differences, read_final_state
from helpers import BLOBS, compose_config, interrupt_run, resume_run, train_runs
from omegaconf import OmegaConf

from dlopt.config.build import build
from dlopt.config.compose.static_config import flatten
from dlopt.config.problems import ConfigError
from dlopt.config.reopen.resume_checks import (
    CHANGEABLE_KEYS,
    check,
    diff_configs,
    list_breaking_changes,
    merge_overrides,
)
from dlopt.formatting import format_override
from dlopt.rundir.directory import RunDirectory

PARTS = ("optimizer=momentum", "normalization=batch", "regularization=[dropout,l2]", "diagnostic=gradients",
         "log_every=2", "device=cpu", "threads=1", "optimizer.lr=0.05")  # fmt: skip
"""Three steps per epoch; nine in total."""


def make_config(*overrides):
    return OmegaConf.create(OmegaConf.to_container(compose_config(*BLOBS, *PARTS, *overrides), resolve=True))


def list_breaks(before, after, step, kind=""):
    """Return the reported breaks of these changes."""
    breaks = list_breaking_changes(diff_configs(before, after), OmegaConf.to_container(before), build(after)[0], step)
    return [text for text in breaks if kind in text]


def is_training_state(name):
    """Return whether a difference is of weights, best weights, final metrics, or an evaluation's row.

    log_every sets the rows between evaluations, their steps, and the previous reading of a diagnostic.
    """
    between = ("rows", "row ", "last.safetensors: /window", "last.safetensors: /row", "last.safetensors: /diagnostics")
    return not name.startswith(between) and "/gradient/" not in name and "/recent/" not in name


def find_differences_to_uninterrupted(folder, before, after, step):
    """Return how a run resumed with other settings differs from a run that always had them."""
    _, (whole,) = train_runs(folder / "whole", build(after)[0])
    run = interrupt_run(folder / "run", step, build(before)[0])
    _, run = resume_run(run.path, build(after)[0])
    names = find_differences(read_final_state(run), read_final_state(whole))
    evaluated = [[row["step"] for row in r.rows() if "val/loss" in row] for r in (whole, run)]
    return [name for name in names if is_training_state(name)] + (
        ["evaluations"] if evaluated[0] != evaluated[1] else []
    )


# ------------------------------------------------------------------------------------------- breaks

HARMLESS = {
    "checkpoint.every": ([], ["checkpoint.every=2"]),
    "a tolerance": ([], ["tolerance.gradient=1e-9"]),
    "checkpoint.minutes": ([], ["checkpoint.minutes=null"]),
    "checkpoint.keep": (["checkpoint.every=1"], ["checkpoint.every=1", "checkpoint.keep=1"]),
    "longer": ([], ["epochs=5"]),
    "shorter": ([], ["epochs=2"]),
    "length by epochs again": (["steps=11"], ["steps=null"]),
    "a diagnostic": ([], ["diagnostic.gradients.every=3"]),
    "longer, with a step schedule": (["schedule=step", "schedule.every=1"],
                                          ["schedule=step", "schedule.every=1", "epochs=5"]),
}  # fmt: skip


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_changes_are_not_reported_and_change_nothing(name, tmp_path):
    before, after = (make_config(*overrides) for overrides in HARMLESS[name])
    assert diff_configs(before, after)
    assert list_breaks(before, after, step=4) == []
    assert find_differences_to_uninterrupted(tmp_path, before, after, step=4) == []


@pytest.mark.parametrize(
    ("before", "after", "step"), [(2, 3, 4), (2, 3, 6), (2, 4, 6), (2, "null", 3), ("null", 2, 3), ("null", 3, 3)]
)
def test_log_every_is_reported_if_its_next_row_covers_other_steps_and_changes_no_training(
    before, after, step, tmp_path
):
    values = before, after
    before, after = (make_config(f"log_every={n}") for n in values)
    breaks = list_breaks(before, after, step)
    assert find_differences_to_uninterrupted(tmp_path, before, after, step) == []
    recent = [
        [row.get("recent/train/loss") for row in RunDirectory(tmp_path / path).rows() if row["step"] > step]
        for path in ("whole/0", "run")
    ]
    assert (recent[0] != recent[1]) == bool(breaks)
    assert all(text.startswith(f"log_every {values[0]} -> {values[1]}, and the next row") for text in breaks)


BREAKING = {
    "optimizer.lr": (["optimizer.lr=0.1"], "optimizer.lr 0.05 -> 0.1"),
    "optimizer.momentum": (["optimizer.momentum=0.5"], "optimizer.momentum 0.9 -> 0.5"),
    "regularization.l2.strength": (["regularization.l2.strength=0.1"], "regularization.l2.strength "),
    "regularization.dropout.p": (["regularization.dropout.p=0.1"], "regularization.dropout.p 0.5 -> 0.1"),
    "eval_every": (["eval_every=2"], "eval_every 1 -> 2"),
    "micro_batch_size": (["micro_batch_size=5"], "micro_batch_size null -> 5"),
    "clip.norm": (["clip.norm=0.1"], "clip.norm null -> 0.1"),
}


@pytest.mark.parametrize("name", BREAKING)
def test_breaking_changes_are_reported_by_their_keys(name, tmp_path):
    overrides, message = BREAKING[name]
    before, after = make_config(), make_config(*overrides)
    (text,) = list_breaks(before, after, step=4)
    assert text.startswith(message)
    assert find_differences_to_uninterrupted(tmp_path, before, after, step=4) != []


@pytest.mark.parametrize(("length", "schedule"), [
    ("epochs=5", ("schedule=constant",)), ("epochs=5", ("schedule=cosine",)), ("steps=8", ("schedule=cosine",)),
    ("epochs=5", ("schedule=step", "schedule.every=1")), ("steps=8", ("schedule=warmup", "schedule.length=1")),
    ("epochs=5", ("schedule=warmup", "schedule.length=1", "schedule@schedule.then=cosine")),
    ("epochs=5", ("schedule=warmup", "schedule.length=2", "schedule@schedule.then=cosine")),
    ("steps=8", ("schedule=linear",)), ("epochs=5", ("schedule=linear", "schedule.tau=2")),
    ("epochs=5", ("schedule=plateau", "schedule.patience=0", "schedule.threshold=1")),
])  # fmt: skip
def test_a_schedule_is_reported_if_another_length_changes_training(schedule, length, tmp_path):
    before, after = make_config(*schedule), make_config(*schedule, length)
    message = list_breaks(before, after, 4, "the schedule follows the length of the run, which was 9 steps and is ")
    assert bool(message) == (find_differences_to_uninterrupted(tmp_path, before, after, step=4) != [])


@pytest.mark.parametrize(("averaging", "former", "present", "step", "refused"), [
    ("polyak", "steps=60", "steps=15", 12, True), ("polyak", "steps=60", "steps=15", 9, True),
    ("polyak", "steps=60", "steps=15", 8, False), ("polyak", "steps=60", "steps=24", 12, False),
    ("polyak", "steps=20", "steps=15", 12, False), ("polyak", "steps=15", "steps=60", 12, False),
    ("swa", "steps=60", "epochs=5", 12, True), ("swa", "steps=60", "epochs=5", 11, False),
    ("ema", "steps=60", "epochs=5", 12, False), ("none", "steps=60", "epochs=5", 12, False),
])  # fmt: skip
def test_a_run_cannot_end_so_early_that_its_average_would_have_started(
    averaging, former, present, step, refused, tmp_path
):
    """The missed iterates would count as zeros in the average."""
    before, after = (make_config(f"averaging={averaging}", length) for length in (former, present))
    content = interrupt_run(tmp_path, step, build(before)[0]).load("last")
    experiment = build(after)[0]
    if refused:
        key = present.partition("=")[0]
        with pytest.raises(ConfigError, match=rf"{key}  makes 15 steps.*{step} are done without it"):
            check(content, experiment, before)
    else:
        check(content, experiment, before)


@pytest.mark.parametrize(("former", "present", "extra"), [
    (["epochs=3"], ["epochs=5"], False),
    (["steps=8"], ["epochs=3"], True),
    (["steps=8"], ["steps=9"], True),
    (["steps=6"], ["steps=9"], False),
    (["eval_every=2", "epochs=3"], ["eval_every=2", "epochs=5"], True),
    (["eval_every=2", "epochs=2"], ["eval_every=2", "epochs=3"], False),
    (["eval_every=2", "epochs=1"], ["eval_every=1", "epochs=3"], False),
    (["eval_every=1", "epochs=3"], ["eval_every=2", "epochs=5"], True),
])  # fmt: skip
def test_an_extra_evaluation_at_the_previous_end_is_reported(former, present, extra, tmp_path):
    before, after = make_config(*former), make_config(*present)
    (_, (short,)), (_, (long,)) = (train_runs(tmp_path / str(i), build(c)[0]) for i, c in enumerate((before, after)))
    end = short.rows()[-1]["step"]
    assert extra == (end not in [row["step"] for row in long.rows() if "val/loss" in row])
    message = list_breaks(before, after, end, f"the evaluation after step {end}, which was the end, is one more")
    assert bool(message) is extra


@pytest.mark.parametrize(("present", "extra"), [
    (["tolerance.gradient=null"], True), (["tolerance.gradient=1e-9"], True), (["tolerance.gradient=null", "eval_every=2"], True),
    (["tolerance.gradient=2e6"], False), (["log_every=4"], False),
])  # fmt: skip
def test_an_extra_evaluation_at_a_former_tolerance_is_reported(present, extra):
    """The run has ended after its fifth step, within its second epoch."""
    before = make_config("tolerance.gradient=1e6")
    after = OmegaConf.merge(before, OmegaConf.from_dotlist(present))
    row = {"step": 5, "gradient/norm": 2.0}
    breaks = list_breaking_changes(diff_configs(before, after), OmegaConf.to_container(before), build(after)[0], 5, row)
    assert ("the evaluation after step 5, which was the end, is one more" in breaks) is extra


def test_an_interrupted_run_has_no_extra_evaluation():
    before, after = make_config("steps=8"), make_config("steps=9")
    assert list_breaks(before, after, step=7) == []


def test_no_break_is_reported_before_the_first_step():
    before, after = make_config("schedule=cosine"), make_config("schedule=cosine", "epochs=5")
    assert list_breaks(before, after, step=0) == []


def test_all_breaks_are_reported():
    before = make_config("schedule=cosine", "steps=8")
    after = make_config("schedule=cosine", "steps=9", "optimizer.lr=0.1", "log_every=5")
    breaks = list_breaks(before, after, step=8)
    assert [text.split()[0] for text in breaks] == ["optimizer.lr", "log_every", "the", "the"]


# ------------------------------------------------------------------------------------------- allowed changes


def test_changes_hold_both_values_as_typed():
    before = make_config()
    after = merge_overrides(
        before, ["epochs=5", "optimizer.lr=1e-3", "checkpoint.every=7", "log_every=null", "steps=null"]
    )
    assert diff_configs(before, after) == {
        "epochs": ("3", "5"), "optimizer.lr": ("0.05", "0.001"), "checkpoint.every": ("null", "7"),
        "log_every": ("2", "null"),
    }  # fmt: skip
    assert diff_configs(before, before) == {}
    assert before == make_config(), "the previous configuration is not changed"


@pytest.mark.parametrize("key", CHANGEABLE_KEYS)
def test_changeable_keys_exist(key):
    assert key in compose_config()


@pytest.mark.parametrize(
    "overrides", [("optimizer=momentum",), ("optimizer=custom", "optimizer._target_=mine.NormalizedDescent")]
)
def test_every_key_that_a_refusal_offers_can_change(overrides):
    config = OmegaConf.create(OmegaConf.to_container(compose_config(*BLOBS, *overrides), resolve=True))
    with pytest.raises(ConfigError, match=r"may change: epochs, steps, .*, clip\.\*") as error:
        merge_overrides(config, ["seed=1"])
    tree = OmegaConf.to_container(config)
    for offer in str(error.value).rpartition("may change: ")[2].rstrip(")").split(", "):
        key = offer.removesuffix(".*")
        keys = [k for k, _ in flatten({key: tree[key]}) if not k.endswith("_target_")]
        assert keys, offer
        assert (offer == key) == (keys == [key])
        merge_overrides(config, [f"{k}={format_override(OmegaConf.select(config, k))}" for k in keys])


def test_factors_of_parameter_groups_may_change_and_their_weights_may_not():
    keys = ("optimizer.groups.bias.lr=2", "optimizer.groups.new.decay=0.5")
    config = merge_overrides(make_config(), keys)
    assert all(OmegaConf.select(config, key) == float(value) for key, _, value in (k.partition("=") for k in keys))
    for argument in ("optimizer.groups.bias.frozen=true", "optimizer.groups.new.match=bias", "optimizer.groups={}"):
        with pytest.raises(ConfigError, match="its factors may change"):
            merge_overrides(make_config(), [argument])


@pytest.mark.parametrize("argument", [
    "seed=1", "batch_size=8", "data.count=3", "validation.fraction=0.5", "precision=float64", "objective=val/error",
    "arch.widths=[4]", "name=x", "averaging=none", "loss=mse",
])  # fmt: skip
def test_keys_that_may_not_change_are_refused(argument):
    with pytest.raises(ConfigError) as error:
        merge_overrides(make_config(), [argument])
    ((key, message),) = error.value.problems
    assert argument.startswith(f"{key}=")
    assert "start a new one" in message


@pytest.mark.parametrize(("argument", "message"), [
    ("epochs", "KEY=VALUE"), ("--epochs=3", "KEY=VALUE"), ("", "KEY=VALUE"), ("+epochs=3", "cannot be added"),
    ("~optimizer.lr=1", "cannot be added"), ("checkpoint.evry=1", "did you mean every"),
    ("checkpoint.every.x=1", "there is no such key"), ("optimizer.lr.x=1", "there is no such key"),
    ("regularization.dropout=1", "another option"), ("optimizer._target_=mine.Sign", "another option"),
])  # fmt: skip
def test_invalid_overrides_are_refused(argument, message):
    with pytest.raises(ConfigError, match=message):
        merge_overrides(make_config(), [argument])


def test_all_refused_overrides_are_reported_together():
    with pytest.raises(ConfigError) as error:
        merge_overrides(make_config(), ["seed=1", "epochs=5", "lr=3", "+x=1"])
    assert [key for key, _ in error.value.problems] == ["seed", "lr", "+x"]
