"""Parametric forms of the loss: a floor and a sum of power laws, with or without a ceiling.

Every form here is L = E + x, x = Σ_k exp(d_k · θ): positive terms whose logarithms are linear in
the coefficients. A form with a ceiling is L = E + 1/√(1/x² + 1/U²) instead: about x where x is
small, and never above E + U, as a model that has learned nothing does no worse than a constant
guess. One implementation serves prediction and fitting, derivatives included, and a further
form is a further entry in `FORMS`.

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
ParametricName = Literal["chinchilla", "form-3", "form-5", "effective-noise", "ceiling"]


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
    """A named floor and sum of power laws.

    Args:
      terms: The floor E first.
      bounds: Limits of each exponent's search.
      has_ceiling: Whether the sum of the other terms is held below U.
      noise_free: Whether it describes training without noise only (r = 0).
    """

    name: ParametricName
    formula: str
    terms: tuple[Term, ...]
    bounds: Mapping[str, tuple[float, float]]
    has_ceiling: bool = False
    noise_free: bool = False

    @property
    def constants(self) -> tuple[str, ...]:
        """Names of the log constants: one a term, and the ceiling's."""
        ceiling = ("log_U",) if self.has_ceiling else ()
        return tuple(term.intercept for term in self.terms) + ceiling

    @property
    def exponents(self) -> tuple[str, ...]:
        """Names of the exponents."""
        return tuple(power[0] for term in self.terms for power in term.powers)

    @property
    def coefficient_names(self) -> tuple[str, ...]:
        """Log constants first, then exponents: the order of a coefficient vector."""
        return self.constants + self.exponents

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
        logs = self.log_loss_of_design(np.asarray(coefficients, float), self.design(points))
        return logs.reshape(points.num_params.shape)

    def log_loss_of_design(self, coefficients: Array, design: Array) -> Array:
        """The same, float64[points], where the design (centred or not) is at hand."""
        logs = design @ coefficients
        return np.asarray(np.logaddexp(logs[0], self._held(logs, coefficients)))

    def jacobian(self, coefficients: Array, design: Array) -> Array:
        """Derivatives of `log_loss_of_design`: float64[points, coefficients]."""
        logs = design @ coefficients
        above, held = _log_sum(logs[1:]), self._held(logs, coefficients)
        total = np.logaddexp(logs[0], held)
        slope = np.exp(held - total)  # of log L by the log of the part above the floor
        free = np.exp(2.0 * (held - above))  # what of x the ceiling lets through
        shares = np.exp(logs[1:] - above) * slope * free
        result = np.einsum("kp,kpc->pc", shares, design[1:])
        result += np.exp(logs[0] - total)[:, None] * design[0]
        if self.has_ceiling:
            result[:, self._ceiling] = slope * (1.0 - free)
        return np.asarray(result)

    @property
    def _ceiling(self) -> int:
        return len(self.terms)

    def _held(self, logs: Array, coefficients: Array) -> Array:
        """Log of what stands above the floor."""
        above = _log_sum(logs[1:])
        if not self.has_ceiling:
            return above
        return np.asarray(-0.5 * np.logaddexp(-2.0 * above, -2.0 * coefficients[self._ceiling]))


def _log_sum(logs: Array) -> Array:
    return np.asarray(np.logaddexp.reduce(logs, axis=0))


_EXPONENT = (0.01, 3.0)
_SIGMOID_EXPONENT = (0.01, 30.0)
_LOSS_FLOOR = Term("log_E")
_SIZE = Term("log_A", (("alpha", -1, "num_params"),))
_DATA = Term("log_B", (("beta", -1, "examples"),))

_NOISE = {"alpha": _EXPONENT, "beta": _EXPONENT, "gamma": _EXPONENT, "alpha2": (-2.0, 2.0)}
_EFFECTIVE = (
    _LOSS_FLOOR,
    _SIZE,
    Term("log_B", (("beta", -1, "iterations"),)),
    Term("log_C", (("gamma", 1, "effective_ratio"), ("alpha2", -1, "num_params"))),
)

FORMS: dict[str, Form] = {
    form.name: form
    for form in (
        Form(
            "chinchilla",
            "L = E + A/M^alpha + B/n^beta, without noise",
            (_LOSS_FLOOR, _SIZE, _DATA),
            {"alpha": _EXPONENT, "beta": _EXPONENT},
            noise_free=True,
        ),
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
            _EFFECTIVE,
            _NOISE,
        ),
        Form(
            "ceiling",
            "L = E + 1/√(1/x² + 1/U²), x = A/M^alpha + B/T^beta + C·e^gamma/M^alpha2, "
            "e² = r² + 1/(P·M)",
            _EFFECTIVE,
            _NOISE,
            has_ceiling=True,
        ),
    )
}
"""The parametric forms by name: `chinchilla` is that of Hoffmann et al. (2022, arXiv 2203.15556),
`form-3` and `form-5` are the paper's, `effective-noise` and `ceiling` ours."""
