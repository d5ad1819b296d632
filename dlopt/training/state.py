"""The state of training: what changes from step to step, for one run or for E lanes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dlopt import prng
from dlopt.base import dotted_fields
from dlopt.base.diagnostic import Reading
from dlopt.base.history import History
from dlopt.base.optimizer import Optimizer, Step
from dlopt.base.regularization import Regularization
from dlopt.base.schedule import Schedule, TrainingTime
from dlopt.base.transforms import PixelScale, augment
from dlopt.base.wrapper import overrides
from dlopt.objective.oracle import KnownGradient, MiniBatchObjective
from dlopt.objective.problem import Problem
from dlopt.prng import Key
from dlopt.training.batches import Batches, DataPlacement, Examples, to_device_async, to_probabilities
from dlopt.training.experiment import Experiment, HyperparameterRef
from dlopt.training.lanes import find_differing_fields, select_columns, select_lanes
from dlopt.training.order import EpochOrder


@dataclass(frozen=True)
class ScheduledHyperparameter:
    """A hyperparameter that follows a schedule: the schedule and the configured value of each run."""

    ref: HyperparameterRef
    schedules: Sequence[Schedule]
    values: Sequence[float]

    def values_at(self, times: Sequence[TrainingTime]) -> list[float]:
        """Return the value of each run at its time."""
        return [v * s(t) for v, s, t in zip(self.values, self.schedules, times, strict=True)]

    def select_lanes(self, indices: Sequence[int]) -> ScheduledHyperparameter:
        """Return the same hyperparameter of only these runs."""
        return ScheduledHyperparameter(
            self.ref, [self.schedules[i] for i in indices], [self.values[i] for i in indices]
        )


def find_scheduled_hyperparameters(experiments: Sequence[Experiment]) -> list[ScheduledHyperparameter]:
    """Return all scheduled hyperparameters: lr, if the optimizer has one, and those with a schedule of their own."""
    first = experiments[0]
    path = dotted_fields.find_field(first.optimizer, "lr")
    columns = {} if path is None else {HyperparameterRef("lr", "optimizer", path): [e.schedule for e in experiments]}
    columns |= {ref: [e.schedules[ref] for e in experiments] for ref in first.schedules}

    def get_value(experiment: Experiment, ref: HyperparameterRef) -> Any:
        component = experiment.optimizer if ref.part == "optimizer" else experiment.regularization[ref.part]
        return dotted_fields.get_field(component, ref.field)

    return [
        ScheduledHyperparameter(ref, schedules, [get_value(e, ref) for e in experiments])
        for ref, schedules in columns.items()
    ]


class TrainState:
    """The iterate w, (P,) or (E, P), the optimizer's state, and everything else that a step uses.

    step is the number of steps done, steps the number to do, per_epoch the number in one pass over the data.
    histories holds the rows of each run's evaluations so far.
    """

    def __init__(self, experiments: Sequence[Experiment]) -> None:
        first = self.first = experiments[0]
        self.settings = first.settings
        self.solo = len(experiments) == 1
        self.count = len(experiments)
        self.device = torch.device(first.settings.device)
        self.dtype = first.settings.dtype

        # Copied together, so that dropout sites refer to the copies. The experiment can be trained again.
        model, regularizations = copy.deepcopy((first.model, tuple(first.regularization.values())))
        autocast = torch.bfloat16 if self.settings.precision == "bfloat16" else None
        self.problem = Problem(
            model.to(self.device, self.dtype),
            first.loss,
            regularizations,
            lanes=None if self.solo else self.count,
            varying=self._varying([[e.loss, *e.regularization.values()] for e in experiments]),
            clip=self.settings.clip if self.settings.clip.limits else None,
            precision=autocast,
            compiled=self.settings.compile and self.solo,
            micro_batch_size=self.settings.micro_batch_size,
            distillation=None if first.teacher is None else first.teacher.term,
        )
        self.teachers = [
            e.teacher.place(self.device, self.dtype, autocast, self.settings.micro_batch_size)
            for e in experiments
            if e.teacher is not None
        ]
        self._known_answers: Tensor | None = None
        self.layout = self.problem.layout
        w = torch.stack([e.w for e in experiments]).to(self.device, self.dtype)
        self.w = self.problem.bind(w[0].clone()) if self.solo else w
        self._optimizer: Optimizer = self._columns([e.optimizer for e in experiments])
        self.state = self._optimizer.init(self.w, self.layout)
        self.averaging = first.averaging
        self.average = self.averaging.init(self.w) if self.averaging else None
        self._lr_path = dotted_fields.find_field(self._optimizer, "lr")
        self.lr: Any = self._get_lr(self._optimizer)
        self._scheduled_hyperparameters = find_scheduled_hyperparameters(experiments)
        self.schedule_values: list[dict[str, float]] = [{} for _ in experiments]
        self.histories = [History((), e.loss.directions) for e in experiments]
        self._post_step: dict[str, Regularization] = {
            name: self._columns([e.regularization[name] for e in experiments])
            for name, r in first.regularization.items()
            if overrides(r, "after", Regularization)
        }
        self._needs_previous_w = bool(self._post_step) or self.settings.tolerance.step is not None

        self._keys = [prng.key(e.settings.seed) for e in experiments]
        self._purpose_keys: dict[str, Key] = {}
        splits = [s for e in experiments for s in (e.train, e.validation, e.test) if s is not None]
        self.placement = DataPlacement.of(self.device, self.dtype, splits)
        self.examples = self.make_examples([e.train for e in experiments])
        size = self.settings.resolve_batch_size(self.examples.size)
        orders = [
            EpochOrder.of(e.order, prng.fold_in(key, "order"), e.train)
            for e, key in zip(experiments, self._keys, strict=True)
        ]
        draws = [e.draw for e in experiments if e.draw is not None] or None
        self.batches = Batches(self.examples, size, orders, drop_last=first.drop_last, draws=draws)
        self.per_epoch = self.batches.per_epoch
        self._mixes = any(a.mixes for a in first.augmentation.values()) or any(r.mixes for r in regularizations)
        self._pixel_scale = self._place_pixel_scale([e.pixel_scale for e in experiments])
        self.steps = self.settings.count_steps(self.per_epoch)
        self.step = 0
        self.is_fixed = self._has_fixed_objective()
        self.known_gradient: KnownGradient | None = None

    # ------------------------------------------------------------------------------------------- one step

    def _has_fixed_objective(self) -> bool:
        """Return whether every step has the same objective, and begins where the step before ended."""
        is_scheduled = any(scheduled.ref.part != "optimizer" for scheduled in self._scheduled_hyperparameters)
        changes = self.first.augmentation or self._post_step or is_scheduled or self.problem.is_random
        return self.batches.is_whole and not changes

    def next_batch(self) -> tuple[Tensor, Tensor]:
        """Return this step's mini-batch, augmented."""
        inputs, targets = self.batches(self.step)
        if self._mixes:
            targets = to_probabilities(targets, self.first.outputs, self.dtype)
        for i, part in enumerate(self.first.augmentation.values()):
            key = prng.fold_in(self.key("augmentation"), i)
            inputs, targets = augment(part, inputs, targets, key, self._pixel_scale, lanes=not self.solo)
        return inputs, targets

    def objective(self, inputs: Tensor, targets: Tensor) -> MiniBatchObjective:
        """Return this step's objective."""
        key = self.key("objective")
        known, self.known_gradient = self.known_gradient, None
        fixed, teacher = self.is_fixed, self._ask_teachers(inputs)
        return MiniBatchObjective(
            self.problem, inputs, targets, key, self.step, is_fixed=fixed, known=known, teacher=teacher
        )

    def _ask_teachers(self, inputs: Tensor) -> Tensor | None:
        """Return the outputs of the teacher for a mini-batch; those of a fixed one are computed once."""
        if not self.teachers or (self._known_answers is not None and self.is_fixed):
            return self._known_answers
        batches = [inputs] if self.solo else inputs
        answers = [ask(x) for ask, x in zip(self.teachers, batches, strict=True)]
        self._known_answers = answers[0] if self.solo else torch.stack(answers)
        return self._known_answers

    def evaluate_known_gradient(self) -> None:
        """Evaluate again, without counting, the gradient that the step before this one had evaluated."""
        objective = self.objective(*self.next_batch())
        with objective.pause_counting():
            _, g = objective.gradient(self.w)
        self.known_gradient = objective.find_known(self.w, g)

    def optimizer(self) -> Optimizer:
        """Return the optimizer with this step's hyperparameters, and give regularizations theirs."""
        times = self.times()
        changes: dict[str, Any] = {}
        for scheduled in self._scheduled_hyperparameters:
            ref, values = scheduled.ref, scheduled.values_at(times)
            if ref.name != "lr":
                for row, value in zip(self.schedule_values, values, strict=True):
                    row[f"schedules/{ref.name}"] = value
            if ref.part != "optimizer":
                self._tune(ref, values)
            elif values != scheduled.values:
                changes[ref.field] = values[0] if self.solo else self._column(values)
        return dotted_fields.replace_fields(self._optimizer, changes) if changes else self._optimizer

    def _tune(self, ref: HyperparameterRef, values: list[float]) -> None:
        """Set a hyperparameter of a regularization to this step's value."""
        at = (1 + list(self.first.regularization).index(ref.part), ref.field)
        self.problem.tune({at: values[0] if self.solo else self._lane_tensor(values)})
        if ref.part in self._post_step:
            value = values[0] if self.solo else self._column(values)
            self._post_step[ref.part] = dotted_fields.replace_fields(self._post_step[ref.part], {ref.field: value})

    def times(self) -> list[TrainingTime]:
        """Return the current time of each run."""
        return [TrainingTime(self.step, self.steps, self.per_epoch, history) for history in self.histories]

    @property
    def needs_previous_w(self) -> bool:
        """Return whether a regularization or a tolerance uses both the previous and the new iterate."""
        return self._needs_previous_w

    def apply_step(self, result: Step, before: Tensor, optimizer: Optimizer, objective: MiniBatchObjective) -> None:
        """Apply the result of a step: iterate, optimizer state, average and running statistics.

        Running statistics are updated once, from the first evaluation of the step.
        """
        self.lr = self._get_lr(optimizer)
        w = result.w
        if self._post_step:
            factors = optimizer.lr_factors(w, self.layout)
            lr = self.lr if factors is None else self.lr * factors
            for regularization in self._post_step.values():
                w = regularization.after(w, before, lr, self.layout)
        if w.shape != self.w.shape:
            raise ValueError(f"the optimizer made w of shape {tuple(w.shape)} from one of shape {tuple(self.w.shape)}")
        if w is not self.w:
            self.w.copy_(w)  # in place: the network's parameters are views of it
        self.state = result.state
        self.known_gradient = objective.find_known(self.w, result.next_gradient)
        time = TrainingTime(self.step, self.steps, self.per_epoch)
        if self.averaging is not None and self.step >= self.averaging.first(time):
            self.average = self.averaging.update(self.average, self.w, time)
        self.problem.update_running_stats(objective.first_evaluation(self.w).statistics)

    def extend_histories(self, rows: Mapping[int, Mapping[str, float]]) -> None:
        """Add the rows of an evaluation, by lane, to the histories that schedules and early stopping read."""
        for i, row in rows.items():
            self.histories[i] = self.histories[i].append(row)

    def _get_lr(self, optimizer: Optimizer) -> Any:
        """Return the learning rate of an optimizer, or of the one inside it; NaN if neither has one."""
        return float("nan") if self._lr_path is None else dotted_fields.get_field(optimizer, self._lr_path)

    def key(self, purpose: str) -> Key:
        """Return the key of this step's random numbers for one purpose; a batch of keys for lanes."""
        if purpose not in self._purpose_keys:
            keys = [prng.fold_in(key, purpose) for key in self._keys]
            halves = [to_device_async(torch.tensor(half), self.device) for half in zip(*keys, strict=True)]
            self._purpose_keys[purpose] = keys[0] if self.solo else Key(*halves)
        return prng.fold_in(self._purpose_keys[purpose], self.step)

    # ------------------------------------------------------------------------------------------- lanes

    def make_examples(self, splits: Sequence[Any]) -> Examples:
        """Return one split of each run, on the device."""
        return Examples(splits, self.placement, lanes=not self.solo)

    def to_host(self, values: Mapping[str, Reading]) -> list[dict[str, Any]]:
        """Return tensors of shape () or (E,) as numbers of each run, other readings in kind, in one transfer."""
        rows: list[dict[str, Any]] = [{} for _ in range(self.count)]
        if not values:
            return rows
        columns = [v.detach().unsqueeze(-1) if isinstance(v, Tensor) else v.pack() for v in values.values()]
        widths = [x.shape[-1] for x in columns]
        wide = [x.to(self.dtype).expand(self.count, n) for x, n in zip(columns, widths, strict=True)]
        for (name, v), part in zip(values.items(), torch.cat(wide, dim=1).cpu().split(widths, dim=1), strict=True):
            for row, numbers in zip(rows, part.tolist(), strict=True):
                row[name] = numbers[0] if isinstance(v, Tensor) else v.unpack(numbers)
        return rows

    def select_lanes(self, stay: Tensor) -> None:
        """Keep only these lanes, given by their indices, in every tensor."""
        self.w, self.state, self.average, self.lr, known = select_lanes(
            (self.w, self.state, self.average, self.lr, self.known_gradient), stay, self.count
        )
        self.known_gradient = None if known is None else known._replace(w=self.w, version=self.w._version)
        self.count = len(stay)
        self._optimizer = select_columns(self._optimizer, stay)
        self._post_step = {name: select_columns(r, stay) for name, r in self._post_step.items()}
        indices = stay.tolist()
        self._keys = [self._keys[i] for i in indices]
        self._scheduled_hyperparameters = [h.select_lanes(indices) for h in self._scheduled_hyperparameters]
        self.schedule_values = [self.schedule_values[i] for i in indices]
        self.histories = [self.histories[i] for i in indices]
        self._purpose_keys = {}
        self.teachers = [self.teachers[i] for i in indices if self.teachers]
        self._known_answers = None
        self.problem.select_lanes(stay)
        self.batches.select_lanes(stay)
        if self._pixel_scale is not None:
            self._pixel_scale = PixelScale(*(ends[stay] for ends in self._pixel_scale))

    def _place_pixel_scale(self, scales: Sequence[PixelScale | None]) -> PixelScale | None:
        """Return the pixel scale of the run, or those of lanes, on the device; None without one."""
        if any(scale is None for scale in scales):
            return None
        columns = (torch.stack(ends) for ends in zip(*filter(None, scales), strict=True))
        placed = (to_device_async(column.to(self.dtype), self.device) for column in columns)
        return PixelScale(*(ends[0] if self.solo else ends.unsqueeze(1) for ends in placed))

    def _varying(self, components: Sequence[Sequence[Any]]) -> dict[tuple[int, str], Tensor]:
        """Return the numeric hyperparameters of loss and regularizations in which lanes differ.

        The loss may also differ in lists of numbers, such as weights of classes.
        """
        return {
            (i, name): self._lane_tensor(values)
            for i, column in enumerate(zip(*components, strict=True))
            for name, values in find_differing_fields(column, vectors=i == 0).items()
        }

    def _lane_tensor(self, values: Sequence[Any]) -> Tensor:
        """Return values of lanes, in float64 if possible, so that probabilities equal those of solo runs."""
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        return to_device_async(torch.tensor(values, dtype=dtype), self.device)

    def _columns(self, components: Sequence[Any]) -> Any:
        """Return one component for all lanes, with differing hyperparameters as (E, 1) columns."""
        columns = {k: self._column(v) for k, v in find_differing_fields(components).items()}
        return dotted_fields.replace_fields(components[0], columns)

    def _column(self, values: Sequence[float]) -> Tensor:
        return to_device_async(torch.tensor(values, dtype=self.dtype), self.device).unsqueeze(-1)
