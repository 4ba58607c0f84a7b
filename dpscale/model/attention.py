"""Causal grouped-query attention with capped scores, as in Gemma 2 (arXiv 2408.00118).

Axes: B examples, S query positions, T key positions, D width, H query heads, K key-value
heads, G = H / K query heads that share one, h channels of a head.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from dpscale.config import ModelConfig
from dpscale.model.past import Past
from dpscale.model.rotary import rotate
from dpscale.model.weights import Dense, side_by_side
from dpscale.ops.contraction import PRECISION, wide
from dpscale.ops.soft_cap import soft_cap
from dpscale.ops.softmax_average import softmax_average


class Attention(nn.Module):
    """Queries, keys, values, their attention, and the projection back to the width."""

    model: ModelConfig

    @nn.compact
    def __call__(
        self, x_BxSxD: jax.Array, window: jax.Array, past: Past | None = None
    ) -> tuple[jax.Array, Past | None]:
        """Attends to the last `window` positions (int32 scalar), the own one included.

        Without a `past` the S tokens are the whole text. With one they follow it, and the
        second result is the past of the tokens to come.
        """
        model = self.model
        num_examples, seq_len, _ = x_BxSxD.shape

        heads = {"query": model.num_heads, "key": model.num_kv_heads, "value": model.num_kv_heads}
        modules = [Dense(count * model.head_dim, name=name) for name, count in heads.items()]
        query, key, value = (
            projected.reshape(num_examples, seq_len, -1, model.head_dim)
            for projected in side_by_side(modules, x_BxSxD, model.num_layers)
        )
        positions = jnp.arange(seq_len) if past is None else past.next_positions(seq_len)
        query = rotate(query, positions, theta=model.rope_theta)
        key = rotate(key, positions, theta=model.rope_theta)
        if past is None:
            visible = causal_mask(seq_len, window)
        else:
            past = past.extended(key, value)
            key, value = past.key_BxTxKxh, past.value_BxTxKxh
            visible = past.visible(seq_len, window)[:, None, None]
        attended_BxSxHxh = attend(model, query, key, value, visible)
        merged = attended_BxSxHxh.reshape(num_examples, seq_len, -1)
        return Dense(model.width, name="output")(merged), past


def attend(
    model: ModelConfig,
    query_BxSxHxh: jax.Array,
    key_BxTxKxh: jax.Array,
    value_BxTxKxh: jax.Array,
    visible: jax.Array,
) -> jax.Array:
    """Attention of each query head over the key-value head of its group: [B, S, H, h].

    `visible` is bool[S, T], or bool[B, 1, 1, S, T] where examples differ. Contractions are of
    the compute dtype's operands (XLA accumulates them in float32); scale, cap, mask and softmax
    are float32.
    """
    num_examples, seq_len, num_heads, head_dim = query_BxSxHxh.shape
    # A key-value head serves consecutive query heads: head = k · G + g.
    query_BxSxKxGxh = query_BxSxHxh.reshape(num_examples, seq_len, model.num_kv_heads, -1, head_dim)
    scores = jnp.einsum("bskgh,btkh->bkgst", query_BxSxKxGxh, key_BxTxKxh, precision=PRECISION)
    scale = (model.query_pre_attn_scalar or head_dim) ** -0.5
    scores_BxKxGxSxT = soft_cap(scores.astype(wide(scores.dtype)) * scale, model.attn_logit_softcap)
    visible_scores = jnp.where(visible, scores_BxKxGxSxT, -jnp.inf)
    attended_BxKxGxSxh = softmax_average(visible_scores, value_BxTxKxh)
    attended = jnp.moveaxis(attended_BxKxGxSxh, 3, 1)
    return attended.reshape(num_examples, seq_len, num_heads, head_dim)


def causal_mask(seq_len: int, window: jax.Array | int) -> jax.Array:
    """bool[S, S], True where position s sees position t: 0 <= s - t < window."""
    distance_SxT = jnp.arange(seq_len)[:, None] - jnp.arange(seq_len)[None, :]
    return (distance_SxT >= 0) & (distance_SxT < window)
