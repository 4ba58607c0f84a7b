"""Cross-entropy of a large vocabulary, a chunk of it at a time.

The forward pass keeps a running log-sum-exp; the backward pass computes each chunk's logits
again, and no pass holds more than one chunk of them. Where the norms of per-example gradients
are wanted they are added up over chunks too, and a weighted sum of gradients walks over the
chunks once more.

Axes: B examples, S positions, Z tokens (B·S), C entries of the vocabulary in one chunk,
D width, V vocabulary.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dpscale.ops.contraction import contract, contract_last, row_products, unit_roundoff, wide
from dpscale.ops.dense import (
    DenseFactors,
    DenseNorms,
    takes_gram,
    weight_gradient,
)
from dpscale.ops.gram import gram_of, gram_squares, zero_gram
from dpscale.ops.taps import (
    NormRule,
    Squares,
    Tap,
    as_cotangent,
    no_cotangent,
    scaled,
)
from dpscale.ops.varying import varying_with

Carry = TypeVar("Carry")
Sums = tuple[jax.Array, jax.Array, tuple[jax.Array, ...]]


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

    def gradient(self, chunk: "Chunk") -> jax.Array:
        """[B, S, C] in the compute dtype; zero for entries that the chunk repeats."""
        logits_BxSxC = _chunk_logits(chunk, self.hidden_BxSxD, self.logit_softcap)
        shares_BxSxC = jnp.exp(logits_BxSxC - self.log_sum_BxS[..., None])
        is_target_BxSxC = self.targets_BxS[..., None] == chunk.entries_C
        grad_BxSxC = (shares_BxSxC - is_target_BxSxC) * self.nats_grad_BxS[..., None]
        if self.logit_softcap is not None:
            grad_BxSxC *= 1.0 - jnp.square(logits_BxSxC / self.logit_softcap)
        return jnp.where(chunk.is_new_C, grad_BxSxC, 0.0).astype(self.hidden_BxSxD.dtype)

    def table_gradient(self, weighted_hidden_BxSxD: jax.Array) -> jax.Array:
        """float32[V, D]: sum over tokens of logits' gradient times hidden state."""

        def add(total_VxD: jax.Array, chunk: Chunk) -> jax.Array:
            return chunk.add_rows(
                total_VxD, weight_gradient(self.gradient(chunk), weighted_hidden_BxSxD)
            )

        nothing = jnp.zeros(self.table_VxD.shape, wide(self.hidden_BxSxD.dtype))
        return over_chunks(add, nothing, self.table_VxD, self.chunk_len)


@dataclass(frozen=True)
class Chunk:
    """Some consecutive rows of the table. `is_new_C` is False for those seen before."""

    rows_CxD: jax.Array
    entries_C: jax.Array
    is_new_C: jax.Array

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


def _chunk_logits(chunk: Chunk, hidden_BxSxD: jax.Array, logit_softcap: float | None) -> jax.Array:
    dtype = hidden_BxSxD.dtype
    logits = contract_last(hidden_BxSxD, chunk.rows_CxD.astype(dtype), 1, dtype=wide(dtype))
    return logits if logit_softcap is None else logit_softcap * jnp.tanh(logits / logit_softcap)


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
        logits = _chunk_logits(chunk, hidden_BxSxD, logit_softcap)
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
        norms = tap if isinstance(tap, OutputNorms) else tap.norms
        norms, hidden_grad = norms.filled_from(logits)
        filled = norms if isinstance(tap, OutputNorms) else ChunkedOutput(norms, logits)
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
            hidden_grad_BxSxD + _hidden_gradient(chunk, grad_BxSxC),
        )

    dtype = wide(logits.hidden_BxSxD.dtype)
    start = (jnp.zeros(logits.table_VxD.shape, dtype), jnp.zeros(logits.hidden_BxSxD.shape, dtype))
    table_grad, hidden_grad = over_chunks(add, start, logits.table_VxD, logits.chunk_len)
    return table_grad, hidden_grad.astype(logits.hidden_BxSxD.dtype)


