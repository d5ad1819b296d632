"""dlopt show --batch, before a run and as a run saw it."""

import numpy as np
import pytest
from helpers import BLOBS
from matplotlib.image import imread

from dlopt.cli import main

PIXELS = ("data=custom", "data._target_=mine.Pixels", "+data.shape=[3,6,6]", "arch=mlp", "arch.widths=[4]", "batch_size=16",
          "threads=1", "epochs=1", "augmentation=[brightness,cutmix]", "preprocess=per_channel")  # fmt: skip


def show(*argv):
    return main(["show", "--batch", *argv])


def test_a_run_saw_the_batch_that_its_configuration_promised(here, capsys):
    """The same picture by overrides and by the run; nothing but pictures is written before a run."""
    assert show(*PIXELS, "--png", "before.png", "--title", "same", "--examples", "6") == 0
    assert [path.name for path in here.iterdir()] == ["before.png"]
    assert main(["train", "-q", *PIXELS]) == 0
    capsys.readouterr()
    assert show("last", "--trust", "--png", "after.png", "--title", "same", "--examples", "6") == 0
    assert capsys.readouterr().out == "after.png\n"
    np.testing.assert_array_equal(imread("before.png"), imread("after.png"))
    assert show(*PIXELS, "seed=1", "--png", "other.png", "--title", "same", "--examples", "6") == 0
    other = imread("other.png")
    assert other.shape != imread("before.png").shape or not np.array_equal(other, imread("before.png"))
    capsys.readouterr()
    assert show("--trust") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("outputs/reports/")
    assert line.endswith("-batch.png")
    assert imread(line).shape[0] > 100


def test_features_are_printed(here, capsys):
    assert show(*BLOBS, "augmentation=jitter", "--examples", "3") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "first 3 examples of the first mini-batch" in lines[0]
    assert lines[2].split() == ["target", "x0", "x1", "x2", "x3"]
    assert len(lines) == 3 + 6 + 1
    assert not list(here.iterdir())


REFUSED = {
    "a flag of curves": (["--batch", "--plot", "loss"], "--plot is not for --batch"),
    "a flag of sweeps": (["--batch", "--all"], "--all is not for --batch"),
    "a number of examples alone": (["--examples", "3"], "--examples is for a mini-batch: add --batch"),
    "trust alone": (["--trust"], "--trust is for a mini-batch: add --batch"),
    "trust in overrides": (["--batch", "--trust", *BLOBS], "what you type yourself is trusted"),
    "a run and overrides": (["--batch", "last", *BLOBS], "name last or overrides, not both"),
    "two runs": (["one", "two"], "shows one run or sweep, got one two"),
    "no run": (["--batch"], "no run"),
    "a picture of features": (["--batch", *BLOBS, "--png", "x.png"], "--png draws images and series"),
    "a run without data": (["--batch", "data=none", "arch=surface", "loss=output"], "this run has no data"),
    "an augmentation that does not fit": (["--batch", *BLOBS, "augmentation=cutout"], "augmentation.cutout"),
    "several values": (["--batch", *BLOBS, "seed=0,1"], "seed"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_command_without_sense_is_refused(case, here, capsys):
    argv, words = REFUSED[case]
    assert main(["show", *argv]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert not captured.out
    assert not list(here.iterdir())
