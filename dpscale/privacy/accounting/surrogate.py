"""Noise for a budget in closed form: good for searching, never for a claim.

Two limits are known. Many steps come close to one Gaussian mechanism with parameter
μ = q √(T (e^{1/σ²} − 1)) (central limit, Bu et al. 2020, arXiv 1911.11607): that gives a noise
multiplier for many small contributions. And one step alone, amplified by sampling, needs the
noise at which an unsampled Gaussian has epsilon ln(1 + (e^ε − 1)/q) at delta δ/q (Balle et al.
2018, arXiv 1807.01647): that is what few participations cost. The surrogate is the root of the
sum of their squares. On random settings (q 1e-4 to 0.1, T 2 to 2e4, epsilon 0.5 to 15) it lay
0 to 26 % above the exact value, and further above where epsilon is larger still; it ignores the
cap. Whatever is reported in the end is calibrated exactly.
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
    q, t = np.broadcast_arrays(
        np.asarray(sampling_prob, np.float64), np.asarray(iterations, np.float64)
    )
    mu = gaussian_parameter(target_epsilon=target_epsilon, target_delta=target_delta)
    many_steps = 1 / np.sqrt(np.log1p(mu**2 / (q**2 * t)))
    distinct, place = np.unique(q, return_inverse=True)
    one_step = np.array([_one_step(target_epsilon, target_delta, prob) for prob in distinct])
    few_steps = np.where(t > 1, one_step[place].reshape(q.shape), 0.0)
    return np.asarray(np.hypot(many_steps, few_steps), np.float64)


def _one_step(target_epsilon: float, target_delta: float, sampling_prob: float) -> float:
    """The noise that one step alone needs; 0 where delta forgives being sampled at all."""
    if target_delta >= sampling_prob:
        return 0.0
    return 1 / gaussian_parameter(
        target_epsilon=math.log1p(math.expm1(target_epsilon) / sampling_prob),
        target_delta=target_delta / sampling_prob,
    )


def gaussian_parameter(*, target_epsilon: float, target_delta: float) -> float:
    """The μ whose Gaussian mechanism (sensitivity μ, unit noise) has exactly (epsilon, delta).

    δ(ε) = Φ(μ/2 − ε/μ) − e^ε Φ(−μ/2 − ε/μ)  (Balle and Wang 2018, arXiv 1805.06530, theorem 8).

    >>> round(gaussian_parameter(target_epsilon=1.0, target_delta=1e-5), 4)
    0.2681
    """
    check_budget(epsilon=target_epsilon, delta=target_delta)

    def excess(log_mu: float) -> float:
        mu = math.exp(log_mu)
        first = math.exp(log_ndtr(mu / 2 - target_epsilon / mu))
        second = math.exp(target_epsilon + log_ndtr(-mu / 2 - target_epsilon / mu))
        return first - second - target_delta

    most = math.log(2 * math.sqrt(target_epsilon) + 80)  # δ is 1 to double precision there
    return math.exp(brentq(excess, math.log(1e-12), most, xtol=1e-14))
