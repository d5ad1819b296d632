"""dlopt evaluate: a checkpoint on a split, on other data, class by class."""

import re
import sys

import numpy as np
import pytest
import torch
from helpers import BLOBS

from dlopt.cli import main
from dlopt.rundir.find import find_run
from dlopt.rundir.writer import RunWriter

TRAIN = ("train", "-q", *BLOBS)


def numbers(line):
    words = line.split()
    return dict(zip(words[::2], map(float, words[1::2]), strict=True))


def test_the_test_split_is_what_the_run_reported(here, capsys):
    assert main([*TRAIN, "normalization=batch", "preprocess=standardize", "regularization=dropout"]) == 0
    summary = find_run().summary
    for checkpoint, prefix in (("best", ""), ("last", "last/")):
        assert main(["evaluate", "--trust", "--checkpoint", checkpoint]) == 0
        found = numbers(capsys.readouterr().out.splitlines()[3])
        assert found["loss"] == pytest.approx(summary[f"{prefix}test/loss"], abs=1e-4)
        assert found["accuracy"] == pytest.approx(summary[f"{prefix}test/accuracy"], abs=1e-4)
    assert main(["evaluate", "--trust", "--split", "val"]) == 0
    assert numbers(capsys.readouterr().out.splitlines()[3])["loss"] == pytest.approx(summary["val/loss"], abs=1e-4)


