"""Interleaved spirals."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from dlopt import prng
from dlopt.data import _drawn
from dlopt.parts import Data, Dataset, Split
from dlopt.ranges import Count, NonNegative, Positive, Range


@dataclass(frozen=True)
class Spirals(Data):
    """Classes of points in the plane, one on each of K spirals around the origin.

        x = t (cos a, sin a),   a = 2 pi (turns t + k / K),   class k = 0 ... K - 1,   t ~ U[0, 1)

    Each coordinate has normal noise. There are as many points of each class, up to one. Inputs have shape (2,). A
    linear model is hardly better than guessing; the more turns, the longer an MLP takes. The points are the same for
    every seed.

    classes     K, the number of spirals
    turns       turns of each spiral around the origin
    size        number of training examples, of which some validate
    test_size   number of test examples
    noise       standard deviation of the noise of each coordinate; the spirals end at the radius 1. Neighboring arms
                are 1 / (K turns) apart
    path        has no effect: must be null

    Source: Lang and Witbrock 1988, Learning to tell two spirals apart: turns=3.25 and noise=0 in units of 6.5, at 97
    fixed t from 8 / 104 to 1; NYU lecture, figure 5.
    """

    classes: Annotated[int, Range(ge=2)]
    turns: Positive
    size: Count
    test_size: Count
    noise: NonNegative

    def load(self) -> Dataset:
        return _drawn.load_drawn(self, (self.size, self.test_size), 64, self.draw, outputs=self.classes)

    def draw(self, key: prng.Key, count: int) -> Split:
        y = torch.arange(count) % self.classes
        points = self.locate(prng.uniform(prng.fold_in(key, "places"), (count,)), y)
        return Split(points + self.noise * prng.normal(prng.fold_in(key, "noise"), (count, 2)), y)

    def locate(self, t: Tensor, y: Tensor) -> Tensor:
        """Return the points, (N, 2), at the radii t of spirals of classes y."""
        a = 2.0 * math.pi * (self.turns * t + y / self.classes)
        return t.unsqueeze(-1) * torch.stack([a.cos(), a.sin()], -1)
