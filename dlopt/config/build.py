"""From a composed configuration to an Experiment: every check, then every part. The only caller of instantiate.

Everything that can be known before a run is looked at here, data and a probe of the network included, and all
problems are raised together as one ConfigError. Parts whose own keys are wrong are passed over, so that one mistake
does not bring up ten others.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from dlopt import parts, prng
from dlopt.base import dotted_fields
from dlopt.base.layout import Layout
from dlopt.config.checks import schedules as checks_schedules
from dlopt.config.checks.forward_probe import check_metrics, check_smallest_batch, choose_threads, probe
from dlopt.config.checks.splits import (
    FittedDataState,
    apply_preprocessing,
    check_batch,
    check_dataset,
    check_dims,
    check_validation,
    split_dataset,
)
from dlopt.config.compose import groups as compose_groups
from dlopt.config.compose.nested_options import SCHEDULES
from dlopt.config.initial_weights import apply_in_place_init, build_initial_weights
from dlopt.config.problems import Problems, format_error
from dlopt.config.schema import targets
from dlopt.config.schema.settings import build_settings
from dlopt.config.stateless_modules import replace_stateful_modules
from dlopt.errors import OptionError
from dlopt.objective.activation_hooks import MarkedActivationFactory
from dlopt.objective.clipping import Clip
from dlopt.training.batches import count_steps_per_epoch
from dlopt.training.experiment import Experiment, Settings

_CLASSES: dict[str, type] = {
    "data": parts.Data,
    "loss": parts.Loss,
    "optimizer": parts.Optimizer,
    "averaging": parts.Averaging,
    "regularization": parts.Regularization,
    "augmentation": parts.Augmentation,
    "diagnostic": parts.Diagnostic,
}


def build(
    config: DictConfig | Mapping[str, Any],
    given: Sequence[str] = (),
    fitted: FittedDataState | None = None,
    saved: Mapping[str, Tensor] | None = None,
) -> tuple[Experiment, list[str]]:
    """Check and build. given are the overrides that were typed; notices are returned beside the experiment.

    config may be plain mappings, lists and values, in which nothing refers to anything else: they are taken as they
    are, which is quicker.
    fitted is what a run that is over knows of its data, used in place of what these would be fitted to; saved is the
    network of one that goes on, as its checkpoint holds it.
    Raises ConfigError with all problems.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # waking the others takes longer than all that is done here
    try:
        return _build(config, given, fitted, saved)
    finally:
        torch.set_num_threads(before)


