"""The dense op: activations times a weight matrix, and what is known of its gradient.

This is one of the four places where a weight meets an activation. Its module, like theirs, holds
the op's plain rule (value and summed gradient) and its per-example rules (`taps`). The
modules that own the weights (`dpscale.model.weights`) are the only callers, so the decoder's
text is the same whichever rule runs.

The gradient of one example is `xᵀ y_grad`, a product of two factors with a row for each
token. Its norm can be had in two ways: *gram*, from the inner products between tokens,
‖xᵀg‖² = <xxᵀ, ggᵀ> (Goodfellow, arXiv 1510.01799; Li et al., arXiv 2110.05679), or *direct*,
by forming the gradient itself.

Precision: the operands are in the compute dtype, products accumulate in float32
(`contraction`), and gradients of weights are left in float32 whatever the compute dtype.

Axes: B examples, S tokens, D width in, P width out, N the narrower of D and P, W the wider.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from dpscale.ops.barrier import barred
from dpscale.ops.contraction import contract, contract_last, row_products, unit_roundoff, wide
from dpscale.ops.gram import gram_cost, gram_of, gram_squares, row_lengths
from dpscale.ops.sums import Whole
from dpscale.ops.taps import NormRule, Squares, Tap, Weighting, as_cotangent, no_cotangent, scaled

MULTIPLY_ADDS_A_BYTE = {"cpu": 4.0, "gpu": 75.0, "tpu": 140.0}
"""Multiply-adds that cost what moving one byte costs, by platform, for `auto`.

