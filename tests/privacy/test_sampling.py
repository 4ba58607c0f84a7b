"""The Poisson sampler: the distribution that the accountant assumes."""

import concurrent.futures

import numpy as np
import pytest
from scipy import stats

from dpscale.errors import InputError
from dpscale.privacy.sampling import PoissonSampler

STEPS = 4000


def sampler(n: int = 50, b: int = 10, cap: int = 50, key: int = 12345) -> PoissonSampler:
    return PoissonSampler(dataset_size=n, expected_batch_size=b, truncated_batch_size=cap, key=key)


@pytest.fixture(scope="module")
def membership() -> np.ndarray:
    """bool[steps, units]: who was in which batch."""
    draw = sampler()
    member = np.zeros((STEPS, 50), bool)
    for step in range(STEPS):
        member[step, draw(step)] = True
    return member


def test_every_unit_is_included_with_probability_q(membership: np.ndarray) -> None:
    # Catches: fixed-size batches of another mean, a unit that is never drawn, off-by-one indices.
    counts = membership.sum(axis=0)
    p_values = stats.binomtest  # one test a unit, Bonferroni over 50 units
    assert min(p_values(int(k), STEPS, 0.2).pvalue for k in counts) > 1e-3 / 50


def test_batch_sizes_are_binomial(membership: np.ndarray) -> None:
    # Catches: shuffling or fixed batches in place of sampling, whose sizes do not vary.
    sizes = membership.sum(axis=1)
    expected = STEPS * stats.binom.pmf(np.arange(5, 16), 50, 0.2)
    observed = np.array([(sizes == size).sum() for size in range(5, 16)])
    rest = STEPS - observed.sum()
    chi2 = ((observed - expected) ** 2 / expected).sum()
    chi2 += (rest - (STEPS - expected.sum())) ** 2 / (STEPS - expected.sum())
    assert stats.chi2.sf(chi2, df=11) > 1e-4


def test_units_are_independent_within_a_step(membership: np.ndarray) -> None:
    # Catches: sampling without replacement of a fixed size, whose pairs are anticorrelated.
    correlation = np.corrcoef(membership.T.astype(float))
    off_diagonal = correlation[~np.eye(50, dtype=bool)]
    assert abs(off_diagonal.mean()) < 4 / np.sqrt(STEPS * 50 * 49 / 2)
    assert np.abs(off_diagonal).max() < 5.5 / np.sqrt(STEPS)


def test_steps_are_independent(membership: np.ndarray) -> None:
    # Catches: one epoch-long shuffle, or a step that repeats the one before.
    centred = membership - 0.2
    together = (centred[1:] * centred[:-1]).mean()
    assert abs(together) < 4 * 0.16 / np.sqrt(STEPS * 50)


def test_truncation_keeps_a_uniform_subset_and_tells_the_drawn_size() -> None:
    # Catches: cutting the largest indices, or drawing again for the count.
    free, capped = sampler(cap=50), sampler(cap=8)
    kept = np.zeros(50)
    for step in range(STEPS):
        batch = capped(step)
        assert len(batch) == min(8, free.num_drawn(step)) == min(8, len(free(step)))
        assert set(batch) <= set(free(step))
        kept[batch] += 1
    assert stats.chisquare(kept).pvalue > 1e-4


def test_a_batch_holds_no_unit_twice() -> None:
    for step in range(200):
        batch = sampler()(step)
        assert len(set(batch.tolist())) == len(batch)


def test_pure_function_of_key_and_step() -> None:
    # Catches: hidden state, so that another order of calls, thread or host sees other batches.
    draw = sampler()
    forward = [draw(step).tolist() for step in range(30)]
    fresh = sampler()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(lambda step: fresh(step).tolist(), range(30)))
    backward = [sampler()(step).tolist() for step in reversed(range(30))][::-1]
    assert forward == threaded == backward
    assert forward != [sampler(key=12346)(step).tolist() for step in range(30)]


def test_work_is_proportional_to_the_batch() -> None:
    # Catches: an O(N) permutation or mask, which would ask for 8 TB here.
    draw = sampler(n=10**12, b=100, cap=1000)
    batch = draw(0)
    assert 40 < len(batch) < 200
    assert batch.max() < 10**12
    assert batch.max() > 10**10


def test_key_is_not_shown() -> None:
    assert "12345" not in repr(sampler())


def test_expected_batch_above_the_data_set_is_an_error() -> None:
    with pytest.raises(InputError, match="expected_batch_size"):
        sampler(n=5, b=10)
