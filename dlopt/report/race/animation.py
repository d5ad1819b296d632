"""The animation of a race: all paths grow at once, on the contours of the surface."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.colors
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from dlopt.report.figures import STYLE
from dlopt.report.race.figures import HALO, INK, MARKS, Race, draw_contours, draw_legend, draw_marks, line_styles

FRAMES = 90
"""Largest number of frames."""
MILLISECONDS, PAUSE = 60, 2500
"""Time of a frame, and of the last one."""
SHADES_KEPT = 40
"""Colours of the palette for the background; the others are those of the lines, whole and blended at their edges."""
BLENDS = (1.0, 0.75, 0.5, 0.25)


def save_animation(race: Race, file: Path) -> Path:
    """Write the animation as a GIF that loops. Return the file.

    The background is drawn once, so a frame takes only the time of its lines. Raises ValueError if the file cannot be
    written.
    """
    frames = [Image.fromarray(frame) for frame in _draw_frames(race)]
    palette = _make_palette(frames[0], [style["color"] for style in line_styles(list(race.tracks)).values()])
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    times = [MILLISECONDS] * (len(frames) - 1) + [PAUSE]
    try:
        frames[0].save(file, save_all=True, append_images=frames[1:], duration=times, loop=0, optimize=False)
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror or error}") from error
    return file


def _make_palette(background: Image.Image, colors: Sequence[str]) -> Image.Image:
    """Return an image with the palette of the animation. A palette of all pixels would give lines to each other."""
    shades = background.quantize(SHADES_KEPT, Image.Quantize.MEDIANCUT).getpalette() or []
    middle = np.array(mpl.colors.to_rgb("#dfe5ea"))
    palette = shades[: 3 * SHADES_KEPT]
    for color in (*dict.fromkeys(colors), INK, HALO, MARKS["minimum"]["markerfacecolor"]):
        line = np.array(mpl.colors.to_rgb(color))
        palette += [round(255 * x) for share in BLENDS for x in share * line + (1 - share) * middle]
    image = Image.new("P", (1, 1))
    image.putpalette(palette)
    return image


def choose_steps(last: int) -> list[int]:
    """Return the steps of the frames, from 0 to the last one: all of a short race, else more of the first ones."""
    if last < FRAMES:
        return list(range(last + 1))
    return np.unique((last * np.linspace(0, 1, FRAMES) ** 1.7).round().astype(int)).tolist()


def _draw_frames(race: Race) -> Iterator[np.ndarray]:
    """Yield the pixels of each frame, (height, width, 3)."""
    assert race.grid is not None
    with mpl.rc_context(STYLE | {"font.size": 9.0}):
        figure = Figure(figsize=(6.4, 5.6), dpi=100, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axes: Any = figure.add_subplot()
        draw_contours(axes, race.grid, race.landmarks)
        draw_marks(axes, race)
        styles = line_styles(list(race.tracks))
        handles: dict[str, Any] = {race.labels[name]: Line2D([], [], linewidth=2, **styles[name]) for name in styles}
        handles |= {label: mark for mark, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        draw_legend(figure, handles, fontsize=8.5)
        figure.suptitle(race.title, x=0.01, ha="left", fontsize=10, fontweight="bold")
        moving = [
            (track.w.T.numpy(), *_make_lines(axes, styles[name]))
            for name, tracks in race.tracks.items()
            for track in tracks
        ]
        text = axes.text(0.02, 0.97, "", transform=axes.transAxes, va="top", color=INK, animated=True)
        text.set_bbox({"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 2.5})
        canvas.draw()
        background = canvas.copy_from_bbox(figure.bbox)
        for step in choose_steps(max(len(track.f) for track in race.every_track) - 1):
            canvas.restore_region(background)
            for points, line, head in moving:
                line.set_data(*points[:, : step + 1])
                axes.draw_artist(line)
                head.set_data(*points[:, : step + 1][:, -1:])
            for _, _, head in moving:
                axes.draw_artist(head)
            text.set_text(f"step {step} (all paths advance by steps, not evaluations)")
            axes.draw_artist(text)
            yield np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _make_lines(axes: Any, style: dict[str, Any]) -> tuple[Line2D, Line2D]:
    """Return the line of a path and the dot at its end, which are drawn in every frame anew."""
    (line,) = axes.plot([], [], linewidth=1.6, animated=True, **style)
    (head,) = axes.plot([], [], "o", markersize=6.5, color=style["color"], markeredgecolor=HALO, animated=True)
    return line, head
