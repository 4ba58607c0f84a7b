"""Variable projection: a search over the exponents alone, the constants always the best.

Golub and Pereyra (1973): where a model is linear in some of its coefficients, these are a function
of the others, and the search over the others has fewer dimensions and none of the narrow valleys in
which a constant and its exponent move together. The derivative is Kaufman's (1975): that of the
residuals at fixed constants, less what a change of the constants can make good.

The constants minimise the stated objective itself: Gauss-Newton steps in them (a single one
where the form is linear in them, but for the logarithm), each a least-squares problem with the
constants' lower bounds and the weights that Huber's loss amounts to.
"""

import numpy as np
from scipy.optimize import least_squares, nnls

from dpscale.scaling.fitting.centred import HUBER_THRESHOLD, CentredProblem
from dpscale.scaling.forms import Array

_TOLERANCE = 1e-6
_MAX_STEPS = 50


def project(problem: CentredProblem, theta: Array) -> Array:
    """`theta` with the constants of its terms replaced by the best for what remains of it.

    Never worse than `theta` in the objective, and to about 1e-6 of its constants the best.
    """
    theta = theta.copy()
    residuals = problem.residuals(theta)
    reached = problem.objective(residuals)
    for _ in range(_MAX_STEPS):
        move = _step(problem, theta, residuals)
        trial, scale = theta, 1.0
        while scale > 0.1:
            trial = theta.copy()
            trial[: problem.num_terms] += np.log1p(scale * move)
            residuals = problem.residuals(trial)
            objective = problem.objective(residuals)
            if objective <= reached:
                break
            scale *= 0.5
        else:
            return theta
        gained, reached, theta = reached - objective, objective, trial
        if gained <= 0.1 * _TOLERANCE * reached or np.abs(move).max() < _TOLERANCE:
            break
    return theta


def _step(problem: CentredProblem, theta: Array, residuals: Array) -> Array:
    """The relative change of the constants that solves the linearised problem within bounds."""
    count = problem.num_terms
    slopes = problem.jacobian(theta)[:, :count]
    root = np.sqrt(problem.pull(residuals))[:, None]
    lowest = np.expm1(problem.low[:count] - theta[:count])
    highest = np.expm1(problem.high[:count] - theta[:count])
    wanted = -(residuals + slopes @ lowest)
    triangle = np.asarray(np.linalg.qr(root * np.column_stack([slopes, wanted]), mode="r"))
    above, _ = nnls(triangle[:, :count], triangle[:, count])
    return np.asarray(np.minimum(lowest + above, highest))


def projected_slopes(problem: CentredProblem, theta: Array) -> Array:
    """Kaufman's derivatives of the projected residuals: float64[points, searched].

    Args:
      theta: A result of `project`. Constants at their lower bound stay there.
    """
    count = problem.num_terms
    slopes = problem.jacobian(theta)
    root = np.sqrt(problem.pull(problem.residuals(theta)))[:, None]
    moving = slopes[:, :count][:, theta[:count] > problem.low[:count] + 1e-9]
    made_good = np.linalg.lstsq(root * moving, root * slopes[:, count:], rcond=None)[0]
    return np.asarray(slopes[:, count:] - moving @ made_good)


def descend(problem: CentredProblem, theta: Array) -> Array:
    """The local optimum that a search over exponents (and the ceiling) finds from `theta`."""
    search = _Search(problem, theta)
    least_squares(
        search.residuals,
        theta[problem.num_terms :],
        jac=search.jacobian,
        bounds=(problem.low[problem.num_terms :], problem.high[problem.num_terms :]),
        loss=problem.weighted_huber,  # type: ignore[arg-type]  # a callable, as documented
        f_scale=HUBER_THRESHOLD,
        x_scale="jac",
        ftol=_TOLERANCE,
        xtol=_TOLERANCE,
        gtol=_TOLERANCE,
        max_nfev=100,
    )
    return search.best


class _Search:
    """Projected residuals as functions of what is searched, and the best point so far."""

    def __init__(self, problem: CentredProblem, theta: Array) -> None:
        self._problem = problem
        self._last = theta
        self.best = theta
        self._least = np.inf

    def _at(self, searched: Array) -> Array:
        count = self._problem.num_terms
        if not np.array_equal(self._last[count:], searched) or self._least == np.inf:
            # From the best so far: a step too far may leave constants that are hard to return from.
            self._last = project(self._problem, np.concatenate([self.best[:count], searched]))
        return self._last

    def residuals(self, searched: Array) -> Array:
        theta = self._at(searched)
        residuals = self._problem.residuals(theta)
        objective = self._problem.objective(residuals)
        if objective < self._least:
            self.best, self._least = theta, objective
        return residuals

    def jacobian(self, searched: Array) -> Array:
        return projected_slopes(self._problem, self._at(searched))
