"""What the optimizers that work around another optimizer share."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.parts import Optimizer


@dataclass(frozen=True)
class WrappedOptimizer(Optimizer):
    """An optimizer around another one, which has the state, the learning rate and the demands of the inner one.

    base_optimizer   the inner optimizer, with its own keys: optimizer.base_optimizer=adam
    """

    base_optimizer: Optimizer

    @property
    def lanes(self) -> bool:  # type: ignore[override]
        return self.base_optimizer.lanes

    @property
    def needs_true_gradient(self) -> bool:  # type: ignore[override]
        return self.base_optimizer.needs_true_gradient

    @property
    def uses_curvature(self) -> bool:  # type: ignore[override]
        return self.base_optimizer.uses_curvature

    @property
    def decides_on_host(self) -> bool:  # type: ignore[override]
        return self.base_optimizer.decides_on_host

    @property
    def samples_targets(self) -> bool:  # type: ignore[override]
        return self.base_optimizer.samples_targets

    @property
    def without_sampling(self) -> tuple[str, str] | None:  # type: ignore[override]
        inner = self.base_optimizer.without_sampling
        return None if inner is None else (f"base_optimizer.{inner[0]}", inner[1])

    @property
    def estimates_lr(self) -> bool:  # type: ignore[override]
        return self.base_optimizer.estimates_lr

    def init(self, w: Tensor, layout: Layout) -> Any:
        return self.base_optimizer.init(w, layout)

    def check(self, w: Tensor, layout: Layout) -> None:
        self.base_optimizer.check(w, layout)

    def lr_factors(self, w: Tensor, layout: Layout) -> Tensor | None:
        return self.base_optimizer.lr_factors(w, layout)
