"""The best learning rate as a function of size and noise-batch ratio.

For each size and ratio a parabola in the log of the rate goes through the losses at the best
swept rate and its two neighbours; its vertex is the optimum there. Where the best rate stood
at the edge of the swept ones there is no parabola: the edge is kept, and flagged. A plane
through the optima in (log M, log ratio) gives the rate in between.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dpscale.scaling.forms import Array
from dpscale.scaling.smoothing import PlanCurve


@dataclass(frozen=True)
class RateOptimum:
    """The best rate at one size and ratio (longest plan that swept rates).

    `at_edge`: the best swept rate was the least or the largest, so that the true optimum may
    lie beyond it.
    """

    num_params: int
    noise_batch_ratio: float
    learning_rate: float
    at_edge: bool


@dataclass(frozen=True)
class RateAnswer:
    """A recommended rate, and what to say about it.

    Args:
      at_edge: The nearest optimum stood at the edge of the swept rates, or the plane left
        their range and was cut to it.
      is_tuned: Whether the law knows how the best rate depends on anything; otherwise the rate
        is the middle of the swept ones, on the log scale.
      swept: Least and largest rate of the runs behind the law.
    """

    learning_rate: float
    at_edge: bool
    is_tuned: bool
    swept: tuple[float, float]


@dataclass(frozen=True)
class LearningRateLaw:
    """log rate = constant + size_slope · log M + ratio_slope · log max(r, ratio_floor).

    Args:
      swept: Least and largest rate of the sweep; answers stay inside.
      optima: What the plane was fitted to.
    """

    constant: float
    size_slope: float
    ratio_slope: float
    ratio_floor: float
    swept: tuple[float, float]
    optima: tuple[RateOptimum, ...]

    def best(self, num_params: float, noise_batch_ratio: float) -> RateAnswer:
        """The rate for a model of `num_params` parameters at `noise_batch_ratio`."""
        log_ratio = math.log(max(noise_batch_ratio, self.ratio_floor))
        plane = math.exp(
            self.constant + self.size_slope * math.log(num_params) + self.ratio_slope * log_ratio
        )
        rate = min(max(plane, self.swept[0]), self.swept[1])
        nearest = min(
            self.optima,
            key=lambda at: math.hypot(
                math.log(at.num_params / num_params),
                math.log(max(at.noise_batch_ratio, self.ratio_floor)) - log_ratio,
            ),
        )
        cut = not self.swept[0] * 0.999 <= plane <= self.swept[1] * 1.001
        return RateAnswer(rate, nearest.at_edge or cut, True, self.swept)


def fit_learning_rates(curves: Sequence[PlanCurve], *, ratio_floor: float) -> LearningRateLaw:
    """Fits the plane to the optima of `curves`, by least squares.

    A slope that the sweep cannot show (one size, one ratio) is zero. Curves at a single rate
    say nothing about the best one, and are looked at only where there are no others.
    """
    longest: dict[tuple[int, float], PlanCurve] = {}
    for curve in [curve for curve in curves if len(curve.final_losses) > 1] or curves:
        key = (curve.num_params, curve.noise_batch_ratio)
        if key not in longest or curve.iterations > longest[key].iterations:
            longest[key] = curve
    optima = tuple(_optimum(curve) for curve in longest.values())
    size = np.log([at.num_params for at in optima])
    ratio = np.log([max(at.noise_batch_ratio, ratio_floor) for at in optima])
    columns = np.stack([np.ones(size.size), size - size.mean(), ratio - ratio.mean()], axis=1)
    rates = np.log([at.learning_rate for at in optima])
    level, size_slope, ratio_slope = map(float, np.linalg.lstsq(columns, rates)[0])
    swept = [rate for curve in curves for rate, _ in curve.final_losses]
    return LearningRateLaw(
        constant=level - size_slope * float(size.mean()) - ratio_slope * float(ratio.mean()),
        size_slope=size_slope,
        ratio_slope=ratio_slope,
        ratio_floor=ratio_floor,
        swept=(min(swept), max(swept)),
        optima=optima,
    )


def _optimum(curve: PlanCurve) -> RateOptimum:
    rates = np.array([rate for rate, _ in curve.final_losses])
    losses = np.array([loss for _, loss in curve.final_losses])
    best = int(np.argmin(losses))
    at_edge = best in (0, rates.size - 1)
    rate = float(rates[best]) if at_edge else _vertex(rates, losses, best)
    return RateOptimum(curve.num_params, curve.noise_batch_ratio, rate, at_edge)


def _vertex(rates: Array, losses: Array, best: int) -> float:
    """Vertex of the parabola through the best point and its neighbours, in the log rate."""
    x = np.log(rates[best - 1 : best + 2])
    curvature, slope, _ = np.polyfit(x - x[1], losses[best - 1 : best + 2], 2)
    if curvature <= 0:  # three equal losses
        return float(rates[best])
    return float(np.exp(np.clip(x[1] - slope / (2 * curvature), x[0], x[2])))
