"""Records of many runs, and `dlopt runs`: reading, filtering, sorting, averaging, tables and figures."""

import csv
import io
import itertools
import json
import math
import statistics
import subprocess
import sys

import pytest
from processes import wait_until

from dlopt.analysis.run_table import RunFilter, RunRecord, find_varying_settings, group_runs, read_runs, sort_runs
from dlopt.cli import main
from dlopt.report.text_table import TextTable
from dlopt.rundir.lock import Lock
from dlopt.rundir.writer import RunWriter


def run(folder, name, settings=None, *, status="done", rows=(), summary=None, started=0.0):
    """Write a run directory with the class that writes them."""
    writer = RunWriter.create(folder / name, {"epochs": 10, "steps": None} | (settings or {}))
    for values in rows:
        writer.log(values)
    writer.finish(status, summary)
    writer.status_file.write_text(json.dumps(writer.status | {"started": 1e9 + started}))
    return writer


def row(step, **metrics):
    metrics = {k.replace("_", "/"): v for k, v in metrics.items()}
    return {"step": step, "epoch": step / 10, "seconds": 0.5 * step} | metrics


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
    for name, status, step in (("e", "interrupted", 20), ("h", "pruned", 40)):
        summary = {"step": step, "seconds": 1.0}
        run(tmp_path, name, {"steps": 80}, status=status, rows=[row(step)], summary=summary, started=step)
    for name, text in (("f", '{"status": "do'), ("g", "[]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "status.json").write_text(text)
    runs = {r.name: r for r in read_runs(tmp_path)}
    lock.release()
    assert {name: (r.status, r.progress) for name, r in runs.items()} == {
        "f": ("damaged", None), "g": ("damaged", None), "a": ("done", None), "b": ("running", pytest.approx(0.4)),
        "c": ("dead", pytest.approx(0.2)), "d": ("failed", 0.0), "e": ("interrupted", pytest.approx(20 / 80)),
        "h": ("pruned", pytest.approx(40 / 80)),
    }  # fmt: skip
    assert list(runs) == ["f", "g", "a", "b", "c", "d", "e", "h"], "oldest first"
    assert runs["a"].seconds == 7.0
    assert runs["b"].metrics["val/loss"] == 0.9


def test_a_finished_run_that_resumes_shows_its_rows_not_its_former_summary(tmp_path):
    writer = run(tmp_path, "a", rows=[row(50, val_loss=0.7)], summary={"val/loss": 0.5})
    writer.status_file.write_text(json.dumps(writer.status | {"status": "running"}))
    (record,) = read_runs(tmp_path)
    assert (record.status, record.metrics["val/loss"]) == ("dead", 0.7)


def test_a_key_varies_only_among_runs_with_the_same_option():
    sgd = record(optimizer="sgd", optimizer__lr=0.1, seed=0)
    adam, other = (record(optimizer="adam", optimizer__lr=lr, optimizer__beta1=0.9, seed=0) for lr in (0.001, 0.01))
    plain, more = record(optimizer="torch_optim"), record(optimizer="torch_optim", optimizer__options__momentum=0.9)
    for runs, varying in (
        ([sgd, adam], ["optimizer"]),
        ([sgd, adam, other], ["optimizer", "optimizer.lr"]),
        ([record(seed=0, name="a"), record(seed=1, name="b")], ["seed"]),
        ([sgd], []),
        ([plain, more], ["optimizer.options.momentum"]),
    ):
        assert find_varying_settings(runs) == varying


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("optimizer=adam", True), ("optimizer=sgd", False), ("optimizer!=sgd", True), ("optimizer.lr=0.01", True),
        ("optimizer.lr = 1e-2", True), ("optimizer.lr<0.1", True), ("optimizer.lr>=0.1", False), ("val/loss<=0.5", True),
        ("regularization=l2", True), ("regularization=[l2,dropout]", True), ("regularization=l1", False),
        ("regularization!=l1", True), ("status=done", True), ("deterministic=false", True), ("deterministic=true", False),
        ("optimizer=sgd,adam", True), ("optimizer=sgd,rmsprop", False), ("optimizer!=sgd,rmsprop", True),
        ("optimizer!=sgd,adam", False), ("optimizer.lr=0.1, 1e-2", True), ("regularization=none,[l2,dropout]", True),
        ("regularization=none,[l2]", False), ("regularization=l1,dropout", True), ("regularization!=none,l2", False),
        ("steps=5,null", True), ("optimizer='sgd,adam'", False),
        ("clip=null", True), ("nothing=1", False), ("steps=null", True), ("steps!=null", False), ("optimizer.lr=abc", False), ("nothing<1", False), ("steps<5", False), ("test/r2>=0", False),
    ],
)  # fmt: skip
def test_conditions(text, holds):
    run = record(
        metrics={"val/loss": 0.5}, optimizer="adam", optimizer__lr=0.01, regularization="[l2,dropout]",
        deterministic=False, steps=None,
    )  # fmt: skip
    assert RunFilter.parse(text).holds(run) == holds


