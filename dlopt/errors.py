"""Errors of components, and suggestions of names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MAX_LISTED = 40
"""Maximum number of names in a message."""


class OptionError(ValueError):
    """A value given to a component cannot be used; `key` is the key of the component to change.

    An error raised while a component is built or loaded is reported at that key. OptionError("path", ...) raised in the
    load() of a data set is reported as a problem of data.path.
    """

    def __init__(self, key: str, message: str) -> None:
        self.key = key
        super().__init__(message)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return `; did you mean X?` for a close name, else a list of the known names."""
    names = list(names)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; there is {join_truncated(names)}" if names else ""


def join_truncated(names: Iterable[str]) -> str:
    """Return `a, b, c`, or the first names and the number of the others."""
    names = list(names)
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more
