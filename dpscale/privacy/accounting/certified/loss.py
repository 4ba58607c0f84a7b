"""The privacy loss of one step, and the probabilities around it.

One step of the Poisson-subsampled Gaussian, seen along the direction of the one record that
differs, is a pair of laws on the line: N(0, σ²) without the record, and with it the mixture
(1 − q) N(0, σ²) + q N(1, σ²). Their likelihood ratio is

    w(x) = 1 − q + q e^{y(x)},    y(x) = (2x − 1) / (2σ²).

`remove` compares the mixture (P) with N(0, σ²) (Q): the loss is log w(x). `add` is the reverse:
the loss is −log w(x), and here the line is reflected (x becomes −x), so that in both directions
the loss *increases* with the coordinate. The pair dominates the step for add-or-remove and for
zero-out neighbours alike (Zhu, Dong and Wang 2022, arXiv 2106.08567): given who else is in the
batch, a record that is zeroed and one that is removed leave the same sum.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr, ndtri_exp

Floats = NDArray[np.float64]
Direction = Literal["remove", "add"]

UNIT_ROUNDOFF: Final = 2.0**-53
LARGEST_EXPONENT: Final = 700.0
"""e^700 is still a float; 1 − q is lost beside q e^700 for any q above 1e-280."""


@dataclass(frozen=True)
class Masses:
    """The probability of one set under both laws of the pair."""

    p: float
    q: float


@dataclass(frozen=True)
class Span:
    """A part of the line that holds all but `lost` of P."""

    low: float
    high: float
    lost: float


@dataclass(frozen=True)
class StepLoss:
    """One step in one direction, on the coordinate along which its loss increases."""

    sampling_prob: float
    noise_multiplier: float
    direction: Direction

    @property
    def removes(self) -> int:
        """1 if P is the mixture, else 0: the density of P is N(0, σ²)'s times e^{removes·loss}."""
        return int(self.direction == "remove")

    @property
    def sign(self) -> int:
        """The loss is sign · log w."""
        return 1 if self.removes else -1

    @property
    def largest_loss(self) -> float:
        """Infinite for `remove`; −log(1 − q), never reached, for `add`."""
        if self.removes or self.sampling_prob == 1:
            return math.inf
        return -math.log1p(-self.sampling_prob)

    def exponent(self, x: Floats) -> Floats:
        """y, the log-likelihood ratio of a participation against none."""
        return (2 * self.sign * x - 1) / (2 * self.noise_multiplier**2)

    def loss(self, x: Floats) -> Floats:
        """The loss, with an absolute error of a few u · `loss_scale(x)`."""
        return self.sign * log_ratio(self.exponent(x), self.sampling_prob)

    def loss_scale(self, x: Floats) -> Floats:
        """|loss| + (|x| + σ + ½) |d loss/dx|: round-off of loss and node is a few u of this.

        The derivative of log w in y is the posterior probability of a participation.
        """
        y, loss = self.exponent(x), self.loss(x)
        posterior = np.exp(np.minimum(math.log(self.sampling_prob) + y - self.sign * loss, 0.0))
        reach = np.abs(x) + self.noise_multiplier + 0.5
        return np.abs(loss) + reach / self.noise_multiplier**2 * posterior

    def above(self, x: float) -> Masses:
        """The masses of (x, ∞)."""
        sigma, q = self.noise_multiplier, self.sampling_prob
        absent = float(ndtr(-x / sigma))
        present = float(ndtr(-(x - self.sign) / sigma))
        mixture = (1 - q) * absent + q * present
        return Masses(mixture, absent) if self.removes else Masses(absent, mixture)

    def below(self, x: float) -> Masses:
        """The masses of (−∞, x)."""
        sigma, q = self.noise_multiplier, self.sampling_prob
        absent = float(ndtr(x / sigma))
        mixture = (1 - q) * absent + q * float(ndtr((x - self.sign) / sigma))
        return Masses(mixture, absent) if self.removes else Masses(absent, mixture)

    def span(self, lost: float) -> Span:
        """Where all but at most about `lost` of P lies; what is lost in fact is in the result."""
        sigma = self.noise_multiplier
        log_half = math.log(lost / 2)
        low = sigma * float(ndtri_exp(log_half))

        def excess(x: float) -> float:
            log_absent = float(log_ndtr(-x / sigma))
            log_present = float(log_ndtr((1 - x) / sigma)) + math.log(self.sampling_prob)
            log_mixture = np.logaddexp(log_absent + math.log1p(-self.sampling_prob), log_present)
            return float(log_mixture) - log_half

        high = brentq(excess, -low - sigma, 1 - low + sigma) if self.removes else -low
        outside = self.below(low).p + self.above(high).p
        return Span(low, high, outside * (1 + 1e-9))


def log_ratio(exponent: Floats, sampling_prob: float) -> Floats:
    """log(1 − q + q e^y), accurate relative to itself and to what round-off of y does to it.

    Near w = 1 the difference from 1 is formed first; where w < 1/2, for which q > 1/2 and 1 − q
    is exact, w is a sum of positive numbers.
    """
    change = sampling_prob * np.expm1(np.minimum(exponent, LARGEST_EXPONENT))
    moderate = np.log1p(np.maximum(change, -0.5))
    small = np.log((1 - sampling_prob) + sampling_prob * np.exp(np.minimum(exponent, 0.0)))
    large = math.log(sampling_prob) + exponent
    result: Floats = np.where(change > -0.5, moderate, small)
    return np.where(exponent > LARGEST_EXPONENT, large, result)
