"""From noisy runs to smooth curves: the steps of arXiv 2501.18914, section 3, one by one.

For each model size, planned length, learning rate (seeds averaged) and noise-batch ratio:
a rolling mean, isotonic regression over the iterations (decreasing), isotonic regression
over the noise-batch ratio (increasing); then the minimum over learning rates.

**The least of several.** Where runs scatter, the minimum over learning rates is too low on
average, and most so where many rates are about equally good. So each curve is shifted (on the
log scale, as a whole) by what a parabola over the log rate, fitted to all curves together, says
about that (`rate_parabola`). Without several rates, or where they show no curvature, curves
stay as they are.

**Short runs.** The paper measures every 100 of 128,000 iterations and averages 10
measurements, 1/128 of a run. Over a run of a few hundred iterations a single measurement is
a longer share than that already, and 10 of them would lag far behind the curve: the window
here is 10 measurements, but at most 1/20 of the run's, and at least one.

**Schedule.** The learning rate decays over a run's own planned length, so in mid-run the loss
is higher than that of a run planned to end there. The points on which a curve may be judged
as a final loss are those in the last 22 % of the run (`LAST_PART`; the paper's T > 100,000 of
128,000); parametric fits see only these.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from dpscale.scaling.curves.rate_parabola import RateCell, fit_rate_parabola
from dpscale.scaling.forms import Array, noise_floor
from dpscale.scaling.reading.runs import RunCurve

ROLLING_MEASUREMENTS = 10
"""Measurements averaged, where a run has enough of them (the paper's)."""

ROLLING_FRACTION = 1 / 20
"""The largest share of a run's measurements that the rolling mean may cover."""

LAST_PART = 100 / 128
"""From this share of the planned iterations on, a loss counts as that of a run ending there."""


@dataclass(frozen=True)
class PlanCurve:
    """Loss against iterations for one size, noise-batch ratio and planned length.

    The best of the swept learning rates at each step, after smoothing and shifting.

    Args:
      iterations: The planned length.
      steps: float64[measurements], increasing.
      losses: float64[measurements], nats per token, not increasing.
      run_ids: The runs behind it, those of the rate that is best at the end first.
      final_losses: (learning rate, smoothed loss at the end) of every swept rate.
    """

    num_params: int
    noise_batch_ratio: float
    iterations: int
    steps: Array
    losses: Array
    run_ids: tuple[str, ...]
    final_losses: tuple[tuple[float, float], ...]

    def rate_cell(self, ratio_floor: float) -> RateCell:
        """What the curve's learning rates show; `ratio_floor` stands for ratio 0."""
        rates, losses = np.log(self.final_losses).T
        ratio = max(self.noise_batch_ratio, ratio_floor)
        return RateCell(self.num_params, self.iterations, ratio, rates, losses)

    @property
    def final_loss(self) -> float:
        """Smoothed loss at the end of the run, best learning rate."""
        return float(self.losses[-1])

    @property
    def final_step(self) -> float:
        """The last measurement's step."""
        return float(self.steps[-1])

    @property
    def last_part(self) -> NDArray[np.bool_]:
        """bool[measurements]: whether the loss counts as that of a run ending there."""
        return np.asarray(self.steps >= LAST_PART * self.iterations)


def rolling_window(measurements: int) -> int:
    """How many measurements the rolling mean covers in a run that has `measurements`.

    >>> rolling_window(1280), rolling_window(40), rolling_window(5)
    (10, 2, 1)
    """
    return max(1, min(ROLLING_MEASUREMENTS, math.floor(measurements * ROLLING_FRACTION)))


def rolling_mean(losses: Array, window: int) -> Array:
    """Mean over the last `window` values; over those there are, at the beginning.

    >>> rolling_mean(np.array([4.0, 2.0, 0.0]), 2).tolist()
    [4.0, 3.0, 1.0]
    """
    sums = np.cumsum(np.concatenate([[0.0], losses]))
    ends = np.arange(1, losses.size + 1)
    starts = np.maximum(0, ends - window)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts))


def _rolled(run: RunCurve) -> tuple[Array, Array]:
    """Steps and losses after the rolling mean, which stands at the (log) mean of its steps.

    At the last of its steps it would lag: the loss was still higher at the earlier ones.
    """
    window = rolling_window(run.steps.size)
    if window == 1:
        return run.steps, run.losses
    return np.exp(rolling_mean(np.log(run.steps), window)), rolling_mean(run.losses, window)


def decreasing(losses: Array) -> Array:
    """The non-increasing sequence nearest to `losses` in least squares."""
    return np.asarray(isotonic_regression(losses, increasing=False).x)


