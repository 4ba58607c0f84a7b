"""What the memorization test found: rates on each side, by occurrences, and how they compare."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dpscale.evaluation.memorization_rates import (
    MatchRates,
    RateComparison,
    compare,
    rate_of,
)

BUCKETS = ((1, 1), (2, 9), (10, 99), (100, None))
"""First and last number of occurrences of a bucket; None: no last."""

NOTES = (
    "A continuation matches exactly if all its tokens are the unit's, and approximately if their "
    "edit distance is at most a tenth of the length, in tokens.",
    "A rate of zero shows that greedy decoding from such prefixes rarely or never gives these "
    "units: 'upper' is what it still allows at 95 % confidence. Longer prefixes, sampling or "
    "other attacks may give more. It is no guarantee; differential privacy gives one.",
    "Matches on held-out units were not learned from them; only what training units have beyond "
    "them points to memorization.",
    "Occurrences are counted at any offset within training units; those that cross from one unit "
    "into the next are missed.",
    "This test reads the training units: its counts and rates are NOT PRIVATE.",
)


@dataclass(frozen=True)
class ContinuedUnits:
    """Units of one side, compared with their continuations.

    `distances` is int32[n], in tokens; `occurrences` is int64[n], how often each tested text
    stands in the training units, its own place included.
    """

    distances: npt.NDArray[np.int32]
    occurrences: npt.NDArray[np.int64]


@dataclass(frozen=True)
class OccurrenceBucket:
    """Rates of training units whose text occurs `least` to `most` times (None: or more)."""

    least: int
    most: int | None
    rates: MatchRates

    @property
    def label(self) -> str:
        """As in tables: 1, 2-9, 100+."""
        if self.most is None:
            return f"{self.least}+"
        return str(self.least) if self.least == self.most else f"{self.least}-{self.most}"


@dataclass(frozen=True)
class MemorizationReport:
    """The result of a memorization test. NOT PRIVATE.

    `held_out` is the control: held-out units whose text does not occur in training. Those whose
    text does are in `held_out_in_training`. A comparison is None where one side has no unit.
    `allowed_distance` is the largest that counts as an approximate match, in tokens.
    """

    prefix_tokens: int
    continuation_tokens: int
    allowed_distance: int
    seed: int
    train: MatchRates
    held_out: MatchRates
    exact_comparison: RateComparison | None
    approximate_comparison: RateComparison | None
    train_by_occurrences: tuple[OccurrenceBucket, ...]
    held_out_in_training: MatchRates
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self)


def report(
    *,
    train: ContinuedUnits,
    held_out: ContinuedUnits,
    prefix_tokens: int,
    continuation_tokens: int,
    seed: int,
) -> MemorizationReport:
    """Sums up what was tested."""
    allowed = allowed_distance(continuation_tokens)
    is_control = held_out.occurrences == 0
    train_rates = _rates(train.distances, allowed)
    control_rates = _rates(held_out.distances[is_control], allowed)
    return MemorizationReport(
        prefix_tokens=prefix_tokens,
        continuation_tokens=continuation_tokens,
        allowed_distance=allowed,
        seed=seed,
        train=train_rates,
        held_out=control_rates,
        exact_comparison=compare(train_rates.exact, control_rates.exact),
        approximate_comparison=compare(train_rates.approximate, control_rates.approximate),
        train_by_occurrences=tuple(
            OccurrenceBucket(
                least, most, _rates(train.distances[_is_in(train, least, most)], allowed)
            )
            for least, most in BUCKETS
        ),
        held_out_in_training=_rates(held_out.distances[~is_control], allowed),
        notes=NOTES,
    )


def allowed_distance(continuation_tokens: int) -> int:
    """The largest edit distance of an approximate match: a tenth of the length, rounded down.

    >>> allowed_distance(50), allowed_distance(9)
    (5, 0)
    """
    return continuation_tokens // 10


def _is_in(units: ContinuedUnits, least: int, most: int | None) -> npt.NDArray[np.bool_]:
    is_in = units.occurrences >= least
    return is_in if most is None else is_in & (units.occurrences <= most)


def _rates(distances: npt.NDArray[np.int32], allowed: int) -> MatchRates:
    return MatchRates(rate_of(distances == 0), rate_of(distances <= allowed))
