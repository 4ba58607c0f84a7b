"""The dense op against plain matrix products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpscale.ops.dense import DenseFactors, dense, weight_gradient, weighted_total
from dpscale.ops.taps import Weighting


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


def factors_of(seed, seq_len, width_in, width_out, dtype=np.float32, num_examples=3):
    shapes = (width_in, width_out), (num_examples, seq_len, width_in)
    return arrays(seed, *shapes, (num_examples, seq_len, width_out), dtype=dtype)


def each_gradient(x, y_grad):
    return np.einsum("bsd,bsp->bdp", np.asarray(x, np.float64), np.asarray(y_grad, np.float64))


WEIGHTS = jnp.asarray([0.25, 0.0, 1.0], jnp.float32)


@pytest.mark.parametrize("rule", ["gram", "direct", "auto"])
@pytest.mark.parametrize("measures", [True, False], ids=["measuring", "keeping"])
@pytest.mark.parametrize(
    "sizes",
    [(4, 3, 8), (4, 8, 3), (70, 5, 5), (70, 6, 2)],
    ids=lambda sizes: "x".join(map(str, sizes)),
)
def test_a_record_knows_each_examples_gradient(
    sizes, measures, rule, left_behind, assert_gradients
):
    """Catches tokens or examples that mix, in each rule, narrow to wide and wide to narrow."""
    kernel, x, y_grad = factors_of(4, *sizes)
    announced = DenseFactors.empty(kernel, x)
    empty = announced.measuring(rule) if measures else announced.keeping(rule)
    record = left_behind(lambda tap: dense(kernel, x, tap), empty, y_grad)
    assert_gradients(record, each_gradient(x, y_grad), WEIGHTS, 2e-6)
    assert np.all(record.squares().rounding_B == 0)


@pytest.mark.parametrize("sizes", [(4, 3, 8), (4, 8, 3)])
def test_a_weighting_weights_the_kernels_gradient_alone(sizes):
    """Catches factors that are taken twice, or that reach the gradient of the activations."""
    kernel, x, y_grad = factors_of(5, *sizes)
    _, pull_back = jax.vjp(lambda k, x: dense(k, x, Weighting(WEIGHTS)), kernel, x)
    kernel_grad, x_grad = pull_back(y_grad)
    expected = np.tensordot(WEIGHTS, each_gradient(x, y_grad), 1)
    np.testing.assert_allclose(kernel_grad, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(x_grad, y_grad @ kernel.T, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", ["gram", "direct"])
@pytest.mark.parametrize("sizes", [(4, 3, 8), (4, 8, 3)])
def test_a_record_gives_rows_of_the_gradients(sizes, rule):
    """Catches a transposed gradient, or the rows of another example."""
    _, x, y_grad = factors_of(6, *sizes)
    index = jnp.asarray([[0, 2], [1, 1], [2, 0]])
    record = DenseFactors(x, y_grad).keeping(rule).filled(x, y_grad)
    expected = np.take_along_axis(each_gradient(x, y_grad), np.asarray(index)[:, :, None], 1)
    rows = record.turned_rows(index).swapaxes(1, 2)
    np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-6)


def rounding_errors(x, y_grad, factors):
    """What rounding adds to each example's gradient, per unit of factor: norms, and the bound."""
    record = DenseFactors(x, y_grad)
    exact = each_gradient(x, y_grad)
    added = [
        np.asarray(
            record.weighted_sum(jnp.where(jnp.arange(len(x)) == row, factors, 0.0)).finished()
        )
        for row in range(len(x))
    ]
    errors = np.asarray(added, np.float64) / np.asarray(factors)[:, None, None] - exact
    bound = np.sqrt(np.asarray(record.squares().rounding_B, np.float64))
    return np.linalg.norm(errors, axis=(1, 2)), bound


@pytest.mark.parametrize("sizes", [(1, 4, 6), (5, 6, 4), (70, 5, 3)])
@pytest.mark.parametrize("tokens", ["equal", "cancelling", "different"])
def test_rounding_to_bfloat16_stays_within_its_bound(sizes, tokens):
    """Catches a bound that takes rounding errors of tokens for independent, or forgets some."""
    for seed in range(10):
        _, x, y_grad = factors_of(seed, *sizes, dtype=jnp.bfloat16, num_examples=4)
        if tokens == "equal":
            x = jnp.broadcast_to(x[:, :1], x.shape)
        elif tokens == "cancelling":  # nothing is left of the gradient, all of the errors
            x, y_grad = (jnp.concatenate([x, x], 1), jnp.concatenate([y_grad, -y_grad], 1))
        factors = jnp.asarray(np.random.default_rng(seed).uniform(0.01, 1, 4), jnp.float32)
        errors, bound = rounding_errors(x, y_grad, factors)
        assert np.all(errors <= bound * (1 + 1e-5) + 1e-6)


@pytest.mark.parametrize("sizes", [(3, 2, 4), (3, 4, 2)])
def test_the_bound_on_rounding_is_reached(sizes):
    """Catches a bound that is left out, or of half a unit: here every entry is rounded up.

    A factor just above (1 + 2^-8) / 2 is halfway between two numbers of bfloat16.
    """
    seq_len, width_in, width_out = sizes
    x = jnp.ones((1, seq_len, width_in), jnp.bfloat16)
    y_grad = jnp.ones((1, seq_len, width_out), jnp.bfloat16)
    factors = jnp.asarray([(1 + 2.0**-8 + 2.0**-20) / 2], jnp.float32)
    errors, bound = rounding_errors(x, y_grad, factors)
    assert 0.99 * bound[0] <= errors[0] <= bound[0]
    norm = np.linalg.norm(each_gradient(x, y_grad)[0])
    assert errors[0] > 0.0038 * norm


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("rule", ["gram", "direct"])
@pytest.mark.parametrize("seq_len", [4, 70])
def test_every_contraction_of_a_record_is_float32_in_fact(dtype, rule, seq_len, contractions):
    """Catches a norm, a gradient or a sum that an accelerator would round."""
    kernel, x, y_grad = factors_of(7, seq_len, 3, 5, dtype=dtype)

    def program(x, y_grad, factors):
        announced = DenseFactors.empty(kernel, x)
        kept = announced.keeping(rule).filled(x, y_grad)
        measured = announced.measuring(rule).filled(x, y_grad)
        index = jnp.zeros((3, 1), jnp.int32)
        total = kept.weighted_sum(factors).finished()
        parts = kept.squares(), measured.squares(), kept.turned_rows(index), total
        return *parts, weighted_total(jnp.ones((30, 2)), jnp.ones(30))

    found = contractions(jax.make_jaxpr(program)(x, y_grad, WEIGHTS))
    assert len(found) >= 5
    assert all(contraction.is_exact for contraction in found), found
