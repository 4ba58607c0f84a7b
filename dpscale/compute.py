"""Parameters and FLOPs of a shape: pure arithmetic, every convention named.

FLOPs follow arXiv 2501.18914: `train_flops` = 6 · M · B · T · S with M all parameters, the
tied embedding (which is also the unembedding matrix) counted once. Attention scores and the
overhead of clipping and noise are left out.
"""

from dataclasses import dataclass

from dpscale.config import ModelConfig

FLOPS_CONVENTION = "6 * num_params * batch_size * iterations * seq_len"


@dataclass(frozen=True)
class ParameterCount:
    """How many parameters a shape has: tied embedding and the rest."""

    embedding: int
    non_embedding: int

    @property
    def total(self) -> int:
        """All parameters, the tied embedding counted once."""
        return self.embedding + self.non_embedding


def count_params(model: ModelConfig) -> ParameterCount:
    """Counts the parameters of a decoder, norm scales included.

    >>> from dpscale.sizes import ladder_shape
    >>> count_params(ladder_shape(32, vocab_size=1024, seq_len=64)).total
    63776
    """
    attention = model.width * model.head_dim * 2 * (model.num_heads + model.num_kv_heads)
    feed_forward = 3 * model.width * model.feed_forward_width
    norms = (4 if model.post_norms else 2) * model.width
    per_layer = attention + feed_forward + norms
    return ParameterCount(
        embedding=model.vocab_size * model.width,
        non_embedding=model.num_layers * per_layer + model.width,
    )


def train_flops(*, num_params: float, batch_size: float, iterations: float, seq_len: int) -> float:
    """FLOPs of a training run in the convention `FLOPS_CONVENTION`.

    Args:
      batch_size: Expected batch size of a private run, physical batch size of a law-fitting one.
    """
    return 6.0 * num_params * batch_size * iterations * seq_len
