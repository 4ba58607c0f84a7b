"""The factor that each example's gradient is multiplied by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpscale.ops.taps import Squares
from dpscale.privacy.clipping import NORM_MARGIN, ClipRule

factors_of = jax.jit(lambda rule, squares, is_counted: rule.factors(squares, is_counted))


def factors(
    norms: list[float],
    rounding: list[float] | None = None,
    error: list[float] | None = None,
    *,
    clip_norm: float = 1.0,
    rescale: bool = False,
    is_counted: list[bool] | None = None,
) -> np.ndarray:
    """From norms, which are squared in float32 as the strategies have them."""
    squares = Squares(
        jnp.square(jnp.asarray(norms, jnp.float32)),
        jnp.square(jnp.asarray(rounding or [0.0] * len(norms), jnp.float32)),
        jnp.asarray(error or [0.0] * len(norms), jnp.float32),
    )
    counted = jnp.asarray(is_counted or [True] * len(norms))
    rule = ClipRule(jnp.float32(clip_norm), rescale)
    return np.asarray(factors_of(rule, squares, counted), np.float64)


def test_a_long_gradient_is_cut_and_a_short_one_left() -> None:
    # Catches: normalising short gradients, a threshold that is not the clip norm.
    np.testing.assert_allclose(factors([0.5, 2.0, 4.0], clip_norm=2.0), [1, 1, 0.5], rtol=1e-6)


def test_rescaling_divides_by_the_clip_norm() -> None:
    # Catches: dividing by the norm, or only where something was cut.
    actual = factors([0.5, 2.0, 4.0], clip_norm=2.0, rescale=True)
    np.testing.assert_allclose(actual, [0.5, 0.5, 0.25], rtol=1e-6)


def test_what_does_not_count_or_is_not_finite_gets_zero() -> None:
    # Catches: 0 · NaN, a NaN that counts as short, a square that overflows, one below zero.
    norms = [1.0, 1.0, np.nan, np.inf, 1e30]
    actual = factors(norms, is_counted=[True, False, True, True, True])
    np.testing.assert_array_equal(actual, [1, 0, 0, 0, 0])
    np.testing.assert_array_equal(factors([1.0, 1.0], [np.nan, np.inf]), [0, 0])
    np.testing.assert_array_equal(factors([1.0, 1.0], error=[np.nan, np.inf]), [0, 0])
    negative = Squares.exact(jnp.asarray([-1.0]))
    assert float(ClipRule(1.0, True).factors(negative, jnp.ones(1, bool))[0]) == 0


@pytest.mark.parametrize("rescale", [False, True])
def test_a_zero_gradient_is_harmless(rescale: bool) -> None:
    # Catches: 0 / 0.
    expected = 0.25 if rescale else 1.0
    np.testing.assert_allclose(factors([0.0], clip_norm=4.0, rescale=rescale), expected)


def test_rounding_is_allowed_for() -> None:
    # Catches: a bound on rounding that is left out, or added to the square.
    np.testing.assert_allclose(factors([3.0, 0.5], [1.0, 0.25]), [0.25, 1.0], rtol=1e-6)


def test_what_cancelled_is_allowed_for() -> None:
    # Catches: an error of the square that is left out, or allowed for twice with the margin.
    np.testing.assert_array_equal(factors([4.0], error=[0.9e-4 * 16]), factors([4.0]))
    allowed = (1 + NORM_MARGIN / 2) / 5.0
    np.testing.assert_allclose(factors([4.0], error=[9.0]), [allowed], rtol=1e-6)
    np.testing.assert_allclose(factors([0.0], error=[25.0]), [allowed], rtol=1e-6)


def test_a_square_below_zero_is_a_norm_of_zero() -> None:
    # Catches: NaN for an example whose gradient cancels, which would then count as not finite.
    squares = Squares(jnp.asarray([-1e-9, 4.0, jnp.nan]), jnp.zeros(3), jnp.ones(3))
    np.testing.assert_array_equal(squares.norms_B, [0, 2, np.nan])
    counted = ClipRule(jnp.float32(0.5), False).factors(squares, jnp.ones(3, bool))
    np.testing.assert_allclose(counted, [0.5, 0.5 / 5**0.5, 0], rtol=1e-4)


@settings(max_examples=300, deadline=None)
@given(
    norm=st.floats(1e-12, 1e18),
    share=st.sampled_from([0.0, 1e-4, 0.1, 1.0]),
    clip_norm=st.floats(1e-6, 1e6),
    rescale=st.booleans(),
)
def test_a_contribution_is_within_the_clip_norm(
    norm: float, share: float, clip_norm: float, rescale: bool
) -> None:
    # Catches: round-off that the margin does not cover, at any scale.
    rounding = share * norm
    factor = factors([norm], [rounding], clip_norm=clip_norm, rescale=rescale)[0]
    limit = 1.0 if rescale else clip_norm
    added = factor * (norm + rounding)
    assert added <= limit * (1 + NORM_MARGIN)
    if norm + rounding >= clip_norm:
        assert added >= limit * (1 - NORM_MARGIN)
    else:
        unclipped = (norm + rounding) * limit / clip_norm
        assert added == pytest.approx(unclipped, rel=1e-6)
