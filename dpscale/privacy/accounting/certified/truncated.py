"""Batches above a cap, cut to a uniform subset of the cap's size.

Let τ be the probability that some of the T batches is drawn larger than the cap. Under zero-out
neighbours the law of the drawn batches is the same on both sides, and outside that event the cut
mechanism is the uncut one: for every set of outputs their probabilities differ by at most τ. So

    delta_cut(ε) ≤ delta(ε) + τ (1 + e^ε)    and    delta_cut(ε) ≥ delta(ε) − τ (1 + e^ε),

the second because the uncut mechanism's delta is reached, by one record whose contribution is as
large as may be and others that contribute nothing. τ is at most T Pr[Binomial(N, q) > cap], and
that at most e^{−N·KL(k/N ‖ q)} with k = cap + 1 (Chernoff and Hoeffding).
"""

import math

from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian


def log_overflow_bound(mechanism: SubsampledGaussian) -> float:
    """The log of a bound on τ; minus infinity without a cap that can be exceeded."""
    cap, size = mechanism.truncated_batch_size, mechanism.dataset_size
    if cap is None or cap >= size:
        return -math.inf
    expected, most = mechanism.expected_batch_size, cap + 1
    above = most * math.log1p((most - expected) / expected)
    rest = 0.0
    if most < size:
        rest = (size - most) * math.log1p(-(most - expected) / (size - expected))
    rounding = 1e-14 * (abs(above) + abs(rest))
    return min(0.0, math.log(mechanism.iterations) - (above + rest) + rounding)


def slack(log_overflow: float, epsilon: float) -> float:
    """τ (1 + e^ε), rounded up."""
    log_slack = log_overflow + max(epsilon, 0.0) + math.log1p(math.exp(-abs(epsilon)))
    return math.exp(min(log_slack + 1e-12, 700.0))
