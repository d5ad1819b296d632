"""Build an Experiment from a composed configuration, after every check that is possible before a run.

The stages are: settings, data, components, splits, network, preprocessing, probe, weights. Each returns a value or adds
problems, and is skipped if a stage that it needs has failed. All problems are raised together as one ConfigError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from dlopt import parts
from dlopt.base.group import declared_groups
from dlopt.config.checks import compatibility, schedules, splits
from dlopt.config.checks.forward_probe import (
    check_causality,
    check_mean,
    check_smallest_batch,
    choose_threads,
    probe,
)
from dlopt.config.checks.metrics import check_metrics
from dlopt.config.checks.pixels import find_pixel_scale
from dlopt.config.compose import groups as compose_groups
from dlopt.config.compose.nested_options import PARAMETER_GROUPS, SCHEDULES
from dlopt.config.compose.plain import to_plain
from dlopt.config.fit_loss import fit_loss
from dlopt.config.fresh_examples import make_generator
from dlopt.config.load_data import LoadedData, encode_data, load_data
from dlopt.config.make_parts import (
    Override,
    build_components,
    build_initial_weights,
    build_network,
)
from dlopt.config.parameter_groups import scale_steps, take_groups
from dlopt.config.problems import Problems
from dlopt.config.schema.settings import build_settings
from dlopt.config.teacher import load_teacher
from dlopt.training.batches import count_steps_per_epoch
from dlopt.training.experiment import Experiment

WITHOUT_FIELD = ("activation", "normalization", "init", "bias_init", "preprocess")
"""Groups whose components build uses up, so that an Experiment has no field for them."""


def build(
    config: DictConfig | Mapping[str, Any],
    overrides: Sequence[str] = (),
    fitted: splits.FittedDataState | None = None,
    saved: Mapping[str, Tensor] | None = None,
    loaded: LoadedData | None = None,
) -> tuple[Experiment, list[str]]:
    """Check a configuration and build its experiment; return it with notices. Raises ConfigError with all problems.

    config      the composed configuration; plain mappings, lists and values without interpolations are faster
    overrides   as typed
    fitted      the state of a finished run's data, used instead of fitting to the data
    saved       the network's state dict in the checkpoint of a run that resumes
    loaded      the data of the configuration, if they are loaded already; their notices are not added again
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # waking up the other threads takes longer than all of this
    try:
        return _build(config, overrides, fitted, saved, loaded)
    finally:
        torch.set_num_threads(threads)


def check_split(config: Mapping[str, Any]) -> None:
    """Check what data that fit statistics need of the rows of a run's training split. Raises ConfigError.

    It is for runs that differ in seed or fold from one that can be built. Other data are not split: that takes long.
    """
    problems = Problems()
    tree = to_plain(config)
    groups = _pop_groups(tree, problems)
    settings = problems.attempt(lambda: build_settings(tree, problems))
    data = problems.attempt(lambda: load_data(groups["data"], None, problems))
    if data.value_or_none is None or not parts.overrides(data.value.option, "fit", parts.Data):
        return
    split = problems.attempt(lambda: splits.split_dataset(*data.value, settings.value, None, problems))
    problems.attempt(lambda: encode_data(data.value, *split.value, None, problems))
    problems.attempt(lambda: splits.check_batch(settings.value, split.value[0], data.value.dataset, problems))
    problems.raise_if_any()


