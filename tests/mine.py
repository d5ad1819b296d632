"""Custom components, as a user would write them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from dlopt import prng
from dlopt.base.layout import Layout
from dlopt.metrics.names import Direction
from dlopt.normalization.batch import BatchNorm
from dlopt.parts import (
    Augmentation,
    Averaging,
    Data,
    Dataset,
    Diagnostic,
    Distillation,
    LinePoint,
    LineSearch,
    Loss,
    ObjectiveOracle,
    Optimizer,
    Regularization,
    Schedule,
    Split,
    Step,
    StepRecord,
    StepSize,
    TargetKind,
    TrainingTime,
    Trials,
)
from dlopt.prng import Key
from dlopt.ranges import Positive

# ------------------------------------------------------------------------------------------- data


def _sample_blobs(count: int, seed: int, shape: tuple[int, ...] = (4,)) -> tuple[Tensor, Tensor]:
    """Sample three classes of noisy points around three centers."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 3
    centers = torch.randn(3, *shape, generator=torch.Generator().manual_seed(7)) * 2
    return centers[y] + torch.randn(count, *shape, generator=generator), y


@dataclass(frozen=True)
class Blobs(Data):
    """Three classes of features, series or images, by `shape`."""

    shape: tuple[int, ...] = (4,)
    count: int = 60

    def load(self) -> Dataset:
        shape = tuple(self.shape)
        return Dataset(Split(*_sample_blobs(self.count, 1, shape)), Split(*_sample_blobs(30, 2, shape)), outputs=3)


@dataclass(frozen=True)
class Pixels(Blobs):
    """Images with values from 0 to 1."""

    def load(self) -> Dataset:
        data = super().load()
        train, test = (replace(split, inputs=split.inputs.sigmoid()) for split in (data.train, data.test))
        return replace(data, train=train, test=test)


@dataclass(frozen=True)
class Stream(Blobs):
    """Blobs of which there are as many as one likes."""

    def draw(self, key: prng.Key, count: int) -> Split:
        return Split(*_sample_blobs(count, prng.generator(key).initial_seed(), tuple(self.shape)))


def number_visits(count: int) -> Tensor:
    """Return uneven groups, or times without order: 12 different numbers."""
    return (torch.arange(count) ** 2 * 7) % 23


@dataclass(frozen=True)
class Visits(Blobs):
    """Blobs with groups or times; `how` is the field, or a fault."""

    how: str = "groups"

    def load(self) -> Dataset:
        units = number_visits(self.count)
        faults = {"float groups": {"groups": units / 2}, "few times": {"times": units[:9]}, "late": {"times": units / 0},
                  "both": {"groups": units, "times": units}, "a list": {"groups": units.tolist()}}  # fmt: skip
        return replace(super().load(), **faults.get(self.how, {self.how: units}))


@dataclass(frozen=True)
class ValidatedBlobs(Blobs):
    """Blobs with a validation split of their own; `how` is a fault in it."""

    how: str = ""

    def load(self) -> Dataset:
        x, y = _sample_blobs(20, 3, (5,) if self.how == "shape" else (4,))
        if self.how == "label":
            y = y + 1
        return replace(super().load(), validation=Split(x[:0], y[:0]) if self.how == "empty" else Split(x, y))


@dataclass(frozen=True)
class Regression(Data):
    """y = sum of x, and noise."""

    def load(self) -> Dataset:
        def sample(count: int, seed: int) -> Split:
            x, _ = _sample_blobs(count, seed)
            noise = torch.randn(count, 1, generator=torch.Generator().manual_seed(seed))
            return Split(x, x.sum(1, keepdim=True) + 0.1 * noise)

        return Dataset(sample(60, 1), sample(30, 2), outputs=1)


@dataclass(frozen=True)
class Labels(Data):
    """Three labels of each example: whether a feature is positive."""

    def load(self) -> Dataset:
        def sample(count: int, seed: int) -> Split:
            x, _ = _sample_blobs(count, seed)
            return Split(x, (x[:, :3] > 0).float())

        return Dataset(sample(60, 1), sample(30, 2), outputs=3)


