"""What `dlopt show` says of a sweep: its best trial, what its hyperparameters do, and pictures of both."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from dlopt.analysis import importance
from dlopt.analysis.search_record import Search, read
from dlopt.config.compose.flatten import differing
from dlopt.formatting import written
from dlopt.report import search_text
from dlopt.rundir.display import as_typed, report
from dlopt.storage import memory
from dlopt.storage.safe_read import printable

NARROWEST = 40
"""Characters that a line may have at least."""


def show(folder: Path, png: str | None, heat: str | None, *, everything: bool) -> int:
    """Print the findings, or draw them; returns the exit code.

    png: what the names of the pictures begin with, empty for the default; None where they are not asked for.
    heat: the two keys of the map, with a comma; None for the two that matter most.
    """
    try:
        with memory.bounded():
            search = read(folder)
            if not search.trials:
                raise ValueError(f"{as_typed(folder)} holds no run yet")
            keys = _keys(search, heat)
            if png is not None:
                return _draw(search, png, keys)
            if heat is not None:
                raise ValueError("--heat is for the pictures; add --png")
            _print(search, everything=everything)
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        print(f"dlopt show: {printable(str(error))}", file=sys.stderr)
        return 2
    return 0


def _keys(search: Search, heat: str | None) -> tuple[str, ...]:
    """The two keys that were named; ValueError where they are not two that were searched."""
    from dlopt.errors import nearest

    if heat is None:
        return ()
    known, names = [a.key for a in search.axes], tuple(heat.split(","))
    if len(set(names)) != 2:
        raise ValueError(f"--heat {heat}: name two keys, such as optimizer.lr,optimizer")
    for name in names:
        if name not in known:
            raise ValueError(f"--heat {heat}: '{name}' was not searched{nearest(name, known)}")
    return names


def _print(search: Search, *, everything: bool) -> None:
    width = max(shutil.get_terminal_size().columns, NARROWEST)
    best = search.best
    parts = [
        search_text.head(search, as_typed(search.path), width),
        search_text.best(search, as_typed(best.path) if best else "", width),
    ]
    if best is not None:
        common = search.fixed if search.fixed is not None else tuple(
            f"{key}={written(value)}" for key, value in differing(best.runs[0].settings).items())  # fmt: skip
        parts.append(["again, longer and with other seeds:", *search_text.again(search, common, width - 2)])
        parts.append(search_text.top(search, width))
    print("\n\n".join("\n".join(lines) for lines in parts if lines), flush=True)
    shares, said = importance.importance(search)  # the forest takes a second or two, so the rest is shown before
    parts = [
        search_text.importances(shares, said, width),
        search_text.effects(search, list(shares), width, everything=everything) if best else [],
        search_text.warnings(search, width),
    ]
    for lines in filter(None, parts):
        print("\n" + "\n".join(lines))


def _draw(search: Search, png: str, keys: tuple[str, ...]) -> int:
    """Every picture of the search, as PREFIX-history.png and so on; prints where they are."""
    from dlopt.report import search_figures
    from dlopt.report.figures import save

    shares, _ = ({}, "") if keys else importance.importance(search)
    pictures = search_figures.pictures(search, as_typed(search.path), list(shares), keys)
    for name, figure in pictures.items():
        file = Path(f"{png.removesuffix('.png')}-{name}.png") if png else report(search.path, name)
        save(figure, file)
        print(as_typed(file))
    return 0
