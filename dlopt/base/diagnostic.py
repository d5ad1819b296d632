"""Diagnostics: measurements of a training step, as numbers, histograms or pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from dlopt.base.group import Group
from dlopt.base.layout import Layout
from dlopt.base.optimizer import ObjectiveOracle, Optimizer
from dlopt.ranges import Count, Range
from dlopt.rundir.heat_map import Png, draw_heat_map
from dlopt.rundir.tensorboard import Bucket

Bins = Annotated[int, Range(ge=1, le=10_000)]
"""Number of buckets of a histogram."""
Columns = Annotated[int, Range(ge=2, le=10_000)]
"""Largest number of columns of a picture, one pixel each at least."""


class Histogram(NamedTuple):
    """Counts of values in buckets of equal width between low, the smallest value, and high, the largest.

    As tensors: counts (..., bins), low (...) and high (...). On the host: a list of numbers and two numbers. Counts of
    values are int64; a density, such as the density of eigenvalues, has real ones.
    """

    counts: Any
    low: Any
    high: Any

    @classmethod
    def of(cls, x: Tensor, bins: int) -> Histogram:
        """Count the finite values of x, (..., N).

        Bucket i = 0, ..., bins - 1 holds  low + i h <= x < low + (i + 1) h  with  h = (high - low) / bins;  the last
        one also holds high, and all values if they are equal. Without a finite value all numbers are zero. A value
        within rounding of an edge may be counted on either side of it.
        """
        rows = x.reshape(-1, x.shape[-1])
        finite = torch.isfinite(rows)
        some = finite.any(-1, keepdim=True)
        low = rows.where(finite, math.inf).amin(-1, keepdim=True).where(some, 0.0)
        high = rows.where(finite, -math.inf).amax(-1, keepdim=True).where(some, 0.0)
        # The quotient is NaN if all values are equal, if one is not finite, and if h exceeds the range of the type.
        at = ((rows - low) * (bins / (high - low))).nan_to_num_(bins, bins, 0.0).long().clamp_(max=bins - 1)
        at += bins * torch.arange(len(rows), device=x.device).unsqueeze(-1)
        counts = torch.zeros(len(rows) * bins, dtype=torch.int64, device=x.device)
        counts.scatter_add_(0, at.flatten(), finite.flatten().long())  # deterministic mode needs one dimension
        lead = x.shape[:-1]
        return cls(counts.view(*lead, bins), low.view(lead), high.view(lead))

    @classmethod
    def of_nodes(cls, nodes: Tensor, masses: Tensor, bins: int) -> Histogram:
        """Return the masses, (..., n), at nodes, (..., n), each widened to a Gaussian with the deviation of a bucket.

        What exceeds the smallest or the largest node counts for the bucket there, so counts and masses have the same
        sum. If a node is not finite, all numbers are zero.
        """
        low, high = nodes.amin(-1), nodes.amax(-1)
        width = ((high - low) / bins).unsqueeze(-1)
        inner = low.unsqueeze(-1) + width * torch.arange(1, bins, device=nodes.device)
        deviation = width.clamp(min=torch.finfo(nodes.dtype).tiny).unsqueeze(-1)
        below = torch.special.ndtr((inner.unsqueeze(-2) - nodes.unsqueeze(-1)) / deviation)  # (..., n, bins - 1)
        edges = torch.nn.functional.pad(torch.nn.functional.pad(below, (1, 0)), (0, 1), value=1.0)
        counts = (masses.unsqueeze(-1) * edges.diff(dim=-1)).sum(-2)
        finite = nodes.isfinite().all(-1)
        return cls(counts.where(finite.unsqueeze(-1), 0.0), low.where(finite, 0.0), high.where(finite, 0.0))

    def pack(self) -> Tensor:
        """Return one tensor, (..., bins + 2), for a single transfer to the host."""
        return torch.cat([self.counts.to(self.low.dtype), self.low.unsqueeze(-1), self.high.unsqueeze(-1)], dim=-1)

    @classmethod
    def unpack(cls, numbers: list[float]) -> Histogram:
        """Invert `pack` for the numbers of one run."""
        return cls(numbers[:-2], *numbers[-2:])

    def buckets(self) -> list[Bucket]:
        """Return left edge, right edge and count of each bucket, on the host."""
        bins = len(self.counts)
        edges = [self.low * ((bins - i) / bins) + self.high * (i / bins) for i in range(bins + 1)]
        return list(zip(edges, edges[1:], self.counts, strict=False))


class Picture(NamedTuple):
    """A heat map of rows of numbers over time.

    values     (..., rows, columns) as a tensor, a list of rows on the host; NaN where nothing is known, -inf for the
               logarithm of zero
    labels     the name of each row
    span       steps of the first and of the last column in use
    used       number of columns in use
    quantity   what the numbers are
    """

    values: Any
    labels: tuple[str, ...]
    span: tuple[int, int]
    used: int
    quantity: str

    def pack(self) -> Tensor:
        """Return one tensor, (..., rows * used), for a single transfer to the host."""
        return self.values[..., : self.used].flatten(-2)

    def unpack(self, numbers: list[float]) -> Picture:
        """Return the picture of one run from its packed numbers."""
        return self._replace(values=[numbers[i : i + self.used] for i in range(0, len(numbers), self.used)])

    def draw(self) -> Png:
        """Return the picture as a PNG file, on the host."""
        return draw_heat_map(self.values, self.labels, self.span, self.quantity)


Reading = Tensor | Histogram | Picture
"""A measurement: a tensor of w's leading shape (...), or histograms or pictures of this shape."""