@dataclass(frozen=True)
class Unbalanced(Data):
    """Two classes that overlap: one example of eight is of the second. Five examples make a group."""

    def load(self) -> Dataset:
        def sample(count: int, seed: int) -> Split:
            y = (torch.arange(count) % 8 == 0).long()
            noise = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
            return Split(noise + y.unsqueeze(1), y)

        return Dataset(sample(96, 1), sample(240, 2), outputs=2, groups=torch.arange(96) // 5)


@dataclass(frozen=True)
class OneMissing(Data):
    """Three classes, the last of which only the test has."""

    def load(self) -> Dataset:
        x, y = _sample_blobs(60, 1)
        return Dataset(Split(x, y % 2), Split(x[:30], y[:30]), outputs=3)


@dataclass(frozen=True)
class StepLabels(Data):
    """Series (2, 6) with a class for each step, or numbers; sequences have 1 to 6 steps with a target."""

    numbers: bool = False
    how: str = ""

    def load(self) -> Dataset:
        def sample(count: int, seed: int) -> Split:
            x = torch.randn(count, 2, 6, generator=torch.Generator().manual_seed(seed))
            y = x.sum(1, keepdim=True).mT if self.numbers else (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
            y[torch.arange(6) > (torch.arange(count) % 6).unsqueeze(1)] = math.nan if self.numbers else -1
            if self.how == "empty" and seed == 1:
                y[:5] = -1
            return Split(x, y - int(self.how == "label" and seed == 1))

        return Dataset(sample(60, 1), sample(30, 2), outputs=1 if self.numbers else 3)


@dataclass(frozen=True)
class Imputed(Regression):
    """Missing numbers are replaced by the median of the training rows, or `how` this fails."""

    how: str = ""

    def load(self) -> Dataset:
        data = super().load()
        data.train.inputs[::7] = math.nan
        return data

    def fit(self, train: Split, encoding: Mapping[str, Any]) -> Any:
        return None if self.how == "nothing" else {"median": train.gather()[0].nanmedian().item()}

    def transform_inputs(self, inputs: Tensor, encoding: Mapping[str, Any]) -> Tensor:
        return inputs if self.how == "gaps" else inputs.nan_to_num(encoding["median"])


@dataclass(frozen=True)
class Sequences(Data):
    """Sequences of tokens or of two numbers per step, with one class or number, or one for each step.

    A class is the number of even tokens or positive numbers so far, modulo 3; a number is the mean of the inputs so
    far. If padded, the lengths are 1 to `length`.
    """

    kind: str = "tokens"
    numbers: bool = False
    per_step: bool = False
    padded: bool = True
    length: int = 6
    count: int = 60

    def load(self) -> Dataset:
        tokens = TOKENS if self.kind == "tokens" else None
        return Dataset(
            self._sample(self.count, 1), self._sample(30, 2), outputs=1 if self.numbers else 3, tokens=tokens
        )

    def _sample(self, count: int, seed: int) -> Split:
        generator = torch.Generator().manual_seed(seed)
        lengths = 1 + torch.arange(count) % self.length if self.padded else torch.full((count,), self.length)
        steps = torch.arange(self.length)
        mask = steps < lengths[:, None]
        if self.kind == "tokens":
            x = torch.randint(1, TOKENS, (count, self.length), generator=generator)
            values, x = x.double(), x * mask
        else:
            x = torch.randn(count, 2, self.length, generator=generator)
            values, x = x.sum(1).double(), torch.where(mask[:, None], x, torch.nan)
        hits = values % 2 == 0 if self.kind == "tokens" else values > 0
        y = (values.cumsum(1) / (1 + steps)).float().unsqueeze(-1) if self.numbers else hits.cumsum(1) % 3
        if not self.per_step:
            return Split(x, y[torch.arange(count), lengths - 1])
        return Split(x, torch.where(mask.unsqueeze(-1), y, torch.nan) if self.numbers else torch.where(mask, y, -1))


TOKENS = 7
"""Number of tokens of `Sequences`, including the padding."""


@dataclass(frozen=True)
class IntegerBlobs(Data):
    """Integer inputs 0 to 4, as of tokens."""

    def load(self) -> Dataset:
        x, y = _sample_blobs(60, 1)
        x = (x * 2).long() % 5
        return Dataset(Split(x, y), Split(x[:30], y[:30]), 3)


@dataclass(frozen=True)
class FaultyData(Data):
    """Data with the fault `how`."""

    how: str = ""

    def load(self) -> Any:
        x, y = _sample_blobs(60, 1)
        test = Split(*_sample_blobs(30, 2))
        empty = Split(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
        faults: dict[str, Any] = {
            "empty": lambda: Dataset(empty, empty, 2),
            "numpy": lambda: Dataset(Split(x.numpy(), y), test, 3),  # type: ignore[arg-type]
            "lengths": lambda: Dataset(Split(x, y[:50]), test, 3),
            "labels": lambda: Dataset(Split(x, y), test, 2),
            "types": lambda: Dataset(Split(x, y.int()), test, 3),
            "infinite": lambda: Dataset(Split(x / 0, y), test, 3),
            "shapes": lambda: Dataset(Split(x, y), Split(x[:, :2], y), 3),
            "tuple": lambda: (x, y),
        }
        return faults[self.how]()


# ------------------------------------------------------------------------------------------- models


class NormDropoutNet(nn.Module):
    """A model of torch's own modules, with running statistics and dropout."""

    def __init__(self, inputs: tuple[int, ...], outputs: int, width: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(inputs), width))
        self.norm = nn.BatchNorm1d(width)
        self.drop = nn.Dropout(0.25)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.norm(self.body(x)).relu()))


