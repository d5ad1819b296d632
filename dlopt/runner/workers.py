"""Who performs the jobs of a sweep: this process, or others that it has started."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

JobT = TypeVar("JobT")


class WorkerLostError(Exception):
    """The process that performed a job ended before the job did; nothing is known against the job itself."""


class Workers(Protocol[JobT]):
    """They take jobs, as many at once as they can perform, and say which are over.

    count   jobs that can be under way at once
    """

    count: int

    def submit(self, job: JobT) -> None:
        """Begin a job; there must be a free worker: fewer than `count` jobs are under way."""

    def wait(self) -> list[tuple[JobT, BaseException | None]]:
        """The jobs that are over, at least one if any is under way, each once.

        With each comes what it raised, Lost where its process ended before it did, None where it went well.
        KeyboardInterrupt is raised where this process is asked to stop: then `close`.
        """
        ...

    def close(self, *, at_once: bool = False) -> None:
        """End what is under way, which may save before unless it is at once; then nothing is left running."""


class InProcess(Generic[JobT]):
    """One job at a time, performed by this process inside `wait`."""

    count = 1

    def __init__(self, perform: Callable[[JobT], None]) -> None:
        self._perform = perform
        self._jobs: list[JobT] = []

    def submit(self, job: JobT) -> None:
        self._jobs.append(job)

    def wait(self) -> list[tuple[JobT, BaseException | None]]:
        if not self._jobs:
            return []
        job = self._jobs.pop()
        try:
            self._perform(job)
        except (Exception, KeyboardInterrupt) as error:
            return [(job, error)]
        return [(job, None)]

    def close(self, *, at_once: bool = False) -> None:
        self._jobs.clear()
