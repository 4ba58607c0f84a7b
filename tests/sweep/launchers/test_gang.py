"""Processes that start and end together, with members and time made of paper."""

import pytest

from dpscale.sweep.launchers.gang import Gang, host_command
from dpscale.sweep.launchers.protocol import Ended


class Member:
    """Ends when the test says so, or when it is killed."""

    def __init__(self) -> None:
        self.ended: Ended | None = None
        self.has_started = True
        self.was_asked = False

    def poll(self) -> Ended | None:
        return self.ended

    def terminate(self) -> None:
        self.was_asked = True

    def kill(self) -> None:
        self.ended = self.ended or Ended(-9)


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def members() -> list[Member]:
    return [Member(), Member(), Member()]


def gang(members: list[Member], monotonic: Time | None = None) -> Gang:
    return Gang(members, grace_seconds=30.0, monotonic=monotonic or Time())


def test_it_has_left_when_all_have(members: list[Member]) -> None:
    whole = gang(members)
    for member in members:
        assert whole.poll() is None
        member.ended = Ended(0)
    assert whole.poll() == Ended(0)


@pytest.mark.parametrize("failure", [Ended(1), Ended(-9), Ended(None, "its node is gone")])
def test_one_that_failed_ends_the_others_and_is_what_is_told(
    members: list[Member], failure: Ended
) -> None:
    whole = gang(members)
    members[1].ended = failure
    assert whole.poll() is None
    assert [member.ended for member in members] == [Ended(-9), failure, Ended(-9)]
    assert whole.poll() == failure


@pytest.mark.parametrize("code", [0, 2, 75])
def test_one_that_left_in_order_gives_the_others_their_grace(
    members: list[Member], code: int
) -> None:
    monotonic = Time()
    whole = gang(members, monotonic)
    members[0].ended = Ended(code)
    assert whole.poll() is None
    monotonic.now += 29
    assert whole.poll() is None
    assert members[1].ended is None
    monotonic.now += 2
    whole.poll()
    assert members[1].ended == Ended(-9)
    assert whole.poll() == (Ended(-9) if code == 0 else Ended(code))


def test_it_runs_when_all_run_and_a_request_reaches_all(members: list[Member]) -> None:
    whole = gang(members)
    members[2].has_started = False
    assert not whole.has_started
    members[2].has_started = True
    assert whole.has_started
    whole.terminate()
    assert all(member.was_asked for member in members)


def test_each_host_is_told_where_the_first_is() -> None:
    command = host_command(["train", "c"], coordinator="a:1", num_hosts=4, host_index=3)
    assert command == (
        *("train", "c", "--coordinator", "a:1"),
        *("--num-hosts", "4", "--host-index", "3"),
    )