@pytest.mark.parametrize("text", ["adam", "=adam", "", "optimizer"])
def test_a_text_without_a_comparison_is_not_a_condition(text):
    with pytest.raises(ValueError, match="is not a condition"):
        RunFilter.parse(text)


def test_an_order_compares_with_one_number():
    with pytest.raises(ValueError, match="< compares with one number"):
        RunFilter.parse("optimizer.lr<0.1,0.2")


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
    runs += [record(metrics={"test/accuracy": 0.8}, optimizer="sgd", seed=2)]  # repeated, with the same result
    one, other = group_runs(runs, ["seed"])
    assert one.settings == {"optimizer": "sgd"}
    assert one.mean("test/accuracy") == pytest.approx((0.4, statistics.stdev([0.1, 0.3, 0.8]), 3))
    assert other.mean("test/accuracy") == (0.5, None, 1)
    assert other.mean("val/loss") is None


@pytest.mark.parametrize("status", ["failed", "interrupted", "dead", "damaged", "running", "pruned"])
def test_a_repeat_that_did_not_end_never_counts_in_place_of_one_that_did(status):
    """Whatever the order of the runs is; of several that ended, the newest counts, and else the newest of all."""

    def repeat(name, status, started, seed):
        settings = {"optimizer": "adam", "seed": seed, "name": name}
        return RunRecord(None, name, status, settings=settings, metrics={"val/loss": started}, started=started)

    runs = [
        repeat("a", "done", 1.0, 0), repeat("b", "done", 2.0, 0), repeat("c", status, 3.0, 0),
        repeat("d", status, 1.0, 1), repeat("e", status, 2.0, 1), repeat("f", "diverged", 1.0, 2), repeat("g", status, 2.0, 2),
    ]  # fmt: skip
    for order in (runs, runs[::-1]):
        (group,) = group_runs(order, ["seed"])
        assert {r.name for r in group.runs} == {"b", "e", "f"}


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
    head, sgd, adam, footer = lines(capsys)
    assert head.split() == ["optimizer", "runs", "val/loss", "test/accuracy"]
    assert sgd.split() == ["sgd", "1", "0.5000", "0.5000"]
    assert adam.split() == ["adam", "2", "0.2000", "±", "0.1414", "0.8000", "±", "0.1414"]
    assert "seed" in footer
    assert main(["runs", "--over", "seed", "--markdown", "--columns", "optimizer,test/accuracy"]) == 0
    assert lines(capsys)[2:] == ["| sgd | 1 | 0.5000 |", "| adam | 2 | 0.8000 ± 0.1414 |"]


def write_grid(folder, values):
    """Write a run for each optimizer, learning rate, schedule and seed, with these validation losses in turn."""
    axes = itertools.product(("sgd", "momentum"), (0.1, 0.001), ("constant", "cosine"), (0, 1))
    for i, ((optimizer, lr, schedule, seed), value) in enumerate(zip(axes, itertools.cycle(values), strict=False)):
        settings = {"optimizer": optimizer, "optimizer.lr": lr, "schedule": schedule, "seed": seed}
        summary = {f"{s}/{m}": value for s in ("train", "val", "test") for m in ("loss", "accuracy")} | {"seconds": 1.5}
        run(folder, f"multirun/2026-01-01/10-00-00-aaaa/{i}", settings, summary=summary, started=i)


