"""Slurm's queue, by its own commands: which jobs are in it, and how to take them out."""

import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from dpscale.sweep.launchers.protocol import EngineLost

LOOK_SECONDS = 1.0
"""Between two calls of squeue, whoever asks."""

SILENT_SECONDS = 120.0
"""How long squeue may fail before Slurm counts as gone; a controller takes a while to restart."""

RUNNING = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT")

Run = Callable[[Sequence[str]], str]
"""Runs a command; returns what it printed, and raises CalledProcessError or OSError."""


def run_command(command: Sequence[str]) -> str:
    """Runs a command of Slurm for its output."""
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


class SlurmQueue:
    """The jobs of this user.

    Args:
      run: How commands are run.
      monotonic: Seconds that never jump.
    """

    def __init__(
        self, run: Run = run_command, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._run = run
        self._monotonic = monotonic
        self._states: Mapping[str, str] = {}
        self._seen_at: float | None = None
        self._last_try: float | None = None
        self._started_at = monotonic()

    def look(self) -> tuple[Mapping[str, str], float]:
        """The state of every job by its number (`12`, `12_3`), and when that was seen.

        Raises:
          EngineLost: Slurm has not answered for a while.
        """
        now = self._monotonic()
        if self._last_try is None or now - self._last_try >= LOOK_SECONDS:
            self._last_try = now
            command = ("squeue", "--me", "--noheader", "--array", "--format=%i|%T")
            try:
                self._states, self._seen_at = read_states(self._run(command)), now
            except (OSError, subprocess.SubprocessError) as error:
                silent = now - (self._started_at if self._seen_at is None else self._seen_at)
                if silent > SILENT_SECONDS:
                    raise EngineLost(
                        f"Slurm has not answered for {silent:.0f} seconds ({reason_of(error)}); "
                        "run the same command again, or with another launcher, to go on."
                    ) from None
        return self._states, -1.0 if self._seen_at is None else self._seen_at

    def signal(self, jobs: Collection[str], number: str) -> None:
        """Sends a signal to the processes of jobs that run; takes those that wait out."""
        if jobs:
            self._try(("scancel", "--quiet", "--state=PENDING", *jobs))
            self._try(("scancel", "--quiet", f"--signal={number}", "--state=RUNNING", *jobs))

    def cancel(self, jobs: Collection[str]) -> None:
        """Takes jobs out, with what they run."""
        if jobs:
            self._try(("scancel", "--quiet", *jobs))

    def _try(self, command: Sequence[str]) -> None:
        try:
            self._run(command)
        except (OSError, subprocess.SubprocessError):
            self._last_try = None  # a job that was gone already, or Slurm: the next look tells


def read_states(text: str) -> dict[str, str]:
    """States by job number, from lines of squeue.

    >>> read_states("12_3|RUNNING\\n13|PENDING\\n")
    {'12_3': 'RUNNING', '13': 'PENDING'}
    """
    pairs = (line.strip().partition("|") for line in text.splitlines() if line.strip())
    return {number: state for number, _, state in pairs}


def reason_of(error: Exception) -> str:
    """What a command of Slurm said before it failed, in one line."""
    said = getattr(error, "stderr", None) or str(error)
    return " ".join(str(said).split())
