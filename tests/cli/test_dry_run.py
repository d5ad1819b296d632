"""dlopt train --dry-run: everything is checked and reported, and nothing is written."""

import re
import shutil
import tempfile
from pathlib import Path

import pytest
from helpers import BLOBS, read_tree

from dlopt.cli import main
from dlopt.cli.dry_run import format_short_duration, format_size
from dlopt.sweep import cost_forecast, sweeper

DRY = ["train", "--dry-run", *BLOBS]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(cost_forecast, "SECONDS_PER_REHEARSAL", 0.01)


@pytest.fixture
def here(here, monkeypatch):
    """Return an empty working directory, which also holds the folder of temporary files."""
    (here / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(here / "temporary"))
    return here


def dry_run(capsys, *argv):
    """Return what a dry run prints; it must write nothing."""
    capsys.readouterr()
    before = read_tree(Path.cwd())
    assert main([*DRY, *argv]) == 0
    assert read_tree(Path.cwd()) == before
    return capsys.readouterr().out


def parse_list(text):
    """Return the number and the title of each point that is listed."""
    return re.findall(r"^ +([\d,]+|\.\.\.)(?:  (\S.*))?$", text, re.MULTILINE)


def test_a_sweep_is_listed_with_its_cost(here, capsys):
    text = dry_run(capsys, "-m", "optimizer=sgd,adam", "optimizer.lr=0.1,0.01", "hydra.sweeper.seeds=3")
    assert parse_list(text) == [
        ("0", "optimizer=sgd optimizer.lr=0.1"),
        ("1", "optimizer=sgd optimizer.lr=0.01"),
        ("2", "optimizer=adam optimizer.lr=0.1"),
        ("3", "optimizer=adam optimizer.lr=0.01"),
    ]
    assert "12 runs: 4 points x 3 (seed=0, seed=1, seed=2)" in text
    assert re.search(r"time +about .* \(2 of 2 kinds of runs measured\)", text)
    assert re.search(r"disk +about [\d.]+ [kM]B", text)


@pytest.mark.parametrize(("count", "length"), [(40, 40), (41, 24)])
def test_long_lists_are_cut(count, length, here, capsys):
    rows = parse_list(dry_run(capsys, "-m", f"seed=range({count})"))
    assert len(rows) == length
    assert rows[-1] == (str(count - 1), f"seed={count - 1}")
    if length < count:
        assert [number for number, _ in rows[19:22]] == ["19", "...", "38"]


@pytest.mark.parametrize("sampler", ["random", "qmc"])
def test_the_listed_points_are_those_that_run(sampler, here, capsys):
    axes = ["optimizer.lr=tag(log,interval(1e-3,1e-1))", "arch.widths=[4],[8]"]
    search = ["-m", f"hydra/sweeper={sampler}", "hydra.sweeper.n_trials=4", "hydra.sweep.dir=s", *axes]
    titles = [title for _, title in parse_list(dry_run(capsys, *search))]
    assert main(["train", *BLOBS, *search]) == 0
    assert re.findall(r"^\d/4  (.*?)  ", capsys.readouterr().out, re.MULTILINE) == titles


def test_a_search_of_identical_runs_is_announced(here, capsys):
    search = ["-m", "hydra/sweeper=random", "hydra.sweeper.n_trials=3", "optimizer.lr=0.1"]
    assert main([*DRY, *search, "optimizer=sgd,adam"]) == 0
    assert main(["train", *BLOBS, *search, "optimizer=sgd,adam", "epochs=1"]) == 0
    notices = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert len(notices) == 2
    assert all("of the 3 points repeat earlier ones" in line for line in notices)


def test_an_existing_sweep_lists_its_remaining_points(train_once, here, capsys):
    search = ["-m", "hydra/sweeper=random", "hydra.sweeper.n_trials=2", "optimizer.lr=interval(0.01,0.1)"]
    train_once("train", "-q", *BLOBS, *search, "hydra.sweep.dir=s")
    before = read_tree(here)
    assert main(["train", "--dry-run", "resume=s", "hydra.sweeper.n_trials=5", "--trust"]) == 0
    assert read_tree(here) == before
    text = capsys.readouterr().out
    assert "s: 2 of 5 points are finished" in text
    assert [number for number, _ in parse_list(text)] == ["2", "3", "4"]
    assert "3 runs" in text
    assert "nothing is left to do" in dry_run(capsys, *search, "hydra.sweep.dir=s")


def test_a_dry_run_refuses_what_a_start_refuses(train_once, here, capsys):
    train_once("train", "-q", *BLOBS, "-m", "optimizer.lr=0.1,0.2", "hydra.sweep.dir=s")
    before = read_tree(here)
    for keys in (
        ["-m", "optimizer=sgd,nothing"],
        ["-m", "optimizer.lr=1,2", "hydra/launcher=pool", "hydra.launcher.workers=0"],
        ["-m", "optimizer.lr=0.5,0.6", "hydra.sweep.dir=s"],
        ["-m", "hydra/sweeper=random", "optimizer.lr=0.1,0.2", "hydra.sweeper.storage=x://y", "hydra.sweeper.study=z"],
        ["epochs=0"],
        ["hydra.run.dir=s/0"],
    ):
        assert main([*DRY, *keys]) == 2
        message = capsys.readouterr().err
        assert read_tree(here) == before
        assert main(["train", *BLOBS, *keys]) == 2
        assert capsys.readouterr().err == message != ""


