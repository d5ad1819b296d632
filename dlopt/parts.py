"""What each kind of part promises: the contract for everything that a config group can hold.

A part is a small frozen dataclass of hyperparameters with one or two methods; its fields are the keys that people
type. To add one, write such a class in a module of the group's folder and a YAML file that names it:
nothing else has to know. Nothing here imports a part, and no part imports another.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from dlopt.histogram import Histogram
from dlopt.ranges import Count, Fraction
from dlopt.streams import Key, fold
from dlopt.weights import Layout, Parameter

Kind = Literal["classes", "numbers"]


# ------------------------------------------------------------------------------------------------ data


@dataclass(frozen=True, eq=False)
class Split:
    """Examples: inputs (N, *shape), and targets (N,) int64 for classes or (N, outputs) float for numbers.

    rows, if given, are the indices into these tensors that belong to the split: a training and a validation split
    are two sets of rows of one tensor, and runs that share data share its memory.
    """

    inputs: Tensor
    targets: Tensor
    rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.targets if self.rows is None else self.rows)

    def gathered(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets of this split alone."""
        return (self.inputs, self.targets) if self.rows is None else (self.inputs[self.rows], self.targets[self.rows])


@dataclass(frozen=True, eq=False)
class Dataset:
    """What a data option loads: everything to learn from, and a test split that is read once, at the end.

    outputs is the number of classes, or of numbers to predict; names, if given, is what each of them is called.
    encoding, of people's own files, says how they became tensors, in plain numbers, text and lists: it is stored with
    the run, so that other files can be read alike. A training and a validation split are cut from `train` by the run.
    """

    train: Split
    test: Split
    outputs: int
    names: tuple[str, ...] = ()
    encoding: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        return "numbers" if self.train.targets.is_floating_point() else "classes"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example: (features,), (channels, length) or (channels, height, width)."""
        return tuple(self.train.inputs.shape[1:])


@dataclass(frozen=True)
class Data:
    """A data set.

    path          the file or folder to read or to keep a copy in; null is the option's own place
    train_size    keep this many training examples (a random subset, the classes in proportion); null keeps all
    label_noise   the share of training labels that are replaced by a wrong class drawn at random
    drop_last     leave out the last mini-batch of an epoch when it is smaller than the others
    """

    keeps_copy: ClassVar[bool] = False
    """Whether path is the place for a copy of what is made, and not of files to be read."""

    path: str | None
    train_size: Count | None
    label_noise: Fraction
    drop_last: bool

    def files(self) -> list[Path]:
        """The files that it reads as people's own, whatever they hold; none for known data, and for what it makes.

        Raises what `load` would, where they are not there.
        """
        return []

    def load(self) -> Dataset:
        raise NotImplementedError

    def load_like(self, encoding: Mapping[str, Any]) -> Dataset:
        """Examples for a run that is over, by the encoding of the data that it was trained on.

        What has an encoding puts every example of a file without a test of its own into both splits; anything else is
        loaded as ever, and may lack the last of the classes.
        """
        found = self.load()
        classes = encoding.get("classes", ())
        return replace(found, outputs=len(classes)) if len(classes) > found.outputs else found


class Preprocess(Protocol):
    """Fitted on the training split alone, then applied to all of the data."""

    def fit(self, inputs: Tensor) -> dict[str, Tensor]:
        """The statistics of the training inputs, (N, *shape); they are stored with the run."""

    def apply(self, inputs: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        """The transformed inputs, any number of examples."""


class Augmentation:
    """Changes a mini-batch, in training only: a pure function of the batch and a key.

    dims names the numbers of spatial dimensions it can work on: 0 for features, 1 for series, 2 for images.
    """

    dims: ClassVar[tuple[int, ...]] = (0, 1, 2)

    @property
    def mixes(self) -> bool:
        """Whether it mixes the targets of examples. Where one does, all augmentations of the run, and the loss, get
        probabilities (B, outputs) in place of classes (B,): one for the class at first, and zero for the others."""
        return False

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        """Inputs (B, *shape) and targets (B,) or (B, outputs) to new ones of the same shapes and types."""
        raise NotImplementedError


# ------------------------------------------------------------------------------------------------ networks


class Activation(Protocol):
    """Makes an activation module. gain is the factor by which an init makes up for what it does to the variance.

    A module of one's own whose outputs lie between two limits says so by `bounds`, a tuple (low, high).
    """

    gain: float

    def __call__(self) -> nn.Module: ...


class Normalization(Protocol):
    """Makes a normalization for inputs (batch, features, *dims), or None for none at all."""

    def __call__(self, features: int, dims: int) -> nn.Module | None: ...


class Running(nn.Module):
    """A module that uses statistics of the batch in training and their moving average in inference.

    Forward must not touch its buffers: it leaves the batch's statistics in `seen`, by the buffer's name, and the loop
    applies one moving average per step, from the first evaluation:  buffer <- (1 - momentum) buffer + momentum seen.
    So a rule that evaluates its objective five times moves them once.
    """

    normalizes: ClassVar[bool] = True
    momentum: float
    seen: dict[str, Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.seen = {}


class Site(nn.Module):
    """A place in a network where a regularization draws random numbers; rule and key are set before each evaluation.

    The key is the step's own, folded with the site's address: the same masks at every evaluation of a step.
    """

    def __init__(self, rule: Regularization, site: int) -> None:
        super().__init__()
        self.rule = rule
        self.site = site
        self.arm(Key(0, 0))

    def arm(self, key: Key) -> None:
        """Set the key of an evaluation."""
        self._key = key
        self._calls = 0

    def key(self) -> Key:
        """The key of this call: a module that is used several times in one evaluation draws anew each time."""
        self._calls += 1
        return fold(self._key, self._calls)


class Init(Protocol):
    """Draws the initial values of one parameter: of every weight (group init) or of every bias (group bias)."""

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor | None:
        """A tensor of parameter.shape, or None to keep what the module itself has drawn."""


class Backward(NamedTuple):
    """The gradient of the mini-batch loss by what goes into a layer and by what it puts out; None where there is none.

    None goes into the first layer where inputs are whole numbers.
    """

    inputs: Tensor | None
    outputs: Tensor | None


class Start(Protocol):
    """The network on one mini-batch before training, at any w, (P,): normalizations as in training, nothing random.

    inputs and targets are some examples of the training split, all_targets are those of the whole split. owners names
    the module that each parameter belongs to. A layer is a module with one weight of its own that puts out a tensor;
    layers are called by the names of their weights, in the order in which they are executed. Of one that is used
    several times the first use counts.
    """

    layout: Layout
    inputs: Tensor
    targets: Tensor
    all_targets: Tensor
    owners: Mapping[str, nn.Module]

    def outputs(self, w: Tensor) -> Tensor:
        """What the network makes of the inputs, (B, outputs)."""

    def walked(self, w: Tensor, factor: Callable[[Parameter, Tensor], float | None]) -> Tensor:
        """A new w, after one walk through the network in which the weights of each layer are scaled in turn.

        factor is called with a layer's weight and what the layer puts out. A number multiplies the weights, and it is
        called again with what they make then; with None the walk goes on to the next layer.
        """

    def activations(self, w: Tensor) -> dict[str, Tensor]:
        """What each layer hands on: the outputs of the activation behind it, or its own where none follows."""

    def gradients(self, w: Tensor) -> dict[str, Backward]:
        """The gradients of the loss at both ends of each layer."""


@runtime_checkable
class PreparingInit(Init, Protocol):
    """An init that puts values into the network before anything is drawn, and may freeze some of it."""

    def prepared(self, model: nn.Module, saved: Mapping[str, Tensor] | None) -> Collection[str]:
        """The parameters that keep what they have now; of these, what no longer requires gradients is not trained.

        saved is the network's own state dict where the run goes on from a checkpoint: then nothing else need be read.
        """


@runtime_checkable
class LookingInit(Init, Protocol):
    """An init that goes on to look at data, once all parameters have been drawn: weights first, then biases."""

    def adjusted(self, w: Tensor, start: Start) -> Tensor:
        """A new w, (P,), of which only what the group is for may differ. ValueError says why there can be none."""


class Loss:
    """The mean loss of a mini-batch, and what is measured beside it.

    targets is the kind of target it is made for. One for classes may take probabilities too, floats of shape
    (..., N, outputs), of which one and zeros are what a class is: then augmentations may mix targets.
    """

    targets: ClassVar[Kind]

    def check(self, outputs: Tensor) -> None:
        """Raise, before a run starts, the ValueError that says why it cannot judge such outputs, (B, outputs)."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs (B, outputs) and targets of a batch to the mean loss, shape ()."""
        raise NotImplementedError

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Other figures of merit for outputs (..., N, outputs) and targets (..., N[, outputs]), each of shape (...).

        dlopt.merit has the usual ones.
        """
        return {}


# ------------------------------------------------------------------------------------------------ rules


class Oracle(Protocol):
    """What a rule may ask of the mini-batch loss plus penalties, at any w: see dlopt.objective.Objective."""

    layout: Layout
    bounds: Mapping[str, tuple[float, float]]

    def value(self, w: Tensor) -> Tensor: ...
    def gradient(self, w: Tensor) -> tuple[Tensor, Tensor]: ...
    def hvp(self, w: Tensor, v: Tensor) -> Tensor: ...
    def hessian(self, w: Tensor) -> Tensor: ...
    def activations(self, w: Tensor) -> dict[str, Tensor]: ...
    def stream(self, name: str) -> Key: ...


class Step(NamedTuple):
    """What a rule returns: the next iterate and state, and the loss and gradient at the iterate it started from.

    A rule that evaluates at another point alone (schedule_free) returns those at that point, and says so.
    """

    w: Tensor
    state: Any
    loss: Tensor
    gradient: Tensor
    info: Mapping[str, Tensor] = {}


class Optimizer:
    """An update rule: a frozen dataclass of hyperparameters with two methods.

    Written for w of shape (..., P), reducing over the last dimension with keepdim. A hyperparameter is a float, or an
    (E, 1) column when E runs share the arithmetic (w is then (E, P)): use it in tensor arithmetic, never in an `if`.
    A rule that cannot comply says lanes = False. A field may hold a further rule: where the rate lr is the inner one's,
    schedules and lanes find it there (dlopt/fields.py).

    One that compares gradients with values or with Hessian products, as a line search does, says
    needs_true_gradient = True: then nothing may clip a gradient or add noise to it.

    A step owns the w and the state it is given and may overwrite both in place: at 1.9 million weights a second
    copy of w costs 3% of a whole step on a CPU. Whoever needs the former iterate keeps a copy.
    """

    lanes: ClassVar[bool] = True
    needs_true_gradient: ClassVar[bool] = False

    def init(self, w: Tensor, layout: Layout) -> Any:
        """The state before the first step: a NamedTuple of tensors, or () for none.

        A tensor of the state has w's leading dimensions, or none at all when every run would hold the same number. An
        int, such a number too, can be read without waiting for the device.
        A rule without lanes may have any object with state_dict() and load_state_dict(), of tensors and numbers.
        """
        return ()

    def check(self, w: Tensor, layout: Layout) -> None:
        """Raise, before a run starts, what says why the rule cannot train these initial weights, (P,)."""

    def step(self, w: Tensor, state: Any, objective: Oracle) -> Step:
        raise NotImplementedError


Unit = Literal["steps", "epochs"]


class Time(NamedTuple):
    """A moment of a run: the step numbered 0, 1, ..., steps - 1, of which per_epoch make a pass over the data.

    history holds the rows of the evaluations so far, in order: metrics by their names, each with its "step". From one
    evaluation to the next it is the same object, so that what watches a metric need not look at all of it at each step.
    """

    step: int
    steps: int
    per_epoch: int
    history: tuple[Mapping[str, float], ...] = ()

    def t(self, unit: Unit) -> float:
        """How many steps, or epochs, are done. Epochs are a real number, whole where one ends and the next begins."""
        return self.step if unit == "steps" else self.step / self.per_epoch

    def in_steps(self, length: float | None, unit: Unit) -> float:
        """A length of time as a number of steps, which need not be whole; that of the run where it is null."""
        return self.steps if length is None else length * (self.per_epoch if unit == "epochs" else 1)

    def after(self, n: int) -> Time:
        """The same moment as one of the run that is left after n steps."""
        return self._replace(step=self.step - n, steps=self.steps - n)


class Schedule:
    """A factor over time. Whatever is called with a Time serves as one; it need not derive from this class.

    One that follows a metric names it in a field `monitor`, as a regularization does that stops by one: the metric's
    name is checked before a run.
    """

    def __call__(self, time: Time) -> float:
        """The factor at this step, finite and not negative.

        ValueError says that a run of this length cannot be; each run is asked before it starts.
        """
        raise NotImplementedError

    def span(self, time: Time) -> float | None:
        """How many steps of such a run the formula describes before it ends; None where it has no end of its own.

        A run that is longer or shorter is told so before it starts.
        """
        return None


def span(schedule: Schedule, time: Time) -> float | None:
    """The span of any schedule: people's own need not have one."""
    return schedule.span(time) if isinstance(schedule, Schedule) else None


