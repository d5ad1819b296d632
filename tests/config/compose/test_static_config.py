"""Read the configuration files without Hydra."""

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
def test_a_heavy_or_invalid_file_has_no_keys(name, tmp_path):
    (tmp_path / "optimizer").mkdir()
    text = HEAVY[name]
    (tmp_path / "optimizer/mine.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    outline = StaticConfig({"optimizer": "mine"}, [tmp_path])
    assert "mine" in outline.list_options("optimizer")
    assert outline.keys("optimizer") == {}


def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "mine.yaml")
    assert read_yaml_or_empty(tmp_path / "mine.yaml") == {}


def test_a_link_to_a_file_is_read(tmp_path):
    (tmp_path / "there.yaml").write_text("a: 1")
    (tmp_path / "mine.yaml").symlink_to("there.yaml")
    assert read_yaml_or_empty(tmp_path / "mine.yaml") == {"a": 1}


def test_an_option_outside_the_folder_of_its_group_is_not_read():
    outline = StaticConfig({})
    assert outline.read_option("loss", "mse")
    for option in ("../loss/mse", "../../conf/loss/mse", "./mse"):
        assert outline.read_option("loss", option) == {}
