"""Greedy supervised pretraining as a grid of stages, each a run that begins with the layers of the run before."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dlopt.base.layout import Layout
from dlopt.config.build import build
from dlopt.config.compose.nested_options import from_hydra, to_hydra
from dlopt.config.compose.yaml_dump import quote
from dlopt.config.problems import ConfigError, Problems
from dlopt.sweep.axis import Choice
from dlopt.sweep.compose import Composer
from dlopt.sweep.options import SweeperOptions
from dlopt.sweep.space import Space

NAME = "greedy"
"""Name of the sampler."""
LAYERS = "init.layers"
"""The key in which all stages differ: the number of layers that come from the stage before."""


@dataclass(frozen=True)
class GreedySpace(Space):
    """The stages in order: networks of 1, ..., n hidden layers, and once more the last one, of which all is trained.

    stages   overrides of each stage besides those of its run
    folder   directory of the sweep, in which stage k begins from the run k - 1; None: no stage copies layers, so that
             all of them can be checked before the first has run
    """

    stages: tuple[tuple[str, ...], ...] = ()
    folder: Path | None = None

    def overrides(self, point: Sequence[Any]) -> list[str]:
        stage = self._find_stage(point)
        own = [*self.fixed_overrides, *self.stages[stage]]
        if self.folder is None or stage == 0:
            return [*own, f"{LAYERS}=0"]
        source = quote(str((self.folder / str(stage - 1)).resolve()))
        return [*own, f"{LAYERS}={point[0]}", f"init.run={source}"]

    def labels(self, point: Sequence[Any]) -> list[str]:
        return [*self.stages[self._find_stage(point)], *super().labels(point)]

    def _find_stage(self, point: Sequence[Any]) -> int:
        (axis,) = self.axes
        assert isinstance(axis, Choice)
        return axis.values.index(point[0])


def make_stages(
    space: Space, keys: SweeperOptions, launcher: str, composer: Composer, problems: Problems
) -> GreedySpace:
    """Return the stages of a network, given by overrides with one value each. Raises ConfigError."""
    for axis in space.axes:
        problems.add(from_hydra(axis.key), "has several values; greedy trains one network: give one value")
    if keys.seeds is not None:
        problems.add("hydra.sweeper.seeds", "a stage begins from one run: start a sweep for each seed")
    if keys.pruner != "none":
        problems.add("hydra.sweeper.pruner", "stages are different networks, and all of them are needed: leave it out")
    if not launcher.endswith(".Local"):
        problems.add("hydra/launcher", "a stage begins when the one before has ended: leave out the launcher")
    problems.raise_if_any()
    job = composer.compose_job(Path(), space.fixed_overrides, 0)
    if job.config["validation"]["scheme"] == "kfold" and job.config["validation"]["fold"] is None:
        problems.add("validation.fold", "a stage begins from one run: choose a fold, and start a sweep for each")
    others, own = _make_init(space.fixed_overrides, str(job.choices["init"]), problems)
    parts = _find_depth(job.config["arch"], problems)
    problems.raise_if_any()
    count = len(next(iter(parts.values())))
    stages = [tuple(f"{key}={values[k]}" for key, values in parts.items()) for k in range(count)]
    stages.append((*stages[-1], "init.frozen=false"))
    axis = Choice(LAYERS, (*map(str, range(count)), str(count + 1)))
    greedy = GreedySpace((axis,), (*others, *own), stages=tuple(stages))
    _check_layers(greedy, composer, problems)
    return greedy


def begin_in(space: Space, folder: Path) -> Space:
    """Return a space of stages whose runs are in this folder, and any other space as it is."""
    return replace(space, folder=folder) if isinstance(space, GreedySpace) else space


def _make_init(overrides: Sequence[str], choice: str, problems: Problems) -> tuple[list[str], list[str]]:
    """Return the overrides of other groups, and those of the init of all stages.

    An option that was chosen draws the new layers. init=pretrained may be chosen itself, for its keys.
    """
    keys = {o: o.lstrip("+").partition("=")[0] for o in overrides}
    own = [o for o, key in keys.items() if re.split("[.@]", key)[0] == "init"]
    for key in ("init.run", LAYERS):
        if key in keys.values():
            problems.add(key, "is set by greedy in each stage: leave it out")
    others = [o for o in overrides if o not in own]
    if choice == "pretrained":
        return others, [*([] if "init.frozen" in keys.values() else ["init.frozen=true"]), *own]
    keys_of_option = [f"init.default.{o.removeprefix('init.')}" for o in own if o.startswith("init.")]
    return others, ["init=pretrained", "init.frozen=true", to_hydra(f"init.default={choice}"), *keys_of_option]


def _find_depth(arch: Mapping[str, Any], problems: Problems) -> dict[str, list[str]]:
    """Return the values, for 1, 2, ... hidden layers, of the keys that set the depth of a network."""
    depth = arch.get("depth")
    if isinstance(depth, int):
        values = {"arch.depth": [str(k) for k in range(1, depth + 1)]}
    else:
        lists = {key: value for key, value in arch.items() if isinstance(value, list) and value}
        values = {
            f"arch.{key}": [f"[{','.join(map(str, v[:k]))}]" for k in range(1, len(v) + 1)] for key, v in lists.items()
        }
    counts = {len(of_key) for of_key in values.values()}
    name = str(arch.get("_target_")).rpartition(".")[2]
    if len(counts) != 1:
        wrong = f"{name} has no depth, or one list of widths, that could grow by a layer"
        problems.add("arch", f"{wrong}: greedy is for arch=mlp, arch=cnn and similar networks")
    elif counts == {1}:
        problems.add("arch", f"{name} has one hidden layer; greedy needs two or more, such as {next(iter(values))}=...")
    return values


def _check_layers(space: GreedySpace, composer: Composer, problems: Problems) -> None:
    """Raise ConfigError unless each of the first two stages has one layer with weights more than hidden layers."""
    for k, point in enumerate(space.corners(len(space.stages))[:2], 1):
        job = composer.compose_job(Path(), space.overrides(point), 0)
        experiment, _ = build(job.config, job.overrides)
        count = len({p.name.rpartition(".")[0] for p in Layout.of(experiment.model) if p.kind == "weight"})
        if count != k + 1:
            wrong = f"has {count} layers with weights at depth {k}, and greedy adds one at a time to one"
            problems.add("arch", f"{type(experiment.model).__name__} {wrong}: use arch=mlp or arch=cnn")
            raise ConfigError(problems.errors)
