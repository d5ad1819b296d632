"""The runs of a sweep, each with its complete configuration.

Hydra takes 75 ms to compose one. Runs that differ only in values are composed once: the values are set in copies.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from dlopt.config.implied import DataKinds, find_implied
from dlopt.runner.job import Job, get_choices
from dlopt.sweep.pruning import PruningTicket

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader

    from dlopt.sweep.reopen import Guard

_NUMBER = re.compile(r"[-+]?(0|[1-9]\d*)(\.\d*)?(e[-+]?\d+)?", re.IGNORECASE)

# Marks in the text of .hydra/hydra.yaml. Replacing them takes 0.81 ms a run; setting values and dumping takes 1.97 ms.
_NUMBER_MARK, _PATH_MARK, _NAME_MARK, _TASK_MARK = "918273645", "'@path@'", "'@name@'", "'@task@'"


def remove_storage_address(hydra: DictConfig) -> None:
    """Remove the address of a storage, which may hold a password, before the configuration is written to files."""
    with read_write(hydra), open_dict(hydra):
        hydra.overrides.hydra = [o for o in hydra.overrides.hydra if "storage=" not in o]
        hydra.sweeper.storage = None


class Composer:
    """Composes the runs of one sweep; config is what Hydra has composed from the overrides of the sweep itself.

    guard: judges each run of a sweep that is not trusted.
    """

    def __init__(self, loader: ConfigLoader, config: DictConfig, guard: Guard | None = None) -> None:
        self._loader = loader
        self._config = config
        self.guard = guard
        self.kinds = DataKinds()
        self.is_loss_implied = False
        self._templates: dict[tuple[str, ...], _Template] = {}

    def compose_job(
        self, path: Path, overrides: Sequence[str], number: int, title: str = "", ticket: PruningTicket | None = None
    ) -> Job:
        """Return the run with these overrides. Raises Hydra's error if they cannot be composed.

        Raises ConfigError if the guard refuses the run.
        """
        if self.guard is not None:
            self.guard.check_overrides(overrides)
        job = self._compose(path, overrides, number, title, ticket)
        while implied := find_implied(job.config, job.overrides, self.kinds.find):
            self.is_loss_implied |= implied[0].startswith("loss=")
            job = self._compose(path, [*job.overrides, *implied], number, title, ticket)
        self.kinds.loaded = None  # only their kind is needed from here on
        return job

    def _compose(
        self, path: Path, overrides: Sequence[str], number: int, title: str, ticket: PruningTicket | None
    ) -> Job:
        """Return the run with exactly these overrides."""
        values: dict[str, Any] = {}
        structure = []
        keys = [override.partition("=")[0].lstrip("+~") for override in overrides]
        nodes = {key[:dot] for key in keys for dot in (m.start() for m in re.finditer(r"\.", key))}
        parents = tuple(f"{key}." for key in keys if key in nodes)  # other overrides set keys below: order counts
        for override in overrides:
            key, equals, value = override.partition("=")
            name = key.lstrip("+")
            if equals and not f"{name}.".startswith(parents) and self._is_value(key) and not value.startswith("{"):
                structure.append(key)
                values[name] = _parse_value(value)
            else:
                structure.append(override)
        template = self._templates.get(tuple(structure))
        if template is None:
            template = self._templates[tuple(structure)] = _Template(self._loader, self._config, overrides)
        job = template.compose_job(path, overrides, values, number, title, ticket)
        if self.guard is not None:
            self.guard.check_config(job.config)
        return job

    @cache  # noqa: B019  (lives as long as the sweep)
    def _is_value(self, key: str) -> bool:
        """Return whether a key holds a value, not an option of a group."""
        name = key.lstrip("+")
        return not any(c in name for c in "@~") and ("." in name or not self._loader.get_group_options(name))


class _Template:
    """The common part of runs with the same choices."""

    def __init__(self, loader: ConfigLoader, config: DictConfig, overrides: Sequence[str]) -> None:
        composed = loader.load_sweep_config(config, list(overrides))
        with read_write(composed), open_dict(composed):
            self._hydra = composed.pop("hydra")
        self._tree: dict[str, Any] = OmegaConf.to_container(composed, resolve=False)  # type: ignore[assignment]
        self._has_interpolation = _has_interpolation(self._tree)
        self._text = _dump_with_marks(self._hydra)
        self._choices = get_choices(self._hydra)

    def compose_job(
        self,
        path: Path,
        overrides: Sequence[str],
        values: Mapping[str, Any],
        number: int,
        title: str,
        ticket: PruningTicket | None,
    ) -> Job:
        tree = copy.deepcopy(self._tree)
        for key, value in values.items():
            node: Any = tree
            *parents, last = key.split(".")
            for name in parents:
                node = node[_to_index(node, name)]
            node[_to_index(node, last)] = value
        if self._has_interpolation or _has_interpolation(values):
            tree = self._resolve(tree, path, overrides, number)
        text = self._text.replace(_NUMBER_MARK, str(number)).replace(_PATH_MARK, _quote_yaml(str(path.resolve())))
        text = text.replace(_NAME_MARK, _quote_yaml(self._format_override_dirname(overrides)))
        text = text.replace(f"\n    - {_TASK_MARK}", "".join(f"\n    - {_quote_yaml(o)}" for o in overrides) or " []")
        return Job(path, title, tuple(overrides), tree, self._choices, text, ticket)

    def _format_override_dirname(self, overrides: Sequence[str]) -> str:
        """Return hydra.job.override_dirname: the overrides as a name for a directory."""
        form = self._hydra.job.config.override_dirname
        included = [o for o in overrides if re.split("[@=]", o.lstrip("+~"))[0] not in form.exclude_keys]
        return str(form.item_sep).join(sorted(included)).replace("=", form.kv_sep)

    def _resolve(self, tree: dict[str, Any], path: Path, overrides: Sequence[str], number: int) -> dict[str, Any]:
        """Return the tree with interpolations resolved; Hydra's own refer to this run."""
        from hydra.core.hydra_config import HydraConfig

        config = OmegaConf.create({**tree, "hydra": self._hydra})
        dirname = self._format_override_dirname(overrides)
        _set_run(config.hydra, number, str(number), dirname, list(overrides), str(path.resolve()))
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(config)
        try:
            return OmegaConf.to_container(OmegaConf.masked_copy(config, list(tree)), resolve=True)  # type: ignore[return-value]
        finally:
            HydraConfig.instance().cfg = before


