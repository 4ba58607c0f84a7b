"""The runs that a law is fitted to, and which of those that were read are among them.

Every run is either used or listed with the reason why not. What excludes a run is a fault of
the run (it stopped early, its losses are no numbers, it diverged, it is there twice), never
that it did badly: a law of noise needs the runs that noise ruined.

**Diverged** is a run that ends above ln(vocab_size), where a model that has learned nothing
stands; and one that learned, and lost again more than half of what it had gained below that,
unless noise may have done it. Heavy noise does make a loss rise again. But more noise does no
good (the assumption by which curves are smoothed over the noise-batch ratio), so noise is no
excuse where there was none, or where a run of the same size, length and learning rate under at
least as much noise ended below the line. In all other cases the run stays.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dpscale.errors import InputError
from dpscale.scaling.forms import Array

Target = Literal["train_loss", "eval_loss"]

END_PART = 1 / 20
"""The share of a run's measurements whose mean tells how it ended (at least one)."""

LEARNED = 0.1
"""A run has learned something worth losing where it came this share of ln(vocab_size) below it."""

KEPT_GAIN = 0.5
"""A run that keeps less than this share of its best gain below ln(vocab_size) has lost it again."""


@dataclass(frozen=True)
class RunCurve:
    """One law-fitting run that finished: its coordinates and its losses on the way.

    Args:
      steps: float64[measurements], increasing; iterations done at each measurement.
      losses: float64[measurements], nats per token.
    """

    run_id: str
    num_params: int
    num_params_non_embedding: int
    iterations: int
    noise_batch_ratio: float
    learning_rate: float
    seed: int
    physical_batch_size: int
    seq_len: int
    vocab_size: int
    steps: Array
    losses: Array

    @property
    def uniform_loss(self) -> float:
        """Nats per token of a model that has learned nothing: ln(vocab_size)."""
        return math.log(self.vocab_size)


@dataclass(frozen=True)
class ExcludedRun:
    """A run that was left out of the fit, and why."""

    run_id: str
    reason: str


@dataclass(frozen=True)
class RunSet:
    """What was read: the usable runs, the others with their reasons, and where from.

    Args:
      notes: What the reader had to assume or passed over, a sentence each.
    """

    target: Target
    runs: tuple[RunCurve, ...]
    excluded: tuple[ExcludedRun, ...]
    source: str
    data_sha256: str
    notes: tuple[str, ...] = ()


def choose_runs(
    curves: Iterable[RunCurve],
    *,
    target: Target,
    source: str,
    data_sha256: str,
    excluded: Iterable[ExcludedRun] = (),
    notes: Iterable[str] = (),
) -> RunSet:
    """Sorts runs into usable ones and left-out ones.

    Args:
      curves: Runs whose steps are whole numbers and increase.
      excluded: Runs that are known to be left out already.

    Raises:
      InputError: No run is usable; every loss is above ln(vocab_size), so that the unit or the
        vocabulary is wrong; or the usable runs were not made under one setting (physical
        batch, sequence length, vocabulary), which a law cannot mix.
    """
    left_out = list(excluded)
    curves = list(curves)
    _expect_nats(curves, source)
    sound: list[RunCurve] = []
    for curve in curves:
        reason = _fault(curve)
        if reason is None:
            sound.append(curve)
        else:
            left_out.append(ExcludedRun(curve.run_id, reason))
    relapsed = _relapses(sound)
    usable: list[RunCurve] = []
    seen: dict[tuple[float, ...], str] = {}
    for curve in sound:
        reason = relapsed.get(curve.run_id) or _duplicate(curve, seen)
        if reason is None:
            usable.append(curve)
        else:
            left_out.append(ExcludedRun(curve.run_id, reason))
    _expect_one_setting(usable, left_out, source)
    return RunSet(target, tuple(usable), tuple(left_out), source, data_sha256, tuple(notes))


