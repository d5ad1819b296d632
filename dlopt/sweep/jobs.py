"""The runs of a sweep, each with its whole configuration.

Hydra takes 75 ms to compose one. Runs that differ in nothing but values are composed once: the rest is set in copies.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from dlopt import durable
from dlopt.config.nested import in_short
from dlopt.run import Run
from dlopt.sweep.pruning import Ticket

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader

_NUMBER = re.compile(r"[-+]?(0|[1-9]\d*)(\.\d*)?(e[-+]?\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class Job:
    """One run: all that the process needs that makes it.

    path       the run's directory
    title      what tells it from the other runs of the sweep
    overrides  what it is given, as Hydra has it
    config     its complete configuration, resolved
    choices    the option of each group
    hydra      the text of .hydra/hydra.yaml
    ticket     where it reports to be pruned, if it is to
    """

    path: Path
    title: str
    overrides: tuple[str, ...]
    config: Mapping[str, Any]
    choices: Mapping[str, Any]
    hydra: str
    ticket: Ticket | None = None


def opened(job: Job, path: Path) -> Run:
    """The run in this directory, with its configuration in it, and not begun yet."""
    run = Run(path)
    run.config_file.parent.mkdir(parents=True, exist_ok=True)
    durable.replace(run.config_file, OmegaConf.to_yaml(OmegaConf.create(dict(job.config))).encode())
    if job.hydra:
        durable.replace(run.hydra_file, job.hydra.encode())
        run.overrides_file.write_text(OmegaConf.to_yaml(OmegaConf.create(list(job.overrides))))
    return run


class Composer:
    """Composes the runs of one sweep; config is what Hydra composed of the overrides that are its own."""

    def __init__(self, loader: ConfigLoader, config: DictConfig) -> None:
        self._loader = loader
        self._config = config
        self._known: dict[tuple[str, ...], _Template] = {}

    def job(
        self, path: Path, overrides: Sequence[str], number: int, title: str = "", ticket: Ticket | None = None
    ) -> Job:
        """The run with these overrides. Raises what Hydra does where they cannot be composed."""
        values: dict[str, Any] = {}
        structure = []
        for override in overrides:
            key, equals, value = override.partition("=")
            plain = self._is_value(key) and equals and not value.startswith("{")
            structure.append(key if plain else override)
            if plain:
                values[key.lstrip("+")] = _parsed(value)
        template = self._known.get(tuple(structure))
        if template is None:
            template = self._known[tuple(structure)] = _Template(self._loader, self._config, overrides)
        return template.job(path, overrides, values, number, title, ticket)

    def _is_value(self, key: str) -> bool:
        """Whether a key holds a value, and no option of a group."""
        return "@" not in key and "~" not in key and not self._is_group(key.lstrip("+"))

    @cache  # noqa: B019  (lives as long as the sweep)
    def _is_group(self, key: str) -> bool:
        return bool(self._loader.get_group_options(key.replace(".", "/"))) if "." not in key else False


class _Template:
    """What runs with the same choices have in common."""

    def __init__(self, loader: ConfigLoader, config: DictConfig, overrides: Sequence[str]) -> None:
        composed = loader.load_sweep_config(config, list(overrides))
        with read_write(composed), open_dict(composed):
            hydra = composed.pop("hydra")
        self._config = composed
        self._tree: dict[str, Any] = OmegaConf.to_container(composed, resolve=False)  # type: ignore[assignment]
        self._interpolates = "${" in json.dumps(self._tree, default=str)
        self._hydra = hydra
        self._text = _hydra_text(hydra)
        choices = {in_short(k): v for k, v in hydra.runtime.choices.items()}
        self._choices = {k: v for k, v in choices.items() if not k.startswith("hydra/") and v is not None}

    def job(
        self,
        path: Path,
        overrides: Sequence[str],
        values: Mapping[str, Any],
        number: int,
        title: str,
        ticket: Ticket | None,
    ) -> Job:
        tree = copy.deepcopy(self._tree)
        for key, value in values.items():
            node = tree
            *above, last = key.split(".")
            for name in above:
                node = node[name]
            node[last] = value
        if self._interpolates:
            tree = self._resolved(tree, path, overrides, number)
        text = self._text.replace(_NUMBER_HERE, str(number)).replace(_PATH_HERE, json.dumps(str(path.resolve())))
        text = text.replace(f"- {_TASK_HERE}", "\n    ".join(f"- {json.dumps(o)}" for o in overrides))
        return Job(path, title, tuple(overrides), tree, self._choices, text, ticket)

    def _resolved(self, tree: dict[str, Any], path: Path, overrides: Sequence[str], number: int) -> dict[str, Any]:
        """The tree without interpolations, of which those of Hydra mean this run."""
        from hydra.core.hydra_config import HydraConfig

        whole = OmegaConf.create({**tree, "hydra": self._hydra})
        whole.hydra.job.num, whole.hydra.job.id = number, str(number)
        whole.hydra.overrides.task = list(overrides)
        whole.hydra.runtime.output_dir = str(path.resolve())
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(whole)
        try:
            found: dict[str, Any] = OmegaConf.to_container(OmegaConf.masked_copy(whole, list(tree)), resolve=True)  # type: ignore[assignment]
            return found
        finally:
            HydraConfig.instance().cfg = before


_NUMBER_HERE, _PATH_HERE, _TASK_HERE = "918273645", "'@path@'", "'@task@'"


def _hydra_text(hydra: DictConfig) -> str:
    """.hydra/hydra.yaml with marks where runs differ. The address of a storage, which may hold a password, is not in
    it."""
    own = copy.deepcopy(hydra)
    with read_write(own), open_dict(own):
        for name in ("help", "hydra_help"):
            own.pop(name, None)
        own.job.num, own.job.id = int(_NUMBER_HERE), _NUMBER_HERE
        own.overrides.task = [_TASK_HERE.strip("'")]
        own.overrides.hydra = [o for o in own.overrides.hydra if "storage=" not in o]
        own.runtime.output_dir = _PATH_HERE.strip("'")
        own.sweeper.storage = None
    return OmegaConf.to_yaml(OmegaConf.create({"hydra": own}))


def _parsed(text: str) -> Any:
    """The value that Hydra reads from what stands behind `key=`."""
    if _NUMBER.fullmatch(text):
        try:
            return int(text)
        except ValueError:
            return float(text)
    return copy.deepcopy(_grammar(text))


@lru_cache(maxsize=4096)
def _grammar(text: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_override(f"x={text}").value()
