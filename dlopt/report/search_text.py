"""A search in words and tables: what was searched, the best of it, what matters, and what to do next."""

from __future__ import annotations

import shlex
import textwrap
import time
from collections.abc import Sequence

from dlopt.analysis import importance
from dlopt.analysis.search_axis import SearchAxis
from dlopt.analysis.search_record import ENDED_STATES, SearchRecord, TrialRecord
from dlopt.formatting import format_duration, format_metric, format_override
from dlopt.report.text_table import BOLD, DIM, YELLOW, apply_style, format_table

MAX_TRIALS_SHOWN = 10
"""Trials in the table of the best."""
MAX_AXES_SHOWN = 4
"""Hyperparameters whose effects are shown unless all are asked for."""
MAX_LEVELS_SHOWN = 12
"""Values of a hyperparameter that are shown unless all are asked for."""
BAR_WIDTH = 30
EPOCHS_FACTOR = 4
"""Times as many epochs are proposed for training the best again."""
N_RETRAIN_SEEDS = 3


def format_head(search: SearchRecord, place: str, width: int) -> list[str]:
    """The sweep's directory, what was searched and how, and how far it has come."""
    least = "largest" if search.higher_is_better else "smallest"
    of = [f"{n} {what}" for n, what in ((search.seeds, "seeds"), (search.folds, "folds")) if n]
    repeated = f", {search.statistic} over {' and '.join(of)}" if of else ""
    by = f"{search.sampler}, for" if search.sampler else "for"
    searched = [f"{axis.key} {axis.describe_range()}" for axis in search.axes] or ["nothing that varies"]
    lines = [apply_style(place, BOLD)]
    texts = ["; ".join(searched), f"{by} the {least} {search.objective}{repeated}", format_progress(search)]
    if "://" in search.storage:
        texts.append(f"these are the trials of this directory; its study, in {search.storage}, may have others")
    for text in texts:
        lines += textwrap.wrap(text, width, subsequent_indent="  ", break_on_hyphens=False)
    return lines


def format_progress(search: SearchRecord) -> str:
    """How many trials have ended, in which states, and the time that they took."""
    states, total = search.states, len(search.trials)
    ended = sum(states[s] for s in ENDED_STATES)
    order = ("done", "pruned", "diverged", "failed", "running", "interrupted", "dead")
    shares = {s: f" ({states[s] / ended:.0%})" if s in ENDED_STATES[1:] and ended else "" for s in order}
    told, others = (
        ", ".join(f"{states[s]} {s}{shares[s]}" for s in order if states[s] and (s in ENDED_STATES) is among)
        for among in (True, False)
    )
    told = (f": {told}" if told else "") + (f"; {others}" if others else "")
    # more have ended where failed ones were tried again
    of = f" of {search.n_planned}" if search.n_planned and ended <= search.n_planned else ""
    began = min((r.started for t in search.trials for r in t.runs if r.started), default=None)
    since = "" if began is None else f"; started {time.strftime('%Y-%m-%d %H:%M', time.localtime(began))}"
    trained = format_duration(sum(t.seconds for t in search.trials))
    return f"{ended}{of} trials have ended{told}{since}; {trained} of training" if total else (
        f"none{of} trials has begun")  # fmt: skip


