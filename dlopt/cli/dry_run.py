"""dlopt train --dry-run: print what would run, and estimate its time and disk space."""

from __future__ import annotations

import shutil
import signal
import sys
import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console

from dlopt import console
from dlopt.config.problems import format_error
from dlopt.formatting import format_count
from dlopt.report.summary import format_parameter_groups
from dlopt.rundir.display import display_path
from dlopt.runner.execute import DONE, FAILED, INTERRUPTED
from dlopt.runner.signals import handle_signals
from dlopt.storage.safe_read import to_printable
from dlopt.sweep.plan import Repeat

if TYPE_CHECKING:
    from dlopt.runner.job import Job
    from dlopt.sweep.cost_forecast import CostForecast, DryRunPlan
    from dlopt.training.experiment import Experiment

MAX_LISTED_POINTS = 40
"""List all points up to this number, and beyond it only the FIRST and the LAST."""
FIRST, LAST = 20, 3
MAX_NAMED_REPEATS = 6
"""Repeats of a point whose overrides are printed."""


def print_run_plan(job: Job, experiment: Experiment, notices: Sequence[str]) -> int:
    """Print what a run would do. Return the exit code."""
    from dlopt.sweep.cost_forecast import SECONDS_PER_REHEARSAL, begin_run
    from dlopt.training.cost import RunLength, estimate_cost

    settings = experiment.settings
    length = RunLength.of(settings, len(experiment.train), drop_last=experiment.drop_last)
    for notice in map(to_printable, notices):
        print(f"note: {notice}", file=sys.stderr)
    epochs = f"{length.steps / length.epoch:.3g} epochs of {length.epoch:,}"
    _print_field("run", f"{format_count(length.steps, 'step')}, {epochs}")
    splits = {"training": experiment.train, "validation": experiment.validation, "testing": experiment.test}
    counts = [f"{len(split):,} for {name}" for name, split in splits.items() if split is not None]
    _print_field("examples", ", ".join(counts))
    _print_field("network", f"{job.choices.get('arch')}, {format_count(experiment.w.numel(), 'parameter')}")
    for i, line in enumerate(format_parameter_groups(experiment.parameter_groups)):
        _print_field("" if i else "groups", line)
    _print_field("device", f"{settings.device}, {format_count(experiment.threads, 'thread')}, {settings.precision}")
    try:
        with _interrupt_on_signals():
            estimate = estimate_cost(partial(begin_run, job), SECONDS_PER_REHEARSAL)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # a user-defined component can raise anything
        print(f"the run fails at its start: {format_error(error)}", file=sys.stderr)
        return FAILED
    cost, model = estimate.cost(settings), estimate.cost_model
    times = [format_short_duration(part.seconds) for part in (cost, model.step, model.evaluation)]
    evaluations = f"{times[2]} an evaluation ({length.evaluations:,} of them)"
    _print_field("time", f"about {times[0]}: {times[1]} a step, {evaluations}")
    _print_field("disk", f"about {format_size(cost.bytes)}")
    print("nothing was run; without --dry-run it starts")
    return DONE


def print_sweep_plan(outlook: DryRunPlan) -> None:
    """Print what a search would do, or the part of it that remains."""
    plan, n_left, repeats = outlook.plan, len(outlook.remaining), outlook.plan.repeats
    if n_left < outlook.total:
        print(f"{display_path(plan.folder)}: {outlook.total - n_left:,} of {outlook.total:,} points are finished")
    if not n_left:
        print("nothing is left to do")
        return
    if outlook.point(outlook.remaining[0]) is None:
        print(f"{format_count(n_left, 'point')}, which {outlook.sampler} chooses from the results so far")
    else:
        _list_points(outlook)
    with Console().status("measuring a few runs") if console.is_terminal() else nullcontext(), _interrupt_on_signals():
        forecast = outlook.forecast()
    runs = format_count(n_left * len(repeats), "run")
    if len(repeats) > 1:
        names = [" ".join(repeat.overrides) for repeat in repeats]
        names[MAX_NAMED_REPEATS:] = ["..."] * (len(names) > MAX_NAMED_REPEATS)
        runs += f": {format_count(n_left, 'point')} x {len(repeats)} ({', '.join(names)})"
    _print_field("runs", runs)
    if outlook.n_checked < outlook.total or outlook.sampler != "grid":
        points = format_count(outlook.n_checked, "point")
        _print_field("checked", f"{points}, with each choice and both ends of each interval")
    for title, error in forecast.failures.items():
        _print_field("fails", f"{title}: {format_error(error)}")
    if forecast.n_rehearsed:
        _print_forecast(outlook, forecast)
    print("nothing was run; without --dry-run it starts")


