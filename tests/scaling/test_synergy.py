"""Falls of the noise-batch ratio against power laws, known limits, and symmetries."""

import csv
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from dpscale.errors import InputError
from dpscale.scaling import synergy
from dpscale.scaling.figures.synergy_figures import COLUMNS, write_field
from dpscale.scaling.synergy import BUDGETS, PAIRS, ExactNoise, Setting, doublings, field, reading

BASE = Setting(
    epsilon=2.0, delta=1e-8, dataset_size=1_000_000, expected_batch_size=1000, iterations=500
)


def power_law(setting: Setting) -> float:
    """Noise whose ratio falls by 0.8, 0.6 and 0.3 halvings, whatever else is doubled."""
    return (
        setting.epsilon**-0.8 * setting.expected_batch_size**0.4 * setting.dataset_size**-0.3
    ) * 1e3


POWERS = {"privacy": 0.8, "compute": 0.6, "data": 0.3}


def test_rows_are_every_choice_and_their_falls_add_up_for_a_power_law() -> None:
    # Catches a batch that is doubled in the noise but not in the ratio, or the other way round.
    rows = doublings(BASE, power_law)
    assert [len(row.budgets) for row in rows] == [0, 1, 1, 1, 2, 2, 2, 3]
    assert len({row.budgets for row in rows}) == 8
    for row in rows:
        expected = sum(POWERS[budget] for budget in row.budgets)
        assert row.log2_fall == pytest.approx(expected, abs=1e-9)
        assert row.relative_ratio == pytest.approx(2**-expected)
        assert row.noise_batch_ratio == pytest.approx(
            rows[0].noise_batch_ratio * row.relative_ratio
        )


def test_doubling_touches_the_named_budgets_only() -> None:
    assert BASE.doubled(*BUDGETS) == Setting(
        epsilon=4.0, delta=1e-8, dataset_size=2e6, expected_batch_size=2000, iterations=500
    )
    assert BASE.doubled("data") == dataclasses.replace(BASE, dataset_size=2_000_000)
    assert BASE.doubled("data", "data").halved("data", "data") == BASE


def test_large_noise_follows_the_central_limit() -> None:
    # Many small contributions: sigma = q √T / mu, so the ratio √T / (N mu) halves with the
    # data, ignores the batch, and follows the mu of a Gaussian mechanism in epsilon.
    base = Setting(
        epsilon=0.5, delta=1e-6, dataset_size=100_000, expected_batch_size=5000, iterations=20_000
    )
    rows = {row.budgets: row for row in doublings(base, ExactNoise())}

    def mu(epsilon: float) -> float:
        """Of the Gaussian mechanism with (epsilon, 1e-6): arXiv 1805.06530, theorem 8."""

        def excess(mu: float) -> float:
            second = math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)
            return float(norm.cdf(mu / 2 - epsilon / mu) - second - 1e-6)

        return float(brentq(excess, 1e-3, 10, xtol=1e-12))

    assert rows[()].noise_multiplier == pytest.approx(
        0.05 * math.sqrt(20_000) / mu(0.5), rel=5e-3
    )  # known answer
    assert rows["data",].relative_ratio == pytest.approx(0.5, rel=5e-3)
    assert rows["compute",].relative_ratio == pytest.approx(1.0, rel=5e-3)
    assert rows["privacy",].relative_ratio == pytest.approx(mu(0.5) / mu(1.0), rel=5e-3)
    assert 0.5 < rows["privacy",].relative_ratio < 0.55
    text = reading(list(rows.values()))
    assert "data gains most (x0.50) and compute least (x1.00)" in text
    assert "asks for x2.00 the noise" in text


def test_compute_and_data_in_tandem_keep_the_noise() -> None:
    # q stays, hence the mechanism: any difference would be the search's own.
    asked = []

    def noise_of(setting: Setting) -> float:
        asked.append(setting)
        return exact(setting)

    exact = ExactNoise()
    rows = {row.budgets: row for row in doublings(BASE, noise_of)}
    assert rows["compute", "data"].noise_multiplier == rows[()].noise_multiplier
    assert rows["compute", "data"].log2_fall == 1.0
    assert len(asked) == 8


