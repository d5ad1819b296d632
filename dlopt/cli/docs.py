"""The catalogue as Markdown: a page for each group, one of the lectures' slips, and an index."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from dlopt.base.schedule import TrainingTime
from dlopt.config.compose import groups as compose_groups
from dlopt.config.compose.nested_options import load_nested_defaults
from dlopt.config.compose.static_config import StaticConfig
from dlopt.config.schema import option_docs, targets
from dlopt.config.schema.option_docs import Option
from dlopt.report.small_multiples import LabeledLine, plot_small_multiples

GENERATED_MARK = "<!-- made by `make docs` from the options themselves -->"


PLATEAU_ROWS = [{"step": float(t), "val/loss": max(0.3, 1.0 - t / 80)} for t in range(0, 101, 2)]
"""A validation loss that falls for a while and then does not, for a schedule that watches one."""


def write(folder: Path) -> list[Path]:
    """Write all pages; those of groups that are no more are removed. The files written are returned."""
    groups = {group: list(option_docs.load_options(group)) for group in compose_groups.list_all_groups()}
    pages = {get_page_name(group): render_page(group, options) for group, options in groups.items()}
    for group in PICTURES:
        pages[group].insert(4, f"![{group}]({group}.svg)\n")
    pages |= {"README": render_index(groups), "slips": render_slips(groups)}
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.md"):
        if file.stem not in pages and GENERATED_MARK in file.read_text():
            file.unlink()
    for name, lines in pages.items():
        folder.joinpath(f"{name}.md").write_text("\n".join([GENERATED_MARK, *lines]).rstrip() + "\n")
    for group, picture in PICTURES.items():
        _save(picture(), folder / f"{group}.svg")
    return sorted(folder / f"{name}.md" for name in pages)


def get_page_name(group: str) -> str:
    """The name of a group's page."""
    return group.rpartition("/")[2]


def render_index(groups: dict[str, list[Option]]) -> list[str]:
    """Every group with its options."""
    of_runs = {group: options for group, options in groups.items() if group not in compose_groups.SWEEP_GROUPS}
    count = sum(option.name not in ("none", "custom") for options in of_runs.values() for option in options)
    found = [
        "# The catalogue",
        "",
        f"{count} options in {len(of_runs)} groups. `dlopt list GROUP OPTION` shows the same in the terminal;",
        "[where the lectures slip](slips.md) says what was not followed to the letter.",
        "",
        "| group | options |",
        "| --- | --- |",
    ]
    found += map(_row, of_runs, of_runs.values())
    found += ["", "A search, `dlopt train -m`, has two more: [how one is typed](sweeper.md), and what it does.", ""]
    found += ["| group | options |", "| --- | --- |"]
    return found + [_row(group, groups[group]) for group in compose_groups.SWEEP_GROUPS]


def _row(group: str, options: Sequence[Option]) -> str:
    file = f"{get_page_name(group)}.md"
    links = ", ".join(f"[{o.name}]({file}#{o.name})" for o in options if o.name != "custom")
    return f"| [**{group}**]({file}) | {links} |"


def render_page(group: str, options: Sequence[Option]) -> list[str]:
    """A group: a table of its options, then each of them."""
    default = StaticConfig({}).default_options().get(group, "")
    if compose_groups.is_single(group):
        use = f"`dlopt train {group}=NAME` takes one; `{default}` unless you say otherwise."
    elif group in compose_groups.SWEEP_GROUPS:
        use = f"`dlopt train -m {group}=NAME` takes one; `{default}` unless you say otherwise."
    elif group == "experiment":
        use = "`dlopt train experiment=NAME` sets several things at once; what is typed beside it wins."
    else:
        use = f"`dlopt train {group}=NAME` takes one, `dlopt train '{group}=[A,B]'` several; none unless you say so."
    found = [f"# {group}", "", use, "", "| option | what it is |", "| --- | --- |"]
    found += [f"| [{option.name}](#{option.name}) | {escape_markdown(option.summary)} |" for option in options]
    for paragraph in option_docs.load_common_paragraphs(group):
        if not option_docs.is_table(paragraph):
            found += ["", *_render_paragraph(paragraph)]
    for option in options:
        found += ["", *render_section(option)]
    return [*found, "", "[All groups](README.md)"]


def render_section(option: Option) -> list[str]:
    """One option: what it is, its formula, what one should know, its keys, slips and sources."""
    found = [f"## {option.name}", "", f"**{escape_markdown(option.summary)}**"]
    for paragraph in option.text:
        found += ["", *_render_paragraph(paragraph)]
    if option.group == "experiment":
        text = (compose_groups.CONF / option.group / f"{option.name}.yaml").read_text()
        found += ["", "```yaml", *text.rstrip().splitlines(), "```"]
    if option.keys:
        found += ["", "| key | default | range | meaning |", "| --- | --- | --- | --- |"]
        found += [
            f"| `{key.name}` | `{_escape_cell(key.default)}` | {escape_markdown(key.range)} | {escape_markdown(key.meaning)} |"
            for key in option.keys
        ]
    if option.companions:
        found += ["", f"With it goes {', '.join(f'`{one}`' for one in option.companions)}, unless you say otherwise."]
    for slip in option.slips:
        found += ["", f"> **A slip of the lectures.** {escape_markdown(_capitalize(slip))}"]
    source = option.sources or ([option.source] if option.source not in ("-", "yours") else [])
    for one in source:
        found += ["", f"*Source:* {escape_markdown(one)}"]
    return found


