"""Many runs at a glance: what is read, what is shown, what is chosen."""

import csv
import io
import json
import math
import statistics
import subprocess
import sys
import time

import pytest

from dlopt.analysis.run_table import Condition, RunRecord, find_varying_settings, group_runs, read_runs, sort_runs
from dlopt.cli import main
from dlopt.report.curves import make_run_panels
from dlopt.rundir.lock import Lock
from dlopt.rundir.writer import RunWriter


def run(folder, name, settings=None, *, status="done", rows=(), summary=None, started=0.0):
    """A run directory, written by the very class that writes them."""
    made = RunWriter.create(folder / name, {"epochs": 10, "steps": None} | (settings or {}))
    for row in rows:
        made.log(row)
    made.finish(status, summary)
    found = made.status | {"started": 1e9 + started}
    made.status_file.write_text(json.dumps(found))
    return made


def row(step, **metrics):
    return {
        "step": step,
        "epoch": step / 10,
        "seconds": 0.5 * step,
        **{k.replace("_", "/"): v for k, v in metrics.items()},
    }


def record(name="x", metrics=None, **settings):
    return RunRecord(
        None, name, "done", settings={k.replace("__", "."): v for k, v in settings.items()}, metrics=metrics or {}
    )


def test_every_state_of_a_run(tmp_path):
    run(tmp_path, "a", rows=[row(100)], summary={"val/loss": 0.5, "seconds": 7.0}, started=1)
    running = run(tmp_path, "b", status="running", rows=[row(30, val_loss=1.0), row(40, val_loss=0.9)], started=2)
    lock = Lock(running.path).acquire()
    run(tmp_path, "c", status="running", rows=[row(20)], started=3)
    run(tmp_path, "d", status="failed", started=4)
    run(
        tmp_path,
        "e",
        {"steps": 80},
        status="interrupted",
        rows=[row(20)],
        summary={"step": 20, "seconds": 1.0},
        started=5,
    )
    run(tmp_path, "h", {"steps": 80}, status="pruned", rows=[row(40)], summary={"step": 40, "seconds": 1.0}, started=6)
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "status.json").write_text('{"status": "do')
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "status.json").write_text("[]")
    found = {r.name: r for r in read_runs(tmp_path)}
    lock.release()
    assert {name: r.status for name, r in found.items()} == {
        "a": "done", "b": "running", "c": "dead", "d": "failed", "e": "interrupted", "f": "damaged", "g": "damaged",
        "h": "pruned",
    }  # fmt: skip
    assert [r.name for r in read_runs(tmp_path)] == ["f", "g", "a", "b", "c", "d", "e", "h"]
    assert found["a"].progress is None
    assert found["a"].seconds == 7.0
    assert found["b"].progress == pytest.approx(0.4)
    assert found["b"].metrics["val/loss"] == 0.9
    assert found["c"].progress == pytest.approx(0.2)
    assert found["d"].progress == 0.0
    assert found["e"].progress == pytest.approx(20 / 80)
    assert found["h"].progress == pytest.approx(40 / 80)


def test_a_finished_run_that_goes_on_shows_its_rows_not_its_former_end(tmp_path):
    made = run(tmp_path, "a", rows=[row(50, val_loss=0.7)], summary={"val/loss": 0.5})
    made.status_file.write_text(json.dumps(made.status | {"status": "running"}))
    (found,) = read_runs(tmp_path)
    assert (found.status, found.metrics["val/loss"]) == ("dead", 0.7)


