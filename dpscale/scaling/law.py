"""A fitted scaling law: what it was fitted to, what it predicts, and how sure it is.

**Interval.** A 90 % prediction interval for the loss of one new run at x, on the log scale:
log L(x) ± t · sqrt(s² + v(x)), where

- s² is the largest of three: the mean squared log error on the held-out runs; the squared
  scatter of single runs about the law (`run_scatter`), so that it holds seed-to-seed noise;
  and the mean squared log distance to the other forms' predictions, each form weighted by the
  inverse of its held-out mean square, which grows where no run has been;
- v(x) is the uncertainty of the fit itself: for a parametric form the variance of log L(x)
  over bootstrap replicates, each with random weights on whole *runs*; for the
  semi-parametric law `run_scatter`² times the squared interpolation weights, which is what
  such a bootstrap of an interpolation amounts to;
- t is the 95 % quantile of Student's t with as many degrees of freedom as there are
  held-out measurements.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from dpscale.errors import InputError
from dpscale.scaling.forms import FORMS, Array, ParametricName, Points
from dpscale.scaling.learning_rate import LearningRateLaw
from dpscale.scaling.runs import ExcludedRun, Target
from dpscale.scaling.surface import Surface

FormName = Literal["semi-parametric", "form-3", "form-5", "effective-noise"]
FORM_NAMES: tuple[FormName, ...] = ("semi-parametric", "form-3", "form-5", "effective-noise")
LAW_VERSION = 1


@dataclass(frozen=True)
class HeldOutPoint:
    """A held-out measurement (the end of a planned run, best rate) and its prediction."""

    num_params: int
    iterations: int
    noise_batch_ratio: float
    measured_loss: float
    predicted_loss: float

    @property
    def relative_error(self) -> float:
        """(predicted - measured) / measured: positive where the law predicts too much."""
        return self.predicted_loss / self.measured_loss - 1


@dataclass(frozen=True)
class FormScore:
    """How a form did on the held-out runs, fitted without them."""

    form: FormName
    points: tuple[HeldOutPoint, ...]

    @property
    def mean_abs_error(self) -> float:
        """Mean absolute relative error."""
        return float(np.mean([abs(point.relative_error) for point in self.points]))

    @property
    def mean_error(self) -> float:
        """Mean signed relative error: positive where the form predicts too much."""
        return float(np.mean([point.relative_error for point in self.points]))

    @property
    def worst_abs_error(self) -> float:
        """Largest absolute relative error."""
        return max(abs(point.relative_error) for point in self.points)

    @property
    def mean_squared_log_error(self) -> float:
        """Mean of log²(predicted / measured)."""
        return float(np.mean([math.log1p(point.relative_error) ** 2 for point in self.points]))


@dataclass(frozen=True)
class ParametricFit:
    """A parametric form fitted to all runs.

    Args:
      coefficients: By name, in the order of `Form.coefficient_names`; `log_` ones are natural
        logarithms of the constants in the formula, for M in parameters, T in iterations.
      replicates: Coefficients of bootstrap replicates, in the same order.
      starts_agreeing: How many of the `starts` ended within 0.1 % of the best objective.
      at_bound: Exponents that ended at a bound of the search: not determined by the data.
    """

    form: ParametricName
    formula: str
    coefficients: Mapping[str, float]
    objective: float
    converged: bool
    starts: int
    starts_agreeing: int
    at_bound: tuple[str, ...]
    replicates: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class ValidRange:
    """Least and largest value of each coordinate in what was fitted.

    `iterations` starts where the shortest run's last part does; the lowest ratio is 0 where
    the sweep has noise-free runs.
    """

    num_params: tuple[float, float]
    iterations: tuple[float, float]
    noise_batch_ratio: tuple[float, float]


@dataclass(frozen=True)
class ScalingLaw:
    """Everything in `law.json`.

    Args:
      target: Which loss it predicts, in nats per token.
      form: The form that predictions use unless another is asked for.
      num_params_meaning: Which count M is.
      physical_batch_size: What an iteration of the sweep averaged.
      t_quantile: t of the interval (module docstring).
      run_scatter: Scatter of single runs about the law, in log units.
    """

    law_version: int
    target: Target
    loss_unit: str
    form: FormName
    form_chosen_by: str
    num_params_meaning: str
    physical_batch_size: int
    seq_len: int
    vocab_size: int
    valid_range: ValidRange
    schedule_note: str
    held_out_rule: str
    scores: tuple[FormScore, ...]
    t_quantile: float
    run_scatter: float
    ratio_floor: float
    parametric: tuple[ParametricFit, ...]
    surface: Surface
    learning_rates: LearningRateLaw
    source: str
    data_sha256: str
    run_ids: tuple[str, ...]
    excluded: tuple[ExcludedRun, ...]
    versions: Mapping[str, str]

    def score(self, form: FormName | None = None) -> FormScore:
        """The held-out score of a form (default: the law's own)."""
        return next(score for score in self.scores if score.form == (form or self.form))

    def predict(
        self,
        num_params: ArrayLike,
        iterations: ArrayLike,
        noise_batch_ratio: ArrayLike,
        *,
        batch_size: ArrayLike | None = None,
        form: FormName | None = None,
    ) -> Array:
        """The loss of a run, in nats per token; the arguments broadcast against each other.

        Args:
          num_params: All parameters, the tied embedding counted once.
          batch_size: Examples averaged per iteration, which only `effective-noise` looks at;
            the other forms answer for `physical_batch_size`, which is the default here too.
          form: Default: the law's own.
        """
        name = form or self.form
        if name == "semi-parametric":
            log_loss = self.surface.log_loss(num_params, iterations, noise_batch_ratio)
        else:
            points = self._points(name, num_params, iterations, noise_batch_ratio, batch_size)
            coefficients = list(self._fit_of(name).coefficients.values())
            log_loss = FORMS[name].log_loss(coefficients, points)
        return np.asarray(np.exp(log_loss))

    def interval(
        self,
        num_params: ArrayLike,
        iterations: ArrayLike,
        noise_batch_ratio: ArrayLike,
        *,
        batch_size: ArrayLike | None = None,
        form: FormName | None = None,
    ) -> tuple[Array, Array]:
        """The 90 % prediction interval for the loss of one new run (module docstring).

        Takes what `predict` takes, and broadcasts alike.

        Returns:
          The lower and the upper ends.
        """
        name = form or self.form
        where = (num_params, iterations, noise_batch_ratio)
        log_middle = np.log(self.predict(*where, batch_size=batch_size, form=name))
        of_fit = self._of_fit(name, *where, batch_size, log_middle)
        of_run = np.maximum(
            max(self.score(name).mean_squared_log_error, self.run_scatter**2),
            self._disagreement(name, *where),
        )
        half = self.t_quantile * np.sqrt(of_run + of_fit)
        return np.exp(log_middle - half), np.exp(log_middle + half)

    def _of_fit(
        self,
        name: FormName,
        num_params: ArrayLike,
        iterations: ArrayLike,
        noise_batch_ratio: ArrayLike,
        batch_size: ArrayLike | None,
        log_middle: Array,
    ) -> Array:
        """Mean squared log error that the fit itself brings."""
        if name == "semi-parametric":
            return self.run_scatter**2 * self.surface.squared_weights(num_params, noise_batch_ratio)
        replicates = self._fit_of(name).replicates
        if not replicates:
            return np.zeros(log_middle.shape)
        points = self._points(name, num_params, iterations, noise_batch_ratio, batch_size)
        logs = np.stack([FORMS[name].log_loss(each, points) for each in replicates])
        # About the fit itself, not about the replicates' mean: their offset counts too.
        return np.asarray(np.mean((logs - log_middle) ** 2, axis=0))

    def _disagreement(
        self,
        name: FormName,
        num_params: ArrayLike,
        iterations: ArrayLike,
        noise_batch_ratio: ArrayLike,
    ) -> Array:
        """Weighted mean squared log distance between a form's prediction and the others'.

        All at the sweep's physical batch: only one form has a view of other batches.
        """
        where = (num_params, iterations, noise_batch_ratio)
        own = np.log(self.predict(*where, form=name))
        others = [score for score in self.scores if score.form != name]
        squares = [(np.log(self.predict(*where, form=score.form)) - own) ** 2 for score in others]
        noise = max(self.run_scatter**2, 1e-12)
        weights = [1 / max(score.mean_squared_log_error, noise) for score in others]
        return np.asarray(np.average(np.stack(squares), axis=0, weights=weights))

    def _fit_of(self, name: FormName) -> ParametricFit:
        for fit in self.parametric:
            if fit.form == name:
                return fit
        raise InputError("--form", f"expected one of {', '.join(FORM_NAMES)}, found {name!r}.")

    def _points(
        self,
        name: FormName,
        num_params: ArrayLike,
        iterations: ArrayLike,
        noise_batch_ratio: ArrayLike,
        batch_size: ArrayLike | None,
    ) -> Points:
        if batch_size is None or name != "effective-noise":
            batch_size = self.physical_batch_size
        return Points.of(
            num_params,
            iterations,
            noise_batch_ratio,
            batch_size=batch_size,
            ratio_floor=self.ratio_floor,
        )
