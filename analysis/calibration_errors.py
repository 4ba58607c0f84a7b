"""How long calibrations take on targets drawn at random, and how far off the surrogate is.

    python analysis/calibration_errors.py --points 100 --seed 1

Draws log-uniformly in epsilon (0.01 to 100), delta (1e-15 to 1e-3), the sampling probability (1e-9
to 1) and the iterations (1 to 1e7), one process, one point at a time. Every answer is checked: the
accountant's upper end meets the target. Then times the surrogate on 10,000 pairs at once.
"""

import argparse
import math
import secrets
import time
from dataclasses import dataclass

import numpy as np

from dpscale.errors import DpscaleError
from dpscale.privacy.accounting.accountant import accounted
from dpscale.privacy.accounting.calibration import Target, with_calibrated_noise
from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian
from dpscale.privacy.accounting.surrogate import surrogate_noise_multiplier

DATASET_SIZE = 10**15


@dataclass(frozen=True)
class Outcome:
    """One point: what was asked, the answer or why there is none, and the surrogate's."""

    target: Target
    mechanism: SubsampledGaussian
    noise: float | None
    surrogate: float
    failure: str
    seconds: float

    @property
    def error(self) -> float:
        """The surrogate's, as a share; NaN without an answer."""
        return math.nan if self.noise is None else self.surrogate / self.noise - 1

    def __str__(self) -> str:
        run, target = self.mechanism, self.target
        setting = f"epsilon {target.epsilon:.6g} delta {target.delta:.6g}"
        setting += f" q {run.sampling_prob:.6g} T {run.iterations} seconds {self.seconds:.2f}"
        if self.noise is None:
            return f"{setting}: {self.failure}"
        return f"{setting}: noise {self.noise:.6g}, surrogate {self.error:+.2%}"


def drawn(generator: np.random.Generator) -> tuple[Target, SubsampledGaussian]:
    """One target and the run that should meet it, log-uniform."""

    def log_uniform(low: float, high: float) -> float:
        return math.exp(generator.uniform(math.log(low), math.log(high)))

    target = Target(epsilon=log_uniform(0.01, 100), delta=log_uniform(1e-15, 1e-3))
    mechanism = SubsampledGaussian(
        noise_multiplier=1.0,
        dataset_size=DATASET_SIZE,
        expected_batch_size=round(log_uniform(1e-9, 1) * DATASET_SIZE),
        iterations=round(log_uniform(1, 1e7)),
    )
    return target, mechanism


def measured(target: Target, mechanism: SubsampledGaussian) -> Outcome:
    """The calibration of one point, timed, and the surrogate beside it."""
    near = surrogate_noise_multiplier(
        target_epsilon=target.epsilon,
        target_delta=target.delta,
        sampling_prob=mechanism.sampling_prob,
        iterations=mechanism.iterations,
    )
    started = time.perf_counter()
    noise, failure = None, ""
    try:
        run = with_calibrated_noise(mechanism, target)
    except DpscaleError as error:
        failure = str(error)
    seconds = time.perf_counter() - started
    if not failure:
        noise = run.noise_multiplier
        spent = accounted(run, delta=target.delta).upper
        assert spent <= target.epsilon, f"{noise} spends {spent}"
    return Outcome(target, mechanism, noise, float(near), failure, seconds)


def main() -> None:
    """Draws, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=100)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    arguments = parser.parse_args()
    generator = np.random.default_rng(arguments.seed)
    outcomes = [measured(*drawn(generator)) for _ in range(arguments.points)]
    print(f"seed {arguments.seed}, {arguments.points} points")
    seconds = [outcome.seconds for outcome in outcomes]
    print("seconds: median {:.3f}, worst {:.3f}".format(*np.quantile(seconds, [0.5, 1.0])))
    answered = [outcome for outcome in outcomes if outcome.noise is not None]
    errors = np.abs([outcome.error for outcome in answered])
    print(
        "surrogate off by: median {:.2%}, 90 % {:.2%}, 99 % {:.2%}, worst {:.2%}".format(
            *np.quantile(errors, [0.5, 0.9, 0.99, 1.0])
        )
    )
    print("worst of them:")
    for outcome in sorted(answered, key=lambda outcome: -abs(outcome.error))[:5]:
        print(f"  {outcome}")
    print(f"no answer: {len(outcomes) - len(answered)}")
    for outcome in outcomes:
        if outcome.noise is None:
            print(f"  {outcome}")
    q, t = np.geomspace(1e-8, 1, 100)[:, None], np.geomspace(1, 1e6, 100)
    for epsilon in (0.1, 1.0, 10.0):
        started = time.perf_counter()
        surrogate_noise_multiplier(
            target_epsilon=epsilon, target_delta=1e-9, sampling_prob=q, iterations=t
        )
        spent = time.perf_counter() - started
        print(f"10,000 pairs at epsilon {epsilon:g}: {spent:.3f} seconds")


if __name__ == "__main__":
    main()
