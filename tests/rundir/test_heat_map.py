"""Heat maps, read by matplotlib."""

import io
import math

import numpy as np
from matplotlib.image import imread

from dlopt.rundir.heat_map import MAX_ROW, MIN_WIDTH, SCALE, TEXT, UNKNOWN, ZERO, _choose_colour, draw_heat_map


def find_blocks(png):
    """Return the set of colours of a picture, as 8-bit triples."""
    pixels = np.round(255 * imread(io.BytesIO(png.content))[..., :3]).astype(int)
    assert pixels.shape[:2] == (png.height, png.width)
    return {tuple(c) for c in pixels.reshape(-1, 3)}


def test_the_smallest_and_the_largest_value_have_the_ends_of_the_scale():
    colours = find_blocks(draw_heat_map([[0.0, 1.0], [0.5, math.nan]], ["a", "b"], (3, 9), "title"))
    assert {SCALE[0], SCALE[2], SCALE[-1], UNKNOWN} <= colours
    assert not {SCALE[1], SCALE[3]} & colours


def test_values_that_are_not_finite_have_colours_of_their_own_and_a_legend():
    """The square in the legend is below the map."""
    assert ZERO not in find_blocks(draw_heat_map([[0.0, 1.0]], ["a"], (3, 9), "title"))
    for value, colour in ((-math.inf, ZERO), (math.inf, UNKNOWN), (math.nan, UNKNOWN)):
        png = draw_heat_map([[0.0, 1.0], [0.5, value]], ["a", "b"], (3, 9), "title")
        pixels = np.round(255 * imread(io.BytesIO(png.content))[..., :3]).astype(int)
        rows = np.unique(np.argwhere((pixels == colour).all(-1))[:, 0])
        assert (np.diff(rows) > 1).any()
        assert rows.max() > png.height - 2 * TEXT


def test_colours_are_those_of_viridis():
    from matplotlib import colormaps

    for x in np.linspace(0, 1, 30):
        expected = 255 * np.array(colormaps["viridis"](x)[:3])
        assert np.abs(np.array(_choose_colour(x, 0.0, 1.0)) - expected).max() < 30


def test_rows_are_in_order_from_the_top():
    png = draw_heat_map([[0.0] * 4, [1.0] * 4], ["first", "last"], (1, 4), "title")
    pixels = np.round(255 * imread(io.BytesIO(png.content))[..., :3]).astype(int)
    low, high = (np.argwhere((pixels == colour).all(-1))[:, 0] for colour in (SCALE[0], SCALE[-1]))
    assert low.max() < high.min()
    assert len(low) == len(high) == MAX_ROW * MIN_WIDTH


def test_any_number_of_rows_and_columns_and_values_makes_a_picture():
    for rows, columns, value in ((1, 1, 0.0), (1000, 3, -math.inf), (2, 600, math.nan), (3, 2, 1e300)):
        png = draw_heat_map([[value] * columns] * rows, [f"layer.{i}" for i in range(rows)], (1, 1), "t")
        assert png.height < 1100
        assert len(png.content) < 50_000