def test_a_calibration_is_done_once_for_each_sampling_probability(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[dict[str, float]] = []

    def calibrate(**target: float) -> float:
        calls.append(target)
        if target["expected_batch_size"] > target["dataset_size"]:
            raise InputError("expected_batch_size", "too large.")
        return float(target["target_epsilon"])

    monkeypatch.setattr(
        "dpscale.privacy.accounting.calibration.calibrate_noise_multiplier", calibrate
    )
    noise = ExactNoise()
    doublings(BASE, noise)
    assert len(calls) == 6
    # Fractions of a unit, as in a field: the same q, in whole numbers.
    noise(dataclasses.replace(BASE, expected_batch_size=1.5, dataset_size=6.25))
    assert (calls[-1]["expected_batch_size"], calls[-1]["dataset_size"]) == (6, 25)
    for _ in range(2):  # failures are remembered too
        with pytest.raises(InputError, match="too large"):
            noise(dataclasses.replace(BASE, expected_batch_size=8, dataset_size=4))
    assert len(calls) == 8


def test_twice_the_batch_must_fit_into_the_data() -> None:
    doublings(dataclasses.replace(BASE, expected_batch_size=500_000), power_law)
    with pytest.raises(InputError, match=r"at most half of dataset_size=1000000.*found 500001"):
        doublings(dataclasses.replace(BASE, expected_batch_size=500_001), power_law)


def interacting(setting: Setting) -> float:
    """Noise whose ratio is 1 / (B + N): either alone helps little, both halve it."""
    return setting.expected_batch_size / (setting.expected_batch_size + setting.dataset_size)


@pytest.mark.parametrize(
    ("noise_of", "words"),
    [
        (power_law, "that is 1.70 halvings, as many as the three alone add up to."),
        (interacting, "that is 1.00 halvings, where the three alone add up to 1.00."),
    ],
)
def test_the_reading_compares_tandem_with_the_sum(
    noise_of: Callable[[Setting], float], words: str
) -> None:
    base = dataclasses.replace(BASE, expected_batch_size=300_000)
    rows = doublings(base, noise_of)
    if noise_of is interacting:
        apart = math.log2(1.6 / 1.3) + math.log2(2.3 / 1.3)
        words = words.replace("1.00.", f"{apart:.2f}.")
    assert reading(rows).endswith(words)


@pytest.mark.parametrize(("x", "y"), PAIRS)
def test_arrows_are_the_falls_of_their_own_axes(x: str, y: str) -> None:
    drawn = field(BASE, x, y, power_law)  # type: ignore[arg-type]
    assert len(drawn.arrows) == synergy.FIELD_WIDTH**2
    for arrow in drawn.arrows:
        assert arrow.x_fall == pytest.approx(POWERS[x])
        assert arrow.y_fall == pytest.approx(POWERS[y])
        assert arrow.both_fall == pytest.approx(POWERS[x] + POWERS[y])
    # x runs fastest, from an eighth of the base, which is a point of the grid itself.
    first, second = (arrow.setting for arrow in drawn.arrows[:2])
    assert first == BASE.halved(x, x, x, y, y, y)  # type: ignore[arg-type]
    assert second == first.doubled(x)  # type: ignore[arg-type]
    middle = synergy.HALVINGS_BELOW * (synergy.FIELD_WIDTH + 1)
    assert drawn.arrows[middle].setting == BASE


def test_points_without_a_run_say_why_and_have_no_numbers() -> None:
    base = dataclasses.replace(BASE, dataset_size=4000)
    arrows = field(base, "compute", "data", power_law).arrows
    for arrow in arrows:
        fits = 2 * arrow.setting.sampling_prob <= 1
        assert (arrow.missing == "") == fits
        assert math.isnan(arrow.x_fall) == (not fits)
    assert any(arrow.missing for arrow in arrows)
    small = field(dataclasses.replace(BASE, expected_batch_size=4), "compute", "data", power_law)
    assert small.arrows[0].missing == "the batch is below one unit"
    assert small.arrows[1].missing == ""

    def refuses(setting: Setting) -> float:
        raise InputError("epsilon", "no noise meets it.")

    assert (
        field(BASE, "privacy", "data", refuses).arrows[0].missing == "epsilon: no noise meets it."
    )


@pytest.mark.parametrize("noise_of", [power_law, interacting])
def test_a_field_is_written_with_its_holes(
    tmp_path: Path, noise_of: Callable[[Setting], float]
) -> None:
    base = dataclasses.replace(BASE, dataset_size=4000)
    drawn = field(base, "compute", "data", noise_of)
    picture, table = write_field(drawn, tmp_path / "new")
    assert (picture.name, table.name) == ("synergy_compute_data.png", "synergy_compute_data.csv")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 20_000
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == len(drawn.arrows)
    for row, arrow in zip(rows, drawn.arrows, strict=True):
        assert float(row["expected_batch_size"]) == arrow.setting.expected_batch_size
        if arrow.missing:
            assert (row["log2_fall_x"], row["status"]) == ("", arrow.missing)
        else:
            assert float(row["log2_fall_x"]) == pytest.approx(arrow.x_fall, rel=1e-5)
            assert float(row["log2_fall_y"]) == pytest.approx(arrow.y_fall, rel=1e-5)
            assert row["status"] == "ok"


def test_a_field_without_any_arrow_is_drawn_empty(tmp_path: Path) -> None:
    base = dataclasses.replace(BASE, dataset_size=1, expected_batch_size=1)
    drawn = field(base, "privacy", "compute", power_law)
    assert all(arrow.missing for arrow in drawn.arrows)
    picture, _ = write_field(drawn, tmp_path)
    assert picture.read_bytes().startswith(b"\x89PNG")
