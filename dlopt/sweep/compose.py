"""The runs of a sweep, each with its whole configuration.

Hydra takes 75 ms to compose one. Runs that differ in nothing but values are composed once: the rest is set in copies.
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

from dlopt.runner.job import Job, get_choices
from dlopt.sweep.pruning import PruningTicket

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader

_NUMBER = re.compile(r"[-+]?(0|[1-9]\d*)(\.\d*)?(e[-+]?\d+)?", re.IGNORECASE)


def leave_out_address(hydra: DictConfig) -> None:
    """Before it is written to files: the address of a storage may hold a password."""
    with read_write(hydra), open_dict(hydra):
        hydra.overrides.hydra = [o for o in hydra.overrides.hydra if "storage=" not in o]
        hydra.sweeper.storage = None


class Composer:
    """Composes the runs of one sweep; config is what Hydra composed of the overrides that are its own."""

    def __init__(self, loader: ConfigLoader, config: DictConfig) -> None:
        self._loader = loader
        self._config = config
        self._templates: dict[tuple[str, ...], _Template] = {}

    def compose_job(
        self, path: Path, overrides: Sequence[str], number: int, title: str = "", ticket: PruningTicket | None = None
    ) -> Job:
        """The run with these overrides. Raises what Hydra does where they cannot be composed."""
        values: dict[str, Any] = {}
        structure = []
        keys = [override.partition("=")[0].lstrip("+~") for override in overrides]
        nodes = {key[:end] for key in keys for end in (m.start() for m in re.finditer(r"\.", key))}
        tangled = {key for key in keys if key in nodes}  # others set what is below it: their order counts
        for override in overrides:
            key, equals, value = override.partition("=")
            among = any(f"{key.lstrip('+')}.".startswith(f"{node}.") for node in tangled)
            plain = equals and not among and self._is_value(key) and not value.startswith("{")
            structure.append(key if plain else override)
            if plain:
                values[key.lstrip("+")] = _parse_value(value)
        template = self._templates.get(tuple(structure))
        if template is None:
            template = self._templates[tuple(structure)] = _Template(self._loader, self._config, overrides)
        return template.compose_job(path, overrides, values, number, title, ticket)

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
        self._interpolates = _interpolates(self._tree)
        self._hydra = hydra
        self._text = _hydra_text(hydra)
        self._choices = get_choices(hydra)

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
            *above, last = key.split(".")
            for name in above:
                node = node[_index(node, name)]
            node[_index(node, last)] = value
        if self._interpolates or _interpolates(values):
            tree = self._resolve(tree, path, overrides, number)
        text = self._text.replace(_NUMBER_HERE, str(number)).replace(_PATH_HERE, _quote_yaml(str(path.resolve())))
        text = text.replace(_NAME_HERE, _quote_yaml(self._override_dirname(overrides)))
        text = text.replace(f"\n    - {_TASK_HERE}", "".join(f"\n    - {_quote_yaml(o)}" for o in overrides) or " []")
        return Job(path, title, tuple(overrides), tree, self._choices, text, ticket)

    def _override_dirname(self, overrides: Sequence[str]) -> str:
        """hydra.job.override_dirname: the overrides in one word, of which folders can be named."""
        form = self._hydra.job.config.override_dirname
        taken = [o for o in overrides if re.split("[@=]", o.lstrip("+~"))[0] not in form.exclude_keys]
        return str(form.item_sep).join(sorted(taken)).replace("=", form.kv_sep)

    def _resolve(self, tree: dict[str, Any], path: Path, overrides: Sequence[str], number: int) -> dict[str, Any]:
        """The tree without interpolations, of which those of Hydra mean this run."""
        from hydra.core.hydra_config import HydraConfig

        whole = OmegaConf.create({**tree, "hydra": self._hydra})
        whole.hydra.job.num, whole.hydra.job.id = number, str(number)
        whole.hydra.job.override_dirname = self._override_dirname(overrides)
        whole.hydra.overrides.task = list(overrides)
        whole.hydra.runtime.output_dir = str(path.resolve())
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(whole)
        try:
            found: dict[str, Any] = OmegaConf.to_container(OmegaConf.masked_copy(whole, list(tree)), resolve=True)  # type: ignore[assignment]
            return found
        finally:
            HydraConfig.instance().cfg = before


_NUMBER_HERE, _PATH_HERE, _NAME_HERE, _TASK_HERE = "918273645", "'@path@'", "'@name@'", "'@task@'"


def _interpolates(tree: Mapping[str, Any]) -> bool:
    return "${" in json.dumps(tree, default=str)


def _index(node: Any, name: str) -> str | int:
    """A key's part in a node: of a list it is a number."""
    return int(name) if isinstance(node, list) else name


def _quote_yaml(text: str) -> str:
    """As YAML reads it: JSON's pairs of surrogates would be two characters there."""
    return json.dumps(text, ensure_ascii=False)


def _hydra_text(hydra: DictConfig) -> str:
    """.hydra/hydra.yaml with marks where runs differ."""
    own = copy.deepcopy(hydra)
    leave_out_address(own)
    with read_write(own), open_dict(own):
        for name in ("help", "hydra_help"):
            own.pop(name, None)
        own.job.num, own.job.id = int(_NUMBER_HERE), _NUMBER_HERE
        own.job.override_dirname = _NAME_HERE.strip("'")
        own.overrides.task = [_TASK_HERE.strip("'")]
        own.runtime.output_dir = _PATH_HERE.strip("'")
    return OmegaConf.to_yaml(OmegaConf.create({"hydra": own}))


def _parse_value(text: str) -> Any:
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
