"""How well the forms of a law predict what they were not fitted to."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

FormName = Literal[
    "semi-parametric", "chinchilla", "form-3", "form-5", "effective-noise", "ceiling"
]
FORM_NAMES: tuple[FormName, ...] = (
    *("semi-parametric", "chinchilla", "form-3", "form-5"),
    *("effective-noise", "ceiling"),
)


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
    """How a form did on the held-out points, fitted without them.

    Args:
      regret: Mean share by which the size that the form would have chosen, at the iterations
        and noise of a held-out point, was worse than the best measured there; None where
        fewer than two sizes were measured.
    """

    form: FormName
    points: tuple[HeldOutPoint, ...]
    regret: float | None

    @property
    def mean_abs_error(self) -> float:
        """Mean absolute relative error."""
        return float(np.mean([abs(point.relative_error) for point in self.points]))

    @property
    def median_abs_error(self) -> float:
        """Median absolute relative error."""
        return float(np.median([abs(point.relative_error) for point in self.points]))

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
class HeldOut:
    """One way of holding points out, and every form's score; `rule` says it in words.

    A form that cannot describe the held-out points, or cannot be fitted without them, has no
    score here.
    """

    name: str
    rule: str
    scores: tuple[FormScore, ...]


def pooled_score(held_out: tuple[HeldOut, ...], form: FormName) -> FormScore | None:
    """All held-out points of a form as one score; None where it has none."""
    scores = [score for each in held_out for score in each.scores if score.form == form]
    if not scores:
        return None
    regrets = [score.regret for score in scores if score.regret is not None]
    return FormScore(
        form,
        tuple(point for score in scores for point in score.points),
        float(np.mean(regrets)) if regrets else None,
    )
