"""Where a verb's words go: people read stdout as it comes, machines get one JSON object."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from dpscale.files import to_json

PIPE_WIDTH = 200
"""Columns of a table that goes into a file or a pipe."""

_QUIET_SECONDS = 3.0


@dataclass(frozen=True)
class CommonOptions:
    """Options that every verb has."""

    json: bool = False
    """Print one JSON object on stdout instead of text, for machines."""


class Output:
    """A verb's stdout and stderr.

    Args:
      json: Whether stdout is for a machine: then only `result` prints there.
    """

    def __init__(self, *, json: bool) -> None:
        self.json = json
        # A pipe has no width: rich would fold tables at 80 columns, in the middle of numbers.
        width = None if sys.stdout.isatty() else PIPE_WIDTH
        self._console = Console(highlight=False, soft_wrap=True, width=width)
        self.progress_console = Console(stderr=True, highlight=False)
        """For progress bars: stderr, so that stdout can be piped."""

    def say(self, text: str) -> None:
        """A line for people, on stdout; nothing under `--json`."""
        if not self.json:
            self._console.print(text, markup=False)

    def write(self, text: str) -> None:
        """A piece of a line for people, as it comes; nothing under `--json`."""
        if not self.json:
            print(text, end="", flush=True)

    def warn(self, text: str) -> None:
        """A warning, on stderr."""
        print(f"warning: {text}", file=sys.stderr, flush=True)

    def progress(self, text: str) -> None:
        """Where long work stands, on stderr."""
        self.progress_console.print(text, markup=False)

    def tenths(self) -> Callable[[str, int, int], None]:
        """Reports (what, how much is done, of how much) at each tenth of it, on stderr.

        Work of a few seconds goes without.
        """
        said, started = ("", -1), time.monotonic()

        def on_progress(doing: str, done: int, total: int) -> None:
            nonlocal said
            now = (doing, 10 * done // total)
            if now != said and time.monotonic() - started > _QUIET_SECONDS:
                self.progress(f"{doing}: {done}/{total}")
                said = now

        return on_progress

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A small table for people, on stdout; nothing under `--json`."""
        if self.json:
            return
        table = Table(box=None, pad_edge=False)
        for column in columns:
            table.add_column(column, overflow="fold")  # a run id that is cut cannot be copied
        for row in rows:
            table.add_row(*row)
        self._console.print(table)

    def result(self, values: Mapping[str, Any]) -> None:
        """The verb's whole answer as one JSON object; prints only under `--json`."""
        if self.json:
            print(to_json(values), flush=True)
