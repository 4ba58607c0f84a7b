"""What it saves on a CPU to turn an operand first, and to read a turned table along its rows.

    python analysis/product_forms.py

Each line times one product of tokens, narrow operand [B, S, N] and broad one [B, S, W], as it
stands (both contracted over their tokens) and with the narrow one turned before, in one process,
call by call in turn: summed over all tokens, and apart for each example. The last lines read some
columns of [B, N, W], other ones for each example, down and along the rows. Medians and quartiles of
per-round ratios.
"""

from collections.abc import Callable
from random import Random

from dpscale.runtime import prepare_process

prepare_process()

import jax  # noqa: E402
import numpy as np  # noqa: E402
from jax import lax  # noqa: E402
from jax import numpy as jnp  # noqa: E402

from dpscale.bench.timing import Ratio, Stopwatch  # noqa: E402
from dpscale.ops.contraction import contract, row_products  # noqa: E402
from dpscale.training.interruption import StopRequest  # noqa: E402

ROUNDS = 60
PRODUCTS = (
    (8, 256, 256, 8192),
    (8, 256, 256, 1024),
    (8, 256, 256, 256),
    (8, 128, 128, 4096),
    (8, 128, 128, 512),
    (8, 128, 128, 128),
)
COLUMNS = ((8, 256, 256, 8192), (8, 128, 128, 4096), (16, 64, 512, 8192))

Form = Callable[[jax.Array, jax.Array], jax.Array]


def as_it_stands(narrow: jax.Array, broad: jax.Array) -> jax.Array:
    """Contracted over tokens, the second axis from the end."""
    tokens = narrow.ndim - 2
    along = tuple(range(tokens))
    return contract(narrow, broad, ((tokens,), (tokens,)), (along, along))


def turned_first(narrow: jax.Array, broad: jax.Array) -> jax.Array:
    """The same from the turned operand, written out."""
    tokens = narrow.ndim - 2
    along = tuple(range(tokens))
    turned = lax.optimization_barrier(narrow.swapaxes(-1, -2))  # type: ignore[no-untyped-call]
    return contract(turned, broad, ((tokens + 1,), (tokens,)), (along, along))


def down(index_BxT: jax.Array, grad_BxNxW: jax.Array) -> jax.Array:
    """Inner products of the columns with themselves, the columns as rows."""
    columns = jnp.take_along_axis(grad_BxNxW, index_BxT[:, None, :], axis=2).swapaxes(1, 2)
    return row_products(columns, columns)


def along(index_BxT: jax.Array, grad_BxNxW: jax.Array) -> jax.Array:
    """The same, the columns as they stand."""
    columns = jnp.take_along_axis(grad_BxNxW, index_BxT[:, None, :], axis=2)
    columns = lax.optimization_barrier(columns)  # type: ignore[no-untyped-call]
    return row_products(columns, columns)


def compared(one: Form, other: Form, left: jax.Array, right: jax.Array) -> Ratio:
    """Time of `other` to that of `one`."""
    calls = {}
    for form in (one, other):
        compiled = jax.jit(form).lower(left, right).compile()
        compiled(left, right).block_until_ready()
        calls[form] = lambda _, run=compiled: run(left, right).block_until_ready()
    seconds = Stopwatch(Random(0), StopRequest()).rounds(calls, ROUNDS)
    return Ratio.of(seconds[other], seconds[one])


def main() -> None:
    """Prints one line a shape."""
    generator = np.random.default_rng(0)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(generator.standard_normal(shape), jnp.float32)

    for batch, seq_len, narrow, broad in PRODUCTS:
        left, right = normal(batch, seq_len, narrow), normal(batch, seq_len, broad)
        summed = compared(
            as_it_stands, turned_first, left.reshape(-1, narrow), right.reshape(-1, broad)
        )
        apart = compared(as_it_stands, turned_first, left, right)
        print(f"{batch} x {seq_len} x {narrow} x {broad}: summed {summed}, apart {apart}")
    for batch, num_read, narrow, broad in COLUMNS:
        index = (broad * generator.random((batch, num_read)) ** 3).astype(np.int32)
        ratio = compared(down, along, jnp.asarray(index), normal(batch, narrow, broad))
        print(f"{num_read} columns of {batch} x {narrow} x {broad}: {ratio}")


if __name__ == "__main__":
    main()
