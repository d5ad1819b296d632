"""Components around a callable of another library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar


class Wrapper:
    """A part around a callable of another library: one key names it, and another holds arguments for it.

    name      which of them
    options   its arguments, but for those that the part itself passes
    """

    reserved_arguments: ClassVar[tuple[str, ...]]

    name: str

    @classmethod
    def names(cls) -> list[str]:
        """The names that it knows."""
        raise NotImplementedError

    @classmethod
    def resolve(cls, name: str) -> Callable[..., Any]:
        """What a name stands for, or a dotted path. LookupError where it is none that is known."""
        raise NotImplementedError


def overrides(part: object, name: str, base: type) -> bool:
    """Whether a part has a method of its own in place of the base class's."""
    return getattr(type(part), name) is not getattr(base, name)
