"""What is measured: a shape, and the settings that its runs would have. No JAX."""

import dataclasses
from dataclasses import dataclass

from dpscale.bench.shapes import Shape
from dpscale.config import ClippingConfig, OptimizerConfig, RunConfig

MOST_EXAMPLES = 64
"""Examples of a config's batch that are measured for clipping: time goes with their number, and
ratios hardly do."""

_OPTIMIZER = OptimizerConfig(learning_rate=1e-3)
"""Of shapes that come without one; Adam costs the same at any rate."""


@dataclass(frozen=True)
class Subject:
    """A shape with its settings.

    `is_poisson` says whether the batch size varies from step to step, the shape's being what is
    expected of it; `truncated_batch_size` is its cap where a config gives one.
    """

    shape: Shape
    clipping: ClippingConfig
    optimizer: OptimizerConfig
    truncated_batch_size: int | None = None
    is_batch_asked_for: bool = False
    is_poisson: bool = False

    @classmethod
    def of_shape(cls, shape: Shape, batch_size: int | None = None) -> "Subject":
        """A shape by itself, with a batch of its own unless another is asked for."""
        if batch_size is not None:
            shape = dataclasses.replace(shape, batch_size=batch_size)
        return cls(shape, ClippingConfig(), _OPTIMIZER, is_batch_asked_for=True)

    @classmethod
    def of_config(cls, config: RunConfig, name: str, batch_size: int | None = None) -> "Subject":
        """A run's model with its expected or physical batch, unless another is asked for."""
        cap = None
        if config.private is not None and batch_size is None:
            cap = config.private.truncated_batch_size
        shape = Shape(name, config.model, config.batch_size if batch_size is None else batch_size)
        return cls(
            shape,
            config.clipping,
            config.optimizer,
            truncated_batch_size=cap,
            is_batch_asked_for=batch_size is not None,
            is_poisson=config.private is not None,
        )

    @property
    def open_clipping(self) -> ClippingConfig:
        """The clipping settings with everything left to `auto`."""
        return dataclasses.replace(
            self.clipping, strategy="auto", norm_rule="auto", microbatch_size=None
        )

    def for_clipping(self, microbatch_size: int) -> Shape:
        """The shape with as many examples as clipping is measured on.

        Args:
          microbatch_size: What `auto` picks for the whole batch: no fewer are measured.
        """
        if self.is_batch_asked_for:
            return self.shape
        size = min(self.shape.batch_size, max(MOST_EXAMPLES, microbatch_size))
        return dataclasses.replace(self.shape, batch_size=size)
