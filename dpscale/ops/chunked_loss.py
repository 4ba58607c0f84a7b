"""Cross-entropy of a large vocabulary, a chunk of it at a time.

The forward pass keeps a running log-sum-exp; the backward pass computes each chunk's logits
again, and no pass holds more than one chunk of them.

Axes: B examples, S positions, C entries of the vocabulary in one chunk, D width, V vocabulary.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpscale.ops.chunked_records import ChunkedOutput, OutputNorms
from dpscale.ops.contraction import wide
from dpscale.ops.dense import weight_gradient
from dpscale.ops.taps import Tap, as_cotangent, no_cotangent, scaled
from dpscale.ops.vocab_chunks import Chunk, ChunkedLogits, over_chunks


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def chunked_nats(
    table_VxD: jax.Array,
    hidden_BxSxD: jax.Array,
    targets_BxS: jax.Array,
    tap: Tap,
    logit_softcap: float | None,
    chunk_len: int,
) -> jax.Array:
    """Cross-entropy of each token, float32[B, S] nats; see `unembed.cross_entropy`."""
    return _forward(table_VxD, hidden_BxSxD, targets_BxS, tap, logit_softcap, chunk_len)[0]


def _forward(
    table_VxD: jax.Array,
    hidden_BxSxD: jax.Array,
    targets_BxS: jax.Array,
    tap: Tap,
    logit_softcap: float | None,
    chunk_len: int,
) -> tuple[jax.Array, tuple[Any, ...]]:
    def add(
        so_far: tuple[jax.Array, jax.Array, jax.Array], chunk: Chunk
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        most_BxS, sum_BxS, picked_BxS = so_far
        logits = chunk.logits(hidden_BxSxD, logit_softcap)
        logits_BxSxC = jnp.where(chunk.is_new_C, logits, -jnp.inf)
        new_most_BxS = jnp.maximum(most_BxS, jnp.max(logits_BxSxC, axis=-1))
        here_BxS = jnp.sum(jnp.exp(logits_BxSxC - new_most_BxS[..., None]), axis=-1)
        place_BxS = targets_BxS - chunk.entries_C[0]
        is_here_BxS = (place_BxS >= 0) & (place_BxS < logits_BxSxC.shape[-1])
        found_BxSx1 = jnp.take_along_axis(
            logits, jnp.where(is_here_BxS, place_BxS, 0)[..., None], axis=-1
        )
        return (
            new_most_BxS,
            sum_BxS * jnp.exp(most_BxS - new_most_BxS) + here_BxS,
            jnp.where(is_here_BxS, found_BxSx1[..., 0], picked_BxS),
        )

    shape, dtype = targets_BxS.shape, wide(hidden_BxSxD.dtype)
    start = (
        jnp.full(shape, -jnp.inf, dtype),
        jnp.zeros(shape, dtype),
        jnp.full(shape, jnp.nan, dtype),  # stays where the target is no token
    )
    most_BxS, sum_BxS, picked_BxS = over_chunks(add, start, table_VxD, chunk_len)
    log_sum_BxS = most_BxS + jnp.log(sum_BxS)
    return log_sum_BxS - picked_BxS, (table_VxD, hidden_BxSxD, targets_BxS, tap, log_sum_BxS)


def _backward(
    logit_softcap: float | None,
    chunk_len: int,
    residuals: tuple[Any, ...],
    nats_grad_BxS: jax.Array,
) -> tuple[jax.Array, jax.Array, object, Tap]:
    table_VxD, hidden_BxSxD, targets_BxS, tap, log_sum_BxS = residuals
    logits = ChunkedLogits(
        table_VxD, hidden_BxSxD, targets_BxS, log_sum_BxS, nats_grad_BxS, logit_softcap, chunk_len
    )
    no_target_grad = np.zeros(targets_BxS.shape, jax.dtypes.float0)
    if isinstance(tap, OutputNorms | ChunkedOutput):
        filled, hidden_grad = tap.filled_from(logits)
        return jnp.zeros_like(table_VxD), hidden_grad, no_target_grad, as_cotangent(filled)
    weighted_BxSxD = hidden_BxSxD
    if tap is not None:
        weighted_BxSxD = scaled(hidden_BxSxD, tap.factor_B)
    table_grad, hidden_grad = _both_gradients(logits, weighted_BxSxD)
    return table_grad, hidden_grad, no_target_grad, no_cotangent(tap)


chunked_nats.defvjp(_forward, _backward)


def _both_gradients(
    logits: ChunkedLogits, weighted_hidden_BxSxD: jax.Array
) -> tuple[jax.Array, jax.Array]:
    def add(so_far: tuple[jax.Array, jax.Array], chunk: Chunk) -> tuple[jax.Array, jax.Array]:
        table_grad_VxD, hidden_grad_BxSxD = so_far
        grad_BxSxC = logits.gradient(chunk)
        rows_CxD = weight_gradient(grad_BxSxC, weighted_hidden_BxSxD)
        return (
            chunk.add_rows(table_grad_VxD, rows_CxD),
            hidden_grad_BxSxD + chunk.hidden_gradient(grad_BxSxC),
        )

    dtype = wide(logits.hidden_BxSxD.dtype)
    start = (jnp.zeros(logits.table_VxD.shape, dtype), jnp.zeros(logits.hidden_BxSxD.shape, dtype))
    table_grad, hidden_grad = over_chunks(add, start, logits.table_VxD, logits.chunk_len)
    return table_grad, hidden_grad.astype(logits.hidden_BxSxD.dtype)
