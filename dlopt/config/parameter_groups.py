"""Parameter groups: which parameters have a learning rate or a weight decay of their own, or are not trained.

optimizer.groups.NAME holds the keys of ParameterGroup. They are taken out of the optimizer's node, so no optimizer
knows them: learning rates scale the steps of the inner optimizer (dlopt/optimizer/_scaled.py), decays are in the mask
that weight decay and penalties multiply by (Layout.weight_mask), and frozen parameters are no part of w.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

from torch import Tensor, nn

from dlopt.base import dotted_fields
from dlopt.base.layout import Factors, Layout, classify_parameter, map_tied_names, matches, number_layers, set_factors
from dlopt.base.network import freeze
from dlopt.base.optimizer import Optimizer
from dlopt.base.regularization import Regularization
from dlopt.config.compose.nested_options import PARAMETER_GROUPS, PARAMETER_KINDS
from dlopt.config.compose.static_config import PARAMETER_GROUP_TARGET
from dlopt.config.problems import Problems
from dlopt.errors import did_you_mean
from dlopt.optimizer._scaled import ScaledSteps
from dlopt.ranges import NonNegative, Range
from dlopt.training.experiment import Experiment, HyperparameterRef

MODULE_KINDS: Mapping[str, tuple[type[nn.Module], ...]] = {
    "linear": (nn.Linear, nn.Bilinear),
    "conv": (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    "recurrent": (nn.RNNBase, nn.RNNCellBase),
    "embedding": (nn.Embedding, nn.EmbeddingBag),
}


@dataclass(frozen=True)
class ParameterGroup:
    """Groups of parameters with a learning rate or a weight decay of their own, or frozen: optimizer.groups.NAME.KEY.

        optimizer.groups.output.lr=10          the layer `output` learns ten times as fast
        optimizer.groups.all.layer_decay=0.8   each layer learns 0.8 times as fast as the next one
        optimizer.groups.hidden.frozen=true    train only what is outside of `hidden`
        optimizer.groups.a.match='*.0.*'       the group `a` with a pattern that is not its name

    If several groups match a parameter, the last one that states a key decides it.

    A pattern matches names of parameters, or a module and with it all parameters in it: `hidden.*.bias`, `output`.
    These words are kinds instead: all; weight (matrices and kernels), bias, norm (scale and shift of normalizations,
    and other vectors); linear, conv, recurrent, embedding (weights and biases of such layers); pretrained (parameters
    that init=pretrained has copied).

    Biases and normalization parameters do not decay in dlopt, so no group is needed for that. A decay of 1 makes them
    decay, as torch.optim does: optimizer.groups.bias.decay=1 optimizer.groups.norm.decay=1.

    match         a pattern or a list of patterns; by default the name of the group
    lr            factor of the learning rate
    decay         factor of the optimizer's weight_decay and of regularization=weight_decay, l2, l1 and elastic_net: by
                  default 1 for kind weight, and 0 for others
    frozen        do not train the parameters, and keep running statistics of normalizations that train nothing then
    layer_decay   factor of the learning rate for each layer between the parameter and the output; a layer is a module
                  with weights and everything up to the next one
    """

    match: str | list[str] | None = None
    lr: NonNegative | None = None
    decay: NonNegative | None = None
    frozen: bool | None = None
    layer_decay: Annotated[float, Range(gt=0)] | None = None


STATED_KEYS = tuple(f.name for f in dataclasses.fields(ParameterGroup) if f.name != "match")
"""The keys that a group states of its parameters."""
_OR_KEYS = f"{', '.join(STATED_KEYS[:-1])} or {STATED_KEYS[-1]}"


class Tensors(NamedTuple):
    """The parameters of a network and its buffers by name, each with its kinds; a buffer has no kind.

    tied maps each name of a parameter to its first name.
    """

    kinds: Mapping[str, Collection[str]]
    tied: Mapping[str, str]

    @classmethod
    def of(cls, model: nn.Module, pretrained: Collection[str]) -> Tensors:
        owners = dict(model.named_modules(remove_duplicate=False))
        kinds: dict[str, set[str]] = {name: set() for name, _ in model.named_buffers()}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            owner = owners[name.rpartition(".")[0]]
            kinds[name] = {"all", classify_parameter(name, tuple(parameter.shape), owner)}
            kinds[name] |= {kind for kind, classes in MODULE_KINDS.items() if isinstance(owner, classes)}
            kinds[name] |= {"pretrained"} if name in pretrained else set()
        return cls(kinds, map_tied_names(model))

    def select(self, pattern: str) -> set[str]:
        """Return the names that a pattern matches."""
        if pattern in PARAMETER_KINDS:
            return {name for name, kinds in self.kinds.items() if pattern in kinds}
        return {name for name in self.kinds if matches(name, pattern)}


@dataclass(frozen=True)
class GroupedParameters:
    """What the parameter groups of a run say of each parameter.

    members   names of the parameters and buffers of each group
    factors   factors of parameters, by their first names
    frozen    names of parameters and buffers
    """

    members: Mapping[str, Collection[str]] = field(default_factory=dict)
    factors: Mapping[str, Factors] = field(default_factory=dict)
    frozen: Collection[str] = ()

    def apply(self, model: nn.Module, w: Tensor, saved: Mapping[str, Tensor] | None) -> Tensor:
        """Give the network its factors, freeze parameters at w, or at a checkpoint, and return the trained rest of w.

        saved is the state dict of the network in a checkpoint of a run that resumes.
        """
        set_factors(model, self.factors)
        if not self.frozen:
            return w
        values = Layout.of(model).views(w)
        own = model.state_dict()
        for name in self.frozen:
            value = values.get(name) if saved is None else saved.get(name)
            if value is not None:
                own[name].copy_(value)
        freeze(model, self.frozen)
        return Layout.of(model).flatten(values)

    def summarize(self, model: nn.Module) -> list[dict[str, Any]]:
        """Return the weights and the factors of each group, and of the parameters outside of all groups."""
        if not self.members:
            return []
        tied, layout = map_tied_names(model), Layout.of(model)
        groups = {name: {tied[one] for one in members if one in tied} for name, members in self.members.items()}
        groups["others"] = {*tied.values()}.difference(*groups.values())
        sizes = {name: p.numel() for name, p in model.named_parameters()}
        rows = []
        for name, members in groups.items():
            trained = [p for p in layout if p.name in members]
            row: dict[str, Any] = {"name": name, "weights": sum(sizes[member] for member in members)}
            row["frozen"] = row["weights"] - sum(p.size for p in trained)
            for key, numbers in (("lr", [p.factors.lr for p in trained]), ("decay", [p.decay for p in trained])):
                row[key] = [min(numbers), max(numbers)] if numbers else []
            rows.append(row)
        return [row for row in rows if row["weights"]]


def take_groups(node: dict[str, Any], problems: Problems) -> dict[str, Any]:
    """Take the parameter groups out of an optimizer's node; return a node of each, as of an option."""
    groups = (node.pop(PARAMETER_GROUPS.rpartition(".")[2], None) if isinstance(node, dict) else None) or {}
    example = f"{PARAMETER_GROUPS}.bias.lr=2"
    if not isinstance(groups, dict):
        problems.add(PARAMETER_GROUPS, f"holds groups by name: {example}")
        return {}
    for name, group in groups.items():
        if not isinstance(group, dict):
            problems.add(f"{PARAMETER_GROUPS}.{name}", f"holds the keys of a group, got {group}; type {example}")
    return {
        name: {**group, "_target_": PARAMETER_GROUP_TARGET} for name, group in groups.items() if isinstance(group, dict)
    }


