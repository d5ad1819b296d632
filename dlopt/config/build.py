"""From a composed configuration to an Experiment: every check, then every part. The only caller of instantiate.

Everything that can be known before a run is looked at here, data and a probe of the network included, and all
problems are raised together as one ConfigError. Parts whose own keys are wrong are passed over, so that one mistake does not
bring up ten others.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from dlopt import parts, splits, streams
from dlopt.config import paths, targets
from dlopt.config.adopt import adopt
from dlopt.config.problems import Problems, nearest
from dlopt.config.signature import mismatch
from dlopt.experiment import Experiment, Settings, initial_weights
from dlopt.weights import Layout

WORK_PER_THREAD = 4e7
"""Multiply-adds of a step that are worth a further thread: below, waiting for each other costs more than is gained."""

_CLASSES: dict[str, type] = {
    "data": parts.Data,
    "optimizer": parts.Optimizer,
    "regularization": parts.Regularization,
    "augmentation": parts.Augmentation,
    "diagnostic": parts.Diagnostic,
}


def build(config: DictConfig, given: Sequence[str] = ()) -> tuple[Experiment, list[str]]:
    """Check and build. given are the overrides that were typed; notices are returned beside the experiment.

    Raises ConfigError with all problems.
    """
    problems = Problems()
    own = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    tree: dict[str, Any] = OmegaConf.to_container(own, resolve=True)  # type: ignore[assignment]
    keys = [override.lstrip("+~").partition("=")[0] for override in given]
    groups = {name: tree.pop(name, None) or {} for name in paths.groups() if name != "experiment"}
    settings = _settings(tree, problems)
    for path, node in targets.nodes(groups):
        targets.check(path, node, keys, problems)
    for name, node in groups.items():
        if name in paths.SINGLE and name != "averaging" and "_target_" not in node:
            problems.add(name, f"choose one: {name}={{{', '.join(paths.options(name))}}}")
        elif name not in paths.SINGLE:
            for key, inner in node.items():
                if not (isinstance(inner, dict) and "_target_" in inner):
                    problems.add(f"{name}.{key}", "is no option: it has no _target_")

    made = _Maker(groups, problems)
    dataset = made.of("data", lambda data: data.load()) if problems.clear_of("data") else None
    data = typing.cast(parts.Data, made.parts.get("data"))
    regularization = made.several("regularization")
    augmentation = made.several("augmentation")
    diagnostic = made.several("diagnostic")
    preprocess = made.several("preprocess")
    for name in ("loss", "optimizer", "schedule", "averaging", "activation", "normalization", "init", "bias"):
        made.of(name)
    loss = made.parts.get("loss")

    train = validation = test = None
    preprocessing: dict[str, dict[str, Tensor]] = {}
    if dataset is not None and settings is not None:
        train, validation = _cut(dataset, data, settings, problems)
        if train is not None:
            train, validation, test, preprocessing = _preprocessed(train, validation, dataset.test, preprocess)
            _check_batch(settings, train, data.drop_last, problems)
    if dataset is not None and loss is not None and getattr(loss, "targets", dataset.kind) != dataset.kind:
        right = {"classes": "loss=cross_entropy", "numbers": "loss=mse"}[dataset.kind]
        problems.add("loss", f"{type(loss).__name__} is for {loss.targets}, the targets of this data are {dataset.kind}; use {right}")
    if dataset is not None:
        _check_dims(augmentation, dataset, problems)

    model = None
    if dataset is not None and settings is not None and problems.clear_of("arch", "activation", "normalization"):
        model = made.network(dataset, regularization, settings)
    if model is not None and train is not None and settings is not None and loss is not None and problems.clear_of("loss"):
        metrics = _probe(model, train, loss, typing.cast(parts.Dataset, dataset), settings, problems)
        _check_metrics(metrics, validation is not None, settings, regularization, problems)
    schedule, optimizer = made.parts.get("schedule"), made.parts.get("optimizer")
    if schedule is not None and optimizer is not None and not hasattr(optimizer, "lr") and schedule(1, 10) != 1.0:
        problems.add("schedule", f"{type(optimizer).__name__} has no rate lr to change; use schedule=constant")
    problems.raise_any()

    assert settings and train and test and model and loss and schedule and optimizer
    layout = Layout.of(model)
    gain = getattr(made.parts["activation"], "gain", 1.0)
    key = streams.key(settings.seed, "init")
    w = initial_weights(model, layout, made.parts["init"], made.parts["bias"], gain, key, settings.dtype)
    size = len(train) if settings.batch_size == "full" else settings.batch_size
    experiment = Experiment(
        settings=settings,
        train=train,
        validation=validation,
        test=test,
        drop_last=data.drop_last,
        model=model,
        w=w,
        loss=loss,
        optimizer=optimizer,
        schedule=schedule,
        averaging=made.parts.get("averaging"),
        regularization=regularization,
        augmentation=augmentation,
        diagnostic=diagnostic,
        preprocessing=preprocessing,
        threads=_threads(settings, model, train, size),
    )
    return experiment, problems.notices


# ------------------------------------------------------------------------------------------- settings


def _settings(tree: dict[str, Any], problems: Problems) -> Settings | None:
    before = len(problems.found)
    _check_fields(Settings, tree, "", problems)
    if not any(key == "device" for key, _ in problems.found[before:]) and "device" in tree:
        tree["device"] = _device(str(tree["device"]), tree.get("precision"), problems)
    name = tree.get("name")
    if isinstance(name, str) and (not name or "/" in name or name.startswith(".")):
        problems.add("name", f"is a part of a directory's name; '{name}' is none")
    if len(problems.found) > before:
        return None
    return _filled(Settings, tree)


def _check_fields(cls: type, tree: Mapping[str, Any], prefix: str, problems: Problems) -> None:
    hints = typing.get_type_hints(cls, include_extras=True)
    for key, value in tree.items():
        at = prefix + key
        if key not in hints:
            problems.add(at, f"there is no such key{nearest(key, hints)}")
        elif dataclasses.is_dataclass(hints[key]):
            if isinstance(value, dict):
                _check_fields(typing.cast(type, hints[key]), value, at + ".", problems)
            else:
                problems.add(at, f"holds keys: {', '.join(at + '.' + f.name for f in dataclasses.fields(hints[key]))}")
        else:
            wrong = mismatch(value, hints[key])
            if wrong:
                problems.add(at, wrong)
    for key in hints.keys() - tree.keys():
        problems.add(prefix + key, "is missing")


def _filled(cls: type, tree: Mapping[str, Any]) -> Any:
    hints = typing.get_type_hints(cls)
    return cls(**{k: _filled(hints[k], v) if dataclasses.is_dataclass(hints[k]) else v for k, v in tree.items()})


def _device(name: str, precision: Any, problems: Problems) -> str:
    if name == "auto":
        mps = torch.backends.mps.is_available() and precision != "float64"  # which has no float64
        return "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        problems.add("device", f"must be auto, cpu, cuda, cuda:<number> or mps, got '{name}'")
        return "cpu"
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            problems.add("device", f"{name} is not there ({count} cuda devices); use device=auto or device=cpu")
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            problems.add("device", "mps is not there; use device=auto or device=cpu")
        elif precision == "float64":
            problems.add("precision", "mps has no float64; use device=cpu")
    elif device.type != "cpu":
        problems.add("device", f"must be auto, cpu, cuda, cuda:<number> or mps, got '{name}'")
    return name


# ------------------------------------------------------------------------------------------- data


def _cut(
    dataset: parts.Dataset, data: parts.Data, settings: Settings, problems: Problems
) -> tuple[parts.Split | None, parts.Split | None]:
    """The training and validation splits, the labels of the first made noisy if asked."""
    train, count = dataset.train, len(dataset.train)
    seed = streams.key(settings.seed)
    if data.train_size is not None:
        if data.train_size > count:
            problems.add("data.train_size", f"must be at most {count}, the training examples there are, got {data.train_size}")
            return None, None
        train = splits.subset(train, data.train_size, streams.fold(seed, "train_size"))
    left = len(train) - round(settings.validation.fraction * len(train))
    if left < 1:
        where = "data" if len(train) == 0 else "validation.fraction"
        problems.add(where, f"leaves nothing to train on of {len(train)} examples; hold out less or take more data")
        return None, None
    train, validation = splits.hold_out(train, settings.validation.fraction, streams.fold(seed, "split"))
    if data.label_noise > 0:
        if dataset.kind != "classes" or dataset.outputs < 2:
            problems.add("data.label_noise", "needs classes; the targets of this data are numbers")
            return None, None
        train = splits.with_label_noise(train, data.label_noise, dataset.outputs, streams.fold(seed, "label_noise"))
    return train, validation


def _preprocessed(
    train: parts.Split, validation: parts.Split | None, test: parts.Split, preprocess: Mapping[str, parts.Preprocess]
) -> tuple[parts.Split, parts.Split | None, parts.Split, dict[str, dict[str, Tensor]]]:
    """Fit each on the training rows alone, in order, and apply it to everything."""
    statistics = {}
    for name, part in preprocess.items():
        statistics[name] = part.fit(train.gathered()[0])
        inputs = part.apply(train.inputs, statistics[name])
        train = dataclasses.replace(train, inputs=inputs)
        validation = None if validation is None else dataclasses.replace(validation, inputs=inputs)
        test = dataclasses.replace(test, inputs=part.apply(test.inputs, statistics[name]))
    return train, validation, test, statistics


def _check_batch(settings: Settings, train: parts.Split, drop_last: bool, problems: Problems) -> None:
    if settings.batch_size != "full" and settings.batch_size > len(train):
        held = f" after validation.fraction={settings.validation.fraction:g}" if settings.validation.fraction else ""
        problems.add(
            "batch_size",
            f"{settings.batch_size} is more than the {len(train)} training examples{held}; use batch_size=full or fewer",
        )


def _check_dims(augmentation: Mapping[str, parts.Augmentation], dataset: parts.Dataset, problems: Problems) -> None:
    dims = len(dataset.shape) - 1
    words = {0: "features", 1: "series (1-D)", 2: "images (2-D)"}
    for name, part in augmentation.items():
        if dims not in part.dims:
            made_for = " or ".join(words[d] for d in part.dims)
            problems.add(
                f"augmentation.{name}",
                f"works on {made_for}; this data is {words.get(dims, f'{dims}-D')}, each of shape {dataset.shape}",
            )


# ------------------------------------------------------------------------------------------- parts


class _Maker:
    """Makes each part whose keys are in order, and notes a problem where the making itself fails."""

    def __init__(self, groups: Mapping[str, dict[str, Any]], problems: Problems) -> None:
        self.groups = groups
        self.problems = problems
        self.parts: dict[str, Any] = {}

    def of(self, group: str, then: Callable[[Any], Any] = lambda part: part) -> Any:
        """The part of a group with one option, or what `then` makes of it; None with a problem noted."""
        if not self.groups[group] or not self.problems.clear_of(group):
            return None
        part = self._try(group, group, lambda: targets.make(self.groups[group]))
        if part is None:
            return None
        self.parts[group] = part
        return self._try(group, group, lambda: then(part))

    def several(self, group: str) -> dict[str, Any]:
        """The parts of a group with any number of options, by their keys, in order."""
        found = {}
        for key, node in self.groups[group].items():
            at = f"{group}.{key}"
            if self.problems.clear_of(at):
                part = self._try(at, group, lambda node=node: targets.make(node))
                if part is not None:
                    found[key] = part
        return found

    def network(
        self, dataset: parts.Dataset, regularization: Mapping[str, parts.Regularization], settings: Settings
    ) -> nn.Module | None:
        """The net, passed what its signature names, with torch's own stochastic modules exchanged for ours."""
        node = self.groups["arch"]
        target = targets.resolve("arch", node, self.problems)
        takes = targets.signature(target)
        supplied = {
            "inputs": dataset.shape,
            "outputs": dataset.outputs,
            "activation": self.parts.get("activation"),
            "normalization": self.parts.get("normalization"),
            "dropout": _sites(regularization),
        }
        named = {name: value for name, value in supplied.items() if name in takes.parameters}

        def make() -> nn.Module:
            with torch.random.fork_rng(devices=[]):  # modules draw from the global generator as they are made
                torch.manual_seed(streams.generator(streams.key(settings.seed, "arch")).initial_seed())
                return adopt(targets.make(node, **named), regularization)

        model = self._try("arch", "arch", make)
        if model is not None and not isinstance(model, nn.Module):
            self.problems.add("arch._target_", f"{node['_target_']} made a {type(model).__name__}, not a torch.nn.Module")
            return None
        return model

    def _try(self, path: str, group: str, make: Callable[[], Any]) -> Any:
        try:
            part = make()
        except Exception as error:  # whatever a part of the user's may raise is said, not thrown
            cause = error.__cause__ or error
            said = str(cause) if isinstance(cause, ValueError) else f"{type(cause).__name__}: {cause}"
            self.problems.add(path, said.splitlines()[0] if said else type(cause).__name__)
            return None
        base = _CLASSES.get(group)
        if base is not None and not isinstance(part, (base, parts.Dataset)):
            self.problems.add(f"{path}._target_", f"{type(part).__name__} must be a subclass of dlopt.parts.{base.__name__}")
            return None
        if group == "optimizer" and not dataclasses.is_dataclass(part):
            self.problems.add(f"{path}._target_", f"{type(part).__name__} must be a dataclass: its fields are the hyperparameters")
            return None
        return part


