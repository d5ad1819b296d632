"""Sweeps written by the classes that write runs, for what reads them."""

import json
from pathlib import Path

from dlopt.rundir.writer import RunWriter

LR_AXIS = {"key": "optimizer.lr", "kind": "float", "low": 1e-4, "high": 1.0, "log": True, "step": None}
OPTIMIZER_AXIS = {"key": "optimizer", "kind": "choice", "values": ["sgd", "adam"]}


def write_run(folder, settings, value=None, status="done", rows=(), metric="val/loss"):
    """A run that ended; rows are values of the metric, one for each ten steps."""
    made = RunWriter.create(folder, {"epochs": 10, "steps": None, "seed": 0, "objective": "val/loss"} | settings)
    for epoch, v in enumerate(rows, 1):
        made.log({"step": 10 * epoch, "epoch": float(epoch), "seconds": 0.5 * epoch, metric: v})
    if status != "running":
        made.finish(status, {"seconds": 2.0} | ({} if value is None else {metric: value}))
    else:
        made.lock.release()
    return made


def write_sweep_json(folder: Path, axes, **more) -> Path:
    """The sweep.json of a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "format": 1, "command": [], "sampler": "grid", "objective": "val/loss", "direction": "minimize", "trials": 0,
        "axes": axes, "fixed": ["epochs=10"], "seeds": [], "folds": 0, "statistic": "mean",
    }  # fmt: skip
    (folder / "sweep.json").write_text(json.dumps(content | more))
    return folder


def write_sweep(folder: Path, axes, points, **more) -> Path:
    """A sweep of points with one run each: (point, value) or (point, value, status)."""
    write_sweep_json(folder, axes, **more)
    for i, (point, value, *status) in enumerate(points):
        write_run(folder / str(i), point, value, *status)
    return folder
