"""What clipping means: norms, factors, and the sum that comes out.

How the per-example gradients are had is the business of a strategy (`strategies`); how a
batch is cut up, and that nothing else than clipped gradients enters, of `microbatches`.
Every quantity in this module is computed from private data and is NOT PRIVATE until noise is
added.

Axes: B examples.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import jax
import jax.numpy as jnp

from dpscale.ops.taps import Squares

NORM_MARGIN: Final = 1e-4
"""A clipped contribution's norm is at most the clip norm times 1 + this.

It is for the round-off of float32, and part of the mechanism's sensitivity. Norms of ordinary
gradients are off by some 1e-7, of the most regular ones that were tried by 7e-6
(`analysis/gram_rounding.py`). Where more is lost because terms cancel, or a factor is rounded to
bfloat16, factors allow for it (`ClipRule.factors`).
"""

_FOR_CANCELLATION: Final = NORM_MARGIN / 2
"""The share of the margin that is left to terms that cancel."""


@partial(jax.tree_util.register_dataclass, data_fields=["total", "norms", "losses"], meta_fields=[])
@dataclass(frozen=True)
class ClippedSum:
    """A sum of clipped per-example gradients. NOT PRIVATE until noise is added.

    `total` is float32 and shaped like the parameters; `norms` float32[B] holds each
    example's norm before clipping and `losses` float32[B] its loss, both 0 for padding.
    """

    total: Any
    norms: jax.Array
    losses: jax.Array


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["l2_clip_norm"],
    meta_fields=["rescale_to_unit_norm"],
)
@dataclass(frozen=True)
class ClipRule:
    """Clip to `l2_clip_norm` over all parameters together; divide by it when rescaled."""

    l2_clip_norm: jax.Array | float
    rescale_to_unit_norm: bool

    def factors(self, squares: Squares, is_counted_B: jax.Array) -> jax.Array:
        """float32[B]: what each example's gradient is multiplied by; 0 where it does not count.

        Guarantee: factor times the norm of what is added is at most `l2_clip_norm` (1 when
        rescaled), times 1 + `NORM_MARGIN`, where a squared norm is off by no more than
        `squares.error_B` and another `NORM_MARGIN` of itself, and what is added differs from the
        measured gradient by no more than `squares.rounding_B` says.
        """
        most_B = (squares.norm_B + squares.error_B) / (1 + _FOR_CANCELLATION) ** 2
        bound_B = jnp.sqrt(jnp.maximum(squares.norm_B, most_B)) + jnp.sqrt(squares.rounding_B)
        factor_B = jnp.minimum(1.0, self.l2_clip_norm / jnp.maximum(bound_B, 1e-30))
        if self.rescale_to_unit_norm:
            factor_B = factor_B / self.l2_clip_norm
        return jnp.where(is_counted_B & jnp.isfinite(bound_B), factor_B, 0.0)
