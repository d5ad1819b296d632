"""Open the configuration of an existing run, and check that its data and network are still the same."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from dlopt.base.data import Data, Dataset
from dlopt.config.compose.groups import DATA_FILE_KEYS
from dlopt.config.problems import ConfigError, Problems
from dlopt.config.reopen import trusted_targets as trust_rule
from dlopt.config.schema.renamed_keys import ADDED_DATA_KEYS, ADDED_KEYS, ADDED_SETTINGS, RENAMED_GROUPS
from dlopt.config.schema.targets import add_working_directory
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.find import is_file_name
from dlopt.storage.safe_read import SMALL, UnreadableFile, read_yaml
from dlopt.training.checkpointing import FORMAT, find_mismatch
from dlopt.training.experiment import Experiment


def load_config(
    run: RunDirectory,
    transform: Callable[[dict[str, Any]], dict[str, Any]] = lambda content: content,
    *,
    trust: bool = False,
    folders: Sequence[Path] = (),
) -> DictConfig:
    """Return a run's configuration.

    transform   maps the stored configuration, in plain values, to the one to open
    trust       allow all that is listed below, and import custom classes from the working directory
    folders     further folders from which data may be read

    A relative data path is also looked up in the directory where the run was started. Raises ConfigError if an earlier
    version of dlopt wrote the run, and unless it is trusted, if

    - a file or folder of the run is a symbolic link,
    - the configuration names code of neither dlopt nor torch, or refers to values outside of itself,
    - data would be written outside of the run's directory, or downloaded from an address that is not the option's,
    - a data file lies outside the working directory, the run and `folders`, and is not the file that the run has read,
    - the initial weights or the teacher lie outside the working directory and the run,
    - it would execute code that the run of a teacher names.
    """
    if not trust:
        check_links(run)
    stored = run.config()
    for old in RENAMED_GROUPS.keys() & stored.keys():
        message = f"{run.path} was written by an earlier version of dlopt, whose names differ ({old} is now"
        raise ConfigError([("run", f"{message} {RENAMED_GROUPS[old]}): train it again with this one")])
    content = add_missing_keys(transform(stored))
    data = content.get("data")
    if isinstance(data, dict):
        data |= {key: _locate_data(data[key], run) for key in DATA_FILE_KEYS if isinstance(data.get(key), str)}
    if trust:
        add_working_directory()
        return OmegaConf.create(content)
    check_untrusted(content, (Path.cwd(), run.path), lambda: _read_digests(run), folders)
    return OmegaConf.create(content)


def add_missing_keys(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored configuration with the keys that were added since, at the values that they had."""
    content = {key: _add_keys(node) for key, node in content.items()}
    if "batch_size" in content:  # the configuration has settings
        content = _merge(content, ADDED_SETTINGS)
    data = content.get("data")
    if isinstance(data, dict) and "_target_" in data:
        content["data"] = _merge(data, ADDED_DATA_KEYS)
    return content


def _add_keys(node: Any) -> Any:
    """Return a node with the missing keys of its options, at any depth."""
    if not isinstance(node, dict):
        return node
    added = ADDED_KEYS.get(str(node.get("_target_")), {})
    return _merge({key: _add_keys(value) for key, value in node.items()}, added)


