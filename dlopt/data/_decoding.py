"""The encodings of text files."""

from __future__ import annotations

import codecs
from pathlib import Path

from dlopt.errors import OptionError

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
"""The encodings of files that begin with these bytes; UTF-16's mark begins that of UTF-32."""
BEGINNING = 1 << 12
"""Bytes that tell UTF-16 without a mark: in most languages, every other byte of many is zero."""


def decode(file: Path, content: bytes, encoding: str) -> str:
    """Return the text of a file; auto is UTF-8, or what its byte order mark says. Raise OptionError for another one."""
    name = encoding
    if encoding == "auto":
        name = next((name for mark, name in BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(name).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line, byte = content.count(b"\n", 0, error.start) + 1, content[error.start]
        wrong = f"{file} is not in {name}: line {line} has the byte {byte:#04x}"
        raise OptionError("path", f"{wrong}; {_suggest_encoding(content)}") from error
    except (LookupError, UnicodeError) as error:
        raise OptionError("encoding", f"must be auto or an encoding such as latin-1, got {encoding!r}") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise OptionError("path", f"{file} has a zero byte in line {line}; {_suggest_encoding(content)}")
    return text


def _suggest_encoding(content: bytes) -> str:
    """Return what to do about a file that is not in the encoding in which it was read."""
    even, odd = (content[start:BEGINNING:2].count(0) for start in (0, 1))
    if max(even, odd) > 4 * min(even, odd) and 4 * max(even, odd) > len(content[:BEGINNING]) // 2:
        return f"it looks like UTF-16: set data.encoding={'utf-16-le' if odd > even else 'utf-16-be'}"
    if even or odd:
        return "it does not look like a text: name another file"
    return "set data.encoding=latin-1, cp1252 or the name of another encoding"
