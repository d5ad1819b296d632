"""Examples that are drawn at random: the same ones in every run."""

from __future__ import annotations

from collections.abc import Callable

from dlopt import prng
from dlopt.base.data import Data, Dataset, Split
from dlopt.data import _files
from dlopt.errors import OptionError
from dlopt.storage import memory


def load_drawn(
    option: Data, sizes: tuple[int, int], example_bytes: int, draw: Callable[[prng.Key, int], Split], **facts: int
) -> Dataset:
    """Return a data set whose training and test split are drawn with two keys, and keep it for other runs.

    sizes           the numbers of training and test examples
    example_bytes   memory that one example needs while it is drawn
    facts           further fields of the data set
    """
    if option.path is not None:
        raise OptionError("path", "the examples are drawn, not read: leave it out")
    try:
        memory.check(sum(sizes) * example_bytes, f"{sum(sizes):,} examples")
    except memory.NotEnoughMemoryError as error:
        raise OptionError("size", str(error)) from error

    def load() -> Dataset:
        train, test = (
            draw(prng.key(0, type(option).__name__, split), size)
            for split, size in zip(("train", "test"), sizes, strict=True)
        )
        return Dataset(train, test, **facts)  # type: ignore[arg-type]

    return _files.cache.load(option, "", load)
