"""Load the teacher of a distillation from its run, and check that it can guide the network of a run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dlopt import parts
from dlopt.base.layer_labels import label_modules
from dlopt.base.layout import Layout
from dlopt.config.checks.pixels import fit_scale
from dlopt.config.checks.splits import PreparedData
from dlopt.config.load_data import EncodedData
from dlopt.config.make_parts import Components
from dlopt.config.problems import ConfigError, Problems, format_error
from dlopt.config.reopen.load_predictor import load_predictor
from dlopt.config.reopen.trusted_targets import TRUST_ADVICE
from dlopt.errors import OptionError, did_you_mean, join_truncated
from dlopt.metrics.names import DISTILLATION
from dlopt.objective.activation_hooks import find_activations
from dlopt.objective.guidance import DistillationTerm, HintRegressor
from dlopt.objective.teacher import InputMap, Teacher
from dlopt.rundir import find
from dlopt.rundir.directory import RunDirectory
from dlopt.training.experiment import Settings
from dlopt.training.inference import Predictor

UNRELATED = ("classes", "names", "target", "class_counts", "outputs", "sha256", "notices")
"""Entries of an encoding that say nothing about the numbers that a network gets, or that it predicts."""


def load_teacher(
    components: Components,
    model: nn.Module,
    data: EncodedData,
    prepared: PreparedData,
    settings: Settings,
    problems: Problems,
) -> Teacher | None:
    """Return the teacher, whose regressor becomes a module of the network; None without one, or with a problem added.

    A term that compares layers makes no regressor with weight 0, so that the weights are those of the network.
    """
    option: parts.Distillation | None = components.single.get("distillation")
    if option is None:
        return None
    try:
        run, predictor = _open(option.teacher, trust=option.trust)
        _check_task(option, components, predictor, data)
        mapping = _map_inputs(components, predictor, data, prepared)
        if option.compares_layers and option.weight == 0:
            return None
        layer = _attach_regressor(option, components, model, predictor, mapping, data, prepared, settings)
    except OptionError as error:
        problems.add(f"distillation.{error.key}", str(error))
        return None
    if layer is not None and option.weight == 1 and settings.objective != DISTILLATION:
        advice = f"{settings.objective} does not tell which weights are the best; {DISTILLATION} does"
        problems.notices.append(f"objective: with distillation.weight=1 the outputs are not trained, so {advice}")
    return Teacher(
        DistillationTerm(option, data.dataset.kind),
        predictor.model,
        predictor.loss,
        predictor.problem.regularization,
        layer,
        mapping,
        {
            "path": str(run.path.resolve()),
            "config": run.config_digest(),
            "checkpoint": predictor.checkpoint,
            "step": predictor.step,
            "digest": _digest(predictor.model.state_dict()),
        },
    )


def _open(name: str | None, *, trust: bool) -> tuple[RunDirectory, Predictor]:
    """Return the run of this name and its network."""
    name = find.check_name(name, "teacher")
    try:
        run = find.find_run(name)
        predictor, _ = load_predictor(run, device="cpu", trust=trust)
    except find.RunNotFound as error:
        raise OptionError("teacher", str(error)) from error
    except ConfigError as error:
        wrong = error.summarize().replace(TRUST_ADVICE, "add distillation.trust=true if you trust it")
        raise OptionError("teacher", f"{name} cannot be opened: {wrong}") from error
    return run, predictor


def _check_task(option: parts.Distillation, components: Components, predictor: Predictor, data: EncodedData) -> None:
    """Raise OptionError if the teacher was trained for another task, with all that differs."""
    differences = list(_list_differences(predictor, data.dataset))
    if differences:
        raise OptionError("teacher", f"{option.teacher} is of another task: {'; '.join(differences)}")
    if option.compares_layers or data.dataset.kind == "numbers":
        return
    for who, loss in (("the teacher has", predictor.loss), ("this run has", components.require("loss"))):
        if parts.overrides(loss, "predict", parts.Loss):
            wrong = f"{who} {type(loss).__name__}, whose probabilities are not a softmax of the outputs"
            raise OptionError("teacher", f"{wrong}: use loss=cross_entropy in both, or distillation=hint")


def _list_differences(predictor: Predictor, own: parts.Dataset) -> Iterator[str]:
    """Yield how the task of a teacher differs from that of these data."""
    split, kind = predictor.splits["test"][0], predictor.kind
    if kind != own.kind:
        yield f"it predicts {kind}, and this data has {own.kind}"
        return
    outputs = predictor.predict(split.inputs[:1]).shape[1:]
    expected = (*own.train.targets.shape[1:2], own.outputs) if own.per_step else (own.outputs,)
    if tuple(outputs) != expected:
        unit = f"outputs of shape {tuple(outputs)}" if len(outputs) > 1 or own.per_step else f"{outputs[0]} {kind}"
        yield f"it has {unit}, and this data {expected[0] if len(expected) == 1 else expected}"
    elif predictor.names and own.names and predictor.names != own.names:
        yield f"its {kind} are {join_truncated(predictor.names)}, and here {join_truncated(own.names)}"
    shape = tuple(split.inputs.shape[1:])
    if shape != own.shape or split.inputs.is_floating_point() != own.train.inputs.is_floating_point():
        described = [_describe(x) for x in (split.inputs, own.train.inputs)]
        yield f"its inputs are {described[0]}, and here {described[1]}"
        return
    theirs, ours = ({k: v for k, v in e.items() if k not in UNRELATED} for e in (predictor.encoding, own.encoding))
    if theirs != ours:
        keys = [key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key)]
        advice = "train it with the same data, seed and validation"
        yield f"its data are encoded in another way ({join_truncated(keys)}): {advice}"


def _describe(inputs: Any) -> str:
    return f"{'numbers' if inputs.is_floating_point() else 'tokens'} of shape {tuple(inputs.shape[1:])}"


def _map_inputs(components: Components, predictor: Predictor, data: EncodedData, prepared: PreparedData) -> InputMap:
    """Return how the inputs of the teacher follow from preprocessed ones of this run."""
    own = components.several["preprocess"]
    steps = [(part, prepared.statistics[name]) for name, part in own.items()]
    if _are_equal(steps, predictor.preprocessing):
        return InputMap(None, ())
    scale = fit_scale(data.train.inputs[:1], own, prepared.statistics) if own else None
    if own and scale is None:
        theirs = ",".join(type(part).__name__ for part, _ in predictor.preprocessing) or "none"
        wrong = f"was trained with another preprocessing ({theirs}, or other statistics)"
        remedy = "take the teacher's preprocess, seed and validation, or preprocess=none"
        raise OptionError("teacher", f"{wrong}, and preprocess={','.join(own)} cannot be undone: {remedy}")
    return InputMap(scale, predictor.preprocessing)


def _are_equal(
    one: Sequence[tuple[Any, Mapping[str, Tensor]]], other: Sequence[tuple[Any, Mapping[str, Tensor]]]
) -> bool:
    """Return whether two preprocessings have the same steps with the same statistics."""
    return len(one) == len(other) and all(
        a == b and x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)
        for (a, x), (b, y) in zip(one, other, strict=True)
    )


def _digest(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a network's names and values."""
    sha = hashlib.sha256()
    for name, value in state.items():
        sha.update(name.encode() + value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


# ------------------------------------------------------------------------------------------- layers


def _attach_regressor(
    option: Any,
    components: Components,
    model: nn.Module,
    predictor: Predictor,
    mapping: InputMap,
    data: EncodedData,
    prepared: PreparedData,
    settings: Settings,
) -> str | None:
    """Make the regressor a module of the network and return the hint layer's name; None if outputs are compared."""
    if not option.compares_layers:
        return None
    optimizer = components.require("optimizer")
    wrong = ""
    if data.dataset.per_step or data.dataset.is_padded:
        wrong = "compares layers of examples with one target and one length, and this data has sequences"
    elif getattr(model, "auxiliary_weight", None) is not None:
        wrong = f"compares layers of networks with one output, and {type(model).__name__} has auxiliary outputs"
    elif optimizer.samples_targets:
        choice = "another optimizer"
        if optimizer.without_sampling is not None:
            choice = "optimizer.{}={}".format(*optimizer.without_sampling)
        wrong = f"has no distribution of targets, which {type(optimizer).__name__} draws: use {choice}"
    if wrong:
        raise OptionError("layer", wrong)
    x = prepared.train.inputs[:2]
    theirs = mapping(x)
    if x.is_floating_point():
        x, theirs = x.to(settings.dtype), theirs.to(predictor.dtype)
    name, guided = _find_layer(model, option.layer, "layer")
    hint_name, hint = _find_layer(predictor.model, option.hint_layer, "hint_layer")
    v = _run_layer(model, guided, x, "layer", name)
    u = _run_layer(predictor.model, hint, theirs, "hint_layer", hint_name)
    regressor = _make_regressor(option.regressor, model, v, u)
    HintRegressor(regressor).to(settings.dtype).attach(model, guided)
    return hint_name


def _find_layer(model: nn.Module, wanted: str | None, key: str) -> tuple[str, nn.Module]:
    """Return the layer with this label or name, or the one in the middle."""
    if wanted is None:
        weighted = dict.fromkeys(p.name.rpartition(".")[0] for p in Layout.of(model) if p.kind == "weight")
        names = list(find_activations(model)) or [*weighted][:-1] or [*weighted]
        name = names[(len(names) - 1) // 2]
        return name, model.get_submodule(name)
    modules = {name: module for name, module in model.named_modules() if name}
    by_label = {label: name for name, label in label_modules(model).items() if name}
    name = by_label.get(wanted, wanted)
    if name not in modules:
        labels = list(by_label or modules)
        advice = did_you_mean(wanted, labels) or f"; it has {join_truncated(labels)}"
        raise OptionError(key, f"there is no layer {wanted} in {type(model).__name__}{advice}")
    return name, modules[name]


def _run_layer(model: nn.Module, layer: nn.Module, x: Tensor, key: str, name: str) -> Tensor:
    """Return the outputs of a layer for these inputs, in inference."""
    outputs: list[Any] = []
    handle = layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(x)
    except Exception as error:
        raise OptionError(key, f"the network cannot be evaluated: {format_error(error)}") from error
    finally:
        handle.remove()
        model.train(was_training)
    if len(outputs) != 1 or not isinstance(outputs[0], Tensor) or len(outputs[0]) != len(x) or outputs[0].ndim < 2:
        wrong = (
            "is used several times, or not at all" if len(outputs) != 1 else "does not return one tensor of examples"
        )
        raise OptionError(key, f"{name} {wrong}; name another layer")
    return outputs[0]


def _make_regressor(kind: str, model: nn.Module, v: Tensor, u: Tensor) -> nn.Module:
    """Return a map from v, (B, *shape), to u, (B, *shape), whose parameters are drawn later."""
    are_maps = v.ndim == u.ndim and v.ndim in (3, 4) and v.shape[2:] == u.shape[2:]
    has_convolutions = any(isinstance(module, (nn.Conv1d, nn.Conv2d)) for module in model.modules())
    if kind in ("1x1", "3x3") and not are_maps:
        shapes = f"the layers have {tuple(v.shape[1:])} and {tuple(u.shape[1:])}"
        wrong = f"{kind} is for feature maps with the same positions, and {shapes}"
        raise OptionError("regressor", f"{wrong}: use linear, or name other layers")
    with torch.random.fork_rng(devices=[]):
        if kind == "linear" or not (are_maps and (has_convolutions or kind != "auto")):
            return nn.Linear(v[0].numel(), u[0].numel())
        size = 3 if kind == "3x3" else 1
        convolution = nn.Conv1d if v.ndim == 3 else nn.Conv2d
        return convolution(v.shape[1], u.shape[1], size, padding=size // 2)
