"""Runs that are opened again: their configuration as it was, and a directory that can be written to."""

import os
import shutil

import pytest
from omegaconf import OmegaConf

from dlopt.config.compose import groups
from dlopt.config.problems import ConfigError
from dlopt.config.reopen.load_run import check_writable, load_config
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.writer import RunWriter
from dlopt.storage.fingerprint import digest_files


@pytest.fixture
def run(tmp_path):
    run = RunWriter.create(tmp_path / "run")
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
    assert load_config(run) == load_config(run, trust=True) == content


def test_of_keys_that_came_later_a_run_has_the_values_that_say_what_it_did(run):
    configured(run, {"validation": {"fraction": 0.3}})
    assert load_config(run).validation == {"fraction": 0.3, "scheme": "holdout", "k": 5, "fold": None}
    folded = {"validation": {"scheme": "kfold", "fraction": 0.2, "k": 4, "fold": 3}}
    configured(run, folded)
    assert OmegaConf.to_yaml(load_config(run)) == run.config_file.read_text(), "as it was, in its order"


def test_data_are_looked_for_where_the_run_was_started(run, tmp_path, monkeypatch):
    (tmp_path / "began").mkdir()
    (tmp_path / "began" / "my.csv").touch()
    monkeypatch.chdir(run.path)
    configured(run, {"data": {"path": "my.csv"}})
    assert load_config(run).data.path == "my.csv"
    for damaged in ("- 1", "hydra: 3", "hydra: {runtime: {cwd: [1]}}", "a: [", "\x00"):
        run.hydra_file.write_text(damaged)
        assert load_config(run).data.path == "my.csv"
    run.hydra_file.write_text(f"hydra: {{runtime: {{cwd: '{tmp_path}/began'}}}}")
    assert load_config(run).data.path == str(tmp_path / "began" / "my.csv")
    for path in (3, None, ["x"], "~nobody-of-this-name/x", "a\0b"):
        configured(run, {"data": {"path": path}})
        assert load_config(run).data.path == path


def test_nothing_is_brought_to_a_folder_that_a_run_names(run):
    own = "https://ossci-datasets.s3.amazonaws.com/mnist/"
    for path, url in ((None, own), ("folder", None)):
        configured(run, {"data": {"_target_": "dlopt.data.mnist.MNIST", "path": path, "url": own}})
        assert load_config(run).data.url == url
        assert load_config(run, trust=True).data.url == own


def test_a_trusted_run_may_refer_to_other_values(run):
    configured(run, {"name": "${seed}", "seed": 3})
    with pytest.raises(ConfigError, match="--trust"):
        load_config(run)
    assert load_config(run, trust=True).name == 3


def test_a_directory_of_files_and_folders_is_writable_and_may_itself_be_linked(run, tmp_path):
    (run.path / "a" / "b").mkdir(parents=True)
    (run.path / "a" / "b" / "c").touch()
    check_writable(run)
    (tmp_path / "link").symlink_to(run.path)
    check_writable(RunDirectory(tmp_path / "link"))


@pytest.mark.parametrize("at", ["x", "a/x", "a/b/x"])
def test_a_directory_with_anything_else_is_not(at, run, tmp_path):
    (run.path / "a" / "b").mkdir(parents=True)
    (tmp_path / "other").touch()
    made = {
        "link": lambda path: path.symlink_to(tmp_path / "other"),
        "folder": lambda path: path.symlink_to(tmp_path),
        "nowhere": lambda path: path.symlink_to("nowhere"),
        "pipe": os.mkfifo,
    }
    for make in made.values():
        make(run.path / at)
        with pytest.raises(ConfigError, match=f"{at} is .*remove it"):
            check_writable(run)
        (run.path / at).unlink()
    check_writable(run)


def test_a_backup_of_hard_links_is_not_to_be_removed(run, tmp_path):
    """To remove what has two names would remove the run, or the backup of it."""
    run.lock.release()
    shutil.copytree(run.path, tmp_path / "backup", copy_function=os.link)
    with pytest.raises(ConfigError, match=rf"hard link.*cp -r {run.path} {run.path}-copy") as found:
        check_writable(run)
    assert "remove" not in str(found.value)
    shutil.copytree(run.path, tmp_path / "run-copy")
    check_writable(RunDirectory(tmp_path / "run-copy"))


# ------------------------------------------------------------------------------------------------ whose files

TABLE = OmegaConf.to_container(OmegaConf.load(groups.CONF / "data" / "table.yaml"))
ARRAYS = OmegaConf.to_container(OmegaConf.load(groups.CONF / "data" / "arrays.yaml"))


