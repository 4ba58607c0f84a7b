"""From a budget to the one number of a run that is left open, and to the cap on its batches.

Everything here is the last value at which the upper end of `accounted` meets the target
(`search.py`); which number is open only decides the range and the first guess.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from dpscale.config import NeighboringRelation
from dpscale.errors import InputError
from dpscale.privacy.accounting.accountant import accounted
from dpscale.privacy.accounting.certified.errors import NoCertifiedInterval
from dpscale.privacy.accounting.certified.truncated import log_overflow_bound, slack
from dpscale.privacy.accounting.saddle_surrogate import Floats
from dpscale.privacy.accounting.search import TargetOutOfReach, Unknown, last_that_meets
from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian, check_budget
from dpscale.privacy.accounting.surrogate import surrogate_noise_multiplier

CAP_SHARE: Final = 1e-6
"""The share of delta that the default cap may take. It moves epsilon by far less than 0.1 %, and
is what the certified interval sets aside at once."""

LEAST_NOISE: Final = 0.02
MOST_NOISE: Final = 1e9
MOST_ITERATIONS: Final = 10**9
LARGEST_DATASET: Final = 10**15
"""Ranges of the search, far beyond use."""

TRIES: Final = 400
"""Values at which the surrogate is asked for a first guess."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """The privacy that a run may cost.

    Raises:
      InputError: epsilon is not a finite number above 0, or delta outside (0, 1).
    """

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        check_budget(epsilon=self.epsilon, delta=self.delta)


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

    Guarantee: `accounted(...).upper` of the mechanism with the returned value is at most
    `target_epsilon`; with a value 1e-4 of itself less it is above (up to the interval's width, by
    which the upper end may waver), or not to be had.

    Raises:
      InputError: A number out of range, or a target that no noise, or hardly any, meets.
    """
    mechanism = SubsampledGaussian(
        dataset_size=dataset_size,
        expected_batch_size=expected_batch_size,
        iterations=iterations,
        noise_multiplier=1.0,
        truncated_batch_size=truncated_batch_size,
        neighboring_relation=neighboring_relation,
    )
    target = Target(epsilon=target_epsilon, delta=target_delta)
    return with_calibrated_noise(mechanism, target).noise_multiplier


def with_calibrated_noise(mechanism: SubsampledGaussian, target: Target) -> SubsampledGaussian:
    """The mechanism with the least noise that meets the target: `calibrate_noise_multiplier`."""
    _check_iterations(mechanism.iterations)
    start = surrogate_noise_multiplier(
        target_epsilon=target.epsilon,
        target_delta=target.delta,
        sampling_prob=mechanism.sampling_prob,
        iterations=mechanism.iterations,
    )
    unknown = Unknown(LEAST_NOISE, MOST_NOISE, is_whole=False)
    noise = _last_that_meets(mechanism, "noise_multiplier", unknown, target, float(start))
    if noise == LEAST_NOISE:
        raise InputError(
            "epsilon",
            f"{target.epsilon:g} needs hardly any noise: at delta {target.delta:g} a noise "
            f"multiplier of {LEAST_NOISE} meets it, and less is not tried; expected a smaller "
            "epsilon or delta.",
        )
    return dataclasses.replace(mechanism, noise_multiplier=noise)


def calibrate_iterations(mechanism: SubsampledGaussian, target: Target) -> int:
    """The most iterations that meet the target; those of `mechanism` are ignored.

    Guarantee: `accounted(...).upper` is at most the target's epsilon; above it (or not to be had)
    with one iteration more, or with 1e-4 of them more where there are over 10,000.

    Raises:
      InputError: A target that one iteration misses, or a billion meet.
    """
    unknown = Unknown(MOST_ITERATIONS, 1, is_whole=True)
    tries = np.unique(np.round(np.geomspace(1, MOST_ITERATIONS, TRIES)))
    start = _crossing(mechanism, target, tries, mechanism.sampling_prob, tries)
    found = int(_last_that_meets(mechanism, "iterations", unknown, target, start))
    if found == MOST_ITERATIONS:
        raise InputError("epsilon", f"{target.epsilon:g} is met by {found:.0e} iterations or more.")
    return found


def calibrate_expected_batch_size(mechanism: SubsampledGaussian, target: Target) -> int:
    """The largest expected batch that meets the target; that of `mechanism` is ignored.

    At most the data set, or the mechanism's cap. The guarantee is that of `calibrate_iterations`.

    Raises:
      InputError: A target that a batch of one unit misses.
    """
    _check_iterations(mechanism.iterations)
    most = mechanism.truncated_batch_size or mechanism.dataset_size
    most = min(most, mechanism.dataset_size)
    unknown = Unknown(most, 1, is_whole=True)
    tries = np.unique(np.round(np.geomspace(1, most, TRIES)))
    probs = tries / mechanism.dataset_size
    start = _crossing(mechanism, target, tries, probs, mechanism.iterations)
    return int(_last_that_meets(mechanism, "expected_batch_size", unknown, target, start))


