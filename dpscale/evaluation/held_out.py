"""Loss and bits per byte on held-out units.

Nats per token depend on the tokenizer: one that cuts text into fewer tokens has more to guess
at each. Bits per byte do not: the total is divided by the bytes of the text that was predicted.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dpscale.data.tokenizer import Tokenizer
from dpscale.data.units import UnitArray, spread_indices
from dpscale.errors import InputError
from dpscale.evaluation.progress import OnProgress, counted
from dpscale.inference.scoring import Scorer

_Z95 = 1.959963984540054
"""Standard normal quantile of 97.5 %."""


@dataclass(frozen=True)
class Estimate:
    """A mean over units with its 95 % interval, which assumes that units are independent."""

    value: float
    lower: float
    upper: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.lower:.4f}, {self.upper:.4f}]"


@dataclass(frozen=True)
class HeldOutLoss:
    """What was measured.

    `loss` is in nats per token; `bits_per_byte` is None where the tokens stand for no text.
    """

    num_units: int
    num_tokens: int
    num_bytes: int
    loss: Estimate
    bits_per_byte: Estimate | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def measure_held_out(
    scorer: Scorer,
    tokenizer: Tokenizer,
    units: UnitArray,
    *,
    num_units: int,
    on_progress: OnProgress = lambda _doing, _done, _total: None,
) -> HeldOutLoss:
    """Scores units that are spread evenly over `units`, and always the same ones.

    A unit's first token is given, the others are predicted. Bytes are those of the predicted
    tokens (`Tokenizer.token_bytes`): the space that a tokenizer puts before a document counts,
    the end of a document is predicted and has none.

    Args:
      num_units: How many; above `len(units)` all are scored.

    Raises:
      InputError: There is no unit.
    """
    if len(units) == 0 or num_units < 1:
        raise InputError("--num-units", f"expected at least 1 of {len(units)} held-out units.")
    tokens = units.gather(spread_indices(len(units), num_units))
    on_scored = counted(on_progress, "scoring units", len(tokens))
    scores = scorer.score(tokens.tolist(), on_scored=on_scored)
    nats = np.array([-score.log_probs.astype(np.float64).sum() for score in scores])
    num_bytes = tokenizer.token_bytes()[tokens[:, 1:]].sum(axis=1)
    num_tokens = np.full(len(tokens), tokens.shape[1] - 1)
    return HeldOutLoss(
        num_units=len(tokens),
        num_tokens=int(num_tokens.sum()),
        num_bytes=int(num_bytes.sum()),
        loss=ratio(nats, num_tokens),
        bits_per_byte=ratio(nats / math.log(2), num_bytes) if num_bytes.any() else None,
    )


def ratio(amounts: npt.NDArray[np.float64], sizes: npt.NDArray[np.integer[Any]]) -> Estimate:
    """The sum of amounts over the sum of sizes, with an interval by linearisation.

    The variance of a ratio of means is that of the residuals `amount - ratio · size` over the
    mean size squared (Cochran, "Sampling Techniques", 1977, section 6.4). A single unit tells
    nothing about it: its interval is infinite.
    """
    value = float(amounts.sum() / sizes.sum())
    if len(amounts) < 2:
        return Estimate(value, -math.inf, math.inf)
    residuals = amounts - value * sizes
    error = float(np.std(residuals, ddof=1) / math.sqrt(len(amounts)) / sizes.mean())
    return Estimate(value, value - _Z95 * error, value + _Z95 * error)
