"""Load a trained network for inference."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dlopt.api.opening import open_directory
from dlopt.api.process_state import keep_process_state

if TYPE_CHECKING:
    from dlopt.training.inference import Predictor


def load(
    run: str | Path = "last",
    checkpoint: str | int = "best",
    *,
    data: str | Path | Sequence[str | Path] = (),
    device: str = "auto",
    trust: bool = False,
) -> Predictor:
    """Return the Predictor of a run: its network with the preprocessing, encodings and class names.

    run          a directory, a unique part of its name, or `last`; of a sweep, its best finished run
    checkpoint   best, last, average, or a number of steps; without a validation split, the best weights are the last
    data         other data in place of the run's own, as `dlopt evaluate --data` takes them: their examples are the
                 splits test and all of the predictor
    device       auto, cpu, cuda, ...
    trust        execute code that the run names, such as custom classes

    Damage of checkpoints that others replace, and what is odd about other data, are Python warnings. Raises RunError if
    the run cannot be opened, and ConfigError if it has no such checkpoint or does not fit the data.

        predictor = dlopt.load("last")
        predictor.evaluate("test")                # {"loss": 0.31, "accuracy": 0.94}
        predictor.probabilities(inputs)           # (N, classes), of a tensor of raw inputs
    """
    arguments = [str(data)] if isinstance(data, str | Path) else [str(argument) for argument in data]
    with keep_process_state(quiet=True), open_directory(str(run), trust=trust, outcome="nothing was loaded") as opened:
        from dlopt.config.reopen.load_predictor import load_predictor

        predictor, notices = load_predictor(opened, str(checkpoint), data=arguments, device=device, trust=trust)
    for notice in notices:
        warnings.warn(notice, stacklevel=2)
    return predictor
