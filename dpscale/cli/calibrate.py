"""`dpscale calibrate`: from epsilon to noise."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from dpscale.cli.numbers import whole_number
from dpscale.cli.output import CommonOptions, Output
from dpscale.errors import ExitCode


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """The least noise multiplier that meets a target (epsilon, delta), to 4 digits.

    The mechanism is the Poisson-subsampled Gaussian under zero-out neighbours; see `dpscale
    account`, which answers the other way round.
    """

    eps: Annotated[float, tyro.conf.arg(aliases=("--epsilon",))]
    """Target epsilon."""
    delta: float
    """Target delta."""
    dataset_size: float
    """Privacy units in the data (N)."""
    expected_batch_size: float
    """Expected units in a batch (q · N)."""
    iterations: float
    """Optimizer steps."""
    truncated_batch_size: float | None = None
    """Cap on a batch; by default none."""


def run(options: Options, output: Output) -> ExitCode:
    """Calibrates the noise of one mechanism."""
    from dpscale.privacy.accounting.calibration import calibrate_noise_multiplier

    cap = options.truncated_batch_size
    cap = None if cap is None else whole_number("--truncated-batch-size", cap)
    size = whole_number("--dataset-size", options.dataset_size)
    batch = whole_number("--expected-batch-size", options.expected_batch_size)
    iterations = whole_number("--iterations", options.iterations)
    sigma = calibrate_noise_multiplier(
        target_epsilon=options.eps,
        target_delta=options.delta,
        dataset_size=size,
        expected_batch_size=batch,
        iterations=iterations,
        truncated_batch_size=cap,
    )
    output.say(f"noise multiplier {sigma:.6g}: noise-batch ratio {sigma / batch:.4g}")
    output.result(
        {
            "noise_multiplier": sigma,
            "noise_batch_ratio": sigma / batch,
            "epsilon": options.eps,
            "delta": options.delta,
            "dataset_size": size,
            "expected_batch_size": batch,
            "truncated_batch_size": cap,
            "iterations": iterations,
        }
    )
    return ExitCode.OK
