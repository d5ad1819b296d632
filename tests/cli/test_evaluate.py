"""dlopt evaluate: a checkpoint on a split, on other data, class by class."""

import csv
import re
import sys

import numpy as np
import pytest
import torch
from helpers import BLOBS
from sklearn.metrics import log_loss

from dlopt.cli import main
from dlopt.config.reopen.load_predictor import load_predictor
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.find import find_run
from dlopt.rundir.writer import RunWriter

TRAIN = ("train", "-q", *BLOBS)


def evaluate(capsys, *argv):
    """Return the lines that a successful evaluation prints."""
    capsys.readouterr()
    assert main(["evaluate", "--trust", *argv]) == 0
    return capsys.readouterr().out.splitlines()


def refuse(capsys, *argv):
    """Return the message of an evaluation that is refused."""
    capsys.readouterr()
    assert main(["evaluate", "--trust", *argv]) == 2
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return err


def parse_metrics(lines):
    words = lines[3].split()
    return dict(zip(words[::2], map(float, words[1::2]), strict=True))


def test_the_test_split_is_what_the_run_reported(here, capsys):
    assert main([*TRAIN, "normalization=batch", "preprocess=standardize", "regularization=dropout"]) == 0
    summary = find_run().summary
    for checkpoint, prefix in (("best", ""), ("last", "last/")):
        metrics = parse_metrics(evaluate(capsys, "--checkpoint", checkpoint))
        for name in ("loss", "accuracy"):
            assert metrics[name] == pytest.approx(summary[f"{prefix}test/{name}"], abs=1e-4)
    metrics = parse_metrics(evaluate(capsys, "--split", "val"))
    assert metrics["loss"] == pytest.approx(summary["val/loss"], abs=1e-4)


def test_every_command_uses_the_fold_of_the_run(here, capsys):
    """The commands are evaluate, verify, rerun and resume. The folds differ in size and rows."""
    losses = []
    for fold, examples in (("0", 9), ("6", 8)):
        folds = ("validation.scheme=kfold", "validation.k=7", f"validation.fold={fold}")
        assert main([*TRAIN, *folds, "preprocess=standardize", "data.label_noise=0.2"]) == 0
        run = find_run()
        lines = evaluate(capsys, "--split", "val")
        assert f" {examples} examples" in lines[1]
        assert parse_metrics(lines)["loss"] == pytest.approx(run.summary["val/loss"], abs=1e-4)
        assert main(["verify", "--trust", "-q", "--all", str(run.path)]) == 0
        assert main(["rerun", "--trust", "-q", str(run.path)]) == 0
        assert main(["train", "-q", "--trust", f"resume={run.path}", "epochs=5"]) == 0
        assert main(["verify", "--trust", "-q", "--all", str(run.path)]) == 0
        losses.append(run.rows()[-1]["val/loss"])
    assert losses[0] != losses[1]


def test_another_file_is_encoded_as_the_training_data(here, capsys):
    """Use the scale and the classes of the training split, not of the file."""
    draw = np.random.default_rng(0)
    labels = np.array(["ant", "bee", "cow"])
    y = draw.integers(0, 3, 120)
    np.savez(here / "first.npz", x=draw.normal(size=(120, 4)) + y[:, None], y=labels[y])
    x = (5.0 + draw.normal(size=(40, 4))).astype(np.float32)
    np.savez(here / "second.npz", x=x, y=np.repeat(["cow", "bee"], 20))
    assert main(["train", "-q", "data=arrays", "data.path=first.npz", *BLOBS[2:], "preprocess=standardize"]) == 0
    lines = evaluate(capsys, "--data", "second.npz")
    assert "40 examples" in lines[1]

    content = find_run().load("best")
    mu, sigma = (content["preprocessing"]["standardize"][name] for name in ("mu", "sigma"))
    hidden, output = torch.nn.Linear(4, 8), torch.nn.Linear(8, 3)
    for layer, name in ((hidden, "hidden.0"), (output, "output")):
        layer.load_state_dict({k: content["model"][f"{name}.{k}"] for k in ("weight", "bias")})
    scores = output(torch.relu(hidden((torch.from_numpy(x) - mu) / sigma)))
    loss = torch.nn.functional.cross_entropy(scores, torch.tensor([2] * 20 + [1] * 20)).item()
    assert parse_metrics(lines)["loss"] == pytest.approx(loss, abs=2e-4)
    whole = evaluate(capsys, "--data", "second.npz", "--split", "all")
    assert whole[1:4] == [lines[1].replace("test split", "all examples"), "", lines[3]]

    np.savez(here / "third.npz", x=x, y=np.repeat(["cow", "dog"], 20))
    assert "unknown classes dog" in refuse(capsys, "--data", "third.npz")
    message = refuse(capsys, "--data", "second.npz", "--split", "test")
    assert "--split  second.npz has no test split: all of its examples are evaluated; leave --split out" in message


