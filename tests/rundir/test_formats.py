"""The formats of existing files, and the numbers that a seed means, do not change unnoticed.

If a test fails here, a format has changed. If former checkpoints cannot be resumed, or resume with other numbers, raise
checkpointing.FORMAT; then update the expected values.
"""

import json

import pytest
import torch
import yaml
from helpers import BLOBS, build_blobs, compose_config, train_runs
from hostile_runs import claim_config

from dlopt import prng
from dlopt.cli import main
from dlopt.config.schema.renamed_keys import ADDED_SETTINGS
from dlopt.rundir.directory import RunDirectory
from dlopt.training import checkpointing
from dlopt.training.state import TrainState

# ------------------------------------------------------------------------------------------- numbers

NUMBERS = {
    (0,): ((33350994, 33350994), [632013150, 1092597679, -347241810], 945847668),
    (1, "dropout"): ((2724547772, 354553104), [2127423321, 1671623747, -1471344480], 1377510230),
    (0, "objective", 7, "a.b", 2): ((2251718335, 1422454976), [-896071252, -288157318, -1724628976], 3310004980),
    (2**32 - 1, "init", "hidden.0.weight"): (
        (2142236124, 1095507783),
        [1439265212, -1485251838, -1456070417],
        3072083263,
    ),
    (2**63 + 5, -1): ((132705229, 212649170), [-1585212756, 1635297685, -249979313], 3871624088),
}
"""The key of an address, its first three random words, and the seed of its generator."""


@pytest.mark.parametrize("path", NUMBERS)
def test_the_numbers_of_an_address(path):
    key, (expected, bits, seed) = prng.key(*path), NUMBERS[path]
    assert key == expected
    assert prng.bits(key, (3,)).tolist() == bits
    assert prng.uniform(key, (3,)).mul(2**24).long().tolist() == [(n % 2**32) >> 8 for n in bits]
    assert prng.bernoulli(key, 0.3, (3,)).tolist() == [n + 2**31 < 0.3 * 2**32 for n in bits]
    assert prng.generator(key).initial_seed() == seed


def test_the_order_of_an_epoch():
    """It is a permutation by the address order/EPOCH."""
    training = TrainState([build_blobs("seed=1", "batch_size=6", "+data.count=15")])
    assert training.per_epoch == 2
    inputs = training.examples.all()[0]
    orders = []
    for training.step in range(4):
        batch = training.next_batch()[0]
        orders += [int((inputs == one).all(-1).nonzero()) for one in batch]
    expected = []
    for epoch in range(2):
        draw = torch.Generator().manual_seed(prng.generator(prng.key(1, "order", epoch)).initial_seed())
        expected += torch.randperm(12, generator=draw).tolist()
    assert orders == expected == ORDER


ORDER = [7, 2, 1, 5, 8, 0, 10, 9, 6, 3, 11, 4, 8, 3, 6, 11, 1, 10, 2, 9, 0, 7, 4, 5]


def test_a_run_with_random_numbers_of_every_kind(tmp_path):
    """The addresses of initial weights, splits, noise, orders and masks are unchanged."""
    _, (run,) = train_runs(tmp_path, build_blobs("seed=3", "data.label_noise=0.2", "data.train_size=50", "precision=float64",
                                        "regularization=[dropout,l2]"))  # fmt: skip
    assert [row["train/loss"] for row in run.rows()] == pytest.approx(LOSSES, rel=1e-6)
    mixed = ("seed=3", "+data.shape=[1,6,6]", "augmentation=[flip_horizontal,cowmix]", "precision=float64", "steps=1")
    _, (run,) = train_runs(tmp_path / "mixed", build_blobs(*mixed))
    assert run.rows()[0]["train/loss"] == pytest.approx(MIXED, rel=1e-6)


LOSSES = [3.1235322934782004, 3.7700885354448292, 3.2509705385008836]
MIXED = 1.8496298356012568

# ------------------------------------------------------------------------------------------- files

BOTH = {"format": "int", "config": "NoneType", "settings": "dict", "preprocessing": "dict", "encoding": "dict",
        "encoding/classes": "list", "step": "int", **{f"model/{name}": "Tensor" for name in (
            "hidden.0.weight", "hidden.0.bias", "hidden.1.weight", "hidden.1.bias", "hidden.1.running_mean", "hidden.1.running_var",
            "output.weight", "output.bias")}}  # fmt: skip
