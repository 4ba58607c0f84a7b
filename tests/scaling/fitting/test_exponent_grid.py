"""The grid finds the best constants of every combination, and the best combinations."""

import numpy as np
import pytest
from scipy.optimize import nnls

from dpscale.scaling.fitting.centred import CentredProblem
from dpscale.scaling.fitting.exponent_grid import NUM_STARTS, non_negative, starts_on_grid
from dpscale.scaling.forms import FORMS, Points
from dpscale.scaling.synthetic import TRUTHS


def problem(form: str, wild: int = 0) -> CentredProblem:
    ratios = [0.0] if FORMS[form].noise_free else [0.0, 2.0**-11, 2.0**-9, 2.0**-6]
    m, t, r = np.meshgrid([2e4, 6e4, 2e5, 6e5], [100, 300, 1000], ratios)
    points = Points.of(m.ravel(), t.ravel(), r.ravel(), batch_size=64, ratio_floor=1e-6)
    logs = FORMS[form].log_loss(TRUTHS[form], points)
    logs[:wild] += np.log(2.0)
    return CentredProblem(FORMS[form], points, logs, np.ones(logs.size))


@pytest.mark.parametrize("columns", [1, 3, 4])
def test_batched_non_negative_least_squares_is_that_of_lawson_and_hanson(columns: int) -> None:
    generator = np.random.default_rng(columns)
    matrices = generator.standard_normal((200, 12, columns)) + 0.7
    target = 1.0 + generator.standard_normal(12)
    transposed = matrices.transpose(0, 2, 1)
    constants, explained = non_negative(transposed @ matrices, transposed @ target)
    for matrix, found, part in zip(matrices, constants, explained, strict=True):
        expected, distance = nnls(matrix, target)
        np.testing.assert_allclose(found, expected, atol=1e-9)
        assert part == pytest.approx(target @ target - distance**2, abs=1e-9)
    assert 0.0 < np.mean(constants == 0) < 1.0, "bounds that never or always hold test nothing"


@pytest.mark.parametrize("form", list(FORMS))
def test_the_first_start_lies_near_the_truth_and_the_others_elsewhere(form: str) -> None:
    given = problem(form)
    starts = starts_on_grid(given)
    assert len(starts) == NUM_STARTS
    assert np.abs(given.residuals(starts[0])).max() < 0.1
    assert np.sqrt(np.mean(given.residuals(starts[0]) ** 2)) < 0.02
    searched = np.array(starts)[:, given.num_terms :]
    assert len(np.unique(searched.round(6), axis=0)) == NUM_STARTS
    for start in starts:
        assert (start > given.low).all()
        assert (start < given.high).all()


def test_wild_points_do_not_choose_the_start() -> None:
    given = problem("form-5", wild=4)
    assert np.abs(given.residuals(starts_on_grid(given)[0])[4:]).max() < 0.05
