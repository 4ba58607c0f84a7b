"""Calibration: published values, closed forms, and what it promises for each open number."""

import dataclasses
import math
from collections.abc import Callable

import pytest
from scipy.special import log_ndtr

from dpscale.errors import InputError
from dpscale.privacy.accounting import calibration
from dpscale.privacy.accounting.accountant import Accounted, accounted
from dpscale.privacy.accounting.calibration import (
    CAP_SHARE,
    Target,
    calibrate_dataset_size,
    calibrate_expected_batch_size,
    calibrate_iterations,
    calibrate_noise_and_cap,
    calibrate_noise_multiplier,
    default_truncated_batch_size,
    with_calibrated_noise,
)
from dpscale.privacy.accounting.certified.errors import NoCertifiedInterval
from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian

DOCUMENTED = SubsampledGaussian(
    dataset_size=1000, expected_batch_size=100, iterations=512, noise_multiplier=3.0
)
SMALL = SubsampledGaussian(
    dataset_size=62_000, expected_batch_size=256, iterations=200, noise_multiplier=0.5
)
WAVER = 1e-3
"""An interval's width, as a share: how far its upper end may waver from one setting to another."""


def upper(mechanism: SubsampledGaussian, delta: float) -> float:
    return accounted(mechanism, delta=delta).upper


def test_documented_noise() -> None:
    # dp_accounting's own documented example.
    sigma = calibrate_noise_multiplier(
        target_epsilon=1.0,
        target_delta=1e-6,
        dataset_size=1000,
        expected_batch_size=100,
        iterations=512,
    )
    assert sigma == pytest.approx(9.66, abs=0.005)


@pytest.mark.parametrize(("target_epsilon", "iterations"), [(0.01, 7), (1.0, 1), (20.0, 1000)])
def test_full_batches_are_one_gaussian(target_epsilon: float, iterations: int) -> None:
    # q = 1, independently: delta of one Gaussian mechanism with mu = sqrt(T)/sigma.
    full = dataclasses.replace(
        DOCUMENTED, expected_batch_size=1000, iterations=iterations, noise_multiplier=1.0
    )
    run = with_calibrated_noise(full, Target(epsilon=target_epsilon, delta=1e-6))
    sigma = run.noise_multiplier

    def delta(sigma: float) -> float:
        mu = math.sqrt(iterations) / sigma
        first = log_ndtr(mu / 2 - target_epsilon / mu)
        second = target_epsilon + log_ndtr(-mu / 2 - target_epsilon / mu)
        return math.exp(first) - math.exp(second)

    assert delta(sigma) <= 1e-6 < delta(sigma * (1 - 1.1e-4))


@pytest.mark.parametrize(
    ("changes", "target"),
    [
        ({}, Target(epsilon=4.0, delta=1e-6)),
        ({"iterations": 100_000}, Target(epsilon=0.1, delta=1e-12)),
        ({"expected_batch_size": 20_000}, Target(epsilon=50.0, delta=1e-9)),
        ({"expected_batch_size": 1, "iterations": 3}, Target(epsilon=0.5, delta=1e-7)),
    ],
)
def test_the_noise_meets_the_target_tightly(changes: dict[str, int], target: Target) -> None:
    run = with_calibrated_noise(dataclasses.replace(SMALL, **changes), target)
    less = dataclasses.replace(run, noise_multiplier=run.noise_multiplier * (1 - 1e-4))
    spent = accounted(run, delta=target.delta)
    assert spent.is_certified
    assert spent.upper <= target.epsilon
    assert upper(less, target.delta) > target.epsilon * (1 - WAVER / 10)


@pytest.mark.parametrize("target", [Target(epsilon=1.0, delta=1e-6), Target(epsilon=8, delta=1e-9)])
@pytest.mark.parametrize(
    ("calibrate", "field", "less_private"),
    [
        (calibrate_iterations, "iterations", 1),
        (calibrate_expected_batch_size, "expected_batch_size", 1),
        (calibrate_dataset_size, "dataset_size", -1),
    ],
)
def test_whole_numbers_meet_the_target_and_the_next_does_not(
    calibrate: Callable[[SubsampledGaussian, Target], int],
    field: str,
    less_private: int,
    target: Target,
) -> None:
    # What stands in the open field is ignored.
    mechanism = dataclasses.replace(DOCUMENTED, noise_multiplier=5.0)
    found = calibrate(mechanism, target)
    changes = {field: found}
    if field == "expected_batch_size" and found == mechanism.dataset_size:
        pytest.skip("the whole data set meets the target")
    assert upper(dataclasses.replace(mechanism, **changes), target.delta) <= target.epsilon
    further = found + less_private * max(1, math.ceil(1e-4 * found))
    changes = {field: further}
    assert upper(dataclasses.replace(mechanism, **changes), target.delta) > target.epsilon


def test_each_number_is_found_again() -> None:
    # epsilon 3.77 (rounded up) belongs to these numbers, whichever is left open.
    target = Target(epsilon=3.77, delta=1e-6)
    assert with_calibrated_noise(DOCUMENTED, target).noise_multiplier == pytest.approx(
        3.0, rel=1e-3
    )
    assert calibrate_iterations(DOCUMENTED, target) == 512
    assert calibrate_expected_batch_size(DOCUMENTED, target) == 100
    assert calibrate_dataset_size(DOCUMENTED, target) == 1000


