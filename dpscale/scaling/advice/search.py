"""The best configuration among the candidates, by noise that is exact where it counts.

A candidate has the most iterations that compute and limits allow, or fewer where the law says that
more are worse: at a given batch noise grows with the number of iterations, so that beyond some
compute a longer run loses. This is what makes the loss saturate, and a larger budget never
does worse than a smaller one.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dpscale.compute import train_flops
from dpscale.scaling.advice.budget import Accounting
from dpscale.scaling.advice.candidates import Candidates, list_candidates
from dpscale.scaling.advice.question import Question, TrustRegion
from dpscale.scaling.forms import Array

NEAR_OPTIMAL: Final = 0.01
"""Candidates within this share of the best loss are near-optimal (the paper's 1 %)."""

SHORTER: Final = 2**-0.5
"""Runs are shortened in such steps, until that no longer helps."""

SETTLED: Final = 1e-4
"""The search ends when a candidate with exact noise is within this share of the best."""

MOST_ROUNDS: Final = 8
"""Exact calibrations at most for one answer; one or two are usual."""


@dataclass(frozen=True)
class Field:
    """Candidates that the law can be trusted for, each at its best length, and their losses."""

    question: Question
    candidates: Candidates
    losses: Array

    @property
    def best(self) -> int:
        """Index of the least loss."""
        return int(np.argmin(self.losses))

    @property
    def least_loss(self) -> float:
        """Of any candidate, in nats per token; inf where none is trusted."""
        return float(self.losses.min(initial=np.inf))

    @property
    def is_near_optimal(self) -> NDArray[np.bool_]:
        """Which candidates are within 1 % of the least loss."""
        return np.asarray(self.losses <= (1 + NEAR_OPTIMAL) * self.losses.min())

    def paid_by(self, flops: float, trust: TrustRegion) -> "Field":
        """The same candidates, each no longer than compute pays; where still trusted."""
        listed, budget = self.candidates, self.question.budget
        unit = train_flops(num_params=1, batch_size=1, iterations=1, seq_len=budget.seq_len)
        paid = np.floor(flops / (unit * listed.num_params * listed.expected_batch_size))
        iterations = np.minimum(listed.iterations, paid)
        possible = iterations >= self.question.limits.fewest_iterations
        shorter = dataclasses.replace(listed, iterations=iterations).some(possible)
        where = shorter.num_params, shorter.expected_batch_size, shorter.iterations
        shorter = shorter.some(trust.holds(*where))
        return Field(self.question, shorter, self.question.losses_of(shorter))

    def exact_noise(self, at: int) -> float | None:
        """The exact noise multiplier of a candidate, where it has been worked out."""
        _, batch, iterations = self.candidates.place(at)
        return self.question.noise.exact.get((batch, iterations))

    def with_exact(self, at: int, accounting: Accounting) -> "Field":
        """The same with the exact noise worked out at one candidate."""
        _, batch, iterations = self.candidates.place(at)
        noise = accounting.exact(batch, iterations)
        field = self.question.noise.with_exact(batch, iterations, noise)
        question = dataclasses.replace(self.question, noise=field)
        return Field(question, self.candidates, question.losses_of(self.candidates))


def look(question: Question, trust: TrustRegion) -> Field:
    """Every trusted candidate of the question's budget, at its best length."""
    candidates = list_candidates(question.budget, question.limits)
    iterations, is_trusted = _best_iterations(question, trust, candidates)
    chosen = dataclasses.replace(candidates, iterations=iterations).some(is_trusted)
    return Field(question, chosen, question.losses_of(chosen))


def _best_iterations(
    question: Question, trust: TrustRegion, candidates: Candidates
) -> tuple[Array, NDArray[np.bool_]]:
    """The iterations at which each candidate does best, and whether the law is trusted there.

    Runs grow shorter as long as that helps, or while the law is not trusted.
    """
    size, batch = candidates.num_params, candidates.expected_batch_size
    fewest = np.ceil(question.limits.fewest_iterations)

    def trusted_losses(chosen: NDArray[np.intp], iterations: Array) -> Array:
        where = (size[chosen], batch[chosen], iterations)
        losses = question.losses(*where)
        return np.where((iterations >= fewest) & trust.holds(*where), losses, np.inf)

    every = np.arange(size.size, dtype=np.intp)
    best = candidates.iterations.copy()
    least = trusted_losses(every, best)
    longer, shorter = np.full(size.size, np.inf), np.full(size.size, np.inf)
    active, at = every, best
    while active.size:
        at = np.floor(at * SHORTER)
        possible = at >= fewest
        active, at = active[possible], at[possible]
        losses = trusted_losses(active, at)
        shorter[active] = losses
        better = (losses < least[active]) | np.isinf(least[active])
        active, at, losses = active[better], at[better], losses[better]
        longer[active], shorter[active] = least[active], np.inf
        best[active], least[active] = at, losses
    between = np.isfinite(longer) & np.isfinite(shorter)
    peak = _vertex(longer[between], least[between], shorter[between])
    best[between] = np.maximum(np.round(best[between] * SHORTER**peak), fewest)
    return best, np.isfinite(least)


def _vertex(before: Array, middle: Array, after: Array) -> Array:
    """Where the parabola through three equally spaced values is least, in steps from the middle."""
    bend = before - 2 * middle + after
    return np.asarray(np.clip((before - after) / (2 * np.maximum(bend, 1e-300)), -0.5, 0.5))


@dataclass(frozen=True)
class Settled:
    """A field in which the noise of candidate `at` is exact: `noise_multiplier`."""

    field: Field
    at: int
    noise_multiplier: float


def settle(
    field: Field, accounting: Accounting, choose: Callable[[Field], int] | None = None
) -> Settled:
    """The candidate that `choose` takes once exact noise confirms it; default: the best.

    Exact noise is worked out where the best seems to be, which corrects the rest, and so on, until
    a candidate with exact noise is as good as the best; then in the same way for what
    `choose` takes.
    """
    for _ in range(MOST_ROUNDS):
        if _best_exact(field) is not None:
            break
        field = field.with_exact(field.best, accounting)
    at = _best_exact(field)
    if choose is not None or at is None:
        choose = choose or (lambda field: field.best)
        at = choose(field)
        for _ in range(MOST_ROUNDS):
            if field.exact_noise(at) is not None:
                break
            field = field.with_exact(at, accounting)
            last, at = at, choose(field)
        else:
            at = last  # in turns between two that are as good: the one whose noise is known
    noise = field.exact_noise(at)
    assert noise is not None, "the loops end at a candidate with exact noise"
    return Settled(field, at, noise)


def _best_exact(field: Field) -> int | None:
    """The best candidate with exact noise, if it is as good as the best of all."""
    as_good = np.flatnonzero(field.losses <= (1 + SETTLED) * field.least_loss)
    exact = [int(at) for at in as_good if field.exact_noise(int(at)) is not None]
    return min(exact, key=lambda at: float(field.losses[at]), default=None)
