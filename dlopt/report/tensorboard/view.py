"""A folder of links to runs, under names that tell them apart: TensorBoard calls a run by its folder.

A run of a sweep is called by its values on the axes of the sweep, such as optimizer=adam,seed=0, instead of its number.
Other runs and means keep their paths below the folder that is shown.

    python -m dlopt.report.tensorboard.view DIR ...     serves DIR, and passes further arguments to TensorBoard
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from dlopt.analysis.run_table import read_run
from dlopt.analysis.search_record import SearchRecord, build_search
from dlopt.formatting import format_override, to_file_name
from dlopt.rundir.find import is_sweep, list_linked_folders, list_runs

EVENTS = "events.out.tfevents."
"""Beginning of the name of an event file."""
UPDATE_SECONDS = 5.0
"""Time between two updates of the links, as between two of TensorBoard's own looks at its folder."""


class LinkView:
    """Links to the runs in a folder. A run keeps its link until its folder is removed."""

    def __init__(self, source: Path, folder: Path) -> None:
        """Show the runs of `source` in the empty directory `folder`."""
        self.source, self.folder = source.absolute(), folder
        self._links: dict[Path, Path] = {}
        self._searches: dict[Path, SearchRecord] = {}

    def update(self) -> None:
        """Link new runs, and remove the links to runs that are gone."""
        found = set(_list_event_folders(self.source))
        for path in self._links.keys() - found:
            self._links.pop(path).unlink(missing_ok=True)
        for path in sorted(found - self._links.keys(), key=lambda path: (len(str(path)), path)):  # 9 before 10
            self._links[path] = self._link(path)

    def _link(self, path: Path) -> Path:
        """Link a run under its name, or the first free one of name-2, name-3, ..."""
        name = self._name(path)
        if any((self.folder / parent).is_symlink() for parent in name.parents):  # the link would be put into a run
            name = Path(to_file_name(str(name)))
        link = self.folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(2):
            with contextlib.suppress(FileExistsError):
                link.symlink_to(path, target_is_directory=True)
                break
            link = self.folder / name.with_name(f"{name.name}-{number}")
        return link

    def _name(self, path: Path) -> Path:
        """Return the name of a run or mean, relative to the view."""
        place = Path(path.name) if path == self.source else path.relative_to(self.source)
        for trial in (path, path.parent):  # a trial with repeats has a folder with their runs and mean
            label = self._label(path, trial) if is_sweep(trial.parent) else ""
            if label:
                depth = len(path.relative_to(trial.parent).parts)
                return Path(*place.parts[:-depth], to_file_name(label))
        return place

    def _label(self, path: Path, trial: Path) -> str:
        """Return the values in which a run or mean differs from others of its sweep; empty if they are unknown."""
        sweep = trial.parent
        if sweep not in self._searches:
            self._searches[sweep] = build_search(sweep, [])
        search, runs = self._searches[sweep], list_runs(path) or list_runs(trial)
        settings = read_run(runs[0], path.name).settings if runs else {}
        parts = [f"{a.key}={a.format_value(v)}" for a in search.axes if (v := a.value(settings)) is not None]
        if runs and runs[0] != path:  # the mean
            return ",".join([*parts, path.name])
        repeats = [
            key for key, n in (("seed", search.seeds), ("validation.fold", search.folds)) if n and key in settings
        ]
        return ",".join([*parts, *(f"{key}={format_override(settings[key])}" for key in repeats)])


def _list_event_folders(top: Path) -> Iterator[Path]:
    """Yield the folders with event files: runs and means. No other folder is looked for inside one."""
    for root in (str(top), *list_linked_folders(str(top))):
        for path, folders, files in os.walk(root):
            if any(name.startswith(EVENTS) for name in files):
                folders.clear()
                yield Path(path)


def serve(source: Path, arguments: list[str]) -> None:
    """Run TensorBoard on the runs of a folder until it is stopped."""
    from tensorboard.main import run_main

    from dlopt.report.tensorboard.order import use_order

    use_order()
    stop = threading.Event()
    with tempfile.TemporaryDirectory(prefix="dlopt-tensorboard-") as folder:
        view = LinkView(source, Path(folder))
        view.update()

        def keep_up_to_date() -> None:
            while not stop.wait(UPDATE_SECONDS):
                view.update()

        thread = threading.Thread(target=keep_up_to_date, daemon=True)
        thread.start()
        sys.argv = ["tensorboard", "--logdir", folder, "--host", "localhost", *arguments]
        try:
            run_main()
        finally:
            stop.set()
            thread.join()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2:])