class SigmoidNet(nn.Sequential):
    """An MLP with two of torch's activations."""

    def __init__(self, inputs: tuple[int, ...], outputs: int) -> None:
        size = math.prod(inputs)
        super().__init__(
            nn.Flatten(), nn.Linear(size, 6), nn.Sigmoid(), nn.Linear(6, 6), nn.GELU(), nn.Linear(6, outputs)
        )


class BiasFreeNet(nn.Sequential):
    """An MLP whose parameters are all matrices, as Muon requires."""

    def __init__(self, inputs: tuple[int, ...], outputs: int) -> None:
        first, last = nn.Linear(math.prod(inputs), 6, bias=False), nn.Linear(6, outputs, bias=False)
        super().__init__(nn.Flatten(), first, nn.Tanh(), last)


class LogProbabilities(nn.Sequential):
    """An MLP whose outputs are log-probabilities."""

    def __init__(self, inputs: tuple[int, ...], outputs: int) -> None:
        first, last = nn.Linear(math.prod(inputs), 6), nn.Linear(6, outputs)
        super().__init__(nn.Flatten(), first, nn.Tanh(), last, nn.LogSoftmax(-1))


class WrongShapeNet(nn.Sequential):
    """A model with one output too many."""

    def __init__(self, inputs: tuple[int, ...], outputs: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(math.prod(inputs), outputs + 1))


class LSTMCell(nn.LSTMCell):
    """torch's cell, written out because its own kernel does not support vmap."""

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        h, c = state
        gates = x @ self.weight_ih.T + self.bias_ih + h @ self.weight_hh.T + self.bias_hh
        i, f, g, o = gates.chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class StepNet(nn.Module):
    """Scores each step of a series."""

    def __init__(self, inputs: tuple[int, ...], outputs: int, per_step: bool, normalization: Any = None) -> None:
        super().__init__()
        self.body = nn.Conv1d(inputs[0], 5, 3, padding=1)
        self.norm = normalization(5, 1) or nn.Identity()
        self.head = nn.Linear(5, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.body(x)).relu().mT)


class Distances(nn.Module):
    """Distances to trainable points, which torch cannot differentiate twice."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.points = nn.Parameter(torch.linspace(-1, 1, inputs * outputs).reshape(outputs, inputs))

    def forward(self, x):
        return torch.cdist(x, self.points)


class DistanceNet(nn.Module):
    """Scores classes by distances."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.distances = Distances(inputs[0], outputs)

    def forward(self, x):
        return self.distances(x)


class LSTMNet(nn.Module):
    """Reads an example as a sequence of numbers."""

    def __init__(self, inputs: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.cell = LSTMCell(1, 5)
        self.head = nn.Linear(5, outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), 5)
        for number in x.flatten(1).unsqueeze(-1).unbind(1):
            h, c = self.cell(number, (h, c))
        return self.head(h)


class OneWeight(nn.Module):
    """Multiplies features by one number."""

    def __init__(self, inputs: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.7))
        self.activation = nn.ReLU()
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.factor * x.flatten(1))[:, : self.outputs]