def _merge(content: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping with the keys that it lacks, at any depth."""
    inner = {
        key: _merge(content[key], value)
        for key, value in added.items()
        if isinstance(value, dict) and isinstance(content.get(key), dict)
    }
    return {**content, **{key: value for key, value in added.items() if key not in content}, **inner}


def check_untrusted(
    content: dict[str, Any], places: Sequence[Path], digests: Callable[[], Container[str]], folders: Sequence[Path] = ()
) -> None:
    """Raise ConfigError for what `load_config` refuses in a configuration that is not trusted.

    places    folders from which data and weights may be read
    digests   returns the SHA-256 of data files that have been read before and may lie elsewhere; () for none
    folders   further folders from which data may be read

    The address of data with a path is set to null: the path is only read, and nothing is downloaded into it.
    """
    problems = Problems()
    trust_rule.check(content, problems)
    problems.raise_if_any()
    data = content.get("data")
    if isinstance(data, dict):
        _check_files(data, (*places, *folders), digests)
    for key in ("init.run", "distillation.teacher"):
        _check_place(content, key, places)
    if isinstance(distillation := content.get("distillation"), dict) and distillation.get("trust", False) is not False:
        wrong = "would execute code that another run names"
        raise ConfigError([("distillation.trust", f"{wrong}; {trust_rule.TRUST_ADVICE}")])
    if isinstance(data, dict) and "url" in data and data.get("path") is not None:
        data["url"] = None


def _locate_data(path: str, run: RunDirectory) -> str:
    """Return a data path that exists: as written, or relative to where the run was started; else unchanged."""
    try:
        if Path(path).expanduser().exists():
            return path
        started_in = read_yaml(run.hydra_file, SMALL)["hydra"]["runtime"]["cwd"]
        file = Path(started_in) / Path(path).expanduser()
        return str(file) if file.exists() else path
    except (OSError, UnreadableFile, KeyError, TypeError, RuntimeError):  # hydra_file is used only here
        return path


def check_links(run: RunDirectory) -> None:
    """Raise ConfigError if a file or folder of a run is a symbolic link: it could expose files from elsewhere."""
    problems = Problems()
    checkpoints = (*run.checkpoints(), *run.older_checkpoints().values())
    files = (run.status_file, run.metrics_file, run.config_file, *checkpoints)
    for path in dict.fromkeys([*(file.parent for file in files if file.parent != run.path), *files]):
        if path.is_symlink():
            problems.add("run", f"{path} is a symbolic link; {trust_rule.TRUST_ADVICE}")
    problems.raise_if_any()


def _check_files(data: Mapping[str, Any], folders: Sequence[Path], digests: Callable[[], Container[str]]) -> None:
    """Raise ConfigError if an option of dlopt would read an unknown file outside the folders."""
    option = trust_rule.find_class(data.get("_target_"))
    if option is None or not issubclass(option, Data):
        return
    files: Sequence[Path] = ()
    with contextlib.suppress(Exception):  # building and loading the data will fail too, and report the error
        known_data = option(**{key: value for key, value in data.items() if key != "_target_"})
        files = known_data.files()
    is_recorded = bool(files)
    if not files and data.get("verify") is not True:  # with verify only official files are read
        paths = [Path(path).expanduser() for key in DATA_FILE_KEYS if isinstance(path := data.get(key), str)]
        files = [path for path in paths if os.path.lexists(path)]
    outside = [file for file in files if not _is_inside(file, folders)]
    if outside and not (is_recorded and (known := digests()) and known_data.digest() in known):
        wrong = f"names a file of yours, {outside[0]}, which is not the one that was read before"
        remedy = f"{trust_rule.TRUST_ADVICE}, or evaluate another one with --data FILE"
        raise ConfigError([("data.path", f"{wrong}; {remedy}")])


def _check_place(content: Mapping[str, Any], key: str, folders: Sequence[Path]) -> None:
    """Raise ConfigError if a key names weights outside the folders."""
    group, _, name = key.partition(".")
    node = content.get(group)
    source = node.get(name) if isinstance(node, dict) else None
    if isinstance(source, str) and os.path.lexists(source) and not _is_inside(Path(source), folders):
        raise ConfigError([(key, f"names weights that lie elsewhere, {source}; {trust_rule.TRUST_ADVICE}")])


def _is_inside(path: Path, folders: Iterable[Path]) -> bool:
    """Return whether a path, with its links resolved, lies in one of the folders."""
    return any(path.resolve().is_relative_to(folder.resolve()) for folder in folders)


def _read_digests(run: RunDirectory) -> tuple[str, ...]:
    """Return the SHA-256 of the user's files that a run has read, from its newest checkpoint; () if it has none."""
    digest: str | None = read_encoding(run).get("sha256")
    return () if digest is None else (digest,)


def read_encoding(run: RunDirectory) -> Mapping[str, Any]:
    """Return the encoding of a run's data from its newest checkpoint; empty if it has none."""
    newest = run.latest_checkpoint()
    content = newest.content if newest is not None else run.load("best") if run.checkpoint("best").exists() else {}
    encoding: Mapping[str, Any] = content.get("encoding", {})
    return encoding


def check_writable(folder: Path) -> None:
    """Raise ConfigError if a run or sweep holds a link or similar: writing could change other files, or fail."""
    problems = Problems()
    shared = []
    for path in _find_foreign_entries(folder):
        if path.is_file() and not path.is_symlink():
            shared.append(path)
            continue
        wrong = "is neither a file nor a directory"
        if path.is_symlink() or path.is_dir():
            wrong = "is a symbolic link" if path.is_symlink() else "is a directory in the place of a file"
        problems.add("resume", f"{path} {wrong}; resuming writes only into this directory: remove it")
    if shared:
        more = f", and so has {len(shared) - 1} more" if len(shared) > 1 else ""
        wrong = f"{shared[0]} has another name elsewhere (a hard link){more}, where its content would change too"
        remedy = f"copy the directory, and resume the copy: cp -r {folder} {folder}-copy"
        problems.add("resume", f"{wrong}; {remedy}")
    problems.raise_if_any()


def _find_foreign_entries(folder: Path) -> Iterator[Path]:
    """Yield all but regular files without further hard links, and directories that have no name of a file."""
    remaining = [str(folder)]
    while remaining:
        with os.scandir(remaining.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode) and not is_file_name(entry.name):
                    remaining.append(entry.path)
                elif not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                    yield Path(entry.path)


def check(
    content: Mapping[str, Any], model: nn.Module, data: Dataset | Experiment | None, key: str, *, same_data: bool
) -> None:
    """Raise ConfigError if a checkpoint is of another network.

    data gives the shape of an example, for the message if same_data is False: whether it is the data that the run was
    trained on.
    """
    number = content.get("format")
    if number != FORMAT:
        message = f"the checkpoint is of format {number}, this version of dlopt reads and writes {FORMAT}"
        raise ConfigError([(key, message)])
    if type(content["step"]) is not int or content["step"] < 0:
        raise ConfigError([(key, f"the checkpoint is damaged: {content['step']!r} is not a number of steps")])
    wrong = find_mismatch(content, model)
    if wrong and data is not None and not same_data:
        shape = tuple(data.train.inputs.shape[1:])
        wrong = f"examples of shape {shape} do not fit the run's network: {wrong}"
    if wrong:
        raise ConfigError([(key, wrong)])
