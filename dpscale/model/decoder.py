"""The decoder: Gemma 2's block, stacked, with a tied embedding; `docs/model.md` explains it.

It knows nothing of privacy and touches no weight: `weights` does. Training asks it for
`init_params` and `per_example_loss`, evaluation for `logits`, or for `hidden_states` and the
`logits_of` some of them.

Parameters are a nested dict of float32 arrays. The layers share one structure and their
arrays are stacked, layer first, so that one compiled block can serve every depth:

    embedding/table [V, D]                          final_norm/scale [D]
    layers/attention/{query,key,value,output}/kernel [L, in, out]
    layers/feed_forward/{gate,up,down}/kernel        [L, in, out]
    layers/{pre_attention_norm,pre_feed_forward_norm}/scale [L, D]
    layers/{post_attention_norm,post_feed_forward_norm}/scale [L, D]   (with post_norms)

Axes: B examples, S tokens, D width, F feed-forward, V vocabulary, L layers.
"""

from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from dpscale.config import ModelConfig
from dpscale.model.attention import Attention
from dpscale.model.past import Past
from dpscale.model.weights import TAPS, Dense, RMSNorm, TiedEmbedding, side_by_side
from dpscale.ops.stack import is_unrolled

Params = dict[str, Any]
"""A nested dict of float32 arrays, laid out as the module docstring says."""

Taps = dict[str, Any]
"""A nested dict laid out like the parameters, with a tap or record for each."""


def init_params(model: ModelConfig, key: jax.Array) -> Params:
    """Fresh parameters; `weights` names the distribution of each.

    Pure: works under `jax.jit` (static `model`) and `jax.eval_shape`.
    """
    tokens_BxS = jnp.zeros((1, 1), jnp.int32)
    return cast(Params, Decoder(model).init(key, tokens_BxS, method="logits")["params"])


def params_shapes(model: ModelConfig) -> Params:
    """Shapes and dtypes of the parameters; nothing is computed and no memory used."""
    return cast(Params, jax.eval_shape(lambda: init_params(model, jax.random.key(0))))


def per_example_loss(
    model: ModelConfig, params: Params, tokens_BxS1: jax.Array, taps: Taps | None = None
) -> jax.Array:
    """Cross-entropy of predicting each unit's tokens 1..S from those before.

    Each example's loss depends on that example alone, in a full batch as under `jax.vmap`
    with B = 1: a token outside the vocabulary makes the loss of its own example NaN.

    Args:
      tokens_BxS1: int32[B, S + 1] privacy units.
      taps: What the backward pass does about each parameter (`dpscale.ops.taps`), laid out
        like the parameters; absent: plain gradients.

    Returns:
      float32[B]: mean over the S predicted tokens, in nats per token; never a mean over B.
    """
    variables = {"params": params} if taps is None else {"params": params, TAPS: taps}
    return cast(jax.Array, Decoder(model).apply(variables, tokens_BxS1, method="per_example_loss"))


def empty_records(model: ModelConfig, params: Params, tokens_BxS1: jax.Array) -> Taps:
    """The record that each parameter's op can leave of a batch, laid out like the parameters.

    The arrays that a backward pass would fill are zeros. Under `jax.jit` no forward pass is
    computed for it.
    """
    _, announced = Decoder(model).apply(
        {"params": params}, tokens_BxS1, method="per_example_loss", mutable=[TAPS]
    )
    return cast(Taps, announced[TAPS])


def logits(model: ModelConfig, params: Params, tokens_BxS: jax.Array) -> jax.Array:
    """Capped logits of the next token after each position, float32[B, S, V]."""
    return cast(jax.Array, Decoder(model).apply({"params": params}, tokens_BxS, method="logits"))


def hidden_states(model: ModelConfig, params: Params, tokens_BxS: jax.Array) -> jax.Array:
    """Final normalised hidden states [B, S, D] in the compute dtype."""
    variables = {"params": params}
    return cast(jax.Array, Decoder(model).apply(variables, tokens_BxS, method="hidden_states"))


def logits_of(model: ModelConfig, params: Params, hidden: jax.Array) -> jax.Array:
    """Capped logits [..., V] of final hidden states [..., D], float32."""
    variables = {"params": params}
    return cast(jax.Array, Decoder(model).apply(variables, hidden, method="hidden_to_logits"))


