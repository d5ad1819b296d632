"""The folder of links that TensorBoard shows: names, updates, and nothing written into a run."""

import os
import shutil

import pytest
from helpers import read_tree
from sweeps import LR_AXIS, OPTIMIZER_AXIS, write_run, write_sweep, write_sweep_json

from dlopt.report.tensorboard import bands as tensorboard_bands
from dlopt.report.tensorboard.view import LinkView

SEED_AXIS = {"key": "seed", "kind": "choice", "values": ["0", "1"]}


@pytest.fixture
def show_links(tmp_path):
    """Return a function that shows a folder and returns the links, with the folders to which they lead."""
    views = {}

    def show(source):
        if source not in views:
            folder = tmp_path / f"view-{len(views)}"
            folder.mkdir()
            views[source] = LinkView(source, folder), folder
        view, folder = views[source]
        view.update()
        links = [path for path in folder.rglob("*") if path.is_symlink()]
        return {str(link.relative_to(folder)): link.readlink() for link in links}

    return show


def write_logged_run(folder, settings):
    return write_run(folder, settings, rows=[1.0]).path


def test_runs_of_a_sweep_are_called_by_their_values_and_others_by_their_paths(tmp_path, show_links):
    sweep = write_sweep_json(tmp_path / "outputs" / "multirun" / "s", [OPTIMIZER_AXIS, LR_AXIS, SEED_AXIS])
    points = [("adam", 0.012345678, 0), ("sgd", 0.1, 1)]
    runs = [write_logged_run(sweep / str(i), {"optimizer": o, "optimizer.lr": lr, "seed": s})
            for i, (o, lr, s) in enumerate(points)]  # fmt: skip
    plain = write_logged_run(tmp_path / "outputs" / "day" / "plain", {})
    names = ["optimizer=adam,optimizer.lr=0.01235,seed=0", "optimizer=sgd,optimizer.lr=0.1,seed=1"]
    assert show_links(sweep) == dict(zip(names, runs, strict=True))
    below = {f"multirun/s/{name}": run for name, run in zip(names, runs, strict=True)}
    assert show_links(tmp_path / "outputs") == below | {"day/plain": plain}
    assert show_links(runs[1]) == {names[1]: runs[1]}
    assert show_links(plain) == {"plain": plain}


def test_repeats_are_called_by_seed_and_fold_and_their_mean_too(tmp_path, show_links):
    sweep = write_sweep_json(tmp_path / "s", [OPTIMIZER_AXIS], seeds=[3], folds=2)
    trial = sweep / "0"
    runs = [write_logged_run(trial / f"seed-3-fold-{k}", {"optimizer": "sgd", "seed": 3, "validation.fold": k})
            for k in (0, 1)]  # fmt: skip
    tensorboard_bands.write(runs, trial / "mean")
    names = [f"optimizer=sgd,seed=3,validation.fold={k}" for k in (0, 1)]
    expected = dict(zip(names, runs, strict=True)) | {"optimizer=sgd,mean": trial / "mean"}
    assert show_links(sweep) == show_links(trial) == expected


def test_names_are_unique_and_safe(tmp_path, show_links):
    """Even if a value is a path, or equal in two trials, or the sweep has a folder with such a name."""
    axis = {"key": "data.path", "kind": "choice", "values": ["../a/b c.csv", "x" * 300]}
    sweep = write_sweep_json(tmp_path / "s", [axis])
    runs = [write_logged_run(sweep / str(i), {"data.path": axis["values"][j]}) for i, j in enumerate((0, 0, 1, 1))]
    mine = [write_logged_run(sweep / f"data.path=.._a_b_c.csv{end}" / "inner" / "run", {}) for end in ("", "-2")]
    before = read_tree(sweep)
    links = show_links(sweep)
    assert read_tree(sweep) == before
    assert sorted(links.values()) == sorted([*runs, *mine])
    assert {links[f"data.path=.._a_b_c.csv{end}"] for end in ("", "-2")} == {*runs[:2]}
    assert all(len(os.fsencode(name)) < 255 for name in links)


@pytest.mark.parametrize("content", [None, "{", '{"format": 99}'])
def test_without_a_readable_description_runs_of_a_sweep_keep_their_numbers(content, tmp_path, show_links):
    run = write_logged_run(tmp_path / "s" / "0", {"optimizer": "sgd"})
    (tmp_path / "s" / "multirun.yaml").touch()
    if content:
        (tmp_path / "s" / "sweep.json").write_text(content)
    assert show_links(tmp_path / "s") == {"0": run}


def test_an_update_links_new_runs_and_drops_removed_ones_and_keeps_names(tmp_path, show_links):
    """A removed run frees its name for the next one; others are not renamed."""
    sweep = write_sweep(tmp_path / "s", [OPTIMIZER_AXIS], [])
    assert show_links(sweep) == {}
    runs = [write_logged_run(sweep / str(i), {"optimizer": "sgd"}) for i in (9, 10)]
    assert show_links(sweep) == {"optimizer=sgd": runs[0], "optimizer=sgd-2": runs[1]}
    shutil.rmtree(runs[0])
    assert show_links(sweep) == {"optimizer=sgd-2": runs[1]}
    run = write_logged_run(sweep / "11", {"optimizer": "sgd"})
    assert show_links(sweep) == {"optimizer=sgd": run, "optimizer=sgd-2": runs[1]}


def test_links_are_followed_in_outputs_only(here, show_links):
    """Other folders may come from someone else."""
    runs = [write_logged_run(here / place, {}) for place in ("outputs/a", "elsewhere/b", "secret/c")]
    (here / "outputs" / "disk").symlink_to(here / "elsewhere")
    (here / "elsewhere" / "link").symlink_to(here / "secret")
    assert show_links(here / "outputs") == {"a": runs[0], "disk/b": here / "outputs" / "disk" / "b"}
    assert show_links(here / "elsewhere") == {"b": runs[1]}
