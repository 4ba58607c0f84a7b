"""The embed op: rows of the embedding table. The same table serves `unembed`.

Its per-example rules stand in this module beside the plain one, as `dense` explains. Two
things are special to it: a token that occurs twice in an example adds its two gradients in
one row, and the table is tied, so that an example's gradient is the sum of what comes from
here and from `unembed`.

Axes: V vocabulary, D width.
"""

import jax
import jax.numpy as jnp


def embed(table_VxD: jax.Array, tokens: jax.Array, *, dtype: jnp.dtype) -> jax.Array:
    """The tokens' rows of the table, in `dtype`.

    A token outside [0, V) gives NaN, which makes the loss of its own example NaN and leaves
    the others alone; it is never read as some other token.

    Args:
      table_VxD: float32[V, D] weights.
      tokens: int32[...] token ids.

    Returns:
      [..., D] in `dtype`. The gradient of the table is float32 and summed in float32.
    """
    rows = (
        jnp.asarray(table_VxD)
        .at[tokens]
        .get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
    )
    return rows.astype(dtype)
