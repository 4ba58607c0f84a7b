"""What may be spent on a run, and how much noise that asks for."""

from dataclasses import dataclass
from typing import Protocol

from dpscale.errors import InputError
from dpscale.scaling.forms import Array


@dataclass(frozen=True)
class Budget:
    """Privacy, compute and data for one training run.

    Args:
      epsilon, delta: The privacy target.
      train_flops: In the convention 6 · num_params · batch · iterations · seq_len.
      dataset_size: N, privacy units.
      seq_len: S, tokens in a unit.
      vocab_size: V, which sets the size of the embedding.
    """

    epsilon: float
    delta: float
    train_flops: float
    dataset_size: int
    seq_len: int
    vocab_size: int

    def __post_init__(self) -> None:
        expect_number("--eps", self.epsilon > 0, "above 0", self.epsilon)
        expect_number("--delta", 0 < self.delta < 1, "in (0, 1)", self.delta)
        expect_number("--flops", self.train_flops > 0, "above 0", self.train_flops)
        expect_number("--dataset-size", self.dataset_size >= 1, "at least 1", self.dataset_size)
        expect_number("--seq-len", self.seq_len >= 1, "at least 1", self.seq_len)
        expect_number("--vocab-size", self.vocab_size >= 2, "at least 2", self.vocab_size)


@dataclass(frozen=True)
class Noise:
    """The noise multiplier of a run, with the cap on its batches (None: accounted without)."""

    noise_multiplier: float
    truncated_batch_size: int | None


class Accounting(Protocol):
    """From a budget to noise: quickly for thousands of candidates, exactly for a few."""

    def approximate(self, sampling_prob: Array, iterations: Array) -> Array:
        """About the noise multiplier at each pair; for searching only."""

    def exact(self, expected_batch_size: int, iterations: int) -> float:
        """The least noise multiplier that meets the target."""

    def with_cap(self, expected_batch_size: int, iterations: int, microbatch_size: int) -> Noise:
        """The same with the default cap on batches, as a run is accounted for."""


@dataclass(frozen=True)
class BudgetAccounting:
    """`Accounting` by `dpscale.privacy.accounting`, which is imported at the first question."""

    budget: Budget

    def approximate(self, sampling_prob: Array, iterations: Array) -> Array:
        """Mostly within 1 %; see `surrogate_noise_multiplier`."""
        from dpscale.privacy.accounting.surrogate import surrogate_noise_multiplier

        return surrogate_noise_multiplier(
            target_epsilon=self.budget.epsilon,
            target_delta=self.budget.delta,
            sampling_prob=sampling_prob,
            iterations=iterations,
        )

    def exact(self, expected_batch_size: int, iterations: int) -> float:
        """Certified, without a cap; half a second or so."""
        from dpscale.privacy.accounting.calibration import calibrate_noise_multiplier

        return calibrate_noise_multiplier(
            target_epsilon=self.budget.epsilon,
            target_delta=self.budget.delta,
            dataset_size=self.budget.dataset_size,
            expected_batch_size=expected_batch_size,
            iterations=iterations,
        )

    def with_cap(self, expected_batch_size: int, iterations: int, microbatch_size: int) -> Noise:
        """Certified, with the default cap."""
        from dpscale.privacy.accounting.calibration import calibrate_noise_and_cap

        found = calibrate_noise_and_cap(
            target_epsilon=self.budget.epsilon,
            target_delta=self.budget.delta,
            dataset_size=self.budget.dataset_size,
            expected_batch_size=expected_batch_size,
            iterations=iterations,
            microbatch_size=microbatch_size,
        )
        return Noise(found.noise_multiplier, found.truncated_batch_size)


def expect_number(where: str, holds: bool, expected: str, value: float) -> None:
    """Refuses an option's `value` unless it `holds` what is `expected` of it.

    Raises:
      InputError: It does not; `where` names the option.
    """
    if not holds:
        raise InputError(where, f"expected a number {expected}, found {value:g}.")
