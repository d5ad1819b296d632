"""dlopt list: the groups, the options of a group, and the documentation of one option."""

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
  dlopt list hydra/sweeper    how to write a search, how it treats trials, and its options
  dlopt list --pages docs/catalogue   everything as Markdown pages
"""


def list_options(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    if any(a in ("--help", "-h") for a in argv):
        print(USAGE, end="")
        return 0
    if argv and argv[0] == "--pages" and len(argv) == 2:
        return _write_pages(Path(argv[1]))
    argv = [name for a in argv for name in a.split("=")]  # optimizer=adam is accepted, too
    if len(argv) > 2 or any(a.startswith("-") for a in argv):
        print(USAGE, end="", file=sys.stderr)
        return 2
    groups = compose_groups.list_all_groups()
    if argv and argv[0] not in groups:
        print(f"dlopt list: there is no group '{argv[0]}'{did_you_mean(argv[0], groups)}", file=sys.stderr)
        return 2
    if len(argv) == 2 and argv[1] not in (options := compose_groups.list_option_names(argv[0])):
        message = f"there is no option '{argv[1]}' in group '{argv[0]}'{did_you_mean(argv[1], options)}"
        print(f"dlopt list: {message}", file=sys.stderr)
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
        pages = docs.write(folder)
    except OSError as error:
        print(f"dlopt list: cannot write pages to {folder}: {error.strerror}", file=sys.stderr)
        return 2
    print(f"{len(pages)} pages are in {folder}")
    return 0


def wrap_docstring(doc: str, width: int) -> str:
    """Wrap a docstring to a width: prose and tables are rewrapped, formulas are broken between clauses."""
    return "\n\n".join("\n".join(_wrap_block(block.splitlines(), width)) for block in doc.split("\n\n"))


def _wrap_block(lines: list[str], width: int) -> list[str]:
    if max(map(len, lines)) <= width:
        return lines
    if all(line == line.lstrip() and "  " not in line for line in lines):
        return textwrap.wrap(" ".join(lines), width, break_on_hyphens=False)
    key = option_docs.parse_key_line(lines[0])
    if key is None:
        return [part for line in lines for part in _break_formula(line, width)]
    indent = " " * lines[0].index(key[1], len(key[0]))  # where the meaning of the first key begins
    entries = "\n".join(lines).replace(f"\n{indent}", " ").splitlines()
    wrapped = (textwrap.wrap(entry, width, subsequent_indent=indent, break_on_hyphens=False) for entry in entries)
    return [part for parts in wrapped for part in parts]


def _break_formula(line: str, width: int) -> list[str]:
    """Break a formula that is too long where two spaces separate its clauses; later lines are indented further."""
    if len(line) <= width:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()))
    parts: list[str] = []
    for clause in re.split(r"(?<=\S) {2,}", line.strip()):
        if parts and len(parts[-1]) + 2 + len(clause) <= width:
            parts[-1] += "  " + clause
        else:
            begin = indent + "    " * bool(parts)
            parts += textwrap.wrap(begin + clause, width, subsequent_indent=indent + "    ", break_on_hyphens=False)
    return parts


def _print_groups(console: Console) -> None:
    width = max(map(len, compose_groups.list_all_groups()))
    for heading, groups in (
        ("", compose_groups.list_groups()),
        ("\nfor a search, dlopt train -m", compose_groups.SWEEP_GROUPS),
    ):
        if heading:
            console.print(heading, highlight=False)
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(min_width=width)
        for group in groups:
            table.add_row(f"[bold]{group}[/bold]", ", ".join(compose_groups.list_option_names(group)))
        console.print(table)
    console.print("\ndlopt list GROUP describes the options, dlopt list GROUP OPTION documents one", highlight=False)


def _print_group(console: Console, group: str) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    for option in compose_groups.list_option_names(group):
        what, source = option_docs.read_header_comments(compose_groups.CONF / group / f"{option}.yaml")
        table.add_row(f"[bold]{option}[/bold]", f"{what}\n[dim]{source}[/dim]" if source != "-" else what)
    console.print(table)
    if text := "\n\n".join(p for p in option_docs.load_common_paragraphs(group) if not option_docs.is_table(p)):
        console.print("\n" + wrap_docstring(text, console.width), highlight=False, markup=False)
    multirun = "-m " * (group in compose_groups.SWEEP_GROUPS)
    is_list = compose_groups.takes_several(group)
    usage = f"several at once: '{group}=[a,b]'" if is_list else f"use: dlopt train {multirun}{group}=OPTION"
    console.print(f"\n{usage}", highlight=False, markup=False)  # with markup, [a,b] would be a style


def _print_keys(console: Console, option: option_docs.Option) -> None:
    """Print a search's keys, each with default, range and meaning: the docstring of the option does not hold them."""
    for i, key in enumerate(option.keys):
        line = f"[bold]{escape(key.name)}[/bold] = {escape(key.default)}  [dim]{escape(key.range)}[/dim]"
        console.print("\n" * (i == 0) + line, highlight=False, soft_wrap=True)
        for part in textwrap.wrap(key.meaning, console.width - 4, break_on_hyphens=False):
            console.print(f"    {part}", highlight=False, markup=False)
    if len(compose_groups.list_option_names(option.group)) > 1:
        console.print(f"\ndlopt list {option.group} shows more", highlight=False)


def _print_option(console: Console, group: str, name: str) -> None:
    option = option_docs.load_option(group, name)
    console.print(f"[bold]{group}={name}[/bold]  {option.summary}", highlight=False)
    if option.source != "-":
        console.print(option.source, style="dim", highlight=False)
    if group == "experiment":
        console.print()
        console.print((compose_groups.CONF / group / f"{name}.yaml").read_text(), highlight=False, markup=False)
        return
    is_search = group in compose_groups.SWEEP_GROUPS
    if text := "\n\n".join(p for p in option.paragraphs if not (is_search and option_docs.is_table(p))):
        console.print("\n" + wrap_docstring(text, console.width), highlight=False, markup=False)
    if is_search:
        _print_keys(console, option)
    elif option.keys:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for title in ("key", "default", "range"):
            table.add_column(title)
        for key in option.keys:
            table.add_row(escape(key.name), escape(key.default), escape(key.range))
        console.print()
        console.print(table, highlight=False)
    if option.companions:
        console.print(f"\nalso selects {', '.join(option.companions)}, unless you choose otherwise", highlight=False)
