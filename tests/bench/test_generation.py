"""A real measurement of a minuscule shape."""

import random

import pytest

from dpscale.bench import generation
from dpscale.bench.generation import measure_generation
from dpscale.bench.shapes import Shape
from dpscale.bench.timing import Stopwatch
from dpscale.errors import InputError
from dpscale.inference.generation import Growth


class Going:
    is_set = False


def measured(minuscule: Shape, **options: int):
    clock = iter(range(10_000))
    stopwatch = Stopwatch(random.Random(0), Going(), clock=lambda: float(next(clock)))
    settings = {"batch_size": 2, "prompt_tokens": 5, "rounds": 4, "seed": 0, **options}
    return measure_generation(minuscule.model, stopwatch, **settings)


def test_each_way_is_timed_in_every_round(minuscule: Shape) -> None:
    """Catches rounds that are dropped, and a ratio of one way with itself upside down."""
    report = measured(minuscule)
    assert report is not None
    assert (report.rounds, report.batch_size, report.prompt_tokens) == (4, 2, 5)
    # The clock ticks once at each reading, so that every call takes one second.
    assert (report.cached_seconds, report.full_seconds, report.speedup.median) == (1.0, 1.0, 1.0)
    assert report.to_dict()["num_params"] > 0


def test_different_tokens_are_no_measurement(
    minuscule: Shape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a fast way that computes something else."""
    right = Growth.grow
    monkeypatch.setattr(Growth, "grow", lambda self: right(self) + 1)
    with pytest.raises(RuntimeError, match="same tokens"):
        measured(minuscule)


def test_more_rounds_than_the_text_has_room_for_are_refused(minuscule: Shape) -> None:
    """Catches writing beyond the cache."""
    with pytest.raises(InputError, match=r"rounds.*at most 254"):
        measured(minuscule, rounds=generation.NEW_TOKENS - 1)
