"""Noise for a budget in closed form: good for searching, never for a claim.

Many steps of a subsampled Gaussian come close to one Gaussian mechanism with parameter
μ = q √(T (e^{1/σ²} − 1)) (central limit, Bu et al. 2020, arXiv 1911.11607). Inverting this gives
σ for thousands of (q, T) at once. It ignores the cap and is off by some 10 % in either
direction where batches are few or noise is low, so that whatever is reported in the end is
calibrated exactly.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr

from dpscale.privacy.accounting.subsampled_gaussian import check_budget


def surrogate_noise_multiplier(
    *,
    target_epsilon: float,
    target_delta: float,
    sampling_prob: ArrayLike,
    iterations: ArrayLike,
) -> NDArray[np.float64]:
    """About the noise multiplier that meets the target, for each pair of q and T.

    Args:
      sampling_prob: q in (0, 1], any shape.
      iterations: T of at least 1, of a shape that broadcasts with it.
    """
    mu = gaussian_parameter(target_epsilon=target_epsilon, target_delta=target_delta)
    q, t = np.asarray(sampling_prob, np.float64), np.asarray(iterations, np.float64)
    return np.asarray(1 / np.sqrt(np.log1p(mu**2 / (q**2 * t))))


def gaussian_parameter(*, target_epsilon: float, target_delta: float) -> float:
    """The μ whose Gaussian mechanism (sensitivity μ, unit noise) has exactly (epsilon, delta).

    δ(ε) = Φ(μ/2 − ε/μ) − e^ε Φ(−μ/2 − ε/μ)  (Balle and Wang 2018, arXiv 1805.06530, theorem 8).

    >>> round(gaussian_parameter(target_epsilon=1.0, target_delta=1e-5), 4)
    0.2682
    """
    check_budget(epsilon=target_epsilon, delta=target_delta)

    def excess(log_mu: float) -> float:
        mu = math.exp(log_mu)
        first = math.exp(log_ndtr(mu / 2 - target_epsilon / mu))
        second = math.exp(target_epsilon + log_ndtr(-mu / 2 - target_epsilon / mu))
        return first - second - target_delta

    most = math.log(2 * math.sqrt(target_epsilon) + 80)  # δ is 1 to double precision there
    return math.exp(brentq(excess, math.log(1e-12), most, xtol=1e-14))
