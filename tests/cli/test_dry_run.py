"""dlopt train --dry-run: everything is checked and said, and nothing is made."""

import re
import shutil
import tempfile
from pathlib import Path

import pytest
from helpers import BLOBS

from dlopt.cli import main
from dlopt.cli.dry_run import format_short_duration, format_size
from dlopt.sweep import cost_forecast, sweeper

DRY = ["train", "--dry-run", *BLOBS]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(cost_forecast, "SECONDS_PER_REHEARSAL", 0.01)


@pytest.fixture
def here(here, monkeypatch):
    """An empty working directory, with the place for temporary files inside."""
    (here / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(here / "temporary"))
    return here


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def listed(text):
    return re.findall(r"^ +([\d,]+|\.\.\.)(?:  (\S.*))?$", text, re.MULTILINE)


def test_a_sweep_is_listed_and_nothing_is_written(here, capsys):
    before = contents(here)
    assert main([*DRY, "-m", "optimizer=sgd,adam", "optimizer.lr=0.1,0.01", "hydra.sweeper.seeds=3"]) == 0
    said = capsys.readouterr().out
    assert contents(here) == before
    assert listed(said) == [
        ("0", "optimizer=sgd optimizer.lr=0.1"),
        ("1", "optimizer=sgd optimizer.lr=0.01"),
        ("2", "optimizer=adam optimizer.lr=0.1"),
        ("3", "optimizer=adam optimizer.lr=0.01"),
    ]
    assert "12 runs: 4 points x 3 (seed=0, seed=1, seed=2)" in said
    assert re.search(r"time +about .* \(2 of 2 kinds of runs measured\)", said)
    assert re.search(r"disk +about [\d.]+ [kM]B", said)


@pytest.mark.parametrize(("count", "shown"), [(40, 40), (41, 24)])
def test_long_lists_are_cut(count, shown, here, capsys):
    assert main([*DRY, "-m", f"seed=range({count})"]) == 0
    rows = listed(capsys.readouterr().out)
    assert len(rows) == shown
    assert rows[-1] == (str(count - 1), f"seed={count - 1}")
    if shown < count:
        assert [number for number, _ in rows[19:22]] == ["19", "...", "38"]


@pytest.mark.parametrize("sampler", ["random", "qmc"])
def test_the_listed_points_are_those_that_run(sampler, here, capsys):
    axes = ["optimizer.lr=tag(log,interval(1e-3,1e-1))", "arch.widths=[4],[8]"]
    search = ["-m", f"hydra/sweeper={sampler}", "hydra.sweeper.n_trials=4", "hydra.sweep.dir=s", *axes]
    assert main([*DRY, *search]) == 0
    listing = [title for _, title in listed(capsys.readouterr().out)]
    assert main(["train", *BLOBS, *search]) == 0
    made = re.findall(r"^\d/4  (.*?)  ", capsys.readouterr().out, re.MULTILINE)
    assert listing == made


def test_an_existing_sweep_lists_what_is_left(here, capsys):
    search = ["-m", "hydra/sweeper=random", "hydra.sweeper.n_trials=2", "optimizer.lr=interval(0.01,0.1)"]
    assert main(["train", "-q", *BLOBS, *search, "hydra.sweep.dir=s"]) == 0
    before = contents(here)
    assert main(["train", "--dry-run", "resume=s", "hydra.sweeper.n_trials=5", "--trust"]) == 0
    said = capsys.readouterr().out
    assert "s: 2 of 5 points are finished" in said
    assert [number for number, _ in listed(said)] == ["2", "3", "4"]
    assert "3 runs" in said
    assert main([*DRY, *search, "hydra.sweep.dir=s"]) == 0
    assert "nothing is left to do" in capsys.readouterr().out
    assert contents(here) == before


@pytest.mark.parametrize(
    "keys",
    [
        ["-m", "optimizer.lrr=1,2"],
        ["-m", "optimizer=sgd,nothing"],
        ["-m", "optimizer.lr=interval(0,1)"],
        ["-m", "optimizer.lr=1,2", "hydra/launcher=pool", "hydra.launcher.workers=0"],
        ["-m", "optimizer.lr=0.5,0.6", "hydra.sweep.dir=s"],
        ["-m", "hydra/sweeper=random", "optimizer.lr=0.1,0.2", "hydra.sweeper.storage=x://y", "hydra.sweeper.study=z"],
        ["epochs=0"],
        ["hydra.run.dir=s/0"],
    ],
    ids=lambda keys: keys[-1],
)
def test_a_dry_run_refuses_what_a_start_refuses(keys, here, capsys):
    assert main(["train", "-q", *BLOBS, "-m", "optimizer.lr=0.1,0.2", "hydra.sweep.dir=s"]) == 0
    before = contents(here)
    capsys.readouterr()
    assert main([*DRY, *keys]) == 2
    dry = capsys.readouterr()
    assert contents(here) == before
    assert main(["train", *BLOBS, *keys]) == 2
    assert capsys.readouterr().err == dry.err != ""


