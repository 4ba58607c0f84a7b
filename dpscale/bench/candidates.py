"""Which ways to a gradient there are, and which of them deserve a long look. No JAX.

A candidate is a strategy, its rule for norms and a microbatch size. All are tried in a short
first pass; the long rounds are for those that came out near the front.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dpscale.config import ClippingConfig

NON_PRIVATE, PEER = "non-private", "jax-privacy"
STRATEGIES = ("vmap", "ghost", "bookkeeping")

FIRST_PASS_ROUNDS = 3
"""Rounds that everything goes through."""

WARM_UP_FACTOR, FIRST_PASS_FACTOR = 4.0, 1.4
"""How much slower than the best of its strategy a candidate may be to stay in the first pass:
at its very first call, which still pays for fresh memory, and after a timed round."""

NEAR, MOST_NEAR = 1.1, 6
"""Candidates within this factor of the best go through the long rounds, at most so many."""


@dataclass(frozen=True)
class Candidate:
    """One way to a gradient. `norm_rule` is None for strategies that have none."""

    strategy: str
    norm_rule: str | None
    microbatch_size: int

    @property
    def is_ours(self) -> bool:
        """Whether `[clipping]` of a config can ask for it."""
        return self.strategy in STRATEGIES

    @property
    def settings(self) -> dict[str, str | int]:
        """What `[clipping]` of a config says to have it."""
        return {
            "strategy": self.strategy,
            "norm_rule": self.norm_rule or "auto",
            "microbatch_size": self.microbatch_size,
        }

    def __str__(self) -> str:
        rule = f" {self.norm_rule}" if self.norm_rule else ""
        return f"{self.strategy}{rule}, microbatch {self.microbatch_size}"


def candidate_of(clipping: ClippingConfig) -> Candidate:
    """The candidate that a settled config asks for."""
    assert clipping.microbatch_size is not None, "a settled config"
    rule = None if clipping.strategy == "vmap" else clipping.norm_rule
    return Candidate(clipping.strategy, rule, clipping.microbatch_size)


def microbatch_sizes(most_examples: int) -> list[int]:
    """Powers of two up to so many examples.

    >>> microbatch_sizes(24)
    [1, 2, 4, 8, 16]
    """
    return [2**power for power in range(most_examples.bit_length())]


def all_candidates(
    most_examples: int,
    *,
    strategies: Sequence[str] = (),
    sizes: Sequence[int] = (),
    with_peer: bool = False,
) -> list[Candidate]:
    """Every candidate.

    Args:
      most_examples: Of a microbatch, where no `sizes` are given.
      strategies: The only ones to consider; none: all.
      sizes: The only microbatch sizes to consider; none: powers of two.
      with_peer: Whether there is a peer to consider.
    """
    rules = {"ghost": ("auto", "gram", "direct"), "bookkeeping": ("auto", "gram", "direct")}
    known = (*STRATEGIES, PEER) if with_peer else STRATEGIES
    return [
        Candidate(strategy, rule, size)
        for strategy in known
        if strategy in (strategies or known)
        for rule in rules.get(strategy, (None,))
        for size in sizes or microbatch_sizes(most_examples)
    ]


def baselines(batch_size: int, sizes: Sequence[int] = ()) -> list[Candidate]:
    """The non-private gradient at every microbatch size, the full batch always among them."""
    wanted = {*(sizes or microbatch_sizes(batch_size)), batch_size}
    return [Candidate(NON_PRIVATE, None, size) for size in sorted(wanted) if size <= batch_size]


def still_in(
    seconds: Mapping[Candidate, Sequence[float]], *, factor: float, keep: Candidate
) -> list[Candidate]:
    """Those whose best time is within `factor` of the best of their strategy, and `keep`."""
    best = {candidate: min(times) for candidate, times in seconds.items()}
    return [
        candidate
        for candidate in seconds
        if candidate == keep
        or best[candidate]
        <= factor * min(best[c] for c in best if c.strategy == candidate.strategy)
    ]


def contenders(seconds: Mapping[Candidate, Sequence[float]], *, keep: Candidate) -> list[Candidate]:
    """Who goes through the long rounds, by the median of the first pass.

    The best of each strategy (the peer and the baseline are strategies here), those near the
    best of ours, the baselines near the best baseline, and `keep`.
    """
    medians = {candidate: statistics.median(times) for candidate, times in seconds.items()}
    ranked = sorted(medians, key=lambda candidate: medians[candidate])
    chosen = [
        next(c for c in ranked if c.strategy == name) for name in {c.strategy for c in ranked}
    ]
    for group in (
        [c for c in ranked if c.is_ours],
        [c for c in ranked if c.strategy == NON_PRIVATE],
    ):
        near = [c for c in group if medians[c] <= NEAR * medians[group[0]]]
        chosen += near[:MOST_NEAR]
    return [c for c in ranked if c in chosen or c == keep]
