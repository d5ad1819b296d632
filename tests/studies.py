"""Studies for the tests of a sweep's machinery."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage

from dlopt.config.problems import Problems
from dlopt.sweep.options import HyperbandOptions, MedianOptions, TpeOptions
from dlopt.sweep.pruning import Pruner
from dlopt.sweep.samplers import Sampler
from dlopt.sweep.storage import Direction, load_or_create_study, open_storage


def make_pruner(name: Any = "none", startup: int = 0, warmup: int = 0, resource: int = 1, reduction: int = 2) -> Pruner:
    return Pruner(name, MedianOptions(startup, warmup), HyperbandOptions(resource, reduction))


def make_sampler(
    name: str, seed: int = 0, startup: int = 10, candidates: int = 24, *, multivariate: bool = True
) -> Sampler:
    return Sampler(name, seed, TpeOptions(startup, candidates, multivariate))


def open_study_storage(url: str | None, folder: Path) -> BaseStorage:
    problems = Problems()
    storage = open_storage(url, folder, problems)
    problems.raise_if_any()
    assert storage is not None
    return storage


def open_study(
    storage: BaseStorage,
    name: str = "it",
    content: Mapping[str, Any] | None = None,
    pruner: Pruner | None = None,
    direction: Direction = "minimize",
) -> optuna.Study:
    pruner = pruner or make_pruner()
    return load_or_create_study(storage, name, direction, pruner.to_optuna(), content or {"axes": []})[0]