def group_parameters(
    model: nn.Module, groups: Mapping[str, ParameterGroup], pretrained: Collection[str], problems: Problems
) -> GroupedParameters:
    """Match the parameters of a network. Add a problem for each pattern without a match, and a notice for a kind."""
    tensors = Tensors.of(model, pretrained)
    members = {name: _select_members(name, group, tensors, problems) for name, group in groups.items()}
    stated: dict[str, dict[str, Any]] = {}
    for name, group in groups.items():
        keys = {key: value for key in STATED_KEYS if (value := getattr(group, key)) is not None}
        for member in {tensors.tied.get(one, one) for one in members[name]}:
            stated.setdefault(member, {}).update(keys)
    numbers = number_layers(model)
    count = max(numbers.values(), default=1)
    factors = {
        name: Factors(keys.get("lr", 1.0) * keys.get("layer_decay", 1.0) ** (count - numbers[name]), keys.get("decay"))
        for name, keys in stated.items()
        if name in tensors.tied
    }
    frozen = {name for name, keys in stated.items() if keys.get("frozen")}
    if frozen and {p.name for p in Layout.of(model)} <= frozen:
        problems.add(PARAMETER_GROUPS, "freezes every parameter, which leaves nothing to train")
    return GroupedParameters(members, factors, frozen)


