"""How long fits say where they are."""

from collections.abc import Callable

Progress = Callable[[str], None]
"""Called with one line of text whenever there is news."""


def silent(text: str) -> None:
    """Progress that nobody reads."""
