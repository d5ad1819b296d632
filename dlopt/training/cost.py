"""Estimate the cost of a run before it starts: measure a few steps, evaluations and files in a temporary directory.

Seconds and bytes are linear in what a run does, so a measurement of a second predicts hours. The estimate is of a run
that reaches its end: one that diverges, stops early, reaches a tolerance or is pruned costs less.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from dlopt.rundir.writer import RunWriter
from dlopt.training.batches import count_steps_per_epoch
from dlopt.training.control import TrainingControl
from dlopt.training.due import Intervals
from dlopt.training.experiment import Experiment, Settings
from dlopt.training.loop import record, set_torch_switches, step
from dlopt.training.recorder import Recorder
from dlopt.training.state import TrainState

Clock = Callable[[], float]

WARM_UP = 3
"""Number of first steps, which take longer than others and count as the start of a run."""
EVALUATION = 0
"""Stands for the interval of evaluations; other intervals are numbers of steps."""


class Cost(NamedTuple):
    """Seconds, and bytes on disk."""

    seconds: float
    bytes: float

    def __add__(self, other: Any) -> Cost:
        return Cost(self.seconds + other.seconds, self.bytes + other.bytes)

    def scale(self, count: float) -> Cost:
        return Cost(self.seconds * count, self.bytes * count)


@dataclass(frozen=True)
class RunLength:
    """The length of a run.

    steps         number of optimizer steps
    epoch         steps per epoch
    evaluations   number of evaluations of the validation split
    every         steps between two checkpoints; None: not by steps
    minutes       minutes between two checkpoints; None: not by time
    keep          number of checkpoints on disk
    """

    steps: int
    epoch: int
    evaluations: int
    every: int | None
    minutes: float | None
    keep: int

    @classmethod
    def of(cls, settings: Settings, examples: int, *, drop_last: bool) -> Self:
        """Return the length of a run on a training split with this many examples."""
        epoch = count_steps_per_epoch(examples, settings.resolve_batch_size(examples), drop_last=drop_last)
        steps, c = settings.count_steps(epoch), settings.checkpoint
        return cls(steps, epoch, -(-steps // (epoch * settings.eval_every)), c.every, c.minutes, c.keep)


@dataclass(frozen=True)
class CostModel:
    """The cost of each thing that a run does.

    once         start and end, with the files that every run leaves
    step         one step
    evaluation   one evaluation, with its row
    rows         other rows and diagnostics, by the number of steps between two of them
    checkpoint   one checkpoint before the end; its bytes count for those on disk
    history      bytes that each evaluation adds to each checkpoint
    """

    once: Cost
    step: Cost
    evaluation: Cost
    rows: Mapping[int, Cost]
    checkpoint: Cost
    history: float

    def cost(self, length: RunLength) -> Cost:
        """Return the cost of a run of this length."""
        total = self.once + self.step.scale(length.steps) + self.evaluation.scale(length.evaluations)
        for every, cost in self.rows.items():
            total += cost.scale(length.steps // every)
        saved = (length.steps - 1) // length.every if length.every else 0
        if length.minutes:
            saved = max(saved, int(total.seconds / (60 * length.minutes)))
        older = min(saved, length.keep - 1)
        history = (1 + older) * self.history * length.evaluations
        return total + Cost(saved * self.checkpoint.seconds, older * self.checkpoint.bytes + history)


@dataclass(frozen=True)
class CostEstimate:
    """The cost model of a run, and what its length depends on: the number of training examples and drop_last."""

    cost_model: CostModel
    examples: int
    drop_last: bool

    def cost(self, settings: Settings, cost_model: CostModel | None = None) -> Cost:
        """Return the cost of a run with these settings on the same examples; `cost_model` replaces its own."""
        return (cost_model or self.cost_model).cost(RunLength.of(settings, self.examples, drop_last=self.drop_last))


class _ProbeIntervals(Intervals):
    """Intervals at which only `now` is due, or nothing if it is None. No run ends early."""

    may_end = False  # the steps of a run that has diverged or would stop take as long as others
    now: int | None = None

    def window(self, step: int) -> bool:
        return self.now is not None and self.now == self.log_every

    def evaluation(self, step: int) -> bool:
        return self.now == EVALUATION

    def diagnostic(self, every: int | None, step: int) -> bool:
        return self.now == every if every else self.row(step)


def estimate_cost(
    begin: Callable[[Path], tuple[Experiment, RunWriter]], seconds: float, clock: Clock = time.perf_counter
) -> CostEstimate:
    """Start a run, take steps for some seconds, and finish it in a temporary directory, which is removed.

    begin builds the experiment and creates its run in the given directory.
    """
    with tempfile.TemporaryDirectory(prefix="dlopt-", ignore_cleanup_errors=True) as name:
        start = clock()
        experiment, run = begin(Path(name) / "run")
        with set_torch_switches(experiment.threads, deterministic=experiment.settings.deterministic):
            cost_model = _CostProbe(experiment, run, clock, start).measure(seconds)
        return CostEstimate(cost_model, len(experiment.train), experiment.drop_last)


class _CostProbe:
    """Measures one run step by step."""

    def __init__(self, experiment: Experiment, run: RunWriter, clock: Clock, start: float) -> None:
        self.run = run
        self.clock = clock
        self.start = start
        settings = experiment.settings
        self.length = RunLength.of(settings, len(experiment.train), drop_last=experiment.drop_last)
        never = dataclasses.replace(settings.checkpoint, every=None, minutes=None)
        experiment = dataclasses.replace(experiment, settings=dataclasses.replace(settings, checkpoint=never))
        self.training = TrainState([experiment])
        self.due = _ProbeIntervals(log_every=settings.log_every, eval_every=1, steps=self.length.steps)
        self.recorder = Recorder(self.training, [experiment], [run], TrainingControl(), None, self.due)
        intervals = {settings.log_every, *(d.interval(self.length.epoch) for d in experiment.diagnostic.values())}
        self.intervals = sorted(every for every in intervals if every)
        self.between = max(1, self.length.steps // self.length.evaluations)

    def measure(self, seconds: float) -> CostModel:
        for _ in range(WARM_UP - 1):
            self._step()
        self._step(EVALUATION)
        warm = self._snapshot()
        plain, steps = Cost(0, 0), 0
        evaluations: list[Cost] = []
        until = warm.seconds + seconds
        while not evaluations or self.clock() < until:
            before, count, pause = self._snapshot(), 0, self.clock() + seconds / 4
            while count < self.between and (count == 0 or self.clock() < pause):
                self._step()
                count += 1
            self._wait()
            after = self._snapshot()
            self._step(EVALUATION)
            steps, plain = steps + count, plain + _difference(before, after)
            evaluations.append(_difference(after, self._snapshot()))
        step = plain.scale(1 / steps)
        evaluation = _median_cost(evaluations, step)
        rows = {every: self._measure_row(every, step) for every in self.intervals}
        checkpoint, history = self._measure_checkpoint(evaluations=1 + len(evaluations))
        before_end = self.clock()
        self.recorder.running_metrics.end_epoch()
        self.recorder.finish([(0, "done")])
        end = self.clock() - before_end
        start = warm.seconds - self.start - (step.scale(WARM_UP) + evaluation).seconds
        count = 1 + len(evaluations)
        growth = step.scale(WARM_UP + steps + len(evaluations)) + evaluation.scale(count)
        for cost in rows.values():
            growth += (cost + step).scale(2)
        for file in self.run.older_checkpoints().values():
            file.unlink()
        once = folder_size(self.run.path) - growth.bytes - history * count
        return CostModel(Cost(max(0.0, start) + end, max(0.0, once)), step, evaluation, rows, checkpoint, history)

    def _step(self, due: int | None = None) -> None:
        """Take one step, after which only this is due."""
        if self.training.step >= self.training.steps:
            self.training.step = 0
        self.due.now = due
        step(self.training, self.recorder)
        record(self.training, self.recorder)

    def _measure_row(self, every: int, step: Cost) -> Cost:
        """Return the cost of rows and diagnostics at this interval, without the step; the first time does not count."""
        self._step(every)
        self._wait()
        before = self._snapshot()
        self._step(every)
        self._wait()
        return _median_cost([_difference(before, self._snapshot())], step)

    def _measure_checkpoint(self, evaluations: int) -> tuple[Cost, float]:
        """Return the cost of a checkpoint without the rows of evaluations in it, and the bytes of one such row."""
        if self.length.every and self.length.every % self.length.epoch == 0:
            self.recorder.running_metrics.end_epoch()  # a checkpoint holds the outputs of the current epoch
        before = self.clock()
        self.recorder.save([0])
        history = len(self.recorder.lanes[0].encoded_rows)
        seconds = self.clock() - before
        return Cost(seconds, self.run.checkpoint("last").stat().st_size - history), history / evaluations

    def _wait(self) -> None:
        """Wait until the device has finished."""
        self.training.w[:1].tolist()

    def _snapshot(self) -> Cost:
        """Return the time, and the bytes of the files that grow."""
        growing = (self.run.metrics_file, *self.run.path.glob("events.out.tfevents.*"))
        return Cost(self.clock(), sum(file.stat().st_size for file in growing if file.exists()))


def folder_size(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _difference(before: Cost, after: Cost) -> Cost:
    return after + before.scale(-1)


def _median_cost(costs: list[Cost], step: Cost) -> Cost:
    """Return the median of costs that include one step, without it."""
    seconds, size = (statistics.median(column) for column in zip(*costs, strict=True))
    return Cost(max(0.0, seconds - step.seconds), max(0.0, size - step.bytes))
