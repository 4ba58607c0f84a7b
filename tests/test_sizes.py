"""The ladder's recipe and the named shapes."""

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpscale.compute import count_params
from dpscale.config import ModelConfig
from dpscale.errors import InputError
from dpscale.schema import build
from dpscale.sizes import (
    LADDER_WIDTHS,
    NAMED_SHAPES,
    expand_shape,
    ladder_shape,
    named_shape,
)


def test_the_ladder_runs_from_tens_of_thousands_to_a_billion_without_gaps():
    """Catches a rung that shrinks, or a hole in which no size can be recommended."""
    sizes = [
        count_params(ladder_shape(w, vocab_size=1024, seq_len=64)).non_embedding
        for w in LADDER_WIDTHS
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < 20_000
    assert 0.8e9 < sizes[-1] < 1.3e9
    assert max(b / a for a, b in itertools.pairwise(sizes)) < 4.5


@given(width=st.integers(16, 4096))
def test_every_width_makes_a_consistent_shape(width):
    """Catches a width whose heads do not divide, or exceed the width."""
    shape = ladder_shape(width, vocab_size=1000, seq_len=32)
    assert shape.num_heads % shape.num_kv_heads == 0
    assert shape.num_heads * shape.head_dim <= width
    assert shape.num_layers >= 2


@pytest.mark.parametrize(
    ("width", "layers", "heads", "kv_heads", "head_dim"),
    [
        (16, 2, 1, 1, 16),
        (32, 2, 2, 1, 16),
        (96, 2, 6, 1, 16),
        (128, 2, 4, 1, 32),
        (256, 4, 4, 1, 64),
        (512, 8, 8, 2, 64),
        (1024, 16, 8, 2, 128),
    ],
)
def test_the_recipe_gives_these_rungs(width, layers, heads, kv_heads, head_dim):
    """Catches a change of the recipe: laws fitted on the old one would silently not apply."""
    shape = ladder_shape(width, vocab_size=1024, seq_len=64)
    assert (shape.num_layers, shape.num_heads, shape.num_kv_heads, shape.head_dim) == (
        layers,
        heads,
        kv_heads,
        head_dim,
    )
    assert shape.feed_forward_width == 4 * width


def test_named_shapes_are_found_and_adapted():
    """Catches a named shape that keeps its published vocabulary when another is asked for."""
    assert named_shape("gemma2-2b") == NAMED_SHAPES["gemma2-2b"]
    small = named_shape("vaultgemma-1b", vocab_size=1024, seq_len=64)
    assert (small.vocab_size, small.seq_len, small.width) == (1024, 64, 1152)
    rung = named_shape("w32", vocab_size=7, seq_len=5)
    assert rung == ladder_shape(32, vocab_size=7, seq_len=5)


@pytest.mark.parametrize("name", ["w8", "w", "W32", "gemma", "", "w-32"])
def test_an_unknown_shape_is_refused(name):
    """Catches a misspelt shape that falls back to some other."""
    with pytest.raises(InputError):
        named_shape(name, vocab_size=7, seq_len=5)


def test_a_rung_needs_its_vocabulary_and_length():
    """Catches a default vocabulary that is not the data's."""
    with pytest.raises(InputError, match="vocab_size"):
        named_shape("w32")


def test_a_config_s_shape_expands_and_its_own_keys_win():
    """Catches a recipe that overrides what the config says."""
    fields = {"seed": 3, "model": {"shape": "w32", "vocab_size": 9, "seq_len": 4, "head_dim": 8}}
    expanded = expand_shape(fields, where="x.toml")
    shape = build(ModelConfig, expanded["model"], where="x.toml")
    assert shape == dataclasses.replace(ladder_shape(32, vocab_size=9, seq_len=4), head_dim=8)
    assert expanded["seed"] == 3
    assert expand_shape({"model": {"width": 4}}, where="x") == {"model": {"width": 4}}
    with pytest.raises(InputError, match=r"x\.toml: model: shape"):
        expand_shape({"model": {"shape": "w9000x"}}, where="x.toml")