def _list_points(outlook: DryRunPlan) -> None:
    remaining = outlook.remaining
    width = len(f"{remaining[-1]:,}")
    ordinals = (
        list(remaining) if len(remaining) <= MAX_LISTED_POINTS else [*remaining[:FIRST], None, *remaining[-LAST:]]
    )
    for ordinal in ordinals:
        if ordinal is None:
            print(f"  {'...':>{width}}")
        else:
            title = outlook.plan.title(outlook.point(ordinal) or (), Repeat("", ()))
            _print_wrapped(f"  {ordinal:>{width},}  ", to_printable(title) or "(one run)")


def _print_forecast(outlook: DryRunPlan, forecast: CostForecast) -> None:
    workers = min(outlook.workers, len(outlook.remaining) * len(outlook.plan.repeats))
    at_once = f", {workers} runs at once" if workers > 1 else ""
    kinds = f"{forecast.n_rehearsed} of {format_count(forecast.n_kinds, 'kind')} of runs measured"
    _print_field("time", f"about {format_short_duration(forecast.total.seconds / workers)}{at_once} ({kinds})")
    _print_field("disk", f"about {format_size(forecast.total.bytes)}")
    times, sizes = zip(forecast.least, forecast.most, strict=True)
    ranges = dict.fromkeys(map(format_short_duration, times)), dict.fromkeys(map(format_size, sizes))
    _print_field("each run", ", ".join(map(" to ".join, ranges)))


def _interrupt_on_signals() -> AbstractContextManager[None]:
    """Raise KeyboardInterrupt on every stop signal until the block ends, so that temporary files are removed."""
    return handle_signals(signal.default_int_handler)


def format_short_duration(seconds: float) -> str:
    """Format seconds as 1.2 ms, 12 s, 4 min, 5.2 h or 3 days."""
    for limit, unit, name in ((0.1, 1e-3, "ms"), (99.5, 1, "s"), (5970, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{_format_digits(seconds / unit)} {name}"
    return f"{_format_digits(seconds / 86400)} days"


def format_size(size: float) -> str:
    """Format bytes as 12 kB, 3.4 MB, 1.2 GB or 5 TB."""
    for unit, name in ((1e3, "kB"), (1e6, "MB"), (1e9, "GB")):
        if size < 999.5 * unit:
            return f"{_format_digits(size / unit)} {name}"
    return f"{_format_digits(size / 1e12)} TB"


def _format_digits(x: float) -> str:
    """Format an estimate with two digits, or with all digits before the decimal point."""
    return f"{x:,.0f}" if x >= 9.95 else f"{x:.2g}"


def _print_field(name: str, text: str) -> None:
    _print_wrapped(f"  {name:<10}", text)


def _print_wrapped(head: str, text: str) -> None:
    """Print a text after its head, wrapped to the width of the terminal."""
    wrapper = textwrap.TextWrapper(
        shutil.get_terminal_size().columns, initial_indent=head, subsequent_indent=" " * len(head),
        break_on_hyphens=False, break_long_words=False,
    )  # fmt: skip
    print(wrapper.fill(text))
