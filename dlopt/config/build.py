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
from dlopt.config.checks.forward_probe import check_metrics, check_smallest, probe, threads
from dlopt.config.checks.splits import (
    Fitted,
    check_batch,
    check_dataset,
    check_dims,
    check_validation,
    cut,
    preprocessed,
)
from dlopt.config.compose import groups as compose_groups
from dlopt.config.compose.nested_options import SCHEDULES
from dlopt.config.initial_weights import initial, kept
from dlopt.config.problems import Problems, named
from dlopt.config.schema import targets
from dlopt.config.schema.settings import settings
from dlopt.config.stateless_modules import adopt
from dlopt.errors import Mistake
from dlopt.objective.activation_hooks import Marking
from dlopt.objective.clipping import Clip
from dlopt.training.batches import per_epoch
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
    fitted: Fitted | None = None,
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
    fitted: Fitted | None,
    saved: Mapping[str, Tensor] | None,
) -> tuple[Experiment, list[str]]:
    problems = Problems()
    tree = {str(key): _plain(config, str(key)) for key in config if key != "hydra"}
    groups = {name: tree.pop(name, None) or {} for name in compose_groups.groups() if name != "experiment"}
    groups[SCHEDULES] = dict(checks_schedules.nodes(_named_schedules(tree.pop(SCHEDULES, None) or {}, problems)))
    found = settings(tree, problems)
    _check_typed(found, given, problems)
    _check_groups(groups, given, problems)

    made = _Maker(groups, problems)
    elsewhere = fitted is not None and fitted.elsewhere
    dataset = made.of("data", lambda data: data.load_like(fitted.encoding) if fitted and elsewhere else data.load())
    if dataset is not None and not check_dataset(dataset, problems):
        dataset = None
    for name in compose_groups.SINGLE:
        if name not in ("data", "arch"):  # made before, and when all is known that it is passed
            made.of(name)
    several = {name: made.several(name) for name in groups if name not in compose_groups.SINGLE}
    schedules = checks_schedules.moved(several[SCHEDULES], made.parts, several["regularization"], problems)
    data, loss = made.parts.get("data"), made.parts.get("loss")
    train: parts.Split | None = None
    validation: parts.Split | None = None
    model: nn.Module | None = None
    drawn_already: Collection[str] = ()
    statistics: dict[str, dict[str, Tensor]] = {}
    if dataset is not None:
        _check_against(dataset, loss, several, problems)
        if found is not None and data is not None:
            if elsewhere:
                train, validation = dataset.train, dataset.test
            else:
                train, validation = cut(dataset, data, found, problems)
            if problems.clear_of("arch", "activation", "normalization"):
                model = made.network(dataset, several["regularization"], found, given)
                drawn_already = () if model is None else kept(made.parts, model, found, saved, problems)
    if train is not None and dataset is not None and data is not None and found is not None:
        train, validation, test, statistics = preprocessed(
            train, validation, dataset.test, several["preprocess"], problems, fitted
        )
        check_batch(found, train, problems)
        epoch = per_epoch(len(train), found.batch(len(train)), drop_last=data.drop_last)
        checks_schedules.check(made.parts, schedules, several["regularization"], found.length(epoch), epoch, problems)
        if model is not None and loss is not None and problems.clear_of("loss"):
            metrics = probe(model, train, loss, _changing(several), dataset.outputs, found.dtype, problems)
            if metrics is not None and fitted is None and saved is None and problems.clear_of("batch_size"):
                check_smallest(model, train, found, data.drop_last, problems)
            check_metrics(metrics, validation is not None, found, made.parts | several, problems)
    _check_beside(made.parts.get("optimizer"), several["regularization"], found, problems)
    problems.raise_any()

    assert found and train and data and dataset and loss and model  # else there was a problem
    w = initial(made.parts, model, train, found, drawn_already, goes_on=saved is not None)
    _check_rule(made.parts["optimizer"], w, Layout.of(model), found.device, problems)
    problems.raise_any()
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
        threads=threads(found, model, train),
    )
    return experiment, problems.notices


def _plain(config: DictConfig | Mapping[str, Any], key: str) -> Any:
    """What stands at a key, in plain mappings, lists and values that are not the configuration's own."""
    if isinstance(config, DictConfig) and OmegaConf.is_missing(config, key):
        return "???"
    value = config[key]
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else copy.deepcopy(value)