def _fault(curve: RunCurve) -> str | None:
    """What is wrong with a run by itself."""
    if curve.steps.size == 0:
        return "no measurement after the first iteration"
    bad = ~(np.isfinite(curve.losses) & (curve.losses > 0))
    if bad.any():
        return f"its loss at step {curve.steps[bad][0]:.0f} is {curve.losses[bad][0]:g}"
    last = curve.steps[-1]
    if last < curve.iterations:
        return f"its last measurement is at step {last:.0f} of {curve.iterations}"
    if last > curve.iterations:
        return f"it has a measurement at step {last:.0f}, beyond its {curve.iterations} iterations"
    _, end = _least_and_end(curve)
    if end > curve.uniform_loss:
        return (
            f"diverged: its last loss, {end:.3f}, is above ln(vocab_size) = "
            f"{curve.uniform_loss:.3f}"
        )
    return None


def _relapses(curves: Sequence[RunCurve]) -> dict[str, str]:
    """The runs that lost what they had gained without noise to explain it, with the reason."""
    siblings: dict[tuple[float, ...], list[RunCurve]] = {}
    for curve in curves:
        key = (curve.num_params, curve.iterations, curve.learning_rate, curve.physical_batch_size)
        siblings.setdefault(key, []).append(curve)
    found = {}
    for group in siblings.values():
        by_noise = sorted(group, key=lambda run: run.noise_batch_ratio, reverse=True)
        ends = {run.run_id: _least_and_end(run) for run in by_noise}
        for curve in by_noise:
            least, end = ends[curve.run_id]
            gain = curve.uniform_loss - least
            line = curve.uniform_loss - KEPT_GAIN * gain
            if gain < LEARNED * curve.uniform_loss or end <= line:
                continue
            steady = [
                other.run_id
                for other in by_noise
                if other.noise_batch_ratio >= curve.noise_batch_ratio
                and ends[other.run_id][1] <= line
            ]
            if curve.noise_batch_ratio == 0 or steady:
                why = f"{steady[0]} did not, with no less noise" if steady else "without any noise"
                found[curve.run_id] = (
                    f"diverged: its loss rose again from {least:.3f} to {end:.3f} ({why})"
                )
    return found


def _least_and_end(curve: RunCurve) -> tuple[float, float]:
    """The least mean loss over a window of the run, and that over its last window."""
    window = max(1, int(curve.losses.size * END_PART))
    means = np.convolve(curve.losses, np.full(window, 1 / window), mode="valid")
    return float(means.min()), float(means[-1])


def _duplicate(curve: RunCurve, seen: dict[tuple[float, ...], str]) -> str | None:
    key = (
        curve.num_params,
        curve.iterations,
        curve.noise_batch_ratio,
        curve.learning_rate,
        curve.seed,
        curve.physical_batch_size,
    )
    other = seen.setdefault(key, curve.run_id)
    return None if other == curve.run_id else f"duplicate of {other}"


def _expect_nats(curves: Sequence[RunCurve], source: str) -> None:
    """A whole sweep above ln(vocab_size) has not diverged: it was measured in something else."""
    above = [
        (curve.losses.min(), curve)
        for curve in curves
        if curve.losses.size and np.isfinite(curve.losses).all()
    ]
    if not above or any(least <= curve.uniform_loss for least, curve in above):
        return
    least, curve = min(above, key=lambda pair: float(pair[0]))
    raise InputError(
        source,
        f"every loss is above ln(vocab_size), the least is {least:.3f} against ln("
        f"{curve.vocab_size}) = {curve.uniform_loss:.3f}: expected nats per token (bits times "
        "0.693) and the vocab_size that the runs had.",
    )


def _expect_one_setting(runs: list[RunCurve], excluded: list[ExcludedRun], source: str) -> None:
    if not runs:
        raise InputError(source, f"no usable law-fitting run: {_reasons(excluded)}.")
    for name in ("physical_batch_size", "seq_len", "vocab_size"):
        values: list[Any] = sorted({getattr(run, name) for run in runs})
        if len(values) > 1:
            raise InputError(
                source,
                f"runs with different {name} ({', '.join(map(str, values))}); a law describes "
                "one: fit them apart.",
            )


def _reasons(excluded: Sequence[ExcludedRun]) -> str:
    """The most frequent reasons, in one line."""
    counts = Counter(run.reason for run in excluded).most_common()
    if not counts:
        return "there are no runs"
    shown = "; ".join(f"{reason} ({count})" for reason, count in counts[:3])
    return shown + (f"; and {len(counts) - 3} other reasons" if len(counts) > 3 else "")