def _set_run(hydra: DictConfig, number: int, job_id: str, dirname: str, task: list[str], folder: str) -> None:
    """Set the values of Hydra's configuration in which the runs of a sweep differ."""
    hydra.job.num, hydra.job.id, hydra.job.override_dirname = number, job_id, dirname
    hydra.overrides.task = task
    hydra.runtime.output_dir = folder


def _dump_with_marks(hydra: DictConfig) -> str:
    """Return the text of .hydra/hydra.yaml, with marks where runs differ."""
    hydra = copy.deepcopy(hydra)
    remove_storage_address(hydra)
    with read_write(hydra), open_dict(hydra):
        hydra.pop("help", None)
        hydra.pop("hydra_help", None)
        name, task, folder = (mark.strip("'") for mark in (_NAME_MARK, _TASK_MARK, _PATH_MARK))
        _set_run(hydra, int(_NUMBER_MARK), _NUMBER_MARK, name, [task], folder)
    return OmegaConf.to_yaml(OmegaConf.create({"hydra": hydra}))


def _has_interpolation(tree: Mapping[str, Any]) -> bool:
    return "${" in json.dumps(tree, default=str)


def _to_index(node: Any, name: str) -> str | int:
    """Return a part of a key as the index of a node, which is a number in a list."""
    return int(name) if isinstance(node, list) else name


def _quote_yaml(text: str) -> str:
    """Quote text for YAML, which would read JSON's surrogate pairs as two characters."""
    return json.dumps(text, ensure_ascii=False)


def _parse_value(text: str) -> Any:
    """Return the value that Hydra reads from the text after `key=`."""
    if _NUMBER.fullmatch(text):
        try:
            return int(text)
        except ValueError:
            return float(text)
    return copy.deepcopy(_parse_with_hydra(text))


@lru_cache(maxsize=4096)
def _parse_with_hydra(text: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_override(f"x={text}").value()
