"""Parametric forms of the loss, each a sum of power laws.

Every form here is L = Σ_k exp(x_k · θ): a sum of positive terms whose logarithms are linear
in the coefficients. One implementation serves prediction and fitting, derivatives included,
and a further form is a further entry in `FORMS`.

Coordinates: M = `num_params`, T = `iterations`, r = `noise_batch_ratio`, P = the batch that
an iteration averages (`physical_batch_size` of the sweep), n = P·T examples.
Equation numbers are those of arXiv 2501.18914.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
ParametricName = Literal["form-3", "form-5", "effective-noise"]


@dataclass(frozen=True)
class Points:
    """Where a loss was measured or is asked for; arrays of one shape.

    Args:
      num_params: M, all parameters.
      iterations: T, optimizer steps.
      noise_batch_ratio: r; at least `ratio_floor` where it enters as a logarithm.
      batch_size: P, examples averaged per iteration.
      ratio_floor: What stands for r = 0 in forms (3) and (5); see `noise_floor`.
    """

    num_params: Array
    iterations: Array
    noise_batch_ratio: Array
    batch_size: Array
    ratio_floor: float

    @classmethod
    def of(
        cls,
        num_params: ArrayLike,
        iterations: ArrayLike,
        noise_batch_ratio: ArrayLike,
        *,
        batch_size: ArrayLike,
        ratio_floor: float,
    ) -> "Points":
        """Broadcasts the coordinates against each other, as float64."""
        m, t, r, p = np.broadcast_arrays(
            *(
                np.asarray(values, dtype=np.float64)
                for values in (num_params, iterations, noise_batch_ratio, batch_size)
            )
        )
        return cls(m, t, r, p, ratio_floor)


def sampling_noise(num_params: ArrayLike, batch_size: ArrayLike) -> Array:
    """The noise that a batch's mean gradient has without any added: 1 / sqrt(P·M).

    A mean of P independent vectors of norm at most 1 (clipped, rescaled gradients) deviates
    from its expectation by at most 1/sqrt(P) in root mean square; spread over M coordinates
    that is 1/sqrt(P·M) each, in the unit of `noise_batch_ratio` (clip norms).

    >>> round(float(np.log2(sampling_noise(2**16, 64))), 6)
    -11.0
    """
    return np.asarray(1.0 / np.sqrt(np.asarray(batch_size, float) * np.asarray(num_params, float)))


def noise_floor(num_params: ArrayLike, batch_size: float, positive_ratios: ArrayLike) -> float:
    """The ratio that stands for "no added noise" in forms (3) and (5), which take its logarithm.

    An eighth of the sampling noise of the sweep's geometric-mean size (added noise of that
    scale raises the gradient's variance by 1/64), or of the smallest positive ratio where
    that is less, so that the order of the ratios is kept.
    """
    sizes = np.asarray(num_params, float)
    typical = float(sampling_noise(np.exp(np.mean(np.log(sizes))), batch_size))
    return 0.125 * min(typical, float(np.min(positive_ratios)))


def _log_sigmoid_ratio(points: Points) -> Array:
    """Log of equation (4): sigmoid((ln r + 8) / 1.6)."""
    z = (np.log(np.maximum(points.noise_batch_ratio, points.ratio_floor)) + 8.0) / 1.6
    return np.asarray(-np.log1p(np.exp(-z)))


def _log_effective_ratio(points: Points) -> Array:
    """Log of the noise that a step has in all: added and sampling noise, in quadrature."""
    own = sampling_noise(points.num_params, points.batch_size)
    return np.asarray(0.5 * np.log(points.noise_batch_ratio**2 + own**2))


_FEATURES = {
    "num_params": lambda points: np.log(points.num_params),
    "iterations": lambda points: np.log(points.iterations),
    "examples": lambda points: np.log(points.batch_size * points.iterations),
    "ratio": lambda points: np.log(np.maximum(points.noise_batch_ratio, points.ratio_floor)),
    "sigmoid_ratio": _log_sigmoid_ratio,
    "effective_ratio": _log_effective_ratio,
}


@dataclass(frozen=True)
class Term:
    """exp(intercept + Σ sign · exponent · log feature).

    `powers` holds (name of the exponent, sign, name of the feature).
    """

    intercept: str
    powers: tuple[tuple[str, int, str], ...] = ()


@dataclass(frozen=True)
class Form:
    """A named sum of terms; `bounds` limits each exponent's search."""

    name: ParametricName
    formula: str
    terms: tuple[Term, ...]
    bounds: Mapping[str, tuple[float, float]]

    @property
    def intercepts(self) -> tuple[str, ...]:
        """Names of the terms' log constants."""
        return tuple(term.intercept for term in self.terms)

    @property
    def exponents(self) -> tuple[str, ...]:
        """Names of the exponents."""
        return tuple(power[0] for term in self.terms for power in term.powers)

    @property
    def coefficient_names(self) -> tuple[str, ...]:
        """Log constants first, then exponents: the order of a coefficient vector."""
        return self.intercepts + self.exponents

    def design(self, points: Points) -> Array:
        """float64[terms, points, coefficients]: the log terms are `design @ coefficients`."""
        names = self.coefficient_names
        size = points.num_params.size
        tensor = np.zeros((len(self.terms), size, len(names)))
        for k, term in enumerate(self.terms):
            tensor[k, :, names.index(term.intercept)] = 1.0
            for exponent, sign, feature in term.powers:
                tensor[k, :, names.index(exponent)] = sign * _FEATURES[feature](points).ravel()
        return tensor

    def log_loss(self, coefficients: ArrayLike, points: Points) -> Array:
        """Log of the loss (nats per token) at `points`, of their shape.

        Args:
          coefficients: float64[coefficients] in the order of `coefficient_names`.
        """
        logs = self.design(points) @ np.asarray(coefficients, float)
        return np.asarray(np.logaddexp.reduce(logs, axis=0)).reshape(points.num_params.shape)


