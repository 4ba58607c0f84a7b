"""Synthetic sweeps for the tests of laws."""

from collections.abc import Callable

import pytest

from dpscale.scaling.synthetic import SyntheticSweep


@pytest.fixture(scope="session")
def sweep() -> Callable[..., SyntheticSweep]:
    """Makes synthetic sweeps: `sweep(form="form-3", noise=0.01).rows()`."""
    return SyntheticSweep
