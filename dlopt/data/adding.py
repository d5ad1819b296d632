"""The adding problem."""

from dataclasses import dataclass
from typing import Annotated

import torch

from dlopt import prng
from dlopt.data import _drawn
from dlopt.parts import Data, Dataset, Split
from dlopt.ranges import Count, Range


@dataclass(frozen=True)
class Adding(Data):
    """The adding problem: two numbers of a long sequence are marked, and their sum is to be predicted at its end.

    Inputs have shape (2, T). The first channel holds numbers, uniform in [0, 1). The second is 1 at two places and 0
    elsewhere: one in the first half, floor(T / 2) steps, and one in the second, each of its places equally likely. The
    target is the sum of the two marked numbers. The best constant, 1, has the mean squared error 2 / 12 = 0.1667, as a
    uniform number has the variance 1 / 12; Le et al. print 0.1767. A network below it has carried a number over T / 2
    steps on average. The sequences are the same for every seed.

    length      T, the number of steps
    size        number of training examples, of which some validate
    test_size   number of test examples
    path        has no effect: must be null

    Source: Hochreiter and Schmidhuber 1997, Long short-term memory, experiment 4, in the form of Le, Jaitly and Hinton
    2015, section 4.1. The original draws from [-1, 1], marks one of the first ten numbers and one of the first half,
    varies the length by a tenth, and scales the sum.
    """

    length: Annotated[int, Range(ge=2)]
    size: Count
    test_size: Count

    def load(self) -> Dataset:
        return _drawn.load_drawn(self, (self.size, self.test_size), 32 * self.length, self.draw, outputs=1)

    def draw(self, key: prng.Key, count: int) -> Split:
        middle = self.length // 2
        numbers = prng.uniform(prng.fold_in(key, "numbers"), (count, self.length))
        place = prng.uniform(prng.fold_in(key, "places"), (count, 2)).double()
        places = (place * torch.tensor([middle, self.length - middle])).long() + torch.tensor([0, middle])
        marks = torch.zeros_like(numbers).scatter_(1, places, 1.0)
        return Split(torch.stack([numbers, marks], 1), numbers.gather(1, places).sum(1, keepdim=True))
