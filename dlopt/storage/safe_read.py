"""Small files that somebody else may have written: read as plain values, in bounded time and memory.

A run's directory may come from anywhere. Of what lies in it, regular files alone are opened, so that nothing waits for
a pipe or reads a device without an end, and no symbolic link shows a file of one's own as a part of it.
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
"""Whole numbers lie below this, which is the end of seeds; far larger ones can be neither converted nor printed."""
SMALL = 1 << 18
"""Bytes that a run's status, summary and configuration may have; usual ones have a few thousand."""
CHUNK = 1 << 16
NUMERALS = "-+0123456789"
"""With what a number begins."""


class UnreadableFile(ValueError):
    """A file that is not what it should be; the message is one line that names it."""

    def __init__(self, file: Path, reason: object) -> None:
        super().__init__(f"{to_printable(str(file))}: {to_printable(str(reason))}")


def to_printable(text: str) -> str:
    """The text in one line without anything that a terminal would obey: escape sequences, bells, reversed writing."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)


def mask_passwords(text: str) -> str:
    """The text with *** for the password of an address such as postgresql://user:password@host/name?password=..."""
    hidden = re.sub(r"://([^:/@\s]*):\S*@", r"://\1:***@", text)
    return re.sub(r"([?&]password=)[^&\s'\"]*", r"\1***", hidden)


def open_regular(file: Path, *, links: bool = False) -> BinaryIO:
    """A regular file, open for reading. FileNotFoundError where there is none, UnreadableFile for anything else.

    links, here and below: whether it may be a symbolic link, as one of a run that is trusted.
    """
    try:
        return regular_file.open_regular_file(file, links=links)
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = "is a symbolic link" if file.is_symlink() else f"cannot be opened: {error.strerror or error}"
        raise UnreadableFile(file, reason) from error


def read_bytes(file: Path, limit: int, *, links: bool = False) -> bytes:
    """All of a file of at most so many bytes."""
    with open_regular(file, links=links) as stream:
        try:
            found = stream.read(limit + 1)
        except OSError as error:
            raise UnreadableFile(file, f"cannot be read: {error.strerror or error}") from error
    if len(found) > limit:
        raise UnreadableFile(file, f"is larger than {limit} bytes")
    return found


def read_json(file: Path, limit: int, *, links: bool = False) -> dict[str, Any]:
    """The JSON object that a file of at most so many bytes holds."""
    return parse_json(read_bytes(file, limit, links=links), file)


def parse_json(text: bytes, file: Path) -> dict[str, Any]:
    """The JSON object that this text, which is of a file, is."""
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise UnreadableFile(file, _too_deep()) from error
    except ValueError as error:  # UnicodeDecodeError, and numbers of too many digits, are among them
        raise UnreadableFile(file, f"is no JSON: {error}") from error
    return _check_mapping(file, found)


def read_yaml(file: Path, limit: int, *, links: bool = False) -> dict[str, Any]:
    """The mapping that a YAML file of at most so many bytes holds, in plain values, without aliases and tags.

    A few aliases of aliases would make a tree of any size. Numbers are as OmegaConf reads them: 1e-5 is one, a date is
    text.
    """
    return parse_yaml(read_bytes(file, limit, links=links), file)


def parse_yaml(text: bytes, file: Path, *, exponents: bool = True) -> dict[str, Any]:
    """The mapping that this text, which is of a file, is in YAML without aliases and tags.

    exponents: whether 1e-5 is a number, as for OmegaConf, or stays as it is written, as for YAML itself.
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
                raise UnreadableFile(file, f"holds the alias *{event.anchor}, and no run writes any")
            if isinstance(event, yaml.CollectionStartEvent | yaml.ScalarEvent) and event.tag is not None:
                raise UnreadableFile(file, f"holds the tag {event.tag}, and no run writes any")
        found = yaml.load(text, Loader=loader)
    except UnreadableFile:
        raise
    except (yaml.YAMLError, ValueError) as error:  # the latter of numbers that are none
        if _open_brackets(text, error) > DEEPEST:  # PyYAML 6.0.4 has a limit of its own, and reads ahead of its events
            raise UnreadableFile(file, _too_deep()) from error
        raise UnreadableFile(file, f"is no YAML: {error}") from error
    return _check_mapping(file, found)


def iter_lines(file: Path, longest: int, limit: int | None = None, *, links: bool = False) -> Iterator[bytes | None]:
    """The lines of a file, each without its newline; None in place of one of more bytes than the longest may have.

    A last line without a newline is left out: whoever wrote it has not come to its end. limit: of the file's bytes.
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


def _check_mapping(file: Path, found: Any) -> dict[str, Any]:
    """What was read, if it is a mapping of plain values; looked through without recursion."""
    if not isinstance(found, dict):
        raise UnreadableFile(file, f"holds no keys with values, but a {type(found).__name__}")
    left: list[tuple[Any, int]] = [(found, 1)]
    while left:
        value, depth = left.pop()
        if isinstance(value, (dict, list)) and depth > DEEPEST:
            raise UnreadableFile(file, _too_deep())
        if isinstance(value, dict):
            if not all(isinstance(key, str) for key in value):
                raise UnreadableFile(file, "holds a key that is no text")
            left += [(inner, depth + 1) for inner in value.values()]
        elif isinstance(value, list):
            left += [(inner, depth + 1) for inner in value]
        elif isinstance(value, int) and abs(value) >= LARGEST:
            raise UnreadableFile(file, "holds a whole number of more than 64 bits")
        elif not isinstance(value, (str, int, float, type(None))):
            raise UnreadableFile(file, f"holds a {type(value).__name__}, which is no plain value")
    return found


def _open_brackets(text: bytes, error: Exception) -> int:
    """Count the brackets and braces that are open where a parser stopped; those inside quotes count too."""
    mark = getattr(error, "problem_mark", None)
    before = text[: mark.index] if mark else b""
    return sum(before.count(c) for c in (b"[", b"{")) - sum(before.count(c) for c in (b"]", b"}"))


def _too_deep() -> str:
    return f"is nested more than {DEEPEST} levels deep"


@cache
def _make_loader(exponents: bool) -> Any:
    """PyYAML's safe loader, the fast one where it is there, for which dates are text, as for OmegaConf.

    Numbers to the base 60, such as 1:30, are text too: of long ones the time is the square of the length.
    """
    import re

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
