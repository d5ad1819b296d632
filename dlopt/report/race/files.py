"""The files of a race, in a folder of their own: race.png, race.gif and race.csv."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from dlopt.report.figures import save_figure
from dlopt.report.race.animation import save_animation
from dlopt.report.race.figures import Race, plot_race
from dlopt.report.race.table import write_steps


def write_race(race: Race, folder: Path) -> list[Path]:
    """Write the files into a new folder, which appears only when they are complete. Return the files.

    There is an animation only of a function of two weights. Raises OSError or ValueError if a file cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        files = [save_figure(plot_race(race), place / "race.png")]
        if race.grid is not None:
            files.append(save_animation(race, place / "race.gif"))
        files.append(write_steps(race.tracks, place / "race.csv"))
        place.chmod(0o755)
        place.rename(folder)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    return [folder / file.name for file in files]