On CPU measured (`dpscale bench clipping`). For the others not measured: half of an H100's and a
TPU v6e's published bfloat16 throughput, which is what large products reach, over their
published memory bandwidth."""

_DIRECT_BYTES = 8
"""A kept per-example gradient is read twice, for its norm and for the weighted sum."""


@jax.custom_vjp
def _dense(kernel_DxP: jax.Array, x: jax.Array, tap: Tap) -> jax.Array:
    return contract_last(x, kernel_DxP.astype(x.dtype), 0)


def dense(kernel_DxP: jax.Array, x: jax.Array, tap: Tap = None) -> jax.Array:
    """`x @ kernel`, in the dtype of `x`.

    Args:
      kernel_DxP: float32[D, P] weights; rounded to the dtype of `x` for the product.
      x: [..., D] activations in the compute dtype; [B, S, D] with a tap.
      tap: What the backward pass does about the kernel (`taps`).

    Returns:
      [..., P] in the dtype of `x`. The gradient of `kernel_DxP` is float32, and accumulated in
      float32 from operands in the dtype of `x`.
    """
    return _dense(kernel_DxP, x, tap)


def _dense_forward(
    kernel_DxP: jax.Array, x: jax.Array, tap: Tap
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, Tap]]:
    return _dense(kernel_DxP, x, tap), (kernel_DxP, x, tap)


def _dense_backward(
    residuals: tuple[jax.Array, jax.Array, Tap], y_grad: jax.Array
) -> tuple[jax.Array, jax.Array, Tap]:
    kernel_DxP, x, tap = residuals
    x_grad = contract_last(y_grad, kernel_DxP.astype(x.dtype), 1)
    kernel_grad, tap_grad = product_gradient(kernel_DxP, x, y_grad, tap)
    return kernel_grad, x_grad, tap_grad


_dense.defvjp(_dense_forward, _dense_backward)


def product_gradient(
    weight: jax.Array, x: jax.Array, y_grad: jax.Array, tap: Tap
) -> tuple[jax.Array, Tap]:
    """The cotangents of a weight [D, P] whose gradient is `xᵀ y_grad`, and of its tap."""
    if tap is None:
        return weight_gradient(x, y_grad), None
    if isinstance(tap, Weighting):
        return DenseFactors(x, y_grad).weighted_sum(tap.factor_B).finished(), no_cotangent(tap)
    return jnp.zeros_like(weight), as_cotangent(tap.filled(x, y_grad))


def weight_gradient(x: jax.Array, y_grad: jax.Array) -> jax.Array:
    """Sum over tokens of the outer products `x_n y_grad_n`: float32[D, P].

    Args:
      x: [..., D] inputs of the op.
      y_grad: [..., P] cotangents of its outputs, with the same leading axes.
    """
    pair = _Ordered.of(_all_tokens(x), _all_tokens(y_grad))
    product = _product_over_tokens(pair.narrow, pair.broad)
    # Without the barrier XLA merges the transpose into the product and swaps them again.
    return barred(product).T if pair.is_swapped else product


class _Ordered(NamedTuple):
    """The two factors of a gradient, the narrower one first.

    XLA on CPU writes out the transpose of the left operand of their product, which costs most
    when that is the broad one. Swapped, the product is the gradient turned.
    """

    narrow: jax.Array
    broad: jax.Array
    is_swapped: bool

    @classmethod
    def of(cls, x: jax.Array, y_grad: jax.Array) -> "_Ordered":
        is_swapped = x.shape[-1] > y_grad.shape[-1]
        return cls(y_grad, x, True) if is_swapped else cls(x, y_grad, False)


def _all_tokens(x: jax.Array) -> jax.Array:
    """[Z, D]: the tokens of all examples."""
    return x.reshape(-1, x.shape[-1])


def _product_over_tokens(narrow: jax.Array, broad: jax.Array) -> jax.Array:
    """[..., N, W]: the sum over tokens of outer products, for each leading index.

    Args:
      narrow: [..., S, N].
      broad: [..., S, W].
    """
    tokens, last = narrow.ndim - 2, narrow.ndim - 1
    along = tuple(range(tokens))
    if jax.default_backend() == "cpu" and _pays_to_turn(narrow, broad):
        turned = barred(narrow.swapaxes(tokens, last))
        return contract(turned, broad, ((last,), (tokens,)), (along, along))
    return contract(narrow, broad, ((tokens,), (tokens,)), (along, along))


def _pays_to_turn(narrow: jax.Array, broad: jax.Array) -> bool:
    """Whether, on a CPU, the narrow operand is best turned before the product.

    XLA has a library for products whose left operand is contracted over its last axis. It is
    faster by up to a quarter where a product is broad. It also goes through examples side by
    side, which pays where each one's product is long or too small for two cores.
    """
    *_, tokens, width = broad.shape
    is_per_example = broad.ndim > 2
    is_small = width <= _SMALL and width <= 2 * narrow.shape[-1]
    return width >= _BROAD or (is_per_example and (tokens >= _LONG or is_small))


_BROAD, _LONG, _SMALL = 1024, 128, 256
"""Widths and tokens from which, and widths up to which, turning was measured to pay in gradients
(`docs/performance.md`). At 32 tokens it cost 0.02 between the widths."""


@partial(jax.tree_util.register_dataclass, data_fields=["x_BxSxD", "y_grad_BxSxP"], meta_fields=[])
@dataclass(frozen=True)
class DenseFactors:
    """The two factors of each example's gradient, kept for the gram rule."""

    x_BxSxD: jax.Array
    y_grad_BxSxP: jax.Array
    weight_ndim: ClassVar[int] = 2

    @classmethod
    def empty(cls, kernel_DxP: jax.Array, x_BxSxD: jax.Array) -> "DenseFactors":
        """Zeros, for the use of a kernel on activations."""
        shape = (*x_BxSxD.shape[:-1], kernel_DxP.shape[1])
        return cls(jnp.zeros_like(x_BxSxD), jnp.zeros(shape, x_BxSxD.dtype))

    def filled(self, x: jax.Array, y_grad: jax.Array) -> "DenseFactors":
        """The record of a backward pass."""
        return DenseFactors(x, y_grad)

    def measuring(self, rule: NormRule) -> "DenseNorms":
        """See `taps.Record`."""
        example_axes = self.x_BxSxD.shape[:-2]
        return DenseNorms(Squares.exact(jnp.zeros(example_axes, wide(self.x_BxSxD.dtype))), rule)

    def keeping(self, rule: NormRule) -> "DenseFactors | DenseGradients":
        """See `taps.Record`."""
        if self._takes_gram(rule):
            return self
        shapes = jax.eval_shape(self._stacked_gradients)
        zeros: DenseGradients = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return zeros

    def _stacked_gradients(self) -> "DenseGradients":
        of_layer = DenseGradients.of
        for _ in range(self.x_BxSxD.ndim - 3):
            of_layer = jax.vmap(of_layer)
        return of_layer(self.x_BxSxD, self.y_grad_BxSxP)

    def _takes_gram(self, rule: NormRule) -> bool:
        seq_len, d = self.x_BxSxD.shape[-2:]
        return takes_gram(rule, seq_len, d, self.y_grad_BxSxP.shape[-1])

    def weighting(self, factor_B: jax.Array) -> Weighting:
        """See `taps.Record`."""
        return Weighting(factor_B)

    def squares(self) -> Squares:
        """See `taps.Record`; the gram rule."""
        pair = _Ordered.of(self.x_BxSxD, self.y_grad_BxSxP)
        grams = gram_of(pair.narrow), gram_of(pair.broad)
        lengths = row_lengths(pair.narrow), row_lengths(pair.broad)
        return gram_squares(*grams, lengths, scaled_dtype=pair.narrow.dtype)

    def turned_rows(self, index_BxT: jax.Array) -> jax.Array:
        """float32[B, P, T]: some rows of each example's gradient, as columns."""
        dtype = wide(self.x_BxSxD.dtype)
        picked_BxSxT = jnp.take_along_axis(self.x_BxSxD, index_BxT[:, None, :], axis=2)
        y_grad = self.y_grad_BxSxP
        return contract(
            y_grad.astype(dtype), picked_BxSxT.astype(dtype), ((1,), (1,)), ((0,), (0,))
        )

    def weighted_sum(self, factor_B: jax.Array) -> Whole:
        """See `taps.Record`; the factors go to the narrower operand."""
        pair = _Ordered.of(self.x_BxSxD, self.y_grad_BxSxP)
        narrow_ZxN, broad_ZxW = _all_tokens(scaled(pair.narrow, factor_B)), _all_tokens(pair.broad)
        return Whole(_product_over_tokens(narrow_ZxN, broad_ZxW), pair.is_swapped)


