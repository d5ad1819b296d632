"""Event files, read back with TensorBoard's own reader."""

import re

import pytest
from helpers import BLOBS, build_blobs, train_runs
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.custom_scalar.metadata import CONFIG_SUMMARY_TAG
from tensorboard.plugins.hparams import metadata as hparams_metadata

from dlopt.cli import main
from dlopt.report.tensorboard.order import OrderedContext
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.find import find_run
from dlopt.rundir.tensorboard import EventFileWriter, to_tag

NOT_TAGS = ("step", "epoch", "seconds")


def read(run: RunDirectory) -> EventAccumulator:
    reader = EventAccumulator(str(run.path), size_guidance={"scalars": 0, "tensors": 0})
    reader.Reload()
    return reader


def test_every_value_of_the_rows_is_a_scalar(tmp_path):
    _, (run,) = train_runs(tmp_path, build_blobs("diagnostic=gradients", "log_every=2"))
    reader = read(run)
    expected = {(to_tag(k), row["step"], v) for row in run.rows() for k, v in row.items() if k not in NOT_TAGS}
    expected |= {(k, run.summary["best/step"], v) for k, v in run.summary.items() if k.startswith("test/")}
    tags = reader.Tags()["scalars"]
    assert {"test/loss", "test/accuracy"} < set(tags), "results of the test split, for the dashboard HPARAMS"
    scalars = {(tag, event.step, event.value) for tag in tags for event in reader.Scalars(tag)}
    assert {(tag, step) for tag, step, _ in scalars} == {(tag, step) for tag, step, _ in expected}
    values = {(tag, step): value for tag, step, value in expected}
    assert all(abs(value - values[tag, step]) <= 1e-6 * abs(value) for tag, step, value in scalars)
    assert {"Loss/train", "Loss/recent/train", "Accuracy/train", "Loss/val", "Accuracy/val", "error/val", "Schedule/lr", "time/steps_per_second",
            "gradient/norm", "gradient/norm/output", "update/ratio/output"} <= set(tags)  # fmt: skip


def test_curves_of_one_metric_are_a_group_and_loss_and_accuracy_come_first():
    """TensorBoard groups tags by their first part and sorts them by character codes."""
    keys = ["activation/mean/hidden.1", "gradient/norm", "mine", "lr", "train/loss", "val/loss", "average/val/loss",
            "recent/train/loss", "optimizer/damping", "recent/optimizer/damping", "optimizer/step_size",
            "train/accuracy", "val/error", "test/r2", "time/steps_per_second"]  # fmt: skip
    tags = sorted(map(to_tag, keys))
    assert tags == [
        "Accuracy/train", "Loss/average/val", "Loss/recent/train", "Loss/train", "Loss/val", "R2/test", "Schedule/lr",
        "activation/mean/hidden.1", "error/val", "gradient/norm", "mine",
        "optimizer/damping", "optimizer/damping/recent", "optimizer/step_size", "time/steps_per_second",
    ]  # fmt: skip


def test_custom_scalars_has_one_chart_for_the_splits_of_a_metric(tmp_path):
    """Two runs have equal charts, so TensorBoard shows them once."""
    experiments = build_blobs("diagnostic=gradients", "diagnostic.gradients.every=1"), build_blobs("averaging=ema")
    runs = [run for i, e in enumerate(experiments) for run in train_runs(tmp_path / str(i), e)[1]]
    layouts = []
    for reader in map(read, runs):
        (event,) = reader.Tensors(CONFIG_SUMMARY_TAG)
        (category,) = Layout.FromString(event.tensor_proto.string_val[0]).category
        tags = reader.Tags()["scalars"]
        charts = {c.title: {t for t in tags for pattern in c.multiline.tag if re.match(pattern, t)}
                  for c in category.chart}  # fmt: skip
        assert set(charts) == {"Accuracy", "Loss", "Schedule", "error"}
        assert {"Loss/train", "Loss/val"} <= charts["Loss"]
        assert charts["Schedule"] == {"Schedule/lr"}
        layouts.append(category)
    assert layouts[0] == layouts[1]


