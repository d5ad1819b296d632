"""Build components, network and initial weights from the nodes of a configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from dlopt import parts, prng
from dlopt.base.group import declared_groups
from dlopt.base.layout import Layout
from dlopt.config.checks.input_free import check_inputs, ignore_inputs
from dlopt.config.checks.sequences import check_arch, describe_data
from dlopt.config.compose.nested_options import PARAMETER_GROUPS
from dlopt.config.parameter_groups import GroupedParameters, check_groups, group_parameters
from dlopt.config.problems import ConfigError, Problems, locate_error
from dlopt.config.schema import targets
from dlopt.config.stateful_modules import replace_stateful_modules
from dlopt.errors import OptionError
from dlopt.objective.activation_hooks import MarkedActivationFactory
from dlopt.objective.init_probe import MiniBatchInitProbe
from dlopt.training.experiment import Settings, adjust_weights, prepare_network, sample_initial_weights

SPARE_PARAMETERS = 1_000
"""Number of parameters that any network may make, besides four for each tensor of its checkpoint."""


class Override(NamedTuple):
    """An override as typed, without + or ~."""

    key: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Override:
        """Split KEY=VALUE."""
        key, _, value = text.lstrip("+~").partition("=")
        return cls(key, value)


@dataclass(frozen=True)
class Components:
    """The components that could be built: one by its group, or several by their group and keys."""

    single: Mapping[str, Any]
    several: Mapping[str, Mapping[str, Any]]
    problems: Problems

    def require(self, group: str) -> Any:
        """Return the component of a group. Raises ConfigError if it could not be built."""
        if group not in self.single:
            raise ConfigError(self.problems.errors)
        return self.single[group]

    @property
    def by_group(self) -> dict[str, Any]:
        """Return the component or the components of each group."""
        return {**self.single, **self.several}

    @property
    def batch_transforms(self) -> dict[str, Any]:
        """Return the components that may change a mini-batch, by path, in the order of a training step."""
        groups = ("augmentation", "regularization")
        return {f"{group}.{key}": part for group in groups for key, part in self.several[group].items()}


class Network(NamedTuple):
    """A network, the names of the parameters to which the init has already given values, and parameter groups."""

    model: nn.Module
    initialized: Collection[str]
    grouped: GroupedParameters


def build_components(groups: Mapping[str, targets.Node], problems: Problems) -> Components:
    """Build every component whose keys are valid, except data and network. Adds a problem for each that fails."""
    single: dict[str, Any] = {}
    several: dict[str, dict[str, Any]] = {name: {} for name, group in declared_groups().items() if group.multiple}
    for group, node in groups.items():
        declared = declared_groups().get(group)
        if declared is None or declared.multiple:
            instances = {key: build_component(f"{group}.{key}", group, inner, problems) for key, inner in node.items()}
            several[group] = {key: component for key, component in instances.items() if component is not None}
        elif group not in ("data", "arch") and not declared.nested:
            component = build_component(group, group, node, problems)
            if component is not None:
                single[group] = component
    return Components(single, several, problems)


def build_network(
    node: targets.Node,
    dataset: parts.Dataset,
    components: Components,
    settings: Settings,
    saved: Mapping[str, Tensor] | None,
    overrides: Sequence[Override],
    problems: Problems,
) -> Network | None:
    """Build the network and let the init prepare it; None with a problem added.

    The network gets the supplied arguments that its signature names. saved is the network's state dict in a checkpoint.
    """
    if not problems.has_no_problem("arch", "activation", "normalization"):
        return None
    regularization = components.several["regularization"]
    called: set[str] = set()

    def track(name: str, factory: Callable[..., Any]) -> Callable[..., Any]:
        def call(*inputs: Any) -> Any:
            called.add(name)
            return factory(*inputs)

        return call

    def build_dropout(site: int) -> nn.Module | None:
        return _join(r.module(site) for r in regularization.values())

    def build_drop_path(index: int, count: int) -> nn.Module | None:
        return _join(r.branch(index, count) for r in regularization.values())

    supplied = {
        **describe_data(dataset),
        "activation": MarkedActivationFactory(components.require("activation")),
        "normalization": track("normalization", components.require("normalization")),
        "dropout": track("dropout", build_dropout),
        "drop_path": track("drop_path", build_drop_path),
    }
    target = targets.resolve("arch", node, problems)
    name = getattr(target, "__name__", str(node["_target_"]))
    takes = targets.read_signature(target).parameters
    if not (check_inputs(name, target, dataset, problems) and check_arch(name, takes, dataset, problems)):
        return None
    arguments = {name: value for name, value in supplied.items() if name in takes}

    def make() -> nn.Module:
        with torch.random.fork_rng(devices=[]):  # modules draw from the global generator when they are built
            # Without a device, torch.manual_seed would record the call for each kind of device.
            seed = torch.manual_seed if torch.accelerator.is_available() else torch.default_generator.manual_seed
            seed(prng.generator(prng.key(settings.seed, "arch")).initial_seed())
            with _limit_parameters(saved):
                return replace_stateful_modules(targets.instantiate(node, **arguments))

    model = call("arch", make, problems)
    if model is None:
        return None
    if not isinstance(model, nn.Module):
        problems.add("arch._target_", f"{node['_target_']} made a {type(model).__name__}, not a torch.nn.Module")
        return None
    if not check_inputs(type(model).__name__, model, dataset, problems):  # made by a function
        return None
    if not dataset.has_inputs:
        ignore_inputs(model)
    normalization = components.require("normalization")
    if isinstance(normalization, parts.NormalizationOfWeights):
        called.add("normalization")
        model = call("normalization", partial(normalization.replace_weights, model), problems)
        if model is None:
            return None
    if any("activates" in vars(module) for module in model.modules()):  # marked by the factory, not by its class
        called.add("activation")
    typed_groups = {override.key.partition(".")[0] for override in overrides if override.value != "none"}
    for key in _list_unused(called, regularization):
        if key.partition(".")[0] in typed_groups:
            problems.notices.append(f"{key}: {type(model).__name__} has no place for it")
    initialized = _apply_in_place_init(components.single, model, settings, saved, problems)
    parameter_groups = components.several.get(PARAMETER_GROUPS, {})
    check_groups(parameter_groups, components.single.get("optimizer"), regularization, problems)
    return Network(model, initialized, group_parameters(model, parameter_groups, initialized, problems))


def _list_unused(called: Collection[str], regularization: Mapping[str, parts.Regularization]) -> list[str]:
    """Return the keys of the components that a network has not asked for, given what it has."""
    modules: dict[str, Callable[[parts.Regularization], nn.Module | None]]
    modules = {"dropout": lambda part: part.module(0), "drop_path": lambda part: part.branch(0, 1)}
    unused = [group for group in ("activation", "normalization") if group not in called]
    for site in modules.keys() - called:
        unused += [f"regularization.{name}" for name, part in regularization.items() if modules[site](part) is not None]
    return unused


def _join(modules: Iterable[nn.Module | None]) -> nn.Module | None:
    """Return the modules one after the other, None if there are none."""
    given = [module for module in modules if module is not None]
    return None if not given else given[0] if len(given) == 1 else nn.Sequential(*given)


@contextmanager
def _limit_parameters(saved: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Raise ValueError as soon as far more parameters are made than a saved network has.

    A configuration of someone else could name a network that takes very long to build, only to be refused then.
    """
    if saved is None:
        yield
        return
    count, most = 0, SPARE_PARAMETERS + 4 * len(saved)

    def count_parameter(*_: Any) -> None:
        nonlocal count
        count += 1
        if count > most:
            raise ValueError(f"the checkpoint is of another network: it has {len(saved)} tensors, this one over {most}")

    handle = register_module_parameter_registration_hook(count_parameter)
    try:
        yield
    finally:
        handle.remove()


