"""`jax_privacy.clipped_grad`, measured beside our strategies where it is installed."""

import importlib.metadata
from typing import TYPE_CHECKING, Any

from dpscale.config import ModelConfig

if TYPE_CHECKING:
    import jax

    from dpscale.bench.programs import Gradient


def peer_version() -> str | None:
    """The installed version of jax_privacy, if any."""
    try:
        return importlib.metadata.version("jax-privacy")
    except importlib.metadata.PackageNotFoundError:
        return None


def peer_gradient(
    model: ModelConfig, microbatch_size: int, *, rescale_to_unit_norm: bool
) -> "Gradient":
    """The peer on our loss, asked for the same results."""
    from jax_privacy import clipped_grad

    from dpscale.model.decoder import per_example_loss
    from dpscale.privacy.clipping import ClippedSum

    def gradient(
        params: Any, tokens_BxS1: "jax.Array", is_padding_B: "jax.Array", l2_clip_norm: "jax.Array"
    ) -> ClippedSum:
        clipped = clipped_grad(
            lambda params, tokens_1xS1: per_example_loss(model, params, tokens_1xS1)[0],
            l2_clip_norm=l2_clip_norm,
            rescale_to_unit_norm=rescale_to_unit_norm,
            microbatch_size=microbatch_size,
            return_values=True,
            return_grad_norms=True,
        )
        total, aux = clipped(params, tokens_BxS1, is_padding_example=is_padding_B)
        return ClippedSum(total, aux.grad_norms, aux.values)

    return gradient
