"""Dumped configurations are read back unchanged by dlopt and by OmegaConf."""

from pathlib import Path

from helpers import compose_config
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from dlopt.config.compose.yaml_dump import dump_yaml, quote
from dlopt.storage import safe_read

AWKWARD = ("1e-5", "-.5e3", "1_000", "1:30", "true", "no", "null", "~", "???", "2020-01-01", "0x1f", "a: b", "- a", "#",
           "", " ", "é", "\n", "\u2028", "[1,2]", "{a: b}", "*a", "&a", "!a", "%", "@", "=", "<<")  # fmt: skip
TEXT = st.sampled_from(AWKWARD) | st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]))
NUMBER = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
TREES = st.dictionaries(
    TEXT,
    st.recursive(
        st.none() | st.booleans() | NUMBER | TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


def parse(text: str) -> dict:
    return safe_read.parse_yaml(text.encode(), Path("config.yaml"))


@given(TREES)
def test_a_dumped_tree_is_read_back_with_its_order_and_types(tree):
    assert repr(parse(dump_yaml(tree))) == repr(tree)


def test_omegaconf_reads_and_writes_the_same():
    config = OmegaConf.to_container(compose_config("arch=mlp", "regularization=[l2,dropout]", "optimizer.lr=1e-12"))
    text = dump_yaml(config)
    assert OmegaConf.to_container(OmegaConf.create(text)) == config == parse(text)
    assert text == OmegaConf.to_yaml(OmegaConf.create(config))
    awkward = {"values": list(AWKWARD), **{f"key{i}": value for i, value in enumerate(AWKWARD)}}
    assert OmegaConf.to_container(OmegaConf.create(dump_yaml(awkward))) == awkward


def test_a_shared_list_is_written_twice():
    widths = [3, 4]
    text = dump_yaml({"one": widths, "other": widths})
    assert "*" not in text
    assert parse(text) == {"one": [3, 4], "other": [3, 4]}


PARSER = OverridesParser.create()


@given(
    st.sampled_from(("1e5", "it's", "\\", "a\\", "\\'", "a\\b", "null", "a b,c")) | st.text("a'\"\\ ,=[1e5", max_size=8)
)
def test_hydra_reads_quoted_text_unchanged(text):
    assert PARSER.parse_override(f"key={quote(text)}").value() == text
