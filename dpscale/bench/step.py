"""What a whole private step costs: clipping, noise and Adam, on Poisson batches.

The private step is the one that runs train with. It meets a new Poisson batch each round; the
non-private step meets as many of the same examples as such a batch holds in expectation. The
copy of a batch to the device is timed. Drawing and reading it is not: in a run that happens in
the background, ahead of the device.
"""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dpscale.bench.candidates import FIRST_PASS_ROUNDS, baselines, candidate_of
from dpscale.bench.draws import POOL, Draws, default_cap
from dpscale.bench.programs import some_tokens
from dpscale.bench.shapes import Shape
from dpscale.bench.step_parts import StepParts
from dpscale.bench.timing import Call, Ratio, Stopwatch, fastest
from dpscale.config import ClippingConfig, OptimizerConfig

_PRIVATE, _GRADIENT, _NOISE, _OPTIMIZER = "private step", "gradient", "noise", "optimizer"

_MOST_RIVALS = 2
"""Microbatch sizes of the non-private step that go through the long rounds."""


@dataclass(frozen=True)
class StepReport:
    """The private step beside the non-private one, and what it consists of.

    Attributes:
      clipping: What was measured, nothing left open.
      baseline_microbatch_size: Of the fastest non-private step.
      private_seconds: Median over rounds; the others alike.
      time_ratio: Of whole steps, within rounds.
      time_ratio_per_example: The same, each step's time divided by its number of examples.
      time_ratio_in_all: Of the time of all rounds, which is what a run pays. A step's time is that
        of a whole number of microbatches, of which a median takes the more frequent one.
      drawn: How many examples each round's Poisson batch held.
      slots: Rows of a batch, padding included; microbatches of padding alone are skipped.
      gradient_seconds: Of the clipped sum, compiled by itself, on the same batches.
      noise_seconds: Of drawing and adding noise, once for the logical batch.
      optimizer_seconds: Of Adam.
    """

    shape: Shape
    clipping: ClippingConfig
    baseline_microbatch_size: int
    rounds: int
    private_seconds: float
    non_private_seconds: float
    time_ratio: Ratio
    time_ratio_per_example: Ratio
    time_ratio_in_all: float
    drawn: Sequence[int]
    slots: int
    gradient_seconds: float
    noise_seconds: float
    optimizer_seconds: float
    is_complete: bool

    @property
    def mean_drawn(self) -> float:
        """Examples in a batch, on average."""
        return statistics.fmean(self.drawn)

    @property
    def shares(self) -> dict[str, float]:
        """Each part's time by itself, as a share of the private step's."""
        parts = ("gradient", "noise", "optimizer")
        return {part: getattr(self, f"{part}_seconds") / self.private_seconds for part in parts}

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            **dataclasses.asdict(self),
            "shape": {**dataclasses.asdict(self.shape), "num_params": self.shape.num_params},
            "mean_drawn": self.mean_drawn,
            "shares": self.shares,
        }


def measure_step(
    shape: Shape,
    clipping: ClippingConfig,
    optimizer: OptimizerConfig,
    stopwatch: Stopwatch,
    *,
    rounds: int,
    seed: int,
    truncated_batch_size: int | None = None,
) -> StepReport | None:
    """Measures one shape; None when it was stopped before anything had been timed.

    Args:
      clipping: Settled.
      truncated_batch_size: Cap of a Poisson batch; absent: `default_cap`.
    """
    draws = Draws.of(
        some_tokens(shape.model, POOL * shape.batch_size, seed),
        expected_batch_size=shape.batch_size,
        truncated_batch_size=truncated_batch_size or default_cap(shape.batch_size),
        microbatch_size=candidate_of(clipping).microbatch_size,
        rounds=max(rounds, FIRST_PASS_ROUNDS),
        seed=seed,
    )
    parts = StepParts(shape, clipping, optimizer, draws, seed)
    sizes = {
        f"non-private step, microbatch {candidate.microbatch_size}": candidate.microbatch_size
        for candidate in baselines(shape.batch_size)
    }
    rivals = _fastest_few(
        {name: parts.non_private_step(size) for name, size in sizes.items()}, stopwatch
    )
    private = {
        _PRIVATE: parts.private_step(),
        _GRADIENT: parts.gradient(),
        _NOISE: parts.noise(),
        _OPTIMIZER: parts.optimizer(),
    }
    if not rivals or not _warmed_up(private, stopwatch):
        return None
    seconds = stopwatch.rounds({**private, **rivals}, rounds)
    if not seconds[_PRIVATE]:
        return None
    rival = fastest({name: seconds[name] for name in rivals})
    drawn = [len(indices) for indices in draws.poisson[: len(seconds[_PRIVATE])]]
    return StepReport(
        shape=shape,
        clipping=clipping,
        baseline_microbatch_size=sizes[rival],
        rounds=len(drawn),
        private_seconds=statistics.median(seconds[_PRIVATE]),
        non_private_seconds=statistics.median(seconds[rival]),
        time_ratio=Ratio.of(seconds[_PRIVATE], seconds[rival]),
        time_ratio_per_example=Ratio.of(
            [time / max(1, size) for time, size in zip(seconds[_PRIVATE], drawn, strict=True)],
            [time / shape.batch_size for time in seconds[rival]],
        ),
        time_ratio_in_all=sum(seconds[_PRIVATE]) / sum(seconds[rival]),
        drawn=drawn,
        slots=draws.slots,
        gradient_seconds=statistics.median(seconds[_GRADIENT]),
        noise_seconds=statistics.median(seconds[_NOISE]),
        optimizer_seconds=statistics.median(seconds[_OPTIMIZER]),
        is_complete=not stopwatch.stop.is_set,
    )


def _fastest_few(calls: Mapping[str, Call], stopwatch: Stopwatch) -> dict[str, Call]:
    """Those in front after a short first pass; empty where a stop came before."""
    if not _warmed_up(calls, stopwatch):
        return {}
    seconds = stopwatch.rounds(calls, FIRST_PASS_ROUNDS)
    if stopwatch.stop.is_set:
        return {}
    ranked = sorted(seconds, key=lambda name: statistics.median(seconds[name]))
    return {name: calls[name] for name in ranked[:_MOST_RIVALS]}


def _warmed_up(calls: Mapping[str, Call], stopwatch: Stopwatch) -> bool:
    """Calls each once, which compiles it; False where a stop came before the end."""
    for index, (name, call) in enumerate(calls.items()):
        if stopwatch.stop.is_set:
            return False
        stopwatch.observe(f"compiling: {name}", index, len(calls))
        call(0)
    return True
