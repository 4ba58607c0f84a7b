"""What has a closed form: one Gaussian mechanism, and one subsampled step.

Without subsampling T steps are one Gaussian mechanism with μ = √T/σ, whose delta is
Φ(μ/2 − ε/μ) − e^ε Φ(−μ/2 − ε/μ) (Balle and Wang 2018, arXiv 1805.06530, theorem 8). With
x = ε/μ − μ/2, y = ε/μ + μ/2, φ the normal density and m(s) = Φ(−s)/φ(s),

    delta = φ(x) (m(x) − m(y)) = φ(x) ∫_x^y (1 − s m(s)) ds,

because e^ε φ(y) = φ(x) and m' = s m − 1. For μ ≤ 1 the integral is taken by quadrature, which
loses no digits however small μ is; for larger μ the difference is formed in logarithms.

One subsampled step (T = 1) is the Gaussian at another epsilon: for `remove`
delta(ε) = q · delta_G(ε') with q (e^{ε'} − 1) = e^ε − 1, and for `add`, where e^{−ε} > 1 − q,
delta(ε) = (1 − (1 − q) e^ε) · delta_G(ε'') with q (1 − e^{−ε''}) = 1 − e^{−ε}.
"""

import math
from collections.abc import Callable
from typing import Final

from scipy.optimize import brentq
from scipy.special import erfcx, log_ndtr

from dpscale.privacy.accounting.certified.quadrature import RULE_NODES, RULE_WEIGHTS

RELATIVE_ERROR: Final = 1e-11
"""Of the deltas below. Assumed of SciPy's functions, and tested against 40 digits."""


def relative_error(mu: float) -> float:
    """Of the deltas below: for large μ also the round-off of x, a few u·μ, times x ≤ 38."""
    return RELATIVE_ERROR + 2e-14 * mu


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Delta of one Gaussian mechanism with sensitivity `mu` and unit noise, for epsilon ≥ 0."""
    low, high = epsilon / mu - mu / 2, epsilon / mu + mu / 2
    if mu <= 1 and low < 37:
        nodes = epsilon / mu + mu / 2 * RULE_NODES
        mills = math.sqrt(math.pi / 2) * erfcx(nodes / math.sqrt(2))
        integral = mu / 2 * float(RULE_WEIGHTS @ (1 - nodes * mills))
        return math.exp(-(low**2) / 2) / math.sqrt(2 * math.pi) * integral
    log_first, log_second = float(log_ndtr(-low)), epsilon + float(log_ndtr(-high))
    if log_second >= log_first:
        return 0.0
    return -math.exp(log_first) * math.expm1(log_second - log_first)


def step_delta(epsilon: float, sampling_prob: float, noise_multiplier: float) -> float:
    """Delta of one subsampled step, the larger of both directions, for epsilon ≥ 0."""
    q, mu = sampling_prob, 1 / noise_multiplier
    removed = q * gaussian_delta(_amplified(epsilon, q), mu)
    log_rest = epsilon + math.log1p(-q) if q < 1 else -math.inf
    if log_rest >= 0:
        return removed
    unsampled = -math.expm1(log_rest)
    inner = -math.log1p(math.expm1(-epsilon) / q)
    return max(removed, unsampled * gaussian_delta(inner, mu))


def _amplified(epsilon: float, sampling_prob: float) -> float:
    """Log(1 + (e^ε − 1)/q)."""
    if epsilon > 30:
        rest = (sampling_prob - 1) * math.exp(-epsilon)
        return epsilon - math.log(sampling_prob) + math.log1p(rest)
    return math.log1p(math.expm1(epsilon) / sampling_prob)


def bracketed_epsilon(
    delta_at: Callable[[float], float], delta: float, error: float
) -> tuple[float, float]:
    """An interval on epsilon, for a decreasing `delta_at` that is right to a relative `error`."""
    if delta_at(0.0) * (1 + error) <= delta:
        return 0.0, 0.0
    high = 1e-12
    while delta_at(high) > delta:
        high *= 4

    def excess(epsilon: float) -> float:
        return math.log(max(delta_at(epsilon), 1e-320)) - math.log(delta)

    root = brentq(excess, 0.0, high, xtol=1e-16 * high, rtol=1e-14) if excess(0.0) > 0 else 0.0
    upper = lower = root
    margin = 1e-14 * high
    while delta_at(upper) * (1 + error) > delta:
        upper, margin = root + margin, 2 * margin
    margin = 1e-14 * high
    while lower > 0 and delta_at(lower) * (1 - error) < delta:
        lower, margin = max(0.0, root - margin), 2 * margin
    return lower, upper
