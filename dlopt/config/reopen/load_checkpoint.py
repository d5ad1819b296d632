"""Which checkpoint of a run is meant: best, last, average, or one by its number of steps."""

from __future__ import annotations

from typing import Any, NamedTuple

from dlopt.config.problems import ConfigError
from dlopt.errors import join_truncated
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.display import display_path


class LoadedCheckpoint(NamedTuple):
    """A checkpoint's content, its kind (best, last, average or kept), and warnings about damaged files."""

    content: dict[str, Any]
    kind: str
    warnings: list[str]


def load_checkpoint(run: RunDirectory, wanted: str = "best") -> LoadedCheckpoint:
    """Load a checkpoint: wanted is best, last, average, or a number of steps.

    The last checkpoint holds the best weights too, and replaces a best one that is damaged. A run without an evaluation
    has no best weights: its last ones are loaded. Raises ConfigError if there is no such checkpoint.
    """
    kept = {str(step): file for step, file in run.older_checkpoints().items()}
    if wanted in kept:
        return LoadedCheckpoint(run.load_file(kept[wanted]), "kept", [])
    if wanted == "average":
        return LoadedCheckpoint(_load_average(run), wanted, [])
    if wanted not in ("best", "last"):
        names = ["best", "last", *(["average"] if run.checkpoint("average").exists() else []), *kept]
        message = f"{display_path(run.path)} has none after step {wanted}; it has {join_truncated(names)}"
        raise ConfigError([("--checkpoint", message)])
    damage: list[str] = []
    if wanted == "best" and run.checkpoint("best").exists():
        try:
            return LoadedCheckpoint(run.load("best"), wanted, [])
        except ValueError as error:
            damage = [f"{run.checkpoint('best').name} is damaged ({error})"]
    newest = run.latest_checkpoint()
    if newest is None and run.checkpoint("best").exists():
        remedy = f"; {damage[0]}" if damage else "; use best"
        raise ConfigError([("--checkpoint", f"{display_path(run.path)} has no last checkpoint{remedy}")])
    if newest is None:
        raise ConfigError([("run", f"{display_path(run.path)} has no checkpoint yet: it was not trained to its end")])
    warnings = [f"{message}; the newest whole one is taken" for message in (*damage, *newest.damage.values())]
    content = newest.content
    if wanted == "best" and content["best_step"] is not None:
        content = content | {"model": content["best"], "step": content["best_step"]}
        return LoadedCheckpoint(content, "best", warnings)
    return LoadedCheckpoint(content, "last", warnings)


def _load_average(run: RunDirectory) -> dict[str, Any]:
    """Load the averaged weights, which are written at the end of a run."""
    file = run.checkpoint("average")
    if not file.exists():
        message = (
            f"{display_path(run.path)} has no averaged weights: it has no averaging, or was not trained to its end"
        )
        raise ConfigError([("--checkpoint", message)])
    try:
        return run.load("average")
    except ValueError as error:
        raise ConfigError([("--checkpoint", f"{file.name} is damaged ({error})")]) from error
