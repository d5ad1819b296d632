"""Builds a Predictor from a run directory: only what inference needs, without the parts that only training uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dlopt.base.data import Dataset, Split
from dlopt.config.build import _check_compatibility, _check_groups, _ComponentBuilder, _to_plain
from dlopt.config.checks.forward_probe import choose_threads, probe
from dlopt.config.checks.splits import FittedDataState, apply_preprocessing, check_dataset, split_dataset
from dlopt.config.problems import Problems
from dlopt.config.reopen import load_run
from dlopt.config.reopen.load_checkpoint import load_checkpoint
from dlopt.config.reopen.replace_data import replace_data
from dlopt.config.schema.settings import build_settings
from dlopt.rundir.directory import RunDirectory
from dlopt.training.inference import Predictor

INFERENCE_GROUPS = ("data", "preprocess", "arch", "activation", "normalization", "loss", "regularization")
"""The groups that inference uses. Regularization may be a part of the network, as dropout is, or change its inputs."""
TRAINING_GROUPS = ("optimizer", "schedule", "schedules", "init", "bias_init", "averaging", "augmentation", "diagnostic")
"""The groups that only training uses. Custom classes among them need not be trusted, nor exist."""


def load_predictor(
    run: RunDirectory,
    checkpoint: str = "best",
    *,
    data: Sequence[str] = (),
    device: str = "auto",
    trust: bool = False,
) -> tuple[Predictor, list[str]]:
    """Load a checkpoint of a run for inference, and return the predictor and warnings about damaged checkpoints.

    run         a run directory
    checkpoint  best, last, average, or a number of steps
    data        other data in place of the run's own, as `dlopt evaluate --data` takes them; they have the splits test
                and all
    device      auto, cpu, cuda, ...
    trust       execute code that the run names, such as custom classes

    Raises ConfigError if the run cannot be opened, has no such checkpoint, or does not fit the data.
    """
    config = load_run.load_config(
        run,
        lambda saved: _select_config(saved, data, device),
        trust=trust,
        folders=[Path(argument.rpartition("=")[2]).expanduser().parent for argument in data],
    )
    content, kind, warnings = load_checkpoint(run, checkpoint)
    fitted = FittedDataState(content["preprocessing"], content["encoding"], is_other_data=bool(data))

    problems = Problems()
    tree = {str(key): _to_plain(config, str(key)) for key in config if key != "hydra"}
    groups = {name: tree.pop(name, None) or {} for name in INFERENCE_GROUPS}
    settings = build_settings(tree, problems)
    _check_groups(groups, (), problems)
    builder = _ComponentBuilder(groups, problems)
    dataset: Dataset | None = builder.build_one("data", lambda d: d.load_like(fitted.encoding) if data else d.load())
    for name in ("activation", "normalization", "loss"):
        builder.build_one(name)
    several = {name: builder.build_several(name) for name in ("preprocess", "regularization")} | {"augmentation": {}}
    if dataset is not None and check_dataset(dataset, problems):
        _check_compatibility(dataset, builder.parts.get("loss"), several, problems)
        if not len(dataset.test):
            problems.add("data", "has no examples")
    problems.raise_if_any()
    assert settings is not None
    assert dataset is not None

    train: Split | None = dataset.train
    validation: Split | None = None
    if not data:
        train, validation = split_dataset(dataset, builder.parts["data"], settings, problems)
    model = builder.build_network(dataset, several["regularization"], settings, ())
    problems.raise_if_any()
    assert train is not None
    assert model is not None
    key = "--data" if data else "run"
    load_run.check(content, model, dataset, key, same_data=not data)
    model.to(settings.dtype).load_state_dict(content["model"])

    few = Split(dataset.test.inputs[:2], dataset.test.targets[:2])
    few, *_ = apply_preprocessing(few, None, few, several["preprocess"], problems, fitted)
    probe(model, few, builder.parts["loss"], {}, dataset.outputs, settings.dtype, problems)
    problems.raise_if_any()
    predictor = Predictor(
        model,
        builder.parts["loss"],
        regularization=tuple(several["regularization"].values()),
        preprocessing=[(part, fitted.statistics[name]) for name, part in several["preprocess"].items()],
        splits=_name_splits(dataset, None if data else train, validation),
        names=dataset.names,
        encoding=dataset.encoding,
        checkpoint=kind,
        step=content["step"],
        device=settings.device,
        dtype=settings.dtype,
        autocast=torch.bfloat16 if settings.precision == "bfloat16" else None,
        threads=choose_threads(settings, model, train),
        deterministic=settings.deterministic,
    )
    return predictor, warnings


def _select_config(saved: Mapping[str, Any], data: Sequence[str], device: str) -> dict[str, Any]:
    """Return a run's configuration without what only training uses, with other data if they are given."""
    config = {key: value for key, value in saved.items() if key not in TRAINING_GROUPS}
    config |= {"resume": None, "device": device, "batch_size": "full", "threads": "auto", "compile": False}
    return config | {"data": replace_data(config["data"], data)} if data else config


def _name_splits(dataset: Dataset, train: Split | None, validation: Split | None) -> dict[str, tuple[Split, ...]]:
    """Return the splits by name; `all` is every example of the data with its own label, whatever training used."""
    test = dataset.test
    everything: tuple[Split, ...] = (test,)
    if test.inputs is not dataset.train.inputs:  # else the file has no test split of its own: both are all of it
        everything = (Split(dataset.train.inputs, dataset.train.targets), Split(test.inputs, test.targets))
    named = {"train": train, "val": validation, "test": test}
    splits: dict[str, tuple[Split, ...]] = {name: (split,) for name, split in named.items() if split is not None}
    return splits | {"all": everything}
