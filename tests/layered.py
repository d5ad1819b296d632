"""A small network with kernels, a matrix and biases, and a check of runs, for optimizers that work layer by layer."""

import torch
from helpers import build_blobs, interrupt_run, load_weights, resume_run, train_runs

from dlopt.activation.tanh import Tanh
from dlopt.arch.cnn import CNN
from dlopt.normalization.none import NoNormalization


def make_cnn():
    """Kernels, a matrix and biases."""
    torch.manual_seed(0)
    return CNN((2, 7), 3, Tanh(), NoNormalization(), lambda site: None, [4, 3], [3, 2], 1, 1).double()


def draw_batches(steps, examples=10, shape=(2, 7), classes=3):
    """Return inputs and classes of the mini-batches of each step."""
    torch.manual_seed(1)
    return torch.randn(steps, examples, *shape, dtype=torch.float64), torch.randint(classes, (steps, examples))


def check_lanes_and_resume(folder, common, variants, stop_at=3):
    """Check that lanes equal runs alone, where the second variant diverges, and that the third one resumes."""
    summaries, lanes = train_runs(folder / "lanes", *(build_blobs(*common, *v) for v in variants))
    assert [s["status"] for s in summaries] == ["done", "diverged", "done"]
    for i in (0, 2):
        _, (whole,) = train_runs(folder / f"solo{i}", build_blobs(*common, *variants[i]))
        torch.testing.assert_close(load_weights(lanes[i]), load_weights(whole), rtol=1e-8, atol=1e-8)
    half = interrupt_run(folder / "half", stop_at, build_blobs(*common, *variants[2]))
    _, half = resume_run(half.path, build_blobs(*common, *variants[2]))
    assert torch.equal(load_weights(half), load_weights(whole))
