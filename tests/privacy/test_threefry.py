"""Threefry against its published vectors and against `jax.random`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpscale.privacy.noise import noise_key
from dpscale.privacy.threefry import random_words, threefry2x32


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        # Known answers of Random123, the authors' own library, for 20 rounds.
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((2**32 - 1, 2**32 - 1), (2**32 - 1, 2**32 - 1), (0x1CB996FC, 0xBB002BE7)),
        ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_published_vectors(
    counter: tuple[int, int], key: tuple[int, int], expected: tuple[int, int]
) -> None:
    first, second = (jnp.asarray(word, jnp.uint32) for word in counter)
    found = threefry2x32(jnp.asarray(key, jnp.uint32), (first, second))
    assert tuple(int(word) for word in found) == expected


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (2, 3, 4), (0, 3), (1, 1)])
def test_words_are_those_of_jax_random(shape: tuple[int, ...]) -> None:
    # Catches: positions counted in another order, or from one.
    key = noise_key(0x0123456789ABCDEF)
    first, second = random_words(jax.random.key_data(key), shape)
    assert first.shape == shape
    assert first.dtype == second.dtype == jnp.uint32
    assert np.array_equal(first ^ second, jax.random.bits(key, shape))


def test_double_precision_changes_no_word() -> None:
    key = jax.random.key_data(noise_key(5))
    usual = random_words(key, (3, 4))
    with jax.enable_x64(True):
        wide = random_words(key, (3, 4))
    for left, right in zip(usual, wide, strict=True):
        assert right.dtype == jnp.uint32
        assert np.array_equal(left, right)


def test_positions_that_would_repeat_are_refused() -> None:
    # Catches: the same noise again after 2^32 elements.
    key = jax.random.key_data(noise_key(5))
    with pytest.raises(ValueError, match="fewer than 2\\^32"):
        jax.eval_shape(lambda: random_words(key, (2**16, 2**16)))
    jax.eval_shape(lambda: random_words(key, (2**16, 2**16 - 1)))
