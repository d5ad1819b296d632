"""Small files from someone else: plain values in bounded time and memory, or a message of one line."""

import contextlib
import json
import os
import socket
import threading
import tracemalloc

import pytest
from omegaconf import OmegaConf

from dlopt.storage.safe_read import (
    DEEPEST,
    LARGEST,
    UnreadableFile,
    iter_lines,
    open_regular,
    read_bytes,
    read_json,
    read_yaml,
    to_printable,
)

LIMIT = 1 << 16


def write(folder, text):
    file = folder / "file"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def assert_unreadable(read, *words):
    with pytest.raises(UnreadableFile) as refusal:
        read()
    message = str(refusal.value)
    assert len(message.splitlines()) == 1
    assert message.isprintable()
    assert all(word in message for word in words)


# ------------------------------------------------------------------------------------------------ files


def test_only_regular_files_are_opened_and_nothing_waits(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("/dev/zero")
    (tmp_path / "other").symlink_to(write(tmp_path, "of one's own"))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(tmp_path):
        server.bind("socket")
        done = threading.Event()

        def read_all():
            for name in ("pipe", "folder", "link", "other", "loop", "socket"):
                assert_unreadable(lambda name=name: open_regular(tmp_path / name), name)
            assert_unreadable(lambda: next(iter_lines(tmp_path / "pipe", 9)), "pipe", "regular")
            done.set()

        thread = threading.Thread(target=read_all, daemon=True)
        thread.start()
        thread.join(60)
    assert done.is_set()


@pytest.mark.parametrize(
    "read", [read_bytes, read_json, read_yaml, lambda file, limit: next(iter_lines(file, 9, limit))]
)
def test_a_missing_file_and_a_file_beyond_the_limit_raise(read, tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "file", LIMIT)
    write(tmp_path, "")
    os.truncate(tmp_path / "file", 1 << 40)
    assert_unreadable(lambda: read(tmp_path / "file", LIMIT), "file", "larger than")


def test_a_file_of_the_limit_in_a_linked_folder_is_read(tmp_path):
    (tmp_path / "there").mkdir()
    write(tmp_path / "there", "12345")
    (tmp_path / "here").symlink_to("there")
    assert read_bytes(tmp_path / "here/file", 5) == b"12345"
    assert_unreadable(lambda: read_bytes(tmp_path / "here/file", 4), "larger than 4 bytes")


# ------------------------------------------------------------------------------------------------ JSON and YAML

PLAIN = {"a": None, "b": [True, 1, -2.5, "text", {"c": {}}], "ü": "1e-5", "n": LARGEST - 1}


def test_plain_values_are_read(tmp_path):
    assert read_json(write(tmp_path, json.dumps(PLAIN)), LIMIT) == PLAIN
    assert read_yaml(write(tmp_path, OmegaConf.to_yaml(PLAIN)), LIMIT) == PLAIN


BAD_JSON = {
    "empty": "",
    "not JSON": "{'a': 1}",
    "cut off": '{"a": [1, 2',
    "a list": "[1]",
    "not UTF-8": b'{"a": "\xff\xfe\xfa"}',
    "deep": '{"a": ' + "[" * 10_000 + "]" * 10_000 + "}",
    "a little too deep": '{"a": ' + "[" * DEEPEST + "]" * DEEPEST + "}",
    "a number of many digits": '{"a": ' + "9" * 5000 + "}",
    "a number of 65 bits": f'{{"a": [{-LARGEST}]}}',
    "an escape sequence": b"\x1b]0;title\x07",
}
BAD_YAML = {
    "empty": "",
    "a list": "- a",
    "text": "a",
    "cut off": "a: [1, 2",
    "not UTF-8": b"a: \xff\xfe\xfa",
    "control characters": "a: \x1b[2J",
    "two documents": "a: 1\n---\nb: 2\n",
    "an alias": "a: &x [1]\nb: *x",
    "an alias of itself": "a: &x [*x]",
    "merged keys": "a: &x {c: 1}\nb: {<<: *x}",
    "an object": "a: !!python/object/apply:os.system ['true']",
    "an unknown tag": "a: !mine 3",
    "a number by its tag": "a: !!int 1:30",
    "text by its tag": "a: !!str 1",
    "a set": "a: !!set {b}",
    "keys that are lists": "a: {[1]: 2}",
    "keys that are numbers": "a: {1: 2}",
    "deep": "a: " + "[" * 10_000 + "]" * 10_000,
    "deeper than the stack of a loader": "a: " + "[" * 30_000 + "]" * 30_000,
    "deep by indentation": "a:\n" + "".join(" " * i + "-\n" for i in range(1, 300)),
    "deep mappings": "a: " + "{b: " * (DEEPEST + 1) + "}" * (DEEPEST + 1),
    "a number of many digits": "a: " + "9" * 5000,
    "a long hexadecimal number": "a: 0x" + "f" * 5000,
    "an invalid number": "a: 0x_",
}


@pytest.mark.parametrize(
    ("read", "text"),
    [
        pytest.param(read, text, id=f"{read.__name__}: {name}")
        for read, cases in ((read_json, BAD_JSON), (read_yaml, BAD_YAML))
        for name, text in cases.items()
    ],
)
def test_bad_files_are_refused(read, text, tmp_path):
    assert_unreadable(lambda: read(write(tmp_path, text), LIMIT), "file")


def test_the_greatest_allowed_depth_is_read(tmp_path):
    deep = '{"a": ' + "[" * (DEEPEST - 1) + "]" * (DEEPEST - 1) + "}"
    assert read_json(write(tmp_path, deep), LIMIT) == read_yaml(tmp_path / "file", LIMIT)


def test_yaml_is_read_as_omegaconf_reads_it(tmp_path):
    values = ("1e-5", "1.0e-05", "-2E3", "1_0e3", ".5", "3", "0x1f", "-0b11", "017", "a:30", "2026-01-01", "yes", "null",
              "~", ".inf", "e5", "1e", "'1e-5'")  # fmt: skip
    file = write(tmp_path, "".join(f"k{i}: {value}\n" for i, value in enumerate(values)))
    assert repr(read_yaml(file, LIMIT)) == repr(OmegaConf.to_container(OmegaConf.load(file)))


@pytest.mark.parametrize("text", ["1:30", "-1:30", "+1_0:30", "1:30.5", "0:1", "1" + 50_000 * ":1"])
def test_numbers_to_the_base_60_are_text(text, tmp_path):
    """Parsing a long one would take quadratic time."""
    content = read_yaml(write(tmp_path, f"a: {text}\nb: {{c: [{text}]}}\n"), 1 << 18)
    assert content == {"a": text, "b": {"c": [text]}}


# ------------------------------------------------------------------------------------------------ lines


@pytest.mark.parametrize("longest", [1, 2, 3, 5, 100])
@pytest.mark.parametrize(
    "text", [b"", b"\n", b"a", b"a\n", b"ab\n\nabc\nabcd\nabcdef\na\n", b"abcdef\nabc", b"abcdefg"]
)
def test_lines_equal_a_split(text, longest, tmp_path):
    *lines, _ = text.split(b"\n")
    expected = [line if len(line) <= longest else None for line in lines]
    assert list(iter_lines(write(tmp_path, text), longest)) == expected


def test_a_line_without_end_takes_no_memory(tmp_path):
    file = write(tmp_path, b"first\n")
    os.truncate(file, 1 << 28)
    with file.open("ab") as stream:
        stream.write(b"\nlast\n")
    tracemalloc.start()
    try:
        assert list(iter_lines(file, 1000)) == [b"first", None, b"last"]
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


# ------------------------------------------------------------------------------------------------ text


def test_printable_text_does_not_control_the_terminal():
    assert to_printable("loss 0.1 für 猫 ±") == "loss 0.1 für 猫 ±"
    for code in (*range(32), 0x7F, *range(0x80, 0xA0), 0x202E, 0x2066, 0xD800, 0x2028, 0xFEFF):
        shown = to_printable(f"a{chr(code)}b")
        assert len(shown) == 3
        assert shown.isprintable()
        shown.encode()
    assert to_printable("two\nlines") == "two lines"
