"""dlopt predict: predictions of one run or of several for each row of a file."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import polars
import pytest
import torch
from helpers import make_reviews, write_images

from dlopt.cli import main
from dlopt.config.reopen.load_predictor import load_predictor
from dlopt.config.reopen.predict_file import open_file
from dlopt.rundir.directory import RunDirectory
from dlopt.storage.frame_rows import FrameRows

FAST = ("batch_size=16", "epochs=1", "arch.depth=1", "arch.width=8", "device=cpu", "threads=1")


def train(name, *argv):
    assert main(["train", "-q", *argv, f"hydra.run.dir={name}"]) == 0


def predict(capsys, *argv):
    """Return what a successful command prints on standard output and standard error."""
    capsys.readouterr()
    code = main(["predict", *argv])
    out, err = capsys.readouterr()
    assert code == 0, err
    return out, err


def refuse(capsys, *argv):
    """Return the message of a command that is refused, and leaves nothing behind."""
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
    assert main(["predict", *argv]) == 2
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    assert sorted(Path().rglob("*")) == before
    return err


def read_table(file, delimiter=","):
    with Path(file).open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream, delimiter=delimiter))
    return dict(zip(rows[0], zip(*rows[1:], strict=True), strict=True))


def write_table(file, count=2500, seed=0):
    """Write a table whose target depends on a number, a colour and a day; return its columns."""
    rng = np.random.default_rng(seed)
    size, colour = rng.normal(size=count).round(4), rng.choice(["red", "blue", "green"], count)
    day = np.datetime64("2024-01-01") + rng.integers(0, 700, count)
    score = size + (colour == "red")
    columns = {
        "note": [f'row {i}, "{c}"' for i, c in enumerate(colour)],
        "size": size,
        "colour": colour,
        "day": day,
        "price": (100 + 20 * score).round(3),
        "kind": np.where(score > 0, "high", "low"),
    }
    with Path(file).open("w", newline="") as stream:
        csv.writer(stream).writerows([list(columns), *zip(*columns.values(), strict=True)])
    return columns


TABLE = ("data=table", "data.path=first.csv", "data.drop=[note,price]", "data.dates=[day]", "data.target=kind", *FAST)
PRICES = ("data=table", "data.path=first.csv", "data.drop=[note,kind]", "data.dates=[day]", "data.target=price",
          "loss=mse", *FAST)  # fmt: skip


@pytest.fixture(scope="module")
def _table_folder(tmp_path_factory):
    """Return a folder with a table and a run that was trained on it."""
    folder = tmp_path_factory.mktemp("table")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_table("first.csv")
        train("run", *TABLE)
    return folder


@pytest.fixture
def table(_table_folder, here):
    """Return the working directory, with a table `first.csv` and a `run` that was trained on it."""
    shutil.copytree(_table_folder, here, dirs_exist_ok=True)
    return here


def test_a_table_in_parts_gives_the_bits_of_the_whole_and_the_accuracy_of_evaluate(table, capsys, monkeypatch):
    whole, _ = load_predictor(RunDirectory("run"), data=["first.csv"])
    outputs, targets = whole.predict_split("all")
    metrics = whole.measure(outputs, targets)
    expected = outputs.double().softmax(-1)
    plain = polars.read_csv("first.csv").drop("note")  # without quotes, so that polars reads it
    plain.write_csv("plain.csv")
    monkeypatch.setattr("dlopt.data._csv_stream.MAX_CELLS", 1)  # a part is 1024 rows
    monkeypatch.setattr("dlopt.data._decoding.BLOCK", 40_000)
    for name, large in (("plain.csv", 1), ("plain.csv", 1 << 30), ("first.csv", 1)):
        monkeypatch.setattr("dlopt.data._large_csv.LARGE", large)
        parts = list(open_file([RunDirectory("run")], [name])[0])
        assert len(parts) > 2
        assert isinstance(parts[0].source.cells, FrameRows) == (name == "plain.csv" and large == 1)
        assert all(len(part.mean) % 1024 == 0 for part in parts[:-1]), "or forward passes would have other examples"
        assert torch.equal(torch.cat([part.mean for part in parts]), expected)
        out, _ = predict(capsys, "run", name, "--out", "out.csv")
        assert f"{name}, 2,500 examples" in out
        result, original = read_table("out.csv"), read_table(name)
        assert {name: result[name] for name in original} == original
        assert list(result)[len(original) :] == ["prediction", "probability_high", "probability_low"]
        right = np.mean(np.array(result["prediction"]) == np.array(result["kind"]))
        assert right == pytest.approx(metrics["accuracy"], abs=1e-6)
        p = np.array([result["probability_high"], result["probability_low"]], float)
        np.testing.assert_allclose(p.T, expected, rtol=1e-6)


def test_an_ensemble_has_the_mean_and_the_spread_in_the_units_of_the_target(here, table, capsys):
    """Of a sweep it has the seeds of the best configuration, or it has the runs that are named."""
    grid = ("-m", "seed=0,1", "optimizer.lr=1e-6,0.1", "hydra.sweep.dir=sweep")
    write_table("first.csv", 120)
    assert main(["train", "-q", *PRICES, "batch_size=full", *grid]) == 0
    singles = []
    for run in ("sweep/1", "sweep/3"):
        predict(capsys, run, "first.csv", "--out", "one.csv")
        singles.append(np.array(read_table("one.csv")["prediction"], float))
    whole, _ = load_predictor(RunDirectory("sweep/3"), data=["first.csv"])
    mean, sd = (whole.encoding[name] for name in ("middle", "scale"))
    np.testing.assert_allclose(singles[1], whole.predict_split("all")[0][:, 0].double() * sd + mean, rtol=1e-6)

    out, err = predict(capsys, "sweep", "first.csv", "--ensemble", "--out", "mean.csv")
    assert "its best configuration has the 2 runs 1, 3 (val/loss" in err
    result, x = read_table("mean.csv"), np.mean(singles, 0)
    np.testing.assert_allclose(np.array(result["prediction"], float), x, rtol=1e-6)
    np.testing.assert_allclose(np.array(result["sd"], float), np.std(singles, 0, ddof=1), rtol=1e-3)
    found = re.search(r"predicted price: mean (\S+), standard deviation (\S+), from (\S+) to (\S+)", out)
    np.testing.assert_allclose([float(n) for n in found.groups()], [x.mean(), x.std(), x.min(), x.max()], rtol=1e-5)
    predict(capsys, "sweep/1", "sweep/3", "first.csv", "--out", "named.csv")
    assert read_table("named.csv") == result

    assert "best run is sweep/" in predict(capsys, "sweep", "first.csv")[1]
    assert "is not a sweep" in refuse(capsys, "sweep/0", "first.csv", "--ensemble")
    message = refuse(capsys, "run", "sweep/0", "first.csv")
    assert "sweep/0 predicts price (price), and run kind (high, low); the runs of an ensemble must agree" in message
    assert "names a run twice" in refuse(capsys, "run", "run", "first.csv")
    assert "is for classes" in refuse(capsys, "sweep/0", "first.csv", "--top", "1")


def test_new_tables_keep_their_columns_and_notices_count_what_is_unknown(table, capsys):
    rows = [["colour", "prediction", "day", "size", "extra"], ["red", "x", "2024-05-01", "1.5", "a;b"],
            ["pink", "y", "2024-05-01", "-1,5".replace(",", "."), "c"], ["", "z", "", "0", "d"]]  # fmt: skip
    Path("new.csv").write_text("\n".join(",".join(row) for row in rows) + "\n")
    assert "data.missing  2 values missing" in refuse(capsys, "run", "new.csv", "--out", "out.csv")
    _, err = predict(capsys, "run", "new.csv", "data.missing=drop", "--out", "out.csv", "--top", "1")
    assert "colour has 'pink' in 1 row, the first in line 3" in err
    result = read_table("out.csv")
    assert list(result) == [*rows[0], "prediction_", "probability"]
    assert result["prediction"] == ("x", "y", "z")
    assert [cell in ("high", "low") for cell in result["prediction_"]] == [True, True, False]
    assert result["prediction_"][2] == result["probability"][2] == ""

    (table.parent / "elsewhere").mkdir(exist_ok=True)
    shutil.copy("new.csv", table.parent / "elsewhere/new.csv")
    Path("link.csv").symlink_to(table.parent / "elsewhere/new.csv")
    predict(capsys, "run", "link.csv", "data.missing=drop", "--out", "linked.csv", "--top", "1")
    assert read_table("linked.csv") == result

    semicolons = [["colour", "day", "size"], ["red", "2024-05-01", "1,5"], ["blue", "2024-05-01", "-1,25"]]
    Path("german.csv").write_text("\n".join(";".join(row) for row in semicolons) + "\n")
    predict(capsys, "run", "german.csv", "--out", "german_out.csv")
    points = "\n".join(",".join(cell.replace(",", ".") for cell in row) for row in semicolons)
    Path("english.csv").write_text(points)
    predict(capsys, "run", "english.csv", "--out", "english_out.csv")
    german, english = read_table("german_out.csv", ";"), read_table("english_out.csv")
    assert german["size"] == ("1,5", "-1,25")
    assert [p.replace(",", ".") for p in german["probability_low"]] == list(english["probability_low"])
    assert all("," in p for p in german["probability_low"])


def test_parquet_and_json_hold_the_same_predictions(table, capsys):
    predict(capsys, "run", "first.csv", "--out", "out.csv", "--top", "2")
    expected = read_table("out.csv")
    frame = polars.read_csv("first.csv", try_parse_dates=True).with_columns(polars.col("size").cast(polars.Float32))
    frame.write_parquet("first.parquet")
    predict(capsys, "run", "first.parquet", "--out", "out.parquet", "--top", "2")
    predict(capsys, "run", "first.csv", "--out", "out.jsonl", "--top", "2")
    parquet = polars.read_parquet("out.parquet")
    assert parquet.select(frame.columns).equals(frame)
    records = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    for column in ("prediction", "probability", "prediction_2", "probability_2"):
        for values in (parquet[column].to_list(), [record[column] for record in records]):
            texts = [value if isinstance(value, str) else format(value, ".7g") for value in values]
            assert texts == list(expected[column]) or np.allclose(
                np.array(texts, float), np.array(expected[column], float), rtol=1e-5
            )
    assert [record["note"] for record in records] == list(expected["note"])


def test_without_out_the_first_rows_are_printed(table, capsys):
    out, _ = predict(capsys, "run", "first.csv", "-q")
    lines = out.splitlines()
    assert lines[1].split() == [
        "note",
        "size",
        "colour",
        "day",
        "price",
        "kind",
        "prediction",
        "probability_high",
        "probability_low",
    ]
    assert len(lines) == 14
    assert "the first 10 rows; --out" in lines[-1]
    assert predict(capsys, "run", "first.csv", "--out", "-", "-q")[0] == out
    assert not Path("-").exists()


@pytest.mark.parametrize(("text", "argv", "words"), [
    (None, [], "FILE  there is no file new.csv; there is first.csv, run"),
    ("", [], "new.csv is empty"),
    ("size,colour,day\n", [], "has a first line but no rows"),
    ("Size,day\n1,2024-01-01\n", [], r"new.csv lacks the columns size \(is it Size\?\), colour"),
    ("size,colour,day\n1,red,2024-01-01\nbig,red,2024-01-01\n", [], "size was numeric in training, but has 'big' in line 3"),
    ("size,colour,day\n1,red,soon\n", [], "day was a date as ISO 8601 in training, but has 'soon' in line 2"),
    ("size,colour,day\n1,red,2024-01-01\n", ["--out", "no/out.csv"], "--out  there is no folder no; make it first"),
    ("size,colour,day\n1,red,2024-01-01\n", ["--out", "out.xls"], "--out  must end in .csv or .parquet or .jsonl"),
    ("size,colour,day\n1,red,2024-01-01\n", ["--out", "new.csv"], "--out  new.csv is a file of data"),
    ("size,colour,day\n1,red,2024-01-01\n", ["--out", "link.csv"], "--out  link.csv is a file of data"),
    ("size,colour,day\n1,red,2024-01-01\n", ["--out", "run/out.csv"], "--out  run/out.csv lies in the run"),
    ("size,colour,day\n1,red,2024-01-01\n", ["--top", "3"], "--top  must be at most 2, the number of classes, got 3"),
    ("size,colour,day\n1,red,2024-01-01\n", ["data.mising=fill"], "there is no key data.mising; did you mean data.missing"),
])  # fmt: skip
def test_what_is_wrong_is_said_and_nothing_is_left(text, argv, words, table, capsys):
    if text is not None:
        Path("new.csv").write_text(text)
        Path("link.csv").hardlink_to("new.csv")
    out = [] if "--out" in argv else ["--out", "out.csv"]
    assert re.search(words, refuse(capsys, "run", "new.csv", *out, *argv))


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device")])
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_stop_leaves_nothing_behind(stop, ending, table, capsys, monkeypatch):
    before = sorted(Path().rglob("*"))
    monkeypatch.setattr("dlopt.report.predictions.columns.Summary.add", lambda *_: (_ for _ in ()).throw(stop))
    code = main(["predict", "run", "first.csv", "--out", f"out.{ending}"])
    err = capsys.readouterr().err
    expected = (130, "interrupted") if stop is KeyboardInterrupt else (2, "--out out." + ending + ": No space left")
    assert (code, expected[1] in err) == (expected[0], True)
    assert sorted(Path().rglob("*")) == before


# ------------------------------------------------------------------------------------------------ other kinds of data


def test_images_in_folders_at_any_depth_and_single_ones(here, capsys):
    photos = write_images(here / "photos", each=10)
    train("run", "data=folder", "data.path=photos", "data.size=8", "arch=mlp", *FAST)
    predict(capsys, "run", "photos", "--out", "all.csv")
    main(["evaluate", "run", "--data", "photos", "--predictions", "evaluated.csv"])
    new, evaluated = read_table("all.csv"), read_table("evaluated.csv")
    assert {name: new[name] for name in ("file", "probability_ant")} == {
        name: evaluated[name] for name in ("file", "probability_ant")
    }
    (here / "inbox/a/b").mkdir(parents=True)
    shutil.copy(photos / "bee/003.png", here / "inbox/a/b/x.png")
    (here / "inbox/broken.png").write_bytes(b"none")
    assert "broken.png (it is not an image" in refuse(capsys, "run", "inbox", "--out", "out.csv")
    _, err = predict(capsys, "run", "inbox", "data.broken=skip", "--out", "out.csv")
    table = read_table("out.csv")
    assert "broken.png" in err
    assert table["file"] == ("a/b/x.png", "broken.png")
    p = dict(zip(new["file"], new["probability_ant"], strict=True))
    assert table["probability_ant"] == (p["bee/003.png"], "")
    out, _ = predict(capsys, "run", "inbox/a/b/x.png", "--top", "1")
    assert out.splitlines()[2].split()[0] == "x.png"


def test_texts_in_a_table_in_files_and_in_one_file(here, capsys):
    reviews = make_reviews(60)
    Path("texts.csv").write_text("\n".join(["text,label", *map(",".join, reviews)]))
    train("run", "data=text", "data.path=texts.csv", "batch_size=32", "epochs=1", "arch.width=4", "threads=1")
    whole, _ = load_predictor(RunDirectory("run"), data=["texts.csv"])
    p = whole.predict_split("all")[0].double().softmax(-1)
    predict(capsys, "run", "texts.csv", "--out", "out.csv")
    table = read_table("out.csv")
    np.testing.assert_allclose(np.array(table["probability_yes"], float), p[:, 1], rtol=1e-6)
    assert table["label"] == tuple(label for _, label in reviews)
    Path("inbox").mkdir()
    for i in (0, 1):
        Path(f"inbox/{i}.txt").write_text(reviews[i][0] + "\n")
    predict(capsys, "run", "inbox", "--out", "out.csv")
    files = read_table("out.csv")
    assert files["file"] == ("0.txt", "1.txt")
    np.testing.assert_allclose(np.array(files["probability_yes"], float), p[:2, 1], rtol=1e-5)
    predict(capsys, "run", "inbox/1.txt", "--out", "out.csv")
    assert read_table("out.csv")["probability_yes"] == files["probability_yes"][1:]
    Path("inbox/2.txt").write_text(" ")
    assert "empty text in 2.txt" in refuse(capsys, "run", "inbox", "--out", "new.csv")


def test_arrays_of_any_length_and_what_has_no_prediction_of_an_example(here, capsys):
    x = np.random.default_rng(0).normal(size=(70, 4)).astype(np.float32)
    np.savez("my.npz", x=x, y=np.array(["ant", "bee"])[np.arange(70) % 2])
    train("run", "data=arrays", "data.path=my.npz", "arch=mlp", *FAST)
    np.savez("new.npz", x=x, y=np.array(["unknown"] * 70))
    np.savez("mine.npz", other=x)
    np.save("new.npy", x)
    whole, _ = load_predictor(RunDirectory("run"), data=["my.npz"])
    names = whole.predict_classes(torch.from_numpy(x))
    for argv in (["new.npz"], ["mine.npz", "--data", "data.inputs=other"], ["new.npy"],
                 ["new.npy", "data.memory_map=true"], ["new.npz", "--batch-size", "7"]):  # fmt: skip
        predict(capsys, "run", *argv, "--out", "out.csv")
        assert list(read_table("out.csv")["prediction"]) == names
    assert "there is no array 'x' in mine.npz" in refuse(capsys, "run", "mine.npz", "--out", "new.csv")
    Path("my.txt").write_text("some words " * 90)
    small = ("data=characters", "data.path=my.txt", "data.length=8", "arch=gru", "arch.width=4", "steps=1")
    train("characters", *small, "batch_size=16", "threads=1")
    assert "predicts the next character at each step" in refuse(capsys, "characters", "my.txt", "--out", "new.csv")
