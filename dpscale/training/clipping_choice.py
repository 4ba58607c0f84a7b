"""Which strategy, which rule for norms, and how many examples at once: from shapes alone.

Bookkeeping does the least work and is taken wherever one example of it fits the memory; ghost
keeps less and is taken where it does not. The microbatch is as large as pays: on a CPU as many
tokens as keep its caches and cores busy, elsewhere as many as fit. `dpscale bench clipping`
measures what this module only estimates.
"""

import dataclasses
import math
import os

import jax

from dpscale.compute import count_params
from dpscale.config import ClippingConfig, ModelConfig
from dpscale.errors import InputError
from dpscale.ops.dense import takes_gram
from dpscale.ops.side_by_side import pays_as_one, shares_record
from dpscale.privacy.strategies import Strategy

CPU_EXAMPLES, CPU_ACTIVATIONS = 64, 512 * 1024
"""Examples, and tokens times width, of a microbatch on a CPU, at most.

Measured on two cores (`dpscale bench clipping`): larger ones outgrow the caches, smaller ones
give the cores too little at a time."""

LEAST_CPU_TOKENS, MOST_CPU_TOKENS = 1024, 3072
"""Between these lie the tokens that `CPU_ACTIVATIONS` allows: at a width of 512 a microbatch of 512
tokens is slower by 8 %, at one of 48 one of 6,144 by 30 %."""

CPU_LOGITS = 2**25
"""Logits of a microbatch on a CPU, at most (128 MiB in float32)."""

MOST_TOKENS = 2**16
"""Tokens of a microbatch on an accelerator, at most: far beyond what keeps it busy."""

_MOST_PADDING, _MOST_POISSON_PADDING = 1 / 16, 1 / 8
"""Share of a batch that may be padding of its last microbatch; of a Poisson batch, on average.
There no size is without it, and one so small that it has little is slow (`dpscale bench step`)."""

_STATES = 6
"""Copies of the parameters beside a microbatch: themselves, Adam's two, sum, noise, update."""


def settled_clipping(
    model: ModelConfig,
    clipping: ClippingConfig,
    *,
    batch_size: int | None = None,
    is_poisson: bool = False,
    num_shards: int = 1,
) -> ClippingConfig:
    """The config with nothing left open.

    Args:
      model: The shape that is trained.
      clipping: What was asked for.
      batch_size: Expected or physical batch size. The microbatch divides it, or nearly; where
        it varies, it is a power of two and at most a quarter of it.
      is_poisson: Whether it varies.
      num_shards: Devices that a microbatch is divided over; `memory_limit_gib` is for each.

    Raises:
      InputError: `memory_limit_gib` is too small for one example, or the microbatch that was
        asked for cannot be divided.
    """
    limit = _memory_limit(model, clipping)
    strategy = clipping.strategy
    if strategy == "auto":
        fits = example_bytes(model, "bookkeeping", clipping) <= limit
        strategy = "bookkeeping" if fits else "ghost"
    size = clipping.microbatch_size
    if size is None:
        most = _most_examples(model, limit / example_bytes(model, strategy, clipping))
        size = num_shards * _microbatch_size(most, batch_size, is_poisson, num_shards)
    elif size % num_shards:
        raise InputError(
            "clipping.microbatch_size",
            f"expected a multiple of the {num_shards} devices (mesh.data x mesh.fsdp) that share "
            f"a microbatch, found {size}.",
        )
    return dataclasses.replace(clipping, strategy=strategy, microbatch_size=size)


