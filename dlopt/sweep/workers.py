"""Where the runs of a sweep are made: here, in a pool of processes, or by a launcher of Hydra's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

Job = TypeVar("Job")


class Gone(Exception):
    """The process that made a run is gone, before the run was over."""


class Workers(Protocol[Job]):
    """Makes runs, `count` at once."""

    count: int

    def submit(self, job: Job) -> None:
        """Begin one; there is a free worker."""

    def wait(self) -> list[tuple[Job, BaseException | None]]:
        """At least one that is over; with what it raised, or Gone where its process is."""

    def close(self) -> None:
        """Nothing is left running when this returns."""


class InProcess(Generic[Job]):
    """One after another, in this process."""

    count = 1

    def __init__(self, perform: Callable[[Job], None]) -> None:
        self._perform = perform
        self._job: list[Job] = []

    def submit(self, job: Job) -> None:
        self._job.append(job)

    def wait(self) -> list[tuple[Job, BaseException | None]]:
        job = self._job.pop()
        try:
            self._perform(job)
        except Exception as error:
            return [(job, error)]
        return [(job, None)]

    def close(self) -> None:
        self._job.clear()
