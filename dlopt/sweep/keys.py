"""The keys of hydra.sweeper, as conf/hydra/sweeper/grid.yaml has them, with their ranges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from dlopt.ranges import Count, Range

Seed = Annotated[int, Range(ge=0, lt=2**32)]
Statistic = Literal["mean", "median"]


@dataclass(frozen=True)
class Median:
    """Of the median rule; see Pruner."""

    startup: Annotated[int, Range(ge=0)]
    warmup: Annotated[int, Range(ge=0)]


@dataclass(frozen=True)
class Hyperband:
    """See Pruner."""

    least: Count
    reduction: Annotated[int, Range(ge=2)]


@dataclass(frozen=True)
class Tpe:
    """See Sampler."""

    startup: Annotated[int, Range(ge=0)]
    candidates: Count
    multivariate: bool


@dataclass(frozen=True)
class Keys:
    """The keys of hydra.sweeper; conf/hydra/sweeper/grid.yaml says what they mean."""

    sampler: Literal["grid", "random", "tpe", "qmc"]
    trials: Count | None
    seed: Seed
    seeds: Count | list[Seed] | None
    statistic: Statistic
    storage: str | None
    study: str | None
    retry: bool
    pruner: Literal["none", "median", "hyperband"]
    median: Median
    hyperband: Hyperband
    tpe: Tpe
    params: dict[str, Any] | None
    max_batch_size: Count | None
