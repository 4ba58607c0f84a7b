"""Which tensor of a Gemma checkpoint is which of our parameters; names, shapes and layout.

One table serves export and import. A dense kernel is stored as PyTorch keeps it, [out, in],
which is ours transposed; our parameters stack the layers, theirs are stored one by one.
`lm_head.weight` is not stored: the embedding is tied.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dpscale.config import ModelConfig
from dpscale.model.decoder import Params, params_shapes

EMBEDDING = ("embedding", "table")
FINAL_NORM = ("final_norm", "scale")

LAYER_KERNELS = {
    "self_attn.q_proj": ("attention", "query", "kernel"),
    "self_attn.k_proj": ("attention", "key", "kernel"),
    "self_attn.v_proj": ("attention", "value", "kernel"),
    "self_attn.o_proj": ("attention", "output", "kernel"),
    "mlp.gate_proj": ("feed_forward", "gate", "kernel"),
    "mlp.up_proj": ("feed_forward", "up", "kernel"),
    "mlp.down_proj": ("feed_forward", "down", "kernel"),
}
LAYER_NORMS = {
    "input_layernorm": ("pre_attention_norm", "scale"),
    "pre_feedforward_layernorm": ("pre_feed_forward_norm", "scale"),
}
LAYER_POST_NORMS = {
    "post_attention_layernorm": ("post_attention_norm", "scale"),
    "post_feedforward_layernorm": ("post_feed_forward_norm", "scale"),
}


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a checkpoint.

    `path` leads to our array; `layer` is its place in a stacked one, None where there are no
    layers. `shape` is that of the stored tensor, which is ours transposed where `is_transposed`.
    """

    name: str
    path: tuple[str, ...]
    layer: int | None
    is_transposed: bool
    shape: tuple[int, ...]

    @property
    def num_elements(self) -> int:
        """Product of the shape."""
        return math.prod(self.shape)

    def of(self, params: Params) -> Any:
        """The view of our arrays that is laid out like the stored tensor; nothing is copied."""
        array = leaf(params, self.path)
        if self.layer is not None:
            array = array[self.layer]
        return array.T if self.is_transposed else array


def stored_tensors(model: ModelConfig) -> list[StoredTensor]:
    """Every tensor of a model's checkpoint, in the order of its layers; no memory is used.

    >>> from dpscale.sizes import NAMED_SHAPES
    >>> sum(tensor.num_elements for tensor in stored_tensors(NAMED_SHAPES["gemma2-2b"]))
    2614341888
    """
    shapes = params_shapes(model)
    return [
        StoredTensor(
            name=f"{name}.weight",
            path=path,
            layer=layer,
            is_transposed=path[-1] == "kernel",
            shape=_stored_shape(leaf(shapes, path).shape, path, layer),
        )
        for name, path, layer in _names(model)
    ]


def leaf(params: Params, path: tuple[str, ...]) -> Any:
    """The array at a path of the nested dict."""
    found: Any = params
    for key in path:
        found = found[key]
    return found


def _names(model: ModelConfig) -> Iterator[tuple[str, tuple[str, ...], int | None]]:
    yield "model.embed_tokens", EMBEDDING, None
    in_layer = {**LAYER_KERNELS, **LAYER_NORMS, **(LAYER_POST_NORMS if model.post_norms else {})}
    for layer in range(model.num_layers):
        for name, path in in_layer.items():
            yield f"model.layers.{layer}.{name}", ("layers", *path), layer
    yield "model.norm", FINAL_NORM, None


def _stored_shape(
    shape: tuple[int, ...], path: tuple[str, ...], layer: int | None
) -> tuple[int, ...]:
    own = shape if layer is None else shape[1:]
    return own[::-1] if path[-1] == "kernel" else own