def _hidden_gradient(chunk: Chunk, grad_BxSxC: jax.Array) -> jax.Array:
    rows_CxD = chunk.rows_CxD.astype(grad_BxSxC.dtype)
    return contract_last(grad_BxSxC, rows_CxD, 0, dtype=wide(grad_BxSxC.dtype))


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["tokens_BxS", "rows_BxSxD", "norm_B", "rounding_B"],
    meta_fields=["rule"],
)
@dataclass(frozen=True)
class OutputNorms:
    """Squared norms of the output gradients, and their rows for the tokens that were read."""

    tokens_BxS: jax.Array
    rows_BxSxD: jax.Array
    norm_B: jax.Array
    rounding_B: jax.Array
    rule: NormRule

    @classmethod
    def empty(cls, tokens_BxS: jax.Array, hidden_BxSxD: jax.Array, rule: NormRule) -> "OutputNorms":
        """Zeros, for a use of the table; no tokens where it is not tied."""
        dtype, width = wide(hidden_BxSxD.dtype), hidden_BxSxD.shape[-1]
        norm_B = jnp.zeros(tokens_BxS.shape[0], dtype)
        return cls(tokens_BxS, jnp.zeros((*tokens_BxS.shape, width), dtype), norm_B, norm_B, rule)

    def squares(self) -> Squares:
        """See `taps.Record`."""
        return Squares(self.norm_B, self.rounding_B)

    def rows(self, tokens_BxS: jax.Array) -> jax.Array:
        """float32[B, S, D]: the gradient's rows for the tokens that the record was made for."""
        return self.rows_BxSxD

    def filled(self, x: jax.Array, y_grad: jax.Array) -> "OutputNorms":
        """The record of a backward pass with all logits at once: their gradient, the hidden."""
        norms = DenseNorms(self.norm_B, self.rounding_B, self.rule).filled(x, y_grad)
        rows_BxSxD = DenseFactors(x, y_grad).rows(self.tokens_BxS)
        return dataclasses.replace(
            self, rows_BxSxD=rows_BxSxD, norm_B=norms.norm_B, rounding_B=norms.rounding_B
        )

    def filled_from(self, logits: ChunkedLogits) -> tuple["OutputNorms", jax.Array]:
        """The record, and the gradient of the hidden states on the way."""
        hidden_BxSxD, dtype = logits.hidden_BxSxD, wide(logits.hidden_BxSxD.dtype)
        num_examples, seq_len, width = hidden_BxSxD.shape
        vocab_size = logits.table_VxD.shape[0]
        is_rounded = unit_roundoff(hidden_BxSxD.dtype) > 0
        by_gram = is_rounded or takes_gram(self.rule, seq_len, width, vocab_size)

        def measured(grad_BxSxC: jax.Array) -> tuple[jax.Array, ...]:
            if by_gram:
                return gram_of(grad_BxSxC)
            products = contract(hidden_BxSxD, grad_BxSxC, ((1,), (1,)), ((0,), (0,)))
            return (row_products(products, products),)

        def add(so_far: Sums, chunk: Chunk) -> Sums:
            hidden_grad_BxSxD, picked_BxSxS, parts = so_far
            grad_BxSxC = logits.gradient(chunk)
            return (
                hidden_grad_BxSxD + _hidden_gradient(chunk, grad_BxSxC),
                picked_BxSxS + _picked(chunk, grad_BxSxC, self.tokens_BxS).astype(dtype),
                jax.tree.map(jnp.add, parts, measured(grad_BxSxC)),
            )

        num_read = self.tokens_BxS.shape[1]
        start = (
            jnp.zeros(hidden_BxSxD.shape, dtype),
            jnp.zeros((num_examples, seq_len, num_read), dtype),
            zero_gram(num_examples, seq_len, dtype)
            if by_gram
            else (jnp.zeros(num_examples, dtype),),
        )
        hidden_grad, picked_BxSxS, parts = over_chunks(
            add, start, logits.table_VxD, logits.chunk_len
        )
        if by_gram:
            dtype_in = hidden_BxSxD.dtype
            squares = gram_squares(gram_of(hidden_BxSxD), parts, scaled_dtype=dtype_in)
        else:
            squares = Squares.exact(parts[0])
        rows = contract(picked_BxSxS, hidden_BxSxD.astype(dtype), ((1,), (1,)), ((0,), (0,)))
        filled = dataclasses.replace(
            self, rows_BxSxD=rows, norm_B=squares.norm_B, rounding_B=squares.rounding_B
        )
        return filled, hidden_grad.astype(hidden_BxSxD.dtype)


def _picked(chunk: Chunk, grad_BxSxC: jax.Array, tokens_BxT: jax.Array) -> jax.Array:
    """[B, S, T]: the gradient of the logit of token t at position s, 0 outside the chunk."""
    place_BxT = tokens_BxT - chunk.entries_C[0]
    is_here_BxT = (place_BxT >= 0) & (place_BxT < grad_BxSxC.shape[-1])
    place_Bx1xT = jnp.where(is_here_BxT, place_BxT, 0)[:, None, :]
    found_BxSxT = jnp.take_along_axis(grad_BxSxC, place_Bx1xT, axis=2)
    return jnp.where(is_here_BxT[:, None, :], found_BxSxT, 0.0)


@partial(jax.tree_util.register_dataclass, data_fields=["norms", "logits"], meta_fields=[])
@dataclass(frozen=True)
class ChunkedOutput:
    """The norms, and what the weighted sum is computed from, chunk by chunk again."""

    norms: OutputNorms
    logits: ChunkedLogits

    @classmethod
    def empty(
        cls,
        table_VxD: jax.Array,
        hidden_BxSxD: jax.Array,
        targets_BxS: jax.Array,
        tokens_BxS: jax.Array,
        logit_softcap: float | None,
        chunk_len: int,
    ) -> "ChunkedOutput":
        """The record of a use of the table, before the backward pass."""
        nats_BxS = jnp.zeros(targets_BxS.shape, wide(hidden_BxSxD.dtype))
        logits = ChunkedLogits(
            jnp.zeros_like(table_VxD),
            jnp.zeros_like(hidden_BxSxD),
            targets_BxS,
            nats_BxS,
            nats_BxS,
            logit_softcap,
            chunk_len,
        )
        return cls(OutputNorms.empty(tokens_BxS, hidden_BxSxD, "auto"), logits)

    def measuring(self, rule: NormRule) -> OutputNorms:
        """See `taps.Record`."""
        return dataclasses.replace(self.norms, rule=rule)

    def keeping(self, rule: NormRule) -> "ChunkedOutput":
        """See `taps.Record`."""
        return dataclasses.replace(self, norms=self.measuring(rule))

    def squares(self) -> Squares:
        """See `taps.Record`."""
        return self.norms.squares()

    def rows(self, tokens_BxS: jax.Array) -> jax.Array:
        """float32[B, S, D]: the gradient's rows for the tokens that the record was made for."""
        return self.norms.rows_BxSxD

    def weighted_sum(self, factor_B: jax.Array) -> jax.Array:
        """See `taps.Record`."""
        return self.logits.table_gradient(scaled(self.logits.hidden_BxSxD, factor_B))
