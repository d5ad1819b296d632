"""The evaluations of a run so far, and folds over them that read each evaluation once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, overload

from dlopt.metrics.names import Direction

Metrics = Mapping[str, float]
StateT = TypeVar("StateT")


class History(Sequence[Metrics]):
    """The rows of all evaluations of a run so far, in order: metrics by name, with their "step".

    Rows before the first averaged iterate have no metric of average/.

    A history does not change: `append` returns the next one, which shares the rows and the folds with this one.

    directions   the directions of improvement that the loss declares for its own metrics
    """

    def __init__(self, rows: Iterable[Metrics] = (), directions: Mapping[str, Direction] | None = None) -> None:
        self.directions = directions or {}
        self._rows = list(rows)
        self._length = len(self._rows)
        self._folds: dict[int, tuple[Any, int, Any]] = {}

    @classmethod
    def of(cls, rows: Sequence[Metrics]) -> History:
        """Return the history of these rows; a history is returned unchanged."""
        return rows if isinstance(rows, cls) else cls(rows)

    def append(self, row: Metrics) -> History:
        """Return the history with one more row, in constant time."""
        if self._length < len(self._rows):  # the shared rows already continue in another way
            return History([*self, row], self.directions)
        longer = History((), self.directions)
        longer._rows, longer._length, longer._folds = self._rows, self._length + 1, self._folds
        self._rows.append(row)
        return longer

    def fold(self, owner: object, update: Callable[[StateT, Metrics], StateT], start: StateT) -> StateT:
        """Return update(... update(update(start, row 1), row 2) ..., row n), reading only rows that are new.

        The state is kept per owner and continues from the last call with the same owner, so `update` must be a pure
        function that belongs to it. A run that resumes starts from all rows again and gets the same state.
        """
        _, length, state = self._folds.get(id(owner), (owner, 0, start))
        if length > self._length:  # an earlier history than at the last call
            length, state = 0, start
        if length < self._length:
            for row in self._rows[length : self._length]:
                state = update(state, row)
            self._folds[id(owner)] = (owner, self._length, state)  # which keeps the owner, so its id stays its own
        return state

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Metrics: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Metrics]: ...
    def __getitem__(self, index: int | slice) -> Metrics | Sequence[Metrics]:
        positions = range(self._length)[index]
        return self._rows[positions] if isinstance(positions, int) else tuple(self._rows[i] for i in positions)