def test_failed_points_count_as_remaining_with_retry(here, monkeypatch, capsys):
    keys = ["-m", "optimizer.lr=0.1,0.2", "hydra.sweep.dir=s"]
    with monkeypatch.context() as patch:
        patch.setattr("dlopt.training.loop.step", lambda *_: 1 / 0)
        assert main(["train", "-q", *BLOBS, *keys]) == 1
    assert "nothing is left to do" in dry_run(capsys, *keys)
    text = dry_run(capsys, *keys, "hydra.sweeper.retry=true")
    assert parse_list(text) == [("0", "optimizer.lr=0.1"), ("1", "optimizer.lr=0.2")]


def test_a_missing_database_is_not_created(here, capsys):
    keys = ["-m", "seed=0,1", "hydra.sweeper.storage=sqlite:///search.db", "hydra.sweeper.study=one"]
    dry_run(capsys, *keys)
    assert main(["train", "-q", *BLOBS, *keys, "hydra.sweep.dir=s"]) == 0
    assert "nothing is left to do" in dry_run(capsys, *keys, "hydra.sweep.dir=s")


def test_points_that_depend_on_results_are_not_listed(here, capsys):
    text = dry_run(capsys, "-m", "hydra/sweeper=tpe", "optimizer.lr=interval(0.01,0.1)")
    assert not parse_list(text)
    assert "20 points, which tpe chooses" in text
    assert "2 points, with each choice and both ends" in " ".join(text.split())


def test_simultaneous_runs_divide_the_time(here, capsys, monkeypatch):
    cost = cost_forecast.Cost(80.0, 1e6)
    forecast = cost_forecast.CostForecast(cost_forecast.Cost(1200.0, 12e6), cost, cost, 1, 1, {})
    monkeypatch.setattr(sweeper, "forecast_cost", lambda *args: forecast)
    pool = ["hydra/launcher=pool", "hydra.launcher.workers=4"]
    assert "about 5 min, 4 runs at once" in dry_run(capsys, "-m", "seed=range(8)", *pool)
    assert "about 20 min (1 of 1 kind" in dry_run(capsys, "-m", "seed=range(8)")


def test_a_very_large_grid_needs_yes(here, capsys, monkeypatch):
    searches = []
    monkeypatch.setattr(sweeper.CheckedSweep, "search", lambda *args: searches.append(args))
    largest, larger = (["-m", *BLOBS, f"seed=range({count})"] for count in (10_000, 10_001))
    assert main(["train", *larger]) == 2
    assert "this grid has 10,001 runs; --dry-run says how long they take, --yes starts them" in capsys.readouterr().err
    assert searches == []
    assert [main(["train", *largest]), main(["train", "--yes", *larger])] == [0, 0]
    assert len(searches) == 2


def test_a_million_runs_compose_only_a_few(here, capsys, monkeypatch):
    calls = []
    compose_job = sweeper.Composer.compose_job
    monkeypatch.setattr(sweeper.Composer, "compose_job", lambda *args: calls.append(args) or compose_job(*args))
    text = dry_run(capsys, "-m", "seed=range(100)", "optimizer.lr=range(1,101)", "epochs=range(1,101)")
    assert "1,000,000 runs" in text
    assert [number for number, _ in parse_list(text)][-2:] == ["999,998", "999,999"]
    assert "298 points, with each choice" in text
    assert len(calls) < 2_000


def test_a_single_run(here, capsys):
    text = dry_run(capsys, "epochs=7")
    assert "21 steps, 7 epochs of 3" in text
    assert "48 for training, 12 for validation" in text
    assert "67 parameters" in text
    assert re.search(r"time +about .*\(7 of them\)", text)
    assert main(["train", "-q", *BLOBS, "hydra.run.dir=one"]) == 0  # the next command is an ordinary run again
    before = read_tree(here)
    assert main(["train", "--dry-run", "resume=one", "epochs=9"]) == 2
    assert "--dry-run: one is not a sweep" in capsys.readouterr().err
    assert read_tree(here) == before


def test_a_run_that_would_fail_is_reported(here, capsys):
    Path("failing.py").write_text(
        "from dataclasses import dataclass\nfrom mine import Sign\n\n\n"
        "@dataclass(frozen=True)\nclass Rule(Sign):\n    def step(self, w, state, objective):\n"
        "        raise RuntimeError('no way down')\n"
    )
    rule = ["optimizer=custom", "optimizer._target_=failing.Rule", "+optimizer.lr=0.1"]
    assert main([*DRY, *rule]) == 1
    assert "no way down" in capsys.readouterr().err
    assert main([*DRY, "-m", *rule, "seed=0,1"]) == 0
    assert "no way down" in capsys.readouterr().out
    assert not list((here / "temporary").iterdir())


def test_lines_fit_a_narrow_screen(here, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert shutil.get_terminal_size().columns == 40
    lines = dry_run(capsys, "-m", "optimizer.lr=0.1,0.01", "name=first,second", "seed=1,2").splitlines()
    assert "".join(lines).count("optimizer.lr=0.1 name=first") == 2
    assert max(map(len, lines)) <= 46  # the last line is a hint that is not wrapped


def test_formats_of_times_and_sizes():
    assert [format_short_duration(x) for x in (0.00123, 1.26, 99, 100, 5400, 6000, 2e5)] == [
        "1.2 ms",
        "1.3 s",
        "99 s",
        "1.7 min",
        "90 min",
        "1.7 h",
        "2.3 days",
    ]
    assert [format_size(x) for x in (1200, 999_400, 999_600, 3.4e9, 5e12)] == [
        "1.2 kB",
        "999 kB",
        "1 MB",
        "3.4 GB",
        "5 TB",
    ]