def increasing_over_ratio(curves: Array) -> Array:
    """Makes each column of `curves` non-decreasing, by least squares.

    Args:
      curves: float64[ratios, steps], ratios in increasing order; NaN where not measured.
    """
    result = curves.copy()
    for column in result.T:
        there = np.isfinite(column)
        if there.sum() > 1:
            column[there] = isotonic_regression(column[there], increasing=True).x
    return result


def smooth(runs: Sequence[RunCurve]) -> list[PlanCurve]:
    """One curve for each (size, noise-batch ratio, planned length), sorted by these."""
    curves = least_over_rates(runs)
    floor = noise_floor(
        [curve.num_params for curve in curves],
        runs[0].physical_batch_size,
        [curve.noise_batch_ratio for curve in curves if curve.noise_batch_ratio > 0] or [np.inf],
    )
    parabola = fit_rate_parabola([curve.rate_cell(floor) for curve in curves])
    if parabola is None:
        return curves
    return [_shifted(curve, parabola.level(curve.rate_cell(floor))) for curve in curves]


def _shifted(curve: PlanCurve, log_end: float) -> PlanCurve:
    """`curve` shifted to end at `log_end`; as it is where it has but one rate."""
    if len(curve.final_losses) == 1:
        return curve
    return replace(curve, losses=curve.losses * (np.exp(log_end) / curve.final_loss))


def least_over_rates(runs: Iterable[RunCurve]) -> list[PlanCurve]:
    """The curves before they are shifted: the least loss of any rate at each step."""
    by_plan: dict[tuple[int, int], list[RunCurve]] = {}
    for run in runs:
        by_plan.setdefault((run.num_params, run.iterations), []).append(run)
    curves = [
        curve
        for (num_params, iterations), group in by_plan.items()
        for curve in _smooth_plan(num_params, iterations, group)
    ]
    return sorted(
        curves, key=lambda curve: (curve.num_params, curve.noise_batch_ratio, curve.iterations)
    )


def _smooth_plan(num_params: int, iterations: int, runs: list[RunCurve]) -> list[PlanCurve]:
    """The curves of one size and planned length, one a ratio."""
    ratios = sorted({run.noise_batch_ratio for run in runs})
    rates = sorted({run.learning_rate for run in runs})
    steps = np.array(sorted({step for run in runs for step in _rolled(run)[0].tolist()}))
    cube = np.full((len(rates), len(ratios), steps.size), np.nan)
    for i, rate in enumerate(rates):
        for j, ratio in enumerate(ratios):
            same = [
                run for run in runs if run.learning_rate == rate and run.noise_batch_ratio == ratio
            ]
            if same:
                cube[i, j] = _decreasing_mean(same, steps)
        cube[i] = increasing_over_ratio(cube[i])
    return [
        _best_rate(num_params, ratio, iterations, runs, rates, steps, cube[:, j])
        for j, ratio in enumerate(ratios)
    ]


def _decreasing_mean(runs: list[RunCurve], steps: Array) -> Array:
    """Seeds averaged, rolled, made decreasing; NaN outside what they measured."""
    on_grid = [
        np.interp(np.log(steps), np.log(at), losses, left=np.nan, right=np.nan)
        for at, losses in map(_rolled, runs)
    ]
    total = np.nansum(on_grid, axis=0)
    count = np.isfinite(on_grid).sum(axis=0)
    curve = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    there = np.isfinite(curve)
    curve[there] = decreasing(curve[there])
    return np.asarray(curve)


def _best_rate(
    num_params: int,
    ratio: float,
    iterations: int,
    runs: list[RunCurve],
    rates: list[float],
    steps: Array,
    by_rate: Array,
) -> PlanCurve:
    there = np.isfinite(by_rate).any(axis=0)
    best = np.nanmin(by_rate[:, there], axis=0)
    finals = sorted(
        (float(curve[np.isfinite(curve)][-1]), rate)
        for rate, curve in zip(rates, by_rate, strict=True)
        if np.isfinite(curve).any()
    )
    order = [rate for _, rate in finals]
    mine = [run for run in runs if run.noise_batch_ratio == ratio]
    mine.sort(key=lambda run: (order.index(run.learning_rate), run.seed))
    return PlanCurve(
        num_params=num_params,
        noise_batch_ratio=ratio,
        iterations=iterations,
        steps=steps[there],
        losses=best,
        run_ids=tuple(run.run_id for run in mine),
        final_losses=tuple(sorted((rate, loss) for loss, rate in finals)),
    )
