"""The points of a stochastic quadratic."""

from dataclasses import dataclass

import numpy as np
import torch

from dlopt import prng
from dlopt.errors import OptionError
from dlopt.parts import Data, Dataset, Split
from dlopt.ranges import NonNegative

WEIGHTS, EXAMPLES = 100, 1000


@dataclass(frozen=True)
class QuadraticData(Data):
    """The points x around which arch=quadratic is centered: normal, in 100 dimensions; targets are zeros.

    x ~ N(0, noise^2 I), 1000 points for training and 1000 for the test, which numpy's RandomState draws with the seeds
    42 and 43, as DeepOBS does. With batch_size=128 and drop_last=true, an epoch has 7 steps. DeepOBS trains on all
    points (validation.fraction=0, as in experiment=quadratic).

    noise   standard deviation of each coordinate

    Source: Schneider, Balles and Hennig 2019, DeepOBS: A deep learning optimizer benchmark suite, quadratic_deep.
    """

    noise: NonNegative

    def load(self) -> Dataset:
        if self.path is not None:
            raise OptionError("path", "the points are drawn, not read: leave it out")
        return Dataset(self._draw(seed=42), self._draw(seed=43), outputs=1)

    def draw(self, key: prng.Key, count: int) -> Split:
        return Split(self.noise * prng.normal(key, (count, WEIGHTS)), torch.zeros(count, 1))

    def _draw(self, seed: int) -> Split:
        generator = np.random.RandomState(seed)
        points = generator.normal(0.0, self.noise, (EXAMPLES, WEIGHTS)).astype(np.float32)
        return Split(torch.from_numpy(points), torch.zeros(EXAMPLES, 1))
