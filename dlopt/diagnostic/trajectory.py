"""Weights of the run at some steps, for landscapes along its path."""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.parts import Diagnostic, StepRecord
from dlopt.ranges import Positive, Range


@dataclass(frozen=True)
class Trajectory(Diagnostic):
    """Weights of the run at some steps, for the path of `dlopt landscape RUN --directions pca`.

        trajectory/length   sum of |w - w'| over measurements so far, w': the weights of the measurement before

    The weights themselves are stored: the initial ones, and those after each measured step. If there would be more than
    `points`, every second one is dropped, and from then on only every second measurement is stored. So the points stay
    evenly spaced over the run, and memory is bounded. They are in the last checkpoint, in full precision; a landscape
    also needs the directions between them, which random projections would lose.

    A length far above diagnostic=distance means a winding path.

    points   largest number of stored points, with the initial weights
    max_mb   largest size in megabytes of what a run stores, the points and the latest weights: 4 bytes per weight in
             float32. A run that may exceed it is refused before it starts.

    Cost: a copy of the weights per measurement. Memory and each checkpoint grow by up to max_mb; each run of several
    lanes stores its own points. While a checkpoint is saved, memory holds one run's points twice.

    Measured on one core: 0.1 ms and 4.9 ms, 0.1% and 0.5% of a run with the defaults (CNN of MNIST-1D, MLP of 1.9
    million weights).

    Source: Li, Xu, Taylor, Studer and Goldstein 2018, Visualizing the loss landscape of neural nets, section 7.
    """

    points: Annotated[int, Range(ge=4)]
    max_mb: Positive

    def check(self, w: Tensor, layout: Layout) -> None:
        each = w.shape[-1] * w.element_size() / 1e6
        total = (self.points + 1) * each
        if total > self.max_mb:
            size = f"{self.points} points and the latest weights, of {w.shape[-1]:,} weights each, take {total:.4g} MB"
            fitting = int(self.max_mb / each) - 1
            fewer = f"points={fitting}, or " if fitting >= 4 else ""
            wrong = f"{size} in memory and in each checkpoint, and max_mb is {self.max_mb:g}"
            raise ValueError(f"{wrong}; use {fewer}a larger max_mb")

    def init(self, w: Tensor, layout: Layout) -> dict[str, Any]:
        points = {0: {"step": 0, "w": w.clone()}}  # by the number of the measurement
        return {"measured": 0, "stride": 1, "points": points, "latest": w.clone(), "length": w.new_zeros(w.shape[:-1])}

    def measure(self, record: StepRecord, memory: Any) -> tuple[dict[str, Tensor], Any]:
        w = record.after.clone()
        length = memory["length"] + torch.linalg.vector_norm(w - memory["latest"], dim=-1)
        measured, stride, points = memory["measured"] + 1, memory["stride"], dict(memory["points"])
        # more than `points` are there if a run resumes with fewer
        while len(points) > self.points or (measured % stride == 0 and len(points) == self.points):
            stride *= 2
            points = {number: point for number, point in points.items() if number % stride == 0}
        if measured % stride == 0:
            points[measured] = {"step": record.step + 1, "w": w}
        memory = {"measured": measured, "stride": stride, "points": points, "latest": w, "length": length}
        return {"trajectory/length": length}, memory
