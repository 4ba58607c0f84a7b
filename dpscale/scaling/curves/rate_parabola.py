"""How the loss depends on the learning rate: one parabola, with an optimum that moves.

In each cell (size, planned length, noise-batch ratio) several learning rates were swept. Near the
best one the log loss is a parabola in x = log rate, and all cells together are fitted by

    log L = level + c · (x - x*)²,  x* = constant + slopes · (log M, log T, log r),

a level for each cell and one curvature c for all. Multiplied out it is linear in its unknowns
(c x², and x times a plane): one least-squares problem, solved in closed form.

All cells together, and not a parabola through the best three rates of each: a cell whose best
rate stood at the edge of the swept ones has no vertex, but it shows which way the loss falls and
how steeply. With the common curvature that is all it takes: no edge is mistaken for an optimum,
and what the cell does say counts.

**The least of several.** Of several noisy losses the least is too low on average (by 0.3 % where
runs scatter by 1 % and three rates compete), and too high where no rate came near x*. Parabola and
scatter say by how much (`RateParabola.level`). The parabola's own level would scatter less, but
where curvature depends on the noise, as it seems to in real sweeps, it is off by percents at
one end; the expected excess of the least loss hardly depends on the curvature.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from dpscale.scaling.forms import Array

NEAR = 0.1
"""Rates whose loss is within this of the cell's best, in log units, are taken for the parabola:
further out the loss rises more steeply above the best rate than below it."""

SEEN = 2.0
"""A curvature or slope within so many standard errors of zero was not seen in the sweep."""


@dataclass(frozen=True)
class RateCell:
    """The final losses at the rates swept in one cell.

    Args:
      noise_batch_ratio: Above 0; what stands for 0 is the caller's choice.
      log_rates: float64[rates], natural logarithms.
      log_losses: float64[rates], logarithms of nats per token.
    """

    num_params: float
    iterations: float
    noise_batch_ratio: float
    log_rates: Array
    log_losses: Array

    @property
    def near_best(self) -> NDArray[np.bool_]:
        """bool[rates]: where the loss is near the cell's best."""
        return np.asarray(self.log_losses <= self.log_losses.min() + NEAR)

    @property
    def place(self) -> Array:
        """(log M, log T, log r)."""
        return np.log([self.num_params, self.iterations, self.noise_batch_ratio])


@dataclass(frozen=True)
class RateParabola:
    """The parabola of the module docstring.

    Args:
      slopes: Of the best log rate over (log M, log T, log r); 0 where none was seen.
      errors: Standard errors of the slopes; 0 for those that were not seen.
      scatter: Standard deviation of single runs about the parabola, in log units of loss.
    """

    curvature: float
    constant: float
    slopes: tuple[float, float, float]
    errors: tuple[float, float, float]
    scatter: float

    def best_log_rate(self, place: Array) -> float:
        """x* at `place`, (log M, log T, log r)."""
        return self.constant + float(place @ np.array(self.slopes))

    def level(self, cell: RateCell) -> float:
        """Log of the loss that `cell` has at its best rate.

        The least loss, less the least that is to be expected where the level is 0.
        """
        off = cell.log_rates - self.best_log_rate(cell.place)
        least = expected_least(self.curvature * off**2, self.scatter)
        return float(cell.log_losses.min()) - least

    def own_vertex(self, cell: RateCell) -> float:
        """The best log rate by the runs of `cell` alone, at least two, with this curvature."""
        x, y = cell.log_rates[cell.near_best], cell.log_losses[cell.near_best]
        slope = float(np.polyfit(x - x.mean(), y - self.curvature * x**2, 1)[0])
        return -slope / (2 * self.curvature)


def expected_least(means: Array, scatter: float) -> float:
    """Expectation of the least of independent normal values with these means, float64[values].

    From the probability that all lie above y, integrated over y.

    >>> round(expected_least(np.zeros(3), 0.01), 5)  # 0.84628 standard deviations
    -0.00846
    """
    low, width = float(np.min(means)), 8 * max(scatter, 1e-12)
    y = np.linspace(low - width, low + width, 401)
    all_above = np.prod(ndtr((means[:, None] - y) / max(scatter, 1e-12)), axis=0)
    return float(low - width + np.trapezoid(all_above, y))


