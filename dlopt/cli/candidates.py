"""Tab completion: from the words of a `dlopt` line to the candidates at the cursor."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dlopt.cli import COMMANDS
from dlopt.config.compose import groups as compose_groups
from dlopt.config.compose.nested_options import PARAMETER_GROUPS

if TYPE_CHECKING:
    from dlopt.config.compose.static_config import StaticConfig

USAGES = {
    "train": "OVERRIDE... --multirun -m --quiet -q --help -h --cfg job|hydra|all --resolve --config-dir DIR"
    " --info all|config|defaults|defaults-tree|plugins|searchpath --hydra-help --trust"
    " --dry-run --yes",
    "race": "RACE... --starts TEXT --tune TEXT --title TEXT --out DIR --config-dir DIR --quiet -q --help",
    "list": "GROUP OPTION --config-dir DIR --pages DIR --help",
    "show": "RUN|SWEEP --all --plot METRIC --png FILE --title TEXT --heat KEY --batch --examples N --trust --help",
    "runs": "SWEEP|DIR --where OVERRIDE --sort METRIC|KEY --reverse --over KEY --across KEY --columns METRIC|KEY --all"
    " --csv --markdown --png FILE --title TEXT --tensorboard DIR --help",
    "evaluate": "RUN --split train|val|test|all --checkpoint best|last|average|STEP --data DATA|FILE"
    " --device auto|cpu|cuda --predictions FILE --png FILE --title TEXT --trust --quiet -q --help",
    "predict": "RUN|FILE... --out FILE --checkpoint best|last|average|STEP --ensemble --top N --data DATA|FILE"
    " --batch-size N --device auto|cpu|cuda --trust --quiet -q --help",
    "export": "RUN --to onnx|torch_export|safetensors --out FILE --checkpoint best|last|average|STEP --probabilities"
    " --opset N --tolerance N --data DATA|FILE --trust --quiet -q --help",
    "landscape": "RUN --directions random|pca|eigenvectors --to RUN --dims N --points N --extent N --seed N --cka"
    " --checkpoint best|last|average|STEP --to-checkpoint best|last|average|STEP --split train|val"
    " --examples N --metric METRIC --statistics stored|recomputed --out DIR --title TEXT --device auto|cpu|cuda"
    " --trust --quiet -q --help",
    "spectrum": "RUN --checkpoint best|last|average|STEP|all --matrix hessian|gauss_newton --split train|val"
    " --examples N --lanczos-steps N --vectors N --out DIR --title TEXT --device auto|cpu|cuda --trust --quiet -q"
    " --help",
    "verify": "RUN --from STEP --to STEP --all --trust --quiet -q --help",
    "rerun": "RUN --trust --quiet -q --help",
    "tensorboard": "RUN|DIR --help",
    "completion": "bash|zsh --help",
}
"""The arguments of each command: positional ones in order, then flags, each followed by its value if it takes one.

