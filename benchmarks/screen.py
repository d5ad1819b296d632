"""The console of the tables."""

from rich.console import Console


def make_console() -> Console:
    """Return the terminal, or a console with room for the widest table."""
    console = Console()
    return console if console.is_terminal else Console(width=112)