class FeedForward(nn.Module):
    """GeGLU: down(gelu(gate(x)) · up(x)), gelu in its tanh form (arXiv 2002.05202)."""

    model: ModelConfig

    @nn.compact
    def __call__(self, x_BxSxD: jax.Array) -> jax.Array:
        """[B, S, D] to [B, S, D]."""
        both = [Dense(self.model.feed_forward_width, name=name) for name in ("gate", "up")]
        gate_BxSxF, up_BxSxF = side_by_side(both, x_BxSxD, self.model.num_layers)
        activated = jax.nn.gelu(gate_BxSxF, approximate=True) * up_BxSxF
        return Dense(self.model.width, name="down")(activated)


class Block(nn.Module):
    """Attention and feed-forward, each normalised before, and with `post_norms` also after."""

    model: ModelConfig

    @nn.compact
    def __call__(
        self, x_BxSxD: jax.Array, window: jax.Array, past: Past | None = None
    ) -> tuple[jax.Array, Past | None]:
        """One layer; the pair is what a scan over layers carries and collects."""
        attended, past = Attention(self.model, name="attention")(
            self._norm("pre_attention_norm", x_BxSxD), window, past
        )
        x_BxSxD += self._post_norm("post_attention_norm", attended)
        fed = FeedForward(self.model, name="feed_forward")(
            self._norm("pre_feed_forward_norm", x_BxSxD)
        )
        return x_BxSxD + self._post_norm("post_feed_forward_norm", fed), past

    def _norm(self, name: str, x_BxSxD: jax.Array) -> jax.Array:
        return RMSNorm(self.model.norm_eps, name=name)(x_BxSxD)

    def _post_norm(self, name: str, x_BxSxD: jax.Array) -> jax.Array:
        return self._norm(name, x_BxSxD) if self.model.post_norms else x_BxSxD


class Decoder(nn.Module):
    """Tokens to hidden states, and from there to logits or to losses."""

    model: ModelConfig

    def setup(self) -> None:
        """Declares the embedding, the stack of layers and the final norm."""
        model = self.model
        self.embedding = TiedEmbedding(
            model.vocab_size,
            model.width,
            jnp.dtype(model.compute_dtype),
            model.final_logit_softcap,
        )
        stack = nn.scan(
            nn.remat(Block, prevent_cse=is_unrolled(model.num_layers))
            if model.rematerialize
            else Block,
            variable_axes={"params": 0, TAPS: 0},
            split_rngs={"params": True},
            length=model.num_layers,
            unroll=model.num_layers if is_unrolled(model.num_layers) else 1,
        )
        self.layers = stack(model)
        self.final_norm = RMSNorm(model.norm_eps)

    def hidden_states(self, tokens_BxS: jax.Array) -> jax.Array:
        """Final normalised hidden states [B, S, D] in the compute dtype."""
        windows_L = jnp.array(attention_windows(self.model, tokens_BxS.shape[1]), jnp.int32)
        x_BxSxD, _ = self.layers(self.embedding.embed(tokens_BxS), windows_L)
        return self.final_norm(x_BxSxD)

    def hidden_to_logits(self, hidden: jax.Array) -> jax.Array:
        """[..., D] to float32[..., V]."""
        return self.embedding.logits(hidden)

    def logits(self, tokens_BxS: jax.Array) -> jax.Array:
        """float32[B, S, V]."""
        return self.hidden_to_logits(self.hidden_states(tokens_BxS))

    def per_example_loss(self, tokens_BxS1: jax.Array) -> jax.Array:
        """float32[B]."""
        hidden_BxSxD = self.hidden_states(tokens_BxS1[:, :-1])
        return self.embedding.cross_entropy(hidden_BxSxD, tokens_BxS1[:, 1:])


def attention_windows(model: ModelConfig, seq_len: int) -> list[int]:
    """How far each layer sees: the sliding window on even layers where set, else everything.

    >>> from dpscale.sizes import NAMED_SHAPES
    >>> attention_windows(NAMED_SHAPES["gemma2-2b"], 8192)[:3]
    [4096, 8192, 4096]
    """
    slides = model.sliding_window is not None
    return [
        min(seq_len, model.sliding_window or seq_len) if slides and layer % 2 == 0 else seq_len
        for layer in range(model.num_layers)
    ]