class Averaging:
    """A running average of the iterates, evaluated beside them."""

    def first(self, time: Time) -> int:
        """The number of the first step of such a run whose result is taken in; before its end there is no average."""
        return 0

    def init(self, w: Tensor) -> Any:
        """The state before anything is taken in, like that of an update rule."""
        raise NotImplementedError

    def update(self, state: Any, w: Tensor, time: Time) -> Any:
        """Take in the iterate after this step, the first or a later one; state may be overwritten, w not."""
        raise NotImplementedError

    def value(self, state: Any) -> Tensor:
        """The average, (..., P), once something was taken in."""
        raise NotImplementedError


class Regularization:
    """Anything that works against over-fitting, at whichever of these places it works; each default does nothing.

    kinds names the kinds of targets that it can work on.
    """

    kinds: ClassVar[tuple[Kind, ...]] = ("classes", "numbers")

    @property
    def mixes(self) -> bool:
        """Whether `targets` mixes those of classes, and must get probabilities, as an augmentation that mixes does."""
        return False

    @property
    def needs_rate(self) -> bool:
        """Whether `after` changes the iterate in proportion to lr, which not every rule has."""
        return False

    def inputs(self, inputs: Tensor, key: Key) -> Tensor:
        """Changes the inputs of a training evaluation."""
        return inputs

    def inference(self, inputs: Tensor) -> Tensor:
        """What inference does to the inputs in place of `inputs`; nothing random."""
        return inputs

    def targets(self, targets: Tensor) -> Tensor:
        """Changes the targets of a training evaluation: (B,), (B, outputs) of numbers, or of probabilities."""
        return targets

    def weights(self, w: Tensor, key: Key, layout: Layout) -> Tensor:
        """Changes the weights, (P,), at which a training evaluation is made."""
        return w

    def module(self, site: int) -> Site | None:
        """A module to put behind a hidden layer."""
        return None

    def penalty(self, w: Tensor, layout: Layout) -> Tensor | None:
        """A differentiable term of the objective, shape (), for w (P,)."""
        return None

    def gradient(self, g: Tensor, key: Key, step: int, layout: Layout) -> Tensor:
        """Changes the gradient, (P,), that a rule gets at the step numbered 0, 1, ...; penalties are in it. g is kept.

        Values and Hessian products are left as they are: a rule that compares them with gradients refuses it.
        """
        return g

    def after(self, w: Tensor, before: Tensor, lr: float | Tensor, layout: Layout) -> Tensor:
        """Changes the iterate after the rule's step from `before`; both (..., P). w may be overwritten, before not."""
        return w

    def stop(self, history: Sequence[Mapping[str, float]]) -> bool:
        """Whether to end the run, given the metrics of every evaluation so far, in order."""
        return False