TABLE = "size,colour,price\n" + "".join(f"{i},{'red' if i % 2 else 'blue'},{3 * i + 7}\n" for i in range(1, 81))


def test_another_table_is_encoded_as_the_training_data(here, capsys):
    """Target and columns are scaled, filled and one-hot encoded as in training; a prediction depends only on its row."""
    (here / "first.csv").write_text(TABLE)
    mine = ("data=table", "data.path=first.csv", "data.target=price", "data.kind=numbers", "loss=mse", "data.missing=fill",
            "batch_size=16", "epochs=20", "preprocess=standardize", "device=cpu")  # fmt: skip
    assert main(["train", "-q", *mine]) == 0
    encoding = find_run().load("best")["encoding"]
    assert encoding["columns"]["colour"] == ["blue", "red"]
    lines = TABLE.splitlines()
    sums = {}
    for name, rows in {"all": lines[1:], "three": lines[1:4], "one": lines[3:4], "others": lines[4:]}.items():
        (here / f"{name}.csv").write_text("\n".join([lines[0], *rows]) + "\n")
        output = evaluate(capsys, "--data", f"{name}.csv")
        assert f"{len(rows)} examples" in output[1]
        sums[name] = parse_metrics(output)["loss"] * len(rows)
    assert sums["all"] == pytest.approx(sums["three"] + sums["others"], abs=0.02)
    (here / "order.csv").write_text("price,new,colour,size\n10,x,red,1\n13,y,blue,2\n16,z,red,3\n")
    metrics = parse_metrics(evaluate(capsys, "--data", "order.csv"))
    assert metrics["loss"] * 3 == pytest.approx(sums["three"], abs=0.001)

    for content, message in (
        ("size,price\n1,2\n", "colour"),
        ("size,colour,price\nbig,red,2\n", "'big' in line 2"),
        ("size,colour,price\n1,red,dear\n", "'dear' in line 2"),
    ):
        (here / "bad.csv").write_text(content)
        assert message in refuse(capsys, "--data", "bad.csv")

    for colour, what in (("green", "'green'"), ("", "a missing value")):
        (here / "other.csv").write_text(f"size,colour,price\n1,{colour},2\n")
        assert main(["evaluate", "last", "--data", "other.csv"]) == 0
        assert f"colour has {what} in 1 row, the first in line 2" in capsys.readouterr().err


def test_a_file_for_a_run_that_was_not_trained_on_a_file(here, capsys):
    """Its classes are their numbers, and only tables and arrays of the right form are accepted."""
    assert main([*TRAIN, "schedule=warmup", "schedule.unit=steps", "schedule.length=8"]) == 0
    x = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    np.savez(here / "mine.npz", x=x, y=np.arange(12) % 3)
    assert "12 examples" in evaluate(capsys, "--data", "mine.npz")[1]
    for y, message in (
        (np.arange(12) % 4, "unknown classes 3"),
        (np.eye(3)[np.arange(12) % 3], "classes must be (N,)"),
    ):
        np.savez(here / "bad.npz", x=x, y=y)
        assert message in refuse(capsys, "--data", "bad.npz")
    (here / "mine.csv").write_text(TABLE)
    assert "a table needs a run" in refuse(capsys, "--data", "table", "--data", "data.path=mine.csv")
    assert ".npz or .pt or .npy" in refuse(capsys, "--data", "mine.csv")
    for key in ("train_size=10", "data.label_noise=0.5", "test_fraction=0.5", "group=z"):
        message = refuse(capsys, "--data", "arrays", "--data", "path=mine.npz", "--data", key)
        assert f"data.{key.removeprefix('data.').partition('=')[0]} is used in training" in message


