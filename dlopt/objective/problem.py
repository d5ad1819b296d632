"""The objective: the loss of one mini-batch plus penalties, as a function of the weight vector.

    f(w) = loss(network(x; w), y) + sum of penalties(w)

Problem holds what stays the same from step to step (network, loss, regularization); Objective is the oracle of one
step, which an update rule may ask for values, gradients and Hessian products at any w. It is a pure function of w: the
same masks at each evaluation of a step, and nothing in the network is changed by asking.

One run takes the bound path: the module's parameters are views of w, so a gradient costs what it costs in a
hand-written loop. Runs in lanes, and second derivatives, take torch.func over functional_call.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, vmap

from dlopt import prng
from dlopt.base import dotted_fields
from dlopt.base.layout import Layout
from dlopt.base.loss import Loss
from dlopt.base.normalization import BatchStatisticsModule
from dlopt.base.regularization import Regularization, StochasticSite
from dlopt.base.wrapper import overrides
from dlopt.objective import activation_hooks
from dlopt.objective.clipping import Clip
from dlopt.prng import Key


class Evaluation(NamedTuple):
    """What the first evaluation of a step leaves for metrics: loss without penalties, outputs, batch statistics."""

    loss: Tensor
    outputs: Tensor
    statistics: dict[str, Tensor]


class Problem:
    """A network with its loss and regularization, for one run (w of shape (P,)) or for E lanes (w of shape (E, P)).

    varying holds the hyperparameters in which lanes differ: (part, field) -> tensor (E,), where part 0 is the loss and
    part i the i-th regularization. running are the buffers of normalizations, with w's leading shape.
    clip, if given, is what is done to gradients. precision, if given, is autocast's; compiled lets torch.compile make
    programs of the network, for a single run.
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
    ) -> None:
        self.model = model.train()
        self.layout = Layout.of(model)
        self.loss = loss
        self.regularization = tuple(regularization)
        self.lanes = lanes
        self.varying = dict(varying or {})
        self.clip = clip
        self.autocast = precision
        self.compiled = compiled
        self.evaluations = 0
        self.bound_w: Tensor | None = None
        self._transforms_weights = self._overrides_any("weights")
        self._transforms_inputs = self._overrides_any("inputs")
        self._transforms_targets = self._overrides_any("targets")
        self._transforms_inference = self._overrides_any("inference")
        self._penalizes = self._overrides_any("penalty")
        self._changes_gradients = self._overrides_any("gradient")
        self._networks: list[_BoundNetwork] = []
        self._sites = _find_sites(model, self.regularization)
        self._normalizations = {n: m for n, m in model.named_modules() if isinstance(m, BatchStatisticsModule)}
        self._activations = activation_hooks.find_activations(model)
        self.bounds = {n: b for n, m in self._activations.items() if (b := activation_hooks.get_bounds(m)) is not None}
        self.running = {
            f"{name}.{key}": b if lanes is None else b.expand(lanes, *b.shape).clone()
            for name, module in self._normalizations.items()
            for key, b in module.named_buffers()
        }

    # ------------------------------------------------------------------------------------------- training

    def bind(self, w: Tensor) -> Tensor:
        """Make w, (P,), the memory of the network's own parameters: gradients at this very tensor then cost no copy."""
        if w is not self.bound_w:
            self._networks = [_BoundNetwork(self.model, self.layout, w, self._sites, compiled=self.compiled)]
            self.bound_w = w
        return w

    def objective(self, inputs: Tensor, targets: Tensor, key: Key, step: int = 0) -> MiniBatchObjective:
        """The oracle of one step: inputs (B, ...) and the step's key, or (E, B, ...) and a batch of keys."""
        return MiniBatchObjective(self, inputs, targets, key, step)

    def tune(self, values: Mapping[tuple[int, str], Any]) -> None:
        """Give hyperparameters of loss and regularizations, named as in `varying`, other values from here on."""
        if self.lanes is not None:
            self.varying |= values
            return
        self.loss, *rules = self._with_lane_values(values)
        self.regularization = tuple(rules)
        for network in self._networks:
            for site, i in network.sites.items():
                if i is not None:
                    site.regularization = rules[i]

    def update_running_stats(self, statistics: Mapping[str, Tensor]) -> None:
        """One moving average of the running buffers: buffer <- (1 - momentum) buffer + momentum seen."""
        alike: dict[float, list[str]] = {}
        for name in statistics:
            alike.setdefault(self._normalizations[name.rpartition(".")[0]].momentum, []).append(name)
        for momentum, names in alike.items():
            torch._foreach_lerp_([self.running[n] for n in names], [statistics[n] for n in names], momentum)

    def total(self, w: Tensor, x: Tensor, y: Tensor, key: Key, varying: dict[Any, Tensor]) -> tuple[Tensor, Evaluation]:
        """f(w) for one lane, as a pure function; the differentiable twin of the bound path."""
        loss, *rules = self._with_lane_values(varying)
        outputs = self._outputs(rules, w, x, key)
        value = loss(outputs, self._transform_targets(rules, y))
        evaluation = Evaluation(value.detach(), outputs.detach(), self._pop_batch_stats(self._normalizations))
        return (value + self._penalty(rules, w)).to(w.dtype), evaluation

    # ------------------------------------------------------------------------------------------- inference

    def predict(self, w: Tensor, inputs: Tensor, running: Mapping[str, Tensor] | None = None) -> Tensor:
        """The network's outputs in inference, (..., B, outputs), with stored statistics and nothing random."""
        running = self.running if running is None else running
        self.model.eval()
        try:
            with torch.no_grad(), self._autocast(inputs):
                if w is self.bound_w and running is self.running:
                    outputs = self._networks[0].forward(self._inference_inputs(self.regularization, inputs))
                else:

                    def call(w: Tensor, running: dict[str, Tensor], x: Tensor, varying: dict[Any, Tensor]) -> Tensor:
                        _, *rules = self._with_lane_values(varying)
                        with self._lane_rules(rules):
                            views = self.layout.views(w) | running
                            return functional_call(self.model, views, (self._inference_inputs(rules, x),))

                    outputs = self.map_lanes(call)(w, dict(running), inputs, self.varying)
            return outputs.to(w.dtype)
        finally:
            self.model.train()

    def statistics(self, w: Tensor, inputs: Tensor) -> dict[str, Tensor]:
        """What the normalizations see in a training evaluation on this batch."""

        def call(w: Tensor, x: Tensor, varying: dict[Any, Tensor]) -> dict[str, Tensor]:
            _, *rules = self._with_lane_values(varying)
            self._outputs(rules, w, x, Key(0, 0))
            return self._pop_batch_stats(self._normalizations)

        with torch.no_grad():
            return self.map_lanes(call)(w, inputs, self.varying)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss, without penalties, of outputs that `predict` returned; shape () or (E,)."""

        def call(outputs: Tensor, targets: Tensor, varying: dict[Any, Tensor]) -> Tensor:
            return self._with_lane_values(varying)[0](outputs, targets)

        return self.map_lanes(call)(outputs, targets, self.varying)

    def map_lanes(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function of one lane as one of all of them; the function itself for one run."""
        return function if self.lanes is None else vmap(function)

    def select_lanes(self, lanes: Tensor) -> None:
        """Leave only these lanes, given by their indices."""
        self.lanes = len(lanes)
        self.running = {name: b[lanes] for name, b in self.running.items()}
        self.varying = {name: v[lanes] for name, v in self.varying.items()}

    # ------------------------------------------------------------------------------------------- inside

    def _with_lane_values(self, varying: Mapping[tuple[int, str], Tensor]) -> list[Any]:
        """The loss and the regularizations, a lane's own hyperparameters in place."""
        parts: list[Any] = [self.loss, *self.regularization]
        for (i, field), value in varying.items():
            parts[i] = dotted_fields.replace_fields(parts[i], {field: value})
        return parts

    def _overrides_any(self, method: str) -> bool:
        """Whether a regularization has something to do at this place."""
        return any(overrides(rule, method, Regularization) for rule in self.regularization)

    def _outputs(self, rules: Sequence[Regularization], w: Tensor, x: Tensor, key: Key) -> Tensor:
        """The network's outputs in training, of one lane."""
        at = w
        for i, rule in enumerate(rules):
            x = rule.inputs(x, prng.fold_in(key, i))
            at = rule.weights(at, prng.fold_in(key, _WEIGHTS + i), self.layout)
        self._set_keys(key)
        with self._lane_rules(rules), self._autocast(x):
            outputs: Tensor = functional_call(self.model, self.layout.views(at), (x,))
        return outputs.to(w.dtype)

    def _transform_targets(self, rules: Sequence[Regularization], y: Tensor) -> Tensor:
        """The targets as the loss gets them in training."""
        for rule in rules if self._transforms_targets else ():
            y = rule.targets(y)
        return y

    def _inference_inputs(self, rules: Sequence[Regularization], x: Tensor) -> Tensor:
        """The inputs as the network gets them in inference."""
        for rule in rules if self._transforms_inference else ():
            x = rule.inference(x)
        return x

    def _set_keys(self, key: Key) -> None:
        """Give every site the key of this evaluation."""
        for site, i in self._sites.items():
            site.set_key(_address(key, site, i))

    @contextmanager
    def _lane_rules(self, rules: Sequence[Regularization]) -> Iterator[None]:
        """Give every site the lane's own rule."""
        for site, i in self._sites.items():
            if i is not None:
                site.regularization = rules[i]
        try:
            yield
        finally:
            for site, i in self._sites.items():
                if i is not None:
                    site.regularization = self.regularization[i]

    def _pop_batch_stats(self, normalizations: Mapping[str, BatchStatisticsModule]) -> dict[str, Tensor]:
        """Collect and clear what the normalizations saw (tensors of a transformation must not outlive it)."""
        found: dict[str, Tensor] = {}
        for name, module in normalizations.items():
            for key, value in module.batch_stats.items():
                found[f"{name}.{key}"] = value.detach()
            module.batch_stats.clear()  # in place: a module takes 3 microseconds to set an attribute
        return found

    def _penalty(self, rules: Sequence[Regularization], w: Tensor) -> Tensor | float:
        terms = (rule.penalty(w, self.layout) for rule in rules) if self._penalizes else ()
        return sum((t for t in terms if t is not None), start=0.0)

    def _autocast(self, like: Tensor) -> Any:
        return nullcontext() if self.autocast is None else torch.autocast(like.device.type, dtype=self.autocast)

    def _network_at(self, w: Tensor) -> _BoundNetwork:
        """The network whose parameters are views of w; for a w that is not home, a twin with a copy of it."""
        if self.bound_w is None:
            self.bind(w.clone())
        if w is self.bound_w:
            return self._networks[0]
        if len(self._networks) == 1:
            twin = copy.deepcopy(self.model)
            sites = dict(
                zip((m for m in twin.modules() if isinstance(m, StochasticSite)), self._sites.values(), strict=True)
            )
            self._networks.append(_BoundNetwork(twin, self.layout, torch.empty_like(w), sites, compiled=self.compiled))
        self._networks[1].w.copy_(w)
        return self._networks[1]


