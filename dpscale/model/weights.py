"""The modules that own the weights: each holds one parameter and hands it to its op.

Nothing else in `model` touches a parameter. A per-example strategy therefore changes these
few lines and the ops, and the decoder's text not at all.

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

import jax
import jax.numpy as jnp
from flax import linen as nn

from dpscale.ops.dense import dense
from dpscale.ops.embed import embed
from dpscale.ops.scale import scale
from dpscale.ops.unembed import cross_entropy, soft_cap, unembed

EMBEDDING_GAIN = 0.4
"""Standard deviation of the first logits; `docs/model.md` says what a larger one does."""


class Dense(nn.Module):
    """A weight matrix [D, P] without bias."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] to [..., features]."""
        shape = (x.shape[-1], self.features)
        initial = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
        return dense(self.param("kernel", initial, shape, jnp.float32), x)


class RMSNorm(nn.Module):
    """Divides by the root mean square and scales, in float32 (Zhang & Sennrich, 2019)."""

    eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] to [..., D] in the dtype of `x`."""
        scale_D = self.param("scale", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        wide = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        normed = wide * jax.lax.rsqrt(mean_square + self.eps)
        return scale(scale_D, normed).astype(x.dtype)


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
        x_BxSxD = embed(self.table, tokens_BxS, dtype=self.dtype)
        return x_BxSxD * jnp.asarray(self.width**0.5, self.dtype)

    def logits(self, hidden_BxSxD: jax.Array) -> jax.Array:
        """Capped logits, float32[B, S, V]."""
        return soft_cap(unembed(self.table, hidden_BxSxD), self.logit_softcap)

    def cross_entropy(self, hidden_BxSxD: jax.Array, targets_BxS: jax.Array) -> jax.Array:
        """Mean cross-entropy of each example, float32[B] nats per token."""
        return cross_entropy(
            self.table, hidden_BxSxD, targets_BxS, logit_softcap=self.logit_softcap
        )
