"""What a data option fits, means that fill and scales of targets, is fitted on the training rows of each run."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import assert_build_refused, build_experiment, read_rows, train_runs
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import StandardScaler

from dlopt.cli import main
from dlopt.config.reopen.load_predictor import load_predictor
from dlopt.data.table import TableData
from dlopt.rundir.find import find_run

COUNT = 90
SPLITS = {
    "holdout": ("validation.fraction=0.3",),
    "fold": ("validation.scheme=kfold", "validation.k=3", "validation.fold=1"),
    "train_size": ("validation.fraction=0", "data.train_size=40"),
    "train_size and holdout": ("validation.fraction=0.25", "data.train_size=40"),
    "all": ("validation.fraction=0",),
}
each_split = pytest.mark.parametrize("split", SPLITS)


def make_table(seed=0, rows=COUNT):
    """Return (rows, 4) numbers with gaps: the row, two inputs, and the target."""
    draw = np.random.default_rng(seed)
    table = np.column_stack([np.arange(rows), draw.normal(50, 20, (rows, 2)), draw.normal(1000, 300, rows)])
    table[draw.random(rows) < 0.3, 1] = np.nan
    return table


def write(file, table):
    lines = [",".join("" if np.isnan(value) else repr(float(value)) for value in row) for row in table]
    file.write_text("\n".join(["row,gaps,size,price", *lines]) + "\n")


@pytest.fixture
def keys(tmp_path):
    """Return the overrides of a run on a table with missing numbers."""
    write(tmp_path / "my.csv", make_table())
    return ("data=table", f"data.path={tmp_path / 'my.csv'}", "data.target=price", "data.missing=fill", "loss=mse",
            "preprocess=none", "arch.widths=[4]", "batch_size=8", "epochs=2", "optimizer.lr=1e-5", "device=cpu")  # fmt: skip


def rows_of(split):
    return split.gather()[0][:, 0].long().numpy()


def encode(table, train):
    """Return inputs and targets of a table with the statistics of these rows, by scikit-learn."""
    raw = make_table()
    inputs = SimpleImputer().fit(raw[train, :3]).transform(table[:, :3])
    return inputs, StandardScaler().fit(raw[train, 3:]).transform(table[:, 3:])


@each_split
def test_only_the_training_rows_of_the_run_are_fitted(split, keys):
    experiment = build_experiment(*keys, *SPLITS[split])
    train = rows_of(experiment.train)
    expected_inputs, expected_targets = encode(make_table(), train)
    for examples in filter(None, (experiment.train, experiment.validation, experiment.test)):
        rows = rows_of(examples)
        inputs, targets = examples.gather()
        np.testing.assert_allclose(inputs, expected_inputs[rows], rtol=1e-6)
        np.testing.assert_allclose(targets, expected_targets[rows], rtol=1e-5, atol=1e-6)


def test_own_validation_and_test_rows_are_encoded_by_the_training_rows(keys, tmp_path):
    """Numbers that only these rows lack are filled, too."""
    others = {"validation": make_table(1, 20), "test": make_table(2, 12)}
    for name, table in others.items():
        table[3, 2] = np.nan
        write(tmp_path / f"{name}.csv", table)
    experiment = build_experiment(*keys, *(f"data.{name}_path={tmp_path / name}.csv" for name in others))
    assert len(experiment.train) == COUNT
    for name, table in others.items():
        x, y = getattr(experiment, name).gather()
        inputs, targets = encode(table, np.arange(COUNT))
        np.testing.assert_allclose(x, inputs, rtol=1e-6)
        np.testing.assert_allclose(y, targets, rtol=1e-5, atol=1e-6)


@each_split
def test_values_of_other_rows_do_not_change_training(split, keys, tmp_path):
    def train(name):
        experiment = build_experiment(*keys, *SPLITS[split])
        (summary,), (run,) = train_runs(tmp_path / name, experiment)
        return (
            experiment,
            [row["train/loss"] for row in read_rows(run)],
            run.load("last")["model"],
            summary["test/loss"],
        )

    before, losses, weights, test = train("before")
    others = np.ones(COUNT, bool)
    others[rows_of(before.train)] = False
    table = make_table()
    table[others, 1:] = 7 * make_table(seed=1)[others, 1:] - 1000
    write(tmp_path / "my.csv", table)
    after, new_losses, new_weights, new_test = train("after")
    assert rows_of(after.train).tolist() == rows_of(before.train).tolist()
    assert losses == new_losses
    assert all(torch.equal(weights[name], value) for name, value in new_weights.items())
    assert test != new_test


def test_runs_share_all_that_does_not_differ(keys, tmp_path):
    table = make_table()
    table[:, 1] = 0
    write(tmp_path / "whole.csv", table)
    whole = (*keys, f"data.path={tmp_path / 'whole.csv'}")
    runs = [build_experiment(*whole, f"seed={seed}", *more) for seed in (0, 1) for more in ((), ("optimizer.lr=1",))]
    assert len({id(split.inputs) for run in runs for split in (run.train, run.validation)}) == 1
    assert len({id(run.test.inputs) for run in runs}) == 1
    assert not torch.equal(runs[0].train.targets, runs[2].train.targets)
    unscaled = [build_experiment(*whole, f"seed={seed}", "data.standardize_target=false").train for seed in (0, 1)]
    assert unscaled[0].targets is unscaled[1].targets
    filled = build_experiment(*keys)
    assert filled.train.inputs is filled.validation.inputs
    assert filled.train.targets is filled.validation.targets


@each_split
def test_evaluation_uses_the_statistics_of_the_run(split, keys, here):
    """On the run's own splits, bit for bit, on another file, and in the units of the target."""
    assert main(["train", "-q", *keys, *SPLITS[split]]) == 0
    run = find_run()
    predictor, _ = load_predictor(run)
    for name in predictor.splits.keys() & {"val", "test"}:
        written = {f"{name}/{metric}": value for metric, value in predictor.evaluate(name).items()}
        assert written == {metric: run.summary[metric] for metric in written}
    train = rows_of(predictor.splits["train"][0])
    other = make_table(seed=2, rows=20)
    write(here / "other.csv", other)
    for examples, table in (
        (predictor.splits["all"], make_table()),
        (load_predictor(run, data=["other.csv"])[0].splits["all"], other),
    ):
        expected = encode(table, train)
        for piece in examples:
            for tensor, by_sklearn in zip(piece.gather(), expected, strict=True):
                np.testing.assert_allclose(tensor, by_sklearn[rows_of(piece)], rtol=1e-5, atol=1e-6)
    prices = make_table()[train, 3]
    assert predictor.encoding["middle"] == pytest.approx(prices.mean(), rel=1e-12)
    assert predictor.encoding["scale"] == pytest.approx(prices.std(), rel=1e-12)