def _microbatch_size(most: int, batch_size: int | None, is_poisson: bool, num_shards: int) -> int:
    """Examples of a microbatch on each device, at most `most`."""
    if batch_size is None:
        return _power_of_two(most)
    if is_poisson:
        return _power_of_two(min(most, most_of_poisson_batch(batch_size) // num_shards))
    sizes = range(1, min(most, math.ceil(batch_size / num_shards)) + 1)
    little = [size for size in sizes if not _pads(batch_size, size * num_shards)]
    return max(little, key=_worth, default=1)


def most_of_poisson_batch(expected_batch_size: int) -> int:
    """Examples of a microbatch at most, over all devices, where the batch size varies.

    How full the last microbatch is is chance: by half, on average.

    >>> most_of_poisson_batch(32), most_of_poisson_batch(3)
    (8, 1)
    """
    return max(1, int(2 * _MOST_POISSON_PADDING * expected_batch_size))


def _power_of_two(most: int) -> int:
    """The largest one, at least 1."""
    return 1 << max(0, most.bit_length() - 1)


def _worth(microbatch_size: int) -> float:
    """An odd one cannot be computed in two lanes (`privacy.lanes`)."""
    return microbatch_size / (1 + microbatch_size % 2)


def _pads(batch_size: int, microbatch_size: int) -> bool:
    return -batch_size % microbatch_size > _MOST_PADDING * batch_size


def strategy_of(clipping: ClippingConfig) -> Strategy:
    """The strategy of a settled config."""
    if clipping.strategy == "auto":
        raise ValueError("Expected a settled config, found strategy='auto'.")
    return Strategy(clipping.strategy, clipping.norm_rule)


def example_bytes(model: ModelConfig, strategy: str, clipping: ClippingConfig) -> int:
    """About how much memory one example of a microbatch takes: an upper estimate.

    Activations that the backward pass reads, logits, and what the strategy keeps; compared
    with the compiler's own figures on CPU it is up to 1.3 times too high.
    """
    width = 2 if model.compute_dtype == "bfloat16" else 4
    seq_len = model.seq_len
    heads = model.num_heads * model.head_dim
    layer = width * seq_len * (6 * model.width + 4 * model.feed_forward_width + 2 * heads)
    layer += 3 * 4 * model.num_heads * seq_len**2
    layers = model.num_layers * layer
    if model.rematerialize:
        layers = layer + model.num_layers * width * seq_len * model.width
    logits = 3 * 4 * min(seq_len * model.vocab_size, 2**25)
    return layers + logits + _kept_bytes(model, strategy, clipping, width)


def _kept_bytes(model: ModelConfig, strategy: str, clipping: ClippingConfig, width: int) -> int:
    if strategy == "ghost":
        return 0
    if strategy == "vmap":
        return 4 * count_params(model).total
    return sum(
        width * model.seq_len * out
        if takes_gram(clipping.norm_rule, model.seq_len, into, out)
        else 4 * into * out
        for into, out in products(model)
    )


def products(model: ModelConfig, platform: str | None = None) -> list[tuple[int, int]]:
    """Widths (in, out) of every product with weights, the unembedding last.

    Those that share a record (`ops.side_by_side`) where a microbatch has many tokens are one.
    `platform` as there.
    """
    d, hidden = model.width, model.feed_forward_width
    heads, kv = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    as_one = pays_as_one(model.num_layers, MOST_TOKENS, platform)

    def of_activations(outs: list[int]) -> list[tuple[int, int]]:
        shares = as_one and shares_record(model.seq_len, d, sum(outs), platform)
        return [(d, sum(outs))] if shares else [(d, out) for out in outs]

    attention = [*of_activations([heads, kv, kv]), (heads, d)]
    layer = [*attention, *of_activations([hidden, hidden]), (hidden, d)]
    return [*layer * model.num_layers, (d, model.vocab_size)]


def _most_examples(model: ModelConfig, most: float) -> int:
    """How many examples of a microbatch fit all limits, at least 1; `most` is memory's."""
    if jax.default_backend() == "cpu":
        most = min(most, CPU_EXAMPLES)
        for_caches = min(max(CPU_ACTIVATIONS / model.width, LEAST_CPU_TOKENS), MOST_CPU_TOKENS)
        tokens = min(for_caches, CPU_LOGITS / model.vocab_size)
    else:
        tokens = MOST_TOKENS
    return max(1, int(min(most, tokens / model.seq_len)))


def _memory_limit(model: ModelConfig, clipping: ClippingConfig) -> float:
    """Bytes for one microbatch."""
    if clipping.memory_limit_gib is not None:
        limit = clipping.memory_limit_gib * 2**30
        least = example_bytes(model, "ghost", clipping)
        if limit < least:
            raise InputError(
                "clipping.memory_limit_gib",
                f"expected at least {least / 2**30:.3g} for one example, found "
                f"{clipping.memory_limit_gib:g}.",
            )
        return limit
    states = _STATES * 4 * count_params(model).total
    return max(1.0, 0.9 * _device_bytes() - states)


def _device_bytes() -> float:
    device = jax.local_devices()[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats:
        return float(stats["bytes_limit"])
    # Sweeps share a host between several runs.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 4