def format_best(search: SearchRecord, place: str, width: int) -> list[str]:
    """The best trial: its value, its point, its directory; and how many are as good."""
    found = search.best
    if found is None:
        return [f"no trial has a {search.objective} yet"]
    point = "  ".join(f"{a.key}={a.format_value(found.point[a.key])}" for a in search.axes if a.key in found.point)
    lines = [apply_style(f"best: trial {found.number}, {search.objective} {format_result(found)}", BOLD)]
    lines += textwrap.wrap(point, width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    lines.append(f"  {place}")
    same = importance.count_level_with_best(search) - 1
    if same > 0:
        lines.append(f"  {same} more {'is' if same == 1 else 'are'} within its standard deviation over repeats")
    return lines


def format_result(trial: TrialRecord) -> str:
    """The value of a trial, with its standard deviation over repeats."""
    if trial.sd is None or trial.value is None:
        return format_metric(trial.value)
    return f"{format_metric(trial.value)} ± {trial.sd:.4f}" if 1e-3 <= abs(trial.value) < 1e4 else (
        f"{format_metric(trial.value)} ± {format_metric(trial.sd)}")  # fmt: skip


def format_retrain_command(search: SearchRecord, common: Sequence[str], width: int) -> list[str]:
    """The command line that trains the best once more: with four times as many epochs, and with seeds not yet tried.

    common: the overrides of all trials, without what was searched.
    """
    found = search.best
    if found is None:
        return []
    settings = found.runs[0].settings
    length = "steps" if isinstance(settings.get("steps"), int) else "epochs"
    keys = {length, "seed", "name", "resume", *(a.key for a in search.axes)}
    words = [word for word in common if word.partition("=")[0] not in keys and not word.startswith("hydra")]
    words += [f"{_typed_key(search, a)}={format_override(settings[a.key])}" for a in search.axes if a.key in settings]
    if isinstance(settings.get(length), (int, float)) and length not in {a.key for a in search.axes}:
        words.append(f"{length}={settings[length] * EPOCHS_FACTOR}")
    tried = [s for t in search.trials for r in t.runs if isinstance(s := r.settings.get("seed"), int)]
    first = max(tried, default=-1) + 1
    words.append(f"seed={','.join(str(first + i) for i in range(N_RETRAIN_SEEDS))}")
    lines = ["dlopt train -m"]
    for word in map(shlex.quote, words):
        if len(lines[-1]) + len(word) + 5 > width:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f" {word}"
    return [f"  {line}" for line in lines]


def _typed_key(search: SearchRecord, axis: SearchAxis) -> str:
    """A key as it was typed: with a plus, where the configuration lacks it."""
    names = (word.partition("=")[0] for word in search.command)
    return next((n for n in names if n.lstrip("+").rpartition("@")[2] == axis.key), axis.key)


def format_top(search: SearchRecord, width: int, count: int = MAX_TRIALS_SHOWN) -> list[str]:
    """The table of the best trials."""
    shown = search.ranked_trials[:count]
    if not shown:
        return []
    names = shorten_keys([a.key for a in search.axes])
    header = ["trial", search.objective, *names, "time"]
    rows = [
        [
            str(t.number),
            format_result(t),
            *(a.format_value(t.point[a.key]) if a.key in t.point else "-" for a in search.axes),
            format_duration(t.seconds),
        ]
        for t in shown
    ]
    right = [True, True, *(a.is_numeric for a in search.axes), True]
    return format_table(header, rows, right, width=width, remedy="dlopt runs SWEEP --columns A,B shows them")


def shorten_keys(keys: Sequence[str]) -> list[str]:
    """Each key without what stands before its last dot, where no other ends in the same name."""
    ends = [key.rpartition(".")[2] for key in keys]
    return [end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)]


def format_importances(shares: dict[str, float], said: str, width: int) -> list[str]:
    """A bar for each hyperparameter, and how the shares were found."""
    if not said:
        return []
    wide = max(map(len, shares), default=0)
    lines = [apply_style("importance", BOLD)] if shares else []
    lines += [f"  {key:<{wide}}  {share:4.0%}  {format_bar(share)}".rstrip() for key, share in shares.items()]
    return lines + [apply_style(x, DIM) for x in textwrap.wrap(f"({said})", width, break_on_hyphens=False)]


