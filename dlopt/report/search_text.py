"""Text about a search: its space and progress, the best trial, importances, effects, warnings, and the next command."""

from __future__ import annotations

import shlex
import textwrap
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dlopt.analysis import importance
from dlopt.analysis.run_table import find_varying_settings
from dlopt.analysis.search_axis import SearchAxis
from dlopt.analysis.search_record import ENDED_STATES, SearchRecord, TrialRecord
from dlopt.formatting import format_duration, format_metric, format_override
from dlopt.report.tables import format_uncertain
from dlopt.report.text_table import BOLD, DIM, YELLOW, TextTable, apply_style, shorten_keys
from dlopt.rundir.display import display_path

MAX_TRIALS_SHOWN = 10
"""Number of trials in the table of the best."""
MAX_AXES_SHOWN = 4
"""Number of hyperparameters whose effects are shown without --all."""
MAX_LEVELS_SHOWN = 12
"""Number of values of a hyperparameter that are shown without --all."""
BAR_WIDTH = 30
EPOCHS_FACTOR = 4
"""Factor on the epochs in the command that trains the best configuration again."""
N_RETRAIN_SEEDS = 3


def format_head(search: SearchRecord, place: str, width: int) -> list[str]:
    """Return lines with the sweep's directory, its search space and sampler, and its progress."""
    least = "largest" if search.higher_is_better else "smallest"
    counts = [f"{n} {what}" for n, what in ((search.seeds, "seeds"), (search.folds, "folds")) if n]
    repeated = f", {search.statistic} over {' and '.join(counts)}" if counts else ""
    by = f"{search.sampler}, for" if search.sampler else "for"
    limits = {key: f" ({options} only)" for key, options in search.conditions.items()}
    searched = "; ".join(f"{axis.key} {axis.describe_range()}{limits.get(axis.key, '')}" for axis in search.axes)
    lines = [apply_style(place, BOLD)]
    found = f"{by} the {least} {search.objective}{repeated}"
    texts = [searched or "nothing that varies", found, format_progress(search)]
    if "://" in search.storage:
        texts.append(f"these are the trials of this directory; its study, in {search.storage}, may have others")
    for text in texts:
        lines += textwrap.wrap(text, width, subsequent_indent="  ", break_on_hyphens=False)
    return lines


def format_progress(search: SearchRecord) -> str:
    """Return a line with the number of trials by state, and their training time."""
    states = Counter(t.state for t in search.trials)
    ended = sum(states[s] for s in ENDED_STATES)
    order = ("done", "pruned", "diverged", "failed", "running", "interrupted", "dead")
    shares = {s: f" ({states[s] / ended:.0%})" if s in ENDED_STATES[1:] and ended else "" for s in order}
    # Failed trials that were repeated can bring the number above the planned one.
    planned = f" of {search.n_planned}" if search.n_planned and ended <= search.n_planned else ""
    if not search.trials:
        return f"none{planned} trials has begun"
    line = f"{ended}{planned} trials have ended"
    for separator, is_ended in ((": ", True), ("; ", False)):
        counts = [f"{states[s]} {s}{shares[s]}" for s in order if states[s] and (s in ENDED_STATES) is is_ended]
        line += separator + ", ".join(counts) if counts else ""
    started = min((r.started for t in search.trials for r in t.runs if r.started), default=None)
    line += f"; started {time.strftime('%Y-%m-%d %H:%M', time.localtime(started))}" if started else ""
    return f"{line}; {format_duration(sum(t.seconds for t in search.trials))} of training"


