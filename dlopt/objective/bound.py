"""A network as a function of the weight vector: called with views of any w, or bound to the memory of one w.

FunctionalNetwork calls the module through torch.func and can be mapped over lanes and differentiated twice.
BoundNetwork has parameters that are views of w, so a gradient costs what it costs in a hand-written loop.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dlopt import prng
from dlopt.base.kernels import use_plain_operations
from dlopt.base.layout import Layout
from dlopt.base.network import BatchStatisticsModule
from dlopt.base.regularization import Regularization, StochasticSite
from dlopt.objective.guidance import REGRESSOR
from dlopt.prng import Key

INPUT_KEYS, WEIGHT_KEYS, GRADIENT_KEYS, PART_KEYS, SITE_KEYS = 0, 1 << 8, 1 << 9, 1 << 10, 1 << 16
"""Where the addresses of random draws begin below an evaluation's key."""


class FunctionalNetwork:
    """A module that is called with views of any w, and the keys and batch statistics of its inner modules.

    owners holds the index of the regularization that each stochastic site belongs to, None for a site of its own.
    normalizations are the modules that use statistics of the batch, without frozen ones.
    """

    def __init__(self, model: nn.Module, layout: Layout, owners: Sequence[int | None]) -> None:
        self.model = model
        self.layout = layout
        self.sites = dict(zip(find_sites(model), owners, strict=True))
        self.regressor: Any = getattr(model, REGRESSOR, None)
        self.normalizations = {
            n: m for n, m in model.named_modules() if isinstance(m, BatchStatisticsModule) and not m.frozen
        }

    def __call__(self, w: Tensor, x: Tensor, running: Mapping[str, Tensor] | None = None) -> Any:
        """Return what the network returns at w, (P,), with these running statistics in inference."""
        views = self.layout.views(w)
        with use_plain_operations():
            return functional_call(self.model, views if running is None else {**views, **running}, (x,))

    def set_keys(self, key: Key) -> None:
        """Give every site its key of this evaluation."""
        for site, owner in self.sites.items():
            site.set_key(_site_key(key, site, owner))

    def set_rules(self, rules: Sequence[Regularization]) -> None:
        """Give every site the regularization that it belongs to."""
        for site, owner in self.sites.items():
            if owner is not None:
                site.regularization = rules[owner]

    @contextmanager
    def use_rules(self, rules: Sequence[Regularization], after: Sequence[Regularization]) -> Iterator[None]:
        """Give every site a lane's own regularization, and afterwards the common one again."""
        self.set_rules(rules)
        try:
            yield
        finally:
            self.set_rules(after)

    def pop_batch_stats(self) -> dict[str, Tensor]:
        """Return and clear the batch statistics of normalizations: a transformation's tensors must not outlive it."""
        statistics: dict[str, Tensor] = {}
        for name, module in self.normalizations.items():
            for key, value in module.batch_stats.items():
                statistics[f"{name}.{key}"] = value.detach()
            module.batch_stats.clear()  # in place: a module takes 3 microseconds to set an attribute
        return statistics

    def move_running_stats(self, running: Mapping[str, Tensor], statistics: Mapping[str, Tensor]) -> None:
        """Move running buffers in place towards batch statistics, by the momentum of their modules."""
        by_momentum: dict[float, list[str]] = {}
        for name in statistics:
            momentum = self.normalizations[name.rpartition(".")[0]].momentum
            by_momentum.setdefault(momentum, []).append(name)
        for momentum, names in by_momentum.items():
            torch._foreach_lerp_([running[n] for n in names], [statistics[n] for n in names], momentum)


class BoundNetwork(FunctionalNetwork):
    """A network whose parameters are views of one weight vector, and memory for its gradient."""

    def __init__(
        self, model: nn.Module, layout: Layout, owners: Sequence[int | None], w: Tensor, *, compiled: bool
    ) -> None:
        super().__init__(model, layout, owners)
        self.forward = torch.compile(model) if compiled else model
        self.compiled = compiled
        self.w = w
        own = dict(model.named_parameters())
        self.parameters = [own[p.name] for p in layout]
        for p, view in zip(self.parameters, layout.views(w).values(), strict=True):
            p.data = view
        self._gradients = [torch.zeros_like(w), torch.zeros_like(w)]
        self._views = [list(layout.views(g).values()) for g in self._gradients]
        self._turn = 0

    def __call__(self, w: Tensor, x: Tensor, running: Mapping[str, Tensor] | None = None) -> Any:
        """Return what the network returns at the w that it is bound to."""
        return self.forward(x)

    def set_keys(self, key: Key) -> None:
        if not self.compiled:
            super().set_keys(key)
            return
        for site, owner in self.sites.items():
            site.set_key(_key_to_device(_site_key(key, site, owner), self.w.device))

    def copy_at(self, w: Tensor) -> BoundNetwork:
        """Return another such network, bound to a copy of w, with the same buffers."""
        owners = list(self.sites.values())
        shared = {id(buffer): buffer for buffer in self.model.buffers()}
        model = copy.deepcopy(self.model, shared)
        return BoundNetwork(model, self.layout, owners, w.clone(), compiled=self.compiled)

    def gather_gradient(self, pieces: Sequence[Tensor | None], *, reuse: bool) -> Tensor:
        """Return the pieces as one vector: a new one, or one of two buffers in turn.

        Fresh memory costs page faults, 5% of a step at 1.9 million weights. A parameter without a gradient has zeros.
        """
        whole = [torch.zeros_like(p) if d is None else d for p, d in zip(self.parameters, pieces, strict=True)]
        if not reuse:
            return torch.cat([piece.reshape(-1) for piece in whole])
        self._turn ^= 1
        torch._foreach_copy_(self._views[self._turn], whole)
        return self._gradients[self._turn]


def find_sites(model: nn.Module) -> list[StochasticSite]:
    """Return the stochastic sites of a network, in order."""
    return [m for m in model.modules() if isinstance(m, StochasticSite)]


def find_owners(model: nn.Module, regularization: Sequence[Regularization]) -> list[int | None]:
    """Return, for each site of a network, the index of the regularization that it belongs to, if any."""
    return [
        next((i for i, r in enumerate(regularization) if r is site.regularization), None) for site in find_sites(model)
    ]


def _site_key(key: Key, site: StochasticSite, owner: int | None) -> Key:
    return prng.fold_in(key, SITE_KEYS * (1 + (owner if owner is not None else WEIGHT_KEYS)) + site.index)


def _key_to_device(key: Key, device: torch.device) -> Key:
    """Return a key as tensors: the compiler takes numbers for constants, and would compile anew at each step."""
    return Key(*(torch.full((), half, dtype=torch.int64, device=device) for half in key))
