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

from dlopt.base.schedule import Time
from dlopt.config.compose import groups as compose_groups
from dlopt.config.compose.nested_options import held
from dlopt.config.compose.static_config import Outline
from dlopt.config.schema import option_docs, targets
from dlopt.config.schema.option_docs import Option
from dlopt.report.small_multiples import Line, gallery

MADE = "<!-- made by `make docs` from the options themselves -->"


STALLS = [{"step": float(t), "val/loss": max(0.3, 1.0 - t / 80)} for t in range(0, 101, 2)]
"""A validation loss that falls for a while and then does not, for a schedule that watches one."""


def write(folder: Path) -> list[Path]:
    """Write all pages; those of groups that are no more are removed. The files written are returned."""
    groups = {group: list(option_docs.options(group)) for group in compose_groups.listed()}
    pages = {named(group): page(group, options) for group, options in groups.items()}
    for group in PICTURES:
        pages[group].insert(4, f"![{group}]({group}.svg)\n")
    pages |= {"README": index(groups), "slips": slips(groups)}
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.md"):
        if file.stem not in pages and MADE in file.read_text():
            file.unlink()
    for name, lines in pages.items():
        folder.joinpath(f"{name}.md").write_text("\n".join([MADE, *lines]).rstrip() + "\n")
    for group, picture in PICTURES.items():
        _save(picture(), folder / f"{group}.svg")
    return sorted(folder / f"{name}.md" for name in pages)


def named(group: str) -> str:
    """The name of a group's page."""
    return group.rpartition("/")[2]


def index(groups: dict[str, list[Option]]) -> list[str]:
    """Every group with its options."""
    of_runs = {group: options for group, options in groups.items() if group not in compose_groups.SEARCH}
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
    return found + [_row(group, groups[group]) for group in compose_groups.SEARCH]


def _row(group: str, options: Sequence[Option]) -> str:
    file = f"{named(group)}.md"
    links = ", ".join(f"[{o.name}]({file}#{o.name})" for o in options if o.name != "custom")
    return f"| [**{group}**]({file}) | {links} |"


def page(group: str, options: Sequence[Option]) -> list[str]:
    """A group: a table of its options, then each of them."""
    default = Outline({}).defaults().get(group, "")
    if group in compose_groups.SINGLE:
        use = f"`dlopt train {group}=NAME` takes one; `{default}` unless you say otherwise."
    elif group in compose_groups.SEARCH:
        use = f"`dlopt train -m {group}=NAME` takes one; `{default}` unless you say otherwise."
    elif group == "experiment":
        use = "`dlopt train experiment=NAME` sets several things at once; what is typed beside it wins."
    else:
        use = f"`dlopt train {group}=NAME` takes one, `dlopt train '{group}=[A,B]'` several; none unless you say so."
    found = [f"# {group}", "", use, "", "| option | what it is |", "| --- | --- |"]
    found += [f"| [{option.name}](#{option.name}) | {plain(option.what)} |" for option in options]
    for paragraph in option_docs.common(group):
        if not option_docs.is_table(paragraph):
            found += ["", *_paragraph(paragraph)]
    for option in options:
        found += ["", *section(option)]
    return [*found, "", "[All groups](README.md)"]


def section(option: Option) -> list[str]:
    """One option: what it is, its formula, what one should know, its keys, slips and sources."""
    found = [f"## {option.name}", "", f"**{plain(option.what)}**"]
    for paragraph in option.text:
        found += ["", *_paragraph(paragraph)]
    if option.group == "experiment":
        text = (compose_groups.CONF / option.group / f"{option.name}.yaml").read_text()
        found += ["", "```yaml", *text.rstrip().splitlines(), "```"]
    if option.keys:
        found += ["", "| key | default | range | meaning |", "| --- | --- | --- | --- |"]
        found += [
            f"| `{key.name}` | `{_cell(key.default)}` | {plain(key.range)} | {plain(key.meaning)} |"
            for key in option.keys
        ]
    if option.chosen:
        found += ["", f"With it goes {', '.join(f'`{one}`' for one in option.chosen)}, unless you say otherwise."]
    for slip in option.slips:
        found += ["", f"> **A slip of the lectures.** {plain(_sentence(slip))}"]
    source = option.sources or ([option.source] if option.source not in ("-", "yours") else [])
    for one in source:
        found += ["", f"*Source:* {plain(one)}"]
    return found


