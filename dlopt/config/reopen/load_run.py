"""Open the configuration of an existing run, and check that its data and network are still the same."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from dlopt.base.data import Data, Dataset
from dlopt.config.problems import ConfigError, Problems
from dlopt.config.reopen import trusted_targets as trust_rule
from dlopt.config.schema.renamed_keys import RENAMED_GROUPS
from dlopt.rundir.directory import RunDirectory
from dlopt.storage.fingerprint import digest_files
from dlopt.storage.safe_read import SMALL, UnreadableFile, read_yaml
from dlopt.training.checkpointing import FORMAT, find_mismatch
from dlopt.training.experiment import Experiment

NEW_KEY_DEFAULTS: dict[str, dict[str, Any]] = {"validation": {"scheme": "holdout", "k": 5, "fold": None}}
"""Keys that runs of earlier versions lack, each with the value that matches what those runs did."""


def load_config(
    run: RunDirectory,
    exchanged: Callable[[dict[str, Any]], dict[str, Any]] = lambda content: content,
    *,
    trust: bool = False,
    folders: Sequence[Path] = (),
) -> DictConfig:
    """Return a run's configuration, with the defaults of keys that are newer than the run.

    A relative path of its data is also looked up in the directory where the run was started. `exchanged` maps the
    stored configuration, in plain values, to the one to open.

    Unless it is trusted, ConfigError where a file or a folder of the run is a symbolic link, or where what it was given
    names code of anybody's but dlopt and torch, refers to values that are not in it, would write outside of the run's
    directory, or would read a file of people's own: one that lies neither in the working directory, nor in the run's,
    nor in one of these folders, and is not the one that the run has read; or weights to begin with that lie outside of
    the first two. People's own classes are looked for in the
    working directory of a trusted run alone.
    """
    if not trust:
        _check_links(run)
    former = run.config()
    for old in RENAMED_GROUPS.keys() & former.keys():
        message = f"{run.path} was written by an earlier version of dlopt, whose names differ ({old} is now"
        raise ConfigError([("run", f"{message} {RENAMED_GROUPS[old]}): train it again with this one")])
    content = exchanged(former)
    for name, later in NEW_KEY_DEFAULTS.items():
        node = content.get(name)
        if isinstance(node, dict):
            content[name] = node | {key: value for key, value in later.items() if key not in node}
    data = content.get("data")
    if isinstance(data, dict) and isinstance(data.get("path"), str):
        data["path"] = _locate_data(data["path"], run)
    if trust:
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        return OmegaConf.create(content)
    problems = Problems()
    trust_rule.check(content, problems)
    problems.raise_if_any()
    if isinstance(data, dict):
        _check_files(data, run, folders)
    _check_init_run(content.get("init"), run)
    if isinstance(data, dict) and "url" in data and data.get("path") is not None:
        data["url"] = None  # a run's own folder is read, and nothing is brought there
    return OmegaConf.create(content)


def _locate_data(path: str, run: RunDirectory) -> str:
    """Return a data path that exists: as written, or relative to where the run was started; else unchanged."""
    try:
        if Path(path).expanduser().exists():
            return path
        began = read_yaml(run.hydra_file, SMALL)["hydra"]["runtime"]["cwd"]
        there = Path(began) / Path(path).expanduser()
        return str(there) if there.exists() else path
    except (OSError, UnreadableFile, KeyError, TypeError, RuntimeError):  # the file is of use for this alone
        return path


def _check_links(run: RunDirectory) -> None:
    """Raise ConfigError if a file or folder of a run is a symbolic link: it could expose files from elsewhere."""
    problems = Problems()
    checkpoints = (*run.checkpoints(), *run.older_checkpoints().values())
    files = (run.status_file, run.metrics_file, run.config_file, *checkpoints)
    for path in dict.fromkeys([*(file.parent for file in files if file.parent != run.path), *files]):
        if path.is_symlink():
            problems.add("run", f"{path} is a symbolic link; {trust_rule.TRUST_ADVICE}")
    problems.raise_if_any()


def _check_files(data: Mapping[str, Any], run: RunDirectory, folders: Sequence[Path]) -> None:
    """Raise ConfigError if a data option of ours would read a file that the run may not have read."""
    made = trust_rule.find_class(data.get("_target_"))
    if made is None or not issubclass(made, Data):
        return
    try:
        files = made(**{key: value for key, value in data.items() if key != "_target_"}).files()
    except Exception:  # so do its making and loading, and say what is wrong
        return
    places = [folder.resolve() for folder in (Path.cwd(), run.path, *folders)]
    outside = [file for file in files if not any(file.resolve().is_relative_to(place) for place in places)]
    if outside and ((known := _digest(run)) is None or known != digest_files(files)):
        message = f"names a file of yours, {outside[0]}, which is not the one that the run has read"
        raise ConfigError(
            [("data.path", f"{message}; {trust_rule.TRUST_ADVICE}, or evaluate another one with --data FILE")]
        )


def _check_init_run(init: Any, run: RunDirectory) -> None:
    """Raise ConfigError if a run would start from weights of a run outside the working directory."""
    there = init.get("run") if isinstance(init, dict) else None
    if isinstance(there, str) and os.path.lexists(there):
        found = Path(there).resolve()
        if not any(found.is_relative_to(place.resolve()) for place in (Path.cwd(), run.path)):
            raise ConfigError([("init.run", f"names weights that lie elsewhere, {there}; {trust_rule.TRUST_ADVICE}")])


def _digest(run: RunDirectory) -> str | None:
    """Return the SHA-256 of the user's files that a run has read, from its newest checkpoint."""
    newest = run.latest_checkpoint()
    content = newest.content if newest is not None else run.load("best") if run.checkpoint("best").exists() else {}
    digest: str | None = content.get("encoding", {}).get("sha256")
    return digest