def test_keys_of_other_data_are_typed_as_a_message_writes_them(here, capsys):
    (here / "first.csv").write_text(TABLE)
    keys = (
        "data=table",
        "data.path=first.csv",
        "data.target=price",
        "data.kind=numbers",
        "loss=mse",
        "data.test_fraction=0.1",
    )
    assert main(["train", "-q", *keys, *BLOBS[2:], "hydra.run.dir=outputs/run"]) == 0
    (here / "new.csv").write_text(TABLE + "81,red,\n")
    message = refuse(capsys, "run", "--data", "new.csv")
    (remedy,) = re.findall(r"data\.missing=drop", message)
    for argv in (["run", "--data", "new.csv", remedy], ["-q", remedy, "run", "--data", "new.csv"],
                 ["--data", "new.csv", "--data", remedy, "run"]):  # fmt: skip
        assert "80 examples" in evaluate(capsys, *argv)[1]
    assert "--data  there is no key data.mising" in refuse(capsys, "run", "--data", "new.csv", "data.mising=drop")


def test_pictures_of_classes_and_of_numbers(train_once, here, capsys, monkeypatch):
    train_once(*TRAIN)
    files = [evaluate(capsys, "--png")[-1]]
    assert main([*TRAIN, "data._target_=mine.Regression", "loss=mse"]) == 0
    files.append(evaluate(capsys, "--png", "fit.png", "--split", "train")[-1])
    assert files[1] == "fit.png"
    drawn = []
    monkeypatch.setattr("dlopt.report.figures.save_figure", lambda figure, file: drawn.append(figure) or file)
    evaluate(capsys, "--png", "--title", "My fit")
    assert drawn[0].get_suptitle() == "My fit"
    assert all((here / file).read_bytes().startswith(b"\x89PNG") for file in files)


def test_wrong_arguments_are_refused(train_once, capsys):
    train_once(*TRAIN, "validation.fraction=0")
    for argv, message in (
        (["nothing"], "no run"),
        (["--data", "nothing"], "no file and no data set 'nothing'"),
        (["--data", "data.pth=x"], "did you mean data.path"),
        (["--data", "digits"], "(1, 8, 8) do not fit the run's network"),
        (["--png", "x.nothing"], "not supported"),
        (["--title", "mine"], "--title is for a picture: add --png"),
        (["--split", "val"], "no validation split"),
    ):
        assert message in refuse(capsys, *argv)


def truncate(run):
    for name in ("best", "last"):
        run.checkpoint(name).write_bytes(run.checkpoint(name).read_bytes()[:500])


def replace(run):
    writer = RunWriter(run.path)
    writer.lock.acquire()
    writer.save("best", run.load("best") | {"model": {"hidden.0.weight": torch.zeros(8, 5)}})


def remove(run):
    for name in ("best", "last"):
        run.checkpoint(name).unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(truncate, "cannot be read"), (replace, "checkpoint is of another network"), (remove, "no checkpoint yet")],
)
def test_an_unusable_checkpoint_is_reported(spoil, message, train_once, capsys):
    train_once(*TRAIN)
    spoil(find_run())
    assert message in refuse(capsys)


COLOURS = ("train", "-q", "data=table", "data.path=first.csv", "data.target=colour", "batch_size=16", "epochs=2")


