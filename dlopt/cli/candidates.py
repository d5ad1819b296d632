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
    from dlopt.config.compose.static_config import Outline

TAKES = {
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

ONE = (*compose_groups.SINGLE, *compose_groups.SEARCH)
"""The groups of which one option is chosen."""

MOST_RUNS = 200
"""Of the newest; more would be no help on a screen."""


class Line(NamedTuple):
    """The words behind the command: those before the cursor, and those after it."""

    before: Sequence[str]
    after: Sequence[str] = ()


def candidates(words: Sequence[str], after: Sequence[str] = ()) -> list[str]:
    """What the last of the words may become, as whole words; `after` are the words behind the cursor.

    The words follow `dlopt` and hold no quotes. A candidate that ends in `=`, `,` or `/` is to be typed on.
    """
    *before, word = words
    if not before:
        return _beginning(word, ["--help", "--version"] if word.startswith("-") else COMMANDS)
    command, *before = before
    if command not in COMMANDS or command not in TAKES:
        return []
    places, flags = _taken(TAKES[command])
    found: Iterable[str]
    line = Line(before, after)
    flag, equals, value = word.partition("=")
    if before and flags.get(before[-1]):
        found = _kind(flags[before[-1]], word, line)
    elif word.startswith("-") and equals:
        found = [f"{flag}={v}" for v in _kind(flags.get(flag, ""), value, line)]
    elif word.startswith("-"):
        found = _beginning(word, flags)
    else:
        placed = sum(not w.startswith("-") and not flags.get(b) for b, w in pairwise(["", *before]))
        several = places and places[-1].endswith("...")
        place = places[min(placed, len(places) - 1) if several else placed :][:1]
        found = _kind(place[0].removesuffix("..."), word, line) if place else _beginning(word, flags)
    return list(dict.fromkeys(c for c in found if c.isprintable()))


def _taken(usage: str) -> tuple[list[str], dict[str, str]]:
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


def _kind(kind: str, word: str, line: Line) -> Iterator[str]:
    for name in kind.split("|"):
        yield from KINDS[name](word, line) if name in KINDS else _beginning(word, [name] if name.islower() else [])


def _beginning(word: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(word)]


# ------------------------------------------------------------------------------------------- kinds


def runs(word: str, line: Line) -> list[str]:
    """`last` and the runs below outputs, the newest first; a part of a name stands for the one run that has it."""
    from dlopt.rundir import find

    known = [str(path) for path in reversed(find.runs())]
    found = _beginning(word, known)[:MOST_RUNS]
    if word and not found:
        named = [path for path in known if word in path]
        found = named if len(named) == 1 else []
    return (_beginning(word, ["last"]) if known else []) + found


def sweeps(word: str, line: Line) -> list[str]:
    """`last` and the sweeps, the newest first."""
    from dlopt.rundir import find

    known = [str(path) for path in reversed(find.sweeps())]
    return (_beginning(word, ["last"]) if known else []) + _beginning(word, known)[:MOST_RUNS]


def steps(word: str, line: Line) -> list[str]:
    """The kept checkpoints of the run on the line, by their steps."""
    from dlopt.rundir.find import RunNotFound, find

    named = [w for flag, w in pairwise(["", *line.before]) if not w.startswith("-") and not flag.startswith("--")]
    try:
        return _beginning(word, map(str, sorted(find(*named[:1]).older_checkpoints())))
    except RunNotFound:
        return []


def data_sets(word: str, line: Line) -> list[str]:
    return _beginning(word, compose_groups.options("data"))


def metrics(word: str, line: Line) -> list[str]:
    from dlopt.metrics.names import HEADLINE

    return _beginning(word, HEADLINE)


def files(word: str, line: Line) -> list[str]:
    """Files and directories; those with a dot in front only when it is typed."""
    return [path + "/" * is_folder for path, is_folder in _entries(word)]


def folders(word: str, line: Line) -> list[str]:
    return [path + "/" for path, is_folder in _entries(word) if is_folder]


def _entries(word: str) -> list[tuple[str, bool]]:
    typed = f"{Path.home()}{word[1:]}" if word.startswith("~/") else word
    folder, slash, name = typed.rpartition("/")
    try:
        with os.scandir(folder + slash or ".") as entries:
            found = [(e.name, e.is_dir()) for e in entries if e.name.startswith(name)]
    except OSError:
        return []
    return sorted((folder + slash + n, is_folder) for n, is_folder in found if name or not n.startswith("."))


def groups(word: str, line: Line) -> list[str]:
    group, equals, option = word.partition("=")
    if equals:  # optimizer=adam will do too
        return [f"{group}={o}" for o in _beginning(option, compose_groups.options(group))]
    return _beginning(word, compose_groups.listed())


def options(word: str, line: Line) -> list[str]:
    group = next(w for w in line.before if not w.startswith("-"))
    return _beginning(word, compose_groups.options(group) if group in compose_groups.listed() else [])


def keys(word: str, line: Line) -> list[str]:
    """Groups and keys, as names."""
    return [name.removesuffix("=") for name in _names("", word, line)]


def overrides(word: str, line: Line) -> list[str]:
    """GROUP=OPTION and KEY=VALUE; +KEY adds one, ++KEY sets or adds it, ~KEY takes it away."""
    sign = next(sign for sign in ("++", "+", "~", "") if word.startswith(sign))
    name, equals, value = word.removeprefix(sign).partition("=")
    if not equals:
        return [sign + found for found in _names(sign, name, line)]
    return [f"{sign}{name}={found}" for found in _values(name, value, line)] if sign != "~" else []


KINDS: dict[str, Callable[[str, Line], Iterable[str]]] = {
    "RUN": runs,
    "SWEEP": sweeps,
    "DATA": data_sets,
    "METRIC": metrics,
    "STEP": steps,
    "DIR": folders,
    "FILE": files,
    "GROUP": groups,
    "OPTION": options,
    "KEY": keys,
    "OVERRIDE": overrides,
}


# ------------------------------------------------------------------------------------------- overrides


def _outline(line: Line) -> Outline:
    from dlopt.config.compose.static_config import Outline

    words = [*line.before, *line.after]
    pairs = [w.lstrip("+").partition("=") for w in words if not w.startswith(("-", "~"))]
    behind = [w for flag, w in pairwise(words) if flag in ("--config-dir", "-cd")]
    within = [w.partition("=")[2] for w in words if w.startswith("--config-dir=")]
    own = [Path(w).expanduser() for w in behind + within]
    return Outline({key: value for key, equals, value in pairs if equals}, own)


def _names(sign: str, word: str, line: Line) -> list[str]:
    """The groups and keys that can follow a sign; the keys of a group only once its name and a dot are typed."""
    outline = _outline(line)
    top, dot, _ = word.partition(".")
    if sign == "+":  # what the configuration does not have
        found = outline.addable(top) if dot else [g for g in outline.groups() if g not in outline.defaults()]
    else:
        found = [] if dot else [g for g in outline.groups() if sign != "~" or g not in ONE]
        known = outline.keys(top if dot else "") if dot or sign != "~" else {}
        private = "._" in word  # such as optimizer._target_, which has to be typed where it is ??? alone
        found += [key for key, value in known.items() if private or value == "???" or "._" not in key]
    ending = "" if sign == "~" else "="
    return [name + ending for name in _beginning(word, found) if name not in outline.typed]


def _values(name: str, value: str, line: Line) -> list[str]:
    """What can follow `name=`; in a sweep, or a list of options, what can follow the last comma."""
    if name == "resume":
        from dlopt.rundir.find import SWEEP_FILE

        return [*runs(value, line), *(path for path in sweeps(value, line) if Path(path, SWEEP_FILE).is_file())]
    if name.rpartition(".")[2] in ("path", "dir"):
        return files(value, line)
    outline = _outline(line)
    group = outline.group_at(name)
    if group is not None:
        return _options(outline.options(group), value, several=group not in (*ONE, "experiment"))
    head, last, inside = _last(value)
    used = [] if inside else head.split(",")
    return [] if inside else [head + w for w in _beginning(last, outline.values(name)) if w not in used]


def _options(known: Sequence[str], value: str, several: bool) -> list[str]:
    head, last, inside = _last(value)
    if value.endswith("]"):
        return [value]
    if inside and not several:
        return []
    used = head.rpartition("[")[2].split(",") if inside else head.split(",")
    left = [option for option in known if option not in used and not (inside and option == "none")]
    found = _beginning(last, left)
    if inside and (last in found or len(found) == 1):  # this one is whole: close the list, or name another
        whole = last if last in found else found[0]
        more = [whole + "]", whole + ","] if len(left) > 1 else [whole + "]"]
        found = [*more, *(option for option in found if option != whole)]
    return [head + option for option in found]


def _last(value: str) -> tuple[str, str, bool]:
    """A value cut before what is being typed: behind the last comma or bracket. Whether that lies in a list."""
    at = max(value.rfind(","), value.rfind("[")) + 1
    return value[:at], value[at:], value.count("[") > value.count("]")