def fit_all_rows(self, train, encoding):
    """Fit all rows outside of the test, as earlier versions did."""
    return FIT(self, replace(train, rows=None), encoding)


FIT = TableData.fit


def test_a_run_of_an_earlier_version_keeps_its_statistics(keys, here, monkeypatch):
    train = ["train", "-q", *keys, *SPLITS["holdout"], "checkpoint.every=3", "checkpoint.keep=9"]
    with monkeypatch.context() as patch:
        patch.setattr(TableData, "fit", fit_all_rows)
        assert main([*train, "hydra.run.dir=half"]) == 0
        shutil.copytree("half", "whole")
        assert main(["train", "-q", "resume=whole", "epochs=4"]) == 0
    half, whole = find_run("half"), find_run("whole")
    summary = half.summary
    predictor, _ = load_predictor(half)
    assert {f"val/{name}": value for name, value in predictor.evaluate("val").items()}.items() <= summary.items()
    assert main(["verify", "-q", "--all", "half"]) == 0
    assert main(["train", "-q", "resume=half", "epochs=4"]) == 0
    assert main(["verify", "-q", "half"]) == 0
    assert read_rows(half) == read_rows(whole)
    encodings = [run.load("last")["encoding"] for run in (half, whole)]
    assert encodings[0] == encodings[1]
    assert main([*train, "hydra.run.dir=new"]) == 0
    assert find_run("new").load("last")["encoding"] != encodings[0]


def test_a_column_without_a_value_in_the_training_rows_of_the_run_is_refused(keys, tmp_path):
    held_out = rows_of(build_experiment(*keys, *SPLITS["fold"]).validation)
    table = make_table()
    table[:, 1] = np.where(np.isin(np.arange(COUNT), held_out), table[:, 2], np.nan)
    write(tmp_path / "my.csv", table)
    words = "gaps has no value in the training rows of this run; set data.drop=[gaps]"
    assert_build_refused(lambda: build_experiment(*keys, *SPLITS["fold"]), "data.missing", words)
    assert build_experiment(*keys, *SPLITS["fold"], "validation.fold=0").train.inputs.isfinite().all()


def test_targets_that_are_equal_in_the_training_rows_are_centred(keys):
    experiment = build_experiment(*keys, "data.train_size=1", "validation.fraction=0", "batch_size=full")
    assert experiment.train.gather()[1].tolist() == [[0.0]]
    assert experiment.encoding["scale"] == 1.0


def test_own_data_may_fit_statistics(here):
    keys = ("data=custom", "data._target_=mine.Imputed", "arch=linear", "loss=mse", "batch_size=full")
    experiment = build_experiment(*keys)
    x, _ = experiment.train.gather()
    assert experiment.encoding == {"median": x.median().item()}
    assert (experiment.train.inputs == x.median()).any()
    for how, words in (("nothing", "fit() must return a mapping, got a NoneType"), ("gaps", "not finite")):
        assert_build_refused(lambda how=how: build_experiment(*keys, f"+data.how={how}"), "data", words)


def test_a_run_with_dates_is_resumed_verified_and_evaluated(here):
    draw = np.random.default_rng(0)
    when = np.datetime64("2020-01-01T00:00") + draw.integers(0, 60 * 24 * 900, 90)
    rows = [f"{day if i % 9 else ''},{draw.normal()}" for i, day in enumerate(when)]
    (here / "my.csv").write_text("\n".join(["when,price", *rows]) + "\n")
    keys = ["data=table", "data.path=my.csv", "data.target=price", "data.dates=[when]", "data.missing=fill", "loss=mse"]
    assert main(["train", "-q", *keys, "arch.widths=[4]", "batch_size=8", "epochs=2"]) == 0
    run = find_run()
    assert main(["train", "-q", f"resume={run.path}", "epochs=4"]) == 0
    assert main(["verify", "-q", "--all", str(run.path)]) == 0
    predictor, _ = load_predictor(run)
    assert predictor.evaluate("test")["loss"] == run.summary["test/loss"]
    own = torch.cat([piece.inputs for piece in predictor.splits["all"]])
    other = load_predictor(run, data=["my.csv"])[0].splits["all"][0].inputs
    assert own.shape[1] == 7
    assert torch.equal(own.sort(0).values, other.sort(0).values)
    (here / "bad.csv").write_text("when,price\n2020-01-01,1\n1/1/2020,1\n")
    assert_build_refused(
        lambda: load_predictor(run, data=["bad.csv"]),
        "data.path",
        "when was a date as ISO 8601 in training, but has '1/1/2020' in line 3",
    )
