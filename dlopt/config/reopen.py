"""A run that is over, opened again: its configuration, and whether its data and network are still what they were."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dlopt.checkpoint import FORMAT, mismatch
from dlopt.config import trust as trust_rule
from dlopt.config.problems import ConfigError, Problems
from dlopt.experiment import Experiment
from dlopt.reading import SMALL, Unreadable, yaml_mapping
from dlopt.run import Run


def configuration(run: Run, *, trust: bool = False) -> DictConfig:
    """What the run was given; a path of its data is looked for where the run was started, too.

    Unless it is trusted, ConfigError where it names code of anybody's but dlopt and torch, refers to values that are
    not in it, or would write outside of the run's directory. People's own classes are looked for in the working
    directory of a trusted run alone.
    """
    content = yaml_mapping(run.config_file, SMALL)
    data = content.get("data")
    if isinstance(data, dict) and isinstance(data.get("path"), str):
        data["path"] = _found(data["path"], run)
    if trust:
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        return OmegaConf.create(content)
    problems = Problems()
    trust_rule.check(content, problems)
    problems.raise_any()
    if isinstance(data, dict) and "url" in data and data.get("path") is not None:
        data["url"] = None  # a run's own folder is read, and nothing is brought there
    return OmegaConf.create(content)


def _found(path: str, run: Run) -> str:
    """A path of data where it exists: as it stands, or from where the run was started; else unchanged."""
    try:
        if Path(path).expanduser().exists():
            return path
        began = yaml_mapping(run.hydra_file, SMALL)["hydra"]["runtime"]["cwd"]
        there = Path(began) / Path(path).expanduser()
        return str(there) if there.exists() else path
    except (OSError, Unreadable, KeyError, TypeError, RuntimeError):  # the file is of use for this alone
        return path


def writable(run: Run) -> None:
    """ConfigError where a run's directory holds a link, a pipe or the like: to write there would change other files."""
    problems = Problems()
    for path in _foreign(run.path):
        said = "is a link" if path.is_symlink() or path.is_file() else "is neither a file nor a directory"
        problems.add("resume", f"{path} {said}; a run that goes on writes into its own directory alone: remove it")
    problems.raise_any()


def _foreign(folder: Path) -> Iterator[Path]:
    """Whatever lies below a folder besides folders, and files that have no other name elsewhere."""
    left = [str(folder)]
    while left:
        with os.scandir(left.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    left.append(entry.path)
                elif not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                    yield Path(entry.path)


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
