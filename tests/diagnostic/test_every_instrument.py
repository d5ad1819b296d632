"""What every instrument in the folder promises: it disturbs nothing, and measures in lanes what it measures alone."""

import dataclasses

import pytest
import torch
from helpers import build_blobs, interrupt_run, load_weights, read_histograms, read_rows, resume_run, train_runs

from dlopt.config.compose import groups

INSTRUMENTS = [o for o in groups.list_option_names("diagnostic") if o not in ("custom", "none")]
FULL = (
    "normalization=batch",
    "regularization=[l2,dropout]",
    "augmentation=custom",
    "augmentation.custom._target_=mine.Jitter",
    "+augmentation.custom.size=0.2",
    "activation=tanh",
    "batch_size=13",
)


def watched(*options, every=2):
    return (
        *FULL,
        f"diagnostic=[{','.join(options)}]",
        *(f"diagnostic.{o}.every={every}" for o in options),
        *(["diagnostic.histograms.of=[weight,gradient,activation]"] if "histograms" in options else []),
    )


@pytest.mark.parametrize("options", [*([o] for o in INSTRUMENTS), INSTRUMENTS], ids="-".join)
def test_it_disturbs_nothing(options, tmp_path):
    """Bitwise the same weights and statistics, the same rows but for its own tags, the same count of evaluations."""
    (plain,), (run,) = train_runs(tmp_path / "plain", build_blobs(*FULL))
    (summary,), (seen,) = train_runs(tmp_path / "watched", build_blobs(*watched(*options, every=1)))
    assert torch.equal(load_weights(run), load_weights(seen))
    assert torch.equal(load_weights(run, "best"), load_weights(seen, "best"))
    rows = {row["step"]: row for row in read_rows(seen)}
    assert all(rows[row["step"]].items() >= row.items() for row in read_rows(run))
    assert len(read_histograms(seen)) + len(rows) > len(read_rows(run)), "nothing was measured"
    assert summary["evaluations"] == plain["evaluations"]


@pytest.mark.parametrize("option", INSTRUMENTS)
def test_lanes_measure_what_runs_alone_do(option, tmp_path):
    one = (*watched(option), "precision=float64", "optimizer=momentum")
    two = (*one, "seed=1", "optimizer.lr=0.02", "regularization.dropout.p=0.2")
    _, lanes = train_runs(tmp_path / "lanes", build_blobs(*one), build_blobs(*two))
    for i, overrides in enumerate((one, two)):
        _, (run,) = train_runs(tmp_path / f"solo{i}", build_blobs(*overrides))
        for mine, other in zip(read_rows(lanes[i]), read_rows(run), strict=True):
            assert mine == pytest.approx(other, rel=1e-9, abs=1e-9)
        check_histograms(lanes[i], run)


def check_histograms(run, other):
    """Equal counts between equal edges. A bias in front of batch normalization is moved by rounding alone: passed over."""
    found, wanted = read_histograms(run), read_histograms(other)
    assert found.keys() == wanted.keys()
    for tag, buckets in wanted.items():
        edges, counts = torch.tensor(buckets).double().split([2, 1], dim=1)
        at, n = torch.tensor(found[tag]).double().split([2, 1], dim=1)
        torch.testing.assert_close(at, edges, rtol=1e-9, atol=1e-12)
        if edges.abs().max() > 1e-12:
            assert torch.equal(n, counts), tag


def test_a_lane_that_leaves_leaves_the_others_measurements(tmp_path):
    """One diverges at once; the other's rows and histograms are those of a run alone."""
    common = (*watched(*INSTRUMENTS, every=1), "precision=float64", "optimizer=sgd")
    _, lanes = train_runs(
        tmp_path / "lanes", build_blobs(*common, "optimizer.lr=1e300"), build_blobs(*common, "seed=1")
    )
    _, (alone,) = train_runs(tmp_path / "solo", build_blobs(*common, "seed=1"))
    for mine, other in zip(read_rows(lanes[1]), read_rows(alone), strict=True):
        assert mine == pytest.approx(other, rel=1e-9, abs=1e-9)
    check_histograms(lanes[1], alone)


@pytest.mark.parametrize("stop", [2, 3, 4])
@pytest.mark.parametrize("option", INSTRUMENTS)
def test_a_run_resumed_measures_what_it_would_have(option, stop, tmp_path):
    """Stopped after a step at which a measurement was due, and after one at which none was: the same bits."""
    overrides = watched(option)
    _, (straight,) = train_runs(tmp_path / "straight", build_blobs(*overrides))

    run = interrupt_run(tmp_path / "run", stop, build_blobs(*overrides))
    _, again = resume_run(run.path, build_blobs(*overrides))
    assert torch.equal(load_weights(again), load_weights(straight))
    assert read_rows(again) == read_rows(straight)
    assert read_histograms(again) == read_histograms(straight)


@pytest.mark.parametrize("option", INSTRUMENTS)
def test_it_measures_at_rows_or_at_every_so_many_steps(option, tmp_path):
    for every, wanted in (("null", {2, 4, 6, 8, 12}), ("5", {5, 10})):
        experiment = build_blobs(
            *watched(option, every=every), "log_every=4", "eval_every=1", "batch_size=24", "epochs=6"
        )
        assert [d.every for d in experiment.diagnostic.values()] == [None if every == "null" else 5]
        _, (run,) = train_runs(tmp_path / every, experiment)
        plain = dataclasses.replace(experiment, diagnostic={})
        _, (without,) = train_runs(tmp_path / f"{every}-without", plain)
        rows = {row["step"]: row for row in read_rows(run)}
        known = {name for row in read_rows(without) for name in row}
        found = {step for step, row in rows.items() if row.keys() - known} | {step for _, step in read_histograms(run)}
        assert found == (wanted | {10} if every == "null" else wanted)