def _apply_in_place_init(
    components: Mapping[str, Any],
    model: nn.Module,
    settings: Settings,
    saved: Mapping[str, Tensor] | None,
    problems: Problems,
) -> Collection[str]:
    """Let the init give values to parameters in the network itself; return their names."""
    if "init" not in components:
        return ()
    try:
        return prepare_network(model.to(settings.dtype), components["init"], saved)
    except OptionError as error:
        problems.add(error.key, str(error))
        return ()


def build_initial_weights(
    components: Mapping[str, Any],
    network: Network,
    train: parts.Split,
    settings: Settings,
    saved: Mapping[str, Tensor] | None,
) -> Tensor:
    """Return the initial weights w, (P,), by the components of the groups init and bias_init.

    Parameters that a parameter group freezes get theirs in the network, and are no part of w. A run that resumes from
    the network's state dict `saved` will load w from its checkpoint, so no init evaluates data then.
    """
    init, bias, gain = components["init"], components["bias_init"], getattr(components["activation"], "gain", 1.0)
    model, dtype, key = network.model, settings.dtype, prng.key(settings.seed, "init")
    first_batch = prng.key(settings.seed, "first_batch")
    try:
        w = sample_initial_weights(model, Layout.of(model), init, bias, gain, key, dtype, network.initialized)
        if isinstance(components["normalization"], parts.NormalizationOfWeights):
            w = components["normalization"].initialize(w, model, network.initialized)
        if saved is None:
            start = partial(MiniBatchInitProbe, model, components["loss"], train, dtype, first_batch)
            w = adjust_weights(w, init, bias, start)
        return network.grouped.apply(model, w, saved)
    except OptionError as error:
        raise ConfigError([(error.key, str(error))]) from error


