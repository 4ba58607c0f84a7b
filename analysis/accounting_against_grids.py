"""Certified intervals beside dp_accounting's privacy loss distributions.

    python analysis/accounting_against_grids.py

On settings where a grid of losses is stable: its epsilon should lie in the interval widened by
0.1 %, or a grid of half the spacing should be nearer to it. Prints one row of a Markdown table for
each setting, and how many settings do neither.
"""

import itertools

from dpscale.privacy.accounting.certified.interval import EpsilonInterval, epsilon_interval
from dpscale.privacy.accounting.pld import epsilon_on_grid
from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian

DATASET_SIZE = 1_000_000
SIGMAS = (0.6, 1.0, 3.0)
BATCHES = (1_000, 10_000, 100_000)
ITERATIONS = (100, 1_000, 10_000)
DELTAS = (1e-5, 1e-8)
LARGEST_EPSILON = 20.0
"""Beyond it grids take minutes."""

SPACING_SHARE = 1e-3
"""The coarser grid's spacing, as a share of epsilon."""

WIDENED = 1e-3


def distance(epsilon: float, interval: EpsilonInterval) -> float:
    """How far outside the widened interval, as a share of its upper end."""
    margin = WIDENED * interval.upper
    outside = max(interval.lower - margin - epsilon, epsilon - interval.upper - margin, 0.0)
    return outside / interval.upper


def row(run: SubsampledGaussian, delta: float) -> tuple[str, bool] | None:
    """One line of the table, and whether both accountants agree; None where grids are slow."""
    interval = epsilon_interval(run, delta=delta)
    if not 0.01 < interval.lower <= interval.upper < LARGEST_EPSILON:
        return None
    spacing = min(1e-2, SPACING_SHARE * interval.upper)
    coarse = epsilon_on_grid(run, delta=delta, interval=spacing)
    fine = epsilon_on_grid(run, delta=delta, interval=spacing / 2)
    reading, agrees = "inside", True
    if distance(coarse, interval) > 0:
        agrees = distance(fine, interval) < distance(coarse, interval)
        reading = "nearer" if agrees else "FARTHER"
    cells = (
        f"{run.noise_multiplier:g}",
        f"{run.sampling_prob:g}",
        f"{run.iterations}",
        f"{delta:g}",
        f"{interval.lower:.5f} to {interval.upper:.5f}",
        f"{coarse:.5f}",
        f"{fine:.5f}",
        reading,
    )
    return "| " + " | ".join(cells) + " |", agrees


def main() -> None:
    """Prints the table."""
    print("| σ | q | T | delta | certified | grid | half of its spacing | grid lies |")
    print("|---|---|---|---|---|---|---|---|")
    count = apart = 0
    for sigma, batch, iterations, delta in itertools.product(SIGMAS, BATCHES, ITERATIONS, DELTAS):
        run = SubsampledGaussian(
            dataset_size=DATASET_SIZE,
            expected_batch_size=batch,
            iterations=iterations,
            noise_multiplier=sigma,
        )
        found = row(run, delta)
        if found is not None:
            line, agrees = found
            print(line, flush=True)
            count, apart = count + 1, apart + (not agrees)
    print(f"\n{count} settings; in {apart} the grid lies outside and does not come nearer")


if __name__ == "__main__":
    main()