_WEIGHTS, _GRADIENTS, _SITES = 1 << 8, 1 << 9, 1 << 16
"""Where the addresses of random draws begin below an evaluation's key: inputs, weights, gradients, then sites."""


def _find_sites(model: nn.Module, regularization: Sequence[Regularization]) -> dict[StochasticSite, int | None]:
    """The sites of a network, each with the number of the regularization it belongs to, if any."""

    def owner(site: StochasticSite) -> int | None:
        return next((i for i, r in enumerate(regularization) if r is site.regularization), None)

    return {m: owner(m) for m in model.modules() if isinstance(m, StochasticSite)}


def _address(key: Key, site: StochasticSite, owner: int | None) -> Key:
    return prng.fold_in(key, _SITES * (1 + (owner if owner is not None else _WEIGHTS)) + site.index)


def _key_to_device(key: Key, device: torch.device) -> Key:
    """A key as tensors: the compiler takes numbers for constants, and would compile anew at each step."""
    return Key(*(torch.full((), half, dtype=torch.int64, device=device) for half in key))


class _BoundNetwork:
    """A network whose parameters are views of one weight vector, and memory for its gradient."""

    def __init__(
        self, model: nn.Module, layout: Layout, w: Tensor, sites: dict[StochasticSite, int | None], *, compiled: bool
    ) -> None:
        self.model = model
        self.forward = torch.compile(model) if compiled else model
        self.sites = sites
        self.w = w
        own = dict(model.named_parameters())
        self.parameters = [own[p.name] for p in layout]
        for p, view in zip(self.parameters, layout.views(w).values(), strict=True):
            p.data = view
        self.normalizations = {n: m for n, m in model.named_modules() if isinstance(m, BatchStatisticsModule)}
        self._gradients = [torch.zeros_like(w), torch.zeros_like(w)]
        self._views = [list(layout.views(g).values()) for g in self._gradients]
        self._turn = 0

    def gather_gradient(self, pieces: tuple[Tensor, ...]) -> Tensor:
        """The pieces as one vector, in one of two buffers in turn."""
        self._turn ^= 1
        torch._foreach_copy_(self._views[self._turn], pieces)
        return self._gradients[self._turn]


