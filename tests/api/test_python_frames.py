"""dlopt.runs, dlopt.load and the objects of runs: what the commands print, as values."""

import csv
import io
import json
from datetime import datetime
from pathlib import Path

import matplotlib as mpl
import polars as pl
import pytest
from helpers import BLOBS

import dlopt
from dlopt.cli import main
from dlopt.rundir.writer import RunWriter


def read_csv(capsys, *flags):
    capsys.readouterr()
    assert main(["runs", *flags, "--csv"]) == 0
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def to_text(value):
    """Return a value of a frame as the CSV of the command writes it."""
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    return {None: "", True: "True", False: "False"}[value] if value is None or isinstance(value, bool) else str(value)


@pytest.fixture
def folder(here):
    settings = [
        {"optimizer": "sgd", "optimizer.lr": 0.1, "seed": 0, "batch_size": 32},
        {"optimizer": "sgd", "optimizer.lr": 0.1, "seed": 1, "batch_size": 32},
        {"optimizer": "adam", "optimizer.lr": 1, "seed": 0, "batch_size": "full", "compile": True},
    ]
    for number, (each, value) in enumerate(zip(settings, (0.5, 0.25, 0.125), strict=True)):
        run = RunWriter.create(Path("outputs/x") / str(number), each)
        run.log({"step": 2, "epoch": 1.0, "seconds": 0.5, "gradient/norm": 3.0 + number})
        run.finish("done", {"seconds": 2.0, "val/loss": value})
    return here


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({}, []),
        ({"where": "optimizer=sgd", "sort": "val/loss"}, ["--where", "optimizer=sgd", "--sort", "val/loss"]),
        ({"directory": "outputs/x", "columns": ["seed", "gradient/norm"]}, ["outputs/x", "--columns", "seed,gradient/norm"]),
        ({"over": "seed", "sort": "val/loss", "reverse": True}, ["--over", "seed", "--sort", "val/loss", "--reverse"]),
        ({"over": ["seed"], "columns": "val/loss"}, ["--over", "seed", "--columns", "val/loss"]),
    ],
)  # fmt: skip
def test_the_frame_is_the_table_of_the_command(folder, capsys, options, flags):
    frame = dlopt.runs(**options)
    written = read_csv(capsys, *flags)
    numeric = [name for name in frame.columns if frame.schema[name] == pl.Float64]
    for row, texts in zip(frame.iter_rows(named=True), written, strict=True):
        assert {name: to_text(row[name]) for name in row if name not in numeric} == {
            name: text for name, text in texts.items() if name not in numeric
        }
        assert [row[name] for name in numeric] == [float(texts[name]) if texts[name] else None for name in numeric]


def test_values_are_typed(folder):
    frame = dlopt.runs()
    types = {
        "optimizer.lr": pl.Float64,
        "seed": pl.Int64,
        "compile": pl.Boolean,
        "started": pl.Datetime("us"),
        "run": pl.String,
    }
    assert {name: frame.schema[name] for name in types} == types
    assert frame["batch_size"].to_list() == ["32", "32", "full"]
    assert frame["compile"].to_list() == [None, None, True]
    with pytest.raises(ValueError, match="did you mean optimizer"):
        dlopt.runs(where="optimiser=sgd")
    with pytest.raises(dlopt.RunError, match="no folder"):
        dlopt.runs("nowhere")
    assert dlopt.runs(where="seed=7").is_empty()


def test_without_runs_the_frame_is_empty(here):
    assert dlopt.runs().columns == ["run", "status", "started", "time", "progress"]


def test_a_run_is_read_as_values(train_once, monkeypatch):
    """The curves are the rows, the figure is that of `dlopt show --png`, and matplotlib keeps its settings."""
    train_once("train", "-q", *BLOBS, "diagnostic=gradients")
    with pytest.warns(match="damaged"):
        best = dlopt.open_run().path / "checkpoints" / "best.safetensors"
        content = best.read_bytes()
        best.write_bytes(content[:-9])
        dlopt.load(trust=True)
    best.write_bytes(content)
    run = dlopt.open_run("last")
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    frame = run.curves()
    assert frame.columns[:3] == ["step", "epoch", "seconds"] and frame.schema["step"] == pl.Int64
    assert [{k: v for k, v in row.items() if v is not None} for row in frame.iter_rows(named=True)] == rows
    assert run.summary == json.loads((run.path / "summary.json").read_text())
    assert (run.settings["arch"], run.config["arch"]["widths"], run.status) == ("mlp", [8], "done")

    monkeypatch.setitem(mpl.rcParams, "font.size", 23.0)
    monkeypatch.setitem(mpl.rcParams, "axes.labelcolor", "red")
    before = {**mpl.rcParams, "backend": mpl.get_backend()}  # chosen when it is asked for
    figure = [run.plot("loss", "gradient/norm", title="mine") for _ in range(2)][1]
    assert dict(mpl.rcParams) == before
    assert ([axes.get_title(loc="left") for axes in figure.axes], figure.get_suptitle()) == (
        ["loss", "gradient/norm"],
        "mine",
    )
    label = figure.axes[0].xaxis.label
    assert (label.get_size(), label.get_color()) == (10.0, "black")
    with pytest.raises(ValueError, match="no such curve"):
        run.plot("los")

    predictor = dlopt.load("last", "last", trust=True)
    metrics = predictor.evaluate("test")
    assert metrics == {name: run.summary[f"last/test/{name}"] for name in metrics}
    assert run.predictor(trust=True).step == run.summary["best/step"]
    with pytest.raises(dlopt.ConfigError, match=r"nothing was loaded:\n  checkpoint  .* has none after step 7"):
        run.predictor(7, trust=True)
    with pytest.raises(dlopt.ConfigError, match="trust=True"):
        run.predictor()
    with pytest.raises(dlopt.RunError, match="no run in outputs/ is called 'other'"):
        dlopt.load("other")
    with pytest.raises(dlopt.RunError, match="no sweep 'last'"):
        dlopt.open_sweep()
