"""A large vocabulary, a chunk of it at a time: its logits and their gradient.

Axes: B examples, S positions, C entries of the vocabulary in one chunk, D width, V vocabulary.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from dpscale.ops.contraction import contract_last, wide
from dpscale.ops.dense import weight_gradient
from dpscale.ops.one_hot import one_hot
from dpscale.ops.soft_cap import soft_cap, soft_cap_slope
from dpscale.ops.varying import varying_with

Carry = TypeVar("Carry")


@dataclass(frozen=True)
class Chunk:
    """Some consecutive rows of the table. `is_new_C` is False for those seen before."""

    rows_CxD: jax.Array
    entries_C: jax.Array
    is_new_C: jax.Array

    def logits(self, hidden_BxSxD: jax.Array, logit_softcap: float | None) -> jax.Array:
        """float32[B, S, C], after the soft cap."""
        dtype = hidden_BxSxD.dtype
        logits = contract_last(hidden_BxSxD, self.rows_CxD.astype(dtype), 1, dtype=wide(dtype))
        return soft_cap(logits, logit_softcap)

    def hidden_gradient(self, grad_BxSxC: jax.Array) -> jax.Array:
        """float32[B, S, D]: the share of these logits in the gradient of the hidden states."""
        rows_CxD = self.rows_CxD.astype(grad_BxSxC.dtype)
        return contract_last(grad_BxSxC, rows_CxD, 0, dtype=wide(grad_BxSxC.dtype))

    def add_rows(self, total_VxD: jax.Array, rows_CxD: jax.Array) -> jax.Array:
        """Adds to the chunk's rows of an array like the table."""
        start = self.entries_C[0]
        so_far = lax.dynamic_slice_in_dim(total_VxD, start, rows_CxD.shape[0])
        return lax.dynamic_update_slice_in_dim(total_VxD, so_far + rows_CxD, start, 0)


def over_chunks(
    visit: Callable[[Carry, Chunk], Carry], start: Carry, table_VxD: jax.Array, chunk_len: int
) -> Carry:
    """Visits all chunks of the vocabulary in order.

    All chunks have one length: the last one begins early enough to be full.
    """
    vocab_size = table_VxD.shape[0]
    num_chunks = math.ceil(vocab_size / min(chunk_len, vocab_size))
    length = math.ceil(vocab_size / num_chunks)

    def visit_index(index: jax.Array, carry: Carry) -> Carry:
        first_new = index * length
        first = jnp.minimum(first_new, vocab_size - length)
        entries_C = first + jnp.arange(length)
        rows_CxD = lax.dynamic_slice_in_dim(table_VxD, first, length)
        return visit(carry, Chunk(rows_CxD, entries_C, entries_C >= first_new))

    start = varying_with(table_VxD, start)
    result: Carry = lax.fori_loop(0, num_chunks, visit_index, start)
    return result


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "table_VxD",
        "hidden_BxSxD",
        "targets_BxS",
        "log_sum_BxS",
        "nats_grad_BxS",
    ],
    meta_fields=["logit_softcap", "chunk_len"],
)
@dataclass(frozen=True)
class ChunkedLogits:
    """What the gradient of any chunk's logits is computed from, in the backward pass."""

    table_VxD: jax.Array
    hidden_BxSxD: jax.Array
    targets_BxS: jax.Array
    log_sum_BxS: jax.Array
    nats_grad_BxS: jax.Array
    logit_softcap: float | None
    chunk_len: int

    def gradient(self, chunk: Chunk) -> jax.Array:
        """[B, S, C] in the compute dtype; zero for entries that the chunk repeats."""
        logits_BxSxC = chunk.logits(self.hidden_BxSxD, self.logit_softcap)
        shares_BxSxC = jnp.exp(logits_BxSxC - self.log_sum_BxS[..., None])
        target_BxSxC = one_hot(self.targets_BxS[..., None], chunk.entries_C, shares_BxSxC.dtype)
        grad_BxSxC = (shares_BxSxC - target_BxSxC) * self.nats_grad_BxS[..., None]
        grad_BxSxC *= soft_cap_slope(logits_BxSxC, self.logit_softcap)
        return jnp.where(chunk.is_new_C, grad_BxSxC, 0.0).astype(self.hidden_BxSxD.dtype)

    def table_gradient(self, weighted_hidden_BxSxD: jax.Array) -> jax.Array:
        """float32[V, D]: sum over tokens of logits' gradient times hidden state."""

        def add(total_VxD: jax.Array, chunk: Chunk) -> jax.Array:
            return chunk.add_rows(
                total_VxD, weight_gradient(self.gradient(chunk), weighted_hidden_BxSxD)
            )

        nothing = jnp.zeros(self.table_VxD.shape, wide(self.hidden_BxSxD.dtype))
        return over_chunks(add, nothing, self.table_VxD, self.chunk_len)
