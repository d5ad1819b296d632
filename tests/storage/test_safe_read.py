"""Small files of other people: plain values in bounded time and memory, or one line that says what is wrong."""

import contextlib
import json
import os
import socket
import threading

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


def written(folder, text):
    file = folder / "file"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def is_unreadable(act, *said):
    with pytest.raises(UnreadableFile) as found:
        act()
    message = str(found.value)
    assert len(message.splitlines()) == 1
    assert message.isprintable()
    for part in said:
        assert part in message


# ------------------------------------------------------------------------------------------------ files


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("/dev/zero")
    (tmp_path / "other").symlink_to(written(tmp_path, "of one's own"))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with socket.socket(socket.AF_UNIX) as listening, contextlib.chdir(tmp_path):
        listening.bind("socket")
        done = threading.Event()

        def look():
            for name in ("pipe", "folder", "link", "other", "loop", "socket"):
                is_unreadable(lambda name=name: open_regular(tmp_path / name), name)
            is_unreadable(lambda: next(iter_lines(tmp_path / "pipe", 9)), "pipe", "regular")
            done.set()

        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        looking.join(60)
    assert done.is_set()


def test_a_file_that_is_not_there_is_another_matter(tmp_path):
    for act in (
        lambda f: read_bytes(f, 9),
        lambda f: read_json(f, 9),
        lambda f: read_yaml(f, 9),
        lambda f: next(iter_lines(f, 9)),
    ):
        with pytest.raises(FileNotFoundError):
            act(tmp_path / "nothing")


def test_a_linked_folder_is_followed(tmp_path):
    (tmp_path / "there").mkdir()
    written(tmp_path / "there", "x")
    (tmp_path / "here").symlink_to("there")
    assert read_bytes(tmp_path / "here" / "file", 1) == b"x"


def test_no_file_is_larger_than_its_limit(tmp_path):
    assert read_bytes(written(tmp_path, "12345"), 5) == b"12345"
    is_unreadable(lambda: read_bytes(tmp_path / "file", 4), "file", "larger than 4 bytes")
    os.truncate(tmp_path / "file", 1 << 40)
    for read in (read_json, read_yaml):
        is_unreadable(lambda read=read: read(tmp_path / "file", LIMIT), "larger than")
    is_unreadable(lambda: next(iter_lines(tmp_path / "file", 9, LIMIT)), "larger than")


# ------------------------------------------------------------------------------------------------ JSON and YAML

PLAIN = {"a": None, "b": [True, 1, -2.5, "text", {"c": {}}], "ü": "1e-5", "n": LARGEST - 1}


def test_plain_values_are_read(tmp_path):
    assert read_json(written(tmp_path, json.dumps(PLAIN)), LIMIT) == PLAIN
    assert read_yaml(written(tmp_path, OmegaConf.to_yaml(PLAIN)), LIMIT) == PLAIN


