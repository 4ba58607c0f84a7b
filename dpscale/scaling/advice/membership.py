"""The membership advantage of a run, for several runs in a few milliseconds each.

At equal (epsilon, delta) runs differ in how far a test for one record's membership gets (appendix
D of arXiv 2501.18914): the most that its true positive rate exceeds the false one by is the total
variation distance between what is released with the record and without, delta at epsilon 0. With
densities p and q, 1 − TV = ∫ min(p, q), and min(p, q) = √(p q) e^{−|L|/2} with the loss
L = log(p/q). As e^{−|x|/2} has the Fourier transform 1/(t² + 1/4),

    TV = (1/π) ∫₀^∞ (1 − Re φ(t)^T) / (t² + 1/4) dt,    φ(t) = E[e^{(1/2 + it) ℓ}],

with ℓ one step's loss where the record takes no part. One participation in q of the steps and
noise σ give ℓ(x) = log(1 − q + q e^{(2x − 1)/(2σ²)}), x normal with standard deviation σ.

Both integrals are sums here, without a bound on the error: within 0.1 % of the certified figures of
`dpscale account` where they were compared (the test does). It is what the strongest attacker
gets, who sees every step; zero-out neighbours, no cap on batches.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dpscale.privacy.accounting.certified.total_variation import total_variation_bound
from dpscale.scaling.forms import Array

NODES: Final = 240
"""Of the noise: steps of a fourteenth of a standard deviation, or of a little more where σ is
small."""

REACH: Final = 8.5
"""How many standard deviations of noise are kept on either side: all but 1e-17."""

PER_FOLD: Final = 10
LEAST_FREQUENCY: Final = 1e-4
FARTHEST: Final = 1e3
"""Frequencies per factor of e; from the first (below, nearly nothing) to this over a bound on TV
(beyond, φ^T is nil)."""


def membership_advantage(sampling_prob: float, noise_multiplier: float, iterations: int) -> float:
    """Total variation between the outputs with one record and without, in [0, 1].

    >>> round(membership_advantage(1.0, 1.0, 1), 3)  # one Gaussian: erf(1/√8)
    0.383
    """
    q, sigma = sampling_prob, noise_multiplier
    bound = total_variation_bound(q, sigma, iterations)
    if q == 1:
        return math.erf(math.sqrt(iterations / 8) / sigma)
    most = FARTHEST / min(bound, 1.0)
    folds = math.log(most / LEAST_FREQUENCY)
    t = np.geomspace(LEAST_FREQUENCY, most, 1 + math.ceil(PER_FOLD * folds))
    together = np.exp(iterations * np.log1p(_excess(q, sigma, t))).real
    # In log t the integrand is smooth and nearly nothing at either end: the trapezium rule is
    # then exact to many digits.
    heights = (1 - together) * t / (t**2 + 0.25)
    within = float(np.trapezoid(heights, np.log(t)))
    beyond = 2 * math.atan(1 / (2 * most))
    total = (within + beyond) / math.pi
    return float(min(total, bound, 1.0))


def _excess(q: float, sigma: float, t: Array) -> NDArray[np.complex128]:
    """φ(t) − 1, in which E[e^ℓ − 1] = 0 cancels what is linear in ℓ."""
    ends = -REACH * sigma, REACH * sigma + 1
    width = (ends[1] - ends[0]) / NODES
    x = ends[0] + width * (np.arange(NODES) + 0.5)
    weights = width / (sigma * math.sqrt(2 * math.pi)) * np.exp(-((x / sigma) ** 2) / 2)
    loss = np.log1p(q * np.expm1(np.minimum((2 * x - 1) / (2 * sigma**2), 700.0)))
    order = 0.5 + 1j * t[:, None]
    return np.asarray((np.expm1(order * loss) - order * np.expm1(loss)) @ weights)


def diffusion(sampling_prob: Array, noise_multiplier: Array, iterations: Array) -> Array:
    """q √(T (e^{1/σ²} − 1)): the central limit's one number, which advantage mostly rises with."""
    spread = np.expm1(np.minimum(noise_multiplier**-2, 700.0))
    return np.asarray(sampling_prob * np.sqrt(iterations * spread))