Capitals name a function of KINDS, lower-case words stand for themselves, `|` means or, and `...` means any number.
They are written here, not read from the parsers: building a parser imports the command, which takes 0.14 to 0.36 s,
and a completion may take 0.1 s. A test compares them with the parsers.
"""

CONFIG_FLAGS = ("--config-dir", "-cd")
"""The flags of a folder with options of the user."""

MAX_RUNS = 200
"""Largest number of runs offered, the newest first: a screen holds no more."""


class CompletionLine(NamedTuple):
    """The words after the command: those before the cursor, and those after it."""

    before: Sequence[str]
    after: Sequence[str] = ()


def find_candidates(words: Sequence[str], after: Sequence[str] = ()) -> list[str]:
    """Return the words that the last word can be completed to; `after` are the words after the cursor.

    The words follow `dlopt` and hold no quotes. A candidate that ends in `=`, `,` or `/` is not complete.
    """
    *before, word = words
    if not before:
        return _filter_prefix(word, ["--help", "--version"] if word.startswith("-") else COMMANDS)
    command, *before = before
    if command not in COMMANDS or command not in USAGES:
        return []
    positional, flags = _parse_usage(USAGES[command])
    candidates: Iterable[str]
    line = CompletionLine(before, after)
    flag, equals, value = word.partition("=")
    if before and flags.get(before[-1]):
        candidates = _complete_kind(flags[before[-1]], word, line)
    elif word.startswith("-") and equals:
        candidates = [f"{flag}={v}" for v in _complete_kind(flags.get(flag, ""), value, line)]
    elif word.startswith("-"):
        candidates = _filter_prefix(word, flags)
    else:
        position = sum(not w.startswith("-") and not flags.get(b) for b, w in pairwise(["", *before]))
        if positional and positional[-1].endswith("..."):
            position = min(position, len(positional) - 1)
        kinds = positional[position : position + 1]
        candidates = _complete_kind(kinds[0].removesuffix("..."), word, line) if kinds else _filter_prefix(word, flags)
    return list(dict.fromkeys(c for c in candidates if c.isprintable()))


def _parse_usage(usage: str) -> tuple[list[str], dict[str, str]]:
    """Return the positional arguments and the flags of a usage."""
    positional: list[str] = []
    flags: dict[str, str] = {}
    flag = ""
    for token in usage.split():
        if token.startswith("-"):
            flag = token
            flags[flag] = ""
        elif flag:
            flags[flag] = token
        else:
            positional.append(token)
    return positional, flags


def _complete_kind(kind: str, word: str, line: CompletionLine) -> Iterator[str]:
    for name in kind.split("|"):
        yield from KINDS[name](word, line) if name in KINDS else _filter_prefix(word, [name] if name.islower() else [])


def _filter_prefix(word: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(word)]


# ------------------------------------------------------------------------------------------- kinds


def complete_runs(word: str, line: CompletionLine) -> list[str]:
    """Complete to `last` and the runs in outputs/, the newest first, or to the only run whose name has this part."""
    from dlopt.rundir import find

    paths = [str(path) for path in reversed(find.list_runs())]
    matches = _complete_paths(word, paths)
    containing = [path for path in paths if word in path]
    return containing if word and not matches and len(containing) == 1 else matches


def complete_sweeps(word: str, line: CompletionLine) -> list[str]:
    """Complete to `last` and the sweeps, the newest first."""
    from dlopt.rundir import find

    return _complete_paths(word, [str(path) for path in reversed(find.list_sweeps())])


def _complete_paths(word: str, paths: Sequence[str]) -> list[str]:
    return (_filter_prefix(word, ["last"]) if paths else []) + _filter_prefix(word, paths)[:MAX_RUNS]


def complete_steps(word: str, line: CompletionLine) -> list[str]:
    """Complete to the steps of the older checkpoints of the run on the line."""
    from dlopt.rundir.find import RunNotFound, find_run

    names = [w for flag, w in pairwise(["", *line.before]) if not w.startswith("-") and not flag.startswith("--")]
    try:
        return _filter_prefix(word, map(str, sorted(find_run(*names[:1]).older_checkpoints())))
    except RunNotFound:
        return []


def complete_metrics(word: str, line: CompletionLine) -> list[str]:
    from dlopt.metrics.names import HEADLINE

    return _filter_prefix(word, HEADLINE)


def complete_files(word: str, line: CompletionLine) -> list[str]:
    """Complete to files and folders; hidden ones only if the dot is typed."""
    path = f"{Path.home()}{word[1:]}" if word.startswith("~/") else word
    folder, slash, name = path.rpartition("/")
    try:
        with os.scandir(folder + slash or ".") as entries:
            matches = [(e.name, e.is_dir()) for e in entries if e.name.startswith(name)]
    except OSError:
        return []
    return [folder + slash + n + "/" * is_folder for n, is_folder in sorted(matches) if name or not n.startswith(".")]


def complete_groups(word: str, line: CompletionLine) -> list[str]:
    group, equals, option = word.partition("=")
    config = _load_static_config(line)
    if equals:  # `dlopt list` accepts optimizer=adam, too
        return [f"{group}={o}" for o in _filter_prefix(option, config.list_options(group))]
    return _filter_prefix(word, [*config.list_all_groups(), compose_groups.SETTINGS])


def complete_options(word: str, line: CompletionLine) -> list[str]:
    config = _load_static_config(line)
    groups = [
        w for flag, w in pairwise(["", *line.before]) if w in config.list_all_groups() and flag not in CONFIG_FLAGS
    ]
    return _filter_prefix(word, config.list_options(groups[0]) if groups else [])


def complete_keys(word: str, line: CompletionLine) -> list[str]:
    """Complete to the names of groups and keys."""
    return [name.removesuffix("=") for name in _complete_names("", word, line)]


def complete_overrides(word: str, line: CompletionLine) -> list[str]:
    """Complete GROUP=OPTION and KEY=VALUE; +KEY adds a key, ++KEY sets or adds it, ~KEY removes it."""
    sign = next(sign for sign in ("++", "+", "~", "") if word.startswith(sign))
    name, equals, value = word.removeprefix(sign).partition("=")
    if not equals:
        return [sign + candidate for candidate in _complete_names(sign, name, line)]
    return [f"{sign}{name}={candidate}" for candidate in _complete_values(name, value, line)] if sign != "~" else []


def complete_race(word: str, line: CompletionLine) -> list[str]:
    """Complete the words of a race: surface=NAME, optimizer=A,B, A.KEY=VALUE and surface.KEY=VALUE."""
    from dlopt.landscape.arguments import KEYS, OPTIMIZERS, parse_optimizers

    typed = _load_static_config(line)
    racing = parse_optimizers(typed.overrides.get("optimizer", OPTIMIZERS))
    name, equals, value = word.partition("=")
    if equals and name == "optimizer":
        return [f"{name}={names}" for names in _complete_option_list(typed.list_options(name), value, is_list=False)]
    owners = {"surface": ("arch", "surface"), **{name: ("optimizer", option) for name, option in racing}}
    top, dot, last = name.partition(".")
    if equals:
        group, option = owners.get(top, ("arch", "surface"))
        key = f"{group}.{last}" if dot else {"surface": "arch.function"}.get(name, name)
        values = _replace_overrides(typed, {group: option}).suggest_values(key)
        return [f"{name}={v}" for v in _filter_prefix(value, [*values, *(["custom"] if name == "surface" else [])])]
    keys = list(KEYS)
    for owner, (group, option) in owners.items() if word else ():
        found = _replace_overrides(typed, {group: option}).keys(group)
        keys += [f"{owner}.{key.removeprefix(f'{group}.')}" for key in found if "._" not in key]
    unused = [f"{key}=" for key in keys if key not in typed.overrides and key != "surface.function"]
    return _filter_prefix(word, unused)


def _replace_overrides(config: StaticConfig, overrides: dict[str, str]) -> StaticConfig:
    """Return a configuration in the same folders, with other overrides."""
    return type(config)(overrides, config.folders[1:])


KINDS: dict[str, Callable[[str, CompletionLine], Iterable[str]]] = {
    "RUN": complete_runs,
    "SWEEP": complete_sweeps,
    "DATA": lambda word, line: _filter_prefix(word, compose_groups.list_option_names("data")),
    "METRIC": complete_metrics,
    "STEP": complete_steps,
    "DIR": lambda word, line: [path for path in complete_files(word, line) if path.endswith("/")],
    "FILE": complete_files,
    "GROUP": complete_groups,
    "OPTION": complete_options,
    "KEY": complete_keys,
    "OVERRIDE": complete_overrides,
    "RACE": complete_race,
    "TEXT": lambda word, line: [],
    "N": lambda word, line: [],
}


# ------------------------------------------------------------------------------------------- overrides


def _load_static_config(line: CompletionLine) -> StaticConfig:
    from dlopt.config.compose.static_config import StaticConfig

    words = [*line.before, *line.after]
    pairs = [w.lstrip("+").partition("=") for w in words if not w.startswith(("-", "~"))]
    folders = [w for flag, w in pairwise(words) if flag in CONFIG_FLAGS]
    folders += [w.partition("=")[2] for w in words if w.startswith("--config-dir=")]
    return StaticConfig({key: value for key, equals, value in pairs if equals}, [Path(w).expanduser() for w in folders])


def _complete_names(sign: str, word: str, line: CompletionLine) -> list[str]:
    """Complete the groups and keys after a sign; a group's keys only after its name and a dot."""
    config = _load_static_config(line)
    top, dot, _ = word.partition(".")
    if sign == "+":  # groups and keys that the configuration lacks
        new_groups = [g for g in config.list_groups() if g not in config.default_options()]
        names = config.list_addable_keys(top) if dot else new_groups
    else:
        removable = [g for g in config.list_groups() if compose_groups.takes_several(g) or g == compose_groups.PRESETS]
        names = [] if dot else removable if sign == "~" else config.list_groups()
        keys = config.keys(top if dot else "") if dot or sign != "~" else {}
        if dot and word.startswith(PARAMETER_GROUPS[: max(len(word), len(top) + 2)]):
            keys |= config.keys(PARAMETER_GROUPS)
        is_private = "._" in word  # otherwise optimizer._target_ is offered only if it must be set
        names += [key for key, value in keys.items() if is_private or value == "???" or "._" not in key]
    ending = "" if sign == "~" else "="
    return [name + ending for name in _filter_prefix(word, names) if name not in config.overrides]


