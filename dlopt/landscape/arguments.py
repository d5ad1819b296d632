"""The arguments of a race: from the words that are typed to the overrides of one run for each optimizer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dlopt.config.compose import groups
from dlopt.config.compose.nested_options import get_key
from dlopt.config.problems import ConfigError
from dlopt.errors import did_you_mean
from dlopt.formatting import split_names

OPTIMIZERS = "sgd,momentum,nesterov,adagrad,rmsprop,adam,newton"
"""The optimizers that race if none are named."""
KEYS = ("surface", "optimizer", "steps", "start", "seed")
FIXED = ("data=none", "precision=float64", "device=cpu", "threads=1", "steps=500")


@dataclass(frozen=True)
class RaceArguments:
    """The surface and the optimizers of a race, with their overrides as `dlopt train` takes them.

    optimizers   the option of each optimizer, by the name that it has in the race
    common       the overrides that all optimizers share
    own          the overrides of each optimizer, by its name
    """

    surface: str
    optimizers: Mapping[str, str]
    common: tuple[str, ...]
    own: Mapping[str, tuple[str, ...]]

    def list_overrides(self, optimizer: str) -> list[str]:
        """Return the overrides of the run of one optimizer."""
        return [*self.common, f"optimizer={self.optimizers[optimizer]}", *self.own[optimizer]]

    def list_typed_keys(self, optimizer: str) -> list[str]:
        """Return the typed keys of an optimizer, such as lr=0.1."""
        return [override.lstrip("+").removeprefix("optimizer.") for override in self.own[optimizer]]

    def label_optimizer(self, name: str, tuned: float | None = None) -> str:
        """Return the name of an optimizer with its typed keys and its tuned learning rate, for a legend."""
        keys = self.list_typed_keys(name) + ([] if tuned is None else [f"lr={tuned:g}"])
        return _label(name, keys)

    def label_surface(self) -> str:
        """Return the name of the surface with its typed keys, for a title."""
        keys = [o.lstrip("+").removeprefix("arch.") for o in self.common if o.lstrip("+").startswith("arch.")]
        return _label(self.surface, [key for key in keys if not key.startswith("function=")])

    def list_typed_lrs(self) -> list[str]:
        """Return the optimizers whose learning rate is typed."""
        typed = {name: {get_key(override) for override in overrides} for name, overrides in self.own.items()}
        return [name for name, keys in typed.items() if "optimizer.lr" in keys]


def parse(words: Sequence[str]) -> RaceArguments:
    """Parse words such as surface=beale optimizer=sgd,adam adam.lr=0.1. Raise ConfigError with all problems."""
    problems: list[tuple[str, str]] = []
    pairs = [(word, *word.lstrip("+").partition("=")[::2]) for word in words]
    values = {key: value for _, key, value in pairs if key in KEYS}
    surface = values.get("surface", "beale")
    entries = parse_optimizers(values.get("optimizer", OPTIMIZERS))
    optimizers = [name for name, _ in entries]
    common = [*FIXED, *(["arch=custom"] if surface == "custom" else ["arch=surface", f"arch.function={surface}"])]
    own: dict[str, list[str]] = {name: [] for name in optimizers}
    if not optimizers:
        problems.append(
            ("optimizer", "needs the names of options: optimizer=sgd,adam; dlopt list optimizer shows them")
        )
    twice = "is named twice: name its variants, such as"
    problems += [("optimizer", f"{name} {twice} a:{name},b:{name}") for name in own if optimizers.count(name) > 1]
    wrong = "a name of a variant must be a letter, then letters, digits or _, and not a key of the race"
    problems += [("optimizer", f"{n}: {wrong}") for n in own if not re.fullmatch(r"[a-zA-Z]\w*", n) or n in KEYS]
    for word, key, value in pairs:
        top, dot, name = key.partition(".")
        sign = word[: len(word) - len(word.lstrip("+"))]
        if "=" not in word:
            problems.append((word, "is not an argument: write KEY=VALUE, such as optimizer=sgd,adam"))
        elif key in ("steps", "seed"):
            common.append(word)
        elif key == "start" and surface == "custom":
            problems.append((key, "a custom surface starts at the values of its parameters: leave it out"))
        elif key == "start":
            common.append(f"arch.start={value}")
        elif top == "surface" and dot:
            common.append(f"{sign}arch.{name}={value}")
        elif top in own and dot:
            own[top].append(f"{sign}optimizer.{name}={value}")
        elif key not in KEYS:
            problems.append((key, _explain_key(top, dot, optimizers)))
    if problems:
        raise ConfigError(problems)
    return RaceArguments(surface, dict(entries), tuple(common), {name: tuple(keys) for name, keys in own.items()})


def parse_optimizers(text: str) -> list[tuple[str, str]]:
    """Return the name in the race and the option of each optimizer in a list such as sgd,armijo:lbfgs."""
    entries = [entry.rpartition(":") for entry in split_names(text.strip("[]"))]
    return [(name if colon else option, option) for name, colon, option in entries]


def check_flags(arguments: RaceArguments, starts: int, *, tunes: bool) -> None:
    """Raise ConfigError for a wrong number of starts, and for learning rates that --tune chooses."""
    problems = [("--starts", f"must be >= 1, got {starts}")] if starts < 1 else []
    typed = arguments.list_typed_lrs() if tunes else []
    problems += [(f"{name}.lr", "--tune chooses it: leave one of the two out") for name in typed]
    if problems:
        raise ConfigError(problems)


def _label(name: str, keys: Sequence[str]) -> str:
    """Return a name with its keys in parentheses; a custom component has the name of its class."""
    targets = [key for key in keys if key.startswith("_target_=")]
    if targets and name == "custom":
        name = re.split("[.=]", targets[-1])[-1]
    keys = [key for key in keys if key not in targets]
    return f"{name} ({', '.join(keys)})" if keys else name


def _explain_key(top: str, dot: str, optimizers: Sequence[str]) -> str:
    names = [*KEYS, *(f"{name}.KEY" for name in ("surface", *optimizers))]
    if (groups.CONF / top).is_dir():
        return f"is a key of dlopt train: a race has {', '.join(names)}"
    if dot:
        return f"{top} does not race: name it in optimizer={','.join(optimizers)}, or leave the key out"
    return f"there is no such key{did_you_mean(top, names)}"
