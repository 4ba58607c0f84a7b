"""The scale op: a learned factor per channel, stored as its distance from one.

Its per-example rules stand beside the plain one, as `dense` explains. A gradient has one
number a channel, so each example's own is kept, and nothing cheaper is to be had.

Axes: B examples, S tokens, D width.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp

from dpscale.ops.contraction import contract, row_products, wide
from dpscale.ops.sums import Whole
from dpscale.ops.taps import NormRule, Squares, Tap, Weighting, as_cotangent, no_cotangent


@jax.custom_vjp
def _scale(scale_D: jax.Array, x: jax.Array, tap: Tap) -> jax.Array:
    return x * (1.0 + scale_D.astype(x.dtype))


def scale(scale_D: jax.Array, x: jax.Array, tap: Tap = None) -> jax.Array:
    """`x · (1 + scale)`, so that a zero scale is the identity (Gemma's convention).

    Args:
      scale_D: float32[D] weights.
      x: float32[..., D]; a normalisation calls this before it rounds to the compute dtype.
        [B, S, D] with a tap.
      tap: What the backward pass does about the weights (`taps`).
    """
    if tap is None:
        return x * (1.0 + scale_D.astype(x.dtype))
    return _scale(scale_D, x, tap)


def _scale_forward(
    scale_D: jax.Array, x: jax.Array, tap: Tap
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, Tap]]:
    return _scale(scale_D, x, tap), (scale_D, x, tap)


def _scale_backward(
    residuals: tuple[jax.Array, jax.Array, Tap], y_grad: jax.Array
) -> tuple[jax.Array, jax.Array, Tap]:
    scale_D, x, tap = residuals
    x_grad = y_grad * (1.0 + scale_D.astype(x.dtype))
    gradients = ScaleGradients(jnp.sum(y_grad * x, axis=1))
    if isinstance(tap, Weighting):
        return gradients.weighted_sum(tap.factor_B).finished(), x_grad, no_cotangent(tap)
    return jnp.zeros_like(scale_D), x_grad, as_cotangent(gradients)


_scale.defvjp(_scale_forward, _scale_backward)


@partial(jax.tree_util.register_dataclass, data_fields=["grad_BxD"], meta_fields=[])
@dataclass(frozen=True)
class ScaleGradients:
    """Each example's gradient, float32."""

    grad_BxD: jax.Array
    weight_ndim: ClassVar[int] = 1

    @classmethod
    def empty(cls, x_BxSxD: jax.Array) -> "ScaleGradients":
        """Zeros, for a use on activations."""
        shape = (x_BxSxD.shape[0], x_BxSxD.shape[-1])
        return cls(jnp.zeros(shape, wide(x_BxSxD.dtype)))

    def measuring(self, rule: NormRule) -> "ScaleGradients":
        """See `taps.Record`."""
        return self

    def keeping(self, rule: NormRule) -> "ScaleGradients":
        """See `taps.Record`."""
        return self

    def weighting(self, factor_B: jax.Array) -> Weighting:
        """See `taps.Record`."""
        return Weighting(factor_B)

    def squares(self) -> Squares:
        """See `taps.Record`."""
        return Squares.exact(row_products(self.grad_BxD, self.grad_BxD))

    def weighted_sum(self, factor_B: jax.Array) -> Whole:
        """See `taps.Record`."""
        return Whole(contract(factor_B, self.grad_BxD, ((0,), (0,))))
