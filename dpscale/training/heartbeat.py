"""`status.json`: where the run stands, for whoever watches its folder, on any machine."""

import contextlib
import dataclasses
import os
import threading
import time
from pathlib import Path

from dpscale.files import write_json_atomically
from dpscale.paths import is_on_bucket
from dpscale.records import STATUS_FILE, RunStatus, Status, this_machine

SECONDS_BETWEEN_BEATS = 1.0
SECONDS_BETWEEN_BEATS_ON_BUCKET = 10.0
"""A bucket takes about one write a second of the same object, and each has its price."""

SECONDS_OF_SILENCE = 10.0
"""While a run goes on, a beat comes at least that often, also in the middle of a long step."""


class Heartbeat:
    """Writes a run's status: at most once a second while it only moves on, and never seldom.

    A thread repeats the last status until another than `RUNNING` is written, or `stop`. On a bucket
    it is written at most once in ten seconds.
    """

    def __init__(self, run_dir: Path, *, iterations: int) -> None:
        self._path = run_dir / STATUS_FILE
        self._seconds_between = (
            SECONDS_BETWEEN_BEATS_ON_BUCKET if is_on_bucket(run_dir) else SECONDS_BETWEEN_BEATS
        )
        self._last_beat = 0.0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._repeating: threading.Thread | None = None
        self._status = RunStatus(
            status=Status.RUNNING,
            step=0,
            iterations=iterations,
            updated_unix=0.0,
            process_id=os.getpid(),
            wall_seconds=0.0,
            machine=this_machine(),
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
        with self._lock:
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
            is_due = now - self._last_beat >= self._seconds_between
            if status is not last.status or is_due or not self._status.step:
                self._write(now)
        if self._repeating is None and status is Status.RUNNING:
            self._repeating = threading.Thread(target=self._repeat, daemon=True)
            self._repeating.start()

    def stop(self) -> None:
        """Ends the repetition; the status stays as it was written last."""
        self._stopped.set()
        if self._repeating is not None:
            self._repeating.join()

    def _repeat(self) -> None:
        while not self._stopped.wait(SECONDS_OF_SILENCE):
            now = time.time()
            # A full disk, or a bucket out of reach, is for the run itself to tell.
            with self._lock, contextlib.suppress(Exception):
                if self._status.status is not Status.RUNNING:
                    return
                self._status = dataclasses.replace(self._status, updated_unix=now)
                self._write(now)

    def _write(self, now: float) -> None:
        write_json_atomically(self._path, dataclasses.asdict(self._status))
        self._last_beat = now
