"""Heat maps as PNG files, drawn without matplotlib: its first figure takes 0.5 s, and each further one 0.1 s."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import NamedTuple

MAX_HEIGHT, MAX_ROW, MIN_WIDTH = 480, 32, 384
"""Pixels of all rows, of one row, and of all columns."""
TEXT = 11
"""Pixels of a line of text."""
MARGIN = 6
SCALE = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
"""Colours from low to high: five of viridis."""
ZERO, UNKNOWN = (213, 94, 0), (190, 190, 190)
"""Colours of -inf, which is the logarithm of zero, and of other values that are not finite."""


class Png(NamedTuple):
    """A PNG file and its size in pixels."""

    content: bytes
    width: int
    height: int


def draw_heat_map(rows: Sequence[Sequence[float]], labels: Sequence[str], span: tuple[int, int], title: str) -> Png:
    """Return a picture with the rows from top to bottom, each with its label, over steps from span[0] to span[1].

    Colours range from the smallest to the largest finite value. -inf counts as the logarithm of zero. It has a colour
    of its own, and so have other values; a legend names them if there are any. Labels that do not fit are left out.
    """
    from PIL import Image, ImageDraw

    height = max(1, min(MAX_ROW, MAX_HEIGHT // len(rows)))
    width = max(1, MIN_WIDTH // len(rows[0]))
    finite = [v for row in rows for v in row if math.isfinite(v)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    pixels = bytes(c for row in rows for v in row for c in _choose_colour(v, low, high))
    map_size = (width * len(rows[0]), height * len(rows))
    picture = Image.frombytes("RGB", (len(rows[0]), len(rows)), pixels).resize(map_size, Image.Resampling.NEAREST)

    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left = MARGIN + max(int(measure.textlength(label)) for label in labels) + MARGIN
    top = TEXT + 2 * MARGIN
    size = (left + map_size[0] + MARGIN, top + map_size[1] + TEXT + 2 * MARGIN)
    canvas = Image.new("RGB", size, (255, 255, 255))
    canvas.paste(picture, (left, top))
    draw = ImageDraw.Draw(canvas)
    scale = f": {low:.3g} (dark) to {high:.3g} (bright)" if finite else ""
    draw.text((left, MARGIN - 2), f"{title}{scale}", fill=(0, 0, 0))
    every = -(-TEXT // height)
    for i in range(0, len(labels), every):
        draw.text((MARGIN, top + i * height + (height - TEXT) // 2 - 1), labels[i], fill=(0, 0, 0))
    below = top + map_size[1] + MARGIN - 2
    draw.text((left, below), f"step {span[0]}", fill=(0, 0, 0))
    last = f"step {span[1]}"
    draw.text((left + map_size[0] - measure.textlength(last), below), last, fill=(0, 0, 0))
    others = {_choose_colour(v, low, high) for row in rows for v in row if not math.isfinite(v)}
    x = left + map_size[0] // 3
    for colour, name in ((ZERO, "zero"), (UNKNOWN, "not finite")):
        if colour in others:
            draw.rectangle((x, below + 2, x + TEXT - 2, below + TEXT), fill=colour)
            draw.text((x + TEXT + 2, below), name, fill=(0, 0, 0))
            x += TEXT + int(measure.textlength(name)) + 3 * MARGIN
    stream = io.BytesIO()
    canvas.save(stream, "PNG")
    return Png(stream.getvalue(), *size)


def _choose_colour(value: float, low: float, high: float) -> tuple[int, int, int]:
    """Return the colour of a value by linear interpolation between the colours of SCALE."""
    if not math.isfinite(value):
        return ZERO if value == -math.inf else UNKNOWN
    place = (value - low) / (high - low) * (len(SCALE) - 1) if high > low else 0.0
    i = min(int(place), len(SCALE) - 2)
    red, green, blue = (round(a + (b - a) * (place - i)) for a, b in zip(SCALE[i], SCALE[i + 1], strict=True))
    return red, green, blue
