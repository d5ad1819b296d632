"""Builds a Predictor from a run directory: only what inference needs, without the parts that only training uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dlopt.base.data import Dataset, Split
from dlopt.config.build import to_plain
from dlopt.config.checks.compatibility import check_data_compatibility, check_nodes
from dlopt.config.checks.forward_probe import choose_threads, probe
from dlopt.config.checks.splits import FittedDataState, apply_preprocessing, split_dataset
from dlopt.config.compose import groups as compose_groups
from dlopt.config.compose.nested_options import SCHEDULES
from dlopt.config.make_parts import Components, build_components, build_network, load_data
from dlopt.config.problems import Problems
from dlopt.config.reopen import load_run
from dlopt.config.reopen.load_checkpoint import load_checkpoint
from dlopt.config.reopen.replace_data import replace_data
from dlopt.config.schema.settings import build_settings
from dlopt.rundir.directory import RunDirectory
from dlopt.training.inference import Predictor


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
    tree = to_plain(config)
    groups = {name: tree.pop(name, None) or {} for name in compose_groups.select_groups("needed_for_inference")}
    settings = problems.attempt(lambda: build_settings(tree, problems))
    check_nodes(groups, (), problems)
    loaded = problems.attempt(lambda: load_data(groups["data"], fitted, problems))
    components = build_components(groups, problems)
    problems.attempt(lambda: _check_data(loaded.value.dataset, components, problems))
    problems.raise_if_any()

    dataset, several = loaded.value.dataset, components.several
    cut = problems.attempt(lambda: split_dataset(*loaded.value, settings.value, fitted, problems))
    network = problems.attempt(
        lambda: build_network(groups["arch"], dataset, components, settings.value, None, (), problems)
    )
    problems.raise_if_any()
    (train, validation), model, loss = cut.value, network.value.model, components.require("loss")
    load_run.check(content, model, dataset, "--data" if data else "run", same_data=not data)

    few = Split(dataset.test.inputs[:2], dataset.test.targets[:2])
    prepared = problems.attempt(lambda: apply_preprocessing(few, None, few, several["preprocess"], problems, fitted))
    problems.attempt(
        lambda: probe(model, prepared.value.train, loss, {}, dataset.outputs, settings.value.dtype, problems)
    )
    problems.raise_if_any()
    model.to(settings.value.dtype).load_state_dict(content["model"])  # the probe leaves a model in its own precision
    predictor = Predictor(
        model,
        loss,
        regularization=tuple(several["regularization"].values()),
        preprocessing=[(part, fitted.statistics[name]) for name, part in several["preprocess"].items()],
        splits=_name_splits(dataset, *((None, None) if data else (train, validation))),
        names=dataset.names,
        encoding=dataset.encoding,
        checkpoint=kind,
        step=content["step"],
        device=settings.value.device,
        dtype=settings.value.dtype,
        autocast=torch.bfloat16 if settings.value.precision == "bfloat16" else None,
        threads=choose_threads(settings.value, model, train),
        deterministic=settings.value.deterministic,
    )
    return predictor, warnings


def _check_data(dataset: Dataset, components: Components, problems: Problems) -> None:
    """Check that the data have examples, and that loss and regularization suit them."""
    check_data_compatibility(dataset, components, problems)
    if not len(dataset.test):
        problems.add("data", "has no examples")


def _select_config(saved: Mapping[str, Any], data: Sequence[str], device: str) -> dict[str, Any]:
    """Return a run's configuration without what only training uses, with other data if they are given.

    Custom classes among what is left out need not be trusted, nor exist.
    """
    unused = {SCHEDULES, *compose_groups.list_component_groups()} - {
        *compose_groups.select_groups("needed_for_inference")
    }
    config = {key: value for key, value in saved.items() if key not in unused}
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
