"""What `auto` takes: by shape, by memory, by batch, by devices."""

import dataclasses

import jax
import pytest

from dpscale.bench.shapes import SHAPES
from dpscale.config import ClippingConfig, ModelConfig
from dpscale.errors import InputError
from dpscale.model.decoder import params_shapes
from dpscale.sizes import ladder_shape
from dpscale.training.clipping_choice import (
    example_bytes,
    products,
    settled_clipping,
    strategy_of,
)

OPEN = ClippingConfig()
SMALL = SHAPES["small"].model
GIB = 2**30


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the tests run on."""
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")


def ladder(width: int, seq_len: int, vocab_size: int = 4096) -> ModelConfig:
    return ladder_shape(width, vocab_size=vocab_size, seq_len=seq_len)


def limited_to(num_bytes: float) -> ClippingConfig:
    return ClippingConfig(memory_limit_gib=num_bytes / GIB)


@pytest.mark.parametrize(
    ("model", "size"),
    [
        (SHAPES["tiny"].model, 16),
        (SHAPES["small"].model, 8),
        (SHAPES["wide"].model, 16),
        (ladder(32, 64), 32),  # quickstart's
        (ladder(96, 192), 16),  # a narrow model
        (ladder(128, 192), 16),
        (ladder(512, 512), 2),  # a wide model
        (ladder(128, 64, vocab_size=65536), 8),  # logits
        (ladder(32, 16), 64),  # examples
        (ladder(32, 8192), 1),
    ],
)
def test_a_cpu_gets_as_much_as_pays(model: ModelConfig, size: int) -> None:
    # Catches: a limit that is left out, or one that holds where it should not.
    settled = settled_clipping(model, OPEN)
    assert (settled.strategy, settled.microbatch_size) == ("bookkeeping", size)


def test_an_accelerator_gets_as_much_as_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    of_one = example_bytes(SMALL, "bookkeeping", OPEN)
    assert settled_clipping(SMALL, limited_to(100 * of_one)).microbatch_size == 64
    assert settled_clipping(SMALL, limited_to(1000 * of_one)).microbatch_size == 256  # tokens


@pytest.mark.parametrize("times", [1.0, 1.9, 2.0, 7.9])
def test_a_memory_limit_holds(times: float) -> None:
    # Catches: rounding up, or an estimate for another strategy.
    of_one = example_bytes(SMALL, "bookkeeping", OPEN)
    settled = settled_clipping(SMALL, limited_to(times * of_one))
    assert settled.strategy == "bookkeeping"
    assert settled.microbatch_size == {1.0: 1, 1.9: 1, 2.0: 2, 7.9: 4}[times]


def test_ghost_is_taken_where_bookkeeping_does_not_fit() -> None:
    model = dataclasses.replace(SMALL, seq_len=16)
    least = example_bytes(model, "ghost", OPEN)
    assert least < example_bytes(model, "bookkeeping", OPEN)
    settled = settled_clipping(model, limited_to(1.01 * least))
    assert (settled.strategy, settled.microbatch_size) == ("ghost", 1)
    with pytest.raises(InputError, match=r"clipping.memory_limit_gib: expected at least 0\.\d+ "):
        settled_clipping(model, limited_to(0.99 * least))


@pytest.mark.parametrize(
    ("batch_size", "size"),
    [(16, 8), (15, 5), (17, 6), (18, 6), (20, 4), (31, 8), (62, 8), (10, 5), (3, 3), (1, 1)],
)
def test_little_of_a_batch_is_padding(batch_size: int, size: int) -> None:
    # Catches: a microbatch that pads more than a sixteenth of the batch, an odd one without need.
    settled = settled_clipping(SMALL, OPEN, batch_size=batch_size)
    assert settled.microbatch_size == size


def test_a_microbatch_holds_a_batch_that_fits_and_no_more() -> None:
    model = dataclasses.replace(SMALL, seq_len=16)
    for batch_size in (12, 32):
        settled = settled_clipping(model, OPEN, batch_size=batch_size)
        assert settled.microbatch_size == batch_size
    settled = settled_clipping(model, OPEN, batch_size=36, num_shards=3)
    assert settled.microbatch_size == 36


@pytest.mark.parametrize(
    ("batch_size", "size"), [(16, 4), (15, 2), (17, 4), (31, 4), (32, 8), (1000, 8), (3, 1)]
)
def test_a_poisson_batch_pads_little_on_average_and_needs_no_divisor(
    batch_size: int, size: int
) -> None:
    # Catches: an expected batch size of 15 or 17 taken for the size of each batch.
    settled = settled_clipping(SMALL, OPEN, batch_size=batch_size, is_poisson=True)
    assert settled.microbatch_size == size


def test_devices_share_a_microbatch() -> None:
    assert settled_clipping(SMALL, OPEN, num_shards=6).microbatch_size == 48
    given = ClippingConfig(microbatch_size=12)
    assert settled_clipping(SMALL, given, num_shards=4).microbatch_size == 12
    with pytest.raises(InputError, match=r"a multiple of the 8 devices .* found 12"):
        settled_clipping(SMALL, given, num_shards=8)


def test_what_is_settled_is_left_alone() -> None:
    given = ClippingConfig(strategy="vmap", norm_rule="direct", microbatch_size=3)
    assert settled_clipping(SMALL, given, batch_size=1000) == given
    assert strategy_of(given).name == "vmap"
    with pytest.raises(ValueError, match="settled"):
        strategy_of(OPEN)


def test_every_matrix_of_a_model_is_a_product() -> None:
    # Catches: a matrix whose kept gradient no estimate counts.
    weights = sum(into * out for into, out in products(SMALL))
    shapes = jax.tree.leaves(params_shapes(SMALL))
    matrices = [leaf for leaf in shapes if leaf.size > SMALL.num_layers * 4096]
    assert weights == sum(leaf.size for leaf in matrices)
