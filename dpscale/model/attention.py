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
from dpscale.ops.attend import attend


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
            visible = past.visible(seq_len, window)
        # A key-value head serves consecutive query heads: head = k · G + g.
        query = query.reshape(num_examples, seq_len, model.num_kv_heads, -1, model.head_dim)
        scale = (model.query_pre_attn_scalar or model.head_dim) ** -0.5
        softcap = model.attn_logit_softcap
        attended = attend(query, key, value, visible, scale=scale, softcap=softcap)
        merged = attended.reshape(num_examples, seq_len, -1)
        return Dense(model.width, name="output")(merged), past


def causal_mask(seq_len: int, window: jax.Array | int) -> jax.Array:
    """bool[S, S], True where position s sees position t: 0 <= s - t < window."""
    distance_SxT = jnp.arange(seq_len)[:, None] - jnp.arange(seq_len)[None, :]
    return (distance_SxT >= 0) & (distance_SxT < window)
