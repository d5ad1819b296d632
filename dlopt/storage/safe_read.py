"""Read small files of unknown origin as plain values, in bounded time and memory.

A run directory may come from anywhere. Only its regular files are opened: a pipe could wait forever, and a device
has no end. A symbolic link could show another file of the user as a part of the run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from dlopt.storage import regular_file

DEEPEST = 50
"""Levels of lists and mappings inside each other; a run's configuration has about six."""
LARGEST = 2**64
"""Bound of whole numbers, which all seeds satisfy. Python cannot convert or print far larger ones."""
SMALL = 1 << 18
"""Largest size of summaries and configurations in bytes; usual ones have a few thousand."""
CHUNK = 1 << 16
NUMERALS = "-+0123456789"
"""First characters of numbers."""


class UnreadableFile(ValueError):
    """A file has an unexpected content; the message is one line that names the file."""

    def __init__(self, file: Path, reason: object) -> None:
        super().__init__(f"{to_printable(str(file))}: {to_printable(str(reason))}")


def to_printable(text: str) -> str:
    """Return the text in one line without the characters that control a terminal, such as escape sequences."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)


def mask_passwords(text: str) -> str:
    """Replace the password by *** in addresses such as postgresql://user:password@host/name?password=..."""
    hidden = re.sub(r"://([^:/@\s]*):\S*@", r"://\1:***@", text)
    return re.sub(r"([?&]password=)[^&\s'\"]*", r"\1***", hidden)


def open_regular(file: Path, *, links: bool = False) -> BinaryIO:
    """Open a regular file for reading. Raises FileNotFoundError if there is none, UnreadableFile for anything else.

    links, here and below: whether it may be a symbolic link, as in a trusted run.
    """
    try:
        return regular_file.open_regular_file(file, links=links)
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = "is a symbolic link" if file.is_symlink() else f"cannot be opened: {error.strerror or error}"
        raise UnreadableFile(file, reason) from error


def read_bytes(file: Path, limit: int, *, links: bool = False) -> bytes:
    """Return the content of a file of at most `limit` bytes."""
    with open_regular(file, links=links) as stream:
        try:
            content = stream.read(limit + 1)
        except OSError as error:
            raise UnreadableFile(file, f"cannot be read: {error.strerror or error}") from error
    if len(content) > limit:
        raise UnreadableFile(file, f"is larger than {limit} bytes")
    return content


def read_json(file: Path, limit: int, *, links: bool = False) -> dict[str, Any]:
    """Return the JSON object in a file of at most `limit` bytes."""
    return parse_json(read_bytes(file, limit, links=links), file)


def parse_json(text: bytes, file: Path) -> dict[str, Any]:
    """Return the JSON object in this text; the file is named in messages."""
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise UnreadableFile(file, _too_deep()) from error
    except ValueError as error:  # UnicodeDecodeError, and numbers of too many digits, are among them
        raise UnreadableFile(file, f"is not valid JSON: {error}") from error
    return _check_mapping(file, content)


def read_yaml(file: Path, limit: int, *, links: bool = False) -> dict[str, Any]:
    """Return the mapping of plain values in a YAML file of at most `limit` bytes.

    Aliases and tags are refused: a few aliases of aliases make a tree of any size. As in OmegaConf, 1e-5 is a number
    and a date is text.
    """
    return parse_yaml(read_bytes(file, limit, links=links), file)


