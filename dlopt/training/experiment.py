"""An experiment: everything that `train` needs for one run, built and checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from dlopt import prng
from dlopt.base.data import Order
from dlopt.base.layout import Layout, Parameter
from dlopt.base.transforms import PixelScale
from dlopt.errors import OptionError
from dlopt.metrics.names import AVERAGE, GRADIENT_NORM, UPDATE_NORM
from dlopt.objective.clipping import Clip
from dlopt.objective.teacher import Teacher
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
    """The training examples that are held out for validation: sampled with the seed, stratified by class.

    Of data with groups or times, whole groups or the latest times are held out instead.

    scheme     holdout: a random share; kfold: one of k disjoint folds
    fraction   the share of holdout; 0: no validation split
    k          number of folds of kfold; their sizes differ by at most one, unless they are of groups or times
    fold       the fold that this run validates on, 0 to k - 1; it trains on the others. Runs of one seed have the same
               folds
    """

    scheme: Literal["holdout", "kfold"]
    fraction: Fraction
    k: Annotated[int, Range(ge=2)]
    fold: Annotated[int, Range(ge=0)] | None


@dataclass(frozen=True)
class CheckpointSettings:
    """When checkpoints/last.safetensors is written, besides at the end and at an interrupt.

    every     steps between two checkpoints; null: not by steps
    minutes   minutes between two checkpoints; null: not by time
    keep      number of checkpoints on disk: the last, and older ones named by their steps
    """

    every: Count | None
    minutes: Positive | None
    keep: Count


@dataclass(frozen=True)
class ToleranceSettings:
    """The run ends as done after the first step k for which one of these holds, as a minimizer of SciPy does.

    The norms are Euclidean, over all weights, and absolute. Both are of the step's mini-batch: a small value tells of a
    stationary point only with batch_size=full. The run ends right there, with an evaluation. Each step waits for the
    device to read the norms, and with `step` it copies the weights.

    gradient   |g_k| <= gradient, where g_k is the gradient of loss and penalties at w_k, before clipping and noise;
               null: off
    step       0 < |w_(k+1) - w_k| <= step; null: off. A step that leaves w as it is does not count: Levenberg-Marquardt
               and line searches make one when they refuse a point
    """

    gradient: Positive | None
    step: Positive | None

    @property
    def is_on(self) -> bool:
        return self.gradient is not None or self.step is not None

    def describe_reached(self, row: Mapping[str, float]) -> str:
        """Return the keys of the tolerances that the norms in a row are within; empty if they are within none."""
        is_reached = {
            "tolerance.gradient": self.gradient is not None and row.get(GRADIENT_NORM, math.inf) <= self.gradient,
            "tolerance.step": self.step is not None and 0 < row.get(UPDATE_NORM, math.inf) <= self.step,
        }
        return " and ".join(key for key, reached in is_reached.items() if reached)


@dataclass(frozen=True)
class Settings:
    """The settings of a run that are not components.

    epochs            passes over the training split
    steps             optimizer steps, instead of epochs; null: use epochs
    batch_size        examples of a mini-batch, or full: the whole training split
    micro_batch_size  largest number of examples of a forward and backward pass, for batches that do not fit into
                      memory; null: the whole batch. A batch is split into parts of nearly equal sizes, whose gradients
                      are added: the result is the same up to rounding. But batch normalization normalizes each part by
                      its own mean and variance, and stores their averages over the parts, once per step. Dropout and
                      noise of inputs have other masks than without. Evaluations take no more examples at once, either
    seed              seed of all random numbers of the run
    device            auto (cuda, else mps, else cpu), cpu, cuda, cuda:1, mps
    precision         float32, bfloat16 (autocast; weights stay float32) or float64
    compile           compile the network with torch.compile (single runs only; the first steps are slow)
    deterministic     refuse operations that are not reproducible (on a GPU; a CPU is always reproducible)
    threads           CPU threads, or auto: one for small networks, which more threads would slow down
    log_every         steps between two rows with the means over these steps, as recent/train/loss, besides the rows of
                      evaluations; null: only at evaluations
    eval_every        epochs between two evaluations
    objective         the metric that selects the best weights and ranks the runs of a sweep. A metric that the loss can
                      measure, such as val/f1, is added to loss.metrics; so is a `monitor`. Without a validation split
                      the last weights count as the best, and val/loss means train/loss. With an averaging,
                      average/val/loss selects averaged weights
    name              name of the run's directory; null: <arch>-<optimizer>
    resume            a run to resume; null: start a new one
    """

    epochs: Count
    steps: Count | None
    batch_size: Count | Literal["full"]
    micro_batch_size: Count | None
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
    tolerance: ToleranceSettings

    def resolve_batch_size(self, examples: int) -> int:
        """Return the number of examples in a mini-batch of a split with this many examples."""
        return examples if self.batch_size == "full" else self.batch_size

    def count_steps(self, per_epoch: int) -> int:
        """Return the number of steps of the run."""
        return self.steps or self.epochs * per_epoch

    @property
    def dtype(self) -> torch.dtype:
        """Return the type of weights and data."""
        return torch.float64 if self.precision == "float64" else torch.float32


class HyperparameterRef(NamedTuple):
    """A scheduled hyperparameter: its name, its component (`optimizer` or a regularization's key), its field's path."""

    name: str
    part: str
    field: str


@dataclass(frozen=True, eq=False)
class Experiment:
    """The components of one run. Data are preprocessed and on the CPU.

    outputs     number of classes, or of numbers to predict
    order       order of the training examples in an epoch
    draw        draws the training examples of an epoch, if they are generated; else None
    w           initial weights, (P,)
    schedule    of the learning rate
    schedules   of other hyperparameters
    names       names of the classes or predicted numbers; may be empty
    encoding    encoding of the data set
    network     configuration of the model: arch, activation and normalization
    others      components of groups without a field here, by group
    pixel_scale the preprocessing of pixels, if an augmentation needs to undo it
    teacher     guides the network, if there is a distillation
    parameter_groups    of each parameter group its name, its weights, how many of them are frozen, and the least and
                        the largest factor of the learning rate and of weight decay of the others
    """

    settings: Settings
    train: Split
    validation: Split | None
    test: Split
    outputs: int
    drop_last: bool
    order: Order
    draw: Callable[[int], Split] | None
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
    pixel_scale: PixelScale | None = None
    teacher: Teacher | None = None
    parameter_groups: Sequence[Mapping[str, Any]] = ()

    def get_component(self, group: str) -> Any:
        """Return the component of a group, or components by their keys; None if the run has none."""
        return getattr(self, group) if group in self.__dataclass_fields__ else self.others.get(group)

    def describe_run(self) -> dict[str, Any]:
        """Return what the status of its run records, as arguments of RunWriter.create."""
        return {
            "device": self.settings.device,
            "threads": self.threads,
            "directions": self.loss.directions,
            "teacher": None if self.teacher is None else self.teacher.record,
            "parameter_groups": self.parameter_groups,
        }

    @property
    def objective(self) -> str:
        """Return the metric that selects the best weights."""
        metric = self.settings.objective
        return "train/loss" if metric == "val/loss" and self.validation is None else metric

    @property
    def selects_average(self) -> bool:
        """Return whether the best weights are averaged ones."""
        return self.objective.startswith(AVERAGE)


def prepare_network(model: nn.Module, init: Init, saved: Mapping[str, Tensor] | None) -> Collection[str]:
    """Let an init prepare the network; return the parameters that need no sampling. For `saved` see dlopt.parts."""
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
    fixed: Collection[str] = (),
) -> Tensor:
    """Sample the initial weights, (P,). Each parameter has its own random stream, by its name.

    Parameters in `fixed` stay as they are in the network. An OptionError names init or bias_init as the cause.
    """
    parameters = dict(model.named_parameters())
    weights = {}
    for p in layout:
        group, component = {"weight": ("init", init), "bias": ("bias_init", bias), "norm": ("", None)}[p.kind]
        with _attribute_errors(group):
            values = parameters[p.name].detach()
            if component is not None and p.name not in fixed:
                sample = _sample(component, p, gain, prng.generator(prng.fold_in(key, p.name)))
                values = values if sample is None else sample
            if tuple(values.shape) != p.shape:
                raise ValueError(f"{p.name} needs values of shape {p.shape}, got {tuple(values.shape)}")
            weights[p.name] = values
    return layout.flatten(weights).to(dtype)


def _sample(component: Init, p: Parameter, gain: float, generator: torch.Generator) -> Tensor | None:
    """Sample one parameter, each of its stacked matrices by itself."""
    if p.stacked == 1:
        return component(p, gain, generator)
    samples = [component(p.select_matrix(), gain, generator) for _ in range(p.stacked)]
    return torch.cat([x for x in samples if x is not None]) if samples[0] is not None else None


def adjust_weights(w: Tensor, init: Init, bias: Init, start: Callable[[], InitProbe]) -> Tensor:
    """Adjust w by the inits that depend on data, for which `start` is called. Raises OptionError as above."""
    for group, component in (("init", init), ("bias_init", bias)):
        if isinstance(component, DataDependentInit):
            with _attribute_errors(group):
                adjusted = component.adjust(w, start())
                if adjusted.shape != w.shape or not adjusted.isfinite().all():
                    raise ValueError(f"adjust() must return finite numbers of shape {tuple(w.shape)}")
                w = adjusted.to(w.dtype)
    return w


@contextmanager
def _attribute_errors(group: str) -> Iterator[None]:
    """Raise errors as OptionErrors of this group."""
    try:
        yield
    except OptionError as error:
        raise OptionError(f"{group}.{error.key}", str(error)) from error
    except ValueError as error:
        raise OptionError(group, str(error)) from error
    except Exception as error:
        raise OptionError(group, f"fails: {type(error).__name__}: {error}") from error
