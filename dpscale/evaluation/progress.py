"""How far long work has come."""

from collections.abc import Callable

OnProgress = Callable[[str, int, int], None]
"""Called with what is being done, for people, how much of it is done, and of how much."""


def counted(on_progress: OnProgress, doing: str, total: int) -> Callable[[int], None]:
    """Takes how much has just been done, and reports how much that makes in all."""
    done = 0

    def on_done(count: int) -> None:
        nonlocal done
        done += count
        on_progress(doing, done, total)

    return on_done
