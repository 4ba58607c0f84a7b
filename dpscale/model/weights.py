"""The modules that own the weights: each holds one parameter and hands it to its op.

Nothing else in `model` touches a parameter, and the decoder's text is the same whether
gradients are plain or per example. The difference is a collection of variables named `TAPS`:
where it is mutable, each module announces which record its op could leave (`dpscale.ops.taps`),
under the name of its parameter; where it is given, each module hands its tap to its op.

Parameters are float32 and start as follows:

- dense kernels: truncated normal with variance 1 / fan-in (LeCun et al., "Efficient BackProp",
  1998), which keeps the variance of activations from layer to layer;
- norm scales: zero, the identity of `1 + scale`;
- the tied embedding: normal with standard deviation `EMBEDDING_GAIN / sqrt(D)`. The decoder
  multiplies embeddings by sqrt(D) on the way in, and final hidden states have unit root mean
  square, so that the logits start with standard deviation `EMBEDDING_GAIN` and the loss near
  ln V + EMBEDDING_GAIN² / 2, about 1 % above ln V for a vocabulary of a thousand.

Axes: D width in, P width out, V vocabulary.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dpscale.ops.contraction import wide
from dpscale.ops.dense import DenseFactors, dense
from dpscale.ops.embed import EmbedFactors, embed
from dpscale.ops.scale import ScaleGradients, scale
from dpscale.ops.side_by_side import dense_side_by_side, empty_records, pays_as_one
from dpscale.ops.soft_cap import soft_cap
from dpscale.ops.table import TableRecord, output_record
from dpscale.ops.taps import Tap
from dpscale.ops.unembed import cross_entropy, unembed, vocab_chunk

TAPS = "taps"
"""The collection of variables that taps are announced and given in."""

EMBEDDING_GAIN = 0.4
"""Standard deviation of the first logits; `docs/model.md` says what a larger one does."""


def _tap(module: nn.Module, name: str, record: Callable[[], Any]) -> Any:
    """The tap given for a parameter, if any; announces the record where taps are mutable."""
    if module.is_mutable_collection(TAPS) and not module.is_initializing():
        module.put_variable(TAPS, name, record())
        return None
    return module.get_variable(TAPS, name, None)


class Dense(nn.Module):
    """A weight matrix [D, P] without bias."""

    features: int

    @nn.compact
    def kernel_DxP(self, width: int) -> jax.Array:
        """The parameter, for activations of a width."""
        initial = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
        return self.param("kernel", initial, (width, self.features), jnp.float32)

    def tap(self, record: Callable[[], Any]) -> Tap:
        """See `_tap`."""
        return _tap(self, "kernel", record)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] to [..., features]."""
        kernel_DxP = self.kernel_DxP(x.shape[-1])
        return dense(kernel_DxP, x, self.tap(lambda: DenseFactors.empty(kernel_DxP, x)))


def side_by_side(modules: Sequence[Dense], x: jax.Array, num_layers: int) -> list[jax.Array]:
    """What each of several modules gives of the same activations.

    Args:
      modules: The modules.
      x: [..., D] activations in the compute dtype.
      num_layers: How many layers of the model do the same.
    """
    if not pays_as_one(num_layers, x.size // x.shape[-1]):
        return [module(x) for module in modules]
    kernels = [module.kernel_DxP(x.shape[-1]) for module in modules]

    def record(index: int) -> Any:
        return empty_records(kernels, x)[index]

    taps = [module.tap(partial(record, index)) for index, module in enumerate(modules)]
    return list(dense_side_by_side(kernels, x, taps))


class RMSNorm(nn.Module):
    """Divides by the root mean square and scales, in float32 (Zhang & Sennrich, 2019)."""

    eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] to [..., D] in the dtype of `x`."""
        scale_D = self.param("scale", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        x_wide = x.astype(wide(x.dtype))
        mean_square = jnp.mean(jnp.square(x_wide), axis=-1, keepdims=True)
        normed = x_wide * jax.lax.rsqrt(mean_square + self.eps)
        tap = _tap(self, "scale", lambda: ScaleGradients.empty(normed))
        return scale(scale_D, normed, tap).astype(x.dtype)


class TiedEmbedding(nn.Module):
    """The table [V, D], read on the way in (`embed`) and out (`logits`, `cross_entropy`)."""

    vocab_size: int
    width: int
    dtype: jnp.dtype
    logit_softcap: float | None

    def setup(self) -> None:
        """Declares the table, which all methods share."""
        initial = nn.initializers.normal(EMBEDDING_GAIN * self.width**-0.5)
        self.table = self.param("table", initial, (self.vocab_size, self.width), jnp.float32)

    def embed(self, tokens_BxS: jax.Array) -> jax.Array:
        """Embeddings [B, S, D] times sqrt(D), both in the compute dtype."""
        tap = _tap(
            self,
            "table",
            lambda: TableRecord(EmbedFactors.empty(self.table, tokens_BxS, self.dtype), None),
        )
        x_BxSxD = embed(self.table, tokens_BxS, dtype=self.dtype, tap=tap and tap.input)
        return x_BxSxD * jnp.asarray(self.width**0.5, self.dtype)

    def logits(self, hidden_BxSxD: jax.Array) -> jax.Array:
        """Capped logits, float32[B, S, V]."""
        return soft_cap(unembed(self.table, hidden_BxSxD), self.logit_softcap)

    def cross_entropy(self, hidden_BxSxD: jax.Array, targets_BxS: jax.Array) -> jax.Array:
        """Mean cross-entropy of each example, float32[B] nats per token."""
        read = self.get_variable(TAPS, "table", TableRecord(None, None))

        def announced() -> TableRecord:
            output = output_record(
                self.table,
                hidden_BxSxD,
                targets_BxS,
                read.tokens_BxS,
                logit_softcap=self.logit_softcap,
                chunk_len=vocab_chunk(targets_BxS.size, self.vocab_size),
            )
            return dataclasses.replace(read, output=output)

        tap = _tap(self, "table", announced)
        return cross_entropy(
            self.table,
            hidden_BxSxD,
            targets_BxS,
            logit_softcap=self.logit_softcap,
            tap=tap and tap.output,
        )