LAST = {
    **BOTH,
    **{name.replace("model", "best"): kind for name, kind in BOTH.items() if name.startswith("model/")},
    "logged": "dict", "logged/bytes": "int", "logged/sha256": "str", "evaluations": "int", "state": "dict",
    "state/m": "Tensor", "state/v": "Tensor", "state/t": "Tensor", "average": "NoneType", "row": "str",
    "history": "Tensor", "best_step": "int", "seconds": "float", "window": "dict", "diagnostics": "dict",
}  # fmt: skip
STATUS = {
    "status": "str", "host": "str", "pid": "int", "since": "float", "ended": "float", "message": "str",
    "command": "str", "versions": "dict", "machine": "dict", "git": "list", "config": "NoneType", "started": "float",
    "before": "list", "settings": "dict",
}  # fmt: skip
ROW = {
    "step": "int", "epoch": "float", "seconds": "float", "lr": "float", "train/loss": "float",
    "train/accuracy": "float", "train/error": "float", "val/loss": "float", "val/accuracy": "float",
    "val/error": "float",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunDirectory:
    return train_runs(tmp_path_factory.mktemp("run"), build_blobs("normalization=batch"))[1][0]


def list_types(content, place=""):
    """Return the keys of nested dictionaries and the types of their values."""
    types = {}
    for key, value in content.items():
        types[f"{place}{key}"] = type(value).__name__
        if isinstance(value, dict):
            types |= list_types(value, f"{place}{key}/")
    return types


def test_checkpoints(run):
    assert checkpointing.FORMAT == run.load("last")["format"] == 2
    for name, expected in (("last", LAST), ("best", BOTH)):
        types = list_types(run.load(name))
        assert {
            k: v for k, v in types.items() if not k.startswith("window/") and k not in ("model", "best")
        } == expected


def test_status_and_rows(run):
    status = json.loads(run.status_file.read_text())
    assert {key: type(value).__name__ for key, value in status.items()} == STATUS
    first, *_, last = map(json.loads, run.metrics_file.read_text().splitlines())
    assert {k: type(v).__name__ for k, v in first.items() if not k.startswith("time/")} == ROW
    assert first.keys() == last.keys()


def test_the_files_of_a_run(run):
    names = {str(p.relative_to(run.path)).partition(".tfevents.")[0] for p in run.path.rglob("*") if p.is_file()}
    assert {name for name in names if not name.endswith(".patch")} == {
        "status.json", "metrics.jsonl", "summary.json", "events.out", "checkpoints/last.safetensors", "checkpoints/best.safetensors",
    }  # fmt: skip
    assert run.checkpoint_after(300).name == "step-00000300.safetensors"


def test_the_keys_of_a_configuration():
    """Runs that are resumed have exactly these."""
    config = compose_config()
    assert {k for k in config if not isinstance(config[k], type(config))} == {
        "epochs", "steps", "batch_size", "micro_batch_size", "seed", "device", "precision", "compile", "deterministic", "threads",
        "log_every", "eval_every", "objective", "name", "resume",
    }  # fmt: skip
    assert set(config.checkpoint) == {"every", "minutes", "keep"}
    assert set(config.tolerance) == {"gradient", "step"}
    assert set(config.validation) == {"scheme", "fraction", "k", "fold"}


# ------------------------------------------------------------------------------------------- earlier versions


def test_a_run_of_an_earlier_version_is_refused_and_shown(here, capsys):
    """Its group `bias` is now `bias_init`, and its checkpoints are .pt files."""
    assert main(["train", "-q", *BLOBS, "epochs=1", "hydra.run.dir=run"]) == 0
    run = RunDirectory("run")
    config = yaml.safe_load(run.config_file.read_text())
    config["bias"] = config.pop("bias_init")
    run.config_file.write_text(yaml.safe_dump(config))
    for file in (here / "run/checkpoints").iterdir():
        file.rename(file.with_suffix(".pt"))
    capsys.readouterr()
    for argv in (["evaluate", "run"], ["verify", "run"], ["rerun", "run"], ["train", "resume=run", "epochs=2"]):
        assert main(argv) == 2, argv
        (line,) = (line for line in capsys.readouterr().err.splitlines() if "earlier version" in line)
        assert line.count("run") >= 1
    for argv in (["show", "run"], ["runs", "."]):
        assert main(argv) == 0
    assert "val/accuracy" in capsys.readouterr().out


def test_a_run_without_a_setting_that_was_added_later_is_opened(here, capsys):
    assert main(["train", "-q", *BLOBS, "epochs=1", "hydra.run.dir=run"]) == 0
    run = RunDirectory("run")
    config = yaml.safe_load(run.config_file.read_text())
    for key, value in ADDED_SETTINGS.items():
        stored = config.pop(key)
        kept = {k: v for k, v in stored.items() if k not in value} if isinstance(value, dict) else {}
        assert stored == ({**kept, **value} if isinstance(value, dict) else value)
        config |= {key: kept} if kept else {}
    run.config_file.write_text(yaml.safe_dump(config))
    claim_config(run.path, here)
    for argv in (["evaluate", "run"], ["verify", "run"], ["rerun", "run"], ["train", "-q", "resume=run", "epochs=2"]):
        assert main([*argv, "--trust"]) == 0, (argv, capsys.readouterr())


def test_a_sweep_of_an_earlier_version_is_shown_and_refused_with_the_new_keys(here, capsys):
    assert main(["train", "-q", "-m", *BLOBS, "epochs=1", "hydra.sweep.dir=sweep", "hydra/sweeper=random",
                 "hydra.sweeper.n_trials=1", "optimizer.lr=interval(0.01,0.1)", "bias_init=zeros"]) == 0  # fmt: skip
    file = here / "sweep/sweep.json"
    text = file.read_text().replace("hydra.sweeper.n_trials", "hydra.sweeper.trials").replace("bias_init=", "bias=")
    assert text != file.read_text()
    file.write_text(text)
    capsys.readouterr()
    assert main(["show", "sweep"]) == 0
    assert "optimizer.lr" in capsys.readouterr().out
    assert main(["train", "-q", "resume=sweep", "--trust"]) == 2
    err = capsys.readouterr().err
    assert "trials is now n_trials" in err
    assert "bias is now bias_init" in err
