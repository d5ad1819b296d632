"""The loop: draw, step, measure. One loop for one run and for many in lanes.

`train` takes E experiments and their E run directories. One experiment has w of shape (P,); several have w of shape
(E, P) and go through every step together. A lane that has stopped or diverged is finished at once and leaves.
"""

from __future__ import annotations

import dataclasses
import math
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dlopt import streams
from dlopt.batches import Batches, Examples, Place
from dlopt.evaluate import evaluate, recomputed_statistics
from dlopt.experiment import Experiment
from dlopt.lanes import agree, differing, kept_columns, lane_of, mapped, plain, restored
from dlopt.objective import Problem
from dlopt.parts import Moment, Optimizer, Regularization, higher_is_better, overrides
from dlopt.run import Row, Run, Status
from dlopt.streams import Key
from dlopt.window import Sums, Window, means

BEST_EVERY = 10.0
"""Seconds between two writes of the best checkpoint: the best weights themselves stay on the device."""


class Watch:
    """What the outside sees of the loop, and how it ends it: set `stop`, and the step under way is the last.

    step and steps are the steps done and the steps to do; row is called with every logged row.
    """

    def __init__(self) -> None:
        self.stop = False
        self.step = 0
        self.steps = 0

    def row(self, run: Run, row: Row) -> None:
        """A row was logged."""


@dataclass
class Lane:
    """What one run keeps on the host."""

    experiment: Experiment
    run: Run
    index: int
    history: list[Row] = field(default_factory=list)
    row: Row = field(default_factory=dict)
    best: Row | None = None
    best_saved: float = -math.inf
    unsaved: bool = False


def train(experiments: Sequence[Experiment], runs: Sequence[Run], watch: Watch | None = None) -> list[dict[str, Any]]:
    """Train every experiment to its end, and return the summaries, which are also in the run directories.

    Several experiments must agree in everything but numbers: the same network, classes of parts, sizes and lengths;
    they may differ in seed, data rows, initial weights and numeric hyperparameters. ValueError says where they do not.
    """
    t = Training(experiments, runs, watch or Watch())
    while t.lanes and t.step < t.steps and not t.watch.stop:
        inputs, targets = t.draw()
        objective = t.problem.objective(inputs, targets, t.key("objective"))
        optimizer = t.optimizer()
        before = t.w.clone() if t.needs_both_iterates() else t.w
        moment = optimizer.step(t.w, t.state, objective)
        t.take(moment.w, moment.state, before, optimizer)
        t.measure(objective, moment, before, optimizer, targets)
        t.step += 1
        t.watch.step = t.step
        if t.is_due():
            t.log()
    return t.end()


