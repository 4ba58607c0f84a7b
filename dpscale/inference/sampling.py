"""How the next token is drawn from its logits.

Axes: B examples, V vocabulary.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from dpscale.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn.

    At `temperature` 0 the likeliest token is taken (the lowest id of equals), and the rest
    does not matter. Above, a token is drawn from softmax(logits / temperature), cut to the
    likeliest tokens that hold `top_p` of it together (Holtzman et al., arXiv 1904.09751), and
    at least one. `seed` is that of the draws: a text's draws depend on it and on the text's
    number alone, not on what else is in its batch.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise InputError(
                "temperature", f"expected at least 0 and finite, found {self.temperature}."
            )
        if not 0 < self.top_p <= 1:
            raise InputError("top_p", f"expected above 0 and at most 1, found {self.top_p}.")
        if not 0 <= self.seed < 2**32:
            raise InputError("seed", f"expected in [0, 2^32), found {self.seed}.")


def draw(
    logits_BxV: jax.Array, keys_B: jax.Array, temperature: jax.Array, top_p: jax.Array
) -> jax.Array:
    """int32[B]: a token of each example, as `Sampling` says."""

    def drawn(logits_BxV: jax.Array) -> jax.Array:
        scaled_BxV = nucleus(logits_BxV / temperature, top_p)
        return jax.vmap(jax.random.categorical)(keys_B, scaled_BxV).astype(jnp.int32)

    def likeliest(logits_BxV: jax.Array) -> jax.Array:
        return jnp.argmax(logits_BxV, axis=-1).astype(jnp.int32)

    token_B: jax.Array = jax.lax.cond(temperature > 0, drawn, likeliest, logits_BxV)
    return token_B


def nucleus(logits_BxV: jax.Array, top_p: jax.Array) -> jax.Array:
    """The logits of the likeliest tokens that hold `top_p` together; -inf for the others.

    The token that crosses `top_p` is kept.
    """
    order_BxV = jnp.argsort(-logits_BxV, axis=-1)
    shares_BxV = jnp.take_along_axis(jax.nn.softmax(logits_BxV, axis=-1), order_BxV, axis=-1)
    before_BxV = jnp.cumsum(shares_BxV, axis=-1) - shares_BxV
    is_kept_BxV = jnp.zeros_like(logits_BxV, bool)
    rows_Bx1 = jnp.arange(len(logits_BxV))[:, None]
    # Round-off must not cut what a top_p of 1 promises to keep.
    is_kept_BxV = is_kept_BxV.at[rows_Bx1, order_BxV].set((before_BxV < top_p) | (top_p >= 1))
    return jnp.where(is_kept_BxV, logits_BxV, -jnp.inf)
