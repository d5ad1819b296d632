"""Build a Predictor from a run directory: only what inference needs, without the components that only training uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import OmegaConf

from dlopt.base.data import Data, Dataset, Split
from dlopt.config.checks.compatibility import check_data_compatibility, check_nodes
from dlopt.config.checks.forward_probe import choose_threads, probe
from dlopt.config.checks.splits import FittedDataState, apply_preprocessing, split_dataset
from dlopt.config.compose import groups as compose_groups
from dlopt.config.compose.nested_options import SCHEDULES
from dlopt.config.compose.plain import to_plain
from dlopt.config.fit_loss import fit_loss
from dlopt.config.load_data import encode_data, load_data, load_whole
from dlopt.config.make_parts import build_components, build_network
from dlopt.config.problems import ConfigError, Problems
from dlopt.config.reopen import load_run
from dlopt.config.schema.settings import build_settings
from dlopt.errors import did_you_mean, join_truncated
from dlopt.objective.guidance import drop_regressor
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.display import display_path
from dlopt.training.inference import Predictor

TRAINING_KEYS = ("train_size", "label_noise", "drop_last", "order", "test_fraction", "validation_fraction")
"""Data keys that only training uses; all examples of other data are evaluated."""
SPLIT_KEYS = ("group", "time", "validation_path", "test_path")
"""Further ones, null if unused, of the data options of dlopt; custom data may use these names otherwise."""

OWN_FILES = {"verify", "target", "test_fraction", "encoding"}
"""Keys of the data options that read a user's files: each has one of them."""


def load_predictor(
    run: RunDirectory,
    checkpoint: str = "best",
    *,
    data: Sequence[str] = (),
    device: str = "auto",
    trust: bool = False,
    load_other: Callable[[Data, Mapping[str, Any]], Dataset] = load_whole,
) -> tuple[Predictor, list[str]]:
    """Load a checkpoint of a run for inference; return the predictor, and warnings about damage and about other data.

    run         a run directory
    checkpoint  best, last, average, or a number of steps
    data        other data in place of the run's own, as `dlopt evaluate --data` takes them; their splits are test
                and all
    device      auto, cpu, cuda, ...
    trust       execute code that the run names, such as custom classes
    load_other  loads the other data, by the encoding of the run's own

    Raises ConfigError if the run cannot be opened, has no such checkpoint, or does not fit the data.
    """
    config = load_run.load_config(
        run,
        lambda saved: _select_config(saved, data, device),
        trust=trust,
        folders=[folder for argument in data for folder in _list_folders(argument)],
    )
    content, kind, warnings = load_checkpoint(run, checkpoint)
    statistics = content["preprocessing"]
    fitted = FittedDataState(statistics, content["encoding"], is_other_data=bool(data))

    problems = Problems()
    tree = to_plain(config)
    groups = {name: tree.pop(name, None) or {} for name in compose_groups.select_groups("needed_for_inference")}
    settings = problems.attempt(lambda: build_settings(tree, problems))
    check_nodes(groups, (), problems)
    loaded = problems.attempt(lambda: load_data(groups["data"], fitted, problems, load_other))
    components = build_components(groups, problems)
    problems.attempt(lambda: check_data_compatibility(loaded.value.dataset, components, problems))
    if loaded.value_or_none is not None and not len(loaded.value.dataset.test):
        problems.add("data", "has no examples")
    problems.raise_if_any()

    dataset, several = loaded.value.dataset, components.several
    split = problems.attempt(lambda: split_dataset(*loaded.value, settings.value, fitted, problems))
    encoded = problems.attempt(lambda: encode_data(loaded.value, *split.value, fitted, problems))
    components = fit_loss(components, encoded.value_or_none, fitted, problems)
    network = problems.attempt(
        lambda: build_network(
            groups["arch"], encoded.value.dataset, components, settings.value, content.get("model", {}), (), problems
        )
    )
    problems.raise_if_any()
    (dataset, train, validation), model, loss = encoded.value, network.value.model, components.require("loss")
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
        preprocessing=[(part, statistics[name]) for name, part in several["preprocess"].items()],
        splits=_name_splits(dataset, *((None, None) if data else (train, validation))),
        kind=dataset.kind,
        names=dataset.names,
        encoding=dataset.encoding,
        is_labeled=dataset.is_labeled,
        source=dataset.source,
        checkpoint=kind,
        step=content["step"],
        device=settings.value.device,
        dtype=settings.value.dtype,
        autocast=torch.bfloat16 if settings.value.precision == "bfloat16" else None,
        micro_batch_size=settings.value.micro_batch_size,
        threads=choose_threads(settings.value, model, train),
        deterministic=settings.value.deterministic,
    )
    return predictor, warnings + (problems.notices if data else [])


