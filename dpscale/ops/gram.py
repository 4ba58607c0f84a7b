"""Inner products between the tokens of an example, and norms that follow from them.

A Gram matrix is symmetric. Of a long sequence only the blocks on and above the diagonal are
computed, which is 10 of 16 and saves 30 to 40 % of the time on CPU from 512 tokens on; of a
short one the blocks would be too small for a matrix unit.

Axes: B examples, S tokens, K tokens of one block, L tokens of another, D width.
"""

from functools import reduce
from itertools import combinations_with_replacement

import jax
import jax.numpy as jnp

from dpscale.ops.contraction import contract, row_products, unit_roundoff, wide
from dpscale.ops.taps import Squares, cancellation_error

Gram = tuple[jax.Array, ...]
"""The blocks [B, K, L] of a Gram matrix on and above its diagonal, in the order of `_pairs`."""

_LONG_SEQUENCE, _BLOCKS_OF_LONG = 512, 4


def gram_of(x_BxSxD: jax.Array) -> Gram:
    """The inner products between all tokens of each example, float32."""
    blocks = _blocks(x_BxSxD)
    return tuple(
        contract(blocks[row], blocks[column], ((2,), (2,)), ((0,), (0,)))
        for row, column in _pairs(len(blocks))
    )


def zero_gram(num_examples: int, seq_len: int, dtype: jnp.dtype) -> Gram:
    """The Gram matrix of nothing, to add to."""
    blocks = _blocks(jnp.zeros((num_examples, seq_len, 0), dtype))
    return tuple(
        jnp.zeros((num_examples, blocks[row].shape[1], blocks[column].shape[1]), dtype)
        for row, column in _pairs(len(blocks))
    )


def gram_cost(seq_len: int, width: int) -> float:
    """Multiply-adds of `gram_of` for one example."""
    share = 1.0
    if seq_len >= _LONG_SEQUENCE:
        share = len(_pairs(_BLOCKS_OF_LONG)) / _BLOCKS_OF_LONG**2
    return share * seq_len**2 * width


def row_lengths(x_BxSxD: jax.Array) -> jax.Array:
    """float32[B, S]: the length of each token's row.

    It is the root of the Gram matrix's diagonal; but to read that XLA on CPU would have to write
    out the matrix, which it need not for a norm (1 to 2 % of the gradient of a wide model).
    """
    square_BxSxD = jnp.square(x_BxSxD.astype(wide(x_BxSxD.dtype)))
    return jnp.sqrt(jnp.sum(square_BxSxD, axis=2))


def lengths_of(gram: Gram) -> jax.Array:
    """float32[B, S]: the same from a Gram matrix, where rows were never there as a whole."""
    diagonals = [
        jnp.diagonal(block, axis1=1, axis2=2)
        for (row, column), block in zip(_pairs_of(gram), gram, strict=True)
        if row == column
    ]
    return jnp.sqrt(jnp.concatenate(diagonals, axis=1))


def gram_squares(
    scaled: Gram,
    other: Gram,
    lengths: tuple[jax.Array, jax.Array],
    *,
    scaled_dtype: jnp.dtype,
) -> Squares:
    """Squared norms of `xᵀ g` from the Gram matrices and row lengths of x and g.

    The norm that would be, if nothing cancelled, is Σ_s ‖x_s‖ ‖g_s‖.

    The first belongs to the operand that takes the factors in a weighted sum. It is rounded to
    its dtype after it was multiplied: row s is then off by at most u·‖row_s‖ (u the unit
    round-off), and the product by E with ‖E‖² <= u² Σ_st ‖row_s‖ ‖row_t‖ |other_st|.
    """
    pairs = _pairs_of(scaled)
    norm_B = reduce(
        jnp.add,
        (
            _times(pair) * row_products(mine, theirs)
            for pair, mine, theirs in zip(pairs, scaled, other, strict=True)
        ),
    )
    error_B = cancellation_error(jnp.sum(lengths[0] * lengths[1], axis=1))
    roundoff = unit_roundoff(scaled_dtype)
    if not roundoff:
        return Squares(norm_B, jnp.zeros_like(norm_B), error_B)
    blocks = _blocks(lengths[0])
    bound_B = reduce(
        jnp.add,
        (
            _times(pair) * _bound(blocks[pair[0]], theirs, blocks[pair[1]])
            for pair, theirs in zip(pairs, other, strict=True)
        ),
    )
    return Squares(norm_B, roundoff**2 * bound_B, error_B)


def _bound(left_BxK: jax.Array, block_BxKxL: jax.Array, right_BxL: jax.Array) -> jax.Array:
    return jnp.sum(left_BxK[:, :, None] * jnp.abs(block_BxKxL) * right_BxL[:, None, :], axis=(1, 2))


def _blocks(x_BxS: jax.Array) -> list[jax.Array]:
    """[B, K, ...] each: the tokens in blocks."""
    count = _BLOCKS_OF_LONG if x_BxS.shape[1] >= _LONG_SEQUENCE else 1
    return jnp.array_split(x_BxS, count, axis=1)


def _pairs_of(gram: Gram) -> list[tuple[int, int]]:
    return _pairs(1 if len(gram) == 1 else _BLOCKS_OF_LONG)


def _pairs(num_blocks: int) -> list[tuple[int, int]]:
    return list(combinations_with_replacement(range(num_blocks), 2))


def _times(pair: tuple[int, int]) -> float:
    """A block off the diagonal stands for its mirror image too."""
    return 1.0 if pair[0] == pair[1] else 2.0
