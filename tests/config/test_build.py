"""Build an experiment from a configuration."""

import copy
import dataclasses
import time
import weakref

import pytest
import torch
from helpers import DEVICE, build_blobs, build_experiment, compose_config, train_runs, write_data_files
from omegaconf import OmegaConf

from dlopt.config.build import build
from dlopt.config.checks import forward_probe, splits
from dlopt.config.compose.nested_options import to_hydra
from dlopt.config.problems import ConfigError, Problems
from dlopt.parts import Dataset, Split


def test_preprocessing_is_fitted_on_the_training_rows_only():
    """A statistic of any other example would be a leak."""
    experiment = build_experiment("data=digits", "arch=linear", "preprocess=standardize", "validation.fraction=0.3")
    raw = build_experiment("data=digits", "arch=linear", "validation.fraction=0.3").train.gather()[0].double()
    statistics = experiment.preprocessing["standardize"]
    torch.testing.assert_close(statistics["mu"], raw.mean(0).float())
    torch.testing.assert_close(experiment.train.gather()[0].mean(0), torch.zeros(1, 8, 8), atol=1e-5, rtol=0)
    assert experiment.validation.gather()[0].mean(0).abs().max() > 1e-3
    assert torch.isfinite(experiment.test.inputs).all()


@pytest.mark.parametrize(
    ("fraction", "objective", "expected"),
    [
        ("0.2", "val/loss", "val/loss"),
        ("0.2", "train/loss", "train/loss"),
        ("0", "val/loss", "train/loss"),
        ("0", "train/accuracy", "train/accuracy"),
    ],
)
def test_the_objective_falls_back_to_train_loss_without_a_validation_split(fraction, objective, expected):
    experiment = build_experiment(
        "data=digits", "arch=linear", f"validation.fraction={fraction}", f"objective={objective}"
    )
    assert experiment.objective == expected


def test_training_and_validation_rows_are_disjoint():
    experiment = build_experiment("data.train_size=1000", "data.label_noise=0.2")
    train, validation = set(experiment.train.rows.tolist()), set(experiment.validation.rows.tolist())
    assert len(train) == 800
    assert len(validation) == 200
    assert not train & validation
    clean = build_experiment("data.train_size=1000").validation
    assert torch.equal(clean.gather()[1], experiment.validation.gather()[1]), "noise reached the validation labels"


def test_the_seed_sets_split_and_weights_and_not_the_data():
    one, same, other = build_experiment("seed=1"), build_experiment("seed=1"), build_experiment("seed=2")
    assert torch.equal(one.w, same.w)
    assert torch.equal(one.validation.rows, same.validation.rows)
    assert not torch.equal(one.w, other.w)
    assert not torch.equal(one.validation.rows, other.validation.rows)
    assert one.train.inputs is other.train.inputs, "runs share their data"


def test_the_number_of_threads_follows_the_work_of_a_step(monkeypatch):
    """One thread for a small network; more for a large one, at most as many as there are."""
    monkeypatch.setattr(forward_probe, "AVAILABLE_THREADS", 8)
    assert build_experiment("arch=mlp").threads == 1
    assert build_experiment("arch=mlp", "arch.widths=[2000,2000]").threads == 8
    assert build_experiment("arch=mlp", "arch.widths=[400,400]").threads == round(
        3 * 100 * (40 * 400 + 400 * 400 + 4000) / 4e7
    )
    assert build_experiment("arch=mlp", "arch.widths=[2000,2000]", "threads=3").threads == 3


def test_seconds_grow_and_stay_below_the_wall_time(tmp_path):
    experiment = build_blobs("epochs=30")
    start = time.perf_counter()
    (summary,), (run,) = train_runs(tmp_path, experiment)
    wall = time.perf_counter() - start
    seconds = [row["seconds"] for row in run.rows()]
    assert seconds[0] > 0
    assert seconds == sorted(seconds)
    assert seconds[-1] <= summary["seconds"] < wall


def test_an_option_error_is_reported_at_its_own_key(tmp_path):
    with pytest.raises(ConfigError) as error:
        build_experiment("data=arrays", f"data.path={tmp_path / 'no.npz'}", "optimizer.lr=-1")
    assert [key for key, _ in error.value.problems] == ["optimizer.lr", "data.path"]


