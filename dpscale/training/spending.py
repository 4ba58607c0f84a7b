"""Epsilon spent so far, for the progress line: quick, and never too low."""

from dpscale.privacy.accounting.pld import COARSEST_INTERVAL, epsilon_on_grid, settled_epsilon
from dpscale.privacy.mechanism import PrivateMechanism


class SpentEpsilon:
    """Epsilon of a run's first steps, on a grid four times coarser than the settled one.

    Coarse grids round up, and no part of the run spends more than the whole, so that the value
    is an upper bound; the receipt holds the settled one.
    """

    def __init__(self, mechanism: PrivateMechanism, *, delta: float) -> None:
        self._mechanism = mechanism
        self._delta = delta
        self._iterations = mechanism.accounted.iterations
        self._total, interval = settled_epsilon(mechanism.accounted, delta=delta)
        self._interval = min(COARSEST_INTERVAL, 4 * interval)

    def __call__(self, iterations: int) -> float:
        """Epsilon after `iterations` steps."""
        if iterations == 0:
            return 0.0
        so_far = self._mechanism.after(iterations)
        spent = epsilon_on_grid(so_far, delta=self._delta, interval=self._interval)
        return min(spent, self._total) if iterations <= self._iterations else spent
