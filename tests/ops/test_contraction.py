"""The one way that ops multiply."""

import jax.numpy as jnp
import numpy as np
import pytest

from dpscale.ops.contraction import contract, contract_last, row_products, wide


@pytest.mark.parametrize(
    ("dtype", "sums"), [("bfloat16", "float32"), ("float32", "float32"), ("float64", "float64")]
)
def test_sums_are_kept_in_float32_or_wider(dtype, sums):
    """Catches float64 that is cut to float32, and sums in bfloat16."""
    assert wide(jnp.dtype(dtype)) == jnp.dtype(sums)


def test_a_contraction_of_bfloat16_is_given_in_float32():
    """Catches a result that is rounded once more: 1 + 2^-9 has ten bits, bfloat16 eight."""
    left = jnp.asarray([[1.0, 2.0**-9]], jnp.bfloat16)
    product = contract(left, jnp.ones((1, 2), jnp.bfloat16), ((1,), (1,)))
    assert product.dtype == jnp.float32
    assert float(product[0, 0]) == 1 + 2.0**-9
    rounded = contract_last(left, jnp.ones((2, 1), jnp.bfloat16), 0)
    assert rounded.dtype == jnp.bfloat16


def test_operands_of_two_dtypes_are_refused():
    """Catches a float32 operand that meets a bfloat16 one by oversight, and is rounded to it."""
    with pytest.raises(TypeError, match="one dtype"):
        contract(jnp.ones((2, 2)), jnp.ones((2, 2), jnp.bfloat16), ((1,), (0,)))


def test_row_products_are_inner_products_of_rows():
    """Catches rows that mix, and an axis that is left out."""
    generator = np.random.default_rng(0)
    left, right = generator.standard_normal((2, 3, 4, 5)).astype(np.float32)
    np.testing.assert_allclose(
        row_products(left, right), [np.vdot(a, b) for a, b in zip(left, right, strict=True)], 1e-5
    )
