"""Steps sorted by their loss: ordinary ones (bulk), rare large ones (jumps) and far ones.

Where participation is rare and noise small, nearly all runs consist of ordinary steps alone and
contribute nothing to delta, while their moment generating function is huge beside delta: the
inversion would drown in them. So the sum over runs (all steps within the span) is taken apart:

- **no jump and no far step.** At most a Chernoff bound, which the choice of the border between
  bulk and jumps makes negligible (`LineBound`, with the bulk's moments).
- **some far step.** A far step's loss exceeds ε by itself and the others rarely take it back.
  With F the event, E_P[(1 − e^{ε−L})₊; F] = P(F) − e^ε Q(F) + r, where
  0 ≤ r = E_P[(e^{ε−L} − 1)₊; F] ≤ e^ε Q(F, L < ε). If step i is far its loss is at least ℓ_f, so
  that the other T − 1 sum to less than ε − ℓ_f, and by the union bound and Markov's inequality
  r ≤ e^ε · T · Q(one step is far) · (E_Q e^{−mℓ})^{T−1} · e^{m(ε−ℓ_f)} for any m > 0, with
  E_Q e^{−mℓ} = E_P e^{−(1+m)ℓ}. The choice of ℓ_f makes r negligible.
- **some jump, no far step.** What is inverted: (B + J)^T − B^T, with B and J the moment
  generating functions of bulk and jumps.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dpscale.privacy.accounting.certified.chernoff import log_excess
from dpscale.privacy.accounting.certified.loss import UNIT_ROUNDOFF, Masses
from dpscale.privacy.accounting.certified.quadrature import Panels
from dpscale.privacy.accounting.certified.search import least_over_positive

NORMAL_CDF_ERROR: Final = 1e-12
"""SciPy's normal distribution function is right to this relative error (assumed)."""

FAR_ERROR: Final = 1e-10
"""The same for far masses, differences of two tails a panel apart: by a twentieth or more."""

LEAST_MASS: Final = 1e-280
"""Of a far step under Q. Nearer to underflow a mass loses its digits, and e^ε overflows."""

LARGEST_LOG: Final = 700.0
"""Exponents are cut there, lest they overflow: a bound of e^700 says nothing anyway."""


@dataclass(frozen=True)
class LineBound:
    """The bound e^{level + slope·ε}, for every ε."""

    level: float
    slope: float

    def log_at(self, epsilon: float) -> float:
        """The bound's logarithm at one epsilon, with its round-off."""
        if math.isinf(self.level):
            return self.level
        change = self.slope * epsilon
        return self.level + change + 4 * UNIT_ROUNDOFF * (abs(self.level) + abs(change))

    def at(self, epsilon: float) -> float:
        """The bound at one epsilon."""
        return math.exp(min(self.log_at(epsilon), LARGEST_LOG))


NOTHING: Final = LineBound(-math.inf, 0.0)
NO_MASS: Final = Masses(0.0, 0.0)


@dataclass(frozen=True)
class Split:
    """The borders, as edges of panels, and the bounds on what is not inverted.

    Attributes:
      bulk_end: Steps below are bulk; None if all are jumps.
      far_start: Steps above are far; None if none are.
      no_jump: Bounds delta's part without a jump or a far step.
      far_error: Bounds r, by which `far` is too small.
      far_masses: P(F) and Q(F), within the span.
    """

    bulk_end: float | None = None
    far_start: float | None = None
    no_jump: LineBound = NOTHING
    far_error: LineBound = NOTHING
    far_masses: Masses = NO_MASS

    def bulk(self, panels: Panels) -> slice:
        """The bulk's panels."""
        if self.bulk_end is None:
            return slice(0, 0)
        return panels.between(None, self.bulk_end)

    def jumps(self, panels: Panels) -> slice:
        """The jumps' panels."""
        return panels.between(self.bulk_end, self.far_start)

    def far(self, epsilon: float) -> float:
        """P(F) − e^ε Q(F): the part of delta from runs with a far step, but for r."""
        masses = self.far_masses
        if masses.p == 0:
            return 0.0
        return masses.p - math.exp(min(epsilon, LARGEST_LOG)) * masses.q

    def far_rounding(self, epsilon: float) -> float:
        """Round-off of `far`."""
        masses = self.far_masses
        if masses.p == 0:
            return 0.0
        return FAR_ERROR * (masses.p + math.exp(min(epsilon, LARGEST_LOG)) * masses.q)


