"""What a file format does with a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from dlopt.export.comparison import Run


class Format(ABC):
    """A network that is converted, and not in a file yet.

    suffix   ending of the file's name
    run      runs the network in its present form
    """

    suffix: ClassVar[str]
    run: Run

    @property
    @abstractmethod
    def engine(self) -> str:
        """Return the program that runs the file, with its version."""

    @abstractmethod
    def save(self, metadata: Mapping[str, str], *, any_length: bool) -> bytes:
        """Return the file's content; any_length declares sequences of any length."""

    @abstractmethod
    def load(self, content: bytes) -> Run:
        """Return a function that runs the content of a file."""
