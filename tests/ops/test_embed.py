"""The embed op."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpscale.ops.embed import EmbedFactors, embed
from dpscale.ops.taps import CANCELLATION, Weighting

TABLE = jnp.arange(12.0, dtype=jnp.float32).reshape(4, 3)


@pytest.mark.parametrize("odd_token", [4, -1, -4, 2**31 - 1])
def test_a_token_outside_the_vocabulary_is_nan_and_no_other_token(odd_token):
    """Catches ids that are clamped or counted from the end."""
    rows = embed(TABLE, jnp.array([0, odd_token, 3]), dtype=jnp.dtype("float32"))
    assert np.isnan(rows[1]).all()
    np.testing.assert_array_equal(rows[jnp.array([0, 2])], TABLE[jnp.array([0, 3])])


def test_repeated_tokens_add_their_gradients_in_float32():
    """Catches the last occurrence winning, and a sum in bfloat16 (which stops at 256)."""
    tokens = jnp.full((1, 1000), 2)
    gradient = jax.grad(
        lambda table: embed(table, tokens, dtype=jnp.dtype("bfloat16")).astype(jnp.float32).sum()
    )(TABLE)
    assert gradient.dtype == jnp.float32
    np.testing.assert_array_equal(gradient, [[0] * 3, [0] * 3, [1000] * 3, [0] * 3])


TOKENS = jnp.asarray([[1, 1, 3, 1], [0, 2, 2, 0], [3, 2, 1, 0]])
WEIGHTS = jnp.asarray([0.5, 1.0, 0.0], jnp.float32)


def reading_gradients(seed, dtype):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((3, 4, 3)), dtype)


def each_gradient(x_grad):
    total = np.zeros((3, 4, 3))
    for example, (tokens, rows) in enumerate(zip(TOKENS, x_grad, strict=True)):
        for token, row in zip(tokens, rows, strict=True):
            total[example, token] += np.asarray(row, np.float64)
    return total


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_record_adds_up_the_readings_of_a_token(dtype, left_behind, assert_gradients):
    """Catches a norm that takes two readings of one token for two rows."""
    x_grad = reading_gradients(0, dtype)
    empty = EmbedFactors.empty(TABLE, TOKENS, dtype)
    record = left_behind(lambda tap: embed(TABLE, TOKENS, dtype=dtype, tap=tap), empty, x_grad)
    assert_gradients(record, each_gradient(x_grad), WEIGHTS, 2e-6)
    assert np.all(record.squares().rounding_B == 0)


def test_the_bound_on_what_cancels_is_its_formula():
    """Catches readings of different tokens taken for ones that cancel, and equal ones forgotten."""
    x_grad = reading_gradients(2, jnp.float32)
    lengths = np.linalg.norm(np.asarray(x_grad, np.float64), axis=2)
    of_rows = [
        [lengths[example, TOKENS[example] == token].sum() for token in range(4)]
        for example in range(3)
    ]
    expected = CANCELLATION * 2.0**-24 * np.square(of_rows).sum(axis=1)
    squares = EmbedFactors(TOKENS, x_grad, 4).squares()
    np.testing.assert_allclose(squares.error_B, expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_weighting_weights_the_tables_gradient(dtype):
    """Catches factors that are rounded, forgotten or taken twice."""
    x_grad = reading_gradients(1, dtype)
    _, pull_back = jax.vjp(
        lambda table: embed(table, TOKENS, dtype=dtype, tap=Weighting(WEIGHTS)), TABLE
    )
    expected = np.tensordot(WEIGHTS, each_gradient(x_grad), 1)
    np.testing.assert_allclose(pull_back(x_grad)[0], expected, rtol=1e-6, atol=1e-6)


def test_a_token_outside_the_vocabulary_adds_to_no_row():
    """Catches an id that is clamped or counted from the end when gradients are added."""
    record = EmbedFactors(jnp.asarray([[0, 4, -1]]), jnp.ones((1, 3, 2)), vocab_size=4)
    total = record.weighted_sum(jnp.ones(1)).finished()
    np.testing.assert_array_equal(total, [[1, 1], [0, 0], [0, 0], [0, 0]])