def _sites(regularization: Mapping[str, parts.Regularization]) -> Callable[[int], nn.Module | None]:
    """What an arch calls behind each hidden layer: the modules that regularizations put there, if any."""

    def dropout(site: int) -> nn.Module | None:
        modules = [m for r in regularization.values() if (m := r.module(site)) is not None]
        return None if not modules else modules[0] if len(modules) == 1 else nn.Sequential(*modules)

    return dropout


def _probe(
    model: nn.Module, train: parts.Split, loss: parts.Loss, dataset: parts.Dataset, settings: Settings, problems: Problems
) -> list[str]:
    """Send two examples through the network and the loss; the names of the loss's metrics."""
    rows = torch.arange(min(2, len(train))) if train.rows is None else train.rows[:2]
    x, y = train.inputs[rows].to(torch.float32), train.targets[rows]
    model.eval()
    try:
        with torch.no_grad():
            outputs = model.float()(x)
            if tuple(outputs.shape) != (len(x), dataset.outputs):
                problems.add("arch", f"makes outputs of shape {tuple(outputs.shape)} from {len(x)} examples, must be {(len(x), dataset.outputs)}")
                return []
            y = y.to(outputs.dtype) if y.is_floating_point() else y
            value = loss(outputs, y)
            metrics = list(loss.metrics(outputs, y))
    except Exception as error:
        problems.add("arch", f"fails on a batch of shape {tuple(x.shape)}: {type(error).__name__}: {str(error).splitlines()[0]}")
        return []
    finally:
        model.train()
    if value.shape != ():
        problems.add("loss", f"must be a single number, the mean over a batch; it has shape {tuple(value.shape)}")
    if not any(p.requires_grad for p in model.parameters()):
        problems.add("arch", "has no weights to train")
    return metrics


