"""`dlopt show SWEEP`, and the best trial below the table of `dlopt runs SWEEP`."""

import re
import shlex
import subprocess
import sys

import pytest
from sweeps import LR_AXIS, OPTIMIZER_AXIS, write_run, write_sweep, write_sweep_json

from dlopt.cli import main

HERE = "outputs/multirun/2026-01-01/10-00-00-aaaa"


@pytest.fixture
def sweep(here):
    """Return a sweep: nine trials are better at larger rates, three diverge at the largest one, one is pruned."""
    rates = [10 ** (-4 + i / 3) for i in range(9)]
    points = [({"optimizer.lr": lr, "optimizer": ("sgd", "adam")[i % 2], "epochs": 5}, 1.0 - 0.1 * i)
              for i, lr in enumerate(rates)]  # fmt: skip
    points += [({"optimizer.lr": 0.9, "optimizer": "sgd"}, None, "diverged")] * 3
    points += [({"optimizer.lr": 0.5, "optimizer": "sgd"}, 3.0, "pruned")]
    more = {"sampler": "tpe", "trials": 20, "fixed": ["epochs=5", "arch=mlp", "seed=0"]}
    return write_sweep(here / HERE, [LR_AXIS, OPTIMIZER_AXIS], points, **more)


def show(capsys, *argv):
    assert main(["show", *argv]) == 0
    return capsys.readouterr().out


def test_the_findings_of_a_search(sweep, capsys):
    text = show(capsys, "aaaa")
    head, axes, how, progress, *_ = text.splitlines()
    assert head == HERE
    assert axes == "optimizer.lr 0.0001..1 (log); optimizer sgd, adam"
    assert how == "tpe, for the smallest val/loss"
    assert progress.startswith("13 of 20 trials have ended: 9 done, 1 pruned (8%), 3 diverged (23%)")
    assert "best: trial 8, val/loss 0.2000" in text
    assert f"  {HERE}/8" in text
    assert "fANOVA of a random forest on the ranks of 12 trials" in text
    assert "warning: optimizer.lr: with 0.158..1 3 of 3 trials diverged" in text
    assert max(map(len, text.splitlines())) <= 80
    rows = text[text.index("trial  val/loss") :].splitlines()[1:10]
    assert [row.split()[0] for row in rows] == [str(i) for i in reversed(range(9))]
    # The command has the overrides of all trials, then the point in full precision, more epochs and other seeds.
    begin = text.index("  dlopt train")
    command = shlex.split(text[begin : text.index("\n\n", begin)].replace("\\\n", ""))
    rate = f"optimizer.lr={10 ** (-4 + 8 / 3)}"
    assert command == ["dlopt", "train", "-m", "arch=mlp", rate, "optimizer=sgd", "epochs=20", "seed=1,2,3"]


def test_a_negative_number_is_left_out_of_a_logarithmic_axis(here, capsys):
    """Only a changed file can hold it; the search itself draws none."""
    points = [({"optimizer.lr": 10 ** (-4 + i / 3), "optimizer": ("sgd", "adam")[i % 2]}, 1.0 - i) for i in range(12)]
    write_sweep(here / HERE, [LR_AXIS, OPTIMIZER_AXIS], [({"optimizer.lr": -1.0, "optimizer": "sgd"}, 3.0), *points])
    assert "best: trial 12" in show(capsys, "aaaa")


def test_more_trials_than_planned_are_counted_without_a_total(here, capsys):
    """For example, if a failed trial was repeated."""
    points = [({"optimizer.lr": 0.1}, 1.0), ({"optimizer.lr": 0.2}, None, "failed"), ({"optimizer.lr": 0.2}, 2.0)]
    write_sweep(here / HERE, [LR_AXIS], points, trials=2)
    assert "\n3 trials have ended: 2 done, 1 failed (33%)" in show(capsys, "aaaa")


@pytest.mark.parametrize(
    ("status", "counts"), [("running", "\n0 of 2 trials have ended; 1 "), ("interrupted", "\n0 of 2 trials have ended; 1 "), ("failed", "1 failed")]
)  # fmt: skip
def test_a_search_without_a_result(status, counts, here, capsys):
    write_sweep(here / HERE, [LR_AXIS], [({"optimizer.lr": 0.1}, None, status)], trials=2)
    text = show(capsys, "aaaa")
    assert counts in text
    assert "no trial has a val/loss yet" in text