class Recurrent(nn.Module):
    """Reads an example as a sequence of numbers with torch's own LSTM."""

    def __init__(self, inputs: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.layers = nn.LSTM(1, 5, batch_first=True)
        self.head = nn.Linear(5, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x.flatten(1).unsqueeze(-1))[0][:, -1])


class Attention(nn.Module):
    """Reads an example as a sequence of numbers with torch's own attention."""

    def __init__(self, inputs: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.embed = nn.Linear(1, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x.flatten(1).unsqueeze(-1))
        return self.head(self.attention(h, h, h)[0].mean(1))


class TwoHeads(nn.Module):
    """Two auxiliary outputs from inner layers in training; `fault` returns something else."""

    def __init__(
        self, inputs: tuple[int, ...], outputs: int, auxiliary_weight: Any = None, norm: bool = False, fault: str = ""
    ) -> None:
        super().__init__()
        self.one = nn.Linear(math.prod(inputs), 5)
        self.norm = BatchNorm(5) if norm else nn.Identity()
        self.two = nn.Linear(5, 4)
        self.heads = nn.ModuleList([nn.Linear(5, outputs), nn.Linear(4, outputs)])
        self.output = nn.Linear(4, outputs)
        self.auxiliary_weight = auxiliary_weight
        self.fault = fault

    def forward(self, x: Tensor) -> Any:
        h = self.norm(self.one(x.flatten(1))).tanh()
        g = self.two(h).tanh()
        if not self.training or self.fault == "no heads":
            return self.output(g)
        heads = [self.heads[0](h), self.heads[1](g)]
        if self.fault == "shape":
            heads[1] = heads[1][:, :1]
        return self.output(g), None if self.fault == "none" else heads


class EmbeddingNet(nn.Module):
    """A model of integer inputs 0 to 4."""

    def __init__(self, inputs: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.head = nn.Linear(4 * math.prod(inputs), outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.table(x).flatten(1))


class FrozenNet(nn.Module):
    """A frozen layer, scaled by a number, below trained layers, two of which share a weight."""

    def __init__(self, inputs: tuple[int, ...], outputs: int, scale: float = 1.0) -> None:
        super().__init__()
        self.features = nn.Linear(math.prod(inputs), 6)
        self.features.requires_grad_(False)
        self.one = nn.Linear(6, 6, bias=False)
        self.two = nn.Linear(6, 6, bias=False)
        self.two.weight = self.one.weight
        self.head = nn.Linear(6, outputs)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.one(self.scale * self.features(x.flatten(1))).tanh()))


class Valley(nn.Module):
    """f = (x - 1)^2 + 10 |y|^2 of a number x and a vector y, without inputs."""

    def __init__(self, steepness: float = 10.0) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.tensor(3.0))
        self.y = nn.Parameter(torch.tensor([1.0, -2.0]))
        self.steepness = steepness

    def forward(self) -> Tensor:
        return (self.x - 1).square() + self.steepness * self.y.square().sum()


class Bowl(nn.Module):
    """f = (x - 1)^2 + 3 (y + 2)^2 of two numbers, without inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.tensor(5.0))
        self.y = nn.Parameter(torch.tensor(0.0))

    def forward(self) -> Tensor:
        return (self.x - 1).square() + 3 * (self.y + 2).square()


class Logs(nn.Module):
    """f = log x + log y, which is NaN for negative numbers."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([start, 1.0]))

    def forward(self) -> Tensor:
        return self.w.log().sum()


class Impure(nn.Module):
    """Draws from the global generator in training, or changes a buffer."""

    def __init__(self, inputs: tuple[int, ...], outputs: int, how: str = "random") -> None:
        super().__init__()
        self.layer = nn.Linear(math.prod(inputs), outputs)
        self.drop = nn.Dropout1d(0.5) if how == "random" else nn.Identity()
        self.how = how
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.how == "buffer":
            self.count += 1
        return self.drop(self.layer(x.flatten(1)).unsqueeze(1)).squeeze(1)


@dataclass(frozen=True)
class Square:
    """An activation: x min(|x|, 1)."""

    gain: ClassVar[float] = 1.0

    def __call__(self) -> nn.Module:
        return _Square()


class _Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.abs().clamp(max=1.0)