def _select_config(saved: Mapping[str, Any], data: Sequence[str], device: str) -> dict[str, Any]:
    """Return a run's configuration without the groups that only training uses, with other data if they are given.

    Custom classes of the omitted groups need not be trusted, nor exist.
    """
    needed = compose_groups.select_groups("needed_for_inference")
    unused = {SCHEDULES, *compose_groups.list_component_groups()} - {*needed}
    config = {key: value for key, value in saved.items() if key not in unused}
    config |= {"resume": None, "device": device, "batch_size": "full", "threads": "auto", "compile": False}
    return config | {"data": _replace_data(config["data"], data)} if data else config


def _name_splits(dataset: Dataset, train: Split | None, validation: Split | None) -> dict[str, tuple[Split, ...]]:
    """Return the splits by name; `all` is every example of the data with its own label."""
    test = dataset.test
    everything: tuple[Split, ...] = (test,)
    if test.inputs is not dataset.train.inputs:  # otherwise the file has no test split, and both are the whole file
        everything = (Split(dataset.train.inputs, dataset.train.targets), Split(test.inputs, test.targets))
        everything += () if dataset.validation is None else (dataset.validation,)
    by_name = {"train": train, "val": validation, "test": test}
    return {name: (split,) for name, split in by_name.items() if split is not None} | {"all": everything}


# ------------------------------------------------------------------------------------------- checkpoints


class LoadedCheckpoint(NamedTuple):
    """A checkpoint's content, its kind (best, last, average or kept), and warnings about damaged files."""

    content: dict[str, Any]
    kind: str
    warnings: list[str]


def load_checkpoint(run: RunDirectory, wanted: str = "best") -> LoadedCheckpoint:
    """Load a checkpoint: wanted is best, last, average, or a number of steps. What only training uses is left out.

    The last checkpoint holds the best weights too, and replaces a best one that is damaged. A run without an evaluation
    has no best weights: its last ones are loaded. Raises ConfigError if the checkpoint does not exist.
    """
    loaded = _read_checkpoint(run, wanted)
    return loaded._replace(content=loaded.content | {"model": drop_regressor(loaded.content["model"])})


def _read_checkpoint(run: RunDirectory, wanted: str) -> LoadedCheckpoint:
    older = {str(step): file for step, file in run.older_checkpoints().items()}
    place, best, average = display_path(run.path), run.checkpoint("best"), run.checkpoint("average")
    if wanted in older:
        return LoadedCheckpoint(run.load_file(older[wanted]), "kept", [])
    if wanted == "average":
        if not average.exists():
            message = f"{place} has no averaged weights: it has no averaging, or was not trained to its end"
            raise ConfigError([("--checkpoint", message)])
        try:
            return LoadedCheckpoint(run.load("average"), wanted, [])
        except ValueError as error:
            raise ConfigError([("--checkpoint", f"{average.name} is damaged ({error})")]) from error
    if wanted not in ("best", "last"):
        names = ["best", "last", *(["average"] if average.exists() else []), *older]
        message = f"{place} has none after step {wanted}; it has {join_truncated(names)}"
        raise ConfigError([("--checkpoint", message)])
    damage: list[str] = []
    if wanted == "best" and best.exists():
        try:
            return LoadedCheckpoint(run.load("best"), wanted, [])
        except ValueError as error:
            damage = [f"{best.name} is damaged ({error})"]
    newest = run.latest_checkpoint()
    if newest is None and best.exists():
        remedy = f"; {damage[0]}" if damage else "; use best"
        raise ConfigError([("--checkpoint", f"{place} has no last checkpoint{remedy}")])
    if newest is None:
        has_diverged = run.status.get("status") == "diverged"
        wrong = "has no checkpoint: it diverged before one was due" if has_diverged else "has no checkpoint yet"
        raise ConfigError([("run", f"{place} {wrong}; checkpoint.every=N keeps one after N steps")])
    warnings = [f"{message}; the newest undamaged one is used" for message in (*damage, *newest.damage.values())]
    content = newest.content
    if wanted == "best" and content["best_step"] is not None:
        content = content | {"model": content["best"], "step": content["best_step"]}
        return LoadedCheckpoint(content, "best", warnings)
    return LoadedCheckpoint(content, "last", warnings)


