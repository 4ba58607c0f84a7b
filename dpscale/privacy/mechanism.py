"""One object from which sampler, clipping, noise and accounting event come, so that they agree.

`NoisyMean` is what a step does with per-example gradients: clip, sum, divide, add noise.
Both purposes use it. A private run gets it from `PrivateMechanism`, which also holds what the
accountant sees; a law-fitting run from `law_fitting_noisy_mean`, which claims nothing.
"""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax

from dpscale.config import ClippingConfig, LawFittingConfig, PrivateConfig
from dpscale.errors import InputError, PrivacyRefusal
from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian
from dpscale.privacy.clipping import NORM_MARGIN, ClippedSum, ClipRule
from dpscale.privacy.keys import SecretKeys
from dpscale.privacy.noise import gaussian_noise
from dpscale.privacy.sampling import PoissonSampler

if TYPE_CHECKING:
    from dpscale.privacy.accounting.calibration import Target


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["l2_clip_norm", "normalizer", "noise_std"],
    meta_fields=["rescale_to_unit_norm"],
)
@dataclass(frozen=True, kw_only=True)
class NoisyMean:
    """Clip each gradient, sum, divide by `normalizer`, add noise of `noise_std`.

    `normalizer` is fixed before any batch is drawn: the expected batch size of a private run,
    the physical one of a law-fitting run; never the size of a batch. `noise_std` is the
    standard deviation of the noise on the *mean*. All three numbers are arguments of the
    compiled step, so that runs which differ in them share a compilation.
    """

    l2_clip_norm: float
    normalizer: float
    noise_std: float
    rescale_to_unit_norm: bool

    @property
    def clip_rule(self) -> ClipRule:
        """How each gradient is clipped."""
        return ClipRule(self.l2_clip_norm, self.rescale_to_unit_norm)

    def __call__(self, clipped: ClippedSum, *, key: jax.Array, step: jax.Array) -> Any:
        """The noisy mean gradient of one logical batch: call it once a step.

        Args:
          clipped: The sum over the whole logical batch, all microbatches added up.
          key: The run's noise key.
          step: int32 scalar, 0-based.
        """
        noise = gaussian_noise(key, step, clipped.total)
        return jax.tree.map(
            lambda total, normal: total / self.normalizer + self.noise_std * normal,
            clipped.total,
            noise,
        )


def law_fitting_noisy_mean(clipping: ClippingConfig, law_fitting: LawFittingConfig) -> NoisyMean:
    """The step of a law-fitting run: noise given as a ratio. No privacy claim follows."""
    clip_norm = 1.0 if clipping.rescale_to_unit_norm else clipping.l2_clip_norm
    return NoisyMean(
        l2_clip_norm=clipping.l2_clip_norm,
        normalizer=float(law_fitting.physical_batch_size),
        noise_std=law_fitting.noise_batch_ratio * clip_norm,
        rescale_to_unit_norm=clipping.rescale_to_unit_norm,
    )


