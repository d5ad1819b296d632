"""Open the configuration of a run: unchanged, without foreign files and code; and check that its directory is writable."""

import os
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from dlopt.config.compose import groups
from dlopt.config.problems import ConfigError
from dlopt.config.reopen.load_run import check_writable, load_config
from dlopt.config.schema.renamed_keys import ADDED_KEYS
from dlopt.rundir.writer import RunWriter
from dlopt.storage.fingerprint import digest_files


@pytest.fixture
def run(tmp_path):
    run = RunWriter.create(tmp_path / "run")
    (run.path / ".hydra").mkdir()
    return run


def write_config(run, content):
    run.config_file.write_text(OmegaConf.to_yaml(content))


def test_the_configuration_is_read_as_it_was_written(run):
    content = {
        "optimizer": {"_target_": "dlopt.optimizer.sgd.SGD", "lr": 1e-5},
        "name": "2026-01-01",
        "arch": {"widths": [1, 2]},
        "loss": {"_target_": "dlopt.loss.hinge.Hinge", "class_weights": None, "margin": 1.0},
        "data": {"_target_": "dlopt.data.digits.Digits", "path": None, "order": "once"},
    }
    write_config(run, content)
    assert load_config(run) == load_config(run, trust=True) == content
    assert OmegaConf.to_yaml(load_config(run)) == run.config_file.read_text(), "the order is kept"


@pytest.mark.parametrize("name", ADDED_KEYS)
def test_a_run_without_keys_that_are_new_has_their_defaults(name, run):
    _, group, option, _ = name.split(".")
    defaults = OmegaConf.load(groups.CONF / group / f"{option}.yaml")
    write_config(run, {group: {"_target_": name, "path": "my.csv"}})
    loaded = load_config(run, trust=True)[group]
    assert loaded == {"_target_": name, "path": "my.csv"} | {key: defaults[key] for key in loaded.keys() - {"path"}}
    if name.endswith("TableData"):
        assert loaded.keys() >= {"encoding", "dates", "date_format"}


def test_a_relative_data_path_is_looked_up_where_the_run_was_started(run, tmp_path, monkeypatch):
    (tmp_path / "began").mkdir()
    (tmp_path / "began" / "my.csv").touch()
    monkeypatch.chdir(run.path)
    write_config(run, {"data": dict.fromkeys(groups.DATA_FILE_KEYS, "my.csv")})
    assert load_config(run).data.path == "my.csv"
    for damaged in ("- 1", "hydra: 3", "hydra: {runtime: {cwd: [1]}}", "a: [", "\x00"):
        run.hydra_file.write_text(damaged)
        assert load_config(run).data.path == "my.csv"
    run.hydra_file.write_text(f"hydra: {{runtime: {{cwd: '{tmp_path}/began'}}}}")
    assert set(load_config(run).data.values()) == {str(tmp_path / "began" / "my.csv")}
    for path in (3, None, ["x"], "~no-such-user/x", "a\0b"):
        write_config(run, {"data": {"path": path}})
        assert load_config(run).data.path == path


def test_nothing_is_downloaded_to_a_folder_that_a_run_names(run):
    address = "https://ossci-datasets.s3.amazonaws.com/mnist/"
    for path, url in ((None, address), ("folder", None)):
        write_config(run, {"data": {"_target_": "dlopt.data.mnist.MNIST", "path": path, "url": address}})
        assert load_config(run).data.url == url
        assert load_config(run, trust=True).data.url == address


def test_a_trusted_run_may_refer_to_other_values(run):
    write_config(run, {"name": "${seed}", "seed": 3})
    with pytest.raises(ConfigError, match="--trust"):
        load_config(run)
    assert load_config(run, trust=True).name == 3


def test_a_directory_of_files_and_folders_is_writable(run, tmp_path):
    (run.path / "a" / "b").mkdir(parents=True)
    (run.path / "a" / "b" / "c").touch()
    check_writable(run.path)
    (tmp_path / "link").symlink_to(run.path)
    check_writable(tmp_path / "link")


