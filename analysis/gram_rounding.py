"""How far float32 puts the gram rule's norm off where the gradients of tokens cancel.

    python analysis/gram_rounding.py

Draws inputs x and output gradients g of one layer with a common part in x that g nearly cancels,
and compares the norm of xᵀg by the gram rule in float32 with that in float64. The cancellation is
Σ_s ‖x_s‖ ‖g_s‖ / ‖xᵀg‖: 1 for one token, √S for S independent ones.
"""

import jax.numpy as jnp
import numpy as np

from dpscale.ops.dense import DenseFactors

SEED, REPEATS = 0, 8
TOKENS, WIDTH_IN, WIDTH_OUT = (64, 256), 256, 1024
LEFT_OVER = (1.0, 0.1, 0.03, 0.01, 0.003, 0.001)
"""Share of x that is its own, and of the mean of g that is left."""


def layer(
    generator: np.random.Generator, tokens: int, left_over: float
) -> tuple[np.ndarray, np.ndarray]:
    """float32 x[1, S, D] and g[1, S, P]."""
    x = generator.normal(size=(1, 1, WIDTH_IN))
    x = x + left_over * generator.normal(size=(1, tokens, WIDTH_IN))
    g = generator.normal(size=(1, tokens, WIDTH_OUT))
    g -= (1 - left_over) * g.mean(axis=1, keepdims=True)
    return x.astype(np.float32), g.astype(np.float32)


def cancellation_and_error(x: np.ndarray, g: np.ndarray) -> tuple[float, float]:
    """The cancellation, and the relative error of the gram rule's norm."""
    exact = np.einsum("bsd,bsp->bdp", x.astype(np.float64), g.astype(np.float64))
    norm = float(np.linalg.norm(exact))
    lengths = np.linalg.norm(x, axis=2) * np.linalg.norm(g, axis=2)
    squares = DenseFactors(jnp.asarray(x), jnp.asarray(g)).squares()
    return float(lengths.sum()) / norm, abs(float(jnp.sqrt(squares.norm_B[0])) / norm - 1)


def main() -> None:
    """Prints the table."""
    generator = np.random.default_rng(SEED)
    print("| tokens | cancellation | largest relative error of the norm |\n|---|---|---|")
    for tokens in TOKENS:
        for left_over in LEFT_OVER:
            pairs = [
                cancellation_and_error(*layer(generator, tokens, left_over)) for _ in range(REPEATS)
            ]
            cancelled, errors = zip(*pairs, strict=True)
            print(f"| {tokens} | {np.median(cancelled):.3g} | {max(errors):.1e} |")


if __name__ == "__main__":
    main()
