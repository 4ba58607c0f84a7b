"""From a budget to the noise and the cap that meet it.

Epsilon falls as noise grows, so that the least noise multiplier is a root; the search
starts at the closed-form surrogate, which keeps the accountant away from the tiny noise
where its grids explode.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Final

from scipy.optimize import brentq
from scipy.stats import binom

from dpscale.config import NeighboringRelation
from dpscale.errors import InputError
from dpscale.privacy.accounting.pld import (
    COARSEST_INTERVAL,
    epsilon,
    epsilon_on_grid,
    settled_epsilon,
)
from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian, check_budget
from dpscale.privacy.accounting.surrogate import surrogate_noise_multiplier

CAP_EFFECT: Final = 1e-3
"""The default cap raises epsilon by less than this share."""


def calibrate_noise_multiplier(
    *,
    target_epsilon: float,
    target_delta: float,
    dataset_size: int,
    expected_batch_size: int,
    iterations: int,
    truncated_batch_size: int | None = None,
    neighboring_relation: NeighboringRelation = "zero-out",
) -> float:
    """The least noise multiplier that meets (target_epsilon, target_delta), to 4 digits.

    Guarantee: `epsilon` of the mechanism with the returned value is at most
    `target_epsilon`; the value is within about 1e-4 of itself of the least such.

    Raises:
      InputError: A number out of range, or a target that no noise meets.
    """
    check_budget(epsilon=target_epsilon, delta=target_delta)
    if iterations < 1:
        raise InputError("iterations", f"expected at least 1, found {iterations}.")
    mechanism = SubsampledGaussian(
        dataset_size=dataset_size,
        expected_batch_size=expected_batch_size,
        iterations=iterations,
        noise_multiplier=1.0,
        truncated_batch_size=truncated_batch_size,
        neighboring_relation=neighboring_relation,
    )
    start = surrogate_noise_multiplier(
        target_epsilon=target_epsilon,
        target_delta=target_delta,
        sampling_prob=mechanism.sampling_prob,
        iterations=iterations,
    )
    return _least_noise(mechanism, float(start), target_epsilon, target_delta)


@dataclass(frozen=True)
class NoiseAndCap:
    """The two numbers that a private run needs beside its batch and its iterations."""

    noise_multiplier: float
    truncated_batch_size: int


def calibrate_noise_and_cap(
    *,
    target_epsilon: float,
    target_delta: float,
    dataset_size: int,
    expected_batch_size: int,
    iterations: int,
    microbatch_size: int,
) -> NoiseAndCap:
    """The default cap for a run, and the least noise multiplier that meets the target with it."""
    calibrate = partial(
        calibrate_noise_multiplier,
        target_epsilon=target_epsilon,
        target_delta=target_delta,
        dataset_size=dataset_size,
        expected_batch_size=expected_batch_size,
        iterations=iterations,
    )
    uncapped = SubsampledGaussian(
        dataset_size=dataset_size,
        expected_batch_size=expected_batch_size,
        iterations=iterations,
        noise_multiplier=calibrate(),
    )
    cap = default_truncated_batch_size(uncapped, delta=target_delta, multiple=microbatch_size)
    return NoiseAndCap(calibrate(truncated_batch_size=cap), cap)


def default_truncated_batch_size(
    mechanism: SubsampledGaussian, *, delta: float, multiple: int
) -> int:
    """The least multiple of `multiple` whose cap raises epsilon by less than 0.1 %.

    Args:
      mechanism: The mechanism; its own cap is ignored.
      delta: In (0, 1).
      multiple: The microbatch size: a padded batch is a whole number of microbatches.
    """
    free = dataclasses.replace(mechanism, truncated_batch_size=None)
    _, interval = settled_epsilon(free, delta=delta)
    # Both sides of the comparison round alike, so that a coarser grid tells their ratio.
    spent = partial(epsilon_on_grid, delta=delta, interval=min(COARSEST_INTERVAL, 16 * interval))
    limit = (1 + CAP_EFFECT) * spent(free)
    q, n = mechanism.sampling_prob, mechanism.dataset_size
    # Where batches outgrow the cap with a probability far below delta over the whole run the
    # cap cannot matter. Below that the accountant decides, and a higher cap never costs more.
    harmless = math.ceil(binom.isf(1e-6 * delta / max(1, mechanism.iterations), n, q) / multiple)
    biting = math.ceil(mechanism.expected_batch_size / multiple) - 1
    harmless = max(harmless, biting + 1)
    while harmless - biting > 1:
        middle = (harmless + biting) // 2
        capped = dataclasses.replace(free, truncated_batch_size=middle * multiple)
        if spent(capped) <= limit:
            harmless = middle
        else:
            biting = middle
    return harmless * multiple


def _least_noise(
    mechanism: SubsampledGaussian, start: float, target_epsilon: float, target_delta: float
) -> float:
    def at(sigma: float) -> SubsampledGaussian:
        return dataclasses.replace(mechanism, noise_multiplier=sigma)

    _, interval = settled_epsilon(at(start), delta=target_delta)

    @cache  # bracketing and root finding ask twice for the same ends
    def excess(log_sigma: float) -> float:
        spent = epsilon_on_grid(at(math.exp(log_sigma)), delta=target_delta, interval=interval)
        return math.log(max(spent, 1e-300)) - math.log(target_epsilon)

    low, high = _bracket(excess, math.log(start), target_epsilon)
    sigma = _round_up(math.exp(brentq(excess, low, high, xtol=5e-5)))
    while epsilon(at(sigma), delta=target_delta) > target_epsilon:
        sigma = _round_up(sigma * (1 + 5e-5))
    return sigma


def _bracket(
    excess: Callable[[float], float], middle: float, target_epsilon: float
) -> tuple[float, float]:
    """Two log noise multipliers around the root: steps that grow from 5 %."""
    width = 0.05
    low = high = middle
    while excess(low) < 0:
        low, width = low - width, 2 * width
        if low < math.log(1e-2):
            raise InputError("epsilon", f"{target_epsilon} needs no noise to speak of.")
    width = 0.05
    while excess(high) > 0:
        high, width = high + width, 2 * width
        if high > math.log(1e9):
            raise InputError("epsilon", f"{target_epsilon} cannot be met by any noise.")
    return low, high


def _round_up(value: float, digits: int = 6) -> float:
    """`value` rounded up to significant digits, so that configs are readable."""
    scale = 10.0 ** (digits - 1 - math.floor(math.log10(value)))
    return math.ceil(value * scale) / scale
