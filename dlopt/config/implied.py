"""Overrides that a command implies: the loss for data of numbers, and metrics that it asks for without measuring them.

They are composed as if they had been typed, so the recorded configuration and the recorded overrides state them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from dlopt.base.data import TargetKind
from dlopt.config.checks.metrics import list_possible_metrics, remove_split
from dlopt.config.compose.hydra_app import HydraApp, list_overrides
from dlopt.config.compose.plain import to_plain
from dlopt.config.compose.static_config import StaticConfig
from dlopt.config.load_data import LoadedData, load_data
from dlopt.config.make_parts import Override
from dlopt.config.problems import Problems
from dlopt.config.schema import targets
from dlopt.formatting import format_override

LOSS_OF_NUMBERS = "mse"
NOTICE = f"loss: the targets of this data are numbers, so it is {LOSS_OF_NUMBERS}; loss=NAME chooses another"


class DataKinds:
    """The kinds of targets of data options, each of which is loaded once; None if one cannot be loaded.

    loaded   the data that were loaded last
    notices  those of all that were loaded
    """

    def __init__(self) -> None:
        self.loaded: LoadedData | None = None
        self.notices: list[str] = []
        self._kinds: dict[str, TargetKind | None] = {}

    def find(self, node: Mapping[str, Any]) -> TargetKind | None:
        """Return the kind of a data option's targets."""
        key = json.dumps(node, sort_keys=True, default=str)
        if key not in self._kinds:
            problems = Problems()  # `build` finds them again, and reports them
            targets.check("data", dict(node), (), problems)
            self.loaded = problems.attempt(lambda: load_data(dict(node), None, problems)).value_or_none
            self.notices += problems.notices
            self._kinds[key] = None if self.loaded is None else self.loaded.dataset.kind
        return self._kinds[key]


def complete_run(app: HydraApp, config: Any) -> tuple[Any, DataKinds]:
    """Return the configuration of a run with the overrides that it implies, and the data that were loaded for it."""
    kinds = DataKinds()
    while implied := find_implied(to_plain(config), list_overrides(config.hydra), kinds.find):
        kinds.notices += [NOTICE] * implied[0].startswith("loss=")
        app.overrides += implied
        config = app.compose(multirun=False)
    return config, kinds


def find_implied(
    config: Mapping[str, Any],
    overrides: Sequence[str],
    find_kind: Callable[[Mapping[str, Any]], TargetKind | None],
) -> list[str]:
    """Return the overrides that a configuration implies next, in plain values; none if it is complete.

    The default loss gives way if neither it nor one of its keys is typed, except for its metrics.
    """
    keys = {Override.parse(override).key for override in overrides}
    is_typed = any(key == "loss" or (key.startswith("loss.") and key != "loss.metrics") for key in keys)
    loss, data = config.get("loss"), config.get("data")
    if not isinstance(loss, dict):
        return []
    gives_way = not is_typed and loss.get("_target_") == _get_default_loss()
    if gives_way and isinstance(data, dict) and "_target_" in data and find_kind(data) == "numbers":
        return [f"loss={LOSS_OF_NUMBERS}"]
    measured = loss.get("metrics")
    asked = dict.fromkeys(map(remove_split, [str(config.get("objective")), *_iter_monitors(config)]))
    missing = [name for name in asked if isinstance(measured, list) and name not in measured]
    target = targets.resolve("loss", loss, Problems()) if missing else None
    added = [name for name in missing if target is not None and name in list_possible_metrics(target)]
    return [f"loss.metrics={format_override([*measured, *added])}"] if measured is not None and added else []


@cache
def _get_default_loss() -> str:
    """Return the class of the loss of conf/config.yaml."""
    static = StaticConfig({})
    return str(static.read_option("loss", static.default_options()["loss"])["_target_"])


def _iter_monitors(node: Any) -> Iterator[str]:
    """Yield the metrics that components of a configuration monitor."""
    for key, value in node.items() if isinstance(node, dict) else ():
        if key == "monitor" and isinstance(value, str):
            yield value
        else:
            yield from _iter_monitors(value)
