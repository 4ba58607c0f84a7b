"""What is measured: three shapes that are kept, the ladder's, others drawn from a seed. No JAX."""

import dataclasses
import math
import random
from dataclasses import dataclass

from dpscale.compute import count_params, train_flops
from dpscale.config import ModelConfig
from dpscale.errors import InputError
from dpscale.sizes import ladder_shape, named_shape


@dataclass(frozen=True)
class Shape:
    """A model and how many examples one logical batch holds (expected, if it is drawn)."""

    name: str
    model: ModelConfig
    batch_size: int

    @property
    def num_params(self) -> int:
        """All parameters."""
        return count_params(self.model).total

    @property
    def gradient_flops(self) -> float:
        """FLOPs of one non-private gradient, in the convention of `compute`."""
        return train_flops(
            num_params=self.num_params,
            batch_size=self.batch_size,
            iterations=1,
            seq_len=self.model.seq_len,
        )

    def __str__(self) -> str:
        model = self.model
        return (
            f"{self.name}: width {model.width}, {model.num_layers} layers, seq_len "
            f"{model.seq_len}, vocabulary {model.vocab_size:,}, batch {self.batch_size}"
        )


SHAPES = {
    "tiny": Shape(
        "tiny",
        ModelConfig(
            vocab_size=4096,
            seq_len=128,
            num_layers=4,
            width=128,
            num_heads=4,
            num_kv_heads=1,
            head_dim=32,
            feed_forward_width=512,
        ),
        batch_size=32,
    ),
    "small": Shape(
        "small",
        ModelConfig(
            vocab_size=8192,
            seq_len=256,
            num_layers=6,
            width=256,
            num_heads=4,
            num_kv_heads=1,
            head_dim=64,
            feed_forward_width=1024,
        ),
        batch_size=16,
    ),
    "wide": Shape(
        "wide",
        ModelConfig(
            vocab_size=8192,
            seq_len=64,
            num_layers=4,
            width=512,
            num_heads=8,
            num_kv_heads=2,
            head_dim=64,
            feed_forward_width=2048,
        ),
        batch_size=32,
    ),
}
"""Few tokens on a narrow model, many tokens, few tokens on a wide model."""


def shape_called(name: str) -> Shape:
    """One of `SHAPES`, or `w32`: the ladder's, with what else quickstart trains with.

    Raises:
      InputError: Neither.
    """
    if name in SHAPES:
        return SHAPES[name]
    if not name.startswith("w"):
        raise InputError(
            "shape", f"expected {', '.join(SHAPES)}, or w16, w32, ...; found {name!r}."
        )
    return Shape(name, named_shape(name, vocab_size=1024, seq_len=64), batch_size=64)


WIDTHS = (32, 48, 64, 96, 128, 192, 256, 384, 512)
LAYERS = (2, 3, 4, 5, 6, 7, 8)
SEQ_LENS = (32, 48, 64, 96, 128, 192, 256)
VOCAB_SIZES = (1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384)
BATCH_SIZES = (8, 12, 16, 24, 32, 48, 64)

LEAST_FLOPS, MOST_FLOPS = 2e9, 2e11
"""Bounds of a drawn shape's gradient: some 15 ms, so that it can be timed, to about 1.5 s, at
the 1.4e11 FLOPs a second that two x86 cores were measured to do."""


def drawn_shapes(seed: int, count: int) -> list[Shape]:
    """Shapes of the ladder's proportions, each number drawn uniformly from its list.

    One whose gradient is out of bounds is drawn again, and so is one that was drawn before.

    >>> [shape.name for shape in drawn_shapes(0, 2)]
    ['drawn-1', 'drawn-2']
    """
    generator, shapes = random.Random(seed), list[Shape]()
    while len(shapes) < count:
        width, vocab_size = generator.choice(WIDTHS), generator.choice(VOCAB_SIZES)
        model = ladder_shape(width, vocab_size=vocab_size, seq_len=generator.choice(SEQ_LENS))
        model = dataclasses.replace(model, num_layers=generator.choice(LAYERS))
        shape = Shape(f"drawn-{len(shapes) + 1}", model, generator.choice(BATCH_SIZES))
        is_new = all((shape.model, shape.batch_size) != (s.model, s.batch_size) for s in shapes)
        if is_new and LEAST_FLOPS <= shape.gradient_flops <= MOST_FLOPS:
            shapes.append(shape)
    return shapes


def whole_microbatches(num_examples: int, microbatch_size: int) -> int:
    """Slots that hold so many examples in whole microbatches.

    >>> whole_microbatches(20, 8)
    24
    """
    return math.ceil(num_examples / microbatch_size) * microbatch_size
