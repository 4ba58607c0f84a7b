"""Several dense ops that read the same activations, computed as one product.

The products of one example's tokens are small, and on a CPU one with the columns of all kernels is
faster than one for each. Gradients come out of one product as well, and norms out of one pass.

The parameters stay as they are, and so do their taps, one for each kernel. A record of all kernels
together is held by each of them, as a `Columns` that knows which ones are its own; that they are
all the same one XLA finds out.

Axes: B examples, S tokens, D width in, P width out of all kernels.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from dpscale.ops.contraction import contract_last
from dpscale.ops.dense import DenseFactors, dense, product_gradient, takes_gram
from dpscale.ops.stack import is_unrolled
from dpscale.ops.sums import Sum
from dpscale.ops.taps import NormRule, Squares, Tap, Weighting, as_cotangent

Arrays = tuple[jax.Array, ...]

_MANY_TOKENS = 128
"""Tokens beside whose product the copy that joins the kernels is little."""


def pays_as_one(num_layers: int, num_tokens: int, platform: str | None = None) -> bool:
    """Whether ops of a block that read the same are to be computed as one.

    On a CPU, where it was measured: per-example gradients of a narrow model gain 0.03 of the time
    of a plain one, which itself gains 0.01 or nothing (`dpscale bench clipping`). Elsewhere a mesh
    may divide the columns of each kernel. Not where layers run in a loop, which would stack the
    record of all kernels once for each.

    Args:
      num_layers: Of the model.
      num_tokens: How many are multiplied at once.
      platform: "cpu", "gpu" or "tpu"; absent: the one that JAX runs on.

    >>> pays_as_one(4, 1024, "cpu"), pays_as_one(4, 1024, "gpu"), pays_as_one(4, 1, "cpu")
    (True, False, False)
    """
    is_cpu = (platform or jax.default_backend()) == "cpu"
    return is_cpu and is_unrolled(num_layers) and num_tokens >= _MANY_TOKENS


def shares_record(seq_len: int, width: int, columns: int, platform: str | None = None) -> bool:
    """Whether kernels that are computed as one also share a record.

    They do where the direct rule is the cheaper: kernels beside which a sequence is so short that
    it is not are large enough by themselves, and slower as one (1.13 of the plain gradient's time
    became 1.20 at a width of 256 and 32 tokens).

    Args:
      seq_len: S, tokens of an example.
      width: Width in.
      columns: Width out of all kernels.
      platform: See `pays_as_one`.
    """
    return not takes_gram("auto", seq_len, width, columns, platform)


def empty_records(
    kernels: Sequence[jax.Array], x_BxSxD: jax.Array
) -> "tuple[Columns | DenseFactors, ...]":
    """A record for each kernel, with zeros: one that they share, or each its own."""
    joined = jax.eval_shape(_joined, tuple(kernels))  # only its shape is asked for
    width, columns = joined.shape
    if not shares_record(x_BxSxD.shape[-2], width, columns):
        return tuple(DenseFactors.empty(kernel, x_BxSxD) for kernel in kernels)
    shared = DenseFactors.empty(joined, x_BxSxD)
    return tuple(Columns(shared, start, stop) for start, stop in _bounds(kernels))


def dense_side_by_side(kernels: Sequence[jax.Array], x: jax.Array, taps: Sequence[Tap]) -> Arrays:
    """`x @ kernel` for each kernel, in the dtype of `x`, by one product; see `dense`.

    Args:
      kernels: float32[D, ...] weights.
      x: [..., D] activations in the compute dtype; [B, S, D] with taps.
      taps: One for each kernel (`taps`): those of `empty_records`, equal `Weighting`s, or None.
    """
    if not isinstance(taps[0], Columns | Weighting | None):
        return tuple(dense(kernel, x, tap) for kernel, tap in zip(kernels, taps, strict=True))
    # Taken apart out here, so that its gradient is put together by the pass that computes the
    # parts: by the op itself that would be a copy.
    return _apart(_as_one(tuple(kernels), x, tuple(taps)), kernels)


# A rule of its own, and not that of `dense` on joined kernels: it would keep these, a copy of the
# parameters of all layers, for the backward pass, which here joins them again.
@jax.custom_vjp
def _as_one(kernels: Arrays, x: jax.Array, taps: tuple[Tap, ...]) -> jax.Array:
    return contract_last(x, _joined(kernels).astype(x.dtype), 0)


def _joined(kernels: Arrays) -> jax.Array:
    return jnp.concatenate(kernels, axis=1)


def _apart(joined: jax.Array, kernels: Sequence[jax.Array]) -> Arrays:
    return tuple(joined[..., start:stop] for start, stop in _bounds(kernels))


def _bounds(kernels: Sequence[jax.Array]) -> list[tuple[int, int]]:
    """The first and behind the last column of each kernel."""
    return list(pairwise(accumulate((kernel.shape[1] for kernel in kernels), initial=0)))


def _forward(
    kernels: Arrays, x: jax.Array, taps: tuple[Tap, ...]
) -> tuple[jax.Array, tuple[Arrays, jax.Array, tuple[Tap, ...]]]:
    return _as_one(kernels, x, taps), (kernels, x, taps)


def _backward(
    residuals: tuple[Arrays, jax.Array, tuple[Tap, ...]], y_grad: jax.Array
) -> tuple[Arrays, jax.Array, tuple[Tap, ...]]:
    kernels, x, taps = residuals
    kernel = _joined(kernels)
    x_grad = contract_last(y_grad, kernel.astype(x.dtype), 1)
    if not isinstance(taps[0], Columns):
        kernel_grad, tap_grad = product_gradient(kernel, x, y_grad, taps[0])
        return _apart(kernel_grad, kernels), x_grad, (tap_grad,) * len(taps)
    filled = taps[0].record.filled(x, y_grad)
    tap_grads = tuple(as_cotangent(dataclasses.replace(tap, record=filled)) for tap in taps)
    return tuple(jnp.zeros_like(kernel) for kernel in kernels), x_grad, tap_grads


_as_one.defvjp(_forward, _backward)


@partial(jax.tree_util.register_dataclass, data_fields=["record"], meta_fields=["start", "stop"])
@dataclass(frozen=True)
class Columns:
    """A record of several kernels, and which columns are one's own: `start` to before `stop`.

    `record` is a `DenseFactors`, `DenseGradients` or `DenseNorms` of all of them.
    """

    record: Any
    start: int
    stop: int
    weight_ndim: ClassVar[int] = 2

    def measuring(self, rule: NormRule) -> "Columns":
        """See `taps.Record`."""
        return dataclasses.replace(self, record=self.record.measuring(rule))

    def keeping(self, rule: NormRule) -> "Columns":
        """See `taps.Record`."""
        return dataclasses.replace(self, record=self.record.keeping(rule))

    def weighting(self, factor_B: jax.Array) -> Weighting:
        """See `taps.Record`."""
        return Weighting(factor_B)

    def squares(self) -> Squares:
        """See `taps.Record`; of all kernels with the first one, and nothing with the others."""
        squares: Squares = self.record.squares()
        return squares if self.start == 0 else jax.tree.map(jnp.zeros_like, squares)

    def weighted_sum(self, factor_B: jax.Array) -> Sum:
        """See `taps.Record`; of this kernel."""
        whole: Sum = self.record.weighted_sum(factor_B).columns(self.start, self.stop)
        return whole
