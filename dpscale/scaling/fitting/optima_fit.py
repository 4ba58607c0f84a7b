"""Fitting a form to a table of optima: to the losses, and to the fact that they are optima.

Objective, a sum over rows i of weight w_i:

    Σ w_i · [ Huber(log L(row_i) - log loss_i) + (REGRET_FACTOR · regret_i)² / 2 ],

with regret_i = log L(row_i) - min log L over the row's slice (`Optima.slices`): how much better
than the published choice the form believes that compute could be spent. Near-copies share the
weight of one row. Losses alone leave the exponents free to point anywhere: twenty losses along
one curve of optima say little about the slopes across it, and the choices are what does.

The regret's derivative is that of L at the row minus that of L at the slice's minimum (the
envelope theorem), so that every start descends with exact derivatives.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import least_squares

from dpscale.scaling.fitting.centred import CentredProblem
from dpscale.scaling.fitting.exponent_grid import starts_on_grid
from dpscale.scaling.fitting.robust import FormFit
from dpscale.scaling.forms import Array, Form, Points
from dpscale.scaling.reading.optima import Optima

HUBER_THRESHOLD = 0.02
"""In log units: what two printed digits of M, T, B and the loss leave open."""

REGRET_FACTOR = 2.0
"""A regret of 1 % weighs as much as a loss that is off by 2 %: the table's configurations lie
within 1 % of the best by its own definition."""

NUM_NEIGHBOURS, NEIGHBOUR_STEPS = 30, (0.5, 0.3, 0.1, 0.1)
"""Starts about the best end so far, in four rounds, and how far each moves every coefficient
(centred, natural logs)."""

AGREEING = 1.01
"""Ends within 1 % of the least objective agree: the slices' grids leave it rough at that level,
and the losses that such ends predict differ by some 0.3 %."""

_TOLERANCE = 1e-7


def weights_of(optima: Optima, of_groups: Array | None = None) -> Array:
    """Weights of the rows: those of their groups of near-copies (default 1), shared out."""
    groups = np.array(optima.copies)
    sizes = np.bincount(groups)
    shares = np.ones(sizes.size) if of_groups is None else of_groups
    return np.asarray(shares[groups] / sizes[groups])


_End = tuple[Array, float, bool]
"""Where a search ended: centred coefficients, objective, whether it converged."""


class OptimaProblem:
    """A form and a table, in the centred coordinates of `CentredProblem`.

    Args:
      slices: `optima.slices()`, which several forms share.
    """

    def __init__(self, form: Form, optima: Optima, slices: Points) -> None:
        losses = np.log([row.loss for row in optima.rows])
        points = optima.points()
        self.form = form
        self.centred = CentredProblem(form, points, losses, np.ones(losses.size))
        shift = form.design(points)[:, :1] - self.centred.design[:, :1]
        shape = (len(form.terms), *slices.num_params.shape, -1)
        self.slices = (form.design(slices) - shift).reshape(shape)
        self._seen: tuple[Array, Array, Array] | None = None

    def fit(self, weights: Array, start: Sequence[float] | None = None) -> FormFit:
        """The best coefficients for rows of these weights.

        Args:
          weights: float64[rows], at least 0.
          start: Coefficients in raw units, to descend from; without them the starts of a fit to
            the losses alone are tried, and then `NUM_NEIGHBOURS` about the best of their ends,
            in turn, as the objective has many shallow hollows.
        """
        roots = np.sqrt(weights)
        if start is not None:
            ends = [self._descend(self.centred.centre(np.array(start)), roots)]
        else:
            ends = [self._descend(theta, roots) for theta in starts_on_grid(self.centred)]
            for step in NEIGHBOUR_STEPS:
                ends += self._about_the_best(ends, step, roots)
        objectives = np.array([end[1] for end in ends])
        theta, objective, converged = ends[int(np.argmin(objectives))]
        return FormFit(
            coefficients=tuple(float(value) for value in self.centred.uncentre(theta)),
            objective=objective,
            converged=converged,
            starts=len(ends),
            starts_agreeing=int(np.sum(objectives <= AGREEING * objective)),
            at_bound=self.centred.at_bound(theta),
        )

    def _about_the_best(self, ends: list[_End], step: float, roots: Array) -> list[_End]:
        best = min(ends, key=lambda end: end[1])[0]
        moves = np.random.default_rng(len(ends)).standard_normal((NUM_NEIGHBOURS, best.size))
        return [self._descend(best + step * move, roots) for move in moves]

    def _descend(self, theta: Array, roots: Array) -> _End:
        def residuals(at: Array) -> Array:
            return self._residuals(at, roots)

        def jacobian(at: Array) -> Array:
            return self._jacobian(at, roots)

        end = least_squares(
            residuals,
            self.centred.inside(theta),
            jac=jacobian,
            bounds=(self.centred.low, self.centred.high),
            ftol=_TOLERANCE,
            xtol=_TOLERANCE,
            gtol=_TOLERANCE,
            max_nfev=300,
        )
        return end.x, float(end.cost), bool(end.status > 0)

    def _residuals(self, theta: Array, roots: Array) -> Array:
        """Whose squares, halved, sum to the objective: float64[2 · rows]."""
        errors = self.centred.residuals(theta)
        regrets = np.maximum(errors + self.centred.log_losses - self._least(theta)[0], 0.0)
        return np.concatenate([roots * _huber_root(errors), roots * REGRET_FACTOR * regrets])

    def _jacobian(self, theta: Array, roots: Array) -> Array:
        errors, of_rows = self.centred.residuals(theta), self.centred.jacobian(theta)
        least, where = self._least(theta)
        rows = np.arange(roots.size)
        of_least = self.form.jacobian(theta, self.slices[:, rows, where])
        regretted = (errors + self.centred.log_losses > least) * REGRET_FACTOR
        return np.concatenate(
            [
                (roots * _huber_root_slope(errors))[:, None] * of_rows,
                (roots * regretted)[:, None] * (of_rows - of_least),
            ]
        )

    def least_losses(self, coefficients: Sequence[float]) -> Array:
        """The least loss that the form promises for the compute of each row: float64[rows]."""
        return np.exp(self._least(self.centred.centre(np.array(coefficients)))[0])

    def _least(self, theta: Array) -> tuple[Array, Array]:
        """The least log loss of each slice, and where on it; kept for the derivatives."""
        if self._seen is None or not np.array_equal(self._seen[0], theta):
            terms, rows, size, _ = self.slices.shape
            flat = self.slices.reshape(terms, rows * size, -1)
            logs = self.form.log_loss_of_design(theta, flat).reshape(rows, size)
            where = np.argmin(logs, axis=1)
            self._seen = theta.copy(), logs[np.arange(rows), where], where
        return self._seen[1], self._seen[2]


def _huber_root(errors: Array) -> Array:
    """Signed roots of twice Huber's loss, itself r²/2 near zero."""
    size = np.abs(errors)
    near = np.minimum(size, HUBER_THRESHOLD)
    return np.asarray(np.sign(errors) * np.sqrt(near * (2.0 * size - near)))


def _huber_root_slope(errors: Array) -> Array:
    """Derivative of `_huber_root`."""
    size = np.maximum(np.abs(errors), 1e-300)
    near = np.minimum(size, HUBER_THRESHOLD)
    return np.asarray(near / np.sqrt(near * (2.0 * size - near)))
