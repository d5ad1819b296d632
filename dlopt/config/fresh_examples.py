"""Fresh training examples for each epoch, for data.order=online."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from dlopt import parts, prng
from dlopt.base import splits
from dlopt.config.load_data import EncodedData, LoadedData
from dlopt.training.experiment import Settings


def make_generator(
    data: LoadedData,
    encoded: EncodedData,
    preprocess: Mapping[str, parts.Preprocess],
    statistics: Mapping[str, Mapping[str, Tensor]],
    settings: Settings,
) -> Callable[[int], parts.Split] | None:
    """Return a function that draws the training examples of an epoch; None for other orders.

    They are as many as the training split has, with its label noise, and are encoded and preprocessed by its
    statistics.
    """
    option = data.option
    if option.order != "online":
        return None
    count, seed, encoding = len(encoded.train), prng.key(settings.seed), encoded.dataset.encoding

    def draw(epoch: int) -> parts.Split:
        split = option.draw(prng.fold_in(prng.fold_in(seed, "online"), epoch), count)
        if option.label_noise > 0:
            key = prng.fold_in(prng.fold_in(seed, "label_noise"), epoch)
            split = splits.add_label_noise(split, option.label_noise, encoded.dataset.outputs, key)
        assert isinstance(split.inputs, Tensor)
        inputs = option.transform_inputs(split.inputs, encoding)
        for name, part in preprocess.items():
            inputs = part.apply(inputs, statistics[name])
        return parts.Split(inputs, option.transform_targets(split.targets, encoding))

    return draw
