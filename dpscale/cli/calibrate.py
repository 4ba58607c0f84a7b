"""`dpscale calibrate`: from epsilon to the one number of a run that is left out."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import tyro

from dpscale.cli.numbers import bounds, whole_number
from dpscale.cli.output import CommonOptions, Output
from dpscale.errors import ExitCode, InputError

if TYPE_CHECKING:
    from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian

SOLVABLE: Final = ("noise_multiplier", "iterations", "expected_batch_size", "dataset_size")


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """The number of a run that meets a target (epsilon, delta), from the others.

    Leave out one of --noise-multiplier, --iterations, --expected-batch-size and --dataset-size:
    the answer is the least noise (to 4 digits), the most iterations, the largest batch or the
    smallest data set that meets the target. The mechanism is the Poisson-subsampled Gaussian
    under zero-out neighbours; see `dpscale account`, which answers the other way round.
    """

    eps: Annotated[float, tyro.conf.arg(aliases=("--epsilon",))]
    """Target epsilon."""
    delta: float
    """Target delta."""
    noise_multiplier: float | None = None
    """Noise on the clipped sum, in units of its sensitivity."""
    iterations: float | None = None
    """Optimizer steps."""
    expected_batch_size: float | None = None
    """Expected units in a batch (q · N)."""
    dataset_size: float | None = None
    """Privacy units in the data (N)."""
    truncated_batch_size: float | None = None
    """Cap on a batch; by default none."""


def run(options: Options, output: Output) -> ExitCode:
    """Solves for the open number of one mechanism."""
    from dpscale.privacy.accounting.accountant import accounted

    field = _open_field(options)
    mechanism = _solved(options, field)
    spent = accounted(mechanism, delta=options.delta)
    ratio = mechanism.noise_multiplier / mechanism.expected_batch_size
    output.say(f"{field.replace('_', ' ')} {getattr(mechanism, field)}")
    output.say(
        f"epsilon {bounds(spent.lower, spent.upper)} at delta {options.delta:g} "
        f"(zero-out neighbours, {spent.certainty}); noise-batch ratio {ratio:.4g}"
    )
    output.result(
        {
            "solved_for": field,
            **{name: getattr(mechanism, name) for name in SOLVABLE},
            "truncated_batch_size": mechanism.truncated_batch_size,
            "noise_batch_ratio": ratio,
            "epsilon": options.eps,
            "epsilon_lower": spent.lower,
            "epsilon_upper": spent.upper,
            "is_certified": spent.is_certified,
            "accountant": spent.accountant,
            "delta": options.delta,
        }
    )
    return ExitCode.OK


def _open_field(options: Options) -> str:
    """The one number that is not given."""
    missing = [name for name in SOLVABLE if getattr(options, name) is None]
    if len(missing) == 1:
        return missing[0]
    names = ", ".join(_option(name) for name in missing or SOLVABLE)
    raise InputError(names, "expected one of these to be left out: it is what is solved for.")


def _solved(options: Options, field: str) -> "SubsampledGaussian":
    """The mechanism with the open number found."""
    from dpscale.privacy.accounting import calibration
    from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian

    target = calibration.Target(epsilon=options.eps, delta=options.delta)
    # What stands in the open place is ignored; it only has to make a mechanism.
    sigma = options.noise_multiplier
    mechanism = SubsampledGaussian(
        noise_multiplier=1.0 if sigma is None else sigma,
        iterations=_whole(options, "iterations", 1),
        expected_batch_size=_whole(options, "expected_batch_size", 1),
        dataset_size=_whole(options, "dataset_size", calibration.LARGEST_DATASET),
        truncated_batch_size=None
        if options.truncated_batch_size is None
        else _whole(options, "truncated_batch_size", 1),
    )
    if field == "iterations":
        found = calibration.calibrate_iterations(mechanism, target)
        return dataclasses.replace(mechanism, iterations=found)
    if field == "expected_batch_size":
        found = calibration.calibrate_expected_batch_size(mechanism, target)
        return dataclasses.replace(mechanism, expected_batch_size=found)
    if field == "dataset_size":
        found = calibration.calibrate_dataset_size(mechanism, target)
        return dataclasses.replace(mechanism, dataset_size=found)
    return calibration.with_calibrated_noise(mechanism, target)


def _whole(options: Options, name: str, if_open: int) -> int:
    value = getattr(options, name)
    return if_open if value is None else whole_number(_option(name), value)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
