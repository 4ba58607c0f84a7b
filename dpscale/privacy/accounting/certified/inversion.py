"""Bounds on delta near one epsilon, by inverting a tilted moment generating function.

For λ > 0 and the smoothed loss L + U + c (`kernel.py`), with D(z) the moment generating function
of L over the runs that are inverted (`split.py`),

    S(ε) = (1/2π) ∫ e^{−zε} D(z) E e^{zU} e^{zc} / (z(1 + z)) dt,    z = λ + it,

since 1/(z(1 + z)) is the Laplace transform of (1 − e^{−y})₊. The integral becomes a sum over
t = nΔ, Δ = 2π/W. What that changes, and how it is bounded:

- **Aliasing.** By Poisson's formula the whole sum is Σ_k e^{λkW} S(ε + kW). Every term is at
  least 0, so that the sum is no less than S(ε): the upper bound needs no more. The lower bound
  subtracts the other terms: for k < 0 S is at most the mass M of these runs, together
  M e^{−λW}/(1 − e^{−λW}); for k > 0 a Chernoff bound at an order λ' > λ, summed as a geometric
  series in e^{−(λ'−λ)W}.
- **Stopping** at t_N, where the kernel is small: |D(z)| ≤ D(λ), |z(1 + z)| ≥ t², and
  Σ_{n>N} Δ/t_n² ≤ 1/t_N.
- **Quadrature and round-off** in D: `transform.py` and `power.py`. The rest of the round-off is
  that of the last phase e^{it(T·centre − ε)}, of the kernel, and of the constants in front.

Then delta(ε) ≤ S(ε) + (far, no jump, outside the span), and delta(ε) ≥ S(ε + a + c) + far.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dpscale.privacy.accounting.certified.kernel import Kernel
from dpscale.privacy.accounting.certified.loss import UNIT_ROUNDOFF, Floats
from dpscale.privacy.accounting.certified.split import LARGEST_LOG, LineBound, Split
from dpscale.privacy.accounting.certified.transform import Complex


@dataclass(frozen=True)
class Aliases:
    """Bounds on the terms of Poisson's formula beside S(ε) itself.

    `left` holds for every ε; each of `right` does, and the least counts.
    """

    left: float
    right: tuple[LineBound, ...]

    def at(self, epsilon: float) -> float:
        """The bound at one epsilon."""
        return self.left + min(bound.at(epsilon) for bound in self.right)


@dataclass(frozen=True)
class Inversion:
    """Bounds on delta(ε) for one direction; tight near the epsilon that it was made for.

    Attributes:
      split: What is not inverted, in bounds and closed forms.
      aliases: Bounds on aliasing.
      kernel: The smoothing.
      outside: A bound on what runs with a step outside the span contribute.
      order: λ.
      log_scale: The sum is that of `terms`, times e^{log_scale − λε}.
      frequencies: float64[N + 1].
      terms: complex128[N + 1].
      centre: T times the centre that `terms` are taken about.
      error: A bound on the error of the sum, whatever ε.
      relative_error: The same for what is relative to the sum.
    """

    split: Split
    aliases: Aliases
    kernel: Kernel
    outside: float
    order: float
    log_scale: float
    frequencies: Floats
    terms: Complex
    centre: float
    error: float
    relative_error: float

    def delta_upper(self, epsilon: float) -> float:
        """At least delta(epsilon)."""
        value, error = self._smoothed(epsilon)
        others = self.split.no_jump.at(epsilon) + self.split.far_error.at(epsilon)
        far = self.split.far(epsilon) + self.split.far_rounding(epsilon)
        inverted = self._scale(epsilon) * max(value + error, 0.0)
        return (inverted + max(far, 0.0) + others + self.outside) * (1 + 1e-12)

    def delta_lower(self, epsilon: float) -> float:
        """At most delta(epsilon)."""
        above = epsilon + self.kernel.shift
        value, error = self._smoothed(above)
        inverted = self._scale(above) * (value - error) - self.aliases.at(above)
        far = self.split.far(epsilon) - self.split.far_rounding(epsilon)
        return max(inverted, 0.0) * (1 - 1e-12) + max(far, 0.0)

    def delta_estimate(self, epsilon: float) -> float:
        """About delta(epsilon): smoothed, with nothing added."""
        return self._scale(epsilon) * self._smoothed(epsilon)[0] + self.split.far(epsilon)

    def _scale(self, epsilon: float) -> float:
        return math.exp(min(self.log_scale - self.order * epsilon, LARGEST_LOG))

    @cached_property
    def _sizes(self) -> tuple[float, float]:
        """Σ|term| and Σ|term| (t + 1)."""
        sizes = np.abs(self.terms)
        return float(sizes.sum()), float(sizes @ (self.frequencies + 1))

    def _smoothed(self, epsilon: float) -> tuple[float, float]:
        """S(ε) with its aliases, over the scale, and a bound on the error."""
        phases = np.exp(1j * (self.frequencies * (self.centre - epsilon)))
        value = float(np.real(self.terms @ phases))
        total, moment = self._sizes
        of_phases = 8 * (abs(self.centre) + abs(epsilon) + 1) * moment
        of_sum = 2 * len(self.terms) * total
        of_scale = 16 * self.order * abs(epsilon) * abs(value)
        rounding = UNIT_ROUNDOFF * (of_phases + of_sum + of_scale)
        return value, self.error + self.relative_error * abs(value) + rounding