def test_a_grid_over_seeds_is_retrained_with_other_seeds_only(here, capsys):
    axes = [LR_AXIS, {"key": "seed", "kind": "choice", "values": ["0", "1"]}]
    write_sweep(here / HERE, axes, [({"optimizer.lr": 0.1, "seed": s}, 1.0 + s) for s in (0, 1)])
    assert re.search(r"train -m optimizer.lr=0.1 (epochs=\d+ )?seed=2,3,4\n", show(capsys, "aaaa"))


@pytest.mark.parametrize("width", [30, 60])
def test_a_narrow_terminal_shows_every_searched_key_of_the_best_trials(width, here, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    keys = ["optimizer.lr", "schedule.final", "arch.some_long_name", "loss.another_long_name", "seed"]
    axes = [{"key": key, "kind": "choice", "values": ["0.5", "0.25"]} for key in keys]
    write_sweep(here / HERE, axes, [(dict.fromkeys(keys, v), v) for v in (0.5, 0.25)])
    table = re.search(r"^trial[ =].*?(?=\n\n)", show(capsys, "aaaa"), re.MULTILINE | re.DOTALL)[0]
    assert all(key.rpartition(".")[2] in table for key in keys)
    assert table.count("0.25") == len(keys) + 1, "each value of a trial and its loss"


def test_words_of_a_command_line_are_quoted(here, capsys):
    axes = [{"key": "regularization", "kind": "choice", "values": ["none", "[l2,dropout]", "$(reboot); x"]}]
    write_sweep(here / HERE, axes, [({"regularization": v}, 1.0) for v in ("$(reboot); x", "[l2,dropout]")],
          command=["+regularization=none,[l2,dropout]"], fixed=["+name=a b"])  # fmt: skip
    text = show(capsys, "aaaa")
    assert "'+name=a b'" in text
    assert "'+regularization=$(reboot); x'" in text


def test_a_narrow_terminal_only_breaks_lines(sweep, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "3")
    assert "best: trial 8, val/loss 0.2000" in show(capsys, "aaaa")


def test_a_best_value_at_the_border_gets_a_warning(here, capsys):
    rates = {"key": "optimizer.lr", "kind": "choice", "values": ["0.01", "0.1", "1"]}
    write_sweep(here / HERE, [rates], [({"optimizer.lr": x}, 1 / x) for x in (0.01, 0.1, 1.0)])
    assert "warning: optimizer.lr: the best, 1, is the largest tried; widen it upwards" in show(capsys, "aaaa")
    write_sweep(here / HERE.replace("aaaa", "bbbb"), [LR_AXIS], [({"optimizer.lr": x}, x) for x in (1.1e-4, 0.1)])
    text = " ".join(show(capsys, "bbbb").split())
    assert "optimizer.lr: the best, 0.00011, is at the lower end of 0.0001..1 (log); widen it" in text


def test_a_sweep_of_an_earlier_version(here, capsys):
    for i, (lr, seed) in enumerate((lr, seed) for lr in (0.1, 0.01) for seed in (0, 1)):
        write_run(here / HERE / str(i), {"optimizer.lr": lr, "seed": seed, "optimizer": "sgd", "epochs": 7}, lr + seed)
    (here / HERE / "multirun.yaml").touch()
    text = show(capsys, "aaaa")
    assert "for the smallest val/loss, mean over 2 seeds" in text
    assert "best: trial 2, val/loss 0.5100 ± 0.7071" in text
    assert "dlopt train -m optimizer=sgd optimizer.lr=0.01 epochs=28 seed=2,3,4" in " ".join(text.split("\\\n     "))


def test_a_damaged_sweep_json_is_reported(sweep, capsys):
    (sweep / "sweep.json").write_text("{")
    text = show(capsys, "aaaa")
    assert re.search(r"sweep\.json: .*JSON", " ".join(text.split()))
    assert "best: trial 8" in text


def test_a_search_without_runs_and_wrong_keys_are_refused(sweep, capsys):
    write_sweep_json(sweep.parent / "11-00-00-bbbb", [LR_AXIS])
    for argv, message in (
        (["bbbb"], "holds no run yet"),
        (["aaaa", "--png", "--heat", "optimizer"], "name two keys"),
        (["aaaa", "--png", "--heat", "optimizer,optimizer.lt"], "did you mean optimizer.lr"),
        (["aaaa", "--heat", "optimizer,optimizer.lr"], "add --png"),
        (["aaaa/1", "--heat", "optimizer,optimizer.lr"], "--heat is for a sweep"),
        (["aaaa", "--png", "x\x00y"], "null byte"),
        (["aaaa", "--title", "T"], "--title is for pictures: add --png"),
        (["aaaa", "--plot", "val/loss"], "--plot is for a run; aaaa is a sweep"),
        (["aaaa/8", "--plot", "val/los"], "--plot val/los: this run has no such curve"),
    ):
        assert main(["show", *argv]) == 2
        out, err = capsys.readouterr()
        assert message in err
        assert (out, "Traceback" in err) == ("", False)


def test_last_is_the_sweep_and_a_run_of_it_is_a_run(sweep, capsys):
    for name, path in (("last", HERE), ("aaaa/8", f"{HERE}/8")):
        assert show(capsys, name).splitlines()[0] == path


def test_every_picture_is_written_and_named(sweep, here, capsys):
    names = ["history", "effects", "map"]
    assert show(capsys, "aaaa", "--png").split() == [
        f"outputs/reports/multirun-2026-01-01-10-00-00-aaaa-{name}.png" for name in names
    ]
    flags = ("--heat", "optimizer", "--heat", "optimizer.lr")
    assert show(capsys, "aaaa", "--png", *flags).split()[-1].endswith("-map.png")
    files = show(capsys, "aaaa", "--png", "mine/x.png", "--heat", "optimizer,optimizer.lr").split()
    assert files == [f"mine/x-{name}.png" for name in names]
    assert all((here / file).read_bytes().startswith(b"\x89PNG") for file in files)


def test_runs_of_a_sweep_end_with_its_best(sweep, capsys):
    assert main(["runs", "aaaa"]) == 0
    *_, best, more = capsys.readouterr().out.splitlines()
    assert best == "best val/loss: 0.2000 of trial 8 (optimizer.lr=0.04642 optimizer=sgd)"
    assert more == f"dlopt show {HERE} shows more"
    for flags in (["--csv"], ["--markdown"], ["--where", "optimizer=adam"]):
        assert main(["runs", "aaaa", *flags]) == 0
        assert "best val/loss" not in capsys.readouterr().out


def test_a_median_below_a_table_of_means_is_named(here, capsys):
    write_sweep_json(here / HERE, [LR_AXIS], statistic="median", seeds=[0, 1, 2])
    for seed, value in enumerate((1.0, 2.0, 6.0)):
        write_run(here / HERE / "0" / f"seed-{seed}", {"optimizer.lr": 0.1, "seed": seed}, value)
    assert main(["runs", "aaaa", "--over", "seed"]) == 0
    text = "3.0000 ± 2.6458\nmean ± standard deviation over seed\nbest median val/loss: 2.0000 ± 2.6458 of trial 0 "
    assert text in capsys.readouterr().out


LUCKY = {("sgd", 0): 0.1, ("sgd", 1): 0.9, ("adam", 0): 0.3, ("adam", 1): 0.4}
"""The best trial is not in the group with the best mean."""


@pytest.mark.parametrize(("metric", "values", "expected"), [
    ("val/loss", LUCKY, "best mean val/loss: 0.3500 ± 0.0707 over seed, 2 runs (optimizer=adam)"),
    ("val/accuracy", LUCKY, "best mean val/accuracy: 0.5000 ± 0.5657 over seed, 2 runs (optimizer=sgd)"),
    ("val/loss", {**LUCKY, ("adam", 1): None}, "best mean val/loss: 0.5000 ± 0.5657 over seed, 2 runs (optimizer=sgd)"),
    ("val/loss", {("sgd", 0): 0.2, ("adam", 0): 0.3}, "best val/loss: 0.2000 of trial 0 (optimizer=sgd seed=0)"),
])  # fmt: skip
def test_below_means_is_the_best_group_whose_runs_are_all_done(metric, values, expected, here, capsys):
    axes = [OPTIMIZER_AXIS, {"key": "seed", "kind": "choice", "values": [0, 1]}]
    write_sweep_json(here / HERE, axes, objective=metric, direction="maximize" if "acc" in metric else "minimize")
    for i, ((optimizer, seed), value) in enumerate(values.items()):
        status = "diverged" if value is None else "done"
        write_run(here / HERE / str(i), {"optimizer": optimizer, "seed": seed}, value, status, metric=metric)
    assert main(["runs", "aaaa", "--over", "seed"]) == 0
    assert capsys.readouterr().out.splitlines()[-2] == expected


def test_the_best_trial_of_runs_does_not_import_optuna(sweep, here):
    code = "import sys; from dlopt.cli import main; main(['runs', 'aaaa']); print('optuna' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=here)
    assert result.stdout.splitlines()[-1] == "False"
