"""Runs that are opened again: their configuration as it was, and a directory that can be written to."""

import os

import pytest
from omegaconf import OmegaConf

from dlopt.config.problems import ConfigError
from dlopt.config.reopen import configuration, writable
from dlopt.run import Run


@pytest.fixture
def run(tmp_path):
    run = Run.create(tmp_path / "run")
    (run.path / ".hydra").mkdir()
    return run


def configured(run, content):
    run.config_file.write_text(OmegaConf.to_yaml(content))


def test_it_is_what_was_written(run):
    content = {
        "optimizer": {"_target_": "dlopt.optimizer.sgd.SGD", "lr": 1e-5},
        "name": "2026-01-01",
        "arch": {"widths": [1, 2]},
    }
    configured(run, content)
    assert configuration(run) == configuration(run, trust=True) == content


def test_data_are_looked_for_where_the_run_was_started(run, tmp_path, monkeypatch):
    (tmp_path / "began").mkdir()
    (tmp_path / "began" / "my.csv").touch()
    monkeypatch.chdir(run.path)
    configured(run, {"data": {"path": "my.csv"}})
    assert configuration(run).data.path == "my.csv"
    for damaged in ("- 1", "hydra: 3", "hydra: {runtime: {cwd: [1]}}", "a: [", "\x00"):
        run.hydra_file.write_text(damaged)
        assert configuration(run).data.path == "my.csv"
    run.hydra_file.write_text(f"hydra: {{runtime: {{cwd: '{tmp_path}/began'}}}}")
    assert configuration(run).data.path == str(tmp_path / "began" / "my.csv")
    for path in (3, None, ["x"], "~nobody-of-this-name/x", "a\0b"):
        configured(run, {"data": {"path": path}})
        assert configuration(run).data.path == path


def test_nothing_is_brought_to_a_folder_that_a_run_names(run):
    own = "https://ossci-datasets.s3.amazonaws.com/mnist/"
    for path, url in ((None, own), ("folder", None)):
        configured(run, {"data": {"_target_": "dlopt.data.mnist.MNIST", "path": path, "url": own}})
        assert configuration(run).data.url == url
        assert configuration(run, trust=True).data.url == own


def test_a_trusted_run_may_refer_to_other_values(run):
    configured(run, {"name": "${seed}", "seed": 3})
    with pytest.raises(ConfigError, match="--trust"):
        configuration(run)
    assert configuration(run, trust=True).name == 3


def test_a_directory_of_files_and_folders_is_writable_and_may_itself_be_linked(run, tmp_path):
    (run.path / "a" / "b").mkdir(parents=True)
    (run.path / "a" / "b" / "c").touch()
    writable(run)
    (tmp_path / "link").symlink_to(run.path)
    writable(Run(tmp_path / "link"))


@pytest.mark.parametrize("at", ["x", "a/x", "a/b/x"])
def test_a_directory_with_anything_else_is_not(at, run, tmp_path):
    (run.path / "a" / "b").mkdir(parents=True)
    (tmp_path / "other").touch()
    made = {
        "link": lambda path: path.symlink_to(tmp_path / "other"),
        "folder": lambda path: path.symlink_to(tmp_path),
        "nowhere": lambda path: path.symlink_to("nowhere"),
        "second name": lambda path: os.link(tmp_path / "other", path),
        "pipe": os.mkfifo,
    }
    for make in made.values():
        make(run.path / at)
        with pytest.raises(ConfigError, match=f"{at} is .*remove it"):
            writable(run)
        (run.path / at).unlink()
    writable(run)
