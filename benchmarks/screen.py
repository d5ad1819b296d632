"""Where the tables go."""

from rich.console import Console


def screen() -> Console:
    """The terminal, or a file with room for the widest table."""
    console = Console()
    return console if console.is_terminal else Console(width=112)