_EXPONENT = (0.01, 3.0)
_SIGMOID_EXPONENT = (0.01, 30.0)
_LOSS_FLOOR = Term("log_E")
_SIZE = Term("log_A", (("alpha", -1, "num_params"),))
_DATA = Term("log_B", (("beta", -1, "examples"),))

FORMS: dict[str, Form] = {
    form.name: form
    for form in (
        Form(
            "form-3",
            "L = E + A/M^alpha + B/n^beta + C·r^gamma",
            (_LOSS_FLOOR, _SIZE, _DATA, Term("log_C", (("gamma", 1, "ratio"),))),
            {"alpha": _EXPONENT, "beta": _EXPONENT, "gamma": _EXPONENT},
        ),
        Form(
            "form-5",
            "L = E + A/M^alpha + B/n^beta + C·s^gamma/M^alpha2, s = sigmoid((ln r + 8)/1.6)",
            (
                _LOSS_FLOOR,
                _SIZE,
                _DATA,
                Term("log_C", (("gamma", 1, "sigmoid_ratio"), ("alpha2", -1, "num_params"))),
            ),
            {
                "alpha": _EXPONENT,
                "beta": _EXPONENT,
                "gamma": _SIGMOID_EXPONENT,
                "alpha2": (-2.0, 2.0),
            },
        ),
        Form(
            "effective-noise",
            "L = E + A/M^alpha + B/T^beta + C·e^gamma/M^alpha2, e² = r² + 1/(P·M)",
            (
                _LOSS_FLOOR,
                _SIZE,
                Term("log_B", (("beta", -1, "iterations"),)),
                Term("log_C", (("gamma", 1, "effective_ratio"), ("alpha2", -1, "num_params"))),
            ),
            {"alpha": _EXPONENT, "beta": _EXPONENT, "gamma": _EXPONENT, "alpha2": (-2.0, 2.0)},
        ),
    )
}
"""The parametric forms by name: `form-3` and `form-5` are the paper's, `effective-noise` ours."""