@dataclass(frozen=True, kw_only=True)
class PrivateMechanism:
    """The mechanism of a private run, built once from its config and the data set's size.

    Guarantee: training with `sampler`, `noisy_mean` and fresh secret keys for
    `accounted.iterations` steps is (epsilon(delta), delta)-DP for one privacy unit under
    `accounted.neighboring_relation`, on real-number arithmetic.
    """

    accounted: SubsampledGaussian
    l2_clip_norm: float
    rescale_to_unit_norm: bool

    @property
    def truncated_batch_size(self) -> int:
        """The cap on a batch, which the accountant knows too."""
        cap = self.accounted.truncated_batch_size
        assert cap is not None, "a private run always has a cap"
        return cap

    @property
    def l2_sensitivity(self) -> float:
        """How far one unit can move the clipped sum, floating-point margin included."""
        unit = 1.0 if self.rescale_to_unit_norm else self.l2_clip_norm
        return unit * (1 + NORM_MARGIN)

    @property
    def noise_batch_ratio(self) -> float:
        """Noise on the mean gradient, in clip norms."""
        return self.accounted.noise_multiplier / self.accounted.expected_batch_size

    @property
    def noisy_mean(self) -> NoisyMean:
        """What the step does with gradients."""
        batch = self.accounted.expected_batch_size
        return NoisyMean(
            l2_clip_norm=self.l2_clip_norm,
            normalizer=float(batch),
            noise_std=self.accounted.noise_multiplier * self.l2_sensitivity / batch,
            rescale_to_unit_norm=self.rescale_to_unit_norm,
        )

    def sampler(self, keys: SecretKeys) -> PoissonSampler:
        """The batches of the run."""
        return PoissonSampler(
            dataset_size=self.accounted.dataset_size,
            expected_batch_size=self.accounted.expected_batch_size,
            truncated_batch_size=self.truncated_batch_size,
            key=keys.sampling,
        )

    def after(self, iterations: int) -> SubsampledGaussian:
        """What has been run after a number of iterations, for the accountant."""
        return dataclasses.replace(self.accounted, iterations=iterations)

    def epsilon(self, *, delta: float, iterations: int | None = None) -> float:
        """Epsilon spent after `iterations` steps (default: all): an upper bound."""
        taken = self.accounted.iterations if iterations is None else iterations
        return _spent(self.after(taken), delta)


def build_private_mechanism(
    private: PrivateConfig,
    clipping: ClippingConfig,
    *,
    iterations: int,
    dataset_size: int,
) -> PrivateMechanism:
    """Builds the mechanism: cap and noise as given, or calibrated for the target.

    Raises:
      PrivacyRefusal: A given `noise_multiplier` spends more than the target; the message says
        what would meet it.
      InputError: The expected batch is larger than the data set, or another value is out of
        range.
    """
    # SciPy takes a second to import, and runs that fit a law do without it.
    from dpscale.privacy.accounting.calibration import (
        Target,
        default_truncated_batch_size,
        with_calibrated_noise,
    )

    if private.expected_batch_size > dataset_size:
        raise InputError(
            "private.expected_batch_size",
            f"expected at most dataset_size={dataset_size}, found {private.expected_batch_size}.",
        )
    sigma, cap = private.noise_multiplier, private.truncated_batch_size
    run = SubsampledGaussian(
        dataset_size=dataset_size,
        expected_batch_size=private.expected_batch_size,
        iterations=iterations,
        noise_multiplier=1.0 if sigma is None else sigma,
    )
    target = Target(epsilon=private.target_epsilon, delta=private.target_delta)
    if cap is None:
        cap = default_truncated_batch_size(
            target,
            dataset_size=dataset_size,
            expected_batch_size=private.expected_batch_size,
            iterations=iterations,
            multiple=clipping.microbatch_size or 1,
        )
    run = dataclasses.replace(run, truncated_batch_size=cap)
    if sigma is None:
        run = with_calibrated_noise(run, target)
    else:
        _check_target(run, target)
    return PrivateMechanism(
        accounted=run,
        l2_clip_norm=clipping.l2_clip_norm,
        rescale_to_unit_norm=clipping.rescale_to_unit_norm,
    )


def _check_target(run: SubsampledGaussian, target: "Target") -> None:
    from dpscale.privacy.accounting.calibration import with_calibrated_noise

    spent = _spent(run, target.delta)
    if spent > target.epsilon:
        enough = with_calibrated_noise(run, target).noise_multiplier
        raise PrivacyRefusal(
            "private.noise_multiplier",
            f"{run.noise_multiplier} spends epsilon={spent:.4g} at delta={target.delta:.3g}, above "
            f"target_epsilon={target.epsilon:g}; {enough:.6g} would meet it (or leave it out to "
            "have it calibrated).",
        )


def _spent(run: SubsampledGaussian, delta: float) -> float:
    from dpscale.privacy.accounting.accountant import accounted

    return accounted(run, delta=delta).upper