def calibrate_dataset_size(mechanism: SubsampledGaussian, target: Target) -> int:
    """The smallest data set that meets the target; that of `mechanism` is ignored.

    At least the expected batch. The guarantee is that of `calibrate_iterations`, with fewer units.

    Raises:
      InputError: A target that a data set of 1e15 units misses.
    """
    _check_iterations(mechanism.iterations)
    least = mechanism.expected_batch_size
    unknown = Unknown(least, LARGEST_DATASET, is_whole=True)
    tries = np.unique(np.round(np.geomspace(least, LARGEST_DATASET, TRIES)))
    start = _crossing(mechanism, target, tries, least / tries, mechanism.iterations)
    return int(_last_that_meets(mechanism, "dataset_size", unknown, target, start))


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
    cap = default_truncated_batch_size(
        Target(epsilon=target_epsilon, delta=target_delta),
        dataset_size=dataset_size,
        expected_batch_size=expected_batch_size,
        iterations=iterations,
        multiple=microbatch_size,
    )
    noise = calibrate_noise_multiplier(
        target_epsilon=target_epsilon,
        target_delta=target_delta,
        dataset_size=dataset_size,
        expected_batch_size=expected_batch_size,
        iterations=iterations,
        truncated_batch_size=cap,
    )
    return NoiseAndCap(noise, cap)


def default_truncated_batch_size(
    target: Target,
    *,
    dataset_size: int,
    expected_batch_size: int,
    iterations: int,
    multiple: int,
) -> int:
    """The least multiple of `multiple` whose cap takes at most `CAP_SHARE` of delta.

    No noise comes into it: what a cap takes is bounded by how rarely batches exceed it
    (`certified/truncated.py`), for every epsilon up to the target's.

    Args:
      target: What the run may spend; it must not spend more.
      multiple: The microbatch size: a padded batch is a whole number of microbatches.
    """
    _check_iterations(iterations)
    free = SubsampledGaussian(
        dataset_size=dataset_size,
        expected_batch_size=expected_batch_size,
        iterations=iterations,
        noise_multiplier=1.0,
    )

    def is_harmless(count: int) -> bool:
        capped = dataclasses.replace(free, truncated_batch_size=count * multiple)
        return slack(log_overflow_bound(capped), target.epsilon) <= CAP_SHARE * target.delta

    biting = math.ceil(expected_batch_size / multiple) - 1
    harmless = math.ceil(dataset_size / multiple)  # no batch exceeds the data set
    while harmless - biting > 1:
        middle = (harmless + biting) // 2
        if is_harmless(middle):
            harmless = middle
        else:
            biting = middle
    return harmless * multiple


Field = Literal["noise_multiplier", "iterations", "expected_batch_size", "dataset_size"]


def _last_that_meets(
    mechanism: SubsampledGaussian, field: Field, unknown: Unknown, target: Target, start: float
) -> float:
    def at(value: float) -> SubsampledGaussian:
        changes: dict[str, Any] = {field: int(value) if unknown.is_whole else value}
        return dataclasses.replace(mechanism, **changes)

    def spent(value: float) -> float:
        try:
            return accounted(at(value), delta=target.delta).upper
        except NoCertifiedInterval:
            return math.inf

    try:
        return last_that_meets(spent, unknown, target=target.epsilon, start=start)
    except TargetOutOfReach as failure:
        spends = f"spends {failure.epsilon:.4g}"
        if math.isinf(failure.epsilon):
            spends = "has no certified epsilon"
        raise InputError(
            "epsilon",
            f"{target.epsilon:g} is out of reach: {field}={failure.value:g}, the most private, "
            f"{spends} at delta {target.delta:g}.",
        ) from None


def _crossing(
    mechanism: SubsampledGaussian,
    target: Target,
    tries: Floats,
    sampling_prob: Floats | float,
    iterations: Floats | float,
) -> float:
    """The value among `tries` at which the surrogate's noise is nearest to the mechanism's."""
    noise = surrogate_noise_multiplier(
        target_epsilon=target.epsilon,
        target_delta=target.delta,
        sampling_prob=sampling_prob,
        iterations=iterations,
    )
    order = np.argsort(noise, kind="stable")
    wanted = math.log(mechanism.noise_multiplier)
    return math.exp(np.interp(wanted, np.log(noise[order]), np.log(tries[order])))


def _check_iterations(iterations: int) -> None:
    if iterations < 1:
        raise InputError("iterations", f"expected at least 1, found {iterations}.")
