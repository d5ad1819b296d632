"""What is wrong with a configuration: collected, then said at once."""

from __future__ import annotations

from collections.abc import Iterable

from dlopt.storage.safe_read import to_printable


class ConfigError(Exception):
    """A configuration that cannot be run. problems: pairs of a key, and what is wrong there and what would be right."""

    def __init__(self, problems: Iterable[tuple[str, str]]) -> None:
        self.problems = list(dict.fromkeys(problems))
        super().__init__(self.text())

    def text(self, outcome: str = "nothing was started") -> str:
        count = len(self.problems)
        width = min(max((len(key) for key, _ in self.problems), default=0), 34)
        head = "1 problem" if count == 1 else f"{count} problems"
        lines = [f"  {key:<{width}}  {message}" if key else f"  {message}" for key, message in self.problems]
        return "\n".join([f"{head}, {outcome}:", *(to_printable(x) for line in lines for x in line.splitlines())])


class Problems:
    """A list to which checks add."""

    def __init__(self) -> None:
        self.errors: list[tuple[str, str]] = []
        self.notices: list[str] = []

    def add(self, key: str, message: str) -> None:
        self.errors.append((key, message))

    def has_no_problem(self, *keys: str) -> bool:
        """Whether nothing is wrong at these keys or below them."""
        return not any(found == key or found.startswith(key + ".") for found, _ in self.errors for key in keys)

    def raise_if_any(self) -> None:
        if self.errors:
            raise ConfigError(self.errors)


def format_error(error: BaseException) -> str:
    """An error's class and the first line of its message."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