def _complete_values(name: str, value: str, line: CompletionLine) -> list[str]:
    """Complete the value after `name=`; in a sweep or a list, the part after the last comma."""
    if name == "resume":
        from dlopt.rundir.find import SWEEP_FILE

        return [
            *complete_runs(value, line),
            *(path for path in complete_sweeps(value, line) if Path(path, SWEEP_FILE).is_file()),
        ]
    if name.rpartition(".")[2] in ("path", "dir"):
        return complete_files(value, line)
    config = _load_static_config(line)
    group = config.find_group(name)
    if group is not None:
        return _complete_option_list(config.list_options(group), value, is_list=compose_groups.takes_several(group))
    head, last, in_brackets = _split_last(value)
    if in_brackets:
        return []
    used = head.split(",")
    return [head + w for w in _filter_prefix(last, config.suggest_values(name)) if w not in used]


def _complete_option_list(options: Sequence[str], value: str, *, is_list: bool) -> list[str]:
    """Complete the last of several options; is_list: the group accepts a list in brackets."""
    head, last, in_brackets = _split_last(value)
    if value.endswith("]"):
        return [value]
    if in_brackets and not is_list:
        return []
    used = head.rpartition("[")[2].split(",") if in_brackets else head.split(",")
    unused = [option for option in options if option not in used and not (in_brackets and option == "none")]
    matches = _filter_prefix(last, unused)
    if in_brackets and (last in matches or len(matches) == 1):  # the option is complete: close the list, or add another
        option = last if last in matches else matches[0]
        closed = [option + "]", option + ","] if len(unused) > 1 else [option + "]"]
        matches = [*closed, *(other for other in matches if other != option)]
    return [head + match for match in matches]


def _split_last(value: str) -> tuple[str, str, bool]:
    """Split a value after its last comma or bracket; the third item tells whether a list is open there."""
    at = max(value.rfind(","), value.rfind("[")) + 1
    return value[:at], value[at:], value.count("[") > value.count("]")
