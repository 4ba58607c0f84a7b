"""A folder on a bucket is one process's: a lease under real processes, and under made-up time."""

import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dpscale.buckets.lease import Lease
from dpscale.buckets.objects import NO_OBJECT, read_object, replace_object
from dpscale.errors import ExitCode, InputError
from dpscale.paths import as_path

PROCESS = Path(__file__).with_name("lease_process.py")
BUSY = InputError("folder", "busy")


class Time:
    """A clock that only waiting moves on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def clock(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


def lease_at(path: Path, made_up: Time | None = None) -> Lease:
    made_up = made_up or Time()
    return Lease(path, renew_seconds=5, lost_seconds=30, clock=made_up.clock, wait=made_up.wait)


@contextmanager
def process(path: str, lost_seconds: float, hold_seconds: float) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, str(PROCESS), path, str(lost_seconds), str(hold_seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def said(started: subprocess.Popen[str]) -> str:
    assert started.stdout is not None
    return started.stdout.readline().strip()


def go(started: subprocess.Popen[str]) -> None:
    assert started.stdin is not None
    started.stdin.write("\n")
    started.stdin.flush()


def test_of_processes_that_reach_for_a_free_lease_one_gets_it(bucket: str) -> None:
    # Catches: looking first and writing then.
    path = f"{bucket}/run/.lock"
    with process(path, 6, 3) as one, process(path, 6, 3) as two, process(path, 6, 3) as three:
        reaching = (one, two, three)
        assert [said(each) for each in reaching] == ["ready"] * 3
        for each in reaching:
            go(each)
        assert sorted(said(each) for each in reaching) == ["held", "refused", "refused"]


def test_of_processes_that_wait_for_a_dead_ones_lease_one_gets_it(bucket: str) -> None:
    # Catches: a takeover that does not depend on what was seen; a lease of the dead for ever.
    path = f"{bucket}/run/.lock"
    with process(path, 3, 60) as dead, process(path, 3, 3) as one, process(path, 3, 3) as two:
        assert [said(each) for each in (dead, one, two)] == ["ready"] * 3
        go(dead)
        assert said(dead) == "held"
        dead.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        go(one)
        go(two)
        assert sorted([said(one), said(two)]) == ["held", "refused"]
        assert time.monotonic() - killed > 2, "taken from a process that may have been alive"


def test_a_process_that_slept_too_long_ends_and_does_not_come_back(bucket: str) -> None:
    # Catches: two processes in one folder after one was suspended, or cut off from the network.
    path = f"{bucket}/run/.lock"
    with process(path, 3, 60) as slept, process(path, 3, 4) as other:
        assert [said(each) for each in (slept, other)] == ["ready"] * 2
        go(slept)
        assert said(slept) == "held"
        slept.send_signal(signal.SIGSTOP)
        go(other)
        assert said(other) == "held"
        slept.send_signal(signal.SIGCONT)
        assert slept.wait(timeout=10) == ExitCode.INTERRUPTED
        assert slept.stderr is not None
        assert "another process may be at work in it" in slept.stderr.read()
        assert said(other) == "left", "the one that took over lost it"


def test_a_lease_that_was_let_go_is_free_at_once(bucket: str) -> None:
    path, made_up = as_path(f"{bucket}/run/.lock"), Time()
    first = lease_at(path)
    first.acquire(BUSY)
    first.release()
    lease_at(path, made_up).acquire(BUSY)
    assert made_up.now == 1000.0


def test_a_holder_that_renews_is_left_alone_within_one_renewal(bucket: str) -> None:
    path, made_up = as_path(f"{bucket}/run/.lock"), Time()
    holder = lease_at(path)
    holder.acquire(BUSY)

    def wait(seconds: float) -> None:
        made_up.wait(seconds)
        if made_up.now >= 1005:
            holder._write(holder._holder, holder._generation)

    watcher = Lease(path, renew_seconds=5, lost_seconds=30, clock=made_up.clock, wait=wait)
    with pytest.raises(InputError, match="busy"):
        watcher.acquire(BUSY)
    assert made_up.now <= 1007.5


def test_a_silent_holder_keeps_it_for_the_whole_time_and_no_longer(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The date jumps by years, both ways, at every look: only the monotonic clock counts.
    dates = itertools.cycle([10**9, 2 * 10**9, 0])
    monkeypatch.setattr(time, "time", lambda: float(next(dates)))
    path, made_up = as_path(f"{bucket}/run/.lock"), Time()
    lease_at(path).acquire(BUSY)
    watcher = lease_at(path, made_up)
    watcher.acquire(BUSY)
    assert 30 <= made_up.now - 1000 <= 32.5
    found = read_object(path)
    assert found is not None
    assert json.loads(found[0])["holder"] == watcher._holder


def test_a_renewal_whose_answer_was_lost_is_not_taken_for_a_loss(bucket: str) -> None:
    path = as_path(f"{bucket}/run/.lock")
    holder = lease_at(path)
    holder.acquire(BUSY)
    found = read_object(path)
    assert found is not None
    replace_object(path, found[0], generation=found[1])  # arrived, unknown to the holder
    holder._write(holder._holder, holder._generation)
    replaced = read_object(path)
    assert replaced is not None
    assert replaced[1] == holder._generation
    holder.release()
    assert json.loads(path.read_text())["holder"] is None


def test_a_holder_without_a_network_gives_up_before_others_may_take_over(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up, lost = Time(), list[float]()
    lease = lease_at(as_path(f"{bucket}/run/.lock"), made_up)
    lease.acquire(BUSY)
    lease.on_lost = lambda place: lost.append(made_up.now - 1000)

    def unreachable(*arguments: object, **options: object) -> int:
        raise OSError("unreachable")

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            made_up.wait(timeout or 0)
            return made_up.now > 2000

    monkeypatch.setattr("dpscale.buckets.lease.replace_object", unreachable)
    lease.keep(Stop())
    assert lost == [25.0]


def test_an_object_is_replaced_only_as_it_was_seen(bucket: str) -> None:
    path = as_path(f"{bucket}/a b/ü#?%2F.json")
    first = replace_object(path, b"one", generation=NO_OBJECT)
    assert read_object(path) == (b"one", first)
    second = replace_object(path, b"two", generation=first)
    for stale in (NO_OBJECT, first):
        with pytest.raises(FileExistsError):
            replace_object(path, b"three", generation=stale)
    assert read_object(path) == (b"two", second)
    assert read_object(path.with_name("other")) is None