# ------------------------------------------------------------------------------------------------ instruments

Reading = Tensor | Histogram
"""What an instrument reads: numbers of w's leading shape, (...), or histograms of that shape."""


@dataclass(frozen=True)
class Moment:
    """One step of training, for instruments: its number, both iterates, loss and gradient at the first of them.

    The gradient is that of the objective itself, before it is clipped or noise is added to it.
    """

    step: int
    before: Tensor
    after: Tensor
    loss: Tensor
    gradient: Tensor
    lr: float | Tensor
    layout: Layout
    objective: Oracle
    info: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Diagnostic:
    """An instrument: it watches, and cannot disturb training.

    every   measure at every so many steps; null measures whenever a row is logged
    """

    every: Count | None

    def measure(self, moment: Moment, memory: Any) -> tuple[Mapping[str, Reading], Any]:
        """Tags with values of w's leading shape, and what to be handed at the next measurement (None at the first).

        A value is a number, which goes into the row, or a histogram, which goes to TensorBoard alone.
        """
        raise NotImplementedError


class Wrapper:
    """A part around a callable of another library: one key names it, and another holds arguments for it.

    name      which of them
    options   its arguments, but for those that the part itself passes
    """

    passed: ClassVar[tuple[str, ...]]

    name: str

    @classmethod
    def names(cls) -> list[str]:
        """The names that it knows."""
        raise NotImplementedError

    @classmethod
    def wrapped(cls, name: str) -> Callable[..., Any]:
        """What a name stands for, or a dotted path. LookupError where it is none that is known."""
        raise NotImplementedError


def overrides(part: object, name: str, base: type) -> bool:
    """Whether a part has a method of its own in place of the base class's."""
    return getattr(type(part), name) is not getattr(base, name)
