"""Ops computed as one against each by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpscale.ops.dense import DenseFactors, dense
from dpscale.ops.side_by_side import Columns, dense_side_by_side, empty_records
from dpscale.ops.taps import Weighting

WIDTHS = (4, 1, 3)
WEIGHTS = jnp.asarray([0.25, 0.0, 1.0], jnp.float32)


def arrays(seed, *shapes, dtype=np.float32):
    generator = np.random.default_rng(seed)
    return [jnp.asarray(generator.standard_normal(shape), dtype) for shape in shapes]


def inputs(width_in, *, seq_len=5, num_examples=3, dtype=np.float32):
    """Kernels in float32; activations and cotangents in a dtype."""
    kernels = tuple(arrays(0, *((width_in, width) for width in WIDTHS)))
    leading = num_examples, seq_len
    (x,) = arrays(1, (*leading, width_in), dtype=dtype)
    return kernels, x, tuple(arrays(2, *((*leading, width) for width in WIDTHS), dtype=dtype))


def each_gradient(x, y_grad):
    return np.einsum("bsd,bsp->bdp", np.asarray(x, np.float64), np.asarray(y_grad, np.float64))


@pytest.mark.parametrize("tap", [None, Weighting(WEIGHTS)], ids=["plain", "weighting"])
@pytest.mark.parametrize("width_in", [2, 20], ids=["narrow", "wide"])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_one_product_is_as_good_as_several(tap, width_in, dtype):
    """Catches columns of another kernel, in values or gradients, or a kernel left out."""
    kernels, x, y_grads = inputs(width_in, dtype=dtype)
    taps = (tap,) * len(kernels)
    values, pull_back = jax.vjp(lambda k, x: dense_side_by_side(k, x, taps), kernels, x)

    def one_by_one(kernels, x):
        return tuple(dense(kernel, x, tap) for kernel in kernels)

    expected, expected_pull_back = jax.vjp(one_by_one, kernels, x)
    for value, alone in zip(values, expected, strict=True):
        assert value.dtype == alone.dtype
        np.testing.assert_allclose(np.asarray(value, np.float32), alone.astype(jnp.float32), 1e-6)
    kernel_grads, x_grad = pull_back(y_grads)
    expected_kernel_grads, expected_x_grad = expected_pull_back(y_grads)
    for grad, alone in zip(kernel_grads, expected_kernel_grads, strict=True):
        assert grad.dtype == jnp.float32
        np.testing.assert_allclose(grad, alone, rtol=1e-5, atol=1e-6)
    # Rounded once as one, and once for each kernel otherwise.
    tolerance = 1e-5 if dtype == np.float32 else 0.05
    np.testing.assert_allclose(
        np.asarray(x_grad, np.float32),
        np.asarray(expected_x_grad, np.float32),
        rtol=tolerance,
        atol=tolerance,
    )


@pytest.mark.parametrize("rule", ["gram", "direct"])
@pytest.mark.parametrize("measures", [True, False], ids=["measuring", "keeping"])
@pytest.mark.parametrize("width_in", [2, 20], ids=["narrow", "wide"])
@pytest.mark.parametrize("seq_len", [2, 200])
def test_records_know_each_examples_gradient(seq_len, width_in, measures, rule, left_behind):
    """Catches a norm that is counted for every kernel, or for the first alone; wrong columns."""
    kernels, x, y_grads = inputs(width_in, seq_len=seq_len)

    announced = empty_records(kernels, x)
    empty = tuple(tap.measuring(rule) if measures else tap.keeping(rule) for tap in announced)
    records = left_behind(lambda taps: dense_side_by_side(kernels, x, taps), empty, y_grads)
    assert all(isinstance(record, Columns) == (seq_len == 200) for record in records)
    gradients = [each_gradient(x, y_grad) for y_grad in y_grads]
    squares = records[0].squares()
    for record in records[1:]:
        squares += record.squares()
    expected = sum(np.square(gradient).sum(axis=(1, 2)) for gradient in gradients)
    np.testing.assert_allclose(squares.norm_B, expected, rtol=2e-6)
    if measures:
        return
    for record, gradient in zip(records, gradients, strict=True):
        total = np.tensordot(WEIGHTS, gradient, 1)
        added = record.weighted_sum(WEIGHTS).finished()
        assert np.linalg.norm(added - total) <= 2e-6 * np.linalg.norm(total)


def test_what_cancels_is_allowed_for_once(left_behind):
    """Catches bounds that are left out for all kernels, or added for each."""
    kernels, x, y_grads = inputs(20, seq_len=200)
    empty = empty_records(kernels, x)
    records = left_behind(lambda taps: dense_side_by_side(kernels, x, taps), empty, y_grads)
    errors = [record.squares().error_B for record in records]
    of_all = DenseFactors(x, jnp.concatenate(y_grads, 2)).squares().error_B
    np.testing.assert_allclose(sum(errors), of_all, rtol=1e-5)
    assert np.all(of_all > 0)


def test_contractions_ask_for_full_precision():
    """Catches a product that an accelerator would round to bfloat16 or TF32."""
    kernels, x, _ = inputs(2)
    taps = (None,) * len(kernels)

    def total(kernels, x):
        return sum(jnp.sum(value) for value in dense_side_by_side(kernels, x, taps))

    text = str(jax.make_jaxpr(jax.grad(total, argnums=(0, 1)))(kernels, x))
    assert text.count("dot_general") == text.count("precision=(Precision.HIGHEST") == 3
