"""Attention without its projections: queries read values, weighted by the softmax of scores.

The backward pass is written out. With u = exp(score - largest), l = Σ u and a = Σ u·v / l, and for
a gradient g of a,

    gradient of a value: Σ u·g / l        gradient of a score: u · <g / l, v - a>

so that neither pass divides an array as large as the scores, and <g, a> is a sum over channels
and not over one more such array (Dao, arXiv 2307.08691, section 3.1). No large array is turned
either, as it would be for some of the products that automatic differentiation chooses. A narrow
model's whole gradient took 0.9 of the time on a CPU (docs/performance.md).

Below float32, what the gradients of a query's scores do not add up to zero meets the mean of the
keys. Hence l adds up the rounded weights, the same that average, and the average is kept as it
was before it was rounded.

Axes: B examples, S queries, T keys, K key-value heads, G query heads of each, h channels.
"""

from functools import partial

import jax
import jax.numpy as jnp

from dpscale.ops.contraction import contract
from dpscale.ops.soft_cap import soft_cap, soft_cap_slope

_Kept = tuple[jax.Array, ...]


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def attend(
    query_BxSxKxGxh: jax.Array,
    key_BxTxKxh: jax.Array,
    value_BxTxKxh: jax.Array,
    visible: jax.Array,
    scale: float,
    softcap: float | None,
) -> jax.Array:
    """Each query's average of the values: [B, S, K, G, h], in the compute dtype.

    Args:
      query_BxSxKxGxh: In the compute dtype, like keys and values.
      key_BxTxKxh: Keys.
      value_BxTxKxh: Values.
      visible: bool[S, T], or bool[B, S, T] where examples differ: which keys a query sees. It
        must see one; it averages to NaN otherwise.
      scale: What inner products of queries and keys are multiplied by.
      softcap: The bound on scores (`soft_cap`).

    Products are of the compute dtype's operands and float32, as scores and softmax are.
    """
    return _forward(query_BxSxKxGxh, key_BxTxKxh, value_BxTxKxh, visible, scale, softcap)[0]


def _forward(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    visible: jax.Array,
    scale: float,
    softcap: float | None,
) -> tuple[jax.Array, _Kept]:
    product_BxKxSxGxT = contract(query, key, ((4,), (3,)), ((0, 2), (0, 2)))
    score = soft_cap(product_BxKxSxGxT * scale, softcap)
    visible_BxKxSxGxT = visible.reshape(-1, 1, visible.shape[-2], 1, visible.shape[-1])
    seen = jnp.where(visible_BxKxSxGxT, score, -jnp.inf)
    weight = jnp.exp(seen - jnp.max(seen, axis=-1, keepdims=True)).astype(value.dtype)
    total = jnp.sum(weight.astype(score.dtype), axis=-1, keepdims=True)
    average_BxKxSxGxh = contract(weight, value, ((4,), (1,)), ((0, 1), (0, 2))) / total
    kept = query, key, value, score, weight, total, average_BxKxSxGxh
    return jnp.moveaxis(average_BxKxSxGxh, 1, 2).astype(value.dtype), kept


def _backward(
    scale: float, softcap: float | None, kept: _Kept, average_grad: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    query, key, value, score, weight, total, average = kept
    dtype = value.dtype
    pull_BxKxSxGxh = (jnp.moveaxis(average_grad, 2, 1).astype(total.dtype) / total).astype(dtype)
    pulled_BxKxSxGxT = contract(pull_BxKxSxGxh, value, ((4,), (3,)), ((0, 1), (0, 2)))
    pulled_BxKxSxGxT -= _row_sums(pull_BxKxSxGxh.astype(total.dtype) * average)
    slope = scale * soft_cap_slope(score, softcap)
    score_grad = (weight.astype(total.dtype) * pulled_BxKxSxGxT * slope).astype(dtype)
    query_grad_BxKxSxGxh = contract(score_grad, key, ((4,), (1,)), ((0, 1), (0, 2)))
    # Smaller operands first: those as large as the scores need not be turned.
    key_grad_BxKxhxT = contract(query, score_grad, ((1, 3), (2, 3)), ((0, 2), (0, 1)))
    value_grad_BxKxhxT = contract(pull_BxKxSxGxh, weight, ((2, 3), (2, 3)), ((0, 1), (0, 1)))
    return (
        jnp.moveaxis(query_grad_BxKxSxGxh, 1, 2).astype(dtype),
        jnp.moveaxis(key_grad_BxKxhxT, 3, 1).astype(dtype),
        jnp.moveaxis(value_grad_BxKxhxT, 3, 1).astype(dtype),
        None,  # of the mask
    )


attend.defvjp(_forward, _backward)


def _row_sums(x: jax.Array) -> jax.Array:
    """Sums over the last axis, which stays.

    A contraction: XLA on CPU takes ten times as long to sum products where some axis has length
    one, as it has with a single key-value head.
    """
    return contract(x, jnp.ones((x.shape[-1], 1), x.dtype), ((x.ndim - 1,), (0,)))
