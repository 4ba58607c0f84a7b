"""Clipped sums, compiled once a case, and the slow loop over single examples beside them."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpscale.privacy.clipping import ClippedSum, ClipRule
from dpscale.privacy.microbatches import microbatched
from dpscale.privacy.strategies import Strategy, TappedLoss


class Clipped(Protocol):
    """Compiles once for each strategy, loss, microbatch size and number of lanes."""

    def __call__(
        self,
        strategy: Strategy,
        loss: TappedLoss,
        params: Any,
        units: Any,
        is_padding: Any,
        rule: ClipRule,
        *,
        microbatch_size: int,
        lanes: int = 1,
    ) -> ClippedSum: ...


@pytest.fixture(scope="session")
def clipped() -> Clipped:
    """The clipped sum of a logical batch, as a step has it."""

    @partial(jax.jit, static_argnames=("strategy", "loss", "microbatch_size", "lanes"))
    def compiled(
        strategy: Strategy,
        loss: TappedLoss,
        params: Any,
        units: jax.Array,
        is_padding: jax.Array,
        rule: ClipRule,
        *,
        microbatch_size: int,
        lanes: int = 1,
    ) -> ClippedSum:
        return microbatched(
            lambda units, is_counted: strategy.unfinished(loss, params, units, is_counted, rule),
            units,
            is_padding,
            microbatch_size=microbatch_size,
            lanes=lanes,
        )

    return compiled


Looped = Callable[[TappedLoss, Any, Any, Any, ClipRule], ClippedSum]


@pytest.fixture(scope="session")
def looped() -> Looped:
    """The same by plain gradients of one example at a time, added up in float64."""

    @partial(jax.jit, static_argnums=0)
    def of_one(loss: TappedLoss, params: Any, unit: jax.Array) -> Any:
        return jax.value_and_grad(lambda params: loss.per_example(params, unit[None], None)[0])(
            params
        )

    def loop(
        loss: TappedLoss, params: Any, units: Any, is_padding: Any, rule: ClipRule
    ) -> ClippedSum:
        total = jax.tree.map(lambda leaf: np.zeros(leaf.shape), params)
        norms, losses = np.zeros(len(units)), np.zeros(len(units))
        for row in np.flatnonzero(~np.asarray(is_padding)):
            losses[row], grad = of_one(loss, params, jnp.asarray(units[row]))
            grad = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), grad)
            norms[row] = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(grad)))
            if np.isfinite(norms[row]):
                factor = min(1.0, rule.l2_clip_norm / max(norms[row], 1e-30))
                factor /= rule.l2_clip_norm if rule.rescale_to_unit_norm else 1.0
                total = jax.tree.map(lambda t, g, f=factor: t + f * g, total, grad)
        return ClippedSum(total, norms, losses)

    return loop


@pytest.fixture(scope="session")
def assert_same() -> Callable[[ClippedSum, ClippedSum, float], None]:
    """Totals within a relative L2 error, norms and losses within the same of each example."""

    def check(actual: ClippedSum, expected: ClippedSum, tolerance: float) -> None:
        def length(tree: Any) -> float:
            return float(np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree))))

        errors = jax.tree.map(
            lambda a, e: np.asarray(a, np.float64) - e, actual.total, expected.total
        )
        assert length(errors) <= tolerance * length(expected.total)
        for error, leaf in zip(
            jax.tree.leaves(errors), jax.tree.leaves(expected.total), strict=True
        ):
            # Small ones are right too, unless nothing but round-off is left of them.
            allowed = 50 * length(leaf) + 0.05 * length(expected.total)
            assert length(error) <= tolerance * allowed
        np.testing.assert_allclose(actual.norms, expected.norms, rtol=tolerance)
        np.testing.assert_allclose(actual.losses, expected.losses, rtol=tolerance)

    return check
