"""The names of arrays in the data sets of Keras."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def rename_keras(stored: Mapping[str, Any], names: Sequence[str]) -> Mapping[str, Any]:
    """Return arrays of which x_train and y_train are called x and y, as these are in the data sets of Keras."""
    own = {f"{name}_train": name for name in names if name not in stored and f"{name}_train" in stored}
    return _Renamed(stored, {new: old for old, new in own.items()}) if own else stored


class _Renamed(Mapping[str, Any]):
    """A mapping in which some keys have another name; values are read on access."""

    def __init__(self, stored: Mapping[str, Any], names: Mapping[str, str]) -> None:
        self._stored, self._names = stored, names

    def __getitem__(self, name: str) -> Any:
        return self._stored[self._names.get(name, name)]

    def __iter__(self) -> Iterator[str]:
        old = set(self._names.values())
        return iter([*self._names, *(name for name in self._stored if name not in old)])

    def __len__(self) -> int:
        return len(self._stored)
