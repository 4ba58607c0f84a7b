"""The law that ships is the one that `dpscale fit` makes of the table that ships."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from dpscale.cli.main import main
from dpscale.errors import InputError
from dpscale.scaling.law.law import ScalingLaw
from dpscale.scaling.law.lawfile import load_law
from dpscale.scaling.law.published import find_law, find_table
from dpscale.scaling.reading.optima import Optima, read_optima

TABLE_2 = "embedded:mckenna2025-table2"
FORMS = ("form-3", "form-5", "effective-noise", "ceiling")


@pytest.fixture(scope="module")
def table_2() -> Optima:
    return read_optima(find_table(TABLE_2), source=TABLE_2)


def test_the_shipped_law_was_fitted_to_the_shipped_table(published: ScalingLaw) -> None:
    content = find_table(TABLE_2).read_bytes()
    assert published.data_sha256 == hashlib.sha256(content).hexdigest()
    assert published.source == TABLE_2
    assert published.form == "ceiling"
    assert published.form_chosen_by == "least mean absolute error on rows left out"
    assert published.forms == FORMS
    assert all(len(fit.replicates) == 100 for fit in published.parametric)


@pytest.mark.deep
def test_one_command_rebuilds_the_shipped_law(
    published: ScalingLaw, table_2: Optima, tmp_path: Path
) -> None:
    """Coefficients may end elsewhere in a flat hollow; what they predict may not."""
    out = tmp_path / "law.json"
    assert main(["fit", TABLE_2, "--format", "optima", "--out", str(out)]) == 0
    rebuilt = load_law(out)
    m, t, r = (
        np.array([getattr(row, name) for row in table_2.rows])
        for name in ("num_params", "iterations", "noise_batch_ratio")
    )
    for form in FORMS:
        ours, theirs = (
            law.predict(m[:, None], t, r[:, None], form=form) for law in (rebuilt, published)
        )
        np.testing.assert_allclose(ours, theirs, rtol=5e-3)
        assert rebuilt.score(form).mean_abs_error == pytest.approx(
            published.score(form).mean_abs_error, abs=2e-3
        )
    for name in ("form", "valid_range", "ratio_floor", "swept_rates", "notes", "data_sha256"):
        assert getattr(rebuilt, name) == getattr(published, name)


def test_it_fits_the_table_better_than_the_papers_own_forms(
    published: ScalingLaw, table_2: Optima
) -> None:
    errors = {form: published.score(form).mean_abs_error for form in FORMS}
    assert errors["ceiling"] < 0.02 < errors["form-5"] < errors["form-3"]
    losses = np.array([row.loss for row in table_2.rows])
    points = [(row.num_params, row.iterations, row.noise_batch_ratio) for row in table_2.rows]
    predicted = published.predict(*np.array(points).T)
    assert np.max(np.abs(predicted / losses - 1)) < 0.05


def test_a_law_is_found_by_name_or_by_path(published: ScalingLaw, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        find_law(tmp_path / "law.json")
    assert find_law("published") == published
