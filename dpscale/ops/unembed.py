"""The unembed op together with the cross-entropy that is taken of its logits.

The two belong together because logits of a large vocabulary must not exist all at once:
`cross_entropy` walks over chunks of positions and computes each chunk's logits again in the
backward pass. `unembed` gives plain logits, for generation and evaluation. Per-example rules
stand in this module beside the plain ones, as `dense` explains.

Axes: B examples, S positions, C positions of one chunk, N tokens (B·C), D width, V vocabulary.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

from dpscale.ops.dense import contract_last, weight_gradient

MAX_LOGITS = 2**25
"""Logits that `cross_entropy` lets exist at once: 128 MiB in float32.

With a vocabulary of 256,000 that is 131 tokens, wide enough for a matrix unit to be busy;
with a few thousand tokens of vocabulary a whole microbatch passes in one chunk."""


@jax.custom_vjp
def unembed(table_VxD: jax.Array, hidden: jax.Array) -> jax.Array:
    """Logits: `hidden` times the transposed table.

    Args:
      table_VxD: float32[V, D] weights; rounded to the dtype of `hidden` for the product.
      hidden: [..., D] in the compute dtype.

    Returns:
      float32[..., V], accumulated in float32. The gradient of the table is float32.
    """
    return contract_last(hidden, table_VxD.astype(hidden.dtype), 1, dtype=jnp.dtype(jnp.float32))


def _unembed_forward(
    table_VxD: jax.Array, hidden: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return unembed(table_VxD, hidden), (table_VxD, hidden)


def _unembed_backward(
    residuals: tuple[jax.Array, jax.Array], logits_grad: jax.Array
) -> tuple[jax.Array, jax.Array]:
    table_VxD, hidden = residuals
    logits_grad = logits_grad.astype(hidden.dtype)
    hidden_grad = contract_last(logits_grad, table_VxD.astype(hidden.dtype), 0)
    return weight_gradient(logits_grad, hidden), hidden_grad


unembed.defvjp(_unembed_forward, _unembed_backward)


def soft_cap(x: jax.Array, cap: float | None) -> jax.Array:
    """`cap · tanh(x / cap)`: a smooth bound on logits or attention scores; None leaves them."""
    return x if cap is None else cap * jnp.tanh(x / cap)


def cross_entropy(
    table_VxD: jax.Array,
    hidden_BxSxD: jax.Array,
    targets_BxS: jax.Array,
    *,
    logit_softcap: float | None,
    max_logits: int = MAX_LOGITS,
) -> jax.Array:
    """Mean cross-entropy of each example's targets, in nats per token.

    A target outside [0, V), or a hidden state that is not finite, makes the loss of its own
    example NaN and leaves the others alone.

    Args:
      table_VxD: float32[V, D] weights.
      hidden_BxSxD: Hidden states in the compute dtype.
      targets_BxS: int32[B, S] tokens to predict.
      logit_softcap: Cap of the logits (`soft_cap`), or None.
      max_logits: At most about so many logits exist at once; more are chunked over positions.
        It changes memory and time, never the result (but for rounding in the gradient's sum).

    Returns:
      float32[B].
    """

    def chunk_nats(hidden_BxCxD: jax.Array, targets_BxC: jax.Array) -> jax.Array:
        # One axis of tokens: under vmap over examples an axis of length 1 beside the batch
        # makes XLA on CPU walk the logits element by element (2x on the whole gradient).
        hidden_NxD = hidden_BxCxD.reshape(-1, hidden_BxCxD.shape[-1])
        logits_NxV = soft_cap(unembed(table_VxD, hidden_NxD), logit_softcap)
        nats_N = _negative_log_likelihood(logits_NxV, targets_BxC.reshape(-1))
        return nats_N.reshape(targets_BxC.shape)

    num_examples, seq_len = targets_BxS.shape
    logits_per_position = num_examples * table_VxD.shape[0]
    num_chunks = math.ceil(seq_len / max(1, max_logits // logits_per_position))
    if num_chunks == 1:
        return jnp.mean(chunk_nats(hidden_BxSxD, targets_BxS), axis=1)

    # Chunks run along positions, not examples, so that a batch split over devices stays split.
    chunks = (_to_chunks(hidden_BxSxD, num_chunks), _to_chunks(targets_BxS, num_chunks))
    rematerialised = jax.checkpoint(chunk_nats)
    nats_NxBxC = lax.map(lambda chunk: rematerialised(*chunk), chunks)
    nats_BxS = jnp.moveaxis(nats_NxBxC, 0, 1).reshape(num_examples, -1)[:, :seq_len]
    return jnp.mean(nats_BxS, axis=1)


def _to_chunks(x_BxS: jax.Array, num_chunks: int) -> jax.Array:
    """[B, S, ...] to [num_chunks, B, C, ...]; zeros fill the last chunk."""
    num_examples, seq_len, *rest = x_BxS.shape
    chunk_len = math.ceil(seq_len / num_chunks)
    fill = [(0, 0), (0, num_chunks * chunk_len - seq_len)] + [(0, 0)] * len(rest)
    chunked = jnp.pad(x_BxS, fill).reshape(num_examples, num_chunks, chunk_len, *rest)
    return jnp.moveaxis(chunked, 1, 0)


def _negative_log_likelihood(logits_NxV: jax.Array, targets_N: jax.Array) -> jax.Array:
    """float32[N] nats; NaN where the target is no token."""
    picked_Nx1 = jnp.take_along_axis(
        logits_NxV,
        targets_N[:, None],
        axis=1,
        mode="fill",
        fill_value=jnp.nan,
        wrap_negative_indices=False,
    )
    return jax.nn.logsumexp(logits_NxV, axis=1) - picked_Nx1[:, 0]