def _check_groups(groups: Mapping[str, dict[str, Any]], given: Sequence[str], problems: Problems) -> None:
    """Every node against its target's signature, and every group against how many options it takes."""
    typed = [_parted(override) for override in given]
    for at, _, value in typed:
        group, _, place = at.partition("@")
        key = place or group
        if group in compose_groups.SINGLE and value.startswith("["):
            problems.add(key, f"takes one option, not a list, got {value}; add -m and commas for a run of each")
    for path, node in targets.nodes(groups):
        if problems.clear_of(path):
            targets.check(path, node, [key for key, _, _ in typed], problems)
    for name, node in groups.items():
        if name not in compose_groups.SINGLE:
            for key, inner in node.items():
                if not (isinstance(inner, dict) and "_target_" in inner):
                    problems.add(f"{name}.{key}", "is no option: it has no _target_")
        elif name != "averaging" and "_target_" not in node:
            problems.add(name, f"choose one of {', '.join(compose_groups.options(name))}")


def _named_schedules(node: Any, problems: Problems) -> dict[str, Any]:
    """What stands at `schedules`, if it is names with a schedule each."""
    if isinstance(node, dict):
        return node
    problems.add(SCHEDULES, f"holds a schedule for each number: {SCHEDULES}.momentum=ramp; the rate's is schedule=NAME")
    return {}


def _check_typed(found: Settings | None, given: Sequence[str], problems: Problems) -> None:
    """Settings that were typed and would do nothing: of another validation, or epochs with steps in their place."""
    typed = {key for key, _, _ in map(_parted, given)}
    if found is not None:
        check_validation(found.validation, typed, problems)
    if found is None or found.steps is None or "epochs" not in typed:
        return
    said = f"steps={found.steps} stands in its place"
    if "steps" in typed:
        problems.notices.append(f"epochs: {said}")
    else:
        problems.add("epochs", f"{said}; add steps=null, or leave epochs out")


