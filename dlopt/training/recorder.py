"""What is kept of training, and written: rows, the summary, and when the rest is due.

Metrics stay on the device and reach the host only when something is due, all in one transfer. The clock counts
training alone: it stands still while a row is written, weights are evaluated or a file is saved.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dlopt.base.diagnostic import Reading, StepRecord
from dlopt.base.histogram import Histogram
from dlopt.base.optimizer import Step
from dlopt.base.schedule import TrainingTime
from dlopt.objective.problem import MiniBatchObjective
from dlopt.rundir.lock import LockLostError
from dlopt.rundir.metrics_log import Row
from dlopt.rundir.status import Status
from dlopt.rundir.writer import RunWriter
from dlopt.storage.memory import peak_memory
from dlopt.training import checkpointing
from dlopt.training.batches import Examples
from dlopt.training.best import AveragedWeights, CheckpointSaver, Lane
from dlopt.training.control import TrainingControl
from dlopt.training.evaluation import evaluate, recompute_statistics
from dlopt.training.experiment import Experiment
from dlopt.training.lanes import tree_map
from dlopt.training.running_metrics import RunningMetrics
from dlopt.training.state import TrainState


class Recorder:
    """The books of one run or of E lanes."""

    def __init__(
        self,
        training: TrainState,
        experiments: Sequence[Experiment],
        runs: Sequence[RunWriter],
        watch: TrainingControl,
        state: Mapping[str, Any] | None,
    ) -> None:
        self.training = training
        self.control = watch
        self.lanes = [Lane(e, r, i) for i, (e, r) in enumerate(zip(experiments, runs, strict=True))]
        self.summaries: list[dict[str, Any]] = [{} for _ in experiments]
        held_out = [e.validation for e in experiments if e.validation is not None]
        self.validation = training.make_examples(held_out) if held_out else None
        self.diagnostics = training.first.diagnostic
        self.memory: dict[str, Any] = {}
        self.readings: dict[str, Tensor] = {}
        self.histograms: dict[str, Histogram] = {}
        self.running_metrics = RunningMetrics(training.problem)
        self.saver = CheckpointSaver(training)
        self.seconds = 0.0
        self.is_stopped = False  # by a rule, at the very step from which it would go on
        self.rate_origin = (0, 0.0)  # the first logged interval, with its warm-up, does not count for the rate
        if state is not None:
            self._restore(state)
        watch.on_begin(training.step, training.steps)
        self._clock = time.perf_counter()

    # ------------------------------------------------------------------------------------------- what is due

    def should_continue(self) -> bool:
        step, until = self.training.step, self.control.until
        left = bool(self.lanes) and step < self.training.steps and not self.is_stopped
        return left and not self.control.stop and (until is None or step < until)

    def row_due(self, step: int) -> bool:
        """Whether a row is due after so many steps."""
        every = self.training.settings.log_every
        return self.evaluation_due(step) or (every is not None and step % every == 0)

    def evaluation_due(self, step: int) -> bool:
        every = self.training.per_epoch * self.training.settings.eval_every
        return step % every == 0 or step == self.training.steps

    def diagnostics_due(self) -> bool:
        """Whether an instrument is due at the step under way."""
        return any(self._diagnostic_due(d.every) for d in self.diagnostics.values())

    def _diagnostic_due(self, every: int | None) -> bool:
        done = self.training.step + 1
        return done % every == 0 if every else self.row_due(done)

    def anything_due(self) -> bool:
        """Whether there is something to do besides stepping."""
        step = self.training.step
        self.control.step = step
        if step % self.training.per_epoch == 0 and not self.row_due(step):
            self.running_metrics.end_epoch()
        return self.row_due(step) or bool(self.readings or self.histograms) or self.saver.is_due(step)

    # ------------------------------------------------------------------------------------------- rows

    def measure(self, objective: MiniBatchObjective, moment: Step, before: Tensor, targets: Tensor) -> None:
        """Keep what metrics are computed from; read the instruments that are due."""
        t = self.training
        if objective.first is None:
            objective.value(t.w)  # a rule that asked for nothing still has a loss
        assert objective.first is not None
        t.problem.update_running_stats(objective.first.statistics)
        self.running_metrics.add(objective.first, targets)
        if not self.diagnostics:
            return
        asked = t.problem.evaluations  # what instruments ask is not the rule's
        g = objective.raw_gradient(moment.gradient)
        seen = StepRecord(t.step, before, t.w, moment.loss, g, t.lr, t.layout, objective, moment.info)
        for name, d in self.diagnostics.items():
            if self._diagnostic_due(d.every):
                found, self.memory[name] = d.measure(seen, self.memory.get(name))
                for tag, reading in found.items():
                    if isinstance(reading, Histogram):
                        self.histograms[tag] = reading
                    else:
                        self.readings[tag] = reading
        t.problem.evaluations = asked

    def log(self) -> None:
        """Write rows, evaluate, save, and let lanes go: whatever is due."""
        step = self.training.step
        logs, evaluates = self.row_due(step), self.evaluation_due(step)
        found = self.training.to_host(self._collect_values(logs))
        self.seconds += time.perf_counter() - self._clock  # after the transfer, which waits for the device
        infinite = [values.pop("infinite") > 0 for values in found]
        # A run ends where its own rhythm says: instruments and checkpoints, which may follow the clock, change nothing.
        diverged = [bad and logs for bad in infinite]
        histograms = [{tag: values.pop(tag).buckets() for tag in self.histograms} for values in found]
        if evaluates:
            found = [a | b for a, b in zip(found, self.training.to_host(self._evaluate()), strict=True)]
        if self.histograms:
            for lane, shown in zip(self.lanes, histograms, strict=True):
                lane.run.log_histograms(step, shown)
        if logs or self.readings:
            for lane, scheduled, values in zip(self.lanes, self.training.schedule_values, found, strict=True):
                row = self._make_row(scheduled | values)
                lane.run.log(row)
                lane.row = row if logs else lane.row
                self.control.on_row(lane.run, row)
        leaving: list[tuple[int, Status]] = [(i, "diverged") for i, bad in enumerate(diverged) if bad]
        if evaluates:
            leaving += self._update_best([i for i, bad in enumerate(diverged) if not bad])
        self._reset_window(logs)
        if leaving:
            self.finish(leaving)
        if self.saver.is_due(step):  # of lanes that are left; an iterate that is not finite is nothing to go on from
            self.save(range(len(self.lanes)) if logs else [i for i, bad in enumerate(infinite) if not bad])
        self._clock = time.perf_counter()

    def _collect_values(self, logs: bool) -> dict[str, Reading]:
        """What a row holds, and histograms, still on the device."""
        t = self.training
        values: dict[str, Reading] = {}
        if logs:
            values |= self.running_metrics.compute_means("epoch" if t.step % t.per_epoch == 0 else "row")
        if isinstance(t.lr, Tensor):
            values["lr"] = t.lr.squeeze(-1)
        infinite = self._has_diverged() if logs else ~torch.isfinite(t.w).all(-1)
        return values | self.readings | self.histograms | {"infinite": infinite}

    def _has_diverged(self) -> Tensor:
        """Whether a loss was, or the iterate is, not finite; the last step's loss says nothing of its own result."""
        return self.running_metrics.has_diverged().to(self.training.device) | ~torch.isfinite(self.training.w).all(-1)

    def _evaluate(self) -> dict[str, Tensor]:
        """Validation metrics, at the iterate and at the averaged weights where there are any."""
        t = self.training
        if self.validation is None:
            return {}
        found = {f"val/{k}": v for k, v in evaluate(t.problem, t.w, self.validation).items()}
        return found | self._evaluate_average("val", self.validation, self._average_weights())

    def _average_weights(self) -> AveragedWeights | None:
        """The averaged weights, once there are any, with running statistics of their own."""
        t = self.training
        if t.averaging is None or t.step <= t.averaging.first(TrainingTime(t.step, t.steps, t.per_epoch)):
            return None
        w = t.averaging.value(t.average)
        return AveragedWeights(w, recompute_statistics(t.problem, w, t.examples))

    def _evaluate_average(self, split: str, examples: Examples, averaged: AveragedWeights | None) -> dict[str, Tensor]:
        """Metrics of a split at the averaged weights, if there are any."""
        found = {} if averaged is None else evaluate(self.training.problem, averaged.w, examples, averaged.running)
        return {f"average/{split}/{k}": v for k, v in found.items()}

    def _make_row(self, found: dict[str, float]) -> Row:
        t = self.training
        head: Row = {"step": t.step, "epoch": t.step / t.per_epoch, "seconds": self.seconds}
        lr = {} if isinstance(t.lr, Tensor) or math.isnan(t.lr) else {"lr": t.lr}
        rate = self._steps_per_second()
        return head | lr | found | ({} if rate is None else {"time/steps_per_second": rate})

    def _steps_per_second(self) -> float | None:
        steps, seconds = self.training.step - self.rate_origin[0], self.seconds - self.rate_origin[1]
        return steps / seconds if seconds > 0 else None

    def _reset_window(self, logged: bool) -> None:
        t = self.training
        if self.rate_origin[0] == 0 and t.step < t.steps:
            self.rate_origin = (t.step, self.seconds)
        self.readings, self.histograms = {}, {}
        if logged:
            self.running_metrics.end_row()
        if t.step % t.per_epoch == 0:
            self.running_metrics.end_epoch()

    # ------------------------------------------------------------------------------------------- what is saved

    def _update_best(self, which: Sequence[int]) -> list[tuple[int, Status]]:
        """Keep the best weights of lanes that have just been evaluated; those that stop here are returned."""
        improved = []
        stopped: list[tuple[int, Status]] = []
        for i in which:
            lane = self.lanes[i]
            lane.record_evaluation()
            self.training.histories[i] = (*self.training.histories[i], lane.row)
            if lane.is_best():
                lane.best = lane.row
                improved.append(i)
            if lane.should_stop(self.training.histories[i]):
                stopped.append((i, "done"))
        if improved:
            self.saver.update_best(self.lanes, improved)
        return stopped

    def save(self, which: Sequence[int]) -> None:
        """Write the checkpoints of these lanes."""
        solo = self.training.solo
        self.saver.save(
            self.lanes,
            which,
            [
                {
                    "seconds": self.seconds,
                    "window": self.running_metrics.content(i),
                    "diagnostics": checkpointing.to_plain(self.memory, i, solo),
                }
                for i in which
            ],
        )

    def _restore(self, content: Mapping[str, Any]) -> None:
        """Go on with a single run from the content of its last checkpoint."""
        t, (lane,) = self.training, self.lanes
        checkpointing.restore(t, content)
        self.running_metrics.restore(content["window"], t.device)
        self.memory = checkpointing.from_plain(None, content["diagnostics"], t.device)
        self.seconds = content["seconds"]
        self.rate_origin = (t.step, self.seconds)
        self.saver.restore(lane, content)
        self.is_stopped = lane.row.get("step") == t.step and lane.should_stop(t.histories[0])

    # ------------------------------------------------------------------------------------------- the end

    def end(self) -> list[dict[str, Any]]:
        """Finish the lanes that are left."""
        if self.lanes:
            self.seconds += time.perf_counter() - self._clock
            bad = self.training.to_host({"diverged": self._has_diverged()})
            over = self.is_stopped or self.training.step >= self.training.steps
            status: Status = "done" if over else "pruned" if self.control.is_pruned else "interrupted"
            self.finish([(i, "diverged" if values["diverged"] else status) for i, values in enumerate(bad)])
        return self.summaries

    def fail(self, error: BaseException) -> None:
        """An exception ends the lanes that are left: interrupted at once, or failed."""
        status: Status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        for lane in self.lanes:
            with contextlib.suppress(OSError, LockLostError):  # a full disk, or another process, may be the very reason
                lane.run.finish(status, message=f"{type(error).__name__}: {error}")

    def finish(self, leaving: Sequence[tuple[int, Status]]) -> None:
        """Save, test and close these lanes; the others go on without them."""
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
            summary = self._summarize(lane, test[i], status)
            said = f"the loss is not finite, seen after step {self.training.step}" if status == "diverged" else ""
            lane.run.finish(status, summary, said)
            self.summaries[lane.index] = summary
        gone = {i for i, _ in leaving}
        stay = [i for i in range(len(self.lanes)) if i not in gone]
        self.lanes = [self.lanes[i] for i in stay]
        if self.lanes:
            self._select_lanes(torch.tensor(stay, device=self.training.device))

    def _test(self, averaged: AveragedWeights | None) -> list[dict[str, float]]:
        """The test split, read this once: at the best weights (without validation, the last), at the last, and at the
        averaged ones."""
        t = self.training
        examples = t.make_examples([lane.experiment.test for lane in self.lanes])
        last = evaluate(t.problem, t.w, examples)
        newest = all(lane.best is not None and lane.best["step"] == t.step for lane in self.lanes)
        same = newest or self.validation is None
        best = last if same else evaluate(t.problem, self.saver.best_w, examples, self.saver.best_running)
        found = {f"test/{k}": v for k, v in best.items()} | {f"last/test/{k}": v for k, v in last.items()}
        return t.to_host(found | self._evaluate_average("test", examples, averaged))

    def _summarize(self, lane: Lane, test: dict[str, float], status: Status) -> dict[str, Any]:
        def metrics(row: Row) -> Row:
            return {k: v for k, v in row.items() if k.startswith(("train/", "val/"))}

        t = self.training
        chosen = lane.row if lane.best is None or self.validation is None else lane.best
        last = {k: v for k, v in test.items() if k.startswith("last/")}
        average = {k: v for k, v in (lane.row | test).items() if k.startswith("average/")}  # there is none but the last
        best = {k: v for k, v in test.items() if k not in last and k not in average}
        if lane.best is None:  # it diverged before it was evaluated
            best = {k.removeprefix("last/"): v for k, v in last.items()}
        return {
            "status": status,
            **metrics(chosen),
            **best,
            **{f"last/{k}": v for k, v in metrics(lane.row).items()},
            "last/step": lane.row.get("step"),  # that of the last row, after which a run may have been interrupted
            **last,
            **average,
            "best/step": chosen.get("step"),
            "step": t.step,
            "epoch": t.step / t.per_epoch,
            "parameters": t.layout.size,
            "evaluations": t.problem.evaluations,
            "seconds": self.seconds,
            "steps_per_second": self._steps_per_second(),
            "peak_memory": peak_memory(t.device),
        }

    def _select_lanes(self, stay: Tensor) -> None:
        """Leave only these lanes, given by their indices."""
        count = self.training.count

        def kept(x: Any) -> Any:
            return x[stay] if isinstance(x, Tensor) and x.ndim > 0 and x.shape[0] == count else x

        self.saver.select_lanes(stay)
        self.memory = tree_map(kept, self.memory)
        self.running_metrics.select_lanes(stay)
        if self.validation is not None:
            self.validation.select_lanes(stay)
        self.training.select_lanes(stay)