def parse_yaml(text: bytes, file: Path, *, exponents: bool = True) -> dict[str, Any]:
    """Return the mapping in this YAML text; the file is named in messages.

    exponents: whether 1e-5 is a number, as in OmegaConf, or text, as in YAML.
    """
    import yaml

    loader = _make_loader(exponents)
    try:
        depth = 0
        for event in yaml.parse(text, Loader=loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise UnreadableFile(file, _too_deep())
            if isinstance(event, yaml.AliasEvent):
                raise UnreadableFile(file, f"holds the alias *{event.anchor}, which no run writes")
            if isinstance(event, yaml.CollectionStartEvent | yaml.ScalarEvent) and event.tag is not None:
                raise UnreadableFile(file, f"holds the tag {event.tag}, which no run writes")
        content = yaml.load(text, Loader=loader)
    except UnreadableFile:
        raise
    except (yaml.YAMLError, ValueError) as error:  # ValueError: invalid numbers
        if _open_brackets(text, error) > DEEPEST:  # PyYAML 6.0.4 has its own limit, and reads ahead of its events
            raise UnreadableFile(file, _too_deep()) from error
        raise UnreadableFile(file, f"is not valid YAML: {error}") from error
    return _check_mapping(file, content)


def iter_lines(file: Path, longest: int, limit: int | None = None, *, links: bool = False) -> Iterator[bytes | None]:
    """Yield the lines of a file without their newlines, and None for a line of more than `longest` bytes.

    A last line without a newline is skipped: it is not finished. limit: largest size of the file in bytes.
    """
    with open_regular(file, links=links) as stream:
        if limit is not None and regular_file.file_size(stream) > limit:
            raise UnreadableFile(file, f"is larger than {limit} bytes")
        while part := stream.readline(longest + 1):
            if part.endswith(b"\n"):
                yield part[:-1]
                continue
            while part and not part.endswith(b"\n"):
                part = stream.readline(CHUNK)
            if part:
                yield None


def _check_mapping(file: Path, content: Any) -> dict[str, Any]:
    """Return the content if it is a mapping of plain values. Works without recursion."""
    if not isinstance(content, dict):
        raise UnreadableFile(file, f"must hold keys with values, holds a {type(content).__name__}")
    remaining: list[tuple[Any, int]] = [(content, 1)]
    while remaining:
        value, depth = remaining.pop()
        if isinstance(value, (dict, list)) and depth > DEEPEST:
            raise UnreadableFile(file, _too_deep())
        if isinstance(value, dict):
            if not all(isinstance(key, str) for key in value):
                raise UnreadableFile(file, "holds a key that is not text")
            remaining += [(inner, depth + 1) for inner in value.values()]
        elif isinstance(value, list):
            remaining += [(inner, depth + 1) for inner in value]
        elif isinstance(value, int) and abs(value) >= LARGEST:
            raise UnreadableFile(file, "holds a whole number of more than 64 bits")
        elif not isinstance(value, (str, int, float, type(None))):
            raise UnreadableFile(file, f"holds a {type(value).__name__}, which is not a plain value")
    return content


def _open_brackets(text: bytes, error: Exception) -> int:
    """Count the brackets and braces that are open where a parser stopped, including those in quotes."""
    mark = getattr(error, "problem_mark", None)
    before = text[: mark.index] if mark else b""
    return sum(before.count(c) for c in (b"[", b"{")) - sum(before.count(c) for c in (b"]", b"}"))


def _too_deep() -> str:
    return f"is nested more than {DEEPEST} levels deep"


@cache
def _make_loader(exponents: bool) -> Any:
    """Return PyYAML's safe loader, the fast one if available, with dates as text, as in OmegaConf.

    Numbers to the base 60, such as 1:30, are text too: PyYAML takes quadratic time for them.
    """
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        pass

    sexagesimal = re.compile(r"[-+]?[0-9][0-9_]*:")
    Loader.yaml_implicit_resolvers = {
        first: [
            *([("tag:yaml.org,2002:str", sexagesimal)] if first in NUMERALS else []),
            *((tag, pattern) for tag, pattern in kinds if tag != "tag:yaml.org,2002:timestamp"),
        ]
        for first, kinds in Loader.yaml_implicit_resolvers.items()
    }
    if exponents:
        with_exponent = re.compile(r"[-+]?[0-9][0-9_]*\.?[0-9_]*[eE][-+]?[0-9]+$")
        Loader.add_implicit_resolver("tag:yaml.org,2002:float", with_exponent, list(NUMERALS))
    return Loader
