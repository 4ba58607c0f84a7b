"""The embed op: rows of the embedding table. The same table serves `unembed`.

Its per-example rules stand beside the plain one, as `dense` explains. Two things are special
to it: a token that occurs twice in an example adds its two gradients in one row, and the
table is tied, so that an example's gradient is the sum of what comes from here and from
`unembed` (`table` joins them).

Axes: B examples, S tokens, V vocabulary, D width.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dpscale.ops.contraction import contract
from dpscale.ops.gram import row_lengths
from dpscale.ops.sums import SomeRows
from dpscale.ops.taps import (
    NormRule,
    Squares,
    Tap,
    Weighting,
    as_cotangent,
    cancellation_error,
    no_cotangent,
    scaled,
)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _embed(table_VxD: jax.Array, tokens: jax.Array, tap: Tap, dtype: jnp.dtype) -> jax.Array:
    return embed(table_VxD, tokens, dtype=dtype)


def embed(
    table_VxD: jax.Array, tokens: jax.Array, *, dtype: jnp.dtype, tap: Tap = None
) -> jax.Array:
    """The tokens' rows of the table, in `dtype`.

    A token outside [0, V) gives NaN, which makes the loss of its own example NaN and leaves
    the others alone; it is never read as some other token.

    Args:
      table_VxD: float32[V, D] weights.
      tokens: int32[...] token ids; [B, S] with a tap.
      dtype: The compute dtype.
      tap: What the backward pass does about the table (`taps`).

    Returns:
      [..., D] in `dtype`. The gradient of the table is float32 and summed in float32.
    """
    if tap is not None:
        return _embed(table_VxD, tokens, tap, dtype)
    rows = (
        jnp.asarray(table_VxD)
        .at[tokens]
        .get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
    )
    return rows.astype(dtype)


def _embed_forward(
    table_VxD: jax.Array, tokens: jax.Array, tap: Tap, dtype: jnp.dtype
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, Tap]]:
    return embed(table_VxD, tokens, dtype=dtype), (table_VxD, tokens, tap)


def _embed_backward(
    dtype: jnp.dtype, residuals: tuple[jax.Array, jax.Array, Tap], x_grad: jax.Array
) -> tuple[jax.Array, object, Tap]:
    table_VxD, tokens, tap = residuals
    no_token_grad = np.zeros(tokens.shape, jax.dtypes.float0)
    record = EmbedFactors(tokens, x_grad, table_VxD.shape[0])
    if isinstance(tap, Weighting):
        return record.weighted_sum(tap.factor_B).finished(), no_token_grad, no_cotangent(tap)
    return jnp.zeros_like(table_VxD), no_token_grad, as_cotangent(record)


_embed.defvjp(_embed_forward, _embed_backward)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["tokens_BxS", "x_grad_BxSxD"],
    meta_fields=["vocab_size"],
)
@dataclass(frozen=True)
class EmbedFactors:
    """Which rows an example reads, and the gradient of each reading."""

    tokens_BxS: jax.Array
    x_grad_BxSxD: jax.Array
    vocab_size: int
    weight_ndim: ClassVar[int] = 2

    @classmethod
    def empty(cls, table_VxD: jax.Array, tokens_BxS: jax.Array, dtype: jnp.dtype) -> "EmbedFactors":
        """The record of a use of the table on tokens, before the backward pass."""
        vocab_size, width = table_VxD.shape
        return cls(tokens_BxS, jnp.zeros((*tokens_BxS.shape, width), dtype), vocab_size)

    def measuring(self, rule: NormRule) -> "EmbedFactors":
        """See `taps.Record`."""
        return self

    def keeping(self, rule: NormRule) -> "EmbedFactors":
        """See `taps.Record`."""
        return self

    def squares(self) -> Squares:
        """See `taps.Record`; tokens that are equal add up in one row."""
        gram_BxSxS = contract(self.x_grad_BxSxD, self.x_grad_BxSxD, ((2,), (2,)), ((0,), (0,)))
        is_same = self.tokens_BxS[:, :, None] == self.tokens_BxS[:, None, :]
        length_BxS = row_lengths(self.x_grad_BxSxD)
        uncancelled = length_BxS[:, :, None] * length_BxS[:, None, :]
        norm_B, square_B = (
            jnp.sum(jnp.where(is_same, products, 0.0), axis=(1, 2))
            for products in (gram_BxSxS, uncancelled)
        )
        return Squares(norm_B, jnp.zeros_like(norm_B), cancellation_error(jnp.sqrt(square_B)))

    def weighting(self, factor_B: jax.Array) -> Weighting:
        """See `taps.Record`."""
        return Weighting(factor_B)

    def weighted_sum(self, factor_B: jax.Array) -> SomeRows:
        """See `taps.Record`."""
        rows_BxSxD = scaled(self.x_grad_BxSxD.astype(factor_B.dtype), factor_B)
        return SomeRows(self.tokens_BxS, rows_BxSxD, self.vocab_size)
