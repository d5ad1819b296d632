"""The connection between the training loop and its caller: progress, and a request to stop."""

from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.metrics_log import Row


class TrainingControl:
    """Progress that the loop reports, for a progress bar, and attributes that it reads.

    step        steps done
    steps       steps to do
    stop        set it to end training after the current step
    is_pruned   set it together with `stop` if a search prunes the run
    until       step after which training stops early; None: at its end
    """

    def __init__(self, until: int | None = None) -> None:
        self.step = 0
        self.steps = 0
        self.stop = False
        self.is_pruned = False
        self.until = until

    def on_begin(self, step: int, steps: int) -> None:
        """Called before the first step, which is not step 0 in a resumed run."""
        self.step, self.steps = step, steps

    def on_row(self, run: RunDirectory, row: Row) -> None:
        """Called after a row was logged."""
