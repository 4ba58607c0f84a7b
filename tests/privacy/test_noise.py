"""The noise: normal, independent between steps and leaves, keyed by all 64 bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dpscale.privacy.noise import gaussian_noise, noise_key

LIKE = {"a": jnp.zeros((300, 200)), "b": jnp.zeros(60_000)}


def draw(step: int, key: int = 7) -> dict[str, np.ndarray]:
    noise = gaussian_noise(noise_key(key), jnp.int32(step), LIKE)
    return {name: np.asarray(leaf, np.float64).ravel() for name, leaf in noise.items()}


def test_is_standard_normal() -> None:
    for leaf in draw(3).values():
        assert stats.kstest(leaf, "norm").pvalue > 1e-4
        assert leaf.std() == pytest.approx(1, abs=4 / np.sqrt(2 * leaf.size))


def test_steps_and_leaves_are_independent() -> None:
    # Catches: one key used for all steps, or for all leaves.
    first, second = draw(0), draw(1)
    pairs = [
        (first["a"], second["a"]),
        (first["b"], second["b"]),
        (first["a"], first["b"]),
        (second["a"], first["b"]),
    ]
    for left, right in pairs:
        assert abs(np.corrcoef(left, right)[0, 1]) < 5 / np.sqrt(left.size)


def test_is_a_pure_function_of_key_and_step() -> None:
    assert np.array_equal(draw(5)["a"], draw(5)["a"])


@pytest.mark.parametrize("bit", [0, 31, 32, 63])
def test_every_key_bit_counts(bit: int) -> None:
    # Catches: a 64-bit key that is squeezed through a 32-bit seed.
    assert not np.array_equal(draw(0, key=7)["a"], draw(0, key=7 ^ (1 << bit))["a"])


def test_noise_is_float32_whatever_the_gradient() -> None:
    noise = gaussian_noise(noise_key(1), jnp.int32(0), {"x": jnp.zeros(3, jnp.bfloat16)})
    assert noise["x"].dtype == jnp.float32
    assert jax.tree.structure(noise) == jax.tree.structure({"x": 0})