def test_a_file_that_has_changed_is_not_the_data_of_the_run(here, capsys, monkeypatch):
    (here / "first.csv").write_text(TABLE)
    assert main(COLOURS) == 0
    run = find_run().path.resolve()
    (here / "elsewhere").mkdir()
    with monkeypatch.context() as patch:
        patch.chdir(here / "elsewhere")
        assert "16 examples" in evaluate(capsys, str(run))[1]
    (here / "first.csv").write_text(TABLE.replace("\n1,red", "\n1,blue"))
    assert "the file has changed since" in refuse(capsys)
    assert main(["train", "resume=last", "--trust", "epochs=3"]) == 2
    assert "the file has changed since" in capsys.readouterr().err
    assert "80 examples" in evaluate(capsys, "--data", "first.csv")[1]


OWN = ("data.validation_path=val.csv", "data.test_path=test.csv")


def test_every_command_uses_the_files_of_the_splits(here, capsys, monkeypatch):
    """They are relative to where the run began, and none of them may change."""
    for name, rows in {"first": (1, 81), "val": (3, 30), "test": (40, 60), "more": (5, 9)}.items():
        lines = TABLE.splitlines()
        (here / f"{name}.csv").write_text("\n".join([lines[0], *lines[slice(*rows)]]) + "\n")
    assert main([*COLOURS, *OWN]) == 0
    run = find_run()
    for split, count, prefix in (("val", 27, "val"), ("test", 20, "test")):
        lines = evaluate(capsys, "--split", split)
        assert f"{split} split of {split}.csv, {count} examples" in lines[1]
        assert parse_metrics(lines)["loss"] == pytest.approx(run.summary[f"{prefix}/loss"], abs=1e-4)
    assert "all examples, 127 examples" in evaluate(capsys, "--split", "all")[1]
    assert "all examples of --data more.csv, 4 examples" in evaluate(capsys, "--data", "more.csv")[1]
    assert main(["verify", "-q", "--all", str(run.path)]) == 0
    assert main(["rerun", "-q", str(run.path)]) == 0
    with monkeypatch.context() as patch:
        (here / "elsewhere").mkdir()
        patch.chdir(here / "elsewhere")
        assert "27 examples" in evaluate(capsys, str(here / run.path), "--split", "val")[1]
        (here / "elsewhere/own.csv").write_text(TABLE.replace("\n1,", "\n9,"))
        assert main(["evaluate", str(here / run.path), "--data", "own.csv"]) == 0, "needs no trust in the other files"
    assert "data.test_path is used in training" in refuse(capsys, "--data", "data.test_path=more.csv")
    (here / "val.csv").write_text(TABLE)
    assert "the file has changed since" in refuse(capsys)
    assert main(["train", "-q", f"resume={run.path}", "epochs=3"]) == 2


@pytest.mark.parametrize(("more", "key", "words"), [
    (["validation.fraction=0.3"], "validation.fraction", "leave it out, or data.validation_path"),
    (["-m", "validation.scheme=kfold"], "validation.scheme", "leave it out, or data.validation_path"),
    (["data.test_fraction=0.3"], "data.test_fraction", "leave one of the two out"),
])  # fmt: skip
def test_nothing_is_held_out_of_files_for_splits_that_have_their_own(more, key, words, here, capsys):
    for name in ("first", "val", "test"):
        (here / f"{name}.csv").write_text(TABLE)
    assert main([*COLOURS, *OWN, *more]) == 2
    err = capsys.readouterr().err
    assert re.search(rf"{key} .*{words}", err), err
    assert "1 problem" in err
    assert not (here / "outputs").exists()


# ------------------------------------------------------------------------------------------------ predictions


def read_table(file):
    """Return the columns of a CSV file as text."""
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    return dict(zip(rows[0], zip(*rows[1:], strict=True), strict=True))


def cut_column(name, text=TABLE):
    """Return a table without a column."""
    rows = [line.split(",") for line in text.splitlines()]
    i = rows[0].index(name)
    return "".join(",".join(row[:i] + row[i + 1 :]) + "\n" for row in rows)


