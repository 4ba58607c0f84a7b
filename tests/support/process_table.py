"""What runs on this machine, read from /proc; and waiting for something to be so."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path


def wait_until(holds: Callable[[], bool], *, seconds: float = 60) -> None:
    """Fails where it has not come true in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not so after {seconds:g} seconds"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Whether a process runs: one that only waits to be reaped does not."""
    stat = Path(f"/proc/{pid}/stat")
    with contextlib.suppress(OSError):
        return stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def parent_of(pid: int) -> int:
    """The process that started it, or that took it over."""
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def words_of(pid: int) -> list[str]:
    """Its command line; empty for one that is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return []


def everyone() -> list[int]:
    """All processes."""
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def descendants(pid: int) -> list[int]:
    """Its children, their children, and so on."""
    children: dict[int, list[int]] = {}
    for each in everyone():
        with contextlib.suppress(OSError):
            children.setdefault(parent_of(each), []).append(each)
    found, queue = [], [pid]
    while queue:
        new = children.get(queue.pop(), [])
        found += new
        queue += new
    return found
