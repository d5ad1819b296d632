"""The order of metrics in TensorBoard's dashboard HPARAMS.

TensorBoard sorts them by their tags and shows the first five, which is accuracies before the objective val/loss.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any

from tensorboard.plugins.hparams import backend_context

from dlopt.rundir.tensorboard import to_tag

PARTS = (r"test/.*", r".*/val", r".*/train")
"""Patterns of the tags of a split, in the order in which the splits are shown."""


def order_tags(tags: Iterable[str], objectives: Collection[str]) -> list[str]:
    """Return tags in the order objective, test, validation, training, others; each part as it was."""
    first = {to_tag(objective) for objective in objectives}

    def rank(tag: str) -> int:
        parts = (i for i, pattern in enumerate(PARTS, 1) if re.fullmatch(pattern, tag))
        return 0 if tag in first else next(parts, 1 + len(PARTS))

    return sorted(tags, key=rank)


class OrderedContext(backend_context.Context):
    """Context of the dashboard HPARAMS, with the metrics in the order of `order_tags`."""

    def experiment_from_metadata(self, *args: Any, **kwargs: Any) -> Any:
        experiment = super().experiment_from_metadata(*args, **kwargs)
        values = (info.domain_discrete.values for info in experiment.hparam_infos if info.name == "objective")
        objectives = {value.string_value for each in values for value in each}
        infos = {(info.name.tag, info.name.group): info for info in experiment.metric_infos}
        place = {tag: i for i, tag in enumerate(order_tags(dict.fromkeys(tag for tag, _ in infos), objectives))}
        del experiment.metric_infos[:]
        experiment.metric_infos.extend(sorted(infos.values(), key=lambda info: place[info.name.tag]))
        return experiment


def use_order() -> None:
    """Let the TensorBoard that this process will start order its metrics."""
    backend_context.Context = OrderedContext
