"""`status.json`: where the run stands, for whoever watches its folder."""

import dataclasses
import os
import time
from pathlib import Path

from dpscale.files import write_json_atomically
from dpscale.records import STATUS_FILE, RunStatus, Status

SECONDS_BETWEEN_BEATS = 1.0


class Heartbeat:
    """Writes a run's status, at most once a second while it only moves on."""

    def __init__(self, run_dir: Path, *, iterations: int) -> None:
        self._path = run_dir / STATUS_FILE
        self._last_beat = 0.0
        self._status = RunStatus(
            status=Status.RUNNING,
            step=0,
            iterations=iterations,
            updated_unix=0.0,
            process_id=os.getpid(),
            wall_seconds=0.0,
        )

    def beat(
        self,
        status: Status,
        *,
        wall_seconds: float,
        step: int | None = None,
        train_loss: float | None = None,
        epsilon: float | None = None,
        error: str | None = None,
    ) -> None:
        """Takes note; `step`, `train_loss` and `epsilon` stay as they were where not given."""
        now = time.time()
        last = self._status
        self._status = dataclasses.replace(
            last,
            status=status,
            step=last.step if step is None else step,
            updated_unix=now,
            wall_seconds=wall_seconds,
            train_loss=last.train_loss if train_loss is None else train_loss,
            epsilon=last.epsilon if epsilon is None else epsilon,
            error=error,
        )
        is_due = now - self._last_beat >= SECONDS_BETWEEN_BEATS
        if status is not last.status or is_due or not self._status.step:
            write_json_atomically(self._path, dataclasses.asdict(self._status))
            self._last_beat = now