def _build(
    config: DictConfig | Mapping[str, Any],
    given: Sequence[str],
    fitted: FittedDataState | None,
    saved: Mapping[str, Tensor] | None,
) -> tuple[Experiment, list[str]]:
    problems = Problems()
    tree = {str(key): _to_plain(config, str(key)) for key in config if key != "hydra"}
    groups = {name: tree.pop(name, None) or {} for name in compose_groups.list_groups() if name != "experiment"}
    groups[SCHEDULES] = dict(
        checks_schedules.iter_schedules(_parse_schedules(tree.pop(SCHEDULES, None) or {}, problems))
    )
    found = build_settings(tree, problems)
    _check_typed(found, given, problems)
    _check_groups(groups, given, problems)

    made = _ComponentBuilder(groups, problems)
    elsewhere = fitted is not None and fitted.is_other_data
    dataset = made.build_one(
        "data", lambda data: data.load_like(fitted.encoding) if fitted and elsewhere else data.load()
    )
    if dataset is not None and not check_dataset(dataset, problems):
        dataset = None
    for name in compose_groups.SINGLE_OPTION_GROUPS:
        if name not in ("data", "arch"):  # made before, and when all is known that it is passed
            made.build_one(name)
    several = {name: made.build_several(name) for name in groups if name not in compose_groups.SINGLE_OPTION_GROUPS}
    schedules = checks_schedules.bind_schedules(several[SCHEDULES], made.parts, several["regularization"], problems)
    data, loss = made.parts.get("data"), made.parts.get("loss")
    train: parts.Split | None = None
    validation: parts.Split | None = None
    model: nn.Module | None = None
    drawn_already: Collection[str] = ()
    statistics: dict[str, dict[str, Tensor]] = {}
    if dataset is not None:
        _check_compatibility(dataset, loss, several, problems)
        if found is not None and data is not None:
            if elsewhere:
                train, validation = dataset.train, dataset.test
            else:
                train, validation = split_dataset(dataset, data, found, problems)
            if problems.has_no_problem("arch", "activation", "normalization"):
                model = made.build_network(dataset, several["regularization"], found, given)
                drawn_already = () if model is None else apply_in_place_init(made.parts, model, found, saved, problems)
    if train is not None and dataset is not None and data is not None and found is not None:
        train, validation, test, statistics = apply_preprocessing(
            train, validation, dataset.test, several["preprocess"], problems, fitted
        )
        check_batch(found, train, problems)
        epoch = count_steps_per_epoch(len(train), found.resolve_batch_size(len(train)), drop_last=data.drop_last)
        checks_schedules.check(
            made.parts, schedules, several["regularization"], found.count_steps(epoch), epoch, problems
        )
        if model is not None and loss is not None and problems.has_no_problem("loss"):
            metrics = probe(
                model, train, loss, _collect_batch_transforms(several), dataset.outputs, found.dtype, problems
            )
            if metrics is not None and fitted is None and saved is None and problems.has_no_problem("batch_size"):
                check_smallest_batch(model, train, found, data.drop_last, problems)
            check_metrics(metrics, validation is not None, found, made.parts | several, problems)
    _check_optimizer_requirements(made.parts.get("optimizer"), several["regularization"], found, problems)
    problems.raise_if_any()

    assert found and train and data and dataset and loss and model  # else there was a problem
    w = build_initial_weights(made.parts, model, train, found, drawn_already, goes_on=saved is not None)
    _check_optimizer(made.parts["optimizer"], w, Layout.of(model), found.device, problems)
    problems.raise_if_any()
    experiment = Experiment(
        settings=found,
        train=train,
        validation=validation,
        test=test,
        outputs=dataset.outputs,
        drop_last=data.drop_last,
        model=model,
        w=w,
        loss=loss,
        optimizer=made.parts["optimizer"],
        schedule=made.parts["schedule"],
        schedules=schedules,
        averaging=made.parts.get("averaging"),
        regularization=several["regularization"],
        augmentation=several["augmentation"],
        diagnostic=several["diagnostic"],
        preprocessing=statistics,
        network={name: groups[name] for name in ("arch", "activation", "normalization")},
        names=dataset.names,
        encoding=dataset.encoding,
        threads=choose_threads(found, model, train),
    )
    return experiment, problems.notices


def _to_plain(config: DictConfig | Mapping[str, Any], key: str) -> Any:
    """What stands at a key, in plain mappings, lists and values that are not the configuration's own."""
    if isinstance(config, DictConfig) and OmegaConf.is_missing(config, key):
        return "???"
    value = config[key]
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else copy.deepcopy(value)


def _check_groups(groups: Mapping[str, dict[str, Any]], given: Sequence[str], problems: Problems) -> None:
    """Every node against its target's signature, and every group against how many options it takes."""
    typed = [_split_override(override) for override in given]
    for at, _, value in typed:
        group, _, place = at.partition("@")
        key = place or group
        if group in compose_groups.SINGLE_OPTION_GROUPS and value.startswith("["):
            problems.add(key, f"takes one option, not a list, got {value}; add -m and commas for a run of each")
    for path, node in targets.iter_nodes(groups):
        if problems.has_no_problem(path):
            targets.check(path, node, [key for key, _, _ in typed], problems)
    for name, node in groups.items():
        if name not in compose_groups.SINGLE_OPTION_GROUPS:
            for key, inner in node.items():
                if not (isinstance(inner, dict) and "_target_" in inner):
                    problems.add(f"{name}.{key}", "is no option: it has no _target_")
        elif name != "averaging" and "_target_" not in node:
            problems.add(name, f"choose one of {', '.join(compose_groups.list_option_names(name))}")


def _parse_schedules(node: Any, problems: Problems) -> dict[str, Any]:
    """What stands at `schedules`, if it is names with a schedule each."""
    if isinstance(node, dict):
        return node
    problems.add(SCHEDULES, f"holds a schedule for each number: {SCHEDULES}.momentum=ramp; the rate's is schedule=NAME")
    return {}


def _check_typed(found: Settings | None, given: Sequence[str], problems: Problems) -> None:
    """Settings that were typed and would do nothing: of another validation, or epochs with steps in their place."""
    typed = {key for key, _, _ in map(_split_override, given)}
    if found is not None:
        check_validation(found.validation, typed, problems)
    if found is None or found.steps is None or "epochs" not in typed:
        return
    said = f"steps={found.steps} stands in its place"
    if "steps" in typed:
        problems.notices.append(f"epochs: {said}")
    else:
        problems.add("epochs", f"{said}; add steps=null, or leave epochs out")


