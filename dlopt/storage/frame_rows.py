"""The rows of a frame of polars as text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars


class FrameRows(Sequence[Sequence[str]]):
    """The rows of a frame of text."""

    def __init__(self, frame: polars.DataFrame) -> None:
        self.frame = frame

    def __len__(self) -> int:
        return len(self.frame)

    def __getitem__(self, i: Any) -> Any:
        return [*self][i] if isinstance(i, slice) else [*self.frame.row(i)]

    def __iter__(self) -> Iterator[list[str]]:
        return map(list, self.frame.iter_rows())


class TypedRows(Sequence[Sequence[str]]):
    """The rows of a frame of numbers, text and dates; `format_columns` gives the text of its columns."""

    def __init__(self, frame: polars.DataFrame, format_columns: Callable[[polars.DataFrame], list[list[str]]]) -> None:
        self.frame = frame
        self._format_columns = format_columns

    def __len__(self) -> int:
        return len(self.frame)

    @cached_property
    def _rows(self) -> list[list[str]]:
        return [list(row) for row in zip(*self._format_columns(self.frame), strict=True)]

    def __getitem__(self, i: Any) -> Any:
        return self._rows[i]

    def __iter__(self) -> Iterator[list[str]]:
        return iter(self._rows)
