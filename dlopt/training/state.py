"""The state of training: what changes from step to step, for one run or for E lanes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dlopt import prng
from dlopt.base import dotted_fields
from dlopt.base.diagnostic import Histogram, Reading
from dlopt.base.optimizer import Optimizer, Step
from dlopt.base.regularization import Regularization
from dlopt.base.schedule import TrainingTime
from dlopt.base.wrapper import overrides
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.objective.problem import Problem
from dlopt.prng import Key
from dlopt.training.batches import Batches, DataPlacement, Examples, to_device_async, to_probabilities
from dlopt.training.experiment import Experiment, HyperparameterRef
from dlopt.training.lanes import find_differing_fields, select_columns, tree_map
from dlopt.training.scheduled import find_scheduled_hyperparameters


class TrainState:
    """The iterate w, (P,) or (E, P), the rule's state, and all that a step draws on.

    step counts the steps done; steps is how many there are to do, per_epoch how many make a pass over the data.
    histories are the rows of each run's evaluations so far.
    """

    def __init__(self, experiments: Sequence[Experiment]) -> None:
        first = self.first = experiments[0]
        self.settings = first.settings
        self.solo = len(experiments) == 1
        self.count = len(experiments)
        self.device = torch.device(first.settings.device)
        self.dtype = first.settings.dtype

        # Copied together, so that a network's sites still know their rules; the experiment can be trained again.
        model, rules = copy.deepcopy((first.model, tuple(first.regularization.values())))
        self.problem = Problem(
            model.to(self.device, self.dtype),
            first.loss,
            rules,
            lanes=None if self.solo else self.count,
            varying=self._varying([[e.loss, *e.regularization.values()] for e in experiments]),
            clip=self.settings.clip if self.settings.clip.is_on else None,
            precision=torch.bfloat16 if self.settings.precision == "bfloat16" else None,
            compiled=self.settings.compile and self.solo,
        )
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
        self.histories: list[tuple[Mapping[str, float], ...]] = [() for _ in experiments]
        self._post_step: dict[str, Regularization] = {
            name: self._columns([e.regularization[name] for e in experiments])
            for name, r in first.regularization.items()
            if overrides(r, "after", Regularization)
        }

        self._keys = [prng.key(e.settings.seed) for e in experiments]
        self._purpose_keys: dict[str, Key] = {}
        splits = [s for e in experiments for s in (e.train, e.validation, e.test) if s is not None]
        self.placement = DataPlacement.of(self.device, self.dtype, splits)
        self.examples = self.make_examples([e.train for e in experiments])
        size = self.settings.resolve_batch_size(self.examples.size)
        orders = [prng.fold_in(key, "order") for key in self._keys]
        self.batches = Batches(self.examples, size, orders, drop_last=first.drop_last)
        self.per_epoch = self.batches.per_epoch
        self._mixes = any(a.mixes for a in first.augmentation.values()) or any(rule.mixes for rule in rules)
        self.steps = self.settings.count_steps(self.per_epoch)
        self.step = 0

    # ------------------------------------------------------------------------------------------- one step

    def next_batch(self) -> tuple[Tensor, Tensor]:
        """This step's mini-batch, augmented."""
        inputs, targets = self.batches(self.step)
        if self._mixes:
            targets = to_probabilities(targets, self.first.outputs, self.dtype)
        for i, augment in enumerate(self.first.augmentation.values()):
            key = prng.fold_in(self.key("augmentation"), i)
            inputs, targets = (augment if self.solo else torch.vmap(augment))(inputs, targets, key)
        return inputs, targets

    def objective(self, inputs: Tensor, targets: Tensor) -> MiniBatchObjective:
        """This step's objective."""
        return MiniBatchObjective(self.problem, inputs, targets, self.key("objective"), self.step)

    def optimizer(self) -> Optimizer:
        """The rule with this step's numbers; regularizations are given theirs."""
        times = self.times()
        moved: dict[str, Any] = {}
        for course in self._scheduled_hyperparameters:
            number, values = course.ref, course.values_at(times)
            if number.name != "lr":
                for row, value in zip(self.schedule_values, values, strict=True):
                    row[f"schedules/{number.name}"] = value
            if number.part == "optimizer":
                if values != course.values:
                    moved[number.field] = values[0] if self.solo else self._column(values)
            else:
                self._tune(number, values)
        return dotted_fields.replace_fields(self._optimizer, moved) if moved else self._optimizer

    def _tune(self, number: HyperparameterRef, values: list[float]) -> None:
        """Give a number of a regularization its value of this step."""
        at = (1 + list(self.first.regularization).index(number.part), number.field)
        self.problem.tune({at: values[0] if self.solo else self._lane_tensor(values)})
        if number.part in self._post_step:
            value = values[0] if self.solo else self._column(values)
            self._post_step[number.part] = dotted_fields.replace_fields(
                self._post_step[number.part], {number.field: value}
            )

    def times(self) -> list[TrainingTime]:
        """This moment of each run."""
        return [TrainingTime(self.step, self.steps, self.per_epoch, history) for history in self.histories]

    @property
    def needs_previous_w(self) -> bool:
        """Whether a regularization changes the new iterate by the former."""
        return bool(self._post_step)

    def apply_step(self, result: Step, before: Tensor, optimizer: Optimizer, objective: MiniBatchObjective) -> None:
        """Take over the result of a step: iterate, optimizer state, average and running statistics.

        Running statistics move once, from the first evaluation of the step.
        """
        self.lr = self._get_lr(optimizer)
        w = result.w
        for rule in self._post_step.values():
            w = rule.after(w, before, self.lr, self.layout)
        if w.shape != self.w.shape:
            raise ValueError(f"the rule made w of shape {tuple(w.shape)} from one of shape {tuple(self.w.shape)}")
        if w is not self.w:
            self.w.copy_(w)  # one home for the iterate: the network's own parameters are views of it
        self.state = result.state
        time = TrainingTime(self.step, self.steps, self.per_epoch)
        if self.averaging is not None and self.step >= self.averaging.first(time):
            self.average = self.averaging.update(self.average, self.w, time)
        self.problem.update_running_stats(objective.first_evaluation(self.w).statistics)

    def extend_histories(self, rows: Mapping[int, Mapping[str, float]]) -> None:
        """Add the rows of an evaluation, by lane, to what schedules and early stopping read."""
        for i, row in rows.items():
            self.histories[i] = (*self.histories[i], row)

    def _get_lr(self, optimizer: Optimizer) -> Any:
        """The rate of a rule, or of the rule inside that has one; NaN where none has."""
        return float("nan") if self._lr_path is None else dotted_fields.get_field(optimizer, self._lr_path)

    def key(self, purpose: str) -> Key:
        """The key of this step's draws for one purpose; a batch of keys for lanes."""
        if purpose not in self._purpose_keys:
            keys = [prng.fold_in(key, purpose) for key in self._keys]
            halves = [to_device_async(torch.tensor(half), self.device) for half in zip(*keys, strict=True)]
            self._purpose_keys[purpose] = keys[0] if self.solo else Key(*halves)
        return prng.fold_in(self._purpose_keys[purpose], self.step)

    # ------------------------------------------------------------------------------------------- lanes

    def make_examples(self, splits: Sequence[Any]) -> Examples:
        """One split of each run, on the device."""
        return Examples(splits, self.placement, lanes=not self.solo)

    def to_host(self, values: Mapping[str, Reading]) -> list[dict[str, Any]]:
        """Tensors of shape () or (E,) as numbers of each run, and histograms as histograms, in one transfer."""
        if not values:
            return [{} for _ in range(self.count)]
        columns = [v.pack() if isinstance(v, Histogram) else v.detach().unsqueeze(-1) for v in values.values()]
        widths = [x.shape[-1] for x in columns]
        wide = [x.to(self.dtype).expand(self.count, n) for x, n in zip(columns, widths, strict=True)]
        found: list[dict[str, Any]] = [{} for _ in range(self.count)]
        for (name, v), part in zip(values.items(), torch.cat(wide, dim=1).cpu().split(widths, dim=1), strict=True):
            for row, numbers in zip(found, part.tolist(), strict=True):
                row[name] = Histogram.unpack(numbers) if isinstance(v, Histogram) else numbers[0]
        return found

    def select_lanes(self, stay: Tensor) -> None:
        """Leave only these lanes, given by their indices, in every tensor."""
        before, self.count = self.count, len(stay)

        def kept(x: Any) -> Any:
            return x[stay] if isinstance(x, Tensor) and x.ndim > 0 and x.shape[0] == before else x

        self.w = self.w[stay]
        self.state = tree_map(kept, self.state)
        self.average = tree_map(kept, self.average)
        self._optimizer = select_columns(self._optimizer, stay)
        self._post_step = {name: select_columns(rule, stay) for name, rule in self._post_step.items()}
        self.lr = kept(self.lr)
        indices = stay.tolist()
        self._keys = [self._keys[i] for i in indices]
        self._scheduled_hyperparameters = [course.select_lanes(indices) for course in self._scheduled_hyperparameters]
        self.schedule_values = [self.schedule_values[i] for i in indices]
        self.histories = [self.histories[i] for i in indices]
        self._purpose_keys = {}
        self.problem.select_lanes(stay)
        self.batches.select_lanes(stay)

    def _varying(self, parts: Sequence[Sequence[Any]]) -> dict[tuple[int, str], Tensor]:
        """The numeric hyperparameters of loss and regularizations in which lanes differ."""
        return {
            (i, name): self._lane_tensor(values)
            for i, column in enumerate(zip(*parts, strict=True))
            for name, values in find_differing_fields(column).items()
        }

    def _lane_tensor(self, values: Sequence[float]) -> Tensor:
        """In float64 where the device has it, so that a probability's threshold is that of a solo run."""
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        return to_device_async(torch.tensor(values, dtype=dtype), self.device)

    def _columns(self, parts: Sequence[Any]) -> Any:
        """One part for all lanes, its differing hyperparameters as (E, 1) columns."""
        varying = {k: self._column(v) for k, v in find_differing_fields(parts).items()}
        return dotted_fields.replace_fields(parts[0], varying)

    def _column(self, values: Sequence[float]) -> Tensor:
        return to_device_async(torch.tensor(values, dtype=self.dtype), self.device).unsqueeze(-1)
