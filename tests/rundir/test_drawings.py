"""Pictures and densities in event files: of resumed runs, and of files that someone else wrote."""

import math
import os
import time

import pytest

from dlopt.rundir import drawings
from dlopt.rundir.drawings import Density, read_drawings
from dlopt.rundir.heat_map import Png, draw_heat_map
from dlopt.rundir.tensorboard import EventFileWriter

DENSITY = "histogram/curvature/density"


def draw(value):
    return draw_heat_map([[0.0, float(value)]], ["a"], (1, 2), "t")


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Return a function that writes an event file of a session, newer than all before it."""
    clock = iter(range(1_000_000_000, 2_000_000_000))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))

    def write(pictures=(), densities=(), after=None):
        writer = EventFileWriter(tmp_path, after)
        for step, tag, png in pictures:
            writer.add_pictures(step, {tag: png})
        for step, buckets in densities:
            writer.add_histograms(step, {DENSITY: buckets, "histogram/weight/0": buckets})
        writer.close()
        return max(tmp_path.glob("events*"))

    return write


def test_the_last_picture_of_each_tag_and_the_density_are_read(write, tmp_path):
    buckets = [(-1.0, 0.5, 7.25), (0.5, 2.0, 0.0)]
    pictures = [(1, "b", draw(1)), (2, "b", draw(2)), (2, "a/c", draw(3))]
    write(pictures, [(1, buckets[::-1]), (4, buckets)])
    assert list(read_drawings(tmp_path).items()) == [
        ("a/c", draw(3).content),
        ("b", draw(2).content),
        ("curvature/density", Density(4, buckets)),
    ]


def test_a_start_drops_later_steps_of_older_files(write, tmp_path):
    """Of three sessions, the last one resumes at an earlier step than the second one."""
    old = [(0.0, 1.0, 1.0)], [(0.0, 1.0, 2.0)]
    write([(step, tag, draw(step)) for step in range(1, 10) for tag in "abc"], [(3, old[0]), (8, old[1])])
    write([(step, "b", draw(10 * step)) for step in (6, 7)], after=5)
    write([(5, "c", draw(500))], after=4)
    assert read_drawings(tmp_path) == {
        "a": draw(4).content, "b": draw(4).content, "c": draw(500).content, "curvature/density": Density(3, old[0])
    }  # fmt: skip


def test_files_of_others_are_bounded_and_checked(write, tmp_path, monkeypatch):
    """Too many tags, large pictures, other bytes, buckets out of order, links, and damage after a good picture."""
    for name, limit in (("MAX_BYTES", 5000), ("MAX_BUCKETS", 50), ("MAX_PICTURES", 7)):
        assert limit < getattr(drawings, name)
        monkeypatch.setattr(drawings, name, limit)
    good = draw(1)
    large = Png(good.content + bytes(drawings.MAX_BYTES), 9, 9)
    bad = [(1.0, 0.0, 1.0)], [(0.0, math.inf, 1.0)], [(0.0, 1.0, math.nan)], [], [(0.0, 1.0, 1.0)] * 51
    kept = write([(1, "large", large), (1, "text", Png(b"<svg/>", 1, 1)), (1, "good", good)], list(enumerate(bad)))
    assert read_drawings(tmp_path) == {"good": good.content}
    with kept.open("ab") as stream:
        stream.write(os.urandom(1000))
    assert read_drawings(tmp_path) == {"good": good.content}
    kept.write_bytes(kept.read_bytes()[:-1100])
    (tmp_path / "events.out.tfevents.9999999999.link").symlink_to(kept)
    os.mkfifo(tmp_path / "events.out.tfevents.9999999999.pipe")
    assert read_drawings(tmp_path) == {"good": good.content}
    write([(1, f"{i:03}", good) for i in range(2 * drawings.MAX_PICTURES)])
    assert len(read_drawings(tmp_path)) == drawings.MAX_PICTURES
