"""The decoder as a text grows: it computes new tokens only, and keeps what they will need.

The blocks are the decoder's own. They run one after the other instead of in a scan: the layers
of a stacked array would have to be copied out of it for every token, which costs as much as
the token itself.

Axes: B examples, S new tokens, T slots, L layers, D width, V vocabulary.
"""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp

from dpscale.config import ModelConfig
from dpscale.model.decoder import Block, Params, attention_windows
from dpscale.model.past import Past
from dpscale.model.weights import RMSNorm, TiedEmbedding

Step = tuple[jax.Array, Past]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["key_values_L", "num_filled", "num_padding_B"],
    meta_fields=[],
)
@dataclass(frozen=True)
class Memory:
    """Keys and values of all layers, [B, T, K, h] each, and what they hold (see `Past`)."""

    key_values_L: tuple[tuple[jax.Array, jax.Array], ...]
    num_filled: jax.Array
    num_padding_B: jax.Array

    @property
    def num_slots(self) -> int:
        """T."""
        return int(self.key_values_L[0][0].shape[1])


def empty_memory(model: ModelConfig, num_padding_B: jax.Array, num_slots: int) -> Memory:
    """A memory for B texts of up to `num_slots` tokens, padding before them included."""
    shape = (len(num_padding_B), num_slots, model.num_kv_heads, model.head_dim)
    key_values_L = tuple(
        (jnp.zeros(shape, model.compute_dtype), jnp.zeros(shape, model.compute_dtype))
        for _ in range(model.num_layers)
    )
    return Memory(key_values_L, jnp.zeros((), jnp.int32), num_padding_B)


def unstacked(model: ModelConfig, params: Params) -> Params:
    """The parameters with each layer's arrays apart: `layers` is a tuple of L dicts."""
    layers = tuple(
        jax.tree.map(lambda leaf, layer=layer: leaf[layer], params["layers"])
        for layer in range(model.num_layers)
    )
    return {**params, "layers": layers}


def continued(
    model: ModelConfig, params: Params, memory: Memory, tokens_BxS: jax.Array
) -> tuple[jax.Array, Memory]:
    """Reads S more tokens of each text.

    Args:
      params: As `unstacked` lays them out.
      memory: With room for S more tokens.
      tokens_BxS: int32[B, S]; in the first `num_padding_B` slots of a text they are not read.

    Returns:
      Capped logits of the token after the last, float32[B, V]; and the memory, S tokens longer.
    """
    embedding = TiedEmbedding(
        model.vocab_size, model.width, jnp.dtype(model.compute_dtype), model.final_logit_softcap
    )
    table = {"params": params["embedding"]}
    x_BxSxD = cast(jax.Array, embedding.apply(table, tokens_BxS, method="embed"))
    windows_L = attention_windows(model, memory.num_slots)
    key_values_L = []
    for weights, key_value, window in zip(
        params["layers"], memory.key_values_L, windows_L, strict=True
    ):
        before = Past(*key_value, memory.num_filled, memory.num_padding_B)
        block = partial(Block(model).apply, {"params": weights})
        x_BxSxD, past = cast(Step, block(x_BxSxD, jnp.int32(window), before))
        key_values_L.append((past.key_BxTxKxh, past.value_BxTxKxh))
    last_Bx1xD = RMSNorm(model.norm_eps).apply({"params": params["final_norm"]}, x_BxSxD[:, -1:])
    logits_BxV = cast(jax.Array, embedding.apply(table, last_Bx1xD, method="logits"))[:, 0]
    num_filled = memory.num_filled + tokens_BxS.shape[1]
    return logits_BxV, dataclasses.replace(
        memory, key_values_L=tuple(key_values_L), num_filled=num_filled
    )
