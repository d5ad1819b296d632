"""Settings that change where a run goes on: what may be set, and what is told of it is true."""

import pytest
from bits import find_differences, read_final_state
from helpers import BLOBS, compose_config, interrupt_run, resume_run, train_runs
from omegaconf import OmegaConf

from dlopt.config.build import build
from dlopt.config.problems import ConfigError
from dlopt.config.reopen.resume_checks import (
    CHANGEABLE_KEYS,
    check,
    diff_configs,
    list_breaking_changes,
    merge_overrides,
)

PARTS = ("optimizer=momentum", "normalization=batch", "regularization=[dropout,l2]", "diagnostic=gradients",
         "log_every=2", "device=cpu", "threads=1", "optimizer.lr=0.05")  # fmt: skip
"""Three steps an epoch; nine in all."""


def configuration(*overrides):
    return OmegaConf.create(OmegaConf.to_container(compose_config(*BLOBS, *PARTS, *overrides), resolve=True))


def told(before, after, step, kind=""):
    """What is said of these changes."""
    found = list_breaking_changes(diff_configs(before, after), OmegaConf.to_container(before), build(after)[0], step)
    return [said for said in found if kind in said]


def matters(name):
    """Whether it is of the weights, the best ones, the figures at the end, or a row of an evaluation.

    Which rows there are between evaluations, over which steps they take means, and to which reading an instrument
    compares its own, is what log_every sets.
    """
    between = ("rows", "row ", "last.safetensors: /window", "last.safetensors: /row", "last.safetensors: /diagnostics")
    return not name.startswith(between) and "/gradient/" not in name


def as_uninterrupted(folder, before, after, step):
    """In what a run that goes on with other settings after a step differs from one that always had them."""
    _, (whole,) = train_runs(folder / "whole", build(after)[0])
    run = interrupt_run(folder / "run", step, build(before)[0])
    _, run = resume_run(run.path, build(after)[0])
    names = find_differences(read_final_state(run), read_final_state(whole))
    evaluated = [[row["step"] for row in r.rows() if "val/loss" in row] for r in (whole, run)]
    return [name for name in names if matters(name)] + (["evaluations"] if evaluated[0] != evaluated[1] else [])


# ------------------------------------------------------------------------------------------- what is told

HARMLESS = {
    "checkpoint.every": ([], ["checkpoint.every=2"]),
    "checkpoint.minutes": ([], ["checkpoint.minutes=null"]),
    "checkpoint.keep": (["checkpoint.every=1"], ["checkpoint.every=1", "checkpoint.keep=1"]),
    "longer": ([], ["epochs=5"]),
    "shorter": ([], ["epochs=2"]),
    "by steps": ([], ["steps=11"]),
    "by epochs again": (["steps=11"], ["steps=null"]),
    "an instrument": ([], ["diagnostic.gradients.every=3"]),
    "longer, the rate falling by steps": (["schedule=step", "schedule.every=1"],
                                          ["schedule=step", "schedule.every=1", "epochs=5"]),
}  # fmt: skip


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_not_told_leaves_an_uninterrupted_run(name, tmp_path):
    before, after = (configuration(*overrides) for overrides in HARMLESS[name])
    assert diff_configs(before, after)
    assert told(before, after, step=4) == []
    assert as_uninterrupted(tmp_path, before, after, step=4) == []


@pytest.mark.parametrize("after", ["log_every=3", "log_every=null"])
def test_the_rhythm_of_rows_is_told_where_a_row_is_under_way(after, tmp_path):
    """It decides over which steps the next row takes its means, and nothing else; each epoch begins a row anew."""
    before, after = configuration("log_every=2"), configuration(after)
    (found,) = told(before, after, step=4)
    assert found.startswith("log_every 2 -> ")
    assert told(before, after, step=3) == []
    assert as_uninterrupted(tmp_path, before, after, step=4) == []


BREAKING = {
    "optimizer.lr": (["optimizer.lr=0.1"], "optimizer.lr 0.05 -> 0.1"),
    "optimizer.momentum": (["optimizer.momentum=0.5"], "optimizer.momentum 0.9 -> 0.5"),
    "regularization.l2.strength": (["regularization.l2.strength=0.1"], "regularization.l2.strength "),
    "regularization.dropout.p": (["regularization.dropout.p=0.1"], "regularization.dropout.p 0.5 -> 0.1"),
    "eval_every": (["eval_every=2"], "eval_every 1 -> 2"),
    "clip.norm": (["clip.norm=0.1"], "clip.norm null -> 0.1"),
}


@pytest.mark.parametrize("name", BREAKING)
def test_what_makes_another_run_is_told_by_its_key(name, tmp_path):
    overrides, said = BREAKING[name]
    before, after = configuration(), configuration(*overrides)
    (found,) = told(before, after, step=4)
    assert found.startswith(said)
    assert as_uninterrupted(tmp_path, before, after, step=4) != []


