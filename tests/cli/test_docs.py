"""The catalogue as pages: complete, and nothing that Markdown would swallow."""

import re

import pytest

from dlopt.cli import docs, main
from dlopt.config.compose import groups
from dlopt.config.schema import option_docs

OPTIONS = [(group, name) for group in groups.list_all_groups() for name in groups.list_option_names(group)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("docs") / "catalogue"
    docs.write(made)
    return made


@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_a_page_says_all_that_an_option_says_of_itself(group, name, folder):
    page = folder.joinpath(f"{docs.get_page_name(group)}.md").read_text()
    (section,) = re.findall(rf"^## {name}\n(.*?)(?=^## |^\[All groups\]|\Z)", page, re.MULTILINE | re.DOTALL)
    option = option_docs.load_option(group, name)
    shown = "".join(re.sub(r"\\([\\*_<>|\[\]#~^$])", r"\1", section).split())
    said = [option.summary, *option.text, *option.slips, *option.sources]
    said += [part for key in option.keys for part in (key.name, key.default, key.range, key.meaning)]
    assert all("".join(part.split()).casefold() in shown.casefold() for part in said)
    assert all(key.range and key.meaning for key in option.keys), "each key has a range, and a line in the docstring"


def test_the_index_leads_to_every_option(folder):
    index = folder.joinpath("README.md").read_text()
    for group, name in OPTIONS:
        assert (f"[{name}]({docs.get_page_name(group)}.md#{name})" in index) is (name != "custom")
        assert f"](#{name})" in folder.joinpath(f"{docs.get_page_name(group)}.md").read_text()


@pytest.mark.parametrize("group", groups.SWEEP_GROUPS)
def test_a_page_says_what_the_options_of_a_search_have_in_common(group, folder):
    page = folder.joinpath(f"{docs.get_page_name(group)}.md").read_text()
    shown = "".join(re.sub(r"\\([\\*_<>|\[\]#~^$])", r"\1", page).split())
    told = [paragraph for paragraph in option_docs.load_common_paragraphs(group) if not option_docs.is_table(paragraph)]
    assert told
    assert all("".join(paragraph.split()) in shown for paragraph in told)


def test_every_slip_stands_beside_its_option_and_in_one_list(folder):
    told = [
        slip for group in groups.list_groups() for option in option_docs.load_options(group) for slip in option.slips
    ]
    listed = folder.joinpath("slips.md").read_text()
    assert all(f"| {docs.escape_markdown(slip)} |".casefold() in listed.casefold() for slip in told)


def test_tables_have_as_many_cells_in_every_row(folder):
    for file in folder.glob("*.md"):
        for table in re.findall(r"(?:^\|.*\n)+", file.read_text(), re.MULTILINE):
            assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1, file


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("w_i * |w|", r"w\_i \* \|w\|"),
        ("`then` alone", "`then` alone"),
        ("one ` of them", "one ` of them"),
        ("`a|b` a|b", r"`a\|b` a\|b"),
    ],
)
def test_text_is_kept_from_markdown_but_for_code(text, written):
    assert docs.escape_markdown(text) == written


@pytest.mark.parametrize(
    ("first", "formula"),
    [("w <- w - lr g", True), ("f(x) = max(0, x)", True), ("W ~ N(0, 1)", True), ("  x = 1", True),
     ("and w = x is so", False), ("With v = 0 it stands", False)],
)  # fmt: skip
def test_a_formula_keeps_its_lines(first, formula):
    assert docs.is_formula([first]) is formula


def test_the_pages_that_are_published_are_those_of_the_options(folder):
    """`make docs` brings them up to date."""
    published = groups.CONF.parent / "docs" / "catalogue"
    assert {file.name for file in published.iterdir()} == {file.name for file in folder.iterdir()}
    for file in folder.glob("*.md"):
        assert (published / file.name).read_text() == file.read_text(), f"{file.name} is behind: make docs"


def test_pages_from_the_command_line(tmp_path, capsys):
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
def test_a_picture_shows_every_option_and_is_the_same_when_drawn_anew(group, folder, tmp_path):
    figure = docs.PICTURES[group]()
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [name for name in groups.list_option_names(group) if name != "custom"]
    assert all(line.get_ydata().size > 100 for axes in figure.axes for line in axes.lines)
    docs._save(figure, tmp_path / f"{group}.svg")
    assert (tmp_path / f"{group}.svg").read_bytes() == (folder / f"{group}.svg").read_bytes()
    assert f"![{group}]({group}.svg)" in (folder / f"{group}.md").read_text()


def test_the_schedule_that_watches_a_metric_is_drawn_where_one_stalls():
    figure = docs.plot_schedules()
    for axes in figure.axes:
        if axes.get_title(loc="left") == "plateau":
            assert axes.lines[0].get_ydata()[-1] < 1
