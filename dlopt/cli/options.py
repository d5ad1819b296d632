"""dlopt list: the groups, the options of a group, and what one option takes."""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dlopt.config import paths
from dlopt.mistakes import nearest

USAGE = """\
usage: dlopt list [GROUP [OPTION]]

  dlopt list                  every group and its options
  dlopt list optimizer        the options of a group, each with its source
  dlopt list optimizer adam   one option: its formula, keys, defaults and ranges
"""


def list_options(argv: Sequence[str]) -> int:
    if any(a in ("--help", "-h") for a in argv):
        print(USAGE, end="")
        return 0
    argv = [name for a in argv for name in a.split("=")]  # optimizer=adam will do too
    if len(argv) > 2 or any(a.startswith("-") for a in argv):
        print(USAGE, end="", file=sys.stderr)
        return 2
    if argv and argv[0] not in paths.groups():
        print(f"dlopt list: there is no group '{argv[0]}'{nearest(argv[0], paths.groups())}", file=sys.stderr)
        return 2
    if len(argv) == 2 and argv[1] not in paths.options(argv[0]):
        known = paths.options(argv[0])
        print(
            f"dlopt list: there is no option '{argv[1]}' in group '{argv[0]}'{nearest(argv[1], known)}", file=sys.stderr
        )
        return 2
    console = Console()
    if not argv:
        _groups(console)
    elif len(argv) == 1:
        _group(console, argv[0])
    else:
        _option(console, *argv)
    return 0


def head(file: Path) -> tuple[str, str]:
    """The first two comments of an option's file: what it is, and its source."""
    comments = [line[1:].strip() for line in file.read_text().splitlines() if line.startswith("#")]
    comments = [c for c in comments if not c.startswith("@package")]
    return comments[0], comments[1]


def fitted(doc: str, width: int) -> str:
    """A docstring for a narrower screen: prose and the meanings of keys are wrapped anew, formulas stay as they are."""
    return "\n\n".join("\n".join(_wrapped(block.splitlines(), width)) for block in doc.split("\n\n"))


def _wrapped(lines: list[str], width: int) -> list[str]:
    if max(map(len, lines)) <= width:
        return lines
    if all(line == line.lstrip() and "  " not in line for line in lines):
        return textwrap.wrap(" ".join(lines), width, break_on_hyphens=False)
    found: list[str] = []
    entry = re.match(r"\w+ {2,}", lines[0])  # a key, and what it means: further lines stand under the first one's text
    if not entry:
        return lines
    indent = " " * entry.end()
    for line in lines:
        if line.startswith(indent):
            found[-1] += " " + line.strip()
        else:
            found.append(line)
    return [
        part for line in found for part in textwrap.wrap(line, width, subsequent_indent=indent, break_on_hyphens=False)
    ]


def _groups(console: Console) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    for group in paths.groups():
        table.add_row(f"[bold]{group}[/bold]", ", ".join(paths.options(group)))
    console.print(table)
    console.print("\ndlopt list GROUP shows what they are, dlopt list GROUP OPTION what one takes", highlight=False)


def _group(console: Console, group: str) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    for option in paths.options(group):
        what, source = head(paths.CONF / group / f"{option}.yaml")
        table.add_row(f"[bold]{option}[/bold]", f"{what}\n[dim]{source}[/dim]" if source != "-" else what)
    console.print(table)
    several = group not in (*paths.SINGLE, "experiment")
    how = f"several at once: '{group}=[a,b]'" if several else f"use: dlopt train {group}=OPTION"
    console.print(f"\n{how}", highlight=False, markup=False)  # else [a,b] is taken for a style


def _option(console: Console, group: str, option: str) -> None:
    import yaml

    from dlopt.config.nested import held
    from dlopt.config.paths import SUPPLIED
    from dlopt.config.signature import describe, shown

    file = paths.CONF / group / f"{option}.yaml"
    what, source = head(file)
    console.print(f"[bold]{group}={option}[/bold]  {what}", highlight=False)
    if source != "-":
        console.print(source, style="dim", highlight=False)
    content = yaml.safe_load(file.read_text()) or {}
    if group == "experiment":
        console.print()
        console.print(file.read_text(), highlight=False, markup=False)
        return
    entries = [e for e in content.pop("defaults", []) if isinstance(e, dict)]
    pairs = [(k, v) for entry in entries for k, v in entry.items() if k.startswith("override ")]
    chosen = [f"{k.split()[-1].lstrip('/').partition('@')[0]}={v}" for k, v in pairs]
    node, prefix = content, group
    if "_target_" not in content and len(content) == 1:
        (key,) = content
        node, prefix = content[key], f"{group}.{key}"
    target = node.get("_target_", "???")
    if target != "???":
        from hydra.utils import get_object

        from dlopt.config.signature import signature

        found = get_object(target)
        console.print("\n" + fitted(inspect.getdoc(found) or "", console.width), highlight=False, markup=False)
        hints = signature(found).parameters
        table = Table(box=None, pad_edge=False, header_style="bold")
        for title in ("key", "default", "range"):
            table.add_column(title)
        rows = [(k, v) for k, v in node.items() if k not in ("_target_", "defaults", *SUPPLIED.get(group, ()))]
        for key, value in rows:
            table.add_row(
                f"{prefix}.{key}",
                Text(value if isinstance(value, str) else shown(value)),  # plain: [a,b] would be taken for a style
                describe(hints[key].hint) if key in hints else "",
            )
        for key, (other, default) in held(file).items():
            table.add_row(f"{group}.{key}", default, f"an option of {other}")
        if table.rows:
            console.print()
            console.print(table, highlight=False)
    if chosen:
        console.print(f"\nwith it goes {', '.join(chosen)}, unless you say otherwise", highlight=False)
