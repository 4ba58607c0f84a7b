"""The one way that ops multiply: highest precision, sums in float32.

A norm that decides how far a gradient is clipped is only as good as the products it is made
of, and accelerators otherwise round float32 operands to bfloat16 or TF32. For bfloat16
operands the precision changes nothing: their products are exact and their sums float32.
"""

import jax
import jax.numpy as jnp
from jax import lax

PRECISION = lax.Precision.HIGHEST
"""Float32 contractions are float32 in fact."""

Axes = tuple[int, ...]


def wide(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype that sums of `dtype` are kept in: float32, or float64 for float64."""
    return jnp.promote_types(dtype, jnp.float32)


def unit_roundoff(dtype: jnp.dtype) -> float:
    """The largest relative error of rounding to `dtype`, where it loses more than float32.

    >>> unit_roundoff(jnp.dtype(jnp.bfloat16)), unit_roundoff(jnp.dtype(jnp.float32))
    (0.00390625, 0.0)
    """
    info = jnp.finfo(dtype)  # type: ignore[no-untyped-call]
    return float(info.eps) / 2 if info.bits < 32 else 0.0


def contract(
    left: jax.Array,
    right: jax.Array,
    contracted: tuple[Axes, Axes],
    batch: tuple[Axes, Axes] = ((), ()),
) -> jax.Array:
    """`lax.dot_general` in the highest precision, accumulated and given in `wide(dtype)`.

    Args:
      left: Operand of some dtype.
      right: Operand of the same dtype.
      contracted: The axes of each that are summed over.
      batch: The axes of each that run along.
    """
    if left.dtype != right.dtype:
        raise TypeError(f"Expected operands of one dtype, found {left.dtype} and {right.dtype}.")
    return lax.dot_general(
        left,
        right,
        (contracted, batch),
        precision=PRECISION,
        preferred_element_type=wide(left.dtype),
    )


def contract_last(
    x: jax.Array, matrix: jax.Array, axis: int, *, dtype: jnp.dtype | None = None
) -> jax.Array:
    """Contracts the last axis of `x` with `axis` of a matrix.

    The result is given in `dtype`; absent: in the dtype of `x`.
    """
    product = contract(x.reshape(-1, x.shape[-1]), matrix, ((1,), (axis,)))
    return product.astype(x.dtype if dtype is None else dtype).reshape(*x.shape[:-1], -1)


def row_products(left: jax.Array, right: jax.Array) -> jax.Array:
    """[B]: the inner product of each row of two arrays [B, ...] of one shape.

    A contraction, not a sum: XLA on CPU adds up a plain sum one element at a time (1.5 to 3
    times slower where rows are long).
    """
    num_rows = left.shape[0]
    return contract(
        left.reshape(num_rows, -1), right.reshape(num_rows, -1), ((1,), (1,)), ((0,), (0,))
    )
