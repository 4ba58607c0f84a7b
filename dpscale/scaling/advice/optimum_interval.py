"""How far the best configuration moves when the law's data are resampled."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from dpscale.scaling.advice.search import Field

QUANTILES: Final = (0.05, 0.95)


@dataclass(frozen=True)
class OptimumInterval:
    """5 and 95 % quantiles of the optima of the law's bootstrap replicates.

    Each replicate chooses among the same candidates (the trusted ones under the budget). It is
    what the fit leaves open, should the form be right: it knows nothing of other forms.
    """

    num_params: tuple[int, int]
    expected_batch_size: tuple[int, int]
    iterations: tuple[int, int]
    replicates: int


def optimum_interval(field: Field) -> OptimumInterval | None:
    """The interval around the optimum of `field`; None for a form without replicates."""
    logs = field.question.replicate_log_losses(field.candidates)
    if not len(logs):
        return None
    best = np.argmin(logs, axis=1)

    def ends(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> tuple[int, int]:
        low, high = np.quantile(values[best], QUANTILES, method="inverted_cdf")
        return int(low), int(high)

    candidates = field.candidates
    return OptimumInterval(
        num_params=ends(candidates.num_params),
        expected_batch_size=ends(candidates.expected_batch_size),
        iterations=ends(candidates.iterations),
        replicates=len(logs),
    )
