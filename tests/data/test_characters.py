"""Characters of a text: windows, classes and tokens by a slow twin, and texts that cannot be used."""

import pytest
import torch
from helpers import assert_refused, build_experiment, make_option

from dlopt.config.problems import ConfigError
from dlopt.data.characters import SHIPPED

TEXT = "the cat sat on the mat\n" * 20


@pytest.fixture
def write(tmp_path):
    def write(content, **keys):
        file = tmp_path / "my.txt"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return make_option("data", "characters", **{"path": str(file), "length": 5, **keys})

    return write


def cut_slowly(text, vocabulary, length):
    """Return windows of tokens and of classes, character by character."""
    inputs, targets = [], []
    for start in range(0, len(text) - length, length):
        window, after = text[start : start + length], text[start + 1 : start + length + 1]
        inputs.append([vocabulary.index(c) + 2 if c in vocabulary else 1 for c in window])
        targets.append([vocabulary.index(c) if c in vocabulary else -1 for c in after])
    return inputs, targets


def test_windows_are_those_of_a_slow_twin(write):
    text = TEXT[:300] + "Köln?" + TEXT[:95]  # the test part has characters that the training part lacks
    data = write(text, length=7, validation_fraction=0.1, test_fraction=0.25).load()
    parts = {"train": text[:260], "validation": text[260:300], "test": text[300:]}
    vocabulary = sorted(set(parts["train"]))
    for name, part in parts.items():
        inputs, targets = cut_slowly(part, vocabulary, 7)
        assert getattr(data, name).inputs.tolist() == inputs
        assert getattr(data, name).targets.tolist() == targets
    assert (data.outputs, data.tokens) == (len(vocabulary), len(vocabulary) + 2)
    assert data.names == ("newline", "space", *vocabulary[2:])
    (notice,) = data.notices
    assert notice.startswith("test has 4 of 100 characters that the training text lacks, '?', 'K', 'l', 'ö':")


def test_line_ends_of_every_system_are_one_character(write):
    unix = write(TEXT).load()
    for end in ("\r\n", "\r"):
        other = write(TEXT.replace("\n", end)).load()
        assert torch.equal(other.train.inputs, unix.train.inputs)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks_are_understood(write, encoding):
    assert torch.equal(write(TEXT.encode(encoding)).load().train.inputs, write(TEXT).load().train.inputs)


def test_another_text_is_read_with_the_characters_of_the_training_text(write):
    encoding = write(TEXT).load().encoding
    data = write("on the mat! sat", length=5).load_like(encoding)
    inputs, targets = cut_slowly("on the mat! sat", list(encoding["characters"]), 5)
    assert data.test.inputs[:2].tolist() == inputs
    assert data.test.targets[:2].tolist() == targets
    rest = [encoding["characters"].index(c) for c in " sat"]
    assert data.test.inputs[2].tolist() == [1, *(c + 2 for c in rest[:3]), 0]  # "! sa" and padding
    assert data.test.targets[2].tolist() == [*rest, -1]
    assert data.train is data.test
    assert "1 of 15 characters" in data.notices[0]
    assert "'!'" in data.notices[0]


def test_a_text_shorter_than_a_window_can_be_evaluated(write):
    encoding = write(5 * TEXT, length=50).load().encoding
    data = write("cat", length=50).load_like(encoding)
    assert (data.test.targets >= 0).sum() == 2


def test_windows_without_a_known_character_are_left_out(write):
    encoding = write(TEXT).load().encoding
    data = write("жжжжжжжжжжжжcat", length=5).load_like(encoding)
    assert len(data.test) == 1


def test_the_shipped_text_is_read_without_a_path():
    data = make_option("data", "characters").load()
    assert SHIPPED.read_text(encoding="ascii").startswith("In the beginning God created the heaven and the earth.\n")
    assert SHIPPED.stat().st_size == 196_867
    assert [len(split) for split in (data.train, data.validation, data.test)] == [1574, 196, 196]
    assert data.outputs == 60
    assert not data.notices
    assert make_option("data", "characters").files() == []  # nothing of the user's


REFUSED = {
    "empty": ("", {}, "path", ["my.txt is empty"]),
    "blank": (" \n\t\n", {}, "path", ["my.txt is empty"]),
    "shorter than a window": ("abcdefgh", {}, "length", ["validation part of", "has 1 of 8 characters", "data.length + 1 = 6"]),
    "windows longer than the text": (TEXT, {"length": 1000}, "length", ["has 368 of 460", "1001"]),
    "nothing left to train on": (TEXT, {"test_fraction": 0.6, "validation_fraction": 0.4}, "length", ["the train part", "has 0 of 460"]),
    "one character": ("a" * 200, {}, "path", ["training part", "one character, 'a'"]),
    "a test part of another alphabet": (TEXT + "ж" * 60, {}, "path", ["test has no character of the training text"]),
    "latin-1": ((TEXT + "\nStra\xdfe").encode("latin-1"), {}, "path", ["not in utf-8: line 22 has the byte 0xdf", "data.encoding=latin-1"]),
    "utf-16 without a mark": (TEXT.encode("utf-16-le"), {}, "path", ["zero byte in line 1", "data.encoding=utf-16-le"]),
    "a picture": (b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR", {}, "path", ["0x89"]),
    "a wrong encoding": (TEXT, {"encoding": "utf-99"}, "encoding", ["auto or an encoding such as latin-1", "utf-99"]),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_texts_that_cannot_be_used_are_refused(name, write):
    content, keys, key, words = REFUSED[name]
    assert_refused(write(content, **keys).load, key, *words)


def test_other_texts_that_cannot_be_scored_are_refused(write):
    encoding = write(TEXT).load().encoding
    assert_refused(lambda: write("c").load_like(encoding), "path", "has one character")
    assert_refused(lambda: write("жж").load_like(encoding), "path", "no character of the training text")
    assert_refused(lambda: write(TEXT).load_like({"classes": []}), "path", "trained on characters")
    assert_refused(make_option("data", "characters", path="no.txt").load, "path", "there is no file no.txt")


BOTH = "bidirectional=true"
LOOKING_AHEAD = {"lstm": BOTH, "gru": BOTH, "rnn": BOTH, "transformer": "causal=false"}


@pytest.mark.parametrize("arch", LOOKING_AHEAD)
def test_networks_that_see_their_targets_are_refused(arch, write):
    path, looking_ahead = write(TEXT).path, f"arch.{LOOKING_AHEAD[arch]}"
    keys = ["data=characters", f"data.path={path}", "data.length=5", f"arch={arch}", "arch.width=8", "batch_size=16"]
    build_experiment(*keys)
    with pytest.raises(ConfigError, match="sees later steps, and its targets are the tokens of the next step"):
        build_experiment(*keys, looking_ahead)
    build_experiment(*keys, looking_ahead, "data.length=1")  # there is no later step
