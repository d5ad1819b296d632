"""Pictures of races: levels, lines, frames of the animation, and the table."""

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from PIL import Image, ImageSequence

from dlopt.landscape.grid import ContourGrid
from dlopt.landscape.race import Landmarks, Track, TrackResult
from dlopt.report.race import animation, figures
from dlopt.report.race.animation import choose_steps, save_animation
from dlopt.report.race.figures import Race, choose_columns, choose_levels, line_styles, plot_race
from dlopt.report.race.table import make_table


def make_race(labels=("sgd", "adam"), starts=1, minimum=0.0, grid=True):
    """Return a race on f = x^2 + y^2, in which each path halves its distance."""
    axis = torch.linspace(-2, 2, 21, dtype=torch.float64)
    f = axis**2 + axis[:, None] ** 2
    tracks = {}
    for i, label in enumerate(labels):
        w = torch.tensor([[1.0 + 0.1 * i, 1.0]]) * 0.5 ** torch.arange(12).unsqueeze(1)
        track = Track(w.double(), w.square().sum(1).double(), torch.arange(12), 1e-3, "steps")
        tracks[label] = [track] * starts
    minima = torch.zeros(int(minimum is not None), 2)
    landmarks = Landmarks(minima, minimum, torch.zeros(1, 2), ((-2.0, 2.0), (-2.0, 2.0)))
    return Race(
        "a title", tracks, {label: label for label in labels}, landmarks, ContourGrid(axis, axis, f) if grid else None
    )


@pytest.mark.parametrize("minimum", [0.0, None])
@pytest.mark.parametrize("spread", [1.0, 1e8])
def test_levels_increase_and_divide_the_picture(minimum, spread):
    f = np.random.default_rng(0).uniform(size=(50, 50)) ** 4 * spread
    levels = choose_levels(f, minimum)
    assert len(levels) > 10
    assert (np.diff(levels) > 0).all()
    shares = [(f < level).mean() for level in levels]
    assert shares[0] < 0.3
    assert shares[-1] > 0.7


def test_lines_differ_for_ten_optimizers():
    styles = line_styles([f"o{i}" for i in range(10)])
    assert len({tuple(style.values()) for style in styles.values()}) == 10


def test_the_picture_has_a_line_for_each_optimizer_and_every_mark():
    figure = plot_race(make_race(starts=2))
    contours, values = figure.axes
    assert [contours.get_xlabel(), contours.get_ylabel()] == ["x", "y"]
    assert "evaluations" in values.get_xlabel()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["sgd", "adam", "start", "minimum", "saddle point"]
    low, high = values.get_ylim()
    assert low < 1e-6
    assert high > 2


def test_more_than_two_weights_have_values_only():
    (values,) = plot_race(make_race(grid=False)).axes
    assert values.get_ylabel().startswith("f − f*")


def test_without_a_minimum_f_itself_is_drawn():
    _, values = plot_race(make_race(minimum=None)).axes
    assert (values.get_ylabel(), values.get_yscale()) == ("f", "linear")


def test_the_bold_line_is_the_level_below_which_a_path_stays():
    race = make_race(labels=("sgd",))
    (track,) = race.tracks["sgd"]
    bumpy = track._replace(f=torch.tensor([4.0, 1.0, 2.0, 0.5, 0.25, 1.0, *[1e-3] * 6], dtype=torch.float64))
    _, values = plot_race(race._replace(tracks={"sgd": [bumpy]})).axes
    thin, bold = values.lines[:2]
    assert thin.get_ydata().tolist() == bumpy.f.tolist()
    assert bold.get_ydata().tolist() == [4, 2, 2, 1, 1, 1, *[1e-3] * 6]


def test_evaluations_are_drawn_from_zero():
    _, values = plot_race(make_race()).axes
    assert values.lines[0].get_xdata().tolist() == list(range(12))
    assert values.get_xlim()[0] < 0


def test_a_path_that_grows_is_in_the_panel_to_its_end():
    race = make_race(labels=("sgd",))
    (track,) = race.tracks["sgd"]
    grown = track._replace(f=2.0 * 2.0 ** torch.arange(12, dtype=torch.float64))
    _, values = plot_race(race._replace(tracks={"sgd": [grown]})).axes
    bold = values.lines[1]
    assert bold.get_ydata().tolist() == grown.f.tolist()
    assert values.get_ylim()[1] > 4096
    assert values.get_xlim()[1] > 11


def test_typed_keys_are_in_the_legend_in_fewer_columns():
    race = make_race()
    (legend,) = plot_race(race._replace(labels={"sgd": "sgd (lr=0.1)", "adam": "adam"})).legends
    assert [text.get_text() for text in legend.get_texts()][:2] == ["sgd (lr=0.1)", "adam"]
    assert [choose_columns(["x" * n] * 5, width=11.2, fontsize=9) for n in (3, 40, 200)] == [5, 3, 1]


def test_the_animation_has_marks_in_its_legend_and_says_what_advances(tmp_path, monkeypatch):
    labels, texts = [], []
    monkeypatch.setattr(animation, "draw_legend", lambda _, handles, **__: labels.extend(handles))
    monkeypatch.setattr(Text, "set_text", lambda _, text: texts.append(text))
    save_animation(make_race(), tmp_path / "race.gif")
    assert labels == ["sgd", "adam", "start", "minimum", "saddle point"]
    assert texts[-1] == "step 11 (all paths advance by steps, not evaluations)"


def test_the_animation_shows_every_path_from_its_start_to_its_end(tmp_path):
    race = make_race(labels=[f"o{i}" for i in range(9)], starts=2)
    with Image.open(save_animation(race, tmp_path / "race.gif")) as picture:
        assert picture.info["loop"] == 0
        frames = [np.asarray(frame.convert("RGB")).astype(int) for frame in ImageSequence.Iterator(picture)]
    assert len(frames) > 8
    changed = [np.abs(frame - frames[0]).max(-1).astype(bool).sum() for frame in frames]
    assert changed[-1] > changed[1] > 0  # the lines have grown
    colours = {tuple(c) for c in frames[-1].reshape(-1, 3).tolist()}
    for colour in figures.COLOURS[:3]:
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert min(sum(abs(a - b) for a, b in zip(wanted, c, strict=True)) for c in colours) < 12


@pytest.mark.parametrize("last", [0, 1, 5, 500, 100_000])
def test_frames_go_from_the_start_to_the_last_step(last):
    steps = choose_steps(last)
    assert (steps[0], steps[-1]) == (0, last)
    assert steps == sorted(set(steps))
    assert len(steps) <= 90


def test_the_table_has_medians_over_starts():
    ends = [
        TrackResult("converged", 10, 20, 1e-9, 0.5),
        TrackResult("converged", 20, 40, 1e-8, 0.25),
        TrackResult("not converged", None, None, 2.0, 1.0),
    ]
    table = make_table({"sgd": ends, "adam": ends[2:]}, {"sgd": 0.1, "adam": None}, has_minimum=True)
    assert table.rows == [
        ["sgd", "0.1", "2 converged, 1 not converged", "15", "30", "1e-08", "0.5000"],
        ["adam", "-", "not converged", "-", "-", "2.0000", "1.0000"],
    ]