class DiagnosticOracle(ObjectiveOracle, Protocol):
    """The objective of a step, as a diagnostic sees it."""

    batch_size: int

    def true_gradient(self, w: Tensor) -> tuple[Tensor, Tensor]: ...
    def example_gradients(self, w: Tensor, count: int) -> Iterator[Tensor]: ...


class TrainingOracle(Protocol):
    """The training split at any w, as a diagnostic sees it: see dlopt.training.evaluation.TrainingSplit."""

    def summarize_activations(
        self, w: Tensor, summarize: Callable[[Tensor], Tensor]
    ) -> Iterator[dict[str, Tensor]]: ...


@dataclass(frozen=True)
class StepRecord:
    """One step of training: its number, the iterates before and after it, and loss and gradient at the first one.

    The gradient is the gradient of the objective, before clipping and gradient noise.

    optimizer   the optimizer with the hyperparameters of this step
    state       its state after the step
    evaluates   whether an evaluation follows the step
    train       the training split
    """

    step: int
    before: Tensor
    after: Tensor
    loss: Tensor
    gradient: Tensor
    lr: float | Tensor
    layout: Layout
    objective: DiagnosticOracle
    info: Mapping[str, Tensor] = field(default_factory=dict)
    optimizer: Optimizer = field(default_factory=Optimizer)
    state: Any = ()
    evaluates: bool = False
    train: TrainingOracle | None = None


@Group(
    "diagnostic", multiple=True, must_subclass=True, changeable_on_resume=True, affects_training=False, lanes="value"
)
@dataclass(frozen=True)
class Diagnostic:
    """A measurement of training steps. It cannot change training.

    at_evaluations, of the class, tells whether it also measures each step that an evaluation follows. One that uses
    second derivatives sets uses_curvature = True: then a layer that has none is refused, and precision=bfloat16.

    every   measure every N steps; null: whenever a row is logged
    """

    at_evaluations: ClassVar[bool] = False
    uses_curvature: ClassVar[bool] = False

    every: Count | None

    def interval(self, per_epoch: int) -> int | None:
        """Return `every` in steps, of which one pass over the data has per_epoch."""
        return self.every

    def check(self, w: Tensor, layout: Layout) -> None:
        """Raise ValueError, before a run starts, if these weights, (P,), cannot be measured."""

    def init(self, w: Tensor, layout: Layout) -> Any:
        """Return the memory before the first measurement, such as a copy of the initial weights, (..., P)."""
        return None

    def measure(self, record: StepRecord, memory: Any) -> tuple[Mapping[str, Reading], Any]:
        """Return readings by tag, and the memory for the next measurement; the first one gets the memory of `init`.

        A tensor of w's leading shape goes into the row; histograms and pictures go to TensorBoard only.
        """
        raise NotImplementedError