def check_writable(run: RunDirectory) -> None:
    """Raise ConfigError if a run's directory holds a link, a pipe or similar: writing could change other files."""
    problems = Problems()
    shared = []
    for path in _find_foreign_entries(run.path):
        if path.is_file() and not path.is_symlink():
            shared.append(path)
            continue
        said = "is a symbolic link" if path.is_symlink() else "is neither a file nor a directory"
        problems.add("resume", f"{path} {said}; a run that goes on writes into its own directory alone: remove it")
    if shared:
        more = f", and so has {len(shared) - 1} more" if len(shared) > 1 else ""
        problems.add(
            "resume",
            f"{shared[0]} has another name elsewhere (a hard link){more}, where its content would change as well; copy "
            f"the directory first, and go on with the copy: cp -r {run.path} {run.path}-copy",
        )
    problems.raise_if_any()


def _find_foreign_entries(folder: Path) -> Iterator[Path]:
    """Yield everything below a folder except folders and regular files without further hard links."""
    left = [str(folder)]
    while left:
        with os.scandir(left.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    left.append(entry.path)
                elif not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                    yield Path(entry.path)


def check(
    content: Mapping[str, Any], model: nn.Module, data: Dataset | Experiment, key: str, *, same_data: bool
) -> None:
    """Raise ConfigError if a checkpoint is of another network, or if a file of the user's has changed since.

    data gives the shape of an example and the encoding that the data have now.
    """
    number = content.get("format")
    if number != FORMAT:
        message = f"the checkpoint is of format {number}, this version of dlopt reads and writes {FORMAT}"
        raise ConfigError([(key, message)])
    if type(content["step"]) is not int or content["step"] < 0:
        raise ConfigError([(key, f"the checkpoint is damaged: {content['step']!r} is not a number of steps")])
    wrong = find_mismatch(content, model)
    if wrong and not same_data:
        shape = tuple(data.train.inputs.shape[1:])
        wrong = f"examples of shape {shape} do not fit the run's network: {wrong}"
    if wrong:
        raise ConfigError([(key, wrong)])
    before, now = (encoding.get("sha256") for encoding in (content["encoding"], data.encoding))
    if same_data and before != now:
        message = "the file has changed since the run read it, so its splits are others; "
        raise ConfigError([("data.path", message + "evaluate it as it is now with --data FILE, or train anew")])
