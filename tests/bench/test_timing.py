"""Ratios within rounds, on a clock that the test winds."""

from collections.abc import Callable
from random import Random

import pytest

from dpscale.bench.timing import Ratio, Stopwatch, fastest


class FakeMachine:
    """Each call takes its own time, times what the machine suffers from in that round."""

    def __init__(self, slowness: list[float]) -> None:
        self.now, self.slowness, self.order = 0.0, slowness, list[str]()

    def call(self, name: str, seconds: float) -> Callable[[int], None]:
        def run(index: int) -> None:
            self.order.append(name)
            self.now += seconds * self.slowness[index]

        return run


class Stop:
    is_set = False


def test_a_machine_that_slows_down_for_a_round_does_not_bend_the_ratio() -> None:
    # Catches: ratios of medians, or of times from different rounds.
    machine = FakeMachine([1.0, 7.0, 1.0, 3.0, 1.5])
    calls = {"a": machine.call("a", 2.0), "b": machine.call("b", 1.6)}
    watch = Stopwatch(Random(0), Stop(), clock=lambda: machine.now)
    seconds = watch.rounds(calls, 5)
    ratio = Ratio.of(seconds["a"], seconds["b"])
    assert seconds["a"] == pytest.approx([2.0, 14.0, 2.0, 6.0, 3.0])
    assert (ratio.median, ratio.q25, ratio.q75) == pytest.approx((1.25, 1.25, 1.25))
    assert fastest(seconds) == "b"


def test_every_round_holds_each_call_once_in_an_order_of_its_own() -> None:
    machine = FakeMachine([1.0] * 12)
    calls = {name: machine.call(name, 1.0) for name in "abc"}
    Stopwatch(Random(0), Stop(), clock=lambda: machine.now).rounds(calls, 12)
    rounds = [tuple(machine.order[i : i + 3]) for i in range(0, 36, 3)]
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert len(set(rounds)) > 3


def test_a_stop_drops_the_round_at_hand() -> None:
    # Catches: lists of different length, whose ratios would pair different rounds.
    machine, stop = FakeMachine([1.0] * 5), Stop()

    class Unshuffled(Random):
        def shuffle(self, x: object) -> None:
            pass

    def stopping(index: int) -> None:
        stop.is_set = index == 2

    calls = {"a": machine.call("a", 1.0), "b": stopping, "c": machine.call("c", 1.0)}
    watch = Stopwatch(Unshuffled(), stop, clock=lambda: machine.now)
    assert {name: len(times) for name, times in watch.rounds(calls, 5).items()} == {
        "a": 2,
        "b": 2,
        "c": 2,
    }


def test_rounds_of_different_number_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Ratio.of([1.0, 2.0], [1.0])


def test_quartiles_tell_the_spread() -> None:
    ratio = Ratio.of([1.0, 2.0, 3.0, 4.0, 5.0], [1.0] * 5)
    assert (ratio.q25, ratio.median, ratio.q75) == (2.0, 3.0, 4.0)
    assert str(ratio) == "3.000 [2.000, 4.000]"


def test_the_fastest_is_found_within_rounds() -> None:
    # Catches: medians of seconds, of which "slow" has the smaller one: 1.05 against 2.
    seconds = {"quick": [1.0, 1.0, 2.0, 2.0, 2.0], "slow": [1.05, 1.05, 2.1, 1.05, 2.1]}
    assert fastest(seconds) == "quick"
