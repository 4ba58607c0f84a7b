"""From seconds and facts to the figures that are told. No JAX."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dpscale.bench.candidates import NON_PRIVATE, Candidate
from dpscale.bench.shapes import Shape
from dpscale.bench.timing import Ratio, fastest

WITHIN = 1.05
"""How near the fastest measured candidate `auto` is expected to be."""

Seconds = Mapping[Candidate, Sequence[float]]
"""Of each round, the same rounds for all; who left early has the first ones."""


@dataclass(frozen=True)
class Facts:
    """What is known of a program before it is timed.

    Attributes:
      temp_bytes: Memory beside arguments and result.
      flops: XLA's count for one logical batch.
      gradient_error: Relative L2 distance of the clipped sum from vmap's.
      norm_error: Largest relative distance of an example's norm from vmap's.
    """

    temp_bytes: int | None = None
    flops: float | None = None
    gradient_error: float | None = None
    norm_error: float | None = None


@dataclass(frozen=True)
class Row:
    """One candidate's figures; None where the compiler does not tell."""

    candidate: Candidate
    rounds: int
    seconds: float
    time_ratio: Ratio
    memory_ratio: float | None
    memory_ratio_to_best: float | None
    flop_ratio: float | None
    facts: Facts

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            **dataclasses.asdict(self.candidate),
            "rounds": self.rounds,
            "seconds": self.seconds,
            "time_ratio": self.time_ratio.median,
            "time_ratio_q25": self.time_ratio.q25,
            "time_ratio_q75": self.time_ratio.q75,
            "memory_ratio": self.memory_ratio,
            "memory_ratio_to_best": self.memory_ratio_to_best,
            "flop_ratio": self.flop_ratio,
            **dataclasses.asdict(self.facts),
        }


def make_rows(
    seconds: Seconds, facts: Mapping[Candidate, Facts], *, full_batch: Facts
) -> tuple[Row, list[Row]]:
    """The fastest baseline's row, and everybody else's against it, fastest first.

    Args:
      seconds: At least one baseline's among them.
      full_batch: Of the non-private gradient without microbatches.
    """
    longest = max(map(len, seconds.values()))
    baseline = fastest(
        {
            candidate: times
            for candidate, times in seconds.items()
            if candidate.strategy == NON_PRIVATE and len(times) == longest
        }
    )

    def row(candidate: Candidate) -> Row:
        times, here, base = seconds[candidate], facts[candidate], facts[baseline]
        return Row(
            candidate=candidate,
            rounds=len(times),
            seconds=statistics.median(times),
            time_ratio=Ratio.of(times, seconds[baseline][: len(times)]),
            memory_ratio=_ratio(here.temp_bytes, full_batch.temp_bytes),
            memory_ratio_to_best=_ratio(here.temp_bytes, base.temp_bytes),
            flop_ratio=_ratio(here.flops, base.flops),
            facts=here,
        )

    rows = [row(candidate) for candidate in seconds if candidate != baseline]
    return row(baseline), sorted(rows, key=lambda row: row.time_ratio.median)


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None


@dataclass(frozen=True)
class ClippingReport:
    """What was measured of one shape.

    Attributes:
      auto: What `auto` settles on.
      baseline: The fastest non-private gradient, which ratios are to.
      rivals: Other non-private gradients that went through the long rounds.
      rows: Whoever clips and went through the long rounds, fastest first.
      first_pass: Everybody, after a few rounds only.
      failures: Why a candidate was not measured.
      same_as: Whose program a candidate shares, which is therefore measured once.
      auto_to_best: `auto`'s time to that of our fastest candidate, within rounds.
      is_complete: Whether all rounds were done; if not, what is here is true of fewer.
    """

    shape: Shape
    l2_clip_norm: float
    auto: Candidate
    baseline: Row
    rivals: Sequence[Row]
    rows: Sequence[Row]
    first_pass: Sequence[Row]
    failures: Mapping[Candidate, str]
    same_as: Mapping[Candidate, Candidate]
    auto_to_best: Ratio | None
    is_complete: bool

    @property
    def winner(self) -> Row | None:
        """Our fastest row."""
        return next((row for row in self.rows if row.candidate.is_ours), None)

    @property
    def is_auto_near_best(self) -> bool | None:
        """Whether `auto` is within `WITHIN`; None when it could not be measured."""
        return None if self.auto_to_best is None else self.auto_to_best.median <= WITHIN

    def row_of(self, candidate: Candidate) -> Row | None:
        """The candidate's row, if it has one."""
        return next((row for row in self.rows if row.candidate == candidate), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        auto, winner, near = self.row_of(self.auto), self.winner, self.auto_to_best
        return {
            "shape": {**dataclasses.asdict(self.shape), "num_params": self.shape.num_params},
            "l2_clip_norm": self.l2_clip_norm,
            "baseline": self.baseline.to_dict(),
            "rivals": [row.to_dict() for row in self.rivals],
            "auto": {
                **(auto.to_dict() if auto else dataclasses.asdict(self.auto)),
                "ratio_to_best": near.median if near else None,
                "is_within_5_percent": self.is_auto_near_best,
            },
            "best": winner.to_dict() if winner else None,
            "rows": [row.to_dict() for row in self.rows],
            "first_pass": [row.to_dict() for row in self.first_pass],
            "failures": [
                {**dataclasses.asdict(candidate), "error": why}
                for candidate, why in self.failures.items()
            ],
            "same_as": [
                {**dataclasses.asdict(candidate), "same_as": dataclasses.asdict(other)}
                for candidate, other in self.same_as.items()
            ],
            "is_complete": self.is_complete,
        }


def make_report(
    shape: Shape,
    *,
    l2_clip_norm: float,
    auto: Candidate,
    first_pass: Seconds,
    long_rounds: Seconds,
    facts: Mapping[Candidate, Facts],
    full_batch: Facts,
    failures: Mapping[Candidate, str],
    same_as: Mapping[Candidate, Candidate],
    is_complete: bool,
) -> ClippingReport:
    """Rows from the long rounds, or where a stop came before them from the first pass."""
    seconds = long_rounds if any(long_rounds.values()) else first_pass
    baseline, rows = make_rows(seconds, facts, full_batch=full_batch)
    _, first_rows = make_rows(first_pass, facts, full_batch=full_batch)
    winner = next((row.candidate for row in rows if row.candidate.is_ours), None)
    return ClippingReport(
        shape=shape,
        l2_clip_norm=l2_clip_norm,
        auto=auto,
        baseline=baseline,
        rivals=[row for row in rows if row.candidate.strategy == NON_PRIVATE],
        rows=[row for row in rows if row.candidate.strategy != NON_PRIVATE],
        first_pass=first_rows,
        failures=failures,
        same_as=same_as,
        auto_to_best=_within_rounds(seconds, auto, winner),
        is_complete=is_complete,
    )


def _within_rounds(seconds: Seconds, one: Candidate, other: Candidate | None) -> Ratio | None:
    """Over the rounds that both went through."""
    if one not in seconds or other is None:
        return None
    pairs = list(zip(seconds[one], seconds[other], strict=False))
    return Ratio.of([pair[0] for pair in pairs], [pair[1] for pair in pairs])
