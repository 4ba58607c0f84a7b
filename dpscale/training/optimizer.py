"""Adam with warm-up and exponential decay, its schedule an argument of the compiled step."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dpscale.config import OptimizerConfig


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["peak", "warmup_iterations", "iterations", "decay_factor"],
    meta_fields=[],
)
@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A learning rate that rises linearly, then falls exponentially.

    All fields are arguments of the compiled step, so that runs which differ in learning rate
    or length share a compilation.
    """

    peak: float
    warmup_iterations: float
    iterations: float
    decay_factor: float

    def __call__(self, step: jax.Array) -> jax.Array:
        """The rate of the 0-based `step`: `peak` at the end of the warm-up,
        `peak / decay_factor` at the last step.
        """
        done = step.astype(jnp.float32) + 1
        warmup = jnp.minimum(1.0, done / jnp.maximum(self.warmup_iterations, 1.0))
        decaying = jnp.maximum(self.iterations - self.warmup_iterations, 1.0)
        progress = jnp.clip((done - self.warmup_iterations) / decaying, 0.0, 1.0)
        return self.peak * warmup * self.decay_factor ** (-progress)


def make_schedule(optimizer: OptimizerConfig, *, iterations: int) -> Schedule:
    """The schedule of a run of `iterations` steps."""
    return Schedule(
        peak=optimizer.learning_rate,
        warmup_iterations=float(max(1, round(optimizer.warmup_fraction * iterations))),
        iterations=float(iterations),
        decay_factor=optimizer.decay_factor,
    )


def make_adam(optimizer: OptimizerConfig) -> optax.GradientTransformation:
    """Adam's direction; the caller multiplies by the scheduled rate."""
    return optax.scale_by_adam(b1=optimizer.b1, b2=optimizer.b2, eps=optimizer.eps)


def apply_update(params: Any, direction: Any, learning_rate: jax.Array) -> Any:
    """`params - learning_rate * direction`."""
    return jax.tree.map(lambda p, d: p - learning_rate * d, params, direction)