@pytest.mark.parametrize("length", ["epochs=5", "steps=8"])
@pytest.mark.parametrize("schedule", [
    ("schedule=constant",), ("schedule=cosine",), ("schedule=exponential",), ("schedule=inverse_time",),
    ("schedule=step", "schedule.every=1"), ("schedule=warmup", "schedule.length=1"),
    ("schedule=warmup", "schedule.length=1", "schedule@schedule.then=cosine"),
    ("schedule=warmup", "schedule.length=2", "schedule@schedule.then=cosine"),
    ("schedule=linear",), ("schedule=linear", "schedule.tau=2"), ("schedule=warm_restarts", "schedule.first=1"),
    ("schedule=one_cycle",), ("schedule=plateau", "schedule.patience=0", "schedule.threshold=1"),
])  # fmt: skip
def test_a_schedule_that_follows_the_length_is_told_where_another_length_makes_another_run(schedule, length, tmp_path):
    before, after = configuration(*schedule), configuration(*schedule, length)
    said = told(before, after, 4, "the schedule follows the length of the run, which was 9 steps and is ")
    assert bool(said) == (as_uninterrupted(tmp_path, before, after, step=4) != [])


@pytest.mark.parametrize(("averaging", "former", "present", "step", "refused"), [
    ("polyak", "steps=60", "steps=15", 12, True), ("polyak", "steps=60", "steps=15", 9, True),
    ("polyak", "steps=60", "steps=15", 8, False), ("polyak", "steps=60", "steps=24", 12, False),
    ("polyak", "steps=20", "steps=15", 12, False), ("polyak", "steps=15", "steps=60", 12, False),
    ("swa", "steps=60", "epochs=5", 12, True), ("swa", "steps=60", "epochs=5", 11, False),
    ("ema", "steps=60", "epochs=5", 12, False), ("none", "steps=60", "epochs=5", 12, False),
])  # fmt: skip
def test_a_run_is_not_made_so_short_that_its_average_would_have_begun(
    averaging, former, present, step, refused, tmp_path
):
    """The average would have zeros for what it has missed."""
    before, after = (configuration(f"averaging={averaging}", length) for length in (former, present))
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
def test_an_evaluation_at_the_former_end_is_told_where_a_longer_run_makes_none(former, present, extra, tmp_path):
    before, after = configuration(*former), configuration(*present)
    (_, (short,)), (_, (long,)) = (train_runs(tmp_path / str(i), build(c)[0]) for i, c in enumerate((before, after)))
    end = short.rows()[-1]["step"]
    assert extra == (end not in [row["step"] for row in long.rows() if "val/loss" in row])
    said = told(before, after, end, f"the evaluation after step {end}, which was the end, is one more")
    assert bool(said) is extra


def test_where_a_run_was_interrupted_before_its_former_end_no_evaluation_is_one_more():
    before, after = configuration("steps=8"), configuration("steps=9")
    assert told(before, after, step=7) == []


def test_nothing_is_told_of_a_run_that_has_not_begun():
    before, after = configuration("schedule=cosine"), configuration("schedule=cosine", "epochs=5")
    assert told(before, after, step=0) == []


def test_all_that_is_wrong_is_told():
    before = configuration("schedule=cosine", "steps=8")
    after = configuration("schedule=cosine", "steps=9", "optimizer.lr=0.1", "log_every=5")
    found = told(before, after, step=8)
    assert [said.split()[0] for said in found] == ["optimizer.lr", "log_every", "the", "the"]


# ------------------------------------------------------------------------------------------- what may be set


def test_changes_are_the_keys_with_both_values_as_they_are_typed():
    before = configuration()
    after = merge_overrides(
        before, ["epochs=5", "optimizer.lr=1e-3", "checkpoint.every=7", "log_every=null", "steps=null"]
    )
    assert diff_configs(before, after) == {
        "epochs": ("3", "5"), "optimizer.lr": ("0.05", "0.001"), "checkpoint.every": ("null", "7"),
        "log_every": ("2", "null"),
    }  # fmt: skip
    assert diff_configs(before, before) == {}
    assert before == configuration(), "the former is left as it was"


@pytest.mark.parametrize("key", CHANGEABLE_KEYS)
def test_what_may_change_is_there(key):
    assert key in compose_config()


@pytest.mark.parametrize("argument", [
    "seed=1", "batch_size=8", "data.count=3", "validation.fraction=0.5", "precision=float64", "objective=val/error",
    "arch.widths=[4]", "name=x", "averaging=none", "loss=mse",
])  # fmt: skip
def test_what_would_make_it_another_run_is_refused_by_its_key(argument):
    with pytest.raises(ConfigError) as found:
        merge_overrides(configuration(), [argument])
    ((key, said),) = found.value.problems
    assert argument.startswith(f"{key}=")
    assert "start a new one" in said


@pytest.mark.parametrize(("argument", "said"), [
    ("epochs", "KEY=VALUE"), ("--epochs=3", "KEY=VALUE"), ("", "KEY=VALUE"), ("+epochs=3", "nothing can be added"),
    ("~optimizer.lr=1", "nothing can be added"), ("checkpoint.evry=1", "did you mean every"),
    ("checkpoint.every.x=1", "there is no such key"), ("optimizer.lr.x=1", "there is no such key"),
    ("regularization.dropout=1", "another option"), ("optimizer._target_=mine.Sign", "another option"),
])  # fmt: skip
def test_what_cannot_be_set_is_refused(argument, said):
    with pytest.raises(ConfigError, match=said):
        merge_overrides(configuration(), [argument])


def test_all_that_cannot_be_set_is_named_at_once():
    with pytest.raises(ConfigError) as found:
        merge_overrides(configuration(), ["seed=1", "epochs=5", "lr=3", "+x=1"])
    assert [key for key, _ in found.value.problems] == ["seed", "lr", "+x"]
