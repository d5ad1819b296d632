"""Two interleaved half circles."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt import prng
from dlopt.data import _drawn
from dlopt.parts import Data, Dataset, Split
from dlopt.ranges import Count, NonNegative


@dataclass(frozen=True)
class TwoMoons(Data):
    """Two classes of points in the plane: an upper half circle, and a lower one that reaches into it.

        class 0:   (cos t, sin t),   class 1:   (1 - cos t, 1/2 - sin t),   t ~ U[0, pi)

    Each coordinate has normal noise. There are as many points of each class, up to one. Inputs have shape (2,). A line
    separates about 87% of the points with the default noise. The points are the same for every seed.

    size        number of training examples, of which some validate
    test_size   number of test examples
    noise       standard deviation of the noise of each coordinate; the half circles have the radius 1
    path        has no effect: must be null

    Source: sklearn.datasets.make_moons, whose t are evenly spaced; NYU lecture, figure 5.
    """

    size: Count
    test_size: Count
    noise: NonNegative

    def load(self) -> Dataset:
        return _drawn.load_drawn(self, (self.size, self.test_size), 64, self.draw, outputs=2)

    def draw(self, key: prng.Key, count: int) -> Split:
        y = torch.arange(count) % 2
        points = locate(math.pi * prng.uniform(prng.fold_in(key, "places"), (count,)), y)
        return Split(points + self.noise * prng.normal(prng.fold_in(key, "noise"), (count, 2)), y)


def locate(t: Tensor, y: Tensor) -> Tensor:
    """Return the points, (N, 2), at the angles t of half circles of classes y."""
    upper, lower = torch.stack([t.cos(), t.sin()], -1), torch.stack([1.0 - t.cos(), 0.5 - t.sin()], -1)
    return torch.where(y.unsqueeze(-1) == 0, upper, lower)
