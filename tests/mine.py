"""What people bring: small parts of their own, used by the tests in the way that people would use theirs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dlopt import prng
from dlopt.base.layout import Layout
from dlopt.parts import (
    Augmentation,
    Averaging,
    Data,
    Dataset,
    Diagnostic,
    Loss,
    ObjectiveOracle,
    Optimizer,
    Regularization,
    Schedule,
    Split,
    Step,
    StepRecord,
    TargetKind,
    TrainingTime,
)
from dlopt.prng import Key
from dlopt.ranges import Positive


def _examples(count: int, seed: int, shape: tuple[int, ...] = (4,)) -> tuple[Tensor, Tensor]:
    """Three classes of noisy points around three centres."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 3
    centres = torch.randn(3, *shape, generator=torch.Generator().manual_seed(7)) * 2
    return centres[y] + torch.randn(count, *shape, generator=draw), y


@dataclass(frozen=True)
class Blobs(Data):
    """Classes: features, series or images, by `shape`."""

    shape: tuple[int, ...] = (4,)
    count: int = 60

    def load(self) -> Dataset:
        return Dataset(
            Split(*_examples(self.count, 1, tuple(self.shape))), Split(*_examples(30, 2, tuple(self.shape))), outputs=3
        )


@dataclass(frozen=True)
class Line(Data):
    """Numbers: y = sum of x, and noise."""

    def load(self) -> Dataset:
        def part(count: int, seed: int) -> Split:
            x, _ = _examples(count, seed)
            return Split(
                x, x.sum(1, keepdim=True) + 0.1 * torch.randn(count, 1, generator=torch.Generator().manual_seed(seed))
            )

        return Dataset(part(60, 1), part(30, 2), outputs=1)


@dataclass(frozen=True)
class Empty(Data):
    def load(self) -> Dataset:
        none = Split(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
        return Dataset(none, none, outputs=2)


class Net(nn.Module):
    """A net that names only what it needs, built of torch's own modules, stateful and stochastic ones too."""

    def __init__(self, inputs: tuple[int, ...], outputs: int, width: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(_size(inputs), width))
        self.norm = nn.BatchNorm1d(width)
        self.drop = nn.Dropout(0.25)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.norm(self.body(x)).relu()))


class Ready(nn.Module):
    """A net of torch's own modules, activations among them, with nothing asked of dlopt but the sizes."""

    def __init__(self, inputs: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(_size(inputs), 6), nn.Sigmoid(), nn.Linear(6, 6), nn.GELU())
        self.head = nn.Linear(6, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x.flatten(1)))


class Matrices(nn.Module):
    """Matrices alone, as Muon wants them, and no biases."""

    def __init__(self, inputs: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.one = nn.Linear(_size(inputs), 6, bias=False)
        self.two = nn.Linear(6, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x.flatten(1)).tanh())


class Cell(nn.LSTMCell):
    """torch's cell, written out: its own kernel has no form for lanes."""

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        h, c = state
        gates = x @ self.weight_ih.T + self.bias_ih + h @ self.weight_hh.T + self.bias_hh
        i, f, g, o = gates.chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class Recurrent(nn.Module):
    """Reads an example as a sequence of numbers."""

    def __init__(self, inputs: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.cell = Cell(1, 5)
        self.head = nn.Linear(5, outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), 5)
        for number in x.flatten(1).unsqueeze(-1).unbind(1):
            h, c = self.cell(number, (h, c))
        return self.head(h)


class LogProbabilities(nn.Module):
    """A net whose outputs are log-probabilities."""

    def __init__(self, inputs: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(_size(inputs), 6), nn.Tanh(), nn.Linear(6, outputs))
        self.head = nn.LogSoftmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Wrong(nn.Module):
    """Makes outputs of the wrong shape."""

    def __init__(self, inputs: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(_size(inputs), outputs + 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1))


def _size(shape: tuple[int, ...]) -> int:
    return int(torch.tensor(shape).prod())


