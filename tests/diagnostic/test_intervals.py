"""A diagnostic whose interval is longer than the run is reported at its end."""

from helpers import BLOBS, build_blobs, train_runs

from dlopt.cli import main

SHORT = ("epochs=3", "diagnostic=[sharpness,noise,dead,gradients,trajectory]", "diagnostic.noise.every=2")


def test_an_interval_longer_than_the_run_is_named(tmp_path):
    _, (run,) = train_runs(tmp_path, build_blobs(*SHORT, "optimizer.lr=0.1"))
    message = run.status["message"]
    assert "with diagnostic.sharpness.every=1000, diagnostic.dead.every=20: the run has only" in message
    assert "(3 epochs)" in message


def test_nothing_is_said_of_diagnostics_that_measured(tmp_path):
    _, (run,) = train_runs(
        tmp_path, build_blobs(*SHORT, "optimizer.lr=0.1", "diagnostic.sharpness.every=3", "diagnostic.dead.every=3")
    )
    assert run.status["message"] == ""


def test_the_warning_is_printed(here, capsys):
    assert main(["train", *BLOBS, "diagnostic=sharpness"]) == 0
    assert "nothing was measured with diagnostic.sharpness.every=1000" in " ".join(capsys.readouterr().out.split())
