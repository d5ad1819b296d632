"""Components around a callable of another library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar


class Wrapper:
    """A component around a callable of another library.

    name      name of the callable
    options   arguments of the callable, except those that the component passes
    """

    reserved_arguments: ClassVar[tuple[str, ...]]

    name: str

    @classmethod
    def names(cls) -> list[str]:
        """Return the known names."""
        raise NotImplementedError

    @classmethod
    def resolve(cls, name: str) -> Callable[..., Any]:
        """Return the callable of a name or dotted path. Raise LookupError if it is unknown."""
        raise NotImplementedError


def overrides(part: object, name: str, base: type) -> bool:
    """Return whether a component overrides a method of the base class."""
    return getattr(type(part), name) is not getattr(base, name)
