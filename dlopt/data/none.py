"""No data."""

from dataclasses import dataclass

import torch

from dlopt.errors import OptionError
from dlopt.parts import Data, Dataset, Split


@dataclass(frozen=True)
class NoData(Data):
    """No data: one example without features, for a function of the weights alone.

    The network is arch=surface, or a module of the user's own whose forward takes no inputs and returns a scalar
    (arch=custom). Each step minimizes the same function, so an epoch is one step, and batch_size must be full or 1.
    Nothing is held out: the metrics of training are those before each step, and the test is the last iterate.
    """

    def load(self) -> Dataset:
        if self.path is not None:
            raise OptionError("path", "there is no file to read: leave it out")
        split = Split(torch.zeros(1, 0), torch.zeros(1, 1))
        return Dataset(train=split, test=split, outputs=1)
