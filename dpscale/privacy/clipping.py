"""Sums of per-example clipped gradients.

The strategy here takes per-example gradients by `jax.vmap`, one microbatch at a time.
Every quantity in this module is computed from private data and is NOT PRIVATE until noise
is added.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import jax
import jax.numpy as jnp

NORM_MARGIN: Final = 1e-5
"""A clipped contribution's norm is at most the clip norm times 1 + this.

Norms and products are float32, whose round-off for a few million numbers stays near 1e-6;
the margin is part of the mechanism's sensitivity.
"""

LossFn = Callable[[Any, jax.Array], jax.Array]
"""(params, int32[S + 1]) -> the loss of ONE example, nats per token."""


@partial(jax.tree_util.register_dataclass, data_fields=["total", "norms", "losses"], meta_fields=[])
@dataclass(frozen=True)
class ClippedSum:
    """A sum of clipped per-example gradients. NOT PRIVATE until noise is added.

    `total` is float32 and shaped like the parameters; `norms` float32[B] holds each
    example's norm before clipping and `losses` float32[B] its loss, both 0 for padding.
    """

    total: Any
    norms: jax.Array
    losses: jax.Array


def clipped_grad_sum(
    loss_fn: LossFn,
    params: Any,
    tokens_BxS: jax.Array,
    is_padding_B: jax.Array,
    *,
    l2_clip_norm: jax.Array | float,
    rescale_to_unit_norm: bool,
) -> ClippedSum:
    """Sums per-example gradients, each clipped to `l2_clip_norm` over all parameters together.

    Guarantees:
      - Replacing one example by padding moves `total` by at most
        `l2_clip_norm * (1 + NORM_MARGIN)` in L2; with `rescale_to_unit_norm`, by at most
        `1 + NORM_MARGIN`.
      - Padding, and an example whose gradient or norm is not finite, contributes exactly zero.

    Args:
      loss_fn: Loss of one example; never averaged over the batch.
      params: Float32 pytree.
      tokens_BxS: int32[B, S + 1]; one example is one privacy unit.
      is_padding_B: bool[B], True where the slot holds no example.
    """
    value_and_grad = jax.vmap(jax.value_and_grad(loss_fn), in_axes=(None, 0))
    losses_B, grads = value_and_grad(params, tokens_BxS)
    norms_B = per_example_norms(grads)
    keep_B = ~is_padding_B & jnp.isfinite(norms_B)
    factor_B = clip_factor(norms_B, l2_clip_norm, rescale_to_unit_norm=rescale_to_unit_norm)

    def weighted_sum(grad: jax.Array) -> jax.Array:
        # A dropped example's gradient may be NaN, and 0 · NaN is NaN: select before weighing.
        rows = grad.reshape(grad.shape[0], -1)
        rows = jnp.where(keep_B[:, None], rows, 0.0)
        total = jnp.dot(factor_B, rows, precision=jax.lax.Precision.HIGHEST)
        return total.reshape(grad.shape[1:])

    factor_B = jnp.where(keep_B, factor_B, 0.0)
    return ClippedSum(
        total=jax.tree.map(weighted_sum, grads),
        norms=jnp.where(is_padding_B, 0.0, norms_B),
        losses=jnp.where(is_padding_B, 0.0, losses_B),
    )


def per_example_norms(grads: Any) -> jax.Array:
    """float32[B]: the L2 norm of each example's gradient over all leaves together."""
    squares = [
        jnp.sum(jnp.square(leaf.astype(jnp.float32)).reshape(leaf.shape[0], -1), axis=1)
        for leaf in jax.tree.leaves(grads)
    ]
    return jnp.sqrt(sum(squares[1:], start=squares[0]))


def clip_factor(
    norms_B: jax.Array, l2_clip_norm: jax.Array | float, *, rescale_to_unit_norm: bool
) -> jax.Array:
    """What each gradient is multiplied by: min(1, C / norm), divided by C when rescaled."""
    factor_B = jnp.minimum(1.0, l2_clip_norm / jnp.maximum(norms_B, 1e-30))
    return factor_B / l2_clip_norm if rescale_to_unit_norm else factor_B


def microbatched(
    strategy: Callable[[jax.Array, jax.Array], ClippedSum],
    like: Any,
    tokens_BxS: jax.Array,
    is_padding_B: jax.Array,
    *,
    microbatch_size: int,
) -> ClippedSum:
    """Runs `strategy` on consecutive microbatches and adds up.

    The result does not depend on `microbatch_size` (but for float32 rounding). The loop ends
    behind the last microbatch that holds an example, at run time, so that one compilation
    serves every batch size and padding costs nothing.

    Args:
      strategy: (int32[microbatch_size, S + 1], bool[microbatch_size]) -> ClippedSum.
      like: The parameters: shapes of the total.
      tokens_BxS: int32[B, S + 1], B a multiple of `microbatch_size`.
      is_padding_B: bool[B].
    """
    num_slots = tokens_BxS.shape[0]
    if num_slots % microbatch_size:
        raise ValueError(f"Expected a multiple of {microbatch_size=} slots, found {num_slots}.")
    slot_numbers = jnp.arange(1, num_slots + 1, dtype=jnp.int32)
    last_used = jnp.max(jnp.where(is_padding_B, 0, slot_numbers))
    num_used = (last_used + microbatch_size - 1) // microbatch_size

    def add_microbatch(index: jax.Array, so_far: ClippedSum) -> ClippedSum:
        start = index * microbatch_size
        here = strategy(
            jax.lax.dynamic_slice_in_dim(tokens_BxS, start, microbatch_size),
            jax.lax.dynamic_slice_in_dim(is_padding_B, start, microbatch_size),
        )
        place = partial(jax.lax.dynamic_update_slice_in_dim, start_index=start, axis=0)
        return ClippedSum(
            total=jax.tree.map(jnp.add, so_far.total, here.total),
            norms=place(so_far.norms, here.norms),
            losses=place(so_far.losses, here.losses),
        )

    nothing = ClippedSum(
        total=jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), like),
        norms=jnp.zeros(num_slots, jnp.float32),
        losses=jnp.zeros(num_slots, jnp.float32),
    )
    summed: ClippedSum = jax.lax.fori_loop(0, num_used, add_microbatch, nothing)
    return summed
