"""diagnostic=gradient_flow: sizes of layers, the history of columns, and the picture in TensorBoard."""

import io
import math

import pytest
import torch
from helpers import build_blobs, interrupt_run, read_pictures, read_rows, resume_run, train_runs
from PIL import Image
from torch import nn

from dlopt.base.diagnostic import Picture
from dlopt.base.layout import Layout
from dlopt.diagnostic.gradient_flow import GradientFlow
from dlopt.parts import StepRecord
from dlopt.rundir.heat_map import ZERO

LAYOUT = Layout.of(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)))


def measure_all(gradients, columns):
    """Return the readings of one measurement after the other, and the last memory."""
    diagnostic, readings = GradientFlow(None, columns), []
    memory = diagnostic.init(gradients[0], LAYOUT)
    for step, g in enumerate(gradients):
        record = StepRecord(5 * step, g, g, torch.zeros(g.shape[:-1]), g, 0.1, LAYOUT, None)
        tags, memory = diagnostic.measure(record, memory)
        readings.append(tags)
    return readings, memory


def compute_sizes(g):
    return torch.stack([g[..., :15].square().mean(-1).sqrt(), g[..., 15:].square().mean(-1).sqrt()], -1)


@pytest.mark.parametrize("lead", [(), (3,)])
def test_a_column_is_the_mean_of_the_measurements_in_it(lead):
    """Thirteen measurements in at most four columns: each holds four, and one has begun."""
    g = [torch.randn(*lead, LAYOUT.size, dtype=torch.float64) for _ in range(13)]
    readings, memory = measure_all(g, 4)
    sizes = torch.stack([compute_sizes(x) for x in g], -1)
    expected = torch.stack([sizes[..., 4 * i : 4 * i + 4].mean(-1) for i in range(4)], -1)
    torch.testing.assert_close(memory.columns, expected)
    assert (memory.measured, memory.stride, memory.first) == (13, 4, 1)
    last = readings[11]["gradient_flow/layers"]
    torch.testing.assert_close(last.values[..., :3], expected[..., :3].log10())
    assert (last.labels, last.span, last.used) == (("0", "1"), (1, 56), 3)


def test_a_gradient_of_zero_is_shown_as_zero_only_if_all_of_its_column_are():
    """Of the second layer the first column has no gradient, the second one in half of its measurements."""
    g = torch.ones(8, LAYOUT.size, dtype=torch.float64)
    g[:3, 15:] = 0.0
    readings, _ = measure_all(list(g), 4)
    picture = readings[-1]["gradient_flow/layers"]
    assert picture.values[1].tolist() == pytest.approx([-math.inf, math.log10(0.5), 0.0, 0.0])
    png = picture.unpack(picture.pack().tolist()).draw()
    colours = {colour for _, colour in Image.open(io.BytesIO(png.content)).getcolors()}
    assert ZERO in colours


def test_pictures_are_written_for_complete_columns_only():
    g = [torch.randn(LAYOUT.size) for _ in range(40)]
    readings, _ = measure_all(g, 4)
    drawn = [i + 1 for i, tags in enumerate(readings) if "gradient_flow/layers" in tags]
    assert drawn == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]


def test_the_ratio_is_that_of_the_first_to_the_last_layer():
    g = torch.randn(LAYOUT.size, dtype=torch.float64)
    (tags,), _ = measure_all([g], 4)
    first, last = compute_sizes(g)
    assert tags["gradient_flow/ratio"].item() == pytest.approx((first / last).item())


def test_a_picture_of_lanes_is_that_of_each_run():
    values = torch.randn(2, 3, 5, dtype=torch.float64)
    picture = Picture(values, ("a", "b", "c"), (1, 4), 4, "size")
    for numbers, own in zip(picture.pack().tolist(), values, strict=True):
        assert picture.unpack(numbers).values == own[:, :4].tolist()


def test_runs_and_resumed_runs_write_the_same_pictures(tmp_path):
    overrides = ("diagnostic=gradient_flow", "diagnostic.gradient_flow.every=1", "diagnostic.gradient_flow.columns=4")
    _, (run,) = train_runs(tmp_path / "whole", build_blobs(*overrides))
    pictures = read_pictures(run)
    assert [step for _, step in pictures] == [1, 2, 3, 4, 6, 8]
    assert all(png.startswith(b"\x89PNG") for png in pictures.values())
    half = interrupt_run(tmp_path / "half", 5, build_blobs(*overrides))
    _, half = resume_run(half.path, build_blobs(*overrides))
    assert read_pictures(half) == pictures
    assert "gradient_flow/layers" not in {name for row in read_rows(run) for name in row}


def test_with_another_number_of_columns_a_resumed_run_starts_a_new_picture(tmp_path):
    overrides = ("diagnostic=gradient_flow", "diagnostic.gradient_flow.every=1", "diagnostic.gradient_flow.columns=4")
    half = interrupt_run(tmp_path, 5, build_blobs(*overrides))
    _, run = resume_run(half.path, build_blobs(*overrides[:2], "diagnostic.gradient_flow.columns=8"))
    assert run.load("last")["diagnostics"]["gradient_flow"]["first"] == 6
    assert read_rows(run)[-1]["step"] == 9


@pytest.mark.filterwarnings("ignore:html5lib")
def test_tensorboards_dashboard_shows_them(tmp_path):
    """The plugin's own backend, with the reader of the server."""
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.image.images_plugin import ImagesPlugin

    _, (run,) = train_runs(tmp_path, build_blobs("diagnostic=gradient_flow"))
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(tmp_path))
    multiplexer.Reload()
    plugin = ImagesPlugin(TBContext(data_provider=MultiplexerDataProvider(multiplexer, str(tmp_path))))
    assert set(plugin._index_impl(RequestContext(), "")["0"]) == {"gradient_flow/layers"}
    assert len(read_pictures(run)) == 3
