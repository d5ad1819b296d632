"""hydra/sweeper=grid, random, tpe, qmc. Every program of Hydra's imports this at its start: it imports nothing more."""

from __future__ import annotations

from typing import Any

from hydra.plugins.sweeper import Sweeper


class Search(Sweeper):
    """Searches the space of the overrides; what the keys mean stands in conf/hydra/sweeper/grid.yaml."""

    def __init__(self, **keys: Any) -> None: ...  # they are looked at, with their ranges, where the search begins

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> None:
        from dlopt.sweep.sweeper import sweep

        sweep(arguments, self.config, self.hydra_context, self.task_function)