def fit_rate_parabola(cells: Sequence[RateCell]) -> RateParabola | None:
    """Least squares over the cells with at least two rates near the best.

    Slopes that are not seen (a coordinate with one value, or within two standard errors of 0)
    are zero, and the rest is fitted again without them: over the decades between a sweep and
    the run that is planned from it, the error of such a slope would outweigh it. Coordinates
    that only vary together share their slope.

    Returns:
      None where no curvature is seen.
    """
    swept = [cell for cell in cells if cell.near_best.sum() > 1]
    if not swept:
        return None
    centred = _Centred.of(swept)
    varies = np.ptp([cell.place for cell in swept], axis=0) > 0
    full = centred.solve(varies)
    if full is None:
        return None
    seen = varies & (np.abs(full.slopes) > SEEN * np.array(full.errors))
    return full if seen.all() else centred.solve(seen)


@dataclass(frozen=True)
class _Centred:
    """The regression with each cell's level taken out, all coordinates centred.

    Args:
      columns: float64[runs, 5]: x², x, and x times each of (log M, log T, log r), less their
        means over the cell.
      responses: float64[runs]: log losses, less the same.
      num_cells: How many levels were taken out.
      rate: Centre of x.
      place: float64[3], centre of (log M, log T, log r).
    """

    columns: Array
    responses: Array
    num_cells: int
    rate: float
    place: Array

    @classmethod
    def of(cls, cells: Sequence[RateCell]) -> "_Centred":
        place = np.mean([cell.place for cell in cells], axis=0)
        rate = float(np.mean(np.concatenate([cell.log_rates[cell.near_best] for cell in cells])))
        columns, responses = [], []
        for cell in cells:
            x = cell.log_rates[cell.near_best] - rate
            y = cell.log_losses[cell.near_best]
            block = np.stack([x**2, x, *(x * along for along in cell.place - place)], axis=1)
            columns.append(block - block.mean(axis=0))
            responses.append(y - y.mean())
        return cls(
            columns=np.concatenate(columns),
            responses=np.concatenate(responses),
            num_cells=len(cells),
            rate=rate,
            place=place,
        )

    def solve(self, seen: NDArray[np.bool_]) -> RateParabola | None:
        """The parabola whose optimum moves along the coordinates in `seen`, bool[3]."""
        columns = self.columns[:, [True, True, *seen]]
        rank = int(np.linalg.matrix_rank(columns))
        if rank == np.linalg.matrix_rank(columns[:, 1:]):  # two rates look like a straight line
            return None
        found = np.asarray(np.linalg.lstsq(columns, self.responses)[0], np.float64)
        freedom = max(len(columns) - self.num_cells - rank, 1)
        variance = float(np.sum((self.responses - columns @ found) ** 2)) / freedom
        covariance = np.asarray(variance * np.linalg.pinv(columns.T @ columns), np.float64)
        curvature = float(found[0])
        if curvature <= SEEN * np.sqrt(covariance[0, 0]):
            return None
        slopes, errors = np.zeros(3), np.zeros(3)
        slopes[seen] = -found[2:] / (2 * curvature)
        errors[seen] = _errors_of_slopes(covariance, curvature, slopes[seen])
        constant = self.rate - float(found[1]) / (2 * curvature) - float(self.place @ slopes)
        return RateParabola(
            curvature, constant, _triple(slopes), _triple(errors), float(np.sqrt(variance))
        )


def _errors_of_slopes(covariance: Array, curvature: float, slopes: Array) -> Array:
    """Standard errors of slope = -b/(2c), to first order: the change is -(db + 2 slope dc)/(2c)."""
    of_b, with_c = np.diag(covariance)[2:], covariance[2:, 0]
    variances = of_b + 4 * slopes * with_c + 4 * slopes**2 * covariance[0, 0]
    return np.asarray(np.sqrt(np.maximum(variances, 0.0)) / (2 * curvature))


def _triple(values: Array) -> tuple[float, float, float]:
    first, second, third = map(float, values)
    return first, second, third
