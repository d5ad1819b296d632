"""What dlopt train --dry-run says: what would be made, how long it takes, and how much of the disk."""

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
from dlopt.rundir.display import display_path
from dlopt.runner.execute import DONE, FAILED, INTERRUPTED
from dlopt.runner.signals import handle_signals
from dlopt.storage.safe_read import to_printable
from dlopt.sweep.repeats import Repeat

if TYPE_CHECKING:
    from dlopt.runner.job import Job
    from dlopt.sweep.cost_forecast import CostForecast, DryRunPlan
    from dlopt.training.experiment import Experiment

MAX_LISTED_POINTS = 40
"""Points up to which all of them are listed; else the first and the last of them."""
FIRST, LAST = 20, 3
MAX_NAMED_REPEATS = 6
"""Repeats of a point that are named."""


def print_run_plan(job: Job, experiment: Experiment, notices: Sequence[str]) -> int:
    """Say what a run would be; returns the exit code."""
    from dlopt.sweep.cost_forecast import SECONDS_PER_REHEARSAL, begin_run
    from dlopt.training.cost import RunLength, estimate_cost

    e, settings = experiment, experiment.settings
    length = RunLength.of(settings, len(e.train), drop_last=e.drop_last)
    for notice in map(to_printable, notices):
        print(f"note: {notice}", file=sys.stderr)
    epochs = f"{length.steps / length.epoch:.3g} epochs of {length.epoch:,}"
    _print_field("run", f"{_pluralize(length.steps, 'step')}, {epochs}")
    splits = {"for training": e.train, "for validation": e.validation, "for the test": e.test}
    _print_field("examples", ", ".join(f"{len(s):,} {what}" for what, s in splits.items() if s is not None))
    _print_field("network", f"{job.choices.get('arch')}, {_pluralize(e.w.numel(), 'parameter')}")
    _print_field("device", f"{settings.device}, {_pluralize(e.threads, 'thread')}, {settings.precision}")
    try:
        with _interrupt_on_signals():
            rehearsal = estimate_cost(partial(begin_run, job), SECONDS_PER_REHEARSAL)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # of a part of people's own, of any kind
        print(f"the run fails at its beginning: {format_error(error)}", file=sys.stderr)
        return FAILED
    cost, figures = rehearsal.cost(settings), rehearsal.cost_model
    each = f"{format_short_duration(figures.step.seconds)} a step, {format_short_duration(figures.evaluation.seconds)} an evaluation"
    _print_field("time", f"about {format_short_duration(cost.seconds)}: {each} ({length.evaluations:,} of them)")
    _print_field("disk", f"about {format_size(cost.bytes)}")
    print("nothing was made; without --dry-run it starts")
    return DONE


def print_sweep_plan(outlook: DryRunPlan) -> None:
    """Say what a search would be, or what is left of one."""
    plan, left, repeats = outlook.plan, len(outlook.remaining), outlook.plan.repeats
    if left < outlook.total:
        print(f"{display_path(plan.folder)}: {outlook.total - left:,} of {outlook.total:,} points are over")
    if not left:
        print("nothing is left to do")
        return
    if outlook.point(outlook.remaining[0]) is None:
        print(f"{_pluralize(left, 'point')}, which {outlook.sampler} chooses as results come in")
    else:
        _list_points(outlook)
    with Console().status("measuring a few runs") if console.is_terminal() else nullcontext(), _interrupt_on_signals():
        found = outlook.forecast()
    runs = _pluralize(left * len(repeats), "run")
    _print_field(
        "runs", f"{runs}: {_pluralize(left, 'point')} x {_format_repeats(repeats)}" if len(repeats) > 1 else runs
    )
    if outlook.n_checked < outlook.total or outlook.sampler != "grid":
        points = _pluralize(outlook.n_checked, "point")
        _print_field("checked", f"{points}, in which each choice and both ends of each interval occur")
    for title, error in found.failures.items():
        _print_field("fails", f"{title}: {format_error(error)}")
    if found.n_rehearsed:
        _print_forecast(outlook, found)
    print("nothing was made; without --dry-run it starts")


def _format_repeats(repeats: Sequence[Repeat]) -> str:
    """The runs of each point: 3 (seed=0, seed=1, seed=2)."""
    names = [" ".join(repeat.overrides) for repeat in repeats]
    return (
        f"{len(names)} ({', '.join(names if len(names) <= MAX_NAMED_REPEATS else [*names[:MAX_NAMED_REPEATS], '...'])})"
    )


def _list_points(outlook: DryRunPlan) -> None:
    left = outlook.remaining
    width = len(f"{left[-1]:,}")
    shown = list(left) if len(left) <= MAX_LISTED_POINTS else [*left[:FIRST], None, *left[-LAST:]]
    for ordinal in shown:
        if ordinal is None:
            print(f"  {'...':>{width}}")
            continue
        title = outlook.plan.title(outlook.point(ordinal) or (), Repeat("", ()))
        head = f"  {ordinal:>{width},}  "
        columns = shutil.get_terminal_size().columns
        print(
            textwrap.fill(
                to_printable(title) or "(one run)",
                columns,
                initial_indent=head,
                subsequent_indent=" " * len(head),
                break_on_hyphens=False,
                break_long_words=False,
            )
        )


def _print_forecast(outlook: DryRunPlan, found: CostForecast) -> None:
    workers = min(outlook.workers, len(outlook.remaining) * len(outlook.plan.repeats))
    at_once = f", {workers} runs at once" if workers > 1 else ""
    kinds = f"{found.n_rehearsed} of {_pluralize(found.n_kinds, 'kind')} of runs measured"
    _print_field("time", f"about {format_short_duration(found.total.seconds / workers)}{at_once} ({kinds})")
    _print_field("disk", f"about {format_size(found.total.bytes)}")
    times, sizes = zip(found.least, found.most, strict=True)
    _print_field(
        "each run", f"{_format_range(*map(format_short_duration, times))}, {_format_range(*map(format_size, sizes))}"
    )


def _interrupt_on_signals() -> AbstractContextManager[None]:
    """While this lasts, every signal that ends a process raises KeyboardInterrupt, so that nothing is left behind."""
    return handle_signals(signal.default_int_handler)


def format_short_duration(seconds: float) -> str:
    """Seconds as 1.2 ms, 12 s, 4 min, 5.2 h or 3 days."""
    for limit, unit, name in ((0.1, 1e-3, "ms"), (99.5, 1, "s"), (5970, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{_format_digits(seconds / unit)} {name}"
    return f"{_format_digits(seconds / 86400)} days"


def format_size(size: float) -> str:
    """Bytes as 12 kB, 3.4 MB, 1.2 GB or 5 TB."""
    for unit, name in ((1e3, "kB"), (1e6, "MB"), (1e9, "GB")):
        if size < 999.5 * unit:
            return f"{_format_digits(size / unit)} {name}"
    return f"{_format_digits(size / 1e12)} TB"


def _format_digits(x: float) -> str:
    """Two digits, as an estimate has; all of them before the point."""
    return f"{x:,.0f}" if x >= 9.95 else f"{x:.2g}"


def _format_range(least: str, most: str) -> str:
    return least if least == most else f"{least} to {most}"


def _pluralize(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _print_field(what: str, said: str) -> None:
    """A line with its name in front, folded to the width of the screen."""
    columns = shutil.get_terminal_size().columns
    print(textwrap.fill(said, columns, initial_indent=f"  {what:<10}", subsequent_indent=" " * 12))