def test_predicted_classes_and_probabilities_give_the_printed_metrics(here, capsys):
    (here / "first.csv").write_text(TABLE)
    assert main(COLOURS) == 0
    lines = evaluate(capsys, "--data", "first.csv", "--predictions", "out/with.csv")
    assert lines[-1] == "out/with.csv"
    table = read_table(here / "out/with.csv")
    assert list(table) == ["size", "colour", "price", "predicted", "probability_blue", "probability_red"]
    assert [",".join(row) for row in zip(*list(table.values())[:3], strict=True)] == TABLE.splitlines()[1:]
    p = np.array([table["probability_blue"], table["probability_red"]], float).T
    metrics = parse_metrics(lines)
    assert metrics["loss"] == pytest.approx(log_loss(table["colour"], p), abs=1e-4)
    assert metrics["accuracy"] == pytest.approx(
        np.mean(np.array(table["colour"]) == np.array(table["predicted"])), abs=1e-4
    )
    assert [("blue", "red")[i] for i in p.argmax(1)] == list(table["predicted"])

    for name, text in (("cut", cut_column("colour")), ("empty", re.sub("red|blue", "", TABLE))):
        (here / f"{name}.csv").write_text(text)
        lines = evaluate(capsys, "--data", f"{name}.csv", "--predictions", "without.csv")
        counts = ", ".join(f"{c} {table['predicted'].count(c)}" for c in ("blue", "red") if c in table["predicted"])
        assert lines[1:] == [
            f"all examples of --data {name}.csv, 80 examples",
            "",
            f"predicted: {counts}",
            "",
            "without.csv",
        ]
        other = read_table(here / "without.csv")
        assert {k: v for k, v in other.items() if k != "colour"} == {k: v for k, v in table.items() if k != "colour"}


def test_predicted_numbers_have_the_units_of_the_file(here, capsys):
    (here / "first.csv").write_text(TABLE)
    numbers = ("data.target=price", "data.kind=numbers", "loss=mse", "data.missing=drop")
    assert main([*COLOURS, *numbers]) == 0
    rmse = float(
        re.search(
            r"squared error (\S+),", "\n".join(evaluate(capsys, "--data", "first.csv", "--predictions", "out.csv"))
        )[1]
    )
    table = read_table(here / "out.csv")
    predicted, price = (np.array(table[name], float) for name in ("predicted", "price"))
    assert rmse == pytest.approx(np.sqrt(np.mean((predicted - price) ** 2)), rel=1e-4)

    text = cut_column("price").replace("size,colour", "size,colour,predicted").replace("\n3,red", "\n,red")
    text = "\n".join(line if line.startswith("size") else f"{line},old" for line in text.splitlines())
    (here / "new.csv").write_text(text)
    lines = evaluate(capsys, "--data", "new.csv", "--predictions", "out.csv")
    other = read_table(here / "out.csv")
    assert list(other) == ["size", "colour", "predicted", "predicted_"]
    assert set(other["predicted"]) == {"old"}
    assert [i for i, cell in enumerate(other["predicted_"]) if not cell] == [2], "a row without a prediction stays"
    rest = np.delete(predicted, 2)
    np.testing.assert_allclose(np.array([cell for cell in other["predicted_"] if cell], float), rest, rtol=1e-6)
    assert lines[1] == "all examples of --data new.csv, 79 examples"
    assert float(re.fullmatch(r"predicted price: mean (\S+), .*", lines[3])[1]) == pytest.approx(rest.mean(), rel=1e-5)


def test_the_predictions_of_a_split_have_its_targets(train_once, here, capsys):
    train_once(*TRAIN)
    metrics = parse_metrics(evaluate(capsys, "--split", "val", "--predictions", "val.csv"))
    table = read_table(here / "val.csv")
    assert list(table) == ["target", "predicted", "probability_0", "probability_1", "probability_2"]
    assert len(table["target"]) == 12
    assert metrics["accuracy"] == pytest.approx(
        np.mean(np.array(table["target"]) == np.array(table["predicted"])), abs=1e-4
    )


