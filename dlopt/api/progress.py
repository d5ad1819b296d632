"""The progress of a run that was started from Python: a bar in a terminal or a notebook."""

from __future__ import annotations

import contextvars
import html
import threading
from collections.abc import Callable
from typing import Any

from dlopt.api.pictures import find_shell
from dlopt.cli.progress import Progress
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.display import display_path
from dlopt.rundir.lock import LockLostError
from dlopt.rundir.writer import RunWriter

REFRESH_SECONDS = 0.25
"""Seconds between two updates of the bar in a notebook."""
STYLE = "font-family: monospace; font-size: 90%"


class RunProgress(Progress):
    """Shows one run as the command line does, ends with a line, and keeps notices and the error for the caller."""

    def __init__(self) -> None:
        super().__init__()
        self.notices: list[str] = []
        self.error: Exception | None = None

    def on_notice(self, notice: str) -> None:
        self.notices.append(notice)
        super().on_notice(notice)

    def on_failure(self, run: RunDirectory, error: Exception) -> None:
        """Keep the error, which `dlopt.train` raises."""
        error.add_note(f"The run {display_path(run.path)} failed; its checkpoints are intact.")
        self.error = error

    def on_lock_lost(self, error: LockLostError) -> None:
        self.error = error

    def _report(self, run: RunWriter, summary: dict[str, Any]) -> None:
        hint = '; dlopt.train(["resume=last"]) continues it' if summary["status"] == "interrupted" else ""
        self._show_end(f"{self.describe_end(summary)}, in {display_path(run.path)}{hint}")
        if summary["status"] == "done" and (message := run.status["message"]):
            self._show_end(f"warning: {message}")

    def _show_end(self, line: str) -> None:
        print(line)


class NotebookProgress(RunProgress):
    """Shows a bar, notices and the result in the output of a notebook cell, and replaces them in place.

    A thread updates it from the counters of the loop. It runs in a copy of this context, by which the kernel knows the
    cell of an output.
    """

    def __init__(self, display: Callable[..., Any]) -> None:
        super().__init__()
        self._display = display
        self._lines: list[str] = []
        self._handle: Any = None
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> NotebookProgress:
        self._show(self._make_bar())
        self._thread = threading.Thread(target=contextvars.copy_context().run, args=(self._refresh,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join()
        if any(error):
            self._show(f"stopped at step {self.step} of {self.steps}")

    def on_notice(self, notice: str) -> None:
        self.notices.append(notice)
        self._lines.append(html.escape(f"note: {notice}"))

    def _print_line(self) -> None:
        """Print nothing: there is a bar."""

    def _refresh(self) -> None:
        while not self._end.wait(REFRESH_SECONDS):
            self._show(self._make_bar())

    def _make_bar(self) -> str:
        bar = f'<progress value="{self.step}" max="{max(self.steps, 1)}" style="width: 14em"></progress>'
        return f"{bar} {html.escape(self.describe())}"

    def _show_end(self, line: str) -> None:
        self._lines.append(html.escape(line))
        self._show()

    def _show(self, last: str = "") -> None:
        lines = [*self._lines, *([last] if last else [])]
        content = {
            "text/html": f'<div style="{STYLE}">{"<br>".join(lines)}</div>',
            "text/plain": self.describe() if last else "\n".join(map(html.unescape, lines)),
        }
        if self._handle is None:
            self._handle = self._display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)


def make_progress(*, is_shown: bool) -> RunProgress:
    """Return the progress for this process: in a notebook, or for a terminal and other outputs."""
    if is_shown and hasattr(find_shell(), "kernel"):
        from IPython.display import display

        return NotebookProgress(display)
    return RunProgress()