def test_a_key_varies_only_among_runs_with_the_same_option():
    runs = [
        record(optimizer="sgd", optimizer__lr=0.1, seed=0),
        record(optimizer="adam", optimizer__lr=0.001, optimizer__beta1=0.9, seed=0),
    ]
    assert find_varying_settings(runs) == ["optimizer"]
    assert find_varying_settings(
        [*runs, record(optimizer="adam", optimizer__lr=0.01, optimizer__beta1=0.9, seed=0)]
    ) == [
        "optimizer",
        "optimizer.lr",
    ]
    assert find_varying_settings([record(seed=0, name="a"), record(seed=1, name="b")]) == ["seed"]
    assert find_varying_settings(runs[:1]) == []
    plain, more = record(optimizer="torch_optim"), record(optimizer="torch_optim", optimizer__options__momentum=0.9)
    assert find_varying_settings([plain, more]) == ["optimizer.options.momentum"]


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("optimizer=adam", True), ("optimizer=sgd", False), ("optimizer!=sgd", True), ("optimizer.lr=0.01", True),
        ("optimizer.lr = 1e-2", True), ("optimizer.lr<0.1", True), ("optimizer.lr>=0.1", False), ("val/loss<=0.5", True),
        ("regularization=l2", True), ("regularization=[l2,dropout]", True), ("regularization=l1", False),
        ("regularization!=l1", True), ("status=done", True), ("deterministic=false", True), ("deterministic=true", False),
        ("clip=null", True), ("nothing=1", False), ("steps=null", True), ("steps!=null", False), ("optimizer.lr=abc", False), ("nothing<1", False), ("steps<5", False), ("test/r2>=0", False),
    ],
)  # fmt: skip
def test_conditions(text, holds):
    mine = record(
        metrics={"val/loss": 0.5},
        optimizer="adam",
        optimizer__lr=0.01,
        regularization="[l2,dropout]",
        deterministic=False,
        steps=None,
    )
    assert Condition.parse(text).holds(mine) == holds


@pytest.mark.parametrize("text", ["adam", "=adam", "", "optimizer"])
def test_what_is_no_condition_is_refused(text):
    with pytest.raises(ValueError, match="is not a condition"):
        Condition.parse(text)


def test_sorting_puts_the_best_first_and_runs_without_a_value_last():
    runs = [
        record("a", {"test/accuracy": 0.5, "val/loss": 2.0}),
        record("b", {}),
        record("c", {"test/accuracy": 0.9, "val/loss": math.nan}),
    ]
    assert [r.name for r in sort_runs("test/accuracy", runs)] == ["c", "a", "b"]
    assert sort_runs("val/loss", runs)[0].name == "a"
    assert [r.name for r in sort_runs("name", runs)] == ["a", "b", "c"]


def test_mean_and_deviation_over_seeds():
    values = {("sgd", 0): 0.1, ("sgd", 1): 0.3, ("sgd", 2): 0.8, ("adam", 0): 0.5}
    runs = [record(metrics={"test/accuracy": v}, optimizer=o, seed=s) for (o, s), v in values.items()]
    runs += [record(metrics={"test/accuracy": 0.8}, optimizer="sgd", seed=2)]  # the same once more, as it must be
    one, other = group_runs(runs, ["seed"])
    assert one.settings == {"optimizer": "sgd"}
    assert one.mean("test/accuracy") == pytest.approx((0.4, statistics.stdev([0.1, 0.3, 0.8]), 3))
    assert other.mean("test/accuracy") == (0.5, None, 1)
    assert other.mean("val/loss") is None


# ------------------------------------------------------------------------------------------------ the command