@pytest.mark.parametrize("numbers", [False, True])
def test_sequences_with_a_target_for_each_step_have_a_row_for_each(numbers, train_once, here, capsys):
    sequences = ("data._target_=mine.Sequences", "arch=gru", "arch.width=4", f"+data.numbers={numbers}")
    own = [o for o in BLOBS if not o.startswith(("arch", "data._target_"))]
    loss = "mse" if numbers else "cross_entropy"
    train_once("train", "-q", *own, *sequences, f"loss={loss}", "+data.per_step=true")
    lines = evaluate(capsys, "--split", "test", "--predictions", "test.csv")
    table = read_table(here / "test.csv")
    lengths = [1 + i % 6 for i in range(30)]
    assert list(table["example"]) == [str(i) for i, n in enumerate(lengths) for _ in range(n)]
    assert list(table["step"]) == [str(t) for n in lengths for t in range(n)]
    predicted, target = (np.array(table[name], float) for name in ("predicted", "target"))
    metrics = parse_metrics(lines)
    if numbers:
        error = float(re.search(r"root mean squared error (\S+),", "\n".join(lines))[1])
        assert error == pytest.approx(np.square(predicted - target).mean() ** 0.5, rel=1e-4)
    else:
        assert metrics["accuracy"] == pytest.approx(np.mean(predicted == target), abs=1e-4)


@pytest.mark.parametrize("kind", ["classes", "number", "numbers", "npy"])
def test_arrays_without_targets_are_predicted(kind, here, capsys):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(60, 4)).astype(np.float32)
    y = {
        "classes": np.array(["ant", "bee", "cow"])[np.arange(60) % 3],
        "number": x[:, 0],
        "numbers": x[:, :3],
        "npy": np.arange(60) % 3,
    }[kind]
    (here / "new").mkdir()
    file = "x.npy" if kind == "npy" else "x.npz"
    if kind == "npy":
        np.save(here / "x.npy", x)
        np.save(here / "targets.npy", y)
        np.save(here / "new" / file, x[:9])
    else:
        np.savez(here / file, x=x, y=y)
        np.savez(here / "new" / file, x=x[:9])
    more = ["data.target=targets.npy"] if kind == "npy" else []
    loss = [] if kind in ("classes", "npy") else ["loss=mse"]
    assert main(["train", "-q", "data=arrays", f"data.path={file}", *BLOBS[2:], *more, *loss, "hydra.run.dir=run"]) == 0
    (here / "targets.npy").unlink(missing_ok=True)
    assert "has no targets, which metrics need; add --predictions" in refuse(capsys, "run", "--data", f"new/{file}")
    lines = evaluate(capsys, "run", "--data", f"new/{file}", "--predictions", "out.csv")
    assert "9 examples" in lines[1]
    table = read_table(here / "out.csv")
    network = load_predictor(RunDirectory("run"), data=[f"new/{file}"])[0]
    outputs = network.predict(torch.from_numpy(x[:9]))
    if kind in ("classes", "npy"):
        names = ["ant", "bee", "cow"] if kind == "classes" else ["0", "1", "2"]
        assert list(table["predicted"]) == [names[i] for i in outputs.argmax(1)]
        expected = {f"probability_{name}": p for name, p in zip(names, outputs.softmax(1).T, strict=True)}
    else:
        expected = (
            {"predicted": outputs[:, 0]} if kind == "number" else {f"predicted_{i}": outputs[:, i] for i in range(3)}
        )
    assert set(table) == {"predicted", *expected} - ({"predicted"} if kind == "numbers" else set())
    for name, column in expected.items():
        np.testing.assert_allclose(np.array(table[name], float), column, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="the data have none"):
        network.evaluate("test")


