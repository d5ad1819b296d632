"""dlopt evaluate: a checkpoint on a split, on other data, class by class."""

import numpy as np
import pytest
import torch
from helpers import BLOBS

from dlopt.cli import main
from dlopt.report.classes import by_class, matrix
from dlopt.run import find

TRAIN = ("train", "-q", *BLOBS)


def numbers(line):
    words = line.split()
    return dict(zip(words[::2], map(float, words[1::2]), strict=True))


def test_the_test_split_is_what_the_run_reported(here, capsys):
    assert main([*TRAIN, "normalization=batch", "preprocess=standardize", "regularization=dropout"]) == 0
    summary = find().summary
    for checkpoint, prefix in (("best", ""), ("last", "last/")):
        assert main(["evaluate", "--checkpoint", checkpoint]) == 0
        found = numbers(capsys.readouterr().out.splitlines()[3])
        assert found["loss"] == pytest.approx(summary[f"{prefix}test/loss"], abs=1e-4)
        assert found["accuracy"] == pytest.approx(summary[f"{prefix}test/accuracy"], abs=1e-4)
    assert main(["evaluate", "--split", "val"]) == 0
    assert numbers(capsys.readouterr().out.splitlines()[3])["loss"] == pytest.approx(summary["val/loss"], abs=1e-4)


def test_statistics_of_the_preprocessing_are_the_runs_own(here, capsys):
    """Other data is scaled by what the run's training split had, not by itself."""
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(40, 4)).astype(np.float32), generator.integers(0, 2, 40)
    first = {"data": {"_target_": "mine.Blobs"}}
    assert first
    assert main([*TRAIN, "preprocess=standardize"]) == 0
    run = find()
    content = run.load("best")
    mu, sigma = content["preprocessing"]["standardize"]["mu"], content["preprocessing"]["standardize"]["sigma"]
    np.savez(here / "x.npz", x=x, y=y)
    assert main(["evaluate", "--data", "_target_=mine.FromFile", "--data", "path=x.npz", "--split", "all"]) == 0
    out = capsys.readouterr().out
    assert "40 examples" in out
    hidden, output = torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)
    for layer, name in ((hidden, "hidden.0"), (output, "output")):
        layer.load_state_dict({k: content["model"][f"{name}.{k}"] for k in ("weight", "bias")})
    scores = output(torch.relu(hidden((torch.from_numpy(x) - mu) / sigma)))
    loss = torch.nn.functional.cross_entropy(scores, torch.from_numpy(y)).item()
    assert numbers(out.splitlines()[3])["loss"] == pytest.approx(loss, abs=2e-4)


def test_by_class_and_the_matrix():
    counts = [[5, 1, 0], [2, 6, 2], [0, 0, 0]]
    head, *rows = by_class(counts, ("cat", "dog", "hen"))
    assert head.split()[:3] == ["class", "examples", "accuracy"]
    assert [r.split()[:3] for r in rows] == [["cat", "6", "0.8333"], ["dog", "10", "0.6000"], ["hen", "0", "-"]]
    assert "dog (1)" in rows[0]
    assert rows[1].index("cat (2)") < rows[1].index("hen (2)")
    assert [line.split()[1:] for line in matrix(counts, ("cat", "dog", "hen"))[1:]] == [
        ["5", "1", "."],
        ["2", "6", "2"],
        [".", ".", "."],
    ]
    (said,) = matrix([[0] * 30] * 30, tuple(map(str, range(30))))
    assert "--png" in said


def test_pictures_of_classes_and_of_numbers(here, capsys):
    assert main([*TRAIN]) == 0
    assert main(["evaluate", "--png"]) == 0
    assert (
        main(
            [
                "train",
                "-q",
                "data=custom",
                "data._target_=mine.Line",
                "arch=mlp",
                "loss=mse",
                "batch_size=16",
                "epochs=2",
            ]
        )
        == 0
    )
    assert main(["evaluate", "--png", "fit.png", "--split", "train"]) == 0
    made = [here / line for line in capsys.readouterr().out.splitlines() if line.endswith(".png")]
    assert len(made) == 2
    assert all(m.read_bytes().startswith(b"\x89PNG") for m in made)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["nothing"], "no run"),
        (["--data", "nothing"], "no file and no data set 'nothing'"),
        (["--data", "data.pth=x"], "did you mean data.path"),
        (["--data", "digits"], "another network"),
        (["--png", "x.nothing"], "not supported"),
    ],
)
def test_evaluate_refuses(argv, said, here, capsys):
    assert main([*TRAIN]) == 0
    assert main(["evaluate", *argv]) == 2
    assert said in capsys.readouterr().err


def test_no_validation_split_is_said(here, capsys):
    assert main([*TRAIN, "validation.fraction=0"]) == 0
    assert main(["evaluate", "--split", "val"]) == 2
    assert "no validation split" in capsys.readouterr().err


def damaged(run):
    run.checkpoint("best").write_bytes(run.checkpoint("best").read_bytes()[:500])


def another(run):
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
    how(find())
    assert main(["evaluate"]) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert "Traceback" not in err + out
