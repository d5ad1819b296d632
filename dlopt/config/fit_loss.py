"""Fit the loss of a run to its targets, and check them."""

from __future__ import annotations

import dataclasses

import torch

from dlopt import parts
from dlopt.base.splits import count_classes
from dlopt.config.checks.splits import FittedDataState
from dlopt.config.load_data import EncodedData
from dlopt.config.make_parts import Components
from dlopt.config.problems import Problems
from dlopt.errors import OptionError


def fit_loss(
    components: Components, data: EncodedData | None, fitted: FittedDataState | None, problems: Problems
) -> Components:
    """Return the components with the loss fitted to the training split; unchanged without data or with a problem added.

    For other data than in training, the counts are those of the training split, which its checkpoint holds.
    """
    loss = components.single.get("loss")
    if data is None or not isinstance(loss, parts.Loss) or not problems.has_no_problem("loss"):
        return components
    dataset, train, validation = data
    try:
        counts = None
        if loss.needs_counts and dataset.kind == "classes":
            is_other = fitted is not None and fitted.is_other_data
            saved = fitted.encoding["class_counts"] if fitted is not None and is_other else None
            counts = count_classes(train, dataset.outputs) if saved is None else torch.tensor(saved)
        loss = loss.fit(dataset.kind, counts)
        for split in (train, validation, dataset.test) if dataset.is_labeled else ():
            if split is not None and len(split):
                loss.check_targets(split.targets if split.rows is None else split.targets[split.rows])
    except ValueError as error:
        problems.add(f"loss.{error.key}" if isinstance(error, OptionError) else "loss", str(error))
        return components
    return dataclasses.replace(components, single={**components.single, "loss": loss})
