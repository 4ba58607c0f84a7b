"""The shapes that are kept, and those drawn from a seed."""

from dpscale.bench.shapes import LEAST_FLOPS, MOST_FLOPS, SHAPES, drawn_shapes
from dpscale.bench.subject import Subject
from dpscale.config import (
    ClippingConfig,
    DataConfig,
    LawFittingConfig,
    OptimizerConfig,
    PrivateConfig,
    RunConfig,
    TrainingConfig,
)


def test_the_named_shapes_are_the_published_ones() -> None:
    # Catches: figures that bear an old name but belong to another model.
    assert {name: shape.num_params for name, shape in SHAPES.items()} == {
        "tiny": 1_476_736,
        "small": 7_805_184,
        "wide": 19_407_360,
    }
    assert {name: (s.batch_size, s.model.seq_len) for name, s in SHAPES.items()} == {
        "tiny": (32, 128),
        "small": (16, 256),
        "wide": (32, 64),
    }


def test_drawn_shapes_follow_from_their_seed() -> None:
    first = drawn_shapes(7, 6)
    assert first == drawn_shapes(7, 6)
    assert first[:3] == drawn_shapes(7, 3)
    assert first != drawn_shapes(8, 6)


def test_drawn_shapes_stay_within_bounds_and_differ() -> None:
    shapes = [shape for seed in range(20) for shape in drawn_shapes(seed, 6)]
    for shape in shapes:
        model = shape.model
        assert LEAST_FLOPS <= shape.gradient_flops <= MOST_FLOPS
        assert 32 <= model.width <= 512
        assert 2 <= model.num_layers <= 8
        assert 32 <= model.seq_len <= 256
        assert 1024 <= model.vocab_size <= 16384
        assert 8 <= shape.batch_size <= 64
        assert model.num_heads * model.head_dim == model.width
    for seed in range(20):
        drawn = shapes[6 * seed : 6 * seed + 6]
        assert len({(shape.model, shape.batch_size) for shape in drawn}) == 6
    assert len({shape.model.width for shape in shapes}) >= 7


def config(*, private: bool, batch: int, cap: int | None = None) -> RunConfig:
    return RunConfig(
        purpose="private" if private else "law-fitting",
        model=SHAPES["tiny"].model,
        data=DataConfig("data"),
        optimizer=OptimizerConfig(learning_rate=0.5),
        training=TrainingConfig(iterations=1),
        clipping=ClippingConfig(l2_clip_norm=0.3, strategy="ghost", microbatch_size=2),
        private=PrivateConfig(8.0, 1e-6, batch, truncated_batch_size=cap) if private else None,
        law_fitting=None if private else LawFittingConfig(batch, 0.1),
    )


def test_a_config_gives_its_own_settings() -> None:
    subject = Subject.of_config(config(private=True, batch=1000, cap=1100), "a.toml")
    assert (subject.shape.batch_size, subject.truncated_batch_size) == (1000, 1100)
    assert subject.is_poisson
    assert not Subject.of_config(config(private=False, batch=1000), "a.toml").is_poisson
    assert subject.optimizer.learning_rate == 0.5
    opened = subject.open_clipping
    assert (opened.strategy, opened.norm_rule, opened.microbatch_size) == ("auto", "auto", None)
    assert opened.l2_clip_norm == 0.3


def test_clipping_is_measured_on_a_part_of_a_large_batch() -> None:
    large = Subject.of_config(config(private=False, batch=1000), "a.toml")
    assert large.for_clipping(8).batch_size == 64
    assert large.for_clipping(256).batch_size == 256  # a whole microbatch at least
    asked = Subject.of_config(config(private=True, batch=1000, cap=1100), "a.toml", 100)
    assert asked.for_clipping(8).batch_size == 100
    assert asked.truncated_batch_size is None  # belongs to the other batch
    small = Subject.of_config(config(private=False, batch=6), "a.toml")
    assert small.for_clipping(8).batch_size == 6
