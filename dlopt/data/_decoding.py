"""The encodings of text files."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dlopt.errors import OptionError

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
"""The encodings of files that begin with these bytes; UTF-16's mark begins that of UTF-32."""
MARK = "\ufeff"
"""A byte order mark as it is decoded."""
BEGINNING = 1 << 12
"""Bytes that tell UTF-16 without a mark: in most languages, every other byte of many is zero."""


BLOCK = 1 << 22
"""Bytes that are decoded at once of a file that is read in parts."""


def decode(file: Path, content: bytes, encoding: str) -> str:
    """Return the text of a file; auto is UTF-8, or what its byte order mark says. Raise OptionError for another one."""
    name = _name_encoding(content, encoding)
    try:
        text = content.decode(name).removeprefix(MARK)
    except UnicodeDecodeError as error:
        raise _refuse_byte(file, name, error, content) from error
    except (LookupError, UnicodeError) as error:
        raise _refuse_encoding(encoding) from error
    _check_zeros(file, text, content)
    return text


def iter_text(file: Path, stream: BinaryIO, encoding: str) -> Iterator[str]:
    """Yield the text of a file in blocks, with \\n line ends. Raise OptionError as `decode` does."""
    content = beginning = stream.read(BLOCK)
    name, lines = _name_encoding(content, encoding), 0
    try:
        decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(name)(), translate=True)
    except LookupError as error:
        raise _refuse_encoding(encoding) from error
    while content:
        following = stream.read(BLOCK)
        try:
            text = decoder.decode(content, final=not following)
        except UnicodeDecodeError as error:
            raise _refuse_byte(file, name, error, beginning, lines) from error
        except UnicodeError as error:
            raise _refuse_encoding(encoding) from error
        text = text.removeprefix(MARK) if content is beginning else text
        _check_zeros(file, text, beginning, lines)
        yield text
        lines += content.count(b"\n")
        content = following


def _name_encoding(content: bytes, encoding: str) -> str:
    """Return the name of the encoding of a file that begins with these bytes."""
    if encoding != "auto":
        return encoding
    return next((name for mark, name in BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")


def _refuse_encoding(encoding: str) -> OptionError:
    return OptionError("encoding", f"must be auto or an encoding such as latin-1, got {encoding!r}")


def _refuse_byte(file: Path, name: str, error: UnicodeDecodeError, beginning: bytes, lines: int = 0) -> OptionError:
    """Return the error for a byte that cannot be decoded; lines: those before the bytes of `error`."""
    line, byte = lines + error.object.count(b"\n", 0, error.start) + 1, error.object[error.start]
    wrong = f"{file} is not in {name}: line {line} has the byte {byte:#04x}"
    return OptionError("path", f"{wrong}; {_suggest_encoding(beginning)}")


def _check_zeros(file: Path, text: str, beginning: bytes, lines: int = 0) -> None:
    """Raise OptionError for a zero byte in a text; lines: those before it."""
    if "\0" in text:
        line = lines + text.count("\n", 0, text.index("\0")) + 1
        raise OptionError("path", f"{file} has a zero byte in line {line}; {_suggest_encoding(beginning)}")


def _suggest_encoding(content: bytes) -> str:
    """Return what to do about a file that is not in the encoding in which it was read."""
    even, odd = (content[start:BEGINNING:2].count(0) for start in (0, 1))
    if max(even, odd) > 4 * min(even, odd) and 4 * max(even, odd) > len(content[:BEGINNING]) // 2:
        return f"it looks like UTF-16: set data.encoding={'utf-16-le' if odd > even else 'utf-16-be'}"
    if even or odd:
        return "it does not look like a text: name another file"
    return "set data.encoding=latin-1, cp1252 or the name of another encoding"
