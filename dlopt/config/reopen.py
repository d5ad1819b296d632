"""A run that is over, opened again: its configuration, and whether its data and network are still what they were."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dlopt.checkpoint import FORMAT, mismatch
from dlopt.config.problems import ConfigError
from dlopt.experiment import Experiment
from dlopt.run import Run


def configuration(run: Run, *, trust: bool = False) -> DictConfig:
    """What the run was given; a path of its data is looked for where the run was started, too."""
    config = OmegaConf.load(run.config_file)
    if not isinstance(config, DictConfig):
        raise ValueError(f"{run.config_file} holds no keys")
    path = OmegaConf.select(config, "data.path")
    if path is not None and not Path(path).expanduser().exists() and run.hydra_file.exists():
        began = OmegaConf.select(OmegaConf.load(run.hydra_file), "hydra.runtime.cwd")
        there = Path(began or ".") / Path(path).expanduser()
        if there.exists():
            config.data.path = str(there)
    return config


def check(content: Mapping[str, Any], experiment: Experiment, key: str, *, same_data: bool) -> None:
    """ConfigError where a checkpoint is of another network, or where people's own file has changed since."""
    found = content.get("format")
    if found != FORMAT:
        said = f"the checkpoint is of format {found}, this version of dlopt reads and writes {FORMAT}"
        raise ConfigError([(key, said)])
    wrong = mismatch(content, experiment.model)
    if wrong and not same_data:
        shape = tuple(experiment.train.inputs.shape[1:])
        wrong = f"examples of shape {shape} do not fit the run's network: {wrong}"
    if wrong:
        raise ConfigError([(key, wrong)])
    before, now = (e.get("sha256") for e in (content["encoding"], experiment.encoding))
    if same_data and before != now:
        said = "the file has changed since the run read it, so its splits are others; "
        raise ConfigError([("data.path", said + "evaluate it as it is now with --data FILE, or train anew")])
