"""dlopt race: files, table, and command lines that are refused."""

import csv
import re
import shlex
import signal

import numpy as np
import pytest
from helpers import read_tree
from PIL import Image

from dlopt.cli import main
from dlopt.cli.landscape.race import EPILOG
from dlopt.landscape.statuses import STATUSES
from dlopt.report.race import files
from dlopt.report.race.figures import plot_race


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_race_prints_a_table_and_writes_a_picture_an_animation_and_every_step(tmp_path, capsys):
    keys = ["newton.solver=dense", "newton.damping=0", "newton.adapt=none"]
    assert (
        main(["race", "surface=booth", "optimizer=sgd,newton", "sgd.lr=0.1", *keys, "steps=60", "--starts", "2"]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["optimizer", "lr", "status", "steps", "evaluations", "f", "-", "f*", "distance"]
    assert lines[1].split()[:4] == ["sgd", "0.1", "2", "converged"]
    assert lines[2].split()[:6] == ["newton", "1", "2", "converged", "1", "3"]
    assert lines[3] == "medians: steps and evaluations of the converged starts, the others of all 2"
    assert lines[4].startswith("learning rates: the defaults")
    assert lines[5:7] == ["sgd: lr=0.1", "newton: solver=dense damping=0 adapt=none"]
    picture, animation, steps = (tmp_path / line for line in lines[-3:])
    assert re.fullmatch(r"outputs/race/\d{4}-\d\d-\d\d/[\d-]{8}-booth-\w{4}", lines[-3].removesuffix("/race.png"))
    with Image.open(picture) as image, Image.open(animation) as frames:
        assert image.size[0] > 1000
        assert frames.n_frames > 40
    assert animation.stat().st_size < 3e6
    rows = list(csv.DictReader(steps.read_text().splitlines()))
    assert list(rows[0]) == ["optimizer", "start", "step", "x", "y", "f", "evaluations"]
    x, y, f = (np.array([float(row[name]) for row in rows]) for name in ("x", "y", "f"))
    np.testing.assert_allclose(f, (x + 2 * y - 7) ** 2 + (2 * x + y - 5) ** 2, rtol=1e-9, atol=1e-20)
    assert {(row["optimizer"], row["start"]) for row in rows} == {(o, s) for o in ("sgd", "newton") for s in "01"}
    assert rows[1]["evaluations"] == "1"
    assert {entry.name for entry in steps.parent.iterdir()} == {"race.png", "race.gif", "race.csv"}
    assert [entry.name for entry in steps.parent.parent.iterdir()] == [steps.parent.name]


def test_the_help_explains_every_status_and_the_medians(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["race", "--help"])
    text = capsys.readouterr().out
    assert "medians over the converged" in text
    for name, meaning in STATUSES.items():
        assert re.search(rf"^  {name} +{re.escape(meaning)}$", text, re.MULTILINE)


def test_tuning_without_a_range_is_refused_with_the_form_of_one(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["race", "--tune"])
    assert re.search(r"\[--tune lr=LOW:HIGH\].* --tune: expected one argument", capsys.readouterr().err, re.DOTALL)


def test_the_example_of_the_help_shows_that_newton_ends_at_a_saddle_point(capsys):
    lines = EPILOG.splitlines()
    first = next(i for i, line in enumerate(lines) if "saddle_free_newton" in line)
    words = shlex.split(lines[first].rstrip("\\") + re.split(" {3,}", lines[first + 1].strip())[0])
    assert main([*words[1:], "steps=60", "-q"]) == 0
    newton, saddle_free = capsys.readouterr().out.splitlines()[1:3]
    assert "at a saddle point" in newton
    assert "converged" in saddle_free


def test_more_weights_custom_parts_and_tuning(tmp_path, capsys):
    words = [
        "surface=custom",
        "surface._target_=mine.Valley",
        "optimizer=custom,sgd",
        "custom._target_=mine.Sign",
        "+custom.lr=0.1",
    ]
    assert main(["race", *words, "steps=20", "--out", "o"]) == 0
    assert "3 weights" in capsys.readouterr().out
    assert set(read_tree(tmp_path / "o")) == {"race.png", "race.csv"}
    keys = [
        "surface=ill_conditioned",
        "surface.n=4",
        "optimizer=momentum,newton",
        "steps=50",
        "--tune",
        "lr=1e-3:1",
        "-q",
    ]
    assert main(["race", *keys, "--out", "t"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:] if line] == ["momentum", "newton", "t/race.png", "t/race.csv"]
    assert (tmp_path / "t" / "race.csv").read_text().startswith("optimizer,start,step,w1,w2,w3,w4,f,evaluations\n")


def test_a_surface_that_is_nan_later_has_diverged_and_is_drawn(tmp_path, capsys):
    words = ["surface=custom", "surface._target_=mine.Logs", "+surface.start=1", "optimizer=sgd", "sgd.lr=0.3"]
    assert main(["race", *words, "steps=20", "--out", "o"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[2] == "diverged"
    assert set(read_tree(tmp_path / "o")) == {"race.png", "race.gif", "race.csv"}
    ends = [float(row["f"]) for row in csv.DictReader((tmp_path / "o/race.csv").read_text().splitlines())]
    assert np.isfinite(ends).all()
    assert 1 < len(ends) < 10


def test_the_title_has_the_typed_keys_unless_one_is_given(monkeypatch):
    titles = []
    monkeypatch.setattr(files, "plot_race", lambda race: titles.append(race.title) or plot_race(race))
    for i, words in enumerate([[], ["--title", "My race"]]):
        assert main(["race", *QUICK, *words, "--out", f"o{i}"]) == 0
    assert titles == ["ill_conditioned (n=3): 3 steps, default keys except those in the legend", "My race"]


def test_options_of_ones_own_race(tmp_path, capsys):
    (tmp_path / "mine/optimizer").mkdir(parents=True)
    (tmp_path / "mine/optimizer/signs.yaml").write_text("# signs\n# me\n_target_: mine.Sign\nlr: 0.25\n")
    words = ["optimizer=signs", "surface=ill_conditioned", "surface.n=3", "steps=3"]
    assert main(["race", "--config-dir", "mine", *words, "--out", "o"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["signs", "0.25"]


REFUSED = {
    "--tune": (["--tune="], ["--tune  needs a range of learning rates: --tune lr=1e-4:1"]),
    "a range of nothing": (["--tune", "lr=1:1e-4"], ["--tune  must go from a positive number to a larger one"]),
    "a typed rate beside it": (["--tune", "lr=1e-4:1", "adam.lr=1"], ["adam.lr  --tune chooses it"]),
    "no minimum": (["surface=saddle", "--tune", "lr=1e-4:1"], ["--tune  surface=saddle is not bounded below"]),
    "several": (["--starts", "0", "--tune=", "--out", "there", "foo=1"], ["foo", "--tune"]),
    "starts": (["--starts", "0"], ["--starts  must be >= 1, got 0"]),
    "nan at the start": (
        ["surface=custom", "surface._target_=mine.Logs", "+surface.start=-1"],
        ["surface  the surface is nan at the start [-1, 1]: start at a point where it is finite"],
    ),
    "nan at a random start": (
        ["surface=custom", "surface._target_=mine.Logs", "+surface.start=1", "--starts", "20"],
        ["--starts  the surface is nan at the start [", "try another seed="],
    ),
    "infinity at the start": (["start=[1e200,2]"], ["start  the surface is inf at the start [1e+200, 2]"]),
    "a folder that exists": (["--out", "there"], ["--out  there exists; name a new folder"]),
    "a folder in a file": (["--out", "a_file/new"], ["--out  a_file is not a directory: name another folder"]),
    "an optimizer": (["optimizer=adm"], ["optimizer  adm: there is no option 'adm'; did you mean adam"]),
    "a folder of options": (["--config-dir", "nowhere"], ["--config-dir: there is no directory"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_command_line_is_refused_and_leaves_nothing(name, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    (tmp_path / "a_file").touch()
    words, parts = REFUSED[name]
    assert main(["race", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "nothing was started" in err
    assert all(re.sub(" +", " ", part) in re.sub(" +", " ", err) for part in parts), err
    assert read_tree(tmp_path) == {"there": None, "a_file": b""}


QUICK = ("surface=ill_conditioned", "surface.n=3", "optimizer=sgd", "sgd.lr=0.01", "steps=3")


def test_an_interrupted_race_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "write_steps", lambda *_: signal.raise_signal(signal.SIGINT))
    assert main(["race", *QUICK, "--out", "o/new"]) == 130
    assert read_tree(tmp_path) == {"o": None}


def test_a_race_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_steps", fail)
    assert main(["race", *QUICK, "--out", "o/new"]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert read_tree(tmp_path) == {"o": None}