@pytest.mark.parametrize("numbers", [False, True])
def test_each_step_of_a_sequence_is_predicted(numbers, here, capsys):
    """The padding is not: the sequences of the test have 1 to 6 steps."""
    data = ["data=custom", "data._target_=mine.Sequences", "+data.per_step=true", f"+data.numbers={numbers}"]
    loss = "mse" if numbers else "cross_entropy"
    network = ["arch=gru", "arch.width=4", f"loss={loss}", "batch_size=12", "epochs=2", "device=cpu", "threads=1"]
    assert main(["train", "-q", *data, *network]) == 0
    lines = evaluate(capsys, "--predictions", "out.csv")
    table = read_table(here / "out.csv")
    rows = [dict(zip(table, cells, strict=True)) for cells in zip(*table.values(), strict=True)]
    predictor, _ = load_predictor(find_run(), trust=True)
    outputs, targets = predictor.predict_split("test")
    lengths = [1 + i % 6 for i in range(30)]
    assert lines[1] == f"test split, 30 examples, {sum(lengths)} steps"
    places = [(i, step) for i, length in enumerate(lengths) for step in range(length)]
    assert [(int(row["example"]), int(row["step"])) for row in rows] == places
    for row, place in zip(rows, places, strict=True):
        expected = outputs[place].item() if numbers else outputs[place].argmax().item()
        assert float(row["predicted"]) == pytest.approx(expected, rel=1e-5)
        assert float(row["target"]) == pytest.approx(targets[place].item(), rel=1e-5)
    if not numbers:
        right = sum(row["target"] == row["predicted"] for row in rows)
        assert f"accuracy {right / len(rows):.4f}" in lines[3]


def test_predictions_do_not_replace_data_and_errors_are_reported(here, capsys):
    for name in ("first", "new", "val"):
        (here / f"{name}.csv").write_text(TABLE)
    assert main([*COLOURS, "data.validation_path=val.csv"]) == 0
    for argv in (["--predictions", "./first.csv"], ["--predictions", "val.csv"], ["--data", "new.csv", "--predictions", "new.csv"],
                 ["--data", "path=new.csv", "--predictions", str(here / "new.csv")]):  # fmt: skip
        assert "is a file of data; name another one" in refuse(capsys, *argv)
    run = find_run()
    for name, words in (("outputs", "outputs is a directory"), (str(run.status_file), "lies in the run")):
        assert f"{words}; name another one" in refuse(capsys, "--predictions", name)
    assert run.status["status"] == "done"
    assert {(here / f"{name}.csv").read_text() for name in ("first", "new", "val")} == {TABLE}
    (here / "new.csv").write_text(cut_column("colour"))
    message = refuse(capsys, "--data", "new.csv", "--png")
    assert (
        "--data  new.csv has no values of the target colour, which metrics need; add --predictions FILE.csv" in message
    )
    assert "--png  " in message


def test_errors_of_numbers_have_the_units_of_the_file(here, capsys):
    """The loss uses the standardized target; the printed error is in prices."""
    (here / "first.csv").write_text(TABLE)
    argv = ["train", "-q", "data=table", "data.path=first.csv", "data.target=price", "data.kind=numbers", "loss=mse"]
    assert main([*argv, "batch_size=16", "epochs=3"]) == 0
    lines = evaluate(capsys, "--split", "all")
    scale = find_run().load("best")["encoding"]["scale"]
    rmse = float(re.search(r"squared error ([\d.]+)", lines[-1])[1])
    assert rmse == pytest.approx(scale * parse_metrics(lines)["loss"] ** 0.5, rel=1e-3)


def test_classes_of_text_that_look_like_numbers_stay_text(here, capsys):
    rows = [f"{i},{name}" for i in range(30) for name in ("007", "7", "A1")]
    (here / "first.csv").write_text("\n".join(["x,y", *rows]) + "\n")
    (here / "agents.csv").write_text("\n".join(["x,y", *(r for r in rows if r.endswith("007"))]) + "\n")
    assert main([*COLOURS, "data.target=y", "data.kind=classes"]) == 0
    lines = [line.split()[:2] for line in evaluate(capsys, "--data", "agents.csv")]
    assert ["007", "30"] in lines
    assert ["7", "0"] in lines