@pytest.fixture
def three(here):
    for i, (optimizer, accuracy) in enumerate((("sgd", 0.5), ("adam", 0.9), ("adam", 0.7))):
        summary = {"val/loss": 1.0 - accuracy, "test/accuracy": accuracy, "seconds": 1.5}
        rows = [row(10 * e, train_loss=1 / e, val_loss=1.1 / e, val_accuracy=accuracy - 0.1 / e) for e in (1, 2, 3)]
        settings = {"optimizer": optimizer, "seed": i // 2, "data": "mnist1d"}
        run(here / "outputs/multirun/2026-01-01/10-00-00-aaaa", str(i), settings, rows=rows, summary=summary, started=i)
    (here / "outputs/multirun/2026-01-01/10-00-00-aaaa/multirun.yaml").touch()
    return here


def lines(capsys):
    return capsys.readouterr().out.splitlines()


def test_the_table_shows_what_varies_metrics_and_time(three, capsys):
    assert main(["runs"]) == 0
    head, *rest = lines(capsys)
    assert head.split() == ["run", "status", "optimizer", "seed", "val/loss", "test/accuracy", "time"]
    assert [line.split()[2] for line in rest] == ["sgd", "adam", "adam"]
    assert rest[1].split() == [
        "multirun/2026-01-01/10-00-00-aaaa/1",
        "done",
        "adam",
        "0",
        "0.1000",
        "0.9000",
        "1.5",
        "s",
    ]


def test_a_sweep_by_its_name_sorted_and_filtered(three, capsys):
    for name in ("last", "aaaa", "outputs/multirun/2026-01-01/10-00-00-aaaa"):
        assert main(["runs", name, "--sort", "test/accuracy"]) == 0
        assert [line.split()[0] for line in lines(capsys)[1:]] == ["1", "2", "0"]
    assert main(["runs", "--where", "optimizer=adam", "--where", "test/accuracy<0.8"]) == 0
    assert len(lines(capsys)) == 2
    assert main(["runs", "--sort", "val/loss", "--reverse", "--columns", "optimizer,val/loss"]) == 0
    assert [line.split()[2] for line in lines(capsys)] == ["optimizer", "sgd", "adam", "adam"]


def test_over_seeds_in_text_and_markdown(three, capsys):
    assert main(["runs", "--over", "seed"]) == 0
    head, sgd, adam, said = lines(capsys)
    assert head.split() == ["optimizer", "runs", "val/loss", "test/accuracy"]
    assert sgd.split() == ["sgd", "1", "0.5000", "0.5000"]
    assert adam.split() == ["adam", "2", "0.2000", "±", "0.1414", "0.8000", "±", "0.1414"]
    assert "seed" in said
    assert main(["runs", "--over", "seed", "--markdown", "--columns", "optimizer,test/accuracy"]) == 0
    assert lines(capsys)[2:] == ["| sgd | 1 | 0.5000 |", "| adam | 2 | 0.8000 ± 0.1414 |"]


def test_what_a_search_ended_early_counts_in_no_mean(three, capsys):
    run(three / "outputs/more", "x", {"optimizer": "adam", "seed": 7, "data": "mnist1d"}, status="pruned",
        summary={"val/loss": 9.0, "test/accuracy": 0.1, "seconds": 1.0}, started=9)  # fmt: skip
    assert main(["runs", "--over", "seed", "--columns", "optimizer,test/accuracy"]) == 0
    assert "3  1 pruned  0.8000 ± 0.1414 (2 of 3)" in capsys.readouterr().out


def test_runs_without_a_value_are_counted_apart(three, capsys):
    """A rule that diverges must not look like one whose every run ended well."""
    run(three / "outputs/more", "x", {"optimizer": "adam", "seed": 7, "data": "mnist1d"}, status="diverged",
        summary={"val/loss": None, "test/accuracy": None, "seconds": 1.0}, started=9)  # fmt: skip
    assert main(["runs", "--over", "seed", "--columns", "optimizer,test/accuracy"]) == 0
    assert "3  1 diverged  0.8000 ± 0.1414 (2 of 3)" in capsys.readouterr().out


def test_over_seeds_says_which_runs_are_not_done(three, capsys):
    for name, seed, status in (("x", 7, "diverged"), ("y", 8, "diverged"), ("z", 9, "pruned")):
        run(three / "outputs/more" , name, {"optimizer": "adam", "seed": seed, "data": "mnist1d"}, status=status,
            summary={"val/loss": 1.0, "test/accuracy": 0.1, "seconds": 1.0}, started=9)  # fmt: skip
    assert main(["runs", "--over", "seed", "--columns", "optimizer,test/accuracy", "--markdown"]) == 0
    assert lines(capsys) == [
        "| optimizer | runs | not done | test/accuracy |",
        "| --- | ---: | --- | ---: |",
        "| sgd | 1 |  | 0.5000 |",
        "| adam | 5 | 2 diverged, 1 pruned | 0.8000 ± 0.1414 (2 of 5) |",
    ]


def test_across_the_values_of_a_setting(three, capsys):
    assert main(["runs", "--across", "optimizer", "--over", "seed", "--columns", "data,test/accuracy"]) == 0
    head, row, said = lines(capsys)
    assert head.split() == ["sgd", "adam"]
    assert row.split() == ["0.5000", "0.8000", "±", "0.1414"]
    assert said.startswith("test/accuracy")
    assert main(["runs", "--across", "seed", "--columns", "optimizer,val/loss", "--markdown"]) == 0
    assert lines(capsys) == [
        "| optimizer | 0 | 1 |",
        "| --- | ---: | ---: |",
        "| sgd | 0.5000 | - |",
        "| adam | 0.1000 | 0.3000 |",
    ]


def test_csv_holds_every_setting_and_metric(three, capsys):
    assert main(["runs", "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(r["optimizer"], r["seed"], r["test/accuracy"], r["epochs"], r["steps"]) for r in rows] == [
        ("sgd", "0", "0.5", "10", ""), ("adam", "0", "0.9", "10", ""), ("adam", "1", "0.7", "10", ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["nowhere"], "no folder 'nowhere'"),
        (["--where", "adam"], "is not a condition"),
        (["--where", "optimzer=adam"], "did you mean optimizer"),
        (["--sort", "val/los"], "did you mean val/loss"),
        (["--over", "sed"], "did you mean seed"),
        (["--where", "optimizer=rmsprop"], "no run in outputs/ matches"),
        (["--png", "x.nothing"], "nothing"),
    ],
)
def test_runs_refuses(argv, said, three, capsys):
    assert main(["runs", *argv]) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert out == ""
    assert "Traceback" not in err


def test_without_runs_it_is_said(here, capsys):
    assert main(["runs"]) == 2
    assert "dlopt train makes one" in capsys.readouterr().err


def test_pictures_are_written(three, capsys):
    assert main(["runs", "last", "--over", "seed", "--png"]) == 0
    assert main(["show", "aaaa/1", "--png", "one.png"]) == 0
    made = [three / line for line in lines(capsys)]
    assert [m.suffix for m in made] == [".png", ".png"]
    assert all(m.read_bytes().startswith(b"\x89PNG") and m.stat().st_size > 10_000 for m in made)


def test_tables_and_curves_need_neither_torch_nor_matplotlib(tmp_path):
    """What is imported decides how long it takes to answer."""
    run(tmp_path / "outputs", "a", rows=[row(10, train_loss=1.0), row(20, train_loss=0.5)], summary={"val/loss": 1.0})
    for argv in (["runs"], ["show"], ["runs", "--over", "epochs"]):
        code = f"import sys; from dlopt.cli import main; main({argv}); print(sorted({{'torch', 'matplotlib', 'hydra'}} & set(sys.modules)))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
        assert done.stdout.splitlines()[-1] == "[]"


def test_a_running_process_is_seen_running_and_then_dead(here):
    """A real process, really killed."""
    argv = ["train", "epochs=100000", "arch=linear", "hydra.run.dir=outputs/x", "checkpoint.every=50"]
    process = subprocess.Popen([sys.executable, "-m", "dlopt", *argv], stdout=subprocess.DEVNULL)
    try:
        place = here / "outputs"
        while not (place.is_dir() and read_runs(place) and read_runs(place)[0].progress):
            assert process.poll() is None
            time.sleep(0.05)
        (found,) = read_runs(place)
        assert found.status == "running"
        assert 0 < found.progress < 1
    finally:
        process.kill()
        process.wait()
    (found,) = read_runs(place)
    assert found.status == "dead"


def test_rows_of_other_kinds_have_no_points():
    """A curve is drawn from the numbers that there are."""
    values = [1.0, "1", None, [1], float("nan"), float("inf"), -float("inf")]
    rows = [{"epoch": x, "train/loss": y} for x in values for y in values] + [{"train/loss": 1.0}]
    (panel,) = make_run_panels(rows)
    assert [(c.x, c.y) for c in panel.curves] == [([1.0], [1.0])]


def test_averaged_weights_have_a_curve_of_their_own():
    rows = [{"epoch": n, "train/loss": n, "val/loss": 2 * n} for n in (1, 2)]
    rows[1]["average/val/loss"] = 7
    (panel,) = make_run_panels(rows)
    assert [(c.label, c.y) for c in panel.curves] == [
        ("training", [1, 2]), ("validation", [2, 4]), ("averaged weights", [7]),
    ]  # fmt: skip
