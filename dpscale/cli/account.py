"""`dpscale account`: from noise to epsilon."""

from dataclasses import dataclass

from dpscale.cli.numbers import whole_number
from dpscale.cli.output import CommonOptions, Output
from dpscale.config import NeighboringRelation
from dpscale.errors import ExitCode


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Epsilon spent by a private run, from its noise, batch and iterations.

    The mechanism is the Poisson-subsampled Gaussian: each of the data set's units enters each
    batch with probability expected-batch-size / dataset-size. dp_accounting's PLD accountant
    gives an upper bound on epsilon, on grids refined until it has settled.
    """

    noise_multiplier: float
    """Noise on the clipped sum, in units of its sensitivity."""
    iterations: float
    """Optimizer steps."""
    dataset_size: float
    """Privacy units in the data (N)."""
    expected_batch_size: float
    """Expected units in a batch (q · N)."""
    delta: float
    """The delta at which epsilon is stated."""
    truncated_batch_size: float | None = None
    """Cap on a batch; by default none."""
    neighboring_relation: NeighboringRelation = "zero-out"
    """What neighbouring data sets differ in."""


def run(options: Options, output: Output) -> ExitCode:
    """Accounts for one mechanism."""
    from dpscale.privacy.accounting.pld import epsilon
    from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian, check_budget

    check_budget(delta=options.delta)
    cap = options.truncated_batch_size
    mechanism = SubsampledGaussian(
        dataset_size=whole_number("--dataset-size", options.dataset_size),
        expected_batch_size=whole_number("--expected-batch-size", options.expected_batch_size),
        iterations=whole_number("--iterations", options.iterations),
        noise_multiplier=options.noise_multiplier,
        truncated_batch_size=None if cap is None else whole_number("--truncated-batch-size", cap),
        neighboring_relation=options.neighboring_relation,
    )
    spent = epsilon(mechanism, delta=options.delta)
    relation = mechanism.neighboring_relation
    output.say(f"epsilon {spent:.4f} at delta {options.delta:g} ({relation} neighbours)")
    output.result(
        {
            "epsilon": spent,
            "delta": options.delta,
            "noise_multiplier": mechanism.noise_multiplier,
            "noise_batch_ratio": mechanism.noise_multiplier / mechanism.expected_batch_size,
            "sampling_prob": mechanism.sampling_prob,
            "dataset_size": mechanism.dataset_size,
            "expected_batch_size": mechanism.expected_batch_size,
            "truncated_batch_size": mechanism.truncated_batch_size,
            "iterations": mechanism.iterations,
            "neighboring_relation": mechanism.neighboring_relation,
        }
    )
    return ExitCode.OK