@dataclass(frozen=True)
class ZeroActivation:
    """An activation whose output is always zero."""

    gain: ClassVar[float] = 1.0

    def __call__(self) -> nn.Module:
        return nn.Threshold(float("inf"), 0.0)


@dataclass(frozen=True)
class LayerNorm:
    def __call__(self, features: int, dims: int) -> nn.Module:
        return nn.GroupNorm(1, features)


@dataclass(frozen=True)
class ConstantInit:
    """Every value the same; `extra` of them too many."""

    value: float = 0.1
    extra: int = 0

    def __call__(self, parameter: Any, gain: float, generator: torch.Generator) -> Tensor:
        shape = (parameter.size + self.extra,) if self.extra else parameter.shape
        return torch.full(shape, self.value)


# ------------------------------------------------------------------------------------------- losses


@dataclass(frozen=True)
class Hinge(Loss):
    targets: ClassVar[TargetKind] = "classes"

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        right = outputs.gather(-1, targets.unsqueeze(-1))
        return (1.0 + outputs - right).clamp(min=0.0).mean()

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"accuracy": (outputs.argmax(-1) == targets).to(outputs.dtype).mean(-1)}


@dataclass(frozen=True)
class Margin(Hinge):
    """Measures the mean margin, which rises, and two metrics like it of another or of no direction."""

    directions: ClassVar[Mapping[str, Direction]] = {"margin": "max", "shortfall": "min"}

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        best = outputs.topk(2, dim=-1).values
        margin = (best[..., 0] - best[..., 1]).mean(-1)
        return {"margin": margin, "shortfall": -margin, "undeclared": margin}


@dataclass(frozen=True)
class WrongDirection(Margin):
    directions: ClassVar[Mapping[str, Direction]] = {"margin": "up"}  # type: ignore[dict-item]


@dataclass(frozen=True)
class ReversedDirection(Margin):
    directions: ClassVar[Mapping[str, Direction]] = {"accuracy": "min"}


@dataclass(frozen=True)
class SumLoss(Loss):
    """Accepts probabilities, but gives another value for them than for the classes: they always sum to one."""

    targets: ClassVar[TargetKind] = "classes"

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.mean() - targets.sum()).square()


# ------------------------------------------------------------------------------------------- optimizers


