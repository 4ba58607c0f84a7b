"""The live picture of a sweep: counts, time left, and the step of every run that is running."""

from collections import Counter
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dpscale.records import Status
from dpscale.sweep.survey import RunState, seconds_left


class SweepProgress:
    """Shows the states of a sweep's runs on a console, as a context.

    A terminal gets a picture that is redrawn; anything else a line whenever a run has ended.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._ended = -1
        # Redrawn by `show` alone: no thread of rich's own while processes are started.
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> "SweepProgress":
        """Starts the picture."""
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Takes the picture away."""
        self._live.stop()

    def show(self, states: list[RunState]) -> None:
        """Draws the states of all runs of the sweep."""
        summary = summary_line(states)
        if self._console.is_terminal:
            self._live.update(_picture(summary, states), refresh=True)
            return
        ended = sum(state.ended for state in states)
        if ended != self._ended:
            self._console.print(summary, soft_wrap=True)
            self._ended = ended


def summary_line(states: Sequence[RunState]) -> str:
    """One line on a sweep: how many runs have ended, run, failed, and how long is left."""
    counts = Counter(state.status for state in states)
    failed = counts[Status.FAILED] + counts[Status.DIVERGED]
    parts = [
        f"{counts[Status.FINISHED]} of {len(states)} runs done",
        f"{counts[Status.RUNNING]} running",
        f"{failed} failed" if failed else "",
    ]
    left = seconds_left(states)
    if left:
        parts.append(f"about {duration(left)} left")
    return ", ".join(part for part in parts if part)


def duration(seconds: float) -> str:
    """A duration for people, in the two largest units that matter.

    >>> duration(42.4), duration(150), duration(7300)
    ('42 s', '2 min 30 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _picture(summary: str, states: Sequence[RunState]) -> Group:
    rows = Table.grid(padding=(0, 1))
    for state in states:
        if state.status is Status.RUNNING:
            total = state.iterations or 1
            loss = "" if state.train_loss is None else f"loss {state.train_loss:.3f}"
            bar = ProgressBar(total=total, completed=state.step, width=20)
            rows.add_row(f"  {state.run_id}", bar, f"{state.step}/{total}", loss)
    return Group(Text(summary), rows)
