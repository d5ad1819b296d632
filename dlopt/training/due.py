"""When rows, evaluations and diagnostics are due: functions of the number of steps done, and of nothing else."""


class Intervals:
    """A row at every evaluation and every log_every steps; an evaluation every eval_every steps and at the end.

    may_end tells whether a run that diverges, stops early or reaches a tolerance is finished.
    """

    may_end = True

    def __init__(self, *, log_every: int | None, eval_every: int, steps: int) -> None:
        self.log_every = log_every
        self.eval_every = eval_every
        self.steps = steps

    def row(self, step: int) -> bool:
        return self.evaluation(step) or self.window(step)

    def window(self, step: int) -> bool:
        """Return whether the row holds means over the last `log_every` steps."""
        return self.log_every is not None and step % self.log_every == 0

    def evaluation(self, step: int) -> bool:
        return step % self.eval_every == 0 or step == self.steps

    def diagnostic(self, every: int | None, step: int) -> bool:
        """Return whether a diagnostic is due: at its interval of steps, or with every row."""
        return step % every == 0 if every else self.row(step)
