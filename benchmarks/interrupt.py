"""A diagnostic that stops a run midway, for recordings of runs that are resumed."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlopt.parts import Diagnostic


@dataclass(frozen=True)
class Interrupt(Diagnostic):
    """Interrupts the process once, as Ctrl-C does.

    every    the step at which it does so
    marker   a file that it creates at that time; if it exists already, nothing happens
    """

    marker: str

    def measure(self, record: Any, memory: Any) -> tuple[Mapping[str, Any], Any]:
        """Return no values."""
        if not Path(self.marker).exists():
            Path(self.marker).touch()
            signal.raise_signal(signal.SIGINT)
        return {}, None