def _build(
    config: DictConfig | Mapping[str, Any],
    overrides: Sequence[str],
    fitted: splits.FittedDataState | None,
    saved: Mapping[str, Tensor] | None,
    loaded: LoadedData | None,
) -> tuple[Experiment, list[str]]:
    problems = Problems()
    typed_overrides = [Override.parse(text) for text in overrides]
    tree = to_plain(config)
    groups = _pop_groups(tree, problems)

    settings = problems.attempt(lambda: build_settings(tree, problems))
    problems.attempt(lambda: compatibility.check_typed(settings.value, typed_overrides, problems))
    compatibility.check_nodes(groups, typed_overrides, problems)

    data = problems.attempt(lambda: loaded or load_data(groups["data"], fitted, problems))
    components = build_components(groups, problems)
    regularization = components.several["regularization"]
    bound = schedules.bind_schedules(components.several[SCHEDULES], components.single, regularization, problems)
    problems.attempt(lambda: compatibility.check_data_compatibility(data.value.dataset, components, problems))

    typed_keys = {override.key for override in typed_overrides}
    problems.attempt(
        lambda: compatibility.check_without_data(data.value.dataset, settings.value, components, typed_keys, problems)
    )
    problems.attempt(lambda: splits.check_own_splits(*data.value, settings.value.validation, typed_keys, problems))
    split = problems.attempt(lambda: splits.split_dataset(*data.value, settings.value, fitted, problems))
    encoded = problems.attempt(lambda: encode_data(data.value, *split.value, fitted, problems))
    components = fit_loss(components, encoded.value_or_none, fitted, problems)
    network = problems.attempt(
        lambda: build_network(
            groups["arch"], encoded.value.dataset, components, settings.value, saved, typed_overrides, problems
        )
    )
    prepared = problems.attempt(
        lambda: splits.apply_preprocessing(
            encoded.value.train,
            encoded.value.validation,
            encoded.value.dataset.test,
            components.several["preprocess"],
            problems,
            fitted,
        )
    )

    teacher = problems.attempt(
        lambda: load_teacher(components, network.value.model, encoded.value, prepared.value, settings.value, problems)
    )
    pixel_scale = problems.attempt(
        lambda: find_pixel_scale(components, encoded.value.train.inputs, prepared.value.statistics, problems)
    )

    def check_length() -> None:
        splits.check_batch(settings.value, prepared.value.train, data.value.dataset, problems)
        count = len(prepared.value.train)
        batch_size = settings.value.resolve_batch_size(count)
        epoch = count_steps_per_epoch(count, batch_size, drop_last=data.value.option.drop_last)
        steps = settings.value.count_steps(epoch)
        schedules.check(components.single, bound, regularization, steps, epoch, problems)

    def check_forward() -> None:
        model, train = network.value.model, prepared.value.train
        if not problems.has_no_problem("loss"):
            return
        loss, outputs, dtype = components.require("loss"), data.value.dataset.outputs, settings.value.dtype
        metrics = probe(
            model, train, loss, components.batch_transforms, outputs, dtype, problems, pixel_scale.value_or_none
        )
        if metrics is not None and fitted is None and saved is None and problems.has_no_problem("batch_size"):
            check_smallest_batch(model, train, settings.value, data.value.option.drop_last, problems)
            check_mean(model, train, loss, settings.value, problems)
            check_causality(model, train, encoded.value.dataset, problems)
        check_metrics(
            metrics,
            prepared.value.validation is not None,
            settings.value,
            components.by_group,
            problems,
            can_validate=data.value.dataset.has_inputs,
        )

    problems.attempt(check_length)
    problems.attempt(check_forward)
    compatibility.check_optimizer_requirements(components, settings.value_or_none, problems)
    problems.raise_if_any()

    model, train, optimizer = network.value.model, prepared.value.train, components.require("optimizer")
    w = build_initial_weights(components.single, network.value, train, settings.value, saved)
    compatibility.check_weights(components, model, w, train, settings.value, problems)
    problems.raise_if_any()
    dataset, grouped = encoded.value.dataset, network.value.grouped
    used_here = {*Experiment.__dataclass_fields__, SCHEDULES, PARAMETER_GROUPS, *WITHOUT_FIELD}
    experiment = Experiment(
        settings=settings.value,
        train=train,
        validation=prepared.value.validation,
        test=prepared.value.test,
        outputs=dataset.outputs,
        drop_last=data.value.option.drop_last,
        order=data.value.option.order,
        draw=make_generator(
            data.value, encoded.value, components.several["preprocess"], prepared.value.statistics, settings.value
        ),
        model=model,
        w=w,
        loss=components.require("loss"),
        optimizer=optimizer,
        schedule=components.require("schedule"),
        schedules=bound,
        averaging=components.single.get("averaging"),
        regularization=regularization,
        augmentation=components.several["augmentation"],
        diagnostic=components.several["diagnostic"],
        preprocessing=prepared.value.statistics,
        network={name: groups[name] for name in ("arch", *declared_groups()["arch"].supplied) if name in groups},
        names=dataset.names,
        encoding=dataset.encoding,
        threads=choose_threads(settings.value, model, train),
        others={group: component for group, component in components.by_group.items() if group not in used_here},
        pixel_scale=pixel_scale.value_or_none,
        teacher=teacher.value_or_none,
    )
    return scale_steps(experiment, grouped), [
        *problems.notices,
        *(f"data: {notice}" for notice in dataset.encoding.get("notices", ())),
    ]


def _pop_groups(tree: dict[str, Any], problems: Problems) -> dict[str, dict[str, Any]]:
    """Take the nodes of the groups, of `schedules` and of parameter groups out of a configuration.

    What remains are settings.
    """
    groups = {name: tree.pop(name, None) or {} for name in compose_groups.list_component_groups()}
    node = tree.pop(SCHEDULES, None) or {}
    if not isinstance(node, dict):
        message = f"holds a schedule for each hyperparameter: {SCHEDULES}.momentum=ramp; for lr, type schedule=NAME"
        problems.add(SCHEDULES, message)
        node = {}
    groups[PARAMETER_GROUPS] = take_groups(groups["optimizer"], problems)
    groups[SCHEDULES] = dict(schedules.iter_schedules(node))
    return groups