@dataclass(frozen=True)
class Sign(Optimizer):
    """w <- w - lr sign(g), out of place."""

    lr: Positive

    def step(self, w: Tensor, state: Any, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        return Step(w - self.lr * g.sign(), state, loss, g)


@dataclass(frozen=True)
class Halving(LineSearch):
    """Halves the step until the value is smaller."""

    tries: int

    def trials(self, start: LinePoint, first: float, c2: float) -> Trials:
        for i in range(self.tries):
            trial = yield first / 2**i
            if trial.value < start.value:
                return StepSize(trial.alpha)
        return StepSize(0.0, failed=True)


@dataclass(frozen=True)
class ExtraEvaluations(Optimizer):
    """Gradient descent that evaluates the objective at other points too before it steps."""

    lr: Positive

    def step(self, w: Tensor, state: Any, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        for k in range(3):
            objective.value(w + 0.1 * k)
            objective.gradient(w - 0.1 * k * g)
        return Step(w - self.lr * g, state, loss, g)


class StepCount(NamedTuple):
    count: Tensor  # (..., 1)


@dataclass(frozen=True)
class Reporting(Optimizer):
    """Gradient descent that reports the number of a step, lr, and whether the loss is high."""

    lr: Positive

    def init(self, w: Tensor, layout: Layout) -> StepCount:
        return StepCount(torch.zeros_like(w[..., :1]))

    def step(self, w: Tensor, state: StepCount, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        state.count.add_(1)  # in place: the tensor that the step before has reported
        count = state.count.squeeze(-1)
        info = {"count": count, "lr": (self.lr * torch.ones_like(state.count)).squeeze(-1), "high": loss > 0.2}
        return Step(w - self.lr * g, state, loss, g, info)


@dataclass(frozen=True)
class VectorInfo(Optimizer):
    def step(self, w, state, objective):
        loss, g = objective.gradient(w)
        return Step(w - 0.1 * g, state, loss, g, {"fine": loss, "direction": g})


@dataclass(frozen=True)
class NumberInfo(VectorInfo):
    def step(self, w, state, objective):
        return super().step(w, state, objective)._replace(info={"fine": torch.tensor(1.0), "rate": 0.5})


@dataclass(frozen=True)
class OneArgumentInit(Optimizer):
    def init(self, w):
        return ()


@dataclass(frozen=True)
class BareStep(Optimizer):
    def step(self, w, state, objective):
        return w - 0.1 * objective.gradient(w)[1]


@dataclass(frozen=True)
class FaultyInit(Optimizer):
    def init(self, w, layout):
        return 1 / 0


@dataclass(frozen=True)
class NormalizedDescent(Optimizer):
    """Steps of length 0.01 along the gradient: an optimizer without a learning rate."""

    def step(self, w: Tensor, state: Any, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        return Step(w - 0.01 * g / (g.norm(dim=-1, keepdim=True) + 1e-12), state, loss, g)


class FieldlessDescent(Optimizer):
    """An optimizer that is not a dataclass."""

    def step(self, w: Tensor, state: Any, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        return Step(w - 0.01 * g, state, loss, g)


@dataclass(frozen=True)
class ScaledStep(Optimizer):
    """Takes a share of each step of another optimizer."""

    share: float
    base: Optimizer

    def init(self, w: Tensor, layout: Layout) -> Any:
        return self.base.init(w, layout)

    def step(self, w: Tensor, state: Any, objective: ObjectiveOracle) -> Step:
        before = w.clone()
        step = self.base.step(w, state, objective)
        return step._replace(w=before + self.share * (step.w - before))


class Lion(torch.optim.Optimizer):
    """Chen et al. 2023, with steps that shrink as 1/k; counts its steps in its parameter group."""

    def __init__(self, params: Any, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "k": 0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            one, two = group["betas"]
            group["k"] += 1
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                p.add_(torch.lerp(p.grad, m, one).sign(), alpha=-group["lr"] / group["k"])
                m.mul_(two).add_(p.grad, alpha=1 - two)
        return loss


class WeightDecaySGD(torch.optim.Optimizer):
    """w <- w - lr (g + w). Changes the gradients in place; its step takes no closure."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:
        for p in self.param_groups[0]["params"]:
            p.add_(p.grad.add_(p), alpha=-self.param_groups[0]["lr"])


class IgnoresClosure(torch.optim.Optimizer):
    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    def step(self, closure: Any = None) -> None: ...


class NotAComponent:
    pass


# ------------------------------------------------------------------------------------------- schedules


@dataclass(frozen=True)
class Sawtooth:
    def __call__(self, time: TrainingTime) -> float:
        return 1.0 - (time.step % 5) / 10


@dataclass(frozen=True)
class Factor(Schedule):
    """A constant factor from step `begin` on, and 1 before it."""

    value: float
    begin: int = 0

    def __call__(self, time: TrainingTime) -> float:
        return self.value if time.step >= self.begin else 1.0


@dataclass(frozen=True)
class InfiniteFactor(Factor):
    value: float = math.inf
    begin: int = 1


@dataclass(frozen=True)
class FourSteps(Factor):
    """1 for two steps, then 0.5; ends after four steps."""

    value: float = 0.5
    begin: int = 2

    def span(self, time: TrainingTime) -> float:
        return 4


@dataclass(frozen=True)
class FollowMetric:
    """1 / (2 + number of evaluations + last value of the metric)."""

    monitor: str

    def __call__(self, time: TrainingTime) -> float:
        assert all(row["step"] <= time.step for row in time.history)
        values = [row[self.monitor] for row in time.history]
        return 1 / (2 + len(values) + (values[-1] if values else 0.0))


@dataclass(frozen=True)
class ScaledSchedule:
    """A share of another schedule."""

    share: float
    rest: Schedule

    def __call__(self, time: TrainingTime) -> float:
        return self.share * self.rest(time)


# ------------------------------------------------------------------------------------------- other components


@dataclass(frozen=True)
class Jitter(Augmentation):
    """Adds uniform noise to the inputs."""

    dims: ClassVar[tuple[int, ...]] = (0, 1, 2)
    size: float = 0.2

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        noise = prng.uniform(key, tuple(inputs.shape), inputs.device).to(inputs.dtype)
        return inputs + self.size * (noise - 0.5), targets


@dataclass(frozen=True)
class ImagesOnly(Jitter):
    dims: ClassVar[tuple[int, ...]] = (2,)


@dataclass(frozen=True)
class MixOpposites(Augmentation):
    """Means of each example and its opposite in the mini-batch, of inputs and targets."""

    mixes: ClassVar[bool] = True  # type: ignore[misc]

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        return (inputs + inputs.flip(0)) / 2, (targets + targets.flip(0)) / 2


@dataclass(frozen=True)
class FaultyAugmentation(Augmentation):
    """An augmentation with the fault `how`."""

    how: str

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        if self.how == "in_place":
            inputs += 1
        return {
            "error": lambda: inputs[:, 10**6],
            "shape": lambda: (inputs[:, 1:], targets),
            "type": lambda: (inputs, targets.float()),
            "one": lambda: inputs,
            "random": lambda: (inputs + torch.rand(inputs.shape), targets),
            "in_place": lambda: (inputs, targets),
        }[self.how]()  # type: ignore[return-value]


@dataclass(frozen=True)
class SoftTargets(Regularization):
    """Label smoothing."""

    kinds: ClassVar[tuple[TargetKind, ...]] = ("classes",)
    mixes: ClassVar[bool] = True  # type: ignore[misc]

    def targets(self, targets: Tensor) -> Tensor:
        return 0.9 * targets + 0.1 / targets.shape[-1]


@dataclass(frozen=True)
class InputNoise(Regularization):
    """Adds noise to the inputs, after which integers are not valid for an embedding."""

    def inputs(self, inputs: Tensor, key: Key) -> Tensor:
        return inputs + 0.1 * prng.uniform(key, tuple(inputs.shape), inputs.device)


@dataclass(frozen=True)
class HalfGradient(Regularization):
    """The optimizer receives half of each gradient."""

    def gradient(self, g: Tensor, key: Key, step: int, layout: Layout) -> Tensor:
        return 0.5 * g


@dataclass(frozen=True)
class PullBack(Regularization):
    """Pulls each iterate towards the one before it."""

    share: float

    def after(self, w: Tensor, before: Tensor, lr: float | Tensor, layout: Layout) -> Tensor:
        return torch.lerp(w, before, self.share) if isinstance(self.share, float) else w + self.share * (before - w)


@dataclass(frozen=True)
class StepLength(Diagnostic):
    """Length of the step. Asks the objective for one more gradient, which must change nothing."""

    def measure(self, record: StepRecord, memory: Any) -> tuple[dict[str, Tensor], Any]:
        record.objective.gradient(record.after)
        length = torch.linalg.vector_norm(record.after - record.before, dim=-1)
        return {"mine/moved": length, "mine/count": torch.as_tensor(float(memory or 1.0))}, (memory or 1.0) + 1.0


@dataclass(frozen=True)
class RunningMean(Averaging):
    """The mean of the iterates from step `begin` on; None: of the last half."""

    begin: int | None = 0

    def first(self, time: TrainingTime) -> int:
        return time.steps // 2 if self.begin is None else self.begin

    def init(self, w: Tensor) -> tuple[Tensor]:
        return (torch.zeros_like(w),)

    def update(self, state: tuple[Tensor], w: Tensor, time: TrainingTime) -> tuple[Tensor]:
        return (state[0].lerp_(w, 1.0 / (time.step - self.first(time) + 1)),)

    def value(self, state: tuple[Tensor]) -> Tensor:
        return state[0]


@dataclass(frozen=True)
class FaultyMean(RunningMean):
    def first(self, time: TrainingTime) -> int:
        return 1 // time.step


@dataclass(frozen=True)
class Filling:
    """Replaces NaN by zeros."""

    def fit(self, inputs: Tensor) -> dict[str, Tensor]:
        return {}

    def apply(self, inputs: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        return inputs.nan_to_num()


@dataclass(frozen=True)
class Negation:
    """Preprocessing: x <- -x."""

    def fit(self, inputs: Tensor) -> dict[str, Tensor]:
        return {}

    def apply(self, inputs: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        return -inputs


@dataclass(frozen=True)
class Match(Distillation):
    """The squared difference of the probabilities."""

    teacher: str | None
    trust: bool
    weight: float

    def losses(self, student: Tensor, teacher: Tensor, kind: TargetKind) -> Tensor:
        return (student.softmax(-1) - teacher.softmax(-1)).square().sum(-1)
