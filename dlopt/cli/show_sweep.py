"""dlopt show SWEEP: the best trial, the effects of hyperparameters, and pictures of both."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from dlopt.analysis import importance
from dlopt.analysis.search_record import SearchRecord, read_search
from dlopt.config.compose.flatten import find_non_defaults
from dlopt.formatting import format_override
from dlopt.report import search_text
from dlopt.rundir.display import display_path, make_report_path
from dlopt.storage import memory
from dlopt.storage.safe_read import to_printable

MIN_WIDTH = 40
"""Characters of a line, at the least."""


def show_sweep(folder: Path, png: str | None, heat: str | None, *, everything: bool) -> int:
    """Print the findings, or draw them, and return the exit code.

    png   the beginning of the pictures' names; empty: the default name; None: print
    heat  the two keys of the map, separated by a comma; None: the two most important ones
    """
    try:
        with memory.limit_memory():
            search = read_search(folder)
            if not search.trials:
                raise ValueError(f"{display_path(folder)} holds no run yet")
            keys = _parse_keys(search, heat)
            if png is not None:
                return _draw(search, png, keys)
            if heat is not None:
                raise ValueError("--heat needs pictures: add --png")
            _print(search, everything=everything)
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        print(f"dlopt show: {to_printable(str(error))}", file=sys.stderr)
        return 2
    return 0


def _parse_keys(search: SearchRecord, heat: str | None) -> tuple[str, ...]:
    """Return the two keys; raise ValueError if they are not two searched hyperparameters."""
    from dlopt.errors import did_you_mean

    if heat is None:
        return ()
    known, names = [a.key for a in search.axes], tuple(heat.split(","))
    if len(set(names)) != 2:
        raise ValueError(f"--heat {heat}: name two keys, such as optimizer.lr,optimizer")
    for name in names:
        if name not in known:
            raise ValueError(f"--heat {heat}: '{name}' was not searched{did_you_mean(name, known)}")
    return names


def _print(search: SearchRecord, *, everything: bool) -> None:
    width = max(shutil.get_terminal_size().columns, MIN_WIDTH)
    best = search.best
    parts = [
        search_text.format_head(search, display_path(search.path), width),
        search_text.format_best(search, display_path(best.path) if best else "", width),
    ]
    if best is not None:
        common = search.fixed_overrides
        if common is None:
            settings = find_non_defaults(best.runs[0].settings)
            common = tuple(f"{key}={format_override(value)}" for key, value in settings.items())
        command = search_text.format_retrain_command(search, common, width - 2)
        parts += [["again, longer and with other seeds:", *command], search_text.format_top(search, width)]
    print("\n\n".join("\n".join(lines) for lines in parts if lines), flush=True)
    # Fitting the forest takes a second or two, so the rest is printed first.
    shares, reason = importance.compute_importance(search)
    parts = [
        search_text.format_importances(shares, reason, width),
        search_text.format_effects(search, list(shares), width, everything=everything) if best else [],
        search_text.format_warnings(search, width),
    ]
    for lines in filter(None, parts):
        print("\n" + "\n".join(lines))


def _draw(search: SearchRecord, png: str, keys: tuple[str, ...]) -> int:
    """Draw every picture of the search as PREFIX-history.png and so on, and print their paths."""
    from dlopt.report import search_figures
    from dlopt.report.figures import save_figure

    shares, _ = ({}, "") if keys else importance.compute_importance(search)
    pictures = search_figures.plot_search(search, display_path(search.path), list(shares), keys)
    for name, figure in pictures.items():
        file = Path(f"{png.removesuffix('.png')}-{name}.png") if png else make_report_path(search.path, name)
        save_figure(figure, file)
        print(display_path(file))
    return 0
