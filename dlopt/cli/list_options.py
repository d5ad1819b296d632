"""dlopt list: the groups, the options of a group, and what one option takes."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dlopt.config.compose import groups as compose_groups
from dlopt.config.schema import option_docs
from dlopt.errors import did_you_mean

USAGE = """\
usage: dlopt list [GROUP [OPTION]]
       dlopt list --pages FOLDER

  dlopt list                  every group and its options
  dlopt list optimizer        the options of a group, each with its source
  dlopt list optimizer adam   one option: its formula, keys, defaults and ranges
  dlopt list hydra/sweeper    how a search is typed, what it does with trials, and its options
  dlopt list --pages docs/catalogue   all of it as Markdown pages
"""


def list_options(argv: Sequence[str]) -> int:
    if any(a in ("--help", "-h") for a in argv):
        print(USAGE, end="")
        return 0
    if argv and argv[0] == "--pages" and len(argv) == 2:
        return _write_pages(Path(argv[1]))
    argv = [name for a in argv for name in a.split("=")]  # optimizer=adam will do too
    if len(argv) > 2 or any(a.startswith("-") for a in argv):
        print(USAGE, end="", file=sys.stderr)
        return 2
    if argv and argv[0] not in compose_groups.list_all_groups():
        print(
            f"dlopt list: there is no group '{argv[0]}'{did_you_mean(argv[0], compose_groups.list_all_groups())}",
            file=sys.stderr,
        )
        return 2
    if len(argv) == 2 and argv[1] not in compose_groups.list_option_names(argv[0]):
        known = compose_groups.list_option_names(argv[0])
        print(
            f"dlopt list: there is no option '{argv[1]}' in group '{argv[0]}'{did_you_mean(argv[1], known)}",
            file=sys.stderr,
        )
        return 2
    console = Console()
    if not argv:
        _print_groups(console)
    elif len(argv) == 1:
        _print_group(console, argv[0])
    else:
        _print_option(console, *argv)
    return 0


def _write_pages(folder: Path) -> int:
    from dlopt.cli import docs

    try:
        written = docs.write(folder)
    except OSError as error:
        print(f"dlopt list: cannot write pages to {folder}: {error.strerror}", file=sys.stderr)
        return 2
    print(f"{len(written)} pages are in {folder}")
    return 0


def wrap_docstring(doc: str, width: int) -> str:
    """A docstring for a narrower screen: prose and tables are wrapped anew, formulas broken between clauses."""
    return "\n\n".join("\n".join(_wrap_block(block.splitlines(), width)) for block in doc.split("\n\n"))


def _wrap_block(lines: list[str], width: int) -> list[str]:
    if max(map(len, lines)) <= width:
        return lines
    if all(line == line.lstrip() and "  " not in line for line in lines):
        return textwrap.wrap(" ".join(lines), width, break_on_hyphens=False)
    found: list[str] = []
    begun = option_docs.parse_key_line(
        lines[0]
    )  # a key, and what it means: further lines stand under the first one's text
    if begun is None:
        return [part for line in lines for part in _break_formula(line, width)]
    indent = " " * lines[0].index(begun[1], len(begun[0]))
    for line in lines:
        if line.startswith(indent):
            found[-1] += " " + line.strip()
        else:
            found.append(line)
    return [
        part for line in found for part in textwrap.wrap(line, width, subsequent_indent=indent, break_on_hyphens=False)
    ]


def _break_formula(line: str, width: int) -> list[str]:
    """A formula that is too long, broken where two spaces part its clauses; what follows is set further in."""
    if len(line) <= width:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()))
    found: list[str] = []
    for clause in re.split(r"(?<=\S) {2,}", line.strip()):
        if found and len(found[-1]) + 2 + len(clause) <= width:
            found[-1] += "  " + clause
        else:
            begins = indent + "    " * bool(found)
            found += textwrap.wrap(begins + clause, width, subsequent_indent=indent + "    ", break_on_hyphens=False)
    return found


def _print_groups(console: Console) -> None:
    width = max(map(len, compose_groups.list_all_groups()))
    for heading, groups in (
        ("", compose_groups.list_groups()),
        ("\nof a search, dlopt train -m", compose_groups.SWEEP_GROUPS),
    ):
        if heading:
            console.print(heading, highlight=False)
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(min_width=width)
        for group in groups:
            table.add_row(f"[bold]{group}[/bold]", ", ".join(compose_groups.list_option_names(group)))
        console.print(table)
    console.print("\ndlopt list GROUP shows what they are, dlopt list GROUP OPTION what one takes", highlight=False)


def _print_group(console: Console, group: str) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    for option in compose_groups.list_option_names(group):
        what, source = option_docs.read_header_comments(compose_groups.CONF / group / f"{option}.yaml")
        table.add_row(f"[bold]{option}[/bold]", f"{what}\n[dim]{source}[/dim]" if source != "-" else what)
    console.print(table)
    if text := "\n\n".join(p for p in option_docs.load_common_paragraphs(group) if not option_docs.is_table(p)):
        console.print("\n" + wrap_docstring(text, console.width), highlight=False, markup=False)
    several = compose_groups.takes_several(group)
    many = "-m " * (group in compose_groups.SWEEP_GROUPS)
    how = f"several at once: '{group}=[a,b]'" if several else f"use: dlopt train {many}{group}=OPTION"
    console.print(f"\n{how}", highlight=False, markup=False)  # else [a,b] is taken for a style


def _print_keys(console: Console, found: option_docs.Option) -> None:
    """Its keys, each with its default, range and meaning: the options of a search have them in common, and no docstring
    of their own for them."""
    for i, key in enumerate(found.keys):
        line = f"[bold]{escape(key.name)}[/bold] = {escape(key.default)}  [dim]{escape(key.range)}[/dim]"
        console.print("\n" * (i == 0) + line, highlight=False, soft_wrap=True)
        for part in textwrap.wrap(key.meaning, console.width - 4, break_on_hyphens=False):
            console.print(f"    {part}", highlight=False, markup=False)
    if len(compose_groups.list_option_names(found.group)) > 1:
        console.print(f"\ndlopt list {found.group} says more", highlight=False)


def _print_option(console: Console, group: str, name: str) -> None:
    found = option_docs.load_option(group, name)
    console.print(f"[bold]{group}={name}[/bold]  {found.summary}", highlight=False)
    if found.source != "-":
        console.print(found.source, style="dim", highlight=False)
    if group == "experiment":
        console.print()
        console.print((compose_groups.CONF / group / f"{name}.yaml").read_text(), highlight=False, markup=False)
        return
    if shown := [
        p for p in found.paragraphs if group not in compose_groups.SWEEP_GROUPS or not option_docs.is_table(p)
    ]:
        text = "\n\n".join(shown)
        console.print("\n" + wrap_docstring(text, console.width), highlight=False, markup=False)
    if group in compose_groups.SWEEP_GROUPS:
        _print_keys(console, found)
    elif found.keys:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for title in ("key", "default", "range"):
            table.add_column(title)
        for key in found.keys:
            table.add_row(escape(key.name), escape(key.default), escape(key.range))
        console.print()
        console.print(table, highlight=False)
    if found.companions:
        console.print(f"\nwith it goes {', '.join(found.companions)}, unless you say otherwise", highlight=False)
