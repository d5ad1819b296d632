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
from dlopt.config.problems import named
from dlopt.rundir.display import as_typed
from dlopt.runner.run_one import DONE, FAILED, INTERRUPTED
from dlopt.storage.safe_read import printable
from dlopt.sweep.repeats import Repeat
from dlopt.training.control import handled

if TYPE_CHECKING:
    from dlopt.sweep.compose import Job
    from dlopt.sweep.cost_forecast import Forecast, Outlook
    from dlopt.training.experiment import Experiment

WHOLE = 40
"""Points up to which all of them are listed; else the first and the last of them."""
FIRST, LAST = 20, 3
SEVERAL = 6
"""Repeats of a point that are named."""


def single(job: Job, experiment: Experiment, notices: Sequence[str]) -> int:
    """Say what a run would be; returns the exit code."""
    from dlopt.sweep.cost_forecast import EACH, begun
    from dlopt.training.cost import Length, rehearsed

    e, settings = experiment, experiment.settings
    length = Length.of(settings, len(e.train), drop_last=e.drop_last)
    for notice in map(printable, notices):
        print(f"note: {notice}", file=sys.stderr)
    epochs = f"{length.steps / length.epoch:.3g} epochs of {length.epoch:,}"
    _say("run", f"{_several(length.steps, 'step')}, {epochs}")
    splits = {"for training": e.train, "for validation": e.validation, "for the test": e.test}
    _say("examples", ", ".join(f"{len(s):,} {what}" for what, s in splits.items() if s is not None))
    _say("network", f"{job.choices.get('arch')}, {_several(e.w.numel(), 'parameter')}")
    _say("device", f"{settings.device}, {_several(e.threads, 'thread')}, {settings.precision}")
    try:
        with _unwound():
            rehearsal = rehearsed(partial(begun, job), EACH)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # of a part of people's own, of any kind
        print(f"the run fails at its beginning: {named(error)}", file=sys.stderr)
        return FAILED
    cost, figures = rehearsal.cost(settings), rehearsal.figures
    each = f"{span(figures.step.seconds)} a step, {span(figures.evaluation.seconds)} an evaluation"
    _say("time", f"about {span(cost.seconds)}: {each} ({length.evaluations:,} of them)")
    _say("disk", f"about {amount(cost.bytes)}")
    print("nothing was made; without --dry-run it starts")
    return DONE


def searched(outlook: Outlook) -> None:
    """Say what a search would be, or what is left of one."""
    plan, left, repeats = outlook.plan, len(outlook.left), outlook.plan.repeats
    if left < outlook.total:
        print(f"{as_typed(plan.folder)}: {outlook.total - left:,} of {outlook.total:,} points are over")
    if not left:
        print("nothing is left to do")
        return
    if outlook.point(outlook.left[0]) is None:
        print(f"{_several(left, 'point')}, which {outlook.sampler} chooses as results come in")
    else:
        _list(outlook)
    with Console().status("measuring a few runs") if console.is_terminal() else nullcontext(), _unwound():
        found = outlook.forecast()
    runs = _several(left * len(repeats), "run")
    _say("runs", f"{runs}: {_several(left, 'point')} x {_repeated(repeats)}" if len(repeats) > 1 else runs)
    if outlook.checked < outlook.total or outlook.sampler != "grid":
        points = _several(outlook.checked, "point")
        _say("checked", f"{points}, in which each choice and both ends of each interval occur")
    for title, error in found.failed.items():
        _say("fails", f"{title}: {named(error)}")
    if found.rehearsed:
        _predicted(outlook, found)
    print("nothing was made; without --dry-run it starts")


def _repeated(repeats: Sequence[Repeat]) -> str:
    """The runs of each point: 3 (seed=0, seed=1, seed=2)."""
    names = [" ".join(repeat.overrides) for repeat in repeats]
    return f"{len(names)} ({', '.join(names if len(names) <= SEVERAL else [*names[:SEVERAL], '...'])})"


def _list(outlook: Outlook) -> None:
    left = outlook.left
    width = len(f"{left[-1]:,}")
    shown = list(left) if len(left) <= WHOLE else [*left[:FIRST], None, *left[-LAST:]]
    for ordinal in shown:
        if ordinal is None:
            print(f"  {'...':>{width}}")
            continue
        title = outlook.plan.title(outlook.point(ordinal) or (), Repeat("", ()))
        head = f"  {ordinal:>{width},}  "
        columns = shutil.get_terminal_size().columns
        print(
            textwrap.fill(
                printable(title) or "(one run)",
                columns,
                initial_indent=head,
                subsequent_indent=" " * len(head),
                break_on_hyphens=False,
                break_long_words=False,
            )
        )


def _predicted(outlook: Outlook, found: Forecast) -> None:
    workers = min(outlook.workers, len(outlook.left) * len(outlook.plan.repeats))
    at_once = f", {workers} runs at once" if workers > 1 else ""
    kinds = f"{found.rehearsed} of {_several(found.kinds, 'kind')} of runs measured"
    _say("time", f"about {span(found.total.seconds / workers)}{at_once} ({kinds})")
    _say("disk", f"about {amount(found.total.bytes)}")
    times, sizes = zip(found.least, found.most, strict=True)
    _say("each run", f"{_between(*map(span, times))}, {_between(*map(amount, sizes))}")


def _unwound() -> AbstractContextManager[None]:
    """While this lasts, every signal that ends a process raises KeyboardInterrupt, so that nothing is left behind."""
    return handled(signal.default_int_handler)


def span(seconds: float) -> str:
    """Seconds as 1.2 ms, 12 s, 4 min, 5.2 h or 3 days."""
    for limit, unit, name in ((0.1, 1e-3, "ms"), (99.5, 1, "s"), (5970, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{_digits(seconds / unit)} {name}"
    return f"{_digits(seconds / 86400)} days"


def amount(size: float) -> str:
    """Bytes as 12 kB, 3.4 MB, 1.2 GB or 5 TB."""
    for unit, name in ((1e3, "kB"), (1e6, "MB"), (1e9, "GB")):
        if size < 999.5 * unit:
            return f"{_digits(size / unit)} {name}"
    return f"{_digits(size / 1e12)} TB"


def _digits(x: float) -> str:
    """Two digits, as an estimate has; all of them before the point."""
    return f"{x:,.0f}" if x >= 9.95 else f"{x:.2g}"


def _between(least: str, most: str) -> str:
    return least if least == most else f"{least} to {most}"


def _several(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _say(what: str, said: str) -> None:
    """A line with its name in front, folded to the width of the screen."""
    columns = shutil.get_terminal_size().columns
    print(textwrap.fill(said, columns, initial_indent=f"  {what:<10}", subsequent_indent=" " * 12))