def test_ends_of_the_ranges() -> None:
    loose, noisy = Target(epsilon=50.0, delta=1e-3), dataclasses.replace(DOCUMENTED, iterations=1)
    assert calibrate_expected_batch_size(noisy, loose) == 1000  # all there is
    assert calibrate_dataset_size(noisy, loose) == 100  # no less than a batch
    capped = dataclasses.replace(noisy, truncated_batch_size=400)
    assert calibrate_expected_batch_size(capped, loose) == 400


TIGHT = Target(epsilon=1e-3, delta=1e-9)


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda: calibrate_iterations(DOCUMENTED, TIGHT), "out of reach: iterations=1, the most"),
        (
            lambda: calibrate_expected_batch_size(DOCUMENTED, TIGHT),
            "out of reach: expected_batch_size=1, the most private, spends",
        ),
        (
            lambda: calibrate_iterations(
                dataclasses.replace(DOCUMENTED, noise_multiplier=1e7), Target(epsilon=9, delta=0.1)
            ),
            "met by 1e\\+09 iterations",
        ),
        (
            lambda: with_calibrated_noise(SMALL, Target(epsilon=9.0, delta=0.9)),
            "hardly any noise",
        ),
        (
            lambda: with_calibrated_noise(
                dataclasses.replace(SMALL, iterations=0), Target(epsilon=1.0, delta=0.1)
            ),
            "iterations: expected at least 1",
        ),
        (lambda: Target(epsilon=0.0, delta=1e-6), "epsilon: expected"),
        (lambda: Target(epsilon=1.0, delta=1.0), "delta: expected"),
    ],
)
def test_what_cannot_be_met_gets_one_line(refused: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        refused()
    assert "\n" not in str(caught.value)


def test_where_no_interval_is_to_be_had_more_noise_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Catches: a failure that ends the search, or counts as private enough.
    def patchy(mechanism: SubsampledGaussian, *, delta: float) -> Accounted:
        if 0.3 < mechanism.noise_multiplier < 1.5:  # the answer would be 0.6
            raise NoCertifiedInterval("none")
        return accounted(mechanism, delta=delta)

    monkeypatch.setattr(calibration, "accounted", patchy)
    run = with_calibrated_noise(SMALL, Target(epsilon=4.0, delta=1e-6))
    assert 1.5 <= run.noise_multiplier <= 1.5 * (1 + 1.1e-4)


@pytest.mark.parametrize(
    ("run", "target"),
    [
        (SMALL, Target(epsilon=4.0, delta=1e-6)),
        (DOCUMENTED, Target(epsilon=0.05, delta=1e-3)),
        (dataclasses.replace(SMALL, iterations=5), Target(epsilon=40.0, delta=1e-12)),
    ],
)
def test_the_default_cap_is_the_least_that_hardly_costs(
    run: SubsampledGaussian, target: Target
) -> None:
    cap = default_truncated_batch_size(
        target,
        dataset_size=run.dataset_size,
        expected_batch_size=run.expected_batch_size,
        iterations=run.iterations,
        multiple=16,
    )
    free = with_calibrated_noise(run, target)
    capped = accounted(dataclasses.replace(free, truncated_batch_size=cap), delta=target.delta)
    assert cap % 16 == 0
    assert capped.is_certified
    assert capped.upper == pytest.approx(upper(free, target.delta), rel=1e-3)
    # Independently: the Chernoff bound on exceeding a cap, times T (1 + e^eps), against delta.
    taken = [_share(run, target, at) for at in (cap, cap - 16)]
    assert taken[0] <= CAP_SHARE
    assert taken[1] > CAP_SHARE


def _share(run: SubsampledGaussian, target: Target, cap: int) -> float:
    n, q = run.dataset_size, run.sampling_prob
    share = min((cap + 1) / n, 1.0)
    divergence = share * math.log(share / q)
    divergence += (1 - share) * math.log((1 - share) / (1 - q)) if share < 1 else 0.0
    overflow = run.iterations * math.exp(-n * divergence)
    return overflow * (1 + math.exp(target.epsilon)) / target.delta


def test_the_cap_of_a_small_data_set_is_beyond_it() -> None:
    cap = default_truncated_batch_size(
        Target(epsilon=1.0, delta=1e-6),
        dataset_size=10,
        expected_batch_size=10,
        iterations=3,
        multiple=4,
    )
    assert cap == 12


def test_noise_and_cap_together_meet_the_target() -> None:
    both = calibrate_noise_and_cap(
        target_epsilon=8.0,
        target_delta=1e-5,
        dataset_size=62_000,
        expected_batch_size=256,
        iterations=100,
        microbatch_size=32,
    )
    run = SubsampledGaussian(
        dataset_size=62_000,
        expected_batch_size=256,
        iterations=100,
        noise_multiplier=both.noise_multiplier,
        truncated_batch_size=both.truncated_batch_size,
    )
    spent = accounted(run, delta=1e-5)
    assert spent.is_certified
    assert 7.99 < spent.upper <= 8.0
