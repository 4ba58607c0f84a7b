"""Synthetic sweeps for the tests of laws, and an accountant in closed form."""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from dpscale.scaling.advice.budget import Accounting, Budget, Noise
from dpscale.scaling.law.law import ScalingLaw
from dpscale.scaling.law.published import find_law
from dpscale.scaling.synthetic import SyntheticSweep


@pytest.fixture(scope="session")
def sweep() -> Callable[..., SyntheticSweep]:
    """Makes synthetic sweeps: `sweep(form="form-3", noise=0.01).rows()`."""
    return SyntheticSweep


@dataclass(frozen=True)
class ClosedFormAccounting:
    """Noise that rises with q and T and falls with epsilon, as true noise does."""

    budget: Budget

    def approximate(self, sampling_prob: np.ndarray, iterations: np.ndarray) -> np.ndarray:
        return 0.35 + 6 * sampling_prob * np.sqrt(iterations) / self.budget.epsilon

    def exact(self, expected_batch_size: int, iterations: int) -> float:
        prob = expected_batch_size / self.budget.dataset_size
        return float(self.approximate(np.array(prob), np.array(iterations)))

    def with_cap(self, expected_batch_size: int, iterations: int, microbatch_size: int) -> Noise:
        return Noise(self.exact(expected_batch_size, iterations), 2 * expected_batch_size)


@pytest.fixture(scope="session")
def closed_form() -> Callable[[Budget], Accounting]:
    """The accounting of a budget, in microseconds."""
    return ClosedFormAccounting


@pytest.fixture(scope="session")
def published() -> ScalingLaw:
    """The law that ships."""
    return find_law("published")


@pytest.fixture(scope="session")
def analysis_script() -> Callable[[str], ModuleType]:
    """Imports a script of `analysis/` by its name."""

    def load(name: str) -> ModuleType:
        path = Path(__file__).resolve().parents[2] / "analysis" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # where its dataclasses look themselves up
        spec.loader.exec_module(module)
        return module

    return load