@pytest.mark.parametrize("width", [30, 45, 60, 80, 100, 120])
@pytest.mark.parametrize("argv", [[], ["--over", "seed"], ["--columns", "optimizer.lr,optimizer,schedule,val/loss"]])
def test_a_narrow_terminal_shows_every_setting_that_varies(argv, width, here, capsys, monkeypatch):
    write_grid(here / "outputs", [0.5, 0.7])
    monkeypatch.setattr("dlopt.cli.runs.get_terminal_width", lambda: width)
    assert main(["runs", *argv]) == 0
    text = capsys.readouterr().out
    head, *rest = text.splitlines()
    shown, *omitted = text.split("(left out: ")
    assert all(word in shown for word in ("optimizer", "lr", "schedule", "momentum", "0.001", "cosine", "constant"))
    assert not omitted or not {"optimizer", "schedule", "optimizer.lr", "seed"} & set(
        omitted[0].split("; ")[0].split(", ")
    )
    assert "val/loss" in shown or "test/accuracy" in shown
    if width >= 60:
        assert max(map(len, (head, *rest))) <= width
        assert "status=done" in text or "status" in head or argv[:1] == ["--over"]
        if argv[:1] != ["--over"]:
            assert "seed" in head or argv
            names = [line.split()[0].lstrip("…") for line in rest[:16]]
            assert len(set(names)) == 16
            assert all(f"multirun/2026-01-01/10-00-00-aaaa/{i}".endswith(name) for i, name in enumerate(names))


def test_what_a_narrow_table_omits_first():
    table = TextTable(
        ["run", "status", "a.key", "val/loss", "test/loss"],
        [["x" * 30, "done", "1", "0.5", "0.6"], ["y" * 30, "done", "2", "0.5", "0.7"]],
        [False, False, True, True, True], keys=("a.key",), droppable=("test/loss", "status", "val/loss"),
    )  # fmt: skip
    heads = {width: table.lines(width)[0].split() for width in (66, 64, 56, 46, 32, 25, 16)}
    assert heads == {
        66: ["run", "status", "a.key", "val/loss", "test/loss"],
        64: ["run", "status", "key", "val/loss", "test/loss"],
        56: ["run", "key", "val/loss", "test/loss"],
        46: ["run", "key", "test/loss"],
        32: ["run", "key", "test/loss"],
        25: ["run", "key"],
        16: ["run", "key"],
    }
    assert table.lines(25)[1].split() == ["x" * 15 + "…", "1"]
    assert table.lines(16)[1].split() == ["x" * 10 + "…", "1"]
    assert (
        " ".join(table.lines(50)[3:]) == "(left out: status=done, val/loss=0.5; --columns A,B chooses, --csv has all)"
    )
    assert [line.split() for line in table.lines(8)[:2]] == [["run=" + "x" * 30], ["status=done"]]


def test_means_are_sorted_by_what_is_shown(here, capsys):
    """The group of the best single run has the worst mean."""
    write_grid(here / "outputs", [0.1, 0.9, 0.4, 0.4, 0.2, 0.5, 0.2, 0.3])
    argv = ["runs", "--over", "seed", "--columns", "val/loss", "--markdown"]
    for flags, reverse in (([], False), (["--reverse"], True)):
        assert main([*argv, "--sort", "val/loss", *flags]) == 0
        means = [float(line.split()[3]) for line in lines(capsys)[2:]]
        assert means == sorted(means, reverse=reverse)
        assert len(set(means)) == 4
    assert main(["runs", "--over", "seed", "--columns", "schedule", "--sort", "optimizer.lr", "--markdown"]) == 0
    assert [line.split()[3] for line in lines(capsys)[2:]] == ["0.001"] * 4 + ["0.1"] * 4, "a column of its own"
    across = ["runs", "--over", "seed", "--across", "optimizer", "--columns", "schedule,optimizer.lr,val/loss"]
    for key, order in (
        ("val/loss", ["0.001 cosine", "0.001 constant", "0.1 cosine", "0.1 constant"]),
        ("schedule", ["0.1 constant", "0.001 constant", "0.1 cosine", "0.001 cosine"]),
    ):
        assert main([*across, "--sort", key]) == 0
        cells = [line.split() for line in lines(capsys)[1:5]]
        assert [" ".join(sorted(row[:2])) for row in cells] == order
    for key in ("seed", "time"):
        assert main(["runs", "--over", "seed", "--sort", key]) == 2
        assert f"--sort {key}: the runs behind one mean differ in it" in capsys.readouterr().err
    assert main([*across, "--sort", "test/loss"]) == 2
    assert "it can be sorted by optimizer.lr, schedule, val/loss" in capsys.readouterr().err