def takes_gram(rule: NormRule, seq_len: int, d: int, p: int, platform: str | None = None) -> bool:
    """Whether norms come from inner products between tokens, by rule or by cost.

    Args:
      rule: As configured.
      seq_len: S, tokens of an example.
      d: Width in.
      p: Width out.
      platform: "cpu", "gpu" or "tpu"; absent: the one that JAX runs on.

    >>> takes_gram("gram", 1024, 8, 8), takes_gram("direct", 1, 512, 512)
    (True, False)
    >>> takes_gram("auto", 64, 512, 2048, "cpu"), takes_gram("auto", 256, 256, 1024, "cpu")
    (True, False)
    """
    if rule != "auto":
        return rule == "gram"
    gram = gram_cost(seq_len, d + p)
    direct = d * p * _DIRECT_BYTES * MULTIPLY_ADDS_A_BYTE[platform or jax.default_backend()]
    return gram < direct


@partial(jax.tree_util.register_dataclass, data_fields=["grad_BxNxW"], meta_fields=["is_turned"])
@dataclass(frozen=True)
class DenseGradients:
    """Each example's gradient, float32, narrower axis first."""

    grad_BxNxW: jax.Array
    is_turned: bool
    weight_ndim: ClassVar[int] = 2

    @classmethod
    def of(cls, x_BxSxD: jax.Array, y_grad_BxSxP: jax.Array) -> "DenseGradients":
        """Forms the gradients from their factors."""
        pair = _Ordered.of(x_BxSxD, y_grad_BxSxP)
        return cls(_product_over_tokens(pair.narrow, pair.broad), pair.is_swapped)

    def filled(self, x: jax.Array, y_grad: jax.Array) -> "DenseGradients":
        """The record of a backward pass."""
        return DenseGradients.of(x, y_grad)

    def squares(self) -> Squares:
        """See `taps.Record`."""
        return Squares.exact(row_products(self.grad_BxNxW, self.grad_BxNxW))

    def turned_rows(self, index_BxT: jax.Array) -> jax.Array:
        """float32[B, P, T]: some rows of each example's gradient, as columns."""
        if self.is_turned:
            # Without the barrier XLA on CPU may walk down the columns, far apart in memory.
            return barred(jnp.take_along_axis(self.grad_BxNxW, index_BxT[:, None, :], axis=2))
        picked_BxTxP = jnp.take_along_axis(self.grad_BxNxW, index_BxT[:, :, None], axis=1)
        return picked_BxTxP.swapaxes(1, 2)

    def weighted_sum(self, factor_B: jax.Array) -> Whole:
        """See `taps.Record`."""
        return Whole(weighted_total(self.grad_BxNxW, factor_B), self.is_turned)


def weighted_total(grad_B: jax.Array, factor_B: jax.Array) -> jax.Array:
    """Sum over the first axis of factor times gradient.

    A few examples are added one by one, which XLA fuses into a single pass over memory. That pass
    goes through all of them at once, and is slower from some eight on, where they come from memory.
    """
    if grad_B.shape[0] > _FEW_EXAMPLES:
        rows = grad_B.reshape(grad_B.shape[0], -1)
        return contract(factor_B, rows, ((0,), (0,))).reshape(grad_B.shape[1:])
    total = factor_B[0] * grad_B[0]
    for row in range(1, grad_B.shape[0]):
        total += factor_B[row] * grad_B[row]
    return total


_FEW_EXAMPLES = 4


@partial(jax.tree_util.register_dataclass, data_fields=["found"], meta_fields=["rule"])
@dataclass(frozen=True)
class DenseNorms:
    """Only the squared norms."""

    found: Squares
    rule: NormRule
    weight_ndim: ClassVar[int] = 2

    def filled(self, x: jax.Array, y_grad: jax.Array) -> "DenseNorms":
        """The record of a backward pass."""
        # The gram rule also bounds what rounding adds, where a factor is rounded to bfloat16.
        if unit_roundoff(x.dtype) or takes_gram(self.rule, x.shape[1], x.shape[2], y_grad.shape[2]):
            return DenseNorms(DenseFactors(x, y_grad).squares(), self.rule)
        return DenseNorms(DenseGradients.of(x, y_grad).squares(), self.rule)

    def squares(self) -> Squares:
        """See `taps.Record`."""
        return self.found