def slips(groups: dict[str, list[Option]]) -> list[str]:
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
            link = f"[{group}={option.name}]({named(group)}.md#{option.name})"
            found += [f"| {link} | {plain(_sentence(slip))} |" for slip in option.slips]
    return [*found, "", "[All groups](README.md)"]


def _sentence(text: str) -> str:
    """With a capital in front, as it stands alone here."""
    return text[0].upper() + text[1:]


def plain(text: str) -> str:
    """Text in which Markdown finds nothing to interpret but what stands in backquotes."""
    pieces = text.split("`")
    if len(pieces) % 2 == 0:
        return _escaped(text)
    return "".join(f"`{_cell(piece)}`" if i % 2 else _escaped(piece) for i, piece in enumerate(pieces))


def _escaped(text: str) -> str:
    return re.sub(r"([\\*_<>|\[\]#~^$])", r"\\\1", text)


def _cell(text: str) -> str:
    """Code that may stand in a table, where a bar would end the cell even inside backquotes."""
    return text.replace("|", r"\|")


def _paragraph(paragraph: str) -> list[str]:
    """Formulas keep their lines and their spacing; prose flows."""
    lines = paragraph.splitlines()
    if is_formula(lines):
        return ["```text", *_dedented(lines), "```"]
    return [plain(" ".join(paragraph.split()))]


def is_formula(lines: Iterable[str]) -> bool:
    """Whether a paragraph is set apart, or begins with an equation or an update."""
    lines = list(lines)
    begins = re.match(r"[\w^']+(\([\w, ]*\))? (=|<-|~) ", lines[0])
    return all(line.startswith("  ") for line in lines) or begins is not None


def _dedented(lines: Sequence[str]) -> list[str]:
    indent = min(len(line) - len(line.lstrip()) for line in lines)
    return [line[indent:] for line in lines]


# ------------------------------------------------------------------------------------------- pictures


def schedules() -> Figure:
    """The factor of each schedule over a run of 100 epochs of two steps, with the keys that it has by default."""
    times = [Time(t, 200, 2, tuple(row for row in STALLS if row["step"] <= t / 2)) for t in range(200)]
    lines = {}
    for name, schedule in _made("schedule").items():
        factors = [schedule(time) for time in times]
        lines[name] = [Line([time.step / time.per_epoch for time in times], factors, "factor")]
    return gallery(lines, "epoch of 100", (-0.05, 1.1), "factor of the rate")


def activations() -> Figure:
    """Each activation and its slope."""
    lines = {}
    for name, activation in _made("activation").items():
        z = torch.linspace(-4, 4, 401, dtype=torch.float64, requires_grad=True)
        y = activation().double()(z.unsqueeze(0)).squeeze(0)
        (slope,) = torch.autograd.grad(y.sum(), z)
        x = z.tolist()
        lines[name] = [Line(x, y.tolist(), "f(x)"), Line(x, slope.tolist(), "slope")]
    return gallery(lines, "x", (-2.0, 2.5))


PICTURES = {"schedule": schedules, "activation": activations}


def _made(group: str) -> dict[str, Any]:
    """The parts of a group's options as they are by default, by their names."""
    names = [name for name in compose_groups.options(group) if name not in ("none", "custom")]
    return {name: targets.make(_node(group, name)) for name in names}


def _node(group: str, name: str) -> dict[str, Any]:
    """An option's keys, and those of the options that stand inside it."""
    file = compose_groups.CONF / group / f"{name}.yaml"
    node = {str(k): v for k, v in OmegaConf.load(file).items() if k != "defaults"}
    return node | {key: _node(other, default) for key, (other, default) in held(file).items()}


def _save(figure: Figure, file: Path) -> None:
    """The same bytes whenever it is drawn anew."""
    with mpl.rc_context({"svg.hashsalt": file.stem}):
        figure.savefig(file, metadata={"Date": None})