@pytest.fixture
def elsewhere(run, tmp_path, monkeypatch):
    """A folder that is neither the working directory nor the run's, with somebody's files."""
    for name in ("here", "elsewhere"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("my.csv", "my.npz", "x.npy", "y.npy"):
        (tmp_path / "elsewhere" / name).write_text(name)
    return tmp_path / "elsewhere"


def of(option, path, **keys):
    return {"data": {k: v for k, v in option.items() if k != "defaults"} | {"path": str(path), **keys}}


def told(run, files, name="last"):
    """A checkpoint that tells of these files."""
    run.save(name, {"step": 1, "encoding": {"sha256": digest_files(files)}})


@pytest.mark.parametrize(("option", "name"), [(TABLE, "my.csv"), (ARRAYS, "my.npz"), (ARRAYS, "x.npy")])
def test_a_file_of_ones_own_elsewhere_needs_trust(option, name, run, elsewhere):
    more = {"target": "y.npy"} if name == "x.npy" else {}
    configured(run, of(option, elsewhere / name, **more))
    with pytest.raises(ConfigError, match=f"data.path .*names a file of yours, {elsewhere / name}, .*--trust.*--data"):
        load_config(run)
    for trusted in ({"trust": True}, {"folders": [elsewhere]}):
        assert load_config(run, **trusted).data.path == str(elsewhere / name)
    configured(run, of(option, elsewhere / "gone" / name, **more))
    load_config(run)  # that it is not there is said when it is to be read


@pytest.mark.parametrize("place", ["here", "run"])
def test_a_file_in_the_working_directory_or_the_runs_needs_none(place, run, elsewhere, tmp_path):
    file = tmp_path / place / "inner" / "my.csv"
    file.parent.mkdir()
    file.touch()
    configured(run, of(TABLE, file))
    assert load_config(run).data.path == str(file)
    (file.parent / "link.csv").symlink_to(elsewhere / "my.csv")
    for out in (file.parent / "link.csv", file.parent / ".." / ".." / "elsewhere" / "my.csv"):
        configured(run, of(TABLE, out))
        with pytest.raises(ConfigError, match="names a file of yours"):
            load_config(run)


@pytest.mark.parametrize("name", ["last", "best"])
def test_a_file_elsewhere_that_is_still_the_one_that_the_run_has_read_needs_none(name, run, elsewhere):
    told(run, [elsewhere / "my.csv"], name)
    configured(run, of(TABLE, elsewhere / "my.csv"))
    assert load_config(run).data.path == str(elsewhere / "my.csv")
    (elsewhere / "my.csv").write_text("another")
    with pytest.raises(ConfigError, match="names a file of yours"):
        load_config(run)


def test_all_files_of_a_data_set_are_looked_at(run, elsewhere, tmp_path):
    """Of inputs here and targets elsewhere, the latter."""
    (tmp_path / "here" / "x.npy").write_text("x.npy")
    configured(run, of(ARRAYS, "x.npy", target=str(elsewhere / "y.npy")))
    with pytest.raises(ConfigError, match=f"names a file of yours, {elsewhere / 'y.npy'}"):
        load_config(run)
    told(run, [tmp_path / "here" / "x.npy", elsewhere / "y.npy"])
    load_config(run)


def test_a_file_is_not_read_before_it_is_known_to_be_the_runs(run, elsewhere, monkeypatch):
    monkeypatch.setattr("dlopt.config.reopen.load_run.digest_files", lambda files: pytest.fail("read"))
    configured(run, of(TABLE, elsewhere / "my.csv"))
    with pytest.raises(ConfigError, match="names a file of yours"):
        load_config(run)


@pytest.mark.parametrize("name", [".hydra", "checkpoints"])
def test_a_linked_folder_needs_trust(name, run, tmp_path):
    configured(run, {"name": "x"})
    run.checkpoint("last").parent.mkdir(exist_ok=True)
    (run.path / name).rename(tmp_path / "scratch")
    (run.path / name).symlink_to(tmp_path / "scratch")
    with pytest.raises(ConfigError, match=f"{name} is a symbolic link.*--trust"):
        load_config(run)
    assert load_config(run, trust=True).name == "x"


def test_what_is_exchanged_is_what_must_be_trusted(run):
    configured(run, {"optimizer": {"_target_": "mine.Lion"}, "name": "x"})
    with pytest.raises(ConfigError, match=r"mine\.Lion"):
        load_config(run)
    sgd = {"_target_": "dlopt.optimizer.sgd.SGD", "lr": 1.0}
    assert load_config(run, lambda former: former | {"optimizer": sgd}) == {"optimizer": sgd, "name": "x"}
    with pytest.raises(ConfigError, match=r"mine\.NormDropoutNet"):
        load_config(run, lambda former: {"arch": {"_target_": "mine.NormDropoutNet"}})


@pytest.mark.parametrize("name", ["my.npz", "."])
def test_weights_to_begin_with_that_lie_elsewhere_need_trust(name, run, elsewhere, tmp_path):
    init = {"_target_": "dlopt.init.pretrained.Pretrained", "run": str(elsewhere / name)}
    configured(run, {"init": init})
    with pytest.raises(ConfigError, match=r"init.run .*names weights that lie elsewhere.*--trust"):
        load_config(run)
    assert load_config(run, trust=True).init.run == str(elsewhere / name)
    for fine in ("outputs/other", "other", str(elsewhere / "gone"), str(tmp_path / "here" / "other")):
        (tmp_path / "here" / "other").mkdir(exist_ok=True)
        configured(run, {"init": init | {"run": fine}})
        assert load_config(run).init.run == fine
