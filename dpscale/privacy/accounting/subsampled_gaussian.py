"""The mechanism of a private run as an accountant sees it: the Poisson-subsampled Gaussian.

In each of T iterations every one of N records enters the batch independently with
probability q; a batch above the cap (`truncated_batch_size`) is cut to a uniform subset of
that size; the clipped contributions are summed, and Gaussian noise is added whose standard
deviation is `noise_multiplier` times the largest L2 norm of one contribution. Neither the
batch nor its size is released. That is enough to write an accountant from.

Under the zero-out relation (`REPLACE_SPECIAL` in dp_accounting) neighbours differ in one
record whose contribution is replaced by zero, so N is public and the cap can be accounted
for (arXiv 2411.04205, arXiv 2508.15089).
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dpscale.config import NeighboringRelation
from dpscale.errors import InputError

if TYPE_CHECKING:
    import dp_accounting


@dataclass(frozen=True, kw_only=True)
class SubsampledGaussian:
    """T compositions of one Poisson-subsampled Gaussian, possibly truncated.

    `noise_multiplier` is the noise's standard deviation on the clipped *sum*, divided by the
    L2 sensitivity of that sum.
    """

    dataset_size: int
    expected_batch_size: int
    iterations: int
    noise_multiplier: float
    truncated_batch_size: int | None = None
    neighboring_relation: NeighboringRelation = "zero-out"

    def __post_init__(self) -> None:
        _check(self, "dataset_size", self.dataset_size >= 1, "at least 1")
        _check(
            self,
            "expected_batch_size",
            1 <= self.expected_batch_size <= self.dataset_size,
            f"in [1, dataset_size={self.dataset_size}]",
        )
        _check(self, "iterations", self.iterations >= 0, "at least 0")
        positive = self.noise_multiplier > 0 and math.isfinite(self.noise_multiplier)
        _check(self, "noise_multiplier", positive, "a finite number above 0")
        cap = self.truncated_batch_size
        _check(
            self,
            "truncated_batch_size",
            cap is None or cap >= self.expected_batch_size,
            f"at least expected_batch_size={self.expected_batch_size}",
        )
        if cap is not None and self.neighboring_relation != "zero-out":
            raise InputError(
                "neighboring_relation",
                f"expected zero-out with truncated_batch_size={cap} (a cap makes N public), "
                f"found {self.neighboring_relation!r}.",
            )

    @property
    def sampling_prob(self) -> float:
        """q = B/N, in (0, 1]."""
        return self.expected_batch_size / self.dataset_size

    def event(self) -> "dp_accounting.DpEvent":
        """dp_accounting's description of the mechanism, the cap included."""
        import dp_accounting

        step: dp_accounting.DpEvent
        if self.truncated_batch_size is None or self.truncated_batch_size >= self.dataset_size:
            step = dp_accounting.PoissonSampledDpEvent(
                self.sampling_prob, dp_accounting.GaussianDpEvent(self.noise_multiplier)
            )
        else:
            step = dp_accounting.TruncatedSubsampledGaussianDpEvent(
                self.dataset_size,
                self.sampling_prob,
                self.truncated_batch_size,
                self.noise_multiplier,
            )
        return dp_accounting.SelfComposedDpEvent(step, self.iterations)


def check_budget(*, epsilon: float | None = None, delta: float | None = None) -> None:
    """Checks the two parts of a privacy budget.

    Raises:
      InputError: `epsilon` is not a finite number above 0, or `delta` is outside (0, 1).
    """
    if epsilon is not None and not (epsilon > 0 and math.isfinite(epsilon)):
        raise InputError("epsilon", f"expected a finite number above 0, found {epsilon}.")
    if delta is not None and not 0 < delta < 1:
        raise InputError("delta", f"expected a number in (0, 1), found {delta}.")


def _check(mechanism: SubsampledGaussian, name: str, holds: bool, expected: str) -> None:
    if not holds:
        raise InputError(name, f"expected {expected}, found {getattr(mechanism, name)!r}.")
