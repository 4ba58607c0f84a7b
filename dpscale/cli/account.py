"""`dpscale account`: from noise to epsilon, and to what an attacker gets."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from dpscale.cli.numbers import bounds, rounded_up, whole_number
from dpscale.cli.output import CommonOptions, Output
from dpscale.config import NeighboringRelation
from dpscale.errors import ExitCode, InputError

if TYPE_CHECKING:
    from dpscale.privacy.accounting.attacker import AttackerFigures
    from dpscale.privacy.accounting.curve import CurvePoint
    from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Epsilon spent by a private run, from its noise, batch and iterations.

    The mechanism is the Poisson-subsampled Gaussian: each of the data set's units enters each
    batch with probability expected-batch-size / dataset-size. The answer is an interval that is
    certified to hold the true epsilon (claim its upper end); for a cap that batches often
    exceed, it is dp_accounting's upper bound. Beside it stands what the strongest attacker gets.
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
    curve: bool = False
    """Also give epsilon at other deltas."""


def run(options: Options, output: Output) -> ExitCode:
    """Accounts for one mechanism."""
    from dpscale.privacy.accounting.accountant import accounted
    from dpscale.privacy.accounting.attacker import attacker_figures
    from dpscale.privacy.accounting.curve import PrivacyCurve

    mechanism = _mechanism(options)
    curve = PrivacyCurve(mechanism, options.delta)
    spent = accounted(mechanism, delta=options.delta)
    output.say(
        f"epsilon {bounds(spent.lower, spent.upper)} at delta {options.delta:g} "
        f"({mechanism.neighboring_relation} neighbours, {spent.certainty})"
    )
    figures = attacker_figures(curve)
    _say_figures(figures, output)
    points = curve.table() if options.curve else ()
    if points:
        output.table(["delta", "epsilon"], [_row(point) for point in points])
    output.result(
        {
            "epsilon": spent.upper,
            "epsilon_lower": spent.lower,
            "epsilon_upper": spent.upper,
            "is_certified": spent.is_certified,
            "accountant": spent.accountant,
            "delta": options.delta,
            "membership_advantage": figures.membership_advantage,
            "tpr_at_fpr": figures.tpr_at_fpr,
            "is_attacker_certified": figures.is_certified,
            "noise_multiplier": mechanism.noise_multiplier,
            "noise_batch_ratio": mechanism.noise_multiplier / mechanism.expected_batch_size,
            "sampling_prob": mechanism.sampling_prob,
            "dataset_size": mechanism.dataset_size,
            "expected_batch_size": mechanism.expected_batch_size,
            "truncated_batch_size": mechanism.truncated_batch_size,
            "iterations": mechanism.iterations,
            "neighboring_relation": mechanism.neighboring_relation,
            **({"curve": [asdict(point) for point in points]} if options.curve else {}),
        }
    )
    return ExitCode.OK


def _mechanism(options: Options) -> "SubsampledGaussian":
    from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian, check_budget

    check_budget(delta=options.delta)
    iterations = whole_number("--iterations", options.iterations)
    if iterations < 1:
        raise InputError("--iterations", f"expected at least 1, found {iterations}.")
    cap = options.truncated_batch_size
    return SubsampledGaussian(
        dataset_size=whole_number("--dataset-size", options.dataset_size),
        expected_batch_size=whole_number("--expected-batch-size", options.expected_batch_size),
        iterations=iterations,
        noise_multiplier=options.noise_multiplier,
        truncated_batch_size=None if cap is None else whole_number("--truncated-batch-size", cap),
        neighboring_relation=options.neighboring_relation,
    )


def _say_figures(figures: "AttackerFigures", output: Output) -> None:
    rates = ", ".join(
        f"{rounded_up(100 * tpr, digits=3)} % at {100 * float(fpr):g} %"
        for fpr, tpr in figures.tpr_at_fpr.items()
    )
    output.say(
        "The strongest attacker, who sees every noisy sum, has a membership advantage of at most "
        f"{rounded_up(figures.membership_advantage, digits=3)}\n"
        f"and finds at most so many members at so many false alarms: {rates}."
    )


def _row(point: "CurvePoint") -> list[str]:
    if point.epsilon_upper is None:
        return [f"{point.delta:g}", "no bound"]
    certainty = "" if point.is_certified else " (not certified)"
    return [f"{point.delta:g}", bounds(point.epsilon_lower, point.epsilon_upper) + certainty]
