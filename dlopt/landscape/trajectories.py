"""The trajectory of a run: weights that it has stored, by step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.config.reopen import load_run
from dlopt.config.reopen.load_predictor import load_checkpoint
from dlopt.rundir.directory import RunDirectory
from dlopt.training.inference import Predictor

KEEP_MORE = "train with checkpoint.every=N checkpoint.keep=N"
"""The advice for a run with too few checkpoints."""


class WeightTrajectory(NamedTuple):
    """Weights (n, P) after these numbers of steps, ascending."""

    steps: list[int]
    points: Tensor


def list_kept(run: RunDirectory) -> list[str]:
    """Return the names of the checkpoints that checkpoint.keep has kept, in the order of their steps."""
    return [*map(str, sorted(run.older_checkpoints())), "last"]


def load_trajectory(run: RunDirectory, predictor: Predictor) -> WeightTrajectory:
    """Load the weights of all kept checkpoints, and those that diagnostic=trajectory has stored in the last one.

    Raises ConfigError if a checkpoint is of another network.
    """
    points: dict[int, Tensor] = {}
    layout = predictor.problem.layout
    for name in list_kept(run):
        content = load_checkpoint(run, name).content
        load_run.check(content, predictor.model, None, "run", same_data=True)
        points[content["step"]] = layout.flatten(content["model"]).to(predictor.w)
    memory = content["diagnostics"].get("trajectory")
    if isinstance(memory, dict) and "points" in memory:
        points |= {point["step"]: point["w"].to(predictor.w) for point in memory["points"].values()}
    steps = sorted(points)
    return WeightTrajectory(steps, torch.stack([points[step] for step in steps]))
