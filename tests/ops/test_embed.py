"""The embed op."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpscale.ops.embed import embed

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