@pytest.mark.parametrize("at", ["x", "a/x", "a/b/x"])
def test_a_directory_with_links_or_pipes_is_not_writable(at, run, tmp_path):
    (run.path / "a" / "b").mkdir(parents=True)
    (tmp_path / "other").touch()
    makers = {
        "link": lambda path: path.symlink_to(tmp_path / "other"),
        "folder": lambda path: path.symlink_to(tmp_path),
        "nowhere": lambda path: path.symlink_to("nowhere"),
        "pipe": os.mkfifo,
    }
    for make in makers.values():
        make(run.path / at)
        with pytest.raises(ConfigError, match=f"{at} is .*remove it"):
            check_writable(run.path)
        (run.path / at).unlink()
    check_writable(run.path)


@pytest.mark.parametrize(
    "name",
    ["status.json", "summary.json", "metrics.jsonl", "train.log", ".hydra/config.yaml", "checkpoints/best.safetensors",
     "checkpoints/last.safetensors.tmp", "status.json.tmp", "events.out.tfevents.1.host"],
)  # fmt: skip
def test_a_directory_in_the_place_of_a_file_is_refused(name, run):
    (run.path / name).unlink(missing_ok=True)
    (run.path / name).mkdir(parents=True)
    with pytest.raises(ConfigError, match=rf"{name} is a directory in the place of a file"):
        check_writable(run.path)


def test_hard_links_are_refused_without_advice_to_remove_them(run, tmp_path):
    """Removing them would remove the run, or its backup."""
    run.lock.release()
    shutil.copytree(run.path, tmp_path / "backup", copy_function=os.link)
    with pytest.raises(ConfigError, match=rf"hard link.*cp -r {run.path} {run.path}-copy") as error:
        check_writable(run.path)
    assert "remove" not in str(error.value)
    shutil.copytree(run.path, tmp_path / "run-copy")
    check_writable(tmp_path / "run-copy")


# ------------------------------------------------------------------------------------------------ data files

TABLE = OmegaConf.to_container(OmegaConf.load(groups.CONF / "data" / "table.yaml"))
ARRAYS = OmegaConf.to_container(OmegaConf.load(groups.CONF / "data" / "arrays.yaml"))


