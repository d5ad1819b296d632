"""One weight vector: all trainable weights of a network as a flat tensor w of shape (P,).

The Layout maps parameters to slices of w. Optimizers, penalties, norms and curvature work on w in R^P; only the network
sees single parameters. A tensor of shape (E, P) holds E networks, and every method here takes leading dimensions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from dlopt.base.layer_labels import is_normalization, label_modules

ParameterKind = Literal["weight", "bias", "norm"]
_GATES: dict[tuple[type[nn.Module], ...], int] = {(nn.LSTM, nn.LSTMCell): 4, (nn.GRU, nn.GRUCell): 3}
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class Factors(NamedTuple):
    """Factors of a parameter: of the learning rate, and of weight decay and penalties, None for the default."""

    lr: float = 1.0
    decay: float | None = None


DEFAULT_FACTORS = Factors()


@dataclass(frozen=True)
class Parameter:
    """A parameter: a slice of w.

    kind is `weight` for matrices and kernels (penalties and inits act on these), `bias` for additive vectors, and
    `norm` for scale and shift of a normalization and for other vectors, which keep their initial values.
    fan_in and fan_out are the numbers of inputs and outputs of one unit, including the receptive field:
    in * prod(k) and out * prod(k) for a kernel of shape (out, in, k...).
    stacked is the number of matrices that are stacked along the first axis, such as those of the gates of an LSTM;
    fan_in and fan_out are those of one of them.
    transposed_groups is the number of groups of a transposed convolution, whose kernel has the shape
    (in, out / groups, k...), else None. Its fan_in and fan_out are exchanged, as in torch.nn.init.
    factors are those of its parameter group.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    kind: ParameterKind
    fan_in: int
    fan_out: int
    transposed_groups: int | None = None
    stacked: int = 1
    factors: Factors = DEFAULT_FACTORS

    def select_matrix(self) -> Parameter:
        """Return the parameter that one of the stacked matrices would be."""
        return replace(self, shape=(self.shape[0] // self.stacked, *self.shape[1:]), stacked=1)

    @property
    def decay(self) -> float:
        """Return the factor of weight decay and penalties: 1 for kind `weight`, else 0, or that of its group."""
        return float(self.kind == "weight") if self.factors.decay is None else self.factors.decay

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def slice(self) -> slice:
        return slice(self.start, self.start + self.size)

    def split_units(self, piece: Tensor) -> Tensor:
        """Return a view of this parameter's part of w, (..., size), as (..., groups, inputs, units, rest).

        A unit, that is, an output of the layer, has the weights at one group and one index of the axis `units`.
        """
        groups = self.transposed_groups
        shape = (self.shape[0], 1, 1, -1) if groups is None else (groups, self.shape[0] // groups, self.shape[1], -1)
        return piece.unflatten(-1, shape)


def set_factors(model: nn.Module, factors: Mapping[str, Factors]) -> None:
    """Give parameters factors of their own, by name. `Layout.of` reads them."""
    model.parameter_factors = dict(factors)  # type: ignore[assignment]


class AffineLayer(NamedTuple):
    """A linear layer, or a convolution in one or two dimensions without groups, which is linear at each position.

    bias is None if the layer has no trainable one.
    """

    name: str
    weight: Parameter
    bias: Parameter | None

    @property
    def sides(self) -> tuple[int, int]:
        """Return the number of inputs of a unit, including the one that the bias multiplies, and of units."""
        units = self.weight.shape[0]
        return self.weight.size // units + (self.bias is not None), units

    def join(self, x: Tensor) -> Tensor:
        """Return this layer's part of x, (..., P), as matrices (..., units, inputs)."""
        weight = x[..., self.weight.slice].unflatten(-1, (self.weight.shape[0], -1))
        return weight if self.bias is None else torch.cat([weight, x[..., self.bias.slice].unsqueeze(-1)], -1)

    def put(self, x: Tensor, matrix: Tensor) -> None:
        """Invert `join`: write matrices into x."""
        x[..., self.weight.slice] = (matrix if self.bias is None else matrix[..., :-1]).flatten(-2)
        if self.bias is not None:
            x[..., self.bias.slice] = matrix[..., -1]


@dataclass(frozen=True)
class Layout:
    """Names, shapes and slices of the weight vector, in the order of `model.named_parameters()`."""

    parameters: tuple[Parameter, ...]
    labels: Mapping[str, str] = field(default_factory=dict, compare=False)
    affine: tuple[AffineLayer, ...] = field(default=(), compare=False)

    @classmethod
    def of(cls, model: nn.Module) -> Layout:
        """Return the layout of the trainable parameters of a network: those with requires_grad."""
        given: Mapping[str, Factors] = getattr(model, "parameter_factors", {})
        owner = {id(p): module for module in model.modules() for p in module.parameters(recurse=False)}
        parameters, start = [], 0
        for name, p in model.named_parameters():
            if p.requires_grad:
                shape = tuple(p.shape)
                field = math.prod(shape[2:])
                fan_out, fan_in = (shape[0] * field, shape[1] * field) if len(shape) > 1 else (p.numel(), p.numel())
                module = owner[id(p)]
                kind = classify_parameter(name, shape, module)
                groups = module.groups if isinstance(module, _TRANSPOSED) and kind == "weight" else None
                stacked = _count_stacked(name, module) if kind == "weight" else 1
                fans = fan_in, fan_out // stacked
                own = given.get(name, DEFAULT_FACTORS)
                parameters.append(Parameter(name, shape, start, kind, *fans, groups, stacked, own))
                start += p.numel()
        return cls(tuple(parameters), label_modules(model), tuple(_list_affine_layers(model, parameters)))

    @cached_property
    def size(self) -> int:
        """Return P, the number of trainable weights."""
        return sum(p.size for p in self.parameters)

    def views(self, w: Tensor) -> dict[str, Tensor]:
        """Return the parameters in w, (..., P), by name, each (..., *shape): views that share memory with w."""
        pieces = w.split([p.size for p in self.parameters], dim=-1)
        return {
            p.name: v.unflatten(-1, p.shape) if p.shape else v.squeeze(-1) for p, v in zip(self, pieces, strict=True)
        }

    def flatten(self, pieces: Mapping[str, Tensor]) -> Tensor:
        """Invert `views` for tensors of shape (*shape,): return a new w of shape (P,)."""
        return torch.cat([pieces[p.name].reshape(-1) for p in self.parameters])

    def mask(self, *kinds: ParameterKind) -> Tensor:
        """Return a (P,) float32 tensor on the CPU: one for parameters of these kinds, else zero."""
        return torch.cat([torch.full((p.size,), float(p.kind in kinds)) for p in self.parameters])

    def kind_mask(self, like: Tensor) -> Tensor:
        """Return the mask of kind `weight`, (P,), cached for device and type of `like`; it must not be modified."""
        return self._cache(("kind", like.device, like.dtype), lambda: self.mask("weight").to(like.device, like.dtype))

    def weight_mask(self, like: Tensor) -> Tensor:
        """Return how strongly each weight decays, (P,): 1 for kind `weight`, else 0, or the factor of its group.

        It is cached for device and type of `like`, and must not be modified.
        """
        return self._cache(("decay", like.device, like.dtype), lambda: self._spread([p.decay for p in self], like))

    def lr_factors(self, like: Tensor) -> Tensor | None:
        """Return the learning rate of each weight as a multiple of lr, (P,), cached; None if all have lr."""
        factors = [p.factors.lr for p in self]
        if all(factor == 1.0 for factor in factors):
            return None
        return self._cache(("lr", like.device, like.dtype), lambda: self._spread(factors, like))

    def _spread(self, numbers: Iterable[float], like: Tensor) -> Tensor:
        """Return the number of each parameter for each of its weights, (P,)."""
        pieces = [torch.full((p.size,), x, dtype=torch.float64) for p, x in zip(self, numbers, strict=True)]
        return torch.cat(pieces).to(like.device, like.dtype)

    def layer_edges(self, like: Tensor) -> Tensor:
        """Return the start of each layer in w, then P: (layers + 1,) int64, cached for the device of `like`."""
        return self._cache(
            like.device, lambda: torch.tensor([0, *(s[-1].stop for s in self.layers().values())], device=like.device)
        )

    def _cache(self, key: Any, make: Callable[[], Tensor]) -> Tensor:
        if key not in self._tensors:
            with torch._C._DisableFuncTorch():  # else the tensor could not outlive a transformation
                self._tensors[key] = make()
        return self._tensors[key]

    @cached_property
    def _tensors(self) -> dict[Any, Tensor]:
        return {}

    def layers(self) -> dict[str, list[slice]]:
        """Return the slices of each layer (the module that owns the parameters), by the layer's name."""
        slices: dict[str, list[slice]] = {}
        for p in self.parameters:
            slices.setdefault(p.name.rpartition(".")[0] or p.name, []).append(p.slice)
        return slices

    def partition_weights(self) -> tuple[list[Parameter], list[Parameter]]:
        """Return the weight matrices and kernels, and all other parameters."""
        parts: tuple[list[Parameter], list[Parameter]] = [], []
        for p in self.parameters:
            parts[p.kind != "weight"].append(p)
        return parts

    def label(self, name: str) -> str:
        """Return the label of a module or a parameter: see label_modules. A diagnostic puts it into its tags."""
        above, _, last = name.rpartition(".")
        return self.labels.get(name) or (f"{self.labels.get(above, above)}.{last}" if above else name)

    def label_activation(self, name: str) -> str:
        """Return the label of the layer to which an activation belongs."""
        return self.label(name).removesuffix(".activation")

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self.parameters)


def _list_affine_layers(model: nn.Module, parameters: Iterable[Parameter]) -> Iterator[AffineLayer]:
    """Yield the affine layers of a network whose weights are trained; tied ones belong to no layer of their own."""
    by_name = {p.name: p for p in parameters}
    count = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    for name, module in model.named_modules():
        is_convolution = isinstance(module, (nn.Conv1d, nn.Conv2d)) and module.groups == 1
        if not isinstance(module, nn.Linear) and not (is_convolution and module.padding_mode == "zeros"):
            continue
        weight, bias = (by_name.get(f"{name}.{part}".lstrip(".")) for part in ("weight", "bias"))
        if weight is not None and all(count[id(p)] == 1 for p in module.parameters(recurse=False)):
            yield AffineLayer(name, weight, bias)


def map_tied_names(model: nn.Module) -> dict[str, str]:
    """Map every name of every parameter to its first name: tied parameters have several names."""
    first = {id(p): name for name, p in model.named_parameters()}
    return {name: first[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}


def matches(name: str, pattern: str) -> bool:
    """Return whether a pattern, as of a shell, matches the name of a parameter or of a module around it."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def number_layers(model: nn.Module) -> dict[str, int]:
    """Return the number of the layer, 1, 2, ..., of each parameter and buffer, in the order of the network.

    A layer is a module with weights and everything up to the next one.
    """
    owners = dict(model.named_modules(remove_duplicate=False))
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)}
    weights: set[str] = set()
    numbers = {}
    for name in model.state_dict():
        owner = name.rpartition(".")[0]
        if name in shapes and classify_parameter(name, shapes[name], owners[owner]) == "weight":
            weights.add(owner)
        numbers[name] = max(1, len(weights))
    return numbers


def _count_stacked(name: str, owner: nn.Module) -> int:
    """Return the number of matrices in a weight: of the gates of a recurrent layer, or what a module declares."""
    if name.rpartition(".")[2].startswith(("weight_ih", "weight_hh")):
        return next((gates for kinds, gates in _GATES.items() if isinstance(owner, kinds)), 1)
    return int(getattr(owner, "stacked", 1))


def classify_parameter(name: str, shape: tuple[int, ...], owner: nn.Module) -> ParameterKind:
    """Return the kind of a parameter: see Parameter."""
    if is_normalization(owner):
        return "norm"
    if len(shape) >= 2:
        return "weight"
    return "bias" if "bias" in name.rpartition(".")[2] else "norm"
