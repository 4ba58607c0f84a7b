"""Where a microbatch is computed in lanes."""

import dataclasses

import pytest

from dpscale.bench.shapes import SHAPES
from dpscale.config import ModelConfig
from dpscale.ops.stack import UNROLLED_LAYERS
from dpscale.privacy.lanes import num_lanes

TINY = SHAPES["tiny"].model
LOOPED = dataclasses.replace(TINY, num_layers=UNROLLED_LAYERS + 1)


@pytest.mark.parametrize(
    ("model", "num_examples", "platform", "lanes"),
    [
        (TINY, 16, "cpu", 2),
        (TINY, 8, "cpu", 2),
        (TINY, 6, "cpu", 1),  # too few tokens
        (TINY, 15, "cpu", 1),  # cannot be halved
        (LOOPED, 16, "cpu", 1),
        (TINY, 16, "gpu", 1),
        (TINY, 16, "tpu", 1),
    ],
)
def test_two_on_a_cpu_where_they_pay(
    model: ModelConfig, num_examples: int, platform: str, lanes: int
) -> None:
    assert num_lanes(model, num_examples, platform) == lanes
