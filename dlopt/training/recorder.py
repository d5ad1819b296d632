"""The recorder of training: rows, evaluations, checkpoints and the summary, each when it is due.

Metrics stay on the device and reach the host only when something is due, all in one transfer. The clock counts only
training: it stops while a row is written, weights are evaluated or a file is saved.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dlopt.base.diagnostic import Reading
from dlopt.base.optimizer import Optimizer, Step
from dlopt.base.schedule import TrainingTime
from dlopt.metrics.names import AVERAGE, RECENT
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.rundir.lock import LockLostError
from dlopt.rundir.metrics_log import Row
from dlopt.rundir.status import Status
from dlopt.rundir.writer import RunWriter
from dlopt.training import checkpointing
from dlopt.training.batches import Examples
from dlopt.training.best import Lane, summarize
from dlopt.training.checkpointing import AveragedWeights, CheckpointSaver
from dlopt.training.control import TrainingControl
from dlopt.training.convergence import Convergence
from dlopt.training.diagnostics import Diagnostics, log_drawings
from dlopt.training.due import Intervals
from dlopt.training.evaluation import evaluate, recompute_statistics
from dlopt.training.experiment import Experiment
from dlopt.training.running_metrics import RunningMetrics
from dlopt.training.state import TrainState


class Recorder:
    """Records one run or E lanes."""

    def __init__(
        self,
        training: TrainState,
        experiments: Sequence[Experiment],
        runs: Sequence[RunWriter],
        watch: TrainingControl,
        state: Mapping[str, Any] | None,
        due: Intervals | None = None,
    ) -> None:
        self.training = training
        self.due = due or Intervals(
            log_every=training.settings.log_every,
            eval_every=training.per_epoch * training.settings.eval_every,
            steps=training.steps,
        )
        self.control = watch
        self.lanes = [Lane(e, r, i) for i, (e, r) in enumerate(zip(experiments, runs, strict=True))]
        self.summaries: list[dict[str, Any]] = [{} for _ in experiments]
        splits = [e.validation for e in experiments if e.validation is not None]
        self.validation = training.make_examples(splits) if splits else None
        self.diagnostics = Diagnostics(training, self.due)
        self.running_metrics = RunningMetrics(training.problem, spans_epochs=training.settings.log_every is not None)
        self.convergence = Convergence(training, may_end=self.due.may_end)
        self.saver = CheckpointSaver(training)
        self.averaged: AveragedWeights | None = None  # of the evaluation of this step, if they may be the best
        self.seconds = 0.0
        self.is_stopped = False  # early, at the step of the checkpoint it resumes from
        self.rate_origin = (0, 0.0)  # steps per second do not count the first interval, which includes the warm-up
        if state is not None:
            self._restore(state)
        watch.on_begin(training.step, training.steps)
        self._clock = time.perf_counter()

    # ------------------------------------------------------------------------------------------- due

    def should_continue(self) -> bool:
        step, until = self.training.step, self.control.until
        unfinished = bool(self.lanes) and step < self.training.steps and not self.is_stopped
        return unfinished and not self.control.stop and (until is None or step < until)

    def diagnostics_due(self) -> bool:
        """Return whether a diagnostic is due at the current step."""
        return self.diagnostics.is_any_due()

    def anything_due(self) -> bool:
        """Return whether there is something to do before the next step."""
        step = self.training.step
        self.control.step = step
        writes = self.due.row(step) or bool(self.convergence.reached)
        if step % self.training.per_epoch == 0 and not writes:
            self.running_metrics.end_epoch()
        return writes or bool(self.diagnostics.readings) or self.saver.is_due(step)

    # ------------------------------------------------------------------------------------------- rows

    def measure(
        self, objective: MiniBatchObjective, result: Step, before: Tensor, targets: Tensor, optimizer: Optimizer
    ) -> None:
        """Buffer the outputs for the metrics, and run the diagnostics that are due."""
        t = self.training
        self.running_metrics.add(objective.first_evaluation(t.w), targets, result)
        if self.convergence.is_on:
            self.convergence.measure(t, objective.raw_gradient(result.gradient), before)
        if self.diagnostics_due():
            self.diagnostics.measure(objective, result, before, objective.raw_gradient(result.gradient), optimizer)

    def log(self) -> tuple[bool, Sequence[bool], Mapping[int, Row]]:
        """Evaluate and write rows if they are due.

        A lane that has reached a tolerance has its last row, with an evaluation, at this step. Return whether a row was
        due; for each lane, whether its loss or iterate is not finite; and by lane, the rows of this step's evaluation.
        Lanes that have diverged have no such row.
        """
        step, reached = self.training.step, self.convergence.reached
        logs, evaluates = self.due.row(step), self.due.evaluation(step)
        values = self.training.to_host(self._collect_values())
        self.seconds += time.perf_counter() - self._clock  # after the transfer, which waits for the device
        infinite = [v.pop("infinite") > 0 for v in values]
        tags = [tag for tag, reading in self.diagnostics.readings.items() if not isinstance(reading, Tensor)]
        drawn = [{tag: v.pop(tag) for tag in tags} for v in values]
        if evaluates or reached:
            means = {} if evaluates else self.running_metrics.compute_means("epoch")
            pairs = zip(values, self.training.to_host(means | self._evaluate()), strict=True)
            values = [a | b if evaluates or i in reached else a for i, (a, b) in enumerate(pairs)]
        if tags:
            for lane, readings in zip(self.lanes, drawn, strict=True):
                log_drawings(lane.run, step, readings)
        has_row = reached if not (logs or len(self.diagnostics.readings) > len(tags)) else range(len(self.lanes))
        for i in has_row:
            lane = self.lanes[i]
            row = self._make_row(self.training.schedule_values[i] | self.convergence.norms[i] | values[i])
            lane.run.log(row)
            self.control.on_row(lane.run, row)
            if evaluates or i in reached or (logs and infinite[i]):
                lane.row = row
        evaluated = range(len(self.lanes)) if evaluates else reached
        return logs, infinite, {i: self.lanes[i].row for i in evaluated if not infinite[i]}

    def close_interval(self, logs: bool, infinite: Sequence[bool], evaluations: Mapping[int, Row]) -> None:
        """Update the best weights, finish the lanes that end here, and save the others if a checkpoint is due.

        A run ends only where its settings require a row. Diagnostics and checkpoints, which may follow the clock, do
        not change where it ends.
        """
        judged = [i for i in range(len(self.lanes)) if logs or i in self.convergence.reached]
        leaving: list[tuple[int, Status]] = [(i, "diverged") for i in judged if infinite[i]]
        leaving += self._update_best(evaluations)
        self._end_windows(logs)
        if leaving and self.due.may_end:
            self.finish(leaving)
            infinite = [bad for i, bad in enumerate(infinite) if i not in dict(leaving)]
        # Of the remaining lanes; a run cannot resume from an infinite iterate.
        if self.saver.is_due(self.training.step):
            self.save(range(len(self.lanes)) if logs else [i for i, bad in enumerate(infinite) if not bad])
        self._clock = time.perf_counter()

    def _collect_values(self) -> dict[str, Reading]:
        """Return the values of a row, and histograms, on the device."""
        t = self.training
        values: dict[str, Reading] = {}
        if self.due.evaluation(t.step):
            values |= self.running_metrics.compute_means("epoch")
        if self.due.window(t.step):
            values |= {f"{RECENT}{name}": v for name, v in self.running_metrics.compute_means("row").items()}
        if isinstance(t.lr, Tensor):
            values["lr"] = t.lr.squeeze(-1)
        infinite = (
            self._has_diverged() if self.due.row(t.step) or self.convergence.reached else ~torch.isfinite(t.w).all(-1)
        )
        return values | self.diagnostics.readings | {"infinite": infinite}

    def _has_diverged(self) -> Tensor:
        """Return whether a loss or the iterate is not finite: losses are of the weights before a step."""
        return self.running_metrics.has_diverged().to(self.training.device) | ~torch.isfinite(self.training.w).all(-1)

    def _evaluate(self) -> dict[str, Tensor]:
        """Return validation metrics at the iterate, and at the averaged weights if there are any."""
        t = self.training
        if self.validation is None:
            return {}
        metrics = {f"val/{k}": v for k, v in evaluate(t.problem, t.w, self.validation).items()}
        averaged = self._average_weights()
        self.averaged = averaged if t.first.selects_average else None
        return metrics | self._evaluate_average("val", self.validation, averaged)

    def _average_weights(self) -> AveragedWeights | None:
        """Return the averaged weights with their own running statistics; None before the first iterate is averaged."""
        t = self.training
        if t.averaging is None or t.step <= t.averaging.first(TrainingTime(t.step, t.steps, t.per_epoch)):
            return None
        w = t.averaging.value(t.average)
        return AveragedWeights(w, recompute_statistics(t.problem, w, t.examples))

    def _evaluate_average(self, split: str, examples: Examples, averaged: AveragedWeights | None) -> dict[str, Tensor]:
        """Return metrics of a split at the averaged weights, if there are any."""
        if averaged is None:
            return {}
        metrics = evaluate(self.training.problem, averaged.w, examples, averaged.running)
        return {f"{AVERAGE}{split}/{k}": v for k, v in metrics.items()}

    def _make_row(self, values: dict[str, float]) -> Row:
        t = self.training
        head: Row = {"step": t.step, "epoch": t.step / t.per_epoch, "seconds": self.seconds}
        lr = {} if isinstance(t.lr, Tensor) or math.isnan(t.lr) else {"lr": t.lr}
        rate = self._steps_per_second()
        return head | lr | values | ({} if rate is None else {"time/steps_per_second": rate})

    def _steps_per_second(self) -> float | None:
        steps, seconds = self.training.step - self.rate_origin[0], self.seconds - self.rate_origin[1]
        return steps / seconds if seconds > 0 else None

    def _end_windows(self, logged: bool) -> None:
        t = self.training
        if self.rate_origin[0] == 0 and t.step < t.steps:
            self.rate_origin = (t.step, self.seconds)
        self.diagnostics.readings = {}
        if self.due.window(t.step) or (logged and self.due.log_every is None):
            self.running_metrics.end_row()
        if t.step % t.per_epoch == 0:
            self.running_metrics.end_epoch()

    # ------------------------------------------------------------------------------------------- saving

    def _update_best(self, which: Iterable[int]) -> list[tuple[int, Status]]:
        """Update the best weights of lanes that were just evaluated; return the lanes that stop early."""
        improved = []
        stopped: list[tuple[int, Status]] = []
        for i in which:
            lane = self.lanes[i]
            lane.record_evaluation()
            if lane.is_best():
                lane.best = lane.row
                improved.append(i)
            if lane.should_stop(self.training.histories[i]) or i in self.convergence.reached:
                stopped.append((i, "done"))
        if improved:
            self.saver.update_best(self.lanes, improved, self.averaged)
        self.averaged = None
        return stopped

    def save(self, which: Sequence[int]) -> None:
        """Write the checkpoints of these lanes."""

        def make_record(i: int) -> dict[str, Any]:
            window, diagnostics = self.running_metrics.content(i), self.diagnostics.content(i)
            return {"seconds": self.seconds, "window": window, "diagnostics": diagnostics}

        self.saver.save(self.lanes, which, [make_record(i) for i in which])

    def _restore(self, content: Mapping[str, Any]) -> None:
        """Restore a single run from the content of its last checkpoint."""
        t, (lane,) = self.training, self.lanes
        checkpointing.restore(t, content)
        self.running_metrics.restore(content["window"], t.device)
        self.diagnostics.restore(content["diagnostics"])
        self.seconds = content["seconds"]
        self.rate_origin = (t.step, self.seconds)
        self.saver.restore(lane, content)
        stops = lane.row.get("step") == t.step and lane.should_stop(t.histories[0])
        self.is_stopped = stops or bool(lane.describe_tolerance(t.step))

    # ------------------------------------------------------------------------------------------- the end

    def end(self) -> list[dict[str, Any]]:
        """Finish the remaining lanes and return the summaries of all."""
        if self.lanes:
            self.seconds += time.perf_counter() - self._clock
            rows = self.training.to_host({"diverged": self._has_diverged()})
            is_done = self.is_stopped or self.training.step >= self.training.steps
            status: Status = "done" if is_done else "pruned" if self.control.is_pruned else "interrupted"
            self.finish([(i, "diverged" if row["diverged"] else status) for i, row in enumerate(rows)])
        return self.summaries

    def fail(self, error: BaseException) -> None:
        """Record that an exception ended the remaining lanes: interrupted (KeyboardInterrupt) or failed."""
        status: Status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        for lane in self.lanes:
            with contextlib.suppress(OSError, LockLostError):  # a full disk or another process may be the cause
                lane.run.finish(status, message=f"{type(error).__name__}: {error}")

    def finish(self, leaving: Sequence[tuple[int, Status]]) -> None:
        """Save, test and close these lanes; the others continue."""
        test: list[dict[str, float]] = [{} for _ in self.lanes]
        averaged = None
        if any(status not in ("interrupted", "pruned") for _, status in leaving):
            averaged = self._average_weights()
            test = self._test(averaged)
        for i, status in leaving:
            lane = self.lanes[i]
            if status == "diverged":
                self.saver.save_best(self.lanes, [i])
            else:
                self.save([i])
            if status == "done" and averaged is not None:
                self.saver.save_average(lane, i, averaged)
            summary = summarize(
                self.training,
                lane,
                test[i],
                status,
                validated=self.validation is not None,
                seconds=self.seconds,
                steps_per_second=self._steps_per_second(),
            )
            lane.run.finish(status, summary, lane.explain_end(status, self.training, self.training.histories[i]))
            self.summaries[lane.index] = summary
        stay = sorted(set(range(len(self.lanes))) - {i for i, _ in leaving})
        self.lanes = [self.lanes[i] for i in stay]
        if self.lanes:
            self._select_lanes(torch.tensor(stay, device=self.training.device))

    def _test(self, averaged: AveragedWeights | None) -> list[dict[str, float]]:
        """Return metrics of the test split, which is used only here.

        The weights are the best (without a validation split, the last), the last and the averaged ones.
        """
        t = self.training
        examples = t.make_examples([lane.experiment.test for lane in self.lanes])
        last = evaluate(t.problem, t.w, examples)
        is_last_best = all(lane.best is not None and lane.best["step"] == t.step for lane in self.lanes)
        if (is_last_best and not t.first.selects_average) or self.validation is None:
            best = last
        else:
            best = evaluate(t.problem, self.saver.best_w, examples, self.saver.best_running)
        metrics = {f"test/{k}": v for k, v in best.items()} | {f"last/test/{k}": v for k, v in last.items()}
        return t.to_host(metrics | self._evaluate_average("test", examples, averaged))

    def _select_lanes(self, stay: Tensor) -> None:
        """Keep only these lanes, given by their indices; training, which counts them, comes last."""
        count = self.training.count
        self.saver.select_lanes(stay)
        self.diagnostics.select_lanes(stay, count)
        self.convergence.select_lanes(stay.tolist())
        self.running_metrics.select_lanes(stay, count)
        if self.validation is not None:
            self.validation.select_lanes(stay)
        self.training.select_lanes(stay)
