"""The progress line's epsilon is quick, and never below what the steps have spent."""

import dataclasses

import pytest

from dpscale.privacy.accounting.certified.errors import NoCertifiedInterval
from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian
from dpscale.privacy.mechanism import PrivateMechanism
from dpscale.training.spending import SpentEpsilon

DELTA = 1e-6
MECHANISM = PrivateMechanism(
    accounted=SubsampledGaussian(
        dataset_size=62_000,
        expected_batch_size=256,
        iterations=1000,
        noise_multiplier=0.7,
        truncated_batch_size=400,
    ),
    l2_clip_norm=1.0,
    rescale_to_unit_norm=True,
)


def test_never_below_and_close() -> None:
    spent = SpentEpsilon(MECHANISM, delta=DELTA)
    for taken in (1, 7, 150, 993):
        exact = MECHANISM.epsilon(delta=DELTA, iterations=taken)
        assert exact <= spent(taken) <= 1.1 * exact
    assert spent(0) == 0.0
    assert spent(1000) == MECHANISM.epsilon(delta=DELTA)


def test_many_lines_need_few_accountings(monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: an accounting at every log line.
    asked: list[int] = []

    def counted(_: PrivateMechanism, *, delta: float, iterations: int | None = None) -> float:
        asked.append(iterations or 1000)
        return float(asked[-1])

    monkeypatch.setattr(PrivateMechanism, "epsilon", counted)
    spent = SpentEpsilon(MECHANISM, delta=DELTA)
    values = [spent(taken) for taken in range(1, 1001)]
    assert len(asked) < 70
    assert values == sorted(values)
    assert all(value >= taken for taken, value in enumerate(values, start=1))


def test_a_failure_falls_back_to_more_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: a progress line that ends a run.
    def patchy(_: PrivateMechanism, *, delta: float, iterations: int | None = None) -> float:
        if iterations is not None and iterations < 1000:
            raise NoCertifiedInterval("none")
        return 5.0

    monkeypatch.setattr(PrivateMechanism, "epsilon", patchy)
    assert SpentEpsilon(MECHANISM, delta=DELTA)(3) == 5.0


def test_more_steps_than_planned_are_a_mistake() -> None:
    short = dataclasses.replace(
        MECHANISM, accounted=dataclasses.replace(MECHANISM.accounted, iterations=2)
    )
    with pytest.raises(ValueError, match="iterations=3"):
        SpentEpsilon(short, delta=DELTA)(3)
