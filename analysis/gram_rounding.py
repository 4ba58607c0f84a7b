"""How far float32 puts the gram rule's norm off, and whether what is added keeps to the clip norm.

    python analysis/gram_rounding.py

Draws inputs x and output gradients g of one layer: independent numbers, numbers of one sign, one
number over and over, one or two different tokens only, tokens of very different lengths. Then g is
made to cancel over the tokens. The norm of xᵀg by the gram rule in float32 is compared with that
in float64. The cancellation is κ = Σ_s ‖x_s‖ ‖g_s‖ / ‖xᵀg‖: 1 for one token, √S for S independent
ones.

Each line is a range of κ, over all kinds, widths, lengths and shares of g's mean that were left.
It says how far the norm is off at most, in relative terms; how far its square is off, in unit
round-offs of (Σ_s ‖x_s‖ ‖g_s‖)², to be compared with `taps.CANCELLATION` where κ is large; and by
how much what is added for an example exceeds the clip norm, to be compared with
`clipping.NORM_MARGIN`.
"""

from collections.abc import Iterator
from itertools import pairwise, product

import jax
import jax.numpy as jnp
import numpy as np

from dpscale.ops.dense import DenseFactors
from dpscale.ops.taps import CANCELLATION, Squares
from dpscale.privacy.clipping import NORM_MARGIN, ClipRule

SEED, REPEATS = 0, 2
SIZES = (
    (2, 512, 2048),
    (7, 2048, 8192),
    (64, 64, 64),
    (64, 256, 1024),
    (256, 1024, 256),
    (512, 128, 512),
    (1024, 256, 1024),
)
"""Tokens, width in, width out."""

KINDS = ("independent", "one sign", "one number", "one token", "two tokens", "lengths")
LEFT_OVER = (1.0, 0.1, 0.01, 1e-3, 1e-5)
RANGES = (0.99, 3, 10, 100, 1000, np.inf)
CLIP_NORM = 1e-3


def operand(
    generator: np.random.Generator, kind: str, tokens: int, width: int
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """float64[tokens, width]."""
    shape = tokens, width
    match kind:
        case "independent":
            return generator.normal(size=shape)
        case "one sign":
            return generator.uniform(0.5, 1.5, size=shape)
        case "one number":
            return np.full(shape, generator.uniform(1, 2))
        case "one token":
            return np.repeat(generator.uniform(1, 2, size=(1, width)), tokens, axis=0)
        case "two tokens":
            two = generator.uniform(1, 2, size=(2, width))
            return two[generator.integers(0, 2, tokens)]
        case _:
            lengths = 10 ** generator.uniform(-3, 3, size=(tokens, 1))
            return lengths * generator.normal(size=shape)


def layers(generator: np.random.Generator, left_over: float) -> Iterator[tuple[np.ndarray, ...]]:
    """float32 x[1, S, D] and g[1, S, P] of all kinds and sizes."""
    for (tokens, width_in, width_out), of_x, of_g in product(SIZES, KINDS, KINDS):
        for _ in range(REPEATS):
            x = operand(generator, of_x, tokens, width_in)
            g = operand(generator, of_g, tokens, width_out)
            if left_over < 1:
                x = x + left_over * np.abs(x).mean() * generator.normal(size=x.shape)
                g = g - (1 - left_over) * g.mean(axis=0)
            yield x[None].astype(np.float32), g[None].astype(np.float32)


@jax.jit
def squares_and_factor(x: jax.Array, g: jax.Array) -> tuple[Squares, jax.Array]:
    """By the gram rule, as a training step has them."""
    squares = DenseFactors(x, g).squares()
    return squares, ClipRule(CLIP_NORM, False).factors(squares, jnp.ones(1, bool))


def figures(x: np.ndarray, g: np.ndarray) -> tuple[float, float, float, float]:
    """The cancellation, and the three errors of the module's docstring."""
    wide_x, wide_g = x[0].astype(np.float64), g[0].astype(np.float64)
    square = float(np.sum((wide_x @ wide_x.T) * (wide_g @ wide_g.T)))
    size = float(np.linalg.norm(wide_x, axis=1) @ np.linalg.norm(wide_g, axis=1))
    norm = max(square, 0.0) ** 0.5
    squares, factor = squares_and_factor(jnp.asarray(x), jnp.asarray(g))
    measured, roundoff = float(squares.norm_B[0]), float(jnp.finfo(jnp.float32).eps) / 2
    return (
        size / norm if norm else np.inf,
        abs(max(measured, 0.0) ** 0.5 / norm - 1) if norm else np.inf,
        abs(measured - square) / (roundoff * size**2),
        float(factor[0]) * norm / CLIP_NORM - 1,
    )


def main() -> None:
    """Prints the table."""
    generator = np.random.default_rng(SEED)
    found = np.array([figures(x, g) for share in LEFT_OVER for x, g in layers(generator, share)])
    print(f"allowed: {CANCELLATION:g} round-offs, {NORM_MARGIN:g} above the clip norm")
    print("| κ | layers | norm off by | square off by, round-offs | above the clip norm |")
    print("|---|---|---|---|---|")
    for low, high in pairwise(RANGES):
        here = found[(found[:, 0] >= low) & (found[:, 0] < high)]
        _, off, roundoffs, above = here.max(axis=0)
        print(f"| {low:g} to {high:g} | {len(here)} | {off:.1e} | {roundoffs:.3g} | {above:+.1e} |")


if __name__ == "__main__":
    main()
