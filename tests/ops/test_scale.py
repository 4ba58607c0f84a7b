"""The scale op."""

import jax
import jax.numpy as jnp
import numpy as np

from dpscale.ops.scale import ScaleGradients, scale
from dpscale.ops.taps import Weighting


def test_a_zero_scale_is_the_identity_and_gradients_follow():
    """Catches a factor of `scale` where `1 + scale` is meant."""
    x = jnp.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(scale(jnp.zeros(4), x), x)
    weights = jnp.array([0.0, 1.0, -1.0, 2.0])
    np.testing.assert_array_equal(scale(weights, x), x * jnp.array([1.0, 2.0, 0.0, 3.0]))
    gradient = jax.grad(lambda s: scale(s, x).sum())(weights)
    np.testing.assert_array_equal(gradient, x.sum(0))


def test_a_record_knows_each_examples_gradient(left_behind, assert_gradients):
    """Catches tokens that are averaged, and examples that mix."""
    generator = np.random.default_rng(0)
    x, y_grad = generator.standard_normal((2, 3, 5, 4)).astype(np.float32)
    weights, factors = jnp.ones(4), jnp.asarray([0.5, 1.0, 0.0], jnp.float32)
    record = left_behind(lambda tap: scale(weights, x, tap), ScaleGradients.empty(x), y_grad)
    each = np.sum(x.astype(np.float64) * y_grad, axis=1)
    assert_gradients(record, each, factors, 2e-6)
    _, pull_back = jax.vjp(lambda w, x: scale(w, x, Weighting(factors)), weights, x)
    weights_grad, x_grad = pull_back(y_grad)
    np.testing.assert_allclose(weights_grad, factors @ each, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(x_grad, 2 * y_grad)