def format_bar(share: float) -> str:
    """A bar as long as a share, to an eighth of a character."""
    eighths = round(share * BAR_WIDTH * 8)
    return "█" * (eighths // 8) + ("", *"▏▎▍▌▋▊▉")[eighths % 8]


def format_effects(search: SearchRecord, order: Sequence[str], width: int, *, everything: bool = False) -> list[str]:
    """What the value of each hyperparameter does, over all others: a table for each, in this order of keys."""
    known = sorted(search.axes, key=lambda a: order.index(a.key) if a.key in order else len(order))
    lines: list[str] = []
    shown = known if everything else known[:MAX_AXES_SHOWN]
    for axis in shown:
        found = [level for level in importance.group_by_level(axis, search.trials) if level.values or level.n_diverged]
        worst = sorted(found, key=lambda level: _place(level, search))[len(found) if everything else MAX_LEVELS_SHOWN :]
        names = {level.name for level in worst}
        cut = [level for level in found if level.name not in names]
        diverged = any(level.n_diverged for level in cut)
        header = [axis.key, "trials", *(["diverged"] if diverged else []), "best", "median", "mean", "sd"]
        rows = [
            [
                level.name,
                str(level.n_ended),
                *([str(level.n_diverged or "")] if diverged else []),
                *(format_metric(x) for x in (level.best(search.higher_is_better), level.median, level.mean, level.sd)),
            ]
            for level in cut
        ]
        if rows:
            lines += ["", *format_table(header, rows, [axis.is_numeric and not axis.is_binned, *[True] * (len(header) - 1)],
                                   width=width, remedy="they need a wider terminal")]  # fmt: skip
            if len(cut) < len(found):
                lines.append(apply_style(f"({len(found) - len(cut)} values with a worse median left out; --all)", DIM))
    if len(shown) < len(known):
        said = f"(left out: {', '.join(a.key for a in known[MAX_AXES_SHOWN:])}; --all)"
        lines += ["", *(apply_style(x, DIM) for x in textwrap.wrap(said, width, break_on_hyphens=False))]
    return lines[1:]


def _place(level: importance.Level, search: SearchRecord) -> float:
    if level.median is None:
        return float("inf")
    return -level.median if search.higher_is_better else level.median


def format_warnings(search: SearchRecord, width: int) -> list[str]:
    """What should be looked at: a best trial on the border, where runs diverge, what cannot be read."""
    said = []
    for border in importance.find_borders(search):
        axis = border.axis
        end = "largest" if border.upper else "smallest"
        value = axis.format_value(border.value)
        tried = f"is the {end} tried"
        if axis.is_interval and border.value not in (axis.low, axis.high):
            tried = f"is at the {'upper' if border.upper else 'lower'} end of {axis.describe_range()}"
        said.append(f"{axis.key}: the best, {value}, {tried}; widen it {'upwards' if border.upper else 'downwards'}")
    found = importance.find_divergence(search)
    if found is not None:
        ended = f"{found.n_diverged} of {found.n_ended} trials diverged"
        said.append(f"{found.axis.key}: with {_span(found)} {ended}")
    without = sum(t.state == "done" and t.value is None for t in search.trials)
    if without:
        said.append(f"{without} trials that are done have no {search.objective}")
    if search.notice:
        said.append(f"{search.notice}; shown is what varies among the runs")
    lines = []
    for text in said:
        wrapped = textwrap.wrap(text, width - 9, break_on_hyphens=False)
        lines += [apply_style(("warning: " if i == 0 else " " * 9) + x, YELLOW) for i, x in enumerate(wrapped)]
    return lines


def _span(found: importance.Divergence) -> str:
    first, last = found.first, found.last
    if first is last:
        return first.name
    low = first.name.partition("..")[0] if first.low is not None else first.name
    high = last.name.rpartition("..")[2] if last.low is not None else last.name
    return f"{low} to {high}"


def format_best_line(search: SearchRecord) -> str:
    """The best in a line, for below a table of runs; empty where there is none."""
    found = search.best
    if found is None:
        return ""
    point = " ".join(f"{a.key}={a.format_value(found.point[a.key])}" for a in search.axes if a.key in found.point)
    of = "median " if search.statistic == "median" and len(found.runs) > 1 else ""  # the table above has means
    return f"best {of}{search.objective}: {format_result(found)} of trial {found.number} ({point})"
