"""A logical batch in microbatches: memory for a few examples at a time, one compilation.

This is the one wrapper around every strategy, and the place that sees to it that nothing but
clipped gradients of real examples enters the sum.

Every quantity in this module is computed from private data and is NOT PRIVATE until noise
is added.

Axes: B slots of the logical batch, M microbatches, K slots of one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from dpscale.ops.sums import added_up, as_sums, finished, nothing_like
from dpscale.ops.varying import varying_with
from dpscale.privacy.clipping import ClippedSum
from dpscale.privacy.lanes import in_lanes


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["index", "is_dropped_K", "summed"],
    meta_fields=[],
)
@dataclass(frozen=True)
class _Progress:
    index: jax.Array
    is_dropped_K: jax.Array
    summed: ClippedSum


def microbatched(
    strategy: Callable[[jax.Array, jax.Array], ClippedSum],
    tokens_BxS1: jax.Array,
    is_padding_B: jax.Array,
    *,
    microbatch_size: int,
    lanes: int = 1,
    sharding: jax.sharding.Sharding | None = None,
) -> ClippedSum:
    """Runs `strategy` on consecutive microbatches and adds up.

    Guarantees:
      - Replacing one example by padding moves `total` by at most what the strategy's rule
        allows one example: padding, and an example whose gradient, norm or loss is not
        finite, contributes exactly zero and changes nothing about the others.
      - The result does not depend on `microbatch_size` or `lanes` (but for float32 rounding).

    A slot that must not count holds a copy of one that does, with factor zero, so that nothing
    that is not finite is ever multiplied by it. Which examples are not finite is found out by
    running the strategy: a microbatch that has one is run again without it. The loop ends
    behind the last microbatch that holds an example, at run time, so that one compilation
    serves every batch size and padding costs nothing.

    Inside `jax.shard_map` each device goes through its own slots, some through more microbatches
    than others. So `strategy` must hold no collective, nor may parameters be sharded over mesh
    axes left to the partitioner, which would put some in: devices would wait for each other
    forever. `lax.psum` the total afterwards.

    Args:
      strategy: (int32[K, S + 1] tokens, bool[K] is_counted) -> ClippedSum, whose total may be of
        sums in their own forms (`ops.sums`): they are added up in these. It is called once for
        each of a microbatch's `lanes`, with that lane's examples.
      tokens_BxS1: int32[B, S + 1], B a multiple of `microbatch_size`.
      is_padding_B: bool[B].
      microbatch_size: K.
      lanes: Parts of a microbatch that are computed side by side (`lanes.num_lanes`), a divisor
        of K; 1 where devices share microbatches, of which each would hold one lane only.
      sharding: Of arrays [B / K, K, ...], where devices are to share the work: every microbatch
        is then divided over them, however the batch was.
    """
    num_slots = tokens_BxS1.shape[0]
    if num_slots % microbatch_size:
        raise ValueError(f"Expected a multiple of {microbatch_size=} slots, found {num_slots}.")
    if microbatch_size % lanes:
        raise ValueError(f"Expected a divisor of {microbatch_size=} lanes, found {lanes}.")

    def in_microbatches(rows: jax.Array) -> jax.Array:
        divided = rows.reshape(-1, microbatch_size, *rows.shape[1:])
        if sharding is None:
            return divided
        constrained: jax.Array = lax.with_sharding_constraint(  # type: ignore[no-untyped-call]
            divided, sharding
        )
        return constrained

    tokens_MxKxS1, is_padding_MxK = in_microbatches(tokens_BxS1), in_microbatches(is_padding_B)
    numbers_M = jnp.arange(1, len(is_padding_MxK) + 1, dtype=jnp.int32)
    num_used = jnp.max(jnp.where(jnp.all(is_padding_MxK, axis=1), 0, numbers_M))

    def add_microbatch(so_far: _Progress) -> _Progress:
        tokens_KxS1 = lax.dynamic_index_in_dim(tokens_MxKxS1, so_far.index, keepdims=False)
        is_padding_K = lax.dynamic_index_in_dim(is_padding_MxK, so_far.index, keepdims=False)
        is_counted_K = ~is_padding_K & ~so_far.is_dropped_K
        stand_in = jnp.argmax(is_counted_K)
        covered_KxS1 = jnp.where(is_counted_K[:, None], tokens_KxS1, tokens_KxS1[stand_in])
        here = [strategy(*lane) for lane in in_lanes(covered_KxS1, is_counted_K, lanes)]
        norms_K = jnp.concatenate([lane.norms for lane in here])
        losses_K = jnp.concatenate([lane.losses for lane in here])
        is_bad_K = is_counted_K & ~jnp.isfinite(norms_K + losses_K)
        is_final = ~jnp.any(is_bad_K)
        total, adds = so_far.summed.total, is_final & jnp.any(is_counted_K)
        for lane in here:
            total = added_up(as_sums(lane.total), total, adds)
        summed = ClippedSum(
            total=total,
            norms=_placed(so_far.summed.norms, norms_K, so_far.index, is_counted_K),
            losses=_placed(so_far.summed.losses, losses_K, so_far.index, is_counted_K),
        )
        return _Progress(
            index=so_far.index + is_final,
            is_dropped_K=jnp.where(is_final, False, so_far.is_dropped_K | is_bad_K),
            summed=summed,
        )

    of_lane, *_ = in_lanes(tokens_MxKxS1[0], is_padding_MxK[0], lanes)
    shapes = jax.eval_shape(strategy, *of_lane)
    nothing = ClippedSum(
        total=nothing_like(as_sums(shapes.total)),
        norms=jnp.zeros(is_padding_MxK.shape, shapes.norms.dtype),
        losses=jnp.zeros(is_padding_MxK.shape, shapes.losses.dtype),
    )
    start = _Progress(jnp.zeros((), jnp.int32), jnp.zeros(microbatch_size, bool), nothing)
    start = varying_with((tokens_BxS1, is_padding_B), start)
    done: _Progress = lax.while_loop(
        lambda progress: progress.index < num_used, add_microbatch, start
    )
    norms_B, losses_B = done.summed.norms.reshape(-1), done.summed.losses.reshape(-1)
    return ClippedSum(finished(done.summed.total), norms_B, losses_B)


def _placed(
    values_MxK: jax.Array, here_K: jax.Array, index: jax.Array, is_counted_K: jax.Array
) -> jax.Array:
    """Puts a microbatch's values in their slots; those that do not count stay as they are."""
    before_K = lax.dynamic_index_in_dim(values_MxK, index, keepdims=False)
    placed: jax.Array = lax.dynamic_update_index_in_dim(
        values_MxK, jnp.where(is_counted_K, here_K, before_K), index, 0
    )
    return placed
