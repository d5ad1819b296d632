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

from dlopt.base.diagnostic import Moment, Reading
from dlopt.base.histogram import Histogram
from dlopt.base.optimizer import Step
from dlopt.base.schedule import Time
from dlopt.objective.problem import Objective
from dlopt.rundir.directory import Row, Run, Status
from dlopt.rundir.lock import Lost
from dlopt.storage.memory import peak_memory
from dlopt.training import checkpointing
from dlopt.training.batches import Examples
from dlopt.training.best import Averaged, Lane, Saving
from dlopt.training.control import Watch
from dlopt.training.evaluation import evaluate, recomputed_statistics
from dlopt.training.experiment import Experiment
from dlopt.training.lanes import mapped
from dlopt.training.running_metrics import Window
from dlopt.training.state import Training


class Journal:
    """The books of one run or of E lanes."""

    def __init__(
        self,
        training: Training,
        experiments: Sequence[Experiment],
        runs: Sequence[Run],
        watch: Watch,
        state: Mapping[str, Any] | None,
    ) -> None:
        self.training = training
        self.watch = watch
        self.lanes = [Lane(e, r, i) for i, (e, r) in enumerate(zip(experiments, runs, strict=True))]
        self.summaries: list[dict[str, Any]] = [{} for _ in experiments]
        held_out = [e.validation for e in experiments if e.validation is not None]
        self.validation = training.examples_of(held_out) if held_out else None
        self.diagnostics = training.first.diagnostic
        self.memory: dict[str, Any] = {}
        self.readings: dict[str, Tensor] = {}
        self.histograms: dict[str, Histogram] = {}
        self.window = Window(training.problem)
        self.saving = Saving(training)
        self.seconds = 0.0
        self.stopped = False  # by a rule, at the very step from which it would go on
        self.rated_from = (0, 0.0)  # the first logged interval, with its warm-up, does not count for the rate
        if state is not None:
            self._restore(state)
        watch.begin(training.step, training.steps)
        self._clock = time.perf_counter()

    # ------------------------------------------------------------------------------------------- what is due

    def goes_on(self) -> bool:
        step, until = self.training.step, self.watch.until
        left = bool(self.lanes) and step < self.training.steps and not self.stopped
        return left and not self.watch.stop and (until is None or step < until)

    def logs(self, step: int) -> bool:
        """Whether a row is due after so many steps."""
        every = self.training.settings.log_every
        return self.evaluates(step) or (every is not None and step % every == 0)

    def evaluates(self, step: int) -> bool:
        every = self.training.per_epoch * self.training.settings.eval_every
        return step % every == 0 or step == self.training.steps

    def measures(self) -> bool:
        """Whether an instrument is due at the step under way."""
        return any(self._due(d.every) for d in self.diagnostics.values())

    def _due(self, every: int | None) -> bool:
        done = self.training.step + 1
        return done % every == 0 if every else self.logs(done)

    def is_due(self) -> bool:
        """Whether there is something to do besides stepping."""
        step = self.training.step
        self.watch.step = step
        if step % self.training.per_epoch == 0 and not self.logs(step):
            self.window.epoch_ends()
        return self.logs(step) or bool(self.readings or self.histograms) or self.saving.due(step)

    # ------------------------------------------------------------------------------------------- rows

    def measure(self, objective: Objective, moment: Step, before: Tensor, targets: Tensor) -> None:
        """Keep what metrics are computed from; read the instruments that are due."""
        t = self.training
        if objective.first is None:
            objective.value(t.w)  # a rule that asked for nothing still has a loss
        assert objective.first is not None
        t.problem.absorb(objective.first.statistics)
        self.window.add(objective.first, targets)
        if not self.diagnostics:
            return
        asked = t.problem.evaluations  # what instruments ask is not the rule's
        g = objective.unchanged(moment.gradient)
        seen = Moment(t.step, before, t.w, moment.loss, g, t.lr, t.layout, objective, moment.info)
        for name, d in self.diagnostics.items():
            if self._due(d.every):
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
        logs, evaluates = self.logs(step), self.evaluates(step)
        found = self.training.on_host(self._due_values(logs))
        self.seconds += time.perf_counter() - self._clock  # after the transfer, which waits for the device
        infinite = [values.pop("infinite") > 0 for values in found]
        # A run ends where its own rhythm says: instruments and checkpoints, which may follow the clock, change nothing.
        diverged = [bad and logs for bad in infinite]
        histograms = [{tag: values.pop(tag).buckets() for tag in self.histograms} for values in found]
        if evaluates:
            found = [a | b for a, b in zip(found, self.training.on_host(self._evaluated()), strict=True)]
        if self.histograms:
            for lane, shown in zip(self.lanes, histograms, strict=True):
                lane.run.histograms(step, shown)
        if logs or self.readings:
            for lane, scheduled, values in zip(self.lanes, self.training.scheduled, found, strict=True):
                row = self._row(scheduled | values)
                lane.run.log(row)
                lane.row = row if logs else lane.row
                self.watch.row(lane.run, row)
        leaving: list[tuple[int, Status]] = [(i, "diverged") for i, bad in enumerate(diverged) if bad]
        if evaluates:
            leaving += self._judged([i for i, bad in enumerate(diverged) if not bad])
        self._begin_anew(logs)
        if leaving:
            self.finish(leaving)
        if self.saving.due(step):  # of lanes that are left; an iterate that is not finite is nothing to go on from
            self.save(range(len(self.lanes)) if logs else [i for i, bad in enumerate(infinite) if not bad])
        self._clock = time.perf_counter()

    def _due_values(self, logs: bool) -> dict[str, Reading]:
        """What a row holds, and histograms, still on the device."""
        t = self.training
        values: dict[str, Reading] = {}
        if logs:
            values |= self.window.means("epoch" if t.step % t.per_epoch == 0 else "row")
        if isinstance(t.lr, Tensor):
            values["lr"] = t.lr.squeeze(-1)
        infinite = self._diverged() if logs else ~torch.isfinite(t.w).all(-1)
        return values | self.readings | self.histograms | {"infinite": infinite}

    def _diverged(self) -> Tensor:
        """Whether a loss was, or the iterate is, not finite; the last step's loss says nothing of its own result."""
        return self.window.diverged().to(self.training.device) | ~torch.isfinite(self.training.w).all(-1)

    def _evaluated(self) -> dict[str, Tensor]:
        """Validation metrics, at the iterate and at the averaged weights where there are any."""
        t = self.training
        if self.validation is None:
            return {}
        found = {f"val/{k}": v for k, v in evaluate(t.problem, t.w, self.validation).items()}
        return found | self._at_average("val", self.validation, self._averaged())

    def _averaged(self) -> Averaged | None:
        """The averaged weights, once there are any, with running statistics of their own."""
        t = self.training
        if t.averaging is None or t.step <= t.averaging.first(Time(t.step, t.steps, t.per_epoch)):
            return None
        w = t.averaging.value(t.average)
        return Averaged(w, recomputed_statistics(t.problem, w, t.examples))

    def _at_average(self, split: str, examples: Examples, averaged: Averaged | None) -> dict[str, Tensor]:
        """Metrics of a split at the averaged weights, if there are any."""
        found = {} if averaged is None else evaluate(self.training.problem, averaged.w, examples, averaged.running)
        return {f"average/{split}/{k}": v for k, v in found.items()}

    def _row(self, found: dict[str, float]) -> Row:
        t = self.training
        head: Row = {"step": t.step, "epoch": t.step / t.per_epoch, "seconds": self.seconds}
        lr = {} if isinstance(t.lr, Tensor) or math.isnan(t.lr) else {"lr": t.lr}
        rate = self._rate()
        return head | lr | found | ({} if rate is None else {"time/steps_per_second": rate})

    def _rate(self) -> float | None:
        steps, seconds = self.training.step - self.rated_from[0], self.seconds - self.rated_from[1]
        return steps / seconds if seconds > 0 else None

    def _begin_anew(self, logged: bool) -> None:
        t = self.training
        if self.rated_from[0] == 0 and t.step < t.steps:
            self.rated_from = (t.step, self.seconds)
        self.readings, self.histograms = {}, {}
        if logged:
            self.window.row_ends()
        if t.step % t.per_epoch == 0:
            self.window.epoch_ends()

    # ------------------------------------------------------------------------------------------- what is saved

    def _judged(self, which: Sequence[int]) -> list[tuple[int, Status]]:
        """Keep the best weights of lanes that have just been evaluated; those that stop here are returned."""
        improved = []
        stopped: list[tuple[int, Status]] = []
        for i in which:
            lane = self.lanes[i]
            lane.evaluated()
            self.training.histories[i] = (*self.training.histories[i], lane.row)
            if lane.improves():
                lane.best = lane.row
                improved.append(i)
            if lane.stops(self.training.histories[i]):
                stopped.append((i, "done"))
        if improved:
            self.saving.improved(self.lanes, improved)
        return stopped

    def save(self, which: Sequence[int]) -> None:
        """Write the checkpoints of these lanes."""
        solo = self.training.solo
        self.saving.save(
            self.lanes,
            which,
            [
                {
                    "seconds": self.seconds,
                    "window": self.window.content(i),
                    "diagnostics": checkpointing.plain(self.memory, i, solo),
                }
                for i in which
            ],
        )

    def _restore(self, content: Mapping[str, Any]) -> None:
        """Go on with a single run from the content of its last checkpoint."""
        t, (lane,) = self.training, self.lanes
        checkpointing.restore(t, content)
        self.window.restore(content["window"], t.device)
        self.memory = checkpointing.restored(None, content["diagnostics"], t.device)
        self.seconds = content["seconds"]
        self.rated_from = (t.step, self.seconds)
        self.saving.restore(lane, content)
        self.stopped = lane.row.get("step") == t.step and lane.stops(t.histories[0])

    # ------------------------------------------------------------------------------------------- the end

    def end(self) -> list[dict[str, Any]]:
        """Finish the lanes that are left."""
        if self.lanes:
            self.seconds += time.perf_counter() - self._clock
            bad = self.training.on_host({"diverged": self._diverged()})
            over = self.stopped or self.training.step >= self.training.steps
            status: Status = "done" if over else "pruned" if self.watch.pruned else "interrupted"
            self.finish([(i, "diverged" if values["diverged"] else status) for i, values in enumerate(bad)])
        return self.summaries

    def fail(self, error: BaseException) -> None:
        """An exception ends the lanes that are left: interrupted at once, or failed."""
        status: Status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        for lane in self.lanes:
            with contextlib.suppress(OSError, Lost):  # a full disk, or another process, may be the very reason
                lane.run.finish(status, message=f"{type(error).__name__}: {error}")

    def finish(self, leaving: Sequence[tuple[int, Status]]) -> None:
        """Save, test and close these lanes; the others go on without them."""
        test: list[dict[str, float]] = [{} for _ in self.lanes]
        averaged = None
        if any(status not in ("interrupted", "pruned") for _, status in leaving):
            averaged = self._averaged()
            test = self._tested(averaged)
        for i, status in leaving:
            lane = self.lanes[i]
            if status == "diverged":
                self.saving.save_best(self.lanes, [i])
            else:
                self.save([i])
            if status == "done" and averaged is not None:
                self.saving.save_average(lane, i, averaged)
            summary = self._summary(lane, test[i], status)
            said = f"the loss is not finite, seen after step {self.training.step}" if status == "diverged" else ""
            lane.run.finish(status, summary, said)
            self.summaries[lane.index] = summary
        gone = {i for i, _ in leaving}
        stay = [i for i in range(len(self.lanes)) if i not in gone]
        self.lanes = [self.lanes[i] for i in stay]
        if self.lanes:
            self._keep(torch.tensor(stay, device=self.training.device))

    def _tested(self, averaged: Averaged | None) -> list[dict[str, float]]:
        """The test split, read this once: at the best weights (without validation, the last), at the last, and at the
        averaged ones."""
        t = self.training
        examples = t.examples_of([lane.experiment.test for lane in self.lanes])
        last = evaluate(t.problem, t.w, examples)
        newest = all(lane.best is not None and lane.best["step"] == t.step for lane in self.lanes)
        same = newest or self.validation is None
        best = last if same else evaluate(t.problem, self.saving.best_w, examples, self.saving.best_running)
        found = {f"test/{k}": v for k, v in best.items()} | {f"last/test/{k}": v for k, v in last.items()}
        return t.on_host(found | self._at_average("test", examples, averaged))

    def _summary(self, lane: Lane, test: dict[str, float], status: Status) -> dict[str, Any]:
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
            "steps_per_second": self._rate(),
            "peak_memory": peak_memory(t.device),
        }

    def _keep(self, stay: Tensor) -> None:
        """Leave only these lanes, given by their indices."""
        count = self.training.count

        def kept(x: Any) -> Any:
            return x[stay] if isinstance(x, Tensor) and x.ndim > 0 and x.shape[0] == count else x

        self.saving.keep(stay)
        self.memory = mapped(kept, self.memory)
        self.window.keep(stay)
        if self.validation is not None:
            self.validation.keep(stay)
        self.training.keep(stay)