def _check_metrics(
    metrics: Sequence[str],
    validates: bool,
    settings: Settings,
    regularization: Mapping[str, parts.Regularization],
    problems: Problems,
) -> None:
    names = ["loss", *metrics]
    possible = [f"{split}/{name}" for split in ("val", "train") for name in names]
    written = possible if validates else [f"train/{name}" for name in names]
    if metrics and settings.objective not in possible:
        problems.add("objective", f"no run writes '{settings.objective}'{nearest(settings.objective, written)}")
    for name, part in regularization.items():
        monitor = getattr(part, "monitor", None)
        if metrics and monitor is not None and monitor not in written:
            if monitor in possible:
                why = "needs a validation split; set validation.fraction above 0"
            else:
                why = f"no run writes '{monitor}'{nearest(monitor, written)}"
            problems.add(f"regularization.{name}.monitor", why)


def _threads(settings: Settings, model: nn.Module, train: parts.Split, batch: int) -> int:
    """Threads by the multiply-adds of a step, counted on two examples; never more than torch would take by itself."""
    if settings.threads != "auto":
        return settings.threads
    x = train.inputs[:2].to(torch.float32)
    done = 0

    def count(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal done
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim > 1 and isinstance(output, Tensor):
            done += output.numel() * weight[0].numel()

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    model.eval()
    with torch.no_grad():
        model(x)
    model.train()
    for hook in hooks:
        hook.remove()
    step = 3 * batch * done / len(x)  # forward, and twice as much backward
    return max(1, min(torch.get_num_threads(), round(step / WORK_PER_THREAD)))
