"""Tables of optima are read strictly, and a law behind their choices comes back."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dpscale.errors import InputError
from dpscale.privacy.accounting.accountant import accounted
from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian
from dpscale.scaling.fitting import optima_fit
from dpscale.scaling.fitting.optima_fit import OptimaProblem, weights_of
from dpscale.scaling.fitting.optima_law import left_out
from dpscale.scaling.forms import FORMS
from dpscale.scaling.law.published import find_table
from dpscale.scaling.reading.optima import Optima, Optimum, read_optima

TABLE_2 = find_table("embedded:mckenna2025-table2")
CEILING = [
    np.log(0.3),
    np.log(900.0),
    np.log(160.0),
    np.log(70.0),
    np.log(8.0),
    0.5,
    0.6,
    0.35,
    0.0,
]
FORM_5 = [-1.07, 4.17, 5.72, 0.65, 0.274, 0.365, 0.937, -0.078]


@pytest.fixture(scope="module")
def table_2() -> Optima:
    return read_optima(TABLE_2, source="table 2")


@pytest.fixture(scope="module")
def made(table_2: Optima) -> Optima:
    """Table 2 with the losses and choices that a known law would have had: the truth to find."""
    slices = table_2.slices()
    logs = FORMS["ceiling"].log_loss(CEILING, slices)
    where = (np.arange(len(table_2.rows)), np.argmin(logs, axis=1))
    m, t, r = (
        values[where] for values in (slices.num_params, slices.iterations, slices.noise_batch_ratio)
    )
    rows = tuple(
        Optimum(
            row.dataset_size,
            row.epsilon,
            row.train_flops,
            float(np.exp(log)),
            float(m[i]),
            float(t[i]),
            row.num_params * row.iterations * row.expected_batch_size / float(m[i] * t[i]),
            float(r[i]),
        )
        for i, (row, log) in enumerate(zip(table_2.rows, logs[where], strict=True))
    )
    return replace(table_2, rows=rows, copies=tuple(range(len(rows))))


def test_table_2_has_20_rows_of_which_13_are_distinct(table_2: Optima) -> None:
    assert len(table_2.rows) == 20
    assert table_2.num_distinct == 13
    by_budget = {(row.dataset_size, row.epsilon): copy for row, copy in _pairs(table_2)}
    assert by_budget[10**7, 64] == by_budget[10**8, 4]
    assert len({by_budget[10**8, 64], *(by_budget[10**9, eps] for eps in (4, 16, 64))}) == 1
    assert by_budget[10**6, 16] != by_budget[10**7, 1]


def _pairs(optima: Optima) -> list[tuple[Optimum, int]]:
    return list(zip(optima.rows, optima.copies, strict=True))


def test_the_noise_of_a_row_meets_its_budget_and_hardly_more(table_2: Optima) -> None:
    row = table_2.rows[10]
    mechanism = SubsampledGaussian(
        noise_multiplier=row.noise_batch_ratio * row.expected_batch_size,
        dataset_size=row.dataset_size,
        expected_batch_size=round(row.expected_batch_size),
        iterations=round(row.iterations),
    )
    assert 0.995 * 16 < accounted(mechanism, delta=1e-8).upper <= 16


def test_near_copies_share_the_weight_of_one_row(table_2: Optima) -> None:
    weights = weights_of(table_2)
    assert weights.sum() == pytest.approx(13)
    assert weights[0] == 1.0
    assert weights[-1] == 0.25


def test_a_slice_spends_the_compute_of_its_row(table_2: Optima) -> None:
    slices = table_2.slices()
    row = table_2.rows[9]
    batches = row.num_params * row.iterations * row.expected_batch_size
    batches /= slices.num_params[9] * slices.iterations[9]
    assert slices.iterations.min() >= 1
    assert batches.max() <= row.dataset_size * (1 + 1e-9)
    at_row = np.argmin(
        np.abs(np.log(slices.num_params[9] / row.num_params))
        + np.abs(np.log(slices.iterations[9] / row.iterations))
    )
    assert slices.noise_batch_ratio[9][at_row] == pytest.approx(row.noise_batch_ratio, rel=0.1)


@pytest.mark.parametrize("form", ["form-5", "ceiling"])
def test_the_derivatives_are_those_of_the_residuals(table_2: Optima, form: str) -> None:
    problem = OptimaProblem(FORMS[form], table_2, table_2.slices())
    roots = np.sqrt(weights_of(table_2))
    theta = 0.5 * (np.maximum(problem.centred.low, -2) + np.minimum(problem.centred.high, 1.5))
    exact = problem._jacobian(theta, roots)
    for index in range(theta.size):
        step = np.zeros(theta.size)
        step[index] = 1e-6
        ahead, behind = (problem._residuals(theta + sign * step, roots) for sign in (1, -1))
        np.testing.assert_allclose(exact[:, index], (ahead - behind) / 2e-6, rtol=2e-4, atol=2e-6)


def test_a_law_comes_back_from_the_optima_it_makes(made: Optima) -> None:
    problem = OptimaProblem(FORMS["ceiling"], made, made.slices())
    fit = problem.fit(weights_of(made))
    losses = np.array([row.loss for row in made.rows])
    assert fit.converged
    np.testing.assert_allclose(problem.least_losses(fit.coefficients), losses, rtol=2e-3)
    # Off the curve of optima too: a quarter and four times each row's size, at its compute.
    for factor in (0.25, 4.0):
        points = made.points()
        moved = type(points).of(
            points.num_params * factor,
            points.iterations / factor,
            points.noise_batch_ratio,
            batch_size=made.physical_batch_size,
            ratio_floor=made.ratio_floor,
        )
        truth = FORMS["ceiling"].log_loss(CEILING, moved)
        found = FORMS["ceiling"].log_loss(fit.coefficients, moved)
        np.testing.assert_allclose(found, truth, atol=0.02)


def test_losses_alone_leave_the_choices_open(
    table_2: Optima, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the regret the form fits the rows, but believes in better places than the rows."""
    slices = table_2.slices()

    def worst_regret() -> float:
        problem = OptimaProblem(FORMS["form-5"], table_2, slices)
        fit = problem.fit(weights_of(table_2))
        at_rows = np.exp(FORMS["form-5"].log_loss(fit.coefficients, table_2.points()))
        return float(np.max(at_rows / problem.least_losses(fit.coefficients) - 1))

    assert worst_regret() < 0.035
    monkeypatch.setattr(optima_fit, "REGRET_FACTOR", 0.0)
    assert worst_regret() > 0.05


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("delta = 1e-8", "", "t.toml: delta: missing; a table of optima needs it."),
        ("4.6e6, 1.8e3, 5.1e2]", "4.6e6, 1.8e3]", "t.toml: rows[0]: expected 7 numbers"),
        ("7.28, 4.6e6", "-7.28, 4.6e6", "t.toml: rows[0]: loss: expected a number above 0"),
        (
            "1.3e16, 7.28",
            "1.3e18, 7.28",
            "t.toml: rows[0]: train_flops: 6·M·B·T·S of the row is 1.3e+16, not 1.3e+18.",
        ),
        ('"loss", ', "", "t.toml: columns: expected dataset_size"),
        ("[4.5e6, 3.35e8]", "[4.5e6]", "t.toml: num_params_range: expected [least, largest]"),
        ("rows = [", "rows = [[", "t.toml: is not TOML"),
    ],
)
def test_a_faulty_table_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = TABLE_2.read_text()
    assert old in text
    path = tmp_path / "t.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        read_optima(path, source="t.toml")
    assert str(caught.value).startswith(message)


def test_an_embedded_table_that_does_not_exist_is_named() -> None:
    with pytest.raises(InputError, match="there are embedded:mckenna2025-table2"):
        find_table("embedded:table-3")


def test_rows_left_out_do_not_see_their_own_losses_nor_those_of_their_copies(
    table_2: Optima,
) -> None:
    group = table_2.copies[-1]
    spoiled = tuple(
        replace(row, loss=1.5 * row.loss) if copy == group else row for row, copy in _pairs(table_2)
    )
    slices = table_2.slices()
    plain, other = (
        left_out(OptimaProblem(FORMS["form-5"], each, slices), each, start=FORM_5)
        for each in (table_2, replace(table_2, rows=spoiled))
    )
    mine = [index for index, copy in enumerate(table_2.copies) if copy == group]
    assert len(mine) == 4
    for index in mine:
        # Only the search's bounds, set by the largest loss of the table, see what was left out.
        assert other[index].predicted_loss == pytest.approx(plain[index].predicted_loss, rel=1e-3)
        assert other[index].measured_loss == 1.5 * plain[index].measured_loss
    assert other[0].predicted_loss != plain[0].predicted_loss
