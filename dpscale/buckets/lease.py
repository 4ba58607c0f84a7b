"""A folder on a bucket for one process at a time, where no kernel can hold a lock.

The lease is an object. Who creates it holds it, and writes it anew every few seconds; each write
depends on the object's generation, so of two that reach for it one succeeds. Who finds it watches:
once it changes, its holder lives, and the watcher is refused; where it has not changed for
`LOST_SECONDS`, on the watcher's own monotonic clock from its first look, the holder is taken for
dead and the lease taken over. No times are written or compared, so a clock that is set, jumps
or differs between computers changes nothing.

A holder that could not renew for two thirds of that time ends its process at once, with exit code
75: it cannot know that it is alone any more, and what it has saved goes on elsewhere. A process
that was stopped for longer (a computer put to sleep) learns of it at its next renewal; what it
writes until then, some seconds at most, is the window that is left.
"""

import contextlib
import json
import logging
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dpscale.buckets.objects import NO_OBJECT, read_object, replace_object
from dpscale.errors import ExitCode, InputError

RENEW_SECONDS = 5.0
LOST_SECONDS = 30.0
"""Without a renewal for so long a holder is taken for dead: five may fail in between."""


@contextlib.contextmanager
def held_lease(path: Path, refusal: InputError) -> Iterator[None]:
    """Holds the lease in the object `path` for this process, until the block is left.

    Args:
      refusal: Raised when another process holds it. To learn that takes up to `RENEW_SECONDS`.
    """
    lease = Lease(path)
    lease.acquire(refusal)
    stop = threading.Event()
    renewal = threading.Thread(target=lease.keep, args=(stop,), name="lease", daemon=True)
    renewal.start()
    try:
        yield
    finally:
        stop.set()
        renewal.join()
        lease.release()


def leave_process(place: str) -> None:
    """Ends the process as a kill would: whatever it wrote from here on could harm another."""
    print(
        f"dpscale: {place}: the lease on this folder could not be renewed, so another process may "
        "be at work in it; run the same command again to go on.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(ExitCode.INTERRUPTED)


@dataclass
class Lease:
    """One process's hold on the object `path`.

    Args:
      renew_seconds: Between two renewals; a watcher looks as often.
      lost_seconds: Without a change for so long, the holder is taken for dead.
      clock: Seconds that never run backwards, of this process alone.
      wait: Sleeps for so many seconds.
      on_lost: Called with the place, where the lease could not be kept.
    """

    path: Path
    renew_seconds: float = field(default_factory=lambda: RENEW_SECONDS)
    lost_seconds: float = field(default_factory=lambda: LOST_SECONDS)
    clock: Callable[[], float] = time.monotonic
    wait: Callable[[float], None] = time.sleep
    on_lost: Callable[[str], None] = leave_process

    def __post_init__(self) -> None:
        self._holder = uuid.uuid4().hex
        self._generation = NO_OBJECT
        self._renewed = self.clock()

    def acquire(self, refusal: InputError) -> None:
        """Returns once this process holds the lease.

        Raises:
          refusal: Another process renews it, or was faster.
        """
        watched: int | None = None
        since = self.clock()
        while True:
            found = read_object(self.path)
            generation = NO_OBJECT if found is None else found[1]
            is_free = found is None or _holder(found[0]) is None
            if not is_free and watched is None:
                watched, since = generation, self.clock()
                logging.getLogger("dpscale").warning(
                    "%s: held by another process; waiting up to %.0f seconds to see whether it is "
                    "alive.",
                    self.path,
                    self.lost_seconds,
                )
            elif not is_free and generation != watched:
                raise refusal
            elif is_free or self.clock() - since >= self.lost_seconds:
                try:
                    return self._write(self._holder, generation)
                except FileExistsError:
                    raise refusal from None
            self.wait(self.renew_seconds / 2)

    def keep(self, stop: threading.Event) -> None:
        """Renews the lease until `stop` is set; calls `on_lost` where it cannot."""
        while not stop.wait(self.renew_seconds):
            try:
                self._write(self._holder, self._generation)
            except FileExistsError:
                return self.on_lost(str(self.path))
            except Exception as error:  # whatever a network raises: it is tried again
                logging.getLogger("dpscale").debug("%s: not renewed (%s).", self.path, error)
            if self.clock() - self._renewed > self.lost_seconds * 2 / 3:
                return self.on_lost(str(self.path))
        return None

    def release(self) -> None:
        """Lets go: the next process need not wait. Without a network it will have to."""
        with contextlib.suppress(Exception):
            self._write(None, self._generation)

    def _write(self, holder: str | None, generation: int) -> None:
        """Replaces the object of `generation`; a renewal counts from before it was sent."""
        started = self.clock()
        content = json.dumps({"holder": holder, "write": uuid.uuid4().hex}).encode()
        try:
            self._generation = replace_object(
                self.path, content, generation=generation, timeout=self.renew_seconds
            )
        except FileExistsError:
            found = read_object(self.path)
            if found is None or _holder(found[0]) != self._holder:
                raise
            # An earlier request of ours arrived, and its answer did not.
            return self._write(holder, found[1])
        self._renewed = started
        return None


def _holder(content: bytes) -> str | None:
    try:
        holder = json.loads(content).get("holder")
    except (ValueError, AttributeError):
        return None  # not a lease: written by no process of ours
    return holder if isinstance(holder, str) else None
