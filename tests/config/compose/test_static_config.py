"""The configuration as its files lie."""

import os

import pytest

from dlopt.config.compose.static_config import StaticConfig, read_yaml_or_empty

NAMES = "abcdefghijklmnopqrst"
HEAVY = {
    "aliases of aliases": "a: &a {x: 1}\n"
    + "".join(f"{b}: &{b} {{x: *{a}, y: *{a}}}\n" for a, b in zip(NAMES, NAMES[1:], strict=False)),
    "an alias of itself": "a: &a {b: *a}",
    "deep": "a: " + "{b: " * 5000 + "}" * 5000,
    "large": "a: 1\n" + "#" * 300_000,
    "a list": "[1, 2]",
    "no YAML": "a: [",
    "no text": b"a: \xff\xfe",
}


@pytest.mark.parametrize("name", HEAVY)
def test_a_file_that_would_take_long_is_taken_for_none(name, tmp_path):
    (tmp_path / "optimizer").mkdir()
    text = HEAVY[name]
    (tmp_path / "optimizer/mine.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    outline = StaticConfig({"optimizer": "mine"}, [tmp_path])
    assert "mine" in outline.list_options("optimizer")
    assert outline.keys("optimizer") == {}


def test_a_pipe_in_a_files_place_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "mine.yaml")
    assert read_yaml_or_empty(tmp_path / "mine.yaml") == {}


def test_a_link_to_a_file_is_read(tmp_path):
    (tmp_path / "there.yaml").write_text("a: 1")
    (tmp_path / "mine.yaml").symlink_to("there.yaml")
    assert read_yaml_or_empty(tmp_path / "mine.yaml") == {"a": 1}


def test_an_option_is_a_file_of_its_groups_folder_alone():
    outline = StaticConfig({})
    assert outline.read_option("loss", "mse")
    for option in ("../loss/mse", "../../conf/loss/mse", "./mse"):
        assert outline.read_option("loss", option) == {}
