"""hydra/launcher=local, pool: how many processes make the runs of a search."""

from __future__ import annotations

from typing import Any

from hydra.plugins.launcher import Launcher


class _WorkersLauncher(Launcher):
    """Gives its workers to our sweepers, which submit one run after another."""

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None: ...

    def launch(self, job_overrides: Any, initial_job_idx: int) -> Any:
        raise RuntimeError("hydra/launcher=local and pool need hydra/sweeper=grid, random, tpe or qmc")


class Local(_WorkersLauncher):
    """Makes one run after another in this process."""

    def workers(self, perform: Any, perform_elsewhere: Any) -> Any:
        """Return what makes the runs."""
        from dlopt.runner.workers import InProcess

        return InProcess(perform)


class Pool(_WorkersLauncher):
    """Makes runs in several processes; workers is their number, or auto."""

    def __init__(self, workers: Any) -> None:
        self.number = workers

    def workers(self, perform: Any, perform_elsewhere: Any) -> Any:
        """Return what makes the runs. Raise ConfigError if the number of workers is not valid."""
        from dlopt.runner.process_pool import WorkerPool as Processes
        from dlopt.runner.process_pool import parse_worker_count

        return Processes(parse_worker_count(self.number), perform_elsewhere)
