"""How wide certified intervals are on settings drawn at random, and what they cost.

    python analysis/accounting_widths.py --points 2000 --seed 7

Draws log-uniformly in the noise multiplier (0.2 to 100), the sampling probability (1e-9 to 1),
the iterations (1 to 1e7) and delta (1e-15 to 1e-3), one process, one point at a time. Prints the
seed, the quantiles of width and time, and every point that missed the promise or has no interval.
Arithmetic runs on one thread. Both times count: the wall clock's includes what else the machine
does.
"""

import argparse
import math
import os
import resource
import secrets
import time
from dataclasses import dataclass

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # read when NumPy is imported

import numpy as np  # noqa: E402

from dpscale.privacy.accounting.certified.errors import NoCertifiedInterval  # noqa: E402
from dpscale.privacy.accounting.certified.interval import (  # noqa: E402
    EpsilonInterval,
    epsilon_interval,
)
from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian  # noqa: E402

DATASET_SIZE = 10**15
PROMISED_SHARE, PROMISED_WIDTH = 5e-3, 1e-4


@dataclass(frozen=True)
class Outcome:
    """One point: what was asked, and the interval or why there is none."""

    mechanism: SubsampledGaussian
    delta: float
    interval: EpsilonInterval | None
    failure: str
    wall_seconds: float
    cpu_seconds: float

    @property
    def kept(self) -> bool:
        """Whether the interval is as narrow as promised."""
        if self.interval is None:
            return False
        allowed = max(PROMISED_SHARE * self.interval.upper, PROMISED_WIDTH)
        return 0 <= self.interval.width <= allowed

    def __str__(self) -> str:
        run = self.mechanism
        setting = f"q {run.sampling_prob:.9g} sigma {run.noise_multiplier:.9g} T {run.iterations}"
        found = self.failure
        if self.interval is not None:
            found = f"[{self.interval.lower:.6g}, {self.interval.upper:.6g}]"
        cost = f"CPU {self.cpu_seconds:.2f} s, wall {self.wall_seconds:.2f} s"
        return f"{setting} delta {self.delta:.9g} ({cost}): {found}"


def drawn(generator: np.random.Generator) -> tuple[SubsampledGaussian, float]:
    """One setting, log-uniform."""

    def log_uniform(low: float, high: float) -> float:
        return math.exp(generator.uniform(math.log(low), math.log(high)))

    mechanism = SubsampledGaussian(
        noise_multiplier=log_uniform(0.2, 100),
        dataset_size=DATASET_SIZE,
        expected_batch_size=round(log_uniform(1e-9, 1) * DATASET_SIZE),
        iterations=round(log_uniform(1, 1e7)),
    )
    return mechanism, log_uniform(1e-15, 1e-3)


def measured(mechanism: SubsampledGaussian, delta: float) -> Outcome:
    """The interval at one setting, timed."""
    started, busy = time.perf_counter(), time.process_time()
    interval, failure = None, ""
    try:
        interval = epsilon_interval(mechanism, delta=delta)
    except NoCertifiedInterval as error:
        failure = str(error)
    wall, cpu = time.perf_counter() - started, time.process_time() - busy
    return Outcome(mechanism, delta, interval, failure, wall, cpu)


def main() -> None:
    """Draws, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    arguments = parser.parse_args()
    generator = np.random.default_rng(arguments.seed)
    outcomes = [measured(*drawn(generator)) for _ in range(arguments.points)]
    print(f"seed {arguments.seed}, {arguments.points} points")
    for clock, seconds in (
        ("wall", [outcome.wall_seconds for outcome in outcomes]),
        ("CPU", [outcome.cpu_seconds for outcome in outcomes]),
    ):
        quantiles = np.quantile(seconds, [0.5, 0.9, 0.99, 1.0])
        print(
            clock
            + " seconds: median {:.3f}, 90 % {:.3f}, 99 % {:.3f}, worst {:.3f}".format(*quantiles)
        )
    positive = [o.interval for o in outcomes if o.interval is not None and o.interval.upper > 0]
    shares = [interval.width / interval.upper for interval in positive]
    print(
        "width over epsilon, where positive ({}): median {:.2e}, 99 % {:.2e}, worst {:.2e}".format(
            len(positive), *np.quantile(shares, [0.5, 0.99, 1.0])
        )
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"memory: {peak:.0f} MB at most")
    kept = sum(outcome.kept for outcome in outcomes)
    print(f"as narrow as promised: {kept} of {len(outcomes)}; the others:")
    for outcome in outcomes:
        if not outcome.kept:
            print(f"  {outcome}")
    print("slowest:")
    for outcome in sorted(outcomes, key=lambda outcome: -outcome.cpu_seconds)[:8]:
        print(f"  {outcome}")


if __name__ == "__main__":
    main()
