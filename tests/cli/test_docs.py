"""The catalogue as Markdown pages: complete and correctly escaped."""

import dataclasses
import re

import pytest
from helpers import compose_config
from omegaconf import OmegaConf

from dlopt.cli import docs, main
from dlopt.config.compose import groups
from dlopt.config.compose.static_config import StaticConfig
from dlopt.config.parameter_groups import ParameterGroup
from dlopt.config.schema import option_docs

OPTIONS = [(group, name) for group in groups.list_all_groups() for name in groups.list_option_names(group)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("docs") / "catalogue"
    docs.write(path)
    return path


def squeeze(text):
    """Return text without white space, case and Markdown's escapes."""
    return "".join(re.sub(r"\\([\\*_<>|\[\]#~^$])", r"\1", text).split()).casefold()


def test_pages_hold_the_whole_documentation_of_each_option(folder):
    """Also check that each key has a range and a meaning."""
    missing = []
    for group, name in OPTIONS:
        page = folder.joinpath(f"{docs.get_page_name(group)}.md").read_text()
        (section,) = re.findall(rf"^## {name}\n(.*?)(?=^## |^\[All groups\]|\Z)", page, re.MULTILINE | re.DOTALL)
        option, page_text = option_docs.load_option(group, name, StaticConfig({})), squeeze(section)
        parts = [option.summary, *option.text, *option.slips, *option.sources]
        parts += [part for key in option.keys for part in (key.name, key.default, key.range, key.meaning)]
        missing += [(group, name, part) for part in parts if "".join(part.split()).casefold() not in page_text]
        missing += [(group, name, key.name) for key in option.keys if not (key.range and key.meaning)]
    assert missing == []


def test_the_index_links_every_option(folder):
    index = folder.joinpath("README.md").read_text()
    for group, name in OPTIONS:
        assert (f"[{name}]({docs.get_page_name(group)}.md#{name})" in index) is (name != "custom")
        assert f"](#{name})" in folder.joinpath(f"{docs.get_page_name(group)}.md").read_text()


@pytest.mark.parametrize("group", groups.SWEEP_GROUPS)
def test_pages_of_sweep_groups_hold_what_their_options_share(group, folder):
    page_text = squeeze(folder.joinpath(f"{docs.get_page_name(group)}.md").read_text())
    shared = [p for p in option_docs.load_common_paragraphs(group) if not option_docs.is_table(p)]
    assert shared
    assert all("".join(paragraph.split()).casefold() in page_text for paragraph in shared)


def test_the_page_and_the_list_of_settings_document_every_key_outside_the_groups(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    config = OmegaConf.to_container(compose_config())
    outside = {
        key: value for key, value in config.items() if key not in {*groups.list_all_groups(), "hydra", "schedules"}
    }
    names = [f"{key}.{name}" if name else key
             for key, value in outside.items() for name in (value if isinstance(value, dict) else [""])]  # fmt: skip
    names += [f"optimizer.groups.NAME.{field.name}" for field in dataclasses.fields(ParameterGroup)]
    keys = {key.name: key for option in option_docs.load_settings() for key in option.keys}
    assert sorted(keys) == sorted(names)
    assert all(key.range and key.meaning for key in keys.values())
    page = squeeze(folder.joinpath("settings.md").read_text())
    assert main(["list", "settings"]) == 0
    listed = squeeze(capsys.readouterr().out)
    for key in keys.values():
        assert squeeze(f"`{key.name}` | `{key.default}`") in page
        assert squeeze(key.meaning) in page
        assert squeeze(f"{key.name} = {key.default} {key.range} {key.meaning}") in listed


def test_slips_are_listed_on_one_page(folder):
    slips = [s for group, name in OPTIONS for s in option_docs.load_option(group, name, StaticConfig({})).slips]
    listed = folder.joinpath("slips.md").read_text().casefold()
    assert all(f"| {docs.escape_markdown(slip)} |".casefold() in listed for slip in slips)


def test_rows_of_a_table_have_equally_many_cells(folder):
    for file in folder.glob("*.md"):
        for table in re.findall(r"(?:^\|.*\n)+", file.read_text(), re.MULTILINE):
            assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1, file


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("w_i * |w|", r"w\_i \* \|w\|"),
        ("`then` alone", "`then` alone"),
        ("one ` of them", "one ` of them"),
        ("`a|b` a|b", r"`a\|b` a\|b"),
    ],
)
def test_markdown_is_escaped_outside_of_code(text, expected):
    assert docs.escape_markdown(text) == expected


@pytest.mark.parametrize(
    ("first", "formula"),
    [("w <- w - lr g", True), ("f(x) = max(0, x)", True), ("W ~ N(0, 1)", True), ("  x = 1", True),
     ("and w = x is so", False), ("With v = 0 it stays", False)],
)  # fmt: skip
def test_a_formula_keeps_its_lines(first, formula):
    assert docs.is_formula([first]) is formula


def test_published_pages_are_up_to_date(folder):
    """Run `make docs` to update them."""
    published = groups.CONF.parent / "docs" / "catalogue"
    assert {file.name for file in published.iterdir()} == {file.name for file in folder.iterdir()}
    for file in folder.glob("*.md"):
        assert (published / file.name).read_text() == file.read_text(), f"{file.name} is out of date: run make docs"


def test_list_pages_writes_and_removes_generated_pages_only(tmp_path, capsys):
    old = tmp_path / "gone.md"
    old.write_text(docs.GENERATED_MARK)
    mine = tmp_path / "mine.md"
    mine.write_text("# mine")
    assert main(["list", "--pages", str(tmp_path)]) == 0
    assert "pages are in" in capsys.readouterr().out
    assert not old.exists()
    assert mine.exists()
    assert main(["list", "--pages", str(mine / "below")]) == 2
    assert "cannot write pages" in capsys.readouterr().err


@pytest.mark.parametrize("group", docs.PICTURES)
def test_pictures_show_every_option_and_are_reproducible(group, folder, tmp_path):
    figure = docs.PICTURES[group]()
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [name for name in groups.list_option_names(group) if name != "custom"]
    assert all(line.get_ydata().size > 100 for axes in figure.axes for line in axes.lines)
    docs._save(figure, tmp_path / f"{group}.svg")
    assert (tmp_path / f"{group}.svg").read_bytes() == (folder / f"{group}.svg").read_bytes()
    assert f"![{group}]({group}.svg)" in (folder / f"{group}.md").read_text()


def test_plateau_is_drawn_for_a_metric_that_stalls():
    figure = docs.plot_schedules()
    for axes in figure.axes:
        if axes.get_title(loc="left") == "plateau":
            assert axes.lines[0].get_ydata()[-1] < 1