def test_repeated_flags_add_up(three, capsys):
    assert main(["runs", "--columns", "optimizer", "--columns", "seed,test/accuracy"]) == 0
    assert lines(capsys)[0].split() == ["run", "status", "optimizer", "seed", "test/accuracy", "time"]
    assert main(["runs", "--over", "seed", "--over", "optimizer", "--columns", "test/accuracy", "--markdown"]) == 0
    assert lines(capsys)[2:] == ["| 3 | 0.7000 ± 0.2000 |"]


def test_csv_of_means_has_one_number_per_cell(three, capsys):
    def read(*argv):
        assert main(["runs", "--over", "seed", "--csv", *argv]) == 0
        return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))

    sgd, adam = read()
    assert (sgd["optimizer"], sgd["data"], sgd["runs"], sgd["not done"]) == ("sgd", "mnist1d", "1", "0")
    assert (sgd["val/loss mean"], sgd["val/loss sd"], sgd["val/loss n"]) == ("0.5", "", "1")
    assert adam["val/loss n"] == "2"
    assert float(adam["val/loss mean"]) == pytest.approx(0.2)
    assert float(adam["val/loss sd"]) == pytest.approx(statistics.stdev([1 - 0.9, 1 - 0.7]))
    assert "seed" not in adam
    assert [list(row) for row in read("--columns", "optimizer,val/loss")] == [
        ["optimizer", "runs", "not done", "val/loss mean", "val/loss sd", "val/loss n"]
    ] * 2
    (cells,) = read("--across", "optimizer", "--columns", "test/accuracy")
    assert list(cells) == ["sgd mean", "sgd sd", "sgd n", "adam mean", "adam sd", "adam n"]
    assert float(cells["adam sd"]) == pytest.approx(statistics.stdev([0.9, 0.7]))
    assert main(["runs", "--csv", "--columns", "optimizer,test/accuracy"]) == 0
    assert lines(capsys)[0] == "run,status,optimizer,test/accuracy"


@pytest.mark.parametrize("states", [["pruned"], ["diverged"], ["diverged", "diverged", "pruned"]])
def test_runs_that_are_not_done_are_in_no_mean_and_counted(states, three, capsys):
    """An optimizer that diverges must not look like one whose runs all ended well."""
    for i, status in enumerate(states):
        summary = {"val/loss": None if status == "diverged" else 9.0, "test/accuracy": 0.1, "seconds": 1.0}
        settings = {"optimizer": "adam", "seed": 7 + i, "data": "mnist1d"}
        run(three / "outputs/more", str(i), settings, status=status, summary=summary, started=9)
    assert main(["runs", "--over", "seed", "--columns", "optimizer,test/accuracy", "--markdown"]) == 0
    counts = ", ".join(f"{states.count(status)} {status}" for status in dict.fromkeys(states))
    count = 2 + len(states)
    assert lines(capsys) == [
        "| optimizer | runs | not done | test/accuracy |",
        "| --- | ---: | --- | ---: |",
        "| sgd | 1 |  | 0.5000 |",
        f"| adam | {count} | {counts} | 0.8000 ± 0.1414 (2 of {count}) |",
    ]


def test_across_the_values_of_a_setting(three, capsys):
    assert main(["runs", "--across", "optimizer", "--over", "seed", "--columns", "data,test/accuracy"]) == 0
    head, cells, footer = lines(capsys)
    assert head.split() == ["sgd", "adam"]
    assert cells.split() == ["0.5000", "0.8000", "±", "0.1414"]
    assert footer.startswith("test/accuracy")
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
    ("argv", "words"),
    [
        (["nowhere"], "no folder 'nowhere'"),
        (["--where", "adam"], "is not a condition"),
        (["--where", "optimzer=adam"], "did you mean optimizer"),
        (["--sort", "val/los"], "did you mean val/loss"),
        (["--over", "sed"], "did you mean seed"),
        (["--where", "optimizer=rmsprop"], "no run in outputs/ matches"),
        (["--png", "x.nothing"], "nothing"),
        (["--title", "T"], "--title is for a picture: add --png"),
        (["--png", "--columns", "status"], "--columns status: no run has such a curve"),
    ],
)
def test_runs_refuses(argv, words, three, capsys):
    assert main(["runs", *argv]) == 2
    out, err = capsys.readouterr()
    assert words in err
    assert out == ""
    assert "Traceback" not in err


def test_without_runs_there_is_a_message(here, capsys):
    assert main(["runs"]) == 2
    assert "dlopt train makes one" in capsys.readouterr().err


