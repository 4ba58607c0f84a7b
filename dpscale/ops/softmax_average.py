"""What attention reads: values, averaged by the softmax of scores, with a backward pass of its own.

With u = exp(score - largest), l = Σ u and a = Σ u·v / l, and for a gradient g of a:

    gradient of a value: Σ u·g / l        gradient of a score: u · <g / l, v - a>

so that neither pass divides an array as large as the scores, and <g, a> comes from averages and
not from a sum over one more such array (Dao, arXiv 2307.08691, section 3.1). XLA's own derivative
does both: the private gradient of a narrow model took 1.07 of the time (docs/performance.md).

Below float32 the gradients of a query's scores must add up to zero, or an error of the size of
<g, a> meets the keys' mean. Hence l adds up the rounded weights, the ones that average, and the
average is kept as it was before it was rounded.

Axes: B examples, K key-value heads, G query heads of each, S queries, T keys, h channels.
"""

import jax
import jax.numpy as jnp

from dpscale.ops.contraction import contract, wide


@jax.custom_vjp
def softmax_average(score_BxKxGxSxT: jax.Array, value_BxTxKxh: jax.Array) -> jax.Array:
    """Each query's average of the values: [B, K, G, S, h], in their dtype.

    Args:
      score_BxKxGxSxT: In `wide` of the values' dtype; -inf where a query does not see a key, of
        which it must see one (NaN otherwise).
      value_BxTxKxh: In the compute dtype.
    """
    return _forward(score_BxKxGxSxT, value_BxTxKxh)[0]


_Kept = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def _forward(score: jax.Array, value: jax.Array) -> tuple[jax.Array, _Kept]:
    weight = jnp.exp(score - jnp.max(score, axis=-1, keepdims=True)).astype(value.dtype)
    total_BxKxGxSx1 = jnp.sum(weight.astype(score.dtype), axis=-1, keepdims=True)
    average_BxKxGxSxh = contract(weight, value, ((4,), (1,)), ((0, 1), (0, 2))) / total_BxKxGxSx1
    kept = weight, total_BxKxGxSx1, value, average_BxKxGxSxh
    return average_BxKxGxSxh.astype(value.dtype), kept


def _backward(kept: _Kept, average_grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    weight, total, value, average = kept
    shared_BxKxGxSxh = (average_grad.astype(total.dtype) / total).astype(value.dtype)
    # The smaller operand first: the larger one need not be turned.
    value_grad_BxKxhxT = contract(shared_BxKxGxSxh, weight, ((2, 3), (2, 3)), ((0, 1), (0, 1)))
    pulled = contract(shared_BxKxGxSxh, value, ((4,), (3,)), ((0, 1), (0, 2)))
    mean_pull = jnp.sum(shared_BxKxGxSxh.astype(wide(value.dtype)) * average, -1, keepdims=True)
    score_grad = weight.astype(total.dtype) * (pulled - mean_pull)
    return score_grad, jnp.moveaxis(value_grad_BxKxhxT, 3, 1).astype(value.dtype)


softmax_average.defvjp(_forward, _backward)
