"""hydra/launcher=local, pool: how many processes make the runs of a search."""

from __future__ import annotations

from typing import Any

from hydra.plugins.launcher import Launcher


class _Ours(Launcher):
    """A launcher that hands its workers to our sweepers, which give them one run after another."""

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None: ...

    def launch(self, job_overrides: Any, initial_job_idx: int) -> Any:
        raise RuntimeError("hydra/launcher=local and pool go with hydra/sweeper=grid, random, tpe or qmc")


class Local(_Ours):
    """One run after another, in this process."""

    def workers(self, perform: Any, perform_elsewhere: Any) -> Any:
        """Whoever makes the runs."""
        from dlopt.runner.workers import InProcess

        return InProcess(perform)


class Pool(_Ours):
    """Several processes; workers is their number, or auto."""

    def __init__(self, workers: Any) -> None:
        self.number = workers

    def workers(self, perform: Any, perform_elsewhere: Any) -> Any:
        """Whoever makes the runs. ConfigError where the number is none."""
        from dlopt.runner.process_pool import WorkerPool as Processes
        from dlopt.runner.process_pool import parse_worker_count

        return Processes(parse_worker_count(self.number), perform_elsewhere)
