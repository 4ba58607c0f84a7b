"""What an attacker gets: bounds on any membership test, from the privacy curve.

Someone sees everything that was released and asks whether one given record took part. Their
test has a false positive rate (it says yes, the record took no part) and a true positive rate.
If the mechanism is (ε, δ)-private, then

    TPR ≤ e^ε FPR + δ    and    1 − FPR ≤ e^ε (1 − TPR) + δ

(Kairouz, Oh and Viswanath 2015, arXiv 1311.0776), the second from the neighbours' other order.
Every point of the curve gives such a bound, all of them hold at once, and together they are the
trade-off curve (Dong, Roth and Su 2019, arXiv 1905.02383). At ε = 0: TPR − FPR ≤ delta(0).

These are upper bounds, for the strongest attacker there is: one who chooses the record, knows
every other record, sees the noisy sum of *every* step, and whose record always gets the largest
gradient there may be. Who sees only the final model gets less, by an unknown amount; it is not
an estimate of a practical attack. What it assumes is what epsilon assumes (`docs/privacy.md`): in
particular that the batches stay secret.

Delta is the larger of both orders, so that the bounds hold whichever of the two worlds the test
calls "positive". That costs nothing where the better attack looks for the record's presence,
as it does here at small false positive rates.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.special import expit, logit

from dpscale.privacy.accounting.curve import PrivacyCurve

Floats = NDArray[np.float64]

FALSE_POSITIVE_RATES: Final = (0.01, 0.001)

FIRST_DEPTHS: Final = (9.0, 4.5, 1.5)
"""Where the search starts: logit(delta) is so far below that at the end of the curve (stretched
if the curve ends above 1/2)."""

NEARER: Final = 3.0
"""Where only the end will do (few runs see the record), depths shrink by this factor."""

HIGHEST_LOGIT: Final = 30.0

SMALLEST_END: Final = 1e-100
"""Where delta(0) is below, FPR + delta(0) is all there is to say."""

CANDIDATES: Final = 4000
MOST_REFINEMENTS: Final = 8

NEGLIGIBLE_GAIN: Final = 3e-4
"""The search ends when a further point is expected to lower a bound by less, as a share."""


@dataclass(frozen=True)
class AttackerFigures:
    """Upper bounds on what any test for one record's membership reaches.

    Attributes:
      membership_advantage: The most that the true positive rate exceeds the false one by, in
        [0, 1]; usually 0.2 % above the truth, for a certified curve without a cap.
      tpr_at_fpr: The most that the true positive rate can be, by the false positive rate ("0.01"
        and "0.001"); usually 0.3 % above the truth.
      is_certified: Whether every point that they come from is.
    """

    membership_advantage: float
    tpr_at_fpr: dict[str, float]
    is_certified: bool


def attacker_figures(curve: PrivacyCurve) -> AttackerFigures:
    """Bounds on membership tests against the mechanism of `curve`.

    Any points of the curve give true bounds; which ones are tried decides how tight they are.
    """
    search = _Search(curve)
    tpr_at_fpr = {f"{fpr:g}": search.largest_tpr(fpr) for fpr in FALSE_POSITIVE_RATES}
    return AttackerFigures(
        membership_advantage=curve.total_variation.upper,
        tpr_at_fpr=tpr_at_fpr,
        is_certified=search.is_certified,
    )


def tpr_bound(fpr: float, epsilon: float, delta: float) -> float:
    """The most that the true positive rate can be, by one point of the curve.

    >>> round(tpr_bound(0.01, epsilon=1.0, delta=1e-5), 4)
    0.0272
    >>> round(tpr_bound(0.01, epsilon=8.0, delta=1e-5), 5)
    0.99967
    """
    present = math.exp(min(epsilon, 700.0)) * fpr + delta
    absent = 1 - math.exp(-epsilon) * (1 - fpr - delta)
    return min(min(present, absent) * (1 + 1e-12), 1.0)


class _Search:
    """Points of a curve, and where the next one pays.

    Between its points epsilon is interpolated (a cubic spline in logit(delta)); what that promises
    counts only once the point itself has been worked out.
    """

    def __init__(self, curve: PrivacyCurve) -> None:
        self._curve = curve
        self._epsilons: dict[float, float] = {}
        self.is_certified = curve.total_variation.is_certified
        end = curve.total_variation.upper
        self._end_logit = float(min(logit(end), HIGHEST_LOGIT))
        if end > SMALLEST_END:
            stretch = 1 + max(self._end_logit, 0.0) / FIRST_DEPTHS[0]
            for depth in FIRST_DEPTHS:
                self._work_out(float(expit(self._end_logit - depth * stretch)))

    def largest_tpr(self, fpr: float) -> float:
        """The least bound found on the true positive rate."""
        for _ in range(MOST_REFINEMENTS):
            delta = self._next(fpr) if self._epsilons else None
            if delta is None or not self._work_out(delta):
                break
        return self._best(fpr)

    def _next(self, fpr: float) -> float | None:
        """The delta that should lower the bound most; None if none would by much."""
        worthwhile = (1 - NEGLIGIBLE_GAIN) * self._best(fpr)
        delta, expected = self._most_promising(fpr)
        if expected <= worthwhile:
            return delta
        # The interpolation misses a sharp bend between the nearest point and the curve's end.
        # There a bound is at least FPR + delta, as e^ε is at least 1; and where a point farther
        # away is better than the nearest, the bounds only rise towards the end.
        nearest = max(self._epsilons)
        bounds = {delta: tpr_bound(fpr, at, delta) for delta, at in self._epsilons.items()}
        if min(bounds.values()) < bounds[nearest] or fpr + nearest > worthwhile:
            return None
        depth = (self._end_logit - float(logit(nearest))) / NEARER
        return float(expit(self._end_logit - depth))

    def _best(self, fpr: float) -> float:
        end = self._curve.total_variation.upper
        points = [(0.0, end), *((epsilon, delta) for delta, epsilon in self._epsilons.items())]
        return min(tpr_bound(fpr, epsilon, delta) for epsilon, delta in points)

    def _most_promising(self, fpr: float) -> tuple[float, float]:
        """The delta where the bound should be least, and that bound."""
        deltas = sorted(self._epsilons)
        nodes = np.array([*logit(deltas), self._end_logit])
        epsilons = [*(self._epsilons[delta] for delta in deltas), 0.0]
        model = CubicSpline(nodes, epsilons, bc_type="natural")
        candidates = np.linspace(nodes[0], nodes[-1], CANDIDATES)
        bounds = [
            tpr_bound(fpr, max(epsilon, 0.0), delta)
            for epsilon, delta in zip(model(candidates), expit(candidates), strict=True)
        ]
        least = int(np.argmin(bounds))
        return float(expit(candidates[least])), bounds[least]

    def _work_out(self, delta: float) -> bool:
        """Adds the point at one delta; whether it is to be had."""
        point = self._curve.point(delta)
        if point.epsilon_upper is None:
            return False
        self._epsilons[delta] = point.epsilon_upper
        self.is_certified &= point.is_certified
        return True
