"""The least-squares problem behind a fit, in coordinates in which it is well behaved.

Each log feature is measured from where its term is largest among the points, so that a constant
is the largest value that its term takes there (nats): bounded by the losses, negligible exactly
where the term is, and of one size whatever the units (parameters or millions of them). For an
exponent of either sign the mean stands for that place.

Objective: the *sum* over points of weight · Huber(log L_form - log L_measured), with the Huber
threshold at `HUBER_THRESHOLD`. A sum and tight tolerances, because a mean of small numbers meets
a default tolerance long before the exponents have settled.
"""

from typing import Any

import numpy as np

from dpscale.scaling.forms import Array, Form, Points

HUBER_THRESHOLD = 0.01
"""In log units, about the scatter of one run: a run further off than 1 % pulls linearly."""

_NEGLIGIBLE = 1e-3
"""A term nowhere above this share of the least loss is as good as absent: a bound of the search,
without which the log of a vanishing term drifts for ever."""

_NEAR_THE_TOP = 5e-3
"""A search from inside the bounds creeps up to a steep exponent's upper one and stops this near,
as a share of the range: at that place another exponent does as well."""

_FAR_ABOVE = 1e3
"""How many ceilings high the part that a ceiling holds down may be: there the loss is within a
millionth of the ceiling, and does not tell how much further up."""


class CentredProblem:
    """A form, the losses that it is to meet, and the bounds of the search for its coefficients.

    A coefficient vector `theta` here is in the order of `Form.coefficient_names`, with centred
    constants: those of the terms (`theta[:num_terms]`, in which the terms are linear but for
    the logarithm), then the ceiling's where there is one, then the exponents.

    Args:
      log_losses: float64[points], logs of nats per token.
      weights: float64[points], at least 0.
    """

    def __init__(self, form: Form, points: Points, log_losses: Array, weights: Array) -> None:
        self.form = form
        self.log_losses = log_losses
        self.weights = weights
        self.num_terms = len(form.terms)
        design = form.design(points)
        self._origins = self._origins_of(design)
        self.design = design - self._origins[:, None, :]
        self.low, self.high = self._bounds()

    def _origins_of(self, design: Array) -> Array:
        """Where features are measured from: float64[terms, coefficients], 0 for the constants."""
        origins = np.zeros((design.shape[0], design.shape[2]))
        for i, name in enumerate(self.form.exponents, start=len(self.form.constants)):
            either_sign = self.form.bounds[name][0] < 0
            origins[:, i] = design[:, :, i].mean(axis=1) if either_sign else design[:, :, i].max(1)
        return origins

    def _bounds(self) -> tuple[Array, Array]:
        seen = self.log_losses[self.weights > 0]
        least, most = np.log(_NEGLIGIBLE) + seen.min(), np.log(2.0) + seen.max()
        pairs = [(least, most)] * self.num_terms
        if self.form.has_ceiling:
            pairs[1:] = [(least, np.log(_FAR_ABOVE) + most)] * (self.num_terms - 1)
            pairs.append(self._ceiling_bounds(seen))
        pairs += [self.form.bounds[name] for name in self.form.exponents]
        low, high = np.array(pairs, float).T
        return low, high

    @staticmethod
    def _ceiling_bounds(log_losses: Array) -> tuple[float, float]:
        """Limits of log U.

        The floor lies below every loss and the ceiling, E + U, above, so that U spans at least
        what the losses span (the middle nine tenths: a wild run may lie above a ceiling). At
        twice the largest loss a ceiling takes less than 4 % off any loss that was seen, and
        what lies further up no data of that kind can tell.
        """
        least, most = np.exp(np.quantile(log_losses, [0.05, 0.95]))
        span = max(most - least, 10 * _NEGLIGIBLE * most)
        return float(np.log(span)), float(np.log(2.0) + log_losses.max())

    def centre(self, coefficients: Array) -> Array:
        """From coefficients in raw units to `theta`, moved inside the bounds."""
        theta = np.array(coefficients, float)
        theta[: self.num_terms] += self._origins @ theta
        return self.inside(theta)

    def uncentre(self, theta: Array) -> Array:
        """From `theta` to coefficients in raw units."""
        coefficients = theta.copy()
        coefficients[: self.num_terms] -= self._origins @ theta
        return coefficients

    def inside(self, theta: Array) -> Array:
        """`theta`, moved into the interior of the bounds."""
        margin = 1e-6 * (self.high - self.low)
        return np.clip(theta, self.low + margin, self.high - margin)

    def residuals(self, theta: Array) -> Array:
        """log L_form - log L_measured: float64[points]."""
        return self.form.log_loss_of_design(theta, self.design) - self.log_losses

    def jacobian(self, theta: Array) -> Array:
        """Derivatives of the residuals: float64[points, coefficients]."""
        return self.form.jacobian(theta, self.design)

    def pull(self, residuals: Array) -> Array:
        """Weight of each point in the least squares that Huber's loss amounts to at `residuals`."""
        return self.weights * np.minimum(
            1.0, HUBER_THRESHOLD / np.maximum(np.abs(residuals), 1e-300)
        )

    def objective(self, residuals: Array) -> float:
        """The objective (module docstring), with Huber's loss as r²/2 near zero."""
        return float(self.objectives(residuals))

    def objectives(self, residuals: Array) -> Array:
        """The same for many candidates, float64[..., points] -> float64[...]."""
        size = np.abs(residuals)
        near = np.minimum(size, HUBER_THRESHOLD)
        return np.asarray(np.sum(self.weights * near * (size - 0.5 * near), axis=-1))

    def weighted_huber(self, squares: Any) -> Array:
        """The same for scipy: rho and its two derivatives at z = (residual / threshold)²."""
        rho = np.empty((3, squares.size))
        near = squares <= 1.0
        root = np.sqrt(np.maximum(squares, 1.0))
        rho[0] = np.where(near, squares, 2.0 * root - 1.0)
        rho[1] = np.where(near, 1.0, 1.0 / root)
        rho[2] = np.where(near, 0.0, -0.5 / root**3)
        return np.asarray(rho * self.weights)

    def at_bound(self, theta: Array) -> tuple[str, ...]:
        """Names of the exponents, and of the ceiling, that lie at a bound of the search."""
        width = self.high - self.low
        touching = (theta - self.low < 1e-3 * width) | (self.high - theta < _NEAR_THE_TOP * width)
        names = self.form.coefficient_names[self.num_terms :]
        return tuple(
            name for name, touches in zip(names, touching[self.num_terms :], strict=True) if touches
        )
