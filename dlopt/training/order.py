"""The order in which a run uses the examples of its training split."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dlopt import prng
from dlopt.base.data import Order, Split
from dlopt.prng import Key


@dataclass(frozen=True)
class EpochOrder:
    """The positions of examples in a split, (count,), epoch after epoch: a function of the key and the epoch.

    classes   (count,): the class of each example; only `balanced` needs it
    """

    kind: Order
    key: Key
    count: int
    classes: Tensor | None = None

    @classmethod
    def of(cls, kind: Order, key: Key, split: Split) -> EpochOrder:
        """Return an order of a split."""
        targets = split.targets if split.rows is None or kind != "balanced" else split.targets[split.rows]
        return cls(kind, key, len(split), targets if kind == "balanced" else None)

    @property
    def covers_split(self) -> bool:
        """Return whether each epoch has every example of the split once."""
        return self.kind in ("reshuffle", "once", "sequential")

    def positions(self, epoch: int) -> Tensor:
        """Return the positions of the examples of an epoch."""
        if self.kind == "sequential":
            return torch.arange(self.count)
        generator = prng.generator(prng.fold_in(self.key, 0 if self.kind == "once" else epoch))
        if self.kind == "replacement":
            return torch.randint(self.count, (self.count,), generator=generator)
        if self.kind == "balanced":
            return self._sample_balanced(generator)
        return torch.randperm(self.count, generator=generator)

    def _sample_balanced(self, generator: torch.Generator) -> Tensor:
        """Sample a class, each with the same probability, then one of its examples, for each position."""
        by_class, sizes, starts = self._groups
        classes = torch.randint(len(sizes), (self.count,), generator=generator)
        shares = torch.rand(self.count, generator=generator, dtype=torch.float64)
        sizes, starts = sizes[classes], starts[classes]
        return by_class[starts + (shares * sizes).long()]

    @cached_property
    def _groups(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the positions sorted by class, and the size and the start of each class that occurs among them."""
        assert self.classes is not None
        _, sizes = self.classes.unique(return_counts=True)
        return self.classes.argsort(stable=True), sizes, sizes.cumsum(0) - sizes
