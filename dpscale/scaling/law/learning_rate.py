"""The best learning rate as a function of size, iterations and noise-batch ratio.

The optimum of the parabola that all swept rates are fitted by (`rate_parabola`): a plane in
(log M, log T, log ratio). Cells whose best rate stood at the edge of the swept ones take part in
it by the slope of their losses, and are flagged: near them the answer is extrapolated.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dpscale.scaling.curves.rate_parabola import RateCell, RateParabola, fit_rate_parabola
from dpscale.scaling.curves.smoothing import PlanCurve
from dpscale.scaling.forms import Array


@dataclass(frozen=True)
class RateOptimum:
    """The best swept rate at one size, planned length and ratio.

    `at_edge`: it was the least or the largest, so that the true optimum may lie beyond it.
    """

    num_params: int
    iterations: int
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
    """Where the best rate lies.

    Args:
      parabola: None where the sweep shows no curvature over the rates: then the best rate is
        `typical_rate` everywhere.
      typical_rate: Geometric mean of the best swept rates.
      plane_scatter: Root mean square distance, in log rate, of the optima of single cells
        (those not at an edge) from the plane; 0 without a parabola.
      ratio_floor: What stands for ratio 0.
      swept: Least and largest rate of the sweep; answers stay inside.
      optima: One a cell with several rates, or of all cells where none has several.
    """

    parabola: RateParabola | None
    typical_rate: float
    plane_scatter: float
    ratio_floor: float
    swept: tuple[float, float]
    optima: tuple[RateOptimum, ...]

    def best(self, num_params: float, iterations: float, noise_batch_ratio: float) -> RateAnswer:
        """The rate for `num_params` parameters, `iterations` and `noise_batch_ratio`."""
        place = self._place(num_params, iterations, noise_batch_ratio)
        plane = self.typical_rate
        if self.parabola is not None:
            plane = math.exp(self.parabola.best_log_rate(place))
        rate = min(max(plane, self.swept[0]), self.swept[1])
        nearest = min(
            self.optima,
            key=lambda at: math.dist(
                place, self._place(at.num_params, at.iterations, at.noise_batch_ratio)
            ),
        )
        cut = not self.swept[0] * 0.999 <= plane <= self.swept[1] * 1.001
        return RateAnswer(rate, nearest.at_edge or cut, True, self.swept)

    def _place(self, num_params: float, iterations: float, ratio: float) -> Array:
        return np.log([num_params, iterations, max(ratio, self.ratio_floor)])


def fit_learning_rates(curves: Sequence[PlanCurve], *, ratio_floor: float) -> LearningRateLaw:
    """The law of the best rate over `curves`.

    Curves at a single rate say nothing about the best one, and are looked at only where there
    are no others.
    """
    swept = [curve for curve in curves if len(curve.final_losses) > 1] or curves
    cells = [curve.rate_cell(ratio_floor) for curve in swept]
    parabola = fit_rate_parabola(cells)
    optima = tuple(_optimum(curve) for curve in swept)
    rates = [rate for curve in curves for rate, _ in curve.final_losses]
    interior = [cell for cell, at in zip(cells, optima, strict=True) if not at.at_edge]
    return LearningRateLaw(
        parabola=parabola,
        typical_rate=float(np.exp(np.mean(np.log([at.learning_rate for at in optima])))),
        plane_scatter=0.0 if parabola is None else _scatter(parabola, interior),
        ratio_floor=ratio_floor,
        swept=(min(rates), max(rates)),
        optima=optima,
    )


def _scatter(parabola: RateParabola, cells: Sequence[RateCell]) -> float:
    """Root mean square distance of the cells' own optima from the plane; 0 without cells."""
    off = [
        parabola.own_vertex(cell) - parabola.best_log_rate(cell.place)
        for cell in cells
        if cell.near_best.sum() > 1
    ]
    return float(np.sqrt(np.mean(np.square(off)))) if off else 0.0


def _optimum(curve: PlanCurve) -> RateOptimum:
    losses = [loss for _, loss in curve.final_losses]
    best = int(np.argmin(losses))
    return RateOptimum(
        curve.num_params,
        curve.iterations,
        curve.noise_batch_ratio,
        learning_rate=curve.final_losses[best][0],
        at_edge=best in (0, len(losses) - 1),
    )