def load_weights(
    predictor: Predictor, run: RunDirectory, checkpoint: str, key: str = "--checkpoint"
) -> LoadedCheckpoint:
    """Give a predictor the weights and stored statistics of another checkpoint, and return the checkpoint.

    The run may be another one. Raises ConfigError for `key` if the checkpoint is of another network.
    """
    loaded = load_checkpoint(run, checkpoint)
    load_run.check(loaded.content, predictor.model, None, key, same_data=True)
    predictor.model.load_state_dict(loaded.content["model"])  # into the memory of predictor.w
    predictor.checkpoint, predictor.step = loaded.kind, loaded.content["step"]
    return loaded


# ------------------------------------------------------------------------------------------- other data


def _split_argument(argument: str) -> tuple[str, str]:
    """Return key and value of an argument of `--data`; the key is empty if it is a data set or an existing file."""
    key, equals, value = argument.partition("=")
    return ("", argument) if not equals or Path(argument).exists() else (key, value)


def _list_folders(argument: str) -> list[Path]:
    """Return the folder of a file that a user names, and that of the file to which it links."""
    path = Path(_split_argument(argument)[1]).expanduser()
    return [path.parent, path.resolve().parent]


def _replace_data(data: Mapping[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """Return a run's data configuration with each argument of `--data` applied in order.

    An argument is a data set, a file, or KEY=VALUE of the data group. A file is read as the run's own was; if the run
    was trained on a known data set, the file is read as arrays. Raises ConfigError for any other argument.
    """
    node = {**data, "train_size": None, "label_noise": 0.0, **dict.fromkeys(_list_split_keys(data))}
    options = compose_groups.list_option_names("data")
    for argument in arguments:
        key, value = _split_argument(argument)
        if key:
            key = key.removeprefix("data.")
            if key not in node:
                keys = [f"data.{name}" for name in node if not name.startswith("_")]
                raise ConfigError([("--data", f"there is no key data.{key}{did_you_mean(f'data.{key}', keys)}")])
            if key in (*TRAINING_KEYS, *_list_split_keys(node)):
                message = f"data.{key} is used in training only; all examples of other data are evaluated"
                raise ConfigError([("--data", message)])
            container: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"x={value}"]), resolve=True)
            node[key] = container["x"]
        elif argument in options:
            node = _load_data_option(argument)
        elif Path(argument).exists():
            if not node.keys() & OWN_FILES:  # a known data set, which reads no files of the user
                node = _load_data_option("arrays")
            node["path"] = argument
        else:
            advice = did_you_mean(argument, [name for name in options if name != "custom"])
            raise ConfigError([("--data", f"there is no file and no data set '{argument}'{advice}")])
    return node


def _list_split_keys(node: Mapping[str, Any]) -> list[str]:
    return [key for key in SPLIT_KEYS if key in node and str(node.get("_target_")).startswith("dlopt.")]


def _load_data_option(name: str) -> dict[str, Any]:
    """Load the keys and defaults of a data option."""
    node: Any = OmegaConf.to_container(OmegaConf.load(compose_groups.CONF / "data" / f"{name}.yaml"))
    node.pop("defaults", None)
    return node