class MiniBatchObjective:
    """The oracle of one step. Evaluations at any w are allowed, in any order and number; all see one function."""

    def __init__(self, problem: Problem, inputs: Tensor, targets: Tensor, key: Key, step: int) -> None:
        self.problem = problem
        self.layout = problem.layout
        self.bounds: Mapping[str, tuple[float, float]] = problem.bounds
        self.inputs = inputs
        self.targets = targets
        self.key = key
        self.step = step
        self.first: Evaluation | None = None
        self._gradient_used = False
        self._gradient_pair: tuple[Tensor, Tensor] | None = None

    def random_key(self, name: str) -> Key:
        """The key of a rule's own random numbers at this step, for dlopt.prng.uniform and the like."""
        return prng.fold_in(self.key, name)

    def value(self, w: Tensor) -> Tensor:
        """f(w), shape (...)."""
        problem = self.problem
        with torch.no_grad():
            if problem.lanes is None and not problem._transforms_weights:
                loss, evaluation = self._evaluate_bound(problem._network_at(w))
                return self._count(loss + problem._penalty(problem.regularization, w), evaluation)
            return self._count(
                *problem.map_lanes(problem.total)(w, self.inputs, self.targets, self.key, problem.varying)
            )

    def gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """f(w), shape (...), and its gradient g, (..., P), clipped, and then as regularizations change it.

        No later call of this step overwrites g, nor the first one of the next step: a rule may keep it in its state.
        """
        problem = self.problem
        if problem.lanes is not None or problem._transforms_weights:
            mapped = problem.map_lanes(grad_and_value(problem.total, has_aux=True))
            g, (value, evaluation) = mapped(w, self.inputs, self.targets, self.key, problem.varying)
            return self._count(value, evaluation), self._postprocess_gradient(g)

        network = problem._network_at(w)
        loss, evaluation = self._evaluate_bound(network)
        pieces = torch.autograd.grad(loss, network.parameters, allow_unused=True)
        if any(piece is None for piece in pieces):
            pieces = tuple(
                torch.zeros_like(p) if d is None else d for p, d in zip(network.parameters, pieces, strict=True)
            )
        if (
            self._gradient_used or w is not problem.bound_w
        ):  # new memory, so that a rule may compare as many as it likes
            g = torch.cat([piece.reshape(-1) for piece in pieces])
        else:  # two buffers for the first of each step: fresh memory costs page faults, 5% at 1.9 million weights
            self._gradient_used = True
            g = network.gather_gradient(pieces)
        del pieces
        loss = loss.detach()
        if problem._penalizes:
            leaf = w.detach().requires_grad_()
            penalty = problem._penalty(problem.regularization, leaf)
            if isinstance(penalty, Tensor):
                g.add_(torch.autograd.grad(penalty, leaf)[0])
                loss = loss + penalty.detach()
        return self._count(loss, evaluation), self._postprocess_gradient(g)

    def raw_gradient(self, g: Tensor) -> Tensor:
        """The gradient of f itself, where the first gradient of this step that `gradient` returned is asked about."""
        return self._gradient_pair[1] if self._gradient_pair is not None and self._gradient_pair[0] is g else g

    def hvp(self, w: Tensor, v: Tensor) -> Tensor:
        """The Hessian-vector product H(w) v, (..., P), by reverse mode over reverse mode."""
        hv, evaluation = self.problem.map_lanes(self._product)(
            w, self.inputs, self.targets, self.key, self.problem.varying, v
        )
        self._count(None, evaluation)
        return hv

    def hessian(self, w: Tensor) -> Tensor:
        """The Hessian H(w), (..., P, P), one product per column."""

        def columns(w: Tensor, *rest: Any) -> tuple[Tensor, Evaluation]:
            eye = torch.eye(w.shape[-1], dtype=w.dtype, device=w.device)
            x, y, key, varying = rest
            h, (loss, outputs, statistics) = vmap(lambda v: self._product(w, x, y, key, varying, v))(eye)
            return h, Evaluation(loss[0], outputs[0], {name: s[0] for name, s in statistics.items()})

        h, evaluation = self.problem.map_lanes(columns)(w, self.inputs, self.targets, self.key, self.problem.varying)
        self._count(None, evaluation)
        return h

    def activations(self, w: Tensor) -> dict[str, Tensor]:
        """What each activation of the network puts out at w, in training: name -> (..., B, features, ...).

        bounds holds the limits of those that have two, by the same names.
        """
        problem = self.problem

        def call(w: Tensor, *rest: Any) -> tuple[dict[str, Tensor], Evaluation]:
            with activation_hooks.record_outputs(problem._activations) as found:
                _, evaluation = problem.total(w, *rest)
            return {name: outputs.to(w.dtype) for name, outputs in found.items()}, evaluation

        with torch.no_grad():
            found, evaluation = problem.map_lanes(call)(w, self.inputs, self.targets, self.key, problem.varying)
        self._count(None, evaluation)
        return found

    # ------------------------------------------------------------------------------------------- inside

    def _evaluate_bound(self, network: _BoundNetwork) -> tuple[Tensor, Evaluation]:
        problem, x = self.problem, self.inputs
        if problem._transforms_inputs:
            for i, rule in enumerate(problem.regularization):
                x = rule.inputs(x, prng.fold_in(self.key, i))
        for site, owner in network.sites.items():
            address = _address(self.key, site, owner)
            site.set_key(_key_to_device(address, x.device) if problem.compiled else address)
        with problem._autocast(x):
            outputs = network.forward(x)
        outputs = outputs.to(network.w.dtype)
        loss = problem.loss(outputs, problem._transform_targets(problem.regularization, self.targets))
        statistics = problem._pop_batch_stats(network.normalizations) if network.normalizations else {}
        return loss, Evaluation(loss.detach(), outputs.detach(), statistics)

    def _postprocess_gradient(self, g: Tensor) -> Tensor:
        """A gradient of f as a rule gets it."""
        problem = self.problem
        if problem.clip is None and not problem._changes_gradients:
            return g

        def call(g: Tensor, key: Key, varying: dict[Any, Tensor]) -> Tensor:
            _, *rules = problem._with_lane_values(varying)
            for i, rule in enumerate(rules):
                g = rule.gradient(g, prng.fold_in(key, _GRADIENTS + i), self.step, self.layout)
            return g

        changed = g if problem.clip is None else problem.clip(g)
        if problem._changes_gradients:
            changed = problem.map_lanes(call)(changed, self.key, problem.varying)
        if self._gradient_pair is None:
            self._gradient_pair = (changed, g)
        return changed

    def _product(
        self, w: Tensor, x: Tensor, y: Tensor, key: Key, varying: dict[Any, Tensor], v: Tensor
    ) -> tuple[Tensor, Evaluation]:
        def directional(w: Tensor) -> tuple[Tensor, Evaluation]:
            g, evaluation = grad(self.problem.total, has_aux=True)(w, x, y, key, varying)
            return g @ v, evaluation

        return grad(directional, has_aux=True)(w)

    def _count(self, value: Tensor | None, evaluation: Evaluation) -> Any:
        self.problem.evaluations += 1
        if self.first is None:
            self.first = evaluation
        return value
