"""What a run takes, before it is made: a few of its steps, evaluations and files, measured where they are thrown away.

Seconds and bytes are linear in what a run does, so figures of a second tell of hours. They are those of a run that goes
to its end: one that diverges, stops early or is pruned takes less.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from dlopt.rundir.writer import RunWriter
from dlopt.training.batches import count_steps_per_epoch
from dlopt.training.control import TrainingControl
from dlopt.training.experiment import Experiment, Settings
from dlopt.training.loop import record, set_torch_switches, step
from dlopt.training.recorder import Recorder
from dlopt.training.state import TrainState

Clock = Callable[[], float]

WARM_UP = 3
"""Steps that belong to the beginning of a run: the first ones take longer than all others."""
EVALUATION = 0
"""The rhythm of evaluations, among those of rows and instruments, which are so many steps each."""


class Cost(NamedTuple):
    """Seconds, and bytes on the disk."""

    seconds: float
    bytes: float

    def __add__(self, other: Any) -> Cost:
        return Cost(self.seconds + other.seconds, self.bytes + other.bytes)

    def scale(self, count: float) -> Cost:
        return Cost(self.seconds * count, self.bytes * count)


@dataclass(frozen=True)
class RunLength:
    """How much a run does.

    steps         of the optimizer
    epoch         steps of one
    evaluations   of the validation split
    every         steps between two checkpoints; None: they do not go by steps
    minutes       between two; None: they do not go by time
    keep          checkpoints that are kept
    """

    steps: int
    epoch: int
    evaluations: int
    every: int | None
    minutes: float | None
    keep: int

    @classmethod
    def of(cls, settings: Settings, examples: int, *, drop_last: bool) -> Self:
        """That of a run on a training split with so many examples."""
        epoch = count_steps_per_epoch(examples, settings.resolve_batch_size(examples), drop_last=drop_last)
        steps = settings.count_steps(epoch)
        kept = settings.checkpoint
        return cls(steps, epoch, -(-steps // (epoch * settings.eval_every)), kept.every, kept.minutes, kept.keep)


@dataclass(frozen=True)
class CostModel:
    """What a run takes.

    once         its beginning and its end, with the files that it leaves in any case
    step         each step
    evaluation   each evaluation, with its row
    rows         further rows and instruments, by the steps from one to the next
    checkpoint   each checkpoint on the way: the bytes of those that are kept
    history      bytes by which each checkpoint grows with each evaluation
    """

    once: Cost
    step: Cost
    evaluation: Cost
    rows: Mapping[int, Cost]
    checkpoint: Cost
    history: float

    def cost(self, length: RunLength) -> Cost:
        """Of a run of this length."""
        found = self.once + self.step.scale(length.steps) + self.evaluation.scale(length.evaluations)
        for every, cost in self.rows.items():
            found += cost.scale(length.steps // every)
        saved = (length.steps - 1) // length.every if length.every else 0
        if length.minutes:
            saved = max(saved, int(found.seconds / (60 * length.minutes)))
        older = min(saved, length.keep - 1)
        history = (1 + older) * self.history * length.evaluations
        return found + Cost(saved * self.checkpoint.seconds, older * self.checkpoint.bytes + history)


@dataclass(frozen=True)
class CostEstimate:
    """What a run takes, and what says how long it is: examples is the number of those that it trains on."""

    cost_model: CostModel
    examples: int
    drop_last: bool

    def cost(self, settings: Settings, figures: CostModel | None = None) -> Cost:
        """Of a run with these settings on the same examples; with other figures, if they are given."""
        return (figures or self.cost_model).cost(RunLength.of(settings, self.examples, drop_last=self.drop_last))


class _ProbeIntervals:
    """Due-rules by which only one interval is due: `now`, or nothing if it is None. No run ends by itself."""

    may_end = False  # the steps of a run that has diverged or would stop take as long as others
    now: int | None = None

    def __init__(self, log_every: int | None) -> None:
        self.log_every = log_every

    def evaluation(self, step: int) -> bool:
        return self.now == EVALUATION

    def row(self, step: int) -> bool:
        return self.now is not None and self.now in (EVALUATION, self.log_every)

    def diagnostic(self, every: int | None, step: int) -> bool:
        return self.now == every if every else self.row(step)


def estimate_cost(
    begin: Callable[[Path], tuple[Experiment, RunWriter]], seconds: float, clock: Clock = time.perf_counter
) -> CostEstimate:
    """Make a run's beginning, steps for so many seconds, and its end; nothing of it is left.

    begin builds the experiment and opens its run in the folder that it is given.
    """
    with _folder() as folder:
        began = clock()
        experiment, run = begin(folder)
        with set_torch_switches(experiment.threads, deterministic=experiment.settings.deterministic):
            figures = _CostProbe(experiment, run, clock, began).measure(seconds)
        return CostEstimate(figures, len(experiment.train), experiment.drop_last)


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="dlopt-", ignore_cleanup_errors=True) as name:
        yield Path(name) / "run"


class _CostProbe:
    """One rehearsal, step by step."""

    def __init__(self, experiment: Experiment, run: RunWriter, clock: Clock, began: float) -> None:
        self.run = run
        self.clock = clock
        self.began = began
        self.length = RunLength.of(experiment.settings, len(experiment.train), drop_last=experiment.drop_last)
        never = dataclasses.replace(experiment.settings.checkpoint, every=None, minutes=None)
        own = dataclasses.replace(experiment.settings, checkpoint=never)
        experiment = dataclasses.replace(experiment, settings=own)
        self.training = TrainState([experiment])
        self.due = _ProbeIntervals(experiment.settings.log_every)
        self.recorder = Recorder(self.training, [experiment], [run], TrainingControl(), None, self.due)
        instruments = {d.every for d in experiment.diagnostic.values()}
        self.intervals = sorted({r for r in (*instruments, experiment.settings.log_every) if r})
        self.between = max(1, self.length.steps // self.length.evaluations)

    def measure(self, seconds: float) -> CostModel:
        for _ in range(WARM_UP - 1):
            self._step()
        self._step(EVALUATION)
        begun = self._snapshot()
        plain, steps = Cost(0, 0), 0
        evaluations: list[Cost] = []
        until = begun.seconds + seconds
        while not evaluations or self.clock() < until:
            before, made, pause = self._snapshot(), 0, self.clock() + seconds / 4
            while made < self.between and (made == 0 or self.clock() < pause):
                self._step()
                made += 1
            self._wait()
            after = self._snapshot()
            self._step(EVALUATION)
            steps, plain = steps + made, plain + _difference(before, after)
            evaluations.append(_difference(after, self._snapshot()))
        each = plain.scale(1 / steps)
        evaluation = _median_cost(evaluations, each)
        rows = {every: self._row(every, each) for every in self.intervals}
        checkpoint, history = self._checkpoint(evaluations=1 + len(evaluations))
        before_end = self.clock()
        self.recorder.running_metrics.end_epoch()
        self.recorder.finish([(0, "done")])
        end = self.clock() - before_end
        start = begun.seconds - self.began - (each.scale(WARM_UP) + evaluation).seconds
        count = 1 + len(evaluations)
        growth = each.scale(WARM_UP + steps + len(evaluations)) + evaluation.scale(count)
        for cost in rows.values():
            growth += (cost + each).scale(2)
        for file in self.run.older_checkpoints().values():
            file.unlink()
        left = folder_size(self.run.path) - growth.bytes - history * count
        return CostModel(Cost(max(0.0, start) + end, max(0.0, left)), each, evaluation, rows, checkpoint, history)

    def _step(self, due: int | None = None) -> None:
        """One step, after which just this is due."""
        if self.training.step >= self.training.steps:
            self.training.step = 0
        self.due.now = due
        step(self.training, self.recorder)
        record(self.training, self.recorder)

    def _row(self, every: int, each: Cost) -> Cost:
        """What falls due in this rhythm, besides the step; the first time does not count."""
        self._step(every)
        self._wait()
        before = self._snapshot()
        self._step(every)
        self._wait()
        return _median_cost([_difference(before, self._snapshot())], each)

    def _checkpoint(self, evaluations: int) -> tuple[Cost, float]:
        """A checkpoint without the rows of evaluations that are in it, and the bytes of such a row."""
        if self.length.every and self.length.every % self.length.epoch == 0:
            self.recorder.running_metrics.end_epoch()  # outputs of an epoch under way are saved
        before = self.clock()
        self.recorder.save([0])
        history = len(self.recorder.lanes[0].encoded_rows)
        seconds = self.clock() - before
        return Cost(seconds, self.run.checkpoint("last").stat().st_size - history), history / evaluations

    def _wait(self) -> None:
        """Until the device has done all that it was given."""
        self.training.w[:1].tolist()

    def _snapshot(self) -> Cost:
        """The clock, and the bytes of the files that grow."""
        growing = (self.run.metrics_file, *self.run.path.glob("events.out.tfevents.*"))
        return Cost(self.clock(), sum(file.stat().st_size for file in growing if file.exists()))


def folder_size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _difference(before: Cost, after: Cost) -> Cost:
    return after + before.scale(-1)


def _median_cost(found: list[Cost], step: Cost) -> Cost:
    """The median of costs that hold that of a step, without it."""
    seconds, taken = (statistics.median(column) for column in zip(*found, strict=True))
    return Cost(max(0.0, seconds - step.seconds), max(0.0, taken - step.bytes))
