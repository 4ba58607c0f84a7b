"""Fitting a parametric form to losses: a robust objective, many starts, convergence stated.

The objective, its bounds and its coordinates are those of `centred`. Thousands of combinations of
exponents are tried with their best constants (`exponent_grid`), the best few descend over the
exponents alone (`variable_projection`), and what they find is polished over all coefficients
with exact derivatives, so that the optimum and its convergence are those of the whole problem.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from dpscale.scaling.fitting.centred import HUBER_THRESHOLD, CentredProblem
from dpscale.scaling.fitting.exponent_grid import starts_on_grid
from dpscale.scaling.fitting.variable_projection import descend
from dpscale.scaling.forms import Array, Form, Points

_TOLERANCE = 1e-8
_REPLICATE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class FormFit:
    """A form's coefficients and how the search for them ended.

    `coefficients` are in the order of `Form.coefficient_names`, in raw units. `starts` is
    how many searches were made, `starts_agreeing` how many of them ended within 0.1 % of
    the least objective, `at_bound` the exponents (and `log_U`) that ended at a bound of the
    search: the data do not determine them.
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
      start: Coefficients to start from, in raw units; without it, the grid is searched. A
        search from given coefficients is meant for bootstrap replicates and stops a little
        earlier.

    Raises:
      ValueError: A noise-free form, asked to describe noise.
    """
    loudest = float(np.max(points.noise_batch_ratio, initial=0.0))
    if form.noise_free and loudest > 0:
        raise ValueError(
            f"Expected noise_batch_ratio=0 at every point of the noise-free form {form.name!r}, "
            f"found {loudest:g}."
        )
    problem = CentredProblem(form, points, np.log(losses), weights)
    if start is None:
        ends = [_polish(problem, descend(problem, theta)) for theta in starts_on_grid(problem)]
    else:
        ends = [_polish(problem, problem.centre(start), replicate=True)]
    objectives = np.array([end[1] for end in ends])
    theta, objective, converged = ends[int(np.argmin(objectives))]
    return FormFit(
        coefficients=tuple(float(value) for value in problem.uncentre(theta)),
        objective=objective,
        converged=converged,
        starts=len(ends),
        starts_agreeing=int(np.sum(objectives <= 1.001 * objective + 1e-12)),
        at_bound=problem.at_bound(theta),
    )


def _polish(
    problem: CentredProblem, theta: Array, *, replicate: bool = False
) -> tuple[Array, float, bool]:
    """The optimum over all coefficients near `theta`, its objective, whether it converged."""
    tolerance = _REPLICATE_TOLERANCE if replicate else _TOLERANCE
    end = least_squares(
        problem.residuals,
        problem.inside(theta),
        jac=problem.jacobian,
        bounds=(problem.low, problem.high),
        loss=problem.weighted_huber,  # type: ignore[arg-type]  # a callable, as documented
        f_scale=HUBER_THRESHOLD,
        ftol=tolerance,
        xtol=tolerance,
        gtol=tolerance,
        max_nfev=60 if replicate else 1000,
    )
    return end.x, float(end.cost), bool(end.status > 0)
