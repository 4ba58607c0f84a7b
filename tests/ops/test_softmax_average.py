"""The softmax average of values against its formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpscale.ops.softmax_average import softmax_average

EXAMPLES, KV_HEADS, GROUP, QUERIES, KEYS, CHANNELS = 2, 3, 2, 5, 7, 4


def problem(queries=QUERIES, keys=KEYS, mean=0.0):
    """Scores of queries that see the keys up to their own, which is the last for the last one."""
    generator = np.random.default_rng(0)
    heads = (EXAMPLES, KV_HEADS, GROUP)
    scores = 3.0 * generator.standard_normal((*heads, queries, keys))
    is_seen = np.arange(keys) <= np.arange(queries)[:, None] + keys - queries
    scores[..., ~is_seen] = -np.inf
    values = mean + generator.standard_normal((EXAMPLES, keys, KV_HEADS, CHANNELS))
    return scores, values, generator.standard_normal((*heads, queries, CHANNELS))


def reference(scores, values, average_grad):
    """Average, gradients of scores and of values; query by query, by the softmax's Jacobian."""
    average, score_grad = np.zeros_like(average_grad), np.zeros_like(scores)
    value_grad = np.zeros_like(values)
    for at in np.ndindex(scores.shape[:-1]):
        values_TxT = values[at[0], :, at[1]]
        weights = np.exp(scores[at]) / np.exp(scores[at]).sum()
        jacobian = np.diag(weights) - np.outer(weights, weights)
        average[at] = weights @ values_TxT
        score_grad[at] = jacobian @ values_TxT @ average_grad[at]
        value_grad[at[0], :, at[1]] += np.outer(weights, average_grad[at])
    return average, score_grad, value_grad


def found(op, scores, values, average_grad, dtype):
    wide = jnp.promote_types(dtype, jnp.float32)
    given = jnp.asarray(scores, wide), jnp.asarray(values, dtype)
    average, pull_back = jax.vjp(jax.jit(op), *given)
    return average, *pull_back(jnp.asarray(average_grad, dtype))


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 2e-6), ("float64", 2e-15)])
def test_average_and_gradients_are_those_of_the_softmax(dtype, rtol):
    """Catches heads that mix, a group's queries counted once, and a term left out."""
    given = problem()
    with jax.enable_x64(dtype == "float64"):
        for mine, expected in zip(
            found(softmax_average, *given, dtype), reference(*given), strict=True
        ):
            assert mine.dtype == dtype
            np.testing.assert_allclose(mine, expected, rtol=0, atol=rtol * np.abs(expected).max())


def test_scores_of_any_size_are_averaged():
    """Catches an exponential that overflows, as uncapped scores of a wide model would."""
    scores, values, average_grad = problem()
    for offset in (-1e4, 1e4):
        for mine, expected in zip(
            found(softmax_average, scores + offset, values, average_grad, "float32"),
            reference(scores, values, average_grad),
            strict=True,
        ):
            np.testing.assert_allclose(mine, expected, atol=2e-3)


def test_in_bfloat16_gradients_meet_the_mean_of_the_keys_no_worse_than_by_autodiff():
    """Catches weights and averages that were rounded apart.

    Values and keys with a mean: a query's gradient, Σ (score's gradient) · key, then loses what
    the gradients of its scores do not add up to zero.
    """
    rounded = [
        np.asarray(jnp.asarray(x, dtype), np.float64)
        for x, dtype in zip(
            problem(queries=64, keys=64, mean=3.0), ("float32", "bfloat16", "bfloat16"), strict=True
        )
    ]
    keys = 3.0 + np.random.default_rng(1).standard_normal((64, CHANNELS))

    def by_autodiff(scores, values):
        weights = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
        return jnp.einsum("bkgst,btkh->bkgsh", weights, values)

    def query_grad(score_grad):
        return np.asarray(score_grad, np.float64) @ keys

    exact = query_grad(reference(*rounded)[1])
    error, error_by_autodiff = (
        np.linalg.norm(query_grad(found(op, *rounded, "bfloat16")[1]) - exact)
        for op in (softmax_average, by_autodiff)
    )
    assert error < error_by_autodiff
