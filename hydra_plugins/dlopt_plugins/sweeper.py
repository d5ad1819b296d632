"""hydra/sweeper=grid, random, tpe, qmc, greedy. Every program that uses Hydra imports it: it imports nothing more."""

from __future__ import annotations

from typing import Any

from hydra.plugins.sweeper import Sweeper


class Search(Sweeper):
    """Searches the space of the overrides; conf/hydra/sweeper/grid.yaml documents the keys."""

    def __init__(self, **keys: Any) -> None: ...  # they are checked when the search begins

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """Take what a search needs; `dlopt train -m` passes its invocation as the task function."""
        self.hydra_context, self.invocation, self.config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> None:
        from dlopt.sweep.sweeper import sweep

        sweep(arguments, self.config, self.hydra_context, self.invocation)
