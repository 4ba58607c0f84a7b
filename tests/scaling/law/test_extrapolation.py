"""Every coordinate outside a law is named, the batch where it changes the answer."""

from dpscale.scaling.law.extrapolation import Extrapolation, find_extrapolations
from dpscale.scaling.law.law import ScalingLaw

INSIDE = {
    "num_params": 5e7,
    "iterations": 1e4,
    "noise_batch_ratio": 1e-5,
    "epochs": 1.0,
    "seq_len": 512,
    "vocab_size": 30_522,
}


def flagged(law: ScalingLaw, **changes: float | None) -> dict[str, str]:
    found: tuple[Extrapolation, ...] = find_extrapolations(law, **{**INSIDE, **changes})  # type: ignore[arg-type]
    return {each.coordinate: each.message for each in found}


def test_sizes_are_named_by_how_far_out_they_are(published: ScalingLaw) -> None:
    largest, smallest = published.valid_range.num_params[1], published.valid_range.num_params[0]
    far = flagged(published, num_params=3.6 * largest)["num_params"]
    assert far == f"{3.6 * largest:.3g} parameters is 3.6x beyond the largest model the law saw"
    near = flagged(published, num_params=smallest / 1.25)["num_params"]
    assert near.endswith("is 1.25x below the smallest model the law saw")
    assert "num_params" not in flagged(published)


def test_a_batch_is_named_where_it_changes_the_prediction(published: ScalingLaw) -> None:
    # 2^20 at a ratio far below 1/√(P·M) does better than 1024; at a high ratio it is all the same.
    small = flagged(published, noise_batch_ratio=5e-7, averaged_batch=2.0**20)
    assert "the law saw physical batch 1,024 only" in small["expected_batch_size"]
    large = flagged(published, noise_batch_ratio=1e-3, averaged_batch=2.0**20)
    assert "expected_batch_size" not in large
    assert "expected_batch_size" not in flagged(published, noise_batch_ratio=5e-7)
    blind = flagged(published, noise_batch_ratio=5e-7, averaged_batch=2.0**20, form="form-5")  # type: ignore[arg-type]
    assert "expected_batch_size" not in blind


def test_more_than_one_epoch_is_always_named(published: ScalingLaw) -> None:
    assert "1.01 epochs" in flagged(published, epochs=1.01)["epochs"]
    assert "epochs" not in flagged(published)


def test_a_rate_that_the_law_does_not_know_is_named(published: ScalingLaw) -> None:
    rate = published.learning_rate(5e7, 1e4, 1e-5)
    assert "0.003906 is untuned" in flagged(published, rate=rate)["learning_rate"]
    assert "learning_rate" not in flagged(published)  # a loss that stands without a rate
