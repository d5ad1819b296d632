"""An experiment: everything that `train` needs for one run, built and checked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from dlopt import prng
from dlopt.base.layout import Layout
from dlopt.errors import OptionError
from dlopt.objective.clipping import Clip
from dlopt.parts import (
    Augmentation,
    Averaging,
    DataDependentInit,
    Diagnostic,
    Init,
    InitProbe,
    InPlaceInit,
    Loss,
    Optimizer,
    Regularization,
    Schedule,
    Split,
)
from dlopt.ranges import Count, Fraction, Positive, Range

Seed = Annotated[int, Range(ge=0, lt=2**32)]


@dataclass(frozen=True)
class ValidationSettings:
    """Which of the training examples are held out to validate on; drawn from the seed, the classes in proportion.

    scheme     holdout: a random share; kfold: one of k folds, which part the examples among themselves
    fraction   of holdout, the share; 0: none
    k          of kfold, how many folds; the sizes of two differ by one at most
    fold       of kfold, which one this run validates on, 0 to k - 1, training on the others; all runs of one seed have
               the same folds
    """

    scheme: Literal["holdout", "kfold"]
    fraction: Fraction
    k: Annotated[int, Range(ge=2)]
    fold: Annotated[int, Range(ge=0)] | None


@dataclass(frozen=True)
class CheckpointSettings:
    """When the state of training is written to checkpoints/last.safetensors, besides at the end and when interrupted.

    every     after every so many steps; null: not by steps
    minutes   when so many have passed since the last time; null: not by time
    keep      how many are kept: the last, and before it older ones by their steps
    """

    every: Count | None
    minutes: Positive | None
    keep: Count


@dataclass(frozen=True)
class Settings:
    """The settings of a run that belong to no group.

    epochs          passes over the training split
    steps           steps, in place of epochs; null: epochs counts
    batch_size      examples of a mini-batch, or full: all of them at once
    seed            of every random number of the run
    device          auto (cuda, else mps, else cpu), cpu, cuda, cuda:1, mps
    precision       float32, bfloat16 (autocast; weights stay float32) or float64
    compile         have torch.compile make one program of the network (a single run; the first steps take long)
    deterministic   refuse operations that have no reproducible form (on a GPU; a CPU is reproducible as it is)
    threads         CPU threads, or auto: one for small work, which more would slow down
    log_every       log a row at every so many steps besides those of evaluations; null: at evaluations alone
    eval_every      evaluate at every so many epochs
    objective       the metric that chooses the best weights; val/loss is train/loss where no validation split is
    name            name of the run's directory; null: <arch>-<optimizer>
    resume          a run to go on with; null: a new one
    """

    epochs: Count
    steps: Count | None
    batch_size: Count | Literal["full"]
    seed: Seed
    device: str
    precision: Literal["float32", "bfloat16", "float64"]
    compile: bool
    deterministic: bool
    threads: Count | Literal["auto"]
    log_every: Count | None
    eval_every: Count
    objective: str
    name: str | None
    resume: str | None
    validation: ValidationSettings
    checkpoint: CheckpointSettings
    clip: Clip

    def resolve_batch_size(self, examples: int) -> int:
        """Examples of a mini-batch of a split with so many."""
        return examples if self.batch_size == "full" else self.batch_size

    def count_steps(self, per_epoch: int) -> int:
        """Steps of the run, where so many make an epoch."""
        return self.steps or self.epochs * per_epoch

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and data."""
        return torch.float64 if self.precision == "float64" else torch.float32


class HyperparameterRef(NamedTuple):
    """A number that a schedule moves: its name, the part (`optimizer`, or a regularization's key), the field's path."""

    name: str
    part: str
    field: str


@dataclass(frozen=True, eq=False)
class Experiment:
    """One run's parts. Data are preprocessed and lie on the CPU; w, (P,), holds the initial weights.

    schedule is that of the rate, schedules are those of other numbers.

    outputs is the number of classes, or of numbers to predict; names, if there are any, what each is called; encoding
    is that of the data set. network holds the configuration of arch, activation and normalization: what the model was
    made of. others holds the components of groups that have no field here, by the group's name.
    """

    settings: Settings
    train: Split
    validation: Split | None
    test: Split
    outputs: int
    drop_last: bool
    model: nn.Module
    w: Tensor
    loss: Loss
    optimizer: Optimizer
    schedule: Schedule
    schedules: Mapping[HyperparameterRef, Schedule]
    averaging: Averaging | None
    regularization: Mapping[str, Regularization]
    augmentation: Mapping[str, Augmentation]
    diagnostic: Mapping[str, Diagnostic]
    preprocessing: Mapping[str, Mapping[str, Tensor]]
    network: Mapping[str, Any]
    names: tuple[str, ...]
    encoding: Mapping[str, Any]
    threads: int
    others: Mapping[str, Any] = field(default_factory=dict)

    def get_component(self, group: str) -> Any:
        """Return the component of a group, or components by their keys; None if the run has none."""
        return getattr(self, group) if group in self.__dataclass_fields__ else self.others.get(group)

    @property
    def objective(self) -> str:
        """The metric that chooses the best weights."""
        named = self.settings.objective
        return "train/loss" if named == "val/loss" and self.validation is None else named


def prepare_network(model: nn.Module, init: Init, saved: Mapping[str, Tensor] | None) -> Collection[str]:
    """The parameters that need not be drawn, after an init has prepared the network; saved as dlopt.parts has it."""
    with _attribute_errors("init"):
        return init.prepare(model, saved) if isinstance(init, InPlaceInit) else ()


def sample_initial_weights(
    model: nn.Module,
    layout: Layout,
    init: Init,
    bias: Init,
    gain: float,
    key: prng.Key,
    dtype: torch.dtype,
    kept: Collection[str] = (),
) -> Tensor:
    """w, (P,), before the first step, as drawn. Each parameter has a random stream of its own, by its name.

    What is kept is as the network has it. OptionError, at init or bias, says of which of them something went wrong.
    """
    own = dict(model.named_parameters())
    drawn = {}
    for p in layout:
        group, rule = {"weight": ("init", init), "bias": ("bias_init", bias), "norm": ("", None)}[p.kind]
        rule = None if p.name in kept else rule
        with _attribute_errors(group):
            values = rule(p, gain, prng.generator(prng.fold_in(key, p.name))) if rule else None
            drawn[p.name] = own[p.name].detach() if values is None else values
            if tuple(drawn[p.name].shape) != p.shape:
                raise ValueError(f"{p.name} needs values of shape {p.shape}, got {tuple(drawn[p.name].shape)}")
    return layout.flatten(drawn).to(dtype)


def adjust_weights(w: Tensor, init: Init, bias: Init, start: Callable[[], InitProbe]) -> Tensor:
    """w after those of its inits that look at data; OptionError as above. start is asked for if one does."""
    for group, rule in (("init", init), ("bias_init", bias)):
        if isinstance(rule, DataDependentInit):
            with _attribute_errors(group):
                made = rule.adjust(w, start())
                if made.shape != w.shape or not made.isfinite().all():
                    raise ValueError(f"adjusted() must make finite numbers of shape {tuple(w.shape)}")
                w = made.to(w.dtype)
    return w


@contextmanager
def _attribute_errors(group: str) -> Iterator[None]:
    """What goes wrong is said of this group."""
    try:
        yield
    except OptionError as error:
        raise OptionError(f"{group}.{error.key}", str(error)) from error
    except ValueError as error:
        raise OptionError(group, str(error)) from error
    except Exception as error:
        raise OptionError(group, f"fails: {type(error).__name__}: {error}") from error
