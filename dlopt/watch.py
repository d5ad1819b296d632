"""What the outside sees of the loop, and how it ends it."""

from dlopt.run import Row, Run


class Watch:
    """Numbers that the loop leaves here, for a progress bar, and one that it looks at.

    step    steps done
    steps   steps to do
    stop    set it, and the step under way is the last
    """

    def __init__(self) -> None:
        self.step = 0
        self.steps = 0
        self.stop = False

    def begin(self, step: int, steps: int) -> None:
        """The first step, which is not 0 in a run that goes on, is about to be made."""
        self.step, self.steps = step, steps

    def row(self, run: Run, row: Row) -> None:
        """A row was logged."""