def _select_members(name: str, group: ParameterGroup, tensors: Tensors, problems: Problems) -> set[str]:
    """Return the names of the parameters and buffers of a group."""
    key = f"{PARAMETER_GROUPS}.{name}"
    patterns = [name] if group.match is None else [group.match] if isinstance(group.match, str) else group.match
    members: set[str] = set()
    if not patterns:
        problems.add(f"{key}.match", "names no pattern; leave it out to match the name of the group")
    for pattern in patterns:
        found = tensors.select(pattern)
        members |= found
        if found & tensors.tied.keys():
            continue
        if pattern in PARAMETER_KINDS:
            remedy = "; init=pretrained copies them" if pattern == "pretrained" else ""
            problems.notices.append(f"{key}: the network has no parameter of kind {pattern}{remedy}")
        else:
            known = list(dict.fromkeys([*tensors.tied, *_list_modules(tensors.tied)]))
            place = key if group.match is None else f"{key}.match"
            problems.add(place, f"{pattern} matches no parameter{did_you_mean(pattern, [*known, *PARAMETER_KINDS])}")
    return members


def _list_modules(names: Iterable[str]) -> Iterable[str]:
    """Yield the names of the modules that hold these parameters."""
    for name in names:
        while name := name.rpartition(".")[0]:
            yield name


def check_groups(
    groups: Mapping[str, ParameterGroup],
    optimizer: Optimizer | None,
    regularization: Mapping[str, Regularization],
    problems: Problems,
) -> None:
    """Check that each group states something, and that optimizer and regularizations can follow it."""
    stated = [(name, key) for name, group in groups.items() for key in STATED_KEYS if getattr(group, key) is not None]
    for name in groups.keys() - {name for name, _ in stated}:
        problems.add(f"{PARAMETER_GROUPS}.{name}", f"states nothing of its parameters; give it {_OR_KEYS}")
    if optimizer is None:
        return
    for name, key in [(name, key) for name, key in stated if key in ("lr", "layer_decay")][:1]:
        owner = _find_owner(optimizer)
        if not isinstance(owner, Optimizer) or not owner.scales_with_lr:
            lacks = "has no learning rate" if owner is None else "does not take a step of lr times a direction"
            wrong = f"{type(owner if isinstance(owner, Optimizer) else optimizer).__name__} {lacks}"
            problems.add(f"{PARAMETER_GROUPS}.{name}.{key}", f"{wrong}; leave it out, or use another optimizer")
    decays = dotted_fields.find_field(optimizer, "weight_decay") is not None
    for name, _ in [(name, key) for name, key in stated if key == "decay"][:1]:
        if not decays and not any(part.decays for part in regularization.values()):
            advice = "choose an optimizer with weight_decay, such as adamw, or regularization=weight_decay"
            problems.notices.append(f"{PARAMETER_GROUPS}.{name}.decay: no weight decays here; {advice}")


def _find_owner(optimizer: Optimizer) -> Any:
    """Return the component with the field lr: the optimizer or one inside it; None without one."""
    path = dotted_fields.find_field(optimizer, "lr")
    owner = "" if path is None else path.rpartition(".")[0]
    return None if path is None else dotted_fields.get_field(optimizer, owner) if owner else optimizer


def scale_steps(experiment: Experiment, grouped: GroupedParameters) -> Experiment:
    """Return the experiment with the summary of its groups, and with the steps of its optimizer scaled by their rates.

    The optimizer with the field lr, which may lie inside of others, is replaced by ScaledSteps around it.
    """
    experiment = dataclasses.replace(experiment, parameter_groups=grouped.summarize(experiment.model))
    if Layout.of(experiment.model).lr_factors(experiment.w) is None:
        return experiment
    optimizer = experiment.optimizer
    above = (dotted_fields.find_field(optimizer, "lr") or "").rpartition(".")[0]
    inner = dotted_fields.get_field(optimizer, above) if above else optimizer
    scaled = ScaledSteps(inner)
    place = f"{above}." if above else ""

    def move(ref: HyperparameterRef) -> HyperparameterRef:
        is_inside = ref.part == "optimizer" and ref.field.startswith(place)
        field = f"{place}base_optimizer.{ref.field.removeprefix(place)}" if is_inside else ref.field
        return ref._replace(field=field)

    return dataclasses.replace(
        experiment,
        optimizer=dotted_fields.replace_fields(optimizer, {above: scaled}) if above else scaled,
        schedules={move(ref): schedule for ref, schedule in experiment.schedules.items()},
    )
