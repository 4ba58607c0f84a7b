"""Every entry of the vocabulary is visited once."""

import jax.numpy as jnp
import numpy as np
import pytest

from dpscale.ops.vocab_chunks import over_chunks


@pytest.mark.parametrize("vocab_size", [1, 7, 8])
@pytest.mark.parametrize("chunk_len", [1, 3, 4, 7, 100])
def test_every_entry_is_new_once(vocab_size, chunk_len):
    """Catches an entry left out or counted twice at a seam, and rows of other entries."""
    table = jnp.arange(2.0 * vocab_size).reshape(vocab_size, 2)

    def visit(seen, chunk):
        count, total = seen
        assert chunk.entries_C.shape[0] <= chunk_len
        right = jnp.all(chunk.rows_CxD == table[chunk.entries_C])
        total = chunk.add_rows(total, jnp.where(chunk.is_new_C[:, None], chunk.rows_CxD, 0))
        return count.at[chunk.entries_C].add(chunk.is_new_C * jnp.where(right, 1, 100)), total

    start = jnp.zeros(vocab_size, int), jnp.zeros_like(table)
    count, total = over_chunks(visit, start, table, chunk_len)
    np.testing.assert_array_equal(count, 1)
    np.testing.assert_array_equal(total, table)
