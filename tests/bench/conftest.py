"""A shape small enough to compile in a second, and a stopwatch nobody stops."""

from random import Random

import pytest

from dpscale.bench.checking import CheckedPrograms, Reference
from dpscale.bench.programs import Workbench
from dpscale.bench.shapes import Shape
from dpscale.bench.timing import Stopwatch
from dpscale.config import ModelConfig
from dpscale.training.interruption import StopRequest


@pytest.fixture(scope="session")
def minuscule() -> Shape:
    model = ModelConfig(
        vocab_size=32,
        seq_len=6,
        num_layers=1,
        width=16,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        feed_forward_width=32,
    )
    return Shape("minuscule", model, batch_size=5)


@pytest.fixture(scope="session")
def workbench(minuscule: Shape) -> Workbench:
    return Workbench.of(minuscule, seed=0)


@pytest.fixture
def stopwatch() -> Stopwatch:
    return Stopwatch(Random(0), StopRequest())


@pytest.fixture(scope="session")
def reference(workbench: Workbench) -> Reference:
    return Reference.of(workbench)


@pytest.fixture
def checked(workbench: Workbench, reference: Reference) -> CheckedPrograms:
    return CheckedPrograms(workbench, reference)