def build_component(path: str, group: str, node: targets.Node, problems: Problems) -> Any:
    """Build one component; None if it has no target or its keys are wrong, or with a problem added."""
    if not (isinstance(node, dict) and "_target_" in node and problems.has_no_problem(path)):
        return None
    component = call(path, partial(targets.instantiate, node), problems)
    if component is None:
        return None
    declared = declared_groups().get(group)
    base = declared.load_base() if declared is not None and declared.must_subclass else None
    wrong = _find_class_error(path, component, base)
    if wrong:
        problems.add(*wrong)
        return None
    return component


def call(path: str, make: Callable[[], Any], problems: Problems) -> Any:
    """Return the result of a call; None with a problem added if it raises any exception, as custom code may."""
    try:
        return make()
    except Exception as error:
        cause = error if isinstance(error, OptionError) else error.__cause__ or error
        message = str(cause) if isinstance(cause, ValueError) else locate_error(cause)
        key = f"{path}.{cause.key}" if isinstance(cause, OptionError) else path
        problems.add(key, message.splitlines()[0] if message else type(cause).__name__)
        return None


def _find_class_error(path: str, component: Any, base: type | None) -> tuple[str, str] | None:
    """Return the key and message of a wrong class of a component, or of one inside an optimizer, if there is one."""
    if base is not None and not isinstance(component, base):
        return f"{path}._target_", f"{type(component).__name__} must be a subclass of dlopt.parts.{base.__name__}"
    if base not in (parts.Optimizer, parts.LineSearch):
        return None
    if not dataclasses.is_dataclass(component):
        return f"{path}._target_", f"{type(component).__name__} must be a dataclass: its fields are the hyperparameters"
    hints = {name: p.hint for name, p in targets.read_signature(type(component)).parameters.items()}
    inner = [(name, hint) for name, hint in hints.items() if hint in (parts.Optimizer, parts.LineSearch)]
    errors = (_find_class_error(f"{path}.{name}", getattr(component, name), hint) for name, hint in inner)
    return next((error for error in errors if error), None)
