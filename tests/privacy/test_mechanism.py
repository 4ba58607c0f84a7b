"""One config, one mechanism: sampler, divisor, noise and accountant agree, or it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpscale.config import ClippingConfig, LawFittingConfig, PrivateConfig
from dpscale.errors import InputError, PrivacyRefusal
from dpscale.privacy.clipping import NORM_MARGIN, ClippedSum
from dpscale.privacy.keys import insecure_keys
from dpscale.privacy.mechanism import (
    PrivateMechanism,
    build_private_mechanism,
    law_fitting_noisy_mean,
)
from dpscale.privacy.noise import noise_key

PRIVATE = PrivateConfig(target_epsilon=8.0, target_delta=1e-5, expected_batch_size=50)
CLIPPING = ClippingConfig(l2_clip_norm=2.5, rescale_to_unit_norm=False, microbatch_size=8)


def build(
    private: PrivateConfig = PRIVATE, clipping: ClippingConfig = CLIPPING
) -> PrivateMechanism:
    return build_private_mechanism(private, clipping, iterations=100, dataset_size=10_000)


@pytest.fixture(scope="module")
def mechanism() -> PrivateMechanism:
    return build()


def test_all_parts_share_their_numbers(mechanism: PrivateMechanism) -> None:
    sampler, rule, run = (
        mechanism.sampler(insecure_keys(0)),
        mechanism.noisy_mean,
        mechanism.accounted,
    )
    assert sampler.dataset_size == run.dataset_size == 10_000
    assert sampler.expected_batch_size == run.expected_batch_size == rule.normalizer == 50
    assert sampler.truncated_batch_size == run.truncated_batch_size
    assert run.truncated_batch_size is not None
    assert run.truncated_batch_size % 8 == 0
    assert rule.l2_clip_norm == 2.5


def test_noise_std_is_the_multiplier_times_the_sensitivity_over_the_batch(
    mechanism: PrivateMechanism,
) -> None:
    sigma = mechanism.accounted.noise_multiplier
    assert mechanism.noisy_mean.noise_std == pytest.approx(sigma * 2.5 * (1 + NORM_MARGIN) / 50)
    rescaled = dataclasses.replace(mechanism, rescale_to_unit_norm=True)
    assert rescaled.noisy_mean.noise_std == pytest.approx(sigma * (1 + NORM_MARGIN) / 50)
    assert mechanism.noise_batch_ratio == pytest.approx(sigma / 50)


@pytest.mark.parametrize("rescale", [False, True])
def test_noise_that_is_really_added(mechanism: PrivateMechanism, rescale: bool) -> None:
    # Measured on a zero sum: the accountant's ratio of noise to sensitivity must come out.
    mechanism = dataclasses.replace(mechanism, rescale_to_unit_norm=rescale)
    zeros = {"a": jnp.zeros((400, 300)), "b": jnp.zeros(80_000)}
    nothing = ClippedSum(total=zeros, norms=jnp.zeros(1), losses=jnp.zeros(1))
    noisy = mechanism.noisy_mean(nothing, key=noise_key(9), step=jnp.int32(4))
    sum_std = np.concatenate([np.ravel(leaf) for leaf in noisy.values()]).std() * 50
    unit = 1.0 if rescale else 2.5
    measured_multiplier = sum_std / unit
    assert measured_multiplier == pytest.approx(mechanism.accounted.noise_multiplier, rel=0.01)


def test_the_mean_divides_by_the_expected_batch(mechanism: PrivateMechanism) -> None:
    # Catches: dividing by the batch that was drawn (here 7 examples).
    silent = dataclasses.replace(mechanism.noisy_mean, noise_std=0.0)
    summed = ClippedSum(total={"a": jnp.full(3, 21.0)}, norms=jnp.ones(7), losses=jnp.ones(7))
    mean = silent(summed, key=noise_key(1), step=jnp.int32(0))
    np.testing.assert_allclose(mean["a"], 21.0 / 50)


def test_calibrated_run_meets_its_target(mechanism: PrivateMechanism) -> None:
    assert 7.97 < mechanism.epsilon(delta=1e-5) <= 8.0
    assert mechanism.epsilon(delta=1e-5, iterations=50) < 7.5
    assert mechanism.epsilon(delta=1e-5, iterations=0) == 0.0


def test_a_given_cap_is_paid_for_in_noise(mechanism: PrivateMechanism) -> None:
    # Catches: noise that is calibrated without the cap. The default cap would hide it.
    capped = build(dataclasses.replace(PRIVATE, truncated_batch_size=64))
    assert capped.truncated_batch_size == 64
    assert capped.epsilon(delta=1e-5) <= 8.0
    assert capped.accounted.noise_multiplier > 1.01 * mechanism.accounted.noise_multiplier


def test_too_little_noise_is_refused_and_told_what_would_do(mechanism: PrivateMechanism) -> None:
    enough = mechanism.accounted.noise_multiplier
    given = dataclasses.replace(PRIVATE, noise_multiplier=0.9 * enough)
    with pytest.raises(PrivacyRefusal, match=r"private\.noise_multiplier.*would meet it") as caught:
        build(given)
    proposed = float(str(caught.value).split(";")[1].split()[0])
    assert proposed == pytest.approx(enough, rel=1e-3)
    accepted = build(dataclasses.replace(PRIVATE, noise_multiplier=proposed))
    assert accepted.accounted.noise_multiplier == proposed


def test_a_batch_above_the_data_set_is_refused() -> None:
    with pytest.raises(InputError, match="expected_batch_size"):
        build(dataclasses.replace(PRIVATE, expected_batch_size=20_000))


def test_law_fitting_noise_is_the_ratio_in_clip_norms() -> None:
    law_fitting = LawFittingConfig(physical_batch_size=16, noise_batch_ratio=0.01)
    plain = law_fitting_noisy_mean(CLIPPING, law_fitting)
    assert (plain.normalizer, plain.noise_std) == (16, pytest.approx(0.025))
    rescaled = dataclasses.replace(CLIPPING, rescale_to_unit_norm=True)
    assert law_fitting_noisy_mean(rescaled, law_fitting).noise_std == pytest.approx(0.01)


def test_settings_are_arguments_and_not_constants_of_the_compilation(
    mechanism: PrivateMechanism,
) -> None:
    # Catches: one compilation for each noise level of a sweep.
    summed = ClippedSum(total={"a": jnp.ones(3)}, norms=jnp.ones(1), losses=jnp.ones(1))

    @jax.jit
    def mean(rule, clipped):  # type: ignore[no-untyped-def]
        return rule(clipped, key=noise_key(1), step=jnp.int32(0))

    for noise_std in (0.0, 0.1, 0.2):
        mean(dataclasses.replace(mechanism.noisy_mean, noise_std=noise_std), summed)
    assert mean._cache_size() == 1
