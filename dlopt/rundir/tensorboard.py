"""TensorBoard's event file of one run, written with TensorBoard's own protocol buffers.

They are imported at the first write, since they take a tenth of a second. A scalar costs about 3 microseconds; torch's
SummaryWriter, with its thread and queue, takes 26.
"""

from __future__ import annotations

import functools
import os
import re
import socket
import time
from array import array
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from dlopt.metrics.names import HEADLINE, OPTIMIZER, RECENT
from dlopt.rundir.heat_map import Png
from dlopt.storage import atomic

Bucket = tuple[float, float, float]
"""Left edge, right edge and count of a bucket of a histogram."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
"""The first bytes of a PNG file."""
GROUPED_TAG = re.compile(r"([^/]+)/(?:(?:average/|recent/)?(?:train|val|test)|lr)")
"""A tag of a metric on a split, or of the learning rate, with its group."""


@functools.cache
def to_tag(key: str) -> str:
    """Return the tag of a key of a row.

        train/loss, val/loss          Loss/train, Loss/val; so too for the other headline metrics
        average/val/accuracy          Accuracy/average/val
        recent/train/loss             Loss/recent/train
        val/error                     error/val; so too for metrics that are not in the headline
        lr                            Schedule/lr
        recent/optimizer/damping      optimizer/damping/recent
        any other key, such as a key of a diagnostic, is its own tag

    TensorBoard puts tags with the same first part into a group, sorts capital letters before small ones, and opens two
    groups. So the curves of one metric are side by side, and loss and accuracy are above everything else.
    """
    if key == "lr":
        return "Schedule/lr"
    if key.startswith(f"{RECENT}{OPTIMIZER}"):
        return f"{key.removeprefix(RECENT)}/recent"
    parts = re.fullmatch(r"((?:average/|recent/)?(?:train|val|test))/([^/]+)", key)
    if not parts:
        return key
    split, metric = parts.groups()
    return f"{metric.capitalize() if f'val/{metric}' in HEADLINE else metric}/{split}"


def list_pairs(tags: Collection[str]) -> dict[str, tuple[str, str]]:
    """Return the tags of diagnostics that belong into one chart, by its title, if both are among these.

    If there is a preconditioned sharpness, the stability limit is its limit.
    """
    sharpness = "sharpness/preconditioned" if "sharpness/preconditioned" in tags else "sharpness/lambda_max"
    pairs = {
        "sharpness and stability limit": (sharpness, "sharpness/limit"),
        "change of the loss": ("alignment/measured", "alignment/predicted"),
        "extreme eigenvalues": ("curvature/lambda_max", "curvature/lambda_min"),
        "noise scale": ("noise/critical_batch_size", "noise/scale"),
    }
    return {title: pair for title, pair in pairs.items() if all(tag in tags for tag in pair)}


class EventFileWriter:
    """Appends to one event file; every call reaches the operating system before it returns."""

    def __init__(self, folder: Path, after: int | None = None) -> None:
        """Create a file. Readers drop steps of older files beyond `after`, the step from which a run resumes."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("wb")
        self._records = RecordWriter(self._file)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        # In the first file too: TensorBoard drops nothing for the first start that it reads.
        start = SessionLog(status=SessionLog.START)
        self._write(Event(wall_time=time.time(), step=(after or 0) + 1, session_log=start))

    def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
        scalars = [self._summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._put(self._summary(value=scalars), step)

    def add_histograms(self, step: int, values: Mapping[str, Sequence[Bucket]]) -> None:
        """Write histograms for the dashboards HISTOGRAMS and DISTRIBUTIONS: doubles, (buckets, 3), under each tag."""
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
        from tensorboard.plugins.histogram.metadata import create_summary_metadata

        metadata = create_summary_metadata(display_name=None, description=None)
        histograms = []
        for tag, buckets in values.items():
            shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=len(buckets)), TensorShapeProto.Dim(size=3)])
            content = array("d", chain.from_iterable(buckets)).tobytes()
            tensor = TensorProto(dtype="DT_DOUBLE", tensor_content=content, tensor_shape=shape)
            histograms.append(self._summary.Value(tag=tag, tensor=tensor, metadata=metadata))
        self._put(self._summary(value=histograms), step)

    def add_pictures(self, step: int, values: Mapping[str, Png]) -> None:
        """Write pictures for the dashboard IMAGES: width, height and the PNG file, under each tag."""
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
        from tensorboard.plugins.image.metadata import create_summary_metadata

        three = TensorShapeProto(dim=[TensorShapeProto.Dim(size=3)])
        pictures = []
        for tag, png in values.items():
            parts = [str(png.width).encode(), str(png.height).encode(), png.content]
            tensor = TensorProto(dtype="DT_STRING", string_val=parts, tensor_shape=three)
            metadata = create_summary_metadata(display_name=tag, description="")
            pictures.append(self._summary.Value(tag=tag, tensor=tensor, metadata=metadata))
        self._put(self._summary(value=pictures), step)

    def add_text(self, tag: str, markdown: str) -> None:
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
        from tensorboard.plugins.text.metadata import create_summary_metadata

        one = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
        tensor = TensorProto(dtype="DT_STRING", string_val=[markdown.encode()], tensor_shape=one)
        metadata = create_summary_metadata(display_name=tag, description="")
        self._put(self._summary(value=[self._summary.Value(tag=tag, tensor=tensor, metadata=metadata)]), 0)

    def add_hparams(self, values: Mapping[str, Any], trial: str, started: float) -> None:
        """Start a session of the HPARAMS dashboard, which finds the metrics in the same directory.

        Sessions of one trial share a line of the dashboard, so each run is its own trial.
        """
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb

        self._put(hparams_pb(dict(values), trial_id=trial, start_time_secs=started), 0)

    def add_charts(self, tags: Sequence[str], *, has_bands: bool = False) -> None:
        """Write charts for the dashboard CUSTOM SCALARS.

        One chart for each metric has the curves of all splits, and one has the learning rate. Diagnostics have the
        charts of pairs. If there are tags lower/<tag> and upper/<tag>, a further chart for each tag shades the area
        between them. A later call replaces the charts: TensorBoard reads the last layout.
        """
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.plugins.custom_scalar import metadata
        from tensorboard.plugins.custom_scalar.layout_pb2 import (
            Category,
            Chart,
            Layout,
            MarginChartContent,
            MultilineChartContent,
        )

        charts: dict[str, list[Any]] = {"Curves": []}
        for group in sorted({parts[1] for tag in tags if (parts := GROUPED_TAG.fullmatch(tag))}):
            lines = MultilineChartContent(tag=[f"^{re.escape(group)}/"])
            charts["Curves"].append(Chart(title=group, multiline=lines))
        for title, pair in list_pairs(tags).items():
            lines = MultilineChartContent(tag=[f"^{re.escape(tag)}$" for tag in pair])
            charts.setdefault("Diagnostics", []).append(Chart(title=title, multiline=lines))
        for tag in tags if has_bands else ():
            series = MarginChartContent.Series(value=tag, lower=f"lower/{tag}", upper=f"upper/{tag}")
            chart = Chart(title=tag, margin=MarginChartContent(series=[series]))
            charts.setdefault(tag.rpartition("/")[0], []).append(chart)
        layout = Layout(category=[Category(title=title, chart=group) for title, group in charts.items()])
        tensor = TensorProto(dtype="DT_STRING", string_val=[layout.SerializeToString()])
        kind = metadata.create_summary_metadata()
        self._put(
            self._summary(value=[self._summary.Value(tag=metadata.CONFIG_SUMMARY_TAG, tensor=tensor, metadata=kind)]), 0
        )

    def end_session(self, succeeded: bool) -> None:
        """End the session of the HPARAMS dashboard and close the file."""
        from tensorboard.plugins.hparams import metadata
        from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

        status = STATUS_SUCCESS if succeeded else STATUS_FAILURE
        data = HParamsPluginData(session_end_info=SessionEndInfo(status=status, end_time_secs=time.time()))
        value = self._summary.Value(
            tag=metadata.SESSION_END_INFO_TAG,
            metadata=metadata.create_summary_metadata(data),
            tensor=metadata.NULL_TENSOR,
        )
        self._put(self._summary(value=[value]), 0)
        self.close()

    def close(self) -> None:
        """Close a file without a session of the HPARAMS dashboard."""
        self._file.close()

    def fsync(self) -> None:
        """Wait until the file is on the disk."""
        atomic.fsync(self._file)

    def _put(self, summary: Any, step: int) -> None:
        self._write(self._event(wall_time=time.time(), step=step, summary=summary))

    def _write(self, event: Any) -> None:
        self._records.write(event.SerializeToString())
        self._file.flush()
