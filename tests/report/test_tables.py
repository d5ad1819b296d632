"""Tables of runs in narrow terminals."""

from pathlib import Path

import pytest

from dlopt.analysis.run_table import RunRecord
from dlopt.report.tables import make_run_table

METRICS = {"val/loss": 0.5, "val/accuracy": 0.7, "test/loss": 0.6, "test/accuracy": 0.8}


def make_runs(objectives):
    return [
        RunRecord(Path(str(i)), str(i), "done", settings={"seed": i, "objective": objective}, metrics=METRICS)
        for i, objective in enumerate(objectives)
    ]


@pytest.mark.parametrize(
    ("objectives", "sort", "kept"),
    [
        (["val/loss"] * 3, "", "val/loss"),
        (["val/accuracy"] * 3, "", "val/accuracy"),
        (["val/accuracy"] * 3, "test/loss", "test/loss"),
        (["train/loss"] * 3, "", "test/accuracy"),
    ],
)
def test_the_last_metric_to_go_is_the_one_sorted_by_or_the_objective(objectives, sort, kept):
    table = make_run_table(make_runs(objectives), sort=sort)
    header = table.text(len("run  seed  ") + len(kept)).splitlines()[0].split()
    assert [name for name in header if name in METRICS] == [kept]
    assert "seed" in header, "what varies is never left out"
