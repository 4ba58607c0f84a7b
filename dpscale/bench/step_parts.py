"""The whole step and its parts, compiled, each a call that takes the batch of a round.

The private step owns its state, as in a run. The non-private step and the parts share another,
so that large models fit twice. Buffers are donated everywhere a run would donate them.

Axes: B slots, S tokens.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from dpscale.bench.candidates import candidate_of
from dpscale.bench.draws import Draws
from dpscale.bench.programs import finished, non_private_gradient, private_gradient, some_params
from dpscale.bench.shapes import Shape
from dpscale.bench.timing import Call
from dpscale.config import ClippingConfig, OptimizerConfig
from dpscale.privacy.clipping import ClippedSum
from dpscale.privacy.keys import insecure_keys
from dpscale.privacy.mechanism import NoisyMean
from dpscale.privacy.noise import noise_key
from dpscale.training.optimizer import apply_update, make_adam, make_schedule
from dpscale.training.step import StepSettings, TrainState, empty_window, make_train_step

ITERATIONS = 10_000
"""Length of the made-up run that the learning rate follows."""

NOISE_MULTIPLIER = 1.0
"""Noise costs the same whatever its scale."""


class StepParts:
    """Calls for a stopwatch; the first call of each compiles.

    `params`, `adam_state` and `mean_grad` are what the non-private step and the parts share.

    Args:
      clipping: Settled.
      draws: Where each round's batch comes from.
    """

    def __init__(
        self,
        shape: Shape,
        clipping: ClippingConfig,
        optimizer: OptimizerConfig,
        draws: Draws,
        seed: int,
    ) -> None:
        self._shape, self._clipping, self._optimizer = shape, clipping, optimizer
        self._draws, self._seed = draws, seed
        self._adam = make_adam(optimizer)
        self._schedule = make_schedule(optimizer, iterations=ITERATIONS)
        unit = 1.0 if clipping.rescale_to_unit_norm else clipping.l2_clip_norm
        self._noisy_mean = NoisyMean(
            l2_clip_norm=clipping.l2_clip_norm,
            normalizer=float(shape.batch_size),
            noise_std=NOISE_MULTIPLIER * unit / shape.batch_size,
            rescale_to_unit_norm=clipping.rescale_to_unit_norm,
        )
        self._noise_key = noise_key(insecure_keys(seed).noise)
        self.params = some_params(shape.model, seed)
        self.adam_state = self._adam.init(self.params)
        self.mean_grad = jax.tree.map(jnp.zeros_like, self.params)

    def private_step(self) -> Call:
        """The step that runs train with."""
        train_step = make_train_step(self._shape.model, self._optimizer, self._clipping)
        settings = StepSettings(self._noisy_mean, self._schedule, self._noise_key)
        params = some_params(self._shape.model, self._seed)
        state = TrainState(
            params=params,
            adam=self._adam.init(params),
            step=jnp.zeros((), jnp.int32),
            window=empty_window(),
            is_finite=jnp.ones((), bool),
        )

        def call(index: int) -> TrainState:
            nonlocal state
            batch = on_device(*self._draws.poisson_batch(index))
            state = finished(train_step(state, *batch, settings))
            return state

        return call

    def non_private_step(self, microbatch_size: int) -> Call:
        """Gradient of the mean loss, and Adam."""
        gradient = non_private_gradient(self._shape.model, microbatch_size)

        def step(params: Any, adam: Any, tokens_BxS1: jax.Array, is_padding_B: jax.Array) -> Any:
            total, loss = gradient(params, tokens_BxS1, is_padding_B, jnp.float32(0))
            mean_grad = jax.tree.map(lambda leaf: leaf / self._shape.batch_size, total)
            return *self._updated(params, adam, mean_grad), loss

        compiled = jax.jit(step, donate_argnums=(0, 1))

        def call(index: int) -> None:
            batch = on_device(*self._draws.fixed_batch(index, microbatch_size))
            self.params, self.adam_state, _ = finished(
                compiled(self.params, self.adam_state, *batch)
            )

        return call

    def gradient(self) -> Call:
        """Only the clipped sum."""
        compiled = jax.jit(
            private_gradient(
                self._shape.model,
                candidate_of(self._clipping),
                rescale_to_unit_norm=self._clipping.rescale_to_unit_norm,
            )
        )
        l2_clip_norm = jnp.float32(self._clipping.l2_clip_norm)

        def call(index: int) -> ClippedSum:
            batch = on_device(*self._draws.poisson_batch(index))
            clipped: ClippedSum = finished(compiled(self.params, *batch, l2_clip_norm))
            return clipped

        return call

    def noise(self) -> Call:
        """Only dividing the sum and adding noise to it, once for a logical batch."""

        def noisy(total: Any, key: jax.Array, step: jax.Array) -> Any:
            nothing = jnp.zeros(0, jnp.float32)
            return self._noisy_mean(ClippedSum(total, nothing, nothing), key=key, step=step)

        compiled = jax.jit(noisy, donate_argnums=0)

        def call(index: int) -> None:
            self.mean_grad = finished(compiled(self.mean_grad, self._noise_key, jnp.int32(index)))

        return call

    def optimizer(self) -> Call:
        """Only Adam."""
        compiled = jax.jit(self._updated, donate_argnums=(0, 1))

        def call(index: int) -> None:
            self.params, self.adam_state = finished(
                compiled(self.params, self.adam_state, self.mean_grad)
            )

        return call

    def _updated(self, params: Any, adam: Any, mean_grad: Any) -> tuple[Any, Any]:
        rate = self._schedule(adam.count)  # Adam counts the steps: no other counter is needed
        direction, adam = self._adam.update(mean_grad, adam)
        return apply_update(params, direction, rate), adam


def on_device(
    tokens_BxS1: NDArray[np.int32], is_padding_B: NDArray[np.bool_]
) -> tuple[jax.Array, jax.Array]:
    """A batch, moved to the device as the training loop moves it."""
    return jnp.asarray(tokens_BxS1), jnp.asarray(is_padding_B)