@pytest.mark.parametrize("after", [None, 0, 7])
def test_every_file_begins_with_the_start_of_a_session(after, tmp_path):
    """The first file too: TensorBoard drops points only from the second start on."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.compat.proto.event_pb2 import SessionLog

    events = EventFileWriter(tmp_path, after)
    events.add_scalars(9, {"x": 1.0})
    events.end_session(True)
    (file,) = tmp_path.iterdir()
    version, start, scalar, *_ = EventFileLoader(str(file)).Load()
    assert version.file_version == "brain.Event:2"
    assert (start.session_log.status, start.step) == (SessionLog.START, (after or 0) + 1)
    assert (scalar.step, [value.tag for value in scalar.summary.value]) == (9, ["x"])


def test_points_after_the_step_from_which_a_run_resumes_are_dropped(tmp_path):
    for after, steps in ((None, (1, 2, 3)), (1, (2, 3, 4)), (3, (4, 5))):
        events = EventFileWriter(tmp_path, after)
        for step in steps:
            events.add_scalars(step, {"x": 10.0 * step + (after or 0)})
        events.end_session(True)
    points = {event.step: event.value for event in read(RunDirectory(tmp_path)).Scalars("x")}
    assert points == {1: 10.0, 2: 21.0, 3: 31.0, 4: 43.0, 5: 53.0}


def test_hyperparameters_and_configuration_are_in_the_directory_of_the_run(here, capsys):
    assert main(["train", *BLOBS, "optimizer.lr=0.03"]) == 0
    run = find_run()
    reader = read(run)
    assert [p for p in run.path.rglob("events.*") if p.parent != run.path] == []
    content = reader.PluginTagToContent(hparams_metadata.PLUGIN_NAME)
    start = hparams_metadata.parse_session_start_info_plugin_data(content[hparams_metadata.SESSION_START_INFO_TAG])
    values = dict(start.hparams)
    assert values["optimizer"].string_value == "adam"
    assert values["optimizer.lr"].number_value == 0.03
    assert values["seed"].number_value == 0
    assert values["deterministic"].bool_value is False
    end = hparams_metadata.parse_session_end_info_plugin_data(content[hparams_metadata.SESSION_END_INFO_TAG])
    assert end.status == 1  # success
    (event,) = reader.Tensors("config")
    text = event.tensor_proto.string_val[0].decode()
    assert "    optimizer:" in text
    assert "lr: 0.03" in text
    assert "config" in reader.PluginTagToContent("text")


def test_tensorboard_itself_lists_the_run_with_its_metrics(here, capsys):
    """The HPARAMS dashboard's own backend finds hyperparameters and metrics of two runs, the important ones first."""
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

    for rate in (0.01, 0.1):
        more = ["objective=val/accuracy", "diagnostic=gradients"]
        assert main(["train", *BLOBS, *more, f"optimizer.lr={rate}", f"hydra.run.dir=outputs/{rate}"]) == 0
    multiplexer = EventMultiplexer().AddRunsFromDirectory("outputs")
    multiplexer.Reload()
    context = OrderedContext(TBContext(data_provider=MultiplexerDataProvider(multiplexer, "outputs")))
    request = RequestContext()
    sources = context.hparams_metadata(request, "x"), context.hparams_from_data_provider(request, "x", 1000)
    experiment = context.experiment_from_metadata(request, "x", True, *sources)
    assert {"optimizer.lr", "optimizer", "arch"} <= {info.name for info in experiment.hparam_infos}
    tags = [info.name.tag for info in experiment.metric_infos]
    assert tags[:5] == ["Accuracy/val", "test/accuracy", "test/error", "test/loss", "Loss/val"]
    assert tags.index("Loss/train") < tags.index("gradient/norm")
    own = backend_context.Context.experiment_from_metadata(context, request, "x", True, *sources)
    assert sorted(info.name.tag for info in own.metric_infos) == sorted(tags), "none is lost"
    query = api_pb2.ListSessionGroupsRequest(
        start_index=0, slice_size=10, allowed_statuses=[0, 1, 2, 3], include_metrics=True
    )
    query.col_params.add(metric=api_pb2.MetricName(tag="Accuracy/val"))
    handler = list_session_groups.Handler(request, context, "x", query)
    groups = handler.run().session_groups
    assert sorted(g.hparams["optimizer.lr"].number_value for g in groups) == [0.01, 0.1]


@pytest.mark.parametrize(("optimizer", "sharpness"), [("sgd", "lambda_max"), ("adam", "preconditioned")])
def test_custom_scalars_shows_the_sharpness_with_the_stability_limit(optimizer, sharpness, tmp_path):
    """They are first measured after the first row of metrics; TensorBoard takes the last layout."""
    experiment = build_blobs(f"optimizer={optimizer}", "diagnostic=[sharpness,noise]", "diagnostic.sharpness.every=4",
                             "diagnostic.noise.every=2")  # fmt: skip
    _, (run,) = train_runs(tmp_path, experiment)
    events = read(run).Tensors(CONFIG_SUMMARY_TAG)
    before, *_, last = ({c.title: c for c in Layout.FromString(e.tensor_proto.string_val[0]).category} for e in events)
    assert [c.title for c in before["Diagnostics"].chart] == ["noise scale"]
    lines = {c.title: list(c.multiline.tag) for c in last["Diagnostics"].chart}
    assert lines["sharpness and stability limit"] == [f"^sharpness/{sharpness}$", "^sharpness/limit$"]
    assert list(lines) == ["sharpness and stability limit", "noise scale"]
    assert last["Curves"] == before["Curves"]
