"""What an op can be asked beside its value: the per-example gradients of its weight.

An op takes an optional *tap*. Without one it follows its plain rule. With one, its backward
pass does something else about the weight (and the same about activations):

- a *record* is a tap that comes back, as its own cotangent, filled with what is known about
  each example's gradient: the two factors whose product it is, the gradients themselves, or
  only their squared norms. The ops' own modules define them;
- a `Weighting` makes the gradient of the weight the sum over examples of factor times
  gradient.

Every record answers `squares()`. Those that keep enough also answer `weighted_sum(factors)`.
Because a record is filled through its cotangent, its integer arrays cannot be: they are put
in beforehand, and `filled_records` joins the two.

Axes: B examples.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from dpscale import config
from dpscale.ops.contraction import wide
from dpscale.ops.sums import Sum

NormRule = config.NormRule
"""How the norm of a product of factors is found: `gram` from the factors' inner products
between tokens, `direct` by forming the per-example gradient, `auto` whichever is cheaper."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["norm_B", "rounding_B", "error_B"],
    meta_fields=[],
)
@dataclass(frozen=True)
class Squares:
    """Per example, squared: the norm of its gradient, and bounds on what rounding does to it.

    `rounding_B` bounds the squared norm of the difference between what `weighted_sum` adds
    for an example, divided by its factor, and the gradient whose norm was taken. It covers
    the rounding of a factor to bfloat16.

    `error_B` bounds how far `norm_B` itself is off where it was added up from terms that may
    cancel (`cancellation_error`). Other errors of float32 are left to the mechanism's margin.
    """

    norm_B: jax.Array
    rounding_B: jax.Array
    error_B: jax.Array

    def __add__(self, other: "Squares") -> "Squares":
        total: Squares = jax.tree.map(jnp.add, self, other)
        return total

    @property
    def norms_B(self) -> jax.Array:
        """The norms; 0 where terms that cancel left a square below zero."""
        return jnp.sqrt(jnp.maximum(self.norm_B, 0.0))

    @classmethod
    def exact(cls, norm_B: jax.Array) -> "Squares":
        """Squares of gradients that are added as they were measured."""
        return cls(norm_B, jnp.zeros_like(norm_B), jnp.zeros_like(norm_B))


CANCELLATION = 16.0
"""Unit round-offs by which a squared norm may be off, in parts of the square of the sum of the
lengths of all terms. The most that was found where terms cancel is 10
(`analysis/gram_rounding.py`)."""


def cancellation_error(size_B: jax.Array) -> jax.Array:
    """The `error_B` of a squared norm that was added up from inner products.

    Args:
      size_B: What the norm would be if nothing cancelled: the sum of the lengths of all terms.
    """
    roundoff = float(jnp.finfo(size_B.dtype).eps) / 2  # type: ignore[no-untyped-call]
    return CANCELLATION * roundoff * jnp.square(size_B)


@partial(jax.tree_util.register_dataclass, data_fields=["factor_B"], meta_fields=[])
@dataclass(frozen=True)
class Weighting:
    """The tap that turns a weight's gradient into a weighted sum over examples."""

    factor_B: jax.Array


class Record(Protocol):
    """What a use of a weight leaves behind about each example's gradient."""

    weight_ndim: int
    """Axes of the weight; the arrays of a record may carry further ones in front (layers)."""

    def measuring(self, rule: NormRule) -> "Record":
        """The empty record that keeps just enough for `squares`."""

    def keeping(self, rule: NormRule) -> "Record":
        """The empty record that keeps enough for `weighted_sum` too."""

    def weighting(self, factor_B: jax.Array) -> Any:
        """The tap that makes the weight's gradient a weighted sum."""

    def squares(self) -> Squares:
        """Squared norms, float32[B]."""

    def weighted_sum(self, factor_B: jax.Array) -> Sum:
        """Sum over examples of factor times gradient: float32, in the form it comes about in."""


Tap = Any
"""None, a `Weighting`, or a record of the op's own module; a pytree."""

AnyRecord = TypeVar("AnyRecord")


def scaled(x: jax.Array, factor_B: jax.Array) -> jax.Array:
    """Each example of `x` times its factor, multiplied in float32, in the dtype of `x`."""
    factor = factor_B.reshape(-1, *(1,) * (x.ndim - 1))
    return (x.astype(wide(x.dtype)) * factor).astype(x.dtype)


def as_cotangent(record: AnyRecord) -> AnyRecord:
    """A record as JAX takes it for a cotangent: integers have none."""

    def leaf_cotangent(leaf: Any) -> Any:
        is_integer = jnp.issubdtype(leaf.dtype, jnp.integer)
        return np.zeros(leaf.shape, jax.dtypes.float0) if is_integer else leaf

    cotangent: AnyRecord = jax.tree.map(leaf_cotangent, record)
    return cotangent


def no_cotangent(tap: AnyRecord) -> AnyRecord:
    """Zeros, for a tap that nothing is to be learned of."""
    zeros: AnyRecord = jax.tree.map(jnp.zeros_like, tap)
    return as_cotangent(zeros)


def filled_records(empty: AnyRecord, cotangents: AnyRecord) -> AnyRecord:
    """The records that came back, with the integers they went out with."""

    def leaf(before: Any, cotangent: Any) -> Any:
        return before if cotangent.dtype == jax.dtypes.float0 else cotangent

    filled: AnyRecord = jax.tree.map(leaf, empty, cotangents)
    return filled
