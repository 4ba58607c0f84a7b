"""What a layer remembers of the tokens before: the keys and values of attention.

Each example has T slots. Its tokens stand at the end of the slots that are filled, so that
prompts of different lengths end together and every example writes its next token to the same
slot; slots before a shorter prompt hold padding, which its tokens do not see.

Axes: B examples, S new tokens, T slots, K key-value heads, h channels of a head.
"""

import dataclasses
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["key_BxTxKxh", "value_BxTxKxh", "num_filled", "num_padding_B"],
    meta_fields=[],
)
@dataclass(frozen=True)
class Past:
    """Keys (already turned to their positions) and values of one layer.

    `num_filled` (int32 scalar) slots hold something, the first `num_padding_B` (int32[B]) of
    them padding.
    """

    key_BxTxKxh: jax.Array
    value_BxTxKxh: jax.Array
    num_filled: jax.Array
    num_padding_B: jax.Array

    def next_positions(self, num_tokens: int) -> jax.Array:
        """int32[B, S]: where the next tokens stand in their texts; below 0 for padding."""
        return self.num_filled + jnp.arange(num_tokens) - self.num_padding_B[:, None]

    def extended(self, key_BxSxKxh: jax.Array, value_BxSxKxh: jax.Array) -> "Past":
        """With S more tokens, for which there must be room."""

        def written(slots: jax.Array, new: jax.Array) -> jax.Array:
            start = (0, self.num_filled, 0, 0)
            return lax.dynamic_update_slice(slots, new.astype(slots.dtype), start)

        return dataclasses.replace(
            self,
            key_BxTxKxh=written(self.key_BxTxKxh, key_BxSxKxh),
            value_BxTxKxh=written(self.value_BxTxKxh, value_BxSxKxh),
            num_filled=self.num_filled + key_BxSxKxh.shape[1],
        )

    def visible(self, num_tokens: int, window: jax.Array) -> jax.Array:
        """bool[B, S, T]: which slots each of the newest S tokens sees.

        The last `window` of its own text, itself included. Padding sees padding, so that no
        row is empty: a softmax over nothing would be NaN, and NaN times a weight of 0 is NaN.
        """
        slot_T = jnp.arange(self.key_BxTxKxh.shape[1])
        slot_S = self.num_filled - num_tokens + jnp.arange(num_tokens)
        distance_SxT = slot_S[:, None] - slot_T
        is_text_BxT = slot_T >= self.num_padding_B[:, None]
        is_text_BxS = slot_S >= self.num_padding_B[:, None]
        same_BxSxT = is_text_BxS[:, :, None] == is_text_BxT[:, None, :]
        return (distance_SxT >= 0) & (distance_SxT < window) & same_BxSxT
