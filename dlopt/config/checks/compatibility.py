"""Checks of choices against each other: overrides, groups, data, loss, regularization and optimizer."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dlopt import parts
from dlopt.base import dotted_fields
from dlopt.base.group import declared_groups
from dlopt.base.layout import Layout
from dlopt.config.checks.optimizer_probe import probe_step
from dlopt.config.checks.schedules import suggest_fixed_step
from dlopt.config.checks.splits import check_validation
from dlopt.config.compose import groups as compose_groups
from dlopt.config.compose.nested_options import find_places
from dlopt.config.make_parts import Components, Override
from dlopt.config.problems import Problems, format_error
from dlopt.config.schema import targets
from dlopt.errors import join_truncated
from dlopt.objective.activation_hooks import find_activations, has_kinks
from dlopt.objective.bound import find_sites
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.objective.problem import Problem
from dlopt.objective.second_derivatives import LayerError
from dlopt.prng import Key
from dlopt.training.experiment import Settings

NO_DATA = "data=none has none: leave it out"


def check_nodes(groups: Mapping[str, dict[str, Any]], overrides: Sequence[Override], problems: Problems) -> None:
    """Check every node against its target's signature, and every group against how many options it takes."""
    for override in overrides:
        group, _, path = override.key.partition("@")
        if compose_groups.is_single(group) and override.value.startswith("["):
            message = f"takes one option, not a list, got {override.value}; add -m and commas for a run of each"
            problems.add(path or group, message)
    for path, node in targets.iter_nodes(groups):
        if problems.has_no_problem(path):
            targets.check(path, node, [override.key for override in overrides], problems)
    for name, node in groups.items():
        declared = declared_groups().get(name)
        if declared is not None and declared.nested:
            if node:
                places = " or ".join(find_places(name))
                problems.add(name, f"is chosen inside an option that has one, as {places}=NAME")
        elif declared is None or declared.multiple:
            for key, inner in node.items():
                if not (isinstance(inner, dict) and "_target_" in inner):
                    problems.add(f"{name}.{key}", "is not an option: it has no _target_")
        elif not declared.optional and "_target_" not in node:
            problems.add(name, f"choose one of {', '.join(compose_groups.list_option_names(name))}")


def check_typed(settings: Settings, overrides: Sequence[Override], problems: Problems) -> None:
    """Check for typed settings without effect: keys of another validation scheme, and epochs if steps is set."""
    keys = {override.key for override in overrides}
    check_validation(settings.validation, keys, problems)
    if settings.steps is None or "epochs" not in keys:
        return
    message = f"steps={settings.steps} takes its place"
    if "steps" in keys:
        problems.notices.append(f"epochs: {message}")
    else:
        problems.add("epochs", f"{message}; add steps=null, or leave epochs out")


def check_data_compatibility(dataset: parts.Dataset, components: Components, problems: Problems) -> None:
    """Check loss, regularizations and augmentations against the kind and shape of the data."""
    loss = components.single.get("loss")
    kind = getattr(loss, "targets", dataset.kind)
    if kind not in (dataset.kind, "both") and dataset.has_inputs:
        remedy = {"classes": "loss=cross_entropy", "numbers": "loss=mse"}[dataset.kind]
        wrong = f"{type(loss).__name__} is for {kind}; the targets of this data are {dataset.kind}"
        is_counted = bool(dataset.encoding) and all(name.lstrip("-").isdigit() for name in dataset.names)
        if kind == "numbers" and is_counted:  # classes of the user's own data, such as ratings
            remedy += f", or data.kind=numbers to predict {join_truncated(dataset.names)} as numbers"
        problems.add("loss", f"{wrong}: use {remedy}")
    if dataset.per_step:
        _check_per_step(components, problems)
    for name, part in components.several["regularization"].items():
        if dataset.kind not in part.kinds:
            wrong = f"is for {' or '.join(part.kinds)}; the targets of this data are {dataset.kind}"
            problems.add(f"regularization.{name}", f"{wrong}: leave it out")
    if dataset.has_inputs:
        check_dims(components.several["augmentation"], dataset, problems)
    for name in components.several["preprocess"] if dataset.tokens is not None else ():
        problems.add(f"preprocess.{name}", "changes numbers, and this data has tokens: leave it out")


