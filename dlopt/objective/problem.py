"""The loss of a network plus penalties, as a function of the weight vector and of a mini-batch.

    f(w) = loss(network(x; w), y) + sum of penalties(w)

The loss of a network with auxiliary outputs is the one of dlopt/objective/auxiliary.py.

Problem holds what stays the same from step to step: network, loss and regularization. `Problem.total` is f(w), for a
network that is bound to w as for one that is called with views of w. dlopt/objective/oracle.py asks it for one step's
mini-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap

from dlopt import prng
from dlopt.base import dotted_fields
from dlopt.base.layout import Layout
from dlopt.base.loss import Loss, flatten_steps
from dlopt.base.regularization import Regularization
from dlopt.base.wrapper import overrides
from dlopt.objective import activation_hooks, auxiliary
from dlopt.objective.bound import (
    GRADIENT_KEYS,
    INPUT_KEYS,
    PART_KEYS,
    WEIGHT_KEYS,
    BoundNetwork,
    FunctionalNetwork,
    find_owners,
)
from dlopt.objective.clipping import Clip
from dlopt.objective.guidance import DistillationTerm, add_guide, separate_guide
from dlopt.objective.micro_batches import WHOLE, Evaluation, Share, Targets, map_own
from dlopt.objective.second_derivatives import has_recurrent_layers
from dlopt.prng import Key

_NO_CONTEXT = nullcontext()

STORED = -1
"""The number of the network among the parts in `varying`, whose fields are its buffers."""


class Problem:
    """A network with its loss and regularization, for one run (w of shape (P,)) or for E lanes (w of shape (E, P)).

    varying holds the numbers in which lanes differ: (part, field) -> tensor (E,). Part 0 is the loss, part i the i-th
    regularization. Part STORED is the network, with the running buffers that it reads in training, (E, ...). running
    holds the buffers of normalizations, with the leading shape of w. clip, if given, is applied to gradients.
    precision, if given, is the type of autocast. compiled has torch.compile compile the network, for a single run.
    micro_batch_size, if given, is the largest number of examples that a forward and backward pass of training takes.
    distillation, if given, is the term of a teacher. evaluations counts what optimizers have asked for.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        regularization: Sequence[Regularization] = (),
        *,
        lanes: int | None = None,
        varying: Mapping[tuple[int, str], Tensor] | None = None,
        clip: Clip | None = None,
        precision: torch.dtype | None = None,
        compiled: bool = False,
        micro_batch_size: int | None = None,
        distillation: DistillationTerm | None = None,
    ) -> None:
        self.model = model.train()
        self.layout = Layout.of(model)
        self.auxiliary_weight: float | None = getattr(model, "auxiliary_weight", None)
        self.loss = loss.place(next(model.parameters()))
        self.regularization = tuple(regularization)
        self.lanes = lanes
        self.varying = dict(varying or {})
        self.clip = clip
        self.autocast = precision
        self.compiled = compiled
        self.micro_batch_size = micro_batch_size
        self.distillation = distillation
        self._compares_layers = distillation is not None and distillation.option.compares_layers
        self.evaluations = 0
        self.bound_w: Tensor | None = None
        methods = ("penalty", "inputs", "weights", "gradient")
        self._overridden = {m for m in methods if any(overrides(r, m, Regularization) for r in self.regularization)}
        self.penalizes = "penalty" in self._overridden
        self.binds = lanes is None and "weights" not in self._overridden
        """Whether the network can be bound: one run, evaluated at w itself."""
        self.functional = FunctionalNetwork(model, self.layout, find_owners(model, self.regularization))
        self.bound_networks: list[BoundNetwork] = []  # at bound_w, and at a copy of any other w
        self.activations = activation_hooks.find_activations(model)
        self.is_recurrent = has_recurrent_layers(model)
        self.bounds = {n: b for n, m in self.activations.items() if (b := activation_hooks.get_bounds(m)) is not None}
        self.running = {
            f"{name}.{key}": b if lanes is None else b.expand(lanes, *b.shape).clone()
            for name, module in self.functional.normalizations.items()
            for key, b in module.named_buffers()
        }
        self.varying |= self._find_stored_statistics()

    def _find_stored_statistics(self) -> dict[tuple[int, str], Tensor]:
        """Return the running buffers of lanes that the network reads in training; one run has them in its modules."""
        modules = self.functional.normalizations.items() if self.lanes is not None else ()
        names = [f"{name}.{key}" for name, m in modules if m.uses_stored_statistics for key, _ in m.named_buffers()]
        return {(STORED, name): self.running[name] for name in names}

    @property
    def is_random(self) -> bool:
        """Return whether evaluations of the same batch differ from step to step: masks, noise, anything with a key."""
        return bool(self.functional.sites) or not self._overridden <= {"penalty"}

    def total(
        self,
        w: Tensor,
        x: Tensor,
        y: Targets,
        key: Key,
        varying: Mapping[tuple[int, str], Tensor],
        network: FunctionalNetwork | None = None,
        share: Share = WHOLE,
    ) -> tuple[Tensor, Evaluation]:
        """Return f(w) of one lane, with the loss and outputs in it; network is the functional one by default.

        For a micro-batch with this share, return its term of f(w); the first one includes the penalties. Pure in w.
        A bound network is differentiated by its own parameters, and the penalties by w.
        """
        network = network or self.functional
        loss, *rules = self.with_lane_values(varying)
        outputs = self.outputs(network, rules, w, x, key, varying=varying, part=share.part)
        value, evaluation = self.evaluate(loss, outputs, self.targets(rules, y), network.pop_batch_stats())
        if share is not WHOLE:
            value = value * share.fraction
        if self.penalizes and share.part == 0:
            value = value + self.penalty(rules, w)
        return (value if value.dtype == w.dtype else value.to(w.dtype)), evaluation

    def evaluate(
        self, loss: Loss, outputs: Tensor, targets: Targets, statistics: dict[str, Tensor]
    ) -> tuple[Tensor, Evaluation]:
        """Return the loss of what `outputs` returned, of all heads and the teacher, and the evaluation of one lane."""
        outputs, own, guide = separate_guide(self.distillation, outputs, targets)
        output, *others = self.split_heads(outputs)
        losses = [loss.mean(head, own) for head in (output, *others)]
        total, distances = add_guide(auxiliary.add_losses(losses, self.auxiliary_weight), guide, output)
        value, *auxiliaries = [x.detach() for x in losses]
        return total, Evaluation(value, output.detach(), statistics, tuple(auxiliaries), distances)

    def split_heads(self, outputs: Tensor) -> Sequence[Tensor]:
        """Return the output and the auxiliary outputs in what `outputs` returned."""
        return outputs.unbind(1) if self._has_heads else (outputs,)

    @property
    def _has_heads(self) -> bool:
        return self.auxiliary_weight is not None and self.model.training

    def targets(self, rules: Sequence[Regularization], y: Targets) -> Targets:
        """Return the targets that the loss is given."""
        return map_own(lambda own: reduce(lambda y, rule: rule.targets(y), rules, own), y)

    def penalty(self, rules: Sequence[Regularization], w: Tensor) -> Tensor | float:
        """Return the sum of the penalties at w, (P,); the number 0.0 if no regularization has one."""
        terms = (rule.penalty(w, self.layout) for rule in rules)
        return sum((t for t in terms if t is not None), start=0.0)

    def outputs(
        self,
        network: FunctionalNetwork,
        rules: Sequence[Regularization],
        w: Tensor,
        x: Tensor,
        key: Key,
        *,
        varying: Mapping[tuple[int, str], Tensor],
        part: int = 0,
    ) -> Tensor:
        """Return the outputs of a network in training, of one lane with its own numbers `varying`.

        With auxiliary outputs they have shape (B, 1 + heads, outputs); in inference mode there are none. If a layer is
        compared with one of a teacher, they have shape (B, outputs + entries of the hint).
        Each micro-batch, by its number `part`, has masks and noise of its own; noise of the weights is common to all.
        """
        examples_key = prng.fold_in(key, PART_KEYS + part) if part else key
        for i, rule in enumerate(rules) if "inputs" in self._overridden else ():
            x = rule.inputs(x, prng.fold_in(examples_key, INPUT_KEYS + i))
        at = w
        for i, rule in enumerate(rules) if "weights" in self._overridden else ():
            at = rule.weights(at, prng.fold_in(key, WEIGHT_KEYS + i), self.layout)
        network.set_keys(examples_key)
        if self._compares_layers:
            network.regressor.collects = True
        stored = {name: value for (owner, name), value in varying.items() if owner == STORED} or None
        with network.use_rules(rules, self.regularization) if varying else _NO_CONTEXT, self._autocast(x):
            result = network(at, x, stored)
        outputs = auxiliary.stack_outputs(result) if self._has_heads else auxiliary.get_output(result)
        if self._compares_layers:
            outputs = torch.cat([outputs, network.regressor.pop().to(outputs.dtype)], 1)
        return outputs if outputs.dtype == w.dtype else outputs.to(w.dtype)

    def transform_gradient(self, g: Tensor, w: Tensor, key: Key, step: int) -> Tensor:
        """Return a gradient of f at w, (..., P), clipped and changed by regularizations; g is not modified."""
        changed = g if self.clip is None else self.clip(g, w, self.layout)
        if "gradient" not in self._overridden:
            return changed

        def call(g: Tensor, key: Key, varying: dict[Any, Tensor]) -> Tensor:
            _, *rules = self.with_lane_values(varying)
            for i, rule in enumerate(rules):
                g = rule.gradient(g, prng.fold_in(key, GRADIENT_KEYS + i), step, self.layout)
            return g

        return self.map_lanes(call)(changed, key, self.varying)

    def bind(self, w: Tensor) -> Tensor:
        """Make w, (P,), the memory of the network's own parameters: gradients at this very tensor then cost no copy."""
        if w is not self.bound_w:
            owners = list(self.functional.sites.values())
            self.bound_networks = [BoundNetwork(self.model, self.layout, owners, w, compiled=self.compiled)]
            self.bound_w = w
        return w

    def network_at(self, w: Tensor) -> BoundNetwork:
        """Return a network bound to w, or a second one bound to a copy of w if w is not the tensor given to `bind`."""
        if self.bound_w is None:
            self.bind(w.clone())
        if w is self.bound_w:
            return self.bound_networks[0]
        if len(self.bound_networks) == 1:
            self.bound_networks.append(self.bound_networks[0].copy_at(w))
        self.bound_networks[1].w.copy_(w)
        return self.bound_networks[1]

    def tune(self, values: Mapping[tuple[int, str], Any]) -> None:
        """Set hyperparameters of loss and regularizations, named as in `varying`, from here on."""
        if self.lanes is not None:
            self.varying |= values
            return
        self.loss, *rules = self.with_lane_values(values)
        self.regularization = tuple(rules)
        for network in (self.functional, *self.bound_networks):
            network.set_rules(rules)

    def update_running_stats(self, statistics: Mapping[str, Tensor]) -> None:
        """Update the running buffers once: buffer <- (1 - momentum) buffer + momentum batch statistic."""
        self.functional.move_running_stats(self.running, statistics)

    def predict(self, w: Tensor, inputs: Tensor, running: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return the outputs in inference, (..., B, outputs), with running statistics and nothing random."""
        running = self.running if running is None else running
        with self._inference(inputs):
            if w is self.bound_w and running is self.running:
                inputs = _inference_inputs(self.regularization, inputs)
                outputs = auxiliary.get_output(self.bound_networks[0](w, inputs))
            else:
                outputs = self.map_lanes(self._infer)(w, dict(running), inputs, self.varying)
        return outputs.to(w.dtype)

    def summarize_activations(
        self, w: Tensor, inputs: Tensor, summarize: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """Return a function of the outputs, (B, features, ...), of each activation in inference, by name."""

        def call(w: Tensor, running: dict[str, Tensor], x: Tensor, varying: dict[Any, Tensor]) -> dict[str, Tensor]:
            with activation_hooks.record_outputs(self.activations, summarize) as recorded:
                self._infer(w, running, x, varying)
            return recorded

        with self._inference(inputs):
            recorded: dict[str, Tensor] = self.map_lanes(call)(w, self.running, inputs, self.varying)
        return recorded

    @contextmanager
    def _inference(self, inputs: Tensor) -> Iterator[None]:
        self.model.eval()
        try:
            with torch.no_grad(), self._autocast(inputs):
                yield
        finally:
            self.model.train()

    def _infer(self, w: Tensor, running: dict[str, Tensor], x: Tensor, varying: dict[Any, Tensor]) -> Tensor:
        """Return the outputs of one lane in inference."""
        _, *rules = self.with_lane_values(varying)
        with self.functional.use_rules(rules, self.regularization):
            return auxiliary.get_output(self.functional(w, _inference_inputs(rules, x), running))

    def statistics(self, w: Tensor, inputs: Tensor) -> dict[str, Tensor]:
        """Return the batch statistics of the normalizations in a training evaluation on this batch."""

        def call(w: Tensor, x: Tensor, varying: dict[Any, Tensor]) -> dict[str, Tensor]:
            _, *rules = self.with_lane_values(varying)
            self.outputs(self.functional, rules, w, x, Key(0, 0), varying=varying)
            return self.functional.pop_batch_stats()

        with torch.no_grad():
            return self.map_lanes(call)(w, inputs, self.varying)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss, without penalties, of outputs of `predict`; shape () or (E,)."""

        def call(outputs: Tensor, targets: Tensor, varying: dict[Any, Tensor]) -> Tensor:
            loss: Tensor = self.with_lane_values(varying)[0].mean(outputs, targets)
            return loss

        return self.map_lanes(call)(outputs, targets, self.varying)

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return the metrics of outputs (..., N, outputs) and targets; each of shape () or (E,).

        Of outputs (..., N, T, outputs), all steps that have a target count as examples.
        """
        if self.lanes is None:
            return self.loss.measure(*flatten_steps(outputs, targets))
        if outputs.ndim == 3:
            return self.loss.measure(outputs, targets)
        # one lane after another: the numbers of their steps differ
        values = [self.loss.measure(*flatten_steps(*lane)) for lane in zip(outputs, targets, strict=True)]
        return {name: torch.stack([value[name] for value in values]) for name in values[0]}

    def map_lanes(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Map a function of one lane over all lanes; return the function itself for one run."""
        return function if self.lanes is None else vmap(function)

    def select_lanes(self, lanes: Tensor) -> None:
        """Keep only these lanes, given by their indices."""
        self.lanes = len(lanes)
        self.running = {name: b[lanes] for name, b in self.running.items()}
        self.varying = {name: v[lanes] for name, v in self.varying.items()} | self._find_stored_statistics()

    def with_lane_values(self, varying: Mapping[tuple[int, str], Tensor]) -> list[Any]:
        """Return the loss and the regularizations with a lane's own hyperparameters."""
        parts: list[Any] = [self.loss, *self.regularization]
        for (i, field), value in varying.items():
            if i == STORED:
                continue
            parts[i] = dotted_fields.replace_fields(parts[i], {field: value})
        return parts

    def _autocast(self, like: Tensor) -> Any:
        return _NO_CONTEXT if self.autocast is None else torch.autocast(like.device.type, dtype=self.autocast)


def _inference_inputs(rules: Sequence[Regularization], x: Tensor) -> Tensor:
    return reduce(lambda x, rule: rule.inference(x), rules, x)
