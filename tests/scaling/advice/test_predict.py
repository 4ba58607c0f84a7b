"""One point of a law, and a frame of many."""

import numpy as np
import pytest

from dpscale.errors import InputError
from dpscale.scaling.advice.predict import predict, prediction_frame
from dpscale.scaling.law.law import ScalingLaw


def test_a_point_inside_the_law_carries_its_intervals_and_no_flag(published: ScalingLaw) -> None:
    found = predict(published, num_params=4.9e7, iterations=1.2e4, noise_batch_ratio=1.59e-5)
    assert found.predicted_loss == pytest.approx(2.82, rel=0.05)  # a row of the paper's Table 2
    assert found.law_interval[0] < found.predicted_loss < found.law_interval[1]
    assert found.run_interval[0] < found.law_interval[0]
    assert found.run_interval[1] > found.law_interval[1]
    assert found.extrapolations == ()
    assert found.statement.startswith("fitted to Table 2 of arXiv 2501.18914")


def test_every_coordinate_outside_is_flagged_by_name(published: ScalingLaw) -> None:
    found = predict(published, num_params=1.2e9, iterations=1e6, noise_batch_ratio=0.0)
    assert [each.coordinate for each in found.extrapolations] == [
        *("num_params", "iterations", "noise_batch_ratio"),
    ]
    message = found.extrapolations[0].message
    assert message == "1.2e+09 parameters is 3.58x beyond the largest model the law saw"


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ((-1.0, 1e3, 1e-5), "--params: expected a number above 0, found -1."),
        ((1e7, 0.0, 1e-5), "--iterations: expected a number at least 1, found 0."),
        ((1e7, 1e3, -9.0), "--noise-batch-ratio: expected a number at least 0, found -9."),
    ],
)
def test_a_value_out_of_range_is_refused(
    published: ScalingLaw, point: tuple[float, float, float], message: str
) -> None:
    m, t, r = point
    with pytest.raises(InputError) as caught:
        predict(published, num_params=m, iterations=t, noise_batch_ratio=r)
    assert str(caught.value) == message


def test_a_form_that_the_law_lacks_is_named(published: ScalingLaw) -> None:
    with pytest.raises(InputError, match="--form: expected one of form-3, form-5, effective-noise"):
        predict(
            published,
            num_params=1e7,
            iterations=1e4,
            noise_batch_ratio=1e-5,
            form="semi-parametric",
        )


def test_a_frame_holds_what_single_questions_give(published: ScalingLaw) -> None:
    sizes = np.array([1e7, 1e8, 1e9])
    frame = prediction_frame(
        published, num_params=sizes[:, None], iterations=2e4, noise_batch_ratio=[1e-5, 1e-4]
    )
    assert frame.shape == (6, 9)
    assert frame["is_extrapolated"].tolist() == [False] * 4 + [True] * 2
    for row in frame.to_dict("records"):
        single = predict(
            published,
            num_params=row["num_params"],
            iterations=row["iterations"],
            noise_batch_ratio=row["noise_batch_ratio"],
        )
        assert row["predicted_loss"] == pytest.approx(single.predicted_loss, rel=1e-12)
        assert (row["law_low"], row["law_high"]) == pytest.approx(single.law_interval, rel=1e-12)
        assert (row["run_low"], row["run_high"]) == pytest.approx(single.run_interval, rel=1e-12)
