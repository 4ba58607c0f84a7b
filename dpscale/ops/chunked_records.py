"""What the norms and weighted sums of a chunked cross-entropy are computed from.

The norms of per-example gradients are added up over chunks of the vocabulary, and a weighted sum
of gradients walks over the chunks once more.

Axes: B examples, S positions, T tokens read, C entries of the vocabulary in one chunk, D width,
V vocabulary.
"""

import dataclasses
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from dpscale.ops.contraction import contract, row_products, unit_roundoff, wide
from dpscale.ops.dense import DenseFactors, DenseNorms, takes_gram
from dpscale.ops.gram import gram_of, gram_squares, lengths_of, row_lengths, zero_gram
from dpscale.ops.sums import Whole
from dpscale.ops.taps import NormRule, Squares, scaled
from dpscale.ops.vocab_chunks import Chunk, ChunkedLogits, over_chunks

Parts = tuple[jax.Array, ...]
Sums = tuple[jax.Array, jax.Array, Parts]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["tokens_BxS", "rows_BxDxS", "found"],
    meta_fields=["rule"],
)
@dataclass(frozen=True)
class OutputNorms:
    """Squared norms of the output gradients, and their rows for the tokens that were read."""

    tokens_BxS: jax.Array
    rows_BxDxS: jax.Array
    found: Squares
    rule: NormRule

    @classmethod
    def empty(cls, tokens_BxS: jax.Array, hidden_BxSxD: jax.Array, rule: NormRule) -> "OutputNorms":
        """Zeros, for a use of the table; no tokens where it is not tied."""
        dtype, width = wide(hidden_BxSxD.dtype), hidden_BxSxD.shape[-1]
        num_examples, num_read = tokens_BxS.shape
        rows_BxDxS = jnp.zeros((num_examples, width, num_read), dtype)
        return cls(tokens_BxS, rows_BxDxS, Squares.exact(jnp.zeros(num_examples, dtype)), rule)

    def squares(self) -> Squares:
        """See `taps.Record`."""
        return self.found

    def turned_rows(self, tokens_BxS: jax.Array) -> jax.Array:
        """float32[B, D, S]: the gradient's rows for the tokens that the record was made for."""
        return self.rows_BxDxS

    def filled(self, x: jax.Array, y_grad: jax.Array) -> "OutputNorms":
        """The record of a backward pass with all logits at once: their gradient, the hidden."""
        found = DenseNorms(self.found, self.rule).filled(x, y_grad).squares()
        rows_BxDxS = DenseFactors(x, y_grad).turned_rows(self.tokens_BxS)
        return dataclasses.replace(self, rows_BxDxS=rows_BxDxS, found=found)

    def filled_from(self, logits: ChunkedLogits) -> tuple["OutputNorms", jax.Array]:
        """The record, and the gradient of the hidden states on the way."""
        hidden_BxSxD, dtype = logits.hidden_BxSxD, wide(logits.hidden_BxSxD.dtype)
        measure = _ByGram() if self._takes_gram(logits) else _ByProducts()

        def add(so_far: Sums, chunk: Chunk) -> Sums:
            hidden_grad_BxSxD, picked_BxSxT, parts = so_far
            grad_BxSxC = logits.gradient(chunk)
            return (
                hidden_grad_BxSxD + chunk.hidden_gradient(grad_BxSxC),
                picked_BxSxT + _picked(chunk, grad_BxSxC, self.tokens_BxS).astype(dtype),
                jax.tree.map(jnp.add, parts, measure.parts(hidden_BxSxD, grad_BxSxC)),
            )

        start = (
            jnp.zeros(hidden_BxSxD.shape, dtype),
            jnp.zeros((*hidden_BxSxD.shape[:2], self.tokens_BxS.shape[1]), dtype),
            measure.zeros(hidden_BxSxD),
        )
        hidden_grad, picked_BxSxT, parts = over_chunks(
            add, start, logits.table_VxD, logits.chunk_len
        )
        found = measure.squares(hidden_BxSxD, parts)
        rows = contract(hidden_BxSxD.astype(dtype), picked_BxSxT, ((1,), (1,)), ((0,), (0,)))
        filled = dataclasses.replace(self, rows_BxDxS=rows, found=found)
        return filled, hidden_grad.astype(hidden_BxSxD.dtype)

    def _takes_gram(self, logits: ChunkedLogits) -> bool:
        _, seq_len, width = logits.hidden_BxSxD.shape
        is_rounded = unit_roundoff(logits.hidden_BxSxD.dtype) > 0
        return is_rounded or takes_gram(self.rule, seq_len, width, logits.table_VxD.shape[0])


class _ByGram:
    """Squared norms from Gram matrices, which add up over chunks."""

    def zeros(self, hidden_BxSxD: jax.Array) -> Parts:
        num_examples, seq_len, _ = hidden_BxSxD.shape
        return zero_gram(num_examples, seq_len, wide(hidden_BxSxD.dtype))

    def parts(self, hidden_BxSxD: jax.Array, grad_BxSxC: jax.Array) -> Parts:
        return gram_of(grad_BxSxC)

    def squares(self, hidden_BxSxD: jax.Array, parts: Parts) -> Squares:
        lengths = row_lengths(hidden_BxSxD), lengths_of(parts)
        return gram_squares(gram_of(hidden_BxSxD), parts, lengths, scaled_dtype=hidden_BxSxD.dtype)


class _ByProducts:
    """Squared norms of the gradients themselves, each chunk's rows apart."""

    def zeros(self, hidden_BxSxD: jax.Array) -> Parts:
        return (jnp.zeros(hidden_BxSxD.shape[0], wide(hidden_BxSxD.dtype)),)

    def parts(self, hidden_BxSxD: jax.Array, grad_BxSxC: jax.Array) -> Parts:
        products_BxDxC = contract(hidden_BxSxD, grad_BxSxC, ((1,), (1,)), ((0,), (0,)))
        return (row_products(products_BxDxC, products_BxDxC),)

    def squares(self, hidden_BxSxD: jax.Array, parts: Parts) -> Squares:
        return Squares.exact(parts[0])


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

    def filled_from(self, logits: ChunkedLogits) -> tuple["ChunkedOutput", jax.Array]:
        """The record, and the gradient of the hidden states on the way."""
        norms, hidden_grad = self.norms.filled_from(logits)
        return ChunkedOutput(norms, logits), hidden_grad

    def measuring(self, rule: NormRule) -> OutputNorms:
        """See `taps.Record`."""
        return dataclasses.replace(self.norms, rule=rule)

    def keeping(self, rule: NormRule) -> "ChunkedOutput":
        """See `taps.Record`."""
        return dataclasses.replace(self, norms=self.measuring(rule))

    def squares(self) -> Squares:
        """See `taps.Record`."""
        return self.norms.squares()

    def turned_rows(self, tokens_BxS: jax.Array) -> jax.Array:
        """float32[B, D, S]: the gradient's rows for the tokens that the record was made for."""
        return self.norms.rows_BxDxS

    def weighted_sum(self, factor_B: jax.Array) -> Whole:
        """See `taps.Record`."""
        return Whole(self.logits.table_gradient(scaled(self.logits.hidden_BxSxD, factor_B)))