BAD_JSON = {
    "nothing": "",
    "no JSON": "{'a': 1}",
    "cut off": '{"a": [1, 2',
    "a list": "[1]",
    "text": '"a"',
    "no UTF-8": b'{"a": "\xff\xfe\xfa"}',
    "deep": '{"a": ' + "[" * 10_000 + "]" * 10_000 + "}",
    "a little too deep": '{"a": ' + "[" * DEEPEST + "]" * DEEPEST + "}",
    "a number of many digits": '{"a": ' + "9" * 5000 + "}",
    "a number of 65 bits": f'{{"a": [{-LARGEST}]}}',
    "an escape sequence": b"\x1b]0;title\x07",
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_json_that_cannot_be_read(name, tmp_path):
    is_unreadable(lambda: read_json(written(tmp_path, BAD_JSON[name]), LIMIT), "file")


BAD_YAML = {
    "nothing": "",
    "a list": "- a",
    "text": "a",
    "cut off": "a: [1, 2",
    "no UTF-8": b"a: \xff\xfe\xfa",
    "control characters": "a: \x1b[2J",
    "two documents": "a: 1\n---\nb: 2\n",
    "an alias": "a: &x [1]\nb: *x",
    "an alias of itself": "a: &x [*x]",
    "laughter": "a: &a [1,1]\n"
    + "".join(f"{b}: &{b} [*{a},*{a},*{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    "merged keys": "a: &x {c: 1}\nb: {<<: *x}",
    "an object": "a: !!python/object/apply:os.system ['true']",
    "a name": "a: !!python/name:os.system",
    "a tag of its own": "a: !mine 3",
    "a number by its tag": "a: !!int 1:30",
    "text by its tag": "a: !!str 1",
    "bytes": "a: !!binary aGVsbG8=",
    "a set": "a: !!set {b}",
    "keys that are lists": "a: {[1]: 2}",
    "keys that are numbers": "a: {1: 2}",
    "deep": "a: " + "[" * 10_000 + "]" * 10_000,
    "deep mappings": "a: " + "{b: " * (DEEPEST + 1) + "}" * (DEEPEST + 1),
    "a number of many digits": "a: " + "9" * 5000,
    "a long hexadecimal number": "a: 0x" + "f" * 5000,
    "a number that is none": "a: 0x_",
}


@pytest.mark.parametrize("name", BAD_YAML)
def test_yaml_that_cannot_be_read(name, tmp_path):
    is_unreadable(lambda: read_yaml(written(tmp_path, BAD_YAML[name]), LIMIT), "file")


def test_yaml_is_refused_before_anything_is_made_of_its_depth(tmp_path):
    """A loader that follows it would come to the end of its stack."""
    for text in ("a: " + "[" * 100_000 + "]" * 100_000, "a:\n" + "".join(" " * i + "-\n" for i in range(1, 400))):
        is_unreadable(lambda text=text: read_yaml(written(tmp_path, text), 1 << 18), "deep")


def test_as_deep_as_may_be(tmp_path):
    deep = '{"a": ' + "[" * (DEEPEST - 1) + "]" * (DEEPEST - 1) + "}"
    assert read_json(written(tmp_path, deep), LIMIT) == read_yaml(tmp_path / "file", LIMIT)


@pytest.mark.parametrize(
    "text",
    [
        "1e-5",
        "1.0e-05",
        "-2E3",
        "1_0e3",
        ".5",
        "3",
        "0x1f",
        "-0b11",
        "017",
        "a:30",
        "2026-01-01",
        "yes",
        "null",
        "~",
        ".inf",
        "e5",
        "1e",
        "'1e-5'",
    ],
)
def test_yaml_is_read_as_omegaconf_reads_it(text, tmp_path):
    file = written(tmp_path, f"a: {text}\n")
    mine, theirs = read_yaml(file, LIMIT)["a"], OmegaConf.to_container(OmegaConf.load(file))["a"]
    assert (mine, type(mine)) == (theirs, type(theirs))


@pytest.mark.parametrize("text", ["1:30", "-1:30", "+1_0:30", "1:30.5", "0:1", "1" + 50_000 * ":1"])
def test_numbers_to_the_base_60_are_text(text, tmp_path):
    """Of long ones the time would be the square of the length."""
    assert read_yaml(written(tmp_path, f"a: {text}\nb: {{c: [{text}]}}\n"), 1 << 18) == {
        "a": text,
        "b": {"c": [text]},
    }


# ------------------------------------------------------------------------------------------------ lines


@pytest.mark.parametrize("longest", [1, 2, 3, 5, 100])
@pytest.mark.parametrize(
    "text", [b"", b"\n", b"a", b"a\n", b"ab\n\nabc\nabcd\nabcdef\na\n", b"abcdef\nabc", b"abcdefg"]
)
def test_lines_are_those_of_a_split(text, longest, tmp_path):
    *whole, _ = text.split(b"\n")
    expected = [line if len(line) <= longest else None for line in whole]
    assert list(iter_lines(written(tmp_path, text), longest)) == expected


def test_a_line_without_end_takes_no_memory(tmp_path):
    import tracemalloc

    file = written(tmp_path, b"first\n")
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


def test_text_holds_nothing_that_a_terminal_would_obey():
    assert to_printable("loss 0.1 für 猫 ±") == "loss 0.1 für 猫 ±"
    for code in (*range(32), 0x7F, *range(0x80, 0xA0), 0x202E, 0x2066, 0xD800, 0x2028, 0xFEFF):
        shown = to_printable(f"a{chr(code)}b")
        assert len(shown) == 3
        assert shown.isprintable()
        shown.encode()
    assert to_printable("two\nlines") == "two lines"
