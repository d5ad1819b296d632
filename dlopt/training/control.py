"""What the outside sees of the loop, and how it ends it."""

from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.metrics_log import Row


class TrainingControl:
    """Numbers that the loop leaves here, for a progress bar, and some that it looks at.

    step    steps done
    steps   steps to do
    stop    set it, and the step under way is the last
    pruned  set with it, where a search has no use for the rest
    until   steps after which it stops before its end; None: it goes to its end
    """

    def __init__(self, until: int | None = None) -> None:
        self.step = 0
        self.steps = 0
        self.stop = False
        self.is_pruned = False
        self.until = until

    def on_begin(self, step: int, steps: int) -> None:
        """The first step, which is not 0 in a run that goes on, is about to be made."""
        self.step, self.steps = step, steps

    def on_row(self, run: RunDirectory, row: Row) -> None:
        """A row was logged."""