class Training:
    """Everything that changes during training, for one run or E lanes."""

    def __init__(self, experiments: Sequence[Experiment], runs: Sequence[Run], watch: Watch) -> None:
        agree(experiments)
        first = experiments[0]
        self.solo = len(experiments) == 1
        self.settings = first.settings
        self.watch = watch
        self.lanes = [Lane(e, r, i) for i, (e, r) in enumerate(zip(experiments, runs, strict=True))]
        self.summaries: list[dict[str, Any]] = [{} for _ in experiments]
        self.device = torch.device(first.settings.device)
        torch.set_num_threads(first.threads)
        if self.settings.deterministic != torch.are_deterministic_algorithms_enabled():
            torch.use_deterministic_algorithms(self.settings.deterministic)  # a second of imports: only on a change

        dtype = first.settings.dtype
        place = Place(self.device, dtype)
        lanes = None if self.solo else len(experiments)
        self.problem = Problem(
            first.model.to(self.device, dtype),
            first.loss,
            tuple(first.regularization.values()),
            lanes=lanes,
            varying=self._varying(),
            precision=torch.bfloat16 if self.settings.precision == "bfloat16" else None,
        )
        self.layout = self.problem.layout
        w = torch.stack([e.w for e in experiments]).to(self.device, dtype)
        self.w = self.problem.bind(w[0].clone()) if self.solo else w

        self._rule: Optimizer = self._columns([e.optimizer for e in experiments])
        self.state = self._rule.init(self.w, self.layout)
        self.average = first.averaging.init(self.w) if first.averaging else None
        self._after: list[Regularization] = [
            self._columns([list(e.regularization.values())[i] for e in experiments])
            for i, r in enumerate(first.regularization.values())
            if overrides(r, "after", Regularization)
        ]
        self._keys = [streams.key(e.settings.seed) for e in experiments]
        self._purposes: dict[str, Key] = {}

        train = Examples([e.train for e in experiments], place, lanes=not self.solo)
        keys = [streams.fold(key, "order") for key in self._keys]
        size = train.size if self.settings.batch_size == "full" else self.settings.batch_size
        self.batches = Batches(train, size, keys, drop_last=first.drop_last)
        validation = [e.validation for e in experiments if e.validation is not None]
        self.validation = Examples(validation, place, lanes=not self.solo) if validation else None
        self._place = place

        self.step = 0
        self.per_epoch = self.batches.per_epoch
        self.steps = self.settings.steps or self.settings.epochs * self.per_epoch
        watch.steps = self.steps
        self.best_w = self.w.clone()
        self.best_running = {name: b.clone() for name, b in self.problem.running.items()}
        self.window = Window(self.problem)
        self.sums: dict[str, Sums] = {"row": {}, "epoch": {}}
        self.memory: dict[str, Any] = {}
        self.readings: dict[str, Tensor] = {}
        self.seconds = 0.0
        self.first_logged = (0, 0.0)
        self.lr: Any = getattr(self._rule, "lr", float("nan"))
        self._schedules = [e.schedule for e in experiments]
        self._resume()
        self._clock = time.perf_counter()

    # ------------------------------------------------------------------------------------------- one step

    def draw(self) -> tuple[Tensor, Tensor]:
        """This step's mini-batch, augmented."""
        inputs, targets = self.batches(self.step)
        for i, augment in enumerate(self.lanes[0].experiment.augmentation.values()):
            key = streams.fold(self.key("augmentation"), i)
            inputs, targets = (augment if self.solo else torch.vmap(augment))(inputs, targets, key)
        return inputs, targets

    def key(self, purpose: str) -> Key:
        """The key of this step's draws for one purpose; a batch of keys for lanes."""
        if purpose not in self._purposes:
            keys = [streams.fold(key, purpose) for key in self._keys]
            halves = [torch.tensor(half, device=self.device) for half in zip(*keys, strict=True)]
            self._purposes[purpose] = keys[0] if self.solo else Key(*halves)
        return streams.fold(self._purposes[purpose], self.step)

    def optimizer(self) -> Optimizer:
        """The rule with this step's rate."""
        one = all(schedule == self._schedules[0] for schedule in self._schedules)
        factors = [schedule(self.step, self.steps) for schedule in (self._schedules[:1] if one else self._schedules)]
        if factors == [1.0]:
            return self._rule
        lr = self._rule.lr * (factors[0] if one else self._column(factors))  # type: ignore[attr-defined]
        return dataclasses.replace(self._rule, lr=lr)  # type: ignore[type-var]

    def needs_both_iterates(self) -> bool:
        return bool(self._after) or any(self._due(d.every) for d in self._diagnostics())

    def take(self, w: Tensor, state: Any, before: Tensor, optimizer: Optimizer) -> None:
        """Make the rule's result the current iterate."""
        self.lr = getattr(optimizer, "lr", float("nan"))
        for rule in self._after:
            w = rule.after(w, before, self.lr, self.layout)
        if w is not self.w:
            self.w.copy_(w)  # one home for the iterate: the network's own parameters are views of it
        self.state = state
        averaging = self.lanes[0].experiment.averaging
        if averaging is not None:
            self.average = averaging.update(self.average, self.w, self.step)

    def measure(self, objective: Any, moment: Any, before: Tensor, optimizer: Optimizer, targets: Tensor) -> None:
        """Keep what metrics are computed from; read the instruments that are due."""
        if objective.first is None:
            objective.value(self.w)  # a rule that asked for nothing still has a loss
        self.problem.absorb(objective.first.statistics)
        self.window.add(objective.first, targets)
        asked = self.problem.evaluations  # what instruments ask is not the rule's
        for name, d in self.lanes[0].experiment.diagnostic.items():
            if self._due(d.every):
                seen = Moment(
                    self.step,
                    before,
                    self.w,
                    moment.loss,
                    moment.gradient,
                    self.lr,
                    self.layout,
                    objective,
                    moment.info,
                )
                found, self.memory[name] = d.measure(seen, self.memory.get(name))
                self.readings |= found
        self.problem.evaluations = asked

    def _due(self, every: int | None) -> bool:
        """Whether something measured at every so many steps is due at the step under way."""
        done = self.step + 1
        return done % every == 0 if every else self._logs(done)

    def _logs(self, done: int) -> bool:
        every = self.settings.log_every
        return self._evaluates(done) or (every is not None and done % every == 0)

    def _evaluates(self, done: int) -> bool:
        return done % (self.per_epoch * self.settings.eval_every) == 0 or done == self.steps

    # ------------------------------------------------------------------------------------------- rows

    def is_due(self) -> bool:
        """Whether there is something to do besides stepping."""
        if self.window.full:
            self.flush()
        if self.step % self.per_epoch == 0 and not self._logs(self.step):
            self.flush()
            self.sums["epoch"] = {}
        return self._logs(self.step) or bool(self.readings) or self._saves()

    def log(self) -> None:
        """Bring what is due to the host in one transfer, write rows, evaluate, save, and let lanes go."""
        logs, evaluates = self._logs(self.step), self._evaluates(self.step)
        found = self._host(self._due_values(logs))
        self.seconds += time.perf_counter() - self._clock  # after the transfer, which waits for the device
        diverged = [values.pop("diverged") > 0 for values in found]
        if evaluates:
            found = [a | b for a, b in zip(found, self._host(self._validate()), strict=True)]
        if logs or self.readings:
            for lane, values in zip(self.lanes, found, strict=True):
                row = self._row(values)
                lane.run.log(row)
                lane.row = row if logs else lane.row
                self.watch.row(lane.run, row)

        leaving: list[tuple[int, Status]] = [(i, "diverged") for i, bad in enumerate(diverged) if bad]
        if evaluates:
            leaving += self._judge([i for i, bad in enumerate(diverged) if not bad])
        self._begin_rows(logs)
        if self._saves():
            self.save()
        if leaving:
            self.finish(leaving)
        self._clock = time.perf_counter()

    def _due_values(self, logs: bool) -> dict[str, Tensor]:
        """What a row holds, still on the device."""
        self.flush()
        values: dict[str, Tensor] = {}
        if logs:
            values |= means(self.sums["epoch" if self.step % self.per_epoch == 0 else "row"])
        if isinstance(self.lr, Tensor):
            values["lr"] = self.lr.squeeze(-1)
        return values | self.readings | {"diverged": self.window.take_diverged()}

    def _judge(self, which: Sequence[int]) -> list[tuple[int, Status]]:
        """Keep the best weights of lanes that have just been evaluated; those that stop here are returned."""
        improved = []
        stopped: list[tuple[int, Status]] = []
        for i in which:
            lane = self.lanes[i]
            lane.history.append(lane.row)
            if self._improves(lane):
                lane.best = lane.row
                improved.append(i)
            if any(r.stop(lane.history) for r in lane.experiment.regularization.values()):
                stopped.append((i, "done"))
        self._keep_best(improved)
        return stopped

    def _begin_rows(self, logged: bool) -> None:
        if self.first_logged[0] == 0 and self.step < self.steps:
            self.first_logged = (self.step, self.seconds)
        self.readings = {}
        if logged:
            self.sums["row"] = {}
        if self.step % self.per_epoch == 0:
            self.sums["epoch"] = {}

    def flush(self) -> None:
        """Compute metrics from what the steps have left."""
        self.window.flush(self.sums["row"], self.sums["epoch"])

    def _saves(self) -> bool:
        every = self.settings.checkpoint.every
        return every is not None and self.step % every == 0 and self.step < self.steps

    def _row(self, found: dict[str, float]) -> Row:
        steps, seconds = self.step - self.first_logged[0], self.seconds - self.first_logged[1]
        head = {"step": self.step, "epoch": self.step / self.per_epoch, "seconds": self.seconds}
        rate = {"time/steps_per_second": steps / seconds} if seconds > 0 else {}
        lr = {} if isinstance(self.lr, Tensor) or math.isnan(self.lr) else {"lr": self.lr}
        return head | lr | found | rate

    def _validate(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if self.validation is not None:
            found |= {f"val/{k}": v for k, v in evaluate(self.problem, self.w, self.validation).items()}
            averaging = self.lanes[0].experiment.averaging
            if averaging is not None:
                w = averaging.value(self.average)
                running = recomputed_statistics(self.problem, w, self.batches.examples)
                metrics = evaluate(self.problem, w, self.validation, running)
                found |= {f"average/val/{k}": v for k, v in metrics.items()}
        return found

    def _improves(self, lane: Lane) -> bool:
        metric = lane.experiment.objective
        value = lane.row.get(metric)
        if value is None or not math.isfinite(value):
            return False
        if lane.best is None:
            return True
        return value > lane.best[metric] if higher_is_better(metric) else value < lane.best[metric]

    def _keep_best(self, improved: list[int]) -> None:
        if not improved:
            return
        which = slice(None) if self.solo else torch.tensor(improved, device=self.device)
        self.best_w[which] = self.w[which]
        for name, b in self.problem.running.items():
            self.best_running[name][which] = b[which]
        for i in improved:
            lane = self.lanes[i]
            lane.unsaved = True
            if time.perf_counter() - lane.best_saved >= BEST_EVERY:
                self._save_best(i)

    # ------------------------------------------------------------------------------------------- the end

    def end(self) -> list[dict[str, Any]]:
        """Finish the lanes that are left."""
        if self.lanes:
            self.seconds += time.perf_counter() - self._clock
            interrupted = self.step < self.steps
            self.finish([(i, "interrupted" if interrupted else "done") for i in range(len(self.lanes))])
        return self.summaries

    def finish(self, leaving: Sequence[tuple[int, Status]]) -> None:
        """Save, test and close these lanes; the others go on without them."""
        test: list[dict[str, float]] = [{} for _ in self.lanes]
        if any(status != "interrupted" for _, status in leaving):
            test = self._test()
        for i, status in leaving:
            lane = self.lanes[i]
            if status != "diverged":
                self.save([i])
            if lane.unsaved:
                self._save_best(i)
            summary = self._summary(lane, test[i], status)
            message = f"the loss is not finite, first seen after step {self.step}" if status == "diverged" else ""
            lane.run.finish(status, summary, message)
            self.summaries[lane.index] = summary
        gone = {i for i, _ in leaving}
        stay = [i for i in range(len(self.lanes)) if i not in gone]
        self.lanes = [self.lanes[i] for i in stay]
        if self.lanes:
            self._compact(torch.tensor(stay, device=self.device))

    def _test(self) -> list[dict[str, float]]:
        """The test split, read this once: at the best weights and at the last."""
        examples = Examples([lane.experiment.test for lane in self.lanes], self._place, lanes=not self.solo)
        best = evaluate(self.problem, self.best_w, examples, self.best_running)
        last = evaluate(self.problem, self.w, examples)
        return self._host({f"test/{k}": v for k, v in best.items()} | {f"last/test/{k}": v for k, v in last.items()})

    def _summary(self, lane: Lane, test: dict[str, float], status: Status) -> dict[str, Any]:
        def metrics(row: Row) -> dict[str, Any]:
            return {k: v for k, v in row.items() if k.startswith(("train/", "val/", "average/"))}

        best = lane.best if lane.best is not None and self.validation is not None else lane.row
        steps, seconds = self.step - self.first_logged[0], self.seconds - self.first_logged[1]
        if self.validation is None or lane.best is None:  # then the results are those of the last weights
            test = test | {k.removeprefix("last/"): v for k, v in test.items() if k.startswith("last/")}
        return {
            "status": status,
            **metrics(best),
            **{k: v for k, v in test.items() if not k.startswith("last/")},
            **{f"last/{k}": v for k, v in metrics(lane.row).items()},
            **{k: v for k, v in test.items() if k.startswith("last/")},
            "best/step": best.get("step"),
            "step": self.step,
            "epoch": self.step / self.per_epoch,
            "parameters": self.layout.size,
            "evaluations": self.problem.evaluations,
            "seconds": self.seconds,
            "steps_per_second": steps / seconds if seconds > 0 else None,
            "peak_memory": _peak_memory(self.device),
        }

    def _compact(self, stay: Tensor) -> None:
        """Leave only these lanes in every tensor."""
        count = self.w.shape[0]

        def kept(x: Any) -> Any:
            return x[stay] if isinstance(x, Tensor) and x.ndim > 1 and x.shape[0] == count else x

        self.w = self.w[stay]
        self.state = mapped(kept, self.state)
        self.average = mapped(kept, self.average)
        self.memory = mapped(kept, self.memory)
        self.best_w = self.best_w[stay]
        self.best_running = {name: b[stay] for name, b in self.best_running.items()}
        self._rule = kept_columns(self._rule, stay)
        self._after = [kept_columns(r, stay) for r in self._after]
        self.lr = self.lr[stay] if isinstance(self.lr, Tensor) else self.lr
        keep = stay.tolist()
        self._keys = [self._keys[i] for i in keep]
        self._schedules = [self._schedules[i] for i in keep]
        self._purposes = {}
        self.problem.keep(stay)
        self.batches.keep(stay)
        self.sums = {k: {n: x[stay] if x.ndim else x for n, x in sums.items()} for k, sums in self.sums.items()}
        if self.validation is not None:
            self.validation.keep(stay)

    # ------------------------------------------------------------------------------------------- checkpoints

    def save(self, which: Sequence[int] | None = None) -> None:
        """Write the last checkpoint of these lanes (all of them), and their best where it is not written yet."""
        self.flush()
        for i in range(len(self.lanes)) if which is None else which:
            lane = self.lanes[i]
            content = {
                "format": 1,
                "step": self.step,
                "seconds": self.seconds,
                "evaluations": self.problem.evaluations,
                "model": self._named(self.w, self.problem.running, i),
                "state": plain(self.state, i, self.solo),
                "average": plain(self.average, i, self.solo),
                "sums": plain(self.sums, i, self.solo),
                "preprocessing": {k: dict(v) for k, v in lane.experiment.preprocessing.items()},
                "best_step": None if lane.best is None else lane.best["step"],
            }
            lane.run.save("last", content)
            if lane.unsaved:
                self._save_best(i)

    def _save_best(self, i: int) -> None:
        lane = self.lanes[i]
        assert lane.best is not None
        content = {
            "format": 1,
            "step": lane.best["step"],
            "model": self._named(self.best_w, self.best_running, i),
            "preprocessing": {k: dict(v) for k, v in lane.experiment.preprocessing.items()},
        }
        lane.run.save("best", content)
        lane.best_saved = time.perf_counter()
        lane.unsaved = False

    def _named(self, w: Tensor, running: Mapping[str, Tensor], i: int) -> dict[str, Tensor]:
        """A state dict of the network's own names, which plain PyTorch can load."""
        w = lane_of(w, i, self.solo)
        found = {name: view.detach() for name, view in self.layout.views(w).items()}
        return found | {name: lane_of(b, i, self.solo) for name, b in running.items()}

    def _resume(self) -> None:
        """Go on from the last checkpoint, where the run has one and was told to."""
        lane = self.lanes[0]
        if not self.solo or self.settings.resume is None or not lane.run.checkpoint("last").exists():
            return
        content = lane.run.load("last")
        self.step = content["step"]
        self.seconds = content["seconds"]
        self.problem.evaluations = content["evaluations"]
        self.first_logged = (self.step, self.seconds)
        self._fill(self.w, self.problem.running, content["model"])
        self.state = restored(self.state, content["state"], self.device)
        self.average = restored(self.average, content["average"], self.device)
        self.sums = {k: {n: x.to(self.device) for n, x in sums.items()} for k, sums in content["sums"].items()}
        lane.history = [row for row in lane.run.truncate(self.step) if "val/loss" in row or self.validation is None]
        lane.row = lane.history[-1] if lane.history else {}
        if content["best_step"] is not None:
            lane.best = next(row for row in lane.history if row["step"] == content["best_step"])
            self._fill(self.best_w, self.best_running, lane.run.load("best")["model"])
        self.watch.step = self.step

    def _fill(self, w: Tensor, running: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> None:
        w.copy_(self.layout.flatten(model))
        for name, b in running.items():
            b.copy_(model[name])

    # ------------------------------------------------------------------------------------------- lanes

    def _diagnostics(self) -> Sequence[Any]:
        return tuple(self.lanes[0].experiment.diagnostic.values())

    def _varying(self) -> dict[tuple[int, str], Tensor]:
        """The numeric hyperparameters of loss and regularizations in which lanes differ."""
        if self.solo:
            return {}
        parts = [[lane.experiment.loss, *lane.experiment.regularization.values()] for lane in self.lanes]
        found = {}
        for i, column in enumerate(zip(*parts, strict=True)):
            for name, values in differing(column).items():
                # In float64, so that a probability's threshold is that of a solo run, where the device has it.
                dtype = torch.float32 if self.device.type == "mps" else torch.float64
                found[i, name] = torch.tensor(values, dtype=dtype, device=self.device)
        return found

    def _columns(self, parts: Sequence[Any]) -> Any:
        """One part for all lanes, its differing hyperparameters as (E, 1) columns."""
        return dataclasses.replace(parts[0], **{k: self._column(v) for k, v in differing(parts).items()})

    def _column(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=self.settings.dtype, device=self.device).unsqueeze(-1)

    def _host(self, values: Mapping[str, Tensor]) -> list[dict[str, float]]:
        """Tensors of shape () or (E,) as numbers of each lane, in one transfer."""
        if not values:
            return [{} for _ in self.lanes]
        dtype = self.settings.dtype
        table = torch.stack([v.detach().to(dtype).expand(len(self.lanes)) for v in values.values()], dim=1).tolist()
        return [dict(zip(values, numbers, strict=True)) for numbers in table]


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the device on a GPU, of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
