"""Which accountant answers, and that the two agree where both can."""

import dataclasses

import pytest

from dpscale.privacy.accounting import pld
from dpscale.privacy.accounting.accountant import accounted
from dpscale.privacy.accounting.certified.errors import NoCertifiedInterval
from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian

RUN = SubsampledGaussian(
    dataset_size=10_000, expected_batch_size=1000, iterations=512, noise_multiplier=3.0
)


def test_a_run_without_a_cap_is_certified_and_agrees_with_dp_accounting():
    """Catches a bound on the wrong side, and neighbours or sampling that differ."""
    spent = accounted(RUN, delta=1e-6)
    assert spent.is_certified
    assert spent.lower is not None
    assert spent.lower <= pld.epsilon(RUN, delta=1e-6) <= 1.001 * spent.upper
    assert spent.accountant.startswith("dpscale certified interval (dpscale ")


def test_a_cap_that_bites_is_left_to_dp_accounting():
    """Catches a certified claim for what was not certified."""
    biting = dataclasses.replace(RUN, truncated_batch_size=1100)
    spent = accounted(biting, delta=1e-6)
    assert not spent.is_certified
    assert spent.lower is None
    assert spent.upper == pld.epsilon(biting, delta=1e-6)
    assert spent.accountant.startswith("dp_accounting PLDAccountant (dp-accounting ")


def test_no_steps_spend_nothing():
    spent = accounted(dataclasses.replace(RUN, iterations=0), delta=1e-6)
    assert (spent.lower, spent.upper) == (0.0, 0.0)


def test_what_cannot_be_certified_without_a_cap_is_refused():
    """Catches a silent change of accountant."""
    hardly_any_noise = dataclasses.replace(RUN, noise_multiplier=0.015)
    with pytest.raises(NoCertifiedInterval, match=r"noise_multiplier 0\.015"):
        accounted(hardly_any_noise, delta=1e-6)