def _check_compatibility(
    dataset: parts.Dataset, loss: Any, several: Mapping[str, Mapping[str, Any]], problems: Problems
) -> None:
    """Loss, regularizations and augmentations against the kind and shape of the data."""
    kind = getattr(loss, "targets", dataset.kind)
    if kind != dataset.kind:
        right = {"classes": "loss=cross_entropy", "numbers": "loss=mse"}[dataset.kind]
        problems.add(
            "loss", f"{type(loss).__name__} is for {kind}; the targets of this data are {dataset.kind}: use {right}"
        )
    for name, part in several["regularization"].items():
        if dataset.kind not in part.kinds:
            problems.add(
                f"regularization.{name}",
                f"is for {' or '.join(part.kinds)}; the targets of this data are {dataset.kind}: leave it out",
            )
    check_dims(several["augmentation"], dataset, problems)


def _collect_batch_transforms(several: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What may change a mini-batch, by its path, in the order of a step."""
    return {f"{g}.{name}": part for g in ("augmentation", "regularization") for name, part in several[g].items()}


def _check_optimizer_requirements(
    optimizer: parts.Optimizer | None,
    regularization: Mapping[str, parts.Regularization],
    settings: Settings | None,
    problems: Problems,
) -> None:
    """What works beside a rule: by the rate that it may not have, or on the gradients that it may need as they are."""
    if optimizer is None:
        return
    rule = _get_optimizer_name(optimizer)
    changing = [f"clip.{f.name}" for f in dataclasses.fields(Clip) if settings and getattr(settings.clip, f.name)]
    for name, part in regularization.items():
        if part.needs_lr and dotted_fields.find_field(optimizer, "lr") is None:
            problems.add(
                f"regularization.{name}",
                f"shrinks weights by a share of the rate lr, and {rule} has none; use a penalty, such as l2",
            )
        if parts.overrides(part, "gradient", parts.Regularization):
            changing.append(f"regularization.{name}")
    for at in changing if optimizer.needs_true_gradient else ():
        problems.add(at, f"changes gradients, and {rule} needs them as they are: leave one of the two out")


def _get_optimizer_name(optimizer: parts.Optimizer) -> str:
    """A rule's own name, or that of the class which it wraps."""
    return optimizer.name if isinstance(optimizer, parts.Wrapper) else type(optimizer).__name__


def _check_optimizer(optimizer: parts.Optimizer, w: Tensor, layout: Layout, device: str, problems: Problems) -> None:
    """A rule against the weights that it is to train, where it has something to say of them."""
    if not parts.overrides(optimizer, "check", parts.Optimizer):
        return
    try:
        optimizer.check(w.to(device), layout)
    except Exception as error:
        problems.add(
            "optimizer", f"cannot train this network: {error if isinstance(error, ValueError) else format_error(error)}"
        )


# ------------------------------------------------------------------------------------------- parts


class _ComponentBuilder:
    """Makes each part whose keys are in order, and notes a problem where the making itself fails."""

    def __init__(self, groups: Mapping[str, dict[str, Any]], problems: Problems) -> None:
        self.groups = groups
        self.problems = problems
        self.parts: dict[str, Any] = {}

    def build_one(self, group: str, then: Callable[[Any], Any] | None = None) -> Any:
        """The part of a group with one option, or what `then` makes of it; None with a problem noted."""
        if "_target_" not in self.groups[group] or not self.problems.has_no_problem(group):
            return None
        part = self._try(group, group, lambda: targets.instantiate(self.groups[group]))
        if part is None:
            return None
        self.parts[group] = part
        return part if then is None else self._try(group, group, lambda: then(part))

    def build_several(self, group: str) -> dict[str, Any]:
        """The parts of a group with any number of options, by their keys, in order."""
        found = {}
        for key, node in self.groups[group].items():
            at = f"{group}.{key}"
            if self.problems.has_no_problem(at):
                part = self._try(at, group, partial(targets.instantiate, node))
                if part is not None:
                    found[key] = part
        return found

    def build_network(
        self,
        dataset: parts.Dataset,
        regularization: Mapping[str, parts.Regularization],
        settings: Settings,
        given: Sequence[str],
    ) -> nn.Module | None:
        """The net, passed what its signature names, with torch's own stochastic modules exchanged for ours."""
        node = self.groups["arch"]
        target = targets.resolve("arch", node, self.problems)
        takes = targets.read_signature(target)
        supplied = {
            "inputs": dataset.shape,
            "outputs": dataset.outputs,
            "activation": (activation := _CallRecorder(MarkedActivationFactory(self.parts.get("activation")))),
            "normalization": (normalization := _CallRecorder(self.parts.get("normalization"))),
            "dropout": (dropout := _CallRecorder(_build_dropout_factory(regularization))),
        }
        named = {name: value for name, value in supplied.items() if name in takes.parameters}

        def make() -> nn.Module:
            with torch.random.fork_rng(devices=[]):  # modules draw from the global generator as they are made
                _seed(prng.generator(prng.key(settings.seed, "arch")).initial_seed())
                return replace_stateful_modules(targets.instantiate(node, **named))

        model = self._try("arch", "arch", make)
        if model is not None and not isinstance(model, nn.Module):
            self.problems.add(
                "arch._target_", f"{node['_target_']} made a {type(model).__name__}, not a torch.nn.Module"
            )
            return None
        if model is not None:
            chosen = {key.partition(".")[0] for key, _, value in map(_split_override, given) if value != "none"}
            idle = [
                g for g, maker in (("activation", activation), ("normalization", normalization)) if not maker.was_called
            ]
            placed = [f"regularization.{name}" for name, r in regularization.items() if r.module(0) is not None]
            for at in (*idle, *(placed if not dropout.was_called else ())):
                if at.partition(".")[0] in chosen:
                    self.problems.notices.append(f"{at}: {type(model).__name__} has no place for it")
        return model

    def _try(self, path: str, group: str, make: Callable[[], Any]) -> Any:
        try:
            part = make()
        except Exception as error:  # whatever a part of the user's may raise is said, not thrown
            cause = error if isinstance(error, OptionError) else error.__cause__ or error
            said = str(cause) if isinstance(cause, ValueError) else f"{type(cause).__name__}: {cause}"
            at = f"{path}.{cause.key}" if isinstance(cause, OptionError) else path
            self.problems.add(at, said.splitlines()[0] if said else type(cause).__name__)
            return None
        if group in self.parts:  # then this is what its load() made
            if not isinstance(part, parts.Dataset):
                self.problems.add(path, f"load() must make a dlopt.parts.Dataset, it made a {type(part).__name__}")
                return None
            return part
        wrong = _find_class_error(path, part, _CLASSES.get(group))
        if wrong:
            self.problems.add(*wrong)
            return None
        return part


def _seed(seed: int) -> None:
    """Seed torch's global generators. Those of devices that are not there would each note who has asked for it."""
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


class _CallRecorder:
    """A maker that knows whether a network has called it; in all else the maker itself."""

    def __init__(self, maker: Any) -> None:
        self.factory = maker
        self.was_called = False

    def __call__(self, *inputs: Any) -> Any:
        self.was_called = True
        return self.factory(*inputs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # a copy is asked for these before it has a maker
            raise AttributeError(name)
        return getattr(self.factory, name)


def _split_override(override: str) -> tuple[str, str, str]:
    """The key, the equals sign and the value of what was typed."""
    return override.lstrip("+~").partition("=")


def _find_class_error(path: str, part: Any, base: type | None) -> tuple[str, str] | None:
    """What is wrong with the class of a part, or of a rule inside a rule, and the key that names it."""
    if base is not None and not isinstance(part, base):
        return f"{path}._target_", f"{type(part).__name__} must be a subclass of dlopt.parts.{base.__name__}"
    if base is not parts.Optimizer:
        return None
    if not dataclasses.is_dataclass(part):
        return f"{path}._target_", f"{type(part).__name__} must be a dataclass: its fields are the hyperparameters"
    held = [k for k, p in targets.read_signature(type(part)).parameters.items() if p.hint is parts.Optimizer]
    return next((wrong for k in held if (wrong := _find_class_error(f"{path}.{k}", getattr(part, k), base))), None)


def _build_dropout_factory(regularization: Mapping[str, parts.Regularization]) -> Callable[[int], nn.Module | None]:
    """What an arch calls behind each hidden layer: the modules that regularizations put there, if any."""

    def dropout(site: int) -> nn.Module | None:
        modules = [m for r in regularization.values() if (m := r.module(site)) is not None]
        return None if not modules else modules[0] if len(modules) == 1 else nn.Sequential(*modules)

    return dropout
