"""Clipped sums against a Python loop over single examples, and what must contribute nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpscale.privacy.clipping import NORM_MARGIN, ClippedSum, clipped_grad_sum, microbatched

PARAMS = {
    "table": jnp.asarray(np.random.default_rng(0).normal(size=(11, 6)), jnp.float32),
    "kernel": jnp.asarray(np.random.default_rng(1).normal(size=(6, 11)), jnp.float32),
}


def loss_fn(params: dict[str, jax.Array], tokens: jax.Array) -> jax.Array:
    """A tiny next-token model; the token 10 makes its loss and gradient NaN."""
    hidden = jnp.tanh(params["table"][tokens[:-1]])
    log_probs = jax.nn.log_softmax(hidden @ params["kernel"])
    loss = -jnp.mean(jnp.take_along_axis(log_probs, tokens[1:, None], axis=1))
    return loss * jnp.where(jnp.any(tokens == 10), jnp.nan, 1.0)


def batch(num_examples: int, seed: int = 2) -> jax.Array:
    tokens = np.random.default_rng(seed).integers(0, 10, (num_examples, 5))
    return jnp.asarray(tokens, jnp.int32)


def loop_reference(tokens: jax.Array, is_padding: np.ndarray, clip_norm: float) -> tuple:
    """Float64 sum over single examples, their norms and losses."""
    total = {name: np.zeros(leaf.shape) for name, leaf in PARAMS.items()}
    norms, losses = np.zeros(len(tokens)), np.zeros(len(tokens))
    for row, unit in enumerate(tokens):
        if is_padding[row]:
            continue
        loss, grad = jax.value_and_grad(loss_fn)(PARAMS, unit)
        flat = np.concatenate([np.asarray(g, np.float64).ravel() for g in grad.values()])
        norms[row], losses[row] = np.linalg.norm(flat), loss
        if np.isfinite(norms[row]):
            for name, g in grad.items():
                total[name] += np.asarray(g, np.float64) * min(1.0, clip_norm / norms[row])
    return total, norms, losses


def assert_close(clipped: ClippedSum, reference: tuple) -> None:
    total, norms, losses = reference
    for name, leaf in total.items():
        np.testing.assert_allclose(clipped.total[name], leaf, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(clipped.norms, norms, rtol=2e-6)
    np.testing.assert_allclose(clipped.losses, losses, rtol=2e-6)


@pytest.mark.parametrize("clip_norm", [0.1, 0.4, 100.0])
def test_equals_a_loop_over_examples(clip_norm: float) -> None:
    # Catches: clipping the mean, clipping leaf by leaf, a leaf that the norm forgets.
    tokens, is_padding = batch(7), np.array([False] * 6 + [True])
    clipped = clipped_grad_sum(
        loss_fn,
        PARAMS,
        tokens,
        jnp.asarray(is_padding),
        l2_clip_norm=clip_norm,
        rescale_to_unit_norm=False,
    )
    assert_close(clipped, loop_reference(tokens, is_padding, clip_norm))


def test_rescaling_divides_by_the_clip_norm() -> None:
    tokens, nobody = batch(5), jnp.zeros(5, bool)
    plain, rescaled = (
        clipped_grad_sum(
            loss_fn, PARAMS, tokens, nobody, l2_clip_norm=0.25, rescale_to_unit_norm=rescale
        )
        for rescale in (False, True)
    )
    for name in PARAMS:
        np.testing.assert_allclose(rescaled.total[name], plain.total[name] / 0.25, rtol=1e-5)


def test_padding_and_non_finite_examples_contribute_exactly_zero() -> None:
    # Catches: a mask that multiplies (0 · NaN), or is skipped.
    tokens = batch(6)
    poisoned = tokens.at[1].set(10).at[4].set(10)  # row 1: a real example; row 4: padding
    is_padding = jnp.asarray([False, False, False, True, True, False])
    keep = np.array([0, 2, 5])

    def clip(tokens: jax.Array, is_padding: jax.Array) -> ClippedSum:
        return clipped_grad_sum(
            loss_fn, PARAMS, tokens, is_padding, l2_clip_norm=0.3, rescale_to_unit_norm=False
        )

    with_bad = clip(poisoned, is_padding)
    other = clip(poisoned.at[3].set(7).at[4].set(0), is_padding)
    for name in PARAMS:
        assert np.array_equal(with_bad.total[name], other.total[name])
    reference = loop_reference(tokens[keep], np.zeros(3, bool), 0.3)[0]
    for name in PARAMS:
        np.testing.assert_allclose(with_bad.total[name], reference[name], rtol=2e-5, atol=2e-6)
    assert np.isnan(with_bad.norms[1])
    assert with_bad.norms[3] == with_bad.norms[4] == with_bad.losses[4] == 0


@pytest.mark.parametrize("size", [1, 5, 1000, 300_000])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_a_contribution_stays_within_the_margin(size: int, scale: float) -> None:
    # What is really added, measured in float64; the margin is in the sensitivity.
    grads = np.random.default_rng(size).standard_cauchy((8, size)) * scale
    rows = jnp.asarray(grads, jnp.float32)

    def linear(params: jax.Array, index: jax.Array) -> jax.Array:
        return jnp.sum(params * rows[index[0]])

    for index in range(8):
        clipped = clipped_grad_sum(
            linear,
            jnp.zeros(size),
            jnp.asarray([[index]]),
            jnp.zeros(1, bool),
            l2_clip_norm=1.0,
            rescale_to_unit_norm=True,
        )
        added = np.linalg.norm(np.asarray(clipped.total, np.float64))
        assert added <= 1 + NORM_MARGIN


@pytest.mark.parametrize("microbatch_size", [1, 2, 4, 12])
@pytest.mark.parametrize("num_examples", [0, 1, 5, 12])
def test_microbatches_do_not_change_the_result(microbatch_size: int, num_examples: int) -> None:
    # Catches: a last microbatch that is dropped, or counted twice.
    tokens = batch(12)
    is_padding = np.arange(12) >= num_examples

    def strategy(tokens: jax.Array, is_padding: jax.Array) -> ClippedSum:
        return clipped_grad_sum(
            loss_fn, PARAMS, tokens, is_padding, l2_clip_norm=0.3, rescale_to_unit_norm=False
        )

    clipped = microbatched(
        strategy, PARAMS, tokens, jnp.asarray(is_padding), microbatch_size=microbatch_size
    )
    assert_close(clipped, loop_reference(tokens, is_padding, 0.3))


def test_padding_anywhere_is_handled() -> None:
    # Catches: a loop that counts examples and takes it for granted that they come first.
    tokens = batch(8)
    is_padding = np.array([True, True, False, True, True, True, False, True])

    def strategy(tokens: jax.Array, is_padding: jax.Array) -> ClippedSum:
        return clipped_grad_sum(
            loss_fn, PARAMS, tokens, is_padding, l2_clip_norm=0.3, rescale_to_unit_norm=False
        )

    clipped = microbatched(strategy, PARAMS, tokens, jnp.asarray(is_padding), microbatch_size=2)
    assert_close(clipped, loop_reference(tokens, is_padding, 0.3))


def test_microbatches_of_padding_are_skipped_in_one_compilation() -> None:
    # Counted at run time: a callback in the strategy is called once a microbatch in use.
    calls: list[int] = []

    def strategy(tokens: jax.Array, is_padding: jax.Array) -> ClippedSum:
        jax.debug.callback(lambda: calls.append(1))
        return clipped_grad_sum(
            loss_fn, PARAMS, tokens, is_padding, l2_clip_norm=0.3, rescale_to_unit_norm=False
        )

    @jax.jit
    def clip(tokens: jax.Array, is_padding: jax.Array) -> ClippedSum:
        return microbatched(strategy, PARAMS, tokens, is_padding, microbatch_size=2)

    for num_examples, expected in ((0, 0), (1, 1), (4, 2), (5, 3), (8, 4)):
        calls.clear()
        jax.block_until_ready(clip(batch(8), jnp.arange(8) >= num_examples))
        jax.effects_barrier()
        assert len(calls) == expected
    assert clip._cache_size() == 1  # type: ignore[attr-defined]


def test_slots_must_be_whole_microbatches() -> None:
    with pytest.raises(ValueError, match="multiple"):
        microbatched(
            lambda tokens, is_padding: None,  # type: ignore[arg-type, return-value]
            PARAMS,
            batch(5),
            jnp.zeros(5, bool),
            microbatch_size=2,
        )