def check_dims(augmentation: Mapping[str, parts.Augmentation], dataset: parts.Dataset, problems: Problems) -> None:
    """Check that augmentations are made for the data: numbers, dimensions, padding and targets."""
    dims = len(dataset.shape) - 1
    words = {0: "features", 1: "series (1-D)", 2: "images (2-D)"}
    for name, part in augmentation.items():
        if dataset.tokens is not None:
            problems.add(f"augmentation.{name}", "changes numbers, and this data has tokens: leave it out")
        elif dims not in part.dims:
            suited, present = " or ".join(words[d] for d in part.dims), words.get(dims, f"{dims}-D")
            problems.add(f"augmentation.{name}", f"works on {suited}; this data is {present} of shape {dataset.shape}")
        elif dataset.is_padded and not part.keeps_steps:
            wrong = "would move or fill the padding of series of different lengths"
            problems.add(f"augmentation.{name}", f"{wrong}: leave it out, or cut the series to one length")
        elif dataset.per_step and not part.keeps_steps:
            wrong = "would move steps away from their targets, or mix them; this data has a target for each step"
            problems.add(f"augmentation.{name}", f"{wrong}: leave it out")


def _check_per_step(components: Components, problems: Problems) -> None:
    """Check loss and optimizer for data with a target for each step of a sequence."""
    loss, optimizer = components.single.get("loss"), components.single.get("optimizer")
    if isinstance(loss, parts.Loss) and not parts.overrides(loss, "losses", parts.Loss):
        wrong = f"{type(loss).__name__} has no loss of each example, and this data has a target for each step"
        problems.add("loss", f"{wrong}: define its method `losses`, or use another loss")
    if isinstance(optimizer, parts.Optimizer) and optimizer.samples_targets:
        wrong = f"{_get_name(optimizer)} draws a target for each example, and this data has one for each step"
        _refuse_sampling(optimizer, wrong, "optimizer", problems)


def check_without_data(
    dataset: parts.Dataset,
    settings: Settings,
    components: Components,
    typed_keys: Collection[str],
    problems: Problems,
) -> None:
    """Check that a run without inputs has no component that needs them, and no setting of batches and splits."""
    if dataset.has_inputs:
        return
    loss, several = components.single.get("loss"), components.several
    if isinstance(loss, parts.Loss) and loss.uses_targets:
        wrong = f"{type(loss).__name__} compares outputs with targets, and data=none has none"
        problems.add("loss", f"{wrong}: use loss=output")
    for key in (f"{group}.{name}" for group in ("preprocess", "augmentation") for name in several[group]):
        problems.add(key, f"changes inputs, and {NO_DATA}")
    for name, part in several["regularization"].items():
        changes = any(parts.overrides(part, method, parts.Regularization) for method in ("inputs", "targets"))
        if changes and problems.has_no_problem(f"regularization.{name}"):
            problems.add(f"regularization.{name}", f"changes inputs or targets, and {NO_DATA}")
    for key in sorted(key for key in typed_keys if key.startswith("validation.")):
        problems.add(key, f"holds out examples, and {NO_DATA}")
    if settings.validation.scheme == "kfold" and "validation.scheme" not in typed_keys:  # set by an experiment
        problems.add("validation.scheme", f"holds out examples, and {NO_DATA}")
    if "batch_size" in typed_keys and settings.batch_size not in (1, "full"):
        wrong = f"must be full, got {settings.batch_size}"
        problems.add("batch_size", f"{wrong}: without data each step evaluates the whole function")


def check_optimizer_requirements(components: Components, settings: Settings | None, problems: Problems) -> None:
    """Check for components that conflict with an optimizer that has no learning rate, or needs the true gradient."""
    optimizer = components.single.get("optimizer")
    if optimizer is None:
        return
    name = _get_name(optimizer)
    changing = [f"clip.{key}" for key in settings.clip.limits] if settings else []
    for key, part in components.several["regularization"].items():
        has_lr = dotted_fields.find_field(optimizer, "lr") is not None
        if part.needs_lr and (not has_lr or optimizer.estimates_lr):
            why = f"{name} {'estimates it' if has_lr else 'has none'}"
            decay = dotted_fields.find_field(optimizer, "weight_decay") if has_lr else None
            own = [f"optimizer.{decay}"] if decay else suggest_fixed_step(optimizer)
            remedies = ", or ".join(["a penalty, such as l2", *own])
            problems.add(
                f"regularization.{key}",
                f"shrinks weights in proportion to the learning rate, and {why}; use {remedies}",
            )
        if parts.overrides(part, "gradient", parts.Regularization):
            changing.append(f"regularization.{key}")
    for key in changing if optimizer.needs_true_gradient else ():
        problems.add(key, f"changes gradients, and {name} needs them as they are: leave one of the two out")
    needing = [f"diagnostic.{key}" for key, d in components.several["diagnostic"].items() if d.uses_curvature]
    needing += [name] * (optimizer.needs_true_gradient or optimizer.uses_curvature)
    if settings and settings.precision == "bfloat16" and needing:
        users = join_truncated(needing[::-1])
        wrong = f"bfloat16 keeps three digits, too few for {users}, which compares values or uses second derivatives"
        problems.add("precision", f"{wrong}: use precision=float32 or precision=float64")


def _get_name(optimizer: parts.Optimizer) -> str:
    """Return the name of an optimizer for messages."""
    return optimizer.name if isinstance(optimizer, parts.Wrapper) else type(optimizer).__name__


