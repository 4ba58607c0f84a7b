"""Timing that a noisy machine cannot bend: everything in one process, round by round.

What runs beside us slows a whole round down, so numbers are compared within a round, and the
median and quartiles over rounds are reported. The order within a round is shuffled: nobody
always runs in the wake of the same neighbour. No JAX.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol, TypeVar

import numpy as np

Name = TypeVar("Name")

Call = Callable[[int], object]
"""(round) -> anything; returns when its work is done."""

Clock = Callable[[], float]
"""Seconds from some fixed moment on."""

Observer = Callable[[str, int, int], None]
"""(what is being done, how many are done, out of how many)."""


class Stop(Protocol):
    """Where a request to stop appears."""

    is_set: bool


@dataclass(frozen=True)
class Ratio:
    """Median and quartiles of per-round ratios."""

    median: float
    q25: float
    q75: float

    @classmethod
    def of(cls, seconds: Sequence[float], others: Sequence[float]) -> "Ratio":
        """Of each round's `seconds` to the same round's `others`.

        >>> Ratio.of([2.0, 3.0, 8.0], [1.0, 1.0, 2.0])
        Ratio(median=3.0, q25=2.5, q75=3.5)
        """
        ratios = [one / other for one, other in zip(seconds, others, strict=True)]
        q25, median, q75 = (float(q) for q in np.quantile(ratios, [0.25, 0.5, 0.75]))
        return cls(median, q25, q75)

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.q25:.3f}, {self.q75:.3f}]"


@dataclass(frozen=True)
class Stopwatch:
    """Times calls in interleaved rounds.

    Args:
      order: Shuffles each round.
      stop: Ends the measurement when set.
      observe: Told of each round.
    """

    order: Random
    stop: Stop
    observe: Observer = lambda text, done, total: None
    clock: Clock = time.perf_counter

    def rounds(self, calls: Mapping[Name, Call], count: int) -> dict[Name, list[float]]:
        """Seconds of each call in each of `count` rounds.

        Where a stop is requested the round at hand is dropped, so that all lists hold the same
        rounds.
        """
        names = list(calls)
        seconds: dict[Name, list[float]] = {name: [] for name in names}
        for index in range(count):
            self.observe("measuring, round by round", index, count)
            self.order.shuffle(names)
            here: dict[Name, float] = {}
            for name in names:
                if self.stop.is_set:
                    return seconds
                started = self.clock()
                calls[name](index)
                here[name] = self.clock() - started
            for name, value in here.items():
                seconds[name].append(value)
        return seconds


def fastest(seconds: Mapping[Name, Sequence[float]]) -> Name:
    """Who takes least, by the median over rounds of the time against the round's mean.

    Within rounds, because a shared machine may be twice as slow in some rounds as in others: then
    medians of seconds compare different rounds.

    Args:
      seconds: Of the same rounds for all.
    """
    means = [statistics.fmean(times) for times in zip(*seconds.values(), strict=True)]

    def share(name: Name) -> float:
        times = zip(seconds[name], means, strict=True)
        return statistics.median(here / mean for here, mean in times)

    return min(seconds, key=share)