TRAINING_ONLY = (
    ["optimizer._target_=mine.Sign", "optimizer.lr=0.1"],
    ["optimizer=torch_optim", "optimizer.name=mine.Lion"],
    ["init=custom", "init._target_=mine.ConstantInit", "+init.value=0.1"],
    ["diagnostic=custom", "diagnostic.custom._target_=mine.StepLength", "+diagnostic.custom.every=1"],
    ["regularization=[dropout,early_stopping,weight_decay,l1]"],
)
"""Components that an evaluation does not need."""


@pytest.mark.parametrize("keys", TRAINING_ONLY, ids=str)
def test_components_that_only_training_uses_need_no_trust(keys, here, capsys, monkeypatch):
    """They are not built, so their module may be missing."""
    small = ["data=digits", "data.train_size=60", "arch=mlp", "arch.widths=[4]", "batch_size=30", "epochs=1"]
    assert main(["train", "-q", *small, "normalization=batch", *keys]) == 0
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [place for place in sys.path if place != str(here)])
        assert main(["evaluate"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert parse_metrics(lines)["loss"] == pytest.approx(find_run().summary["test/loss"], abs=1e-4)
    assert evaluate(capsys) == lines
    assert (main(["verify", "-q"]) == 2) == any("mine." in key for key in keys)


def test_the_last_checkpoint_replaces_a_damaged_file_of_the_best_weights(train_once, capsys):
    train_once(*TRAIN)
    lines = evaluate(capsys)
    file = find_run().checkpoint("best")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    for damaged in (content, content[:500]):
        file.write_bytes(damaged)
        assert main(["evaluate", "--trust"]) == 0
        out, err = capsys.readouterr()
        assert out.splitlines() == lines
        assert "\nwarning: best.safetensors is damaged" in err


def test_older_checkpoints_are_named_by_their_steps(here, capsys):
    assert main([*TRAIN, "checkpoint.every=2", "checkpoint.keep=3"]) == 0
    steps = list(find_run().older_checkpoints())
    assert len(steps) == 2
    assert f"kept checkpoint (step {steps[0]})" in evaluate(capsys, "--checkpoint", str(steps[0]))[0]
    assert f"it has best, last, {steps[0]}, {steps[1]}" in refuse(capsys, "--checkpoint", "1")


def test_a_run_of_before_a_key_is_opened_with_the_value_that_it_had(here, capsys):
    (here / "my.csv").write_text("a,y\n" + "".join(f"{i},{'uv'[i % 2]}\n" for i in range(40)))
    keys = ["data=table", "data.path=my.csv", "data.target=y", "arch.widths=[4]", "batch_size=8", "epochs=1"]
    assert main(["train", "-q", *keys]) == 0
    lines = evaluate(capsys)
    file = find_run().config_file
    assert "  encoding: auto\n" in file.read_text()
    added = "validation_path", "test_path", "group", "time"
    text = file.read_text().replace("  encoding: auto\n", "")
    for key in added:
        assert f"  {key}: null\n" in text
        text = text.replace(f"  {key}: null\n", "")
    file.write_text(text)
    assert evaluate(capsys) == lines


def test_a_path_may_contain_an_equals_sign(here, capsys):
    rows = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    (here / "k=1").mkdir()
    np.savez(here / "k=1/a=b.npz", x=rows, y=np.arange(30) % 3)
    keys = ["data=arrays", "data.path='k=1/a=b.npz'", "arch=mlp", "arch.widths=[4]", "batch_size=8", "epochs=1"]
    assert main(["train", "-q", *keys, "hydra.run.dir='lr=1/run'"]) == 0
    metrics = parse_metrics(evaluate(capsys, "lr=1/run", "--split", "all"))
    for argument in ("k=1/a=b.npz", "./k=1/a=b.npz", "path=k=1/a=b.npz", str(here / "k=1/a=b.npz")):
        capsys.readouterr()
        assert main(["evaluate", "lr=1/run", "--data", argument]) == 0
        assert parse_metrics(capsys.readouterr().out.splitlines()) == metrics