def _check_against(
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


def _changing(several: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What may change a mini-batch, by its path, in the order of a step."""
    return {f"{g}.{name}": part for g in ("augmentation", "regularization") for name, part in several[g].items()}


def _check_beside(
    optimizer: parts.Optimizer | None,
    regularization: Mapping[str, parts.Regularization],
    settings: Settings | None,
    problems: Problems,
) -> None:
    """What works beside a rule: by the rate that it may not have, or on the gradients that it may need as they are."""
    if optimizer is None:
        return
    rule = _called(optimizer)
    changing = [f"clip.{f.name}" for f in dataclasses.fields(Clip) if settings and getattr(settings.clip, f.name)]
    for name, part in regularization.items():
        if part.needs_rate and dotted_fields.place(optimizer, "lr") is None:
            problems.add(
                f"regularization.{name}",
                f"shrinks weights by a share of the rate lr, and {rule} has none; use a penalty, such as l2",
            )
        if parts.overrides(part, "gradient", parts.Regularization):
            changing.append(f"regularization.{name}")
    for at in changing if optimizer.needs_true_gradient else ():
        problems.add(at, f"changes gradients, and {rule} needs them as they are: leave one of the two out")


def _called(optimizer: parts.Optimizer) -> str:
    """A rule's own name, or that of the class which it wraps."""
    return optimizer.name if isinstance(optimizer, parts.Wrapper) else type(optimizer).__name__


def _check_rule(optimizer: parts.Optimizer, w: Tensor, layout: Layout, device: str, problems: Problems) -> None:
    """A rule against the weights that it is to train, where it has something to say of them."""
    if not parts.overrides(optimizer, "check", parts.Optimizer):
        return
    try:
        optimizer.check(w.to(device), layout)
    except Exception as error:
        problems.add(
            "optimizer", f"cannot train this network: {error if isinstance(error, ValueError) else named(error)}"
        )


# ------------------------------------------------------------------------------------------- parts


class _Maker:
    """Makes each part whose keys are in order, and notes a problem where the making itself fails."""

    def __init__(self, groups: Mapping[str, dict[str, Any]], problems: Problems) -> None:
        self.groups = groups
        self.problems = problems
        self.parts: dict[str, Any] = {}

    def of(self, group: str, then: Callable[[Any], Any] | None = None) -> Any:
        """The part of a group with one option, or what `then` makes of it; None with a problem noted."""
        if "_target_" not in self.groups[group] or not self.problems.clear_of(group):
            return None
        part = self._try(group, group, lambda: targets.make(self.groups[group]))
        if part is None:
            return None
        self.parts[group] = part
        return part if then is None else self._try(group, group, lambda: then(part))

    def several(self, group: str) -> dict[str, Any]:
        """The parts of a group with any number of options, by their keys, in order."""
        found = {}
        for key, node in self.groups[group].items():
            at = f"{group}.{key}"
            if self.problems.clear_of(at):
                part = self._try(at, group, partial(targets.make, node))
                if part is not None:
                    found[key] = part
        return found

    def network(
        self,
        dataset: parts.Dataset,
        regularization: Mapping[str, parts.Regularization],
        settings: Settings,
        given: Sequence[str],
    ) -> nn.Module | None:
        """The net, passed what its signature names, with torch's own stochastic modules exchanged for ours."""
        node = self.groups["arch"]
        target = targets.resolve("arch", node, self.problems)
        takes = targets.signature(target)
        supplied = {
            "inputs": dataset.shape,
            "outputs": dataset.outputs,
            "activation": (activation := _Asked(Marking(self.parts.get("activation")))),
            "normalization": (normalization := _Asked(self.parts.get("normalization"))),
            "dropout": (dropout := _Asked(_sites(regularization))),
        }
        named = {name: value for name, value in supplied.items() if name in takes.parameters}

        def make() -> nn.Module:
            with torch.random.fork_rng(devices=[]):  # modules draw from the global generator as they are made
                _seed(prng.generator(prng.key(settings.seed, "arch")).initial_seed())
                return adopt(targets.make(node, **named))

        model = self._try("arch", "arch", make)
        if model is not None and not isinstance(model, nn.Module):
            self.problems.add(
                "arch._target_", f"{node['_target_']} made a {type(model).__name__}, not a torch.nn.Module"
            )
            return None
        if model is not None:
            chosen = {key.partition(".")[0] for key, _, value in map(_parted, given) if value != "none"}
            idle = [g for g, maker in (("activation", activation), ("normalization", normalization)) if not maker.asked]
            placed = [f"regularization.{name}" for name, r in regularization.items() if r.module(0) is not None]
            for at in (*idle, *(placed if not dropout.asked else ())):
                if at.partition(".")[0] in chosen:
                    self.problems.notices.append(f"{at}: {type(model).__name__} has no place for it")
        return model

    def _try(self, path: str, group: str, make: Callable[[], Any]) -> Any:
        try:
            part = make()
        except Exception as error:  # whatever a part of the user's may raise is said, not thrown
            cause = error if isinstance(error, Mistake) else error.__cause__ or error
            said = str(cause) if isinstance(cause, ValueError) else f"{type(cause).__name__}: {cause}"
            at = f"{path}.{cause.key}" if isinstance(cause, Mistake) else path
            self.problems.add(at, said.splitlines()[0] if said else type(cause).__name__)
            return None
        if group in self.parts:  # then this is what its load() made
            if not isinstance(part, parts.Dataset):
                self.problems.add(path, f"load() must make a dlopt.parts.Dataset, it made a {type(part).__name__}")
                return None
            return part
        wrong = _wrong(path, part, _CLASSES.get(group))
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


class _Asked:
    """A maker that knows whether a network has called it; in all else the maker itself."""

    def __init__(self, maker: Any) -> None:
        self.maker = maker
        self.asked = False

    def __call__(self, *inputs: Any) -> Any:
        self.asked = True
        return self.maker(*inputs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # a copy is asked for these before it has a maker
            raise AttributeError(name)
        return getattr(self.maker, name)


def _parted(override: str) -> tuple[str, str, str]:
    """The key, the equals sign and the value of what was typed."""
    return override.lstrip("+~").partition("=")


def _wrong(path: str, part: Any, base: type | None) -> tuple[str, str] | None:
    """What is wrong with the class of a part, or of a rule inside a rule, and the key that names it."""
    if base is not None and not isinstance(part, base):
        return f"{path}._target_", f"{type(part).__name__} must be a subclass of dlopt.parts.{base.__name__}"
    if base is not parts.Optimizer:
        return None
    if not dataclasses.is_dataclass(part):
        return f"{path}._target_", f"{type(part).__name__} must be a dataclass: its fields are the hyperparameters"
    held = [k for k, p in targets.signature(type(part)).parameters.items() if p.hint is parts.Optimizer]
    return next((wrong for k in held if (wrong := _wrong(f"{path}.{k}", getattr(part, k), base))), None)


def _sites(regularization: Mapping[str, parts.Regularization]) -> Callable[[int], nn.Module | None]:
    """What an arch calls behind each hidden layer: the modules that regularizations put there, if any."""

    def dropout(site: int) -> nn.Module | None:
        modules = [m for r in regularization.values() if (m := r.module(site)) is not None]
        return None if not modules else modules[0] if len(modules) == 1 else nn.Sequential(*modules)

    return dropout
