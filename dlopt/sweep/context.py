"""One call of `dlopt train -m`, as the sweeper sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from dlopt.runner.execute import Invocation
from dlopt.runner.job import Job
from dlopt.sweep.claims import Counts
from dlopt.sweep.reopen import Guard

if TYPE_CHECKING:
    from dlopt.sweep.cost_forecast import DryRunPlan
    from dlopt.sweep.plan import Plan
    from dlopt.sweep.search import SearchObserver
    from dlopt.sweep.study import Study


class SweepDisplay(Protocol):
    """Shows a search."""

    def show_notice(self, notice: str) -> None:
        """Show a notice about the search, before it begins."""

    def begin(self, plan: Plan, study: Study) -> SearchObserver:
        """Show that a search begins or resumes. Return its observer."""

    def show_plan(self, outlook: DryRunPlan) -> None:
        """Show what a search would do, for a dry run."""

    def close(self) -> None:
        """Leave the terminal as it was."""

    def report(self, counts: Counts | None, flags: Sequence[str]) -> None:
        """Show the results, and how to resume; flags are what resuming needs."""


@dataclass(kw_only=True)
class SweepInvocation(Invocation):
    """One call of `dlopt train -m`.

    overrides          the overrides as they were typed, with which the sweep can be resumed
    perform            makes a run in this process, on the display
    perform_elsewhere  makes a run in another process without a screen; can be pickled
    guard              judges the runs of a reopened sweep that is not trusted
    counts             the states of the points at the end; None before
    """

    overrides: list[str]
    perform: Callable[[Job], None]
    perform_elsewhere: Callable[[Job], None]
    display: SweepDisplay
    guard: Guard | None = None
    counts: Counts | None = None
