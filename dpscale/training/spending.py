"""Epsilon spent so far, for the progress line: quick, and never too low."""

import bisect
from typing import Final

from dpscale.errors import DpscaleError
from dpscale.privacy.mechanism import PrivateMechanism

RATIO: Final = 1.1
"""How far apart the accounted iterations are: between two of them epsilon is overstated by a few
per cent, and a run of 100,000 steps is accounted for about a hundred times."""


class SpentEpsilon:
    """Epsilon of a run's first steps, an upper bound.

    Epsilon never falls as steps are taken, so that what the next larger of a few accounted
    numbers of iterations spends is a bound; the last of them is the whole run. One accounting
    takes a tenth of a second, and most log lines need none. Where one fails, a later number of
    iterations serves; the receipt holds the value itself.
    """

    def __init__(self, mechanism: PrivateMechanism, *, delta: float) -> None:
        self._mechanism = mechanism
        self._delta = delta
        self._stops = _stops(mechanism.accounted.iterations)
        whole = mechanism.epsilon(delta=delta)
        self._found: dict[int, float | None] = {self._stops[-1]: whole}

    def __call__(self, iterations: int) -> float:
        """At least the epsilon after `iterations` steps, at most those of the whole run."""
        if iterations == 0:
            return 0.0
        for stop in self._stops[bisect.bisect_left(self._stops, iterations) :]:
            spent = self._at(stop)
            if spent is not None:
                return spent
        raise ValueError(f"Expected iterations={iterations} of at most {self._stops[-1]}.")

    def _at(self, stop: int) -> float | None:
        if stop not in self._found:
            try:
                self._found[stop] = self._mechanism.epsilon(delta=self._delta, iterations=stop)
            except DpscaleError:  # a progress line never ends a run
                self._found[stop] = None
        return self._found[stop]


def _stops(iterations: int) -> list[int]:
    """1, 2, ... and from 10 on every tenth more, up to `iterations`."""
    stops, stop = [], 1
    while stop < iterations:
        stops.append(stop)
        stop = max(stop + 1, int(stop * RATIO))
    return [*stops, iterations]
