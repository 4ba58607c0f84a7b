"""What is held out stays unseen; each way takes the end it names; regret by hand."""

from collections.abc import Callable

import numpy as np
import pytest

from dpscale.scaling.fitting.held_out import score_forms, splits
from dpscale.scaling.law.scores import FormScore, HeldOut, HeldOutPoint, pooled_score
from dpscale.scaling.reading.runs import RunCurve, select_runs


def runs_of(sweep: Callable, **settings: object) -> tuple[RunCurve, ...]:
    return select_runs(sweep(**settings).rows(), target="train_loss", source="sweep").runs


def test_each_way_takes_its_end_and_nothing_else(sweep: Callable) -> None:
    runs = runs_of(sweep)
    found = {split.name: split for split in splits(runs)}
    assert list(found) == ["largest size", "longest", "least noise", "most noise"]
    held = {name: split.held_out for name, split in found.items()}
    assert {run.num_params for run in held["largest size"]} == {363_360}
    assert {run.iterations for run in held["longest"]} == {400}
    assert {run.noise_batch_ratio for run in held["least noise"]} == {0.0}
    assert {run.noise_batch_ratio for run in held["most noise"]} == {2.0**-6}
    assert max(run.num_params for run in found["largest size"].fitted) == 184_896
    assert max(run.iterations for run in found["longest"].fitted) == 200
    assert min(run.noise_batch_ratio for run in found["least noise"].fitted) == 2.0**-10
    assert max(run.noise_batch_ratio for run in found["most noise"].fitted) == 2.0**-8
    for split in found.values():
        together = {run.run_id for run in (*split.fitted, *split.held_out)}
        assert len(split.fitted) + len(split.held_out) == len(runs) == len(together)


def test_two_sizes_hold_out_the_noisiest_corner(sweep: Callable) -> None:
    first, *others = splits(runs_of(sweep, widths=(16, 32), ratios=(0.0, 2.0**-8)))
    assert first.name == "corner"
    where = {(run.num_params, run.noise_batch_ratio) for run in first.held_out}
    assert where == {(63_776, 2.0**-8)}
    assert len(first.fitted) == 3 * len(first.held_out)
    assert [split.name for split in others] == ["longest"]


def test_one_length_is_not_held_out(sweep: Callable) -> None:
    assert "longest" not in {split.name for split in splits(runs_of(sweep, lengths=(400,)))}


def test_held_out_runs_do_not_touch_their_own_predictions(sweep: Callable) -> None:
    runs = runs_of(sweep, rates=(2.0**-5,))
    split = splits(runs)[0]
    moved = tuple(
        run.__class__(**{**run.__dict__, "losses": 1.1 * run.losses}) for run in split.held_out
    )
    plain = score_forms(split)
    other = score_forms(split.__class__(split.name, split.rule, split.fitted, moved))
    assert len(plain.scores) == 6
    for before, after in zip(plain.scores, other.scores, strict=True):
        for a, b in zip(before.points, after.points, strict=True):
            assert a.predicted_loss == b.predicted_loss
            assert b.measured_loss == pytest.approx(1.1 * a.measured_loss)


def test_the_noise_free_form_sees_and_predicts_noise_free_curves_alone(sweep: Callable) -> None:
    ways = {
        split.name: score_forms(split, {"chinchilla"})
        for split in splits(runs_of(sweep, rates=(2.0**-5,)))
    }
    (score,) = ways["largest size"].scores
    assert {point.noise_batch_ratio for point in score.points} == {0.0}
    assert ways["least noise"].scores == ()  # nothing left to fit it to
    assert ways["most noise"].scores == ()  # nothing for it to predict


def made(size: int, ratio: float, loss: float) -> RunCurve:
    return RunCurve(
        run_id=f"{size}-{ratio}",
        num_params=size,
        num_params_non_embedding=size,
        iterations=100,
        noise_batch_ratio=ratio,
        learning_rate=0.1,
        seed=0,
        physical_batch_size=16,
        seq_len=8,
        vocab_size=64,
        steps=np.array([100.0]),
        losses=np.array([loss]),
    )


def test_regret_is_what_the_choice_of_size_costs() -> None:
    """Fitted to sizes 1e3 and 2e3 the interpolation continues its line over log M to 4e3.

    At ratio 0 it falls from 3.0 to 2.7 and goes on to 2.43: the form would choose 4e3, where
    2.8 was measured, 0.1 worse than the 2.7 at 2e3. At ratio 0.1 it rises from 4.0 and would
    choose 1e3, which is the best. The mean regret is half of 2.8/2.7 - 1.
    """
    measured = {
        (1000, 0.0): 3.0,
        (2000, 0.0): 2.7,
        (4000, 0.0): 2.8,
        (1000, 0.1): 4.0,
        (2000, 0.1): 4.2,
        (4000, 0.1): 4.3,
    }
    split = splits([made(*where, loss) for where, loss in measured.items()])[0]
    (score,) = score_forms(split, {"semi-parametric"}).scores
    assert score.regret == pytest.approx((2.8 / 2.7 - 1) / 2)
    predicted = {point.noise_batch_ratio: point.predicted_loss for point in score.points}
    assert predicted == pytest.approx({0.0: 2.7**2 / 3.0, 0.1: 4.2**2 / 4.0})
    signed = (2.7**2 / 3.0 / 2.8 - 1, 4.2**2 / 4.0 / 4.3 - 1)
    assert score.mean_error == pytest.approx(np.mean(signed))
    assert score.mean_abs_error == pytest.approx(np.mean(np.abs(signed)))
    assert score.worst_abs_error == pytest.approx(max(np.abs(signed)))


def test_a_cell_with_one_size_has_no_regret() -> None:
    runs = [made(size, ratio, 3.0) for size in (1000, 2000) for ratio in (0.0, 0.1)]
    runs.append(made(4000, 0.2, 4.0))
    (score,) = score_forms(splits(runs)[0], {"semi-parametric"}).scores
    assert score.regret is None


def test_pooling_joins_the_points_of_every_way() -> None:
    def way(predicted: float, regret: float | None) -> HeldOut:
        point = HeldOutPoint(1, 1, 0.0, 2.0, predicted)
        return HeldOut("x", "x", (FormScore("form-3", (point,), regret),))

    pooled = pooled_score((way(2.2, 0.02), way(1.8, None), HeldOut("y", "y", ())), "form-3")
    assert pooled is not None
    assert pooled.mean_error == pytest.approx(0.0)
    assert pooled.mean_abs_error == pytest.approx(0.1)
    assert pooled.regret == 0.02
    assert pooled_score((way(2.2, None),), "form-5") is None
