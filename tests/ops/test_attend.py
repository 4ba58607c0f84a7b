"""Attention without its projections against its formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpscale.ops.attend import attend

EXAMPLES, KV_HEADS, GROUP, CHANNELS = 2, 3, 2, 4
SCALE, CAP = 0.7, 2.0


def problem(queries=5, keys=7, mean=0.0):
    """Queries, keys, values, a gradient of what they average to."""
    generator = np.random.default_rng(0)
    grouped = (EXAMPLES, queries, KV_HEADS, GROUP, CHANNELS)
    single = (EXAMPLES, keys, KV_HEADS, CHANNELS)
    return (
        2.0 * generator.standard_normal(grouped),
        mean + generator.standard_normal(single),
        mean + generator.standard_normal(single),
        generator.standard_normal(grouped),
    )


def causal(queries=5, keys=7):
    """The last query sees all keys, and each one before it one key fewer."""
    return np.arange(keys) <= np.arange(queries)[:, None] + keys - queries


def reference(query, key, value, average_grad, visible, cap):
    """Average and three gradients: query by query, by the Jacobian of the softmax."""
    average, query_grad = np.zeros_like(query), np.zeros_like(query)
    key_grad, value_grad = np.zeros_like(key), np.zeros_like(value)
    visible = np.broadcast_to(visible, (len(query), query.shape[1], key.shape[1]))
    for b, s, k, g in np.ndindex(query.shape[:-1]):
        seen = np.flatnonzero(visible[b, s])
        keys, values = key[b, seen, k], value[b, seen, k]
        scaled = SCALE * keys @ query[b, s, k, g]
        scores = scaled if cap is None else cap * np.tanh(scaled / cap)
        slopes = 1.0 if cap is None else 1.0 / np.cosh(scaled / cap) ** 2
        weights = np.exp(scores) / np.exp(scores).sum()
        jacobian = np.diag(weights) - np.outer(weights, weights)
        average[b, s, k, g] = weights @ values
        scaled_grad = slopes * (jacobian @ values @ average_grad[b, s, k, g])
        query_grad[b, s, k, g] = SCALE * scaled_grad @ keys
        key_grad[b, seen, k] += SCALE * np.outer(scaled_grad, query[b, s, k, g])
        value_grad[b, seen, k] += np.outer(weights, average_grad[b, s, k, g])
    return average, query_grad, key_grad, value_grad


def by_autodiff(query, key, value, visible, *, scale, softcap):
    scores = jnp.einsum("bskgh,btkh->bksgt", query, key).astype(jnp.float32) * scale
    scores = softcap * jnp.tanh(scores / softcap)
    scores = jnp.where(visible[:, None, :], scores, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bksgt,btkh->bskgh", weights, value)


def found(op, query, key, value, average_grad, visible, cap, dtype):
    def run(*given):
        return op(*given, jnp.asarray(visible), scale=SCALE, softcap=cap)

    average, pull_back = jax.vjp(
        jax.jit(run), *(jnp.asarray(x, dtype) for x in (query, key, value))
    )
    return average, *pull_back(jnp.asarray(average_grad, dtype))


@pytest.mark.parametrize("cap", [None, CAP])
@pytest.mark.parametrize("is_shared", [True, False], ids=["one mask", "one for each example"])
@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 2e-6), ("float64", 5e-15)])
def test_averages_and_gradients_follow_the_formulas(dtype, rtol, is_shared, cap):
    """Catches heads that mix, a group's queries counted once, a slope or a term left out."""
    given = problem()
    visible = causal()
    if not is_shared:
        visible = np.stack([visible, visible & (np.arange(7) >= 2)])
    with jax.enable_x64(dtype == "float64"):
        results = found(attend, *given, visible, cap, dtype)
    for mine, expected in zip(results, reference(*given, visible, cap), strict=True):
        assert mine.dtype == dtype
        np.testing.assert_allclose(mine, expected, rtol=0, atol=rtol * np.abs(expected).max())


def test_scores_of_any_size_are_averaged():
    """Catches an exponential that overflows, as uncapped scores of a wide model would."""
    query, key, value, average_grad = problem()
    query[..., 0], key[..., 0] = 1e2, 1e2  # adds 7e3 to each score and changes no weight
    large, *_ = found(attend, query, key, value, average_grad, causal(), None, "float32")
    query[..., 0] = 0.0
    expected, *_ = found(attend, query, key, value, average_grad, causal(), None, "float32")
    np.testing.assert_allclose(large, expected, atol=2e-3)


def test_in_bfloat16_no_gradient_is_further_off_than_by_autodiff():
    """Catches weights and averages that were rounded apart.

    Keys and values have a mean: a query's gradient, Σ (score's gradient) · key, then shows by how
    much the gradients of its scores do not add up to zero.
    """
    rounded = [
        np.asarray(jnp.asarray(x, "bfloat16"), np.float64)
        for x in problem(queries=64, keys=64, mean=3.0)
    ]
    given = *rounded, causal(64, 64), 50.0
    exact = reference(*given)
    mine, theirs = (found(op, *given, "bfloat16") for op in (attend, by_autodiff))
    for expected, a, b in zip(exact, mine, theirs, strict=True):
        error, error_by_autodiff = (
            np.linalg.norm(np.asarray(x, np.float64) - expected) for x in (a, b)
        )
        assert error < error_by_autodiff