def test_a_fold_is_cut_again_as_it_was(here, capsys):
    """By evaluate, verify, rerun and resume; the folds differ in size, and in their rows."""
    losses = []
    for fold, examples in (("0", 9), ("6", 8)):
        folds = ("validation.scheme=kfold", "validation.k=7", f"validation.fold={fold}")
        assert main([*TRAIN, *folds, "preprocess=standardize", "data.label_noise=0.2"]) == 0
        run = find_run()
        assert main(["evaluate", "--trust", "--split", "val"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert f" {examples} examples" in lines[1]
        assert numbers(lines[3])["loss"] == pytest.approx(run.summary["val/loss"], abs=1e-4)
        assert main(["verify", "--trust", "-q", "--all", str(run.path)]) == 0
        assert main(["rerun", "--trust", "-q", str(run.path)]) == 0
        assert main(["train", "-q", "--trust", f"resume={run.path}", "epochs=5"]) == 0
        assert main(["verify", "--trust", "-q", "--all", str(run.path)]) == 0
        losses.append(run.rows()[-1]["val/loss"])
    assert losses[0] != losses[1]


def test_another_file_is_read_as_the_runs_own_was(here, capsys):
    """Scaled by what the run's training split had, its classes counted as they were there, whatever the file holds."""
    draw = np.random.default_rng(0)
    labels = np.array(["ant", "bee", "cow"])
    y = draw.integers(0, 3, 120)
    np.savez(here / "first.npz", x=draw.normal(size=(120, 4)) + y[:, None], y=labels[y])
    x = (5.0 + draw.normal(size=(40, 4))).astype(np.float32)
    np.savez(here / "second.npz", x=x, y=np.repeat(["cow", "bee"], 20))
    mine = (
        "data=arrays",
        "data.path=first.npz",
        "arch=mlp",
        "arch.widths=[8]",
        "batch_size=16",
        "epochs=3",
        "device=cpu",
    )
    assert main(["train", "-q", *mine, "preprocess=standardize"]) == 0
    assert main(["evaluate", "--trust", "--data", "second.npz"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert "40 examples" in out[1]

    content = find_run().load("best")
    mu, sigma = (content["preprocessing"]["standardize"][name] for name in ("mu", "sigma"))
    hidden, output = torch.nn.Linear(4, 8), torch.nn.Linear(8, 3)
    for layer, name in ((hidden, "hidden.0"), (output, "output")):
        layer.load_state_dict({k: content["model"][f"{name}.{k}"] for k in ("weight", "bias")})
    scores = output(torch.relu(hidden((torch.from_numpy(x) - mu) / sigma)))
    loss = torch.nn.functional.cross_entropy(scores, torch.tensor([2] * 20 + [1] * 20)).item()
    assert numbers(out[3])["loss"] == pytest.approx(loss, abs=2e-4)
    assert main(["evaluate", "--trust", "--data", "second.npz", "--split", "all"]) == 0
    assert capsys.readouterr().out.splitlines()[1:4] == [out[1].replace("test split", "all examples"), "", out[3]]

    np.savez(here / "third.npz", x=x, y=np.repeat(["cow", "dog"], 20))
    assert main(["evaluate", "--trust", "--data", "third.npz"]) == 2
    assert "unknown classes dog" in capsys.readouterr().err


TABLE = "size,colour,price\n" + "".join(f"{i},{'red' if i % 2 else 'blue'},{3 * i + 7}\n" for i in range(1, 81))


def test_another_table_is_read_as_the_runs_own_was(here, capsys):
    """Target and columns scaled, filled and spread out as in training: a prediction depends on its row alone."""
    (here / "first.csv").write_text(TABLE)
    mine = ("data=table", "data.path=first.csv", "data.target=price", "data.kind=numbers", "loss=mse", "data.missing=fill",
            "batch_size=16", "epochs=20", "preprocess=standardize", "device=cpu")  # fmt: skip
    assert main(["train", "-q", *mine]) == 0
    encoding = find_run().load("best")["encoding"]
    assert encoding["columns"]["colour"] == ["blue", "red"]
    lines = TABLE.splitlines()
    several = {}
    for name, rows in {"all": lines[1:], "three": lines[1:4], "one": lines[3:4], "others": lines[4:]}.items():
        (here / f"{name}.csv").write_text("\n".join([lines[0], *rows]) + "\n")
        assert main(["evaluate", "--trust", "--data", f"{name}.csv"]) == 0
        found = capsys.readouterr().out.splitlines()
        assert f"{len(rows)} examples" in found[1]
        several[name] = float(found[3].split()[1]) * len(rows)
    assert several["all"] == pytest.approx(several["three"] + several["others"], abs=0.02)
    (here / "order.csv").write_text("price,new,colour,size\n10,x,red,1\n13,y,blue,2\n16,z,red,3\n")
    assert main(["evaluate", "--trust", "--data", "order.csv"]) == 0
    found = capsys.readouterr().out.splitlines()
    assert float(found[3].split()[1]) * 3 == pytest.approx(several["three"], abs=0.001)

    for content, said in (
        ("size,price\n1,2\n", "colour"),
        ("size,colour,price\n1,green,2\n", "'green' in line 2"),
        ("size,colour,price\nbig,red,2\n", "'big' in line 2"),
        ("size,colour,price\n1,red,dear\n", "'dear' in line 2"),
        ("size,colour,price\n1,,2\n", "a missing value in line 2"),
    ):
        (here / "bad.csv").write_text(content)
        assert main(["evaluate", "--trust", "--data", "bad.csv"]) == 2
        assert said in capsys.readouterr().err


def test_a_file_for_a_run_that_was_trained_on_none(here, capsys):
    """Classes are then their numbers; nothing else is put in the file's place."""
    assert main([*TRAIN, "schedule=warmup", "schedule.unit=steps", "schedule.length=8"]) == 0
    x = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    np.savez(here / "mine.npz", x=x, y=np.arange(12) % 3)
    assert main(["evaluate", "--trust", "--data", "mine.npz"]) == 0
    assert "12 examples" in capsys.readouterr().out
    for y, said in ((np.arange(12) % 4, "unknown classes 3"), (np.eye(3)[np.arange(12) % 3], "classes must be (N,)")):
        np.savez(here / "bad.npz", x=x, y=y)
        assert main(["evaluate", "--trust", "--data", "bad.npz"]) == 2
        assert said in capsys.readouterr().err
    (here / "mine.csv").write_text(TABLE)
    for data in (["table", "data.path=mine.csv"], ["mine.csv"]):
        assert main(["evaluate", "--trust", *(word for d in data for word in ("--data", d))]) == 2
    err = capsys.readouterr().err
    assert "a table needs a run" in err
    assert ".npz or .pt or .npy" in err


def test_pictures_of_classes_and_of_numbers(here, capsys):
    assert main([*TRAIN]) == 0
    assert main(["evaluate", "--trust", "--png"]) == 0
    assert (
        main(
            [
                "train",
                "-q",
                "data=custom",
                "data._target_=mine.Regression",
                "arch=mlp",
                "loss=mse",
                "batch_size=16",
                "epochs=2",
            ]
        )
        == 0
    )
    assert main(["evaluate", "--trust", "--png", "fit.png", "--split", "train"]) == 0
    made = [here / line for line in capsys.readouterr().out.splitlines() if line.endswith(".png")]
    assert len(made) == 2
    assert all(m.read_bytes().startswith(b"\x89PNG") for m in made)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["nothing"], "no run"),
        (["--data", "nothing"], "no file and no data set 'nothing'"),
        (["--data", "data.pth=x"], "did you mean data.path"),
        (["--data", "digits"], "(1, 8, 8) do not fit the run's network"),
        (["--png", "x.nothing"], "not supported"),
    ],
)
def test_evaluate_refuses(argv, said, here, capsys):
    assert main([*TRAIN]) == 0
    assert main(["evaluate", "--trust", *argv]) == 2
    assert said in capsys.readouterr().err


def test_no_validation_split_is_said(here, capsys):
    assert main([*TRAIN, "validation.fraction=0"]) == 0
    assert main(["evaluate", "--trust", "--split", "val"]) == 2
    assert "no validation split" in capsys.readouterr().err


def damaged(run):
    for name in ("best", "last"):
        run.checkpoint(name).write_bytes(run.checkpoint(name).read_bytes()[:500])


def another(run):
    run = RunWriter(run.path)
    run.lock.acquire()
    other = run.load("best")
    other["model"] = {"hidden.0.weight": torch.zeros(8, 5)}
    run.save("best", other)


def without(run):
    for name in ("best", "last"):
        run.checkpoint(name).unlink()


@pytest.mark.parametrize(
    ("how", "said"),
    [(damaged, "cannot be read"), (another, "checkpoint is of another network"), (without, "no checkpoint yet")],
)
def test_a_checkpoint_that_cannot_be_used_is_said(how, said, here, capsys):
    assert main([*TRAIN]) == 0
    how(find_run())
    assert main(["evaluate", "--trust"]) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert "Traceback" not in err + out


def test_a_file_that_has_changed_since_is_not_taken_for_the_runs_own(here, capsys):
    (here / "first.csv").write_text(TABLE)
    argv = ["train", "-q", "data=table", "data.path=first.csv", "data.target=colour", "batch_size=16", "epochs=2"]
    assert main(argv) == 0
    (here / "first.csv").write_text(TABLE.replace("\n1,red", "\n1,blue"))
    for again in (["evaluate", "--trust"], ["train", "resume=last", "--trust", "epochs=3"]):
        assert main(again) == 2
        assert "the file has changed since" in capsys.readouterr().err
    assert main(["evaluate", "--trust", "--data", "first.csv"]) == 0
    assert "80 examples" in capsys.readouterr().out


def test_a_run_is_evaluated_from_another_directory(here, capsys, monkeypatch):
    (here / "first.csv").write_text(TABLE)
    argv = ["train", "-q", "data=table", "data.path=first.csv", "data.target=colour", "batch_size=16", "epochs=2"]
    assert main(argv) == 0
    run = find_run().path.resolve()
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert main(["evaluate", "--trust", str(run)]) == 0
    assert "16 examples" in capsys.readouterr().out


def test_numbers_are_told_in_the_units_of_the_file(here, capsys):
    """The loss is on the standardized target; the error beside it is that of prices."""
    (here / "first.csv").write_text(TABLE)
    argv = ["train", "-q", "data=table", "data.path=first.csv", "data.target=price", "data.kind=numbers", "loss=mse"]
    assert main([*argv, "batch_size=16", "epochs=3"]) == 0
    assert main(["evaluate", "--trust", "--split", "all"]) == 0
    out = capsys.readouterr().out.splitlines()
    scale = find_run().load("best")["encoding"]["scale"]
    rmse = float(re.search(r"squared error ([\d.]+)", out[-1])[1])
    assert rmse == pytest.approx(scale * numbers(out[3])["loss"] ** 0.5, rel=1e-3)


def test_classes_of_text_that_look_like_numbers_stay_text(here, capsys):
    rows = [f"{i},{name}" for i in range(30) for name in ("007", "7", "A1")]
    (here / "first.csv").write_text("\n".join(["x,y", *rows]) + "\n")
    (here / "agents.csv").write_text("\n".join(["x,y", *(r for r in rows if r.endswith("007"))]) + "\n")
    assert (
        main(
            [
                "train",
                "-q",
                "data=table",
                "data.path=first.csv",
                "data.target=y",
                "data.kind=classes",
                "epochs=1",
                "batch_size=10",
            ]
        )
        == 0
    )
    assert main(["evaluate", "--trust", "--data", "agents.csv"]) == 0
    lines = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert ["007", "30"] in lines
    assert ["7", "0"] in lines


@pytest.mark.parametrize("key", ["train_size=10", "data.label_noise=0.5", "test_fraction=0.5"])
def test_keys_of_training_do_not_go_with_other_data(key, here, capsys):
    assert main([*TRAIN]) == 0
    np.savez(here / "mine.npz", x=np.zeros((3, 4), np.float32), y=np.arange(3))
    assert main(["evaluate", "--trust", "--data", "arrays", "--data", "path=mine.npz", "--data", key]) == 2
    assert f"data.{key.removeprefix('data.').partition('=')[0]} is used in training" in capsys.readouterr().err


OF_TRAINING_ALONE = (
    ["optimizer._target_=mine.Sign", "optimizer.lr=0.1"],
    ["optimizer=torch_optim", "optimizer.name=mine.Lion"],
    ["init=custom", "init._target_=mine.ConstantInit", "+init.value=0.1"],
    ["diagnostic=custom", "diagnostic.custom._target_=mine.StepLength", "+diagnostic.custom.every=1"],
    ["regularization=[dropout,early_stopping,weight_decay,l1]"],
)
"""What an evaluation is the same without."""


@pytest.mark.parametrize("keys", OF_TRAINING_ALONE, ids=str)
def test_what_only_training_needs_needs_no_trust(keys, here, capsys, monkeypatch):
    """Nor is it made: it need not be there."""
    small = ["data=digits", "data.train_size=60", "arch=mlp", "arch.widths=[4]", "batch_size=30", "epochs=1"]
    assert main(["train", "-q", *small, "normalization=batch", *keys]) == 0
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [place for place in sys.path if place != str(here)])
        assert main(["evaluate"]) == 0
    found = capsys.readouterr().out
    assert numbers(found.splitlines()[3])["loss"] == pytest.approx(find_run().summary["test/loss"], abs=1e-4)
    assert main(["evaluate", "--trust"]) == 0
    assert capsys.readouterr().out == found
    assert (main(["verify", "-q"]) == 2) == any("mine." in key for key in keys)


@pytest.mark.parametrize("how", ["cut", "flipped"])
def test_the_best_weights_of_a_damaged_file_come_from_the_last_checkpoint(how, here, capsys):
    assert main([*TRAIN]) == 0
    capsys.readouterr()
    assert main(["evaluate", "--trust"]) == 0
    whole = capsys.readouterr().out
    file = find_run().checkpoint("best")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content if how == "flipped" else content[:500])
    assert main(["evaluate", "--trust"]) == 0
    out, err = capsys.readouterr()
    assert out == whole
    assert err.startswith("warning: best.safetensors is damaged")


def test_older_checkpoints_are_evaluated_by_their_steps(here, capsys):
    assert main([*TRAIN, "checkpoint.every=2", "checkpoint.keep=3"]) == 0
    run = find_run()
    steps = list(run.older_checkpoints())
    assert len(steps) == 2
    capsys.readouterr()
    assert main(["evaluate", "--trust", "--checkpoint", str(steps[0])]) == 0
    assert f"kept checkpoint (step {steps[0]})" in capsys.readouterr().out
    assert main(["evaluate", "--trust", "--checkpoint", "1"]) == 2
    assert f"it has best, last, {steps[0]}, {steps[1]}" in capsys.readouterr().err
