"""Hydra's flags, read from a list of arguments."""

from pathlib import Path

from dlopt.config.compose import hydra_app


def test_flags_are_parsed_once(monkeypatch, tmp_path):
    """Each time takes a millisecond of the start of a command."""
    calls, make_parser = [], hydra_app._make_parser
    monkeypatch.setattr(hydra_app, "_make_parser", lambda: calls.append(1) or make_parser())
    app = hydra_app.HydraApp(["--config-dir", str(tmp_path), "-m", "epochs=1"])
    assert (app.folders, app.arguments.multirun, app.overrides) == ([tmp_path], True, ["epochs=1"])
    assert len(calls) == 1
    assert hydra_app.find_config_folders(["--config-dir=here"]) == [Path("here").absolute()]