def format_best(search: SearchRecord, place: str, width: int) -> list[str]:
    """Return lines with the value, configuration and directory of the best trial, and the number of ties."""
    best = search.best
    if best is None:
        return [f"no trial has a {search.objective} yet"]
    point = "  ".join(_format_point(search, best))
    lines = [
        apply_style(f"best: trial {best.number}, {search.objective} {format_uncertain(best.value, best.sd)}", BOLD)
    ]
    lines += textwrap.wrap(point, width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    lines.append(f"  {place}")
    ties = importance.count_level_with_best(search) - 1
    if ties > 0:
        lines.append(f"  {ties} more {'is' if ties == 1 else 'are'} within its standard deviation over repeats")
    return lines


def _format_point(search: SearchRecord, trial: TrialRecord) -> list[str]:
    return [f"{a.key}={a.format_value(trial.point[a.key])}" for a in search.axes if a.key in trial.point]


def format_retrain_command(search: SearchRecord, common: Sequence[str], width: int) -> list[str]:
    """Return the command that trains the best configuration again, with four times the epochs and untried seeds.

    common: the overrides common to all trials.
    """
    if search.best is None:
        return []
    settings = search.best.runs[0].settings
    length = "steps" if isinstance(settings.get("steps"), int) else "epochs"
    lacking = search.conditions.keys() - settings.keys()
    keys = {length, "seed", "name", "resume", *lacking, *(a.key for a in search.axes)}
    words = [word for word in common if word.partition("=")[0] not in keys and not word.startswith("hydra")]
    chosen = [a for a in search.axes if a.key in settings and a.key != "seed"]
    words += [f"{_find_typed_key(search, a)}={format_override(settings[a.key])}" for a in chosen]
    if isinstance(settings.get(length), (int, float)) and length not in {a.key for a in search.axes}:
        words.append(f"{length}={settings[length] * EPOCHS_FACTOR}")
    seeds = [s for t in search.trials for r in t.runs if isinstance(s := r.settings.get("seed"), int)]
    first = max(seeds, default=-1) + 1
    words.append(f"seed={','.join(str(first + i) for i in range(N_RETRAIN_SEEDS))}")
    flags = ["--config-dir", display_path(Path(search.config_dir))] if search.config_dir else []
    lines = [shlex.join(["dlopt", "train", "-m", *flags])]
    for word in map(shlex.quote, words):
        if len(lines[-1]) + len(word) + 5 > width:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f" {word}"
    return [f"  {line}" for line in lines]


def _find_typed_key(search: SearchRecord, axis: SearchAxis) -> str:
    """Return the key as it was typed, with a plus if the configuration lacks it."""
    names = (word.partition("=")[0] for word in search.command)
    return next((n for n in names if n.lstrip("+").rpartition("@")[2] == axis.key), axis.key)


def format_top(search: SearchRecord, width: int) -> list[str]:
    """Return the table of the best trials."""
    if search.best is None:
        return []
    keys = tuple(shorten_keys([axis.key for axis in search.axes]))
    header = ["trial", search.objective, *keys, "time"]
    rows = [
        [
            str(t.number),
            format_uncertain(t.value, t.sd),
            *(a.format_value(t.point[a.key]) if a.key in t.point else "-" for a in search.axes),
            format_duration(t.seconds),
        ]
        for t in search.ranked_trials[:MAX_TRIALS_SHOWN]
    ]
    right = [True, True, *(a.is_numeric for a in search.axes), True]
    remedy = "dlopt runs SWEEP --columns A,B shows them"
    return TextTable(header, rows, right, droppable=("time",), remedy=remedy).lines(width)


def format_stages(search: SearchRecord, width: int) -> list[str]:
    """Return the table of the runs of greedy pretraining in their order, with the settings in which they differ."""
    runs = [t.runs[0] for t in search.trials]
    names = [name for name in find_varying_settings(runs) if name != "init.run"]
    header = ["stage", *shorten_keys(names), search.objective, "", "time"]
    rows = [
        [
            str(t.number + 1),
            *(format_override(run.settings[name]) if name in run.settings else "-" for name in names),
            format_uncertain(t.value, t.sd),
            "" if t.state == "done" else t.state,
            format_duration(t.seconds),
        ]
        for t, run in zip(search.trials, runs, strict=True)
    ]
    right = [True, *[False] * len(names), True, False, True]
    return TextTable(header, rows, right, droppable=("time",), remedy="dlopt runs SWEEP shows them").lines(width)


def format_importances(shares: dict[str, float], method: str, width: int) -> list[str]:
    """Return a bar for each hyperparameter, and how the importances were computed."""
    if not method:
        return []
    longest = max(map(len, shares), default=0)
    lines = [apply_style("importance", BOLD)] if shares else []
    lines += [f"  {key:<{longest}}  {share:4.0%}  {format_bar(share)}".rstrip() for key, share in shares.items()]
    return lines + [apply_style(x, DIM) for x in textwrap.wrap(f"({method})", width, break_on_hyphens=False)]


def format_bar(share: float) -> str:
    """Return a bar as long as a share, to an eighth of a character."""
    eighths = round(share * BAR_WIDTH * 8)
    return "█" * (eighths // 8) + ("", *"▏▎▍▌▋▊▉")[eighths % 8]


def format_effects(search: SearchRecord, order: Sequence[str], width: int, *, everything: bool = False) -> list[str]:
    """Return a table of effects for each hyperparameter, in this order of keys."""
    axes = sorted(search.axes, key=lambda a: order.index(a.key) if a.key in order else len(order))
    lines: list[str] = []
    shown = axes if everything else axes[:MAX_AXES_SHOWN]

    def rank(level: importance.Level) -> float:
        if level.median is None:
            return float("inf")
        return -level.median if search.higher_is_better else level.median

    for axis in shown:
        levels = [level for level in importance.group_by_level(axis, search.trials) if level.values or level.n_diverged]
        omitted = {v.name for v in sorted(levels, key=rank)[len(levels) if everything else MAX_LEVELS_SHOWN :]}
        has_diverged = any(level.n_diverged for level in levels if level.name not in omitted)
        header = [axis.key, "trials", *(["diverged"] if has_diverged else []), "best", "median", "mean", "sd"]
        rows = [
            [
                level.name,
                str(level.n_ended),
                *([str(level.n_diverged or "")] if has_diverged else []),
                *(format_metric(x) for x in (level.best(search.higher_is_better), level.median, level.mean, level.sd)),
            ]
            for level in levels
            if level.name not in omitted
        ]
        if rows:
            right = [axis.is_numeric and not axis.is_binned, *[True] * (len(header) - 1)]
            droppable, remedy = tuple(header[:1:-1]), "they need a wider terminal"
            lines += ["", *TextTable(header, rows, right, droppable=droppable, remedy=remedy).lines(width)]
            if len(rows) < len(levels):
                notice = f"({len(levels) - len(rows)} values with a worse median left out; --all)"
                lines.append(apply_style(notice, DIM))
    if len(shown) < len(axes):
        notice = f"(left out: {', '.join(a.key for a in axes[MAX_AXES_SHOWN:])}; --all)"
        lines += ["", *(apply_style(x, DIM) for x in textwrap.wrap(notice, width, break_on_hyphens=False))]
    return lines[1:]


def format_warnings(search: SearchRecord, width: int) -> list[str]:
    """Return warnings about a best trial on the border, regions that diverge, and files that cannot be read."""
    texts = []
    for border in importance.find_borders(search):
        axis = border.axis
        end = "largest" if border.upper else "smallest"
        value = axis.format_value(border.value)
        position = f"is the {end} tried"
        if axis.is_interval and border.value not in (axis.low, axis.high):
            position = f"is at the {'upper' if border.upper else 'lower'} end of {axis.describe_range()}"
        texts.append(
            f"{axis.key}: the best, {value}, {position}; widen it {'upwards' if border.upper else 'downwards'}"
        )
    region = importance.find_divergence(search)
    if region is not None:
        first, last = region.first, region.last
        span = first.name
        if first is not last:
            low = first.name.partition("..")[0] if first.low is not None else first.name
            high = last.name.rpartition("..")[2] if last.low is not None else last.name
            span = f"{low} to {high}"
        texts.append(f"{region.axis.key}: with {span} {region.n_diverged} of {region.n_ended} trials diverged")
    without = sum(t.state == "done" and t.value is None for t in search.trials)
    if without:
        texts.append(f"{without} trials that are done have no {search.objective}")
    if search.notice:
        texts.append(f"{search.notice}; shown is what varies among the runs")
    lines: list[str] = []
    for text in texts:
        wrapped = textwrap.wrap(text, width - 9, break_on_hyphens=False)
        lines += [apply_style(("warning: " if i == 0 else " " * 9) + x, YELLOW) for i, x in enumerate(wrapped)]
    return lines


def format_best_line(search: SearchRecord) -> str:
    """Return a line with the best trial, for below a table of runs; empty if there is none."""
    best = search.best
    if best is None:
        return ""
    statistic = "median " if search.statistic == "median" and len(best.runs) > 1 else ""  # the table above has means
    value = format_uncertain(best.value, best.sd)
    point = " ".join(_format_point(search, best))
    return f"best {statistic}{search.objective}: {value} of trial {best.number} ({point})"
