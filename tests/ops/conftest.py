"""What the tests of several ops need: records as a backward pass leaves them."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from dpscale.ops.taps import filled_records

Backward = Callable[[Callable[[Any], jax.Array], Any, Any], Any]


@pytest.fixture(scope="session")
def left_behind() -> Backward:
    """The filled record of an op: (tap -> output), the empty record, the output's cotangent."""

    def run(op: Callable[[Any], jax.Array], empty: Any, cotangent: Any) -> Any:
        _, pull_back = jax.vjp(op, empty)
        return filled_records(empty, pull_back(cotangent)[0])

    return run


@pytest.fixture(scope="session")
def assert_gradients() -> Callable[..., None]:
    """Compares what a record knows with each example's gradient, given in float64."""

    def check(record: Any, gradients: Any, factors: Any, rtol: float) -> None:
        gradients = np.asarray(gradients, np.float64)
        norms = np.square(gradients).sum(axis=tuple(range(1, gradients.ndim)))
        np.testing.assert_allclose(record.squares().norm_B, norms, rtol=rtol)
        if hasattr(record, "weighted_sum"):
            total = np.tensordot(factors, gradients, 1)
            added = record.weighted_sum(factors).finished()
            error = np.linalg.norm(np.asarray(added, np.float64) - total)
            assert error <= rtol * np.linalg.norm(total)

    return check
