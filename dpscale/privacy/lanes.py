"""Lanes: parts of a microbatch that are computed independently of each other, side by side.

On a CPU many operations of a small model are too small for all cores, and each ends with cores
that wait for each other. Two independent lanes leave no core without work: what one lane cannot
use runs the other's operations.

Axes: K examples of a microbatch, S tokens.
"""

import jax
import jax.numpy as jnp

from dpscale.config import ModelConfig
from dpscale.ops.stack import is_unrolled

_CPU_LANES = 2
_LEAST_LANE_TOKENS = 512
"""Two lanes of 1,024 tokens took 0.91 to 0.96 of the time of one, on every shape that was tried; of
512 tokens 0.94 to 1.06, of fewer 0.8 to 1.1 (`analysis/lanes.py`, 2-core x86 CPU)."""


def num_lanes(model: ModelConfig, num_examples: int, platform: str | None = None) -> int:
    """How many lanes a microbatch on one device is computed in: one, or two on a CPU.

    Not where layers run in a loop: two loops side by side took 10 to 17 % longer.

    Args:
      model: The shape whose gradient is computed.
      num_examples: K.
      platform: "cpu", "gpu" or "tpu"; absent: the one that JAX runs on.
    """
    is_cpu = (platform or jax.default_backend()) == "cpu"
    is_even = num_examples % _CPU_LANES == 0
    is_long = num_examples * model.seq_len >= _CPU_LANES * _LEAST_LANE_TOKENS
    return _CPU_LANES if is_cpu and is_unrolled(model.num_layers) and is_even and is_long else 1


def in_lanes(
    tokens_KxS1: jax.Array, flags_K: jax.Array, lanes: int
) -> list[tuple[jax.Array, jax.Array]]:
    """Each lane's examples, in order, and what is known of them.

    Args:
      tokens_KxS1: int32[K, S + 1].
      flags_K: bool[K].
      lanes: How many (`num_lanes`); a divisor of K.
    """
    return list(zip(jnp.split(tokens_KxS1, lanes), jnp.split(flags_K, lanes), strict=True))
