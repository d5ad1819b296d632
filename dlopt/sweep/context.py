"""What the command line gives a sweep that Hydra starts: how a run is made, and where people see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from dlopt.sweep.claims import Counts
from dlopt.sweep.compose import Job

if TYPE_CHECKING:
    from dlopt.sweep.cost_forecast import DryRunPlan
    from dlopt.sweep.search import Plan, SearchObserver
    from dlopt.sweep.study import Study


class SweepDisplay(Protocol):
    """Makes the stage of a search, and says in the end what came of it."""

    def begin(self, plan: Plan, study: Study) -> SearchObserver:
        """A search begins."""

    def show_plan(self, outlook: DryRunPlan) -> None:
        """Nothing is to be started: says what would be."""


@dataclass
class SweepContext:
    """One call of `dlopt train -m`.

    command     the overrides as they were typed, by which the sweep can be gone on with
    perform     makes a run in this process, on the screen
    elsewhere   makes a run in another process, whose output nobody sees; a function of a module
    yes         start even a very large grid
    dry_run     say what would be done, and do nothing
    begun       whether its first run may have been started
    counts      how the trials ended, once it is over; None where it ended at once
    """

    command: list[str]
    perform: Callable[[Job], None]
    perform_elsewhere: Callable[[Job], None]
    screen: SweepDisplay
    yes: bool = False
    dry_run: bool = False
    has_started: bool = False
    counts: Counts | None = None


current: SweepContext | None = None
"""That of this process: Hydra makes the sweeper, and hands nothing of ours to it."""
