"""Fitting a parametric form to losses: a robust objective, many starts, convergence stated.

Objective: the *sum* over points of weight · Huber(log L_form - log L_measured), with the
Huber threshold at `HUBER_THRESHOLD`. A sum and tight tolerances, because a mean of small
numbers meets a default tolerance long before the exponents have settled.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import least_squares, nnls

from dpscale.scaling.forms import Array, Form, Points

HUBER_THRESHOLD = 0.01
"""In log units, about the scatter of one run: a run further off than 1 % pulls linearly."""

_TOLERANCE = 1e-8
_REPLICATE_TOLERANCE = 1e-6

_NEGLIGIBLE = 1e-3
"""A term below this share of the least loss, amid the data, is as good as absent: a bound of
the search, without which the log of a vanishing term drifts for ever."""


@dataclass(frozen=True)
class FormFit:
    """A form's coefficients and how the search for them ended.

    `coefficients` are in the order of `Form.coefficient_names`, in raw units. `starts` is
    how many searches were made, `starts_agreeing` how many of them ended within 0.1 % of
    the least objective, `at_bound` the exponents that ended at a bound of the search.
    """

    coefficients: tuple[float, ...]
    objective: float
    converged: bool
    starts: int
    starts_agreeing: int
    at_bound: tuple[str, ...]


def fit_form(
    form: Form,
    points: Points,
    losses: Array,
    weights: Array,
    *,
    start: Array | None = None,
) -> FormFit:
    """Fits `form` to `losses` at `points`.

    Args:
      losses: float64[points], nats per token.
      weights: float64[points], at least 0.
      start: Coefficients to start from, in raw units; without it, a grid of exponents is
        tried, each with the constants that fit best (non-negative least squares). A search
        from given coefficients is meant for bootstrap replicates and stops a little earlier.
    """
    problem = _Centred(form, points, np.log(losses), weights)
    starts = problem.grid_of_starts() if start is None else [problem.centre(start)]
    ends = [problem.descend(theta, replicate=start is not None) for theta in starts]
    objectives = np.array([end[1] for end in ends])
    theta, objective, converged = ends[int(np.argmin(objectives))]
    agreeing = int(np.sum(objectives <= 1.001 * objective + 1e-12))
    return FormFit(
        coefficients=tuple(float(value) for value in problem.uncentre(theta)),
        objective=float(objective),
        converged=bool(converged),
        starts=len(starts),
        starts_agreeing=agreeing,
        at_bound=problem.at_bound(theta),
    )


class _Centred:
    """The least-squares problem in centred features, where constants and exponents separate."""

    def __init__(self, form: Form, points: Points, log_losses: Array, weights: Array) -> None:
        self.form = form
        self.log_losses = log_losses
        self.weights = weights
        self.num_constants = len(form.constants)
        design = form.design(points)
        means = design.mean(axis=1)  # [terms, coefficients]
        means[:, : self.num_constants] = 0.0
        self.design = design - means[:, None, :]
        self.means = np.zeros((self.num_constants, design.shape[2]))
        self.means[: len(form.terms)] = means
        # In centred features a constant is its term's size amid the data, at most a loss.
        low = np.full(self.num_constants, np.log(_NEGLIGIBLE) + log_losses.min())
        high = np.full(self.num_constants, np.log(2.0) + log_losses.max())
        bounds = [form.bounds[name] for name in form.exponents]
        self.low = np.concatenate([low, [bound[0] for bound in bounds]])
        self.high = np.concatenate([high, [bound[1] for bound in bounds]])

    def centre(self, coefficients: Array) -> Array:
        theta = np.array(coefficients, float)
        theta[: self.num_constants] += self.means @ theta
        return self._inside(theta)

    def uncentre(self, theta: Array) -> Array:
        coefficients = theta.copy()
        coefficients[: self.num_constants] -= self.means @ theta
        return coefficients

    def grid_of_starts(self) -> list[Array]:
        """Exponents on a grid, each with its best non-negative constants."""
        values = [(0.0,) if low < 0 else (0.15, 0.6) for low in self.low[self.num_constants :]]
        return [self._inside(self._with_constants(np.array(e))) for e in itertools.product(*values)]

    def _with_constants(self, exponents: Array) -> Array:
        columns = np.exp(self.design[:, :, self.num_constants :] @ exponents).T
        losses = np.exp(self.log_losses)
        scale = np.sqrt(self.weights) / losses
        constants, _ = nnls(columns * scale[:, None], losses * scale)
        floor = 1e-2 * losses.min()  # a constant at exactly zero could not grow again
        ceiling = [2.0 * losses.max()] if self.form.has_ceiling else []
        constants = np.concatenate([np.maximum(constants, floor), ceiling])
        return np.concatenate([np.log(constants), exponents])

    def _inside(self, theta: Array) -> Array:
        margin = 1e-6 * (self.high - self.low)
        return np.clip(theta, self.low + margin, self.high - margin)

    def _residuals(self, theta: Array) -> Array:
        return self.form.log_loss_of_design(theta, self.design) - self.log_losses

    def _jacobian(self, theta: Array) -> Array:
        return self.form.jacobian(theta, self.design)

    def _weighted_huber(self, squares: Any) -> Array:
        """scipy's contract: rho and its two derivatives at z = (residual / threshold)²."""
        rho = np.empty((3, squares.size))
        near = squares <= 1.0
        root = np.sqrt(np.maximum(squares, 1.0))
        rho[0] = np.where(near, squares, 2.0 * root - 1.0)
        rho[1] = np.where(near, 1.0, 1.0 / root)
        rho[2] = np.where(near, 0.0, -0.5 / root**3)
        return np.asarray(rho * self.weights)

    def descend(self, theta: Array, *, replicate: bool) -> tuple[Array, float, bool]:
        tolerance = _REPLICATE_TOLERANCE if replicate else _TOLERANCE
        loss: Any = self._weighted_huber  # a callable, as scipy documents; its stubs lag
        end = least_squares(
            self._residuals,
            theta,
            jac=self._jacobian,
            bounds=(self.low, self.high),
            loss=loss,
            f_scale=HUBER_THRESHOLD,
            ftol=tolerance,
            xtol=tolerance,
            gtol=tolerance,
            max_nfev=60 if replicate else 1000,
        )
        return end.x, float(end.cost), bool(end.status > 0)

    def at_bound(self, theta: Array) -> tuple[str, ...]:
        width = self.high - self.low
        touching = (theta - self.low < 1e-3 * width) | (self.high - theta < 1e-3 * width)
        names = self.form.coefficient_names
        return tuple(
            name
            for name, touches in zip(names, touching, strict=True)
            if touches and name in self.form.exponents
        )
