"""One step: per-example clipped gradients, their noisy mean, Adam. Compiled once a shape.

The step is the same for both purposes. Learning rate, schedule, noise and clip norm are
arguments of the compiled function; shapes and dtypes alone decide what is compiled.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from dpscale.config import ClippingConfig, ModelConfig, OptimizerConfig
from dpscale.model.decoder import empty_records, init_params, per_example_loss
from dpscale.privacy.clipping import ClippedSum
from dpscale.privacy.lanes import num_lanes
from dpscale.privacy.mechanism import NoisyMean
from dpscale.privacy.microbatches import microbatched
from dpscale.privacy.strategies import TappedLoss
from dpscale.training.clipping_choice import settled_clipping, strategy_of
from dpscale.training.optimizer import Schedule, apply_update, make_adam
from dpscale.training.placement import Placement


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["loss_sum", "norm_sum", "num_clipped", "num_examples"],
    meta_fields=[],
)
@dataclass(frozen=True)
class Window:
    """Sums over the examples since the last metric line, float32 scalars. NOT PRIVATE."""

    loss_sum: jax.Array
    norm_sum: jax.Array
    num_clipped: jax.Array
    num_examples: jax.Array


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "adam", "step", "window", "is_finite"],
    meta_fields=[],
)
@dataclass(frozen=True)
class TrainState:
    """What a run carries from step to step, and what a checkpoint holds.

    `step` is int32, the iterations done; `is_finite` is False from the first step on that
    left a parameter NaN or infinite.
    """

    params: Any
    adam: Any
    step: jax.Array
    window: Window
    is_finite: jax.Array


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["noisy_mean", "schedule", "noise_key"],
    meta_fields=[],
)
@dataclass(frozen=True)
class StepSettings:
    """The step's run-time arguments beside state and batch. `noise_key` is secret."""

    noisy_mean: NoisyMean
    schedule: Schedule
    noise_key: jax.Array


TrainStep = Callable[[TrainState, jax.Array, jax.Array, StepSettings], TrainState]
"""(state, int32[slots, S + 1] tokens, bool[slots] is_padding, settings) -> the next state."""


def empty_window() -> Window:
    """A window before its first example."""
    return Window(*(jnp.zeros((), jnp.float32) for _ in range(4)))


@partial(jax.jit, static_argnames=("model", "optimizer"))
def init_state(model: ModelConfig, optimizer: OptimizerConfig, key: jax.Array) -> TrainState:
    """The state before the first step."""
    params = init_params(model, key)
    return TrainState(
        params=params,
        adam=make_adam(optimizer).init(params),
        step=jnp.zeros((), jnp.int32),
        window=empty_window(),
        is_finite=jnp.ones((), bool),
    )


def state_shapes(model: ModelConfig, optimizer: OptimizerConfig) -> TrainState:
    """Shapes and dtypes of a state; nothing is computed and no memory used."""
    shapes: TrainState = jax.eval_shape(lambda: init_state(model, optimizer, jax.random.key(0)))
    return shapes


def tapped_loss(model: ModelConfig) -> TappedLoss:
    """The decoder's loss, as clipping strategies ask for it."""
    return TappedLoss(
        per_example=lambda params, tokens, taps: per_example_loss(model, params, tokens, taps),
        empty_records=lambda params, tokens: empty_records(model, params, tokens),
    )


def make_train_step(
    model: ModelConfig,
    optimizer: OptimizerConfig,
    clipping: ClippingConfig,
    placement: Placement | None = None,
) -> TrainStep:
    """Builds the compiled step. It takes the state's buffers over (donation).

    Args:
      placement: The devices that share the step; absent: it runs where its arguments are.
    """
    adam = make_adam(optimizer)
    clipping = settled_clipping(model, clipping)
    strategy, loss = strategy_of(clipping), tapped_loss(model)
    microbatch_size = clipping.microbatch_size
    assert microbatch_size is not None
    is_on_one_device = placement is None or placement.mesh.size == 1
    lanes = num_lanes(model, microbatch_size) if is_on_one_device else 1

    def train_step(
        state: TrainState, tokens_BxS1: jax.Array, is_padding_B: jax.Array, settings: StepSettings
    ) -> TrainState:
        rule = settings.noisy_mean
        clipped = microbatched(
            lambda tokens, is_counted: strategy.unfinished(
                loss, state.params, tokens, is_counted, rule.clip_rule
            ),
            tokens_BxS1,
            is_padding_B,
            microbatch_size=microbatch_size,
            lanes=lanes,
            sharding=None if placement is None else placement.microbatches,
        )
        mean_grad = rule(clipped, key=settings.noise_key, step=state.step)
        direction, adam_state = adam.update(mean_grad, state.adam)
        params = apply_update(state.params, direction, settings.schedule(state.step))
        return TrainState(
            params=params,
            adam=adam_state,
            step=state.step + 1,
            window=_add_to_window(state.window, clipped, is_padding_B, rule),
            is_finite=state.is_finite & _all_finite(params),
        )

    if placement is None:
        return jax.jit(train_step, donate_argnums=0)
    state = placement.of_state(state_shapes(model, optimizer))
    inputs = (state, placement.examples, placement.examples, placement.whole)
    return jax.jit(train_step, donate_argnums=0, in_shardings=inputs, out_shardings=state)


def _add_to_window(
    window: Window, clipped: ClippedSum, is_padding_B: jax.Array, rule: NoisyMean
) -> Window:
    is_clipped_B = ~is_padding_B & (clipped.norms > rule.l2_clip_norm)
    return Window(
        loss_sum=window.loss_sum + jnp.sum(clipped.losses),
        norm_sum=window.norm_sum + jnp.sum(clipped.norms),
        num_clipped=window.num_clipped + jnp.sum(is_clipped_B),
        num_examples=window.num_examples + jnp.sum(~is_padding_B),
    )


def _all_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