@dataclass(frozen=True)
class Sign(Optimizer):
    """w <- w - lr sign(g), out of place, as a first draft of one's own rule would be."""

    lr: Positive

    def step(self, w: Tensor, state: Any, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        return Step(w - self.lr * g.sign(), state, loss, g)


@dataclass(frozen=True)
class LookTwice(Optimizer):
    """Plain gradient descent that first looks elsewhere, several times, before it steps."""

    lr: Positive

    def step(self, w: Tensor, state: Any, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        for k in range(3):
            objective.value(w + 0.1 * k)
            objective.gradient(w - 0.1 * k * g)
        return Step(w - self.lr * g, state, loss, g)


@dataclass(frozen=True)
class Bold(Optimizer):
    """Ever larger steps: it diverges."""

    lr: Positive

    def step(self, w: Tensor, state: Any, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        return Step(w + self.lr * 1e20 * g, state, loss, g)


@dataclass(frozen=True)
class Unit(Optimizer):
    """Steps of length one hundredth along the gradient: a rule without a rate."""

    def step(self, w: Tensor, state: Any, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        return Step(w - 0.01 * g / (g.norm(dim=-1, keepdim=True) + 1e-12), state, loss, g)


class Plainest(Optimizer):
    """A rule that says nothing of its hyperparameters."""

    def step(self, w: Tensor, state: Any, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        return Step(w - 0.01 * g, state, loss, g)


@dataclass(frozen=True)
class Slowed(Optimizer):
    """A rule inside: of its step, a share is taken."""

    share: float
    base: Optimizer

    def init(self, w: Tensor, layout: Layout) -> Any:
        return self.base.init(w, layout)

    def step(self, w: Tensor, state: Any, objective: ObjectiveOracle) -> Step:
        before = w.clone()
        moment = self.base.step(w, state, objective)
        return moment._replace(w=before + self.share * (moment.w - before))


class Lion(torch.optim.Optimizer):
    """Chen et al. 2023, as a torch optimizer of one's own; it counts its steps in its group."""

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


class Plain(torch.optim.Optimizer):
    """w <- w - lr (g + w), the gradients changed in place; its step takes no closure, as some do."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:
        for p in self.param_groups[0]["params"]:
            p.add_(p.grad.add_(p), alpha=-self.param_groups[0]["lr"])


class Deaf(torch.optim.Optimizer):
    """Takes a closure and never calls it."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    def step(self, closure: Any = None) -> None: ...


class NotARule:
    pass


@dataclass(frozen=True)
class Pull(Regularization):
    """Decoupled: pulls each iterate towards the one before it."""

    share: float

    def after(self, w: Tensor, before: Tensor, lr: float | Tensor, layout: Layout) -> Tensor:
        return torch.lerp(w, before, self.share) if isinstance(self.share, float) else w + self.share * (before - w)


@dataclass(frozen=True)
class Jitter(Augmentation):
    """Adds noise to the inputs, of any shape."""

    dims: ClassVar[tuple[int, ...]] = (0, 1, 2)
    size: float

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        noise = prng.uniform(key, tuple(inputs.shape), inputs.device).to(inputs.dtype)
        return inputs + self.size * (noise - 0.5), targets


@dataclass(frozen=True)
class Images(Augmentation):
    dims: ClassVar[tuple[int, ...]] = (2,)

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        return inputs, targets


@dataclass(frozen=True)
class Distance(Diagnostic):
    """How far this step went, and asks the objective for more, which must disturb nothing."""

    def measure(self, moment: StepRecord, memory: Any) -> tuple[dict[str, Tensor], Any]:
        moment.objective.gradient(moment.after)
        moved = torch.linalg.vector_norm(moment.after - moment.before, dim=-1)
        return {"mine/moved": moved, "mine/count": torch.as_tensor(float(memory or 1.0))}, (memory or 1.0) + 1.0


@dataclass(frozen=True)
class Mean(Averaging):
    """The running mean of all iterates."""

    def init(self, w: Tensor) -> tuple[Tensor]:
        return (torch.zeros_like(w),)

    def update(self, state: tuple[Tensor], w: Tensor, time: TrainingTime) -> tuple[Tensor]:
        return (state[0].lerp_(w, 1.0 / (time.step + 1)),)

    def value(self, state: tuple[Tensor]) -> Tensor:
        return state[0]


@dataclass(frozen=True)
class Late(Averaging):
    """The mean of the iterates of the last half, or from a step on."""

    begin: int | None = None

    def first(self, time: TrainingTime) -> int:
        return time.steps // 2 if self.begin is None else self.begin

    def init(self, w: Tensor) -> tuple[Tensor]:
        return (torch.zeros_like(w),)

    def update(self, state: tuple[Tensor], w: Tensor, time: TrainingTime) -> tuple[Tensor]:
        return (state[0].lerp_(w, 1.0 / (time.step - self.first(time) + 1)),)

    def value(self, state: tuple[Tensor]) -> Tensor:
        return state[0]


@dataclass(frozen=True)
class Lost(Late):
    def first(self, time: TrainingTime) -> int:
        return 1 // time.step


@dataclass(frozen=True)
class Rotate:
    """Preprocessing: x <- -x."""

    def fit(self, inputs: Tensor) -> dict[str, Tensor]:
        return {}

    def apply(self, inputs: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        return -inputs


@dataclass(frozen=True)
class Fixed:
    """Init: every value the same."""

    value: float = 0.1

    def __call__(self, parameter: Any, gain: float, generator: torch.Generator) -> Tensor:
        return torch.full(parameter.shape, self.value)


@dataclass(frozen=True)
class Flat:
    """Init: values of the wrong shape."""

    def __call__(self, parameter: Any, gain: float, generator: torch.Generator) -> Tensor:
        return torch.zeros(parameter.size + 1)


@dataclass(frozen=True)
class Square:
    gain: ClassVar[float] = 1.0

    def __call__(self) -> nn.Module:
        return _Square()


class _Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.abs().clamp(max=1.0)


@dataclass(frozen=True)
class Silence:
    """An activation that lets nothing through."""

    gain: ClassVar[float] = 1.0

    def __call__(self) -> nn.Module:
        return _Silence()


class _Silence(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 0.0 * x


@dataclass(frozen=True)
class LayerNorm:
    def __call__(self, features: int, dims: int) -> nn.Module:
        return nn.GroupNorm(1, features)


@dataclass(frozen=True)
class Hinge(Loss):
    targets: ClassVar[TargetKind] = "classes"

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        right = outputs.gather(-1, targets.unsqueeze(-1))
        return (1.0 + outputs - right).clamp(min=0.0).mean()

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"accuracy": (outputs.argmax(-1) == targets).to(outputs.dtype).mean(-1)}


@dataclass(frozen=True)
class Sawtooth:
    def __call__(self, time: TrainingTime) -> float:
        return 1.0 - (time.step % 5) / 10


class Half:
    def __call__(self, time: TrainingTime) -> float:
        return 0.5


class Twice:
    def __call__(self, time: TrainingTime) -> float:
        return 2.0


@dataclass(frozen=True)
class Brief(Schedule):
    """One for two steps, then a half; it ends after four."""

    def __call__(self, time: TrainingTime) -> float:
        return 1.0 if time.step < 2 else 0.5

    def span(self, time: TrainingTime) -> float:
        return 4


@dataclass(frozen=True)
class Follow:
    """A schedule that tells what it is shown of a metric: 1 / (2 + evaluations + the last value)."""

    monitor: str

    def __call__(self, time: TrainingTime) -> float:
        assert all(row["step"] <= time.step for row in time.history)
        values = [row[self.monitor] for row in time.history]
        return 1 / (2 + len(values) + (values[-1] if values else 0.0))


@dataclass(frozen=True)
class Waiting:
    """One as long as nothing was evaluated, then a half."""

    monitor: str

    def __call__(self, time: TrainingTime) -> float:
        return 0.5 if time.history else 1.0


@dataclass(frozen=True)
class Slow:
    """A share of another schedule."""

    share: float
    rest: Schedule

    def __call__(self, time: TrainingTime) -> float:
        return self.share * self.rest(time)


@dataclass(frozen=True)
class Endless:
    """A schedule that is finite at the first step alone."""

    def __call__(self, time: TrainingTime) -> float:
        return float("inf") if time.step else 1.0


class Impure(nn.Module):
    """Draws from the global generator, or changes a buffer, in training."""

    def __init__(self, inputs: tuple[int, ...], outputs: int, how: str = "random") -> None:
        super().__init__()
        self.layer = nn.Linear(_size(inputs), outputs)
        self.drop = nn.Dropout1d(0.5) if how == "random" else nn.Identity()
        self.how = how
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.how == "buffer":
            self.count += 1
        return self.drop(self.layer(x.flatten(1)).unsqueeze(1)).squeeze(1)


class Frozen(nn.Module):
    """A frozen layer, drawn from the seed or scaled by a number, below a trained one, and a weight that is used twice."""

    def __init__(self, inputs: tuple[int, ...], outputs: int, scale: float = 1.0) -> None:
        super().__init__()
        self.features = nn.Linear(_size(inputs), 6)
        self.features.requires_grad_(False)
        self.one = nn.Linear(6, 6, bias=False)
        self.two = nn.Linear(6, 6, bias=False)
        self.two.weight = self.one.weight
        self.head = nn.Linear(6, outputs)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.one(self.scale * self.features(x.flatten(1))).tanh()))


@dataclass(frozen=True)
class Unfit(Data):
    """Data with something wrong."""

    how: str = ""

    def load(self) -> Any:
        x, y = _examples(60, 1)
        test = Split(*_examples(30, 2))
        made: dict[str, Any] = {
            "numpy": lambda: Dataset(Split(x.numpy(), y), test, 3),  # type: ignore[arg-type]
            "lengths": lambda: Dataset(Split(x, y[:50]), test, 3),
            "labels": lambda: Dataset(Split(x, y), test, 2),
            "types": lambda: Dataset(Split(x, y.int()), test, 3),
            "infinite": lambda: Dataset(Split(x / 0, y), test, 3),
            "shapes": lambda: Dataset(Split(x, y), Split(x[:, :2], y), 3),
            "tuple": lambda: (x, y),
        }
        return made[self.how]()


@dataclass(frozen=True)
class Whole(Data):
    """Inputs of whole numbers, as of tokens."""

    def load(self) -> Dataset:
        x, y = _examples(60, 1)
        return Dataset(Split((x * 2).long() % 5, y), Split((x[:30] * 2).long() % 5, y[:30]), 3)


class Tokens(nn.Module):
    def __init__(self, inputs: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.head = nn.Linear(4 * _size(inputs), outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.table(x).flatten(1))


@dataclass(frozen=True)
class Halves(Augmentation):
    """Means of each example and its opposite in the mini-batch, targets too."""

    mixes: ClassVar[bool] = True  # type: ignore[misc]

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        return (inputs + inputs.flip(0)) / 2, (targets + targets.flip(0)) / 2


@dataclass(frozen=True)
class Faulty(Augmentation):
    """An augmentation with something wrong."""

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
class Doubt(Regularization):
    """Every target is a little uncertain; for classes alone, of which it wants probabilities."""

    kinds: ClassVar[tuple[TargetKind, ...]] = ("classes",)
    mixes: ClassVar[bool] = True  # type: ignore[misc]

    def targets(self, targets: Tensor) -> Tensor:
        return 0.9 * targets + 0.1 / targets.shape[-1]


@dataclass(frozen=True)
class Blurred(Regularization):
    """Adds noise to inputs of numbers; of tokens it makes what no embedding takes."""

    def inputs(self, inputs: Tensor, key: Key) -> Tensor:
        return inputs + 0.1 * prng.uniform(key, tuple(inputs.shape), inputs.device)


@dataclass(frozen=True)
class Halved(Regularization):
    """The rule sees half of each gradient."""

    def gradient(self, g: Tensor, key: Key, step: int, layout: Layout) -> Tensor:
        return 0.5 * g


@dataclass(frozen=True)
class Careless(Loss):
    """Takes probabilities without complaint, and for something else: their sum over the classes is always one."""

    targets: ClassVar[TargetKind] = "classes"

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.mean() - targets.sum()).square()
