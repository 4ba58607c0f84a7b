"""The scale op."""

import jax
import jax.numpy as jnp
import numpy as np

from dpscale.ops.scale import scale


def test_a_zero_scale_is_the_identity_and_gradients_follow():
    """Catches a factor of `scale` where `1 + scale` is meant."""
    x = jnp.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(scale(jnp.zeros(4), x), x)
    weights = jnp.array([0.0, 1.0, -1.0, 2.0])
    np.testing.assert_array_equal(scale(weights, x), x * jnp.array([1.0, 2.0, 0.0, 3.0]))
    gradient = jax.grad(lambda s: scale(s, x).sum())(weights)
    np.testing.assert_array_equal(gradient, x.sum(0))
