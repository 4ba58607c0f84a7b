"""The unembed op together with the cross-entropy that is taken of its logits.

The two belong together because logits of a large vocabulary must not exist all at once.
Where they are few, `cross_entropy` keeps them for the backward pass; where they are many, it
walks over chunks of the vocabulary, in the forward pass for the log-sum-exp and in the
backward pass again for the gradients (`chunked_loss`). `unembed` gives plain logits, for
generation and evaluation. Per-example rules stand beside the plain ones, as `dense` explains.

Axes: B examples, S positions, Z tokens (B·S), D width, V vocabulary.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from dpscale.ops.barrier import barred
from dpscale.ops.chunked_loss import chunked_nats
from dpscale.ops.contraction import contract_last, wide
from dpscale.ops.dense import product_gradient
from dpscale.ops.one_hot import one_hot
from dpscale.ops.taps import Tap

MAX_LOGITS = 2**25
"""Logits that `cross_entropy` lets exist at once: 128 MiB in float32.

With a vocabulary of 256,000 that is 131 tokens, wide enough for a matrix unit to be busy;
with a few thousand tokens of vocabulary a whole microbatch passes in one chunk."""


def unembed(table_VxD: jax.Array, hidden: jax.Array) -> jax.Array:
    """Logits: `hidden` times the transposed table.

    Args:
      table_VxD: float32[V, D] weights; rounded to the dtype of `hidden` for the product.
      hidden: [..., D] in the compute dtype.

    Returns:
      float32[..., V], accumulated in float32.
    """
    return contract_last(hidden, table_VxD.astype(hidden.dtype), 1, dtype=wide(hidden.dtype))


def cross_entropy(
    table_VxD: jax.Array,
    hidden_BxSxD: jax.Array,
    targets_BxS: jax.Array,
    *,
    logit_softcap: float | None,
    max_logits: int = MAX_LOGITS,
    tap: Tap = None,
) -> jax.Array:
    """Mean cross-entropy of each example's targets, in nats per token.

    A target outside [0, V), or a hidden state that is not finite, makes the loss of its own
    example NaN and leaves the others alone.

    Args:
      table_VxD: float32[V, D] weights.
      hidden_BxSxD: Hidden states in the compute dtype.
      targets_BxS: int32[B, S] tokens to predict.
      logit_softcap: Cap of the logits (`soft_cap.soft_cap`), or None.
      max_logits: At most about so many logits exist at once; more are chunked over the
        vocabulary. It changes memory and time, never the result (but for rounding).
      tap: What the backward pass does about the table (`taps`).

    Returns:
      float32[B].
    """
    chunk_len = vocab_chunk(targets_BxS.size, table_VxD.shape[0], max_logits)
    if chunk_len is None:
        nats_BxS = _nats(table_VxD, hidden_BxSxD, targets_BxS, tap, logit_softcap)
    else:
        nats_BxS = chunked_nats(table_VxD, hidden_BxSxD, targets_BxS, tap, logit_softcap, chunk_len)
    return jnp.mean(nats_BxS, axis=1)


def vocab_chunk(num_tokens: int, vocab_size: int, max_logits: int = MAX_LOGITS) -> int | None:
    """Entries of the vocabulary in one chunk; None where all logits may exist at once.

    >>> vocab_chunk(32 * 64, 1024), vocab_chunk(4 * 1024, 256_000)
    (None, 8192)
    """
    is_small = num_tokens * vocab_size <= max_logits
    return None if is_small else max(1, max_logits // num_tokens)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _nats(
    table_VxD: jax.Array,
    hidden_BxSxD: jax.Array,
    targets_BxS: jax.Array,
    tap: Tap,
    logit_softcap: float | None,
) -> jax.Array:
    """Cross-entropy of each token, all logits at once: float32[B, S] nats."""
    return _nats_forward(table_VxD, hidden_BxSxD, targets_BxS, tap, logit_softcap)[0]


Residuals = tuple[jax.Array, jax.Array, jax.Array, Tap, jax.Array, jax.Array]


def _nats_forward(
    table_VxD: jax.Array,
    hidden_BxSxD: jax.Array,
    targets_BxS: jax.Array,
    tap: Tap,
    logit_softcap: float | None,
) -> tuple[jax.Array, Residuals]:
    # One axis of tokens: under vmap over examples an axis of length 1 beside the batch makes
    # XLA on CPU walk the logits element by element (2x on the whole gradient).
    hidden_ZxD = hidden_BxSxD.reshape(-1, hidden_BxSxD.shape[-1])
    bounded_ZxV, scale = _bounded(unembed(table_VxD, hidden_ZxD), logit_softcap)
    most_Z = jnp.max(bounded_ZxV, axis=1)
    to_most_ZxV = jnp.exp(scale * (bounded_ZxV - most_Z[:, None]))
    log_sum_Z = scale * most_Z + jnp.log(jnp.sum(to_most_ZxV, axis=1))
    picked_Zx1 = jnp.take_along_axis(
        bounded_ZxV,
        targets_BxS.reshape(-1, 1),
        axis=1,
        mode="fill",
        fill_value=jnp.nan,
        wrap_negative_indices=False,
    )
    nats_BxS = (log_sum_Z - scale * picked_Zx1[:, 0]).reshape(targets_BxS.shape)
    return nats_BxS, (table_VxD, hidden_BxSxD, targets_BxS, tap, bounded_ZxV, log_sum_Z)


def _bounded(logits: jax.Array, cap: float | None) -> tuple[jax.Array, jax.Array | float]:
    """Two factors of the capped logits: what they are before they are scaled, and the scale.

    The derivative of the cap follows from the first alone, so that XLA need not write out capped
    logits beside it, an array as large (a whole gradient took 0.96 of the time on a CPU).
    """
    if cap is None:
        return logits, 1.0
    # Without the barrier XLA on CPU writes the scale out as well, once for each logit.
    return jnp.tanh(logits / cap), barred(jnp.asarray(cap, logits.dtype))


def _nats_backward(
    logit_softcap: float | None, residuals: Residuals, nats_grad_BxS: jax.Array
) -> tuple[jax.Array, jax.Array, object, Tap]:
    table_VxD, hidden_BxSxD, targets_BxS, tap, bounded_ZxV, log_sum_Z = residuals
    scale = 1.0 if logit_softcap is None else logit_softcap
    shares_ZxV = jnp.exp(scale * bounded_ZxV - log_sum_Z[:, None])
    entries_V = jnp.arange(table_VxD.shape[0])
    target_ZxV = one_hot(targets_BxS.reshape(-1, 1), entries_V, shares_ZxV.dtype)
    logits_grad_ZxV = (shares_ZxV - target_ZxV) * nats_grad_BxS.reshape(-1, 1)
    if logit_softcap is not None:
        logits_grad_ZxV *= 1.0 - jnp.square(bounded_ZxV)
    logits_grad_ZxV = logits_grad_ZxV.astype(hidden_BxSxD.dtype)
    hidden_grad_ZxD = contract_last(logits_grad_ZxV, table_VxD.astype(hidden_BxSxD.dtype), 0)
    logits_grad_BxSxV = logits_grad_ZxV.reshape(*targets_BxS.shape, -1)
    table_grad, tap_grad = product_gradient(table_VxD, logits_grad_BxSxV, hidden_BxSxD, tap)
    no_target_grad = np.zeros(targets_BxS.shape, jax.dtypes.float0)
    return table_grad, hidden_grad_ZxD.reshape(hidden_BxSxD.shape), no_target_grad, tap_grad


_nats.defvjp(_nats_forward, _nats_backward)
