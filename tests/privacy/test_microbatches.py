"""A batch in microbatches against a loop over single examples, and what must not enter."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpscale.privacy.clipping import NORM_MARGIN, ClippedSum, ClipRule
from dpscale.privacy.microbatches import microbatched
from dpscale.privacy.strategies import Strategy, TappedLoss

PARAMS = {
    "table": jnp.asarray(np.random.default_rng(0).normal(size=(13, 6)), jnp.float32),
    "kernel": jnp.asarray(np.random.default_rng(1).normal(size=(6, 13)), jnp.float32),
}
RULE = ClipRule(0.3, False)
VMAP = Strategy("vmap")
NAN, STEEP, LOST = 10, 11, 12
"""Tokens that make loss and gradient NaN, the gradient infinite, and the loss alone NaN."""


def loss_of_one(params: dict[str, jax.Array], unit: jax.Array) -> jax.Array:
    """A tiny next-token model."""
    hidden = jnp.tanh(params["table"][unit[:-1]])
    log_probs = jax.nn.log_softmax(hidden @ params["kernel"])
    loss = -jnp.mean(jnp.take_along_axis(log_probs, unit[1:, None], axis=1))
    loss *= jnp.where(jnp.any(unit == NAN), jnp.nan, 1.0)
    loss += jnp.where(jnp.any(unit == LOST), jnp.nan, 0.0)
    zero = params["kernel"][0, 0] - jax.lax.stop_gradient(params["kernel"][0, 0])
    return loss + jnp.sqrt(jnp.where(jnp.any(unit == STEEP), zero, 1.0))


LOSS = TappedLoss(
    per_example=lambda params, units, taps: jax.vmap(loss_of_one, (None, 0))(params, units),
    empty_records=lambda params, units: None,
)


def batch(num_examples: int, seed: int = 2) -> jax.Array:
    tokens = np.random.default_rng(seed).integers(0, 10, (num_examples, 5))
    return jnp.asarray(tokens, jnp.int32)


@pytest.mark.parametrize("clip_norm", [0.1, 0.4, 100.0])
@pytest.mark.parametrize("rescale", [False, True])
def test_equals_a_loop_over_examples(clip_norm, rescale, clipped, looped, assert_same) -> None:
    # Catches: clipping the mean, clipping leaf by leaf, a leaf that the norm forgets.
    units, is_padding = batch(7), jnp.arange(7) == 6
    rule = ClipRule(clip_norm, rescale)
    actual = clipped(VMAP, LOSS, PARAMS, units, is_padding, rule, microbatch_size=7)
    assert_same(actual, looped(LOSS, PARAMS, units, is_padding, rule), 2e-6)


@pytest.mark.parametrize(("microbatch_size", "lanes"), [(1, 1), (2, 1), (4, 1), (4, 2), (12, 3)])
def test_microbatches_do_not_change_the_result(
    microbatch_size, lanes, clipped, looped, assert_same
) -> None:
    # Catches: a last microbatch that is dropped, or counted twice, or padding that is counted; a
    # lane whose sum, norms or losses are left out, or stand in another's place.
    units = batch(12)
    sizes = {"microbatch_size": microbatch_size, "lanes": lanes}
    for num_examples in (0, 1, 5, 12):
        is_padding = jnp.arange(12) >= num_examples
        actual = clipped(VMAP, LOSS, PARAMS, units, is_padding, RULE, **sizes)
        assert_same(actual, looped(LOSS, PARAMS, units, is_padding, RULE), 2e-6)


@pytest.mark.parametrize(("microbatch_size", "lanes"), [(2, 1), (4, 1), (4, 2)])
def test_padding_anywhere_is_handled(microbatch_size, lanes, clipped, looped, assert_same) -> None:
    # Catches: a loop that counts examples and takes it for granted that they come first.
    units = batch(8)
    sizes = {"microbatch_size": microbatch_size, "lanes": lanes}
    for used in ({2, 6}, {7}, {0, 1, 5}, {3, 4}):
        is_padding = jnp.asarray([slot not in used for slot in range(8)])
        actual = clipped(VMAP, LOSS, PARAMS, units, is_padding, RULE, **sizes)
        assert_same(actual, looped(LOSS, PARAMS, units, is_padding, RULE), 2e-6)


def assert_adds_what(with_bad: ClippedSum, without: ClippedSum, others: np.ndarray) -> None:
    """Totals are equal bit by bit, and so is what is known of the others."""
    jax.tree.map(np.testing.assert_array_equal, with_bad.total, without.total)
    np.testing.assert_array_equal(with_bad.norms[others], without.norms[others])
    np.testing.assert_array_equal(with_bad.losses[others], without.losses[others])


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("bad", [NAN, STEEP, LOST], ids=["NaN", "steep", "lost"])
@pytest.mark.parametrize("rows", [(1,), (0, 1), (4, 5, 7), (0, 3, 4, 7)], ids=str)
def test_an_example_that_is_not_finite_contributes_exactly_zero(
    rows, bad, lanes, clipped, looped, assert_same
) -> None:
    # Catches: a mask that multiplies (0 · NaN), a whole microbatch that is dropped with one, a
    # lane that is added although the microbatch is run again for the sake of another.
    is_padding = jnp.arange(8) == 2
    is_bad = np.isin(np.arange(8), rows)
    units = batch(8).at[np.asarray(rows), 2].set(bad)

    def clip(units: jax.Array, is_padding: jax.Array) -> ClippedSum:
        sizes = {"microbatch_size": 4, "lanes": lanes}
        return clipped(VMAP, LOSS, PARAMS, units, is_padding, RULE, **sizes)

    actual = clip(units, is_padding)
    assert_adds_what(actual, clip(units, is_padding | is_bad), ~is_bad)
    assert_adds_what(actual, clip(batch(8), is_padding | is_bad), ~is_bad)
    others = looped(LOSS, PARAMS, batch(8), is_padding | is_bad, RULE)
    for leaf, expected in zip(actual.total.values(), others.total.values(), strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=2e-5, atol=2e-6)
    measured = actual.losses if bad == LOST else actual.norms
    np.testing.assert_array_equal(np.isfinite(measured), ~is_bad)


def test_padding_may_hold_anything(clipped) -> None:
    # Catches: padding that is computed with, and spoils what it is added to.
    units, is_padding = batch(8), jnp.asarray([True, False] * 4)

    def clip(units: jax.Array) -> ClippedSum:
        return clipped(VMAP, LOSS, PARAMS, units, is_padding, RULE, microbatch_size=4)

    spoiled = clip(units.at[0].set(NAN).at[2].set(STEEP).at[4].set(LOST))
    assert_adds_what(spoiled, clip(units), np.arange(8) >= 0)
    assert np.all(spoiled.norms[::2] == 0)
    assert np.all(spoiled.losses[::2] == 0)


def test_a_batch_of_bad_examples_adds_nothing(clipped) -> None:
    # Catches: a loop that never ends, and a total of NaN.
    units, nobody = jnp.full((8, 5), NAN, jnp.int32), jnp.zeros(8, bool)
    nothing = clipped(VMAP, LOSS, PARAMS, units, nobody, RULE, microbatch_size=4)
    for leaf in nothing.total.values():
        np.testing.assert_array_equal(leaf, 0)
    assert np.isnan(nothing.norms).all()


@pytest.mark.parametrize("size", [1, 5, 1000, 300_000])
def test_a_contribution_stays_within_the_margin(size: int) -> None:
    # What is really added, measured in float64; the margin is in the sensitivity.
    rows = jnp.asarray(np.random.default_rng(size).standard_cauchy((8, size)), jnp.float32)
    linear = TappedLoss(
        per_example=lambda params, units, taps: (
            (rows[units[:, 0]] @ params["kernel"]) * units[:, 1]
        ),
        empty_records=lambda params, units: None,
    )

    @jax.jit
    def clip(scale: jax.Array, unit: jax.Array) -> ClippedSum:
        scaled = TappedLoss(lambda p, u, t: scale * linear.per_example(p, u, t), lambda p, u: None)
        return VMAP(
            scaled, {"kernel": jnp.zeros(size)}, unit[None], jnp.ones(1, bool), ClipRule(1.0, True)
        )

    for scale in (1e-12, 1.0, 1e12):
        for index in range(8):
            total = clip(scale, jnp.asarray([index, 1])).total["kernel"]
            assert np.linalg.norm(np.asarray(total, np.float64)) <= 1 + NORM_MARGIN


def counting(calls: list[int]) -> Callable[[jax.Array, jax.Array], ClippedSum]:
    """A strategy that says at run time that it runs."""

    def strategy(units: jax.Array, is_counted: jax.Array) -> ClippedSum:
        jax.debug.callback(lambda: calls.append(1))
        return VMAP(LOSS, PARAMS, units, is_counted, RULE)

    return strategy


def test_microbatches_of_padding_are_skipped_in_one_compilation() -> None:
    # Catches: padding that costs time, bad examples that cost more than one run again.
    calls: list[int] = []

    @jax.jit
    def clip(units: jax.Array, is_padding: jax.Array) -> ClippedSum:
        return microbatched(counting(calls), units, is_padding, microbatch_size=2)

    def num_runs(units: jax.Array, num_examples: int) -> int:
        calls.clear()
        jax.block_until_ready(clip(units, jnp.arange(8) >= num_examples))
        jax.effects_barrier()
        return len(calls)

    for num_examples, expected in ((0, 0), (1, 1), (4, 2), (5, 3), (8, 4)):
        assert num_runs(batch(8), num_examples) == expected
    assert num_runs(batch(8).at[2].set(NAN), 8) == 5
    assert num_runs(jnp.full((8, 5), NAN, jnp.int32), 8) == 8
    assert clip._cache_size() == 1  # type: ignore[attr-defined]


def test_slots_must_be_whole_microbatches_and_these_whole_lanes() -> None:
    with pytest.raises(ValueError, match="multiple"):
        microbatched(counting([]), batch(5), jnp.zeros(5, bool), microbatch_size=2)
    with pytest.raises(ValueError, match="lanes, found 2"):
        microbatched(counting([]), batch(6), jnp.zeros(6, bool), microbatch_size=3, lanes=2)