def test_failed_points_count_as_left_with_retry(here, monkeypatch, capsys):
    keys = ["-m", "optimizer.lr=0.1,0.2", "hydra.sweep.dir=s"]
    with monkeypatch.context() as patch:
        patch.setattr("dlopt.training.loop.step", lambda *_: 1 / 0)
        assert main(["train", "-q", *BLOBS, *keys]) == 1
    assert main([*DRY, *keys]) == 0
    assert "nothing is left to do" in capsys.readouterr().out
    assert main([*DRY, *keys, "hydra.sweeper.retry=true"]) == 0
    assert listed(capsys.readouterr().out) == [("0", "optimizer.lr=0.1"), ("1", "optimizer.lr=0.2")]


def test_a_missing_database_is_not_created(here, capsys):
    keys = ["-m", "seed=0,1", "hydra.sweeper.storage=sqlite:///search.db", "hydra.sweeper.study=one"]
    before = contents(here)
    assert main([*DRY, *keys]) == 0
    assert contents(here) == before
    assert main(["train", "-q", *BLOBS, *keys, "hydra.sweep.dir=s"]) == 0
    assert main([*DRY, *keys, "hydra.sweep.dir=s"]) == 0
    assert "nothing is left to do" in capsys.readouterr().out


def test_points_that_depend_on_results_are_not_listed(here, capsys):
    assert main([*DRY, "-m", "hydra/sweeper=tpe", "optimizer.lr=interval(0.01,0.1)"]) == 0
    said = capsys.readouterr().out
    assert not listed(said)
    assert "20 points, which tpe chooses" in said
    assert "2 points, with each choice and both ends" in " ".join(said.split())


def test_runs_at_once_divide_the_time(here, capsys, monkeypatch):
    cost = cost_forecast.Cost(80.0, 1e6)
    found = cost_forecast.CostForecast(cost_forecast.Cost(1200.0, 12e6), cost, cost, 1, 1, {})
    monkeypatch.setattr(sweeper, "forecast_cost", lambda *args: found)
    assert main([*DRY, "-m", "seed=range(8)", "hydra/launcher=pool", "hydra.launcher.workers=4"]) == 0
    assert "about 5 min, 4 runs at once" in capsys.readouterr().out
    assert main([*DRY, "-m", "seed=range(8)"]) == 0
    assert "about 20 min (1 of 1 kind" in capsys.readouterr().out


@pytest.mark.parametrize(("runs", "starts"), [(10_000, True), (10_001, False)])
def test_a_very_large_grid_needs_yes(runs, starts, here, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(sweeper.CheckedSweep, "search", lambda *args: asked.append(args))
    grid = ["-m", f"seed=range({runs})"]
    assert main(["train", *BLOBS, *grid]) == (0 if starts else 2)
    assert len(asked) == starts
    said = capsys.readouterr().err
    assert ("this grid has 10,001 runs; --dry-run says how long they take, --yes starts them" in said) is not starts
    assert main(["train", "--yes", *BLOBS, *grid]) == 0
    assert len(asked) == starts + 1


def test_a_million_runs_compose_only_a_few(here, capsys, monkeypatch):
    made = []
    true = sweeper.Composer.compose_job
    monkeypatch.setattr(sweeper.Composer, "compose_job", lambda *args: made.append(args) or true(*args))
    assert main([*DRY, "-m", "seed=range(1000)", "optimizer.lr=range(1,101)", "epochs=range(1,11)"]) == 0
    said = capsys.readouterr().out
    assert "1,000,000 runs" in said
    assert [number for number, _ in listed(said)][-2:] == ["999,998", "999,999"]
    assert "1,108 points, with each choice" in said
    assert len(made) < 3_000


def test_a_single_run(here, capsys):
    before = contents(here)
    assert main([*DRY, "epochs=7"]) == 0
    said = capsys.readouterr().out
    assert contents(here) == before
    assert "21 steps, 7 epochs of 3" in said
    assert "48 for training, 12 for validation" in said
    assert "67 parameters" in said
    assert re.search(r"time +about .*\(7 of them\)", said)
    assert main(["train", "-q", *BLOBS, "epochs=7"]) == 0  # and what follows is a run again


def test_a_dry_run_refuses_to_resume_a_run(here, capsys):
    assert main(["train", "-q", *BLOBS, "hydra.run.dir=one"]) == 0
    before = contents(here)
    assert main(["train", "--dry-run", "resume=one", "epochs=9"]) == 2
    assert "--dry-run: one is not a sweep" in capsys.readouterr().err
    assert contents(here) == before


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
    assert main([*DRY, "-m", "optimizer=sgd,adam", "optimizer.lr=0.1,0.01", "init=he,xavier"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 46  # the last says what to type


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
