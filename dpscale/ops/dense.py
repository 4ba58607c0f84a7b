"""The dense op: activations times a weight matrix, and the gradient of that matrix.

Each module of `ops` is one of the four places where a weight meets an activation. It holds
the op's plain rule (value and summed gradient), and is where the op's per-example rules stand
beside it: the norm of each example's weight gradient, the record that such a norm needs, the
weighted sum over examples. The modules that own the weights (`dpscale.model.weights`) are the
only callers, so the decoder's text is the same whichever rule runs.

Precision: the operands are in the compute dtype, products accumulate in float32, and float32
operands are multiplied as float32 (accelerators otherwise round them to bfloat16 or TF32).
The weight gradient is left in float32 whatever the compute dtype.

Axes: N tokens (B·S of them), D width in, P width out.
"""

import jax
import jax.numpy as jnp
from jax import lax

PRECISION = lax.Precision.HIGHEST
"""Float32 contractions are float32 in fact; it changes nothing for bfloat16 operands."""


@jax.custom_vjp
def dense(kernel_DxP: jax.Array, x: jax.Array) -> jax.Array:
    """`x @ kernel`, in the dtype of `x`.

    Args:
      kernel_DxP: float32[D, P] weights; rounded to the dtype of `x` for the product.
      x: [..., D] activations in the compute dtype.

    Returns:
      [..., P] in the dtype of `x`. The gradient of `kernel_DxP` is float32, and accumulated in
      float32 from operands in the dtype of `x`.
    """
    return contract_last(x, kernel_DxP.astype(x.dtype), 0)


def _dense_forward(
    kernel_DxP: jax.Array, x: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return dense(kernel_DxP, x), (kernel_DxP, x)


def _dense_backward(
    residuals: tuple[jax.Array, jax.Array], y_grad: jax.Array
) -> tuple[jax.Array, jax.Array]:
    kernel_DxP, x = residuals
    x_grad = contract_last(y_grad, kernel_DxP.astype(x.dtype), 1)
    return weight_gradient(x, y_grad), x_grad


dense.defvjp(_dense_forward, _dense_backward)


def contract_last(
    x: jax.Array, matrix: jax.Array, axis: int, *, dtype: jnp.dtype | None = None
) -> jax.Array:
    """Contracts the last axis of `x` with `axis` of a matrix.

    The result is accumulated in float32 and given in `dtype`; absent: in the dtype of `x`.
    """
    product = lax.dot_general(
        x.reshape(-1, x.shape[-1]),
        matrix,
        (((1,), (axis,)), ((), ())),
        precision=PRECISION,
        preferred_element_type=jnp.float32,
    )
    return product.astype(x.dtype if dtype is None else dtype).reshape(*x.shape[:-1], -1)


def weight_gradient(x: jax.Array, y_grad: jax.Array) -> jax.Array:
    """Sum over tokens of the outer products `x_n y_grad_n`: float32[D, P].

    The narrower operand goes to the left: XLA on CPU writes out the transpose of the left
    operand of this contraction, which costs most when that is the wide one.

    Args:
      x: [..., D] inputs of the op.
      y_grad: [..., P] cotangents of its outputs, with the same leading axes.
    """
    x_NxD = x.reshape(-1, x.shape[-1])
    y_grad_NxP = y_grad.reshape(-1, y_grad.shape[-1])
    if x_NxD.shape[1] > y_grad_NxP.shape[1]:
        # Without the barrier XLA merges the transpose into the product and swaps them again.
        gradient_PxD: jax.Array = lax.optimization_barrier(  # type: ignore[no-untyped-call]
            _outer_sum(y_grad_NxP, x_NxD)
        )
        return gradient_PxD.T
    return _outer_sum(x_NxD, y_grad_NxP)


def _outer_sum(left_NxD: jax.Array, right_NxP: jax.Array) -> jax.Array:
    return lax.dot_general(
        left_NxD,
        right_NxP,
        (((0,), (0,)), ((), ())),
        precision=PRECISION,
        preferred_element_type=jnp.float32,
    )
