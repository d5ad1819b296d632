"""The trajectory of a run: weights that it has stored, by step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlopt.config.problems import ConfigError
from dlopt.config.reopen import load_run
from dlopt.config.reopen.load_predictor import load_checkpoint
from dlopt.errors import join_truncated
from dlopt.rundir.directory import RunDirectory
from dlopt.training.inference import Predictor

KEEP_MORE = "train with checkpoint.every=N checkpoint.keep=N"
"""The advice for a run with too few checkpoints."""


class WeightTrajectory(NamedTuple):
    """Weights (n, P) after these numbers of steps, ascending, and warnings about what is left out."""

    steps: list[int]
    points: Tensor
    warnings: list[str]


def list_kept(run: RunDirectory) -> list[str]:
    """Return the names of the checkpoints that checkpoint.keep has kept, in the order of their steps."""
    return [*map(str, sorted(run.older_checkpoints())), "last"]


def load_trajectory(run: RunDirectory, predictor: Predictor) -> WeightTrajectory:
    """Load the weights of all kept checkpoints, and those that diagnostic=trajectory has stored in the last one.

    Damaged checkpoints and weights that are not finite are left out, with a warning. Raises ConfigError if a checkpoint
    is of another network.
    """
    points: dict[int, Tensor] = {}
    layout, warnings = predictor.problem.layout, []
    content: Mapping[str, Any] = {}
    for name in list_kept(run):
        try:
            content, _, damage = load_checkpoint(run, name)
        except ValueError as error:
            warnings.append(f"checkpoint {name} is left out: it is damaged ({error})")
            continue
        warnings += damage
        load_run.check(content, predictor.model, None, "run", same_data=True)
        points[content["step"]] = layout.flatten(content["model"]).to(predictor.w)
    points |= _read_stored(content, predictor.w)
    if wild := sorted(step for step, w in points.items() if not w.isfinite().all()):
        warnings.append(f"weights that are not finite are left out: those after step {join_truncated(map(str, wild))}")
    steps = sorted(points.keys() - wild)
    stacked = torch.stack([points[step] for step in steps]) if steps else predictor.w.new_zeros(0, len(predictor.w))
    return WeightTrajectory(steps, stacked, warnings)


def _read_stored(content: Mapping[str, Any], w: Tensor) -> dict[int, Tensor]:
    """Return what diagnostic=trajectory has stored in a checkpoint. Raise ConfigError if it is not weights like w."""
    memory = content.get("diagnostics")
    memory = memory.get("trajectory") if isinstance(memory, dict) else None
    if not isinstance(memory, dict) or "points" not in memory:
        return {}
    points: dict[int, Tensor] = {}
    try:
        for point in memory["points"].values():
            step, stored = point["step"], point["w"]
            if type(step) is not int or step < 0 or stored.shape != w.shape or not stored.is_floating_point():
                raise TypeError
            points[step] = stored.to(w)
    except (AttributeError, KeyError, TypeError) as error:
        wrong = f"the trajectory in its checkpoint is damaged: each point must be a step and {len(w):,} weights"
        raise ConfigError([("run", wrong)]) from error
    return points
