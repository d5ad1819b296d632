"""Mean and band over repeats, as TensorBoard reads them."""

import pytest
from sweeps import write_run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.custom_scalar.metadata import CONFIG_SUMMARY_TAG

from dlopt.cli import main
from dlopt.report.tensorboard import bands as tensorboard_bands
from dlopt.rundir.find import list_runs
from dlopt.rundir.writer import RunWriter


def read_events(folder):
    reader = EventAccumulator(str(folder))
    reader.Reload()
    return reader


def points(reader, tag):
    return [(event.step, event.value) for event in reader.Scalars(tag)]


def repeats(folder, *values):
    """Write runs with these values of val/loss, ten steps apart."""
    return [write_run(folder / f"seed-{i}", {"seed": i}, rows=v).path for i, v in enumerate(values)]


def test_mean_and_band_at_the_steps_that_all_have(tmp_path):
    runs = repeats(tmp_path, [1.0, 2.0, 5.0], [3.0, 2.0])
    assert tensorboard_bands.write(runs, tmp_path / "mean") == 1
    reader = read_events(tmp_path / "mean")
    assert points(reader, "Loss/val") == [(10, 2.0), (20, 2.0)]
    assert points(reader, "sd/Loss/val") == [(10, pytest.approx(2**0.5)), (20, 0.0)]
    assert points(reader, "lower/Loss/val") == [(10, pytest.approx(2 - 2**0.5)), (20, 2.0)]
    assert points(reader, "upper/Loss/val") == [(10, pytest.approx(2 + 2**0.5)), (20, 2.0)]
    assert set(reader.Tags()["scalars"]) == {"Loss/val", "sd/Loss/val", "lower/Loss/val", "upper/Loss/val"}


def test_the_layout_has_a_margin_chart_for_each_tag(tmp_path):
    run = RunWriter.create(tmp_path / "b")
    metrics = {"val/loss": 1.0, "train/loss": 2.0, "val/accuracy": 0.5, "lr": 0.1}
    tags = "Loss/val", "Loss/train", "Accuracy/val", "Schedule/lr"
    run.log({"step": 1, "epoch": 1.0, "seconds": 1.0, **metrics})
    run.finish("done")
    tensorboard_bands.write([tmp_path / "b"], tmp_path / "mean")
    (event,) = read_events(tmp_path / "mean").Tensors(CONFIG_SUMMARY_TAG)
    layout = Layout.FromString(event.tensor_proto.string_val[0])
    charts = {c.title: (c.margin.series[0].value, c.margin.series[0].lower, c.margin.series[0].upper)
              for category in layout.category for c in category.chart if category.title != "Curves"}  # fmt: skip
    assert charts == {t: (t, f"lower/{t}", f"upper/{t}") for t in tags}
    assert [c.title for c in layout.category[0].chart] == ["Accuracy", "Loss", "Schedule"]
    assert {c.title for c in layout.category} == {"Curves", "Loss", "Accuracy", "Schedule"}


def test_writing_again_replaces_earlier_files(tmp_path):
    tensorboard_bands.write(repeats(tmp_path / "a", [1.0, 2.0]), tmp_path / "mean")
    tensorboard_bands.write(repeats(tmp_path / "b", [7.0]), tmp_path / "mean")
    assert points(read_events(tmp_path / "mean"), "Loss/val") == [(10, 7.0)]
    assert len(list((tmp_path / "mean").iterdir())) == 1
    assert tensorboard_bands.write(repeats(tmp_path / "c", []), tmp_path / "mean") == 0
    assert list((tmp_path / "mean").iterdir()) == []


def test_without_a_step_in_common_nothing_is_written(tmp_path):
    assert tensorboard_bands.write(repeats(tmp_path, [1.0], []), tmp_path / "mean") == 0
    assert tensorboard_bands.write([], tmp_path / "mean") == 0
    assert not (tmp_path / "mean").exists()


def test_values_that_are_not_finite_and_damaged_lines_leave_steps_out(tmp_path):
    runs = repeats(tmp_path, [1.0, float("nan"), 3.0, 1e300], [1.0, 2.0, 5.0, 1.0])
    with (runs[0] / "metrics.jsonl").open("a") as file:
        file.write('{"step": 50, "epoch"\n[]\n{"step": 60, "epoch": 1, "seconds": 1, "val/loss": "x"}\n')
    (tmp_path / "gone").mkdir()
    tensorboard_bands.write(runs, tmp_path / "mean")
    assert points(read_events(tmp_path / "mean"), "Loss/val") == [(10, 1.0), (30, 4.0)]
    assert tensorboard_bands.write([*runs, tmp_path / "gone"], tmp_path / "mean") == 0


def test_the_last_of_several_rows_of_a_step_counts():
    rows = [{"step": 1, "epoch": 1.0, "seconds": 1.0, "val/loss": v} for v in (9.0, 2.0)]
    assert tensorboard_bands.compute_bands([rows]) == {1: {"Loss/val": (2.0, 0.0)}}


def test_a_folder_of_means_is_not_a_run(tmp_path):
    runs = repeats(tmp_path, [1.0])
    tensorboard_bands.write(runs, tmp_path / "mean")
    assert list_runs(tmp_path) == runs


# ------------------------------------------------------------------------------------------------ the command


def test_a_run_for_each_group_of_repeats(here, capsys):
    sweep = here / "outputs/multirun/2026-01-01/10-00-00-aaaa"
    for i, (rule, seed) in enumerate((r, s) for r in ("sgd", "../adam") for s in (0, 1)):
        write_run(sweep / str(i), {"optimizer": rule, "seed": seed}, rows=[1.0 + i])
    write_run(sweep / "9", {"optimizer": "sgd", "seed": 7}, status="pruned", rows=[99.0])
    (sweep / "multirun.yaml").touch()
    assert main(["runs", "aaaa", "--over", "seed", "--tensorboard"]) == 0
    folder = here / "outputs/reports/multirun-2026-01-01-10-00-00-aaaa-over-seed"
    assert str(folder.relative_to(here)) in capsys.readouterr().out
    assert sorted(f.name for f in folder.iterdir()) == ["_adam", "sgd"]
    assert points(read_events(folder / "sgd"), "Loss/val") == [(10, 1.5)]
    assert points(read_events(folder / "_adam"), "Loss/val") == [(10, 3.5)]
    assert main(["runs", "aaaa", "--over", "seed", "--tensorboard", "mine"]) == 0
    assert (here / "mine/sgd").is_dir()


@pytest.mark.parametrize(
    ("argv", "words"), [(["--tensorboard"], "add --over"), (["--over", "seed", "--tensorboard"], "no curves yet")]
)
def test_means_are_refused_where_there_are_none(argv, words, here, capsys):
    for i in range(2):
        write_run(here / "outputs" / str(i), {"seed": i}, 1.0)
    assert main(["runs", *argv]) == 2
    assert words in capsys.readouterr().err
    assert not (here / "outputs/reports").exists()
