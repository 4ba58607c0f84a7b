"""The smoothing of the loss, which lets the inversion integral stop at a finite frequency.

The total loss L is replaced by L + U + c, with U independent of it, of the Kaiser-Bessel law on
[−a, a] (density proportional to I₀(β √(1 − (u/a)²)), the Kaiser window), and c = log E e^{−U}
(or a little more).

*It only raises delta.* With V = e^{−U−c}, E V = 1, and delta of the smoothed loss is
E (1 − e^{ε−L} V)₊ ≥ E (1 − e^{ε−L})₊, since (1 − e^{ε−l} v)₊ is convex in v (Jensen).

*It raises it little.* U + c ≤ a + c, so that smoothed delta at ε is at most delta at ε − a − c.

The moment generating function of U is (β / sinh β) · sinh(r)/r with r = √(β² + (za)²): about
e^{−β} of it is left beyond the frequency β/a, and from there on it falls like 1/t.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dpscale.privacy.accounting.certified.loss import Floats

LEAST_SHAPE: Final = 12.0
MOST_SHAPE: Final = 40.0
"""The range of β. About e^{−β} of the integral is left beyond the last frequency."""

MARGIN: Final = 4.0
"""(a t)² at the last frequency exceeds β² + (a λ)² by at least this."""


@dataclass(frozen=True)
class Kernel:
    """The law of U: Kaiser-Bessel on [−half_width, half_width] (in units of loss), β = shape."""

    half_width: float
    shape: float

    @property
    def drift(self) -> float:
        """C, at least log E e^{−U}: that with its round-off, or Hoeffding's bound if less.

        A larger c than that keeps both bounds true: E V is then below 1, and delta falls in V.
        The logarithms of two numbers below e^40 lose less than 2e-14 together.
        """
        return min(self.log_moment(-1.0) + 5e-14, self.half_width**2 / 2)

    @property
    def shift(self) -> float:
        """The most by which the smoothed loss exceeds the loss."""
        return self.half_width + self.drift

    def log_moment(self, order: float) -> float:
        """Log E e^{order·U}."""
        r = math.hypot(self.shape, order * self.half_width)
        return _log_sinh_ratio(r) - _log_sinh_ratio(self.shape)

    def moment(self, z: NDArray[np.complex128]) -> NDArray[np.complex128]:
        """E e^{zU}; the absolute error is a few u times the value at Re z."""
        r: NDArray[np.complex128] = np.sqrt(self.shape**2 + (z * self.half_width) ** 2)
        return np.asarray(np.sinh(r) / r * (self.shape / math.sinh(self.shape)), np.complex128)

    def last_frequency(self, order: float) -> float:
        """Where the integral along Re z = order may stop."""
        tilted = (order * self.half_width) ** 2
        margin = MARGIN + tilted * self.shape**2  # keeps the real part of r below 1 from there on
        return math.sqrt(self.shape**2 + tilted + margin) / self.half_width

    def bound_beyond(self, order: float, frequency: Floats | float) -> float:
        """A bound on |E e^{zU}| for all z = order + it with t at least `frequency`.

        r² = −D + 2i a² λ t with D = (at)² − β² − (aλ)² > 0. Then |r| ≥ √D, and
        Re r = √((|r²| − D)/2) ≤ a² λ t / √D, since √(D² + Y²) ≤ D + Y²/(2D). Both bounds fall as
        t grows, and |sinh r| ≤ cosh(Re r).
        """
        a = self.half_width
        root = math.sqrt((a * frequency) ** 2 - self.shape**2 - (a * order) ** 2)
        real_part = a * a * order * frequency / root
        return self.shape / math.sinh(self.shape) * math.cosh(real_part) / root


def kernel_for(half_width: float, *, beyond: float) -> Kernel:
    """The kernel whose part of the integral beyond the last frequency is about `beyond`.

    By `bound_beyond` it is near e^{−β} · half_width / 2, relative to the integrand's largest.
    """
    shape = math.log(half_width / (2 * beyond)) if beyond > 0 else MOST_SHAPE
    return Kernel(half_width, min(max(shape, LEAST_SHAPE), MOST_SHAPE))


def _log_sinh_ratio(r: float) -> float:
    """log(sinh(r)/r) for r > 0."""
    return r + math.log1p(-math.exp(-2 * r)) - math.log(2 * r)