def check_optimizer(components: Components, model: nn.Module, w: Tensor, device: str, problems: Problems) -> None:
    """Let an optimizer that defines `check` check the weights that it will train, and a custom one make a step."""
    optimizer, layout = components.require("optimizer"), Layout.of(model)
    _notice_second_order(optimizer, components, model, problems)
    if not type(optimizer).__module__.startswith("dlopt."):
        probe_step(optimizer, w, layout, problems)
    try:
        if parts.overrides(optimizer, "check", parts.Optimizer):
            optimizer.check(w.to(device), layout)
    except Exception as error:
        message = str(error) if isinstance(error, ValueError) else format_error(error)
        problems.add("optimizer", f"cannot train this network: {message}")
        return  # another loss would not help
    loss = components.require("loss")
    if optimizer.samples_targets and not loss.has_distribution:
        wrong = f"{_get_name(optimizer)} draws targets from the network"
        weighted = " with weights" if parts.overrides(loss, "sample_targets", parts.Loss) else ""
        why = f"{type(loss).__name__}{weighted} has no distribution of targets"
        _refuse_sampling(optimizer, f"{wrong}, and {why}", "loss", problems)


def _refuse_sampling(optimizer: parts.Optimizer, wrong: str, other: str, problems: Problems) -> None:
    """Add the problem of an optimizer that cannot draw targets: suggest to do without them."""
    if optimizer.without_sampling is None:
        problems.add("optimizer", f"{wrong}: use another {other}")
        return
    field, value = optimizer.without_sampling
    problems.add(f"optimizer.{field}", f"{wrong}: use optimizer.{field}={value}, or another {other}")


def check_weights(
    components: Components, model: nn.Module, w: Tensor, train: parts.Split, settings: Settings, problems: Problems
) -> None:
    """Let the optimizer check the weights that it will train, and each diagnostic the weights that it will measure.

    Refuse layers without a second derivative if one of them uses it.
    """
    check_optimizer(components, model, w, settings.device, problems)
    diagnostics = components.several["diagnostic"]
    users = {"optimizer": components.require("optimizer")} | {f"diagnostic.{key}": d for key, d in diagnostics.items()}
    if curvature_users := [key for key, part in users.items() if part.uses_curvature]:
        try:
            _probe_curvature(model, components.require("loss"), w, train)
        except LayerError as error:
            problems.add(curvature_users[0], f"uses second derivatives: {error}")
    for name, diagnostic in diagnostics.items():
        try:
            diagnostic.check(w, Layout.of(model))
        except Exception as error:
            message = str(error) if isinstance(error, ValueError) else format_error(error)
            problems.add(f"diagnostic.{name}", message)


def _probe_curvature(model: nn.Module, loss: parts.Loss, w: Tensor, train: parts.Split) -> None:
    """Compute one Hessian-vector product on two examples. Raise LayerError if a layer has no second derivative."""
    rows = torch.arange(min(2, len(train))) if train.rows is None else train.rows[:2]
    inputs, targets = (x[rows].to(w.dtype) if x.is_floating_point() else x[rows] for x in (train.inputs, train.targets))
    problem = Problem(copy.deepcopy(model), loss)
    w = problem.bind(w.clone())
    MiniBatchObjective(problem, inputs, targets, Key(0, 0)).hvp(w, w)


def _notice_second_order(
    optimizer: parts.Optimizer, components: Components, model: nn.Module, problems: Problems
) -> None:
    """Add notices for what an optimizer beyond first order does not see: kinks, and other random numbers."""
    name = _get_name(optimizer)
    activations = {type(m).__name__: m for m in find_activations(model).values()} if optimizer.uses_curvature else {}
    if kinked := [kind for kind, module in activations.items() if has_kinks(module)]:
        lacks = f"{join_truncated(kinked)} has no second derivative at its kinks, and {name} uses the curvature between"
        problems.notices.append(f"optimizer: {lacks} them; smooth activations are tanh and gelu, among others")
    loss = components.require("loss")
    if optimizer.uses_curvature and not loss.has_curvature:
        lacks = f"{type(loss).__name__} has no second derivatives by the outputs, so a Gauss-Newton matrix is zero"
        problems.notices.append(f"optimizer: {lacks}; loss=mse and loss=huber have them, among others")
    methods = ("module", "weights", "inputs")
    random = [
        key
        for key, part in components.several["regularization"].items()
        if any(parts.overrides(part, method, parts.Regularization) for method in methods)
    ]
    if (optimizer.needs_true_gradient or optimizer.uses_curvature) and (random or find_sites(model)):
        effect = f"{name} sees one masked or noisy network at each step"
        what = join_truncated(random or ["dropout"])
        problems.notices.append(f"optimizer: {what} keeps its random numbers in all evaluations of a step, so {effect}")