def split_by_loss(panels: Panels, iterations: int, *, epsilon: float, negligible: float) -> Split:
    """Borders such that both bounds are at most `negligible` at `epsilon`.

    The bulk is as large, and the far part begins as low, as that allows.
    """
    target = math.log(negligible)
    count = len(panels.edges) - 1

    def far_bound(index: int) -> LineBound:
        return _far_error(panels, index, iterations, epsilon)

    def bulk_bound(index: int) -> LineBound:
        return _no_jump(panels, index, iterations, epsilon)

    far_index = _first(1, count, lambda i: far_bound(i).log_at(epsilon) <= target)
    bulk_index = _first(1, far_index, lambda i: bulk_bound(i).log_at(epsilon) > target) - 1
    far = far_index < count
    return Split(
        bulk_end=float(panels.edges[bulk_index]) if bulk_index else None,
        far_start=float(panels.edges[far_index]) if far else None,
        no_jump=bulk_bound(bulk_index) if bulk_index else NOTHING,
        far_error=far_bound(far_index) if far else NOTHING,
        far_masses=_far_masses(panels, far_index, iterations) if far else NO_MASS,
    )


def _first(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The least index in [low, high) from which on `holds`, by bisection; else `high`."""
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low


def _no_jump(panels: Panels, index: int, iterations: int, epsilon: float) -> LineBound:
    """A Chernoff bound on delta's part from runs whose steps all lie below an edge."""
    below = slice(0, index)

    def log_bound(order: float) -> float:
        moment = panels.log_moment(order, below)
        return iterations * moment - order * epsilon + log_excess(order)

    order = least_over_positive(log_bound, 1.0).at
    moment = panels.log_moment_bound(order, below)
    return LineBound(iterations * moment + log_excess(order) + 1e-9, -order)


def _far_error(panels: Panels, index: int, iterations: int, epsilon: float) -> LineBound:
    """The bound on r if steps above an edge are far."""
    least_loss = float(panels.step.loss(panels.edges[index : index + 1])[0]) * (1 - 1e-12)
    mass = _one_far(panels, index).q * (1 + NORMAL_CDF_ERROR)
    if least_loss <= epsilon or mass < LEAST_MASS:
        return LineBound(math.inf, 0.0)
    everything = slice(0, len(panels.edges) - 1)

    def log_bound(order: float) -> float:
        moment = panels.log_moment(-1 - order, everything)
        return (iterations - 1) * moment + order * (epsilon - least_loss)

    order = least_over_positive(log_bound, 1.0).at
    moment = panels.log_moment_bound(-1 - order, everything)
    level = math.log(iterations * mass) + (iterations - 1) * moment - order * least_loss
    return LineBound(level + 1e-9, 1 + order)


def _one_far(panels: Panels, index: int) -> Masses:
    """The masses of one step's far part: from an edge to the end of the span."""
    near, beyond = panels.step.above(panels.edges[index]), panels.step.above(panels.edges[-1])
    return Masses(near.p - beyond.p, near.q - beyond.q)


def _far_masses(panels: Panels, index: int, iterations: int) -> Masses:
    """P(F) and Q(F) within the span: A^T − (A − f)^T, where the span holds A and its far part f."""
    low, high = panels.edges[0], panels.edges[-1]
    below, above, far = panels.step.below(low), panels.step.above(high), _one_far(panels, index)

    def some(outside: float, part: float) -> float:
        log_within = iterations * math.log1p(-outside)
        return -math.exp(log_within) * math.expm1(iterations * math.log1p(-part / (1 - outside)))

    return Masses(some(below.p + above.p, far.p), some(below.q + above.q, far.q))
