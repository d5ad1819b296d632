"""The network on one mini-batch before training, for data-dependent inits.

The network does not change: dropout is off, and batch statistics are discarded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dlopt import prng
from dlopt.base.data import Split
from dlopt.base.init import LayerGradients
from dlopt.base.layout import Layout, Parameter
from dlopt.base.loss import Loss
from dlopt.base.network import BatchStatisticsModule
from dlopt.base.regularization import StochasticSite
from dlopt.objective import activation_hooks, auxiliary
from dlopt.prng import Key

EXAMPLES = 256
"""Size of the mini-batch: enough for the standard deviation of a layer's outputs."""

Hook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], Any]


class MiniBatchInitProbe:
    """A network and some examples of its training split: see dlopt.parts.InitProbe."""

    def __init__(self, model: nn.Module, loss: Loss, train: Split, dtype: torch.dtype, key: Key) -> None:
        indices = torch.randperm(len(train), generator=prng.generator(key))[:EXAMPLES]
        rows = indices if train.rows is None else train.rows[indices]
        batch = (train.inputs[rows], train.targets[rows])
        self.inputs, self.targets = (x.to(dtype) if x.is_floating_point() else x for x in batch)
        self.all_targets = train.targets if train.rows is None else train.targets[train.rows]
        self.layout = Layout.of(model)
        self._model = model
        self._loss = loss
        own = dict(model.named_parameters())
        holders: dict[str, list[nn.Module]] = {
            p.name: [m for m in model.modules() if any(own[p.name] is x for x in m._parameters.values())]
            for p in self.layout
        }
        self.owners: Mapping[str, nn.Module] = {name: modules[0] for name, modules in holders.items()}
        weights = [p for p in self.layout if p.kind == "weight"]
        count = Counter(module for p in weights for module in holders[p.name])
        self._layers = {m: p for p in weights for m in holders[p.name] if count[m] == 1}
        self._others = [m for m in count if count[m] > 1]
        self._activations = list(activation_hooks.find_activations(model).values())

    def outputs(self, w: Tensor) -> Tensor:
        with torch.no_grad():
            return auxiliary.get_output(self._run(self.layout.views(w), self.inputs))

    def rescale_layers(self, w: Tensor, factor: Callable[[Parameter, Tensor], float | None]) -> Tensor:
        w = w.clone()
        views = self.layout.views(w)
        done: set[str] = set()

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            p = self._layers[module]
            if p.name not in done and isinstance(output, Tensor):
                while (times := factor(p, output)) is not None:
                    views[p.name].mul_(times)
                    output = module.forward(*args, **kwargs)
                done.add(p.name)
            return output

        with torch.no_grad(), _register_hooks(self._layers, hook):
            self._run(views, self.inputs)
        return w

    def layer_outputs(self, w: Tensor) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = {}
        last: list[str] = []  # the previous layer, until its activation is called

        def of_layer(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            name = self._layers[module].name
            last.clear()
            if name not in outputs and isinstance(output, Tensor):
                outputs[name] = output.clone()  # a later module may overwrite it
                last.append(name)

        def of_activation(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if last and isinstance(output, Tensor):
                outputs[last.pop()] = output.clone()

        with (
            torch.no_grad(),
            _register_hooks(self._layers, of_layer),
            _register_hooks(self._others, lambda *_: last.clear()),  # their activation is not that of the layer before
            _register_hooks(self._activations, of_activation),
        ):
            self._run(self.layout.views(w), self.inputs)
        return outputs

    def gradients(self, w: Tensor) -> dict[str, LayerGradients]:
        ends: dict[str, tuple[Tensor, Tensor]] = {}

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            name = self._layers[module].name
            if name in ends or not isinstance(output, Tensor):
                return output
            ends[name] = next(x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), output
            return output.clone()  # a later module may overwrite it

        x = self.inputs.clone()
        w = w.clone().requires_grad_()
        if x.is_floating_point():
            x.requires_grad_()
        with torch.enable_grad(), _register_hooks(self._layers, hook):
            outputs = auxiliary.list_outputs(self._run(self.layout.views(w), x))
            losses = [self._loss.mean(output, self.targets) for output in outputs]
            loss = auxiliary.add_losses(losses, getattr(self._model, "auxiliary_weight", None))
            tensors = {t for pair in ends.values() for t in pair if t.requires_grad}
            gradients = torch.autograd.grad(loss, list(tensors), allow_unused=True)
        by_tensor = dict(zip(tensors, gradients, strict=True))
        return {name: LayerGradients(*map(by_tensor.get, pair)) for name, pair in ends.items()}

    def _run(self, views: dict[str, Tensor], inputs: Tensor) -> Any:
        """Return what the network returns in training without dropout."""
        sites = [m for m in self._model.modules() if isinstance(m, StochasticSite)]
        try:
            for site in sites:
                site.eval()
            return functional_call(self._model, views, (inputs,))
        finally:
            for site in sites:
                site.train()
            for module in self._model.modules():
                if isinstance(module, BatchStatisticsModule):
                    module.batch_stats = {}


@contextmanager
def _register_hooks(modules: Any, hook: Hook) -> Iterator[None]:
    """Pass the outputs of these modules through the hook."""
    handles = [module.register_forward_hook(hook, with_kwargs=True) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
