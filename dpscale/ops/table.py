"""The record of a tied table: what `embed` and `unembed` leave behind, joined.

An example's gradient of the table is the sum of two: rows for the tokens that it read
(`embed`), and a dense one from the logits (`unembed`). So its squared norm is
‖in‖² + ‖out‖² + 2·<in, out>, where the inner product only meets the rows that were read.

Axes: B examples, S positions, D width, V vocabulary.
"""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from dpscale.ops.chunked_records import ChunkedOutput, OutputNorms
from dpscale.ops.contraction import row_products
from dpscale.ops.dense import DenseFactors
from dpscale.ops.sums import Joined, Sum
from dpscale.ops.taps import NormRule, Squares, Weighting, cancellation_error


@partial(jax.tree_util.register_dataclass, data_fields=["input", "output"], meta_fields=[])
@dataclass(frozen=True)
class TableRecord:
    """One record, or tap, for both uses of a table; a use that did not occur is None.

    `input` is an `EmbedFactors`, `output` a record that also answers `turned_rows(tokens)`: a
    `DenseFactors`, `DenseGradients`, `OutputNorms` or `ChunkedOutput`. As a tap for weighted
    sums both are a `Weighting`.
    """

    input: Any
    output: Any
    weight_ndim: ClassVar[int] = 2

    @property
    def tokens_BxS(self) -> jax.Array | None:
        """The tokens that were read, if any."""
        return getattr(self.input, "tokens_BxS", None)

    def measuring(self, rule: NormRule) -> "TableRecord":
        """See `taps.Record`."""
        if isinstance(self.output, DenseFactors):
            hidden_BxSxD = self.output.y_grad_BxSxP
            tokens = self.tokens_BxS
            if tokens is None:
                tokens = jnp.zeros((hidden_BxSxD.shape[0], 0), jnp.int32)
            return dataclasses.replace(self, output=OutputNorms.empty(tokens, hidden_BxSxD, rule))
        output = None if self.output is None else self.output.measuring(rule)
        return dataclasses.replace(self, output=output)

    def keeping(self, rule: NormRule) -> "TableRecord":
        """See `taps.Record`."""
        output = None if self.output is None else self.output.keeping(rule)
        return dataclasses.replace(self, output=output)

    def weighting(self, factor_B: jax.Array) -> "TableRecord":
        """See `taps.Record`."""
        return TableRecord(Weighting(factor_B), Weighting(factor_B))

    def squares(self) -> Squares:
        """See `taps.Record`."""
        if self.input is None or self.output is None:
            alone: Squares = (self.input or self.output).squares()
            return alone
        rows_BxDxS = self.output.turned_rows(self.input.tokens_BxS)
        x_grad_BxDxS = self.input.x_grad_BxSxD.astype(rows_BxDxS.dtype).swapaxes(1, 2)
        crossed_B = 2.0 * row_products(x_grad_BxDxS, rows_BxDxS)
        read, predicted = self.input.squares(), self.output.squares()
        # The two may cancel too. (a + b)² is a² + 2ab + b², of which `read` has a².
        error_B = cancellation_error(predicted.norms_B)
        error_B += 2.0 * jnp.sqrt(read.error_B) * jnp.sqrt(error_B)
        apart: Squares = read + predicted
        return apart + Squares(crossed_B, jnp.zeros_like(crossed_B), error_B)

    def weighted_sum(self, factor_B: jax.Array) -> Sum:
        """See `taps.Record`."""
        if self.input is None or self.output is None:
            alone: Sum = (self.input or self.output).weighted_sum(factor_B)
            return alone
        return Joined(self.output.weighted_sum(factor_B), self.input.weighted_sum(factor_B))


def output_record(
    table_VxD: jax.Array,
    hidden_BxSxD: jax.Array,
    targets_BxS: jax.Array,
    tokens_BxS: jax.Array | None,
    *,
    logit_softcap: float | None,
    chunk_len: int | None,
) -> DenseFactors | ChunkedOutput:
    """The empty record of unembedding, before the backward pass.

    Args:
      table_VxD: float32[V, D] weights.
      hidden_BxSxD: Hidden states in the compute dtype.
      targets_BxS: int32[B, S].
      tokens_BxS: The tokens that the same table embedded, if it did.
      logit_softcap: Cap of the logits, or None.
      chunk_len: Entries of the vocabulary in one chunk; None where all logits exist at once.
    """
    if chunk_len is None:
        logits_shape = (*targets_BxS.shape, table_VxD.shape[0])
        logits_grad = jnp.zeros(logits_shape, hidden_BxSxD.dtype)
        return DenseFactors(logits_grad, jnp.zeros_like(hidden_BxSxD))
    if tokens_BxS is None:
        tokens_BxS = jnp.zeros((targets_BxS.shape[0], 0), jnp.int32)
    return ChunkedOutput.empty(
        table_VxD, hidden_BxSxD, targets_BxS, tokens_BxS, logit_softcap, chunk_len
    )
