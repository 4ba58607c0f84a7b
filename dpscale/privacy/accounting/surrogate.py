"""Noise for a budget, for thousands of settings at once: for searching, never for a claim.

Delta of T steps is estimated in one of two ways, and the noise solved for.

- **One participation.** Where records take part rarely, epsilon is mostly exceeded by one step
  alone: delta is about T times that of one step at epsilon, which has a closed form (Balle et al.
  2018, arXiv 1807.01647). The other steps help by a factor e^g: with λ the slope of one step's log
  delta, g = T (E[e^{λℓ}; ℓ < ε/2] − Pr[ℓ < ε/2]) is how much they add to the loss ℓ's reach.
- **Many participations.** Where g is larger, delta is the saddle-point approximation of the
  inversion integral (`docs/accounting.md`), on a few dozen nodes of the noise. What one
  participation alone costs is a floor.

The cap on batches is ignored, and only the direction `remove` is looked at, which is the larger
one almost always. Measured on settings drawn at random (`analysis/calibration_errors.py`): off by
0.01 % of the exact noise in the median, by less than 1 % in nine of ten, by 10 % in the worst of
350; more in `docs/accounting.md`.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_ndtr

from dpscale.privacy.accounting.saddle_surrogate import Floats, Steps, saddle_noise_multiplier
from dpscale.privacy.accounting.subsampled_gaussian import check_budget

FEW: Final = 0.5
MANY: Final = 2.0
"""Growths g at which one estimate gives way to the other; between them their logs are blended. One
participation is mostly too little noise there, the saddle point too much."""

LEAST: Final = 1e-2
"""What is answered where delta forgives that a record takes part at all."""


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
    check_budget(epsilon=target_epsilon, delta=target_delta)
    q, t = np.broadcast_arrays(
        np.asarray(sampling_prob, np.float64), np.asarray(iterations, np.float64)
    )
    steps = Steps(q.ravel(), t.ravel(), target_epsilon, target_delta)
    with np.errstate(all="ignore"):
        least = _one_participation(steps, growth=np.zeros(q.size))
        growth = np.where(steps.iterations > 1, _growth(steps, least), 0.0)
        noise = _one_participation(steps, np.clip(growth, 0.0, MANY))
        more = growth > FEW
        if more.any():
            some, floor = steps.some(more), least[more]
            saddle = saddle_noise_multiplier(some, np.maximum(_central_limit(some), floor))
            weight = np.clip(np.log(growth[more] / FEW) / math.log(MANY / FEW), 0.0, 1.0)
            noise[more] **= 1 - weight
            noise[more] *= np.maximum(saddle, floor) ** weight
    return noise.reshape(q.shape)


def _one_participation(steps: Steps, growth: Floats) -> Floats:
    """The noise at which T e^g times one step's delta is the target's."""
    share = steps.delta / (steps.sampling_prob * steps.iterations) * np.exp(-growth)
    noise = np.full(share.shape, LEAST)
    some = share < 1
    amplified = steps.amplified_epsilon[some]
    noise[some] = 1 / gaussian_parameter(target_epsilon=amplified, target_delta=share[some])
    return np.asarray(np.maximum(noise, LEAST), np.float64)


def _growth(steps: Steps, noise: Floats) -> Floats:
    """g: how much the other steps add to the reach of the one."""
    mu, epsilon = 1 / noise, steps.amplified_epsilon
    above = log_ndtr(mu / 2 - epsilon / mu)
    below = epsilon + log_ndtr(-mu / 2 - epsilon / mu)
    amplification = math.exp(steps.epsilon) / (steps.sampling_prob + math.expm1(steps.epsilon))
    slope = amplification / np.maximum(np.expm1(above - below), 1e-300)
    step = steps.nodes(noise)
    bulk = np.where(step.losses < steps.epsilon / 2, np.exp(step.log_weights + step.losses), 0.0)
    gain = np.expm1(np.minimum(slope * step.losses, 300.0))
    return np.asarray(steps.iterations * (gain * bulk).sum(axis=0), np.float64)


def _central_limit(steps: Steps) -> Floats:
    """The noise of one Gaussian mechanism with μ = q √(T (e^{1/σ²} − 1)) (arXiv 1911.11607)."""
    mu = gaussian_parameter(
        target_epsilon=np.array([steps.epsilon]), target_delta=np.array([steps.delta])
    )
    return np.asarray(
        1 / np.sqrt(np.log1p(mu**2 / (steps.sampling_prob**2 * steps.iterations))), np.float64
    )


def gaussian_parameter(*, target_epsilon: Floats, target_delta: Floats) -> Floats:
    """The μ whose Gaussian mechanism (sensitivity μ, unit noise) has exactly (epsilon, delta).

    δ(ε) = Φ(μ/2 − ε/μ) − e^ε Φ(−μ/2 − ε/μ)  (Balle and Wang 2018, arXiv 1805.06530, theorem 8).

    >>> gaussian_parameter(target_epsilon=np.array([1.0]), target_delta=np.array([1e-5])).round(4)
    array([0.2681])
    """
    low = np.full(target_epsilon.shape, math.log(1e-12))
    high = np.log(2 * np.sqrt(target_epsilon) + 80)  # δ is 1 to double precision there
    for _ in range(48):
        middle = (low + high) / 2
        mu = np.exp(middle)
        first = np.exp(log_ndtr(mu / 2 - target_epsilon / mu))
        second = np.exp(target_epsilon + log_ndtr(-mu / 2 - target_epsilon / mu))
        enough = first - second > target_delta
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.asarray(np.exp(low), np.float64)