@pytest.fixture
def elsewhere(run, tmp_path, monkeypatch):
    """Return a folder outside the working directory and the run, with files in it."""
    for name in ("here", "elsewhere"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("my.csv", "my.npz", "x.npy", "y.npy"):
        (tmp_path / "elsewhere" / name).write_text(name)
    return tmp_path / "elsewhere"


def make_data(option, path=None, **keys):
    return {"data": {k: v for k, v in option.items() if k != "defaults"} | {"path": str(path), **keys}}


def record_files(run, files, name="last"):
    """Save a checkpoint that records these files."""
    run.save(name, {"step": 1, "encoding": {"sha256": digest_files(files)}})


@pytest.mark.parametrize(("option", "name"), [(TABLE, "my.csv"), (ARRAYS, "my.npz"), (ARRAYS, "x.npy")])
def test_a_data_file_elsewhere_needs_trust(option, name, run, elsewhere):
    more = {"target": "y.npy"} if name == "x.npy" else {}
    write_config(run, make_data(option, elsewhere / name, **more))
    with pytest.raises(ConfigError, match=f"data.path .*names a file of yours, {elsewhere / name}, .*--trust.*--data"):
        load_config(run)
    for trusted in ({"trust": True}, {"folders": [elsewhere]}):
        assert load_config(run, **trusted).data.path == str(elsewhere / name)
    write_config(run, make_data(option, elsewhere / "gone" / name, **more))
    load_config(run)  # loading reports that it does not exist


@pytest.mark.parametrize("place", ["here", "run"])
def test_a_data_file_in_the_working_directory_or_the_run_needs_no_trust(place, run, elsewhere, tmp_path):
    file = tmp_path / place / "inner" / "my.csv"
    file.parent.mkdir()
    file.touch()
    write_config(run, make_data(TABLE, file))
    assert load_config(run).data.path == str(file)
    (file.parent / "link.csv").symlink_to(elsewhere / "my.csv")
    for out in (file.parent / "link.csv", file.parent / ".." / ".." / "elsewhere" / "my.csv"):
        write_config(run, make_data(TABLE, out))
        with pytest.raises(ConfigError, match="names a file of yours"):
            load_config(run)


@pytest.mark.parametrize("name", ["last", "best"])
def test_the_unchanged_data_file_of_a_run_needs_no_trust(name, run, elsewhere):
    record_files(run, [elsewhere / "my.csv"], name)
    write_config(run, make_data(TABLE, elsewhere / "my.csv"))
    assert load_config(run).data.path == str(elsewhere / "my.csv")
    (elsewhere / "my.csv").write_text("another")
    with pytest.raises(ConfigError, match="names a file of yours"):
        load_config(run)


def test_every_file_of_a_data_set_is_checked(run, elsewhere, tmp_path):
    """Here the inputs lie in the working directory, and the targets elsewhere."""
    (tmp_path / "here" / "x.npy").write_text("x.npy")
    write_config(run, make_data(ARRAYS, "x.npy", target=str(elsewhere / "y.npy")))
    with pytest.raises(ConfigError, match=f"names a file of yours, {elsewhere / 'y.npy'}"):
        load_config(run)
    record_files(run, [tmp_path / "here" / "x.npy", elsewhere / "y.npy"])
    load_config(run)


@pytest.mark.parametrize("key", groups.DATA_FILE_KEYS)
def test_no_key_may_name_a_file_elsewhere(key, run, elsewhere, monkeypatch):
    """It does not matter whether the other files exist, nor whether the home folder is written as ~."""
    monkeypatch.setenv("HOME", str(elsewhere))
    names = {name: f"{name}.csv" for name in groups.DATA_FILE_KEYS}
    for is_there in (False, True):
        for name in names.values() if is_there else ():
            Path(name).write_text(name)
        for file in (str(elsewhere / "my.csv"), "~/my.csv"):
            write_config(run, make_data(TABLE, **{**names, key: file}))
            with pytest.raises(ConfigError, match=f"names a file of yours, {elsewhere / 'my.csv'}"):
                load_config(run)
    record_files(run, [elsewhere / "my.csv" if name == key else Path(file) for name, file in names.items()])
    load_config(run)


def test_every_key_of_a_data_option_that_names_a_file_is_known():
    options = [OmegaConf.load(groups.CONF / "data" / f"{name}.yaml") for name in groups.list_option_names("data")]
    assert {key for option in options for key in option if "path" in key or "file" in key} == {*groups.DATA_FILE_KEYS}


def test_a_file_that_no_checkpoint_records_is_not_read(run, elsewhere, monkeypatch):
    monkeypatch.setattr("dlopt.base.data.digest_files", lambda files: pytest.fail("read"))
    write_config(run, make_data(TABLE, elsewhere / "my.csv"))
    with pytest.raises(ConfigError, match="names a file of yours"):
        load_config(run)


@pytest.mark.parametrize("name", [".hydra", "checkpoints"])
def test_a_linked_folder_needs_trust(name, run, tmp_path):
    write_config(run, {"name": "x"})
    run.checkpoint("last").parent.mkdir(exist_ok=True)
    (run.path / name).rename(tmp_path / "scratch")
    (run.path / name).symlink_to(tmp_path / "scratch")
    with pytest.raises(ConfigError, match=f"{name} is a symbolic link.*--trust"):
        load_config(run)
    assert load_config(run, trust=True).name == "x"


def test_the_transformed_configuration_is_checked(run):
    write_config(run, {"optimizer": {"_target_": "mine.Lion"}, "name": "x"})
    with pytest.raises(ConfigError, match=r"mine\.Lion"):
        load_config(run)
    sgd = {"_target_": "dlopt.optimizer.sgd.SGD", "lr": 1.0}
    assert load_config(run, lambda stored: stored | {"optimizer": sgd}) == {"optimizer": sgd, "name": "x"}
    with pytest.raises(ConfigError, match=r"mine\.NormDropoutNet"):
        load_config(run, lambda stored: {"arch": {"_target_": "mine.NormDropoutNet"}})


@pytest.mark.parametrize("name", ["my.npz", "."])
def test_initial_weights_elsewhere_need_trust(name, run, elsewhere, tmp_path):
    init = {"_target_": "dlopt.init.pretrained.Pretrained", "run": str(elsewhere / name)}
    write_config(run, {"init": init})
    with pytest.raises(ConfigError, match=r"init.run .*names weights that lie elsewhere.*--trust"):
        load_config(run)
    assert load_config(run, trust=True).init.run == str(elsewhere / name)
    for fine in ("outputs/other", "other", str(elsewhere / "gone"), str(tmp_path / "here" / "other")):
        (tmp_path / "here" / "other").mkdir(exist_ok=True)
        write_config(run, {"init": init | {"run": fine}})
        assert load_config(run).init.run == fine