def test_a_data_set_chooses_an_arch_and_the_command_line_overrides_it(tmp_path):
    table = ["data=table", "batch_size=16", *write_data_files("table", tmp_path)]
    assert type(build_experiment(*table).model).__name__ == "MLP"
    assert type(build_experiment(*table, "arch=linear").model).__name__ == "LinearModel"
    assert type(build_experiment("arch=linear", *table).model).__name__ == "LinearModel"


def test_plain_mappings_build_the_same_experiment_and_are_not_changed():
    overrides = ["arch=mlp", "optimizer=momentum", "schedules.momentum=ramp", "regularization=[l2,dropout]"]
    config = compose_config(*map(to_hydra, overrides), "arch.widths=[7]", "regularization.l2.strength=${optimizer.lr}")
    tree = OmegaConf.to_container(config, resolve=True)
    before = copy.deepcopy(tree)
    one, other = build(config, overrides), build(tree, overrides)
    assert tree == before
    assert one[1] == other[1]
    assert torch.equal(one[0].w, other[0].w)
    assert str(one[0].model) == str(other[0].model)
    for field in ("settings", "optimizer", "schedule", "schedules", "regularization", "network", "threads"):
        assert getattr(one[0], field) == getattr(other[0], field), field


def test_a_missing_value_of_a_setting_is_reported():
    with pytest.raises(ConfigError) as error:
        build_experiment("seed=???", "precision=float64")
    assert [key for key, _ in error.value.problems] == ["seed"]


def test_a_shared_data_set_is_checked_once(monkeypatch):
    checked = []
    is_in_order = splits._is_in_order
    monkeypatch.setattr(
        splits,
        "_is_in_order",
        lambda dataset, *rest, **keys: checked.append(dataset) or is_in_order(dataset, *rest, **keys),
    )
    problems = Problems()
    good = Dataset(Split(torch.ones(4, 2), torch.tensor([0, 1, 0, 1])), Split(torch.ones(1, 2), torch.tensor([0])), 2)
    assert [splits.check_dataset(good, problems) for _ in range(3)] == [True] * 3
    assert checked == [good]
    bad = dataclasses.replace(good, outputs=1)
    assert [splits.check_dataset(bad, problems) for _ in range(2)] == [False] * 2
    assert checked == [good, bad, bad]
    assert len(problems.errors) == 2
    checked.clear()
    reference = weakref.ref(good)
    del good, bad
    assert reference() is None, "the cache keeps no data set alive"


def test_training_does_not_change_shared_data(tmp_path):
    overrides = ("data=digits", "arch=mlp", "batch_size=full", "augmentation=translate", "preprocess=standardize",
             "regularization=[input_noise,dropout]", "optimizer=sam", "steps=3", f"device={DEVICE}")  # fmt: skip
    shared = [
        x
        for s in (build_experiment(*overrides).train, build_experiment("data=digits", "arch=linear").train)
        for x in (s.inputs, s.targets)
    ]
    before = [x.clone() for x in shared]
    train_runs(tmp_path, build_experiment(*overrides))
    again = build_experiment("data=digits", "arch=linear").train
    assert again.inputs is shared[2]
    assert all(torch.equal(x, y) for x, y in zip(shared, before, strict=True))


def test_building_a_network_neither_depends_on_nor_changes_the_global_generator():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one = build_experiment("arch=mlp", "init=none").w
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(build_experiment("arch=mlp", "init=none").w, one)
    assert not torch.equal(build_experiment("arch=mlp", "init=none", "seed=1").w, one)


def test_dropping_keys_of_another_class_leaves_the_mappings_of_the_caller():
    overrides = ["optimizer=adam", "optimizer._target_=dlopt.optimizer.sgd.SGD"]
    tree = OmegaConf.to_container(compose_config(*overrides), resolve=True)
    before = copy.deepcopy(tree)
    _, notices = build(tree, overrides)
    assert any("is left out" in notice for notice in notices)
    assert tree == before
