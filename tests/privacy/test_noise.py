"""The noise: normal, independent between steps and leaves, keyed by all 64 bits."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dpscale.privacy.noise import LARGEST_NOISE, gaussian_noise, noise_key, standard_normal
from dpscale.privacy.threefry import random_words

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


def normal_of(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """`standard_normal` in float64, with the cosine itself."""
    uniform = first * 2.0**-32 + (second // 2**24 + 0.5) * 2.0**-40
    turn = (second % 2**24 + 0.5) * 2.0**-24  # of half a circle
    return np.sqrt(-2 * np.log(uniform)) * -np.cos(np.pi * turn)


def words(generator: np.random.Generator, count: int, first_below: int = 2**32) -> np.ndarray:
    return generator.integers(0, [[first_below], [2**32]], (2, count), np.uint64)


def normals(pairs: np.ndarray) -> np.ndarray:
    first, second = jnp.asarray(pairs.astype(np.uint32))
    return np.asarray(jax.jit(standard_normal)((first, second)), np.float64)


def test_normals_are_box_and_mullers() -> None:
    ends = np.array([0, 1, 2**23, 2**24 - 1, 2**24, 2**31, 2**32 - 1], np.uint64)
    pairs = np.concatenate(
        [
            words(np.random.default_rng(0), 100_000),
            np.stack(np.meshgrid(ends, ends)).reshape(2, -1),
        ],
        axis=1,
    )
    # Where the uniform is next to 1, the radius next to 0 is as coarse as float32's uniform.
    np.testing.assert_allclose(normals(pairs), normal_of(*pairs), rtol=2e-6, atol=4e-4)
    usual = pairs[:, pairs[0] < 0.99 * 2**32]
    np.testing.assert_allclose(normals(usual), normal_of(*usual), rtol=1e-5, atol=3e-7)


@pytest.mark.parametrize(("value", "first_below"), [(5.5, 2**11), (6.0, 2**8), (7.0, 1)])
def test_the_tail_is_a_normals(value: float, first_below: int) -> None:
    # Catches: a tail that ends where 23 or 32 random bits end. Only small first words reach
    # that far, so that only those are drawn.
    assert np.exp(-(value**2) / 2) < first_below / 2**32
    found = normals(words(np.random.default_rng(1), 1_000_000, first_below))
    for side in (found, -found):
        share = stats.norm.sf(value) * 2**32 / first_below
        assert np.mean(side > value) == pytest.approx(share, rel=5 / np.sqrt(share * found.size))


def test_the_largest_noise_is_reached_and_finite() -> None:
    ends = normals(np.array([[0, 0, 2**32 - 1], [2**24 - 1, 0, 2**32 - 1]], np.uint64))
    assert ends[:2] == pytest.approx([LARGEST_NOISE, -LARGEST_NOISE], rel=1e-6)
    assert abs(ends[2]) < 1e-3


def test_there_is_no_hole_at_zero() -> None:
    # Catches: an angle of so few bits that the numbers next to zero are left out.
    found = normals(words(np.random.default_rng(2), 4_000_000))
    for width in (1e-5, 1e-4):
        expected = found.size * 2 * width * stats.norm.pdf(0)
        assert np.sum(np.abs(found) < width) == pytest.approx(expected, abs=5 * np.sqrt(expected))


def test_the_words_are_those_of_the_leafs_own_key() -> None:
    # Catches: one leaf's key for another, or a key that is derived differently.
    keys = jax.random.split(jax.random.fold_in(noise_key(7), 3), 2)
    second = random_words(jax.random.key_data(keys)[1], LIKE["b"].shape)
    assert np.array_equal(gaussian_noise(noise_key(7), 3, LIKE)["b"], standard_normal(second))


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from dpscale.privacy.noise import gaussian_noise, noise_key
mesh = jax.make_mesh((2, 4), ("fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
like = {"a": jnp.zeros((6, 16, 8)), "b": jnp.zeros((64,)), "c": jnp.zeros((24, 5))}
specs = {"a": P(None, "fsdp", "tensor"), "b": P(("tensor", "fsdp")), "c": P("tensor")}
shardings = {name: NamedSharding(mesh, spec) for name, spec in specs.items()}
draw = jax.jit(gaussian_noise, out_shardings=shardings)
arguments = noise_key(7), jnp.int32(3), like
sharded, whole = draw(*arguments), jax.jit(gaussian_noise)(*arguments)
for name, leaf in sharded.items():
    assert leaf.sharding.is_equivalent_to(shardings[name], leaf.ndim), name
    assert np.asarray(leaf).tobytes() == np.asarray(whole[name]).tobytes(), name
program = draw.lower(*arguments).compile().as_text()
assert "all-gather" not in program and "collective" not in program
print("equal on", jax.device_count())
"""


def test_is_the_same_under_any_sharding_and_needs_no_communication() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHARDED],
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "equal on 8\n", done.stderr
