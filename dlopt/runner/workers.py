"""The interface of workers, which perform the jobs of a sweep, and workers inside this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

JobT = TypeVar("JobT")


class WorkerLostError(Exception):
    """The process of a job ended before the job did; the job itself may be fine."""


class Workers(Protocol[JobT]):
    """Perform jobs concurrently and return those that have ended.

    count   largest number of concurrent jobs
    """

    count: int

    def submit(self, job: JobT) -> None:
        """Begin a job. Fewer than `count` jobs may be running."""

    def wait(self) -> list[tuple[JobT, BaseException | None]]:
        """Return the jobs that have ended since, at least one if any is running.

        Each comes with the exception that it raised, WorkerLostError if its process ended before it did, or None.
        Raises KeyboardInterrupt if this process is asked to stop: then call `close`.
        """
        ...

    def close(self, *, at_once: bool = False) -> None:
        """End all running jobs; unless at_once, they may save first. No process is left running."""


class InProcess(Generic[JobT]):
    """Perform one job at a time in this process, inside `wait`."""

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
