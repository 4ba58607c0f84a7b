"""Moment generating functions of one step's loss, by Gauss-Legendre quadrature with a bound.

The span of the step is cut into panels, each with the same rule of n = 20 nodes. On a panel of
centre c and half-width h the integrand p(x) e^{zℓ(x)} = n(x) w(x)^{±(z + removes)} is analytic
where |Im x| < πσ², because w meets the negative half-line only at Im x/σ² = π (n is the density
of N(0, σ²)). Let |integrand| ≤ M on the ellipse with foci c ± h and half-axes h(ρ ± 1/ρ)/2.
Then

    |error of the rule| ≤ 4 (1 + 1/(4n² − 1)) · h M ρ^{−2n} / (1 − ρ^{−2}).

Proof: on [−1, 1] the Chebyshev coefficients of f are at most 2Mρ^{−k} in size; the rule is exact
up to degree 2n − 1 and, by symmetry, for odd Chebyshev polynomials; for even k ≥ 2n the integral
of T_k is at most 2/(k² − 1) and the rule gives at most 2 (its weights are positive and sum to 2).
Sum 2Mρ^{−k} (2 + 2/(4n² − 1)) over even k ≥ 2n.

M is bounded on the rectangle around the ellipse: with θ = Im x/σ² < π/2,
|n(x + is)| = n(x) e^{s²/2σ²}; 1 − q + q e^y cos θ ≤ |w| ≤ 1 − q + q e^y; and
|arg w| ≤ arctan(q e^y sin θ / (1 − q + q e^y cos θ)), which grows with y and with θ. The smallest
bound over a list of ρ counts, and never more than what the panel can hold at all.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from dpscale.privacy.accounting.certified.errors import NoCertifiedInterval
from dpscale.privacy.accounting.certified.loss import (
    LARGEST_EXPONENT,
    UNIT_ROUNDOFF,
    Floats,
    StepLoss,
    log_ratio,
)

HALF_RULE: Final = (
    (0.0765265211334973338, 0.152753387130725851),
    (0.227785851141645078, 0.149172986472603747),
    (0.373706088715419561, 0.142096109318382051),
    (0.510867001950827098, 0.131688638449176627),
    (0.636053680726515025, 0.118194531961518417),
    (0.746331906460150793, 0.101930119817240435),
    (0.839116971822218823, 0.0832767415767047487),
    (0.912234428251325906, 0.0626720483341090636),
    (0.963971927277913791, 0.0406014298003869413),
    (0.993128599185094925, 0.0176140071391521183),
)
"""Positive nodes of the Gauss-Legendre rule with 20 nodes, and their weights, correctly rounded.

