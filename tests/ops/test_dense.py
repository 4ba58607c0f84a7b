"""The dense op against plain matrix products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpscale.ops.dense import dense, weight_gradient


def arrays(seed, *shapes, dtype=np.float32):
    generator = np.random.default_rng(seed)
    return [jnp.asarray(generator.standard_normal(shape), dtype) for shape in shapes]


@pytest.mark.parametrize(("width_in", "width_out"), [(3, 8), (8, 3), (5, 5)])
def test_value_and_gradients_are_those_of_a_matrix_product(width_in, width_out):
    """Catches a transposed or missing term in the rule, narrow to wide and wide to narrow."""
    kernel, x, y_grad = arrays(0, (width_in, width_out), (2, 4, width_in), (2, 4, width_out))
    y, pullback = jax.vjp(dense, kernel, x)
    expected_y, expected_pullback = jax.vjp(lambda k, x: x @ k, kernel, x)
    np.testing.assert_allclose(y, expected_y, rtol=1e-5, atol=1e-6)
    for actual, expected in zip(pullback(y_grad), expected_pullback(y_grad), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(
    leading=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    width_in=st.integers(1, 5),
    width_out=st.integers(1, 5),
)
def test_the_weight_gradient_sums_outer_products(leading, width_in, width_out):
    """Catches a token left out or counted twice, for any number of leading axes."""
    x, y_grad = arrays(1, (*leading, width_in), (*leading, width_out))
    rows = zip(x.reshape(-1, width_in), y_grad.reshape(-1, width_out), strict=True)
    expected = sum(np.outer(a, b) for a, b in rows)
    np.testing.assert_allclose(weight_gradient(x, y_grad), expected, rtol=1e-5, atol=1e-5)


def test_vmap_gives_each_example_its_own_weight_gradient():
    """Catches a rule that adds up over examples where each is wanted."""
    kernel, x = arrays(2, (3, 5), (4, 6, 3))
    each = jax.vmap(jax.grad(lambda k, x: jnp.sum(dense(k, x) ** 2)), (None, 0))(kernel, x)
    for row, grad in zip(x, each, strict=True):
        np.testing.assert_allclose(grad, 2 * row.T @ (row @ kernel), rtol=1e-4, atol=1e-4)


def test_bfloat16_products_accumulate_in_float32():
    """Catches bfloat16 sums, which stop growing at 256 ones."""
    num_terms = 4096
    kernel = jnp.ones((num_terms, 1), jnp.float32)
    x = jnp.ones((1, num_terms), jnp.bfloat16)
    assert dense(kernel, x).dtype == jnp.bfloat16
    assert float(dense(kernel, x)[0, 0]) == num_terms
    gradient = weight_gradient(
        jnp.ones((num_terms, 1), jnp.bfloat16), jnp.full((num_terms, 1), 1.0078125, jnp.bfloat16)
    )
    assert gradient.dtype == jnp.float32
    assert float(gradient[0, 0]) == num_terms * 1.0078125


def test_float32_contractions_ask_for_full_precision():
    """Catches a product that an accelerator would round to bfloat16 or TF32."""
    kernel, x = arrays(3, (3, 5), (4, 3))
    gradient = jax.grad(lambda k, x: jnp.sum(dense(k, x)), argnums=(0, 1))
    text = str(jax.make_jaxpr(gradient)(kernel, x))
    assert text.count("dot_general") == text.count("precision=(Precision.HIGHEST") == 3
