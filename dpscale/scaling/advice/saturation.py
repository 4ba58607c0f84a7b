"""The compute beyond which more buys nothing: the least within 1 % of the best loss at any.

As in table 2 of arXiv 2501.18914. At a given privacy and data budget there is a best configuration
without any bound on compute: a larger batch stops lowering the noise-batch ratio, a longer run
raises it, and a larger model suffers more from it. The iterations are bounded by
`candidates.MOST_ITERATIONS` and, where the law's intervals open before, by the trust rule.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from dpscale.compute import train_flops
from dpscale.scaling.advice.question import Question, TrustRegion
from dpscale.scaling.advice.search import NEAR_OPTIMAL, look

PRECISION: Final = 0.01
"""Compute is found to 1 %."""

STRIDE: Final = 8.0


@dataclass(frozen=True)
class Saturation:
    """The saturating budget of a law under a privacy and a data budget.

    Args:
      train_flops: The least that comes within 1 % of `least_loss`.
      num_params, expected_batch_size, iterations: The best configuration there.
      predicted_loss: What it reaches, by approximate noise; nats per token.
      least_loss: What any compute reaches, by approximate noise.
      limited_by: `noise` where more compute would not lower the predicted loss; `trust` where it
        would by over 1 %, but only where the law's interval is too wide to be believed.
    """

    train_flops: float
    num_params: int
    expected_batch_size: int
    iterations: int
    predicted_loss: float
    least_loss: float
    limited_by: Literal["noise", "trust"]


def find_saturation(question: Question, trust: TrustRegion) -> Saturation:
    """The saturating budget; the compute of `question` plays no part, its limits do."""
    free = question.under(dataclasses.replace(question.budget, train_flops=math.inf))
    region = trust.within(free)
    unbounded = look(free, region)
    believed = look(free, dataclasses.replace(region, widest=np.inf))
    enough = (1 + NEAR_OPTIMAL) * unbounded.least_loss

    high = _spent(question, *unbounded.candidates.place(unbounded.best))
    low = high / STRIDE
    while unbounded.paid_by(low, region).least_loss <= enough:
        high, low = low, low / STRIDE
    while high / low > 1 + PRECISION:
        middle = math.sqrt(high * low)
        reaches = unbounded.paid_by(middle, region).least_loss <= enough
        low, high = (low, middle) if reaches else (middle, high)
    field = unbounded.paid_by(high, region)
    gained = unbounded.least_loss / believed.least_loss - 1
    size, batch, iterations = field.candidates.place(field.best)
    return Saturation(
        train_flops=high,
        num_params=size,
        expected_batch_size=batch,
        iterations=iterations,
        predicted_loss=field.least_loss,
        least_loss=unbounded.least_loss,
        limited_by="trust" if gained > NEAR_OPTIMAL else "noise",
    )


def _spent(question: Question, num_params: float, batch: float, iterations: float) -> float:
    return train_flops(
        num_params=num_params,
        batch_size=batch,
        iterations=iterations,
        seq_len=question.budget.seq_len,
    )