NumPy's `leggauss` is off by up to 7e-14 in the outer weights; ten million steps would make 1e-6
of that.
"""

RULE_SIZE: Final = 2 * len(HALF_RULE)
RULE_NODES: Final = np.array([-x for x, _ in HALF_RULE[::-1]] + [x for x, _ in HALF_RULE])
RULE_WEIGHTS: Final = np.array([w for _, w in HALF_RULE[::-1]] + [w for _, w in HALF_RULE])

ELLIPSES: Final = np.array([1.25, 1.5, 1.8, 2.2, 2.8, 3.6, 4.8, 6.5, 9.0, 13.0])
"""ρ: the sizes of ellipse that are tried."""

MOST_FIRST_PANELS: Final = 4000
"""Enough for a noise multiplier of 0.02."""

WIDEST_ANGLE: Final = 1.5
"""θ must stay below π/2."""

LOG_LARGEST: Final = 50.0
"""Relative errors above e^50 say nothing any more; cut there, they cannot overflow."""


@dataclass(frozen=True)
class Panels:
    """The line cut at `edges` (float64[K + 1], increasing), with the rule's nodes on each panel."""

    step: StepLoss
    edges: Floats

    @cached_property
    def half_widths(self) -> Floats:
        """float64[K]."""
        return 0.5 * np.diff(self.edges)

    @cached_property
    def nodes(self) -> Floats:
        """float64[20 K], increasing."""
        centres = 0.5 * (self.edges[1:] + self.edges[:-1])
        nodes: Floats = (centres[:, None] + self.half_widths[:, None] * RULE_NODES).ravel()
        return nodes

    @cached_property
    def losses(self) -> Floats:
        """float64[20 K], increasing."""
        return self.step.loss(self.nodes)

    @cached_property
    def log_rule(self) -> Floats:
        """float64[20 K]: the log of the rule's weights, divided by σ√(2π)."""
        sigma = self.step.noise_multiplier
        weights = (self.half_widths[:, None] * RULE_WEIGHTS).ravel()
        return np.asarray(np.log(weights / (sigma * math.sqrt(2 * math.pi))), np.float64)

    @cached_property
    def log_weights(self) -> Floats:
        """float64[20 K]: the log of the rule's weight times the density of P."""
        log_normal = -0.5 * (self.nodes / self.step.noise_multiplier) ** 2
        return log_normal + self.step.removes * self.losses + self.log_rule

    @cached_property
    def loss_scales(self) -> Floats:
        """float64[20 K]: round-off of the losses is at most a few u of this."""
        return self.step.loss_scale(self.nodes)

    def between(self, low: float | None, high: float | None) -> slice:
        """The panels from edge `low` to edge `high`; None for the end of the span."""
        first = 0 if low is None else int(np.searchsorted(self.edges, low))
        last = len(self.edges) - 1 if high is None else int(np.searchsorted(self.edges, high))
        return slice(first, max(first, last))

    def log_moment(self, order: float, part: slice) -> float:
        """The log of the integral of e^{order·loss} P over some panels, without its error."""
        at = nodes_of(part)
        return _log_sum(self.log_weights[at] + order * self.losses[at])

    def log_moment_bound(self, order: float, part: slice) -> float:
        """An upper bound on that log: quadrature error and round-off added."""
        if part.start == part.stop:
            return -math.inf
        at = nodes_of(part)
        terms = self.log_weights[at] + order * self.losses[at]
        rounding = 2 * UNIT_ROUNDOFF * (self.rounding(order)[at] + 64)
        errors = self.log_errors(order, np.zeros(1))[0, part]
        return _log_sum(np.concatenate([terms + rounding, errors])) + 1e-14

    def rounding(self, order: float) -> Floats:
        """float64[20 K]: in units of u, the relative round-off of each term of a moment.

        First order in u, for an exponential, logarithm and normal density right to 2 u: the parts
        of the exponent, each times the roundings that it goes through, and the node's own.
        """
        power = abs(order) + abs(order + self.step.removes)
        squares = (self.nodes / self.step.noise_multiplier) ** 2
        parts = 4 * squares + 4 * np.abs(self.log_rule) + 16 * power * self.loss_scales
        return np.asarray(32 + parts, np.float64)

    def log_errors(self, order: float, frequencies: Floats) -> Floats:
        """float64[F, K]: the log of a bound on each panel's error at order + i·frequency.

        It grows with the frequency, so that it holds for all lower ones too.
        """
        base, angle = self._ellipse_bounds(order)
        return np.asarray((base + frequencies[:, None, None] * angle).min(axis=2), np.float64)

    def halved(self, which: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> "Panels":
        """The same with the panels of a mask, bool[K], cut in two."""
        middles = 0.5 * (self.edges[1:] + self.edges[:-1])[which]
        return Panels(self.step, np.sort(np.concatenate([self.edges, middles])))

    def _ellipse_bounds(self, order: float) -> tuple[Floats, Floats]:
        """float64[K, ellipses]: the log error at frequency 0, and the angle of w."""
        sigma = self.step.noise_multiplier
        half = self.half_widths[:, None]
        centre = 0.5 * (self.edges[1:] + self.edges[:-1])[:, None]
        wide = half * (ELLIPSES + 1 / ELLIPSES) / 2
        tall = half * (ELLIPSES - 1 / ELLIPSES) / 2
        angle = np.minimum(tall / sigma**2, WIDEST_ANGLE)
        nearest = np.clip(0.0, centre - wide, centre + wide)
        log_normal = (tall**2 - nearest**2) / (2 * sigma**2) - math.log(
            sigma * math.sqrt(2 * math.pi)
        )
        log_most, turn = self._ratio_bounds(order, centre, wide, angle)
        constant = 4.01  # above 4 (1 + 1/1599), and so above this line's own round-off
        decay = -2 * RULE_SIZE * np.log(ELLIPSES) - np.log1p(-(ELLIPSES**-2.0))
        base = np.log(constant * half) + log_normal + log_most + decay
        return np.where(tall / sigma**2 < WIDEST_ANGLE, base, np.inf), turn

    def _ratio_bounds(
        self, order: float, centre: Floats, wide: Floats, angle: Floats
    ) -> tuple[Floats, Floats]:
        """On each rectangle: a bound on log|w^power|, and one on |arg w|."""
        q = self.step.sampling_prob
        ends = self.step.exponent(np.stack([centre - wide, centre + wide]))
        least, most = ends.min(axis=0), ends.max(axis=0)
        power = self.step.sign * (order + self.step.removes)
        if power >= 0:
            log_most = power * log_ratio(most, q)
        else:
            present = np.exp(np.minimum(least, LARGEST_EXPONENT))
            log_most = power * np.log((1 - q) + q * present * np.cos(angle))
        present = q * np.exp(np.minimum(most, LARGEST_EXPONENT))
        turn = np.arctan2(present * np.sin(angle), (1 - q) + present * np.cos(angle))
        # arg w never exceeds θ: that serves where e^y would overflow.
        return log_most, np.where(most > LARGEST_EXPONENT, angle, turn)


def _log_sum(logs: Floats) -> float:
    """The log of a sum of exponentials."""
    if not logs.size:
        return -math.inf
    largest = float(logs.max())
    return largest + math.log(float(np.exp(logs - largest).sum()))


def nodes_of(part: slice) -> slice:
    """The nodes of some panels."""
    return slice(part.start * RULE_SIZE, part.stop * RULE_SIZE)


def first_panels(step: StepLoss, low: float, high: float) -> Panels:
    """Panels narrow enough for moments of low order: half of σ, or of 2σ² if that is less.

    Raises:
      NoCertifiedInterval: There would be too many: the loss of one step is in the thousands.
    """
    width = 0.5 * min(step.noise_multiplier, 2 * step.noise_multiplier**2)
    count = (high - low) / width
    if count > MOST_FIRST_PANELS:
        raise NoCertifiedInterval("so little noise that epsilon would be in the thousands.")
    return Panels(step, np.linspace(low, high, math.ceil(count) + 1))