def render_slips(groups: dict[str, list[Option]]) -> list[str]:
    """What the lectures say otherwise, with the options that say what is right."""
    found = [
        "# Where the lectures slip",
        "",
        "Formulas here follow the papers. Where a lecture writes something else, the option says so:",
        "",
        "| option | what a lecture says, and what is right |",
        "| --- | --- |",
    ]
    for group, options in groups.items():
        for option in options:
            link = f"[{group}={option.name}]({get_page_name(group)}.md#{option.name})"
            found += [f"| {link} | {escape_markdown(_capitalize(slip))} |" for slip in option.slips]
    return [*found, "", "[All groups](README.md)"]


def _capitalize(text: str) -> str:
    """With a capital in front, as it stands alone here."""
    return text[0].upper() + text[1:]


def escape_markdown(text: str) -> str:
    """Text in which Markdown finds nothing to interpret but what stands in backquotes."""
    pieces = text.split("`")
    if len(pieces) % 2 == 0:
        return _escape(text)
    return "".join(f"`{_escape_cell(piece)}`" if i % 2 else _escape(piece) for i, piece in enumerate(pieces))


def _escape(text: str) -> str:
    return re.sub(r"([\\*_<>|\[\]#~^$])", r"\\\1", text)


def _escape_cell(text: str) -> str:
    """Code that may stand in a table, where a bar would end the cell even inside backquotes."""
    return text.replace("|", r"\|")


def _render_paragraph(paragraph: str) -> list[str]:
    """Formulas keep their lines and their spacing; prose flows."""
    lines = paragraph.splitlines()
    if is_formula(lines):
        return ["```text", *_dedent(lines), "```"]
    return [escape_markdown(" ".join(paragraph.split()))]


def is_formula(lines: Iterable[str]) -> bool:
    """Whether a paragraph is set apart, or begins with an equation or an update."""
    lines = list(lines)
    begins = re.match(r"[\w^']+(\([\w, ]*\))? (=|<-|~) ", lines[0])
    return all(line.startswith("  ") for line in lines) or begins is not None


def _dedent(lines: Sequence[str]) -> list[str]:
    indent = min(len(line) - len(line.lstrip()) for line in lines)
    return [line[indent:] for line in lines]


# ------------------------------------------------------------------------------------------- pictures


def plot_schedules() -> Figure:
    """The factor of each schedule over a run of 100 epochs of two steps, with the keys that it has by default."""
    times = [TrainingTime(t, 200, 2, tuple(row for row in PLATEAU_ROWS if row["step"] <= t / 2)) for t in range(200)]
    lines = {}
    for name, schedule in _instantiate_options("schedule").items():
        factors = [schedule(time) for time in times]
        lines[name] = [LabeledLine([time.step / time.per_epoch for time in times], factors, "factor")]
    return plot_small_multiples(lines, "epoch of 100", (-0.05, 1.1), "factor of the rate")


def plot_activations() -> Figure:
    """Each activation and its slope."""
    lines = {}
    for name, activation in _instantiate_options("activation").items():
        z = torch.linspace(-4, 4, 401, dtype=torch.float64, requires_grad=True)
        y = activation().double()(z.unsqueeze(0)).squeeze(0)
        (slope,) = torch.autograd.grad(y.sum(), z)
        x = z.tolist()
        lines[name] = [LabeledLine(x, y.tolist(), "f(x)"), LabeledLine(x, slope.tolist(), "slope")]
    return plot_small_multiples(lines, "x", (-2.0, 2.5))


PICTURES = {"schedule": plot_schedules, "activation": plot_activations}


def _instantiate_options(group: str) -> dict[str, Any]:
    """The parts of a group's options as they are by default, by their names."""
    names = [name for name in compose_groups.list_option_names(group) if name not in ("none", "custom")]
    return {name: targets.instantiate(_node(group, name)) for name in names}


def _node(group: str, name: str) -> dict[str, Any]:
    """An option's keys, and those of the options that stand inside it."""
    file = compose_groups.CONF / group / f"{name}.yaml"
    node = {str(k): v for k, v in OmegaConf.load(file).items() if k != "defaults"}
    return node | {key: _node(other, default) for key, (other, default) in load_nested_defaults(file).items()}


def _save(figure: Figure, file: Path) -> None:
    """The same bytes whenever it is drawn anew."""
    with mpl.rc_context({"svg.hashsalt": file.stem}):
        figure.savefig(file, metadata={"Date": None})
