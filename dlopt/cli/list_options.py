"""dlopt list: the groups, the options of a group, and the documentation of one option."""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dlopt.config.compose import groups as compose_groups
from dlopt.config.compose.nested_options import find_places
from dlopt.config.compose.static_config import StaticConfig
from dlopt.config.problems import ConfigError
from dlopt.config.schema import option_docs, targets
from dlopt.errors import did_you_mean

EXAMPLES = """\
  dlopt list                  every group and its options
  dlopt list optimizer        the options of a group, each with its source
  dlopt list optimizer adam   one option: its formula, keys, defaults and ranges
  dlopt list settings         the keys outside the groups, such as batch_size, objective and tolerance.gradient
  dlopt list hydra/sweeper    how to write a search, how it treats trials, and its options
  dlopt list --pages docs/catalogue   everything as Markdown pages
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = argparse.ArgumentParser(
        "dlopt list",
        description="Show the options.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("group", nargs="?", metavar="GROUP", help="describe the options of a group")
    parser.add_argument("option", nargs="?", metavar="OPTION", help="document one option")
    parser.add_argument("--config-dir", "-cd", metavar="DIR", type=Path, help="a folder with options of your own")
    parser.add_argument("--pages", metavar="DIR", type=Path, help="write all options of dlopt as Markdown pages")
    return parser


def list_options(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parser = build_parser()
    arguments = parser.parse_intermixed_args(argv)
    typed = (arguments.group or "").partition("=")  # optimizer=adam is accepted, too
    names = [name for name in (typed[0], typed[2] or arguments.option) if name]
    folder = arguments.config_dir
    if folder is not None and not folder.is_dir():
        parser.error(f"--config-dir: there is no directory {folder}")
    if arguments.pages is not None:
        return _write_pages(arguments.pages)
    config = StaticConfig({}, [] if folder is None else [folder])
    groups = config.list_all_groups()
    if names[:1] == [compose_groups.SETTINGS]:
        nodes = {node.name: node for node in option_docs.load_settings()}
        if names[1:] and names[1] not in nodes:
            parser.error(f"settings has no part '{names[1]}'{did_you_mean(names[1], nodes)}")
        _print_settings(Console(), [nodes[name] for name in names[1:] or nodes])
        return 0
    if names and names[0] not in groups:
        parser.error(f"there is no group '{names[0]}'{did_you_mean(names[0], groups)}")
    if len(names) == 2 and names[1] not in (options := config.list_options(names[0])):
        parser.error(f"there is no option '{names[1]}' in group '{names[0]}'{did_you_mean(names[1], options)}")
    console = Console()
    if not names:
        _print_groups(config, console)
    elif len(names) == 1:
        _print_group(config, console, names[0])
    else:
        targets.add_working_directory()
        try:
            _print_option(config, console, *names)
        except ConfigError as error:
            parser.error(error.summarize())
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


def _print_groups(config: StaticConfig, console: Console) -> None:
    groups = config.list_all_groups()
    width = max(map(len, groups))
    for heading, is_search in (("", False), ("\nfor a search, dlopt train -m", True)):
        if heading:
            console.print(heading, highlight=False)
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(min_width=width)
        for group in groups:
            if (group in compose_groups.SWEEP_GROUPS) == is_search:
                table.add_row(f"[bold]{group}[/bold]", escape(", ".join(config.list_options(group))))
        console.print(table)
    console.print("\ndlopt list GROUP describes the options, dlopt list GROUP OPTION documents one", highlight=False)
    console.print("dlopt list settings documents the keys outside the groups", highlight=False)


def _print_group(config: StaticConfig, console: Console, group: str) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    for option in config.list_options(group):
        what, source = map(escape, option_docs.read_header_comments(config, group, option))
        table.add_row(f"[bold]{escape(option)}[/bold]", f"{what}\n[dim]{source}[/dim]" if source != "-" else what)
    console.print(table)
    if text := "\n\n".join(p for p in option_docs.load_common_paragraphs(group) if not option_docs.is_table(p)):
        console.print("\n" + wrap_docstring(text, console.width), highlight=False, markup=False)
    multirun = "-m " * (group in compose_groups.SWEEP_GROUPS)
    keys = find_places(group) if group in compose_groups.select_groups("nested") else [group]
    is_list = compose_groups.takes_several(group)
    usage = f"several at once: '{group}=[a,b]'" if is_list else f"use: dlopt train {multirun}{' or '.join(keys)}=OPTION"
    console.print(f"\n{usage}", highlight=False, markup=False)  # with markup, [a,b] would be a style


def _print_settings(console: Console, nodes: Sequence[option_docs.Option]) -> None:
    for i, node in enumerate(nodes):
        console.print("\n" * (i > 0) + f"[bold]{node.name}[/bold]  {escape(node.summary)}", highlight=False)
        if node.text:
            console.print("\n" + wrap_docstring("\n\n".join(node.text), console.width), highlight=False, markup=False)
        _print_keys(console, node)


def _print_keys(console: Console, option: option_docs.Option) -> None:
    """Print keys, each with default, range and meaning."""
    for i, key in enumerate(option.keys):
        line = f"[bold]{escape(key.name)}[/bold] = {escape(key.default)}  [dim]{escape(key.range)}[/dim]"
        console.print("\n" * (i == 0) + line, highlight=False, soft_wrap=True)
        for part in textwrap.wrap(key.meaning, console.width - 4, break_on_hyphens=False):
            console.print(f"    {part}", highlight=False, markup=False)


def _print_option(config: StaticConfig, console: Console, group: str, name: str) -> None:
    option = option_docs.load_option(group, name, config)
    console.print(f"[bold]{group}={name}[/bold]  {escape(option.summary)}", highlight=False)
    if option.source != "-":
        console.print(option.source, style="dim", highlight=False, markup=False)
    file = config.find_file(group, name)
    if group == compose_groups.PRESETS and file is not None:
        console.print()
        console.print(file.read_text(), highlight=False, markup=False)
        return
    is_search = group in compose_groups.SWEEP_GROUPS
    if text := "\n\n".join(p for p in option.paragraphs if not (is_search and option_docs.is_table(p))):
        console.print("\n" + wrap_docstring(text, console.width), highlight=False, markup=False)
    if is_search:  # the docstring does not hold the keys
        _print_keys(console, option)
        if len(config.list_options(group)) > 1:
            console.print(f"\ndlopt list {group} shows more", highlight=False)
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
