"""What may stand at the cursor of a `dlopt` line: words in, candidates out, for tab completion."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dlopt.cli import COMMANDS
from dlopt.config.compose import groups as compose_groups

if TYPE_CHECKING:
    from dlopt.config.compose.static_config import StaticConfig

USAGES = {
    "train": "OVERRIDE... --multirun -m --quiet -q --help -h --cfg job|hydra|all --resolve --config-dir DIR"
    " --info all|config|defaults|defaults-tree|plugins|searchpath --hydra-help --trust"
    " --dry-run --yes",
    "list": "GROUP OPTION --help",
    "show": "RUN|SWEEP --all --png FILE --heat KEY --help",
    "runs": "SWEEP|DIR --where OVERRIDE --sort METRIC|KEY --reverse --over KEY --across KEY --columns METRIC|KEY --all"
    " --csv --markdown --png FILE --tensorboard DIR --help",
    "evaluate": "RUN --split train|val|test|all --checkpoint best|last|average|STEP --data DATA|FILE"
    " --device auto|cpu|cuda --png FILE --trust --quiet -q --help",
    "verify": "RUN --from STEP --to STEP --all --trust --quiet -q --help",
    "rerun": "RUN --trust --quiet -q --help",
    "tensorboard": "RUN|DIR --help",
    "completion": "bash|zsh --help",
}
"""What stands behind each command, in order, then its flags, each followed by what it takes if it takes anything.
Capitals are a function of KINDS, small letters are themselves, `|` is or, `...` any number of them."""

"""The groups of which one option is chosen."""

MAX_RUNS = 200
"""Of the newest; more would be no help on a screen."""


class CompletionLine(NamedTuple):
    """The words behind the command: those before the cursor, and those after it."""

    before: Sequence[str]
    after: Sequence[str] = ()


def find_candidates(words: Sequence[str], after: Sequence[str] = ()) -> list[str]:
    """What the last of the words may become, as whole words; `after` are the words behind the cursor.

    The words follow `dlopt` and hold no quotes. A candidate that ends in `=`, `,` or `/` is to be typed on.
    """
    *before, word = words
    if not before:
        return _filter_prefix(word, ["--help", "--version"] if word.startswith("-") else COMMANDS)
    command, *before = before
    if command not in COMMANDS or command not in USAGES:
        return []
    places, flags = _parse_usage(USAGES[command])
    found: Iterable[str]
    line = CompletionLine(before, after)
    flag, equals, value = word.partition("=")
    if before and flags.get(before[-1]):
        found = _complete_kind(flags[before[-1]], word, line)
    elif word.startswith("-") and equals:
        found = [f"{flag}={v}" for v in _complete_kind(flags.get(flag, ""), value, line)]
    elif word.startswith("-"):
        found = _filter_prefix(word, flags)
    else:
        placed = sum(not w.startswith("-") and not flags.get(b) for b, w in pairwise(["", *before]))
        several = places and places[-1].endswith("...")
        place = places[min(placed, len(places) - 1) if several else placed :][:1]
        found = _complete_kind(place[0].removesuffix("..."), word, line) if place else _filter_prefix(word, flags)
    return list(dict.fromkeys(c for c in found if c.isprintable()))


def _parse_usage(usage: str) -> tuple[list[str], dict[str, str]]:
    """Places and flags of a usage."""
    places: list[str] = []
    flags: dict[str, str] = {}
    flag = ""
    for token in usage.split():
        if token.startswith("-"):
            flag = token
            flags[flag] = ""
        elif flag:
            flags[flag] = token
        else:
            places.append(token)
    return places, flags


def _complete_kind(kind: str, word: str, line: CompletionLine) -> Iterator[str]:
    for name in kind.split("|"):
        yield from KINDS[name](word, line) if name in KINDS else _filter_prefix(word, [name] if name.islower() else [])


def _filter_prefix(word: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(word)]


# ------------------------------------------------------------------------------------------- kinds


def complete_runs(word: str, line: CompletionLine) -> list[str]:
    """`last` and the runs below outputs, the newest first; a part of a name stands for the one run that has it."""
    from dlopt.rundir import find

    known = [str(path) for path in reversed(find.list_runs())]
    found = _filter_prefix(word, known)[:MAX_RUNS]
    if word and not found:
        named = [path for path in known if word in path]
        found = named if len(named) == 1 else []
    return (_filter_prefix(word, ["last"]) if known else []) + found


def complete_sweeps(word: str, line: CompletionLine) -> list[str]:
    """`last` and the sweeps, the newest first."""
    from dlopt.rundir import find

    known = [str(path) for path in reversed(find.list_sweeps())]
    return (_filter_prefix(word, ["last"]) if known else []) + _filter_prefix(word, known)[:MAX_RUNS]


def complete_steps(word: str, line: CompletionLine) -> list[str]:
    """The kept checkpoints of the run on the line, by their steps."""
    from dlopt.rundir.find import RunNotFound, find_run

    named = [w for flag, w in pairwise(["", *line.before]) if not w.startswith("-") and not flag.startswith("--")]
    try:
        return _filter_prefix(word, map(str, sorted(find_run(*named[:1]).older_checkpoints())))
    except RunNotFound:
        return []


def complete_data_sets(word: str, line: CompletionLine) -> list[str]:
    return _filter_prefix(word, compose_groups.list_option_names("data"))


def complete_metrics(word: str, line: CompletionLine) -> list[str]:
    from dlopt.metrics.names import HEADLINE

    return _filter_prefix(word, HEADLINE)


def complete_files(word: str, line: CompletionLine) -> list[str]:
    """Files and directories; those with a dot in front only when it is typed."""
    return [path + "/" * is_folder for path, is_folder in _list_entries(word)]


def complete_folders(word: str, line: CompletionLine) -> list[str]:
    return [path + "/" for path, is_folder in _list_entries(word) if is_folder]


def _list_entries(word: str) -> list[tuple[str, bool]]:
    typed = f"{Path.home()}{word[1:]}" if word.startswith("~/") else word
    folder, slash, name = typed.rpartition("/")
    try:
        with os.scandir(folder + slash or ".") as entries:
            found = [(e.name, e.is_dir()) for e in entries if e.name.startswith(name)]
    except OSError:
        return []
    return sorted((folder + slash + n, is_folder) for n, is_folder in found if name or not n.startswith("."))


def complete_groups(word: str, line: CompletionLine) -> list[str]:
    group, equals, option = word.partition("=")
    if equals:  # optimizer=adam will do too
        return [f"{group}={o}" for o in _filter_prefix(option, compose_groups.list_option_names(group))]
    return _filter_prefix(word, compose_groups.list_all_groups())


def complete_options(word: str, line: CompletionLine) -> list[str]:
    group = next(w for w in line.before if not w.startswith("-"))
    return _filter_prefix(
        word, compose_groups.list_option_names(group) if group in compose_groups.list_all_groups() else []
    )


def complete_keys(word: str, line: CompletionLine) -> list[str]:
    """Groups and keys, as names."""
    return [name.removesuffix("=") for name in _complete_names("", word, line)]


def complete_overrides(word: str, line: CompletionLine) -> list[str]:
    """GROUP=OPTION and KEY=VALUE; +KEY adds one, ++KEY sets or adds it, ~KEY takes it away."""
    sign = next(sign for sign in ("++", "+", "~", "") if word.startswith(sign))
    name, equals, value = word.removeprefix(sign).partition("=")
    if not equals:
        return [sign + found for found in _complete_names(sign, name, line)]
    return [f"{sign}{name}={found}" for found in _complete_values(name, value, line)] if sign != "~" else []


KINDS: dict[str, Callable[[str, CompletionLine], Iterable[str]]] = {
    "RUN": complete_runs,
    "SWEEP": complete_sweeps,
    "DATA": complete_data_sets,
    "METRIC": complete_metrics,
    "STEP": complete_steps,
    "DIR": complete_folders,
    "FILE": complete_files,
    "GROUP": complete_groups,
    "OPTION": complete_options,
    "KEY": complete_keys,
    "OVERRIDE": complete_overrides,
}


# ------------------------------------------------------------------------------------------- overrides


def _load_static_config(line: CompletionLine) -> StaticConfig:
    from dlopt.config.compose.static_config import StaticConfig

    words = [*line.before, *line.after]
    pairs = [w.lstrip("+").partition("=") for w in words if not w.startswith(("-", "~"))]
    behind = [w for flag, w in pairwise(words) if flag in ("--config-dir", "-cd")]
    within = [w.partition("=")[2] for w in words if w.startswith("--config-dir=")]
    own = [Path(w).expanduser() for w in behind + within]
    return StaticConfig({key: value for key, equals, value in pairs if equals}, own)


def _complete_names(sign: str, word: str, line: CompletionLine) -> list[str]:
    """The groups and keys that can follow a sign; the keys of a group only once its name and a dot are typed."""
    outline = _load_static_config(line)
    top, dot, _ = word.partition(".")
    if sign == "+":  # what the configuration does not have
        found = (
            outline.list_addable_keys(top)
            if dot
            else [g for g in outline.list_groups() if g not in outline.default_options()]
        )
    else:
        found = (
            []
            if dot
            else [
                g
                for g in outline.list_groups()
                if sign != "~" or compose_groups.takes_several(g) or g == compose_groups.PRESETS
            ]
        )
        known = outline.keys(top if dot else "") if dot or sign != "~" else {}
        private = "._" in word  # such as optimizer._target_, which has to be typed where it is ??? alone
        found += [key for key, value in known.items() if private or value == "???" or "._" not in key]
    ending = "" if sign == "~" else "="
    return [name + ending for name in _filter_prefix(word, found) if name not in outline.overrides]


def _complete_values(name: str, value: str, line: CompletionLine) -> list[str]:
    """What can follow `name=`; in a sweep, or a list of options, what can follow the last comma."""
    if name == "resume":
        from dlopt.rundir.find import SWEEP_FILE

        return [
            *complete_runs(value, line),
            *(path for path in complete_sweeps(value, line) if Path(path, SWEEP_FILE).is_file()),
        ]
    if name.rpartition(".")[2] in ("path", "dir"):
        return complete_files(value, line)
    outline = _load_static_config(line)
    group = outline.find_group(name)
    if group is not None:
        return _complete_option_list(outline.list_options(group), value, several=compose_groups.takes_several(group))
    head, last, inside = _split_last(value)
    used = [] if inside else head.split(",")
    return [] if inside else [head + w for w in _filter_prefix(last, outline.suggest_values(name)) if w not in used]


def _complete_option_list(known: Sequence[str], value: str, several: bool) -> list[str]:
    head, last, inside = _split_last(value)
    if value.endswith("]"):
        return [value]
    if inside and not several:
        return []
    used = head.rpartition("[")[2].split(",") if inside else head.split(",")
    left = [option for option in known if option not in used and not (inside and option == "none")]
    found = _filter_prefix(last, left)
    if inside and (last in found or len(found) == 1):  # this one is whole: close the list, or name another
        whole = last if last in found else found[0]
        more = [whole + "]", whole + ","] if len(left) > 1 else [whole + "]"]
        found = [*more, *(option for option in found if option != whole)]
    return [head + option for option in found]


def _split_last(value: str) -> tuple[str, str, bool]:
    """A value cut before what is being typed: behind the last comma or bracket. Whether that lies in a list."""
    at = max(value.rfind(","), value.rfind("[")) + 1
    return value[:at], value[at:], value.count("[") > value.count("]")
