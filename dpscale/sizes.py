"""The ladder of model shapes, and the named ones. No JAX.

The ladder is one recipe over the width D (`ladder_shape`), so that a model's size is one
number and every run of a family differs in nothing else:

- layers: one per 64 of width, at least 2;
- head width: 16 below 128, 32 below 256, 64 below 1024, 128 from there;
- query heads: D / head width (rounded down); key-value heads: the largest divisor of that
  number which is at most a quarter of it, at least 1;
- feed-forward: 4 D, gated (GeGLU);
- full attention in every layer, post-norms, tied embedding.

`vaultgemma-1b` and `gemma2-2b` are the published shapes (arXiv 2510.15001, arXiv 2408.00118).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from dpscale.config import ModelConfig
from dpscale.errors import InputError

LADDER_WIDTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1280, 1664)
"""Widths of the ladder: 8 thousand to 1 billion non-embedding parameters."""

_GEMMA2_2B = ModelConfig(
    vocab_size=256_000,
    seq_len=8192,
    num_layers=26,
    width=2304,
    num_heads=8,
    num_kv_heads=4,
    head_dim=256,
    feed_forward_width=9216,
    sliding_window=4096,
)
_VAULTGEMMA_1B = ModelConfig(
    vocab_size=256_000,
    seq_len=1024,
    num_layers=26,
    width=1152,
    num_heads=4,
    num_kv_heads=1,
    head_dim=256,
    feed_forward_width=6912,
    post_norms=False,
)
NAMED_SHAPES = {"gemma2-2b": _GEMMA2_2B, "vaultgemma-1b": _VAULTGEMMA_1B}


def ladder_shape(width: int, *, vocab_size: int, seq_len: int) -> ModelConfig:
    """The ladder's shape of a given width.

    >>> ladder_shape(32, vocab_size=1024, seq_len=64).num_heads
    2
    """
    if width < 16:
        raise InputError("width", f"expected at least 16 (one head), found {width}.")
    head_dim = next(
        dim for below, dim in ((128, 16), (256, 32), (1024, 64), (width + 1, 128)) if width < below
    )
    num_heads = width // head_dim
    return ModelConfig(
        vocab_size=vocab_size,
        seq_len=seq_len,
        num_layers=max(2, round(width / 64)),
        width=width,
        num_heads=num_heads,
        num_kv_heads=max(k for k in range(1, max(1, num_heads // 4) + 1) if num_heads % k == 0),
        head_dim=head_dim,
        feed_forward_width=4 * width,
    )


def named_shape(
    name: str, *, vocab_size: int | None = None, seq_len: int | None = None
) -> ModelConfig:
    """The shape called `name`: `w32` (the ladder's, by width) or one of `NAMED_SHAPES`.

    Args:
      vocab_size: Needed for the ladder; replaces the published value of a named shape.
      seq_len: The same.
    """
    if name in NAMED_SHAPES:
        published = NAMED_SHAPES[name]
        return dataclasses.replace(
            published,
            vocab_size=published.vocab_size if vocab_size is None else vocab_size,
            seq_len=published.seq_len if seq_len is None else seq_len,
        )
    if name.startswith("w") and name[1:].isdigit():
        if vocab_size is None or seq_len is None:
            raise InputError("shape", f"{name!r} needs vocab_size and seq_len beside it.")
        return ladder_shape(int(name[1:]), vocab_size=vocab_size, seq_len=seq_len)
    raise InputError(
        "shape", f"expected w16, w32, ... or one of {', '.join(NAMED_SHAPES)}, found {name!r}."
    )


def expand_shape(fields: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Replaces `[model] shape = NAME` in a config's plain data by the shape's own keys.

    Further keys of `[model]` stand beside `shape` and win over the recipe's.
    """
    model = dict(fields.get("model", {}))
    if "shape" not in model:
        return dict(fields)
    name = model.pop("shape")
    try:
        shape = named_shape(
            str(name), vocab_size=model.get("vocab_size"), seq_len=model.get("seq_len")
        )
    except InputError as error:
        raise InputError(f"{where}: model: {error.where}", error.message) from None
    return {**fields, "model": {**dataclasses.asdict(shape), **model}}
