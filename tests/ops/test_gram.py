"""Norms from inner products between tokens, in blocks and at once."""

import jax.numpy as jnp
import numpy as np
import pytest

from dpscale.ops.dense import DenseFactors
from dpscale.ops.gram import (
    gram_cost,
    gram_of,
    gram_squares,
    lengths_of,
    row_lengths,
    zero_gram,
)
from dpscale.ops.taps import CANCELLATION
from dpscale.privacy.clipping import NORM_MARGIN, ClipRule

LENGTHS = [1, 5, 512, 515]  # from 512 on in four blocks, which need not be equal


def factors(seq_len, dtype=jnp.float32):
    generator = np.random.default_rng(seq_len)
    shapes = (2, seq_len, 3), (2, seq_len, 4)
    return [jnp.asarray(generator.standard_normal(shape), dtype) for shape in shapes]


def wide(x):
    return np.asarray(x, np.float64)


def squares_of(x, g, scaled_dtype=None):
    lengths = row_lengths(x), row_lengths(g)
    return gram_squares(gram_of(x), gram_of(g), lengths, scaled_dtype=scaled_dtype or x.dtype)


@pytest.mark.parametrize("seq_len", LENGTHS)
def test_norms_are_those_of_the_product(seq_len):
    """Catches a block left out, or one off the diagonal that counts once."""
    x, g = factors(seq_len)
    expected = np.square(np.einsum("bsd,bsp->bdp", wide(x), wide(g))).sum(axis=(1, 2))
    squares = squares_of(x, g)
    np.testing.assert_allclose(squares.norm_B, expected, rtol=1e-5)
    np.testing.assert_array_equal(squares.rounding_B, 0)


@pytest.mark.parametrize("seq_len", LENGTHS)
def test_the_bound_on_rounding_is_its_formula(seq_len):
    """Catches a pair of tokens that the bound forgets, and a bound on the other operand."""
    x, g = factors(seq_len, jnp.bfloat16)
    norms = np.linalg.norm(wide(x), axis=2)
    inner = np.abs(np.einsum("bsp,btp->bst", wide(g), wide(g)))
    expected = 2.0**-16 * np.einsum("bs,bst,bt->b", norms, inner, norms)
    squares = squares_of(x, g)
    np.testing.assert_allclose(squares.rounding_B, expected, rtol=1e-5)


@pytest.mark.parametrize("seq_len", LENGTHS)
def test_rounding_really_stays_within_the_bound(seq_len):
    """Catches a formula that holds on paper alone."""
    x, g = factors(seq_len, jnp.bfloat16)
    factor = jnp.asarray([0.0, 0.3], jnp.float32)
    added = wide(DenseFactors(x, g).weighted_sum(factor).finished()) / wide(factor[1])
    error = np.linalg.norm(added - wide(x[1]).T @ wide(g[1]))
    bound = np.sqrt(squares_of(x, g).rounding_B[1])
    assert 0 < error <= bound


def cancelling(seq_len, seed, width_in=16, width_out=24):
    """One example whose tokens are nearly alike, and whose output gradients nearly add up to 0."""
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((1, 1, width_in))
    x = x + 1e-3 * generator.standard_normal((1, seq_len, width_in))
    g = generator.standard_normal((1, seq_len, width_out))
    g -= (1 - 1e-3) * g.mean(axis=1, keepdims=True)
    return jnp.asarray(x, jnp.float32), jnp.asarray(g, jnp.float32)


@pytest.mark.parametrize("seq_len", LENGTHS)
def test_the_bound_on_what_cancels_is_its_formula(seq_len):
    """Catches a token or a block that the bound forgets, and one of another dtype's digits."""
    x, g = factors(seq_len)
    size = np.sum(np.linalg.norm(wide(x), axis=2) * np.linalg.norm(wide(g), axis=2), axis=1)
    for dtype in (jnp.float32, jnp.bfloat16):
        squares = squares_of(x, g, jnp.dtype(dtype))
        expected = CANCELLATION * 2.0**-24 * np.square(size)
        np.testing.assert_allclose(squares.error_B, expected, rtol=1e-5)


@pytest.mark.parametrize("seq_len", LENGTHS[1:])
def test_what_is_added_keeps_to_the_clip_norm_where_tokens_cancel(seq_len):
    """Catches factors from a norm of which float32 left nothing."""
    would_exceed, clip_norm = 0, 1e-6
    for seed in range(20):
        x, g = cancelling(seq_len, seed)
        squares = squares_of(x, g)
        norm = np.linalg.norm(wide(x[0]).T @ wide(g[0]))
        assert abs(float(squares.norm_B[0]) - norm**2) <= float(squares.error_B[0])
        factor = ClipRule(clip_norm, False).factors(squares, jnp.ones(1, bool))[0]
        assert 0 < float(factor) * norm <= clip_norm * (1 + NORM_MARGIN)
        would_exceed += norm > float(squares.norms_B[0]) * (1 + NORM_MARGIN)
    assert would_exceed >= 3  # without the allowance


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("seq_len", LENGTHS)
def test_lengths_of_rows_are_the_diagonals_roots(seq_len, dtype):
    """Catches lengths in bfloat16, tokens out of order, and a block that is left out."""
    x, _ = factors(seq_len, dtype)
    expected = np.linalg.norm(wide(x), axis=2)
    for lengths in (row_lengths(x), lengths_of(gram_of(x))):
        assert lengths.dtype == jnp.float32
        np.testing.assert_allclose(lengths, expected, rtol=1e-6)


@pytest.mark.parametrize("seq_len", LENGTHS)
def test_a_sum_begins_with_the_gram_matrix_of_nothing(seq_len):
    """Catches blocks of other shapes."""
    x, _ = factors(seq_len)
    for zero, block in zip(zero_gram(2, seq_len, x.dtype), gram_of(x), strict=True):
        assert zero.shape == block.shape
        assert zero.dtype == block.dtype
        assert not np.any(zero)


def test_blocks_cost_less():
    """Catches a cost that the choice of a rule would be misled by."""
    assert gram_cost(511, 3) == 511**2 * 3
    blocks = gram_of(jnp.zeros((1, 512, 3)))
    assert gram_cost(512, 3) == sum(block.size for block in blocks) * 3 == 512**2 * 3 * 10 / 16