def test_figures_are_written(three, capsys):
    assert main(["runs", "last", "--over", "seed", "--png"]) == 0
    assert main(["show", "aaaa/1", "--png", "one.png"]) == 0
    files = [three / line for line in lines(capsys)]
    assert [file.suffix for file in files] == [".png", ".png"]
    assert all(f.read_bytes().startswith(b"\x89PNG") and f.stat().st_size > 10_000 for f in files)


@pytest.fixture
def diagnosed_runs(here):
    """Write two runs whose summaries lack what a diagnostic recorded, also in rows before the last one."""
    for seed in (0, 1):
        rows = [row(10, **{"gradient/norm": 3.0, "gradient/norm/a": 1.0, "val/loss": 2.0}),
                row(20, **{"gradient/norm": 4.0 + seed, "val/loss": 1.5}), row(30, **{"val/loss": 1.0})]  # fmt: skip
        run(here / "outputs", str(seed), {"seed": seed}, rows=rows, summary={"val/loss": 1.0}, started=float(seed))


def test_diagnostics_are_columns_with_their_last_values(diagnosed_runs, capsys):
    assert main(["runs", "--csv", "--columns", "seed,gradient/norm,val/loss"]) == 0
    cells = [line.split(",") for line in capsys.readouterr().out.splitlines()]
    assert [line[-3:] for line in cells] == [
        ["seed", "gradient/norm", "val/loss"], ["0", "4.0", "1.0"], ["1", "5.0", "1.0"],
    ]  # fmt: skip
    assert main(["runs", "--over", "seed", "--columns", "gradient/norm"]) == 0
    assert "4.5000 ± 0.7071" in capsys.readouterr().out


def test_the_curves_and_the_title_of_a_picture_are_chosen(diagnosed_runs, here, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr("dlopt.report.figures.save_figure", lambda figure, file: drawn.append(figure) or file)
    for argv in (
        ["show", "1", "--plot", "gradient/norm", "--plot", "gradient/norm/"],
        ["runs", "--columns", "gradient/norm,val/loss"],
    ):
        assert main([*argv, "--png", "--title", "Norms"]) == 0
    assert main(["runs", "--over", "seed", "--png"]) == 0
    titles = [(figure.get_suptitle(), [axes.get_title(loc="left") for axes in figure.axes]) for figure in drawn]
    assert titles == [
        ("Norms", ["gradient/norm", "gradient/norm"]), ("Norms", ["gradient/norm", "validation loss"]),
        ("outputs, mean ± sd over seed, n = 2", ["validation loss"]),
    ]  # fmt: skip


def test_show_names_the_curves_of_diagnostics_and_draws_them(diagnosed_runs, capsys):
    assert main(["show", "1"]) == 0
    assert "more curves: --plot gradient/norm,gradient/norm/\n" in capsys.readouterr().out
    assert main(["show", "1", "--plot", "gradient/norm"]) == 0
    out = capsys.readouterr().out
    assert "gradient/norm" in out
    assert "more curves" not in out


def test_tables_curves_and_bands_need_neither_torch_nor_matplotlib(tmp_path):
    """Imports determine how long the commands take."""
    run(tmp_path / "outputs", "a", rows=[row(10, train_loss=1.0), row(20, train_loss=0.5)], summary={"val/loss": 1.0})
    commands = [["runs"], ["show"], ["runs", "--over", "epochs"], ["runs", "--over", "epochs", "--tensorboard", "mean"]]
    code = f"""
import sys
from dlopt.cli import main
from dlopt.report.text_table import TextTable
for argv in {commands}:
    assert main(argv) == 0
print(sorted({{'torch', 'matplotlib', 'hydra', 'tensorflow'}} & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert result.stdout.splitlines()[-1] == "[]"


def test_the_run_of_a_process_is_running_and_then_dead(here, forks):
    """With a real process, killed."""
    argv = ["train", "-q", "epochs=100000", "arch=linear", "hydra.run.dir=outputs/x", "checkpoint.every=50"]
    job, folder = forks.start(argv, here), here / "outputs"
    try:
        (record,) = wait_until(lambda: folder.is_dir() and [r for r in read_runs(folder) if r.progress])
        assert record.status == "running"
        assert 0 < record.progress < 1
    finally:
        job.kill()
        job.wait()
    (record,) = read_runs(folder)
    assert record.status == "dead"
